//! Keys that the hub fetches from identity providers, over real https: discovery, rotation, and outages.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wardcast::config::{Config, KeyConfig};

use crate::support::{
    Client, TestHub, http,
    identity_provider::{Answer, DISCOVERY, IdentityProvider, KEYS, ProviderKey},
    poll_until, start_hub_with,
};

pub fn claims(provider: &IdentityProvider, sub: &str) -> Value {
    json!({"iss": provider.issuer(), "sub": sub})
}

async fn wait_until_ready(hub: &TestHub, ready: bool) {
    poll_until(&format!("ready: {ready}"), async || hub.is_ready().await == ready).await;
}

/// Starts a hub for this provider, found by discovery, and waits until it is ready.
pub async fn start_hub_of(provider: &IdentityProvider, change: impl FnOnce(&mut Config)) -> TestHub {
    let hub = start_hub_with(|config| {
        provider.configure_issuer(config);
        change(config);
    })
    .await;
    wait_until_ready(&hub, true).await;
    hub
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
    assert_eq!(hub.status_of_token(&foreign).await, 401, "another issuer");
    let forged = ProviderKey::ec("e").sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(hub.status_of_token(&forged).await, 401, "another key");
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
    assert_eq!(hub.status_of_token(&token).await, 503, "an SDK would not reconnect after close code 3500");
}

#[actix_rt::test]
async fn key_that_the_provider_begins_to_use_is_fetched_for_its_first_token() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = IdentityProvider::start(&[&old]).await;
    let hub =
        start_hub_of(&provider, |config| config.auth.key_sets.unknown_kid_interval = Duration::from_millis(100)).await;
    provider.publish(&[&old, &new]);
    let token = new.sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(hub.status_of_token(&token).await, 503, "not 401, after which clients give the token up");
    poll_until("the new key", async || hub.status_of_token(&token).await == 101).await;
    let token = old.sign(hub.clock.now(), claims(&provider, "ann"));
    assert_eq!(hub.status_of_token(&token).await, 101);
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
        hub.status_of_token(&new.sign(hub.clock.now(), claims(&provider, "x"))).await == 101
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
    assert_eq!(hub.status_of_token(&named).await, 503);
    for number in 0..50 {
        assert_eq!(hub.status_of_token(&unknown(&number.to_string())).await, 503);
    }
    poll_until("the kid is known to be missing", async || hub.status_of_token(&named).await == 401).await;
    let intervals = start.elapsed().as_millis() / 700;
    let count = provider.requests(KEYS) - fetched;
    assert!((1..=1 + intervals).contains(&(count as u128)), "{count} fetches in {:?}", start.elapsed());
    assert_eq!(hub.status_of_token(&key.sign(hub.clock.now(), claims(&provider, "ann"))).await, 101);
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
    assert!(hub.is_ready().await && hub.status_of_token(&token).await == 101, "the keys are still good");
    poll_until("stale keys", async || hub.status_of_token(&token).await == 503).await;
    assert!(!hub.is_ready().await);
    client.subscribe("news").await;
    provider.resume().await;
    wait_until_ready(&hub, true).await;
    assert_eq!(hub.status_of_token(&token).await, 101);
    client.publish("news", json!("still here")).await;
    assert_eq!(client.receive_publication().await, json!("still here"));
}

#[actix_rt::test]
async fn key_that_two_documents_lack_ends_its_sessions_with_3500_and_verifies_nothing() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = IdentityProvider::start(&[&old, &new]).await;
    let hub = start_hub_of(&provider, |config| config.auth.key_sets.refresh = Duration::from_millis(100)).await;
    let path = |key: &ProviderKey| format!("/socket?token={}", key.sign(hub.clock.now(), claims(&provider, "ann")));
    let (mut with_old, mut with_new) = (hub.connect_to(&path(&old), &[]).await, hub.connect_to(&path(&new), &[]).await);
    provider.publish(&[&new]);
    assert_eq!(with_old.wait_for_close().await.0, Some(3500));
    assert_ne!(hub.try_handshake(&path(&old), &[]).await.status, 101);
    with_new.subscribe("news").await;
}

#[actix_rt::test]
async fn old_document_of_one_server_of_the_provider_ends_no_session() {
    let (one, two) = (ProviderKey::ec("one"), ProviderKey::ec("two"));
    let provider = IdentityProvider::start(&[&one, &two]).await;
    let hub = start_hub_of(&provider, |config| config.auth.key_sets.refresh = Duration::from_millis(100)).await;
    let path = |key: &ProviderKey| format!("/socket?token={}", key.sign(hub.clock.now(), claims(&provider, "ann")));
    let mut sessions = [hub.connect_to(&path(&one), &[]).await, hub.connect_to(&path(&two), &[]).await];
    for _ in 0..2 {
        // Each server lacks the key that the other one has.
        for key in [&one, &two] {
            provider.answer_next(KEYS, Answer::Document(json!({"keys": [key.jwk]}).to_string()));
        }
    }
    let before = provider.requests(KEYS);
    poll_until("the documents are fetched", async || provider.requests(KEYS) > before + 4).await;
    for (session, key) in sessions.iter_mut().zip([&one, &two]) {
        session.subscribe("news").await;
        assert_eq!(hub.try_handshake(&path(key), &[]).await.status, 101);
    }
}

