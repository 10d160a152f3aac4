//! `connections`: lists the connections of all nodes, in pages.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ApiContext,
    description::{Access, ApiMethod, ApiResult, BROKER_BUSY, Example, Field, Handler, JsonType, request_fields},
    request::{check_user, parse_optional_object, to_result},
    survey::{NO_ANSWER, NODE_NAME, NODE_UID, UNREACHABLE, survey_nodes},
};
use crate::{
    broker::{
        ConnectionInfo, ConnectionPlace, ConnectionsPage, ConnectionsQuery, Inspection, NodeIdentity, SurveyQuestion,
    },
    channel::Channel,
    config::ApiConfig,
    protocol::{ErrorCode, WireError},
};

/// Connections of a page if the request names no limit, unless `api.connections_page` is lower.
const DEFAULT_LIMIT: usize = 100;
/// Maximum length of a cursor. Those of the hub are shorter.
const MAX_CURSOR_BYTES: usize = 512;

/// `connections`.
pub(super) const CONNECTIONS: ApiMethod = ApiMethod {
    name: "connections",
    access: Access::ReadOnly,
    summary: "Lists the authenticated connections of all nodes in pages: all of them, or those of one user or one channel.",
    details: "The body may be empty. A connection that is open from the first page to the last is listed exactly once, even if \
        others open or close meanwhile. A page may have fewer connections than `limit`, or none, and still have a `cursor`.",
    request: &[ConnectionsRequest::FIELDS],
    result: &[
        Field::always(
            "connections",
            JsonType::Array(&JsonType::Object(CONNECTION)),
            "The connections of the page, in no particular order.",
        ),
        Field::left_out("cursor", JsonType::String, "on the last page", "`cursor` of the request for the next page."),
        UNREACHABLE,
    ],
    errors: &[
        NO_ANSWER,
        BROKER_BUSY,
        (ErrorCode::BadRequest, "`user`, `channel`, `limit`, `channels` or `cursor` is invalid"),
    ],
    example: Example {
        request: r#"{"user":"ann","channels":10}"#,
        answer: r#"{"result":{
  "connections":[
    {"client":"1d5a0c43-8a52-4a2e-9a0b-6c1f3f0c1a11","user":"ann",
     "node":{"uid":"5f9b7d5e-6a0e-4c5e-8d0f-2f3b1a7c9e10","name":"hub-1"},"transport":"websocket","format":"json",
     "address":"127.0.0.1","credential":"query","connected_at":1767225600,"expire_at":1767229200,"num_channels":1,
     "channels":["news"]}
  ]
}}"#,
    },
    handler: Handler::Single(|body, api| Box::pin(connections(body, api))),
};

/// The node of a connection, in results.
pub(super) const NODE: Field =
    Field::always("node", JsonType::Object(&[NODE_UID, NODE_NAME]), "The node that has the connection.");

const CONNECTION: &[Field] = &[
    Field::always("client", JsonType::String, "Id of the connection."),
    Field::always("user", JsonType::String, "Its user; empty for a connection without one."),
    NODE,
    Field::always(
        "transport",
        JsonType::String,
        "How its messages travel: `websocket`, `sse`, `http_stream`, or `channel_events` (the events of one channel).",
    ),
    Field::always("format", JsonType::String, "How they are encoded: `json` or `protobuf`."),
    Field::always("address", JsonType::String, "Address of the client."),
    Field::left_out(
        "credential",
        JsonType::String,
        "without a token",
        "The way in which the client has sent its token, as in `auth.doors`.",
    ),
    Field::left_out("name", JsonType::String, "if the client says none", "Name of its software, as the client says."),
    Field::left_out(
        "version",
        JsonType::String,
        "if the client says none",
        "Version of its software, as the client says.",
    ),
    Field::always("connected_at", JsonType::Integer, "When it was accepted, in seconds since 1970."),
    Field::left_out(
        "expire_at",
        JsonType::Integer,
        "if it does not expire",
        "When its token expires, in seconds since 1970.",
    ),
    Field::always("num_channels", JsonType::Integer, "Number of channels to which it is subscribed."),
    Field::left_out(
        "channels",
        JsonType::Array(&JsonType::String),
        "if `channels` of the request is 0",
        "Some of these channels, in no particular order.",
    ),
];

request_fields! {
    /// A request of `connections`.
    #[derive(Default)]
    struct ConnectionsRequest {
        /// Only connections of this user, 1 to 255 bytes.
        user: Option<String> = (JsonType::String, Some("all users")),
        /// Only connections that are subscribed to this channel.
        channel: Option<String> = (JsonType::String, Some("all channels")),
        /// Maximum connections of the page, from 1 to `api.connections_page`. A larger number counts as that.
        limit: Option<i64> = (JsonType::Integer, Some("`100`")),
        /// Names of channels that are listed for each connection, at most. More than `api.connection_channels` count as that many.
        channels: Option<i64> = (JsonType::Integer, Some("`0`")),
        /// `cursor` of the page before this one.
        cursor: Option<String> = (JsonType::String, Some("the first page")),
    }
}

/// The result of `connections`.
#[derive(Debug, Serialize)]
struct ConnectionsResult {
    connections: Vec<ListedConnection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable: Vec<NodeIdentity>,
}

#[derive(Debug, Serialize)]
struct ListedConnection {
    #[serde(flatten)]
    info: ConnectionInfo,
    node: NodeIdentity,
}

async fn connections(body: &Bytes, api: &ApiContext) -> ApiResult {
    let query = parse_query(parse_optional_object(body)?, &api.config.current().api)?;
    let limit = query.limit;
    let question = SurveyQuestion::Inspect(Inspection::Connections(query));
    let (pages, unreachable) = survey_nodes(question, api).await?;
    let (connections, next) = join_pages(pages, limit);
    to_result(ConnectionsResult { connections, cursor: next.as_ref().map(encode_cursor), unreachable })
}

