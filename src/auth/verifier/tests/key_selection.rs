//! Attacks on the selection of the key: by id, issuer, kind of token and time.

use super::*;

#[test]
fn a_kid_selects_only_among_configured_keys() {
    let (config, _files) = with_pems(&[("a", "RS256", &RSA.public_pem), ("b", "ES256", &P256.public_pem)]);
    let verifier = verifier(&config);
    let token = |kid: &str| {
        let header = format!(r#"{{"alg":"RS256"{kid}}}"#);
        signed(&header, payload().to_string(), &RSA.private, Algorithm::RS256)
    };
    assert!(is_good(&verifier, &token(r#","kid":"a""#)));
    let long = format!(r#","kid":"{}""#, "a".repeat(5000));
    for kid in [
        "",
        r#","kid":"b""#,
        r#","kid":"c""#,
        r#","kid":"""#,
        r#","kid":null"#,
        r#","kid":["a"]"#,
        r#","kid":0"#,
        r#","kid":"../../../dev/null""#,
        r#","kid":"/proc/sys/kernel/randomize_va_space""#,
        r#","kid":"a' OR '1'='1""#,
        r#","kid":"a\u0000""#,
        r#","kid":"A""#,
        r#","kid":"http://evil.example/a""#,
        &long,
    ] {
        assert!(!is_good(&verifier, &token(kid)), "{kid:.40}");
    }
}

#[test]
fn a_kid_over_255_bytes_is_refused_even_if_any_kid_is_accepted() {
    let token = |length: usize| hs256(&format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(length)));
    assert!(is_good(&verifier(&config()), &token(255)), "with only a shared secret, kid may be anything");
    assert!(!is_good(&verifier(&config()), &token(256)));
}

#[test]
fn a_missing_kid_selects_the_only_key_and_none_of_several() {
    let token = signed(r#"{"alg":"EdDSA"}"#, payload().to_string(), &ED25519.private, Algorithm::EdDSA);
    let (one, _files) = with_pems(&[("a", "EdDSA", &ED25519.public_pem)]);
    assert!(is_good(&verifier(&one), &token));
    let (two, _files) = with_pems(&[("a", "EdDSA", &ED25519.public_pem), ("b", "ES256", &P256.public_pem)]);
    assert!(!is_good(&verifier(&two), &token));
    let (mut mixed, _files) = with_pems(&[("a", "EdDSA", &ED25519.public_pem)]);
    mixed.auth.hmac_secret = Secret::new(SECRET);
    assert!(is_good(&verifier(&mixed), &hs256(GOOD)), "the key without an id");
    assert!(!is_good(&verifier(&mixed), &token));
    assert!(!is_good(&verifier(&mixed), &hs256(r#"{"alg":"HS256","kid":"z"}"#)), "a kid has to be configured");
}

#[test]
fn a_key_past_not_after_verifies_nothing() {
    let over = Clock::default().now().saturating_add(Duration::from_secs(30));
    let mut config = with_keys(&[]);
    let (with_key, _files) = with_pems(&[("a", "EdDSA", &ED25519.public_pem)]);
    config.auth.keys = with_key.auth.keys;
    config.auth.keys[0].not_after = Some(over);
    let clock = Clock::default();
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(&config, permissions, clock.clone()).expect("good keys");
    let token = signed(r#"{"alg":"EdDSA","kid":"a"}"#, payload().to_string(), &ED25519.private, Algorithm::EdDSA);
    assert!(is_good(&verifier, &token));
    let claims = verifier.verify(&token).expect("good");
    assert_eq!(claims.expires_at, over, "its sessions expire with the key");
    clock.advance(Duration::from_secs(31));
    assert_eq!(verifier.verify(&token), Err(TokenError::KeyExpired));
}

#[test]
fn the_same_key_id_under_two_issuers_selects_by_issuer() {
    let (mut config, _files) = with_pems(&[("k", "EdDSA", &ED25519.public_pem)]);
    let (other, _other_files) = with_pems(&[("k", "ES256", &P256.public_pem)]);
    config.auth.keys.extend(other.auth.keys);
    config.auth.keys[0].issuer = Some("one".to_owned());
    config.auth.keys[1].issuer = Some("two".to_owned());
    let verifier = verifier(&config);
    let token = |issuer: Value, alg: &str, key: &EncodingKey, algorithm| {
        let mut payload = payload();
        payload["iss"] = issuer;
        signed(format!(r#"{{"alg":"{alg}","kid":"k"}}"#), payload.to_string(), key, algorithm)
    };
    let of_one = |issuer| token(issuer, "EdDSA", &ED25519.private, Algorithm::EdDSA);
    let of_two = |issuer| token(issuer, "ES256", &P256.private, Algorithm::ES256);
    assert!(is_good(&verifier, &of_one(json!("one"))) && is_good(&verifier, &of_two(json!("two"))));
    for issuer in [json!("two"), json!("three"), json!(null), json!(["one"]), json!("One"), json!("")] {
        assert!(!is_good(&verifier, &of_one(issuer.clone())), "{issuer}");
    }
    assert!(!is_good(&verifier, &of_two(json!("one"))));
}

#[test]
fn a_key_with_an_issuer_refuses_tokens_of_other_issuers() {
    let (mut config, _files) = with_pems(&[("k", "EdDSA", &ED25519.public_pem)]);
    config.auth.keys[0].issuer = Some("one".to_owned());
    let verifier = verifier(&config);
    let token = |iss: &str| {
        let payload = json!({"sub": "ann", "exp": payload()["exp"], "iss": iss});
        signed(r#"{"alg":"EdDSA","kid":"k"}"#, payload.to_string(), &ED25519.private, Algorithm::EdDSA)
    };
    assert!(is_good(&verifier, &token("one")));
    assert!(!is_good(&verifier, &token("two")));
    let none = signed(r#"{"alg":"EdDSA","kid":"k"}"#, payload().to_string(), &ED25519.private, Algorithm::EdDSA);
    assert!(!is_good(&verifier, &none));
}

#[test]
fn key_purpose_limits_the_kind_of_token() {
    let (mut config, _files) = with_pems(&[("k", "EdDSA", &ED25519.public_pem)]);
    let token = |payload: Value| {
        signed(r#"{"alg":"EdDSA","kid":"k"}"#, payload.to_string(), &ED25519.private, Algorithm::EdDSA)
    };
    let connection = token(payload());
    let mut payload = payload();
    payload["channel"] = json!("news");
    let subscription = token(payload);
    for (purpose, connects, subscribes) in
        [(KeyPurpose::Any, true, true), (KeyPurpose::Connection, true, false), (KeyPurpose::Subscription, false, true)]
    {
        config.auth.keys[0].purpose = purpose;
        let verifier = verifier(&config);
        assert_eq!(is_good(&verifier, &connection), connects, "{purpose:?}");
        assert_eq!(verifier.verify_subscription(&subscription).is_ok(), subscribes, "{purpose:?}");
        assert!(!is_good(&verifier, &subscription), "a subscription token opens no connection");
        assert!(verifier.verify_subscription(&connection).is_err(), "a connection token is no subscription token");
    }
}

#[test]
fn the_login_key_signs_connection_tokens_only() {
    let mut config = config();
    config.login.key = Secret::new(OTHER);
    let verifier = verifier(&config);
    let signer = Signer::for_login(&config.auth, &config.login.key, Clock::default());
    assert!(is_good(&verifier, &signer.sign("ann", Duration::from_secs(60), &UserClaims::default()).expect("a token")));
    assert!(is_good(&verifier, &hs256(GOOD)), "tokens of the backend remain valid");
    let mut payload = payload();
    payload["channel"] = json!("news");
    let token = |header: &str, key: &str| signed(header, payload.to_string(), &secret(key), Algorithm::HS256);
    assert!(verifier.verify_subscription(&token(r#"{"alg":"HS256","kid":"login"}"#, OTHER)).is_err());
    assert!(verifier.verify_subscription(&token(GOOD, SECRET)).is_ok());
    assert!(!is_good(&verifier, &signed(GOOD, self::payload().to_string(), &secret(OTHER), Algorithm::HS256)));
}

/// A configuration with the keys `k` of "two" and `own` without an issuer, and a set of "one" that nothing has fetched yet.
fn with_unfetched_set() -> (Config, [tempfile::TempDir; 2]) {
    let (mut config, files) = with_pems(&[("k", "ES256", &P256.public_pem), ("own", "RS256", &RSA.public_pem)]);
    config.auth.keys[0].issuer = Some("two".to_owned());
    let ca = tempfile::tempdir().expect("a directory");
    let path = ca.path().join("ca.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&path, made.cert.pem()).expect("a file");
    let set = format!("jwks_url = \"https://localhost/keys\"\nissuer = \"one\"\nca = {path:?}");
    config.auth.keys.push(toml::from_str(&set).expect("a key"));
    (config, [files, ca])
}

/// A token of an issuer, signed with a key that no configuration has.
fn token_of_issuer(alg: &str, kid: &str, issuer: &str) -> String {
    let mut payload = payload();
    payload["iss"] = json!(issuer);
    let header = format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#);
    signed(header, payload.to_string(), &ED25519.private, Algorithm::EdDSA)
}

#[test]
fn a_kid_of_another_issuer_does_not_make_a_token_invalid_whose_key_is_not_fetched_yet() {
    let (config, _files) = with_unfetched_set();
    let verifier = verifier(&config);
    for kid in ["k", "own", "new"] {
        let token = token_of_issuer("EdDSA", kid, "one");
        assert_eq!(verifier.verify(&token), Err(TokenError::KeyPending), "{kid}");
        assert_eq!(verifier.verify_subscription(&token), Err(TokenError::KeyPending), "{kid}");
    }
    for (kid, issuer, error) in [
        ("k", "two", TokenError::WrongAlgorithm),
        ("k", "three", TokenError::WrongAlgorithm),
        ("own", "two", TokenError::WrongAlgorithm),
        ("new", "two", TokenError::UnknownKey),
        ("new", "three", TokenError::UnknownKey),
    ] {
        assert_eq!(verifier.verify(&token_of_issuer("EdDSA", kid, issuer)), Err(error), "{kid} {issuer}");
    }
    let mut payload = payload();
    payload["iss"] = json!("one");
    let of_own = signed(r#"{"alg":"RS256","kid":"own"}"#, payload.to_string(), &RSA.private, Algorithm::RS256);
    assert!(is_good(&verifier, &of_own), "a key without an issuer verifies the tokens of any");
    let of_two = signed(r#"{"alg":"ES256","kid":"k"}"#, payload.to_string(), &P256.private, Algorithm::ES256);
    assert_eq!(verifier.verify(&of_two), Err(TokenError::WrongIssuer), "a valid signature of another issuer");
}

#[test]
fn an_algorithm_that_no_fetched_key_can_have_causes_no_fetch() {
    let (mut config, _files) = with_unfetched_set();
    for (alg, error) in [
        ("none", TokenError::WrongAlgorithm),
        ("NONE", TokenError::WrongAlgorithm),
        ("ES256K", TokenError::WrongAlgorithm),
        ("", TokenError::WrongAlgorithm),
        ("HS256", TokenError::UnknownKey),
        ("HS512", TokenError::UnknownKey),
        ("RS256", TokenError::KeyPending),
    ] {
        assert_eq!(verifier(&config).verify(&token_of_issuer(alg, "new", "one")), Err(error), "{alg}");
    }
    config.auth.keys[2].algorithm = Some(Algorithm::ES256);
    for (alg, error) in [("RS256", TokenError::UnknownKey), ("ES256", TokenError::KeyPending)] {
        assert_eq!(verifier(&config).verify(&token_of_issuer(alg, "new", "one")), Err(error), "{alg}");
    }
}

#[test]
fn a_set_without_an_issuer_is_refused() {
    let mut config = with_keys(&["jwks_url = \"https://id.example.com/keys?secret\"".to_owned()]);
    let errors = Verifier::key_errors(&config);
    let text = errors.iter().map(ToString::to_string).collect::<String>();
    assert!(
        text.contains("set issuer") && text.contains("https://id.example.com/keys") && !text.contains("secret"),
        "{text}"
    );
    let (of_set, _files) = with_unfetched_set();
    config.auth.keys[0].ca.clone_from(&of_set.auth.keys[2].ca);
    config.auth.issuer = Some("one".to_owned());
    assert_eq!(Verifier::key_errors(&config), [], "auth.issuer is one, too");
}
