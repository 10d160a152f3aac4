//! The answers of hooks, in the JSON of Centrifugo's proxies: an object with `result`, `error` or `disconnect`. Pure.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

use super::hook::HookRefusal;
use crate::{
    clock::{FIRST_MILLISECONDS, NEVER, WallTime},
    config::OptionOverrides,
    json,
    protocol::{Disconnect, ErrorCode, WireError},
    publication::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_INFO_BYTES},
    tags::Tags,
};

/// The result of a hook that does not refuse.
pub trait HookResult: Sized {
    /// `result` in JSON.
    type Json: DeserializeOwned;

    /// Checks the result.
    ///
    /// # Errors
    /// What is wrong with it.
    fn from_json(json: Self::Json) -> Result<Self, String>;
}

/// The answer of the rpc hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcAnswer {
    /// Raw JSON for the client, on one line.
    pub data: Option<Bytes>,
}

/// The answer of the send hook, which says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received;

/// The answer of the publish hook: the client may publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishApproval {
    /// Raw JSON that is published instead of the client's data, on one line.
    data: Option<Bytes>,
    /// What `b64data` encodes, if the answer has that.
    decoded: Option<Bytes>,
    options: ApprovedOptions,
}

/// Options of a publication that the publish hook has given it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApprovedOptions {
    /// Whether the publication stays out of the history.
    pub skip_history: bool,
    /// The tags of the publication. Clients cannot send any.
    pub tags: Tags,
    /// Whether to send the publication as a delta to subscribers that use deltas.
    pub use_delta: bool,
    /// The channel accepts one publication with this key.
    pub idempotency_key: Option<Arc<str>>,
}

/// The answer of the subscribe hook: the client may subscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeApproval {
    /// Raw JSON that other clients see of the subscription.
    pub info: Option<Bytes>,
    /// Raw JSON for the client.
    pub data: Option<Bytes>,
    /// Options that the subscription has instead of those of its channel.
    pub overrides: OptionOverrides,
    /// When the subscription ends.
    pub expires_at: WallTime,
}

#[derive(Deserialize)]
struct ReplyJson<R> {
    result: Option<R>,
    error: Option<ErrorJson>,
    disconnect: Option<DisconnectJson>,
}

#[derive(Deserialize)]
struct ErrorJson {
    #[serde(default, deserialize_with = "null_as_default")]
    code: u32,
    #[serde(default, deserialize_with = "null_as_default")]
    message: String,
    #[serde(default, deserialize_with = "null_as_default")]
    temporary: bool,
}

#[derive(Deserialize)]
struct DisconnectJson {
    #[serde(default, deserialize_with = "null_as_default")]
    code: u16,
    #[serde(default, deserialize_with = "null_as_default")]
    reason: String,
}

#[derive(Deserialize)]
pub struct RpcJson {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
}

