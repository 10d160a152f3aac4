//! Logouts that an identity provider reports (OpenID Connect Back-Channel Logout 1.0): they end sockets on all nodes. What its access
//! tokens look like is in `identity_providers`, and attacks on a logout token alone are unit tests.

use std::net::SocketAddr;

use serde_json::{Value, json};
use wardcast::config::Config;

use crate::{
    key_sets::start_hub_of,
    revocation::{assert_closed_as_revoked, path, revoke},
    support::{
        Client, TestHub, http,
        identity_provider::{Answer, IdentityProvider, KEYS, ProviderKey},
        node::start_nodes,
        poll_until,
        redis::{PrefixedRedis, RedisForm, RedisServer},
        start_hub_on, start_hub_with,
    },
};

const ISSUER: &str = "https://id.example.com";
pub const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
const FORM: &str = "application/x-www-form-urlencoded";

/// Accepts the tokens of an issuer that signs with the secret of the tests, for the application "web".
pub fn trust_issuer(config: &mut Config) {
    config.auth.issuer = Some(ISSUER.to_owned());
    config.auth.clients = vec!["web".to_owned()];
}

async fn start_hub() -> TestHub {
    start_hub_with(trust_issuer).await
}

/// An access token of the issuer, issued now.
fn access(user: &str, more: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "azp": "web", "sub": user, "exp": 3600, "iat": 0});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

async fn connect(hub: &TestHub, claims: Value) -> Client {
    hub.connect_to(&path(hub, claims), &[]).await
}

/// A logout token of the issuer with this `jti`, issued now.
pub fn logout_token(hub: &TestHub, jti: &str, more: Value) -> String {
    let mut claims = json!({"iss": ISSUER, "aud": "web", "iat": 0, "exp": 60, "jti": jti, "events": {EVENT: {}}});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hub.token_with_claims(claims)
}

pub async fn send(address: SocketAddr, token: &str) -> http::Response {
    let request = http::post(address, "/auth/backchannel-logout").header("Content-Type", FORM);
    request.body(format!("logout_token={token}")).send().await
}

