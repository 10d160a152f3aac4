//! The position up to which the publications of one channel were printed. Pure.

use super::messages::{Publication, Subscribed};

/// Maximum publications that are held while the history is read.
const MAX_HELD: usize = 10_000;

/// What has been printed of a channel.
#[derive(Default)]
pub(super) struct ChannelTail {
    epoch: String,
    /// The offset of the newest publication that was printed or is not wanted. `None` in a channel without history.
    offset: Option<u64>,
    has_started: bool,
    has_history: bool,
    /// The id of the command that reads the history.
    asked: Option<u32>,
    held: Vec<Publication>,
}

impl ChannelTail {
    /// Returns the position from which to recover: offset and epoch.
    pub(super) fn position(&self) -> Option<(u64, &str)> {
        self.offset.map(|offset| (offset, self.epoch.as_str()))
    }

    /// Begins, or goes on after a reconnect, with the result of subscribing. Returns whether publications are missing.
    pub(super) fn start(&mut self, subscribed: &Subscribed) -> bool {
        let is_missing = self.position().is_some() && !subscribed.recovered;
        if !self.has_started || is_missing {
            self.offset = subscribed.recoverable.then_some(subscribed.offset);
            self.epoch.clone_from(&subscribed.epoch);
        }
        self.has_started = true;
        // This connection does not answer what an older one was asked. What was held is recovered.
        self.asked = None;
        self.held.clear();
        is_missing
    }

    /// Returns whether the history has not been read yet.
    pub(super) fn wants_history(&self) -> bool {
        !self.has_history
    }

    /// Holds publications until the reply to this command has come.
    pub(super) fn hold_for_history(&mut self, id: u32) {
        self.asked = Some(id);
    }

    /// Returns whether the command with this id reads the history.
    pub(super) fn awaits_history(&self, id: u32) -> bool {
        self.asked == Some(id)
    }

    /// Ends the holding. Returns what has to be printed: the history, oldest first, and what was held and is not in it.
    pub(super) fn end_history(&mut self, page: Vec<Publication>) -> Vec<Publication> {
        (self.asked, self.has_history) = (None, true);
        let newest = page.last().and_then(|publication| publication.offset);
        self.offset = self.offset.map(|offset| offset.max(newest.unwrap_or_default()));
        let held = std::mem::take(&mut self.held);
        let mut printed = page;
        printed.extend(held.into_iter().filter_map(|publication| self.accept(publication)));
        printed
    }

    /// Returns a publication that has to be printed now: none that was printed, and none while the history is read.
    pub(super) fn accept(&mut self, publication: Publication) -> Option<Publication> {
        if self.asked.is_some() {
            if self.held.len() < MAX_HELD {
                self.held.push(publication);
            }
            return None;
        }
        let (Some(offset), Some(new)) = (&mut self.offset, publication.offset) else { return Some(publication) };
        if new <= *offset {
            return None;
        }
        *offset = new;
        Some(publication)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(offset: u64) -> Publication {
        serde_json::from_value(serde_json::json!({"data": offset, "offset": offset})).unwrap()
    }

    fn subscribed(offset: u64, recovered: bool) -> Subscribed {
        Subscribed { recoverable: true, recovered, offset, epoch: "e".to_owned(), publications: Vec::new() }
    }

    fn offsets(publications: Vec<Publication>) -> Vec<u64> {
        publications.into_iter().map(|publication| publication.offset.unwrap()).collect()
    }

    #[test]
    fn publications_that_arrive_while_the_history_is_read_come_after_it_and_once() {
        let mut tail = ChannelTail::default();
        assert!(!tail.start(&subscribed(5, false)));
        tail.hold_for_history(2);
        assert!(tail.accept(publication(6)).is_none() && tail.accept(publication(7)).is_none());
        assert!(tail.awaits_history(2) && !tail.awaits_history(3));
        let page = [4, 5, 6].map(publication).into_iter().collect();
        assert_eq!(offsets(tail.end_history(page)), [4, 5, 6, 7]);
        assert_eq!((tail.position(), tail.wants_history()), (Some((7, "e")), false));
        assert!(tail.accept(publication(7)).is_none() && tail.accept(publication(8)).is_some());
    }

    #[test]
    fn empty_history_keeps_the_position_of_the_subscription() {
        let mut tail = ChannelTail::default();
        tail.start(&subscribed(5, false));
        tail.hold_for_history(2);
        assert_eq!(offsets(tail.end_history(Vec::new())), [0; 0]);
        assert_eq!(tail.position(), Some((5, "e")));
    }

    #[test]
    fn failed_recovery_is_a_gap_and_a_successful_one_is_not() {
        let mut tail = ChannelTail::default();
        tail.start(&subscribed(5, false));
        assert!(tail.accept(publication(6)).is_some());
        assert!(!tail.start(&subscribed(6, true)));
        assert_eq!(tail.position(), Some((6, "e")));
        assert!(tail.start(&subscribed(90, false)));
        assert_eq!(tail.position(), Some((90, "e")));
    }

    #[test]
    fn history_is_asked_for_again_if_the_connection_was_lost_before_its_reply() {
        let mut tail = ChannelTail::default();
        tail.start(&subscribed(5, false));
        tail.hold_for_history(2);
        assert!(tail.accept(publication(6)).is_none());
        tail.start(&subscribed(5, true));
        assert!(tail.wants_history() && !tail.awaits_history(2));
        assert!(tail.accept(publication(6)).is_some(), "it was recovered");
    }
}
