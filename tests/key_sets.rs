//! Keys that the hub fetches from identity providers, over real https: discovery, rotation, outages, and attacks by documents and
//! addresses.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use wardcast::{
    auth::{Permissions, Verifier},
    clock::Clock,
    config::{Config, KeyConfig, Secret},
};

use crate::support::{
    Client, TestHub, config, http,
    identity_provider::{Answer, DISCOVERY, IdentityProvider, KEYS, ProviderKey, base64url},
    poll_until, start_hub_with,
};

fn claims(provider: &IdentityProvider, sub: &str) -> Value {
    json!({"iss": provider.issuer(), "sub": sub})
}

async fn handshake_status(hub: &TestHub, token: &str) -> u16 {
    hub.try_handshake(&format!("/socket?token={token}"), &[]).await.status
}

async fn is_ready(hub: &TestHub) -> bool {
    http::get(hub.address, "/health/ready").send().await.status == 200
}

async fn wait_until_ready(hub: &TestHub, ready: bool) {
    poll_until(&format!("ready: {ready}"), async || is_ready(hub).await == ready).await;
}

/// Starts a hub for this provider, found by discovery, and waits until it is ready.
async fn start_hub_of(provider: &IdentityProvider, change: impl FnOnce(&mut Config)) -> TestHub {
    let hub = start_hub_with(|config| {
        provider.configure_issuer(config);
        change(config);
    })
    .await;
    wait_until_ready(&hub, true).await;
    hub
}

/// Fetches the keys of a provider once, with these settings of its entry.
async fn fetch_with(
    provider: &IdentityProvider,
    settings: &str,
    change: impl FnOnce(&mut Config),
) -> Result<(), String> {
    let mut config = config();
    provider.configure(&mut config, settings);
    config.auth.key_sets.timeout = Duration::from_millis(300);
    change(&mut config);
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Verifier::new(&config, permissions, Clock::default()).unwrap();
    verifier.key_sets().fetch_all().await
}

async fn fetch(provider: &IdentityProvider) -> Result<(), String> {
    fetch_with(provider, &format!("issuer_url = {:?}", provider.issuer()), |_| ()).await
}

/// Asserts that the keys are not taken, and that the error says why.
#[track_caller]
fn assert_refused(fetched: &Result<(), String>, why: &str) {
    let error = fetched.as_ref().expect_err(why);
    assert!(error.contains(why), "{error}");
}

/// Asserts that a document with these keys is refused.
async fn assert_set_is_refused(keys: &[Value], why: &str) {
    let provider = IdentityProvider::start(&[]).await;
    provider.publish_set(keys);
    assert_refused(&fetch(&provider).await, why);
}

