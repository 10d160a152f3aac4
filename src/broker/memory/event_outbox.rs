//! The outbox of events in the memory of the process. Events that were not sent are lost when the process ends.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use crate::broker::{
    BrokerFuture, completed,
    event_outbox::{
        Appended, EVENT_LANES, EntryId, EntryOwner, EventOutbox, LostCursor, LostPage, OutboxEntry, OutboxPage,
        RenewedRegistration, StoredSessions,
    },
};

/// The lanes.
#[derive(Default)]
pub(super) struct MemoryEventOutbox {
    lanes: [Mutex<Lane>; EVENT_LANES],
}

#[derive(Default)]
struct Lane {
    events: VecDeque<String>,
    /// The number of the first event.
    first: u64,
}

impl EventOutbox for MemoryEventOutbox {
    fn append(
        &self,
        lane: usize,
        _: EntryOwner,
        max_waiting: usize,
        entries: Vec<OutboxEntry>,
    ) -> BrokerFuture<Appended> {
        let mut lane = self.lanes[lane].lock();
        let mut appended = Appended::default();
        for event in entries.into_iter().filter_map(|entry| entry.event) {
            if lane.events.len() < max_waiting {
                lane.events.push_back(event);
                appended.queued += 1;
            } else {
                appended.dropped += 1;
            }
        }
        completed(Ok(appended))
    }

    fn read(&self, lane: usize, accepted: Option<EntryId>, max_events: usize, _: Duration) -> BrokerFuture<OutboxPage> {
        let mut lane = self.lanes[lane].lock();
        while accepted.is_some_and(|accepted| lane.first <= accepted.number) && lane.events.pop_front().is_some() {
            lane.first += 1;
        }
        let numbered = (lane.first..).zip(&lane.events).take(max_events);
        let events = numbered.map(|(number, event)| (EntryId { millis: 0, number }, event.clone())).collect();
        completed(Ok(OutboxPage { waiting: lane.events.len(), events: Some(events) }))
    }

    fn release(&self, _: usize) -> BrokerFuture<()> {
        completed(Ok(()))
    }

    fn renew_interval(&self) -> Option<Duration> {
        None
    }

    fn renew(&self, _: usize) -> BrokerFuture<RenewedRegistration> {
        completed(Ok(RenewedRegistration { is_known: true, lost: Vec::new() }))
    }

    fn read_stored(&self, _: usize, _: u64) -> BrokerFuture<StoredSessions> {
        completed(Ok(StoredSessions::default()))
    }

    fn lease_lost(&self, _: usize, _: &str) -> BrokerFuture<bool> {
        completed(Ok(true))
    }

    fn read_lost(&self, _: usize, _: &str, _: LostCursor) -> BrokerFuture<LostPage> {
        completed(Ok(LostPage::default()))
    }

    fn forget_lost(&self, _: usize, _: &str) -> BrokerFuture<()> {
        completed(Ok(()))
    }
}
