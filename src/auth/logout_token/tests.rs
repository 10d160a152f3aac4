//! Tests: attacks on the claims of a logout token, one per test. The signature is valid in all of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    clock::{Clock, NEVER},
    config::{Config, KeyConfig},
};

const NOW: WallTime = WallTime::from_unix_seconds(1_800_000_000);
const ISSUER: &str = "https://id.example.com";

fn in_seconds(seconds: i64) -> i64 {
    NOW.unix_seconds() + seconds
}

fn with_rules(entry: &str, text: &str) -> Result<LogoutToken, TokenError> {
    let mut auth = Config::default().auth;
    auth.keys = vec![toml::from_str::<KeyConfig>(entry).expect("an entry"), other_issuer()];
    let rules = auth.rules(Some(&auth.keys[0]));
    let expected = LogoutExpectations {
        now: NOW,
        max_ttl: auth.max_ttl,
        clock_skew: auth.clock_skew,
        rules: &rules,
        prefixes: &UserPrefixes::new(&auth),
    };
    LogoutToken::read(text.as_bytes(), &expected)
}

fn other_issuer() -> KeyConfig {
    toml::from_str("jwks_url = \"https://other\"\nissuer = \"https://other\"\nuser_prefix = \"other:\"")
        .expect("an entry")
}

fn read_text(text: &str) -> Result<LogoutToken, TokenError> {
    with_rules("issuer_url = \"https://id.example.com\"\naudience = \"hub\"\nclients = [\"web\", \"app\"]", text)
}

/// The payload of a valid logout token with these claims. `null` takes one away.
fn payload(more: Value) -> Value {
    let mut payload = json!({
        "iss": ISSUER, "aud": "web", "iat": in_seconds(-1), "exp": in_seconds(60), "jti": "1", "sub": "ann", "sid": "s",
        "events": {LOGOUT_EVENT: {}},
    });
    let members = payload.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        if value.is_null() {
            members.remove(name)
        } else {
            members.insert(name.clone(), value.clone())
        };
    }
    payload
}

fn read(more: Value) -> Result<LogoutToken, TokenError> {
    read_text(&payload(more).to_string())
}

#[track_caller]
fn error_of(more: Value) -> TokenError {
    read(more.clone()).expect_err(&more.to_string())
}

#[test]
fn valid_logout_token_names_the_session_and_the_user() {
    let token = LogoutToken {
        issuer: ISSUER.to_owned(),
        jti: "1".to_owned(),
        sid: Some("s".to_owned()),
        user: Some("ann".to_owned()),
        issued_at: WallTime::from_unix_seconds(in_seconds(-1)),
        expires_at: WallTime::from_unix_seconds(in_seconds(60)),
    };
    assert_eq!(read(json!({})), Ok(token.clone()));
    let unknown = json!({"typ": "Logout", "trace_id": [1], "channels": 7, "nbf": in_seconds(-1)});
    assert_eq!(read(unknown), Ok(token.clone()), "claims that it does not use may be anything");
    assert_eq!(read(json!({"sub": null})), Ok(LogoutToken { user: None, ..token.clone() }));
    assert_eq!(read(json!({"sid": null})), Ok(LogoutToken { sid: None, ..token.clone() }));
    let prefixed = "issuer_url = \"https://id.example.com\"\nclients = [\"web\"]\nuser_prefix = \"id:\"";
    let user = with_rules(prefixed, &payload(json!({})).to_string()).map(|token| token.user);
    assert_eq!(user, Ok(Some("id:ann".to_owned())));
}

#[test]
fn token_without_the_event_of_a_logout_is_no_logout_token() {
    let events = [
        Value::Null,
        json!({}),
        json!([LOGOUT_EVENT]),
        json!(LOGOUT_EVENT),
        json!({"http://schemas.openid.net/event/frontchannel-logout": {}}),
        json!({"HTTP://schemas.openid.net/event/backchannel-logout": {}}),
        json!({"http://schemas.openid.net/event/backchannel-logout/": {}}),
        json!({LOGOUT_EVENT: true}),
        json!({LOGOUT_EVENT: [{}]}),
        json!({LOGOUT_EVENT: "{}"}),
        json!({LOGOUT_EVENT: null}),
    ];
    for events in events {
        assert_eq!(error_of(json!({"events": events})), TokenError::IsNoLogoutToken);
    }
    let others = json!({"revoke_offline_access": true, LOGOUT_EVENT: {"reason": 1}, "urn:other": {}});
    assert!(read(json!({"events": others})).is_ok(), "other events beside it");
    let twice = payload(json!({})).to_string().replace("{}", &format!("{{}},\"{LOGOUT_EVENT}\":{{}}"));
    assert_eq!(read_text(&twice), Err(TokenError::IsNoLogoutToken), "twice");
}

