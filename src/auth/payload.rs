//! The payload of a token. It is parsed and checked here and not by `jsonwebtoken`, which accepts claims of wrong types
//! (RFC 7519 §4.1, RFC 8725 §3.8 to §3.10).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Claims, Permissions, SubscriptionClaims, TokenError,
    claims::NumericDate,
    grants::{GrantContext, RawGrants},
    logout_token::is_event_token,
    subscription_options::{RawSubscriptionOptions, SubscriptionOptions, json_claim},
};
use crate::{
    channel::Channel,
    clock::{NEVER, WallTime},
    config::{self, AnonymousAccess, KeyRules, RequiredClaim, TokenKind, UserPrefixes},
    json::{JsonObject, is_too_deep, not_null},
    revocation::{TokenIdentity, TokenIds},
};

/// The payload as parsed. Unknown claims are ignored. A known claim that appears twice or has a wrong type makes the token
/// invalid.
#[derive(Deserialize)]
pub(super) struct Payload<'a> {
    /// The user. Empty if the claim is absent.
    #[serde(default)]
    sub: String,
    #[serde(default, deserialize_with = "not_null")]
    exp: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    expire_at: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    iat: Option<NumericDate>,
    jti: Option<String>,
    sid: Option<String>,
    iss: Option<String>,
    #[serde(default)]
    aud: Audience,
    // Read only where `clients` is configured. Elsewhere they may be anything.
    #[serde(default, borrow)]
    azp: Option<&'a RawValue>,
    #[serde(default, borrow)]
    client_id: Option<&'a RawValue>,
    // What makes it a token of another kind.
    #[serde(default, borrow)]
    events: Option<&'a RawValue>,
    #[serde(default, borrow)]
    info: Option<&'a RawValue>,
    #[serde(default, borrow)]
    b64info: Option<&'a RawValue>,
    #[serde(default, borrow)]
    channels: Option<&'a RawValue>,
    #[serde(default, borrow)]
    subs: Option<&'a RawValue>,
    #[serde(default, borrow)]
    caps: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "not_null")]
    channel: Option<String>,
    // These four have a meaning only in a subscription token.
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    b64data: Option<&'a RawValue>,
    #[serde(default, borrow, rename = "override")]
    overrides: Option<&'a RawValue>,
    #[serde(default, borrow)]
    server_tags_filter: Option<&'a RawValue>,
}

/// The rules and the time against which a payload is checked.
pub(super) struct Expectations<'a> {
    pub(super) now: WallTime,
    pub(super) auth: &'a config::AuthConfig,
    /// The rules of the key that verified the token.
    pub(super) rules: &'a KeyRules,
    /// The prefixes of all keys.
    pub(super) prefixes: &'a UserPrefixes,
    pub(super) permissions: &'a Permissions,
    /// `limits.channels_per_session`.
    pub(super) max_subscriptions: usize,
}