/// Checks a request.
fn parse_query(request: ConnectionsRequest, config: &ApiConfig) -> Result<ConnectionsQuery, WireError> {
    let ConnectionsRequest { user, channel, limit, channels, cursor } = request;
    // Some clients of the API write an unset field as an empty text.
    let [user, channel, cursor] = [user, channel, cursor].map(|field| field.filter(|text| !text.is_empty()));
    if let Some(user) = &user {
        check_user(user)?;
    }
    if let Some(channel) = &channel {
        Channel::new(channel)?;
    }
    let limit = usize::try_from(limit.unwrap_or(DEFAULT_LIMIT as i64)).ok().filter(|limit| *limit > 0);
    let limit = limit.ok_or_else(|| ErrorCode::BadRequest.with_detail("limit must be at least 1"))?;
    let channels = usize::try_from(channels.unwrap_or_default());
    let channels = channels.map_err(|_| ErrorCode::BadRequest.with_detail("channels must not be negative"))?;
    let after = cursor.map(|cursor| decode_cursor(&cursor)).transpose()?;
    Ok(ConnectionsQuery {
        user,
        channel,
        after,
        limit: limit.min(config.connections_page),
        channels: channels.min(config.connection_channels),
    })
}

/// Joins the answers of the nodes to a page. Returns the place after which the next page begins, unless it is the last.
fn join_pages(
    mut pages: Vec<(NodeIdentity, ConnectionsPage)>,
    limit: usize,
) -> (Vec<ListedConnection>, Option<ConnectionPlace>) {
    pages.sort_by(|(one, _), (other, _)| one.uid.cmp(&other.uid));
    let (mut listed, mut last) = (Vec::new(), None);
    for (node, page) in pages {
        let place = |local| ConnectionPlace { node: node.uid.clone(), local };
        for (local, info) in page.connections {
            if listed.len() >= limit {
                return (listed, last);
            }
            last = Some(place(local));
            listed.push(ListedConnection { info, node: node.clone() });
        }
        if let Some(until) = page.until {
            return (listed, Some(place(until)));
        }
    }
    (listed, None)
}

/// Returns a place as the text that the caller sends back for the next page.
fn encode_cursor(place: &ConnectionPlace) -> String {
    let ConnectionPlace { node, local: (worker, slot) } = place;
    BASE64_URL_SAFE_NO_PAD.encode(format!("{worker}.{slot}.{node}"))
}

/// Returns the place that a cursor names. A forged cursor only begins a page elsewhere.
fn decode_cursor(cursor: &str) -> Result<ConnectionPlace, WireError> {
    let decode = || {
        let text = BASE64_URL_SAFE_NO_PAD.decode(Some(cursor).filter(|text| text.len() <= MAX_CURSOR_BYTES)?).ok()?;
        let text = String::from_utf8(text).ok()?;
        let mut parts = text.splitn(3, '.');
        let (worker, slot) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(ConnectionPlace { node: parts.next()?.to_owned(), local: (worker, slot) })
    };
    decode().ok_or_else(|| ErrorCode::BadRequest.with_detail("cursor is not one that the hub has returned"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(client: &str) -> ConnectionInfo {
        ConnectionInfo {
            client: client.to_owned(),
            user: String::new(),
            transport: String::new(),
            format: String::new(),
            address: String::new(),
            credential: None,
            name: String::new(),
            version: String::new(),
            connected_at: 0,
            expire_at: None,
            num_channels: 0,
            channels: Vec::new(),
        }
    }

    fn page(uid: &str, clients: &[(u32, u32, &str)], until: Option<(u32, u32)>) -> (NodeIdentity, ConnectionsPage) {
        let connections = clients.iter().map(|(worker, slot, client)| ((*worker, *slot), connection(client))).collect();
        (NodeIdentity { uid: uid.to_owned(), name: "hub".to_owned() }, ConnectionsPage { connections, until })
    }

    fn join(pages: Vec<(NodeIdentity, ConnectionsPage)>, limit: usize) -> (Vec<String>, Option<(String, u32, u32)>) {
        let (listed, next) = join_pages(pages, limit);
        let clients = listed.into_iter().map(|listed| listed.info.client).collect();
        (clients, next.map(|ConnectionPlace { node, local: (worker, slot) }| (node, worker, slot)))
    }

    #[test]
    fn page_ends_at_its_limit_or_where_a_node_has_stopped() {
        let pages = || vec![page("b", &[(0, 0, "b0"), (1, 7, "b1")], None), page("a", &[(0, 3, "a0")], None)];
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(join(pages(), 3), (texts(&["a0", "b0", "b1"]), None));
        assert_eq!(join(pages(), 2), (texts(&["a0", "b0"]), Some(("b".to_owned(), 0, 0))));
        let stopped = vec![page("a", &[], Some((2, 9))), page("b", &[(0, 0, "b0")], None)];
        assert_eq!(join(stopped, 3), (Vec::new(), Some(("a".to_owned(), 2, 9))));
    }

    #[test]
    fn cursor_is_read_back_and_anything_else_is_refused() {
        let place = ConnectionPlace { node: "5f9b.7d5e".to_owned(), local: (3, u32::MAX) };
        assert_eq!(decode_cursor(&encode_cursor(&place)).unwrap(), place);
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        for forged in
            ["", "=", "é", "AAAA", &encode("1.2"), &encode("-1.2.a"), &encode("1.4294967296.a"), &"A".repeat(513)]
        {
            assert!(decode_cursor(forged).unwrap_err().has_code(ErrorCode::BadRequest), "{forged}");
        }
    }
}
