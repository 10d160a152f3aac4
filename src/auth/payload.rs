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
    grants::{Bounds, INFO_BYTES, Raw},
    json::{Object, Text, is_too_deep, one_line, present, text},
    verifier::Refusal,
};
use crate::{
    channel::Channel,
    clock::{Millis, NEVER, millis},
    config::{self, Anonymous, RequiredClaim},
};

/// The longest user, in bytes.
const USER_BYTES: usize = 255;

/// The payload as it stands in the token. Members that are not listed are passed over; a listed one that comes twice or
/// has a wrong type refuses the token.
#[derive(Deserialize)]
pub(super) struct Payload<'a> {
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(default, deserialize_with = "present")]
    exp: Option<NumericDate>,
    #[serde(default, deserialize_with = "present")]
    expire_at: Option<NumericDate>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<NumericDate>,
    #[serde(default, deserialize_with = "present")]
    iat: Option<NumericDate>,
    #[serde(default, borrow)]
    jti: Option<Text<'a>>,
    #[serde(default, borrow)]
    iss: Option<Text<'a>>,
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
    #[serde(default, deserialize_with = "present", borrow)]
    channel: Option<Text<'a>>,
}

/// What a payload is held against.
pub(super) struct Expectations<'a> {
    pub(super) now: Millis,
    pub(super) auth: &'a config::Auth,
    /// The issuer of the key that verified the token, when it has one.
    pub(super) issuer: Option<&'a str>,
    pub(super) permissions: &'a Permissions,
    /// The most subscriptions that a token may bring.
    pub(super) channels: usize,
}

impl<'a> Payload<'a> {
    /// Reads the decoded bytes.
    pub(super) fn read(json: &'a [u8]) -> Result<Self, Refusal> {
        if is_too_deep(json) {
            return Err(Refusal::Invalid("payload nested too deep"));
        }
        let text = text(json).ok_or(Refusal::Invalid("payload that is not UTF-8"))?;
        let read = serde_json::from_str::<Object<Self>>(text);
        read.map(|Object(payload)| payload).map_err(|_| Refusal::Invalid("form or type of a claim"))
    }

    /// The claims of a token that opens connections.
    pub(super) fn judge(self, expected: &Expectations<'_>) -> Result<Claims, Refusal> {
        let expires_at = self.judge_registered(expected)?;
        if self.channel.is_some() {
            return Err(Refusal::Invalid("a subscription token opens no connection"));
        }
        let bounds = Bounds {
            permissions: expected.permissions,
            channels: expected.channels,
            user: &self.sub,
            now: expected.now,
        };
        let raw = Raw { channels: self.channels, subs: self.subs, caps: self.caps };
        let grants = raw.judge(bounds).map_err(Refusal::Invalid)?;
        Ok(Claims { info: self.info()?, user: self.sub.into(), expires_at, grants })
    }

    /// The claims of a token that lets its user subscribe to one channel.
    pub(super) fn judge_subscription(self, expected: &Expectations<'_>) -> Result<SubscriptionClaims, Refusal> {
        let expires_at = self.judge_registered(expected)?;
        if [self.channels, self.subs, self.caps].iter().any(Option::is_some) {
            return Err(Refusal::Invalid("a connection token is for no single channel"));
        }
        let Some(Text(channel)) = &self.channel else { return Err(Refusal::Invalid("no channel")) };
        let channel = Channel::new(channel).map_err(|_| Refusal::Invalid("no channel name"))?;
        let is_fine = expected.permissions.may_be_given(&self.sub, &channel);
        is_fine.map_err(|_| Refusal::Invalid("a channel of no namespace here, or limited to others"))?;
        Ok(SubscriptionClaims { info: self.info()?, user: self.sub.into(), channel, expires_at })
    }

