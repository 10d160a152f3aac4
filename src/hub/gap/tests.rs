//! Tests of the decisions about gaps that need only positions.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{channel::Channel, clock::WallTime, position::Epoch, publication::Publication};

fn epoch(text: &str) -> Epoch {
    Epoch::parse(text).unwrap()
}

fn top(offset: u64, time: impl Into<Option<i64>>) -> ChannelTop {
    let position = Position { offset, epoch: epoch("AAAAAAAA") };
    ChannelTop { position, time: time.into().map(WallTime::from_unix_millis) }
}

/// A page of publications, each as its offset and time.
fn page(publications: &[(u64, i64)], top_offset: u64) -> HistoryPage {
    let publication = |(offset, time): &(u64, i64)| Publication {
        position: Some(Position { offset: *offset, epoch: epoch("AAAAAAAA") }),
        time: WallTime::from_unix_millis(*time),
        ..Publication::new(Channel::new("news").unwrap(), Bytes::from_static(b"1"))
    };
    HistoryPage {
        publications: publications.iter().map(publication).collect(),
        top: top(top_offset, None).position,
        top_time: None,
    }
}

#[test]
fn comparison_finds_what_is_missing_here_and_what_the_broker_has_lost() {
    let (asked_at, here) = (top(5, 50), top(5, 50).position);
    let elsewhere = |offset| {
        let found = top(offset, 50);
        ChannelTop { position: Position { epoch: epoch("BBBBBBBB"), ..found.position }, ..found }
    };
    for (found, expected) in [
        (Some(top(5, 50)), Comparison::InStep),
        (Some(top(5, None)), Comparison::InStep),
        (Some(top(6, 60)), Comparison::Behind),
        (Some(top(4, 40)), Comparison::LostWrites),
        (Some(top(5, 51)), Comparison::LostWrites),
        (Some(elsewhere(5)), Comparison::NewHistory),
        (Some(elsewhere(1)), Comparison::NewHistory),
        (None, Comparison::NewHistory),
    ] {
        assert_eq!(compare(asked_at, here, found), expected, "{found:?}");
    }
    let later = top(7, None).position;
    assert_eq!(compare(asked_at, later, Some(top(6, 60))), Comparison::InStep, "received since the broker was asked");
    assert_eq!(compare(asked_at, later, Some(top(8, 80))), Comparison::Behind);
    assert_eq!(compare(asked_at, later, Some(top(4, 40))), Comparison::LostWrites);
    assert_eq!(compare(asked_at, elsewhere(1).position, Some(top(4, 40))), Comparison::InStep, "told already");
    assert_eq!(compare(top(0, 1), top(0, 1).position, Some(top(0, 2))), Comparison::InStep, "nothing to lose");
}

#[test]
fn page_follows_only_without_a_hole_and_after_the_same_publication() {
    let follows = |known, is_complete| PageVerdict::Follows { known, is_complete };
    for (last, publications, top_offset, expected) in [
        (top(5, 50), &[(5, 50), (6, 60), (7, 70)][..], 7, follows(1, true)),
        (top(5, None), &[(5, 51), (6, 60)], 6, follows(1, true)),
        (top(5, 50), &[(6, 60), (7, 70)], 7, follows(0, true)),
        (top(5, 50), &[(5, 50), (6, 60)], 7, follows(1, false)),
        (top(5, 50), &[(5, 50)], 5, follows(1, true)),
        (top(5, 50), &[], 5, follows(0, true)),
        (top(0, None), &[(1, 10)], 1, follows(0, true)),
        (top(5, 50), &[], 7, PageVerdict::Incomplete),
        (top(5, 50), &[(5, 50)], 7, PageVerdict::Incomplete),
        (top(5, 50), &[(7, 70)], 7, PageVerdict::Incomplete),
        (top(5, 50), &[(5, 50), (6, 60), (8, 80)], 8, PageVerdict::Incomplete),
        (top(5, 50), &[(5, 51), (6, 60)], 6, PageVerdict::LostWrites),
        (top(5, 50), &[(4, 40)], 4, PageVerdict::LostWrites),
    ] {
        assert_eq!(examine(last, 0, &page(publications, top_offset)), expected, "{publications:?} up to {top_offset}");
    }
    let announced = |offset| examine(top(5, 50), offset, &page(&[(5, 50), (6, 60)], 6));
    assert_eq!((announced(6), announced(7)), (follows(1, true), PageVerdict::LostWrites));
    let mut other = page(&[(6, 60)], 6);
    other.top.epoch = epoch("BBBBBBBB");
    assert_eq!(examine(top(5, 50), 0, &other), PageVerdict::NewHistory);
}

#[test]
fn broker_that_fails_has_ten_seconds_to_fill_a_gap() {
    let fill = GapFill::new(1, HeldBytes::new(1));
    let after = |seconds| std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    assert!(!fill.is_overdue(after(9)));
    assert!(fill.is_overdue(after(10)));
}

proptest! {
    #[test]
    fn pages_of_any_history_fill_it_completely_or_not_at_all(
        last in 0_u64..30,
        newest in 0_u64..30,
        oldest in 1_u64..30,
        removed in 0_u64..60,
        lost_after in 0_u64..60,
        limit in 2_usize..9,
    ) {
        // The publications after `lost_after` were made again, at another time, by another server.
        let time = |offset: u64, is_other: bool| offset as i64 * 10 + i64::from(is_other && offset > lost_after);
        let stored: Vec<(u64, i64)> =
            (oldest..=newest).filter(|offset| *offset != removed).map(|offset| (offset, time(offset, true))).collect();
        let (mut known, mut filled) = (top(last, time(last, false)), Vec::new());
        let verdict = loop {
            let from = known.position.offset.saturating_sub(1);
            let read: Vec<(u64, i64)> =
                stored.iter().filter(|(offset, _)| *offset > from).take(limit).copied().collect();
            match examine(known, 0, &page(&read, newest)) {
                PageVerdict::Follows { known: skipped, is_complete } => {
                    filled.extend_from_slice(&read[skipped..]);
                    if let Some((offset, time)) = filled.last() {
                        known = top(*offset, *time);
                    }
                    if is_complete {
                        break None;
                    }
                }
                other => break Some(other),
            }
        };
        let expected: Vec<u64> = (last + 1..=newest).collect();
        match verdict {
            None => prop_assert_eq!(filled.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), expected),
            Some(PageVerdict::LostWrites) => prop_assert!(newest < last || lost_after < last),
            Some(_) => prop_assert!(expected.iter().any(|offset| *offset < oldest || *offset == removed)),
        }
        let has_last = stored.iter().any(|(offset, _)| *offset == last);
        if last > lost_after && has_last {
            prop_assert!(matches!(verdict, Some(PageVerdict::LostWrites)));
        }
    }
}
