//! Logout tokens of identity providers: only the keys of an issuer sign them, they are accepted only where they belong, and no
//! other token is accepted there. Attacks on their claims are in `logout_token/tests`.

use super::*;
use crate::revocation::Revocations;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
const ISSUER: &str = "https://id.example.com";

/// A configuration with the key "p" of a provider, for the clients "web".
fn provider(more: &str) -> (Config, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("p");
    std::fs::write(&path, &P256.public_pem).expect("a file");
    let entry =
        format!("id = \"p\"\nalgorithm = \"ES256\"\nfile = {path:?}\nissuer = {ISSUER:?}\nclients = [\"web\"]\n{more}");
    (with_keys(&[entry]), dir)
}

fn now() -> i64 {
    Clock::default().now().unix_seconds()
}

/// The claims of a logout token that an access token could have, too.
fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "web", "azp": "web", "sub": "ann", "sid": "s", "jti": "1", "iat": now(), "exp": now() + 60,
        "events": {EVENT: {}},
    })
}

fn without_events() -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove("events");
    claims
}

fn token(header: &str, claims: &Value) -> String {
    signed(header, claims.to_string(), &P256.private, Algorithm::ES256)
}

const UNTYPED: &str = r#"{"alg":"ES256","kid":"p"}"#;
const TYPED: &str = r#"{"alg":"ES256","kid":"p","typ":"logout+jwt"}"#;
const JWT: &str = r#"{"alg":"ES256","kid":"p","typ":"JWT"}"#;
const ACCESS: &str = r#"{"alg":"ES256","kid":"p","typ":"at+jwt"}"#;

#[test]
fn logout_token_opens_no_connection_and_permits_no_subscription_whatever_its_type() {
    let (mut config, _files) = provider("");
    let verifier_of = |config: &Config| verifier(config);
    for header in [TYPED, UNTYPED, JWT] {
        let logout = token(header, &claims());
        assert!(verifier_of(&config).verify_logout(&logout).is_ok(), "{header}");
        let expected = if header == TYPED { TokenError::WrongType } else { TokenError::IsEventToken };
        assert_eq!(verifier_of(&config).verify(&logout), Err(expected), "{header}");
        let mut for_channel = claims();
        for_channel["channel"] = json!("news");
        let refused = verifier_of(&config).verify_subscription(&token(header, &for_channel));
        assert_eq!(refused, Err(expected), "{header}");
    }
    config.auth.typ = Some("logout+jwt".to_owned());
    assert_eq!(verifier_of(&config).verify(&token(TYPED, &claims())), Err(TokenError::IsEventToken));
    assert!(verifier_of(&config).verify_logout(&token(UNTYPED, &claims())).is_ok(), "auth.typ is for other tokens");
    assert!(verifier(&provider("").0).verify(&token(UNTYPED, &without_events())).is_ok(), "the same claims otherwise");
}

