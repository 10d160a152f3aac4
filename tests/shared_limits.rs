//! Limits that hold for all hubs on one Redis together: delays after failed logins, connections of a user, and what a user publishes
//! over REST.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wardcast::config::Secret;

use crate::{
    login::{PASSWORD, WRONG, write_users_file},
    support::{
        Client, PATIENCE, Stopwatch, TestHub, http,
        node::{Node, start_nodes},
        poll_until,
        proxy::{Proxy, ProxyMode},
        redis::{PrefixedRedis, RedisForm, RedisServer},
        start_hub_on, trust_loopback_proxy,
    },
};

/// Starts two hubs with the user ann on a Redis.
async fn start_login_hubs(redis: &RedisServer) -> ([TestHub; 2], tempfile::NamedTempFile) {
    let users = write_users_file();
    let path = users.path().to_owned();
    let hubs = [(); 2].map(|()| {
        start_hub_on(redis, |config| {
            trust_loopback_proxy(config);
            config.login.users_file = Some(path.clone());
        })
    });
    let hubs: Vec<TestHub> = join_all(hubs).await;
    (hubs.try_into().unwrap_or_else(|_| unreachable!("two")), users)
}

/// Fails so often from [`ADDRESS`], on each hub in turn, that the next login is delayed by 16 s, which outlasts the test on a busy
/// machine, too.
async fn fail_until_delayed(redis: &RedisServer, hubs: [&TestHub; 2]) {
    for failure in 0..9 {
        let hub = hubs[failure % 2];
        assert_eq!(log_in_from(hub, ADDRESS, "ann", WRONG).await, (401, 0), "failure {failure}");
        if (4..8).contains(&failure) {
            let delay = Duration::from_secs(1 << (failure - 4));
            redis.advance_clock("wardcast", delay);
            hubs.iter().for_each(|hub| hub.clock.advance(delay));
        }
    }
}

/// The status of a login from an address, and after how many seconds the next one should follow.
async fn log_in_from(hub: &TestHub, address: &str, user: &str, password: &str) -> (u16, u64) {
    let request = http::post(hub.address, "/auth/login").header("X-Forwarded-For", address);
    let answer = request.json(json!({"username": user, "password": password})).send().await;
    (answer.status, answer.header("retry-after").map_or(0, |wait| wait.parse().unwrap()))
}

const ADDRESS: &str = "192.0.2.1";

#[actix_rt::test]
async fn failed_logins_on_one_hub_delay_the_next_one_on_another() {
    let redis = RedisServer::start().await;
    let ([first, second], _users) = start_login_hubs(&redis).await;
    fail_until_delayed(&redis, [&first, &second]).await;
    let (status, wait) = log_in_from(&second, ADDRESS, "ann", PASSWORD).await;
    assert!(status == 429 && (2..=16).contains(&wait), "the right password is not checked: {status} {wait}");
    let calls = || async { redis.run::<String>(&["INFO", "commandstats"]).await };
    let before = calls().await;
    for _ in 0..20 {
        assert_eq!(log_in_from(&second, ADDRESS, "ann", WRONG).await.0, 429);
    }
    let scripts = |text: String| {
        let line = text.lines().find(|line| line.starts_with("cmdstat_evalsha:")).map(str::to_owned).unwrap();
        line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse::<u32>().unwrap()
    };
    assert!(scripts(calls().await) - scripts(before) < 20, "a delayed address costs no call for each attempt");
    redis.advance_clock("wardcast", Duration::from_secs(16));
    [&first, &second].iter().for_each(|hub| hub.clock.advance(Duration::from_secs(16)));
    assert_eq!(log_in_from(&second, ADDRESS, "ann", WRONG).await, (401, 0));
    let (status, wait) = log_in_from(&first, ADDRESS, "ann", WRONG).await;
    assert!(status == 429 && wait > 16, "the tenth failure doubles the delay: {status} {wait}");
    let names: Vec<String> = redis.run(&["KEYS", "*login-failures*"]).await;
    assert!(names.len() == 3 && names.iter().all(|name| !name.contains("ann") && !name.contains(ADDRESS)), "{names:?}");
}

