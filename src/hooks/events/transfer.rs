//! Moves reports to the outbox in the broker: one task per node, which tries again until the broker has them. It also renews
//! the registration of the node, stores its sessions and channels again if the broker has lost them, and names the nodes that
//! are lost to the [`Takeover`].
//!
//! A node takes another one for lost only after it has renewed its own registration without a break for as long as one lasts: after an
//! outage of the broker all registrations have expired, and each node needs a moment to renew its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    StopStage,
    reporter::EventReporter,
    sender::EventSender,
    takeover::{LostNodes, Takeover},
};
use crate::{
    broker::event_outbox::{EVENT_LANES, EntryOwner, EventOutbox, LOST_INTERVALS, OutboxChange, OutboxEntry, Renewal},
    config::HooksConfig,
};

/// Maximum entries of one call. Redis is busy with them for about a millisecond.
const CALL_ENTRIES: usize = 256;
/// Entries that are taken from the reporter at once, about. As many wait here while the broker fails.
const TAKEN_ENTRIES: usize = 2048;
/// Pause after the broker has failed.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Minimum time between two log lines about dropped events.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The task.
pub(super) struct Transfer {
    reporter: Arc<EventReporter>,
    outbox: Arc<dyn EventOutbox>,
    sender: Arc<EventSender>,
    /// Maximum events that wait in a lane.
    max_waiting: usize,
    lanes: [LaneTransfer; EVENT_LANES],
    dropped_logged_at: Option<Instant>,
}

#[derive(Default)]
struct LaneTransfer {
    /// Calls that have to be made, in this order.
    calls: VecDeque<Vec<OutboxEntry>>,
    /// The first of them has been made, and may have succeeded without an answer: nothing may be added to it.
    is_first_made: bool,
    /// The sessions and channels have to be stored again; `true` if the outbox has sessions that have ended.
    stores_again: Option<bool>,
    /// The number of calls that have succeeded.
    succeeded: u64,
    renewed_at: Option<Instant>,
    /// Since when the registration has been renewed without a break.
    steady_since: Option<Instant>,
}

impl LaneTransfer {
    fn add(&mut self, entry: OutboxEntry) {
        let is_made = self.is_first_made && self.calls.len() == 1;
        match self.calls.back_mut() {
            Some(last) if !is_made && last.len() < CALL_ENTRIES => last.push(entry),
            _ => self.calls.push_back(vec![entry]),
        }
    }

    /// Returns the entries of the first call, which is about to be made.
    fn begin_first_call(&mut self) -> Option<Vec<OutboxEntry>> {
        let entries = self.calls.front()?.clone();
        self.is_first_made = true;
        Some(entries)
    }

    /// Notes that the first call has succeeded.
    fn end_first_call(&mut self) {
        self.calls.pop_front();
        self.is_first_made = false;
        self.succeeded += 1;
    }

    /// Notes a renewal. Returns whether the registration has been renewed for long enough without a break.
    fn note_renewal(&mut self, is_known: bool, interval: Duration, now: Instant) -> bool {
        let is_in_time = self.renewed_at.is_some_and(|at| now.duration_since(at) < interval * 2);
        self.renewed_at = Some(now);
        let since = self.steady_since.filter(|_| is_known && is_in_time).unwrap_or(now);
        self.steady_since = Some(since);
        now.duration_since(since) >= interval * LOST_INTERVALS
    }
}

impl Transfer {
    pub(super) fn new(
        config: &HooksConfig,
        reporter: Arc<EventReporter>,
        outbox: Arc<dyn EventOutbox>,
        sender: Arc<EventSender>,
    ) -> Self {
        let max_waiting = config.events.outbox.div_ceil(EVENT_LANES);
        Self { reporter, outbox, sender, max_waiting, lanes: Default::default(), dropped_logged_at: None }
    }

    /// Runs until everything is in the outbox after the server has begun to stop.
    pub(super) async fn run(self, stopping: watch::Receiver<StopStage>) {
        let (lost, named) = watch::channel(LostNodes::default());
        let takeover = Takeover {
            reporter: self.reporter.clone(),
            outbox: self.outbox.clone(),
            sender: self.sender.clone(),
            max_waiting: self.max_waiting,
        };
        // Neither waits for the other. What a stop leaves of a lost node is for other nodes.
        tokio::select! {
            () = self.transfer(lost, stopping) => {}
            () = takeover.run(named) => {}
        }
    }