#[test]
fn security_event_of_another_kind_opens_no_connection() {
    let (config, _files) = provider("");
    let mut event = claims();
    event["events"] = json!({"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}});
    assert_eq!(verifier(&config).verify(&token(UNTYPED, &event)), Err(TokenError::IsEventToken));
    assert_eq!(verifier(&config).verify_logout(&token(UNTYPED, &event)), Err(TokenError::IsNoLogoutToken));
    event["events"] = json!(["concert"]);
    assert!(verifier(&config).verify(&token(UNTYPED, &event)).is_ok(), "a claim of the application");
}

#[test]
fn access_and_id_tokens_are_no_logout_tokens() {
    let (config, _files) = provider("");
    let verifier = verifier(&config);
    assert_eq!(verifier.verify_logout(&token(ACCESS, &claims())), Err(TokenError::WrongType));
    let mut id = without_events();
    id["nonce"] = json!("n");
    for claims in [without_events(), id] {
        for header in [UNTYPED, JWT, TYPED] {
            assert_eq!(verifier.verify_logout(&token(header, &claims)), Err(TokenError::IsNoLogoutToken));
        }
    }
    let mut with_nonce = claims();
    with_nonce["nonce"] = json!("n");
    assert_eq!(verifier.verify_logout(&token(TYPED, &with_nonce)), Err(TokenError::LogoutTokenWithNonce));
}

#[test]
fn only_keys_of_an_issuer_that_may_open_connections_sign_logout_tokens() {
    for (more, expected) in [
        ("", None),
        ("purpose = \"connection\"", None),
        ("purpose = \"subscription\"", Some(TokenError::WrongKeyPurpose)),
        ("not_after = \"2020-01-01T00:00:00Z\"", Some(TokenError::KeyExpired)),
    ] {
        let (config, _files) = provider(more);
        assert_eq!(verifier(&config).verify_logout(&token(TYPED, &claims())).err(), expected, "{more}");
    }
    let mut own = config();
    let header = r#"{"alg":"HS256","typ":"logout+jwt"}"#;
    let of_secret = || signed(header, claims().to_string(), &secret(SECRET), Algorithm::HS256);
    own.auth.clients = vec!["web".to_owned()];
    assert_eq!(verifier(&own).verify_logout(&of_secret()), Err(TokenError::LogoutTokenWithoutIssuer));
    own.auth.issuer = Some(ISSUER.to_owned());
    assert!(verifier(&own).verify_logout(&of_secret()).is_ok(), "a provider that signs with the client's secret");
}

#[test]
fn forged_logout_tokens_are_refused() {
    let (config, _files) = provider("");
    let verifier = verifier(&config);
    let good = token(TYPED, &claims());
    assert!(verifier.verify_logout(&good).is_ok());
    let (message, signature) = good.rsplit_once('.').expect("a signature");
    let with_pem =
        signed(r#"{"alg":"HS256","kid":"p"}"#, claims().to_string(), &secret(&P256.public_pem), Algorithm::HS256);
    let none = format!("{}.{}.", part(r#"{"alg":"none","kid":"p"}"#), part(claims().to_string()));
    let other_key = signed(TYPED.replace("ES256", "EdDSA"), claims().to_string(), &ED25519.private, Algorithm::EdDSA);
    for (token, error) in [
        (format!("{message}."), TokenError::WrongSignature),
        (format!("{message}.{}", part([0; 64])), TokenError::WrongSignature),
        (format!("{message}.{signature}="), TokenError::WrongSignature),
        (message.to_owned(), TokenError::NotThreeParts),
        (String::new(), TokenError::NotThreeParts),
        (with_pem, TokenError::WrongAlgorithm),
        (none, TokenError::WrongAlgorithm),
        (other_key, TokenError::WrongAlgorithm),
        (token(r#"{"alg":"ES256","kid":"p","crit":["x"]}"#, &claims()), TokenError::MalformedHeader),
        (token(r#"{"alg":"ES256","kid":"p","jku":"https://evil"}"#, &claims()), TokenError::MalformedHeader),
        (token(r#"{"alg":"ES256","kid":"q"}"#, &claims()), TokenError::UnknownKey),
        ("x".repeat(40_000), TokenError::TooLong(32_768)),
    ] {
        assert_eq!(verifier.verify_logout(&token), Err(error), "{token:.80}");
    }
}

#[test]
fn logout_token_is_refused_once_its_own_id_is_revoked_and_not_because_its_session_is() {
    let (config, _files) = provider("");
    let revocations = Revocations::new(&config, Clock::default(), Arc::default());
    let permissions = Permissions::new(&config.channels, &config.namespaces).without_revoked(revocations.clone());
    let verifier = Verifier::new(&config, Arc::new(permissions), Clock::default()).expect("good keys");
    let first = verifier.verify_logout(&token(TYPED, &claims())).expect("a logout token");
    revocations.add(first.revocations(&revocations)).expect("room");
    assert!(verifier.verify_logout(&token(TYPED, &claims())).is_ok(), "after an error it may be sent again");
    revocations.add([first.spent()]).expect("room");
    assert_eq!(verifier.verify_logout(&token(TYPED, &claims())), Err(TokenError::UsedLogoutToken));
    let mut next = claims();
    next["jti"] = json!("2");
    assert!(verifier.verify_logout(&token(TYPED, &next)).is_ok());
    assert_eq!(verifier.verify(&token(UNTYPED, &without_events())), Err(TokenError::Revoked));
}
