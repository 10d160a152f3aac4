//! Tokens: whatever header and payload are signed with the key, the claims stay within their limits and say what the payload
//! says; and a token that was not signed with the key is refused.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, LazyLock},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::value::RawValue;
use wardcast::{
    auth::{Claims, Permissions, SubscriptionClaims, TokenError, Verifier},
    channel::Channel,
    clock::{Clock, NEVER, WallTime},
    config::{AnonymousAccess, Config, Secret},
};

/// The current time for the corpus: in January 2027.
pub(super) const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);
const SECRET: &str = "a secret of the fuzz targets, 32 bytes or more";
const VALID_HEADER: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;
const MAX_TOKEN_BYTES: usize = 8 * 1024;
const MAX_INFO_BYTES: usize = 4096;

/// A verifier and its configuration.
pub(super) struct VerifierSetup {
    pub(super) config: Config,
    permissions: Arc<Permissions>,
    pub(super) verifier: Verifier,
    pub(super) clock: Clock,
}

/// A verifier with the defaults, and one with an issuer and an audience that accepts tokens without expiry or user.
static SETUPS: LazyLock<[VerifierSetup; 2]> = LazyLock::new(|| {
    [
        setup(|_| {}),
        setup(|config| {
            config.auth.required_claims.clear();
            config.auth.anonymous = AnonymousAccess::Token;
            config.auth.issuer = Some("id".to_owned());
            config.auth.audience = Some("hub".to_owned());
        }),
    ]
});

pub(super) fn setup(change: impl FnOnce(&mut Config)) -> VerifierSetup {
    let chat = toml::from_str("name = \"chat\"\nchannel_regex = \"[a-z0-9]+\"").expect("a namespace");
    let mut config = Config { namespaces: vec![chat], ..Config::default() };
    config.auth.hmac_secret = Secret::new(SECRET);
    change(&mut config);
    let clock = Clock::default();
    clock.step_forward(NOW.saturating_duration_since(clock.now()));
    clock.step_back(clock.now().saturating_duration_since(NOW));
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(&config, permissions.clone(), clock.clone()).expect("a good key");
    VerifierSetup { config, permissions, verifier, clock }
}

/// A header, a line break and a payload, which are signed. An empty header means a valid one. Once more, the whole input is
/// used as a token.
pub fn claims(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, payload) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let header = if header.is_empty() { VALID_HEADER } else { header };
    let token = sign(header, payload);
    for setup in &*SETUPS {
        setup.check_signed_token(header, payload, &token);
        if let Ok(text) = std::str::from_utf8(data) {
            // Nothing is accepted without the key's signature.
            assert!(setup.verifier.verify(text).is_err() && setup.verifier.verify_subscription(text).is_err());
        }
    }
}

pub(super) fn sign(header: &[u8], payload: &[u8]) -> String {
    let message = [header, payload].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a signature");
    format!("{message}.{signature}")
}

impl VerifierSetup {
    fn check_signed_token(&self, header: &[u8], payload: &[u8], token: &str) {
        let before = self.clock.now();
        let connection = self.verifier.verify(token);
        let subscription = self.verifier.verify_subscription(token);
        let mut unsigned = self.verifier.claims_of_unsigned(payload);
        let after = self.clock.now();
        if let (Ok(unsigned), Ok(claims)) = (&mut unsigned, &connection) {
            // Only a signature tells the key.
            unsigned.token.key = claims.token.key;
        }
        assert!(connection.is_err() || subscription.is_err(), "a token of both kinds");
        if connection.is_ok() || subscription.is_ok() {
            assert!(token.len() <= MAX_TOKEN_BYTES);
            check_header(header);
            self.check_altered_tokens(token);
        }
        // Unless it expires at this very moment.
        if header == VALID_HEADER && token.len() <= MAX_TOKEN_BYTES && before == after {
            assert_eq!(connection, unsigned);
        }
        if let Ok(claims) = &connection {
            assert_eq!(unsigned.as_ref(), Ok(claims));
            self.check_bounds(claims);
            let members = self.compare_claims(payload, &claims.user, claims.expires_at, before, after);
            assert!(!members.contains("channel"), "a subscription token opened a connection");
        }
        if let Ok(claims) = &subscription {
            assert_eq!(unsigned, Err(TokenError::IsSubscriptionToken));
            self.check_channel_user(&claims.user, &claims.channel);
            check_shown_json(claims.info.as_deref());
            let SubscriptionClaims { user, expires_at, .. } = claims;
            let members = self.compare_claims(payload, user, *expires_at, before, after);
            assert!(["channels", "subs", "caps"].iter().all(|name| !members.contains(*name)), "a connection token");
        }
    }

