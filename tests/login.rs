//! Login with user and password: tokens, cookies, logout, and the delays after failed logins.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wardcast::config::{BrokerKind, Config, Secret};

use crate::support::{
    TestHub, http, mark_secret,
    redis::{PrefixedRedis, RedisServer},
    start_hub, start_hub_with, trust_loopback_proxy,
};

/// The password of the user ann.
pub const PASSWORD: &str = "right horse";
pub const WRONG: &str = "wrong horse";

/// Starts a hub with the user ann.
pub async fn start_login_hub() -> (TestHub, tempfile::NamedTempFile) {
    start_login_hub_with(|_| ()).await
}

/// Starts a hub with the user ann and a changed configuration.
pub async fn start_login_hub_with(change: impl FnOnce(&mut Config)) -> (TestHub, tempfile::NamedTempFile) {
    let users = write_users_file();
    let path = users.path().to_owned();
    let hub = start_hub_with(move |config| {
        config.login.users_file = Some(path);
        change(config);
    });
    (hub.await, users)
}

/// Starts a hub with the user ann on this Redis, and a changed configuration. Waits until it is ready.
pub async fn start_login_hub_on(
    redis: &RedisServer,
    change: impl FnOnce(&mut Config),
) -> (TestHub, tempfile::NamedTempFile) {
    let (hub, users) = start_login_hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(redis.url());
        change(config);
    })
    .await;
    hub.wait_for_broker(true).await;
    (hub, users)
}

/// Starts a hub with the user ann on a Redis of any form, and a changed configuration. Waits until it is ready.
pub async fn start_login_hub_over(
    redis: &PrefixedRedis,
    change: impl FnOnce(&mut Config),
) -> (TestHub, tempfile::NamedTempFile) {
    let (hub, users) = start_login_hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        redis.configure(&mut config.broker.redis);
        change(config);
    })
    .await;
    hub.wait_for_broker(true).await;
    (hub, users)
}

/// A Redis that does not answer is waited for so long.
pub fn give_up_redis_soon(config: &mut Config) {
    config.broker.redis.timeout = Duration::from_millis(300);
}

