//! Tests of keys: unusable and weak keys are refused at start, with their name and a remedy, and without a byte of them.

use std::path::Path;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ECDSA_P521_SHA512};
use serde_json::{Value, json};

use super::{
    test_key_pairs::{ED25519, P256, P384, RSA},
    *,
};
use crate::config::Config;

const SECRET: &str = "a secret of the tests, 32 bytes at least";

/// Reads keys from these entries of `auth.keys`.
fn read(keys: &[String]) -> Result<Vec<VerificationKey>, KeyError> {
    let mut auth = Config::default().auth;
    auth.keys = keys.iter().map(|key| toml::from_str(key).expect("an entry")).collect();
    VerificationKeys::read(&auth, &Secret::default())
}

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, content).expect("a file");
    file
}

/// Reads a file with this content as a key for this algorithm.
fn read_file_as(algorithm: &str, content: &[u8]) -> Result<Vec<VerificationKey>, KeyError> {
    let file = file(content);
    read(&[format!("id = \"k\"\nalgorithm = {algorithm:?}\nfile = {:?}", file.path())])
}

fn read_jwk(algorithm: Option<&str>, jwk: &Value) -> Result<Vec<VerificationKey>, KeyError> {
    let algorithm = algorithm.map(|algorithm| format!("algorithm = {algorithm:?}\n")).unwrap_or_default();
    read(&[format!("id = \"k\"\n{algorithm}jwk = '{jwk}'")])
}

fn read_set_of(more: &str, keys: &[Value]) -> Result<Vec<VerificationKey>, KeyError> {
    let file = file(json!({"keys": keys}).to_string().as_bytes());
    read(&[format!("jwks = {:?}\n{more}", file.path())])
}

fn problem(read: Result<Vec<VerificationKey>, KeyError>) -> String {
    read.expect_err("refused").to_string()
}

fn base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn ec(pair: &test_key_pairs::TestKeyPair, crv: &str, length: usize) -> Value {
    let point = &pair.public_der[pair.public_der.len() - 2 * length..];
    json!({"kty": "EC", "crv": crv, "x": base64(&point[..length]), "y": base64(&point[length..])})
}

fn ed25519() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": base64(&ED25519.public_der[12..])})
}

fn rsa() -> Value {
    let Ok(KeyMaterial::Rsa { n, e }) =
        KeyMaterial::from_file(RSA.public_pem.as_bytes(), Path::new("rsa.pem"), Algorithm::RS256)
    else {
        panic!("an RSA key")
    };
    json!({"kty": "RSA", "n": base64(&n), "e": base64(&e)})
}

fn with(mut jwk: Value, member: &str, value: impl Into<Value>) -> Value {
    jwk[member] = value.into();
    jwk
}

#[test]
fn a_key_of_the_wrong_type_for_its_algorithm_is_refused() {
    let pems = [("RS256", &*RSA), ("PS512", &*RSA), ("ES256", &*P256), ("ES384", &*P384), ("EdDSA", &*ED25519)];
    for (algorithm, pair) in pems {
        assert!(read_file_as(algorithm, pair.public_pem.as_bytes()).is_ok(), "{algorithm}");
        for (_, other) in pems.iter().filter(|(_, other)| other.public_pem != pair.public_pem) {
            let message = problem(read_file_as(algorithm, other.public_pem.as_bytes()));
            assert!(message.contains("needs another type of key"), "{message}");
        }
    }
    for (algorithm, jwk) in
        [("RS256", rsa()), ("ES256", ec(&P256, "P-256", 32)), ("ES384", ec(&P384, "P-384", 48)), ("EdDSA", ed25519())]
    {
        assert!(read_jwk(Some(algorithm), &jwk).is_ok(), "{algorithm}");
        assert!(read_jwk(None, &with(jwk.clone(), "alg", algorithm)).is_ok(), "{algorithm}");
        for other in ["RS256", "ES256", "ES384", "EdDSA", "HS256"].iter().filter(|other| **other != algorithm) {
            assert!(read_jwk(Some(other), &jwk).is_err(), "{algorithm} as {other}");
        }
        assert!(problem(read_jwk(None, &jwk)).contains("set algorithm"));
    }
}

