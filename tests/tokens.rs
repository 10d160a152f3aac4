//! Attacks on tokens over real sockets, against keys of several kinds in files.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use wardcast::{
    clock::Clock,
    config::{Config, KeyConfig, Secret},
};

use crate::support::{Client, TestHub, mark_secret, start_hub_with};

/// A pair of keys.
struct SigningKey {
    id: &'static str,
    algorithm: Algorithm,
    private: EncodingKey,
    public_pem: String,
    public_der: Vec<u8>,
}

impl SigningKey {
    fn new(
        id: &'static str,
        algorithm: Algorithm,
        pair: &KeyPair,
        read: fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>,
    ) -> Self {
        let private = read(pair.serialize_pem().as_bytes()).unwrap();
        let (public_pem, public_der) = (pair.public_key_pem(), pair.subject_public_key_info());
        Self { id, algorithm, private, public_pem, public_der }
    }
}

/// Key pairs of three kinds. Their public keys are in files for the hub.
struct TestKeys {
    files: TempDir,
    pairs: [SigningKey; 3],
}

impl TestKeys {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let pairs = [
            SigningKey::new("rsa", Algorithm::RS256, &rsa, EncodingKey::from_rsa_pem),
            SigningKey::new("ec", Algorithm::ES256, &p256, EncodingKey::from_ec_pem),
            SigningKey::new("ed", Algorithm::EdDSA, &ed25519, EncodingKey::from_ed_pem),
        ];
        for pair in &pairs {
            std::fs::write(files.path().join(pair.id), &pair.public_pem).unwrap();
        }
        Self { files, pairs }
    }

    fn pair(&self, id: &str) -> &SigningKey {
        self.pairs.iter().find(|pair| pair.id == id).unwrap()
    }

    /// An entry of `auth.keys`.
    fn entry(&self, id: &str, more: &str) -> KeyConfig {
        let algorithm = self.pair(id).algorithm;
        let file = self.files.path().join(id);
        toml::from_str(&format!("id = {id:?}\nalgorithm = \"{algorithm:?}\"\nfile = {file:?}\n{more}")).unwrap()
    }

    /// Starts a hub with these keys and without a secret.
    async fn start_hub(&self, change: impl FnOnce(&mut Config)) -> TestHub {
        start_hub_with(|config| {
            config.auth.hmac_secret = Secret::default();
            config.auth.keys = ["rsa", "ec", "ed"].map(|id| self.entry(id, "")).into();
            change(config);
        })
        .await
    }

    /// A token with this header, signed by one of the keys.
    fn sign(&self, by: &str, header: &Header, claims: &Value) -> String {
        mark_secret(jsonwebtoken::encode(header, claims, &self.pair(by).private).unwrap())
    }

    /// A valid token, signed by one of the keys.
    fn token(&self, hub: &TestHub, by: &str) -> String {
        self.sign(by, &self.header(by), &claims(hub))
    }

    fn header(&self, by: &str) -> Header {
        Header { kid: Some(by.to_owned()), ..Header::new(self.pair(by).algorithm) }
    }
}

fn claims(hub: &TestHub) -> Value {
    json!({"sub": "ann", "exp": hub.clock.now().unix_seconds() + 600})
}

/// The same token with another header, which its signature does not cover.
fn with_header(token: &str, header: &Value) -> String {
    let rest = token.split_once('.').unwrap().1;
    mark_secret(format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header.to_string())))
}

#[actix_rt::test]
async fn each_public_key_accepts_tokens_of_its_own_private_key_only() {
    let keys = TestKeys::new();
    let hub = keys.start_hub(|_| ()).await;
    for id in ["rsa", "ec", "ed"] {
        let mut client = hub.connect_to(&format!("/socket?token={}", keys.token(&hub, id)), &[]).await;
        client.subscribe("news").await;
        hub.connect_sdk(&keys.token(&hub, id)).await;
    }
}

#[actix_rt::test]
async fn kid_of_another_key_is_refused_with_any_alg() {
    let keys = TestKeys::new();
    let hub = keys.start_hub(|_| ()).await;
    for by in ["rsa", "ec", "ed"] {
        for kid in ["rsa", "ec", "ed", "rsa2", "", "../rsa", "rsa\u{0}", "RSA", "' OR 1=1 --"] {
            let header = Header { kid: Some(kid.to_owned()), ..keys.header(by) };
            let expected = if kid == by { 101 } else { 401 };
            let token = keys.sign(by, &header, &claims(&hub));
            assert_eq!(hub.status_of_token(&token).await, expected, "{by} as {kid:?}");
        }
        let header = Header { kid: None, ..keys.header(by) };
        let token = keys.sign(by, &header, &claims(&hub));
        assert_eq!(hub.status_of_token(&token).await, 401, "without a kid the keys are not tried in turn");
    }
}

