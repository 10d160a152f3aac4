//! Tests of the transfer.

use std::{
    collections::BTreeSet,
    future::{pending, ready},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};

use super::*;
use crate::{
    broker::event_outbox::{Appended, EntryId, LostCursor, LostPage, OutboxPage, event_lane},
    channel::Channel,
    clock::Clock,
    config::{Config, EventType, HookEndpoint},
    hooks::events::{EventService, ReportedSession},
};

/// Maximum time of every wait.
const PATIENCE: Duration = Duration::from_secs(10);

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
    fault: Option<(usize, Fault)>,
    /// For each lane the events that were appended, the number of the last call, and the sessions that are stored.
    events: [Vec<String>; EVENT_LANES],
    numbers: [u64; EVENT_LANES],
    stored: [BTreeSet<Uuid>; EVENT_LANES],
    /// How often each lane was read, and given up.
    reads: [usize; EVENT_LANES],
    releases: [usize; EVENT_LANES],
    /// Sessions that are open, and have to be stored all the time.
    open: Vec<Uuid>,
    /// Those of them that some call has removed.
    removed: BTreeSet<Uuid>,
}

/// What is wrong with a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Calls that append fail.
    AppendFails,
    /// They get no answer.
    AppendHangs,
    /// The next one panics, before or after it has appended.
    AppendPanicsFirst,
    AppendPanicsAfterwards,
    /// The next call that reads panics.
    ReadPanics,
}

impl FakeState {
    /// Returns what is wrong with a call; a panic happens once.
    fn fault_of(&mut self, lane: usize, faults: &[Fault]) -> Option<Fault> {
        let (_, fault) = self.fault.filter(|(with_fault, fault)| *with_fault == lane && faults.contains(fault))?;
        if !matches!(fault, Fault::AppendFails | Fault::AppendHangs) {
            self.fault = None;
        }
        Some(fault)
    }
}

impl EventOutbox for FakeOutbox {
    fn append(&self, lane: usize, owner: EntryOwner, _: usize, entries: Vec<OutboxEntry>) -> Answer<Appended> {
        let mut state = self.state.lock();
        let faults = [Fault::AppendFails, Fault::AppendHangs, Fault::AppendPanicsFirst, Fault::AppendPanicsAfterwards];
        let fault = state.fault_of(lane, &faults);
        match fault {
            Some(Fault::AppendFails) => {
                return Box::pin(ready(Err(BrokerError::Unavailable("down".to_owned()))));
            }
            Some(Fault::AppendHangs) => return Box::pin(pending()),
            Some(Fault::AppendPanicsFirst) => panic!("a fault of the test"),
            _ => {}
        }
        let EntryOwner::ThisNode(number) = owner else { unreachable!() };
        if number <= state.numbers[lane] {
            return Box::pin(ready(Ok(Appended::default())));
        }
        state.numbers[lane] = number;
        for OutboxEntry { event, change } in entries {
            state.events[lane].extend(event);
            match change {
                OutboxChange::OpenSession { client, .. } => _ = state.stored[lane].insert(client),
                OutboxChange::EndSession(client) => _ = state.stored[lane].remove(&client),
                _ => {}
            }
        }
        // Here the node may be killed.
        let FakeState { stored, open, removed, .. } = &mut *state;
        removed.extend(open.iter().filter(|client| !stored.iter().any(|lane| lane.contains(client))));
        assert_ne!(fault, Some(Fault::AppendPanicsAfterwards), "a fault of the test");
        self.appended.notify_one();
        Box::pin(ready(Ok(Appended::default())))
    }

    fn read(&self, lane: usize, _: Option<EntryId>, _: usize, _: Duration) -> Answer<OutboxPage> {
        let mut state = self.state.lock();
        assert_eq!(state.fault_of(lane, &[Fault::ReadPanics]), None, "a fault of the test");
        state.reads[lane] += 1;
        Box::pin(ready(Ok(OutboxPage { waiting: 0, events: Some(Vec::new()) })))
    }

    fn release(&self, lane: usize) -> Answer<()> {
        self.state.lock().releases[lane] += 1;
        Box::pin(ready(Ok(())))
    }