#[derive(Deserialize)]
pub struct PublishJson {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    skip_history: bool,
    tags: Option<Tags>,
    #[serde(default, deserialize_with = "null_as_default")]
    delta: bool,
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
pub struct SubscribeJson {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(default, rename = "override")]
    overrides: Option<OverridesJson>,
    #[serde(default, deserialize_with = "null_as_default")]
    expire_at: i64,
    server_tags_filter: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct OverridesJson {
    presence: Option<FlagJson>,
    join_leave: Option<FlagJson>,
    force_push_join_leave: Option<FlagJson>,
    /// Centrifugo 3 has the other name, as below.
    #[serde(alias = "position")]
    force_positioning: Option<FlagJson>,
    #[serde(alias = "recover")]
    force_recovery: Option<FlagJson>,
}

/// Encoders of Protobuf leave out a `false`.
#[derive(Deserialize)]
struct FlagJson {
    #[serde(default, deserialize_with = "null_as_default")]
    value: bool,
}

/// Reads a member that backends may write as null instead of leaving it out.
pub(super) fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Parses the body of a response.
///
/// # Errors
/// What is wrong with it. A reply without `result`, `error` and `disconnect` allows nothing.
pub(super) fn parse_reply<R: HookResult>(body: &[u8]) -> Result<Result<R, HookRefusal>, String> {
    if !json::is_object(body) {
        return Err("it is not a JSON object".to_owned());
    }
    let reply: ReplyJson<R::Json> = serde_json::from_slice(body).map_err(|error| describe(&error))?;
    match reply {
        ReplyJson { disconnect: Some(DisconnectJson { code, reason }), .. } => Disconnect::custom(code, &reason)
            .map(|disconnect| Err(HookRefusal::Disconnect(disconnect)))
            .ok_or_else(|| {
                format!("disconnect has code {code}; it must be 3000 to 4999, and the reason at most 123 bytes that are not JSON")
            }),
        ReplyJson { error: Some(ErrorJson { code, message, temporary }), .. } => {
            WireError::custom(code, message, temporary)
                .map(|error| Err(HookRefusal::Error(error)))
                .ok_or_else(|| format!("error has code {code}; it must be 100 to 1999"))
        }
        ReplyJson { result: Some(result), .. } => R::from_json(result).map(Ok),
        _ => Err("it has neither result nor error nor disconnect".to_owned()),
    }
}

/// Says where an answer is not valid. The text of the error would quote it, and it goes to the log.
fn describe(error: &serde_json::Error) -> String {
    let what = if error.is_data() { "a member has a wrong type" } else { "it is not JSON" };
    format!("{what} at line {} column {}", error.line(), error.column())
}

/// Returns JSON that may be there as it is or in Base64, on one line. The Base64 takes precedence unless it is empty.
pub(super) fn single_line(json: Option<Box<RawValue>>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    let replace = |json: &RawValue| Bytes::from(json::single_line(json).into_owned());
    let Some(encoded) = base64.filter(|encoded| !encoded.is_empty()) else {
        return Ok(json.map(|json| replace(&json)));
    };
    let decoded = BASE64_STANDARD.decode(encoded).map_err(|error| format!("Base64: {error}"))?;
    let json: &RawValue = serde_json::from_slice(&decoded).map_err(|error| format!("the decoded Base64: {error}"))?;
    Ok(Some(replace(json)))
}

/// Returns the time of an `expire_at`. 0 is that of an answer without one.
pub(super) fn expiry(expire_at: i64) -> Result<WallTime, String> {
    match expire_at {
        0 => Ok(NEVER),
        FIRST_MILLISECONDS.. => Err("expire_at is in milliseconds, but must be in seconds".to_owned()),
        seconds => Ok(WallTime::from_unix_seconds(seconds)),
    }
}

/// Checks the size of what the hub stores for a session or a subscription.
pub(super) fn check_size(name: &str, json: Option<Bytes>) -> Result<Option<Bytes>, String> {
    match json {
        Some(json) if json.len() > MAX_INFO_BYTES => Err(format!("{name} is longer than {MAX_INFO_BYTES} bytes")),
        json => Ok(json),
    }
}

impl HookResult for RpcAnswer {
    type Json = RpcJson;

    fn from_json(json: RpcJson) -> Result<Self, String> {
        Ok(Self { data: single_line(json.data, json.b64data)? })
    }
}

impl HookResult for Received {
    type Json = IgnoredAny;

    fn from_json(_: IgnoredAny) -> Result<Self, String> {
        Ok(Self)
    }
}

impl HookResult for PublishApproval {
    type Json = PublishJson;

    fn from_json(json: PublishJson) -> Result<Self, String> {
        let encoded = json.b64data.as_deref().filter(|encoded| !encoded.is_empty());
        let decoded = encoded.map(|encoded| BASE64_STANDARD.decode(encoded).map(Bytes::from)).transpose();
        let decoded = decoded.map_err(|error| format!("Base64: {error}"))?;
        // Whether it has to be JSON depends on the channel.
        let data = single_line(json.data, json.b64data).ok().flatten();
        let idempotency_key = json.idempotency_key.filter(|key| !key.is_empty());
        if idempotency_key.as_ref().is_some_and(|key| key.len() > MAX_IDEMPOTENCY_KEY_BYTES) {
            return Err(format!("idempotency_key is longer than {MAX_IDEMPOTENCY_KEY_BYTES} bytes"));
        }
        let options = ApprovedOptions {
            skip_history: json.skip_history,
            tags: json.tags.unwrap_or_default(),
            use_delta: json.delta,
            idempotency_key: idempotency_key.map(Arc::from),
        };
        Ok(Self { data, decoded, options })
    }
}

impl PublishApproval {
    /// Returns the data to publish, which is that of the answer, or else that of the client, and the options of the answer.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if the data of the answer does not fit the channel: JSON, or any bytes if `is_binary`.
    pub fn apply_to(self, data: Bytes, is_binary: bool) -> Result<(Bytes, ApprovedOptions), ErrorCode> {
        let data = match (is_binary, self.data, self.decoded) {
            (_, None, None) => data,
            (true, _, Some(bytes)) => bytes,
            (false, Some(json), _) => json,
            (true, Some(_), None) => {
                return Err(refuse_data("publish hook answered data for a channel with data_format=binary"));
            }
            (false, None, Some(_)) => return Err(refuse_data("publish hook answered b64data that is not JSON")),
        };
        Ok((data, self.options))
    }
}

fn refuse_data(phrase: &str) -> ErrorCode {
    log::warn!("{phrase}");
    ErrorCode::Internal
}

impl HookResult for SubscribeApproval {
    type Json = SubscribeJson;

