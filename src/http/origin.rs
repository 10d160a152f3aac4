//! Whose page asks. Browsers let any page open a WebSocket anywhere and send the cookies of where it goes; the `Origin` they
//! add is what tells pages apart (RFC 6455 §10.2).

use std::sync::Arc;

use actix_http::RequestHead;
use actix_web::http::header::ORIGIN;

use super::{Failure, peer};
use crate::{
    config::Config,
    origin::{Origin, Rule},
};

/// The pages that may use us.
#[derive(Debug)]
pub struct Pages {
    config: Arc<Config>,
    /// `server.public_url`.
    own: Option<Origin>,
    /// `origins.allowed`.
    rules: Vec<Rule>,
}

/// What the sender of a request is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No page: it sends no `Origin`.
    NoPage,
    /// A page of our own origin or of one that is listed.
    Ours,
    /// Another page, where all are let in; not with what a browser adds by itself.
    AnyPage,
    /// A page that has no business here.
    Foreign,
    /// More than one `Origin`: which of them a proxy looked at is unknown.
    Unclear,
}

impl Pages {
    /// The pages that are configured.
    pub fn new(config: Arc<Config>) -> Self {
        let own = config.server.public_url.as_deref().and_then(Origin::parse);
        let rules = config.origins.allowed.iter().filter_map(|entry| Rule::parse(entry)).collect();
        Self { config, own, rules }
    }

    /// Judges the `Origin` of a request.
    pub fn judge(&self, head: &RequestHead) -> Standing {
        let mut values = head.headers.get_all(&ORIGIN);
        let value = match (values.next(), values.next()) {
            (None, _) => return Standing::NoPage,
            (Some(value), None) => value,
            (Some(_), Some(_)) => return Standing::Unclear,
        };
        let origin = value.to_str().ok().and_then(Origin::parse);
        let is_ours = |origin: &Origin| self.is_own(origin, head) || self.rules.iter().any(|rule| rule.names(origin));
        // Pages without an origin (`null`: sandboxed frames, files) are any page's to make.
        let is_any = self.rules.contains(&Rule::Any) && (origin.is_some() || value.as_bytes() == b"null");
        match origin {
            Some(origin) if is_ours(&origin) => Standing::Ours,
            _ if is_any => Standing::AnyPage,
            _ => Standing::Foreign,
        }
    }

    fn is_own(&self, origin: &Origin, head: &RequestHead) -> bool {
        match &self.own {
            Some(own) => own == origin,
            None => {
                let scheme = peer::scheme(head, &self.config.server);
                peer::host(head).and_then(|host| Origin::of(scheme, host)).as_ref() == Some(origin)
            }
        }
    }
}

impl Standing {
    /// Lets in whom a page may be who brings what it knows.
    ///
    /// # Errors
    /// 403, and 400 for two origins.
    pub fn admit(self) -> Result<(), Failure> {
        match self {
            Self::NoPage | Self::Ours | Self::AnyPage => Ok(()),
            Self::Foreign => Err(Failure::foreign("this page's origin is not in origins.allowed")),
            Self::Unclear => Err(Failure::bad_request("one Origin, or none")),
        }
    }

    /// The same where a browser adds cookies by itself, or keeps them: of any page it would do so, too.
    ///
    /// # Errors
    /// As [`Standing::admit`].
    pub fn admit_with_cookies(self) -> Result<(), Failure> {
        match self {
            Self::AnyPage => Err(Failure::foreign(
                "with cookies the page's origin must be listed in origins.allowed; \"*\" is not enough",
            )),
            other => other.admit(),
        }
    }
}
