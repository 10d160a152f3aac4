//! Moves reports to the outbox in the broker. Each lane goes on by itself, because the lanes may be on different servers, and one that is
//! down must not hold up the others. A lane tries again until the broker has the reports. It also renews the registration of the node,
//! stores its sessions and channels again if the broker has lost them, and names the nodes that are lost to the
//! [`Takeover`](super::takeover::Takeover).
//!
//! A node takes another one for lost only after it has renewed its own registration without a break for as long as one lasts: after an
//! outage of the broker all registrations have expired, and each node needs a moment to renew its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    reporter::{EventReporter, TakenReports},
    sender::EventSender,
};
use crate::{
    broker::{
        BrokerError,
        event_outbox::{
            EVENT_LANES, EntryOwner, EventOutbox, LOST_INTERVALS, OutboxChange, OutboxEntry, RenewedRegistration,
            StoredSessions,
        },
    },
    config::HooksConfig,
    metrics::Metrics,
};

/// Maximum entries of one call. Redis is busy with them for about a millisecond.
const CALL_ENTRIES: usize = 256;
/// Pause after the broker has failed.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How often reports are encoded if that panics. Then they are dropped, so that the lane goes on.
const ENCODE_ATTEMPTS: u32 = 3;
/// Minimum time between two log lines about dropped events of a lane.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What all lanes share.
pub(super) struct Transfer {
    pub(super) reporter: Arc<EventReporter>,
    pub(super) outbox: Arc<dyn EventOutbox>,
    pub(super) sender: EventSender,
    pub(super) metrics: Arc<Metrics>,
    /// Maximum events that wait in a lane.
    pub(super) max_waiting: usize,
}

impl Transfer {
    pub(super) fn new(
        config: &HooksConfig,
        reporter: Arc<EventReporter>,
        outbox: Arc<dyn EventOutbox>,
        sender: EventSender,
        metrics: Arc<Metrics>,
    ) -> Self {
        let max_waiting = config.events.outbox.div_ceil(EVENT_LANES);
        Self { reporter, outbox, sender, metrics, max_waiting }
    }
}

/// The transfer of a lane.
pub(super) struct LaneTransfer<'a> {
    transfer: &'a Transfer,
    lane: usize,
    /// What the reporter has given away and no call has yet. Otherwise it would be lost if encoding it panics.
    taken: TakenReports,
    encode_attempts: u32,
    /// Calls that have to be made, in this order. Nothing is added to them: the first one may have succeeded without an answer.
    calls: VecDeque<Vec<OutboxEntry>>,
    /// The sessions and channels have to be stored again; `true` if the outbox has sessions that have ended.
    stores_again: Option<bool>,
    /// The number of calls that have succeeded.
    succeeded: u64,
    renewals: Renewals,
    next_renewal: Instant,
    /// The nodes that are lost.
    pub(super) lost: watch::Sender<Vec<String>>,
    dropped_logged_at: Option<Instant>,
}

/// The renewals of the registration in a lane.
#[derive(Default)]
struct Renewals {
    renewed_at: Option<Instant>,
    /// Since when the registration has been renewed without a break.
    steady_since: Option<Instant>,
}

impl Renewals {
    /// Notes a renewal. Returns whether the registration has been renewed for long enough without a break.
    fn note(&mut self, is_known: bool, interval: Duration, now: Instant) -> bool {
        let is_in_time = self.renewed_at.is_some_and(|at| now.duration_since(at) < interval * 2);
        self.renewed_at = Some(now);
        let since = self.steady_since.filter(|_| is_known && is_in_time).unwrap_or(now);
        self.steady_since = Some(since);
        now.duration_since(since) >= interval * LOST_INTERVALS
    }
}

impl<'a> LaneTransfer<'a> {
    pub(super) fn new(transfer: &'a Transfer, lane: usize) -> Self {
        Self {
            transfer,
            lane,
            taken: TakenReports::default(),
            encode_attempts: 0,
            calls: VecDeque::new(),
            stores_again: None,
            succeeded: 0,
            renewals: Renewals::default(),
            next_renewal: Instant::now(),
            lost: watch::Sender::default(),
            dropped_logged_at: None,
        }
    }

    /// Runs until everything is in the outbox once the server stops. If it panics, the caller calls it again: what was taken is encoded
    /// again, and the calls that wait are made with their numbers, so nothing is lost, appended twice, nor out of order.
    pub(super) async fn run(&mut self, stopping: &CancellationToken) {
        let (lane, reporter) = (self.lane, &self.transfer.reporter);
        let interval = self.transfer.outbox.renew_interval();
        loop {
            self.renew_if_due().await;
            if reporter.take_lost_sessions(lane) {
                self.stores_again = Some(true);
            }
            let is_stopping = stopping.is_cancelled();
            if is_stopping && interval.is_none() {
                reporter.vacate_at_once(lane);
            }
            // While earlier calls fail, everything else waits: reports in their queue, which has a limit.
            let mut has_failed = false;
            if self.calls.is_empty() {
                // After a panic, what was taken comes before what is stored again, which may say that the same sessions have ended.
                if self.taken.is_empty() {
                    has_failed |= !self.store_again().await;
                    self.taken = reporter.take(lane, CALL_ENTRIES);
                }
                self.add_taken().await;
            }
            has_failed |= !self.append().await;
            self.log_dropped();
            if has_failed {
                sleep(RETRY_DELAY).await;
            } else if !reporter.has_entries(lane) && self.stores_again.is_none() {
                if is_stopping {
                    return;
                }
                let vacated = reporter.next_vacated(lane).map(Instant::from_std);
                let wake = interval.map(|_| self.next_renewal).into_iter().chain(vacated).min();
                tokio::select! {
                    () = reporter.due(lane) => {}
                    () = wait_until(wake) => {}
                    () = stopping.cancelled() => {}
                }
            }
        }
    }

