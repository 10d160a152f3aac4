//! Replies to commands, as JSON without their frame.

use serde::Serialize;

use super::{error::ErrorCode, json};

/// The result of `connect`.
#[derive(Debug, Serialize)]
pub struct ConnectResult<'a> {
    /// This connection's id.
    pub client: &'a str,
    /// See [`super::VERSION`].
    pub version: &'a str,
    /// Whether the session ends by itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expires: bool,
    /// Seconds until the client should refresh: shorter than the truth by `auth.refresh_margin`.
    #[serde(skip_serializing_if = "is_zero")]
    pub ttl: u32,
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

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `{"id":1,"connect":{…}}`
pub fn connect_reply(id: u32, result: &ConnectResult<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Reply<'a> {
        id: u32,
        connect: &'a ConnectResult<'a>,
    }
    written(&Reply { id, connect: result })
}

/// `{"id":1,"subscribe":{}}`: done, and nothing to say about it.
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
    written(&Reply { id, error: error.body() })
}

fn written(reply: &impl Serialize) -> Vec<u8> {
    let mut into = Vec::with_capacity(256);
    json::append(&mut into, reply);
    into
}