#[actix_rt::test]
async fn token_of_a_discovered_provider_opens_a_connection() {
    let (ec, rsa) = (ProviderKey::ec("e"), ProviderKey::rsa("r"));
    let provider = IdentityProvider::start(&[&ec, &rsa]).await;
    let hub = start_hub_of(&provider, |_| ()).await;
    for key in [&ec, &rsa] {
        let token = key.sign(hub.clock.now(), claims(&provider, "ann"));
        hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    }
    let foreign = ec.sign(hub.clock.now(), json!({"iss": "https://other.example.com", "sub": "ann"}));
    assert_eq!(handshake_status(&hub, &foreign).await, 401, "another issuer");
    let forged = ProviderKey::ec("e").sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(handshake_status(&hub, &forged).await, 401, "another key");
    assert_eq!(hub.metric(r#"wardcast_key_fetches_total{outcome="fetched"}"#).await, 1.0);
}

#[actix_rt::test]
async fn hub_starts_without_its_provider_and_becomes_ready_by_itself() {
    let key = ProviderKey::ec("e");
    let mut provider = IdentityProvider::start(&[&key]).await;
    provider.stop().await;
    let hub = start_hub_with(|config| provider.configure_issuer(config)).await;
    poll_until("a failed fetch", async || {
        hub.metric(r#"wardcast_key_fetches_total{outcome="unreachable"}"#).await > 0.0
    })
    .await;
    let health = http::get(hub.address, "/health/ready").send().await;
    assert_eq!(health.status, 503, "{health:?}");
    assert!(health.body.contains(r#"{"name":"keys","problem":"the keys of an identity"#), "{health:?}");
    assert_eq!(http::get(hub.address, "/health/live").send().await.status, 200);

    let token = key.sign(hub.clock.now(), claims(&provider, "ann"));
    let refused = hub.try_handshake(&format!("/socket?token={token}"), &[]).await;
    assert_eq!((refused.status, refused.head.contains("retry-after: ")), (503, true), "{refused:?}");
    let mut sdk = hub.connect_without_token().await;
    let reply = sdk.request(json!({"id": 1, "connect": {"token": token}})).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)), "{reply}");
    let mut plain = hub.connect_without_token().await;
    plain.send_text(&format!("Authorization: Bearer {token}")).await;
    assert_eq!(plain.wait_for_close().await.0, Some(3004));
    let published =
        http::post(hub.address, "/v1/channels/news/messages").header("Authorization", &format!("Bearer {token}"));
    assert_eq!(published.json(json!(1)).send().await.status, 503);

    provider.resume().await;
    wait_until_ready(&hub, true).await;
    let reply = sdk.request(json!({"id": 2, "connect": {"token": token}})).await;
    assert!(reply["connect"]["client"].is_string(), "the same connection: {reply}");
    hub.connect_to(&format!("/socket?token={token}"), &[]).await;
}

#[actix_rt::test]
async fn handshake_is_not_accepted_for_a_rejection_while_keys_are_missing() {
    let key = ProviderKey::ec("e");
    let mut provider = IdentityProvider::start(&[&key]).await;
    provider.stop().await;
    let hub = start_hub_with(|config| {
        provider.configure_issuer(config);
        config.auth.reject = wardcast::config::RejectMode::Close;
    })
    .await;
    let token = key.sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(handshake_status(&hub, &token).await, 503, "closed 3500, an SDK would never come back");
}

#[actix_rt::test]
async fn key_that_the_provider_begins_to_use_is_fetched_for_its_first_token() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = IdentityProvider::start(&[&old]).await;
    let hub =
        start_hub_of(&provider, |config| config.auth.key_sets.unknown_kid_interval = Duration::from_millis(100)).await;
    provider.publish(&[&old, &new]);
    let token = new.sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(handshake_status(&hub, &token).await, 503, "not 401, after which clients give the token up");
    poll_until("the new key", async || handshake_status(&hub, &token).await == 101).await;
    let token = old.sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(handshake_status(&hub, &token).await, 101);
}

#[actix_rt::test]
async fn subscription_token_with_a_new_key_is_error_100_until_the_key_is_fetched() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = IdentityProvider::start(&[&old]).await;
    let hub =
        start_hub_of(&provider, |config| config.auth.key_sets.unknown_kid_interval = Duration::from_millis(100)).await;
    provider.publish(&[&old, &new]);
    let token = old.sign(hub.clock.now(), claims(&provider, "ann"));
    let mut client = hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    let mut for_channel = claims(&provider, "ann");
    for_channel["channel"] = json!("$secret");
    let token = new.sign(hub.clock.now(), for_channel);
    let subscribe = |id: u32| json!({"id": id, "subscribe": {"channel": "$secret", "token": token}});
    let reply = client.request(subscribe(1)).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)), "{reply}");
    poll_until("the new key", async || {
        handshake_status(&hub, &new.sign(hub.clock.now(), claims(&provider, "x"))).await == 101
    })
    .await;
    assert!(client.request(subscribe(2)).await["subscribe"].is_object());
}