    /// Checks that a change of any bit is noticed.
    fn check_altered_tokens(&self, token: &str) {
        for (at, bit) in
            [(0, 1), (token.len() / 3, 2), (token.len() / 2, 0), (token.len() - 1, 2), (token.len() - 1, 0)]
        {
            let mut changed = token.as_bytes().to_vec();
            changed[at] ^= 1 << bit;
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(self.verifier.verify(&changed).is_err(), "{changed}");
            assert!(self.verifier.verify_subscription(&changed).is_err(), "{changed}");
        }
        for changed in [format!("{token}="), format!("{token}A"), format!("{token}."), format!(" {token}")] {
            assert!(self.verifier.verify(&changed).is_err(), "{changed}");
        }
    }

    fn check_bounds(&self, claims: &Claims) {
        check_shown_json(claims.info.as_deref());
        let Some(grants) = &claims.grants else { return };
        assert!(grants.caps.len() <= 32 && grants.caps.iter().map(|cap| cap.channels.len()).sum::<usize>() <= 128);
        assert!(grants.subscriptions.len() <= self.config.limits.channels_per_session);
        let mut names = HashSet::new();
        for subscription in &grants.subscriptions {
            assert!(names.insert(&subscription.channel), "{} twice", subscription.channel);
            assert!(subscription.expires_at > NOW);
            check_shown_json(subscription.info.as_deref());
            check_shown_json(subscription.data.as_deref());
            self.check_channel_user(&claims.user, &subscription.channel);
        }
    }

    fn check_channel_user(&self, user: &str, channel: &Channel) {
        assert!(self.permissions.channel_options(channel).is_ok(), "{channel}");
        let is_for_user = channel.users().is_none_or(|mut users| !user.is_empty() && users.any(|named| named == user));
        assert!(is_for_user, "{channel} is not for {user:?}");
    }

    /// Compares the claims with the payload as another parser reads it; returns the names of its members that are set.
    fn compare_claims(
        &self,
        payload: &[u8],
        user: &str,
        expires_at: WallTime,
        before: WallTime,
        after: WallTime,
    ) -> HashSet<String> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(payload).expect("an object");
        let sub = members.get("sub").map(|sub| serde_json::from_str::<String>(sub.get()).expect("text"));
        assert_eq!(user, sub.unwrap_or_default());
        assert!(user.len() <= 255 && !user.contains(char::is_control), "{user:?}");
        assert!(!user.is_empty() || self.config.auth.anonymous != AnonymousAccess::Never);
        let end = |name: &str| {
            let seconds = |raw: &&RawValue| serde_json::from_str::<f64>(raw.get()).expect("a number") as i64;
            members.get(name).map_or(NEVER, |raw| WallTime::from_unix_seconds(seconds(raw)))
        };
        assert_eq!(expires_at, end("exp").min(end("expire_at")));
        assert!(expires_at > before, "over already");
        assert!(end("exp") == NEVER || end("exp") <= after.saturating_add(self.config.auth.max_ttl), "lives too long");
        assert!(end("exp") != NEVER || self.config.auth.required_claims.is_empty(), "no exp");
        for begin in ["nbf", "iat"] {
            assert!(end(begin) == NEVER || end(begin) <= after.saturating_add(self.config.auth.clock_skew), "{begin}");
        }
        members.into_iter().filter(|(_, raw)| raw.get() != "null").map(|(name, _)| name).collect()
    }
}

/// Checks an accepted header with another parser, against RFC 8725 §3.1 and RFC 7515 §4.1.11.
pub(super) fn check_header(header: &[u8]) {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(header).expect("an object");
    assert_eq!(serde_json::from_str::<String>(members["alg"].get()).expect("text"), "HS256");
    for name in ["crit", "jku", "jwk", "x5u", "x5c", "enc", "zip", "cty", "b64"] {
        assert!(!members.contains_key(name), "{name}");
    }
}

/// Checks JSON that is sent to other clients: it is short, and has no line break, which would begin another reply.
fn check_shown_json(json: Option<&[u8]>) {
    let Some(json) = json else { return };
    assert!(json.len() <= MAX_INFO_BYTES && !json.contains(&b'\n') && !json.contains(&b'\r'));
    assert!(serde_json::from_slice::<&RawValue>(json).is_ok(), "{}", String::from_utf8_lossy(json));
}