/// Starts a hub with two providers, of which the second one does not listen.
async fn start_hub_with_a_dead_provider(
    live: &IdentityProvider,
    dead: &mut IdentityProvider,
    change: impl FnOnce(&mut Config),
) -> TestHub {
    dead.stop().await;
    start_hub_with(|config| {
        dead.configure(config, &format!("issuer_url = {:?}\nuser_prefix = \"dead:\"", dead.issuer()));
        config.auth.keys[0].ca.clone_from(&config.auth.key_sets.ca);
        live.configure_issuer(config);
        change(config);
    })
    .await
}

#[actix_rt::test]
async fn dead_provider_keeps_an_instance_from_being_ready_only_while_it_starts() {
    let (key, other) = (ProviderKey::ec("e"), ProviderKey::ec("e"));
    let (live, mut dead) = (IdentityProvider::start(&[&key]).await, IdentityProvider::start(&[&other]).await);
    let waiting = start_hub_with_a_dead_provider(&live, &mut dead, |_| ()).await;
    let hub = start_hub_with_a_dead_provider(&live, &mut dead, |config| {
        config.auth.key_sets.startup_timeout = Duration::from_millis(100);
    })
    .await;
    wait_until_ready(&hub, true).await;
    assert_eq!(hub.metric("wardcast_key_sets_missing").await, 1.0);
    assert_eq!(hub.status_of_token(&key.sign(hub.clock.now(), claims(&live, "ann"))).await, 101);
    // The key of the live provider has the same kid.
    let of_dead = other.sign(hub.clock.now(), claims(&dead, "ann"));
    assert_eq!(hub.status_of_token(&of_dead).await, 503, "not 401, after which clients give the token up");
    let mut sdk = hub.connect_without_token().await;
    assert_eq!(sdk.request(json!({"id": 1, "connect": {"token": of_dead}})).await["error"]["code"], 100);
    assert!(!waiting.is_ready().await, "a rolling update is to stop here");

    dead.resume().await;
    wait_until_ready(&waiting, true).await;
    poll_until("the other keys", async || hub.status_of_token(&of_dead).await == 101).await;
    poll_until("the gauge", async || hub.metric("wardcast_key_sets_missing").await == 0.0).await;
}

#[actix_rt::test]
async fn logout_by_cookie_while_keys_are_away_is_503_and_keeps_the_cookie() {
    let key = ProviderKey::ec("e");
    let mut provider = IdentityProvider::start(&[&key]).await;
    provider.stop().await;
    let hub = start_hub_with(|config| provider.configure_issuer(config)).await;
    let own = format!("http://{}", hub.address);
    let mut with_jti = claims(&provider, "ann");
    with_jti["jti"] = json!("1");
    let cookie = format!("wardcast_token={}", key.sign(hub.clock.now(), with_jti));
    let logout = || http::post(hub.address, "/auth/logout").header("Cookie", &cookie).header("Origin", &own);
    let response = logout().send().await;
    assert_eq!(response.status, 503, "204 would say that the token is void: {response:?}");
    assert_eq!(response.header("set-cookie"), None, "the browser needs it for another attempt: {response:?}");

    provider.resume().await;
    wait_until_ready(&hub, true).await;
    let headers = [("Cookie", cookie.as_str()), ("Origin", own.as_str())];
    let mut client = hub.connect_to("/socket", &headers).await;
    assert_eq!(logout().send().await.status, 204);
    assert_eq!(client.wait_for_close().await.0, Some(3500));
    assert_eq!(hub.try_handshake("/socket", &headers).await.status, 401);
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
        assert_eq!(hub.status_of_token(&key.sign(now, claims(provider, "ann"))).await, status);
    }
}

#[actix_rt::test]
async fn set_without_discovery_is_fetched_from_its_url() {
    let key = ProviderKey::ec("e");
    let provider = IdentityProvider::start(&[&key]).await;
    let settings = format!("jwks_url = {:?}\nissuer = \"me\"", provider.url(KEYS));
    let hub = start_hub_with(|config| provider.configure(config, &settings)).await;
    wait_until_ready(&hub, true).await;
    assert_eq!(hub.status_of_token(&key.sign(hub.clock.now(), json!({"iss": "me", "sub": "ann"}))).await, 101);
    assert_eq!(provider.requests(DISCOVERY), 0);
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
        assert_eq!(hub.status_of_token(&token).await, 101, "{outcome}");
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
