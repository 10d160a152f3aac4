//! Limits that all instances share, in Redis: failed logins, connections of users, rates of users.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    address::ClientAddress,
    auth::login_backoff::{FailureNames, LoginBackoff},
    broker::{CountedConnection, LoginDelayRule, RateCharge, SharedLimits, SharedLoginAttempt, SharedLoginVerdict},
    config::Secret,
    rate_limit::Gcra,
};

use super::fixture::{
    Instance, memory_instance, start_broker, start_broker_with, start_on, start_pair, start_ready_broker, urls,
    wait_until,
};
use crate::support::{
    Stopwatch, poll_until,
    redis::{PrefixedRedis, RedisForm, RedisServer, run_on_parts},
};

/// Long delays, so that the time which a test takes does not matter.
const RULE: LoginDelayRule = LoginDelayRule {
    forget_after: Duration::from_secs(50_000),
    first_wait: Duration::from_secs(1000),
    max_wait: Duration::from_secs(16_000),
    free_of_pair: 3,
    free_of_address: 9,
    attacked_above: 12,
};

/// 10 events per second, 20 at once.
const RATE: Gcra = Gcra { interval: 100_000_000, burst: 2_000_000_000 };

fn limits(instance: &Instance) -> Arc<dyn SharedLimits> {
    instance.broker.shared_limits().unwrap()
}

fn address(last: u8) -> ClientAddress {
    std::net::IpAddr::from([192, 0, 2, last]).into()
}

fn names() -> FailureNames {
    FailureNames::new(&Secret::new("0123456789abcdef0123456789abcdef"))
}

impl Instance {
    async fn begin_login(&self, user: &str, last: u8) -> SharedLoginVerdict {
        limits(self).begin_login(names().of(user, address(last)), RULE).await.unwrap()
    }

    async fn forgive_login(&self, user: &str, last: u8, attempt: SharedLoginAttempt) {
        limits(self).forgive_login(names().of(user, address(last)), attempt).await.unwrap();
    }

    /// Counts a connection; `None` if the user may not have it.
    async fn connect(&self, user: &str, limit: usize) -> Option<Box<dyn std::any::Any + Send + Sync>> {
        let CountedConnection { handle, is_allowed } = limits(self).count_connection(&user.into(), limit);
        is_allowed.await.then_some(handle)
    }

    /// Waits until a user may have another connection, which is still refused because Redis has not heard of one that has ended.
    async fn wait_to_connect(&self, user: &str, limit: usize) -> Box<dyn std::any::Any + Send + Sync> {
        let mut connected = None;
        wait_until("a connection is allowed", async || {
            connected = self.connect(user, limit).await;
            connected.is_some()
        })
        .await;
        connected.unwrap()
    }
}

/// A broker of one instance has nothing to share, and costs nothing.
#[tokio::test]
async fn memory_broker_has_no_shared_limits() {
    assert!(memory_instance().broker.shared_limits().is_none());
}

#[tokio::test]
async fn failed_logins_are_counted_in_redis_exactly_as_an_instance_counts_them() {
    let instance = super::redis_instance().await;
    let backoff = LoginBackoff::with_rule(RULE);
    let mut random = 7_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let (mut open, mut outcomes) = (Vec::new(), HashMap::new());
    for step in 0..400 {
        let (user, last) = (["ann", "bob", "eve"][next(3) as usize], u8::try_from(next(4)).unwrap());
        match next(10) {
            0..7 => {
                let now = instance.clock.monotonic_now();
                let (expected, counted) =
                    (backoff.begin(now, user, address(last)), instance.begin_login(user, last).await);
                let wait = expected.as_ref().err().copied().unwrap_or_default();
                assert_eq!(counted.attempt.is_some(), expected.is_ok(), "step {step}: {wait:?} {counted:?}");
                let longest = counted.pair.wait.max(counted.address.wait);
                if expected.is_err() {
                    assert!(longest.abs_diff(wait) < Duration::from_secs(100), "step {step}: {wait:?} {counted:?}");
                }
                *outcomes.entry(expected.is_ok()).or_insert(0) += 1;
                open.extend(expected.ok().zip(counted.attempt).map(|attempts| (user, last, attempts)));
            }
            7 if !open.is_empty() => {
                let (user, last, (own, shared)) = open.swap_remove(next(open.len() as u64) as usize);
                backoff.succeed(own);
                instance.forgive_login(user, last, shared).await;
            }
            8 => open.clear(),
            _ => {
                // The times that open attempts remember are not moved.
                open.clear();
                instance.advance_clock(Duration::from_secs(600 * next(8)));
            }
        }
    }
    assert!(outcomes[&true] > 50 && outcomes[&false] > 50, "{outcomes:?}");
}

