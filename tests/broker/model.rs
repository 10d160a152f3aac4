//! Compares the histories of a broker with a model: a list of all publications that is searched for every request.

use std::time::Duration;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use wardcast::{
    broker::{HistoryRequest, Retention, SincePosition},
    position::Epoch,
};

use super::fixture::{Instance, channel, offsets};

const CASES: usize = 300;

#[derive(Clone, Debug)]
enum Call {
    Publish { size: usize, ttl_minutes: u64 },
    Read { since: Option<(u64, bool)>, limit: usize, is_reverse: bool },
    Remove,
    AdvanceClock { minutes: u64 },
}

fn call() -> impl Strategy<Value = Call> {
    let offset = prop_oneof![8 => 0..40_u64, 1 => Just(u64::MAX)];
    let limit = prop_oneof![4 => 0..12_usize, 1 => Just(usize::MAX)];
    prop_oneof![
        5 => (1..8_usize, 1..100_u64).prop_map(|(size, ttl_minutes)| Call::Publish { size, ttl_minutes }),
        4 => (prop::option::of((offset, any::<bool>())), limit, any::<bool>())
            .prop_map(|(since, limit, is_reverse)| Call::Read { since, limit, is_reverse }),
        1 => Just(Call::Remove),
        2 => (0..40_u64).prop_map(|minutes| Call::AdvanceClock { minutes }),
    ]
}

/// All publications of a channel, and which of them may still be read.
#[derive(Default)]
struct Model {
    /// Offset and time in minutes.
    kept: Vec<(u64, u64)>,
    top: u64,
    now: u64,
    retention: Option<(usize, u64)>,
}

impl Model {
    fn drop_expired(&mut self) {
        let Some((size, ttl)) = self.retention else { return };
        self.kept.retain(|(offset, at)| *offset + size as u64 > self.top && at + ttl > self.now);
    }

    fn read(&self, since: Option<u64>, limit: usize, is_reverse: bool) -> Vec<u64> {
        let all = self.kept.iter().map(|(offset, _)| *offset);
        if is_reverse {
            all.rev().filter(|offset| since.is_none_or(|since| *offset < since)).take(limit).collect()
        } else {
            all.filter(|offset| since.is_none_or(|since| *offset > since)).take(limit).collect()
        }
    }
}

fn retention((size, ttl_minutes): (usize, u64)) -> Retention {
    Retention { size, ttl: Duration::from_mins(ttl_minutes), meta_ttl: Duration::from_secs(1 << 30) }
}

pub async fn any_sequence_of_calls_matches_the_list_model(instance: Instance) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for case in 0..CASES {
        let calls = prop::collection::vec(call(), 1..60).new_tree(&mut runner).unwrap().current();
        run_calls(&instance, &format!("case{case}"), &calls).await;
    }
}

async fn run_calls(instance: &Instance, name: &str, calls: &[Call]) {
    let (mut model, mut epoch) = (Model::default(), None::<Epoch>);
    for call in calls {
        match *call {
            Call::Publish { size, ttl_minutes } => {
                model.retention = Some((size, ttl_minutes));
                model.top += 1;
                model.kept.push((model.top, model.now));
                let position = instance.store_with(name, &model.top.to_string(), retention((size, ttl_minutes))).await;
                assert_eq!(position.offset, model.top, "{calls:?}");
                assert_eq!(*epoch.get_or_insert(position.epoch), position.epoch, "{calls:?}");
            }
            Call::Read { since, limit, is_reverse } => {
                let known = since.map(|(offset, is_named)| SincePosition { offset, epoch: epoch.filter(|_| is_named) });
                let request = HistoryRequest { since: known, limit, is_reverse, max_bytes: None };
                let read_retention = retention(model.retention.unwrap_or((1, 1)));
                let history = instance.broker.read_history(channel(name), request, read_retention).await.unwrap();
                assert_eq!(*epoch.get_or_insert(history.top.epoch), history.top.epoch, "{calls:?}");
                model.drop_expired();
                let expected = model.read(since.map(|(offset, _)| offset), limit, is_reverse);
                let read: Vec<u64> = offsets(&history).into_iter().map(|(offset, _)| offset).collect();
                assert_eq!((read, history.top.offset), (expected, model.top), "{calls:?}");
            }
            Call::Remove => {
                instance.broker.remove_history(channel(name)).await.unwrap();
                model.kept.clear();
            }
            Call::AdvanceClock { minutes } => {
                instance.advance_clock(Duration::from_mins(minutes));
                model.now += minutes;
            }
        }
        model.drop_expired();
    }
}
