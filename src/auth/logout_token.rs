//! Logout tokens: an identity provider says whose sessions have ended (OpenID Connect Back-Channel Logout 1.0 §2.4 and §2.6). The
//! verifier has checked header and signature. Pure.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    TokenError,
    claims::NumericDate,
    payload::{Audience, check_issuer},
};
use crate::{
    clock::WallTime,
    config::{KeyRules, UserPrefixes},
    json::{self, JsonMembers, JsonObject, is_too_deep, not_null},
    revocation::{IssueTimes, IssuerScope, Revocation, RevocationTarget, Revocations, TokenIdentity, TokenIds},
};

/// The event that makes a token a logout token.
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// Maximum age of a logout token without `exp`.
pub(super) const MAX_LOGOUT_TOKEN_AGE: Duration = Duration::from_secs(120);

/// The content of a valid logout token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutToken {
    /// `iss`.
    pub issuer: String,
    /// `jti`: each is accepted once.
    pub jti: String,
    /// `sid`: the session that has ended. `None`: all sessions of the user.
    pub sid: Option<String>,
    /// The user whom `sub` names. `None` only if there is a `sid`.
    pub user: Option<String>,
    /// `iat`.
    pub issued_at: WallTime,
    /// From then on the token is refused: `exp`, or [`MAX_LOGOUT_TOKEN_AGE`] after `iat`.
    pub expires_at: WallTime,
}

/// The rules and the time against which a logout token is checked.
pub(super) struct LogoutExpectations<'a> {
    pub(super) now: WallTime,
    /// `auth.max_ttl`.
    pub(super) max_ttl: Duration,
    /// `auth.clock_skew`.
    pub(super) clock_skew: Duration,
    /// The rules of the key that verified the token.
    pub(super) rules: &'a KeyRules,
    /// The prefixes of all keys.
    pub(super) prefixes: &'a UserPrefixes,
}

/// The payload as parsed. Unknown claims are ignored. A known claim that appears twice or has a wrong type makes the token
/// invalid.
#[derive(Deserialize)]
struct LogoutPayload<'a> {
    iss: Option<String>,
    #[serde(default)]
    aud: Audience,
    #[serde(default, deserialize_with = "not_null")]
    exp: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    iat: Option<NumericDate>,
    jti: Option<String>,
    sid: Option<String>,
    sub: Option<String>,
    #[serde(default, borrow)]
    events: Option<&'a RawValue>,
    // `null` is one, too.
    #[serde(default, borrow, deserialize_with = "not_null")]
    nonce: Option<&'a RawValue>,
}

impl LogoutToken {
    /// Reads the decoded payload, and checks it.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(super) fn read(json: &[u8], expected: &LogoutExpectations<'_>) -> Result<Self, TokenError> {
        if is_too_deep(json) {
            return Err(TokenError::PayloadTooDeep);
        }
        // serde_json does not check the encoding of text that it ignores.
        let text = std::str::from_utf8(json).map_err(|_| TokenError::PayloadNotUtf8)?;
        let JsonObject(payload) =
            serde_json::from_str::<JsonObject<LogoutPayload<'_>>>(text).map_err(|_| TokenError::MalformedPayload)?;
        payload.check(expected)
    }

    /// Returns what the revocation of a used logout token names.
    pub(super) fn identity(&self) -> TokenIdentity {
        let (issuer, jti) = (Some(self.issuer.clone()), Some(self.jti.clone()));
        TokenIdentity::new(&TokenIds { issuer, jti, sid: None }, None)
    }

    /// Returns the revocation of the logout token itself. It is one more token of its issuer, and so each is used once on all nodes.
    pub fn spent(&self) -> Revocation {
        let target = RevocationTarget::Token(self.jti.clone(), IssuerScope::Only(self.issuer.clone()));
        Revocation::of_all(target, self.expires_at)
    }

    /// Returns the revocations that obey the logout.
    ///
    /// With a `sid` they mean the tokens of that session, and those of the user without any `sid` that were issued until the
    /// logout, because nothing tells to which session these belong. Without a `sid` they mean all tokens of the user that were issued
    /// until the logout: a newer one comes from a new login, however late the logout token arrives. `iat` counts whole seconds.
    pub fn revocations(&self, revocations: &Revocations) -> Vec<Revocation> {
        let scope = || IssuerScope::Only(self.issuer.clone());
        let issued_before = WallTime::from_unix_seconds(self.issued_at.unix_seconds().saturating_add(1));
        let expires_at = revocations.default_expiry();
        let until_logout = |target| Revocation { target, issued_before, expires_at };
        let user = self.user.as_deref().unwrap_or_default();
        let of_session = self.sid.clone().map(|sid| {
            let session = RevocationTarget::Session(sid, scope());
            // What the access tokens of the provider have is not known.
            revocations.of_logout(user, session, expires_at, self.issued_at..=self.issued_at, IssueTimes::Unknown)
        });
        let of_user = self.user.clone().map(|user| {
            until_logout(match &self.sid {
                Some(_) => RevocationTarget::UserWithoutSession(user, scope()),
                None => RevocationTarget::User(user, scope()),
            })
        });
        [of_session, of_user].into_iter().flatten().collect()
    }
}