/// The pairs of a user and an address are spread over the servers, and the address is the same.
#[tokio::test]
async fn failed_logins_of_an_address_and_of_a_user_are_counted_together_over_several_servers() {
    let redis = PrefixedRedis::whole(RedisForm::several_servers().await);
    let instance = start_on(redis, |_| ()).await;
    for failure in 1..=RULE.free_of_address {
        let verdict = instance.begin_login(&format!("user-{failure}"), 1).await;
        assert_eq!((verdict.attempt.is_some(), verdict.address.failures), (true, failure));
    }
    let verdict = instance.begin_login("another", 1).await;
    assert!(verdict.address.wait > RULE.first_wait / 2, "{verdict:?}");
    assert_eq!((verdict.attempt, verdict.address.failures), (None, RULE.free_of_address));
    for failure in 1..=5 {
        let verdict = instance.begin_login("ann", 100 + failure).await;
        assert_eq!((verdict.attempt.is_some(), verdict.user), (true, u32::from(failure)));
        instance.forgive_login("bob", 200, instance.begin_login("bob", 200).await.attempt.unwrap()).await;
    }
}

#[tokio::test]
async fn failed_logins_leave_redis_after_their_time_and_name_nobody() {
    let (server, first, second) = start_pair().await;
    let mut verdict = first.begin_login("ann", 1).await;
    for _ in 0..2 {
        verdict = second.begin_login("ann", 1).await;
    }
    assert_eq!((verdict.pair.failures, verdict.pair.wait, verdict.user), (3, RULE.first_wait, 3));
    assert_eq!(first.begin_login("ann", 1).await.attempt, None);
    let dump = || async {
        let keys: Vec<String> = server.run(&["KEYS", "*login-failures*"]).await;
        let mut text = keys.join(" ");
        for key in &keys {
            text += &server.run::<String>(&["GET", key]).await;
            let left: i64 = server.run(&["PTTL", key]).await;
            assert!((1..=50_000_000).contains(&left), "{left}");
        }
        (keys.len(), text)
    };
    let (count, text) = dump().await;
    assert_eq!(count, 3);
    assert!(!text.contains("ann") && !text.contains("192.0.2"), "{text}");
    for _ in 0..100 {
        assert_eq!(first.begin_login("ann", 1).await.attempt, None);
    }
    assert_eq!(dump().await.0, 3, "a refused attempt stores nothing");
    server.advance_clock("wardcast", Duration::from_secs(50_001));
    assert_eq!(dump().await.0, 0);
}

#[tokio::test]
async fn clock_of_a_redis_that_is_behind_makes_no_delay_longer_than_the_maximum() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.begin_login("ann", 1).await;
    let keys: Vec<String> = server.run(&["KEYS", "*:pair:*"]).await;
    // As if the attempt had been counted by a clock that was years ahead.
    server.run::<()>(&["SET", &keys[0], "3 9000000000000"]).await;
    let verdict = instance.begin_login("ann", 1).await;
    assert_eq!((verdict.attempt, verdict.pair.wait), (None, RULE.max_wait));
}

#[tokio::test]
async fn foreign_value_under_the_key_of_failed_logins_is_an_error_or_nothing() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.begin_login("ann", 1).await;
    let key = server.run::<Vec<String>>(&["KEYS", "*:pair:*"]).await.remove(0);
    for text in ["", "x", "-1 5", "1 2 3", "1e9 1", "9 9"] {
        server.run::<()>(&["SET", &key, text]).await;
        assert!(instance.begin_login("ann", 1).await.attempt.is_some(), "{text:?}");
    }
    server.run::<()>(&["DEL", &key]).await;
    server.run::<()>(&["HSET", &key, "field", "value"]).await;
    assert!(limits(&instance).begin_login(names().of("ann", address(1)), RULE).await.is_err());
}

