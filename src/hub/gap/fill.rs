//! Holds the deliveries of a channel back while the publications before them are read from the history, and then delivers
//! both in order.

use std::{
    cell::Cell,
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;

use super::{PageVerdict, examine};
use crate::{
    broker::{BrokerError, ChannelTop, HistoryPage, HistoryRequest, SincePosition},
    channel::Channel,
    hub::{Hub, delivery::Delivery},
    position::{Epoch, Position},
    publication::Publication,
};

/// Maximum histories that a hub reads at the same time to fill gaps.
const MAX_IN_FLIGHT: usize = 16;
/// How long the broker may fail before the positioned subscriptions of a channel end.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// A channel whose deliveries are held back. Dropping it gives back their room.
pub(in crate::hub) struct GapFill {
    /// Unique on this hub. An answer for another one is outdated.
    id: u64,
    since: Instant,
    /// In the order of their arrival.
    held: Vec<Arc<Delivery>>,
    held_bytes: usize,
    room: HeldBytes,
    /// What has been read so far.
    missed: Vec<Publication>,
    missed_bytes: usize,
}

/// Counts the bytes that all channels of a hub hold back.
#[derive(Clone)]
pub(in crate::hub) struct HeldBytes {
    total: Rc<Cell<usize>>,
    max_bytes: usize,
}

/// The gaps whose histories are still to be read.
#[derive(Default)]
pub(in crate::hub) struct GapReads {
    waiting: VecDeque<(Channel, u64)>,
    /// Those whose read has failed: they wait for the next tick.
    failed: Vec<(Channel, u64)>,
    in_flight: usize,
    next_id: u64,
}

impl HeldBytes {
    /// Allows at most `max_bytes` in all.
    pub(in crate::hub) fn new(max_bytes: usize) -> Self {
        Self { total: Rc::default(), max_bytes }
    }
}

impl Drop for GapFill {
    fn drop(&mut self) {
        self.room.total.set(self.room.total.get() - self.held_bytes);
    }
}

impl GapFill {
    pub(super) fn new(id: u64, room: HeldBytes) -> Box<Self> {
        let (held, missed) = (Vec::new(), Vec::new());
        Box::new(Self { id, since: Instant::now(), held, held_bytes: 0, room, missed, missed_bytes: 0 })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether the broker has failed for too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.since + GIVE_UP_AFTER
    }

    /// Holds a delivery back. Returns whether there was room for it; it is held in any case.
    fn hold(&mut self, delivery: &Arc<Delivery>) -> bool {
        self.held.push(delivery.clone());
        self.held_bytes += delivery.cost_bytes();
        let total = self.room.total.get() + delivery.cost_bytes();
        self.room.total.set(total);
        total <= self.room.max_bytes
    }

    /// Returns the position before the first delivery that is held back and has one.
    fn position_before_held(&self) -> Option<Position> {
        let first = self.held.iter().find_map(|delivery| delivery.position())?;
        Some(Position { offset: first.offset.saturating_sub(1), ..first })
    }

    /// Returns the last publication that is known here: the last one that was read, or else `here`.
    fn last_known(&self, here: ChannelTop) -> ChannelTop {
        let last = self.missed.last().and_then(|last| last.position.map(|position| (position, last.time)));
        last.map_or(here, |(position, time)| ChannelTop { position, time: Some(time) })
    }

    /// Returns the largest offset of an epoch that is held back.
    fn announced(&self, epoch: Epoch) -> u64 {
        let positions = self.held.iter().filter_map(|delivery| delivery.position());
        positions.filter(|position| position.epoch == epoch).map(|position| position.offset).max().unwrap_or(0)
    }

    /// Forgets the positions of an epoch: what is held back is delivered, but no subscriber continues from there.
    fn forget_positions(&mut self, epoch: Epoch) {
        for delivery in &mut self.held {
            if let Some(publication) = delivery.publication()
                && publication.position.is_some_and(|position| position.epoch == epoch)
            {
                *delivery = Delivery::new(Publication { position: None, ..publication.clone() });
            }
        }
    }

    /// Adds what was read. Returns whether it is not too much: at most `max_bytes`.
    fn add_missed(&mut self, publications: &[Publication], max_bytes: usize) -> bool {
        self.missed_bytes += publications.iter().map(Publication::cost_bytes).sum::<usize>();
        self.missed.extend_from_slice(publications);
        self.missed_bytes <= max_bytes
    }

    /// Takes the deliveries in the order in which subscribers receive them.
    fn take_deliveries(&mut self) -> Vec<Arc<Delivery>> {
        let missed = std::mem::take(&mut self.missed).into_iter().map(Delivery::new);
        missed.chain(std::mem::take(&mut self.held)).collect()
    }
}

impl Hub {
    /// Holds a delivery back that cannot be delivered before the publications that are missing before it.
    pub(in crate::hub) fn hold_back(&mut self, delivery: &Arc<Delivery>) {
        let channel = delivery.channel();
        if self.registry.channel_state(channel).is_some_and(|state| state.gap_fill.is_none()) {
            log::debug!("found gap by publication channel={channel:?}");
            self.read_gap(channel);
        }
        let Some(state) = self.registry.channel_state_mut(channel) else { return };
        if state.gap_fill.as_mut().is_some_and(|fill| !fill.hold(delivery)) {
            self.give_gap_up(channel, None);
        }
    }

    /// Examines a delivery that does not lead further. Usually it was read from the history before it came. Otherwise the
    /// broker may have lost publications, and certainly has if it is another one at the channel's position: then nothing after
    /// it is delivered before the history has been read.
    pub(in crate::hub) fn examine_repetition(&mut self, delivery: &Arc<Delivery>) {
        let channel = delivery.channel();
        let Some(state) = self.registry.channel_state(channel) else { return };
        let is_other = delivery.top().zip(state.top()).is_some_and(|(arriving, here)| arriving.conflicts_with(here));
        if is_other && state.is_relied_on {
            self.read_gap(channel);
        } else {
            self.queue_check(channel);
        }
    }

    /// Holds the deliveries of a channel back from now on. What is known of an earlier gap is outdated.
    pub(super) fn begin_gap(&mut self, channel: &Channel) -> Option<u64> {
        let paced = self.fanout.take_paced(channel);
        let state = self.registry.channel_state_mut(channel)?;
        self.gap_reads.next_id += 1;
        let id = self.gap_reads.next_id;
        let mut fill = GapFill::new(id, self.held_bytes.clone());
        if let Some(mut before) = state.gap_fill.take() {
            fill.held = std::mem::take(&mut before.held);
            fill.held_bytes = std::mem::take(&mut before.held_bytes);
        }
        // They have come before everything that is held back from now on. The limits of pacing bound them.
        for delivery in paced {
            fill.hold(&delivery);
        }
        state.gap_fill = Some(fill);
        Some(id)
    }

    /// Holds the deliveries of a channel back, and has the missing publications read.
    pub(super) fn read_gap(&mut self, channel: &Channel) {
        if let Some(id) = self.begin_gap(channel) {
            self.gap_reads.waiting.push_back((channel.clone(), id));
        }
    }

    /// Tries failed reads again. Called at each tick.
    pub(super) fn retry_gap_reads(&mut self, ctx: &mut <Self as Actor>::Context) {
        let failed = std::mem::take(&mut self.gap_reads.failed);
        self.gap_reads.waiting.extend(failed);
        self.start_gap_reads(ctx);
    }

    /// Starts reads for the gaps that wait for one.
    pub(in crate::hub) fn start_gap_reads(&mut self, ctx: &mut <Self as Actor>::Context) {
        while self.gap_reads.in_flight < MAX_IN_FLIGHT
            && let Some((channel, id)) = self.gap_reads.waiting.pop_front()
        {
            let Some(state) = self.registry.channel_state(&channel) else { continue };
            let Some(fill) = state.gap_fill.as_ref().filter(|fill| fill.id == id) else { continue };
            let (Some(here), Some(retention)) = (state.top(), state.polled_retention()) else {
                self.give_gap_up(&channel, None);
                continue;
            };
            let last = fill.last_known(here);
            let stored = state.newest().filter(|newest| newest.is_after(last.position));
            let announced = fill.announced(last.position.epoch).max(stored.map_or(0, |stored| stored.position.offset));
            // With the last known publication, to compare it.
            let since = SincePosition { offset: last.position.offset.saturating_sub(1), epoch: None };
            let limit = self.limits.recovered_publications.saturating_add(1).max(2);
            // More is not delivered, so it need not be read.
            let max_bytes = Some(self.limits.reply_bytes);
            let request = HistoryRequest { since: Some(since), limit, is_reverse: false, max_bytes };
            let page = self.broker_subscriptions.broker().read_history(channel.clone(), request, retention);
            self.gap_reads.in_flight += 1;
            ctx.spawn(page.into_actor(self).map(move |page, hub, ctx| {
                hub.gap_reads.in_flight -= 1;
                hub.handle_gap_page(&channel, id, (last, announced), page, ctx);
                hub.start_gap_reads(ctx);
                hub.resume_fanout(ctx);
            }));
        }
    }

    fn handle_gap_page(
        &mut self,
        channel: &Channel,
        id: u64,
        (last, announced): (ChannelTop, u64),
        page: Result<HistoryPage, BrokerError>,
        ctx: &mut <Self as Actor>::Context,
    ) {
        let max_bytes = self.limits.reply_bytes;
        let Some(state) = self.registry.channel_state_mut(channel) else { return };
        let Some(fill) = state.gap_fill.as_mut().filter(|fill| fill.id == id) else { return };
        let page = match page {
            Ok(page) => page,
            Err(_) if fill.is_overdue(Instant::now()) => return self.give_gap_up(channel, None),
            Err(error) => {
                log::debug!("cannot read the history of a gap channel={channel:?} error={error:?}");
                return self.gap_reads.failed.push((channel.clone(), id));
            }
        };
        match examine(last, announced, &page) {
            PageVerdict::Follows { known, is_complete } => {
                if !fill.add_missed(&page.publications[known..], max_bytes) {
                    self.give_gap_up(channel, Some(page.top));
                } else if is_complete {
                    self.metrics.count_gap("filled");
                    self.end_gap(channel);
                } else {
                    self.gap_reads.waiting.push_back((channel.clone(), id));
                }
            }
            PageVerdict::Incomplete => self.give_gap_up(channel, Some(page.top)),
            // Its first publications may be on their way here, although the history has them already.
            PageVerdict::NewHistory => self.give_gap_up(channel, None),
            PageVerdict::LostWrites => self.renew_lost_epoch(channel.clone(), last.position, ctx),
        }
    }

    /// Delivers what was read, and then what was held back.
    pub(super) fn end_gap(&mut self, channel: &Channel) {
        let Some(state) = self.registry.channel_state_mut(channel) else { return };
        if let Some(mut fill) = state.gap_fill.take() {
            self.fanout.prepend(channel, fill.take_deliveries());
        }
    }

    /// Ends the positioned subscriptions of a channel with a gap. The others receive what was held back; if nothing was, they
    /// go on at `top`.
    pub(super) fn give_gap_up(&mut self, channel: &Channel, top: Option<Position>) {
        let Some(state) = self.registry.channel_state_mut(channel) else { return };
        let fill = state.gap_fill.take();
        let next = fill.as_ref().and_then(|fill| fill.position_before_held()).or(top);
        self.metrics.count_gap("told");
        self.end_positioned(channel);
        if let Some(state) = self.registry.channel_state_mut(channel) {
            state.set_position(next);
            state.has_lost_writes = false;
            if let Some(mut fill) = fill {
                fill.missed.clear();
                self.fanout.prepend(channel, fill.take_deliveries());
            }
        }
    }

    /// Gives a channel a new epoch, because the broker has lost publications up to `lost`, and ends its positioned
    /// subscriptions. In this order: their clients subscribe again at once, and must not recover in the old epoch.
    pub(super) fn renew_lost_epoch(&mut self, channel: Channel, lost: Position, ctx: &mut <Self as Actor>::Context) {
        let Some(id) = self.begin_gap(&channel) else { return };
        if let Some(state) = self.registry.channel_state_mut(&channel)
            && !std::mem::replace(&mut state.has_lost_writes, true)
        {
            // Once, and not when the epoch is renewed: the broker may have done that although its answer is an error.
            self.metrics.count_gap("lost_writes");
        }
        let renewed = self.broker_subscriptions.broker().renew_epoch(channel.clone(), lost.epoch);
        ctx.spawn(renewed.into_actor(self).map(move |renewed, hub, ctx| {
            let (text, offset) = ("the broker has lost publications", lost.offset);
            if renewed.is_ok() {
                log::warn!("{text}, renewed the epoch channel={channel:?} received_up_to={offset}");
            }
            let Some(state) = hub.registry.channel_state_mut(&channel) else { return };
            // Another interruption may have begun another gap, whose comparison finds the new epoch.
            let Some(fill) = state.gap_fill.as_mut().filter(|fill| fill.id == id) else { return };
            match renewed {
                Ok(top) => {
                    fill.forget_positions(lost.epoch);
                    state.unverified.clear();
                    hub.give_gap_up(&channel, top);
                    hub.resume_fanout(ctx);
                }
                Err(error) => {
                    log::warn!("{text}, cannot renew the epoch channel={channel:?} error={error:?}");
                    hub.recheck_at_next_tick(&channel);
                }
            }
        }));
    }
}