    async fn transfer(mut self, lost: watch::Sender<LostNodes>, mut stopping: watch::Receiver<StopStage>) {
        let interval = self.outbox.renew_interval();
        let mut renewal = Instant::now();
        loop {
            if let Some(interval) = interval.filter(|_| Instant::now() >= renewal) {
                renewal = Instant::now() + interval;
                self.renew(interval, &lost).await;
            }
            if self.reporter.take_lost_ends() {
                self.lanes.iter_mut().for_each(|lane| lane.stores_again = Some(true));
            }
            self.store_again().await;
            let is_stopping = *stopping.borrow() > StopStage::Running;
            if is_stopping && interval.is_none() {
                self.reporter.vacate_at_once();
            }
            if self.lanes.iter().map(|lane| lane.calls.len()).sum::<usize>() <= EVENT_LANES {
                let entries = self.reporter.take_entries(TAKEN_ENTRIES);
                entries.into_iter().for_each(|(lane, entry)| self.lanes[lane].add(entry));
            }
            let has_failed = !self.append().await;
            self.log_dropped();
            if has_failed {
                sleep(RETRY_DELAY).await;
            } else if !self.reporter.has_entries() && self.lanes.iter().all(|lane| lane.stores_again.is_none()) {
                if is_stopping {
                    return;
                }
                let vacated = self.reporter.next_vacated().map(Instant::from_std);
                let wake = interval.map(|_| renewal).into_iter().chain(vacated).min();
                tokio::select! {
                    () = self.reporter.due() => {}
                    () = wait_until(wake) => {}
                    _ = stopping.changed() => {}
                }
            }
        }
    }

    /// Makes the calls that wait, for all lanes at once. Returns whether all have succeeded.
    async fn append(&mut self) -> bool {
        let (outbox, max_waiting) = (&self.outbox, self.max_waiting);
        while self.lanes.iter().any(|lane| !lane.calls.is_empty()) {
            let calls = self.lanes.iter_mut().enumerate().filter_map(|(number, lane)| {
                let owner = EntryOwner::ThisNode(lane.succeeded + 1);
                let append = outbox.append(number, owner, max_waiting, lane.begin_first_call()?);
                Some(async move { (number, append.await) })
            });
            let results = join_all(calls).await;
            let mut has_failed = false;
            for (number, result) in results {
                match result {
                    Ok(appended) => {
                        self.lanes[number].end_first_call();
                        self.sender.note_queued(number, appended.queued);
                        self.reporter.note_dropped(appended.dropped);
                    }
                    Err(error) => {
                        has_failed = true;
                        log::debug!("events wait for the broker lane={number} error={:?}", error.to_string());
                    }
                }
            }
            if has_failed {
                return false;
            }
        }
        true
    }

    /// Renews the registration in all lanes, and tells which other nodes are lost.
    async fn renew(&mut self, interval: Duration, lost: &watch::Sender<LostNodes>) {
        let now = Instant::now();
        let mut named = LostNodes::default();
        let renewals = join_all((0..EVENT_LANES).map(|lane| self.outbox.renew(lane))).await;
        for (lane, renewal) in renewals.into_iter().enumerate() {
            match renewal {
                Ok(Renewal { is_known, lost }) => {
                    if !is_known {
                        self.lanes[lane].stores_again.get_or_insert(false);
                    }
                    if self.lanes[lane].note_renewal(is_known, interval, now) {
                        named[lane] = lost;
                    }
                }
                Err(error) => {
                    self.lanes[lane].steady_since = None;
                    log::debug!("could not renew the registration for events error={:?}", error.to_string());
                }
            }
        }
        let has_lost = |lost: &LostNodes| lost.iter().any(|nodes| !nodes.is_empty());
        if has_lost(&named) || has_lost(&lost.borrow()) {
            lost.send_replace(named);
        }
    }

    /// Has all sessions and channels stored again in the lanes in which that is due, before anything else that is reported. Earlier calls
    /// come first: while they fail, nothing is added.
    async fn store_again(&mut self) {
        let is_due = |lane: &LaneTransfer| lane.stores_again.is_some() && lane.calls.is_empty();
        if !self.lanes.iter().any(is_due) {
            return;
        }
        let open = self.reporter.open_state();
        for number in 0..EVENT_LANES {
            let lane = &mut self.lanes[number];
            if !is_due(lane) {
                continue;
            }
            let forgets_others = lane.stores_again.take() == Some(true);
            let forget = OutboxEntry { event: None, change: OutboxChange::ForgetSessions };
            let entries = Some(forget).filter(|_| forgets_others).into_iter();
            entries.chain(self.reporter.entries_of(&open, number)).for_each(|entry| lane.add(entry));
            // Many sessions take a while to encode.
            yield_now().await;
        }
    }

