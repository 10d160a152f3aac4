//! Attacks on tokens over real sockets, against keys of several kinds in files.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use wardcast::config::{Config, Key, Secret};

use crate::support::{Client, Hub, hub_with, secret};

/// A pair of keys.
struct Pair {
    id: &'static str,
    algorithm: Algorithm,
    private: EncodingKey,
    public_pem: String,
    public_der: Vec<u8>,
}

impl Pair {
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

/// Pairs of three kinds, whose public halves are in files for the hub.
struct Keys {
    files: TempDir,
    pairs: [Pair; 3],
}

impl Keys {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let pairs = [
            Pair::new("rsa", Algorithm::RS256, &rsa, EncodingKey::from_rsa_pem),
            Pair::new("ec", Algorithm::ES256, &p256, EncodingKey::from_ec_pem),
            Pair::new("ed", Algorithm::EdDSA, &ed25519, EncodingKey::from_ed_pem),
        ];
        for pair in &pairs {
            std::fs::write(files.path().join(pair.id), &pair.public_pem).unwrap();
        }
        Self { files, pairs }
    }

    fn pair(&self, id: &str) -> &Pair {
        self.pairs.iter().find(|pair| pair.id == id).unwrap()
    }

    /// An entry of `auth.keys`.
    fn entry(&self, id: &str, more: &str) -> Key {
        let algorithm = self.pair(id).algorithm;
        let file = self.files.path().join(id);
        toml::from_str(&format!("id = {id:?}\nalgorithm = \"{algorithm:?}\"\nfile = {file:?}\n{more}")).unwrap()
    }

    /// A hub with these keys and no secret.
    async fn hub(&self, change: impl FnOnce(&mut Config)) -> Hub {
        hub_with(|config| {
            config.auth.hmac_secret = Secret::default();
            config.auth.keys = ["rsa", "ec", "ed"].map(|id| self.entry(id, "")).into();
            change(config);
        })
        .await
    }

    /// A token with this header, signed by one of the pairs.
    fn signed(&self, by: &str, header: &Header, claims: &Value) -> String {
        secret(jsonwebtoken::encode(header, claims, &self.pair(by).private).unwrap())
    }

    /// A good one.
    fn token(&self, hub: &Hub, by: &str) -> String {
        self.signed(by, &self.header(by), &claims(hub))
    }

    fn header(&self, by: &str) -> Header {
        Header { kid: Some(by.to_owned()), ..Header::new(self.pair(by).algorithm) }
    }
}

fn claims(hub: &Hub) -> Value {
    json!({"sub": "ann", "exp": hub.clock.now() / 1000 + 600})
}

/// The same token with another header, whose signature covers what it covered.
fn with_header(token: &str, header: &Value) -> String {
    let rest = token.split_once('.').unwrap().1;
    secret(format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header.to_string())))
}

async fn status(hub: &Hub, token: &str) -> u16 {
    hub.knock(&format!("/socket?token={token}"), &[]).await.status
}

#[actix_rt::test]
async fn each_key_opens_the_door_to_what_its_own_private_half_has_signed() {
    let keys = Keys::new();
    let hub = keys.hub(|_| ()).await;
    for id in ["rsa", "ec", "ed"] {
        let mut client =
            Client::connect(hub.address, &format!("/socket?token={}", keys.token(&hub, id))).await.unwrap();
        client.subscribe_after_hello("news").await;
        let sdk = json!({"id": 1, "connect": {"token": keys.token(&hub, id)}});
        assert!(hub.stranger().await.ask(sdk).await["connect"].is_object(), "{id}");
    }
}

#[actix_rt::test]
async fn a_kid_of_another_key_opens_nothing_whatever_alg_the_header_names() {
    let keys = Keys::new();
    let hub = keys.hub(|_| ()).await;
    for by in ["rsa", "ec", "ed"] {
        for kid in ["rsa", "ec", "ed", "rsa2", "", "../rsa", "rsa\u{0}", "RSA", "' OR 1=1 --"] {
            let header = Header { kid: Some(kid.to_owned()), ..keys.header(by) };
            let expected = if kid == by { 101 } else { 401 };
            assert_eq!(status(&hub, &keys.signed(by, &header, &claims(&hub))).await, expected, "{by} as {kid:?}");
        }
        let bare = Header { kid: None, ..keys.header(by) };
        assert_eq!(status(&hub, &keys.signed(by, &bare, &claims(&hub))).await, 401, "no key is tried after the other");
    }
}

#[actix_rt::test]
async fn a_token_signed_with_a_public_key_as_the_secret_opens_nothing() {
    let keys = Keys::new();
    let hub = keys.hub(|_| ()).await;
    for Pair { id, public_pem: pem, public_der: der, .. } in &keys.pairs {
        for material in [pem.as_bytes(), pem.trim().as_bytes(), der] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let header = Header { kid: Some(id.to_string()), ..Header::new(algorithm) };
                let key = EncodingKey::from_secret(material);
                let forged = secret(jsonwebtoken::encode(&header, &claims(&hub), &key).unwrap());
                assert_eq!(status(&hub, &forged).await, 401, "{id} {algorithm:?}");
            }
        }
    }
}

