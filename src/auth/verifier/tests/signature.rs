//! Attacks on the signature, and on the algorithm that verifies it.

use super::*;

#[test]
fn a_signed_token_is_accepted_with_the_same_secret_only() {
    let signer = Signer::new(&config().auth, Clock::default());
    let token = signer.sign("ann", Duration::from_secs(60), &UserClaims::default()).expect("a token");
    assert!(is_good(&verifier(&config()), &token));
    let mut other = config();
    other.auth.hmac_secret = Secret::new(OTHER);
    assert!(!is_good(&verifier(&other), &token));
}

#[test]
fn every_algorithm_verifies_what_its_private_key_signed() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    for algorithm in [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA] {
        let (name, pair) = (format!("{algorithm:?}"), test_key_pairs::signing(algorithm));
        let (config, _files) = with_pems(&[("k", &name, &pair.public_pem)]);
        let header = format!(r#"{{"alg":"{name}","kid":"k"}}"#);
        let payload = payload().to_string();
        let token = signed(&header, &payload, &pair.private, algorithm);
        assert!(is_good(&verifier(&config), &token), "{name}");
        let other = token.replacen(&part(&payload), &part(r#"{"sub":"eve","exp":1}"#), 1);
        assert!(!is_good(&verifier(&config), &other), "{name}: another payload");
    }
    for (algorithm, bytes) in [(Algorithm::HS384, 48), (Algorithm::HS512, 64)] {
        let (name, text) = (format!("{algorithm:?}"), "0123456789".repeat(7)[..bytes].to_owned());
        let (config, _files) = with_pems(&[("k", &name, &format!("{text}\n"))]);
        let header = format!(r#"{{"alg":"{name}","kid":"k"}}"#);
        assert!(is_good(&verifier(&config), &signed(&header, payload().to_string(), &secret(&text), algorithm)));
    }
}

#[test]
fn another_algorithm_of_the_same_family_is_refused() {
    let token = |alg: &str, algorithm| {
        let header = format!(r#"{{"alg":"{alg}","kid":"k"}}"#);
        signed(&header, payload().to_string(), &RSA.private, algorithm)
    };
    let (config, _files) = with_pems(&[("k", "RS256", &RSA.public_pem)]);
    assert!(is_good(&verifier(&config), &token("RS256", Algorithm::RS256)));
    assert!(!is_good(&verifier(&config), &token("RS512", Algorithm::RS512)));
    assert!(!is_good(&verifier(&config), &token("PS256", Algorithm::PS256)));
    assert!(!is_good(&verifier(&config), &token("RS256", Algorithm::PS256)));
    let long = signed(r#"{"alg":"HS512"}"#, payload().to_string(), &secret(SECRET), Algorithm::HS512);
    assert!(!is_good(&verifier(&self::config()), &long));
}

#[test]
fn a_header_with_another_algorithm_than_the_key_is_refused_despite_a_valid_signature() {
    let (config, _files) = with_pems(&[("k", "RS256", &RSA.public_pem)]);
    for alg in ["RS512", "PS256", "HS256", "ES256", "EdDSA", "none", "rs256"] {
        let header = format!(r#"{{"alg":"{alg}","kid":"k"}}"#);
        let token = signed(&header, payload().to_string(), &RSA.private, Algorithm::RS256);
        assert!(!is_good(&verifier(&config), &token), "{alg}");
    }
    assert!(!is_good(&verifier(&self::config()), &hs256(r#"{"alg":"HS512"}"#)));
}

#[test]
fn a_public_key_is_never_used_as_an_hmac_secret() {
    let (config, _files) = with_pems(&[("k", "RS256", &RSA.public_pem)]);
    let der = String::from_utf8_lossy(&RSA.public_der).into_owned();
    for material in [RSA.public_pem.as_str(), RSA.public_pem.trim(), &der] {
        for header in [r#"{"alg":"HS256","kid":"k"}"#, r#"{"alg":"RS256","kid":"k"}"#, r#"{"alg":"HS256"}"#] {
            let token = signed(header, payload().to_string(), &secret(material), Algorithm::HS256);
            assert!(!is_good(&verifier(&config), &token), "{header}");
        }
    }
}

#[test]
fn an_altered_signature_is_refused() {
    let token = hs256(GOOD);
    assert!(is_good(&verifier(&config()), &token));
    let (message, signature) = token.rsplit_once('.').expect("a signature");
    let last = signature.chars().next_back().expect("text");
    // 43 characters are 258 bits for 256, so the last one has two spare bits, which have to be zero.
    let spare = char::from(last as u8 + 1);
    for bad in [
        "",
        &"A".repeat(43),
        &signature[..42],
        &format!("{signature}="),
        &format!("{signature}A"),
        &format!("{signature}\n"),
        &format!(" {signature}"),
        &format!("{}{spare}", &signature[..42]),
        &signature.replace(['-', '_'], "+"),
        &signature[1..],
    ] {
        if *bad != *signature {
            assert!(!is_good(&verifier(&config()), &format!("{message}.{bad}")), "{bad:?}");
        }
    }
}

#[test]
fn an_all_zero_signature_is_refused_by_every_curve() {
    for (algorithm, bytes) in [(Algorithm::ES256, 64), (Algorithm::ES384, 96), (Algorithm::EdDSA, 64)] {
        let name = format!("{algorithm:?}");
        let (config, _files) = with_pems(&[("k", &name, &test_key_pairs::signing(algorithm).public_pem)]);
        let message = format!("{}.{}", part(format!(r#"{{"alg":"{name}","kid":"k"}}"#)), part(payload().to_string()));
        for signature in [vec![0; bytes], vec![0; bytes / 2], Vec::new(), vec![255; bytes]] {
            assert!(!is_good(&verifier(&config), &format!("{message}.{}", part(signature))), "{name}");
        }
    }
}

#[test]
fn an_ecdsa_signature_in_der_is_refused() {
    let (config, _files) = with_pems(&[("k", "ES256", &P256.public_pem)]);
    let token = signed(r#"{"alg":"ES256","kid":"k"}"#, payload().to_string(), &P256.private, Algorithm::ES256);
    let (message, signature) = token.rsplit_once('.').expect("a signature");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let integer = |half: &[u8]| [&[2, 33, 0][..], half].concat();
    let der = [vec![0x30, 70], integer(&bytes[..32]), integer(&bytes[32..])].concat();
    assert!(is_good(&verifier(&config), &token));
    assert!(!is_good(&verifier(&config), &format!("{message}.{}", part(der))));
}