#[actix_rt::test]
async fn flood_of_unknown_kids_causes_one_fetch_and_no_wrong_answer() {
    let key = ProviderKey::ec("e");
    let provider = IdentityProvider::start(&[&key]).await;
    let hub =
        start_hub_of(&provider, |config| config.auth.key_sets.unknown_kid_interval = Duration::from_millis(700)).await;
    let (fetched, start) = (provider.requests(KEYS), Instant::now());
    let unknown = |kid: &str| ProviderKey::ec(kid).sign(hub.clock.now(), claims(&provider, "eve"));
    let named = unknown("named");
    assert_eq!(handshake_status(&hub, &named).await, 503);
    for number in 0..50 {
        assert_eq!(handshake_status(&hub, &unknown(&number.to_string())).await, 503);
    }
    poll_until("the kid is known to be missing", async || handshake_status(&hub, &named).await == 401).await;
    let intervals = start.elapsed().as_millis() / 700;
    let count = provider.requests(KEYS) - fetched;
    assert!((1..=1 + intervals).contains(&(count as u128)), "{count} fetches in {:?}", start.elapsed());
    assert_eq!(handshake_status(&hub, &key.sign(hub.clock.now(), claims(&provider, "ann"))).await, 101);
}

#[actix_rt::test]
async fn keys_outlive_an_outage_of_the_provider_until_they_are_stale() {
    let key = ProviderKey::ec("e");
    let mut provider = IdentityProvider::start(&[&key]).await;
    let hub = start_hub_of(&provider, |config| {
        config.auth.key_sets.refresh = Duration::from_millis(100);
        config.auth.key_sets.stale = Duration::from_millis(2500);
    })
    .await;
    let token = key.sign(hub.clock.now(), claims(&provider, "ann"));
    let mut client = hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    provider.stop().await;
    poll_until("a failed fetch", async || {
        hub.metric(r#"wardcast_key_fetches_total{outcome="unreachable"}"#).await > 0.0
    })
    .await;
    assert!(is_ready(&hub).await && handshake_status(&hub, &token).await == 101, "the keys are still good");
    poll_until("stale keys", async || handshake_status(&hub, &token).await == 503).await;
    assert!(!is_ready(&hub).await);
    client.subscribe("news").await;
    provider.resume().await;
    wait_until_ready(&hub, true).await;
    assert_eq!(handshake_status(&hub, &token).await, 101);
    client.publish("news", json!("still here")).await;
    assert_eq!(client.receive_publication().await, json!("still here"));
}

#[actix_rt::test]
async fn removed_key_verifies_nothing_from_the_next_fetch_on() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = IdentityProvider::start(&[&old, &new]).await;
    let hub = start_hub_of(&provider, |config| config.auth.key_sets.refresh = Duration::from_millis(100)).await;
    let token = old.sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(handshake_status(&hub, &token).await, 101);
    provider.publish(&[&new]);
    poll_until("the old key is gone", async || handshake_status(&hub, &token).await != 101).await;
}

#[actix_rt::test]
async fn same_kid_of_two_providers_does_not_mix() {
    let (one_key, two_key) = (ProviderKey::ec("1"), ProviderKey::ec("1"));
    let one = IdentityProvider::start(&[&one_key]).await;
    let two = IdentityProvider::start(&[&two_key]).await;
    let hub = start_hub_with(|config| {
        one.configure_issuer(config);
        let entry = format!("issuer_url = {:?}\nuser_prefix = \"two:\"", two.issuer());
        config.auth.keys.push(toml::from_str::<KeyConfig>(&entry).unwrap());
        // Both authorities in one file.
        let roots = config.auth.key_sets.ca.clone().unwrap();
        let mut own = config.clone();
        two.trust(&mut own);
        let both = [&roots, &own.auth.key_sets.ca.unwrap()].map(|path| std::fs::read_to_string(path).unwrap()).concat();
        std::fs::write(roots, both).unwrap();
    })
    .await;
    wait_until_ready(&hub, true).await;
    let now = hub.clock.now();
    for (key, provider, status) in
        [(&one_key, &one, 101), (&two_key, &two, 101), (&one_key, &two, 401), (&two_key, &one, 401)]
    {
        assert_eq!(handshake_status(&hub, &key.sign(now, claims(provider, "ann"))).await, status);
    }
}