impl LogoutPayload<'_> {
    fn check(self, expected: &LogoutExpectations<'_>) -> Result<LogoutToken, TokenError> {
        let rules = expected.rules;
        if !self.has_logout_event() {
            return Err(TokenError::IsNoLogoutToken);
        }
        if self.nonce.is_some() {
            return Err(TokenError::LogoutTokenWithNonce);
        }
        let issuer = rules.issuer.as_ref().ok_or(TokenError::LogoutTokenWithoutIssuer)?;
        check_issuer(self.iss.as_deref(), issuer)?;
        // Also if it is for other applications, too, unless all of them are known (OpenID Connect Core 1.0 §3.1.3.7).
        let audience = self.aud.list();
        if audience.is_empty() || !audience.iter().all(|name| rules.is_application(name)) {
            return Err(TokenError::ForeignLogoutToken);
        }
        let (issued_at, expires_at) = self.check_dates(expected)?;
        let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        let jti = non_empty(self.jti).ok_or(TokenError::IncompleteLogoutToken("jti"))?;
        let sid = non_empty(self.sid);
        let user = non_empty(self.sub).map(|sub| expected.prefixes.user(sub, rules)).transpose()?;
        if sid.is_none() && user.is_none() {
            return Err(TokenError::IncompleteLogoutToken("sid and no sub"));
        }
        let can_be_revoked = |id: &String, kind: fn(String, IssuerScope) -> RevocationTarget| {
            kind(id.clone(), IssuerScope::Only(issuer.clone())).is_valid()
        };
        if !can_be_revoked(&jti, RevocationTarget::Token)
            || !sid.iter().all(|sid| can_be_revoked(sid, RevocationTarget::Session))
        {
            return Err(TokenError::InvalidLogoutId);
        }
        Ok(LogoutToken { issuer: issuer.clone(), jti, sid, user, issued_at, expires_at })
    }

    /// Returns whether `events` has the event of a logout with an object (§2.4), each event once. It may have others, too.
    fn has_logout_event(&self) -> bool {
        let Some(JsonMembers(events)) = self.events.and_then(read_events) else { return false };
        let mut of_logout = events.iter().filter(|(name, _)| name == LOGOUT_EVENT);
        matches!((of_logout.next(), of_logout.next()), (Some((_, value)), None) if json::is_object(value.get().as_bytes()))
    }

    /// Returns `iat`, and until when the token is accepted.
    fn check_dates(&self, expected: &LogoutExpectations<'_>) -> Result<(WallTime, WallTime), TokenError> {
        let LogoutExpectations { now, max_ttl, clock_skew, .. } = *expected;
        let issued_at = self.iat.ok_or(TokenError::IncompleteLogoutToken("iat"))?.time();
        let expires_at = match self.exp.map(NumericDate::time) {
            Some(exp) if exp <= now => return Err(TokenError::Expired),
            Some(exp) if exp.saturating_duration_since(now) > max_ttl => return Err(TokenError::TtlTooLong),
            Some(exp) => exp,
            None => issued_at.saturating_add(MAX_LOGOUT_TOKEN_AGE),
        };
        if expires_at <= now {
            return Err(TokenError::OldLogoutToken);
        }
        let latest_start = now.saturating_add(clock_skew);
        if self.nbf.is_some_and(|nbf| nbf.time() > latest_start) {
            return Err(TokenError::NotYetValid);
        }
        if issued_at > latest_start {
            return Err(TokenError::IssuedInFuture);
        }
        Ok((issued_at, expires_at))
    }
}

fn read_events(events: &RawValue) -> Option<JsonMembers<&RawValue>> {
    serde_json::from_str(events.get()).ok()
}

/// Returns whether the claim `events` makes a token a security event token (RFC 8417 §2.2): an object whose members are named by
/// URIs. Other tokens may have a claim with this name.
pub(super) fn is_event_token(events: Option<&RawValue>) -> bool {
    let events = events.and_then(read_events);
    events.is_some_and(|JsonMembers(events)| events.iter().any(|(name, _)| name.contains(':')))
}

#[cfg(test)]
mod tests;
