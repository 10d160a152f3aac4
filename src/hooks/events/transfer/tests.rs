//! Tests of the transfer.

use std::{
    collections::BTreeSet,
    future::{pending, ready},
};

use actix_rt::task::JoinHandle;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use super::*;
use crate::{
    broker::event_outbox::{Appended, EntryId, LostCursor, LostPage, OutboxPage, event_lane},
    clock::Clock,
    config::{Config, EventType, HookEndpoint},
    hooks::events::ReportedSession,
};

type Answer<T> = BoxFuture<'static, Result<T, BrokerError>>;

/// An outbox that stores the sessions of this node, and whose other node is lost, and never taken over to the end.
#[derive(Default)]
struct FakeOutbox {
    takeover_begun: Notify,
    /// Notified after each call.
    appended: Notify,
    state: Mutex<FakeState>,
}

#[derive(Default)]
struct FakeState {
    failing_lane: Option<usize>,
    /// For each lane the events that were appended, and the sessions that are stored.
    events: [usize; EVENT_LANES],
    stored: [BTreeSet<Uuid>; EVENT_LANES],
    /// Sessions that are open, and have to be stored all the time.
    open: Vec<Uuid>,
    /// Those of them that some call has removed.
    removed: BTreeSet<Uuid>,
}

impl EventOutbox for FakeOutbox {
    fn append(&self, lane: usize, _: EntryOwner, _: usize, entries: Vec<OutboxEntry>) -> Answer<Appended> {
        let mut state = self.state.lock();
        if state.failing_lane == Some(lane) {
            return Box::pin(ready(Err(BrokerError::Unavailable("down".to_owned()))));
        }
        for OutboxEntry { event, change } in entries {
            state.events[lane] += usize::from(event.is_some());
            match change {
                OutboxChange::OpenSession { client, .. } => _ = state.stored[lane].insert(client),
                OutboxChange::EndSession(client) => _ = state.stored[lane].remove(&client),
                _ => {}
            }
        }
        // Here the node may be killed.
        let FakeState { stored, open, removed, .. } = &mut *state;
        removed.extend(open.iter().filter(|client| !stored.iter().any(|lane| lane.contains(client))));
        self.appended.notify_one();
        Box::pin(ready(Ok(Appended::default())))
    }

    fn read(&self, _: usize, _: Option<EntryId>, _: usize, _: Duration) -> Answer<OutboxPage> {
        Box::pin(ready(Ok(OutboxPage { waiting: 0, events: Some(Vec::new()) })))
    }

    fn release(&self, _: usize) -> Answer<()> {
        Box::pin(ready(Ok(())))
    }

    fn renew_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }

    fn renew(&self, _: usize) -> Answer<Renewal> {
        Box::pin(ready(Ok(Renewal { is_known: true, lost: vec!["lost".to_owned()] })))
    }

    /// Pages of 100.
    fn read_stored(&self, lane: usize, from: u64) -> Answer<StoredSessions> {
        let stored = &self.state.lock().stored[lane];
        let start = usize::try_from(from).unwrap();
        let clients: Vec<Uuid> = stored.iter().skip(start).take(100).copied().collect();
        let next = (start + clients.len() < stored.len()).then_some(from + 100);
        Box::pin(ready(Ok(StoredSessions { clients, next })))
    }

    fn lease_lost(&self, _: usize, _: &str) -> Answer<bool> {
        Box::pin(ready(Ok(true)))
    }

    fn read_lost(&self, _: usize, _: &str, _: LostCursor) -> Answer<LostPage> {
        self.takeover_begun.notify_one();
        Box::pin(pending())
    }

    fn forget_lost(&self, _: usize, _: &str) -> Answer<()> {
        unreachable!()
    }
}

/// A transfer to a fake outbox.
struct Running {
    outbox: Arc<FakeOutbox>,
    reporter: Arc<EventReporter>,
    stop: watch::Sender<StopStage>,
    transfer: JoinHandle<()>,
}

impl Running {
    /// Starts it with a queue of so many reports in each lane.
    fn start(types: &[EventType], lane_queue: usize) -> Self {
        let mut config = Config::default().hooks;
        config.events.endpoint = HookEndpoint::parse("http://localhost/events").ok();
        config.events.types = types.to_vec();
        config.events.queue = lane_queue * EVENT_LANES;
        let (clock, metrics, outbox) = (Clock::default(), Arc::default(), Arc::new(FakeOutbox::default()));
        let reporter = EventReporter::from_config(&config, "node", &clock, &metrics).unwrap();
        let sender = EventSender::from_config(&config, outbox.clone(), &clock, &metrics).unwrap().unwrap();
        let transfer = Transfer::new(&config, reporter.clone(), outbox.clone(), Arc::new(sender));
        let (stop, stopping) = watch::channel(StopStage::Running);
        let transfer = actix_rt::spawn(transfer.run(stopping));
        Self { outbox, reporter, stop, transfer }
    }

