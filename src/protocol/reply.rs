//! Replies to commands, as JSON without their frame.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::{error::ErrorCode, json};

/// The result of `connect`.
#[derive(Debug, Serialize)]
pub struct ConnectResult<'a> {
    /// This connection's id.
    pub client: &'a str,
    /// See [`super::VERSION`].
    pub version: &'a str,
    /// When the session ends by itself.
    #[serde(flatten)]
    pub expiry: Expiry,
    /// What the session is subscribed to without having asked.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subs: BTreeMap<&'a str, SubscribeResult<'a>>,
    /// Seconds between our pings.
    #[serde(skip_serializing_if = "is_zero")]
    pub ping: u32,
    /// Whether the client has to answer them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pong: bool,
    /// This session's id.
    pub session: &'a str,
    /// The instance's id.
    pub node: &'a str,
}

/// The end of a session or a subscription, as clients are told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expiry {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expires: bool,
    #[serde(skip_serializing_if = "is_zero")]
    ttl: u32,
}

impl Expiry {
    /// It ends by itself; `ttl` are the seconds until the client should refresh, shorter than the truth by
    /// `auth.refresh_margin`.
    pub fn after(ttl: u32) -> Self {
        Self { expires: true, ttl }
    }

    /// It does not.
    pub const NEVER: Self = Self { expires: false, ttl: 0 };
}

/// The result of `subscribe`, and of a subscription that a token brings.
#[derive(Debug, Default, Serialize)]
pub struct SubscribeResult<'a> {
    /// When the subscription ends by itself.
    #[serde(flatten)]
    pub expiry: Expiry,
    /// Raw JSON of the token for the client.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "json::raw_borrowed")]
    pub data: Option<&'a Bytes>,
}

/// The result of `refresh`.
#[derive(Debug, Serialize)]
pub struct RefreshResult<'a> {
    /// This connection's id.
    pub client: &'a str,
    /// See [`super::VERSION`].
    pub version: &'a str,
    /// When the session ends by itself from now on.
    #[serde(flatten)]
    pub expiry: Expiry,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `{"id":1,"connect":{…}}`
pub fn connect_reply(id: u32, result: &ConnectResult<'_>) -> Vec<u8> {
    reply(id, "connect", result)
}

/// `{"id":1,"subscribe":{…}}`
pub fn subscribe_reply(id: u32, result: &SubscribeResult<'_>) -> Vec<u8> {
    reply(id, "subscribe", result)
}

/// `{"id":1,"refresh":{…}}`
pub fn refresh_reply(id: u32, result: &RefreshResult<'_>) -> Vec<u8> {
    reply(id, "refresh", result)
}

/// `{"id":1,"sub_refresh":{…}}`
pub fn sub_refresh_reply(id: u32, expiry: Expiry) -> Vec<u8> {
    reply(id, "sub_refresh", &expiry)
}

/// `{"id":1,"unsubscribe":{}}`: done, and nothing to say about it.
pub fn empty_reply(id: u32, method: &'static str) -> Vec<u8> {
    format!(r#"{{"id":{id},"{method}":{{}}}}"#).into_bytes()
}

/// `{"id":1,"error":{…}}`; without id where the text was no command.
pub fn error_reply(id: u32, error: ErrorCode) -> Vec<u8> {
    #[derive(Serialize)]
    struct Reply {
        #[serde(skip_serializing_if = "is_zero")]
        id: u32,
        error: super::error::ErrorBody,
    }
    let mut into = Vec::with_capacity(128);
    json::append(&mut into, &Reply { id, error: error.body() });
    into
}

fn reply(id: u32, method: &str, result: &impl Serialize) -> Vec<u8> {
    let mut into = Vec::with_capacity(256);
    into.extend_from_slice(format!(r#"{{"id":{id},"{method}":"#).as_bytes());
    json::append(&mut into, result);
    into.push(b'}');
    into
}
