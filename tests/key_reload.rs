//! Entries of `auth.keys` and secrets that a reload of the configuration adds, removes or changes, over real sockets.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::{
    config::{Config, ConfigErrors, KeyConfig, Secret},
    server::RunningServer,
};

use crate::{
    key_sets::claims,
    login::start_login_hub_with,
    refresh_tokens::{assert_ended, refresh, start_login},
    support::{
        Client, SECRET, TestHub,
        identity_provider::{IdentityProvider, KEYS, ProviderKey},
        mark_secret, poll_until, start_hub_with,
    },
};

/// An entry of `auth.keys` for a key, with further settings.
fn entry(key: &ProviderKey, settings: &str) -> KeyConfig {
    toml::from_str(&format!("jwk = '{}'\n{settings}", key.jwk)).unwrap()
}

fn set_keys(config: &mut Config, keys: Vec<KeyConfig>) {
    config.auth.hmac_secret = Secret::default();
    config.auth.keys = keys;
}

async fn start_hub_of(keys: Vec<KeyConfig>) -> TestHub {
    start_hub_with(|config| set_keys(config, keys)).await
}

fn reload(hub: &TestHub, change: impl FnOnce(&mut Config)) -> Result<(), ConfigErrors> {
    let mut config = hub.config.clone();
    change(&mut config);
    RunningServer::reload_config(hub.running(), &config).map(drop)
}

fn token(hub: &TestHub, key: &ProviderKey, sub: &str) -> String {
    key.sign(hub.clock.now(), json!({"sub": sub}))
}

async fn connect(hub: &TestHub, key: &ProviderKey, sub: &str) -> Client {
    hub.connect_to(&format!("/socket?token={}", token(hub, key, sub)), &[]).await
}

async fn status(hub: &TestHub, key: &ProviderKey) -> u16 {
    hub.status_of_token(&token(hub, key, "ann")).await
}

#[actix_rt::test]
async fn added_key_is_accepted_at_once_and_a_removed_one_ends_its_sessions_and_subscriptions() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let hub = start_hub_of(vec![entry(&old, "")]).await;
    let mut by_old = connect(&hub, &old, "ann").await;
    assert_eq!(status(&hub, &new).await, 401);
    reload(&hub, |config| set_keys(config, vec![entry(&old, ""), entry(&new, "")])).unwrap();
    // Each connection may be of the other worker.
    let mut by_new = Vec::new();
    for _ in 0..8 {
        by_new.push(connect(&hub, &new, "bob").await);
    }
    let for_channel = old.sign(hub.clock.now(), json!({"sub": "bob", "channel": "$secret"}));
    by_new[0].subscribe_with("$secret", json!({"token": for_channel})).await;
    by_new[0].subscribe("news").await;
    by_old.subscribe("news").await;

    reload(&hub, |config| set_keys(config, vec![entry(&new, "")])).unwrap();
    assert_eq!(by_old.wait_for_close().await, (Some(3500), "token revoked".to_owned()));
    let push = by_new[0].receive().await;
    let ended = (&push["push"]["channel"], &push["push"]["unsubscribe"]["code"]);
    assert_eq!(ended, (&json!("$secret"), &json!(2000)), "{push}");
    assert_eq!((status(&hub, &old).await, status(&hub, &new).await), (401, 101));
    hub.publish("news", json!(1)).await;
    assert_eq!(by_new[0].receive_publication().await, json!(1));
    hub.wait_for_connections(8).await;
}

