//! `subscribe`, `unsubscribe`, `disconnect` and `refresh`: send controls to the sessions of a user on all nodes. An answer says
//! that the broker has the control, not whether there are such sessions.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ApiContext,
    description::{
        Access, ApiMethod, ApiResult, BROKER_BUSY, BROKER_UNAVAILABLE, Example, Field, Handler, JsonType,
        UNKNOWN_NAMESPACE, request_fields,
    },
    request::{
        ApiPosition, ChannelRequest, deserialize_object, empty_result, find_channel, json_or_base64, json_string,
        parse_object,
    },
};
use crate::{
    broker::{Control, ControlAction, RecoverSince},
    clock::{FIRST_MILLISECONDS, WallTime},
    config::OptionOverrides,
    protocol::{DisabledOption, Disconnect, ErrorCode, WireError},
};

const EXAMPLE_ANSWER: &str = r#"{"result":{}}"#;

/// `subscribe`.
pub(super) const SUBSCRIBE: ApiMethod = ApiMethod {
    name: "subscribe",
    access: Access::Write,
    summary: "Subscribes the sessions of a user to a channel, even if the user may not subscribe to it.",
    details: "A session that is already subscribed to the channel is not changed. A session is not subscribed if \
        the channel's name limits it to other users (`#`), if it has `limits.channels_per_session` channels, or if twice as many \
        controls wait for it. The \
        subscription ends by `unsubscribe`, at `expire_at`, or with the session; new tokens do not change it. A client that \
        reconnects and names the channel in `subs` of `connect` gets the subscription again until its token has expired; SDKs \
        name it if it was recoverable. The client does not get it again if the request named `client` or `session`, after a \
        `disconnect` of all connections of the user with a code after which SDKs do not reconnect, or if the hub may have missed \
        an `unsubscribe` meanwhile. `limits.api_grant_bytes` limits what the hub remembers for this.",
    request: &[SessionTarget::FIELDS, SubscribeRequest::FIELDS],
    result: &[],
    errors: &[
        BROKER_UNAVAILABLE,
        BROKER_BUSY,
        UNKNOWN_NAMESPACE,
        (ErrorCode::LimitExceeded, "`info` or `data` is longer than 4,096 bytes, or the epoch longer than 64 bytes"),
        (
            ErrorCode::BadRequest,
            "`user`, `client`, `session`, `channel`, `b64info` or `b64data` is missing or invalid, or `expire_at` is in the past or in milliseconds",
        ),
        (ErrorCode::NotAvailable, "`recover_since` is given for a channel without a history"),
    ],
    example: Example { request: r#"{"user":"bob","channel":"news","info":{"role":"reader"}}"#, answer: EXAMPLE_ANSWER },
    handler: Handler::Single(|body, api| Box::pin(subscribe(body, api))),
};

/// `unsubscribe`.
pub(super) const UNSUBSCRIBE: ApiMethod = ApiMethod {
    name: "unsubscribe",
    access: Access::Write,
    summary: "Ends all subscriptions of a user's sessions to a channel, those of clients, tokens, hooks and the server API.",
    details: "The sessions get an unsubscribe push with code 2000. They may subscribe again if their token or the configuration \
        allows it. A reconnecting client does not get back a subscription that `subscribe` gave it, even if the request named \
        only one connection.",
    request: &[SessionTarget::FIELDS, ChannelRequest::FIELDS],
    result: &[],
    errors: &[
        BROKER_UNAVAILABLE,
        BROKER_BUSY,
        UNKNOWN_NAMESPACE,
        (ErrorCode::BadRequest, "`user`, `client`, `session` or `channel` is missing or invalid"),
    ],
    example: Example { request: r#"{"user":"bob","channel":"news"}"#, answer: EXAMPLE_ANSWER },
    handler: Handler::Single(|body, api| Box::pin(unsubscribe(body, api))),
};

/// `disconnect`.
pub(super) const DISCONNECT: ApiMethod = ApiMethod {
    name: "disconnect",
    access: Access::Write,
    summary: "Closes the connections of a user.",
    details: "Code 3000 cuts the connection, as if the network had failed: the client gets no close frame. A client whose token is still valid may connect again; SDKs reconnect after \
        all codes but 3500 to 3999 and 4500 to 4999. After one of these codes, a user who connects again gets back no subscription \
        that `subscribe` gave, unless the request named connections.",
    request: &[SessionTarget::FIELDS, DisconnectRequest::FIELDS],
    result: &[],
    errors: &[
        BROKER_UNAVAILABLE,
        BROKER_BUSY,
        (ErrorCode::LimitExceeded, "`whitelist` has more than 1,000 ids"),
        (
            ErrorCode::BadRequest,
            "`user`, `client`, `session` or an id in `whitelist` is missing or invalid, or the code or the reason cannot be in a \
             close frame",
        ),
    ],
    example: Example {
        request: r#"{"user":"bob","disconnect":{"code":4001,"reason":"maintenance"}}"#,
        answer: EXAMPLE_ANSWER,
    },
    handler: Handler::Single(|body, api| Box::pin(disconnect(body, api))),
};

/// `refresh`.
pub(super) const REFRESH: ApiMethod = ApiMethod {
    name: "refresh",
    access: Access::Write,
    summary: "Changes when the sessions of a user expire, or ends them as expired.",
    details: "Expired sessions are closed with 3005. The others get a refresh push that says when they expire.",
    request: &[SessionTarget::FIELDS, RefreshRequest::FIELDS],
    result: &[],
    errors: &[
        BROKER_UNAVAILABLE,
        BROKER_BUSY,
        (ErrorCode::LimitExceeded, "`info` is longer than 4,096 bytes"),
        (
            ErrorCode::BadRequest,
            "`user`, `client` or `session` is missing or invalid, or `expire_at` is in the past or in milliseconds",
        ),
    ],
    example: Example { request: r#"{"user":"bob","expire_at":4102444800}"#, answer: EXAMPLE_ANSWER },
    handler: Handler::Single(|body, api| Box::pin(refresh(body, api))),
};

request_fields! {
    /// The sessions that a control is for. Some clients of the API write unset fields as `""`.
    struct SessionTarget {
        /// User whose sessions are meant: 1 to 255 bytes without control characters.
        user: Option<String> = (JsonType::String, None),
        /// Id of the one connection that is meant, at most 64 bytes.
        client: Option<String> = (JsonType::String, Some("all connections of the user")),
        /// Id of the one session that is meant, which is the id of its connection. With `client`, both ids must be those of the session.
        /// If no session matches, the result is empty.
        session: Option<String> = (JsonType::String, Some("all sessions of the user")),
    }
}

request_fields! {
    /// A request of `subscribe`, without its target.
    struct SubscribeRequest<'a> {
        /// Channel to subscribe to.
        channel: Option<String> = (JsonType::String, None),
        /// JSON that others see of this subscription, as `chan_info`. At most 4,096 bytes.
        #[serde(borrow)]
        info: Option<&'a RawValue> = (JsonType::Any, Some("none")),
        /// `info` in Base64, instead of it. It must be JSON, too.
        b64info: Option<String> = (JsonType::String, Some("none")),
        /// JSON that the client gets with the subscribe push. At most 4,096 bytes.
        #[serde(borrow)]
        data: Option<&'a RawValue> = (JsonType::Any, Some("none")),
        /// `data` in Base64, instead of it. It must be JSON, too.
        b64data: Option<String> = (JsonType::String, Some("none")),
        /// Position that the client has. The client gets the publications of the history after it.
        #[serde(default, deserialize_with = "deserialize_object")]
        recover_since: Option<ApiPosition> = (JsonType::Object(ApiPosition::FIELDS), Some("no recovery")),
        /// End of the subscription, in seconds since 1970. It must be in the future.
        expire_at: Option<i64> = (JsonType::Integer, Some("`0`: the end of the session")),
        /// Channel options that differ for this subscription.
        #[serde(default, deserialize_with = "deserialize_object")]
        r#override: Option<RequestedOverrides> = (JsonType::Object(RequestedOverrides::FIELDS), Some("as the channel")),
    }
}

request_fields! {
    /// `override` of a request.
    #[derive(Default)]
    struct RequestedOverrides {
        /// `false`: the subscriber is not in the channel's presence.
        #[serde(default, deserialize_with = "deserialize_object")]
        presence: Option<BooleanOption> = (JsonType::Object(BooleanOption::FIELDS), Some("as the channel")),
        /// Whether others receive its join and leave.
        #[serde(default, deserialize_with = "deserialize_object")]
        join_leave: Option<BooleanOption> = (JsonType::Object(BooleanOption::FIELDS), Some("as the channel")),
        /// Whether it receives joins and leaves.
        #[serde(default, deserialize_with = "deserialize_object")]
        force_push_join_leave: Option<BooleanOption> = (JsonType::Object(BooleanOption::FIELDS), Some("as the channel")),
        /// Whether it has a position, in a channel with a history.
        #[serde(default, deserialize_with = "deserialize_object")]
        force_positioning: Option<BooleanOption> = (JsonType::Object(BooleanOption::FIELDS), Some("as the channel")),
        /// Whether its client can recover, in a channel with a history.
        #[serde(default, deserialize_with = "deserialize_object")]
        force_recovery: Option<BooleanOption> = (JsonType::Object(BooleanOption::FIELDS), Some("as the channel")),
    }
}

request_fields! {
    /// The value of an option, in an object as clients of the API write it.
    struct BooleanOption {
        /// The value.
        #[serde(default)]
        value: bool = (JsonType::Boolean, Some("`false`")),
    }
}

impl From<RequestedOverrides> for OptionOverrides {
    fn from(requested: RequestedOverrides) -> Self {
        let value = |option: Option<BooleanOption>| option.map(|option| option.value);
        Self {
            presence: value(requested.presence),
            join_leave: value(requested.join_leave),
            force_push_join_leave: value(requested.force_push_join_leave),
            force_positioning: value(requested.force_positioning),
            force_recovery: value(requested.force_recovery),
        }
    }
}

request_fields! {
    /// A request of `disconnect`, without its target. The aliases are what gocent writes: Centrifugo reads names in any case.
    struct DisconnectRequest {
        /// Ids of connections that stay, at most 1,000.
        #[serde(alias = "ClientWhitelist")]
        whitelist: Option<Vec<String>> = (JsonType::Array(&JsonType::String), Some("empty")),
        /// Code and reason of the close frame.
        #[serde(default, alias = "Disconnect", deserialize_with = "deserialize_object")]
        disconnect: Option<DisconnectReason> =
            (JsonType::Object(DisconnectReason::FIELDS), Some("code 3503, `force disconnect`")),
    }
}

request_fields! {
    /// The close code and the reason that a request names. Some clients of the API write unset fields as `0` and `""`.
    struct DisconnectReason {
        /// Close code, 3000 to 4999.
        #[serde(default)]
        code: i64 = (JsonType::Integer, Some("`3503`")),
        /// Reason, at most 123 bytes and not valid JSON.
        #[serde(default)]
        reason: String = (JsonType::String, Some("`force disconnect`; empty if `code` is given")),
    }
}

request_fields! {
    /// A request of `refresh`, without its target.
    struct RefreshRequest<'a> {
        /// Ends the sessions now.
        expired: Option<bool> = (JsonType::Boolean, Some("`false`")),
        /// End of the sessions, in seconds since 1970. It must be in the future. Not used with `expired`.
        expire_at: Option<i64> = (JsonType::Integer, Some("`0`: they do not expire")),
        /// JSON that replaces what others see of the user, as `conn_info`. At most 4,096 bytes.
        #[serde(borrow)]
        info: Option<&'a RawValue> = (JsonType::Any, Some("unchanged")),
    }
}

impl SessionTarget {
    /// Hands a control for these sessions to the broker.
    async fn send_control(self, whitelist: Vec<String>, action: ControlAction, api: &ApiContext) -> ApiResult {
        let Self { user, client, session } = self;
        let ids = [client, session].into_iter().flatten().filter(|id| !id.is_empty());
        let mut control = Control { user: user.unwrap_or_default(), client: None, whitelist, action };
        control.validate()?;
        for id in ids {
            let other = control.client.replace(id);
            control.validate()?;
            if other.is_some() && other != control.client {
                // A session has the id of its connection, so none has both.
                return empty_result();
            }
        }
        let sent = api.broker.send_control(control).await;
        sent.inspect_err(|error| log::warn!("could not send server API control error={:?}", error.to_string()))?;
        empty_result()
    }
}

async fn subscribe(body: &Bytes, api: &ApiContext) -> ApiResult {
    let target: SessionTarget = parse_object(body)?;
    let request: SubscribeRequest<'_> = parse_object(body)?;
    let (channel, options) = find_channel(request.channel, api)?;
    if request.recover_since.is_some() && !options.has_history() {
        return Err(DisabledOption { channel: &channel, name: "history_size" }.into());
    }
    let action = ControlAction::Subscribe {
        channel: channel.as_str().to_owned(),
        info: json_or_base64(body, request.info, request.b64info.as_deref())?.as_ref().map(json_string),
        data: json_or_base64(body, request.data, request.b64data.as_deref())?.as_ref().map(json_string),
        recover_since: request.recover_since.map(|ApiPosition { offset, epoch }| RecoverSince { offset, epoch }),
        expires_at: parse_end(request.expire_at, api)?,
        overrides: request.r#override.unwrap_or_default().into(),
    };
    target.send_control(Vec::new(), action, api).await
}

async fn unsubscribe(body: &Bytes, api: &ApiContext) -> ApiResult {
    let target: SessionTarget = parse_object(body)?;
    let ChannelRequest { channel } = parse_object(body)?;
    let (channel, _) = find_channel(channel, api)?;
    target.send_control(Vec::new(), ControlAction::Unsubscribe { channel: channel.as_str().to_owned() }, api).await
}

async fn disconnect(body: &Bytes, api: &ApiContext) -> ApiResult {
    let target: SessionTarget = parse_object(body)?;
    let DisconnectRequest { whitelist, disconnect } = parse_object(body)?;
    let action = match disconnect {
        Some(DisconnectReason { code: 0, reason }) if !reason.is_empty() => {
            ControlAction::Disconnect { code: Disconnect::FORCED.code(), reason }
        }
        None | Some(DisconnectReason { code: 0, .. }) => disconnect_with(&Disconnect::FORCED),
        Some(DisconnectReason { code, reason }) => {
            let code = u16::try_from(code).map_err(|_| ErrorCode::BadRequest)?;
            ControlAction::Disconnect { code, reason }
        }
    };
    target.send_control(whitelist.unwrap_or_default(), action, api).await
}

async fn refresh(body: &Bytes, api: &ApiContext) -> ApiResult {
    let target: SessionTarget = parse_object(body)?;
    let RefreshRequest { expired, expire_at, info } = parse_object(body)?;
    let action = if expired.unwrap_or_default() {
        disconnect_with(&Disconnect::EXPIRED)
    } else {
        ControlAction::Refresh {
            expires_at: parse_end(expire_at, api)?,
            info: json_or_base64(body, info, None)?.as_ref().map(json_string),
        }
    };
    target.send_control(Vec::new(), action, api).await
}

fn disconnect_with(disconnect: &Disconnect) -> ControlAction {
    ControlAction::Disconnect { code: disconnect.code(), reason: disconnect.reason().to_owned() }
}

/// Returns the date that a request names as `expire_at`. Some clients of the API write an unset date as 0.
pub(super) fn parse_end(seconds: Option<i64>, api: &ApiContext) -> Result<Option<WallTime>, WireError> {
    let Some(seconds) = seconds.filter(|seconds| *seconds != 0) else { return Ok(None) };
    let bad = |problem| {
        Err(ErrorCode::BadRequest.with_detail(format_args!(
            "expire_at must be a date in the future, in seconds since 1970; {seconds} {problem}"
        )))
    };
    match WallTime::from_unix_seconds(seconds) {
        _ if seconds >= FIRST_MILLISECONDS => bad("is in milliseconds"),
        end if end <= api.clock.now() => bad("is in the past"),
        end => Ok(Some(end)),
    }
}
