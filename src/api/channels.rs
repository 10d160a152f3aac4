//! `channels`: lists the channels that have subscribers, on all nodes together.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::{
    ApiContext,
    description::{Access, ApiMethod, ApiResult, BROKER_BUSY, Example, Field, Handler, JsonType, request_fields},
    request::parse_optional_object,
    survey::{NO_ANSWER, UNREACHABLE, run_outside_if, survey_nodes},
};
use crate::{
    broker::{ChannelsPage, ChannelsQuery, Inspection, NodeIdentity, SurveyQuestion},
    channel::{MAX_BYTES as MAX_CURSOR_BYTES, Pattern},
    protocol::ErrorCode,
};

/// Channels that are joined on the worker, in 0.3 ms or less.
const MAX_JOINED_CHANNELS: usize = 1024;

/// `channels`.
pub(super) const CHANNELS: ApiMethod = ApiMethod {
    name: "channels",
    access: Access::ReadOnly,
    summary: "Lists the channels that have subscribers, with the number of subscribers on all nodes.",
    details: "The body may be empty. With `limit` the channels come in pages, in the order of their names, and \
        each node sends those of the page only. A list without `limit` of more than about a million channels fails.",
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
            "without `limit`, or if several nodes have channels and the page has not all of them",
            "Number of channels that the pattern matches, on all pages.",
        ),
        Field::left_out("cursor", JsonType::String, "on the last page", "`cursor` of the request for the next page."),
        UNREACHABLE,
    ],
    errors: &[NO_ANSWER, BROKER_BUSY, (ErrorCode::BadRequest, "`pattern` or `cursor` is invalid")],
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
    num_channels: Option<u64>,
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
    let text = pattern.filter(|pattern| !pattern.is_empty()).unwrap_or_else(|| "*".to_owned());
    let pattern = Pattern::wildcard(&text).map_err(|_| ErrorCode::BadRequest.with_detail("pattern is invalid"))?;
    match limit.filter(|limit| *limit > 0) {
        None => all_channels(pattern, api).await,
        Some(limit) => {
            let after = cursor.unwrap_or_default();
            if after.len() > MAX_CURSOR_BYTES {
                return Err(ErrorCode::BadRequest.with_detail("cursor is not one that the hub has returned").into());
            }
            channels_page(ChannelsQuery { pattern: text, after, limit }, api).await
        }
    }
}

async fn all_channels(pattern: Pattern, api: &ApiContext) -> ApiResult {
    let (answers, unreachable) = survey_nodes(SurveyQuestion::Channels, api).await?;
    let counts: Vec<BTreeMap<String, u64>> = answers.into_iter().map(|(_, counts)| counts).collect();
    let is_much = counts.iter().map(BTreeMap::len).sum::<usize>() > MAX_JOINED_CHANNELS;
    let join = move || {
        let matching = |counts: BTreeMap<String, u64>| counts.into_iter().filter(|(name, _)| pattern.matches(name));
        let channels = sum_counts(counts.into_iter().flat_map(matching));
        to_raw_value(&ChannelsResult { channels, num_channels: None, cursor: None, unreachable })
    };
    Ok(run_outside_if(is_much, join).await?.map_err(|_| ErrorCode::Internal)?)
}

/// Asks each node for its channels of the page only: with many channels on many nodes, all their names would be tens of mebibytes.
async fn channels_page(query: ChannelsQuery, api: &ApiContext) -> ApiResult {
    let (limit, is_first) = (query.limit, query.after.is_empty());
    let (answers, unreachable) = survey_nodes(SurveyQuestion::Inspect(Inspection::Channels(query)), api).await?;
    let pages: Vec<ChannelsPage> = answers.into_iter().map(|(_, page)| page).collect();
    let is_much = pages.iter().map(|page| page.channels.len()).sum::<usize>() > MAX_JOINED_CHANNELS;
    let join = move || {
        let (channels, cursor, num_channels) = join_pages(pages, limit, is_first);
        to_raw_value(&ChannelsResult { channels, num_channels, cursor, unreachable })
    };
    Ok(run_outside_if(is_much, join).await?.map_err(|_| ErrorCode::Internal)?)
}