#[actix_rt::test]
async fn first_entry_beside_a_secret_and_another_secret_apply() {
    let (key, other) = (ProviderKey::ec("k"), mark_secret("another secret of the tests: 32 bytes or more"));
    let hub = start_hub_with(|_| ()).await;
    let mut by_secret = hub.connect("ann").await;
    let signed_elsewhere = jsonwebtoken::Header { kid: Some("any".to_owned()), ..jsonwebtoken::Header::default() };
    let claims = json!({"sub": "ann", "exp": hub.clock.now().unix_seconds() + 60});
    let by = |header: &jsonwebtoken::Header, secret: &str| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        mark_secret(jsonwebtoken::encode(header, &claims, &key).unwrap())
    };
    assert_eq!(hub.status_of_token(&by(&signed_elsewhere, SECRET)).await, 101, "only a shared secret");
    reload(&hub, |config| config.auth.keys = vec![entry(&key, "")]).unwrap();
    assert_eq!(hub.status_of_token(&by(&signed_elsewhere, SECRET)).await, 401, "a kid names an entry now");
    assert_eq!(status(&hub, &key).await, 101);
    by_secret.subscribe("news").await;

    reload(&hub, |config| config.auth.hmac_secret = Secret::new(other)).unwrap();
    assert_eq!(by_secret.wait_for_close().await.0, Some(3500));
    let header = jsonwebtoken::Header::default();
    assert_eq!(hub.status_of_token(&by(&header, SECRET)).await, 401);
    assert_eq!(hub.status_of_token(&by(&header, other)).await, 101);
}

#[actix_rt::test]
async fn entry_with_another_key_or_other_rules_ends_the_sessions_of_what_it_was() {
    let (before, after, other) = (ProviderKey::ec("k"), ProviderKey::ec("k"), ProviderKey::ec("other"));
    let hub = start_hub_of(vec![entry(&before, ""), entry(&other, "")]).await;
    let (mut changed, mut unchanged) = (connect(&hub, &before, "ann").await, connect(&hub, &other, "bob").await);
    reload(&hub, |config| set_keys(config, vec![entry(&other, ""), entry(&after, "")])).unwrap();
    assert_eq!(changed.wait_for_close().await.0, Some(3500));
    assert_eq!((status(&hub, &before).await, status(&hub, &after).await), (401, 101));
    unchanged.subscribe("news").await;

    reload(&hub, |config| set_keys(config, vec![entry(&other, "audience = \"hub\""), entry(&after, "")])).unwrap();
    assert_eq!(unchanged.wait_for_close().await.0, Some(3500), "its token may be for another audience");
    assert_eq!(status(&hub, &other).await, 401);
    let token = other.sign(hub.clock.now(), json!({"sub": "bob", "aud": "hub"}));
    assert_eq!(hub.status_of_token(&token).await, 101);
}

