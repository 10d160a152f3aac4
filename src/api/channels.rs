//! `channels`: lists the channels that have subscribers, on all nodes together.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::{
    ApiContext,
    description::{Access, ApiMethod, ApiResult, Example, Field, Handler, JsonType, request_fields},
    request::parse_optional_object,
    survey::{NO_ANSWER, UNREACHABLE, run_outside_if, survey_nodes},
};
use crate::{
    broker::{NodeIdentity, SurveyQuestion},
    channel::Pattern,
    protocol::ErrorCode,
};

/// Channels that are joined on the worker, in 0.3 ms or less.
const MAX_JOINED_CHANNELS: usize = 1024;

/// `channels`.
pub(super) const CHANNELS: ApiMethod = ApiMethod {
    name: "channels",
    access: Access::ReadOnly,
    summary: "Lists the channels that have subscribers, with the number of subscribers on all nodes.",
    details: "The body may be empty. With `limit` the channels come in pages, in the order of their names.",
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
        Field::left_out(
            "num_channels",
            JsonType::Integer,
            "without `limit`",
            "Number of channels that the pattern matches, on all pages.",
        ),
        Field::left_out("cursor", JsonType::String, "on the last page", "`cursor` of the request for the next page."),
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
        /// Maximum channels of the page.
        limit: Option<usize> = (JsonType::Integer, Some("`0`: no limit")),
        /// `cursor` of the page before this one.
        cursor: Option<String> = (JsonType::String, Some("the first page")),
    }
}

/// The result of `channels`.
#[derive(Serialize)]
struct ChannelsResult {
    channels: BTreeMap<String, ChannelClients>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_channels: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable: Vec<NodeIdentity>,
}

#[derive(Default, Serialize)]
struct ChannelClients {
    num_clients: u64,
}

async fn channels(body: &Bytes, api: &ApiContext) -> ApiResult {
    let ChannelsRequest { pattern, limit, cursor } = parse_optional_object(body)?;
    let pattern = Pattern::wildcard(pattern.as_deref().filter(|pattern| !pattern.is_empty()).unwrap_or("*"));
    let pattern = pattern.map_err(|_| ErrorCode::BadRequest)?;
    let (answers, unreachable) = survey_nodes(SurveyQuestion::Channels, api).await?;
    let counts: Vec<BTreeMap<String, u64>> = answers.into_iter().map(|(_, counts)| counts).collect();
    let is_much = counts.iter().map(BTreeMap::len).sum::<usize>() > MAX_JOINED_CHANNELS;
    let join = move || {
        let channels = sum_counts(counts, &pattern);
        let Some(limit) = limit.filter(|limit| *limit > 0) else {
            return to_raw_value(&ChannelsResult { channels, num_channels: None, cursor: None, unreachable });
        };
        let num_channels = Some(channels.len());
        let (channels, cursor) = page_of(channels, limit, cursor.as_deref().unwrap_or_default());
        to_raw_value(&ChannelsResult { channels, num_channels, cursor, unreachable })
    };
    Ok(run_outside_if(is_much, join).await?.map_err(|_| ErrorCode::Internal)?)
}

/// Returns the channels whose names come after that of a cursor, which is the last one of the page before, and the cursor of the next
/// page. No channel has the empty name of the first page.
fn page_of(
    channels: BTreeMap<String, ChannelClients>,
    limit: usize,
    cursor: &str,
) -> (BTreeMap<String, ChannelClients>, Option<String>) {
    let mut rest = channels.into_iter().skip_while(|(name, _)| name.as_str() <= cursor);
    let page: BTreeMap<String, ChannelClients> = rest.by_ref().take(limit).collect();
    let cursor = rest.next().and_then(|_| page.keys().next_back().cloned());
    (page, cursor)
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
    fn pages_list_every_channel_once_and_end() {
        let channels =
            || ["a", "b", "c", "d"].map(|name| (name.to_owned(), ChannelClients::default())).into_iter().collect();
        let names = |page: BTreeMap<String, ChannelClients>| page.into_keys().collect::<String>();
        for (limit, cursor, expected, next) in [
            (3, "", "abc", Some("c")),
            (3, "c", "d", None),
            (4, "", "abcd", None),
            (2, "b", "cd", None),
            (2, "d", "", None),
            (1, "bb", "c", Some("c")),
        ] {
            let (page, found) = page_of(channels(), limit, cursor);
            assert_eq!((&*names(page), found.as_deref()), (expected, next), "{limit} {cursor}");
        }
    }

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