#[test]
fn logout_token_with_any_nonce_is_refused() {
    for nonce in ["\"n\"", "null", "\"\"", "0", "{}"] {
        let text = payload(json!({})).to_string().replacen('{', &format!("{{\"nonce\":{nonce},"), 1);
        assert_eq!(read_text(&text), Err(TokenError::LogoutTokenWithNonce), "{text}");
    }
}

#[test]
fn logout_token_of_another_issuer_or_of_none_is_refused() {
    for iss in
        [json!("https://other"), json!("https://id.example.com.evil"), json!("HTTPS://id.example.com"), Value::Null]
    {
        assert_eq!(error_of(json!({"iss": iss})), TokenError::WrongIssuer);
    }
    assert_eq!(error_of(json!({"iss": "https://id.example.com/"})), TokenError::IssuerSlash);
    assert_eq!(error_of(json!({"iss": [ISSUER]})), TokenError::MalformedPayload);
    let without = "id = \"k\"\nalgorithm = \"ES256\"\nfile = \"f\"\nclients = [\"web\"]";
    let refused = with_rules(without, &payload(json!({})).to_string());
    assert_eq!(refused, Err(TokenError::LogoutTokenWithoutIssuer));
}

#[test]
fn logout_token_for_another_application_is_refused() {
    for aud in [json!("web"), json!(["web"]), json!("hub"), json!(["app", "hub", "web"])] {
        assert!(read(json!({"aud": aud})).is_ok(), "{aud}");
    }
    for aud in [Value::Null, json!([]), json!(""), json!("WEB"), json!("other"), json!(["web", "other"])] {
        assert_eq!(error_of(json!({"aud": aud.clone()})), TokenError::ForeignLogoutToken, "{aud}");
    }
    assert_eq!(error_of(json!({"aud": {"web": 1}})), TokenError::MalformedPayload);
    let without = format!("issuer_url = {ISSUER:?}");
    let refused = with_rules(&without, &payload(json!({})).to_string());
    assert_eq!(refused, Err(TokenError::ForeignLogoutToken), "without clients and audience");
}

#[test]
fn expired_logout_token_is_refused_without_leeway() {
    for exp in [0, -1, -3600] {
        assert_eq!(error_of(json!({"exp": in_seconds(exp)})), TokenError::Expired, "{exp}");
    }
    assert!(read(json!({"exp": in_seconds(1)})).is_ok());
    assert_eq!(error_of(json!({"exp": in_seconds(86_401)})), TokenError::TtlTooLong);
    for exp in [json!("1800000060"), json!(true), json!(-1), json!(1e300), json!([1])] {
        assert_eq!(error_of(json!({"exp": exp.clone()})), TokenError::MalformedPayload, "{exp}");
    }
}

#[test]
fn logout_token_without_exp_is_accepted_for_two_minutes() {
    for (iat, expected) in [(0, Ok(120)), (5, Ok(125)), (-119, Ok(1)), (-120, Err(TokenError::OldLogoutToken))] {
        let token = read(json!({"exp": null, "iat": in_seconds(iat)}));
        let expected = expected.map(|end| WallTime::from_unix_seconds(in_seconds(end)));
        assert_eq!(token.map(|token| token.expires_at), expected, "{iat}");
    }
    assert_eq!(error_of(json!({"exp": null, "iat": 0})), TokenError::OldLogoutToken);
    assert!(read(json!({"iat": in_seconds(-3600)})).is_ok(), "exp decides where there is one");
}

#[test]
fn logout_token_from_the_future_is_refused() {
    assert!(read(json!({"iat": in_seconds(5), "nbf": in_seconds(5)})).is_ok(), "within auth.clock_skew");
    assert_eq!(error_of(json!({"iat": in_seconds(6)})), TokenError::IssuedInFuture);
    assert_eq!(error_of(json!({"iat": 999_999_999_999_i64, "exp": null})), TokenError::IssuedInFuture);
    assert_eq!(error_of(json!({"nbf": in_seconds(6)})), TokenError::NotYetValid);
}

#[test]
fn logout_token_without_iat_or_jti_is_refused() {
    assert_eq!(error_of(json!({"iat": null})), TokenError::IncompleteLogoutToken("iat"));
    assert_eq!(error_of(json!({"jti": null})), TokenError::IncompleteLogoutToken("jti"));
    assert_eq!(error_of(json!({"jti": ""})), TokenError::IncompleteLogoutToken("jti"));
    for claim in ["jti", "iat"] {
        assert_eq!(error_of(json!({claim: {"a": 1}})), TokenError::MalformedPayload, "{claim}");
    }
}

#[test]
fn logout_token_that_names_neither_session_nor_user_is_refused() {
    for (sid, sub) in [(Value::Null, Value::Null), (json!(""), json!("")), (Value::Null, json!(""))] {
        let error = error_of(json!({"sid": sid, "sub": sub}));
        assert_eq!(error, TokenError::IncompleteLogoutToken("sid and no sub"));
    }
    for wrong in [json!(1), json!(["s"]), json!({}), json!(true)] {
        assert_eq!(error_of(json!({"sid": wrong})), TokenError::MalformedPayload);
        assert_eq!(error_of(json!({"sub": wrong})), TokenError::MalformedPayload);
    }
}