#[actix_rt::test]
async fn faulty_entry_refuses_the_whole_reload_and_is_named() {
    let (key, new) = (ProviderKey::ec("k"), ProviderKey::ec("new"));
    let hub = start_hub_of(vec![entry(&key, "")]).await;
    let mut client = connect(&hub, &key, "ann").await;
    let missing = toml::from_str("id = \"gone\"\nalgorithm = \"ES256\"\nfile = \"/nonexistent/key.pem\"").unwrap();
    let twice = [entry(&new, ""), entry(&new, "")];
    let weak: KeyConfig = toml::from_str(r#"jwk = '{"kty":"oct","kid":"weak","alg":"HS256","k":"c2hvcnQ"}'"#).unwrap();
    let without_ca: KeyConfig =
        toml::from_str("jwks_url = \"https://localhost/keys\"\nissuer = \"i\"\nca = \"/nonexistent/ca.pem\"").unwrap();
    for (faulty, name) in [
        (vec![entry(&new, ""), missing], "auth.keys \"gone\" (/nonexistent/key.pem)"),
        (twice.to_vec(), "the key \"new\""),
        (vec![entry(&new, ""), weak], "auth.keys (jwk)"),
        (vec![entry(&new, ""), without_ca], "auth.keys (https://localhost/keys): ca"),
    ] {
        let errors = reload(&hub, |config| {
            set_keys(config, faulty);
            config.channels.allow_subscribe = wardcast::config::AllowSubscribe::None;
        })
        .unwrap_err();
        let keys: Vec<&str> = errors.0.iter().map(|error| &*error.key).collect();
        assert_eq!(keys, [name], "{errors}");
        assert_eq!((status(&hub, &key).await, status(&hub, &new).await), (101, 401), "{name}");
        client.subscribe(&format!("news-{}", name.len())).await;
    }
}

/// A rotation: the old key gets an end while it has sessions.
#[actix_rt::test]
async fn key_that_gets_an_end_keeps_its_sessions_until_then_and_no_longer() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let hub = start_hub_of(vec![entry(&old, ""), entry(&new, "")]).await;
    let (mut before, mut other) = (connect(&hub, &old, "ann").await, connect(&hub, &new, "bob").await);
    before.subscribe("news").await;
    other.subscribe("news").await;
    let end = hub.clock.now().unix_seconds() + 60;
    let until = |end: i64| {
        let end = humantime::format_rfc3339(std::time::UNIX_EPOCH + Duration::from_secs(end.unsigned_abs()));
        format!("not_after = \"{end}\"")
    };
    reload(&hub, |config| set_keys(config, vec![entry(&old, &until(end)), entry(&new, "")])).unwrap();
    let mut after = connect(&hub, &old, "ann").await;
    after.subscribe("news").await;
    hub.publish("news", json!(1)).await;
    for client in [&mut before, &mut after, &mut other] {
        assert_eq!(client.receive_publication().await, json!(1), "the key has not ended");
    }
    // A later end of the key is no longer one for sessions that have an earlier one.
    reload(&hub, |config| set_keys(config, vec![entry(&old, &until(end + 600)), entry(&new, "")])).unwrap();
    let mut latest = connect(&hub, &old, "eve").await;
    latest.subscribe("news").await;

    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(before.wait_for_close().await, (Some(3500), "token revoked".to_owned()));
    assert_eq!(after.wait_for_close().await.0, Some(3005), "it was let in until the end of the key");
    hub.publish("news", json!(2)).await;
    assert_eq!(latest.receive_publication().await, json!(2));
    hub.clock.advance(Duration::from_secs(600));
    assert_eq!(latest.wait_for_close().await.0, Some(3005));
    assert_eq!((status(&hub, &old).await, status(&hub, &new).await), (401, 101));
    hub.publish("news", json!(3)).await;
    assert_eq!([other.receive_publication().await, other.receive_publication().await], [json!(2), json!(3)]);
}

/// The emergency: a key that is known to others ends at once, without being removed.
#[actix_rt::test]
async fn key_whose_end_is_moved_into_the_past_ends_its_sessions_at_once() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let hub = start_hub_of(vec![entry(&old, ""), entry(&new, "")]).await;
    let (mut ended, mut other) = (connect(&hub, &old, "ann").await, connect(&hub, &new, "bob").await);
    ended.subscribe("news").await;
    other.subscribe("news").await;
    let end = "not_after = \"2020-01-01T00:00:00Z\"";
    reload(&hub, |config| set_keys(config, vec![entry(&old, end), entry(&new, "")])).unwrap();
    assert_eq!(ended.wait_for_close().await, (Some(3500), "token revoked".to_owned()));
    assert_eq!((status(&hub, &old).await, status(&hub, &new).await), (401, 101));
    hub.publish("news", json!(1)).await;
    assert_eq!(other.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn removed_key_ends_also_the_sessions_that_it_let_in_before_it_got_an_end() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let hub = start_hub_of(vec![entry(&old, ""), entry(&new, "")]).await;
    let mut before = connect(&hub, &old, "ann").await;
    let end = "not_after = \"2100-01-01T00:00:00Z\"";
    reload(&hub, |config| set_keys(config, vec![entry(&old, end), entry(&new, "")])).unwrap();
    let mut after = connect(&hub, &old, "ann").await;
    before.subscribe("news").await;
    reload(&hub, |config| set_keys(config, vec![entry(&new, "")])).unwrap();
    for client in [&mut before, &mut after] {
        assert_eq!(client.wait_for_close().await.0, Some(3500));
    }
}

