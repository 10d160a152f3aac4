//! Limits the pages of histories that the requests of a session hold: while the pages are read, and while those that were read
//! wait for the others.

use std::cell::Cell;

use tokio::sync::Semaphore;

use crate::{
    broker::{BrokerError, HistoryPage},
    publication::Publication,
};

/// Maximum pages that are read at the same time for one session. Each is at most as long as a recovery may be
/// (`HubLimits::page_bytes`).
const CONCURRENT_READS: usize = 4;

/// The pages of requests that are carried out side by side.
pub(super) struct PageBudget {
    turns: Semaphore,
    held_bytes: Cell<usize>,
    max_bytes: usize,
    bytes_of: fn(&Publication) -> usize,
}

impl PageBudget {
    /// Creates the budget of a group of requests, whose pages cost at most `max_bytes` together.
    pub(super) fn of_group(max_bytes: usize) -> Self {
        Self::new(max_bytes, Publication::cost_bytes)
    }

    /// Creates the budget of one request, whose reply has at most `reply_bytes`. So it has room for all pages that fit into the
    /// reply.
    pub(super) fn of_request(reply_bytes: usize) -> Self {
        Self::new(reply_bytes, |publication| publication.data.len() + publication.min_bytes_beside_data())
    }

    fn new(max_bytes: usize, bytes_of: fn(&Publication) -> usize) -> Self {
        Self { turns: Semaphore::new(CONCURRENT_READS), held_bytes: Cell::new(0), max_bytes, bytes_of }
    }

    /// Reads a page when it is its turn. Drops its publications if there is no room for them beside the other pages, unless it
    /// `is_first`; returns whether it has dropped them.
    pub(super) async fn read<Read>(
        &self,
        is_first: bool,
        read: impl FnOnce() -> Read,
    ) -> Result<(HistoryPage, bool), BrokerError>
    where
        Read: Future<Output = Result<HistoryPage, BrokerError>>,
    {
        // Never closed.
        let _turn = self.turns.acquire().await;
        let mut page = read().await?;
        let bytes = page.publications.iter().map(self.bytes_of).sum::<usize>();
        let is_dropped = bytes > 0 && !is_first && self.held_bytes.get() + bytes > self.max_bytes;
        if is_dropped {
            page.publications = Vec::new();
        } else {
            self.held_bytes.set(self.held_bytes.get() + bytes);
        }
        Ok((page, is_dropped))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::future::{join_all, ready};

    use super::*;
    use crate::{
        channel::Channel,
        position::{Epoch, Position},
        publication::ClientInfo,
        tags::Tags,
    };

    /// A page of one publication with so many bytes of data.
    fn page(bytes: usize) -> HistoryPage {
        let top = Position { offset: 1, epoch: Epoch::parse("AAAAAAAA").unwrap() };
        let publication = Publication::new(Channel::new("a").unwrap(), Bytes::from(vec![b'1'; bytes]));
        HistoryPage { publications: vec![publication], top, top_time: None }
    }

    /// Reads pages of so many bytes; returns which of them were dropped.
    async fn dropped(budget: &PageBudget, pages: &[usize]) -> Vec<bool> {
        let mut dropped = Vec::new();
        for (place, bytes) in pages.iter().enumerate() {
            let (page, is_dropped) = budget.read(place == 0, || ready(Ok(page(*bytes)))).await.unwrap();
            assert_eq!(page.publications.is_empty(), is_dropped);
            dropped.push(is_dropped);
        }
        dropped
    }

    #[tokio::test]
    async fn page_has_no_room_if_the_reply_could_not_have_it_beside_the_others_unless_it_is_the_first() {
        assert_eq!(dropped(&PageBudget::of_request(100), &[60, 60, 40, 1]).await, [false, true, false, true]);
        assert_eq!(dropped(&PageBudget::of_request(100), &[500, 1]).await, [false, true]);
    }

    #[tokio::test]
    async fn pages_of_a_request_count_with_tags_and_info_of_their_publications() {
        let mut tagged = page(1);
        tagged.publications[0].tags = Tags::new([("tag", "v".repeat(93))]).unwrap();
        let mut informed = page(1);
        let info = ClientInfo { user: "u".repeat(99), client: String::new(), conn_info: None, chan_info: None };
        informed.publications[0].info = Some(info.into());
        for page in [tagged, informed] {
            let budget = PageBudget::of_request(199);
            let read = async || budget.read(false, || ready(Ok(page.clone()))).await.unwrap().1;
            assert_eq!((read().await, read().await), (false, true));
        }
    }

    #[tokio::test]
    async fn pages_of_a_group_count_with_what_they_cost() {
        let cost = page(60).publications[0].cost_bytes();
        assert_eq!(dropped(&PageBudget::of_group(2 * cost), &[60, 60, 60]).await, [false, false, true]);
    }

    #[tokio::test]
    async fn read_that_fails_gives_its_turn_to_the_next() {
        let (budget, running) = (PageBudget::of_group(1000), Cell::new(0));
        let read = |_| {
            budget.read(false, async || {
                running.set(running.get() + 1);
                assert!(running.get() <= CONCURRENT_READS);
                tokio::task::yield_now().await;
                running.set(running.get() - 1);
                Err(BrokerError::Busy)
            })
        };
        let failed = join_all((0..20).map(read)).await;
        assert!(failed.iter().all(Result::is_err));
    }
}
