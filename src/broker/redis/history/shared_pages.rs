//! Pages of histories that many clients need, such as after a node has died: they are read once for all of them. While a page
//! is read, and for some time after it, this instance adds the publications of the channel that it receives. So the page has
//! everything that the hubs have received so far, as a page has that is read anew. A page that may lack something, or that shows
//! what the history has no longer, is forgotten. Pure: there is no I/O here, and no clock.

use std::{collections::HashMap, sync::Arc};

use crate::{
    broker::{HistoryPage, HistoryRequest, SincePosition},
    channel::Channel,
    position::Position,
    publication::Publication,
};

/// What an entry costs besides its publications.
const ENTRY_OVERHEAD: usize = 256;

/// The pages by their channels: of each channel the one that was requested last. `R` is a handle of a running read.
pub(super) struct SharedPages<R> {
    entries: HashMap<Channel, Entry<R>>,
    bytes: usize,
    max_bytes: usize,
    next_id: u64,
}

/// Identifies a read, so that its end is not taken for that of a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadId(u64);

struct Entry<R> {
    id: ReadId,
    request: HistoryRequest,
    /// The number of publications that the history keeps.
    size: usize,
    bytes: usize,
    content: Content<R>,
}

enum Content<R> {
    /// The page is being read.
    Reading {
        read: R,
        /// Received since the read began.
        received: Vec<Publication>,
    },
    /// The page, and what was received since.
    Page(Arc<HistoryPage>),
}

/// What there is for a request.
pub(super) enum Found<R> {
    /// A page, and the request for which it was read: [`answer`] takes the answer from it.
    Page(HistoryRequest, Arc<HistoryPage>),
    /// A running read, and its request. Its page has probably the answer.
    Running(HistoryRequest, R),
    /// A page that ends before what the client has received. It serves others.
    Behind,
    /// Nothing that can answer the request.
    Nothing,
}

impl<R: Clone> SharedPages<R> {
    /// Creates an empty collection. Its publications have at most `max_bytes` in all.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { entries: HashMap::new(), bytes: 0, max_bytes, next_id: 0 }
    }

    /// Finds what a request of a client that names the position `known` can be answered from.
    pub(super) fn find(&self, channel: &Channel, request: &HistoryRequest, known: Option<SincePosition>) -> Found<R> {
        let Some(entry) = self.entries.get(channel).filter(|entry| covers(&entry.request, request)) else {
            return Found::Nothing;
        };
        match &entry.content {
            Content::Reading { read, .. } => Found::Running(entry.request, read.clone()),
            Content::Page(page) if !has_part(&entry.request, page, request) => Found::Nothing,
            Content::Page(page) if !reaches(page, known) => Found::Behind,
            Content::Page(page) => Found::Page(entry.request, page.clone()),
        }
    }

    /// Returns an id for [`Self::begin`].
    pub(super) fn next_id(&mut self) -> ReadId {
        self.next_id += 1;
        ReadId(self.next_id)
    }

    /// Notes that a read begins, which calls [`Self::finish`] when it has ended. The history keeps `size` publications. From now
    /// on what is received in the channel is collected.
    pub(super) fn begin(&mut self, channel: &Channel, id: ReadId, request: HistoryRequest, size: usize, read: R) {
        self.forget(channel);
        let bytes = ENTRY_OVERHEAD + channel.as_str().len();
        if self.bytes + bytes <= self.max_bytes {
            self.bytes += bytes;
            let content = Content::Reading { read, received: Vec::new() };
            self.entries.insert(channel.clone(), Entry { id, request, size, bytes, content });
        }
    }

    /// Notes what a read has found, and keeps it, unless it has failed. Returns it together with what was received since the read
    /// began; `None` if some of that is not known.
    pub(super) fn finish(
        &mut self,
        channel: &Channel,
        id: ReadId,
        page: Option<Arc<HistoryPage>>,
    ) -> Option<Arc<HistoryPage>> {
        let entry = self.entries.get_mut(channel).filter(|entry| entry.id == id)?;
        let Content::Reading { received, .. } = &mut entry.content else { return None };
        let received = std::mem::take(received);
        let Some(page) = page else {
            self.forget(channel);
            return None;
        };
        let bytes = ENTRY_OVERHEAD + channel.as_str().len() + cost_bytes(&page.publications);
        self.bytes = self.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        entry.content = Content::Page(page);
        received.iter().for_each(|publication| self.extend(publication));
        if self.bytes > self.max_bytes {
            self.forget(channel);
        }
        match &self.entries.get(channel)?.content {
            Content::Page(page) => Some(page.clone()),
            Content::Reading { .. } => None,
        }
    }

    /// Adds a publication that this instance has received to the page of its channel. Has to be called before the hubs get it.
    pub(super) fn extend(&mut self, publication: &Publication) {
        let Some(position) = publication.position else { return };
        let Some(entry) = self.entries.get_mut(&publication.channel) else { return };
        let is_added = match &mut entry.content {
            Content::Reading { received, .. } => {
                let last = received.last().and_then(|last| last.position);
                let follows = last.is_none_or(|last| is_next(last, position));
                if follows {
                    received.push(publication.clone());
                    entry.bytes += publication.cost_bytes();
                    self.bytes += publication.cost_bytes();
                }
                follows
            }
            Content::Page(page) if is_next(page.top, position) => {
                let before = entry.bytes;
                entry.bytes += publication.cost_bytes();
                entry.bytes -= append(Arc::make_mut(page), &entry.request, entry.size, publication);
                self.bytes = self.bytes + entry.bytes - before;
                true
            }
            Content::Page(page) => is_known(page, position, publication),
        };
        if !is_added || self.bytes > self.max_bytes {
            self.forget(&publication.channel);
        }
    }

    /// Returns the position that the page of a channel has reached, for [`Self::compare`].
    pub(super) fn top(&self, channel: &Channel) -> Option<Position> {
        match &self.entries.get(channel)?.content {
            Content::Page(page) => Some(page.top),
            Content::Reading { .. } => None,
        }
    }

    /// Compares a page with a position of its channel that was just read, and forgets it if the history is another one now, or has
    /// lost publications. `None`: the channel has no history any more. `before` is what [`Self::top`] returned when the read began:
    /// what has been added since may have been stored after the position was read.
    pub(super) fn compare(&mut self, channel: &Channel, before: Option<Position>, top: Option<Position>) {
        let Some(reached) = self.top(channel) else { return };
        let is_same = |top: Position| {
            reached.epoch == top.epoch
                && before.is_none_or(|before| before.epoch == top.epoch && before.offset <= top.offset)
        };
        if !top.is_some_and(is_same) {
            self.forget(channel);
        }
    }

    /// Forgets the page of a channel; the page of a running read is not kept.
    pub(super) fn forget(&mut self, channel: &Channel) {
        if let Some(entry) = self.entries.remove(channel) {
            self.bytes -= entry.bytes;
        }
    }

    /// Forgets the page of a read.
    pub(super) fn expire(&mut self, channel: &Channel, id: ReadId) {
        if self.entries.get(channel).is_some_and(|entry| entry.id == id) {
            self.forget(channel);
        }
    }

    /// Forgets all pages.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