/// Writes a login file with the user ann.
pub fn write_users_file() -> tempfile::NamedTempFile {
    let users = tempfile::NamedTempFile::new().unwrap();
    let hash = mark_secret(wardcast::auth::users::hash_password(mark_secret(PASSWORD)).unwrap());
    let text = format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\ninfo = {{ name = \"Ann\" }}\n");
    std::fs::write(&users, text).unwrap();
    users
}

/// Sends wrong passwords from an address, each after the delay of the one before, until the delay is so long that it does not end
/// before the next look on a busy machine. Returns how many were checked.
async fn failures_until_long_delay(hub: &TestHub, username: &str, address: &str) -> usize {
    let mut failures = 0;
    loop {
        let (tries, wait) = log_in_until_delayed(hub, username, address).await;
        failures += tries;
        if wait > 4 {
            return failures;
        }
        hub.clock.advance(Duration::from_secs(wait));
    }
}

/// Sends wrong passwords from an address until it is delayed; returns how many were checked, and the delay in seconds.
async fn log_in_until_delayed(hub: &TestHub, username: &str, address: &str) -> (usize, u64) {
    for tries in 0..200 {
        let answer = http::post(hub.address, "/auth/login")
            .header("X-Forwarded-For", address)
            .json(json!({"username": username, "password": WRONG}))
            .send()
            .await;
        match answer.status {
            401 => {}
            429 => {
                assert_eq!(
                    (answer.header("cache-control"), &answer.json()["error"]["code"]),
                    (Some("no-store"), &json!(111))
                );
                return (tries, answer.header("retry-after").unwrap().parse().unwrap());
            }
            _ => panic!("{answer:?}"),
        }
    }
    panic!("200 wrong passwords for {username} caused no delay");
}

pub async fn log_in(hub: &TestHub, username: &str, password: &str) -> http::Response {
    let credentials = json!({"username": username, "password": mark_secret(password)});
    let answer = http::post(hub.address, "/auth/login").json(credentials).send().await;
    if answer.status == 200 {
        mark_secret(access_token(&answer));
        answer.json()["refresh_token"].as_str().map(|token| mark_secret(token.to_owned()));
    }
    answer
}

pub fn access_token(answer: &http::Response) -> String {
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Checks the lifetime that a response to a login tells, in seconds: at most the whole one, whose first second has begun before.
pub fn assert_lifetime(told: u64, whole: u64) {
    assert!((whole - 30..=whole).contains(&told), "{told} of {whole}");
}

/// Checks the attributes of a cookie with a token, and its lifetime as [`assert_lifetime`] does.
pub fn assert_cookie(attributes: &str, others: &str, whole: u64) {
    let (before, max_age) = attributes.split_once("; Max-Age=").unwrap();
    assert_eq!(before, others);
    assert_lifetime(max_age.parse().unwrap(), whole);
}

#[actix_rt::test]
async fn correct_password_gives_token_that_opens_connection() {
    let (hub, _users) = start_login_hub().await;
    let response = log_in(&hub, "ann", PASSWORD).await;
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")));
    let answer = response.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_lifetime(answer["expires_in"].as_u64().unwrap(), 900);
    let token = answer["access_token"].as_str().unwrap();
    let mut ann = hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    ann.subscribe("news").await;
    ann.send(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    let reply_and_push = [ann.receive().await, ann.receive().await];
    let info = reply_and_push.iter().find_map(|received| received["push"]["pub"].get("info")).unwrap();
    assert_eq!((&info["user"], &info["conn_info"]), (&json!("ann"), &json!({"name": "Ann"})));
}

#[actix_rt::test]
async fn login_with_separate_key_gives_accepted_tokens() {
    let (hub, _users) = start_login_hub_with(|config| {
        config.login.key = Secret::new(mark_secret("another key than the one of the backend"));
    })
    .await;
    let token = access_token(&log_in(&hub, "ann", PASSWORD).await);
    hub.connect_to(&format!("/socket?token={token}"), &[]).await.subscribe("news").await;
    // A token that the backend has signed is accepted too.
    let _bob = hub.connect("bob").await;
}

#[actix_rt::test]
async fn unknown_user_and_wrong_password_get_same_response() {
    let (hub, _users) = start_login_hub().await;
    let (wrong, unknown) = (log_in(&hub, "ann", WRONG).await, log_in(&hub, "bob", PASSWORD).await);
    assert_eq!((wrong.status, unknown.status), (401, 401));
    assert!(wrong.json()["error"].is_object() && wrong.json()["error"] == unknown.json()["error"]);
    assert_eq!(log_in(&hub, "ann", &"x".repeat(2000)).await.status, 401);
}

#[actix_rt::test]
async fn unknown_user_takes_as_long_as_wrong_password() {
    let (hub, _users) = start_login_hub_with(|config| config.login.failures = 1000).await;
    let mut took = [Vec::new(), Vec::new()];
    // In turns, so that other work on the machine slows down both.
    for _ in 0..7 {
        for (user, took) in ["ann", "bob"].into_iter().zip(&mut took) {
            let since = std::time::Instant::now();
            assert_eq!(log_in(&hub, user, WRONG).await.status, 401);
            took.push(since.elapsed());
        }
    }
    let [known, unknown] = took.map(|mut took| {
        took.sort_unstable();
        took[3]
    });
    // Hashing takes fifty times as long as everything else.
    assert!(unknown < known * 3 && known < unknown * 3, "{known:?} and {unknown:?}");
}

#[actix_rt::test]
async fn only_post_logs_in_or_out_or_gives_ticket() {
    let (hub, _users) = start_login_hub().await;
    for path in ["/auth/login", "/auth/refresh", "/auth/logout", "/auth/ticket"] {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "BREW"] {
            let credentials = json!({"username": "ann", "password": PASSWORD});
            let answer = http::request(hub.address, method, path)
                .header("Authorization", &hub.bearer("ann"))
                .header("X-HTTP-Method-Override", "POST")
                .json(credentials)
                .send()
                .await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method} {path}: {answer:?}");
            assert!(!answer.body.contains("access_token") && !answer.body.contains("ticket"), "{answer:?}");
        }
    }
}

#[actix_rt::test]
async fn invalid_login_body_is_refused_before_hashing() {
    let (hub, _users) = start_login_hub().await;
    let post = || http::post(hub.address, "/auth/login");
    for body in [
        json!({"username": "ann"}),
        json!(["ann", PASSWORD]),
        json!({"username": "ann", "password": [PASSWORD]}),
        json!({"username": null, "password": PASSWORD}),
        json!({"username": "ann", "password": PASSWORD, "cookie": "yes"}),
        json!({"username": "ann", "password": PASSWORD}).to_string().into(),
    ] {
        let answer = post().json(body.clone()).send().await;
        assert!(answer.status == 400 && !answer.body.contains(PASSWORD), "{body}: {answer:?}");
    }
    let twice = format!(r#"{{"username":"ann","password":"{WRONG}","password":"{PASSWORD}"}}"#);
    assert_eq!(post().header("Content-Type", "application/json").body(twice).send().await.status, 400);
    let valid = post().json(json!({"username": "ann", "password": PASSWORD})).send().await;
    assert_eq!(valid.status, 200, "invalid bodies do not count as failed logins");
    assert_eq!(post().header("Content-Type", "text/plain").body("{}").send().await.status, 415);
    assert_eq!(post().json(json!({"username": "ann", "password": "x".repeat(1 << 20)})).send().await.status, 413);
    assert_eq!(http::get(hub.address, "/auth/login").send().await.status, 405);
}

#[actix_rt::test]
async fn login_is_404_without_users_file() {
    assert_eq!(log_in(&start_hub().await, "ann", PASSWORD).await.status, 404);
}

#[actix_rt::test]
async fn login_cookie_opens_connection_and_logout_clears_it() {
    let (hub, _users) = start_login_hub_with(|config| config.login.cookie = true).await;
    let own = format!("http://{}", hub.address);
    let response = http::post(hub.address, "/auth/login")
        .header("Origin", &own)
        .json(json!({"username": "ann", "password": PASSWORD, "cookie": true}))
        .send()
        .await;
    // The body has no token: a script of the page must never get it.
    let expires_in = response.json()["expires_in"].as_u64().unwrap();
    assert_eq!(response.json(), json!({"token_type": "Bearer", "expires_in": expires_in}));
    assert_lifetime(expires_in, 900);
    let (cookie, attributes) = response.header("set-cookie").unwrap().split_once("; ").unwrap();
    assert_cookie(attributes, "HttpOnly; Secure; SameSite=Strict; Path=/", 900);
    mark_secret(cookie.strip_prefix("wardcast_token=").unwrap());
    let cookie = cookie.to_owned();
    hub.connect_to("/socket", &[("Origin", &own), ("Cookie", &cookie)]).await.subscribe("news").await;

    let logout = http::post(hub.address, "/auth/logout").header("Origin", &own).send().await;
    assert_eq!((logout.status, logout.header("cache-control")), (204, Some("no-store")), "{logout:?}");
    let expired = "wardcast_token=; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=0";
    assert_eq!(logout.header("set-cookie"), Some(expired));
    assert_eq!(http::get(hub.address, "/auth/logout").send().await.status, 405);
}

#[actix_rt::test]
async fn cookie_is_set_only_on_request_and_never_by_failed_login() {
    let (hub, _users) = start_login_hub_with(|config| config.login.cookie = true).await;
    let from = |origin, credentials| http::post(hub.address, "/auth/login").header("Origin", origin).json(credentials);
    let own = format!("http://{}", hub.address);
    for asked in [
        json!({"username": "ann", "password": PASSWORD}),
        json!({"username": "ann", "password": PASSWORD, "cookie": false}),
    ] {
        let answer = from(&own, asked).send().await;
        mark_secret(access_token(&answer));
        assert_eq!((answer.status, answer.header("set-cookie")), (200, None), "{answer:?}");
    }
    let wrong = from(&own, json!({"username": "ann", "password": WRONG, "cookie": true})).send().await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None), "{wrong:?}");
}

