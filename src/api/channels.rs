//! `channels`: which channels have subscribers, on all instances together.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ApiContext, ApiError, request::parse_optional_object};
use crate::{broker::SurveyQuestion, channel::Pattern, protocol::ErrorCode};

/// How long instances may take to answer.
const SURVEY_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Default, Deserialize)]
struct ChannelsRequest {
    pattern: Option<String>,
}

/// Their names and how many receive each.
#[derive(Serialize)]
pub(super) struct ChannelsResult {
    channels: BTreeMap<String, ChannelClients>,
}

#[derive(Default, Serialize)]
struct ChannelClients {
    num_clients: u64,
}

/// Those whose names match a pattern, or all.
pub(super) async fn channels(body: &Bytes, api: &ApiContext) -> Result<ChannelsResult, ApiError> {
    let ChannelsRequest { pattern } = parse_optional_object(body)?;
    let pattern = Pattern::wildcard(pattern.as_deref().filter(|pattern| !pattern.is_empty()).unwrap_or("*"));
    let pattern = pattern.map_err(|_| ErrorCode::BadRequest)?;
    Ok(sum_counts(&survey_nodes(SurveyQuestion::Channels, api).await?, &pattern)?)
}

/// Asks all instances.
pub(super) async fn survey_nodes(question: SurveyQuestion, api: &ApiContext) -> Result<Vec<Vec<u8>>, ErrorCode> {
    api.broker.survey(question, SURVEY_DEADLINE).await.map_err(|error| {
        log::warn!("{question:?}: {error}");
        error.into()
    })
}

fn sum_counts(answers: &[Vec<u8>], pattern: &Pattern) -> Result<ChannelsResult, ErrorCode> {
    let mut channels: BTreeMap<String, ChannelClients> = BTreeMap::new();
    for answer in answers {
        let counts: BTreeMap<String, u64> = serde_json::from_slice(answer).map_err(|_| ErrorCode::Internal)?;
        for (name, count) in counts.into_iter().filter(|(name, _)| pattern.matches(name)) {
            channels.entry(name).or_default().num_clients += count;
        }
    }
    Ok(ChannelsResult { channels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriber_counts_of_all_nodes_are_added() {
        let answers = [br#"{"a":1,"b":2}"#.to_vec(), br#"{"a":3}"#.to_vec()];
        let sum = sum_counts(&answers, &Pattern::exact("a").unwrap()).unwrap();
        assert_eq!(sum.channels.len(), 1);
        assert_eq!(sum.channels["a"].num_clients, 4);
    }
}