/// Returns the answer to a request from a page that was read for another one, or for the same. `None`: the page does not show
/// it, or ends before the position `known`, which the client has received elsewhere.
pub(super) fn answer(
    kept: &HistoryRequest,
    page: Arc<HistoryPage>,
    request: &HistoryRequest,
    known: Option<SincePosition>,
) -> Option<HistoryPage> {
    if !covers(kept, request) || !has_part(kept, &page, request) || !reaches(&page, known) {
        return None;
    }
    if kept == request {
        return Some(within_limit(page, request.limit));
    }
    let since = request.since.map_or(0, |since| since.offset);
    let is_after = |publication: &&Publication| publication.position.is_some_and(|position| position.offset > since);
    let publications = page.publications.iter().filter(is_after).take(request.limit).cloned().collect();
    Some(HistoryPage { publications, top: page.top, top_time: page.top_time })
}

/// Returns the page of a request, without what was added to it beyond its limit.
pub(super) fn within_limit(page: Arc<HistoryPage>, limit: usize) -> HistoryPage {
    match Arc::try_unwrap(page) {
        Ok(mut page) => {
            page.publications.truncate(limit);
            page
        }
        Err(page) => {
            let publications = page.publications.iter().take(limit).cloned().collect();
            HistoryPage { publications, top: page.top, top_time: page.top_time }
        }
    }
}

/// Returns whether a page that was requested by `kept` has what `request` asks for, unless its end was cut off.
fn covers(kept: &HistoryRequest, request: &HistoryRequest) -> bool {
    if kept == request {
        return true;
    }
    let (Some(kept_since), Some(since)) = (kept.since, request.since) else { return false };
    let has_epoch = kept_since.epoch.is_some() || since.epoch.is_some();
    !kept.is_reverse
        && !request.is_reverse
        && kept.limit == request.limit
        && !has_epoch
        && kept_since.offset <= since.offset
}

/// Returns whether a page that [`covers`] a request has its end, too.
fn has_part(kept: &HistoryRequest, page: &HistoryPage, request: &HistoryRequest) -> bool {
    kept == request || has_end(page)
}

fn has_end(page: &HistoryPage) -> bool {
    page.publications.last().is_none_or(|last| last.position == Some(page.top))
}

/// Returns whether a page has what a client has received, as far as its position belongs to the same history.
fn reaches(page: &HistoryPage, known: Option<SincePosition>) -> bool {
    let known = known.filter(|known| known.epoch.is_none_or(|epoch| epoch == page.top.epoch));
    known.is_none_or(|known| known.offset <= page.top.offset)
}

fn cost_bytes(publications: &[Publication]) -> usize {
    publications.iter().map(Publication::cost_bytes).sum()
}

fn is_next(before: Position, position: Position) -> bool {
    before.epoch == position.epoch && before.offset.checked_add(1) == Some(position.offset)
}

/// Returns whether a page was read when a publication had been stored already, and shows no other one in its place.
fn is_known(page: &HistoryPage, position: Position, publication: &Publication) -> bool {
    let shown = page.publications.iter().rev().find(|shown| shown.position == Some(position));
    position.epoch == page.top.epoch
        && position.offset <= page.top.offset
        && shown.is_none_or(|shown| shown.time == publication.time)
}

/// Adds the next publication of the history to a page, as if the page were read now. Returns the bytes of the publications that
/// the page does not have afterwards.
fn append(page: &mut HistoryPage, request: &HistoryRequest, size: usize, publication: &Publication) -> usize {
    let has_end = has_end(page);
    page.top = publication.position.unwrap_or(page.top);
    page.top_time = Some(publication.time);
    let publications = &mut page.publications;
    if request.is_reverse {
        publications.insert(0, publication.clone());
        let removed = publications.drain(request.limit.min(size).min(publications.len())..);
        return removed.map(|publication| publication.cost_bytes()).sum();
    }
    let is_after = request.since.is_none_or(|since| since.offset < page.top.offset);
    if !has_end || !is_after {
        return publication.cost_bytes();
    }
    publications.push(publication.clone());
    let removed = publications.drain(..publications.len().saturating_sub(size));
    removed.map(|publication| publication.cost_bytes()).sum()
}

#[cfg(test)]
mod tests;
