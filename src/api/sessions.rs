//! `subscribe`, `unsubscribe`, `disconnect` and `refresh`: orders to the sessions of a user, wherever they are. Whether there are any is
//! not told: the answer is there when the broker has the order.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    ApiContext, ApiError, EmptyResult,
    request::{ApiPosition, parse_object, single_line_string},
};
use crate::{
    broker::{Control, ControlAction, RecoverSince},
    channel::Channel,
    protocol::{Disconnect, ErrorCode},
};

/// How a session goes that is told to, and not why: it shall not come back.
const FORCE_DISCONNECT: (u16, &str) = (3503, "force disconnect");

#[derive(Deserialize)]
struct SubscribeRequest<'a> {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    channel: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    recover_since: Option<ApiPosition>,
    /// Seconds since the epoch; 0 or nothing: no end.
    expire_at: Option<i64>,
    /// Options of the channel for one subscription: there are none here, and to ignore them would be a lie.
    #[serde(borrow, rename = "override")]
    overridden: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct UnsubscribeRequest {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    channel: Option<String>,
}

#[derive(Deserialize)]
struct DisconnectRequest {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    whitelist: Option<Vec<String>>,
    disconnect: Option<DisconnectReason>,
}

/// Some clients write what was not set as 0 and "".
#[derive(Deserialize)]
struct DisconnectReason {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct RefreshRequest<'a> {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    expired: Option<bool>,
    /// Seconds since the epoch; 0 or nothing: no end.
    expire_at: Option<i64>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
}

/// Gives a channel to them, whatever they may subscribe to by themselves.
pub(super) async fn subscribe(body: &Bytes, api: &ApiContext) -> Result<EmptyResult, ApiError> {
    let SubscribeRequest { user, client, session, channel, info, data, recover_since, expire_at, overridden } =
        parse_object(body)?;
    let channel = Channel::new(&channel.unwrap_or_default())?;
    let options = api.permissions.channel_options(&channel)?;
    if overridden.is_some() || (recover_since.is_some() && !options.has_history()) {
        return Err(ErrorCode::NotAvailable.into());
    }
    let action = ControlAction::Subscribe {
        channel: channel.as_str().to_owned(),
        info: info.map(|info| single_line_string(body, info)),
        data: data.map(|data| single_line_string(body, data)),
        recover_since: recover_since.map(|ApiPosition { offset, epoch }| RecoverSince { offset, epoch }),
        expires_at: to_millis(expire_at),
    };
    send_control(
        Control {
            user: user.unwrap_or_default(),
            client: single_client_id(client, session)?,
            whitelist: Vec::new(),
            action,
        },
        api,
    )
    .await
}

/// Takes a channel from them.
pub(super) async fn unsubscribe(body: &Bytes, api: &ApiContext) -> Result<EmptyResult, ApiError> {
    let UnsubscribeRequest { user, client, session, channel } = parse_object(body)?;
    let channel = Channel::new(&channel.unwrap_or_default())?;
    api.permissions.channel_options(&channel)?;
    let action = ControlAction::Unsubscribe { channel: channel.as_str().to_owned() };
    send_control(
        Control {
            user: user.unwrap_or_default(),
            client: single_client_id(client, session)?,
            whitelist: Vec::new(),
            action,
        },
        api,
    )
    .await
}

/// Closes them.
pub(super) async fn disconnect(body: &Bytes, api: &ApiContext) -> Result<EmptyResult, ApiError> {
    let DisconnectRequest { user, client, session, whitelist, disconnect } = parse_object(body)?;
    let action = match disconnect {
        None => disconnect_action(FORCE_DISCONNECT.0, FORCE_DISCONNECT.1),
        Some(DisconnectReason { code: 0, reason }) if reason.is_empty() => {
            disconnect_action(FORCE_DISCONNECT.0, FORCE_DISCONNECT.1)
        }
        Some(DisconnectReason { code: 0, reason }) => disconnect_action(FORCE_DISCONNECT.0, &reason),
        Some(DisconnectReason { code, reason }) => {
            disconnect_action(u16::try_from(code).map_err(|_| ErrorCode::BadRequest)?, &reason)
        }
    };
    let (client, whitelist) = (single_client_id(client, session)?, whitelist.unwrap_or_default());
    send_control(Control { user: user.unwrap_or_default(), client, whitelist, action }, api).await
}

/// Lets them live longer or shorter than their tokens say, or not any more.
pub(super) async fn refresh(body: &Bytes, api: &ApiContext) -> Result<EmptyResult, ApiError> {
    let RefreshRequest { user, client, session, expired, expire_at, info } = parse_object(body)?;
    let expires_at = to_millis(expire_at);
    let is_over = expired.unwrap_or_default() || expires_at.is_some_and(|end| end <= api.clock.now());
    let action = if is_over {
        disconnect_action(Disconnect::EXPIRED.code(), Disconnect::EXPIRED.reason())
    } else {
        ControlAction::Refresh { expires_at, info: info.map(|info| single_line_string(body, info)) }
    };
    send_control(
        Control {
            user: user.unwrap_or_default(),
            client: single_client_id(client, session)?,
            whitelist: Vec::new(),
            action,
        },
        api,
    )
    .await
}

/// Some clients write what was not set as 0.
fn to_millis(seconds: Option<i64>) -> Option<i64> {
    seconds.filter(|seconds| *seconds != 0).map(|seconds| seconds.saturating_mul(1000))
}

fn disconnect_action(code: u16, reason: &str) -> ControlAction {
    ControlAction::Disconnect { code, reason: reason.to_owned() }
}

/// A session's id is its connection's: to name both is fine if they are the same.
fn single_client_id(client: Option<String>, session: Option<String>) -> Result<Option<String>, ErrorCode> {
    let named = |id: Option<String>| id.filter(|id| !id.is_empty());
    match (named(client), named(session)) {
        (Some(client), Some(session)) if client != session => Err(ErrorCode::BadRequest),
        (client, session) => Ok(client.or(session)),
    }
}

async fn send_control(control: Control, api: &ApiContext) -> Result<EmptyResult, ApiError> {
    control.validate()?;
    let sent = api.broker.send_control(control).await;
    sent.inspect_err(|error| log::warn!("an order to sessions: {error}"))?;
    Ok(EmptyResult {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_and_session_must_name_the_same_connection() {
        let single_client_id =
            |client: &str, session: &str| single_client_id(Some(client.to_owned()), Some(session.to_owned()));
        assert_eq!(single_client_id("", ""), Ok(None));
        assert_eq!(single_client_id("a", ""), Ok(Some("a".to_owned())));
        assert_eq!(single_client_id("", "a"), Ok(Some("a".to_owned())));
        assert_eq!(single_client_id("a", "a"), Ok(Some("a".to_owned())));
        assert_eq!(single_client_id("a", "b"), Err(ErrorCode::BadRequest));
    }
}
