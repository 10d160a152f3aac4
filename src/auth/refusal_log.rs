//! Logs the refusals of clients, each with what to do about it: at once, or counted (`log.refusals`). Clients learn little
//! (RFC 8725 §3), so operators need the reason. No line contains a token.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::json;

use super::{TokenError, credentials::CredentialError};
use crate::{
    audit::{AuditEvent, AuditFields, AuditLog},
    config::{Config, Door, LiveConfig, RefusalLogging},
};

/// A refusal: its subject and its reason.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// A token for a connection or a request.
    Token(TokenError),
    /// A subscription token.
    SubscriptionToken(TokenError),
    /// A logout token of an identity provider.
    LogoutToken(TokenError),
    /// Credentials that contain no token that could be verified.
    Credentials(CredentialError),
    /// A token sent in a way that `auth.doors` does not list.
    DisabledDoor(Door),
    /// A `connect` without a token.
    MissingToken,
    /// A client without a token, by the connect hook, with the code of its error or close.
    ConnectHook(u32),
    /// A page.
    Origin(OriginRefusal),
    /// A refresh token of the login.
    RefreshToken(RefreshRefusal),
    /// A user name and a password, and why.
    Login(&'static str),
}

/// Why a refresh token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshRefusal {
    /// This installation has not made it, or has another secret now.
    #[error("malformed, or its MAC is wrong")]
    Invalid,
    /// Its login has ended, or was never there.
    #[error("its login has ended")]
    Ended,
    /// It was used before.
    #[error("used before, so its login has been ended and revoked")]
    Spent,
    /// It was used before, and so were too many others of the user.
    #[error("used before, so its login has been ended; not revoked, because limits.logouts_per_user is reached")]
    SpentUnrevoked,
    /// Its user is not in the users file any more, or has another password.
    #[error("its user was removed or has a new password")]
    UserChanged,
}

impl RefreshRefusal {
    /// Returns whether two parties have the refresh token.
    pub fn is_reuse(self) -> bool {
        matches!(self, Self::Spent | Self::SpentUnrevoked)
    }

    /// Returns the label of the metric.
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Ended => "ended",
            Self::Spent | Self::SpentUnrevoked => "spent",
            Self::UserChanged => "user_changed",
        }
    }
}

/// Why the page of a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginRefusal {
    /// `origins.allowed` does not list the origin.
    #[error("the origin of this page is not in origins.allowed")]
    NotAllowed,
    /// Several `Origin` headers: a proxy in front may have checked a different one.
    #[error("several Origin headers; send at most one")]
    Ambiguous,
    /// The browser sends the token in a cookie, but no `Origin`.
    #[error("the token cookie is only accepted with an Origin header")]
    CookieWithoutOrigin,
    /// The browser sends credentials for the hooks by itself, but does not say that the page is of a listed origin.
    #[error("cookies and Authorization are only forwarded to hooks from an origin that origins.allowed lists")]
    ForwardedOfUnlistedOrigin,
    /// The browser sends the token in a cookie for a page that only `"*"` allows.
    #[error("the token cookie is only accepted from an origin that origins.allowed lists; \"*\" is not enough")]
    CookieOfUnlistedOrigin,
}

