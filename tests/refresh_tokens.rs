//! Refresh tokens of the login: rotation, reuse, lifetimes, and everything that ends a login.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::{Config, Secret};

use crate::{
    login::{
        PASSWORD, access_token, assert_cookie, assert_lifetime, give_up_redis_soon, log_in, start_login_hub,
        start_login_hub_on, start_login_hub_with,
    },
    revocation::{assert_closed_as_revoked, logout},
    support::{Client, TestHub, http, mark_secret, poll_until, redis::RedisServer, start_hub, start_hub_with},
};

/// The tokens of a login.
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

impl Tokens {
    pub fn of(answer: &http::Response) -> Self {
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
        let refresh = mark_secret(answer.json()["refresh_token"].as_str().unwrap().to_owned());
        Self { access: mark_secret(access_token(answer)), refresh }
    }

    pub async fn connect(&self, hub: &TestHub) -> Client {
        hub.connect_to(&format!("/socket?token={}", self.access), &[]).await
    }

    /// Returns a claim of the access token.
    pub fn claim(&self, name: &str) -> Value {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
        let payload = BASE64_URL_SAFE_NO_PAD.decode(self.access.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice::<Value>(&payload).unwrap()[name].clone()
    }
}

/// Starts two hubs on one Redis with one users file.
pub async fn start_two_login_hubs(redis: &RedisServer) -> (TestHub, TestHub, tempfile::NamedTempFile) {
    let on_redis = |config: &mut Config| {
        config.broker.kind = wardcast::config::BrokerKind::Redis;
        config.broker.redis.url = Secret::new(redis.url());
    };
    let (one, users) = start_login_hub_with(on_redis).await;
    let path = users.path().to_owned();
    let two = start_hub_with(|config| {
        config.login.users_file = Some(path);
        on_redis(config);
    })
    .await;
    for hub in [&one, &two] {
        hub.wait_for_broker(true).await;
        hub.wait_for_nodes(2).await;
    }
    (one, two, users)
}

pub async fn start_login(hub: &TestHub) -> Tokens {
    Tokens::of(&log_in(hub, "ann", PASSWORD).await)
}

pub async fn refresh(hub: &TestHub, token: &str) -> http::Response {
    http::post(hub.address, "/auth/refresh").json(json!({"refresh_token": token})).send().await
}

pub async fn assert_ended(hub: &TestHub, token: &str) {
    let answer = refresh(hub, token).await;
    let code = answer.json()["error"]["code"].clone();
    assert_eq!((answer.status, code), (401, json!(101)), "{answer:?}");
    assert!(!answer.body.contains(token) && !answer.body.contains("_token\""), "{answer:?}");
}

#[actix_rt::test]
async fn refresh_token_gives_the_next_tokens_of_the_same_login() {
    let (hub, _users) = start_login_hub().await;
    let first = start_login(&hub).await;
    let second = Tokens::of(&refresh(&hub, &first.refresh).await);
    assert!(second.refresh != first.refresh && second.access != first.access);
    assert_eq!((second.claim("sid"), second.claim("sub")), (first.claim("sid"), json!("ann")));
    assert_ne!(second.claim("jti"), first.claim("jti"));
    second.connect(&hub).await.subscribe("news").await;
    // Rotation kicks nobody: the access token of before is valid until it expires.
    first.connect(&hub).await.subscribe("news").await;
    Tokens::of(&refresh(&hub, &second.refresh).await);
    assert_eq!(hub.metric("wardcast_login_refreshes_total{outcome=\"refreshed\"}").await, 2.0);
    assert_eq!(hub.metric("wardcast_logins_total{outcome=\"succeeded\"}").await, 1.0);
}

#[actix_rt::test]
async fn stolen_refresh_token_used_after_its_successor_ends_the_login_and_closes_its_sockets() {
    let (hub, _users) = start_login_hub().await;
    let (stolen, other) = (start_login(&hub).await, start_login(&hub).await);
    let second = Tokens::of(&refresh(&hub, &stolen.refresh).await);
    let third = Tokens::of(&refresh(&hub, &second.refresh).await);
    let mut sockets = [stolen.connect(&hub).await, third.connect(&hub).await];
    let mut unrelated = other.connect(&hub).await;
    assert_ended(&hub, &stolen.refresh).await;
    for socket in &mut sockets {
        assert_closed_as_revoked(socket).await;
    }
    assert_ended(&hub, &third.refresh).await;
    assert_eq!(hub.try_handshake(&format!("/socket?token={}", third.access), &[]).await.status, 401);
    unrelated.subscribe("news").await;
    Tokens::of(&refresh(&hub, &other.refresh).await);
    assert_eq!(hub.metric("wardcast_login_refreshes_total{outcome=\"spent\"}").await, 1.0);
}

#[actix_rt::test]
async fn client_whose_reply_was_lost_repeats_the_refresh_and_gets_the_same_refresh_token() {
    let (hub, _users) = start_login_hub().await;
    let first = start_login(&hub).await;
    let lost = Tokens::of(&refresh(&hub, &first.refresh).await);
    hub.clock.advance(Duration::from_secs(20));
    let repeated = Tokens::of(&refresh(&hub, &first.refresh).await);
    assert_eq!(repeated.refresh, lost.refresh);
    // As soon as the successor is used, the reply was not lost.
    Tokens::of(&refresh(&hub, &repeated.refresh).await);
    assert_ended(&hub, &first.refresh).await;
}

#[actix_rt::test]
async fn refresh_token_repeated_too_late_ends_the_login() {
    let (hub, _users) = start_login_hub().await;
    let first = start_login(&hub).await;
    let second = Tokens::of(&refresh(&hub, &first.refresh).await);
    let mut socket = second.connect(&hub).await;
    hub.clock.advance(Duration::from_secs(31));
    assert_ended(&hub, &first.refresh).await;
    assert_closed_as_revoked(&mut socket).await;
    assert_ended(&hub, &second.refresh).await;
}

#[actix_rt::test]
async fn login_ends_when_it_is_idle_and_after_its_maximum_lifetime() {
    let (hub, _users) = start_login_hub_with(|config| {
        config.login.refresh_ttl = Duration::from_secs(10 * 86400);
        config.login.refresh_idle = Duration::from_secs(2 * 86400);
    })
    .await;
    let (idle, mut busy) = (start_login(&hub).await, start_login(&hub).await);
    for _ in 0..9 {
        hub.clock.advance(Duration::from_secs(86400));
        busy = Tokens::of(&refresh(&hub, &busy.refresh).await);
    }
    assert_ended(&hub, &idle.refresh).await;
    hub.clock.advance(Duration::from_secs(86400));
    assert_ended(&hub, &busy.refresh).await;
}

#[actix_rt::test]
async fn clock_that_jumps_an_hour_either_way_ends_no_login() {
    let (hub, _users) = start_login_hub().await;
    let mut tokens = start_login(&hub).await;
    hub.clock.step_forward(Duration::from_secs(3600));
    tokens = Tokens::of(&refresh(&hub, &tokens.refresh).await);
    hub.clock.step_back(Duration::from_secs(7200));
    tokens = Tokens::of(&refresh(&hub, &tokens.refresh).await);
    tokens.connect(&hub).await.subscribe("news").await;
}

#[actix_rt::test]
async fn every_kind_of_revocation_ends_the_login_for_longer_than_the_revocation_lasts() {
    let (hub, _users) = start_login_hub().await;
    for kind in ["jti", "sid", "user", "bearer", "refresh_token", "everywhere", "everywhere by refresh_token"] {
        let tokens = start_login(&hub).await;
        let mut socket = tokens.connect(&hub).await;
        let second = Tokens::of(&refresh(&hub, &tokens.refresh).await);
        let by_refresh_token = |body: Value| http::post(hub.address, "/auth/logout").json(body).send();
        match kind {
            "jti" | "sid" => {
                let target = json!({kind: tokens.claim(kind)});
                assert_eq!(hub.call_api("revoke_token", target).await, json!({"result": {}}));
            }
            "user" => {
                let target = json!({"user": "ann"});
                assert_eq!(hub.call_api("invalidate_user_tokens", target).await, json!({"result": {}}));
            }
            "bearer" => assert_eq!(logout(&hub, &tokens.access).send().await.status, 204),
            "everywhere" => {
                let everywhere = logout(&hub, &tokens.access).json(json!({"everywhere": true}));
                assert_eq!(everywhere.send().await.status, 204);
            }
            "refresh_token" => {
                assert_eq!(by_refresh_token(json!({"refresh_token": second.refresh})).await.status, 204);
            }
            _ => {
                let body = json!({"refresh_token": second.refresh, "everywhere": true});
                assert_eq!(by_refresh_token(body).await.status, 204);
            }
        }
        assert_closed_as_revoked(&mut socket).await;
        // Beyond auth.max_ttl the revocations are forgotten. It also ends the second of an invalidation.
        hub.clock.advance(Duration::from_secs(25 * 3600));
        assert_ended(&hub, &second.refresh).await;
    }
}

#[actix_rt::test]
async fn invalidation_of_a_user_for_another_issuer_leaves_the_login_alone() {
    let (hub, _users) = start_login_hub().await;
    let tokens = start_login(&hub).await;
    let target = json!({"user": "ann", "issuer": "https://other.example.com"});
    assert_eq!(hub.call_api("invalidate_user_tokens", target).await, json!({"result": {}}));
    Tokens::of(&refresh(&hub, &tokens.refresh).await);
}

#[actix_rt::test]
async fn forged_refresh_token_is_refused_and_ends_no_login() {
    let (hub, _users) = start_login_hub().await;
    let tokens = start_login(&hub).await;
    let (content, _) = tokens.refresh.rsplit_once('.').unwrap();
    let sid = tokens.claim("sid");
    let sid = sid.as_str().unwrap();
    for forged in [
        String::new(),
        "x".to_owned(),
        content.to_owned(),
        format!("{content}.{}", "A".repeat(43)),
        format!("wcr_{sid}.5.{}", "A".repeat(43)),
        tokens.access.clone(),
        "..".to_owned(),
        "\u{0}'; DROP".to_owned(),
        "x".repeat(3000),
    ] {
        let answer = refresh(&hub, &forged).await;
        assert_eq!(answer.status, 401, "{answer:?}");
    }
    Tokens::of(&refresh(&hub, &tokens.refresh).await);
    let (other, _users) = start_login_hub_with(|config| {
        config.login.key = Secret::new(mark_secret("another secret for the login's tokens"));
    })
    .await;
    assert_ended(&other, &tokens.refresh).await;
}

#[actix_rt::test]
async fn refresh_token_is_no_access_token() {
    let (hub, _users) = start_login_hub().await;
    let tokens = start_login(&hub).await;
    assert_eq!(hub.try_handshake(&format!("/socket?token={}", tokens.refresh), &[]).await.status, 401);
    let subprotocols = format!("wardcast.v1, bearer.{}", tokens.refresh);
    assert_eq!(hub.try_handshake("/socket", &[("Sec-WebSocket-Protocol", &subprotocols)]).await.status, 401);
    let bearer = format!("Bearer {}", tokens.refresh);
    let ticket = http::post(hub.address, "/auth/ticket").header("Authorization", &bearer).send().await;
    assert_eq!(ticket.status, 401, "{ticket:?}");
    let access = refresh(&hub, &tokens.access).await;
    assert_eq!(access.status, 401, "{access:?}");
    Tokens::of(&refresh(&hub, &tokens.refresh).await);
}

#[actix_rt::test]
async fn malformed_refresh_requests_are_refused_without_a_use_of_the_token() {
    let (hub, _users) = start_login_hub().await;
    let tokens = start_login(&hub).await;
    let post = || http::post(hub.address, "/auth/refresh");
    let body = json!({"refresh_token": tokens.refresh}).to_string();
    let plain = post().header("Content-Type", "text/plain").body(body.clone()).send().await;
    assert_eq!(plain.status, 415, "{plain:?}");
    for bad in
        [format!("[{body}]"), json!(tokens.refresh).to_string(), body.replace(":\"", ":[\"") + "]", "{".to_owned()]
    {
        let answer = post().header("Content-Type", "application/json").body(bad).send().await;
        assert!(answer.status == 400 && !answer.body.contains(&tokens.refresh), "{answer:?}");
    }
    let twice = body.replace('}', &format!(",{}", &body[1..]));
    assert_eq!(post().header("Content-Type", "application/json").body(twice).send().await.status, 400);
    assert_eq!(post().json(json!({"refresh_token": "x".repeat(1 << 20)})).send().await.status, 413);
    let in_url = format!("/auth/refresh?refresh_token={}", tokens.refresh);
    assert_ne!(http::post(hub.address, &in_url).send().await.status, 200);
    Tokens::of(&refresh(&hub, &tokens.refresh).await);
}

#[actix_rt::test]
async fn refresh_is_404_without_a_login_and_where_refresh_tokens_are_disabled() {
    assert_eq!(refresh(&start_hub().await, "x").await.status, 404);
    let (hub, _users) = start_login_hub_with(|config| config.login.refresh_ttl = Duration::ZERO).await;
    let answer = log_in(&hub, "ann", PASSWORD).await;
    assert_eq!((answer.status, answer.json().get("refresh_token")), (200, None), "{answer:?}");
    assert_eq!(refresh(&hub, "x").await.status, 404);
}

pub fn set_cookies(answer: &http::Response) -> Vec<(String, String)> {
    let lines = answer.head.lines().filter_map(|line| line.strip_prefix("set-cookie: "));
    let split = |line: &str| line.split_once("; ").map(|(cookie, rest)| (cookie.to_owned(), rest.to_owned())).unwrap();
    let mut cookies: Vec<_> = lines.map(split).collect();
    cookies.sort();
    cookies.iter().for_each(|(cookie, _)| _ = mark_secret(cookie.split_once('=').unwrap().1.to_owned()));
    cookies
}

#[actix_rt::test]
async fn refresh_by_cookie_sets_both_cookies_and_no_foreign_page_can_cause_it() {
    let (hub, _users) = start_login_hub_with(|config: &mut Config| config.login.cookie = true).await;
    let own = format!("http://{}", hub.address);
    let credentials = json!({"username": "ann", "password": PASSWORD, "cookie": true});
    let answer = http::post(hub.address, "/auth/login").header("Origin", &own).json(credentials).send().await;
    let mut cookies = set_cookies(&answer);
    assert_cookie(&cookies[1].1, "HttpOnly; Secure; SameSite=Strict; Path=/auth", 604_800);
    let post = |path, cookies: &[(String, String)]| {
        let cookies = format!("{}; {}", cookies[0].0, cookies[1].0);
        http::post(hub.address, path).header("Cookie", &cookies)
    };
    for origin in ["https://evil.com", "null"] {
        assert_eq!(post("/auth/refresh", &cookies).header("Origin", origin).send().await.status, 403);
    }
    for _ in 0..2 {
        let answer = post("/auth/refresh", &cookies).header("Origin", &own).send().await;
        let expires_in = answer.json()["expires_in"].as_u64().unwrap();
        assert_eq!(answer.json(), json!({"token_type": "Bearer", "expires_in": expires_in}), "{answer:?}");
        assert_lifetime(expires_in, 900);
        let next = set_cookies(&answer);
        assert!(next[0].0 != cookies[0].0 && next[1].0 != cookies[1].0, "{next:?}");
        assert!(next[0].0.starts_with("wardcast_token=") && next[1].0.starts_with("wardcast_token_refresh="));
        cookies = next;
    }
    let mut socket = hub.connect_to("/socket", &[("Origin", &own), ("Cookie", &cookies[0].0)]).await;
    // After the access token has expired, the browser has only the cookie of the refresh token.
    let logout = http::post(hub.address, "/auth/logout").header("Cookie", &cookies[1].0).header("Origin", &own);
    let answer = logout.send().await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let deleted: Vec<_> = set_cookies(&answer).into_iter().map(|(cookie, _)| cookie).collect();
    assert_eq!(deleted, ["wardcast_token=", "wardcast_token_refresh="]);
    assert_closed_as_revoked(&mut socket).await;
    let ended = post("/auth/refresh", &cookies).header("Origin", &own).send().await;
    assert_eq!(ended.status, 401, "{ended:?}");
}

#[actix_rt::test]
async fn cookies_with_a_host_prefix_are_set_with_the_path_that_it_requires() {
    let (hub, _users) = start_login_hub_with(|config: &mut Config| {
        config.login.cookie = true;
        config.auth.cookie = "__Host-ward".to_owned();
    })
    .await;
    let own = format!("http://{}", hub.address);
    let credentials = json!({"username": "ann", "password": PASSWORD, "cookie": true});
    let answer = http::post(hub.address, "/auth/login").header("Origin", &own).json(credentials).send().await;
    for (cookie, attributes) in set_cookies(&answer) {
        assert!(cookie.starts_with("__Host-ward") && attributes.contains("; Path=/;"), "{cookie} {attributes}");
    }
}

#[actix_rt::test]
async fn login_above_the_limit_of_a_user_ends_the_one_refreshed_longest_ago() {
    let (hub, _users) = start_login_hub_with(|config| config.login.logins_per_user = 2).await;
    let first = start_login(&hub).await;
    hub.clock.advance(Duration::from_secs(1));
    let second = start_login(&hub).await;
    hub.clock.advance(Duration::from_secs(1));
    let first = Tokens::of(&refresh(&hub, &first.refresh).await);
    hub.clock.advance(Duration::from_secs(1));
    let third = start_login(&hub).await;
    assert_ended(&hub, &second.refresh).await;
    for tokens in [first, third] {
        Tokens::of(&refresh(&hub, &tokens.refresh).await);
    }
}

#[actix_rt::test]
async fn login_goes_on_at_another_node_and_ends_on_all_and_redis_has_no_token() {
    let redis = RedisServer::start().await;
    let (one, two, _users) = start_two_login_hubs(&redis).await;
    let first = start_login(&one).await;
    let second = Tokens::of(&refresh(&two, &first.refresh).await);
    let third = Tokens::of(&refresh(&one, &second.refresh).await);
    let mut socket = third.connect(&two).await;
    let stored = stored_text(&redis).await;
    let sid = third.claim("sid");
    assert!(stored.contains(&sid.as_str().unwrap()[16..]), "{stored}");
    for secret in [&first, &second, &third].into_iter().flat_map(|tokens| [&tokens.refresh, &tokens.access]) {
        let mac = secret.rsplit('.').next().unwrap();
        assert!(!stored.contains(mac), "a token is stored in redis");
    }
    assert_ended(&two, &first.refresh).await;
    assert_closed_as_revoked(&mut socket).await;
    assert_ended(&one, &third.refresh).await;
    let fourth = start_login(&two).await;
    poll_until("logged out", async || logout(&one, &fourth.access).send().await.status == 204).await;
    assert_ended(&two, &fourth.refresh).await;
}

#[actix_rt::test]
async fn login_without_redis_is_a_temporary_error() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, give_up_redis_soon).await;
    let tokens = start_login(&hub).await;
    redis.freeze();
    for answer in [log_in(&hub, "ann", PASSWORD).await, refresh(&hub, &tokens.refresh).await] {
        assert!(answer.status == 503 && answer.header("retry-after").is_some(), "{answer:?}");
    }
    redis.resume();
    poll_until("refreshing works again", async || refresh(&hub, &tokens.refresh).await.status == 200).await;
}