/// Joins the pages of the nodes. Returns the channels, the cursor of the next page, which is the last name, and the number of channels
/// on all pages, unless several nodes have channels and not all of these are on this page: nodes can have the same channels.
fn join_pages(
    pages: Vec<ChannelsPage>,
    limit: usize,
    is_first: bool,
) -> (BTreeMap<String, ChannelClients>, Option<String>, Option<u64>) {
    let has_more = pages.iter().any(|page| page.has_more);
    let totals: Vec<u64> = pages.iter().map(|page| page.total).filter(|total| *total > 0).collect();
    let channels = sum_counts(pages.into_iter().flat_map(|page| page.channels));
    let num_channels = match totals[..] {
        [] => Some(0),
        [total] => Some(total),
        _ if is_first && !has_more => Some(channels.len() as u64),
        _ => None,
    };
    let is_last = !has_more && channels.len() <= limit;
    let channels: BTreeMap<String, ChannelClients> = channels.into_iter().take(limit).collect();
    let cursor = channels.keys().next_back().filter(|_| !is_last).cloned();
    (channels, cursor, num_channels)
}

fn sum_counts(counts: impl IntoIterator<Item = (String, u64)>) -> BTreeMap<String, ChannelClients> {
    let mut channels: BTreeMap<String, ChannelClients> = BTreeMap::new();
    for (name, count) in counts {
        let sum = &mut channels.entry(name).or_default().num_clients;
        *sum = sum.saturating_add(count);
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str], has_more: bool, total: u64) -> ChannelsPage {
        ChannelsPage { channels: names.iter().map(|name| ((*name).to_owned(), 1)).collect(), has_more, total }
    }

    #[test]
    fn pages_of_nodes_are_joined_in_the_order_of_the_names() {
        for (pages, limit, is_first, expected, cursor, total) in [
            (vec![page(&["a", "b"], false, 2)], 2, true, "a1b1", None, Some(2)),
            (vec![page(&["a", "b"], true, 5)], 2, true, "a1b1", Some("b"), Some(5)),
            (vec![page(&["e"], false, 5)], 2, false, "e1", None, Some(5)),
            // Channels of both nodes count once.
            (vec![page(&["a", "c"], false, 2), page(&["a", "b"], false, 2)], 4, true, "a2b1c1", None, Some(3)),
            (vec![page(&["a", "c"], false, 2), page(&["a", "b"], false, 2)], 2, true, "a2b1", Some("b"), Some(3)),
            (vec![page(&["a", "c"], true, 9), page(&["a", "b"], false, 2)], 2, true, "a2b1", Some("b"), None),
            (vec![page(&["a", "c"], false, 9), page(&["a", "b"], false, 2)], 4, false, "a2b1c1", None, None),
            (vec![page(&["a"], false, 1), page(&[], false, 0)], 2, true, "a1", None, Some(1)),
            (vec![page(&[], false, 0), page(&[], false, 0)], 2, true, "", None, Some(0)),
        ] {
            let case = format!("{pages:?} {limit}");
            let (channels, next, num_channels) = join_pages(pages, limit, is_first);
            let channels: String =
                channels.iter().map(|(name, clients)| format!("{name}{}", clients.num_clients)).collect();
            assert_eq!((&*channels, next.as_deref(), num_channels), (expected, cursor, total), "{case}");
        }
    }

    #[test]
    fn count_of_a_forged_answer_does_not_overflow() {
        let counts = [("a".to_owned(), u64::MAX), ("a".to_owned(), 3)];
        assert_eq!(sum_counts(counts)["a"].num_clients, u64::MAX);
    }
}