impl Refusal {
    /// The fixed phrase of the log line.
    fn phrase(&self) -> &'static str {
        match self {
            Self::Token(_) => "refused token",
            Self::SubscriptionToken(_) => "refused subscription token",
            Self::LogoutToken(_) => "refused logout token",
            Self::Credentials(_) => "refused credentials",
            Self::DisabledDoor(_) => "ignored token",
            Self::MissingToken | Self::ConnectHook(_) => "refused connect",
            Self::Origin(_) => "refused origin",
            Self::RefreshToken(_) => "refused refresh token",
            Self::Login(_) => "failed login",
        }
    }

    fn error(&self) -> String {
        match self {
            Self::Token(error) | Self::SubscriptionToken(error) | Self::LogoutToken(error) => error.to_string(),
            Self::Credentials(error) => error.to_string(),
            Self::DisabledDoor(door) => format!("auth.doors does not list {}", json!(door)),
            Self::MissingToken => "no token in connect, and none before it".to_owned(),
            Self::ConnectHook(code) => format!("the connect hook refuses the client with code {code}"),
            Self::Origin(error) => error.to_string(),
            Self::RefreshToken(error) => error.to_string(),
            Self::Login(reason) => (*reason).to_owned(),
        }
    }

    /// What an operator, or the author of the client, can do.
    fn remedy(&self, config: &Config) -> String {
        match self {
            Self::Token(error) | Self::SubscriptionToken(error) | Self::LogoutToken(error) => error.remedy(config),
            Self::Credentials(error) => error.remedy().to_owned(),
            Self::DisabledDoor(door) => {
                let doors = json!(config.auth.doors);
                format!("send it in one of the ways in auth.doors, {doors}, or add {} there", json!(door))
            }
            Self::MissingToken => "give the client a token, or set auth.anonymous = \"always\"".to_owned(),
            Self::ConnectHook(_) => {
                "see the log of the backend; with code 100 the call itself may have failed: look for \"hook failed\" in this log".to_owned()
            }
            Self::Origin(OriginRefusal::NotAllowed) => {
                "if the page is yours, list its origin in origins.allowed; if the hub serves it behind a load balancer, \
                 set server.public_url"
                    .to_owned()
            }
            Self::Origin(OriginRefusal::Ambiguous) => "find out which proxy adds an Origin header".to_owned(),
            Self::RefreshToken(RefreshRefusal::Invalid) => {
                "log in again; after a change of the secret that signs the tokens of the login, all users have to log in again".to_owned()
            }
            Self::RefreshToken(RefreshRefusal::Spent | RefreshRefusal::SpentUnrevoked) => {
                "the refresh token was copied, or the client does not store the next one: find out which, and log in again"
                    .to_owned()
            }
            Self::RefreshToken(_) => "log in again".to_owned(),
            Self::Login(_) => {
                "if there are many, someone is guessing passwords: limit the address in front of the hub, or see login.failures".to_owned()
            }
            Self::Origin(_) => {
                "list the origin of the page in origins.allowed, or send the token in another way".to_owned()
            }
        }
    }
}

/// The log of refusals of one instance.
#[derive(Debug)]
pub struct RefusalLog {
    config: Arc<LiveConfig>,
    audit: Arc<AuditLog>,
    summary: Mutex<Summary>,
    /// For the task that writes the counts.
    this: Weak<Self>,
}

impl RefusalLog {
    /// The log of refusals of an instance with this configuration.
    pub fn new(config: Arc<LiveConfig>, audit: Arc<AuditLog>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self { config, audit, summary: Mutex::default(), this: this.clone() })
    }

    /// Logs or counts a refusal, and records it in the audit log. `source` says who was refused.
    pub fn record_from(&self, refusal: Refusal, source: &AuditFields<'_>) {
        let reason = format!("{}: {}", refusal.phrase(), refusal.error());
        self.audit.record(AuditEvent::Refused, AuditFields { reason: Some(&reason), ..*source });
        self.record(refusal, format_args!("{source}"));
    }

    /// Logs or counts a refusal. `source` says who was refused, as `key=value`: an address or a client id, and never a
    /// credential.
    pub fn record(&self, refusal: Refusal, source: fmt::Arguments<'_>) {
        let counted = CountedRefusal { refusal, count: 1, source: source.to_string() };
        match self.config.current().log.refusals {
            RefusalLogging::Each => log::info!("{}", self.line(&counted, "")),
            RefusalLogging::Summary => {
                let mut summary = self.summary.lock();
                let first = summary.add(counted);
                let starts_timer = !std::mem::replace(&mut summary.has_timer, true);
                drop(summary);
                first.iter().for_each(|first| self.write(first));
                if starts_timer {
                    actix_rt::spawn(write_counts(self.this.clone(), self.config.current().log.refusals_interval));
                }
            }
        }
    }

    fn write(&self, counted: &CountedRefusal) {
        log::warn!("{}", self.line(counted, &format!("count={} ", counted.count)));
    }

    fn line(&self, CountedRefusal { refusal, source, .. }: &CountedRefusal, count: &str) -> String {
        let (error, remedy) = (refusal.error(), refusal.remedy(&self.config.current()));
        format!("{} {count}{source} error={error:?} remedy={remedy:?}", refusal.phrase())
    }
}

