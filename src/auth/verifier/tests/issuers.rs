//! Keys of several issuers: each has its own users, audience and types, and no issuer can act for another one.

use super::*;

/// Two issuers, "one" with EdDSA and "two" with ES256, each with more settings of its key.
struct TwoIssuers {
    config: Config,
    _files: [tempfile::TempDir; 2],
}

fn two_issuers(change: impl FnOnce(&mut Config)) -> TwoIssuers {
    let (mut config, first) = with_pems(&[("one", "EdDSA", &ED25519.public_pem)]);
    let (other, second) = with_pems(&[("two", "ES256", &P256.public_pem)]);
    config.auth.keys.extend(other.auth.keys);
    for key in &mut config.auth.keys {
        key.issuer = Some(key.id.clone());
        key.user_prefix = Some(format!("{}:", key.id));
    }
    change(&mut config);
    TwoIssuers { config, _files: [first, second] }
}

/// Signs these claims, to which it adds `exp` and `iss`, with the key of an issuer.
fn token_of(issuer: &str, mut claims: Value) -> String {
    let (key, algorithm) = if issuer == "one" { (&*ED25519, Algorithm::EdDSA) } else { (&*P256, Algorithm::ES256) };
    claims["exp"] = payload()["exp"].clone();
    if claims["iss"].is_null() {
        claims["iss"] = json!(issuer);
    }
    let header = format!(r#"{{"alg":"{algorithm:?}","kid":"{issuer}"}}"#);
    signed(header, claims.to_string(), &key.private, algorithm)
}

fn user_of(config: &Config, issuer: &str, claims: Value) -> Result<String, TokenError> {
    verifier(config).verify(&token_of(issuer, claims)).map(|claims| claims.user.to_string())
}

#[test]
fn the_same_sub_of_two_issuers_names_two_users() {
    let TwoIssuers { config, _files } = two_issuers(|_| ());
    assert_eq!(user_of(&config, "one", json!({"sub": "5"})), Ok("one:5".to_owned()));
    assert_eq!(user_of(&config, "two", json!({"sub": "5"})), Ok("two:5".to_owned()));
    let own = |name: &str| json!({"sub": "5", "channels": [name]});
    assert!(user_of(&config, "one", own("#one:5")).is_ok());
    for name in ["#5", "#two:5"] {
        assert_eq!(user_of(&config, "one", own(name)), Err(TokenError::ForbiddenChannel), "{name}");
    }
}

#[test]
fn a_sub_that_begins_with_the_prefix_of_another_issuer_is_refused() {
    let TwoIssuers { config, _files } = two_issuers(|config| config.auth.keys[1].user_prefix = None);
    assert_eq!(user_of(&config, "two", json!({"sub": "5"})), Ok("5".to_owned()), "one issuer may have no prefix");
    for sub in ["one:5", "one:"] {
        assert_eq!(user_of(&config, "two", json!({"sub": sub})), Err(TokenError::ForeignUser), "{sub}");
    }
    let subscription = token_of("two", json!({"sub": "one:5", "channel": "$secret"}));
    assert_eq!(verifier(&config).verify_subscription(&subscription), Err(TokenError::ForeignUser));
    let longer = two_issuers(|config| config.auth.keys[1].user_prefix = Some("one:two:".to_owned()));
    assert_eq!(user_of(&longer.config, "one", json!({"sub": "two:5"})), Err(TokenError::ForeignUser));
    assert_eq!(user_of(&longer.config, "two", json!({"sub": "5"})), Ok("one:two:5".to_owned()));
}

#[test]
fn a_key_for_subscription_tokens_names_users_of_any_issuer_and_others_only_their_own() {
    let TwoIssuers { config, _files } = two_issuers(|config| {
        config.auth.keys[1].user_prefix = None;
        config.auth.keys[1].purpose = KeyPurpose::Subscription;
    });
    let token = token_of("two", json!({"sub": "one:5", "channel": "$secret"}));
    assert_eq!(
        verifier(&config).verify_subscription(&token).map(|claims| claims.user.to_string()),
        Ok("one:5".to_owned())
    );
    let token = token_of("one", json!({"sub": "5", "channel": "$secret"}));
    assert_eq!(
        verifier(&config).verify_subscription(&token).map(|claims| claims.user.to_string()),
        Ok("one:5".to_owned())
    );
}

#[test]
fn a_token_without_user_stays_without_user_under_a_prefix() {
    let TwoIssuers { config, _files } = two_issuers(|config| config.auth.anonymous = config::AnonymousAccess::Token);
    for claims in [json!({}), json!({"sub": ""})] {
        assert_eq!(user_of(&config, "one", claims), Ok(String::new()));
    }
}

#[test]
fn issuer_and_audience_of_a_key_override_those_of_all_keys() {
    let TwoIssuers { config, _files } = two_issuers(|config| {
        config.auth.hmac_secret = Secret::new(SECRET);
        config.auth.issuer = Some("hub".to_owned());
        config.auth.audience = Some("all".to_owned());
        config.auth.subscription_audience = Some("all-subs".to_owned());
        config.auth.keys[0].audience = Some("own".to_owned());
        config.auth.keys[1].subscription_audience = Some("subs".to_owned());
    });
    let verifier = verifier(&config);
    let connects =
        |issuer: &str, aud: &str| verifier.verify(&token_of(issuer, json!({"sub": "5", "aud": aud}))).map(drop);
    let subscribes = |issuer: &str, aud: &str| {
        verifier.verify_subscription(&token_of(issuer, json!({"sub": "5", "aud": aud, "channel": "$a"}))).map(drop)
    };
    for (issuer, connection, subscription) in [("one", "own", "own"), ("two", "all", "subs")] {
        for aud in ["own", "all", "subs", "all-subs"] {
            let expected = |audience: &str| if aud == audience { Ok(()) } else { Err(TokenError::WrongAudience) };
            assert_eq!(connects(issuer, aud), expected(connection), "{issuer} {aud}");
            assert_eq!(subscribes(issuer, aud), expected(subscription), "{issuer} {aud}");
        }
    }
    let of_hub = token_of("one", json!({"sub": "5", "aud": "own", "iss": "hub"}));
    assert_eq!(verifier.verify(&of_hub), Err(TokenError::WrongIssuer));
    let signer = Signer::new(&config.auth, Clock::default());
    let (ttl, claims) = (Duration::from_secs(60), UserClaims::default());
    assert!(verifier.verify(&signer.sign("ann", ttl, &claims).expect("a token")).is_ok());
    assert!(
        verifier.verify_subscription(&signer.sign_subscription("ann", "$a", ttl, &claims).expect("a token")).is_ok()
    );
}

#[test]
fn typ_is_required_by_key_and_by_kind_of_token() {
    let mut config = config();
    config.auth.subscription_typ = Some("sub+jwt".to_owned());
    let subscription = |typ: &str| {
        let payload = json!({"sub": "ann", "exp": payload()["exp"], "channel": "$a"});
        let header = json!({"alg": "HS256", "typ": typ}).to_string();
        signed(header, payload.to_string(), &secret(SECRET), Algorithm::HS256)
    };
    let verifier = verifier(&config);
    assert!(is_good(&verifier, &hs256(GOOD)));
    assert_eq!(verifier.verify(&hs256(r#"{"alg":"HS256","typ":"sub+jwt"}"#)), Err(TokenError::WrongType));
    assert!(verifier.verify_subscription(&subscription("sub+jwt")).is_ok());
    assert_eq!(verifier.verify_subscription(&subscription("JWT")), Err(TokenError::WrongType));

    let TwoIssuers { config, _files } = two_issuers(|config| config.auth.keys[0].typ = Some("special".to_owned()));
    assert_eq!(user_of(&config, "one", json!({"sub": "5"})), Err(TokenError::WrongType), "without typ");
    assert!(user_of(&config, "two", json!({"sub": "5"})).is_ok());
}

#[test]
fn tokens_of_other_kinds_signed_by_the_same_key_are_refused() {
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "token-introspection+jwt", ""] {
        let header = json!({"alg": "HS256", "typ": typ}).to_string();
        assert_eq!(verifier(&config()).verify(&hs256(&header)), Err(TokenError::WrongType), "{typ}");
    }
    for header in
        [r#"{"alg":"HS256"}"#, r#"{"alg":"HS256","typ":"jwt"}"#, r#"{"alg":"HS256","typ":"application/at+jwt"}"#]
    {
        assert!(is_good(&verifier(&config()), &hs256(header)), "{header}");
    }
}

#[test]
fn aud_without_configured_audience_is_refused_for_keys_of_a_jwk_set_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.json");
    let jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "one", "x": part(&ED25519.public_der[12..])});
    std::fs::write(&path, json!({"keys": [jwk]}).to_string()).expect("a file");
    let mut of_set = with_keys(&[format!("jwks = {path:?}\nissuer = \"one\"")]);
    let other_app = json!({"sub": "5", "aud": "another-app"});
    assert_eq!(user_of(&of_set, "one", other_app.clone()), Err(TokenError::UnexpectedAudience));
    assert_eq!(user_of(&of_set, "one", json!({"sub": "5", "aud": ["a", "b"]})), Err(TokenError::UnexpectedAudience));
    let subscription = token_of("one", json!({"sub": "5", "aud": "another-app", "channel": "$a"}));
    assert_eq!(verifier(&of_set).verify_subscription(&subscription), Err(TokenError::UnexpectedAudience));
    assert!(user_of(&of_set, "one", json!({"sub": "5"})).is_ok());
    assert!(user_of(&of_set, "one", json!({"sub": "5", "aud": []})).is_ok(), "no audience is named");
    of_set.auth.keys[0].audience = Some("hub".to_owned());
    assert_eq!(user_of(&of_set, "one", other_app.clone()), Err(TokenError::WrongAudience));
    assert!(user_of(&of_set, "one", json!({"sub": "5", "aud": ["x", "hub"]})).is_ok());
    let TwoIssuers { config, _files } = two_issuers(|_| ());
    assert!(user_of(&config, "one", other_app).is_ok(), "a key of the operator's own");
}

#[test]
fn the_hubs_own_tokens_have_an_id_that_is_never_repeated() {
    let config = config();
    let signer = Signer::new(&config.auth, Clock::default());
    let id = || {
        let token = signer.sign("ann", Duration::from_secs(60), &UserClaims::default()).expect("a token");
        let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("a payload")).expect("base64url");
        serde_json::from_slice::<Value>(&payload).expect("JSON")["jti"].as_str().expect("a jti").to_owned()
    };
    let (one, other) = (id(), id());
    assert!(one != other && one.len() == 22, "{one} {other}");
    let mut requires_jti = self::config();
    requires_jti.auth.required_claims.push(config::RequiredClaim::Jti);
    let token = signer.sign("ann", Duration::from_secs(60), &UserClaims::default()).expect("a token");
    assert!(is_good(&verifier(&requires_jti), &token));
}