    fn from_json(json: SubscribeJson) -> Result<Self, String> {
        if json.server_tags_filter.is_some() {
            // The client would receive what the backend wants to keep from it.
            return Err("server_tags_filter is not supported".to_owned());
        }
        let value = |flag: Option<FlagJson>| flag.map(|flag| flag.value);
        Ok(Self {
            info: check_size("info", single_line(json.info, json.b64info)?)?,
            data: check_size("data", single_line(json.data, json.b64data)?)?,
            overrides: json.overrides.map_or_else(OptionOverrides::default, |overrides| OptionOverrides {
                presence: value(overrides.presence),
                join_leave: value(overrides.join_leave),
                force_push_join_leave: value(overrides.force_push_join_leave),
                force_positioning: value(overrides.force_positioning),
                force_recovery: value(overrides.force_recovery),
            }),
            expires_at: expiry(json.expire_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rpc(body: &str) -> Result<Result<RpcAnswer, HookRefusal>, String> {
        parse_reply(body.as_bytes())
    }

    #[test]
    fn result_is_taken_as_json_or_base64_on_one_line() {
        for (body, data) in [
            (r#"{"result":{}}"#, None),
            (r#"{"result":{"data":null}}"#, None),
            ("{\"result\":{\"data\":{\n\"a\": 1\r\n}}}", Some("{ \"a\": 1  }")),
            (r#"{"result":{"data":1,"b64data":""},"error":null,"disconnect":null}"#, Some("1")),
            (r#"{"result":{"data":1,"b64data":"eyJiIjoyfQ=="},"unknown":[]}"#, Some(r#"{"b":2}"#)),
        ] {
            let data = data.map(|data: &str| Bytes::copy_from_slice(data.as_bytes()));
            assert_eq!(rpc(body), Ok(Ok(RpcAnswer { data })), "{body}");
        }
    }

    #[test]
    fn error_and_disconnect_of_the_backend_are_passed_on() {
        let error = WireError::custom(1000, "no funds", true).unwrap();
        let body = r#"{"error":{"code":1000,"message":"no funds","temporary":true},"result":{}}"#;
        assert_eq!(rpc(body), Ok(Err(HookRefusal::Error(error))));
        let disconnect = Disconnect::custom(4500, "banned").unwrap();
        let body = r#"{"disconnect":{"code":4500,"reason":"banned"},"error":{"code":1}}"#;
        assert_eq!(rpc(body), Ok(Err(HookRefusal::Disconnect(disconnect))));
    }

    #[test]
    fn replies_that_are_not_valid_allow_nothing() {
        let deep = format!(r#"{{"result":{{"skip":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for body in [
            "",
            "{}",
            "null",
            "ok",
            "[{}]",
            r#"{"result":null}"#,
            r#"{"result":1}"#,
            r#"{"result":{"data":}}"#,
            r#"{"result":{"b64data":"%"}}"#,
            r#"{"result":{"b64data":"eyI="}}"#,
            r#"{"result":{}} {}"#,
            r#"{"error":{}}"#,
            r#"{"error":{"code":99}}"#,
            r#"{"error":{"code":2000}}"#,
            r#"{"error":{"code":-1}}"#,
            r#"{"disconnect":{"code":1000,"reason":"x"}}"#,
            r#"{"disconnect":{"code":70000,"reason":"x"}}"#,
            r#"{"disconnect":{"code":4000,"reason":"{}"}}"#,
            "<html>",
        ] {
            assert!(rpc(body).is_err(), "{body}");
        }
        // Ignored members are not followed into their depth.
        let _ = rpc(&deep);
        for expire_at in [r#""soon""#, "1790000000000", "1.5"] {
            let body = format!(r#"{{"result":{{"expire_at":{expire_at}}}}}"#);
            assert!(parse_reply::<SubscribeApproval>(body.as_bytes()).is_err(), "{body}");
        }
        let secret = rpc(r#"{"result":"a secret"}"#).unwrap_err();
        assert_eq!(secret, "a member has a wrong type at line 1 column 20");
        let long = format!(r#"{{"result":{{"info":"{}"}}}}"#, "x".repeat(MAX_INFO_BYTES));
        assert!(parse_reply::<SubscribeApproval>(long.as_bytes()).is_err());
    }

    #[test]
    fn members_may_be_null_and_a_filter_of_the_backend_refuses_the_subscription() {
        let nulls = br#"{"result":{"info":null,"b64info":null,"data":null,"override":{"presence":null,"recover":{"value":null}},
            "expire_at":null,"server_tags_filter":null},"error":null,"disconnect":null}"#;
        let approval = parse_reply::<SubscribeApproval>(nulls).unwrap().unwrap();
        let overrides = OptionOverrides { force_recovery: Some(false), ..OptionOverrides::default() };
        assert_eq!((approval.overrides, approval.expires_at), (overrides, NEVER));
        let error = br#"{"error":{"code":1000,"message":null,"temporary":null}}"#;
        let expected = HookRefusal::Error(WireError::custom(1000, String::new(), false).unwrap());
        assert_eq!(parse_reply::<RpcAnswer>(error), Ok(Err(expected)));
        let disconnect = rpc(r#"{"disconnect":{"code":4500,"reason":null,"reconnect":false}}"#);
        assert_eq!(disconnect, Ok(Err(HookRefusal::Disconnect(Disconnect::custom(4500, "").unwrap()))));
        let of_v3 = br#"{"result":{"override":{"position":{"value":true},"recover":{"value":true}}}}"#;
        let overrides = parse_reply::<SubscribeApproval>(of_v3).unwrap().unwrap().overrides;
        assert_eq!((overrides.force_positioning, overrides.force_recovery), (Some(true), Some(true)));
        let filtered = br#"{"result":{"server_tags_filter":{"key":"role","cmp":"eq","val":"admin"}}}"#;
        assert!(parse_reply::<SubscribeApproval>(filtered).unwrap_err().contains("server_tags_filter"));
    }

    #[test]
    fn approval_of_a_publication_has_tags_a_key_and_a_delta() {
        let body = br#"{"result":{"tags":{"role":"admin"},"delta":true,"idempotency_key":"k","version":7}}"#;
        let approval = parse_reply::<PublishApproval>(body).unwrap().unwrap().options;
        assert_eq!((approval.tags.get("role"), approval.use_delta), (Some("admin"), true));
        assert_eq!(approval.idempotency_key.as_deref(), Some("k"));
        let nulls = br#"{"result":{"tags":null,"delta":null,"idempotency_key":null,"skip_history":null}}"#;
        let approval = parse_reply::<PublishApproval>(nulls).unwrap().unwrap().options;
        assert!(approval.tags.is_empty() && approval.idempotency_key.is_none() && !approval.use_delta);
        let long = format!(r#"{{"result":{{"idempotency_key":"{}"}}}}"#, "k".repeat(MAX_IDEMPOTENCY_KEY_BYTES + 1));
        for body in [&long, r#"{"result":{"tags":{"a":1}}}"#, r#"{"result":{"tags":[]}}"#] {
            assert!(parse_reply::<PublishApproval>(body.as_bytes()).is_err(), "{body:.40}");
        }
    }

    #[test]
    fn approval_of_a_subscription_has_info_data_options_and_expiry() {
        let body = br#"{"result":{"info":{"n":1},"data":[2],"expire_at":7,
            "override":{"presence":{"value":true},"force_recovery":{}}}}"#;
        let approval = parse_reply::<SubscribeApproval>(body).unwrap().unwrap();
        let overrides =
            OptionOverrides { presence: Some(true), force_recovery: Some(false), ..OptionOverrides::default() };
        let expected = SubscribeApproval {
            info: Some(Bytes::from_static(br#"{"n":1}"#)),
            data: Some(Bytes::from_static(b"[2]")),
            overrides,
            expires_at: WallTime::from_unix_seconds(7),
        };
        assert_eq!(approval, expected);
        assert_eq!(parse_reply::<SubscribeApproval>(br#"{"result":{}}"#).unwrap().unwrap().expires_at, NEVER);
    }
}
