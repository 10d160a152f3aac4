//! `channels`: which channels have subscribers, on all instances together.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Fault, Shared, failed, request::read_optional};
use crate::{broker::Question, channel::Pattern, protocol::ErrorCode};

/// How long instances may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Default, Deserialize)]
struct Request {
    pattern: Option<String>,
}

/// Their names and how many receive each.
#[derive(Serialize)]
pub(super) struct Channels {
    channels: BTreeMap<String, Channel>,
}

#[derive(Default, Serialize)]
struct Channel {
    num_clients: u64,
}

/// Those whose names match a pattern, or all.
pub(super) async fn channels(body: &Bytes, shared: &Shared) -> Result<Channels, Fault> {
    let Request { pattern } = read_optional(body)?;
    let pattern = Pattern::wildcard(pattern.as_deref().filter(|pattern| !pattern.is_empty()).unwrap_or("*"));
    let pattern = pattern.map_err(|_| ErrorCode::BadRequest)?;
    Ok(sum(&ask(Question::Channels, shared).await?, &pattern)?)
}

/// Asks all instances.
pub(super) async fn ask(question: Question, shared: &Shared) -> Result<Vec<Vec<u8>>, ErrorCode> {
    shared.broker.survey(question, DEADLINE).await.map_err(|error| {
        log::warn!("{question:?}: {error}");
        failed(&error)
    })
}

fn sum(answers: &[Vec<u8>], pattern: &Pattern) -> Result<Channels, ErrorCode> {
    let mut channels: BTreeMap<String, Channel> = BTreeMap::new();
    for answer in answers {
        let counts: BTreeMap<String, u64> = serde_json::from_slice(answer).map_err(|_| ErrorCode::Internal)?;
        for (name, count) in counts.into_iter().filter(|(name, _)| pattern.matches(name)) {
            channels.entry(name).or_default().num_clients += count;
        }
    }
    Ok(Channels { channels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_added_up() {
        let answers = [br#"{"a":1,"b":2}"#.to_vec(), br#"{"a":3}"#.to_vec()];
        let sum = sum(&answers, &Pattern::exact("a").unwrap()).unwrap();
        assert_eq!(sum.channels.len(), 1);
        assert_eq!(sum.channels["a"].num_clients, 4);
    }
}