#[test]
fn ids_and_users_that_no_revocation_can_name_are_refused() {
    for bad in ["x".repeat(256), "a\u{0}b".to_owned(), "a\nb".to_owned()] {
        assert_eq!(error_of(json!({"jti": bad})), TokenError::InvalidLogoutId);
        assert_eq!(error_of(json!({"sid": bad})), TokenError::InvalidLogoutId);
        assert_eq!(error_of(json!({"sub": bad})), TokenError::InvalidUser);
    }
    assert!(read(json!({"jti": "x".repeat(255), "sid": "x".repeat(255), "sub": "x".repeat(255)})).is_ok());
}

#[test]
fn logout_token_names_no_user_of_another_issuer() {
    assert_eq!(error_of(json!({"sub": "other:ann"})), TokenError::ForeignUser);
    assert_eq!(error_of(json!({"sub": "other:ann", "sid": null})), TokenError::ForeignUser);
}

#[test]
fn malformed_payloads_are_refused() {
    let good = payload(json!({})).to_string();
    let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
    for (text, error) in [
        (String::new(), TokenError::MalformedPayload),
        ("[]".to_owned(), TokenError::MalformedPayload),
        (format!("[{good}]"), TokenError::MalformedPayload),
        (format!("{good}{good}"), TokenError::MalformedPayload),
        (good.replacen('{', "{\"sid\":\"x\",", 1), TokenError::MalformedPayload),
        (good.replacen('{', "{\"events\":{},", 1), TokenError::MalformedPayload),
        (good.replacen('{', "{\"aud\":\"x\",", 1), TokenError::MalformedPayload),
        (good.replacen('{', &format!("{{\"x\":{deep},"), 1), TokenError::PayloadTooDeep),
    ] {
        assert_eq!(read_text(&text), Err(error), "{text}");
    }
}

fn targets(token: &LogoutToken) -> Vec<(RevocationTarget, WallTime)> {
    let revocations = Revocations::new(&Config::default(), Clock::default(), std::sync::Arc::default());
    token.revocations(&revocations).into_iter().map(|made| (made.target, made.issued_before)).collect()
}

#[test]
fn logout_of_a_session_revokes_its_tokens_and_those_of_the_user_that_name_no_session() {
    let scope = || IssuerScope::Only(ISSUER.to_owned());
    let of_session = (RevocationTarget::Session("s".to_owned(), scope()), NEVER);
    let next_second = WallTime::from_unix_seconds(in_seconds(0));
    let without = (RevocationTarget::UserWithoutSession("ann".to_owned(), scope()), next_second);
    assert_eq!(targets(&read(json!({})).unwrap()), [of_session.clone(), without]);
    assert_eq!(targets(&read(json!({"sub": null})).unwrap()), [of_session]);
    let all = (RevocationTarget::User("ann".to_owned(), scope()), next_second);
    assert_eq!(targets(&read(json!({"sid": null})).unwrap()), [all], "a token of a newer login is not meant");
    let spent = read(json!({})).unwrap().spent();
    assert_eq!(spent.target, RevocationTarget::Token("1".to_owned(), scope()));
    assert_eq!((spent.issued_before, spent.expires_at.unix_seconds()), (NEVER, in_seconds(60)));
}

proptest! {
    #[test]
    fn no_payload_panics_and_whatever_is_accepted_can_be_revoked(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        (sid, sub, jti) in any::<(Option<String>, Option<String>, String)>(),
        (iat, exp) in any::<(i64, Option<i64>)>(),
    ) {
        let _ = read_text(&String::from_utf8_lossy(&bytes));
        let near = |seconds: i64| in_seconds(seconds % 200);
        let claims = json!({"sid": sid, "sub": sub, "jti": jti, "iat": near(iat), "exp": exp.map(near)});
        if let Ok(token) = read(claims) {
            prop_assert!(targets(&token).iter().all(|(target, _)| target.is_valid()) && token.spent().target.is_valid());
            prop_assert!(token.expires_at > NOW);
        }
    }

    #[test]
    fn events_of_other_applications_are_no_event_tokens(name in "[a-z_.-]{0,12}", uri in "[a-z]{1,5}:[a-z/]{0,9}") {
        let is_event = |events: &str| is_event_token(Some(&RawValue::from_string(events.to_owned()).unwrap()));
        for plain in [format!("{{\"{name}\":{{}}}}"), "[\"a:b\"]".to_owned(), "\"a:b\"".to_owned(), "{}".to_owned()] {
            prop_assert!(!is_event(&plain));
        }
        let events = format!("{{\"{name}\":1,\"{}\":{{}}}}", uri);
        prop_assert!(is_event(&events));
        prop_assert!(!is_event_token(None));
    }
}