async fn log_out(hub: &TestHub, jti: &str, more: Value) {
    let response = send(hub.address, &logout_token(hub, jti, more)).await;
    assert_eq!((response.status, response.body.as_str()), (200, ""), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
}

async fn outcome(hub: &TestHub, outcome: &str) -> f64 {
    hub.metric(&format!("wardcast_backchannel_logouts_total{{outcome=\"{outcome}\"}}")).await
}

async fn status(hub: &TestHub, claims: Value) -> u16 {
    hub.try_handshake(&path(hub, claims), &[]).await.status
}

#[actix_rt::test]
async fn logout_of_a_session_ends_its_sockets_and_those_that_name_no_session() {
    let hub = start_hub().await;
    let mut one = connect(&hub, access("ann", json!({"sid": "a"}))).await;
    let mut two = connect(&hub, access("ann", json!({"sid": "a", "jti": "7"}))).await;
    let mut without = connect(&hub, access("ann", json!({}))).await;
    let mut other_session = connect(&hub, access("ann", json!({"sid": "b"}))).await;
    let mut other_user = connect(&hub, access("bob", json!({}))).await;
    log_out(&hub, "1", json!({"sid": "a", "sub": "ann"})).await;
    for ended in [&mut one, &mut two, &mut without] {
        assert_closed_as_revoked(ended).await;
    }
    for open in [&mut other_session, &mut other_user] {
        open.subscribe("news").await;
    }
    assert_eq!(status(&hub, access("ann", json!({"sid": "a", "jti": "8"}))).await, 401);
    assert_eq!(status(&hub, access("ann", json!({"iat": 2}))).await, 101, "of a newer login");
    assert_eq!(outcome(&hub, "obeyed").await, 1.0);
}

#[actix_rt::test]
async fn logout_without_a_session_ends_all_sockets_of_the_user_until_a_newer_login() {
    let hub = start_hub().await;
    let mut sockets =
        [connect(&hub, access("ann", json!({"sid": "a"}))).await, connect(&hub, access("ann", json!({}))).await];
    let mut other = connect(&hub, access("bob", json!({"sid": "c"}))).await;
    log_out(&hub, "1", json!({"sub": "ann", "iat": 0})).await;
    for ended in &mut sockets {
        assert_closed_as_revoked(ended).await;
    }
    other.subscribe("news").await;
    assert_eq!(status(&hub, access("ann", json!({"sid": "b", "iat": -30}))).await, 401, "issued before the logout");
    let mut newer = connect(&hub, access("ann", json!({"sid": "b", "iat": 2}))).await;
    log_out(&hub, "2", json!({"sub": "ann", "iat": -10})).await;
    newer.subscribe("news").await;
}

#[actix_rt::test]
async fn logout_of_one_issuer_ends_no_session_of_another_with_the_same_sid() {
    let (one, two) = (ProviderKey::ec("one"), ProviderKey::ec("two"));
    let (first, second) = (IdentityProvider::start(&[&one]).await, IdentityProvider::start(&[&two]).await);
    let hub = start_hub_of(&first, |config| {
        let entry = |provider: &IdentityProvider, prefix: &str| {
            format!("issuer_url = {:?}\nclients = [\"web\"]\nuser_prefix = {prefix:?}", provider.issuer())
        };
        config.auth.keys = vec![toml::from_str(&entry(&first, "1:")).unwrap()];
        // Each provider has its own authority; the second one's keys come from the configuration.
        let jwk = two.jwk.to_string();
        let settings =
            format!("jwk = {jwk:?}\nissuer = {:?}\nclients = [\"web\"]\nuser_prefix = \"2:\"", second.issuer());
        config.auth.keys.push(toml::from_str(&settings).unwrap());
    })
    .await;
    let claims =
        |provider: &IdentityProvider| json!({"iss": provider.issuer(), "azp": "web", "sub": "ann", "sid": "s"});
    let now = hub.clock.now();
    let open = async |key: &ProviderKey, provider: &IdentityProvider| {
        hub.connect_to(&format!("/socket?token={}", key.sign(now, claims(provider))), &[]).await
    };
    let (mut mine, mut other) = (open(&one, &first).await, open(&two, &second).await);
    let logout = |provider: &IdentityProvider, jti: &str| {
        json!({
            "iss": provider.issuer(), "aud": "web", "sid": "s", "sub": "ann", "iat": now.unix_seconds(), "jti": jti,
            "events": {EVENT: {}},
        })
    };
    let forged = one.sign(now, logout(&second, "1"));
    assert_eq!(send(hub.address, &forged).await.status, 400, "signed by another issuer");
    let signed = one.sign_with(json!({"typ": "logout+jwt"}), now, logout(&first, "2"));
    assert_eq!(send(hub.address, &signed).await.status, 200);
    assert_closed_as_revoked(&mut mine).await;
    other.subscribe("news").await;
    // A jti belongs to its issuer, too.
    let signed = two.sign_with(json!({"typ": "logout+jwt"}), now, logout(&second, "2"));
    assert_eq!(send(hub.address, &signed).await.status, 200);
    assert_closed_as_revoked(&mut other).await;
}

#[actix_rt::test]
async fn repeated_logout_token_is_refused_and_ends_nothing() {
    let hub = start_hub().await;
    let token = logout_token(&hub, "1", json!({"sub": "ann"}));
    assert_eq!(send(hub.address, &token).await.status, 200);
    let mut newer = connect(&hub, access("ann", json!({"iat": 2}))).await;
    let again = send(hub.address, &token).await;
    let expected = json!({"error": "invalid_request", "error_description": "the logout token was used before"});
    assert_eq!((again.status, again.json()), (400, expected));
    newer.subscribe("news").await;
    log_out(&hub, "2", json!({"sub": "bob"})).await;
}

#[actix_rt::test]
async fn session_that_was_logged_out_here_is_logged_out_at_its_provider_without_an_error() {
    let hub = start_hub().await;
    revoke(&hub, json!({"sid": "a", "issuer": ISSUER})).await;
    log_out(&hub, "1", json!({"sid": "a", "sub": "ann"})).await;
}

#[actix_rt::test]
async fn requests_that_are_no_logout_are_400_with_the_error_of_the_specification() {
    let hub = start_hub().await;
    let mut ann = connect(&hub, access("ann", json!({}))).await;
    ann.subscribe("news").await;
    let token = logout_token(&hub, "1", json!({"sub": "ann"}));
    let post = || http::post(hub.address, "/auth/backchannel-logout");
    let with = |kind: &str, body: String| post().header("Content-Type", kind).body(body);
    for (what, request) in [
        ("no body", post()),
        ("no field", with(FORM, "token=x".to_owned())),
        ("two tokens", with(FORM, format!("logout_token={token}&logout_token={token}"))),
        ("a broken escape", with(FORM, format!("logout_token={token}%4"))),
        ("JSON", with("application/json", json!({"logout_token": token}).to_string())),
        ("no type", post().body(format!("logout_token={token}"))),
        ("a part of a form", with("multipart/form-data; boundary=x", format!("logout_token={token}"))),
        ("an empty token", with(FORM, "logout_token=".to_owned())),
        ("an access token", with(FORM, format!("logout_token={}", hub.token_with_claims(access("ann", json!({})))))),
        ("another secret", with(FORM, format!("logout_token={}", hub.forged_token("ann")))),
        ("expired", with(FORM, format!("logout_token={}", logout_token(&hub, "1", json!({"sub": "ann", "exp": -1}))))),
        (
            "another audience",
            with(FORM, format!("logout_token={}", logout_token(&hub, "1", json!({"sub": "ann", "aud": "x"})))),
        ),
    ] {
        let response = request.send().await;
        assert_eq!(
            (response.status, &response.json()["error"]),
            (400, &json!("invalid_request")),
            "{what}: {response:?}"
        );
        let description = response.json()["error_description"].as_str().unwrap().to_owned();
        assert!(!description.contains("signature") && !description.contains("expired"), "{what}: {description}");
        assert_eq!(response.header("cache-control"), Some("no-store"), "{what}");
    }
    let too_long = with(FORM, format!("logout_token={}", "x".repeat(40_000))).send().await;
    assert_eq!((too_long.status, &too_long.json()["error"]), (413, &json!("invalid_request")));
    assert_eq!(http::get(hub.address, "/auth/backchannel-logout").send().await.status, 405);
    let in_url = http::post(hub.address, &format!("/auth/backchannel-logout?logout_token={token}"));
    assert_eq!(in_url.header("Content-Type", FORM).send().await.status, 400, "URLs are logged");
    ann.request(json!({"id": 9, "ping": {}})).await;
    let unknown = format!("state=1&logout_token={token}&%C3%A9=%20");
    assert_eq!(with(FORM, unknown).send().await.status, 200, "unknown fields are ignored");
    assert_closed_as_revoked(&mut ann).await;
}

#[actix_rt::test]
async fn refused_logout_tokens_are_limited_per_address_and_valid_ones_are_not() {
    let hub = start_hub_with(|config| {
        trust_issuer(config);
        config.limits.handshakes_per_second = 1;
    })
    .await;
    for number in 0..20 {
        log_out(&hub, &format!("v{number}"), json!({"sub": "ann"})).await;
    }
    let bad = logout_token(&hub, "1", json!({"sub": "ann", "aud": "x"}));
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) {
        let response = send(hub.address, &bad).await;
        if response.status == 429 {
            assert!(response.header("retry-after").is_some(), "{response:?}");
            assert_eq!(response.json()["error"], "temporarily_unavailable");
        }
        statuses.push(response.status);
        assert!(statuses.len() < 100, "{statuses:?}");
    }
    assert!(statuses.starts_with(&[400]));
    assert_eq!(outcome(&hub, "limited").await, 1.0);
    assert_eq!(outcome(&hub, "refused").await, (statuses.len() - 1) as f64);
}