    fn log_dropped(&mut self) {
        if self.dropped_logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            let dropped = self.reporter.take_dropped();
            if dropped > 0 {
                self.dropped_logged_at = Some(Instant::now());
                log::error!(
                    "dropped events for the backend count={dropped} error=\"hooks.events.queue or hooks.events.outbox is reached\""
                );
            }
        }
    }
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::future::BoxFuture;
    use tokio::{sync::Notify, time::timeout};
    use uuid::Uuid;

    use super::*;
    use crate::{
        broker::{
            BrokerError,
            event_outbox::{Appended, EntryId, LostCursor, LostPage, OutboxPage},
        },
        clock::Clock,
        config::{Config, EventType, HookEndpoint},
        hooks::events::ReportedSession,
    };

    #[test]
    fn call_that_may_have_succeeded_without_an_answer_gets_no_further_entries() {
        let (mut lane, entry) = (LaneTransfer::default(), || OutboxEntry { event: None, change: OutboxChange::None });
        let sizes = |lane: &LaneTransfer| lane.calls.iter().map(Vec::len).collect::<Vec<_>>();
        lane.add(entry());
        lane.add(entry());
        assert_eq!(sizes(&lane), [2]);
        assert_eq!(lane.begin_first_call().map(|call| call.len()), Some(2));
        lane.add(entry());
        lane.add(entry());
        assert_eq!(sizes(&lane), [2, 2]);
        lane.end_first_call();
        lane.add(entry());
        assert_eq!((sizes(&lane), lane.succeeded), (vec![3], 1));
    }

    type Answer<T> = BoxFuture<'static, Result<T, BrokerError>>;

    /// An outbox whose other node is lost, and never taken over to the end.
    #[derive(Default)]
    struct StuckTakeover {
        begun: Notify,
        appended: Notify,
    }

    impl EventOutbox for StuckTakeover {
        fn append(&self, _: usize, _: EntryOwner, _: usize, _: Vec<OutboxEntry>) -> Answer<Appended> {
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

        fn lease_lost(&self, _: usize, _: &str) -> Answer<bool> {
            Box::pin(ready(Ok(true)))
        }

        fn read_lost(&self, _: usize, _: &str, _: LostCursor) -> Answer<LostPage> {
            self.begun.notify_one();
            Box::pin(pending())
        }

        fn forget_lost(&self, _: usize, _: &str) -> Answer<()> {
            unreachable!()
        }
    }

    #[actix_rt::test]
    async fn events_of_the_node_do_not_wait_for_the_takeover_of_another() {
        let mut config = Config::default().hooks;
        config.events.endpoint = HookEndpoint::parse("http://localhost/events").ok();
        config.events.types = vec![EventType::Connect];
        let (clock, metrics, outbox) = (Clock::default(), Arc::default(), Arc::new(StuckTakeover::default()));
        let reporter = EventReporter::from_config(&config, "node", &clock, &metrics).unwrap();
        let sender = EventSender::from_config(&config, outbox.clone(), &clock, &metrics).unwrap().unwrap();
        let transfer = Transfer::new(&config, reporter.clone(), outbox.clone(), Arc::new(sender));
        let (stop, stopping) = watch::channel(StopStage::Running);
        let running = actix_rt::spawn(transfer.run(stopping));
        let in_time = async |event: &Notify| timeout(Duration::from_secs(10), event.notified()).await.unwrap();
        in_time(&outbox.begun).await;
        let (user, address) = ("ann".into(), [127, 0, 0, 1].into());
        let (client, transport, protocol) = (Uuid::from_u128(1), "websocket", "json");
        reporter.session_opened(&ReportedSession { client, user: &user, transport, protocol, address });
        in_time(&outbox.appended).await;
        // Nor does the stop.
        stop.send_replace(StopStage::Transferring);
        timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
    }

    #[test]
    fn node_is_steady_after_three_intervals_of_renewals_without_a_break() {
        let (mut lane, start, interval) = (LaneTransfer::default(), Instant::now(), Duration::from_secs(5));
        let mut at =
            |seconds: u64, is_known| lane.note_renewal(is_known, interval, start + Duration::from_secs(seconds));
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
}
