//! Attacks on the form of a token and on its header.

use super::*;

/// Returns why a token is refused whose only key is the secret.
#[track_caller]
fn error_of(token: &str) -> TokenError {
    verifier(&config()).verify(token).expect_err(token)
}

#[test]
fn alg_none_in_every_spelling_is_refused() {
    for alg in ["none", "None", "NONE", "nOnE", "", "none "] {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        let stripped = format!("{}.{}.", part(&header), part(payload().to_string()));
        assert_eq!([error_of(&hs256(&header)), error_of(&stripped)], [TokenError::WrongAlgorithm; 2], "{alg}");
    }
}

#[test]
fn a_missing_or_non_string_alg_is_refused() {
    for alg in ["null", r#"["HS256"]"#, r#"{"alg":"HS256"}"#, "1", "true"] {
        assert_eq!(error_of(&hs256(&format!(r#"{{"alg":{alg}}}"#))), TokenError::MalformedHeader, "{alg}");
    }
    for header in [r#"{"typ":"JWT"}"#, r#"{"Alg":"HS256"}"#, r#""HS256""#, r#"["HS256"]"#, ""] {
        assert_eq!(error_of(&hs256(header)), TokenError::MalformedHeader, "{header}");
    }
    for alg in ["hs256", r"HS256\u0000"] {
        assert_eq!(error_of(&hs256(&format!(r#"{{"alg":"{alg}"}}"#))), TokenError::WrongAlgorithm, "{alg}");
    }
}

#[test]
fn tokens_without_exactly_three_parts_are_refused() {
    use TokenError::{MalformedHeader, NotBase64Url, NotThreeParts, WrongSignature};
    let token = hs256(GOOD);
    let (message, signature) = token.rsplit_once('.').expect("a signature");
    for (token, error) in [
        (String::new(), NotThreeParts),
        (".".to_owned(), NotThreeParts),
        ("..".to_owned(), MalformedHeader),
        (message.to_owned(), NotThreeParts),
        (format!(".{token}"), NotThreeParts),
        (format!("{token}."), NotThreeParts),
        (format!("{token}.{signature}"), NotThreeParts),
        (format!("{token}.x.y"), NotThreeParts),
        (format!("{token} "), WrongSignature),
        (format!("\u{feff}{token}"), NotBase64Url),
        ("{\"alg\":\"HS256\"}".to_owned(), NotThreeParts),
        ("\u{0}".to_owned(), NotThreeParts),
        ("é.é.é".to_owned(), NotBase64Url),
    ] {
        assert_eq!(error_of(&token), error, "{token:?}");
    }
}

#[test]
fn a_token_over_token_bytes_is_refused_before_decoding() {
    let padded = |length: usize| {
        let payload = json!({"sub": "ann", "exp": payload()["exp"], "x": "x".repeat(length)});
        signed(GOOD, payload.to_string(), &secret(SECRET), Algorithm::HS256)
    };
    let (short, long) = (padded(24_400), padded(24_600));
    let max = config().limits.token_bytes;
    assert!(short.len() <= max && long.len() > max, "{} {}", short.len(), long.len());
    assert!(is_good(&verifier(&config()), &short));
    assert_eq!(error_of(&long), TokenError::TooLong(max));
    assert_eq!(error_of(&"é".repeat(10_000_000)), TokenError::TooLong(max));
    let mut raised = config();
    raised.limits.token_bytes = long.len();
    assert!(is_good(&verifier(&raised), &long));
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
        (r"cr\u0069t", r#"["exp"]"#),
    ] {
        for value in [value, "null", "\"\""] {
            let header = format!(r#"{{"alg":"HS256","{member}":{value}}}"#);
            assert_eq!(error_of(&hs256(&header)), TokenError::MalformedHeader, "{header}");
        }
    }
    let token = hs256(r#"{"alg":"HS256","x-own":{"a":[1]},"x5t":"AAAA"}"#);
    assert!(is_good(&verifier(&config()), &token), "unknown members are ignored");
}

#[test]
fn duplicate_header_members_are_refused() {
    let many: String = (0..16).map(|index| format!(r#","m{index}":1"#)).collect();
    for header in [
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","al\u0067":"none"}"#,
        r#"{"alg":"HS256","kid":"a","kid":"a"}"#,
        r#"{"alg":"HS256","x":1,"x":2}"#,
        &format!(r#"{{"alg":"HS256"{many}}}"#),
    ] {
        assert_eq!(error_of(&hs256(header)), TokenError::MalformedHeader, "{header}");
    }
}

#[test]
fn a_header_nested_200_deep_is_refused() {
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for header in [format!(r#"{{"alg":"HS256","x":{nested}}}"#), "[".repeat(4000)] {
        assert_eq!(error_of(&hs256(&header)), TokenError::HeaderTooDeep);
    }
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
        assert_eq!(error_of(&hs256(header)), TokenError::MalformedHeader, "{header}");
    }
    let good = payload().to_string();
    for payload in [format!("{good}x"), format!("{good}{good}"), format!("{good}\0"), good[1..].to_owned()] {
        let token = signed(GOOD, &payload, &secret(SECRET), Algorithm::HS256);
        assert_eq!(error_of(&token), TokenError::MalformedPayload, "{payload}");
    }
    let not_utf8 = signed(GOOD, b"{\"sub\":\"\xff\xfe\"}", &secret(SECRET), Algorithm::HS256);
    assert_eq!(error_of(&not_utf8), TokenError::PayloadNotUtf8);
    let not_utf8 = signed(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}", &good, &secret(SECRET), Algorithm::HS256);
    assert_eq!(error_of(&not_utf8), TokenError::HeaderNotUtf8);
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

#[test]
fn a_part_with_padding_or_spare_bits_is_refused_despite_a_valid_signature() {
    // Two bytes in base64url: the last character has two spare bits, and one `=` would pad it.
    let (header, payload) = (r#"{"alg":"HS256" }"#, payload().to_string());
    assert!(header.len() % 3 == 1, "{}", header.len());
    let header = part(header);
    let spare = format!("{}{}", &header[..header.len() - 1], char::from(header.as_bytes()[header.len() - 1] + 1));
    let sign = |header: &str, payload: &str| {
        let message = format!("{header}.{payload}");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &secret(SECRET), Algorithm::HS256);
        format!("{message}.{}", signature.expect("a signature"))
    };
    let payload = part(payload);
    assert!(is_good(&verifier(&config()), &sign(&header, &payload)));
    for (header, payload) in [
        (format!("{header}=="), payload.clone()),
        (spare, payload.clone()),
        (header.clone(), format!("{payload}=")),
        (header.clone(), format!("{payload}\n")),
        (header, payload.replacen('J', "+", 1)),
    ] {
        assert_eq!(error_of(&sign(&header, &payload)), TokenError::NotBase64Url, "{header}.{payload}");
    }
}