#[test]
fn a_pem_as_an_hmac_secret_is_refused() {
    for pem in [&RSA.public_pem, &P256.public_pem, &P256.private_pem] {
        assert!(problem(read_file_as("HS256", pem.as_bytes())).contains("PEM"));
    }
    let config = Config::default();
    let auth = config::AuthConfig { hmac_secret: Secret::new(RSA.public_pem.clone()), ..config.auth };
    let message = VerificationKeys::read(&auth, &Secret::default()).expect_err("refused").to_string();
    assert!(message.contains("auth.hmac_secret") && message.contains("openssl rand"), "{message}");
}

#[test]
fn a_private_key_is_refused_without_being_quoted() {
    for (algorithm, pair) in [("RS256", &*RSA), ("ES256", &*P256), ("EdDSA", &*ED25519)] {
        for pem in [pair.private_pem.clone(), format!("{}{}", pair.public_pem, pair.private_pem)] {
            let message = problem(read_file_as(algorithm, pem.as_bytes()));
            assert!(message.contains("private key") && message.contains("-pubout"), "{message}");
            assert!(pem.lines().all(|line| !message.contains(line)), "{message}");
        }
    }
    let message = problem(read_jwk(Some("EdDSA"), &with(ed25519(), "d", "c2VjcmV0")));
    assert!(message.contains("private key") && !message.contains("c2VjcmV0"), "{message}");
}

#[test]
fn broken_or_unsupported_key_files_are_refused() {
    let der = &P256.public_der;
    let pem = |der: &[u8]| {
        let body = base64::prelude::BASE64_STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    };
    assert!(read_file_as("ES256", pem(der).as_bytes()).is_ok());
    let p521 = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).expect("a key pair").public_key_pem();
    for content in [
        String::new(),
        "hello".to_owned(),
        p521,
        pem(&[]),
        pem(&der[1..]),
        pem(&der[..der.len() - 1]),
        pem(&[&der[..], &[0]].concat()),
        pem(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        pem(&[0x30, 0x80]),
        P256.public_pem.replace("PUBLIC KEY", "CERTIFICATE"),
        P256.public_pem.replace('M', "!"),
    ] {
        assert!(read_file_as("ES256", content.as_bytes()).is_err(), "{content}");
    }
    let message = problem(read(&["id = \"k\"\nalgorithm = \"ES256\"\nfile = \"nowhere.pem\"".to_owned()]));
    assert!(
        message.contains("\"k\"") && message.contains("nowhere.pem") && message.contains("cannot be read"),
        "{message}"
    );
    assert!(problem(read_file_as("ES256", &vec![b'x'; 2 << 20])).contains("longer than"));
}

#[test]
fn a_point_that_is_not_on_its_curve_is_refused() {
    let off = with(ec(&P256, "P-256", 32), "y", base64(&[1; 32]));
    assert!(problem(read_jwk(Some("ES256"), &off)).contains("curve"));
    let zero = with(with(off, "x", base64(&[0; 32])), "y", base64(&[0; 32]));
    assert!(read_jwk(Some("ES256"), &zero).is_err());
}

#[test]
fn a_short_or_long_coordinate_is_refused_before_a_library_sees_it() {
    for length in [0, 1, 31, 33, 64, 4096] {
        assert!(
            problem(read_jwk(Some("EdDSA"), &with(ed25519(), "x", base64(&vec![7; length])))).contains("must have 32")
        );
        for member in ["x", "y"] {
            assert!(read_jwk(Some("ES256"), &with(ec(&P256, "P-256", 32), member, base64(&vec![7; length]))).is_err());
        }
    }
    for x in [json!("AAAA="), json!("not base64!"), json!(7), json!(null), json!(["AAAA"])] {
        assert!(read_jwk(Some("EdDSA"), &with(ed25519(), "x", x.clone())).is_err(), "{x}");
    }
}

#[test]
fn an_ed25519_key_of_another_length_in_a_file_is_refused() {
    for length in [0, 31, 33, 64] {
        let key = KeyMaterial::Ed25519(vec![7; length]).check_for(Algorithm::EdDSA);
        assert!(key.is_err(), "{length} bytes");
    }
    let point = ED25519.public_der[12..].to_vec();
    assert!(KeyMaterial::Ed25519(point).check_for(Algorithm::EdDSA).is_ok());
}