    /// RFC 7519 §4.1, without leeway for `exp`; gives when the token's time is over.
    fn judge_registered(&self, expected: &Expectations<'_>) -> Result<Millis, Refusal> {
        let Expectations { now, auth, .. } = *expected;
        if !auth.required_claims.iter().all(|claim| self.has(*claim)) {
            return Err(Refusal::Invalid("a claim of auth.required_claims is missing"));
        }
        let end = |date: Option<NumericDate>| date.map_or(NEVER, NumericDate::millis);
        let expires_at = end(self.exp).min(end(self.expire_at));
        if expires_at <= now {
            return Err(Refusal::Expired);
        }
        if self.exp.is_some_and(|exp| exp.millis().saturating_sub(now) > millis(auth.max_ttl)) {
            return Err(Refusal::Invalid("lives longer than auth.max_ttl"));
        }
        let latest_begin = now.saturating_add(millis(auth.clock_skew));
        if [self.nbf, self.iat].into_iter().flatten().any(|begin| begin.millis() > latest_begin) {
            return Err(Refusal::Invalid("not valid yet"));
        }
        let iss = self.iss.as_ref().map(|iss| &*iss.0);
        if [auth.issuer.as_deref(), expected.issuer].into_iter().flatten().any(|issuer| iss != Some(issuer)) {
            return Err(Refusal::Invalid("issuer"));
        }
        if auth.audience.as_deref().is_some_and(|audience| !self.aud.contains(audience)) {
            return Err(Refusal::Invalid("audience"));
        }
        let is_somebody = !self.sub.is_empty() || auth.anonymous != Anonymous::Never;
        if !is_somebody || !is_user(&self.sub) {
            return Err(Refusal::Invalid("sub"));
        }
        Ok(expires_at)
    }

    fn has(&self, claim: RequiredClaim) -> bool {
        let is_text = |text: &Option<Text<'_>>| text.as_ref().is_some_and(|text| !text.0.is_empty());
        match claim {
            RequiredClaim::Exp => self.exp.is_some(),
            RequiredClaim::Nbf => self.nbf.is_some(),
            RequiredClaim::Iat => self.iat.is_some(),
            RequiredClaim::Jti => is_text(&self.jti),
            RequiredClaim::Iss => is_text(&self.iss),
            RequiredClaim::Aud => !self.aud.0.is_empty(),
        }
    }

    fn info(&self) -> Result<Option<bytes::Bytes>, Refusal> {
        let read = |info| one_line(info, INFO_BYTES).ok_or(Refusal::Invalid("info"));
        self.info.map(read).transpose()
    }
}

/// Whether a text may name a user; empty, it names none.
pub(super) fn is_user(text: &str) -> bool {
    text.len() <= USER_BYTES && !text.chars().any(char::is_control)
}

/// Who a token says has issued it, before anything is verified: it chooses among keys of one id, nothing else.
pub(super) fn claimed_issuer(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Issued {
        iss: String,
    }
    serde_json::from_slice::<Object<Issued>>(json).ok().map(|Object(issued)| issued.iss)
}

/// `aud`: one or several (RFC 7519 §4.1.3).
#[derive(Default)]
struct Audience<'a>(Vec<Text<'a>>);

impl Audience<'_> {
    fn contains(&self, audience: &str) -> bool {
        self.0.iter().any(|one| one.0 == audience)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Audience<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Vec<Text<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an audience, or a list of them")
            }

            fn visit_str<E>(self, one: &str) -> Result<Self::Value, E> {
                Ok(vec![Text(Cow::Owned(one.to_owned()))])
            }

            fn visit_borrowed_str<E>(self, one: &'de str) -> Result<Self::Value, E> {
                Ok(vec![Text(Cow::Borrowed(one))])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut several: A) -> Result<Self::Value, A::Error> {
                let mut taken = Vec::new();
                while let Some(one) = several.next_element()? {
                    taken.push(one);
                }
                Ok(taken)
            }
        }

        deserializer.deserialize_any(OneOrSeveral).map(Self)
    }
}

#[cfg(test)]
mod tests;