#[actix_rt::test]
async fn cookie_request_with_cookies_disabled_is_refused_before_password_check() {
    let (off, _users) = start_login_hub().await;
    let (closed, _users) = start_login_hub_with(|config| {
        config.login.cookie = true;
        config.auth.doors.retain(|door| *door != wardcast::config::Door::Cookie);
    })
    .await;
    for hub in [off, closed] {
        for _ in 0..7 {
            let credentials = json!({"username": "ann", "password": WRONG, "cookie": true});
            let answer = http::post(hub.address, "/auth/login").json(credentials).send().await;
            assert_eq!((answer.status, answer.header("set-cookie")), (400, None), "{answer:?}");
            assert!(answer.body.contains("login.cookie"), "{answer:?}");
        }
        assert_eq!(log_in(&hub, "ann", PASSWORD).await.status, 200);
    }
}

#[actix_rt::test]
async fn foreign_page_cannot_log_in_or_out() {
    let (hub, _users) = start_login_hub_with(|config| {
        config.login.cookie = true;
        config.origins.allowed = vec!["*".to_owned(), "https://app.example.com".to_owned()];
    })
    .await;
    let from = |path, origin| http::post(hub.address, path).header("Origin", origin);
    let credentials = || json!({"username": "ann", "password": PASSWORD, "cookie": true});
    for origin in ["https://evil.com", "null", "https://app.example.com.evil.com", "https://x/y"] {
        let login = from("/auth/login", origin).json(credentials()).send().await;
        assert_eq!((login.status, login.header("set-cookie")), (403, None), "{origin}: {login:?}");
        let logout = from("/auth/logout", origin).send().await;
        assert_eq!((logout.status, logout.header("set-cookie")), (403, None), "{origin}: {logout:?}");
    }
    let two = from("/auth/login", "https://app.example.com").header("Origin", "https://app.example.com");
    assert_eq!(two.json(credentials()).send().await.status, 400);
    let login = from("/auth/login", "https://app.example.com").json(credentials()).send().await;
    assert!(login.status == 200 && login.header("set-cookie").is_some(), "{login:?}");
    // A foreign page that knows a password may get a token in the body. Only the cookie is refused to it.
    let bare =
        from("/auth/login", "https://evil.com").json(json!({"username": "ann", "password": PASSWORD})).send().await;
    mark_secret(access_token(&bare));
    assert_eq!((bare.status, bare.header("set-cookie")), (200, None), "{bare:?}");
}

