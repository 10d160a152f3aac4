//! Takes the reports of sessions and hubs. Their calls wait only for a short lock, and never fail: reports above a bound are
//! dropped, counted and logged.
//!
//! Sessions are in a table while they are open, and channels while a hub of this node has subscribers of them, so that both can be
//! told to the outbox again if it has lost them. Session events wait in a queue. A channel waits at most once, whatever
//! happens to it meanwhile: what counts is whether it has subscribers when its turn comes.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::event::{EndCause, SessionRecord, channel_event, session_event, subscription_event};
use crate::{
    broker::event_outbox::{OutboxChange, OutboxEntry, event_lane},
    channel::Channel,
    clock::{Clock, WallTime},
    config::{EventType, HooksConfig},
    metrics::{Metrics, Queue, QueueDepth},
};

/// Collects what is reported on one node.
pub struct EventReporter {
    types: Vec<EventType>,
    has_address: bool,
    max_queued: usize,
    vacated_delay: Duration,
    node: Arc<str>,
    clock: Clock,
    metrics: Arc<Metrics>,
    state: Mutex<ReporterState>,
    /// Notified when something waits.
    due: Notify,
}

/// A session that an authenticated client has.
pub struct ReportedSession<'a> {
    /// The client id.
    pub client: Uuid,
    /// The user; empty for anonymous sessions.
    pub user: &'a Arc<str>,
    /// `websocket`, `sse` or `http_stream`.
    pub transport: &'static str,
    /// `json` or `protobuf`.
    pub protocol: &'static str,
    /// The address of the client.
    pub address: IpAddr,
}

#[derive(Default)]
struct ReporterState {
    sessions: HashMap<Uuid, Arc<SessionRecord>>,
    queue: VecDeque<Report>,
    channels: HashMap<Channel, ReportedChannel>,
    /// Channels that may have to be told.
    changed: VecDeque<Channel>,
    /// Channels whose last subscriber has left, in that order, each once.
    vacant: VecDeque<(Instant, Channel)>,
    dropped: usize,
    /// The outbox has sessions that have ended: the queue had no room for that.
    has_lost_ends: bool,
}

/// The sessions of a node, and the channels of which the outbox knows that it has subscribers, at one moment.
pub(super) struct OpenState {
    sessions: Vec<Arc<SessionRecord>>,
    channels: Vec<Channel>,
}

struct Report {
    session: Arc<SessionRecord>,
    time: WallTime,
    what: ReportedChange,
}

enum ReportedChange {
    Opened,
    Ended(EndCause),
    Subscribed(Channel),
    Unsubscribed(Channel, EndCause),
}

#[derive(Default)]
struct ReportedChannel {
    /// Hubs with subscribers.
    hubs: usize,
    vacant_since: Option<Instant>,
    is_in_vacant: bool,
    is_in_changed: bool,
    /// The outbox knows, or will in a moment, that this node has subscribers.
    is_told: bool,
}

impl ReporterState {
    fn add_changed(&mut self, channel: &Channel) -> bool {
        let Some(entry) = self.channels.get_mut(channel) else { return false };
        let is_new = !std::mem::replace(&mut entry.is_in_changed, true);
        if is_new {
            self.changed.push_back(channel.clone());
        }
        is_new
    }

    /// Drops the names of channels that have been removed, once they are the greater part.
    fn compact_changed(&mut self) {
        if self.changed.len() > 2 * self.channels.len() + 1024 {
            let mut kept = HashSet::new();
            let channels = &self.channels;
            let is_due = |channel: &Channel| channels.get(channel).is_some_and(|entry| entry.is_in_changed);
            self.changed.retain(|channel| is_due(channel) && kept.insert(channel.clone()));
        }
    }
}