#[actix_rt::test]
async fn token_signed_with_public_key_as_hmac_secret_is_refused() {
    let keys = TestKeys::new();
    let hub = keys.start_hub(|_| ()).await;
    for SigningKey { id, public_pem: pem, public_der: der, .. } in &keys.pairs {
        for material in [pem.as_bytes(), pem.trim().as_bytes(), der] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let header = Header { kid: Some(id.to_string()), ..Header::new(algorithm) };
                let key = EncodingKey::from_secret(material);
                let forged = mark_secret(jsonwebtoken::encode(&header, &claims(&hub), &key).unwrap());
                assert_eq!(hub.status_of_token(&forged).await, 401, "{id} {algorithm:?}");
            }
        }
    }
}

#[actix_rt::test]
async fn token_with_altered_header_is_refused() {
    let keys = TestKeys::new();
    let hub = keys.start_hub(|_| ()).await;
    let token = keys.token(&hub, "rsa");
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "none", "kid": "rsa"}),
        json!({"alg": "HS256", "kid": "rsa"}),
        json!({"alg": "PS256", "kid": "rsa"}),
        json!({"alg": "RS512", "kid": "rsa"}),
        json!({"alg": "RS256", "kid": "rsa"}),
        json!({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}),
    ] {
        assert_eq!(hub.status_of_token(&with_header(&token, &header)).await, 401, "{header}");
    }
    let stripped = mark_secret(format!("{}.", token.rsplit_once('.').unwrap().0));
    assert_eq!(hub.status_of_token(&stripped).await, 401, "without a signature");
}

#[actix_rt::test]
async fn key_embedded_or_linked_in_token_is_neither_used_nor_fetched() {
    let keys = TestKeys::new();
    let hub = keys.start_hub(|_| ()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys.json", listener.local_addr().unwrap());
    let base = keys.header("ed");
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64_URL_SAFE_NO_PAD.encode([7; 32])});
    for header in [
        Header { jku: Some(url.clone()), ..base.clone() },
        Header { x5u: Some(url.clone()), ..base.clone() },
        Header { x5c: Some(vec!["AAAA".to_owned()]), ..base.clone() },
        Header { jwk: Some(serde_json::from_value(jwk).unwrap()), ..base.clone() },
        Header { kid: Some(url.clone()), ..base.clone() },
        Header { cty: Some("JWT".to_owned()), ..base.clone() },
    ] {
        let token = keys.sign("ed", &header, &claims(&hub));
        assert_eq!(hub.status_of_token(&token).await, 401, "in spite of a valid signature: {header:?}");
        let mut client = hub.connect_without_token().await;
        client.send(json!({"id": 1, "connect": {"token": token}})).await;
        assert_eq!(client.wait_for_close().await.0, Some(3500));
    }
    assert!(listener.accept().now_or_never().is_none(), "the hub has fetched the URL");
}

/// A hub with several keys, of which `rsa` expires in two minutes.
async fn start_with_expiring_key() -> (TestKeys, TestHub) {
    let keys = TestKeys::new();
    let hub = keys
        .start_hub(|config| {
            let not_after = Clock::default().now().saturating_add(Duration::from_secs(120));
            config.auth.keys[0] = keys.entry("rsa", &format!("not_after = \"{not_after}\""));
        })
        .await;
    (keys, hub)
}

