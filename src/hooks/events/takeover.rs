//! Appends the events of lost nodes: one task per node, one lost node and lane at a time, while the events of the node itself go on. One
//! node at a time does it for a lost node and lane, by a lease; if it dies, another one goes on when the lease has ended.

use std::sync::Arc;

use tokio::sync::watch;

use super::{reporter::EventReporter, sender::EventSender};
use crate::broker::{
    BrokerError,
    event_outbox::{EVENT_LANES, EntryOwner, EventOutbox, LostCursor, OutboxEntry},
};

/// For each lane the nodes that were lost at the last renewal; none while this node cannot know that.
pub(super) type LostNodes = [Vec<String>; EVENT_LANES];

/// The task.
pub(super) struct Takeover {
    pub(super) reporter: Arc<EventReporter>,
    pub(super) outbox: Arc<dyn EventOutbox>,
    pub(super) sender: Arc<EventSender>,
    /// Maximum events that wait in a lane.
    pub(super) max_waiting: usize,
}

impl Takeover {
    /// Runs until there are no more renewals. What could not be appended is tried again after the next renewal, here or on another node.
    pub(super) async fn run(self, mut lost: watch::Receiver<LostNodes>) {
        while lost.changed().await.is_ok() {
            let named = lost.borrow_and_update().clone();
            for (lane, nodes) in named.iter().enumerate() {
                for node in nodes {
                    match self.append_lost(lane, node, &lost).await {
                        Ok(0) => {}
                        Ok(count) => {
                            log::info!("took over the events of a lost node node={node:?} lane={lane} events={count}");
                        }
                        Err(error) => {
                            log::debug!("could not take over the events of a lost node error={:?}", error.to_string());
                        }
                    }
                }
            }
        }
    }

    /// Returns how many events were appended.
    async fn append_lost(
        &self,
        lane: usize,
        node: &str,
        lost: &watch::Receiver<LostNodes>,
    ) -> Result<usize, BrokerError> {
        let (mut count, mut cursor) = (0, Some(LostCursor::Sessions(0)));
        while let Some(from) = cursor {
            // After an outage of the broker nodes may only seem lost.
            let is_lost = lost.borrow()[lane].iter().any(|lost| lost == node);
            if !is_lost || !self.outbox.lease_lost(lane, node).await? {
                return Ok(count);
            }
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
}