#[actix_rt::test]
async fn set_without_discovery_is_fetched_from_its_url() {
    let key = ProviderKey::ec("e");
    let provider = IdentityProvider::start(&[&key]).await;
    let settings = format!("jwks_url = {:?}\nissuer = \"me\"", provider.url(KEYS));
    let hub = start_hub_with(|config| provider.configure(config, &settings)).await;
    wait_until_ready(&hub, true).await;
    assert_eq!(handshake_status(&hub, &key.sign(hub.clock.now(), json!({"iss": "me", "sub": "ann"}))).await, 101);
    assert_eq!(provider.requests(DISCOVERY), 0);
}

#[actix_rt::test]
async fn name_that_resolves_to_a_private_address_is_not_connected_to() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let settings = format!("issuer_url = {:?}", provider.issuer());
    let forbid = |config: &mut Config| config.auth.key_sets.private_networks = vec!["10.0.0.0/8".parse().unwrap()];
    assert_refused(&fetch_with(&provider, &settings, forbid).await, "auth.key_sets.private_networks");
    let literal = format!("jwks_url = \"https://127.0.0.1:{}/keys\"", provider.address.port());
    assert_refused(&fetch_with(&provider, &literal, forbid).await, "a private address");
    let mapped = format!("jwks_url = \"https://[::ffff:127.0.0.1]:{}/keys\"", provider.address.port());
    assert_refused(&fetch_with(&provider, &mapped, forbid).await, "a private address");
    assert_eq!(provider.requests(DISCOVERY) + provider.requests(KEYS), 0);
    assert_eq!(fetch(&provider).await, Ok(()), "allowed by the configuration");
}

#[actix_rt::test]
async fn jwks_uri_at_a_private_address_is_not_connected_to() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let metadata = json!({"issuer": provider.issuer(), "jwks_uri": "https://169.254.169.254/latest/meta-data"});
    provider.answer(DISCOVERY, Answer::Document(metadata.to_string()));
    assert_refused(&fetch(&provider).await, "169.254.169.254, a private address");
}

#[actix_rt::test]
async fn server_with_an_untrusted_certificate_is_refused() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let other = IdentityProvider::start(&[]).await;
    let settings = format!("issuer_url = {:?}", provider.issuer());
    let fetched = fetch_with(&provider, &settings, |config| {
        let networks = config.auth.key_sets.private_networks.clone();
        other.trust(config);
        config.auth.key_sets.private_networks = networks;
    });
    assert_refused(&fetched.await, "TLS handshake failed");
    assert_eq!(provider.requests(DISCOVERY), 0);
}

#[actix_rt::test]
async fn redirect_is_not_followed() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", provider.url("/elsewhere"));
    provider.answer(KEYS, Answer::Raw(redirect.into_bytes()));
    assert_refused(&fetch(&provider).await, "302");
    assert_eq!(provider.requests("/elsewhere"), 0);
}

#[actix_rt::test]
async fn error_of_the_provider_does_not_replace_keys() {
    let key = ProviderKey::ec("e");
    let provider = IdentityProvider::start(&[&key]).await;
    let hub = start_hub_of(&provider, |config| config.auth.key_sets.refresh = Duration::from_millis(100)).await;
    let token = key.sign(hub.clock.now(), claims(&provider, "ann"));
    for (answer, outcome) in [
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}".as_slice(), "status"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}", "malformed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"keys\":[", "http"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "http"),
    ] {
        let counter = format!("wardcast_key_fetches_total{{outcome=\"{outcome}\"}}");
        let before = hub.metric(&counter).await;
        provider.answer(KEYS, Answer::Raw(answer.to_vec()));
        poll_until(outcome, async || hub.metric(&counter).await > before).await;
        assert_eq!(handshake_status(&hub, &token).await, 101, "{outcome}");
    }
}

#[actix_rt::test]
async fn huge_document_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    let spaces = " ".repeat(1 << 20);
    provider.answer(KEYS, Answer::Document(format!("{{\"keys\":[]{spaces}}}")));
    assert_refused(&fetch(&provider).await, "longer than 262144 bytes");
    // Without a length.
    let chunk = format!("{:x}\r\n{spaces}\r\n", spaces.len());
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    provider.answer(KEYS, Answer::Raw(format!("{head}{chunk}{chunk}").into_bytes()));
    assert_refused(&fetch(&provider).await, "longer than 262144 bytes");
}

