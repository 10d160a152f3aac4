//! `/demo/hub.json`: the facts about the hub that the demo page needs. Everyone can read it, so it contains no secret.

use bytes::Bytes;
use serde::Serialize;

use crate::config::{AnonymousAccess, Config, Door};

#[derive(Serialize)]
struct Facts<'a> {
    version: &'static str,
    /// The first of `server.websocket_paths`.
    websocket_path: &'a str,
    doors: &'a [Door],
    /// Whether the server API has another address than this page (`server.internal_bind`).
    internal_api: bool,
    /// Whether `POST /auth/login` exists.
    login: bool,
    /// Whether a login has a refresh token, for `POST /auth/refresh`.
    login_refresh: bool,
    /// Whether a login may request the cookie.
    login_cookie: bool,
    anonymous: AnonymousAccess,
    /// Whether a `user_prefix` may precede the `sub` of a token in the name of its user.
    user_prefixes: bool,
    /// Seconds by which the time to live that clients are sent is shorter than the real one.
    refresh_margin: u64,
    /// Maximum length of a message of a client, and of the `data` of a publication, in bytes.
    message_bytes: usize,
    publication_bytes: usize,
}

/// Returns the JSON body of `/demo/hub.json`.
pub(super) fn json(config: &Config, has_login: bool) -> Bytes {
    let auth = &config.auth;
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        websocket_path: config.server.websocket_paths.first().map_or("/", String::as_str),
        doors: &auth.doors,
        internal_api: config.server.internal_bind.is_some(),
        login: has_login,
        login_refresh: has_login && config.login.gives_refresh_tokens(),
        login_cookie: has_login && config.login.can_set_cookie(&auth.doors),
        anonymous: auth.anonymous,
        user_prefixes: auth.user_prefix.is_some() || auth.keys.iter().any(|key| key.user_prefix.is_some()),
        refresh_margin: auth.refresh_margin.as_secs(),
        message_bytes: config.limits.message_bytes,
        publication_bytes: config.limits.publication_bytes,
    };
    // Serializing these field types cannot fail.
    serde_json::to_vec(&facts).unwrap_or_default().into()
}