/// Writes the counts once per interval, until an interval has passed without refusals.
async fn write_counts(log: Weak<RefusalLog>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(log) = log.upgrade() else { return };
        let (counted, has_timer) = {
            let mut summary = log.summary.lock();
            (summary.end_interval(), summary.has_timer)
        };
        counted.iter().for_each(|counted| log.write(counted));
        if !has_timer {
            return;
        }
    }
}

/// Equal refusals, counted, with the source of the latest.
#[derive(Clone, Debug, PartialEq)]
struct CountedRefusal {
    refusal: Refusal,
    count: u64,
    source: String,
}

/// The refusals of an interval. It has at most one entry for each reason, of which there are some dozens. Pure.
#[derive(Debug, Default)]
struct Summary {
    counted: Vec<CountedRefusal>,
    /// Whether a task waits for the end of the interval.
    has_timer: bool,
}

impl Summary {
    /// Adds a refusal. Returns it if it is the first one for its reason, which is logged at once.
    fn add(&mut self, new: CountedRefusal) -> Option<CountedRefusal> {
        if let Some(known) = self.counted.iter_mut().find(|known| known.refusal == new.refusal) {
            known.count += new.count;
            known.source = new.source;
            return None;
        }
        self.counted.push(CountedRefusal { count: 0, ..new.clone() });
        Some(new)
    }

    /// Returns what has been counted in the interval, and forgets the reasons for which there was nothing.
    fn end_interval(&mut self) -> Vec<CountedRefusal> {
        self.counted.retain(|counted| counted.count > 0);
        self.has_timer = !self.counted.is_empty();
        let counted = self.counted.clone();
        self.counted.iter_mut().for_each(|counted| counted.count = 0);
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refusal: Refusal, count: u64, source: &str) -> CountedRefusal {
        CountedRefusal { refusal, count, source: source.to_owned() }
    }

    #[test]
    fn the_first_refusal_is_logged_at_once_and_equal_ones_are_counted() {
        let mut summary = Summary::default();
        let expired = |count, source| refused(Refusal::Token(TokenError::Expired), count, source);
        let origin = refused(Refusal::Origin(OriginRefusal::NotAllowed), 1, "c");
        assert_eq!(summary.add(expired(1, "a")), Some(expired(1, "a")));
        assert_eq!(summary.add(origin.clone()), Some(origin));
        assert_eq!(summary.add(expired(1, "b")), None);
        assert_eq!(summary.add(expired(1, "d")), None);
        assert_eq!(summary.end_interval(), [expired(2, "d")]);
        assert_eq!((summary.counted.len(), summary.has_timer), (1, true));
        assert_eq!(summary.add(expired(1, "e")), None, "not twice in an interval");
        assert_eq!(summary.end_interval(), [expired(1, "e")]);
        assert_eq!(summary.end_interval(), []);
        assert_eq!((summary.counted.len(), summary.has_timer), (0, false));
        assert_eq!(summary.add(expired(1, "f")), Some(expired(1, "f")));
    }

    #[test]
    fn every_line_names_the_reason_and_the_remedy() {
        let log = RefusalLog::new(LiveConfig::new(Config::default()), AuditLog::disabled());
        for refusal in [
            Refusal::Token(TokenError::Expired),
            Refusal::SubscriptionToken(TokenError::WrongSignature),
            Refusal::Credentials(CredentialError::MissingMarker),
            Refusal::DisabledDoor(Door::Query),
            Refusal::MissingToken,
            Refusal::ConnectHook(403),
            Refusal::Origin(OriginRefusal::NotAllowed),
            Refusal::Origin(OriginRefusal::Ambiguous),
            Refusal::Origin(OriginRefusal::CookieWithoutOrigin),
            Refusal::Origin(OriginRefusal::CookieOfUnlistedOrigin),
            Refusal::Origin(OriginRefusal::ForwardedOfUnlistedOrigin),
        ] {
            let line = log.line(&refused(refusal, 3, "address=192.0.2.1"), "count=3 ");
            assert!(line.contains(" count=3 address=192.0.2.1 error=\""), "{line}");
            let remedy = line.split_once(" remedy=\"").expect("a remedy").1;
            assert!(remedy.len() > 10, "{line}");
        }
    }
}