async fn connections_of_a_user_are_counted_on_all_instances(redis: PrefixedRedis) {
    let redis = Arc::new(redis);
    let start = || async {
        let part = PrefixedRedis { form: redis.form.clone(), prefix: redis.prefix.clone() };
        start_on(part, |_| ()).await
    };
    let (first, second) = (start().await, start().await);
    first.wait_for_nodes(2).await;
    second.wait_for_nodes(2).await;
    let one = first.connect("ann", 2).await.unwrap();
    let two = second.connect("ann", 2).await.unwrap();
    assert!(first.connect("ann", 2).await.is_none() && second.connect("ann", 2).await.is_none());
    let bob = first.connect("bob", 2).await;
    assert!(bob.is_some(), "other users have their own");
    drop(one);
    let three = second.wait_to_connect("ann", 2).await;
    assert!(first.connect("ann", 2).await.is_none());
    for master in redis.form.masters() {
        for key in master.run::<Vec<String>>(&["KEYS", &format!("{}:connections:*", redis.prefix)]).await {
            let left: i64 = master.run(&["PTTL", &key]).await;
            assert!((1..=3 * 3_600_000).contains(&left), "{key} lives for {left} ms");
        }
    }
    drop((two, three, bob));
    wait_until("redis forgets users without connections", async || redis.keys("connections:*").await.is_empty()).await;
    // Many at once: some share a round, on two instances.
    let handles =
        join_all((0..20).map(|number| if number % 2 == 0 { &first } else { &second }.connect("ann", 7))).await;
    assert_eq!(handles.iter().flatten().count(), 7);
    drop(handles);
    wait_until("all are returned", async || redis.keys("connections:*").await.is_empty()).await;
    // Those of an instance that has ended without a word are not counted as soon as the limit is reached.
    let _others = [second.connect("ann", 2).await.unwrap(), second.connect("ann", 2).await.unwrap()];
    assert!(first.connect("ann", 2).await.is_none());
    drop(second);
    first.wait_to_connect("ann", 2).await;
}

#[tokio::test]
async fn connections_are_counted_over_one_server() {
    connections_of_a_user_are_counted_on_all_instances(PrefixedRedis::whole(RedisForm::one_server().await)).await;
}

#[tokio::test]
async fn connections_are_counted_over_several_servers_and_a_cluster() {
    for form in [RedisForm::several_servers().await, RedisForm::cluster().await] {
        run_on_parts(form, vec![("connections", connections_of_a_user_are_counted_on_all_instances)]).await;
    }
}

#[tokio::test]
async fn each_instance_limits_by_itself_while_redis_is_away_and_stores_its_counts_when_it_is_back() {
    let mut server = RedisServer::start().await;
    let (first, second) = (start_ready_broker(&server.url()).await, start_ready_broker(&server.url()).await);
    let before = first.connect("ann", 2).await.unwrap();
    let gone = second.connect("bob", 1).await.unwrap();
    server.kill();
    let outage = join_all((0..2).map(|_| first.connect("ann", 2))).await;
    assert!(outage.iter().all(Option::is_some), "the own limit of the instance is asked before");
    drop(gone);
    server.restart().await;
    first.wait_until_ready().await;
    second.wait_until_ready().await;
    wait_until("redis has the counts", async || {
        let keys: Vec<String> = server.run(&["KEYS", "wardcast:connections:*"]).await;
        keys.len() == 1 && server.run::<Vec<String>>(&["HVALS", &keys[0]]).await == ["3"]
    })
    .await;
    assert!(second.connect("ann", 2).await.is_none());
    assert!(second.connect("bob", 1).await.is_some());
    drop((before, outage));
    let _more = (second.wait_to_connect("ann", 2).await, second.wait_to_connect("ann", 2).await);
}