#[actix_rt::test]
async fn auth_responses_are_never_cached() {
    let (hub, _users) = start_login_hub().await;
    for path in ["/auth/login", "/auth/refresh", "/auth/logout", "/auth/ticket", "/auth/nothing"] {
        for method in ["GET", "POST", "OPTIONS", "DELETE"] {
            let answer = http::request(hub.address, method, path).send().await;
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{method} {path}: {answer:?}");
        }
    }
}

#[actix_rt::test]
async fn failed_logins_double_the_delay_and_delayed_logins_are_not_hashed() {
    let (hub, _users) = start_login_hub_with(trust_loopback_proxy).await;
    // Five of them delay nothing, and the next ones by 1, 2 and 4 s.
    assert_eq!(failures_until_long_delay(&hub, "ann", "192.0.2.1").await, 8);
    for wait in [8, 16, 32] {
        hub.clock.advance(Duration::from_secs(wait));
        let (tries, next) = log_in_until_delayed(&hub, "ann", "192.0.2.1").await;
        assert!(tries == 1 && next > wait && next <= (wait * 2).min(60), "{next} s after {wait} s");
    }
    // The delay has a length, so that a step of the wall clock does not end it.
    hub.clock.step_forward(Duration::from_secs(3600));
    let right = http::post(hub.address, "/auth/login")
        .header("X-Forwarded-For", "192.0.2.1")
        .json(json!({"username": "ann", "password": PASSWORD}));
    assert_eq!(right.send().await.status, 429, "the correct password is not checked during the delay");
}