#[test]
fn an_ed25519_point_of_small_order_is_refused_in_every_encoding() {
    let with_sign = |hex: &str, sign: u8| {
        let mut bytes: Vec<u8> =
            (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal")).collect();
        bytes[31] |= sign;
        bytes
    };
    for hex in material::SMALL_ORDER {
        for sign in [0, 0x80] {
            let point = with_sign(hex, sign);
            assert!(
                problem(read_jwk(None, &with(with(ed25519(), "x", base64(&point)), "alg", "EdDSA")))
                    .contains("small order")
            );
            let der = [&ED25519.public_der[..12], &point].concat();
            let body = base64::prelude::BASE64_STANDARD.encode(der);
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
            assert!(problem(read_file_as("EdDSA", pem.as_bytes())).contains("small order"), "{hex}");
        }
    }
    let identity =
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"});
    assert!(problem(read_jwk(None, &identity)).contains("forge"));
}

#[test]
fn weak_rsa_keys_are_refused() {
    let of = |bits: usize, e: &[u8]| {
        let n = vec![0xff; bits / 8];
        json!({"kty": "RSA", "n": base64(&n), "e": base64(e)})
    };
    for bits in [8, 512, 1024, 2040, 16_384] {
        let message = problem(read_jwk(Some("RS256"), &of(bits, &[1, 0, 1])));
        assert!(message.contains(&format!("{bits} bits")) && message.contains("2048"), "{message}");
    }
    assert!(read_jwk(Some("RS256"), &of(2048, &[1, 0, 1])).is_ok());
    for e in [&[][..], &[0], &[1], &[0, 0, 1], &[2], &[1, 0, 0], &[255; 9]] {
        assert!(read_jwk(Some("RS256"), &of(2048, e)).is_err(), "{e:?}");
    }
    let padded = [&[0; 128][..], &[0xff; 128]].concat();
    assert!(read_jwk(Some("RS256"), &with(of(2048, &[3]), "n", base64(&padded))).is_err(), "leading zeros");
}

#[test]
fn weak_secrets_are_refused_by_the_length_of_their_hash() {
    let text = "0123456789abcdefghij0123456789ABCDEFGHIJ0123456789klmnopqrstuvwx";
    for (algorithm, bytes) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        assert!(read_file_as(algorithm, &text.as_bytes()[..bytes]).is_ok());
        assert!(read_file_as(algorithm, format!("{}\r\n", &text[..bytes]).as_bytes()).is_ok());
        let short = problem(read_file_as(algorithm, format!("{}\n", &text[..bytes - 1]).as_bytes()));
        assert!(short.contains(&format!("at least {bytes}")) && !short.contains(&text[..bytes - 1]), "{short}");
        let jwk = json!({"kty": "oct", "k": base64(&text.as_bytes()[..bytes - 1])});
        assert!(read_jwk(Some(algorithm), &jwk).is_err());
    }
    assert!(read_file_as("HS256", &[7; 64]).is_err(), "one repeated byte");
    assert!(read_file_as("HS256", b"a-string-secret-at-least-256-bits-long").is_err(), "a published sample");
    let sample = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    assert!(problem(read_jwk(Some("HS256"), &json!({"kty": "oct", "k": sample}))).contains("sample"));
}

#[test]
fn a_jwk_that_contradicts_the_configuration_is_refused() {
    let jwk = with(with(ec(&P256, "P-256", 32), "alg", "ES256"), "kid", "a");
    let read_with = |more: &str| read(&[format!("{more}\njwk = '{jwk}'")]);
    let keys = read_with("").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(keys[0].id.as_deref(), Some("a"));
    assert!(read_with("id = \"a\"\nalgorithm = \"ES256\"").is_ok());
    assert!(problem(read_with("id = \"b\"")).contains("kid"));
    assert!(problem(read_with("algorithm = \"ES384\"")).contains("must agree"));
    for alg in ["none", "es256", "ES256K", "RSA-OAEP", ""] {
        assert!(read_jwk(None, &with(jwk.clone(), "alg", alg)).is_err(), "{alg}");
    }
    let message = problem(read(&["id = \"k\"\njwk = '{\"kty\":\"oct\",\"k\":5550123}'".to_owned()]));
    assert!(!message.contains("5550123"), "{message}");
}

