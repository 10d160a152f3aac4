//! Checks the `Origin` of requests. Browsers let any page open a WebSocket to any host, and send that host's cookies
//! with it; only the `Origin` header tells which page it was (RFC 6455 §10.2).

use std::sync::Arc;

use actix_http::RequestHead;
use actix_web::http::header::ORIGIN;
use arc_swap::ArcSwap;

use super::{HttpContext, HttpError, forwarded, request_id::id_of};
use crate::{
    audit::AuditFields,
    auth::refusal_log::{OriginRefusal, Refusal},
    config::{LiveConfig, OriginsConfig},
    origin::{Origin, OriginPattern},
};

/// Maximum characters of an origin in the log. No real one is longer.
const MAX_LOGGED_ORIGIN_CHARS: usize = 270;

/// The origins whose pages may use this server.
#[derive(Debug)]
pub struct OriginPolicy {
    config: Arc<LiveConfig>,
    /// `server.public_url`. Not set: the scheme and host of each request.
    own: Option<Origin>,
    /// `origins.allowed`.
    allowed: ArcSwap<Vec<OriginPattern>>,
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
    pub fn new(config: Arc<LiveConfig>) -> Self {
        let current = config.current();
        let own = current.server.public_url.as_deref().and_then(Origin::parse);
        let allowed = ArcSwap::from_pointee(parse_allowed(&current.origins));
        Self { config, own, allowed }
    }

    /// Replaces `origins.allowed`. Requests are checked against the new ones from now on.
    pub fn replace_allowed(&self, origins: &OriginsConfig) {
        self.allowed.store(Arc::new(parse_allowed(origins)));
    }

    /// Checks the `Origin` of a request.
    pub fn check(&self, head: &RequestHead) -> OriginCheck {
        let mut values = head.headers.get_all(&ORIGIN);
        let value = match (values.next(), values.next()) {
            (None, _) => return OriginCheck::NoOrigin,
            (Some(value), None) => value,
            (Some(_), Some(_)) => return OriginCheck::Ambiguous,
        };
        let (origin, allowed) = (value.to_str().ok().and_then(Origin::parse), self.allowed.load());
        let is_listed =
            |origin: &Origin| self.is_own(origin, head) || allowed.iter().any(|pattern| pattern.lists(origin));
        // Sandboxed frames and files send `null`. Any page can create such a frame, so only "*" allows it.
        let is_wildcard = allowed.contains(&OriginPattern::Any) && (origin.is_some() || value.as_bytes() == b"null");
        match origin {
            Some(origin) if is_listed(&origin) => OriginCheck::Listed,
            _ if is_wildcard => OriginCheck::Wildcard,
            _ => OriginCheck::Denied,
        }
    }

    /// Returns whether a request is of a page that this server has served: its one `Origin` is `server.public_url`, or the scheme and
    /// the host of the request. What `origins.allowed` lists does not count. `None`: no `Origin`.
    pub fn is_same_origin(&self, head: &RequestHead, scheme: &str) -> Option<bool> {
        let mut values = head.headers.get_all(&ORIGIN);
        let value = values.next()?;
        let origin = value.to_str().ok().and_then(Origin::parse).filter(|_| values.next().is_none());
        let at_host = forwarded::request_host(head).and_then(|host| Origin::from_parts(scheme, host));
        Some(origin.is_some() && (origin == at_host || origin == self.own))
    }

    /// Returns whether an origin is that of a page for which a browser has sent `Sec-Fetch-Site: same-origin` with a request:
    /// `server.public_url`, or the host of the request. Proxies hide the scheme, and browsers send the header over TLS or to this machine only.
    pub(super) fn is_of_own_page(&self, origin: &str, head: &RequestHead) -> bool {
        let Some(origin) = Origin::parse(origin) else { return false };
        let of_host = |scheme| forwarded::request_host(head).and_then(|host| Origin::from_parts(scheme, host));
        self.own.as_ref() == Some(&origin)
            || ["https", "http"].into_iter().filter_map(of_host).any(|of_host| of_host == origin)
    }

    fn is_own(&self, origin: &Origin, head: &RequestHead) -> bool {
        match &self.own {
            Some(own) => own == origin,
            None => {
                let scheme = forwarded::client_scheme(head, &self.config.current().server);
                forwarded::request_host(head).and_then(|host| Origin::from_parts(scheme, host)).as_ref() == Some(origin)
            }
        }
    }
}

fn parse_allowed(origins: &OriginsConfig) -> Vec<OriginPattern> {
    origins.allowed.iter().filter_map(|entry| OriginPattern::parse(entry)).collect()
}

/// Logs that the page of a request is refused.
pub(super) fn record_refusal(context: &HttpContext, refusal: OriginRefusal, head: &RequestHead) {
    let address = Some(forwarded::client_address(head, &context.config.current().server));
    let origin = head.headers.get(&ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let origin: String = origin.iter().flat_map(|origin| origin.chars()).take(MAX_LOGGED_ORIGIN_CHARS).collect();
    let source = AuditFields {
        address,
        origin: Some(&origin),
        path: Some(head.uri.path()),
        request: id_of(head),
        ..AuditFields::default()
    };
    context.refusals.record_from(Refusal::Origin(refusal), &source);
}

impl OriginCheck {
    /// Requires an origin that may send explicit credentials (a token or a password).
    ///
    /// # Errors
    /// 403 for an origin that is not allowed, 400 for several `Origin` headers.
    pub fn require_allowed(self) -> Result<(), HttpError> {
        match self {
            Self::NoOrigin | Self::Listed | Self::Wildcard => Ok(()),
            Self::Denied => Err(HttpError::forbidden(OriginRefusal::NotAllowed.to_string())),
            Self::Ambiguous => Err(HttpError::bad_request(OriginRefusal::Ambiguous.to_string())),
        }
    }

    /// Returns why an origin that may not send explicit credentials is refused.
    pub fn refusal(self) -> Option<OriginRefusal> {
        match self {
            Self::NoOrigin | Self::Listed | Self::Wildcard => None,
            Self::Denied => Some(OriginRefusal::NotAllowed),
            Self::Ambiguous => Some(OriginRefusal::Ambiguous),
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