#[actix_rt::test]
async fn right_password_on_one_hub_forgets_the_failures_on_all() {
    let redis = RedisServer::start().await;
    let ([first, second], _users) = start_login_hubs(&redis).await;
    for _ in 0..3 {
        for hub in [&first, &second, &first, &second] {
            assert_eq!(log_in_from(hub, ADDRESS, "ann", WRONG).await, (401, 0));
        }
        assert_eq!(log_in_from(&first, ADDRESS, "ann", PASSWORD).await, (200, 0));
    }
    let other = log_in_from(&second, "192.0.2.2", "ann", WRONG).await;
    assert_eq!(other, (401, 0), "other addresses have their own failures");
}

/// Each call of Redis takes longer than a login waits for it.
#[actix_rt::test]
async fn right_passwords_are_no_failures_on_other_hubs_if_redis_answers_late() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let users = write_users_file();
    let on = async |url: String| {
        start_hub_on(&redis, |config| {
            trust_loopback_proxy(config);
            config.login.users_file = Some(users.path().to_owned());
            config.broker.redis.url = Secret::new(url);
        })
        .await
    };
    let (distant, other) = (on(proxy.url()).await, on(redis.url()).await);
    proxy.set(ProxyMode::Delay(Duration::from_millis(150)));
    for login in 0..6 {
        assert_eq!(log_in_from(&distant, ADDRESS, "ann", PASSWORD).await, (200, 0), "login {login}");
    }
    poll_until("all of them are forgiven", async || {
        let names: Vec<String> = redis.run(&["KEYS", "*login-failures*"]).await;
        names.is_empty()
    })
    .await;
    for failure in 0..3 {
        assert_eq!(log_in_from(&other, ADDRESS, "ann", WRONG).await, (401, 0), "failure {failure}");
    }
    assert_eq!(log_in_from(&other, ADDRESS, "ann", PASSWORD).await, (200, 0));
}

#[actix_rt::test]
async fn attackers_on_all_hubs_cannot_lock_a_user_out() {
    let redis = RedisServer::start().await;
    let ([first, second], _users) = start_login_hubs(&redis).await;
    for number in 0..60 {
        for hub in [&first, &second, &first] {
            log_in_from(hub, &format!("198.51.100.{number}"), "ann", WRONG).await;
        }
    }
    assert_eq!(log_in_from(&second, "203.0.113.1", "ann", WRONG).await, (401, 0), "a new address has one try");
    assert_eq!(log_in_from(&first, "203.0.113.2", "ann", PASSWORD).await, (200, 0));
}

#[actix_rt::test]
async fn hub_counts_failed_logins_by_itself_while_redis_is_away_or_silent() {
    let mut redis = RedisServer::start().await;
    let ([first, second], _users) = start_login_hubs(&redis).await;
    for _ in 0..2 {
        assert_eq!(log_in_from(&first, ADDRESS, "ann", WRONG).await, (401, 0));
    }
    redis.freeze();
    let begun = Stopwatch::start();
    assert_eq!(log_in_from(&first, ADDRESS, "ann", WRONG).await, (401, 0));
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    redis.resume();
    redis.kill();
    first.wait_for_broker(false).await;
    for _ in 0..2 {
        assert_eq!(log_in_from(&first, ADDRESS, "ann", WRONG).await, (401, 0));
    }
    // Until the delay outlasts the test on a busy machine, too.
    for delay in [1, 2, 4, 8] {
        first.clock.advance(Duration::from_secs(delay));
        assert_eq!(log_in_from(&first, ADDRESS, "ann", WRONG).await, (401, 0));
    }
    let (status, wait) = log_in_from(&first, ADDRESS, "ann", WRONG).await;
    // Of the three failures since then alone, and the last four, it would be 4 s.
    assert!(status == 429 && (5..=16).contains(&wait), "what Redis has said last is known: {status} {wait}");
    assert_eq!(log_in_from(&second, ADDRESS, "ann", WRONG).await, (401, 0), "this hub knows nothing of it");
}

const TWO: &[&str] = &["limits.connections_per_user=2"];

async fn status(node: &Node, user: &str) -> u16 {
    node.try_handshake(&node.path_for(user), &[]).await.status
}

/// Waits until a user may connect.
async fn connect_soon(node: &Node, user: &str) -> Client {
    let mut client = None;
    poll_until(&format!("{user} may connect"), async || {
        client = Client::connect(node.address, &node.path_for(user)).await.ok();
        client.is_some()
    })
    .await;
    client.unwrap()
}