#[actix_rt::test]
async fn endless_head_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    provider.answer(KEYS, Answer::Raw(head.into_bytes()));
    assert_refused(&fetch(&provider).await, "HTTP error");
}

#[actix_rt::test]
async fn slow_document_is_given_up() {
    let provider = IdentityProvider::start(&[]).await;
    for slow in [Answer::Silence, Answer::Trickle] {
        provider.answer(KEYS, slow);
        assert_refused(&fetch(&provider).await, "auth.key_sets.timeout");
    }
}

#[actix_rt::test]
async fn document_that_is_no_jwk_set_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    for document in
        ["", "null", "[]", "{}", "{\"keys\":{}}", "<html></html>", "{\"keys\":[1", "{\"keys\":[],\"keys\":[]}"]
    {
        provider.answer(KEYS, Answer::Document(document.to_owned()));
        assert_refused(&fetch(&provider).await, "is not a JWK set");
    }
    provider.answer(KEYS, Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe".to_vec()));
    assert_refused(&fetch(&provider).await, "is not UTF-8");
}

#[actix_rt::test]
async fn deeply_nested_document_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = format!("{{\"keys\":[{}1{}]}}", open.repeat(20_000), close.repeat(20_000));
        provider.answer(KEYS, Answer::Document(nested.clone()));
        let fetched = fetch(&provider).await;
        assert!(fetched.is_err_and(|error| error.len() < 500));
        provider.answer(DISCOVERY, Answer::Document(nested));
        assert_refused(&fetch(&provider).await, "nested too deeply");
        provider.answer(
            DISCOVERY,
            Answer::Document(json!({"issuer": provider.issuer(), "jwks_uri": provider.url(KEYS)}).to_string()),
        );
    }
}

#[actix_rt::test]
async fn discovery_that_leads_to_itself_is_refused() {
    let provider = IdentityProvider::start(&[]).await;
    let cyclic = json!({"issuer": provider.issuer(), "jwks_uri": provider.url(DISCOVERY)});
    provider.answer(DISCOVERY, Answer::Document(cyclic.to_string()));
    assert_refused(&fetch(&provider).await, "is not a JWK set");
    assert_eq!(provider.requests(DISCOVERY), 2);
}

#[actix_rt::test]
async fn discovery_of_another_issuer_is_refused() {
    let provider = IdentityProvider::start(&[&ProviderKey::ec("e")]).await;
    for issuer in [format!("{}/", provider.issuer()), "https://accounts.example.com".to_owned()] {
        let foreign = json!({"issuer": issuer, "jwks_uri": provider.url(KEYS)});
        provider.answer(DISCOVERY, Answer::Document(foreign.to_string()));
        assert_refused(&fetch(&provider).await, "names the issuer");
    }
    assert_eq!(provider.requests(KEYS), 0);
}

#[actix_rt::test]
async fn set_with_too_many_keys_is_refused() {
    let key = ProviderKey::ec("e").jwk;
    let keys: Vec<Value> = (0..101)
        .map(|number: u32| {
            let mut key = key.clone();
            key["kid"] = json!(number.to_string());
            key
        })
        .collect();
    assert_set_is_refused(&keys, "auth.key_sets.keys").await;
}

#[actix_rt::test]
async fn two_different_keys_with_one_kid_are_both_refused() {
    let (one, two, other) = (ProviderKey::ec("same"), ProviderKey::ec("same"), ProviderKey::ec("other"));
    assert_set_is_refused(&[one.jwk.clone(), two.jwk.clone()], "ambiguous").await;
    let provider = IdentityProvider::start(&[&one, &two, &other, &other, &one]).await;
    let hub = start_hub_of(&provider, |_| ()).await;
    let now = hub.clock.now();
    for (key, status) in [(&one, 503), (&two, 503), (&other, 101)] {
        assert_eq!(handshake_status(&hub, &key.sign(now, claims(&provider, "ann"))).await, status);
    }
}

