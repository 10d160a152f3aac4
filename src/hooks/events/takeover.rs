//! Appends the events of lost nodes: in each lane one lost node at a time, while the events of the node itself go on. One node at a
//! time does it for a lost node and lane, by a lease; if it dies, another one goes on when the lease has ended.

use tokio::sync::watch;

use super::transfer::Transfer;
use crate::broker::{
    BrokerError,
    event_outbox::{EntryOwner, LostCursor, OutboxEntry},
};

/// The takeovers of a lane.
pub(super) struct Takeover<'a> {
    pub(super) transfer: &'a Transfer,
    pub(super) lane: usize,
}

impl Takeover<'_> {
    /// Runs until there are no more renewals. `lost` has the nodes that were lost at the last one; none while this node cannot know that.
    /// What could not be appended is tried again after the next renewal, here or on another node.
    pub(super) async fn run(&self, mut lost: watch::Receiver<Vec<String>>) {
        let lane = self.lane;
        while lost.changed().await.is_ok() {
            let named = lost.borrow_and_update().clone();
            for node in &named {
                match self.append_lost(node, &lost).await {
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

    /// Returns how many events were appended.
    async fn append_lost(&self, node: &str, lost: &watch::Receiver<Vec<String>>) -> Result<usize, BrokerError> {
        let Transfer { reporter, outbox, sender, max_waiting, .. } = self.transfer;
        let (mut count, mut cursor) = (0, Some(LostCursor::Sessions(0)));
        while let Some(from) = cursor {
            // After an outage of the broker nodes may only seem lost.
            let is_lost = lost.borrow().iter().any(|lost| lost == node);
            if !is_lost || !outbox.lease_lost(self.lane, node).await? {
                return Ok(count);
            }
            let page = outbox.read_lost(self.lane, node, from).await?;
            cursor = page.next;
            let sessions = page.sessions.iter();
            let sessions = sessions.filter_map(|(client, record)| reporter.entry_of_lost_session(*client, record));
            let channels = page.channels.into_iter().map(|channel| reporter.entry_of_lost_channel(channel));
            let entries: Vec<OutboxEntry> = sessions.chain(channels).collect();
            if entries.is_empty() {
                continue;
            }
            let owner = EntryOwner::LostNode(node.to_owned());
            let appended = outbox.append(self.lane, owner, *max_waiting, entries).await?;
            sender.note_queued(self.lane, appended.queued);
            count += appended.queued;
            if appended.dropped > 0 {
                // They are still stored for the lost node.
                return Ok(count);
            }
        }
        outbox.forget_lost(self.lane, node).await.map(|()| count)
    }
}