#[test]
fn a_jwk_set_yields_its_usable_keys_and_skips_the_others() {
    let named = |jwk: Value, kid: &str| with(jwk, "kid", kid);
    let set = [
        with(named(ec(&P256, "P-256", 32), "a"), "alg", "ES256"),
        with(with(named(ed25519(), "b"), "alg", "EdDSA"), "use", "sig"),
        with(with(named(rsa(), "c"), "alg", "RS256"), "use", "enc"),
        with(named(rsa(), "d"), "alg", "RSA-OAEP"),
        with(named(json!({"kty": "AKP", "pub": "AAAA"}), "e"), "alg", "ML-DSA-44"),
        with(with(named(rsa(), "f"), "alg", "PS256"), "key_ops", json!(["encrypt"])),
        named(rsa(), "g"),
        json!({"kid": "h", "kty": 7}),
    ];
    let keys = read_set_of("issuer = \"me\"\npurpose = \"connection\"", &set).unwrap_or_else(|error| panic!("{error}"));
    let ids: Vec<_> = keys.iter().map(|key| key.id.as_deref().unwrap_or_default()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert!(
        keys.iter()
            .map(|key| &key.rules)
            .all(|rules| rules.issuer.as_deref() == Some("me") && rules.purpose == KeyPurpose::Connection)
    );
    let keys = read_set_of("algorithm = \"RS256\"", &[named(rsa(), "g"), set[0].clone()]);
    assert_eq!(
        keys.unwrap_or_else(|error| panic!("{error}")).len(),
        1,
        "the configured algorithm applies to keys without alg"
    );
    let message = problem(read_set_of("", &set[2..]));
    assert!(message.contains("no usable key") && message.contains("\"g\" has no alg"), "{message}");
    assert!(read_set_of("", &[]).is_err());
}

#[test]
fn two_keys_with_the_same_id_and_issuer_are_refused() {
    let entry = |id: &str, more: &str| format!("id = {id:?}\nalgorithm = \"EdDSA\"\njwk = '{}'\n{more}", ed25519());
    assert!(problem(read(&[entry("a", ""), entry("a", "")])).contains("\"a\""));
    assert!(
        problem(read(&[entry("a", "issuer = \"me\""), entry("a", "issuer = \"me\"")])).contains("configured twice")
    );
    assert!(
        read(&[entry("a", "issuer = \"me\""), entry("a", "issuer = \"you\""), entry("a", ""), entry("b", "")]).is_ok()
    );
    let mut auth = Config::default().auth;
    auth.keys = vec![toml::from_str(&entry(LOGIN_KEY_ID, "")).expect("an entry")];
    assert!(VerificationKeys::read(&auth, &Secret::new(SECRET)).is_err(), "login is the id of login.key");
}

#[test]
fn a_key_entry_with_contradicting_settings_is_refused() {
    for entry in [
        "id = \"a\"\nalgorithm = \"ES256\"",
        "id = \"a\"\nalgorithm = \"ES256\"\nfile = \"a\"\njwks = \"a\"",
        "id = \"a\"\njwks = \"a\"",
        "algorithm = \"ES256\"\nfile = \"a\"",
    ] {
        assert!(read(&[entry.to_owned()]).is_err(), "{entry}");
    }
}

/// Runs a program on this input in a directory, and returns its output.
fn run_shell(dir: &Path, command: &str) -> std::process::Output {
    std::process::Command::new("sh").arg("-c").arg(command).current_dir(dir).output().expect("a shell")
}

#[test]
fn the_remedy_for_every_other_form_of_a_key_is_a_command_that_makes_the_key_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content).expect("a file");
    write("private.pem", RSA.private_pem.as_bytes());
    let made = run_shell(
        dir.path(),
        "openssl rsa -in private.pem -traditional -out pkcs1-private.pem
         openssl rsa -in private.pem -RSAPublicKey_out -out pkcs1.pem
         openssl rsa -in private.pem -RSAPublicKey_out -outform DER -out pkcs1.der
         openssl req -x509 -key private.pem -subj /CN=x -out cert.pem
         openssl x509 -in cert.pem -outform DER -out cert.der
         openssl req -new -key private.pem -subj /CN=x -out request.pem
         openssl pkey -in private.pem -pubout -outform DER -out public.der
         openssl pkey -in private.pem -outform DER -out private.der
         base64 < public.der > bare.txt; base64 < cert.der > x5c.txt; base64 < pkcs1.der > pkcs1.txt",
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    write("escaped.pem", RSA.public_pem.trim().replace('\n', "\\n").as_bytes());
    write("quoted.pem", format!("\"{}\"", RSA.public_pem.replace('\n', "\\n")).as_bytes());
    for (name, what) in [
        ("private.pem", "private key"),
        ("pkcs1-private.pem", "private key"),
        ("private.der", "private key"),
        ("pkcs1.pem", "PKCS#1"),
        ("pkcs1.der", "PKCS#1"),
        ("pkcs1.txt", "PKCS#1"),
        ("cert.pem", "certificate"),
        ("cert.der", "certificate"),
        ("x5c.txt", "certificate in Base64"),
        ("request.pem", "certificate request"),
        ("public.der", "public key in DER"),
        ("bare.txt", "without the lines BEGIN and END"),
        ("escaped.pem", "\\n written out"),
        ("quoted.pem", "\\n written out"),
    ] {
        let path = dir.path().join(name);
        let entry = |path: &Path| format!("id = \"k\"\nalgorithm = \"RS256\"\nfile = {path:?}");
        let message = problem(read(&[entry(&path)]));
        assert!(message.contains(what), "{name}: {message}");
        let command = message.split(" with: ").nth(1).expect(&message);
        let run = run_shell(dir.path(), command);
        assert!(run.status.success(), "{name}: {command}: {}", String::from_utf8_lossy(&run.stderr));
        let fresh = ["public.pem", "key.pem"].map(|name| dir.path().join(name)).into_iter().find(|path| path.exists());
        let fresh = fresh.unwrap_or_else(|| panic!("{name}: {command} wrote no file"));
        assert!(read(&[entry(&fresh)]).is_ok(), "{name}: {command}");
        std::fs::remove_file(fresh).expect("a file");
    }
}

