//! `/demo/hub.json`: what the page has to know of the hub. Anybody may read it, so nothing in it is secret.

use bytes::Bytes;
use serde::Serialize;

use crate::config::{AnonymousAccess, Config, Door};

#[derive(Serialize)]
struct Facts<'a> {
    version: &'static str,
    /// The first of `server.websocket_paths`.
    websocket_path: &'a str,
    doors: &'a [Door],
    /// Whether there is a login.
    login: bool,
    /// Whether a login may ask for the cookie.
    login_cookie: bool,
    anonymous: AnonymousAccess,
    /// Seconds by which clients are told a shorter time than they have.
    refresh_margin: u64,
    /// The longest `data` of a publication.
    publication_bytes: usize,
}

/// The facts of `config`, as they are sent.
pub(super) fn json(config: &Config, has_login: bool) -> Bytes {
    let auth = &config.auth;
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        websocket_path: config.server.websocket_paths.first().map_or("/", String::as_str),
        doors: &auth.doors,
        login: has_login,
        login_cookie: has_login && config.login.can_set_cookie(&auth.doors),
        anonymous: auth.anonymous,
        refresh_margin: auth.refresh_margin.as_secs(),
        publication_bytes: config.limits.publication_bytes,
    };
    // Nothing in it can fail to be written.
    serde_json::to_vec(&facts).unwrap_or_default().into()
}
