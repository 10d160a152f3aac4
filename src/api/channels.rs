//! `channels`: which channels have subscribers, on all instances together.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, web::Data};
use serde::{Deserialize, Serialize};

use super::{Answer, Shared, failed, key::Authorized, publish::read_optional};
use crate::{
    broker::Question,
    channel::Pattern,
    http::{Body, Failure},
    protocol::ErrorCode,
};

/// How long instances may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Default, Deserialize)]
struct Request {
    #[serde(default)]
    pattern: String,
}

#[derive(Serialize)]
struct Channels {
    channels: BTreeMap<String, Channel>,
}

#[derive(Default, Serialize)]
struct Channel {
    num_clients: u64,
}

/// `POST /api/channels`
pub(super) async fn channels(_: Authorized, Body(body): Body, shared: Data<Shared>) -> Result<HttpResponse, Failure> {
    let Request { pattern } = read_optional(&body)?;
    let Ok(pattern) = Pattern::wildcard(if pattern.is_empty() { "*" } else { &pattern }) else {
        return Ok(Answer::<Channels>::new(Err(ErrorCode::BadRequest), &shared.metrics).respond());
    };
    let result = shared.broker.survey(Question::Channels, DEADLINE).await.map_err(|error| {
        log::warn!("channels: {error}");
        failed(&error)
    });
    let result = result.and_then(|answers| sum(&answers, &pattern));
    Ok(Answer::new(result, &shared.metrics).respond())
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
