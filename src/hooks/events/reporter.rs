//! Takes the reports of sessions and hubs. Their calls wait only for a short lock, and never fail: reports above a bound are
//! dropped, counted and logged.
//!
//! Sessions are in a table while they are open, and channels while a hub of this node has subscribers of them, so that both can be
//! told to the outbox again if it has lost them. Session events wait in a queue for each lane of the outbox, because the lanes may be on
//! different servers: one that is down fills only its own queues. A channel waits at most once, whatever happens to it meanwhile: what
//! counts is whether it has subscribers when its turn comes.

mod channels;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use self::channels::{ChannelChange, ReportedChannels};
use super::event::{EndCause, SessionRecord, channel_event, session_event, subscription_event};
use crate::{
    broker::event_outbox::{EVENT_LANES, OutboxChange, OutboxEntry, event_lane},
    channel::Channel,
    clock::{Clock, WallTime},
    config::{EventType, HooksConfig},
    metrics::{Metrics, Queue, QueueDepth, ratio},
};

/// Collects what is reported on one node.
pub struct EventReporter {
    types: Vec<EventType>,
    has_address: bool,
    /// Maximum reports of a lane that wait, and channels of a lane that are kept although the outbox does not know them.
    max_queued: usize,
    vacated_delay: Duration,
    node: Arc<str>,
    clock: Clock,
    metrics: Arc<Metrics>,
    state: Mutex<ReporterState>,
    /// For each lane: notified when something waits.
    due: [Notify; EVENT_LANES],
    /// How many times encoding is to panic.
    #[cfg(test)]
    encode_panics: std::sync::atomic::AtomicUsize,
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
    /// Those that are open.
    sessions: HashMap<Uuid, Arc<KnownSession>>,
    lanes: [LaneReports; EVENT_LANES],
}

/// What waits for a lane of the outbox.
#[derive(Default)]
struct LaneReports {
    queue: VecDeque<Report>,
    channels: ReportedChannels,
    dropped: usize,
    /// The outbox has sessions that have ended, or lacks some: the queue had no room for that.
    has_lost_sessions: bool,
}

/// A session that is open, or of which reports wait.
struct KnownSession {
    record: SessionRecord,
    lane: usize,
    /// The queue had no room for its end.
    is_end_dropped: AtomicBool,
}

/// The sessions of a lane, and the channels of which the outbox knows that they have subscribers, at one moment.
pub(super) struct OpenState {
    sessions: Vec<Arc<KnownSession>>,
    /// Sessions that have ended, and whose ends wait in the queue.
    ending: Vec<Uuid>,
    channels: Vec<Channel>,
}

impl OpenState {
    /// Returns the client ids of the sessions that have to stay in the outbox: those that are open, and those whose end waits in the
    /// queue.
    pub(super) fn clients(&self) -> HashSet<Uuid> {
        self.sessions.iter().map(|session| session.record.client).chain(self.ending.iter().copied()).collect()
    }
}

/// What was taken to be encoded ([`EventReporter::take`]).
#[derive(Default)]
pub(super) struct TakenReports {
    changes: Vec<(Channel, ChannelChange)>,
    reports: Vec<Report>,
}

impl TakenReports {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.reports.is_empty()
    }

    /// Returns how many they are.
    pub(super) fn len(&self) -> usize {
        self.changes.len() + self.reports.len()
    }
}

struct Report {
    session: Arc<KnownSession>,
    time: WallTime,
    what: ReportedChange,
}

enum ReportedChange {
    Opened,
    Ended(EndCause),
    Subscribed(Channel),
    Unsubscribed(Channel, EndCause),
}