#[actix_rt::test]
async fn key_of_the_login_changes_and_ends_the_logins_of_the_old_one() {
    let [one, two] = ["the first key of the login: 32 bytes or more", "the second key of the login: 32 bytes or more"];
    let with_key = |config: &mut Config, key: &str| config.login.key = Secret::new(mark_secret(key));
    let (hub, _users) = start_login_hub_with(|config| with_key(config, one)).await;
    let before = start_login(&hub).await;
    let (mut session, mut of_backend) = (before.connect(&hub).await, hub.connect("bob").await);
    reload(&hub, |config| with_key(config, two)).unwrap();
    assert_eq!(session.wait_for_close().await.0, Some(3500));
    assert_ended(&hub, &before.refresh).await;
    assert_eq!(hub.status_of_token(&before.access).await, 401);
    let after = start_login(&hub).await;
    after.connect(&hub).await;
    assert_eq!(refresh(&hub, &after.refresh).await.status, 200);
    of_backend.subscribe("news").await;
}

#[actix_rt::test]
async fn provider_is_added_changed_and_removed() {
    let (key, of_provider) = (ProviderKey::ec("k"), ProviderKey::ec("p"));
    let provider = IdentityProvider::start(&[&of_provider]).await;
    let hub = start_hub_with(|config| {
        provider.trust(config);
        config.auth.keys = vec![entry(&key, "user_prefix = \"own:\"")];
    })
    .await;
    let set = |settings: &str| -> KeyConfig {
        toml::from_str(&format!(
            "jwks_url = {:?}\nissuer = {:?}\nuser_prefix = \"p:\"\n{settings}",
            provider.url(KEYS),
            provider.issuer()
        ))
        .unwrap()
    };
    let with = |settings: &str| {
        let keys = vec![entry(&key, "user_prefix = \"own:\""), set(settings)];
        reload(&hub, |config| config.auth.keys = keys)
    };
    let token = |more: Value| {
        let mut all = claims(&provider, "ann");
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of_provider.sign(hub.clock.now(), all)
    };
    assert_eq!(hub.status_of_token(&token(json!({}))).await, 401);
    with("").unwrap();
    poll_until("the keys of the provider", async || hub.status_of_token(&token(json!({}))).await == 101).await;
    let mut client = hub.connect_to(&format!("/socket?token={}", token(json!({}))), &[]).await;
    client.subscribe("news").await;

    // The same set with an end: its keys stay, also if the provider is away.
    provider.answer(KEYS, crate::support::identity_provider::Answer::Raw(Vec::new()));
    with("not_after = \"2100-01-01T00:00:00Z\"").unwrap();
    assert_eq!(hub.status_of_token(&token(json!({}))).await, 101);
    client.subscribe("more").await;
    // Other rules: its tokens need another audience.
    with("audience = \"hub\"").unwrap();
    assert_eq!(client.wait_for_close().await.0, Some(3500));
    assert_eq!(hub.status_of_token(&token(json!({}))).await, 401);
    let mut client = hub.connect_to(&format!("/socket?token={}", token(json!({"aud": "hub"}))), &[]).await;

    let mut own = connect(&hub, &key, "bob").await;
    reload(&hub, |_| ()).unwrap();
    assert_eq!(client.wait_for_close().await.0, Some(3500));
    assert_eq!(hub.status_of_token(&token(json!({"aud": "hub"}))).await, 401);
    own.subscribe("news").await;
    let requests = provider.requests(KEYS);
    actix_rt::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(provider.requests(KEYS), requests, "a set that is gone is fetched no more");
}

#[actix_rt::test]
async fn prefix_of_a_new_entry_takes_its_users_from_other_keys() {
    let (own, partner) = (ProviderKey::ec("own"), ProviderKey::ec("partner"));
    let hub = start_hub_of(vec![entry(&own, "")]).await;
    let (mut as_partner, mut as_own) = (connect(&hub, &own, "p:5").await, connect(&hub, &own, "5").await);
    let of_partner = entry(&partner, "issuer = \"partner\"\nuser_prefix = \"p:\"");
    reload(&hub, |config| set_keys(config, vec![entry(&own, ""), of_partner])).unwrap();
    assert_eq!(as_partner.wait_for_close().await.0, Some(3500), "the name is one of the partner's now");
    assert_eq!(hub.status_of_token(&token(&hub, &own, "p:5")).await, 401);
    let token = partner.sign(hub.clock.now(), json!({"iss": "partner", "sub": "5"}));
    assert_eq!(hub.status_of_token(&token).await, 101);
    as_own.subscribe("news").await;
}

