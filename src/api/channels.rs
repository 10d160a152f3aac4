//! `channels`: which channels have subscribers, on all instances together.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpResponse, web::Data};
use serde::{Deserialize, Serialize};

use super::{Answer, Shared, failed, key::Authorized, publish::read_optional};
use crate::{
    broker::Question,
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
    if pattern.len() > crate::channel::MAX_BYTES {
        return Ok(Answer::<Channels>::new(Err(ErrorCode::BadRequest), &shared.metrics).respond());
    }
    let result = shared.broker.survey(Question::Channels, DEADLINE).await.map_err(|error| {
        log::warn!("channels: {error}");
        failed(&error)
    });
    let result = result.and_then(|answers| sum(&answers, &pattern));
    Ok(Answer::new(result, &shared.metrics).respond())
}

fn sum(answers: &[Vec<u8>], pattern: &str) -> Result<Channels, ErrorCode> {
    let mut channels: BTreeMap<String, Channel> = BTreeMap::new();
    for answer in answers {
        let counts: BTreeMap<String, u64> = serde_json::from_slice(answer).map_err(|_| ErrorCode::Internal)?;
        for (name, count) in counts.into_iter().filter(|(name, _)| pattern.is_empty() || matches(pattern, name)) {
            channels.entry(name).or_default().num_clients += count;
        }
    }
    Ok(Channels { channels })
}

/// Whether `name` matches a pattern in which `*` stands for any text. Each star looks through the rest of the name at
/// most once, and both are short.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = pattern.contains('*').then(|| parts.next_back()).flatten() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("news", "news", true),
            ("news", "news2", false),
            ("*", "", true),
            ("*", "anything", true),
            ("news*", "news", true),
            ("*news", "old news", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("aa*aa", "aaa", false),
            ("*b*", "abc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn instances_are_added_up() {
        let answers = [br#"{"a":1,"b":2}"#.to_vec(), br#"{"a":3}"#.to_vec()];
        let sum = sum(&answers, "a").unwrap();
        assert_eq!(sum.channels.len(), 1);
        assert_eq!(sum.channels["a"].num_clients, 4);
    }
}