/// Each server has the counts of some users.
#[tokio::test]
async fn users_of_other_servers_are_counted_together_while_one_server_is_away() {
    let mut servers = [RedisServer::start().await, RedisServer::start().await];
    let start = || start_broker_with("", |config| config.urls = urls(&servers));
    let (first, second) = (start(), start());
    first.wait_until_ready().await;
    second.wait_until_ready().await;
    let users: Vec<String> = (0..30).map(|number| format!("user-{number}")).collect();
    let connect = async |instance: &Instance| {
        let mut connected = Vec::new();
        for user in &users {
            connected.push(instance.connect(user, 1).await);
        }
        connected
    };
    let held = connect(&first).await;
    assert!(held.iter().all(Option::is_some));
    let counted: Vec<String> = servers[0].run(&["KEYS", "wardcast:connections:*"]).await;
    assert!((5..25).contains(&counted.len()), "{counted:?}");
    let dead = servers[1].address();
    servers[1].kill();
    second.wait_for_outage(&dead).await;
    let more = connect(&second).await;
    assert_eq!(more.iter().filter(|more| more.is_none()).count(), counted.len());
    let rates = limits(&second)
        .charge_rates(users.iter().map(|user| RateCharge { user_tag: user.clone(), events: 10 }).collect(), RATE);
    let known = rates.await.unwrap().iter().filter(|left| left.is_ok()).count();
    assert!((1..users.len()).contains(&known), "{known} of {} rates", users.len());
    servers[1].restart().await;
    second.wait_until_ready().await;
    drop(held);
    poll_until("the server has its counts again", async || {
        servers[1].run::<Vec<String>>(&["KEYS", "wardcast:connections:*"]).await.len() == users.len() - counted.len()
    })
    .await;
    assert!(second.connect(&users[0], 1).await.is_none() || more[0].is_none());
}

#[tokio::test]
async fn frozen_redis_delays_connections_once_and_not_each_of_them() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    drop(instance.connect("ann", 1).await.unwrap());
    server.freeze();
    let begun = Stopwatch::start();
    for user in 0..50 {
        let handles = join_all((0..40).map(|number| {
            let user = format!("{user} {number}");
            let instance = &instance;
            async move { instance.connect(&user, 1).await }
        }));
        assert!(handles.await.iter().all(Option::is_some));
    }
    // A round waits for a second, and there is a next attempt after five.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    server.resume();
}

#[tokio::test]
async fn connections_without_any_redis_are_allowed() {
    let instance = start_broker(super::fixture::ELSEWHERE, "wardcast");
    assert!(instance.connect("ann", 1).await.is_some());
}

async fn events_of_a_user_on_all_instances_fill_one_bucket(redis: PrefixedRedis) {
    let instance = start_on(redis, |_| ()).await;
    let charge = async |events: &[(&str, u32)]| {
        let charges = events.iter().map(|(tag, events)| RateCharge { user_tag: (*tag).to_owned(), events: *events });
        let left = limits(&instance).charge_rates(charges.collect(), RATE).await.unwrap();
        left.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let many: Vec<(String, u32)> = (0..200).map(|number| (format!("user{number}"), number * 10)).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|(tag, events)| (tag.as_str(), *events)).collect();
    let left = charge(&many).await;
    for ((_, events), left) in many.iter().zip(left) {
        let expected = Duration::from_millis(u64::from(*events) * 100).min(Duration::from_secs(60));
        assert_eq!(left, expected, "{events} events");
    }
    let more = charge(&[("user10", 50)]).await[0];
    assert!((Duration::from_secs(10)..=Duration::from_secs(15)).contains(&more), "{more:?}");
}

#[tokio::test]
async fn events_fill_one_bucket_over_one_server() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let form = redis.form.clone();
    events_of_a_user_on_all_instances_fill_one_bucket(redis).await;
    let RedisForm::OneServer(server) = &*form else { unreachable!() };
    let keys = server.run::<Vec<String>>(&["KEYS", "wardcast:rate:*"]).await;
    assert!(keys.len() > 100, "{keys:?}");
    for key in keys {
        let left: i64 = server.run(&["PTTL", &key]).await;
        // A bucket that is nearly full lives for a millisecond: it may be gone by now.
        assert!(left == -2 || (0..=60_001).contains(&left), "{key} lives for {left} ms");
    }
}

#[tokio::test]
async fn events_fill_one_bucket_over_a_cluster() {
    let cluster = RedisForm::cluster().await;
    run_on_parts(cluster, vec![("rates", events_of_a_user_on_all_instances_fill_one_bucket)]).await;
}