impl<'a> Payload<'a> {
    /// Parses the decoded payload.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, TokenError> {
        if is_too_deep(json) {
            return Err(TokenError::PayloadTooDeep);
        }
        // serde_json does not check the encoding of text that it ignores.
        let text = std::str::from_utf8(json).map_err(|_| TokenError::PayloadNotUtf8)?;
        let parsed = serde_json::from_str::<JsonObject<Self>>(text);
        parsed.map(|JsonObject(payload)| payload).map_err(|_| TokenError::MalformedPayload)
    }

    /// Checks a connection token and returns its claims.
    pub(super) fn into_claims(mut self, expected: &Expectations<'_>) -> Result<Claims, TokenError> {
        let expires_at = self.check_registered_claims(expected, TokenKind::Connection)?;
        if self.channel.is_some() {
            return Err(TokenError::IsSubscriptionToken);
        }
        let user = self.take_user(expected)?;
        let context = GrantContext {
            permissions: expected.permissions,
            max_subscriptions: expected.max_subscriptions,
            user: &user,
            now: expected.now,
        };
        let raw = RawGrants { channels: self.channels, subs: self.subs, caps: self.caps };
        let grants = raw.validate(context)?;
        let info = json_claim(self.info, self.b64info, TokenError::InfoTooLong)?;
        let token = self.take_identity();
        Ok(Claims { info, user: user.into(), expires_at, token, grants, hook: None })
    }

    /// Checks a subscription token and returns its claims.
    pub(super) fn into_subscription_claims(
        mut self,
        expected: &Expectations<'_>,
    ) -> Result<SubscriptionClaims, TokenError> {
        let expires_at = self.check_registered_claims(expected, TokenKind::Subscription)?;
        if [self.channels, self.subs, self.caps].iter().any(Option::is_some) {
            return Err(TokenError::IsConnectionToken);
        }
        let channel = Channel::new(self.channel.as_ref().ok_or(TokenError::MissingChannel)?)?;
        let user = self.take_user(expected)?;
        let allowed = expected.permissions.may_be_subscribed(&user, &channel);
        allowed.map_err(|_| TokenError::ForbiddenChannel)?;
        let token = self.take_identity();
        let Self { info, b64info, data, b64data, overrides, server_tags_filter, .. } = self;
        let raw = RawSubscriptionOptions { info, b64info, data, b64data, overrides, server_tags_filter };
        let SubscriptionOptions { info, data, overrides } = raw.validate()?;
        Ok(SubscriptionClaims { user: user.into(), channel, info, data, expires_at, token, overrides })
    }

    /// Checks the registered claims (RFC 7519 §4.1), without leeway for `exp`. Returns when the token expires.
    fn check_registered_claims(&self, expected: &Expectations<'_>, kind: TokenKind) -> Result<WallTime, TokenError> {
        let Expectations { now, auth, rules, .. } = *expected;
        if let Some(claim) = auth.required_claims.iter().find(|claim| !self.has_claim(**claim)) {
            return Err(TokenError::MissingClaim(*claim));
        }
        let expires_at = self.expires_at();
        if expires_at <= now {
            return Err(TokenError::Expired);
        }
        if let Some(exp) = self.exp.map(NumericDate::time) {
            // Also one that has less time left by now: revocations last no longer than a token that is issued with them (`default_expiry`).
            let lifetime = self.iat.map(|iat| exp.saturating_duration_since(iat.time()));
            if exp.saturating_duration_since(now) > auth.max_ttl
                || lifetime.is_some_and(|lifetime| lifetime > auth.max_ttl.saturating_add(auth.clock_skew))
            {
                return Err(TokenError::TtlTooLong);
            }
        }
        let latest_start = now.saturating_add(auth.clock_skew);
        for (start, error) in [(self.nbf, TokenError::NotYetValid), (self.iat, TokenError::IssuedInFuture)] {
            if start.is_some_and(|start| start.time() > latest_start) {
                return Err(error);
            }
        }
        if is_event_token(self.events) {
            return Err(TokenError::IsEventToken);
        }
        rules.issuer.as_deref().map_or(Ok(()), |issuer| check_issuer(self.iss.as_deref(), issuer))?;
        self.check_client(&rules.clients)?;
        match rules.of_kind(kind).and_then(|rules| rules.audience.as_ref()) {
            Some(audience) if !self.aud.list().contains(audience) => Err(TokenError::WrongAudience),
            None if rules.is_of_key_set && !self.aud.list().is_empty() => Err(TokenError::UnexpectedAudience),
            _ => Ok(expires_at),
        }
    }

    /// Returns when the token expires. Checks nothing.
    pub(super) fn expires_at(&self) -> WallTime {
        let end = |date: Option<NumericDate>| date.map_or(NEVER, NumericDate::time);
        end(self.exp).min(end(self.expire_at))
    }

    /// Checks for which application the provider has issued the token: `azp` (OpenID Connect Core 1.0 §2), `client_id`
    /// (RFC 9068 §2.2).
    fn check_client(&self, clients: &[String]) -> Result<(), TokenError> {
        let named: Vec<&RawValue> = [self.azp, self.client_id].into_iter().flatten().collect();
        let is_listed =
            |name: &&RawValue| serde_json::from_str::<String>(name.get()).is_ok_and(|name| clients.contains(&name));
        let is_allowed = clients.is_empty() || !named.is_empty() && named.iter().all(is_listed);
        is_allowed.then_some(()).ok_or(TokenError::WrongClient)
    }

    /// Returns the name of the user, which `sub` and the key determine.
    fn take_user(&mut self, expected: &Expectations<'_>) -> Result<String, TokenError> {
        if self.sub.is_empty() && expected.auth.anonymous == AnonymousAccess::Never {
            return Err(TokenError::MissingUser);
        }
        expected.prefixes.user(std::mem::take(&mut self.sub), expected.rules)
    }

    /// Takes the claims by which the token can be revoked.
    pub(super) fn take_ids(&mut self) -> TokenIds {
        TokenIds { issuer: self.iss.take(), jti: self.jti.take(), sid: self.sid.take() }
    }

    /// Returns what a revocation can name of the token, all of whose claims have been checked.
    fn take_identity(&mut self) -> TokenIdentity {
        let issued_at = self.iat.map(NumericDate::time);
        TokenIdentity::new(&self.take_ids(), issued_at)
    }

    fn has_claim(&self, claim: RequiredClaim) -> bool {
        let has_text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        match claim {
            RequiredClaim::Exp => self.exp.is_some(),
            RequiredClaim::Nbf => self.nbf.is_some(),
            RequiredClaim::Iat => self.iat.is_some(),
            RequiredClaim::Jti => has_text(&self.jti),
            RequiredClaim::Iss => has_text(&self.iss),
            RequiredClaim::Aud => !self.aud.list().is_empty(),
        }
    }
}

/// Checks `iss` against the configured issuer.
pub(super) fn check_issuer(iss: Option<&str>, issuer: &str) -> Result<(), TokenError> {
    match iss {
        Some(iss) if iss == issuer => Ok(()),
        Some(iss) if iss.strip_suffix('/').unwrap_or(iss) == issuer.strip_suffix('/').unwrap_or(issuer) => {
            Err(TokenError::IssuerSlash)
        }
        _ => Err(TokenError::WrongIssuer),
    }
}

/// Returns the `iss` of a payload whose signature has not been verified. It may only choose among keys that share one id.
pub(super) fn unverified_issuer(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct UnverifiedIssuer {
        iss: String,
    }
    serde_json::from_slice::<JsonObject<UnverifiedIssuer>>(json).ok().map(|JsonObject(payload)| payload.iss)
}

/// Returns the `sub` of a payload whose signature need not have been verified: for explanations, and for nothing that grants anything.
pub(super) fn unverified_subject(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct UnverifiedSubject {
        sub: String,
    }
    serde_json::from_slice::<JsonObject<UnverifiedSubject>>(json).ok().map(|JsonObject(payload)| payload.sub)
}

/// `aud`: one audience or a list of them (RFC 7519 §4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audience {
    pub(super) fn list(&self) -> &[String] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::Several(list) => list,
        }
    }
}

#[cfg(test)]
mod tests;
