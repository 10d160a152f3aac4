//! Logout tokens: whatever header and payload an issuer signs, what is accepted names a session or a user of that issuer, was issued for
//! this application, and is a token of no other kind.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use serde_json::value::RawValue;
use wardcast::{
    clock::WallTime,
    revocation::{RevocationTarget, Revocations},
};

use super::claims::{VerifierSetup, check_header, setup, sign};

const ISSUER: &str = "https://id.example.com";
const APPLICATIONS: [&str; 3] = ["web", "app", "hub"];
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

static SETUP: LazyLock<VerifierSetup> = LazyLock::new(|| {
    setup(|config| {
        config.auth.issuer = Some(ISSUER.to_owned());
        config.auth.audience = Some("hub".to_owned());
        config.auth.clients = vec!["web".to_owned(), "app".to_owned()];
    })
});

/// A header, a line break and a payload, which are signed. An empty header means a valid one. Once more, the whole input is used as
/// a token.
pub fn logout_token(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, payload) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let header = if header.is_empty() { br#"{"alg":"HS256","typ":"logout+jwt"}"# } else { header };
    let verifier = &SETUP.verifier;
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(verifier.verify_logout(text).is_err(), "nothing is accepted without a signature");
    }
    let token = sign(header, payload);
    let before = SETUP.clock.now();
    let Ok(logout) = verifier.verify_logout(&token) else { return };
    check_header(header);
    check_type(header);
    assert!(verifier.verify(&token).is_err() && verifier.verify_subscription(&token).is_err(), "two kinds of token");
    let altered = format!("{}A", &token[..token.len() - 1]);
    assert!(altered == token || verifier.verify_logout(&altered).is_err(), "an altered signature");

    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(payload).expect("an object");
    let text = |name: &str| serde_json::from_str::<Option<String>>(members.get(name).map_or("null", |raw| raw.get()));
    assert!(!members.contains_key("nonce"));
    assert_eq!(text("iss").expect("text").as_deref(), Some(ISSUER));
    assert_eq!(logout.issuer, ISSUER);
    assert_eq!(text("jti").expect("text"), Some(logout.jti.clone()));
    let non_empty = |name: &str| text(name).expect("text").filter(|text| !text.is_empty());
    assert_eq!((non_empty("sid"), non_empty("sub")), (logout.sid.clone(), logout.user.clone()));
    let events: BTreeMap<String, &RawValue> = serde_json::from_str(members["events"].get()).expect("an object");
    assert!(events[EVENT].get().starts_with('{'));
    let audience = members["aud"].get();
    let audience: Vec<String> = serde_json::from_str(audience)
        .or_else(|_| serde_json::from_str(audience).map(|one| vec![one]))
        .expect("one or a list");
    assert!(!audience.is_empty() && audience.iter().all(|name| APPLICATIONS.contains(&name.as_str())), "{audience:?}");
    check_dates(&members, logout.issued_at, logout.expires_at, before);

    let revocations = Revocations::new(&SETUP.config, SETUP.clock.clone(), Arc::default());
    let made = logout.revocations(&revocations);
    assert!((1..=2).contains(&made.len()), "{made:?}");
    for revocation in made.iter().chain([&logout.spent()]) {
        let target = &revocation.target;
        assert_eq!(target.issuer(), Some(ISSUER), "{target:?}");
        assert_eq!(RevocationTarget::parse(&target.to_text()).as_ref(), Some(target));
    }
}

fn check_type(header: &[u8]) {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(header).expect("an object");
    let Some(typ) = members.get("typ") else { return };
    let typ: String = serde_json::from_str(typ.get()).expect("text");
    let typ = typ.to_lowercase();
    assert!(["logout+jwt", "application/logout+jwt", "jwt", "application/jwt"].contains(&typ.as_str()), "{typ}");
}

fn check_dates(members: &BTreeMap<String, &RawValue>, issued_at: WallTime, expires_at: WallTime, before: WallTime) {
    let seconds = |name: &str| {
        let number = |raw: &&RawValue| serde_json::from_str::<f64>(raw.get()).expect("a number") as i64;
        members.get(name).map(number)
    };
    let auth = &SETUP.config.auth;
    let latest = SETUP.clock.now();
    assert_eq!(Some(issued_at.unix_seconds()), seconds("iat"));
    assert_eq!(expires_at.unix_seconds(), seconds("exp").unwrap_or(issued_at.unix_seconds() + 120));
    assert!(expires_at > before, "over already");
    assert!(seconds("exp").is_none() || expires_at <= latest.saturating_add(auth.max_ttl), "lives too long");
    for begin in ["nbf", "iat"] {
        let begin = seconds(begin).map(WallTime::from_unix_seconds);
        assert!(begin.is_none_or(|begin| begin <= latest.saturating_add(auth.clock_skew)));
    }
}