async fn stored_text(redis: &RedisServer) -> String {
    let keys: Vec<String> = redis.run(&["KEYS", "*"]).await;
    let mut text = keys.join("\n");
    for key in keys.iter().filter(|key| key.contains("logins") || key.contains("revocations}:entries")) {
        let fields: Vec<String> = redis.run(&["HGETALL", key]).await;
        text += &fields.join("\n");
    }
    text
}

#[actix_rt::test]
async fn end_of_a_login_that_cannot_be_revoked_at_first_is_revoked_later() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.revocations = 1).await;
    let fill_list = async || {
        let other = json!({"jti": "other", "expire_at": hub.clock.now().unix_seconds() + 60});
        assert_eq!(hub.call_api("revoke_token", other).await, json!({"result": {}}));
    };
    let log_out = async |token: &str| {
        http::post(hub.address, "/auth/logout").json(json!({"refresh_token": token})).send().await.status
    };
    fill_list().await;
    let stolen = start_login(&hub).await;
    let second = Tokens::of(&refresh(&hub, &stolen.refresh).await);
    let third = Tokens::of(&refresh(&hub, &second.refresh).await);
    let mut socket = third.connect(&hub).await;
    assert_ended(&hub, &stolen.refresh).await;
    socket.subscribe("news").await;
    hub.clock.advance(Duration::from_secs(61));
    assert_closed_as_revoked(&mut socket).await;

    hub.clock.advance(hub.config.auth.max_ttl);
    fill_list().await;
    let tokens = start_login(&hub).await;
    let mut socket = tokens.connect(&hub).await;
    assert_eq!([log_out(&tokens.refresh).await, log_out(&tokens.refresh).await], [503, 503]);
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(log_out(&tokens.refresh).await, 204);
    assert_closed_as_revoked(&mut socket).await;
}