#[test]
fn other_forms_of_keys_are_named() {
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain("-----BEGIN".bytes().flat_map(|byte| [byte, 0])).collect();
    for (content, what) in [
        (&b""[..], "is empty"),
        (b" \n", "is empty"),
        (&utf16, "UTF-16"),
        (b"{\"keys\":[]}", "name it with jwks"),
        (b"{\"kty\":\"RSA\"}", "put its text into jwk"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----", "not of a public key"),
        (b"ssh-rsa AAAA ann@example.com", "ssh-keygen -e -m PKCS8 -f "),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", "OpenSSH"),
        (b"\x00\x01\x02\xff", "neither PEM nor DER"),
        (b"hello", "contains no PEM"),
    ] {
        let message = problem(read_file_as("RS256", content));
        assert!(message.contains(what), "{what}: {message}");
    }
    let jwk = |jwk: &str| problem(read(&[format!("id = \"k\"\nalgorithm = \"RS256\"\njwk = '{jwk}'")]));
    assert!(jwk("{\"keys\":[]}").contains("name that with jwks") && jwk("-----BEGIN").contains("name that with file"));
    let set = |content: &str| {
        let file = file(content.as_bytes());
        problem(read(&[format!("jwks = {:?}", file.path())]))
    };
    assert!(set("{\"issuer\":\"x\",\"jwks_uri\":\"y\"}").contains("jwks_uri names"));
    assert!(set(&rsa().to_string()).contains("single JWK") && set(&RSA.public_pem).contains("name it with file"));
    let url = problem(read(&["jwks = \"https://id.example.com/jwks.json\"".to_owned()]));
    assert!(url.contains("jwks_url = \"https://id.example.com/jwks.json\""), "{url}");
    let message = problem(read_file_as("ES256", RSA.public_pem.as_bytes()));
    assert!(message.contains("is an RSA key") && message.contains("set algorithm to RS256"), "{message}");
}