    /// Adds calls for what was taken.
    async fn add_taken(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let entries = if self.encode_attempts < ENCODE_ATTEMPTS {
            self.encode_attempts += 1;
            self.transfer.reporter.encode(&self.taken)
        } else {
            self.transfer.reporter.note_dropped(self.lane, self.taken.len());
            self.stores_again = Some(true);
            Vec::new()
        };
        self.encode_attempts = 0;
        self.taken = TakenReports::default();
        self.add(entries).await;
    }

    /// Adds calls for these entries. Many of them take a while to encode, so others run after each call.
    async fn add(&mut self, entries: impl IntoIterator<Item = OutboxEntry>) {
        let mut entries = entries.into_iter();
        loop {
            let call: Vec<OutboxEntry> = entries.by_ref().take(CALL_ENTRIES).collect();
            if call.is_empty() {
                return;
            }
            self.calls.push_back(call);
            yield_now().await;
        }
    }

    /// Makes the calls that wait. Returns whether all have succeeded.
    async fn append(&mut self) -> bool {
        let Transfer { reporter, outbox, sender, max_waiting, .. } = self.transfer;
        while let Some(entries) = self.calls.front().cloned() {
            self.renew_if_due().await;
            let owner = EntryOwner::ThisNode(self.succeeded + 1);
            match outbox.append(self.lane, owner, *max_waiting, entries).await {
                Ok(appended) => {
                    self.calls.pop_front();
                    self.succeeded += 1;
                    sender.note_queued(self.lane, appended.queued);
                    reporter.note_dropped(self.lane, appended.dropped);
                }
                Err(error) => {
                    log::debug!("events wait for the broker lane={} error={:?}", self.lane, error.to_string());
                    return false;
                }
            }
        }
        true
    }

    /// Renews the registration if it is time, and tells which other nodes are lost. Also between the calls of many sessions: other nodes
    /// would take one that stores them for lost.
    async fn renew_if_due(&mut self) {
        let now = Instant::now();
        let interval = self.transfer.outbox.renew_interval();
        let Some(interval) = interval.filter(|_| now >= self.next_renewal) else { return };
        self.next_renewal = now + interval;
        let named = match self.transfer.outbox.renew(self.lane).await {
            Ok(RenewedRegistration { is_known, lost }) => {
                if !is_known {
                    self.stores_again.get_or_insert(false);
                }
                if self.renewals.note(is_known, interval, now) { lost } else { Vec::new() }
            }
            Err(error) => {
                self.renewals.steady_since = None;
                let (lane, error) = (self.lane, error.to_string());
                log::debug!("could not renew the registration for events lane={lane} error={error:?}");
                Vec::new()
            }
        };
        if !named.is_empty() || !self.lost.borrow().is_empty() {
            self.lost.send_replace(named);
        }
    }

    /// Has all sessions and channels stored again if that is due, before anything else that is reported. What the outbox has stored stays
    /// there meanwhile, so that it is taken over if this node is killed; only sessions whose ends were dropped are removed. Returns
    /// whether the outbox could be asked for what it has.
    async fn store_again(&mut self) -> bool {
        let Some(has_ended_ones) = self.stores_again else { return true };
        let stored = if has_ended_ones { self.read_stored().await } else { Ok(Vec::new()) };
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                let (lane, error) = (self.lane, error.to_string());
                log::debug!("could not read the stored sessions lane={lane} error={error:?}");
                return false;
            }
        };
        let reporter = &self.transfer.reporter;
        let open = reporter.open_state(self.lane);
        self.add(reporter.entries_of(&open)).await;
        let kept = open.clients();
        let ended = stored.into_iter().filter(|client| !kept.contains(client));
        self.add(ended.map(|client| OutboxEntry { event: None, change: OutboxChange::EndSession(client) })).await;
        // Last: if encoding panics, all of it is stored again.
        self.stores_again = None;
        true
    }

    async fn read_stored(&mut self) -> Result<Vec<Uuid>, BrokerError> {
        let (mut stored, mut from) = (Vec::new(), Some(0));
        while let Some(start) = from {
            self.renew_if_due().await;
            let StoredSessions { clients, next } = self.transfer.outbox.read_stored(self.lane, start).await?;
            stored.extend(clients);
            from = next;
        }
        Ok(stored)
    }

    fn log_dropped(&mut self) {
        if self.dropped_logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            let (lane, dropped) = (self.lane, self.transfer.reporter.take_dropped(self.lane));
            if dropped > 0 {
                self.dropped_logged_at = Some(Instant::now());
                log::error!(
                    "dropped events for the backend lane={lane} count={dropped} \
                     error=\"hooks.events.queue or hooks.events.outbox is reached\""
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
mod tests;