/// An operator who distrusts an authority removes it, and the keys that its servers have given with it.
#[actix_rt::test]
async fn keys_of_a_provider_are_fetched_anew_with_another_ca_and_dropped_if_it_does_not_vouch_for_the_provider() {
    let key = ProviderKey::ec("p");
    let (provider, other) = (IdentityProvider::start(&[&key]).await, IdentityProvider::start(&[&key]).await);
    let folder = tempfile::tempdir().unwrap();
    let ca_of = |provider: &IdentityProvider, name: &str| {
        let (mut config, file) = (Config::default(), folder.path().join(name));
        provider.trust(&mut config);
        std::fs::copy(config.auth.key_sets.ca.unwrap(), &file).unwrap();
        Some(file)
    };
    let (same, foreign) = (ca_of(&provider, "same.pem"), ca_of(&other, "foreign.pem"));
    let hub = start_hub_with(|config| {
        provider.configure_issuer(config);
        config.auth.key_sets.startup_timeout = Duration::from_secs(2);
        config.auth.key_sets.retry = Duration::from_millis(100);
    })
    .await;
    let token = || key.sign(hub.clock.now(), claims(&provider, "ann"));
    poll_until("the keys", async || hub.status_of_token(&token()).await == 101).await;
    let mut client = hub.connect_to(&format!("/socket?token={}", token()), &[]).await;

    // The same authority in another file.
    let requests = provider.requests(KEYS);
    reload(&hub, |config| config.auth.keys[0].ca.clone_from(&same)).unwrap();
    poll_until("another fetch", async || provider.requests(KEYS) > requests).await;
    actix_rt::time::sleep(Duration::from_millis(2500)).await;
    client.subscribe("news").await;

    reload(&hub, |config| config.auth.keys[0].ca.clone_from(&foreign)).unwrap();
    assert_eq!(client.wait_for_close().await, (Some(3500), "token revoked".to_owned()));
    assert_eq!(hub.status_of_token(&token()).await, 503, "the provider may answer again");
    assert_eq!(hub.metric("wardcast_key_sets_missing").await, 1.0);
    reload(&hub, |config| config.auth.keys[0].ca.clone_from(&same)).unwrap();
    poll_until("the keys", async || hub.status_of_token(&token()).await == 101).await;
}

#[actix_rt::test]
async fn entry_with_issuer_and_kid_of_a_fetched_key_replaces_it_and_ends_its_sessions() {
    let (fetched, own, another) = (ProviderKey::ec("k"), ProviderKey::ec("k"), ProviderKey::ec("another"));
    let provider = IdentityProvider::start(&[&fetched, &another]).await;
    let hub = start_hub_with(|config| provider.configure_issuer(config)).await;
    let token = |key: &ProviderKey| key.sign(hub.clock.now(), claims(&provider, "ann"));
    poll_until("the keys", async || hub.status_of_token(&token(&fetched)).await == 101).await;
    let mut client = hub.connect_to(&format!("/socket?token={}", token(&fetched)), &[]).await;
    let mut other = hub.connect_to(&format!("/socket?token={}", token(&another)), &[]).await;
    reload(&hub, |config| config.auth.keys.push(entry(&own, &format!("issuer = {:?}", provider.issuer())))).unwrap();
    assert_eq!(client.wait_for_close().await, (Some(3500), "token revoked".to_owned()));
    assert_eq!(hub.status_of_token(&token(&own)).await, 101);
    assert_ne!(hub.status_of_token(&token(&fetched)).await, 101);
    other.subscribe("news").await;
    reload(&hub, |_| ()).unwrap();
    assert_eq!(hub.status_of_token(&token(&fetched)).await, 101, "nothing replaces it");
}
