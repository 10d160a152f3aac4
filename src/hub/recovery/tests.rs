//! Recovery against a model: whatever meets whatever, each client sees every publication once and in order.

use proptest::prelude::*;

use super::*;
use crate::{
    hub::track::{Track, Verdict},
    position::Epoch,
};

fn epoch() -> Epoch {
    Epoch::read("AAAAAAAA").unwrap()
}

fn other() -> Epoch {
    Epoch::read("BBBBBBBB").unwrap()
}

fn at(offset: u64) -> Position {
    Position { offset, epoch: epoch() }
}

fn since(offset: u64) -> Recover {
    Recover { offset, epoch: Claimed::Is(epoch()), mode: RecoveryMode::Stream, or_nothing: false }
}

fn cache(offset: u64) -> Recover {
    Recover { mode: RecoveryMode::Cache, ..since(offset) }
}

fn places(offsets: &[u64]) -> Vec<Position> {
    offsets.iter().map(|offset| at(*offset)).collect()
}

fn merged(recover: Recover, here: Option<u64>, kept: &[u64], read: &[u64], top: u64) -> Merged {
    let kept = places(kept);
    let seen = Seen { here: here.map(at), kept: &kept };
    merge(Some(&recover), seen, Read { offsets: read, top: at(top) }, 5)
}

/// Which offsets the client gets, where the channel stands, and from where on it receives.
fn gets(recover: Recover, here: Option<u64>, kept: &[u64], read: &[u64], top: u64) -> Option<(Vec<u64>, u64, u64)> {
    match merged(recover, here, kept, read, top) {
        Merged::Begins(beginning) if beginning.is_recovered => {
            let offsets = read[beginning.read].iter().chain(&kept[beginning.kept]).copied().collect();
            Some((offsets, beginning.at.offset, beginning.after))
        }
        _ => None,
    }
}

#[test]
fn what_was_missed_comes_from_the_history_and_what_was_kept() {
    // Nobody else was here; what was delivered meanwhile follows what was read.
    assert_eq!(gets(since(3), None, &[], &[4, 5], 5), Some((vec![4, 5], 5, 0)));
    assert_eq!(gets(since(3), None, &[4, 5, 6], &[4, 5], 5), Some((vec![4, 5, 6], 6, 0)));
    assert_eq!(gets(since(3), None, &[4], &[4, 5], 5), Some((vec![4, 5], 5, 0)));
    // The history is ahead of the hub: the rest comes live.
    assert_eq!(gets(since(3), Some(4), &[], &[4, 5], 5), Some((vec![4], 4, 0)));
    // It is behind.
    assert_eq!(gets(since(3), Some(7), &[6, 7], &[4, 5], 5), Some((vec![4, 5, 6, 7], 7, 0)));
    // The client is ahead of the hub: it has been elsewhere.
    assert_eq!(gets(since(5), Some(3), &[], &[], 5), Some((vec![], 3, 5)));
    assert_eq!(gets(since(4), Some(3), &[], &[5], 5), Some((vec![], 3, 4)));
    assert_eq!(gets(since(5), Some(5), &[], &[], 5), Some((vec![], 5, 0)));
    assert_eq!(gets(since(6), Some(7), &[6, 7], &[], 5), Some((vec![7], 7, 0)));
}

#[test]
fn what_cannot_be_had_whole_is_not_recovered() {
    for (recover, here, read, top) in [
        // Trimmed, more than the limit, beyond the top, as far beyond as it goes.
        (since(3), None, &[5, 6][..], 6),
        (since(3), None, &[], 4),
        (since(0), None, &[1, 2, 3, 4, 5], 6),
        (since(7), None, &[], 6),
        (since(u64::MAX), None, &[], 6),
        (since(u64::MAX), Some(6), &[], 6),
        (Recover { epoch: Claimed::Is(other()), ..since(3) }, None, &[4], 4),
        (Recover { epoch: Claimed::Unknown, ..since(3) }, None, &[4], 4),
    ] {
        let failed = merged(recover, here, &[], read, top);
        assert_eq!(failed, Merged::Begins(Beginning::at(at(here.unwrap_or(top)))), "{recover:?}");
    }
    let any = Recover { epoch: Claimed::Any, ..since(3) };
    assert_eq!(gets(any, None, &[], &[4], 4), Some((vec![4], 4, 0)));
}

