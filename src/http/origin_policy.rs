//! Whose page asks. Browsers let any page open a WebSocket anywhere and send the cookies of where it goes; the `Origin` they
//! add is what tells pages apart (RFC 6455 §10.2).

use std::sync::Arc;

use actix_http::RequestHead;
use actix_web::http::header::ORIGIN;

use super::{HttpError, forwarded};
use crate::{
    config::Config,
    origin::{Origin, OriginPattern},
};

/// The pages that may use us.
#[derive(Debug)]
pub struct OriginPolicy {
    config: Arc<Config>,
    /// `server.public_url`.
    own: Option<Origin>,
    /// `origins.allowed`.
    rules: Vec<OriginPattern>,
}

/// What the sender of a request is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginCheck {
    /// No page: it sends no `Origin`.
    NoOrigin,
    /// A page of our own origin or of one that is listed.
    Listed,
    /// Another page, where all are let in; not with what a browser adds by itself.
    Wildcard,
    /// A page that has no business here.
    Denied,
    /// More than one `Origin`: which of them a proxy looked at is unknown.
    Ambiguous,
}

impl OriginPolicy {
    /// The pages that are configured.
    pub fn new(config: Arc<Config>) -> Self {
        let own = config.server.public_url.as_deref().and_then(Origin::parse);
        let rules = config.origins.allowed.iter().filter_map(|entry| OriginPattern::parse(entry)).collect();
        Self { config, own, rules }
    }

    /// Judges the `Origin` of a request.
    pub fn check(&self, head: &RequestHead) -> OriginCheck {
        let mut values = head.headers.get_all(&ORIGIN);
        let value = match (values.next(), values.next()) {
            (None, _) => return OriginCheck::NoOrigin,
            (Some(value), None) => value,
            (Some(_), Some(_)) => return OriginCheck::Ambiguous,
        };
        let origin = value.to_str().ok().and_then(Origin::parse);
        let is_ours = |origin: &Origin| self.is_own(origin, head) || self.rules.iter().any(|rule| rule.lists(origin));
        // OriginPolicy without an origin (`null`: sandboxed frames, files) are any page's to make.
        let is_any = self.rules.contains(&OriginPattern::Any) && (origin.is_some() || value.as_bytes() == b"null");
        match origin {
            Some(origin) if is_ours(&origin) => OriginCheck::Listed,
            _ if is_any => OriginCheck::Wildcard,
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
    /// Lets in whom a page may be who brings what it knows.
    ///
    /// # Errors
    /// 403, and 400 for two origins.
    pub fn require_allowed(self) -> Result<(), HttpError> {
        match self {
            Self::NoOrigin | Self::Listed | Self::Wildcard => Ok(()),
            Self::Denied => Err(HttpError::forbidden("this page's origin is not in origins.allowed")),
            Self::Ambiguous => Err(HttpError::bad_request("one Origin, or none")),
        }
    }

    /// The same where a browser adds cookies by itself, or keeps them: of any page it would do so, too.
    ///
    /// # Errors
    /// As [`OriginCheck::require_allowed`].
    pub fn require_listed(self) -> Result<(), HttpError> {
        match self {
            Self::Wildcard => Err(HttpError::forbidden(
                "with cookies the page's origin must be listed in origins.allowed; \"*\" is not enough",
            )),
            other => other.require_allowed(),
        }
    }
}
