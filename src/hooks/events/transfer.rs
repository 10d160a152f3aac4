//! Moves what is reported to the outbox in the broker: one task per node, which tries again until the broker has it. It also renews the
//! registration of the node, stores its sessions and channels again if the broker has lost them, and appends the events of
//! nodes that are lost.
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

use super::{StopStage, reporter::EventReporter, sender::EventSender};
use crate::{
    broker::{
        BrokerError,
        event_outbox::{EVENT_LANES, EntryOwner, EventOutbox, LostCursor, OutboxChange, OutboxEntry, Renewal},
    },
    config::HooksConfig,
};

/// Maximum entries of one call. Redis is busy with them for about a millisecond.
const CALL_ENTRIES: usize = 256;
/// Entries that are taken from the reporter at once, about. As many wait here while the broker fails.
const TAKEN_ENTRIES: usize = 2048;
/// Pause after the broker has failed.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// A registration lasts for so many intervals.
const STEADY_INTERVALS: u32 = 3;
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
        now.duration_since(since) >= interval * STEADY_INTERVALS
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
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<StopStage>) {
        let interval = self.outbox.renew_interval();
        let mut renewal = Instant::now();
        loop {
            if let Some(interval) = interval.filter(|_| Instant::now() >= renewal) {
                renewal = Instant::now() + interval;
                self.renew(interval).await;
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
                let append = outbox.append(number, owner, max_waiting, lane.calls.front()?.clone());
                lane.is_first_made = true;
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

    /// Renews the registration in all lanes.
    async fn renew(&mut self, interval: Duration) {
        let now = Instant::now();
        let renewals = join_all((0..EVENT_LANES).map(|lane| self.outbox.renew(lane))).await;
        for (lane, renewal) in renewals.into_iter().enumerate() {
            match renewal {
                Ok(Renewal { is_known, lost }) => {
                    if !is_known {
                        self.lanes[lane].stores_again.get_or_insert(false);
                    }
                    if self.lanes[lane].note_renewal(is_known, interval, now) {
                        for node in lost {
                            self.take_over(lane, &node).await;
                        }
                    }
                }
                Err(error) => {
                    self.lanes[lane].steady_since = None;
                    log::debug!("could not renew the registration for events error={:?}", error.to_string());
                }
            }
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

    /// Appends the events of a lost node. What could not be appended is tried again at the next renewal, here or on another node.
    async fn take_over(&self, lane: usize, node: &str) {
        match self.append_lost(lane, node).await {
            Ok(0) => {}
            Ok(count) => log::info!("took over the events of a lost node node={node:?} lane={lane} events={count}"),
            Err(error) => {
                log::debug!("could not take over the events of a lost node error={:?}", error.to_string());
            }
        }
    }

    async fn append_lost(&self, lane: usize, node: &str) -> Result<usize, BrokerError> {
        let (mut count, mut cursor) = (0, Some(LostCursor::Sessions(0)));
        while let Some(from) = cursor {
            let page = self.outbox.read_lost(lane, node, from).await?;
            cursor = page.next;
            let sessions = page.sessions.iter();
            let sessions = sessions.filter_map(|(client, record)| self.reporter.entry_of_lost_session(*client, record));
            let channels = page.channels.into_iter().map(|channel| self.reporter.entry_of_lost_channel(channel));
            let entries: Vec<OutboxEntry> = sessions.chain(channels).collect();
            if entries.is_empty() {
                continue;
            }
            let owner = EntryOwner::LostNode(node.to_owned());
            let appended = self.outbox.append(lane, owner, self.max_waiting, entries).await?;
            self.sender.note_queued(lane, appended.queued);
            count += appended.queued;
            if appended.dropped > 0 {
                // They are still stored for the lost node.
                return Ok(count);
            }
        }
        self.outbox.forget_lost(lane, node).await.map(|()| count)
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
    use super::*;

    #[test]
    fn call_that_may_have_succeeded_without_an_answer_gets_no_further_entries() {
        let (mut lane, entry) = (LaneTransfer::default(), || OutboxEntry { event: None, change: OutboxChange::None });
        let sizes = |lane: &LaneTransfer| lane.calls.iter().map(Vec::len).collect::<Vec<_>>();
        lane.add(entry());
        lane.add(entry());
        assert_eq!(sizes(&lane), [2]);
        lane.is_first_made = true;
        lane.add(entry());
        lane.add(entry());
        assert_eq!(sizes(&lane), [2, 2]);
        lane.end_first_call();
        lane.add(entry());
        assert_eq!((sizes(&lane), lane.succeeded), (vec![3], 1));
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