#[test]
fn what_is_in_neither_is_read_again() {
    // 6 was delivered and not kept (the list was full, or a gap was there), or the two speak of different histories.
    assert_eq!(merged(since(3), Some(7), &[7], &[4, 5], 5), Merged::Again);
    assert_eq!(merged(since(3), Some(7), &[], &[4, 5], 5), Merged::Again);
    assert_eq!(merged(cache(3), Some(7), &[], &[5], 5), Merged::Again);
    let elsewhere = Seen { here: Some(Position { offset: 5, epoch: other() }), kept: &[] };
    assert_eq!(merge(None, elsewhere, Read { offsets: &[], top: at(5) }, 5), Merged::Again);
}

#[test]
fn in_cache_mode_the_newest_is_enough() {
    assert_eq!(gets(cache(1), None, &[], &[5], 5), Some((vec![5], 5, 0)));
    assert_eq!(gets(cache(1), Some(3), &[], &[5], 5), Some((vec![5], 3, 5)));
    assert_eq!(gets(cache(1), Some(6), &[6], &[5], 5), Some((vec![6], 6, 0)));
    assert_eq!(gets(cache(5), Some(5), &[], &[5], 5), Some((vec![], 5, 0)));
    assert_eq!(gets(cache(u64::MAX), None, &[], &[5], 5), Some((vec![5], 5, 0)));
    assert_eq!(gets(cache(1), None, &[], &[], 5), None, "it is not there any more");
}

#[test]
fn a_history_is_read_only_where_something_may_be_missing() {
    assert!(wants_history(None, None));
    assert!(!wants_history(Some(at(5)), None));
    assert!(!wants_history(Some(at(5)), Some(&since(5))));
    assert!(wants_history(Some(at(5)), Some(&since(4))));
    assert!(wants_history(Some(at(5)), Some(&since(6))));
    assert!(wants_history(Some(at(5)), Some(&cache(5))));
    assert!(wants_history(Some(at(5)), Some(&Recover { epoch: Claimed::Any, ..since(5) })));
}

const CLIENTS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    /// The hub takes the next from its queue.
    Deliver,
    Ask(usize),
    Read(usize),
    Begin(usize),
    Leave(usize),
    /// Another hub, which is faster, serves the client for a while.
    Elsewhere(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        4 => Just(Step::Publish),
        4 => Just(Step::Deliver),
        2 => client.clone().prop_map(Step::Ask),
        2 => client.clone().prop_map(Step::Read),
        2 => client.clone().prop_map(Step::Begin),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.prop_map(Step::Elsewhere),
    ]
}

/// One client, and what it has received: it may begin anywhere and then misses nothing.
#[derive(Clone, Debug, Default)]
struct Reader {
    has: u64,
    state: State,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum State {
    #[default]
    Away,
    Asking,
    /// It was read: offsets since `has`, and the top.
    Holding(Vec<u64>, u64),
    Live {
        after: u64,
    },
}

#[derive(Default)]
struct Model {
    published: u64,
    delivered: u64,
    track: Track,
    kept: Vec<Position>,
    readers: Vec<Reader>,
}

impl Model {
    fn take(&mut self, client: usize, offset: u64) {
        let reader = &mut self.readers[client];
        assert_eq!(offset, reader.has + 1, "a gap or a repetition for {client}");
        reader.has = offset;
    }