impl EventReporter {
    /// Creates the reporter of this node if events have an endpoint.
    pub fn from_config(config: &HooksConfig, node: &str, clock: &Clock, metrics: &Arc<Metrics>) -> Option<Arc<Self>> {
        let events = &config.events;
        events.endpoint.as_ref()?;
        Some(Arc::new(Self {
            types: events.types.clone(),
            has_address: events.client_address,
            max_queued: events.queue,
            vacated_delay: events.vacated_delay,
            node: node.into(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            state: Mutex::default(),
            due: Notify::new(),
        }))
    }

    /// Returns how full the queue of reports is that are not in the outbox yet.
    pub(in crate::hooks) fn depth(&self) -> QueueDepth {
        QueueDepth::of_entries(Queue::HookEvents, self.state.lock().queue.len(), self.max_queued)
    }

    fn tells(&self, kind: EventType) -> bool {
        self.types.contains(&kind)
    }

    /// Reports that a client has authenticated. Later calls for the same client change nothing.
    pub fn session_opened(&self, session: &ReportedSession<'_>) {
        let of_sessions = [EventType::Connect, EventType::Disconnect, EventType::Subscribe, EventType::Unsubscribe];
        if !of_sessions.into_iter().any(|kind| self.tells(kind)) {
            return;
        }
        let mut state = self.state.lock();
        if state.sessions.contains_key(&session.client) {
            return;
        }
        // Under the lock, so that times have the order of the queue.
        let time = self.clock.now();
        let record = Arc::new(SessionRecord {
            node: self.node.clone(),
            client: session.client,
            user: session.user.clone(),
            transport: session.transport.into(),
            protocol: session.protocol.into(),
            address: self.has_address.then(|| session.address.to_canonical()),
            connected_at: time,
        });
        state.sessions.insert(session.client, record.clone());
        self.enqueue(&mut state, record, time, ReportedChange::Opened);
    }

    /// Reports that a session has ended, with the code and the reason of its close, if it had one.
    pub fn session_ended(&self, client: Uuid, code: Option<u16>, reason: &str) {
        let mut state = self.state.lock();
        let Some(record) = state.sessions.remove(&client) else { return };
        let cause = EndCause { code: code.map(u32::from), reason: reason.to_owned().into() };
        self.enqueue(&mut state, record, self.clock.now(), ReportedChange::Ended(cause));
    }

    /// Reports a new subscription.
    pub fn subscribed(&self, client: Uuid, channel: &Channel) {
        if self.tells(EventType::Subscribe) {
            self.report_subscription(client, || ReportedChange::Subscribed(channel.clone()));
        }
    }

    /// Reports that a subscription has ended while its session goes on; `code` if the hub has ended it.
    pub fn unsubscribed(&self, client: Uuid, channel: &Channel, code: Option<u32>, reason: &'static str) {
        if self.tells(EventType::Unsubscribe) {
            let cause = EndCause { code, reason: reason.into() };
            self.report_subscription(client, || ReportedChange::Unsubscribed(channel.clone(), cause));
        }
    }

    /// A session that has ended has no subscriptions: its end has told that already.
    fn report_subscription(&self, client: Uuid, what: impl FnOnce() -> ReportedChange) {
        let mut state = self.state.lock();
        if let Some(record) = state.sessions.get(&client).cloned() {
            self.enqueue(&mut state, record, self.clock.now(), what());
        }
    }

    fn enqueue(&self, state: &mut ReporterState, session: Arc<SessionRecord>, time: WallTime, what: ReportedChange) {
        if state.queue.len() >= self.max_queued {
            state.has_lost_ends |= matches!(what, ReportedChange::Ended(_));
            // The outbox learns of this session with all others.
            let is_opened = matches!(what, ReportedChange::Opened);
            state.has_lost_ends |= is_opened;
            let is_event = !is_opened || self.tells(EventType::Connect);
            return self.count_dropped(state, usize::from(is_event));
        }
        state.queue.push_back(Report { session, time, what });
        self.due.notify_one();
    }

    /// Reports that a hub has the first subscriber of a channel.
    pub fn channel_occupied(&self, channel: &Channel) {
        if !self.tells_channels() {
            return;
        }
        let mut state = self.state.lock();
        let entry = state.channels.entry(channel.clone()).or_default();
        entry.hubs += 1;
        entry.vacant_since = None;
        if !entry.is_told && state.add_changed(channel) {
            self.due.notify_one();
        }
    }

    /// Reports that a hub has no subscribers of a channel any more.
    pub fn channel_vacated(&self, channel: &Channel) {
        if !self.tells_channels() {
            return;
        }
        let mut state = self.state.lock();
        let is_full = state.channels.len() > self.max_queued;
        let Some(entry) = state.channels.get_mut(channel) else { return };
        entry.hubs = entry.hubs.saturating_sub(1);
        if entry.hubs > 0 {
            return;
        }
        // While the broker takes nothing, channels that it does not know yet come and go without a trace.
        if is_full && !entry.is_told && !entry.is_in_vacant {
            state.channels.remove(channel);
            return state.compact_changed();
        }
        let now = Instant::now();
        entry.vacant_since = Some(now);
        if !std::mem::replace(&mut entry.is_in_vacant, true) {
            state.vacant.push_back((now, channel.clone()));
            if state.vacant.len() == 1 {
                self.due.notify_one();
            }
        }
    }

    fn tells_channels(&self) -> bool {
        self.tells(EventType::Occupied) || self.tells(EventType::Vacated)
    }

    /// Counts events that were dropped here or by the outbox.
    pub(super) fn note_dropped(&self, count: usize) {
        if count > 0 {
            self.count_dropped(&mut self.state.lock(), count);
        }
    }

    fn count_dropped(&self, state: &mut ReporterState, count: usize) {
        state.dropped += count;
        self.metrics.count_hook_events("dropped", count);
    }

    /// Takes the number of events that were dropped since the last call.
    pub(super) fn take_dropped(&self) -> usize {
        std::mem::take(&mut self.state.lock().dropped)
    }

    /// Takes whether sessions have to be told again because the queue was full.
    pub(super) fn take_lost_ends(&self) -> bool {
        std::mem::take(&mut self.state.lock().has_lost_ends)
    }

    /// Completes when something waits.
    pub(super) async fn due(&self) {
        self.due.notified().await;
    }

    /// Returns when a channel counts as vacated, if one is about to.
    pub(super) fn next_vacated(&self) -> Option<Instant> {
        self.state.lock().vacant.front().map(|(since, _)| *since + self.vacated_delay)
    }

    /// Has channels without subscribers count as vacated at once, because the server stops.
    pub(super) fn vacate_at_once(&self) {
        self.note_vacated(&mut self.state.lock(), None);
    }

    /// Notes which channels have been without subscribers for long enough; `now` is `None` for all.
    fn note_vacated(&self, state: &mut ReporterState, now: Option<Instant>) {
        let is_over = |since: Instant| now.is_none_or(|now| now >= since + self.vacated_delay);
        while let Some((_, channel)) = state.vacant.pop_front_if(|(since, _)| is_over(*since)) {
            let Some(entry) = state.channels.get_mut(&channel) else { continue };
            entry.is_in_vacant = false;
            match entry.vacant_since {
                // It has subscribers again.
                None => {}
                // They came and left meanwhile.
                Some(since) if !is_over(since) => {
                    entry.is_in_vacant = true;
                    state.vacant.push_back((since, channel));
                }
                Some(_) => _ = state.add_changed(&channel),
            }
        }
    }

    /// Takes entries for the outbox, each with its lane: of channels, then of sessions, about `max` each.
    pub(super) fn take_entries(&self, max: usize) -> Vec<(usize, OutboxEntry)> {
        let mut state = self.state.lock();
        self.note_vacated(&mut state, Some(Instant::now()));
        let mut entries = Vec::new();
        while entries.len() < max
            && let Some(channel) = state.changed.pop_front()
        {
            entries.extend(self.take_channel(&mut state, &channel));
        }
        let count = state.queue.len().min(max);
        let reports: Vec<Report> = state.queue.drain(..count).collect();
        drop(state);
        entries.extend(reports.iter().filter_map(|report| self.entry_of(report)));
        entries
    }

    fn take_channel(&self, state: &mut ReporterState, channel: &Channel) -> Option<(usize, OutboxEntry)> {
        let entry = state.channels.get_mut(channel)?;
        entry.is_in_changed = false;
        let (has_subscribers, lane) = (entry.hubs > 0 || entry.is_in_vacant, event_lane(channel.as_str()));
        let event = |kind| {
            let time = self.clock.now();
            self.tells(kind).then(|| channel_event(kind, &self.node, channel, time))
        };
        match (has_subscribers, entry.is_told) {
            (true, false) => {
                entry.is_told = true;
                let change = OutboxChange::OccupyChannel(channel.clone());
                Some((lane, OutboxEntry { event: event(EventType::Occupied), change }))
            }
            (false, true) => {
                state.channels.remove(channel);
                let change = OutboxChange::VacateChannel(channel.clone());
                Some((lane, OutboxEntry { event: event(EventType::Vacated), change }))
            }
            (false, false) => {
                state.channels.remove(channel);
                None
            }
            (true, true) => None,
        }
    }

    /// Returns the entry of a report, unless it changes nothing.
    fn entry_of(&self, Report { session, time, what }: &Report) -> Option<(usize, OutboxEntry)> {
        let lane = event_lane(&session.lane_name());
        let ends_are_told = self.tells(EventType::Disconnect);
        let entry = match what {
            ReportedChange::Opened => OutboxEntry {
                event: self.tells(EventType::Connect).then(|| session_event(session, *time, None)),
                change: if ends_are_told { open_session(session) } else { OutboxChange::None },
            },
            ReportedChange::Ended(_) if !ends_are_told => return None,
            ReportedChange::Ended(cause) => OutboxEntry {
                event: Some(session_event(session, *time, Some(cause))),
                change: OutboxChange::EndSession(session.client),
            },
            ReportedChange::Subscribed(channel) => OutboxEntry {
                event: Some(subscription_event(session, channel, *time, None)),
                change: OutboxChange::None,
            },
            ReportedChange::Unsubscribed(channel, cause) => OutboxEntry {
                event: Some(subscription_event(session, channel, *time, Some(cause))),
                change: OutboxChange::None,
            },
        };
        (entry.event.is_some() || entry.change != OutboxChange::None).then_some((lane, entry))
    }

    /// Returns whether something waits for the outbox.
    pub(super) fn has_entries(&self) -> bool {
        let state = self.state.lock();
        !state.queue.is_empty() || !state.changed.is_empty()
    }

    /// Returns what is open now, for an outbox that may have lost it. Sessions and hubs wait meanwhile, so nothing is encoded here.
    pub(super) fn open_state(&self) -> OpenState {
        let state = self.state.lock();
        let sessions = state.sessions.values().filter(|_| self.tells(EventType::Disconnect)).cloned().collect();
        let told = state.channels.iter().filter(|(_, entry)| entry.is_told);
        OpenState { sessions, channels: told.map(|(channel, _)| channel.clone()).collect() }
    }

    /// Returns the entries of a lane that store what was open again. They have to be appended before anything that is taken later
    /// ([`Self::take_entries`]): so the end of a session that has ended meanwhile follows. The outbox sends an event only for a
    /// channel that it does not know yet.
    pub(super) fn entries_of(&self, open: &OpenState, lane: usize) -> Vec<OutboxEntry> {
        let sessions = open.sessions.iter().filter(|session| event_lane(&session.lane_name()) == lane);
        let sessions = sessions.map(|session| OutboxEntry { event: None, change: open_session(session) });
        let channels = open.channels.iter().filter(|channel| event_lane(channel.as_str()) == lane);
        let channels = channels.map(|channel| {
            let (kind, time) = (EventType::Occupied, self.clock.now());
            let event = self.tells(kind).then(|| channel_event(kind, &self.node, channel, time));
            OutboxEntry { event, change: OutboxChange::OccupyChannel(channel.clone()) }
        });
        sessions.chain(channels).collect()
    }

    /// Returns the entry that ends a session of a lost node; `None` if its record cannot be read.
    pub(super) fn entry_of_lost_session(&self, client: Uuid, record: &str) -> Option<OutboxEntry> {
        let session = SessionRecord::from_json(client, record)?;
        let event = session_event(&session, self.clock.now(), Some(&EndCause::NODE_LOST));
        Some(OutboxEntry { event: Some(event), change: OutboxChange::EndSession(client) })
    }

    /// Returns the entry for a channel of which a lost node had subscribers.
    pub(super) fn entry_of_lost_channel(&self, channel: Channel) -> OutboxEntry {
        let (kind, time) = (EventType::Vacated, self.clock.now());
        let event = self.tells(kind).then(|| channel_event(kind, &self.node, &channel, time));
        OutboxEntry { event, change: OutboxChange::VacateChannel(channel) }
    }
}

fn open_session(session: &SessionRecord) -> OutboxChange {
    OutboxChange::OpenSession { client: session.client, record: session.to_json() }
}

#[cfg(test)]
mod tests;