impl EventReporter {
    /// Creates the reporter of this node if events have an endpoint.
    pub fn from_config(config: &HooksConfig, node: &str, clock: &Clock, metrics: &Arc<Metrics>) -> Option<Arc<Self>> {
        let events = &config.events;
        events.endpoint.as_ref()?;
        Some(Arc::new(Self {
            types: events.types.clone(),
            has_address: events.client_address,
            max_queued: events.queue.div_ceil(EVENT_LANES),
            vacated_delay: events.vacated_delay,
            node: node.into(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            state: Mutex::default(),
            due: Default::default(),
            #[cfg(test)]
            encode_panics: Default::default(),
        }))
    }

    /// Returns how full the queues of reports are that are not in the outbox yet. The fullest one decides about the ratio.
    pub(in crate::hooks) fn depth(&self) -> QueueDepth {
        let waiting = self.state.lock().lanes.each_ref().map(|lane| lane.queue.len());
        let all = QueueDepth::of_entries(Queue::HookEvents, waiting.iter().sum(), self.max_queued * EVENT_LANES);
        waiting.iter().fold(all, |all, waiting| all.or_fuller(ratio(*waiting, self.max_queued)))
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
        let record = SessionRecord {
            node: self.node.clone(),
            client: session.client,
            user: session.user.clone(),
            transport: session.transport.into(),
            protocol: session.protocol.into(),
            address: self.has_address.then(|| session.address.to_canonical()),
            connected_at: time,
        };
        let lane = event_lane(&record.lane_name());
        let known = Arc::new(KnownSession { record, lane, is_end_dropped: AtomicBool::new(false) });
        state.sessions.insert(session.client, known.clone());
        self.enqueue(&mut state, Report { session: known, time, what: ReportedChange::Opened });
    }

    /// Reports that a session has ended, with the code and the reason of its close, if it had one.
    pub fn session_ended(&self, client: Uuid, code: Option<u16>, reason: &str) {
        let mut state = self.state.lock();
        let Some(session) = state.sessions.remove(&client) else { return };
        let cause = EndCause { code: code.map(u32::from), reason: reason.to_owned().into() };
        let time = self.clock.now();
        self.enqueue(&mut state, Report { session, time, what: ReportedChange::Ended(cause) });
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
        if let Some(session) = state.sessions.get(&client).cloned() {
            let time = self.clock.now();
            self.enqueue(&mut state, Report { session, time, what: what() });
        }
    }

    fn enqueue(&self, state: &mut ReporterState, report: Report) {
        let number = report.session.lane;
        let lane = &mut state.lanes[number];
        if lane.queue.len() < self.max_queued {
            lane.queue.push_back(report);
            return self.due[number].notify_one();
        }
        let is_opened = matches!(report.what, ReportedChange::Opened);
        let is_ended = matches!(report.what, ReportedChange::Ended(_));
        if is_ended {
            report.session.is_end_dropped.store(true, Ordering::Relaxed);
        }
        // The outbox learns which sessions are open with all others.
        lane.has_lost_sessions |= (is_opened || is_ended) && self.tells(EventType::Disconnect);
        let is_event = !is_opened || self.tells(EventType::Connect);
        self.count_dropped(lane, usize::from(is_event));
    }

    /// Reports that a hub has the first subscriber of a channel.
    pub fn channel_occupied(&self, channel: &Channel) {
        if self.tells_channels() {
            let lane = event_lane(channel.as_str());
            if self.state.lock().lanes[lane].channels.occupy(channel) {
                self.due[lane].notify_one();
            }
        }
    }

    /// Reports that a hub has no subscribers of a channel any more.
    pub fn channel_vacated(&self, channel: &Channel) {
        if self.tells_channels() {
            let lane = event_lane(channel.as_str());
            if self.state.lock().lanes[lane].channels.vacate(channel, self.max_queued) {
                self.due[lane].notify_one();
            }
        }
    }

    fn tells_channels(&self) -> bool {
        self.tells(EventType::Occupied) || self.tells(EventType::Vacated)
    }

    /// Counts events of a lane that the outbox has dropped.
    pub(super) fn note_dropped(&self, lane: usize, count: usize) {
        if count > 0 {
            self.count_dropped(&mut self.state.lock().lanes[lane], count);
        }
    }

    fn count_dropped(&self, lane: &mut LaneReports, count: usize) {
        lane.dropped += count;
        self.metrics.count_hook_events("dropped", count);
    }

    /// Takes the number of events of a lane that were dropped since the last call.
    pub(super) fn take_dropped(&self, lane: usize) -> usize {
        std::mem::take(&mut self.state.lock().lanes[lane].dropped)
    }

    /// Takes whether the sessions of a lane have to be stored again because the queue was full. `false` while more than half of the queue
    /// is in use: storing many sessions takes time, in which the queue would become full again.
    pub(super) fn take_lost_sessions(&self, lane: usize) -> bool {
        let lane = &mut self.state.lock().lanes[lane];
        lane.queue.len() <= self.max_queued / 2 && std::mem::take(&mut lane.has_lost_sessions)
    }

    /// Completes when something waits for a lane.
    pub(super) async fn due(&self, lane: usize) {
        self.due[lane].notified().await;
    }

    /// Returns when a channel of a lane counts as vacated, if one is about to.
    pub(super) fn next_vacated(&self, lane: usize) -> Option<Instant> {
        self.state.lock().lanes[lane].channels.first_vacant().map(|since| since + self.vacated_delay)
    }

    /// Has channels without subscribers count as vacated at once, because the server stops.
    pub(super) fn vacate_at_once(&self, lane: usize) {
        self.state.lock().lanes[lane].channels.note_vacated(|_| true);
    }

    /// Takes what waits for a lane of the outbox: changes of channels, and reports of sessions, at most `max` each. Nothing is encoded
    /// here: encoding can panic, and what has been taken must outlive that.
    pub(super) fn take(&self, lane: usize, max: usize) -> TakenReports {
        let now = Instant::now();
        let mut state = self.state.lock();
        let LaneReports { queue, channels, .. } = &mut state.lanes[lane];
        channels.note_vacated(|since| now >= since + self.vacated_delay);
        let changes = std::iter::from_fn(|| channels.take_change()).take(max).collect();
        let count = queue.len().min(max);
        TakenReports { changes, reports: queue.drain(..count).collect() }
    }

    /// Encodes the entries for the outbox: of channels, then of sessions.
    pub(super) fn encode(&self, taken: &TakenReports) -> Vec<OutboxEntry> {
        #[cfg(test)]
        self.panic_if_due();
        let of_channels = taken.changes.iter().map(|(channel, change)| self.entry_of_channel(channel.clone(), *change));
        of_channels.chain(taken.reports.iter().filter_map(|report| self.entry_of(report))).collect()
    }

    fn entry_of_channel(&self, channel: Channel, change: ChannelChange) -> OutboxEntry {
        let kind = match change {
            ChannelChange::Occupied => EventType::Occupied,
            ChannelChange::Vacated => EventType::Vacated,
        };
        let event = self.tells(kind).then(|| channel_event(kind, &self.node, &channel, self.clock.now()));
        let change = match change {
            ChannelChange::Occupied => OutboxChange::OccupyChannel(channel),
            ChannelChange::Vacated => OutboxChange::VacateChannel(channel),
        };
        OutboxEntry { event, change }
    }

    /// Returns the entry of a report, unless it changes nothing.
    fn entry_of(&self, Report { session, time, what }: &Report) -> Option<OutboxEntry> {
        let record = &session.record;
        let ends_are_told = self.tells(EventType::Disconnect);
        let entry = match what {
            ReportedChange::Opened => OutboxEntry {
                event: self.tells(EventType::Connect).then(|| session_event(record, *time, None)),
                // Nothing will remove it if its end was dropped.
                change: if ends_are_told && !session.is_end_dropped.load(Ordering::Relaxed) {
                    open_session(record)
                } else {
                    OutboxChange::None
                },
            },
            ReportedChange::Ended(_) if !ends_are_told => return None,
            ReportedChange::Ended(cause) => OutboxEntry {
                event: Some(session_event(record, *time, Some(cause))),
                change: OutboxChange::EndSession(record.client),
            },
            ReportedChange::Subscribed(channel) => OutboxEntry {
                event: Some(subscription_event(record, channel, *time, None)),
                change: OutboxChange::None,
            },
            ReportedChange::Unsubscribed(channel, cause) => OutboxEntry {
                event: Some(subscription_event(record, channel, *time, Some(cause))),
                change: OutboxChange::None,
            },
        };
        (entry.event.is_some() || entry.change != OutboxChange::None).then_some(entry)
    }

    /// Returns whether something waits for a lane.
    pub(super) fn has_entries(&self, lane: usize) -> bool {
        let lane = &self.state.lock().lanes[lane];
        !lane.queue.is_empty() || lane.channels.has_changes()
    }

    /// Returns what is open in a lane now, for an outbox that may have lost it. Sessions and hubs wait meanwhile, so nothing is encoded
    /// here.
    pub(super) fn open_state(&self, lane: usize) -> OpenState {
        let state = self.state.lock();
        let is_due = |session: &&Arc<KnownSession>| session.lane == lane && self.tells(EventType::Disconnect);
        let sessions = state.sessions.values().filter(is_due).cloned().collect();
        let reports = &state.lanes[lane];
        let ended = reports.queue.iter().filter(|report| matches!(report.what, ReportedChange::Ended(_)));
        let ending = ended.map(|report| report.session.record.client).collect();
        OpenState { sessions, ending, channels: reports.channels.told().cloned().collect() }
    }

    /// Returns the entries that store what was open again. They have to be appended before anything that is taken later
    /// ([`Self::take`]): so the end of a session that has ended meanwhile follows. The outbox sends an event only for a
    /// channel that it does not know yet. An entry is encoded when it is asked for.
    pub(super) fn entries_of(&self, open: &OpenState) -> impl Iterator<Item = OutboxEntry> {
        let sessions = open.sessions.iter();
        let sessions = sessions.map(|session| OutboxEntry { event: None, change: open_session(&session.record) });
        let channels = open.channels.iter();
        let channels = channels.map(|channel| self.entry_of_channel(channel.clone(), ChannelChange::Occupied));
        sessions.chain(channels)
    }

    /// Returns the entry that ends a session of a lost node; `None` if its record cannot be read.
    pub(super) fn entry_of_lost_session(&self, client: Uuid, record: &str) -> Option<OutboxEntry> {
        let session = SessionRecord::from_json(client, record)?;
        let event = session_event(&session, self.clock.now(), Some(&EndCause::NODE_LOST));
        Some(OutboxEntry { event: Some(event), change: OutboxChange::EndSession(client) })
    }

    /// Returns the entry for a channel of which a lost node had subscribers.
    pub(super) fn entry_of_lost_channel(&self, channel: Channel) -> OutboxEntry {
        self.entry_of_channel(channel, ChannelChange::Vacated)
    }
}

fn open_session(session: &SessionRecord) -> OutboxChange {
    OutboxChange::OpenSession { client: session.client, record: session.to_json() }
}

#[cfg(test)]
mod tests;