#[actix_rt::test]
async fn logout_token_with_a_new_key_waits_until_the_key_is_fetched() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = IdentityProvider::start(&[&old]).await;
    let hub = start_hub_of(&provider, |config| {
        config.auth.keys[0].clients = Some(vec!["web".to_owned()]);
        config.auth.key_sets.unknown_kid_interval = std::time::Duration::from_millis(100);
    })
    .await;
    provider.publish(&[&old, &new]);
    let now = hub.clock.now();
    let claims = json!({
        "iss": provider.issuer(), "aud": "web", "sid": "s", "iat": now.unix_seconds(), "jti": "1", "events": {EVENT: {}},
    });
    let token = new.sign_with(json!({"typ": "logout+jwt"}), now, claims);
    let response = send(hub.address, &token).await;
    assert_eq!((response.status, response.body.as_str()), (200, ""), "{response:?}");
    assert_eq!((outcome(&hub, "pending").await, outcome(&hub, "obeyed").await), (0.0, 1.0));
}

#[actix_rt::test]
async fn logout_tokens_wait_for_a_bounded_time_and_in_bounded_number() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let provider = IdentityProvider::start(&[&old]).await;
    let hub = start_hub_of(&provider, |config| {
        config.auth.keys[0].clients = Some(vec!["web".to_owned()]);
        config.auth.key_sets.unknown_kid_interval = std::time::Duration::from_millis(100);
        config.auth.key_sets.timeout = std::time::Duration::from_secs(2);
        config.limits.waiting_per_address = 1;
    })
    .await;
    provider.answer(KEYS, Answer::Silence);
    let now = hub.clock.now();
    let token = |jti: &str| {
        let claims = json!({
            "iss": provider.issuer(), "aud": "web", "sid": "s", "iat": now.unix_seconds(), "jti": jti, "events": {EVENT: {}},
        });
        new.sign_with(json!({"typ": "logout+jwt"}), now, claims)
    };
    let assert_pending = |pending: &http::Response| {
        assert_eq!((pending.status, &pending.json()["error"]), (503, &json!("temporarily_unavailable")), "{pending:?}");
        assert!(pending.header("retry-after").is_some());
    };
    let (address, first) = (hub.address, token("1"));
    let waiting = actix_rt::spawn(async move { send(address, &first).await });
    poll_until("the first one waits", async || hub.metric("wardcast_connections_waiting").await == 1.0).await;
    assert_pending(&send(address, &token("2")).await);
    assert!(!waiting.is_finished(), "the second one has not waited");
    assert_pending(&waiting.await.unwrap());
    assert_eq!(hub.metric("wardcast_connections_waiting").await, 0.0);
    assert_eq!(outcome(&hub, "pending").await, 2.0);
    provider.publish(&[&old, &new]);
    poll_until("the new key", async || send(address, &token("1")).await.status == 200).await;
}