    fn open(&self, user: &str, clients: std::ops::Range<u128>) -> Vec<Uuid> {
        let (user, address) = (user.into(), [127, 0, 0, 1].into());
        let (transport, protocol) = ("websocket", "json");
        let clients: Vec<Uuid> = clients.map(Uuid::from_u128).collect();
        for client in clients.iter().copied() {
            self.reporter.session_opened(&ReportedSession { client, user: &user, transport, protocol, address });
        }
        clients
    }

    /// Waits until this holds for the outbox, which is checked after each call.
    async fn wait_until(&self, what: &str, holds: impl Fn(&FakeState) -> bool) {
        let wait = async {
            while !holds(&self.outbox.state.lock()) {
                self.outbox.appended.notified().await;
            }
        };
        timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

/// A user whose events have this lane.
fn user_of_lane(lane: usize) -> String {
    let names = (0..).map(|number| format!("user-{number}"));
    names.into_iter().find(|name| event_lane(name) == lane).unwrap()
}

#[actix_rt::test]
async fn events_of_the_node_do_not_wait_for_the_takeover_of_another() {
    let running = Running::start(&[EventType::Connect], 100);
    let in_time = async |event: &Notify| timeout(Duration::from_secs(10), event.notified()).await.unwrap();
    in_time(&running.outbox.takeover_begun).await;
    running.open("ann", 0..1);
    in_time(&running.outbox.appended).await;
    // Nor does the stop.
    running.stop.send_replace(StopStage::Transferring);
    timeout(Duration::from_secs(10), running.transfer).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn lane_whose_server_is_down_holds_up_no_other_lane_and_takes_no_room_from_it() {
    let running = Running::start(&[EventType::Connect], 1000);
    running.outbox.state.lock().failing_lane = Some(0);
    running.open(&user_of_lane(0), 0..3000);
    // Calls of the lane have failed.
    sleep(RETRY_DELAY * 3).await;
    running.open(&user_of_lane(0), 3000..12_000);
    for lane in 1..EVENT_LANES {
        running.open(&user_of_lane(lane), (lane as u128) << 64..((lane as u128) << 64) + 1000);
        running.wait_until("1000 events are appended", |state| state.events[lane] == 1000).await;
        assert_eq!(running.reporter.take_dropped(lane), 0);
    }
    assert!(running.reporter.depth().ratio() >= 1.0, "the queue of the lane is full");
    running.outbox.state.lock().failing_lane = None;
    running.wait_until("the first 1000 are appended", |state| state.events[0] >= 1000).await;
}

#[actix_rt::test]
async fn open_sessions_stay_stored_while_they_are_stored_again_and_those_whose_ends_were_dropped_do_not() {
    let (running, lane) = (Running::start(&[EventType::Disconnect], 400), 3);
    let user = user_of_lane(lane);
    let mut open = Vec::new();
    for part in 0..3 {
        open.extend(running.open(&user, part * 300..(part + 1) * 300));
        running.wait_until("they are stored", |state| state.stored[lane].len() == open.len()).await;
    }
    let ended = open.split_off(800);
    running.outbox.state.lock().open = open[1..].to_vec();
    // The first end waits, before begins that fill the queue. All other ends are dropped, also that of one whose begin waits.
    running.reporter.session_ended(open[0], None, "");
    let more = running.open(&user, 10_000..11_000);
    ended.iter().for_each(|client| running.reporter.session_ended(*client, None, ""));
    running.reporter.session_ended(more[300], None, "");
    let mut expected: BTreeSet<Uuid> = open[1..].iter().chain(&more).copied().collect();
    expected.remove(&more[300]);
    running.stop.send_replace(StopStage::Transferring);
    timeout(Duration::from_secs(10), running.transfer).await.unwrap().unwrap();
    let state = running.outbox.state.lock();
    assert_eq!(state.removed, BTreeSet::new(), "they were not taken over if the node was killed then");
    assert!(state.stored[lane] == expected, "{} are stored, and {} are open", state.stored[lane].len(), expected.len());
}

#[test]
fn node_is_steady_after_three_intervals_of_renewals_without_a_break() {
    let (mut renewals, start, interval) = (Renewals::default(), Instant::now(), Duration::from_secs(5));
    let mut at = |seconds: u64, is_known| renewals.note(is_known, interval, start + Duration::from_secs(seconds));
    // It is not known at first.
    assert!(!at(0, false) && !at(5, true) && !at(10, true));
    assert!(at(15, true) && at(20, true));
    // This process was frozen, or the broker was away.
    assert!(!at(30, true) && !at(35, true) && !at(40, true));
    assert!(at(45, true));
    // The broker has lost the registration.
    assert!(!at(50, false) && !at(55, true) && !at(60, true));
    assert!(at(65, true));
}
