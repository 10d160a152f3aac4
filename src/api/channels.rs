//! `channels`: the channels that have subscribers, on all nodes together.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext,
    description::{Access, ApiMethod, ApiResult, Example, Field, Handler, JsonType, request_fields},
    request::{parse_optional_object, to_result},
    survey::{NO_ANSWER, UNREACHABLE, survey_nodes},
};
use crate::{
    broker::{NodeIdentity, SurveyQuestion},
    channel::Pattern,
    protocol::ErrorCode,
};

/// `channels`.
pub(super) const CHANNELS: ApiMethod = ApiMethod {
    name: "channels",
    access: Access::ReadOnly,
    summary: "Lists the channels that have subscribers, with the number of subscribers on all nodes.",
    details: "The body may be empty.",
    request: &[ChannelsRequest::FIELDS],
    result: &[
        Field::always(
            "channels",
            JsonType::Map(&JsonType::Object(&[Field::always(
                "num_clients",
                JsonType::Integer,
                "Number of its subscribers on the nodes that have answered.",
            )])),
            "The channels by their names.",
        ),
        UNREACHABLE,
    ],
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable: Vec<NodeIdentity>,
}

#[derive(Default, Serialize)]
struct ChannelClients {
    num_clients: u64,
}

async fn channels(body: &Bytes, api: &ApiContext) -> ApiResult {
    let ChannelsRequest { pattern } = parse_optional_object(body)?;
    let pattern = Pattern::wildcard(pattern.as_deref().filter(|pattern| !pattern.is_empty()).unwrap_or("*"));
    let pattern = pattern.map_err(|_| ErrorCode::BadRequest)?;
    let (answers, unreachable) = survey_nodes(SurveyQuestion::Channels, api).await?;
    let counts = answers.into_iter().map(|(_, counts)| counts);
    to_result(ChannelsResult { channels: sum_counts(counts, &pattern), unreachable })
}

fn sum_counts(
    answers: impl IntoIterator<Item = BTreeMap<String, u64>>,
    pattern: &Pattern,
) -> BTreeMap<String, ChannelClients> {
    let mut channels: BTreeMap<String, ChannelClients> = BTreeMap::new();
    for (name, count) in answers.into_iter().flatten().filter(|(name, _)| pattern.matches(name)) {
        let sum = &mut channels.entry(name).or_default().num_clients;
        *sum = sum.saturating_add(count);
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriber_counts_of_all_nodes_are_added() {
        let counts = |counts: &[(&str, u64)]| counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let answers = vec![counts(&[("a", 1), ("b", 2)]), counts(&[("a", 3)])];
        let sum = sum_counts(answers, &Pattern::exact("a").unwrap());
        assert_eq!(sum.len(), 1);
        assert_eq!(sum["a"].num_clients, 4);
        let forged = vec![counts(&[("a", u64::MAX)]), counts(&[("a", 3)])];
        assert_eq!(sum_counts(forged, &Pattern::exact("a").unwrap())["a"].num_clients, u64::MAX);
    }
}