    fn renew_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }

    fn renew(&self, _: usize) -> Answer<RenewedRegistration> {
        Box::pin(ready(Ok(RenewedRegistration { is_known: true, lost: vec!["lost".to_owned()] })))
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

/// The lanes of a node, with a fake outbox.
struct Running {
    outbox: Arc<FakeOutbox>,
    reporter: Arc<EventReporter>,
    metrics: Arc<Metrics>,
    service: EventService,
}

impl Running {
    /// Starts them with queues of so many reports.
    fn start(types: &[EventType], lane_queue: usize) -> Self {
        let config = hooks_config(types, lane_queue);
        let (clock, metrics, outbox) = (Clock::default(), Arc::default(), Arc::new(FakeOutbox::default()));
        let reporter = EventReporter::from_config(&config, "node", &clock, &metrics).unwrap();
        let service = EventService::start(&config, reporter.clone(), outbox.clone(), &Arc::default(), &clock, &metrics);
        Self { outbox, reporter, metrics, service: service.unwrap().unwrap() }
    }

    fn open(&self, user: &str, clients: std::ops::Range<u128>) -> Vec<Uuid> {
        open_sessions(&self.reporter, user, clients)
    }

    fn dropped(&self) -> u64 {
        self.metrics.hook_events_with_outcome("dropped")
    }

    /// Waits until this holds for the outbox, which is checked after each call.
    async fn wait_until(&self, what: &str, holds: impl Fn(&FakeState) -> bool) {
        let wait = async {
            while !holds(&self.outbox.state.lock()) {
                self.outbox.appended.notified().await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

fn hooks_config(types: &[EventType], lane_queue: usize) -> HooksConfig {
    let mut config = Config::default().hooks;
    config.events.endpoint = HookEndpoint::parse("http://localhost/events").ok();
    config.events.types = types.to_vec();
    config.events.queue = lane_queue * EVENT_LANES;
    config
}

fn open_sessions(reporter: &EventReporter, user: &str, clients: std::ops::Range<u128>) -> Vec<Uuid> {
    let (user, address) = (user.into(), [127, 0, 0, 1].into());
    let (transport, protocol) = ("websocket", "json");
    let clients: Vec<Uuid> = clients.map(Uuid::from_u128).collect();
    for client in clients.iter().copied() {
        reporter.session_opened(&ReportedSession { client, user: &user, transport, protocol, address });
    }
    clients
}

/// A channel whose events have this lane.
fn channel_of_lane(lane: usize) -> Channel {
    let names = (0..).map(|number| format!("channel-{number}"));
    Channel::new(&names.into_iter().find(|name| event_lane(name) == lane).unwrap()).unwrap()
}

/// Returns the types of events.
fn types_of(events: &[String]) -> Vec<String> {
    let event_type = |event: &String| {
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        event["type"].as_str().unwrap().to_owned()
    };
    events.iter().map(event_type).collect()
}

/// A user whose events have this lane.
fn user_of_lane(lane: usize) -> String {
    let names = (0..).map(|number| format!("user-{number}"));
    names.into_iter().find(|name| event_lane(name) == lane).unwrap()
}

#[actix_rt::test]
async fn events_of_the_node_do_not_wait_for_the_takeover_of_another() {
    let running = Running::start(&[EventType::Connect], 100);
    let in_time = async |event: &Notify| timeout(PATIENCE, event.notified()).await.unwrap();
    in_time(&running.outbox.takeover_begun).await;
    running.open("ann", 0..1);
    in_time(&running.outbox.appended).await;
    // Nor does the stop.
    running.service.stop(PATIENCE).await;
    assert_eq!(running.outbox.state.lock().releases, [0; EVENT_LANES], "no lane was aborted");
}

#[actix_rt::test]
async fn lane_whose_server_is_down_holds_up_no_other_lane_and_takes_no_room_from_it() {
    let running = Running::start(&[EventType::Connect], 1000);
    running.outbox.state.lock().fault = Some((0, Fault::AppendFails));
    running.open(&user_of_lane(0), 0..3000);
    // Calls of the lane have failed.
    sleep(RETRY_DELAY * 3).await;
    running.open(&user_of_lane(0), 3000..12_000);
    // All but the queue and one call.
    assert_eq!(running.dropped(), 12_000 - 1000 - CALL_ENTRIES as u64);
    for lane in 1..EVENT_LANES {
        running.open(&user_of_lane(lane), (lane as u128) << 64..((lane as u128) << 64) + 1000);
        running.wait_until("1000 events are appended", |state| state.events[lane].len() == 1000).await;
    }
    assert_eq!(running.dropped(), 12_000 - 1000 - CALL_ENTRIES as u64, "no events of other lanes");
    assert!(running.reporter.depth().ratio() >= 1.0, "the queue of the lane is full");
    running.outbox.state.lock().fault = None;
    running.wait_until("the first 1000 are appended", |state| state.events[0].len() >= 1000).await;
}

#[actix_rt::test]
async fn lane_whose_server_does_not_answer_takes_no_time_from_the_stop_of_others() {
    let running = Running::start(&[EventType::Connect], 1000);
    running.outbox.state.lock().fault = Some((0, Fault::AppendHangs));
    for lane in 0..EVENT_LANES {
        running.open(&user_of_lane(lane), (lane as u128) << 64..((lane as u128) << 64) + 1000);
    }
    running.service.stop(Duration::from_millis(500)).await;
    let state = running.outbox.state.lock();
    // Only the lane that does not answer was aborted, and given up so that another node can send it.
    assert_eq!(state.releases, [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(state.events.each_ref().map(Vec::len), [0, 1000, 1000, 1000, 1000, 1000, 1000, 1000]);
}

#[actix_rt::test]
async fn lane_that_panics_goes_on_with_the_same_events_in_their_order_and_holds_up_no_other() {
    let (lane, other) = (3, 4);
    for fault in [Fault::AppendPanicsFirst, Fault::AppendPanicsAfterwards] {
        let running = Running::start(&[EventType::Connect, EventType::Disconnect], 2000);
        let clients = running.open(&user_of_lane(lane), 0..10);
        running.wait_until("they are appended", |state| state.events[lane].len() == 10).await;
        running.outbox.state.lock().fault = Some((lane, fault));
        let all = [clients, running.open(&user_of_lane(lane), 10..1010)].concat();
        running.open(&user_of_lane(other), 1 << 64..(1 << 64) + 1000);
        running.wait_until("other events are appended", |state| state.events[other].len() == 1000).await;
        running.wait_until("all events are appended", |state| state.events[lane].len() >= 1010).await;
        running.service.stop(PATIENCE).await;
        let state = running.outbox.state.lock();
        let named = state.events[lane].iter().map(|event| {
            let event: serde_json::Value = serde_json::from_str(event).unwrap();
            event["client"].as_str().unwrap().parse::<Uuid>().unwrap()
        });
        assert!(named.eq(all.iter().copied()), "{fault:?}");
        assert_eq!(state.stored[lane], all.into_iter().collect(), "{fault:?}");
        assert_eq!(running.metrics.hook_event_restarts.get(), 1);
    }
}

#[actix_rt::test]
async fn nothing_is_lost_when_encoding_panics() {
    let (lane, news) = (6, channel_of_lane(6));
    let types = [EventType::Connect, EventType::Disconnect, EventType::Occupied, EventType::Vacated];
    let running = Running::start(&types, 100);
    running.reporter.channel_occupied(&news);
    let client = running.open(&user_of_lane(lane), 0..1)[0];
    running.wait_until("the begins are appended", |state| state.events[lane].len() == 2).await;
    running.reporter.panic_when_encoding(1);
    // No await: both are taken at once.
    running.reporter.channel_vacated(&news);
    running.reporter.vacate_at_once(lane);
    running.reporter.session_ended(client, None, "");
    running.wait_until("the ends are appended", |state| state.events[lane].len() == 4).await;
    running.service.stop(PATIENCE).await;
    let state = running.outbox.state.lock();
    let mut types = types_of(&state.events[lane]);
    types[..2].sort();
    assert_eq!(types, ["connect", "occupied", "vacated", "disconnect"]);
    assert_eq!((running.metrics.hook_event_restarts.get(), running.dropped()), (1, 0));
}

#[actix_rt::test]
async fn reports_that_cannot_be_encoded_do_not_hold_up_their_lane_for_ever() {
    let (running, lane) = (Running::start(&[EventType::Connect], 100), 6);
    running.reporter.panic_when_encoding(ENCODE_ATTEMPTS as usize);
    running.open(&user_of_lane(lane), 0..5);
    timeout(PATIENCE, async {
        while running.dropped() == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    running.open(&user_of_lane(lane), 5..6);
    running.wait_until("a later event is appended", |state| state.events[lane].len() == 1).await;
    running.service.stop(PATIENCE).await;
    assert_eq!((running.metrics.hook_event_restarts.get(), running.dropped()), (u64::from(ENCODE_ATTEMPTS), 5));
}

#[actix_rt::test]
async fn sender_that_panics_is_started_again_beside_its_transfer() {
    let lane = 5;
    let running = Running::start(&[EventType::Connect], 100);
    // The first read.
    running.outbox.state.lock().fault = Some((lane, Fault::ReadPanics));
    timeout(PATIENCE, async {
        while running.metrics.hook_event_restarts.get() == 0 {
            yield_now().await;
        }
    })
    .await
    .unwrap();
    let reads = running.outbox.state.lock().reads[lane];
    running.open(&user_of_lane(lane), 0..10);
    running.wait_until("events are appended meanwhile", |state| state.events[lane].len() == 10).await;
    running.service.stop(PATIENCE).await;
    let state = running.outbox.state.lock();
    assert!(state.reads[lane] > reads);
}

#[actix_rt::test]
async fn others_run_while_many_sessions_are_encoded_to_be_stored_again() {
    let (lane, calls) = (2, 20);
    let config = hooks_config(&[EventType::Disconnect], CALL_ENTRIES * calls);
    let (clock, metrics, outbox) = (Clock::default(), Arc::default(), Arc::new(FakeOutbox::default()));
    let reporter = EventReporter::from_config(&config, "node", &clock, &metrics).unwrap();
    let sender = EventSender::from_config(&config, outbox.clone(), &Arc::default(), &clock, &metrics).unwrap().unwrap();
    let transfer = Transfer::new(&config, reporter.clone(), outbox, sender, metrics);
    open_sessions(&reporter, &user_of_lane(lane), 0..(CALL_ENTRIES * calls) as u128);
    let mut transfer = LaneTransfer::new(&transfer, lane);
    transfer.stores_again = Some(false);
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = others => {}
        is_done = transfer.store_again() => assert!(is_done),
    }
    assert!(turns >= calls, "{turns} turns");
    assert!(transfer.calls.len() == calls && transfer.calls.iter().all(|call| call.len() == CALL_ENTRIES));
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
    running.service.stop(PATIENCE).await;
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