#[actix_rt::test]
async fn logout_ends_sockets_on_all_nodes_and_its_token_is_used_on_none_again() {
    let redis = RedisServer::start().await;
    let start = || start_hub_on(&redis, trust_issuer);
    let (one, two) = (start().await, start().await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    let claims = || access("ann", json!({"sid": "a"}));
    let mut sockets = [connect(&one, claims()).await, connect(&two, claims()).await];
    let token = logout_token(&one, "1", json!({"sid": "a"}));
    assert_eq!(send(one.address, &token).await.status, 200);
    for socket in &mut sockets {
        assert_closed_as_revoked(socket).await;
    }
    assert_eq!(send(two.address, &token).await.status, 400, "used on the other node");
    let three = start().await;
    poll_until("the list is loaded", async || status(&three, claims()).await == 401).await;
    assert_eq!(send(three.address, &token).await.status, 400, "used before the node started");
}

#[actix_rt::test]
async fn logout_without_redis_is_503_and_in_force_on_its_node_at_once_and_on_all_when_redis_is_back() {
    let mut redis = RedisServer::start().await;
    let (one, two) = (start_hub_on(&redis, trust_issuer).await, start_hub_on(&redis, trust_issuer).await);
    one.wait_for_nodes(2).await;
    let claims = || access("ann", json!({"sid": "a"}));
    let mut sockets = [connect(&one, claims()).await, connect(&two, claims()).await];
    let logout = logout_token(&one, "1", json!({"sid": "a"}));
    redis.kill();
    let failed = send(one.address, &logout).await;
    assert_eq!((failed.status, &failed.json()["error"]), (503, &json!("temporarily_unavailable")), "{failed:?}");
    assert!(failed.body.contains("on this instance only"), "{failed:?}");
    assert_closed_as_revoked(&mut sockets[0]).await;
    assert_eq!(status(&one, claims()).await, 401);
    redis.restart().await;
    assert_closed_as_revoked(&mut sockets[1]).await;
    poll_until("the same token is accepted", async || send(one.address, &logout).await.status == 200).await;
    assert_eq!(send(two.address, &logout).await.status, 400, "used on the other node");
}

#[actix_rt::test]
async fn logout_that_a_frozen_node_has_not_confirmed_is_503_and_in_force_and_may_be_repeated() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let settings = ["channels.allow_subscribe=user", "auth.issuer=https://id.example.com", "auth.clients=web"];
    let nodes = start_nodes::<2>(&redis, &settings).await;
    let mut ann = connect(&nodes[1], access("ann", json!({"sid": "a"}))).await;
    ann.subscribe("news").await;
    nodes[1].freeze();
    let token = logout_token(&nodes[0], "1", json!({"sid": "a"}));
    let unconfirmed = send(nodes[0].address, &token).await;
    assert_eq!(unconfirmed.status, 503, "{unconfirmed:?}");
    assert!(unconfirmed.body.contains("the tokens are revoked"), "{unconfirmed:?}");
    assert_eq!(nodes[0].metric("wardcast_backchannel_logouts_total{outcome=\"unconfirmed\"}").await, 1.0);
    assert_eq!(status(&nodes[0], access("ann", json!({"sid": "a"}))).await, 401);
    nodes[0].publish("news", json!("secret")).await;
    nodes[1].resume();
    assert_closed_as_revoked(&mut ann).await;
    poll_until("every node has obeyed", async || send(nodes[0].address, &token).await.status == 200).await;
    assert_eq!(send(nodes[0].address, &token).await.status, 400);
}

#[actix_rt::test]
async fn full_list_of_revocations_refuses_a_logout_with_503() {
    let hub = start_hub_with(|config| {
        trust_issuer(config);
        config.limits.revocations = 1;
    })
    .await;
    revoke(&hub, json!({"jti": "x"})).await;
    let refused = send(hub.address, &logout_token(&hub, "1", json!({"sub": "ann"}))).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("limits.revocations"), "{refused:?}");
    assert_eq!(outcome(&hub, "failed").await, 1.0);
}
