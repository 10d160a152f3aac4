//! Checks the `Origin` of requests. Browsers let any page open a WebSocket to any host, and send that host's cookies
//! with it; only the `Origin` header tells which page it was (RFC 6455 §10.2).

use std::sync::Arc;

use actix_http::RequestHead;
use actix_web::http::header::ORIGIN;

use super::{HttpError, forwarded};
use crate::{
    config::Config,
    origin::{Origin, OriginPattern},
};

/// The origins whose pages may use this server.
#[derive(Debug)]
pub struct OriginPolicy {
    config: Arc<Config>,
    /// `server.public_url`. Not set: the scheme and host of each request.
    own: Option<Origin>,
    /// `origins.allowed`.
    allowed: Vec<OriginPattern>,
}

/// How the `Origin` of a request relates to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginCheck {
    /// No `Origin`: not sent by a page.
    NoOrigin,
    /// The server's own origin, or one that `origins.allowed` lists.
    Listed,
    /// Another origin, allowed by `"*"`; its requests must not be authenticated by cookies.
    Wildcard,
    /// An origin that is not allowed.
    Denied,
    /// Several `Origin` headers: a proxy in front may have checked a different one.
    Ambiguous,
}

impl OriginPolicy {
    /// The policy of a configuration.
    pub fn new(config: Arc<Config>) -> Self {
        let own = config.server.public_url.as_deref().and_then(Origin::parse);
        let allowed = config.origins.allowed.iter().filter_map(|entry| OriginPattern::parse(entry)).collect();
        Self { config, own, allowed }
    }

    /// Checks the `Origin` of a request.
    pub fn check(&self, head: &RequestHead) -> OriginCheck {
        let mut values = head.headers.get_all(&ORIGIN);
        let value = match (values.next(), values.next()) {
            (None, _) => return OriginCheck::NoOrigin,
            (Some(value), None) => value,
            (Some(_), Some(_)) => return OriginCheck::Ambiguous,
        };
        let origin = value.to_str().ok().and_then(Origin::parse);
        let is_listed =
            |origin: &Origin| self.is_own(origin, head) || self.allowed.iter().any(|pattern| pattern.lists(origin));
        // Sandboxed frames and files send `null`. Any page can create such a frame, so only "*" allows it.
        let is_wildcard =
            self.allowed.contains(&OriginPattern::Any) && (origin.is_some() || value.as_bytes() == b"null");
        match origin {
            Some(origin) if is_listed(&origin) => OriginCheck::Listed,
            _ if is_wildcard => OriginCheck::Wildcard,
            _ => OriginCheck::Denied,
        }
    }

    fn is_own(&self, origin: &Origin, head: &RequestHead) -> bool {
        match &self.own {
            Some(own) => own == origin,
            None => {
                let scheme = forwarded::client_scheme(head, &self.config.server);
                forwarded::request_host(head).and_then(|host| Origin::from_parts(scheme, host)).as_ref() == Some(origin)
            }
        }
    }
}

impl OriginCheck {
    /// Requires an origin that may send explicit credentials (a token or a password).
    ///
    /// # Errors
    /// 403 for an origin that is not allowed, 400 for several `Origin` headers.
    pub fn require_allowed(self) -> Result<(), HttpError> {
        match self {
            Self::NoOrigin | Self::Listed | Self::Wildcard => Ok(()),
            Self::Denied => Err(HttpError::forbidden("the origin of this page is not in origins.allowed")),
            Self::Ambiguous => Err(HttpError::bad_request("several Origin headers; send at most one")),
        }
    }

    /// Requires an origin for which the browser may send or store cookies: `"*"` is not enough, since a browser does so
    /// for every page.
    ///
    /// # Errors
    /// As [`OriginCheck::require_allowed`].
    pub fn require_listed(self) -> Result<(), HttpError> {
        match self {
            Self::Wildcard => Err(HttpError::forbidden(
                "for cookies, origins.allowed must list the origin of this page; \"*\" is not enough",
            )),
            other => other.require_allowed(),
        }
    }
}
