//! Attacks on the form of a token and on its header.

use super::*;

#[test]
fn alg_none_in_every_spelling_is_refused() {
    for alg in ["\"none\"", "\"None\"", "\"NONE\"", "\"nOnE\"", "\"\"", "\"none \"", "null"] {
        let header = format!(r#"{{"alg":{alg}}}"#);
        assert!(!is_good(&verifier(&config()), &hs256(&header)), "{alg}");
        let stripped = format!("{}.{}.", part(&header), part(payload().to_string()));
        assert!(!is_good(&verifier(&config()), &stripped), "{alg}");
    }
}

#[test]
fn a_missing_or_non_string_alg_is_refused() {
    for header in [
        r#"{"typ":"JWT"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":{"alg":"HS256"}}"#,
        r#"{"alg":1}"#,
        r#"{"alg":true}"#,
        r#"{"Alg":"HS256"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256\u0000"}"#,
        r#""HS256""#,
        r#"["HS256"]"#,
        "",
    ] {
        assert!(!is_good(&verifier(&config()), &hs256(header)), "{header}");
    }
}

#[test]
fn tokens_without_exactly_three_parts_are_refused() {
    let token = hs256(GOOD);
    let (message, signature) = token.rsplit_once('.').expect("a signature");
    for shape in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        message.to_owned(),
        format!(".{token}"),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!("{token}.x.y"),
        format!("{token} "),
        format!("\u{feff}{token}"),
        "{\"alg\":\"HS256\"}".to_owned(),
        "\u{0}".to_owned(),
        "é.é.é".to_owned(),
    ] {
        assert!(!is_good(&verifier(&config()), &shape), "{shape:?}");
    }
}

#[test]
fn a_token_over_8_kib_is_refused_before_decoding() {
    let padded = |length: usize| {
        let payload = json!({"sub": "ann", "exp": payload()["exp"], "x": "x".repeat(length)});
        signed(GOOD, &payload.to_string(), &secret(SECRET), Algorithm::HS256)
    };
    let (short, long) = (padded(5900), padded(6100));
    assert!(short.len() <= MAX_TOKEN_BYTES && long.len() > MAX_TOKEN_BYTES);
    assert!(is_good(&verifier(&config()), &short));
    assert_eq!(verifier(&config()).verify(&long), Err(TokenError::TooLong));
    assert_eq!(verifier(&config()).verify(&"é".repeat(10_000_000)), Err(TokenError::TooLong));
}

#[test]
fn header_members_that_require_more_than_a_signature_are_refused_even_as_null() {
    for (member, value) in [
        ("crit", r#"["exp"]"#),
        ("crit", "[]"),
        ("jku", r#""https://evil.example/keys""#),
        ("x5u", r#""https://evil.example/cert""#),
        ("x5c", r#"["AAAA"]"#),
        ("jwk", r#"{"kty":"oct","k":"AAAA"}"#),
        ("zip", r#""DEF""#),
        ("enc", r#""A256GCM""#),
        ("cty", r#""JWT""#),
        ("b64", "false"),
        ("b64", "true"),
    ] {
        for value in [value, "null", "\"\""] {
            let header = format!(r#"{{"alg":"HS256","{member}":{value}}}"#);
            assert!(!is_good(&verifier(&config()), &hs256(&header)), "{header}");
        }
    }
    assert!(!is_good(&verifier(&config()), &hs256(r#"{"alg":"HS256","cr\u0069t":["exp"]}"#)), "escaped");
    assert!(
        is_good(&verifier(&config()), &hs256(r#"{"alg":"HS256","x-ours":{"a":[1]},"x5t":"AAAA"}"#)),
        "unknown members are ignored"
    );
}

#[test]
fn duplicate_header_members_are_refused() {
    for header in [
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","al\u0067":"none"}"#,
        r#"{"alg":"HS256","kid":"a","kid":"a"}"#,
        r#"{"alg":"HS256","x":1,"x":2}"#,
    ] {
        assert!(!is_good(&verifier(&config()), &hs256(header)), "{header}");
    }
    let many: String = (0..16).map(|index| format!(r#","m{index}":1"#)).collect();
    assert!(!is_good(&verifier(&config()), &hs256(&format!(r#"{{"alg":"HS256"{many}}}"#))));
}

#[test]
fn a_header_nested_200_deep_is_refused() {
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(!is_good(&verifier(&config()), &hs256(&format!(r#"{{"alg":"HS256","x":{nested}}}"#))));
    assert!(!is_good(&verifier(&config()), &hs256(&"[".repeat(4000))));
}

#[test]
fn trailing_garbage_and_broken_json_are_refused() {
    for header in [
        r#"{"alg":"HS256"}x"#,
        r#"{"alg":"HS256"}{"alg":"HS256"}"#,
        "{\"alg\":\"HS256\"}\0",
        r#"{"alg":"HS256",}"#,
        r#"{"alg":"HS256""#,
        "\u{feff}{\"alg\":\"HS256\"}",
        r#"{"alg":"\ud800"}"#,
    ] {
        assert!(!is_good(&verifier(&config()), &hs256(header)), "{header}");
    }
    let good = payload().to_string();
    for payload in [format!("{good}x"), format!("{good}{good}"), format!("{good}\0"), good[1..].to_owned()] {
        let token = signed(GOOD, &payload, &secret(SECRET), Algorithm::HS256);
        assert!(!is_good(&verifier(&config()), &token), "{payload}");
    }
    let message = [part(GOOD), part([b"{\"sub\":\"\xff\xfe\"", &b"}"[..]].concat())].join(".");
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &secret(SECRET), Algorithm::HS256).expect("HS256");
    assert!(!is_good(&verifier(&config()), &format!("{message}.{signature}")), "not UTF-8");
}

#[test]
fn a_configured_typ_is_required() {
    let mut config = config();
    config.auth.typ = Some("at+jwt".to_owned());
    for (typ, expected) in [
        (r#","typ":"at+jwt""#, true),
        (r#","typ":"application/AT+JWT""#, true),
        (r#","typ":"JWT""#, false),
        (r#","typ":null"#, false),
        (r#","typ":["at+jwt"]"#, false),
        ("", false),
    ] {
        let token = hs256(&format!(r#"{{"alg":"HS256"{typ}}}"#));
        assert_eq!(is_good(&verifier(&config), &token), expected, "{typ}");
    }
    let own = Signer::new(&config.auth, Clock::default())
        .sign("ann", Duration::from_secs(60), &UserClaims::default())
        .expect("a token");
    assert!(is_good(&verifier(&config), &own), "the hub's own tokens have the type");
}