#[actix_rt::test]
async fn expired_key_ends_its_sessions_and_accepts_no_token() {
    let (keys, hub) = start_with_expiring_key().await;
    let path = |id| format!("/socket?token={}", keys.token(&hub, id));
    let mut old = Client::connect(hub.address, &path("rsa")).await.unwrap();
    let ttl = old.receive_connect_push().await["ttl"].as_u64().unwrap();
    assert!(ttl <= 120, "the client must refresh before the key expires, not when the token does: {ttl}");
    old.subscribe("news").await;
    let mut changed = hub.connect_to(&path("rsa"), &[]).await;
    changed.subscribe("news").await;
    let refresh = changed.request(json!({"id": 2, "refresh": {"token": keys.token(&hub, "ec")}})).await;
    assert!(refresh["refresh"]["ttl"].as_u64().unwrap() > 300, "{refresh}");

    hub.clock.advance(Duration::from_secs(121));
    hub.publish("news", json!("after")).await;
    assert_eq!(old.wait_for_close().await.0, Some(3005));
    assert_eq!(changed.receive_publication().await, json!("after"));
    let refused = hub.try_handshake(&path("rsa"), &[]).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &json!(101)), "{refused:?}");
    changed.send(json!({"id": 3, "refresh": {"token": keys.token(&hub, "rsa")}})).await;
    assert_eq!(changed.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn refresh_by_the_server_api_does_not_outlive_the_key() {
    let (keys, hub) = start_with_expiring_key().await;
    let path = |id| format!("/socket?token={}", keys.token(&hub, id));
    let (mut limited, mut other) = (hub.connect_to(&path("rsa"), &[]).await, hub.connect_to(&path("ec"), &[]).await);
    let in_two_hours = json!(hub.clock.now().unix_seconds() + 7200);
    for expire_at in [in_two_hours, json!(null)] {
        hub.call_api("refresh", json!({"user": "ann", "expire_at": expire_at})).await;
        let pushes = [limited.receive().await, other.receive().await].map(|push| push["push"]["refresh"].clone());
        assert!(pushes[0]["ttl"].as_u64().unwrap() <= 120, "{pushes:?}");
        assert!(pushes[1]["ttl"].as_u64().is_none_or(|ttl| ttl > 7000), "{pushes:?}");
    }
    hub.clock.advance(Duration::from_secs(121));
    assert_eq!(limited.wait_for_close().await.0, Some(3005));
    other.subscribe("news").await;
}

#[actix_rt::test]
async fn key_use_separates_connection_and_subscription_tokens() {
    let keys = TestKeys::new();
    let hub = keys
        .start_hub(|config| {
            config.auth.keys =
                vec![keys.entry("ec", "purpose = \"connection\""), keys.entry("ed", "purpose = \"subscription\"")];
        })
        .await;
    assert_eq!(hub.status_of_token(&keys.token(&hub, "ed")).await, 401);
    let mut client = hub.connect_to(&format!("/socket?token={}", keys.token(&hub, "ec")), &[]).await;
    let mut claims = claims(&hub);
    claims["channel"] = json!("$secret");
    let mut subscribe = async |by| {
        let token = keys.sign(by, &keys.header(by), &claims);
        client.subscribe_with("$secret", json!({"token": token})).await
    };
    assert_eq!(subscribe("ec").await["error"]["code"], 103);
    assert!(subscribe("ed").await["subscribe"].is_object());
}

#[actix_rt::test]
async fn every_invalid_token_gets_the_same_response() {
    let keys = TestKeys::new();
    let hub = keys.start_hub(|config| config.auth.audience = Some("hub".to_owned())).await;
    let mut good = claims(&hub);
    good["aud"] = json!("hub");
    let with = |member: &str, value: Value| {
        let mut claims = good.clone();
        claims[member] = value;
        keys.sign("ed", &keys.header("ed"), &claims)
    };
    assert_eq!(hub.status_of_token(&with("x", json!(1))).await, 101);
    let mut responses = Vec::new();
    for token in [
        keys.token(&hub, "ed"),
        with("aud", json!("other")),
        with("sub", json!("")),
        with("exp", json!("soon")),
        with("iat", json!(9_999_999_999_i64)),
        keys.sign("ed", &Header { kid: Some("rsa".to_owned()), ..keys.header("ed") }, &good),
        keys.sign("ed", &Header { kid: Some("unknown".to_owned()), ..keys.header("ed") }, &good),
        mark_secret(with("x", json!(2)) + "A"),
        "eyJ.e30.e30".to_owned(),
        "x".repeat(33_000),
    ] {
        let response = hub.try_handshake(&format!("/socket?token={token}"), &[]).await;
        let is_of_one_request =
            |line: &&str| ["date", "x-request-id"].iter().any(|name| line.to_lowercase().starts_with(name));
        let mut head: Vec<_> = response.head.lines().filter(|line| !is_of_one_request(line)).collect();
        head.sort_unstable();
        responses.push((head.join("\n"), response.json()["error"].take()));
    }
    responses.dedup();
    assert_eq!(responses.len(), 1, "{responses:?}");
}

#[actix_rt::test]
async fn invalid_bytes_in_url_are_refused_without_harm() {
    let hub = start_hub_with(|_| ()).await;
    for (query, expected) in [
        ("token=", 401),
        ("token", 401),
        ("token=%00", 401),
        ("token=%20", 401),
        ("token=Bearer%20", 401),
        ("authorization=Bearer", 401),
        ("token=%c3%a9.%c3%a9.%c3%a9", 401),
        ("%74oken=x.y.z", 401),
        ("token=x&%74oken=x", 400),
        ("token=x&%61ccess_token=x", 400),
        ("token=%", 400),
        ("token=%e", 400),
        ("token=%zz", 400),
        ("token=%ff%fe", 400),
        ("%ff=x", 400),
        ("Token=x&TOKEN=x&token[]=x&tokens=x", 101),
        ("&&=&=x&", 101),
    ] {
        assert_eq!(hub.try_handshake(&format!("/socket?{query}"), &[]).await.status, expected, "{query}");
    }
}
