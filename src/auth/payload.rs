//! The payload of a token: read from a closed list, checked here and not by the library, which lets wrong types pass
//! (RFC 7519 §4.1, RFC 8725 §3.8 to §3.10).

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Claims, Permissions, SubscriptionClaims,
    claims::NumericDate,
    grants::{GrantContext, MAX_INFO_BYTES, RawGrants},
    json::{JsonObject, JsonText, is_too_deep, not_null, single_line, utf8},
    verifier::TokenError,
};
use crate::{
    channel::Channel,
    clock::{Millis, NEVER, millis},
    config::{self, AnonymousAccess, RequiredClaim},
};

/// The longest user, in bytes.
const MAX_USER_BYTES: usize = 255;

/// The payload as it stands in the token. Members that are not listed are passed over; a listed one that comes twice or
/// has a wrong type refuses the token.
#[derive(Deserialize)]
pub(super) struct Payload<'a> {
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(default, deserialize_with = "not_null")]
    exp: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    expire_at: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "not_null")]
    iat: Option<NumericDate>,
    #[serde(default, borrow)]
    jti: Option<JsonText<'a>>,
    #[serde(default, borrow)]
    iss: Option<JsonText<'a>>,
    #[serde(default, borrow)]
    aud: Audience<'a>,
    #[serde(default, borrow)]
    info: Option<&'a RawValue>,
    #[serde(default, borrow)]
    channels: Option<&'a RawValue>,
    #[serde(default, borrow)]
    subs: Option<&'a RawValue>,
    #[serde(default, borrow)]
    caps: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "not_null", borrow)]
    channel: Option<JsonText<'a>>,
}

/// What a payload is held against.
pub(super) struct Expectations<'a> {
    pub(super) now: Millis,
    pub(super) auth: &'a config::AuthConfig,
    /// The issuer of the key that verified the token, when it has one.
    pub(super) issuer: Option<&'a str>,
    pub(super) permissions: &'a Permissions,
    /// The most subscriptions that a token may bring.
    pub(super) max_subscriptions: usize,
}

impl<'a> Payload<'a> {
    /// Reads the decoded bytes.
    pub(super) fn read(json: &'a [u8]) -> Result<Self, TokenError> {
        if is_too_deep(json) {
            return Err(TokenError::Invalid("payload nested too deep"));
        }
        let text = utf8(json).ok_or(TokenError::Invalid("payload that is not UTF-8"))?;
        let read = serde_json::from_str::<JsonObject<Self>>(text);
        read.map(|JsonObject(payload)| payload).map_err(|_| TokenError::Invalid("form or type of a claim"))
    }

    /// The claims of a token that opens connections.
    pub(super) fn into_claims(self, expected: &Expectations<'_>) -> Result<Claims, TokenError> {
        let expires_at = self.check_registered_claims(expected)?;
        if self.channel.is_some() {
            return Err(TokenError::Invalid("a subscription token opens no connection"));
        }
        let context = GrantContext {
            permissions: expected.permissions,
            max_subscriptions: expected.max_subscriptions,
            user: &self.sub,
            now: expected.now,
        };
        let raw = RawGrants { channels: self.channels, subs: self.subs, caps: self.caps };
        let grants = raw.validate(context).map_err(TokenError::Invalid)?;
        Ok(Claims { info: self.info()?, user: self.sub.into(), expires_at, grants })
    }

    /// The claims of a token that lets its user subscribe to one channel.
    pub(super) fn into_subscription_claims(
        self,
        expected: &Expectations<'_>,
    ) -> Result<SubscriptionClaims, TokenError> {
        let expires_at = self.check_registered_claims(expected)?;
        if [self.channels, self.subs, self.caps].iter().any(Option::is_some) {
            return Err(TokenError::Invalid("a connection token is for no single channel"));
        }
        let Some(JsonText(channel)) = &self.channel else { return Err(TokenError::Invalid("no channel")) };
        let channel = Channel::new(channel).map_err(|_| TokenError::Invalid("no channel name"))?;
        let is_allowed = expected.permissions.may_be_subscribed(&self.sub, &channel);
        is_allowed.map_err(|_| TokenError::Invalid("a channel of no namespace here, or limited to others"))?;
        Ok(SubscriptionClaims { info: self.info()?, user: self.sub.into(), channel, expires_at })
    }

