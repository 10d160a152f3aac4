//! Tests of recovery against a model: in whatever order events happen, each client receives every publication once and in
//! order.

use proptest::prelude::*;

use super::*;
use crate::{
    clock::WallTime,
    hub::subscription::{ChannelState, PositionCheck},
    position::Epoch,
};

fn epoch() -> Epoch {
    Epoch::parse("AAAAAAAA").unwrap()
}

fn other() -> Epoch {
    Epoch::parse("BBBBBBBB").unwrap()
}

fn at(offset: u64) -> Position {
    Position { offset, epoch: epoch() }
}

fn since(offset: u64) -> RecoveryRequest {
    RecoveryRequest { offset, epoch: RequestedEpoch::Exactly(epoch()), mode: RecoveryMode::Stream, required: false }
}

fn cache(offset: u64) -> RecoveryRequest {
    RecoveryRequest { mode: RecoveryMode::Cache, ..since(offset) }
}

fn positions(offsets: &[u64]) -> Vec<Position> {
    offsets.iter().map(|offset| at(*offset)).collect()
}

fn merge_result(
    recover: RecoveryRequest,
    position: Option<u64>,
    buffered: &[u64],
    read: &[u64],
    top: u64,
) -> Result<StartPosition, ReadAgain> {
    let buffered = positions(buffered);
    let local = LocalState { position: position.map(at), newest: buffered.last().copied(), buffered: &buffered };
    merge(Some(&recover), local, HistoryRead { offsets: read, top: at(top) }, 5)
}

/// The offsets that the client gets, the offset of the channel on the hub, and the offset up to which live publications are
/// skipped; `None` without recovery.
fn recovered(
    recover: RecoveryRequest,
    position: Option<u64>,
    buffered: &[u64],
    read: &[u64],
    top: u64,
) -> Option<(Vec<u64>, u64, u64)> {
    match merge_result(recover, position, buffered, read, top) {
        Ok(start) if start.is_recovered => {
            let offsets = read[start.from_history].iter().chain(&buffered[start.from_buffer]).copied().collect();
            Some((offsets, start.at.offset, start.skip_up_to))
        }
        _ => None,
    }
}

#[test]
fn missed_publications_come_from_history_and_catch_up_buffer() {
    // There is no other subscriber: what was delivered meanwhile follows what was read.
    assert_eq!(recovered(since(3), None, &[], &[4, 5], 5), Some((vec![4, 5], 5, 0)));
    assert_eq!(recovered(since(3), None, &[4, 5, 6], &[4, 5], 5), Some((vec![4, 5, 6], 6, 0)));
    assert_eq!(recovered(since(3), None, &[4], &[4, 5], 5), Some((vec![4, 5], 5, 0)));
    // The history is ahead of the hub: the rest will be delivered.
    assert_eq!(recovered(since(3), Some(4), &[], &[4, 5], 5), Some((vec![4], 4, 0)));
    // The history is behind the hub.
    assert_eq!(recovered(since(3), Some(7), &[6, 7], &[4, 5], 5), Some((vec![4, 5, 6, 7], 7, 0)));
    // The client is ahead of the hub: it was connected to another.
    assert_eq!(recovered(since(5), Some(3), &[], &[], 5), Some((vec![], 3, 5)));
    assert_eq!(recovered(since(4), Some(3), &[], &[5], 5), Some((vec![], 3, 4)));
    assert_eq!(recovered(since(5), Some(5), &[], &[], 5), Some((vec![], 5, 0)));
    assert_eq!(recovered(since(6), Some(7), &[6, 7], &[], 5), Some((vec![7], 7, 0)));
}

#[test]
fn incomplete_history_is_not_recovered() {
    for (recover, position, read, top) in [
        // Trimmed; more than the limit; after the top; as far after it as possible.
        (since(3), None, &[5, 6][..], 6),
        (since(3), None, &[], 4),
        (since(0), None, &[1, 2, 3, 4, 5], 6),
        (since(7), None, &[], 6),
        (since(u64::MAX), None, &[], 6),
        (since(u64::MAX), Some(6), &[], 6),
        (RecoveryRequest { epoch: RequestedEpoch::Exactly(other()), ..since(3) }, None, &[4], 4),
        (RecoveryRequest { epoch: RequestedEpoch::Invalid, ..since(3) }, None, &[4], 4),
    ] {
        let failed = merge_result(recover, position, &[], read, top);
        assert_eq!(failed, Ok(StartPosition::at(at(position.unwrap_or(top)))), "{recover:?}");
    }
    let any = RecoveryRequest { epoch: RequestedEpoch::Any, ..since(3) };
    assert_eq!(recovered(any, None, &[], &[4], 4), Some((vec![4], 4, 0)));
}

#[test]
fn publication_in_neither_history_nor_buffer_causes_another_read() {
    // 6 was delivered and not stored, since the buffer was full or there was a gap; or the epochs differ.
    assert_eq!(merge_result(since(3), Some(7), &[7], &[4, 5], 5), Err(ReadAgain));
    assert_eq!(merge_result(since(3), Some(7), &[], &[4, 5], 5), Err(ReadAgain));
    assert_eq!(merge_result(cache(3), Some(7), &[], &[5], 5), Err(ReadAgain));
    let elsewhere = LocalState { position: Some(Position { offset: 5, epoch: other() }), newest: None, buffered: &[] };
    assert_eq!(merge(None, elsewhere, HistoryRead { offsets: &[], top: at(5) }, 5), Err(ReadAgain));
}

