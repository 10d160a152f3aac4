//! `subscribe`, `unsubscribe`, `disconnect` and `refresh`: orders to the sessions of a user, wherever they are. Whether there are any is
//! not told: the answer is there when the broker has the order.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Fault, Nothing, Shared, denied, failed,
    request::{one_line, read_object},
};
use crate::{
    broker::{BadControl, Control, Order, Place},
    channel::Channel,
    protocol::{Disconnect, ErrorCode},
};

/// How a session goes that is told to, and not why: it shall not come back.
const FORCED: (u16, &str) = (3503, "force disconnect");

#[derive(Deserialize)]
struct Subscribe<'a> {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    channel: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    recover_since: Option<Since>,
    /// Seconds since the epoch; 0 or nothing: no end.
    expire_at: Option<i64>,
    /// Options of the channel for one subscription: there are none here, and to ignore them would be a lie.
    #[serde(borrow, rename = "override")]
    overridden: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    epoch: String,
}

#[derive(Deserialize)]
struct Unsubscribe {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    channel: Option<String>,
}

#[derive(Deserialize)]
struct Leave {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    whitelist: Option<Vec<String>>,
    disconnect: Option<Close>,
}

/// Some clients write what was not set as 0 and "".
#[derive(Deserialize)]
struct Close {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Refresh<'a> {
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
pub(super) async fn subscribe(body: &Bytes, shared: &Shared) -> Result<Nothing, Fault> {
    let Subscribe { user, client, session, channel, info, data, recover_since, expire_at, overridden } =
        read_object(body)?;
    let channel = Channel::new(&channel.unwrap_or_default()).map_err(|_| ErrorCode::BadRequest)?;
    let options = shared.permissions.known(&channel).map_err(denied)?;
    if overridden.is_some() || (recover_since.is_some() && !options.has_history()) {
        return Err(ErrorCode::NotAvailable.into());
    }
    let order = Order::Subscribe {
        channel: channel.as_str().to_owned(),
        info: info.map(|info| one_line(body, info)),
        data: data.map(|data| one_line(body, data)),
        since: recover_since.map(|Since { offset, epoch }| Place { offset, epoch }),
        expires_at: millis(expire_at),
    };
    give(
        Control { user: user.unwrap_or_default(), client: one_of(client, session)?, whitelist: Vec::new(), order },
        shared,
    )
    .await
}

/// Takes a channel from them.
pub(super) async fn unsubscribe(body: &Bytes, shared: &Shared) -> Result<Nothing, Fault> {
    let Unsubscribe { user, client, session, channel } = read_object(body)?;
    let channel = Channel::new(&channel.unwrap_or_default()).map_err(|_| ErrorCode::BadRequest)?;
    shared.permissions.known(&channel).map_err(denied)?;
    let order = Order::Unsubscribe { channel: channel.as_str().to_owned() };
    give(
        Control { user: user.unwrap_or_default(), client: one_of(client, session)?, whitelist: Vec::new(), order },
        shared,
    )
    .await
}

/// Closes them.
pub(super) async fn disconnect(body: &Bytes, shared: &Shared) -> Result<Nothing, Fault> {
    let Leave { user, client, session, whitelist, disconnect } = read_object(body)?;
    let order = match disconnect {
        None => close(FORCED.0, FORCED.1),
        Some(Close { code: 0, reason }) if reason.is_empty() => close(FORCED.0, FORCED.1),
        Some(Close { code: 0, reason }) => close(FORCED.0, &reason),
        Some(Close { code, reason }) => close(u16::try_from(code).map_err(|_| ErrorCode::BadRequest)?, &reason),
    };
    let (client, whitelist) = (one_of(client, session)?, whitelist.unwrap_or_default());
    give(Control { user: user.unwrap_or_default(), client, whitelist, order }, shared).await
}

/// Lets them live longer or shorter than their tokens say, or not any more.
pub(super) async fn refresh(body: &Bytes, shared: &Shared) -> Result<Nothing, Fault> {
    let Refresh { user, client, session, expired, expire_at, info } = read_object(body)?;
    let expires_at = millis(expire_at);
    let is_over = expired.unwrap_or_default() || expires_at.is_some_and(|end| end <= shared.clock.now());
    let order = if is_over {
        close(Disconnect::EXPIRED.code(), Disconnect::EXPIRED.reason())
    } else {
        Order::Refresh { expires_at, info: info.map(|info| one_line(body, info)) }
    };
    give(
        Control { user: user.unwrap_or_default(), client: one_of(client, session)?, whitelist: Vec::new(), order },
        shared,
    )
    .await
}

/// Some clients write what was not set as 0.
fn millis(seconds: Option<i64>) -> Option<i64> {
    seconds.filter(|seconds| *seconds != 0).map(|seconds| seconds.saturating_mul(1000))
}

fn close(code: u16, reason: &str) -> Order {
    Order::Disconnect { code, reason: reason.to_owned() }
}

/// A session's id is its connection's: to name both is fine if they are the same.
fn one_of(client: Option<String>, session: Option<String>) -> Result<Option<String>, ErrorCode> {
    let named = |id: Option<String>| id.filter(|id| !id.is_empty());
    match (named(client), named(session)) {
        (Some(client), Some(session)) if client != session => Err(ErrorCode::BadRequest),
        (client, session) => Ok(client.or(session)),
    }
}

async fn give(control: Control, shared: &Shared) -> Result<Nothing, Fault> {
    control.check().map_err(|bad| match bad {
        BadControl::TooLong => ErrorCode::LimitExceeded,
        _ => ErrorCode::BadRequest,
    })?;
    shared.broker.control(control).await.map_err(|error| {
        log::warn!("an order to sessions: {error}");
        failed(&error)
    })?;
    Ok(Nothing {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_once_or_twice_alike() {
        let one_of = |client: &str, session: &str| one_of(Some(client.to_owned()), Some(session.to_owned()));
        assert_eq!(one_of("", ""), Ok(None));
        assert_eq!(one_of("a", ""), Ok(Some("a".to_owned())));
        assert_eq!(one_of("", "a"), Ok(Some("a".to_owned())));
        assert_eq!(one_of("a", "a"), Ok(Some("a".to_owned())));
        assert_eq!(one_of("a", "b"), Err(ErrorCode::BadRequest));
    }
}
