//! Tokens: whatever header and payload a key holder signs, what is made of them is bounded and says what they say; and what
//! he did not sign opens nothing.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::value::RawValue;
use wardcast::{
    auth::{Claims, Permissions, SubscriptionClaims, TokenError, Verifier},
    channel::Channel,
    clock::{Clock, Millis, NEVER, millis},
    config::{AnonymousAccess, Config, Secret},
};

/// What the corpus takes for now: in January 2027.
const NOW: Millis = 1_800_000_000_000;
const SECRET: &str = "a secret of the fuzz targets, 32 bytes or more";
const GOOD: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;
const TOKEN_BYTES: usize = 8 * 1024;
const INFO_BYTES: usize = 4096;

/// A hub's idea of good tokens.
struct Ward {
    config: Config,
    permissions: Arc<Permissions>,
    verifier: Verifier,
    clock: Clock,
}

/// The defaults; and one that has an issuer and an audience, and takes tokens without an end or a user.
static WARDS: LazyLock<[Ward; 2]> = LazyLock::new(|| {
    [
        ward(|_| {}),
        ward(|config| {
            config.auth.required_claims.clear();
            config.auth.anonymous = AnonymousAccess::Token;
            config.auth.issuer = Some("id".to_owned());
            config.auth.audience = Some("hub".to_owned());
        }),
    ]
});

fn ward(change: impl FnOnce(&mut Config)) -> Ward {
    let chat = toml::from_str("name = \"chat\"\nchannel_regex = \"[a-z0-9]+\"").expect("a namespace");
    let mut config = Config { namespaces: vec![chat], ..Config::default() };
    config.auth.hmac_secret = Secret::new(SECRET);
    change(&mut config);
    let clock = Clock::default();
    let ahead = NOW - clock.now();
    let by = Duration::from_millis(ahead.unsigned_abs());
    if ahead > 0 {
        clock.advance(by)
    } else {
        clock.set_back(by)
    }
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(&config, permissions.clone(), clock.clone()).expect("a good key");
    Ward { config, permissions, verifier, clock }
}

/// A header, a line break, a payload; an empty header is a good one. Once more all of it is taken for a token as it is.
pub fn claims(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, payload) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let header = if header.is_empty() { GOOD } else { header };
    let token = signed(header, payload);
    for ward in &*WARDS {
        ward.judges_what_was_signed(header, payload, &token);
        if let Ok(text) = std::str::from_utf8(data) {
            // Nobody without the key gets in.
            assert!(ward.verifier.verify(text).is_err() && ward.verifier.verify_subscription(text).is_err());
        }
    }
}

fn signed(header: &[u8], payload: &[u8]) -> String {
    let message = [header, payload].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a signature");
    format!("{message}.{signature}")
}

impl Ward {
    fn judges_what_was_signed(&self, header: &[u8], payload: &[u8], token: &str) {
        let before = self.clock.now();
        let connection = self.verifier.verify(token);
        let subscription = self.verifier.verify_subscription(token);
        let unsigned = self.verifier.claims_of_unsigned(payload);
        let after = self.clock.now();
        assert!(connection.is_err() || subscription.is_err(), "a token of both kinds");
        if connection.is_ok() || subscription.is_ok() {
            assert!(token.len() <= TOKEN_BYTES);
            asks_for_nothing_but_the_signature(header);
            self.refuses_what_was_changed(token);
        }
        // Unless it ends in this very moment.
        if header == GOOD && token.len() <= TOKEN_BYTES && before == after {
            assert_eq!(connection, unsigned);
        }
        if let Ok(claims) = &connection {
            assert_eq!(unsigned.as_ref(), Ok(claims));
            self.are_bounded(claims);
            let said = self.says(payload, &claims.user, claims.expires_at, before, after);
            assert!(!said.contains("channel"), "a subscription token opened a connection");
        }
        if let Ok(claims) = &subscription {
            assert_eq!(unsigned, Err(TokenError::IsSubscriptionToken));
            self.is_for_its_user(&claims.user, &claims.channel);
            is_shown(claims.info.as_deref());
            let SubscriptionClaims { user, expires_at, .. } = claims;
            let said = self.says(payload, user, *expires_at, before, after);
            assert!(["channels", "subs", "caps"].iter().all(|name| !said.contains(*name)), "a connection token");
        }
    }

    /// One bit of it, anywhere.
    fn refuses_what_was_changed(&self, token: &str) {
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

    fn are_bounded(&self, claims: &Claims) {
        is_shown(claims.info.as_deref());
        let Some(grants) = &claims.grants else { return };
        assert!(grants.caps.len() <= 32 && grants.caps.iter().map(|cap| cap.channels.len()).sum::<usize>() <= 128);
        assert!(grants.subscriptions.len() <= self.config.limits.channels_per_session);
        let mut names = HashSet::new();
        for subscription in &grants.subscriptions {
            assert!(names.insert(&subscription.channel), "{} twice", subscription.channel);
            assert!(subscription.expires_at > NOW);
            is_shown(subscription.info.as_deref());
            is_shown(subscription.data.as_deref());
            self.is_for_its_user(&claims.user, &subscription.channel);
        }
    }

    fn is_for_its_user(&self, user: &str, channel: &Channel) {
        assert!(self.permissions.channel_options(channel).is_ok(), "{channel}");
        let is_his = channel.users().is_none_or(|mut users| !user.is_empty() && users.any(|named| named == user));
        assert!(is_his, "{channel} is not for {user:?}");
    }

    /// What was made of the payload is what another reader finds in it: the members that are set.
    fn says(&self, payload: &[u8], user: &str, expires_at: Millis, before: Millis, after: Millis) -> HashSet<String> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(payload).expect("an object");
        let sub: String = serde_json::from_str(members["sub"].get()).expect("text");
        assert_eq!(user, sub);
        assert!(user.len() <= 255 && !user.contains(char::is_control), "{user:?}");
        assert!(!user.is_empty() || self.config.auth.anonymous != AnonymousAccess::Never);
        let end = |name: &str| {
            members
                .get(name)
                .map_or(NEVER, |raw| serde_json::from_str::<f64>(raw.get()).expect("a number") as Millis * 1000)
        };
        assert_eq!(expires_at, end("exp").min(end("expire_at")));
        assert!(expires_at > before, "over already");
        assert!(end("exp") == NEVER || end("exp") <= after + millis(self.config.auth.max_ttl), "lives too long");
        assert!(end("exp") != NEVER || self.config.auth.required_claims.is_empty(), "no exp");
        for begin in ["nbf", "iat"] {
            assert!(end(begin) == NEVER || end(begin) <= after + millis(self.config.auth.clock_skew), "{begin}");
        }
        members.into_iter().filter(|(_, raw)| raw.get() != "null").map(|(name, _)| name).collect()
    }
}

/// RFC 8725 §3.1 and RFC 7515 §4.1.11, read by another reader.
fn asks_for_nothing_but_the_signature(header: &[u8]) {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(header).expect("an object");
    assert_eq!(serde_json::from_str::<String>(members["alg"].get()).expect("text"), "HS256");
    for name in ["crit", "jku", "jwk", "x5u", "x5c", "enc", "zip", "cty", "b64"] {
        assert!(!members.contains_key(name), "{name}");
    }
}

/// What is sent to others is JSON, short, and cannot begin another reply.
fn is_shown(json: Option<&[u8]>) {
    let Some(json) = json else { return };
    assert!(json.len() <= INFO_BYTES && !json.contains(&b'\n') && !json.contains(&b'\r'));
    assert!(serde_json::from_slice::<&RawValue>(json).is_ok(), "{}", String::from_utf8_lossy(json));
}