#[test]
fn cache_mode_recovers_only_the_newest_publication() {
    assert_eq!(recovered(cache(1), None, &[], &[5], 5), Some((vec![5], 5, 0)));
    assert_eq!(recovered(cache(1), Some(3), &[], &[5], 5), Some((vec![5], 3, 5)));
    assert_eq!(recovered(cache(1), Some(6), &[6], &[5], 5), Some((vec![6], 6, 0)));
    assert_eq!(recovered(cache(5), Some(5), &[], &[5], 5), Some((vec![], 5, 0)));
    assert_eq!(recovered(cache(u64::MAX), None, &[], &[5], 5), Some((vec![5], 5, 0)));
    assert_eq!(recovered(cache(1), None, &[], &[], 5), None, "the history does not keep it any more");
}

#[test]
fn history_is_read_only_if_publications_may_be_missing() {
    assert!(needs_history(None, None));
    assert!(!needs_history(Some(at(5)), None));
    assert!(!needs_history(Some(at(5)), Some(&since(5))));
    assert!(needs_history(Some(at(5)), Some(&since(4))));
    assert!(needs_history(Some(at(5)), Some(&since(6))));
    assert!(needs_history(Some(at(5)), Some(&cache(5))));
    assert!(needs_history(Some(at(5)), Some(&RecoveryRequest { epoch: RequestedEpoch::Any, ..since(5) })));
}

const CLIENTS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    /// The hub takes the next publication from its queue.
    Deliver,
    Ask(usize),
    Read(usize),
    Begin(usize),
    Leave(usize),
    /// The client is connected to another hub for a while, which is ahead of this one.
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

/// One client, and the offset up to which it has received everything.
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
    /// The history was read: the offsets after `has`, and the top.
    Holding(Vec<u64>, u64),
    Live {
        skip_up_to: u64,
    },
}

#[derive(Default)]
struct Model {
    published: u64,
    delivered: u64,
    state: ChannelState,
    buffered: Vec<Position>,
    readers: Vec<Reader>,
}

impl Model {
    fn take(&mut self, client: usize, offset: u64) {
        let reader = &mut self.readers[client];
        assert_eq!(offset, reader.has + 1, "a gap or a duplicate for {client}");
        reader.has = offset;
    }

    fn deliver(&mut self) {
        if self.delivered == self.published {
            return;
        }
        self.delivered += 1;
        let offset = self.delivered;
        if self.readers.iter().any(|reader| matches!(reader.state, State::Asking | State::Holding(..))) {
            self.buffered.push(at(offset));
        }
        let is_heard = self.readers.iter().any(|reader| matches!(reader.state, State::Live { .. }));
        if !is_heard {
            return;
        }
        match self.state.advance(Some(at(offset)), WallTime::default()) {
            PositionCheck::Next => {
                for client in 0..CLIENTS {
                    if matches!(self.readers[client].state, State::Live { skip_up_to } if offset > skip_up_to) {
                        self.take(client, offset);
                    }
                }
            }
            PositionCheck::Duplicate => {}
            PositionCheck::Gap | PositionCheck::Waits | PositionCheck::Unpositioned => panic!("the queue has no gaps"),
        }
    }

    fn begin(&mut self, client: usize) {
        let State::Holding(offsets, top) = self.readers[client].state.clone() else { return };
        let local = LocalState {
            position: self.state.position,
            newest: self.buffered.last().copied(),
            buffered: &self.buffered,
        };
        let recover = since(self.readers[client].has);
        match merge(Some(&recover), local, HistoryRead { offsets: &offsets, top: at(top) }, 1000) {
            Err(ReadAgain) => self.readers[client].state = State::Asking,
            Ok(start) => {
                assert!(
                    start.is_recovered,
                    "{recover:?} {offsets:?} {top} {:?} {:?}",
                    self.state.position, self.buffered
                );
                let buffered = self.buffered[start.from_buffer].iter().map(|position| position.offset);
                for offset in offsets[start.from_history].iter().copied().chain(buffered).collect::<Vec<_>>() {
                    self.take(client, offset);
                }
                self.state.position = Some(start.at);
                self.readers[client].state = State::Live { skip_up_to: start.skip_up_to };
            }
        }
        self.forget();
    }

    /// Drops what the hub drops: stored deliveries when no subscription waits, the state without a subscriber.
    fn forget(&mut self) {
        if !self.readers.iter().any(|reader| matches!(reader.state, State::Asking | State::Holding(..))) {
            self.buffered.clear();
        }
        if !self.readers.iter().any(|reader| matches!(reader.state, State::Live { .. })) {
            self.state = ChannelState::default();
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

/// Any offset, and often one at which arithmetic overflows.
fn any_offset() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..4_u64, (0..4_u64).prop_map(|below| u64::MAX - below)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn each_client_receives_every_publication_once_and_in_order(steps in proptest::collection::vec(step(), 0..120)) {
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
    fn merge_does_not_panic_for_any_input(
        offset in any_offset(), position in proptest::option::of(any_offset()), buffered in proptest::collection::vec(any_offset(), 0..4),
        read in proptest::collection::vec(any_offset(), 0..4), top in any_offset(), is_cache in any::<bool>(),
    ) {
        let recover = if is_cache { cache(offset) } else { since(offset) };
        let _ = merge_result(recover, position, &buffered, &read, top);
    }
}