#[actix_rt::test]
async fn key_for_encryption_verifies_nothing() {
    for (member, value) in [("use", json!("enc")), ("key_ops", json!(["encrypt"]))] {
        let mut key = ProviderKey::ec("e").jwk;
        key[member] = value;
        assert_set_is_refused(&[key], "not for verifying").await;
    }
}

#[actix_rt::test]
async fn secret_in_a_public_set_verifies_nothing() {
    let secret = base64url(b"a secret that everyone can fetch, 32 bytes");
    assert_set_is_refused(&[json!({"kid": "s", "kty": "oct", "alg": "HS256", "k": secret})], "everyone can fetch")
        .await;
}

#[actix_rt::test]
async fn private_key_in_a_public_set_verifies_nothing() {
    let mut key = ProviderKey::ec("e").jwk;
    key["d"] = json!(base64url(&[7; 32]));
    assert_set_is_refused(&[key], "private key").await;
}

#[actix_rt::test]
async fn point_of_small_order_in_a_set_verifies_nothing() {
    let x = base64url(&[&[1_u8][..], &[0; 31]].concat());
    assert_set_is_refused(
        &[json!({"kid": "s", "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x})],
        "small order",
    )
    .await;
}

#[actix_rt::test]
async fn point_off_its_curve_in_a_set_verifies_nothing() {
    let mut key = ProviderKey::ec("e").jwk;
    key["y"] = json!(base64url(&[1; 32]));
    assert_set_is_refused(&[key], "not a point on its curve").await;
}

#[actix_rt::test]
async fn weak_rsa_key_in_a_set_verifies_nothing() {
    let weak = |n: &[u8], e: &str| json!({"kid": "r", "kty": "RSA", "alg": "RS256", "n": base64url(n), "e": e});
    assert_set_is_refused(&[weak(&[0xff; 128], "AQAB")], "1024 bits").await;
    assert_set_is_refused(&[weak(&[0xff; 256], "AQ")], "not a valid RSA key").await;
    assert_set_is_refused(&[weak(&[0xff; 4096], "AQAB")], "32768 bits").await;
}

#[actix_rt::test]
async fn none_and_foreign_algorithms_in_a_set_verify_nothing() {
    for alg in ["none", "HS256", "RS256", "ES384", "RSA-OAEP", ""] {
        let mut key = ProviderKey::ec("e").jwk;
        key["alg"] = json!(alg);
        assert_set_is_refused(&[key], "contains no usable key").await;
    }
}

#[actix_rt::test]
async fn url_in_the_configuration_must_be_https_without_credentials() {
    for (settings, why) in [
        ("jwks_url = \"http://id.example.com/keys\"", "is not https"),
        ("jwks_url = \"https://user:pass@id.example.com/keys\"", "user name or password"),
        ("issuer_url = \"http://id.example.com\"", "is not https"),
        ("issuer_url = \"https://id.example.com/.well-known/openid-configuration\"", "leave out /.well-known"),
    ] {
        let mut config = config();
        config.auth.hmac_secret = Secret::default();
        config.auth.keys.push(toml::from_str::<KeyConfig>(settings).unwrap());
        let errors = Verifier::key_errors(&config);
        assert!(errors.iter().any(|error| error.to_string().contains(why)), "{settings}: {errors:?}");
    }
}

#[actix_rt::test]
async fn connected_client_is_not_disturbed_by_a_fetch() {
    let key = ProviderKey::ec("e");
    let provider = IdentityProvider::start(&[&key]).await;
    let hub = start_hub_of(&provider, |config| config.auth.key_sets.refresh = Duration::from_millis(100)).await;
    let token = key.sign(hub.clock.now(), claims(&provider, "ann"));
    let mut client: Client = hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    let before = provider.requests(KEYS);
    poll_until("three fetches", async || provider.requests(KEYS) >= before + 3).await;
    client.subscribe("news").await;
}