#[actix_rt::test]
async fn connections_of_a_user_are_limited_over_three_nodes_of_which_one_is_frozen_and_one_killed() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let [first, second, mut third] = start_nodes(&redis, TWO).await;
    let (one, _two) = (first.connect("ann").await, third.connect("ann").await);
    for node in [&first, &second, &third] {
        let refused = node.try_handshake(&node.path_for("ann"), &[]).await;
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true), "{refused:?}");
        let mut sdk = node.connect_without_token().await;
        sdk.send(json!({"id": 1, "connect": {"token": node.token("ann")}})).await;
        assert_eq!(sdk.wait_for_close().await.0, Some(3504));
    }
    let _bob = second.connect("bob").await;
    drop(one);
    let _three = connect_soon(&second, "ann").await;
    third.freeze();
    assert_eq!(status(&first, "ann").await, 429, "a frozen node has its connections");
    third.kill();
    let _four = connect_soon(&first, "ann").await;
    assert_eq!(status(&second, "ann").await, 429);
}

#[actix_rt::test]
async fn node_that_stops_returns_the_connections_of_its_users() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let [first, second] = start_nodes(&redis, TWO).await;
    let _ann = [second.connect("ann").await, second.connect("ann").await];
    assert_eq!(status(&first, "ann").await, 429);
    second.begin_stop();
    let _again = [connect_soon(&first, "ann").await, connect_soon(&first, "ann").await];
    assert_eq!(status(&first, "ann").await, 429);
    second.wait_for_exit();
}

/// How many of the publications of a user are accepted, one after the other on each hub in turn, until `seconds` have passed, and
/// on a slow machine until one is refused.
async fn publish_for(hubs: &[TestHub], user: &str, seconds: u64) -> (u32, u32) {
    let begun = std::time::Instant::now();
    let (mut accepted, mut refused) = (0, 0);
    for hub in hubs.iter().cycle() {
        if begun.elapsed().as_secs() >= seconds && (refused > 0 || begun.elapsed() >= PATIENCE) {
            break;
        }
        let request = http::post(hub.address, "/v1/channels/news/messages").header("Authorization", &hub.bearer(user));
        let answer = request.json(json!(1)).send().await;
        match answer.json()["error"]["code"].as_u64() {
            None => accepted += 1,
            Some(111) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    (accepted, refused)
}

#[actix_rt::test]
async fn publications_of_a_user_over_rest_are_limited_over_all_hubs() {
    let redis = RedisServer::start().await;
    let rate = |config: &mut wardcast::config::Config| config.limits.publications_per_second = 5;
    let hubs = [start_hub_on(&redis, rate).await, start_hub_on(&redis, rate).await, start_hub_on(&redis, rate).await];
    let begun = std::time::Instant::now();
    let (accepted, refused) = publish_for(&hubs, "ann", 3).await;
    let seconds = begun.elapsed().as_secs_f64();
    assert!(refused > 0, "{accepted}");
    // One bucket: a burst of 10 and 5 a second, and what the hubs accept before they have heard of each other. Three buckets
    // would be 30 and 15 a second.
    let limit = 10.0 + 5.0 * seconds + 15.0;
    assert!(f64::from(accepted) < limit, "{accepted} in {seconds} s");
    let request = http::post(hubs[1].address, "/v1/channels/news/messages");
    let answer = request.header("Authorization", &hubs[1].bearer("bob")).json(json!(1)).send().await;
    assert!(answer.json()["error"].is_null(), "another user has a rate of his own: {answer:?}");
}

#[actix_rt::test]
async fn hub_limits_publications_by_itself_while_redis_is_away() {
    let redis = RedisServer::start().await;
    let hub = start_hub_on(&redis, |config| config.limits.publications_per_second = 2).await;
    let post = async || {
        let request = http::post(hub.address, "/v1/channels/news/messages").header("Authorization", &hub.bearer("ann"));
        request.json(json!(1)).send().await.json()["error"]["code"].as_u64().unwrap_or(0)
    };
    drop(redis);
    hub.wait_for_broker(false).await;
    assert_eq!([post().await, post().await, post().await, post().await], [100; 4]);
    poll_until("the rate is exceeded", async || post().await == 111).await;
}