#[actix_rt::test]
async fn a_header_that_was_changed_behind_the_signature_opens_nothing() {
    let keys = Keys::new();
    let hub = keys.hub(|_| ()).await;
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
        assert_eq!(status(&hub, &with_header(&token, &header)).await, 401, "{header}");
    }
    let stripped = secret(format!("{}.", token.rsplit_once('.').unwrap().0));
    assert_eq!(status(&hub, &stripped).await, 401, "without its signature");
}

#[actix_rt::test]
async fn a_key_that_a_token_brings_or_names_is_not_used_and_nothing_is_fetched() {
    let keys = Keys::new();
    let hub = keys.hub(|_| ()).await;
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
        let token = keys.signed("ed", &header, &claims(&hub));
        assert_eq!(status(&hub, &token).await, 401, "though the signature is good: {header:?}");
        let mut client = hub.stranger().await;
        client.say(json!({"id": 1, "connect": {"token": token}})).await;
        assert_eq!(client.ended().await.0, Some(3500));
    }
    assert!(listener.accept().now_or_never().is_none(), "nobody came to ask");
}

#[actix_rt::test]
async fn a_key_that_is_rotated_out_ends_its_sessions_and_opens_nothing_more() {
    let keys = Keys::new();
    let hub = keys
        .hub(|config| {
            let over = humantime::format_rfc3339(std::time::SystemTime::now() + Duration::from_secs(120));
            config.auth.keys[0] = keys.entry("rsa", &format!("not_after = \"{over}\""));
        })
        .await;
    let path = |id| format!("/socket?token={}", keys.token(&hub, id));
    let mut old = Client::connect(hub.address, &path("rsa")).await.unwrap();
    let ttl = old.hear().await["push"]["connect"]["ttl"].as_u64().unwrap();
    assert!(ttl <= 120, "it is told in time to come with a token of a newer key: {ttl}");
    old.subscribe("news").await;
    let mut changed = Client::connect(hub.address, &path("rsa")).await.unwrap();
    changed.subscribe_after_hello("news").await;
    let refresh = changed.ask(json!({"id": 2, "refresh": {"token": keys.token(&hub, "ec")}})).await;
    assert!(refresh["refresh"]["ttl"].as_u64().unwrap() > 300, "{refresh}");

    hub.clock.advance(Duration::from_secs(121));
    hub.publish("news", json!("after")).await;
    assert_eq!(old.ended().await.0, Some(3005), "and nothing that was published after");
    assert_eq!(changed.publication().await, json!("after"));
    let refused = hub.knock(&path("rsa"), &[]).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &json!(101)), "{refused:?}");
    changed.say(json!({"id": 3, "refresh": {"token": keys.token(&hub, "rsa")}})).await;
    assert_eq!(changed.ended().await.0, Some(3500));
}

#[actix_rt::test]
async fn a_key_for_subscriptions_opens_no_connection_and_one_for_connections_no_channel() {
    let keys = Keys::new();
    let hub = keys
        .hub(|config| {
            config.auth.keys =
                vec![keys.entry("ec", "purpose = \"connection\""), keys.entry("ed", "purpose = \"subscription\"")];
        })
        .await;
    assert_eq!(status(&hub, &keys.token(&hub, "ed")).await, 401);
    let mut client = Client::connect(hub.address, &format!("/socket?token={}", keys.token(&hub, "ec"))).await.unwrap();
    client.hear().await;
    let mut claims = claims(&hub);
    claims["channel"] = json!("$secret");
    let mut subscribe = async |by| {
        let token = keys.signed(by, &keys.header(by), &claims);
        client.ask(json!({"id": 2, "subscribe": {"channel": "$secret", "token": token}})).await
    };
    assert_eq!(subscribe("ec").await["error"]["code"], 103);
    assert!(subscribe("ed").await["subscribe"].is_object());
}

#[actix_rt::test]
async fn whatever_is_wrong_with_a_token_the_answer_is_the_same() {
    let keys = Keys::new();
    let hub = keys.hub(|config| config.auth.audience = Some("hub".to_owned())).await;
    let mut good = claims(&hub);
    good["aud"] = json!("hub");
    let with = |member: &str, value: Value| {
        let mut claims = good.clone();
        claims[member] = value;
        keys.signed("ed", &keys.header("ed"), &claims)
    };
    assert_eq!(status(&hub, &with("x", json!(1))).await, 101);
    let mut answers = Vec::new();
    for token in [
        keys.token(&hub, "ed"),
        with("aud", json!("other")),
        with("sub", json!("")),
        with("exp", json!("soon")),
        with("nbf", json!(9_999_999_999_i64)),
        keys.signed("ed", &Header { kid: Some("rsa".to_owned()), ..keys.header("ed") }, &good),
        keys.signed("ed", &Header { kid: Some("nobody's".to_owned()), ..keys.header("ed") }, &good),
        secret(with("x", json!(2)) + "A"),
        "eyJ.e30.e30".to_owned(),
        "x".repeat(9000),
    ] {
        let answer = hub.knock(&format!("/socket?token={token}"), &[]).await;
        let mut head: Vec<_> = answer.head.lines().filter(|line| !line.to_lowercase().starts_with("date")).collect();
        head.sort_unstable();
        answers.push((head.join("\n"), answer.body.clone()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[actix_rt::test]
async fn odd_bytes_in_the_url_are_no_token_and_hurt_nobody() {
    let hub = hub_with(|_| ()).await;
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
        assert_eq!(hub.knock(&format!("/socket?{query}"), &[]).await.status, expected, "{query}");
    }
}
