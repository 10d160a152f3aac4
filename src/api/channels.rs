//! `channels`: the channels that have subscribers, on all nodes together.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext,
    description::{Access, ApiMethod, ApiResult, Example, Field, Handler, JsonType, request_fields},
    request::{parse_optional_object, to_result},
};
use crate::{broker::SurveyQuestion, channel::Pattern, protocol::ErrorCode};

/// How long the nodes have to answer.
const SURVEY_DEADLINE: Duration = Duration::from_secs(2);

/// The error of all methods that ask the nodes.
pub(super) const NO_ANSWER: (ErrorCode, &str) =
    (ErrorCode::Internal, "the broker is unavailable, or a node has not answered within 2 s");

/// `channels`.
pub(super) const CHANNELS: ApiMethod = ApiMethod {
    name: "channels",
    access: Access::ReadOnly,
    summary: "Lists the channels that have subscribers, with the number of subscribers on all nodes.",
    details: "The body may be empty.",
    request: &[ChannelsRequest::FIELDS],
    result: &[Field::always(
        "channels",
        JsonType::Map(&JsonType::Object(&[Field::always(
            "num_clients",
            JsonType::Integer,
            "Number of its subscribers.",
        )])),
        "The channels by their names.",
    )],
    errors: &[NO_ANSWER, (ErrorCode::BadRequest, "`pattern` is invalid")],
    example: Example {
        request: r#"{"pattern":"n*"}"#,
        answer: r#"{"result":{"channels":{"news":{"num_clients":1}}}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(channels(body, api))),
};

request_fields! {
    /// A request of `channels`.
    #[derive(Default)]
    struct ChannelsRequest {
        /// Pattern of the names, in which `*` matches any characters.
        pattern: Option<String> = (JsonType::String, Some("`*`: all channels")),
    }
}

/// The result of `channels`.
#[derive(Serialize)]
struct ChannelsResult {
    channels: BTreeMap<String, ChannelClients>,
}

#[derive(Default, Serialize)]
struct ChannelClients {
    num_clients: u64,
}

async fn channels(body: &Bytes, api: &ApiContext) -> ApiResult {
    let ChannelsRequest { pattern } = parse_optional_object(body)?;
    let pattern = Pattern::wildcard(pattern.as_deref().filter(|pattern| !pattern.is_empty()).unwrap_or("*"));
    let pattern = pattern.map_err(|_| ErrorCode::BadRequest)?;
    to_result(sum_counts(&survey_nodes(SurveyQuestion::Channels, api).await?, &pattern)?)
}

/// Asks all nodes, and returns their answers.
pub(super) async fn survey_nodes(question: SurveyQuestion, api: &ApiContext) -> Result<Vec<Vec<u8>>, ErrorCode> {
    let answers = api.broker.survey(question, SURVEY_DEADLINE).await;
    let answers = answers.inspect_err(|error| {
        log::warn!("could not survey nodes question={question:?} error={:?}", error.to_string());
    });
    Ok(answers?)
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