    /// RFC 7519 §4.1, without leeway for `exp`; gives when the token's time is over.
    fn check_registered_claims(&self, expected: &Expectations<'_>) -> Result<Millis, TokenError> {
        let Expectations { now, auth, .. } = *expected;
        if !auth.required_claims.iter().all(|claim| self.has_claim(*claim)) {
            return Err(TokenError::Invalid("a claim of auth.required_claims is missing"));
        }
        let end = |date: Option<NumericDate>| date.map_or(NEVER, NumericDate::millis);
        let expires_at = end(self.exp).min(end(self.expire_at));
        if expires_at <= now {
            return Err(TokenError::Expired);
        }
        if self.exp.is_some_and(|exp| exp.millis().saturating_sub(now) > millis(auth.max_ttl)) {
            return Err(TokenError::Invalid("lives longer than auth.max_ttl"));
        }
        let latest_start = now.saturating_add(millis(auth.clock_skew));
        if [self.nbf, self.iat].into_iter().flatten().any(|start| start.millis() > latest_start) {
            return Err(TokenError::Invalid("not valid yet"));
        }
        let iss = self.iss.as_ref().map(|iss| &*iss.0);
        if [auth.issuer.as_deref(), expected.issuer].into_iter().flatten().any(|issuer| iss != Some(issuer)) {
            return Err(TokenError::Invalid("issuer"));
        }
        if auth.audience.as_deref().is_some_and(|audience| !self.aud.contains(audience)) {
            return Err(TokenError::Invalid("audience"));
        }
        let has_allowed_subject = !self.sub.is_empty() || auth.anonymous != AnonymousAccess::Never;
        if !has_allowed_subject || !is_valid_user(&self.sub) {
            return Err(TokenError::Invalid("sub"));
        }
        Ok(expires_at)
    }

    fn has_claim(&self, claim: RequiredClaim) -> bool {
        let is_text = |text: &Option<JsonText<'_>>| text.as_ref().is_some_and(|text| !text.0.is_empty());
        match claim {
            RequiredClaim::Exp => self.exp.is_some(),
            RequiredClaim::Nbf => self.nbf.is_some(),
            RequiredClaim::Iat => self.iat.is_some(),
            RequiredClaim::Jti => is_text(&self.jti),
            RequiredClaim::Iss => is_text(&self.iss),
            RequiredClaim::Aud => !self.aud.0.is_empty(),
        }
    }

    fn info(&self) -> Result<Option<bytes::Bytes>, TokenError> {
        let read = |info| single_line(info, MAX_INFO_BYTES).ok_or(TokenError::Invalid("info"));
        self.info.map(read).transpose()
    }
}

/// Whether a text may name a user; empty, it names none.
pub(super) fn is_valid_user(text: &str) -> bool {
    text.len() <= MAX_USER_BYTES && !text.chars().any(char::is_control)
}

/// Who a token says has issued it, before anything is verified: it chooses among keys of one id, nothing else.
pub(super) fn unverified_issuer(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct UnverifiedIssuer {
        iss: String,
    }
    serde_json::from_slice::<JsonObject<UnverifiedIssuer>>(json).ok().map(|JsonObject(issued)| issued.iss)
}

/// `aud`: one or several (RFC 7519 §4.1.3).
#[derive(Default)]
struct Audience<'a>(Vec<JsonText<'a>>);

impl Audience<'_> {
    fn contains(&self, audience: &str) -> bool {
        self.0.iter().any(|one| one.0 == audience)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Audience<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AudienceVisitor;

        impl<'de> Visitor<'de> for AudienceVisitor {
            type Value = Vec<JsonText<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an audience, or a list of them")
            }

            fn visit_str<E>(self, one: &str) -> Result<Self::Value, E> {
                Ok(vec![JsonText(Cow::Owned(one.to_owned()))])
            }

            fn visit_borrowed_str<E>(self, one: &'de str) -> Result<Self::Value, E> {
                Ok(vec![JsonText(Cow::Borrowed(one))])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut several: A) -> Result<Self::Value, A::Error> {
                let mut taken = Vec::new();
                while let Some(one) = several.next_element()? {
                    taken.push(one);
                }
                Ok(taken)
            }
        }

        deserializer.deserialize_any(AudienceVisitor).map(Self)
    }
}

#[cfg(test)]
mod tests;