#[actix_rt::test]
async fn unknown_user_is_delayed_like_known_user() {
    let (hub, _users) = start_login_hub_with(trust_loopback_proxy).await;
    let known = failures_until_long_delay(&hub, "ann", "192.0.2.1").await;
    assert_eq!(known, failures_until_long_delay(&hub, "unknown", "192.0.2.2").await);
}

#[actix_rt::test]
async fn failed_logins_for_many_users_delay_the_address() {
    let (hub, _users) = start_login_hub_with(trust_loopback_proxy).await;
    let mut tries = 0;
    for number in 0..6 {
        tries += log_in_until_delayed(&hub, &format!("user {number}"), "192.0.2.1").await.0;
    }
    assert_eq!(tries, 20);
}

#[actix_rt::test]
async fn failed_logins_from_many_addresses_do_not_delay_the_users_own_address() {
    let (hub, _users) = start_login_hub_with(|config| {
        trust_loopback_proxy(config);
        config.login.failures = 1;
    })
    .await;
    for number in 0..30 {
        log_in_until_delayed(&hub, "ann", &format!("198.51.100.{number}")).await;
    }
    assert_eq!(log_in_until_delayed(&hub, "ann", "203.0.113.1").await, (1, 1), "a new address has one try");
    assert_eq!(log_in(&hub, "ann", PASSWORD).await.status, 200);
}

#[actix_rt::test]
async fn successful_login_resets_delay_and_parallel_logins_are_not_counted_as_failures() {
    let (hub, _users) = start_login_hub_with(trust_loopback_proxy).await;
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(log_in(&hub, "ann", WRONG).await.status, 401);
        }
        assert_eq!(log_in(&hub, "ann", PASSWORD).await.status, 200);
    }
    let (hub, _users) = start_login_hub_with(|config| config.login.concurrency = 4).await;
    for answer in join_all((0..4).map(|_| log_in(&hub, "ann", PASSWORD))).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(log_in(&hub, "ann", PASSWORD).await.status, 200);
}

#[actix_rt::test]
async fn simultaneous_wrong_passwords_are_all_counted() {
    let (hub, _users) = start_login_hub_with(|config| config.login.concurrency = 100).await;
    let answers = join_all((0..40).map(|_| log_in(&hub, "ann", WRONG))).await;
    let guesses = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!(guesses, 5);
    assert!(answers.iter().all(|answer| [401, 429].contains(&answer.status)));
}

#[actix_rt::test]
async fn login_refused_for_concurrency_is_not_counted_as_failure() {
    let (hub, _users) = start_login_hub_with(|config| {
        trust_loopback_proxy(config);
        config.login.concurrency = 1;
    })
    .await;
    let answers = join_all((0..5).map(|_| log_in(&hub, "ann", WRONG))).await;
    let guesses = answers.iter().filter(|answer| answer.status == 401).count();
    assert!((1..5).contains(&guesses), "the logins did not overlap: {answers:?}");
    assert!(answers.iter().all(|answer| [401, 503].contains(&answer.status)), "{answers:?}");
    assert_eq!(log_in_until_delayed(&hub, "ann", "127.0.0.1").await, (5 - guesses, 1));
}