    fn deliver(&mut self) {
        if self.delivered == self.published {
            return;
        }
        self.delivered += 1;
        let offset = self.delivered;
        if self.readers.iter().any(|reader| matches!(reader.state, State::Asking | State::Holding(..))) {
            self.kept.push(at(offset));
        }
        let is_heard = self.readers.iter().any(|reader| matches!(reader.state, State::Live { .. }));
        if !is_heard {
            return;
        }
        match self.track.take(Some(at(offset))) {
            Verdict::Follows => {
                for client in 0..CLIENTS {
                    if matches!(self.readers[client].state, State::Live { after } if offset > after) {
                        self.take(client, offset);
                    }
                }
            }
            Verdict::Repetition => {}
            Verdict::Gap | Verdict::Unplaced => panic!("the queue has no gaps"),
        }
    }

    fn begin(&mut self, client: usize) {
        let State::Holding(offsets, top) = self.readers[client].state.clone() else { return };
        let seen = Seen { here: self.track.position, kept: &self.kept };
        let recover = since(self.readers[client].has);
        match merge(Some(&recover), seen, Read { offsets: &offsets, top: at(top) }, 1000) {
            Merged::Again => self.readers[client].state = State::Asking,
            Merged::Begins(beginning) => {
                assert!(
                    beginning.is_recovered,
                    "{recover:?} {offsets:?} {top} {:?} {:?}",
                    self.track.position, self.kept
                );
                let kept = self.kept[beginning.kept].iter().map(|position| position.offset);
                for offset in offsets[beginning.read].iter().copied().chain(kept).collect::<Vec<_>>() {
                    self.take(client, offset);
                }
                self.track.position = Some(beginning.at);
                self.readers[client].state = State::Live { after: beginning.after };
            }
        }
        self.forget();
    }

    /// What the hub forgets when nobody joins, and when nobody listens.
    fn forget(&mut self) {
        if !self.readers.iter().any(|reader| matches!(reader.state, State::Asking | State::Holding(..))) {
            self.kept.clear();
        }
        if !self.readers.iter().any(|reader| matches!(reader.state, State::Live { .. })) {
            self.track = Track::default();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish => self.published += 1,
            Step::Deliver => self.deliver(),
            Step::Ask(client) if self.readers[client].state == State::Away => {
                self.readers[client].state = State::Asking;
            }
            Step::Read(client) if self.readers[client].state == State::Asking => {
                let offsets = (self.readers[client].has + 1..=self.published).collect();
                self.readers[client].state = State::Holding(offsets, self.published);
            }
            Step::Begin(client) => self.begin(client),
            Step::Leave(client) => {
                self.readers[client].state = State::Away;
                self.forget();
            }
            Step::Elsewhere(client) if self.readers[client].state == State::Away => {
                self.readers[client].has = self.published;
            }
            Step::Ask(_) | Step::Read(_) | Step::Elsewhere(_) => {}
        }
    }
}

/// Any offset, and often one of those where arithmetic ends.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..4_u64, (0..4_u64).prop_map(|below| u64::MAX - below)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn each_client_sees_every_publication_once_and_in_order(steps in proptest::collection::vec(step(), 0..120)) {
        let mut model = Model { readers: vec![Reader::default(); CLIENTS], ..Model::default() };
        steps.into_iter().for_each(|step| model.step(step));
        for _ in 0..=model.published {
            model.deliver();
        }
        for reader in &model.readers {
            let is_live = matches!(reader.state, State::Live { .. });
            prop_assert!(!is_live || reader.has == model.published);
        }
    }

    #[test]
    fn nothing_panics_whatever_is_said(
        offset in place(), here in proptest::option::of(place()), kept in proptest::collection::vec(place(), 0..4),
        read in proptest::collection::vec(place(), 0..4), top in place(), is_cache in any::<bool>(),
    ) {
        let recover = if is_cache { cache(offset) } else { since(offset) };
        let _ = merged(recover, here, &kept, &read, top);
    }
}
