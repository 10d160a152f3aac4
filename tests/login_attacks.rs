//! Attacks on logins that succeed: floods, replays on several nodes, and tokens that should end with their login.

use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::json;
use wardcast::{config::Config, revocation::LoginId};

use crate::{
    login::{PASSWORD, give_up_redis_soon, log_in, start_login_hub, start_login_hub_on, start_login_hub_with},
    refresh_tokens::{Tokens, assert_ended, refresh, start_login, start_two_login_hubs},
    revocation::{assert_closed_as_revoked, invalidate, logout},
    support::{
        TestHub, http,
        node::Node,
        poll_until,
        redis::{PrefixedRedis, RedisForm, RedisServer},
    },
};

async fn revocations(hub: &TestHub) -> f64 {
    hub.metric("wardcast_revocations").await
}

#[actix_rt::test]
async fn thousand_logins_at_once_are_answered_and_leave_open_sessions_and_later_logins_alone() {
    let (hub, _users) = start_login_hub().await;
    let mut open = hub.connect("bob").await;
    open.subscribe("news").await;
    let storm = join_all((0..1000).map(|_| log_in(&hub, "ann", PASSWORD)));
    let commands = async {
        for number in 0..20 {
            open.publish("news", json!(number)).await;
            assert_eq!(open.receive_publication().await, json!(number));
        }
    };
    let (answers, ()) = join(storm, commands).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert!(count(200) > 0 && count(200) + count(503) == 1000, "{} {}", count(200), count(503));
    assert!(answers.iter().filter(|answer| answer.status == 503).all(|answer| answer.header("retry-after").is_some()));
    let last = start_login(&hub).await;
    last.connect(&hub).await.subscribe("news").await;
    hub.wait_for_connections(1).await;
}

#[actix_rt::test]
async fn refresh_storm_of_one_user_leads_every_request_to_the_successor_of_its_login() {
    let (hub, _users) = start_login_hub().await;
    let (one, other) = (start_login(&hub).await, start_login(&hub).await);
    let storm = async |tokens: &Tokens| join_all((0..200).map(|_| refresh(&hub, &tokens.refresh))).await;
    let (of_one, of_other) = join(storm(&one), storm(&other)).await;
    let mut successors = Vec::new();
    for answers in [of_one, of_other] {
        let mut tokens: Vec<_> = answers.iter().map(|answer| Tokens::of(answer).refresh).collect();
        tokens.dedup();
        assert_eq!(tokens.len(), 1, "one successor for all");
        successors.extend(tokens);
    }
    assert_ne!(successors[0], successors[1]);
    for successor in successors {
        Tokens::of(&refresh(&hub, &successor).await);
    }
}

#[actix_rt::test]
async fn refresh_token_sent_to_two_nodes_at_once_has_one_successor_and_its_later_replay_ends_the_login_on_both() {
    let redis = RedisServer::start().await;
    let (one, two, _users) = start_two_login_hubs(&redis).await;
    let first = start_login(&one).await;
    let mut latest = Tokens { access: first.access.clone(), refresh: first.refresh.clone() };
    for _ in 0..5 {
        let (at_one, at_two) = join(refresh(&one, &latest.refresh), refresh(&two, &latest.refresh)).await;
        let (at_one, at_two) = (Tokens::of(&at_one), Tokens::of(&at_two));
        assert_eq!(at_one.refresh, at_two.refresh);
        latest = at_two;
    }
    let mut sockets = [latest.connect(&one).await, latest.connect(&two).await];
    let (at_one, at_two) = join(refresh(&one, &first.refresh), refresh(&two, &first.refresh)).await;
    assert_eq!([at_one.status, at_two.status], [401, 401]);
    for socket in &mut sockets {
        assert_closed_as_revoked(socket).await;
    }
    for hub in [&one, &two] {
        assert_ended(hub, &latest.refresh).await;
        assert_eq!(hub.try_handshake(&format!("/socket?token={}", latest.access), &[]).await.status, 401);
    }
}

#[actix_rt::test]
async fn access_token_that_is_younger_than_an_invalidation_ends_with_its_login() {
    let (hub, _users) = start_login_hub().await;
    let started = start_login(&hub).await;
    let between = hub.clock.now().unix_seconds() + 5;
    hub.clock.advance(Duration::from_secs(10));
    // As by a refresh that was under way and signs its token in a later second than that of the invalidation.
    let late = Tokens::of(&refresh(&hub, &started.refresh).await);
    let mut socket = late.connect(&hub).await;
    let newer = start_login(&hub).await;
    let mut newer_socket = newer.connect(&hub).await;
    invalidate(&hub, json!({"user": "ann", "issued_before": between})).await;
    assert_closed_as_revoked(&mut socket).await;
    assert_eq!(hub.try_handshake(&format!("/socket?token={}", late.access), &[]).await.status, 401);
    assert_ended(&hub, &late.refresh).await;
    newer_socket.subscribe("news").await;
    assert_eq!(revocations(&hub).await, 2.0, "of the user, and of the login");
}

/// Each login that ends counts as a logout. Above the limit, one revokes no tokens that are newer than the caller means.
#[actix_rt::test]
async fn invalidation_that_ends_many_logins_means_no_newer_token() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.logouts_per_user = 1).await;
    let (one, other) = (start_login(&hub).await, start_login(&hub).await);
    let mut old = [one.connect(&hub).await, other.connect(&hub).await];
    let between = hub.clock.now().unix_seconds() + 5;
    hub.clock.advance(Duration::from_secs(10));
    let newer = start_login(&hub).await;
    let mut newer_socket = newer.connect(&hub).await;
    invalidate(&hub, json!({"user": "ann", "issued_before": between})).await;
    for socket in &mut old {
        assert_closed_as_revoked(socket).await;
    }
    for login in [&one, &other] {
        assert_ended(&hub, &login.refresh).await;
    }
    newer_socket.subscribe("news").await;
    assert_eq!(hub.try_handshake(&format!("/socket?token={}", newer.access), &[]).await.status, 101);
}

#[actix_rt::test]
async fn logins_whose_access_tokens_have_expired_need_no_revocation_of_their_own() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.logouts_per_user = 2).await;
    for _ in 0..3 {
        start_login(&hub).await;
    }
    let login = &hub.config.login;
    hub.clock.advance(login.token_ttl + login.refresh_grace + Duration::from_secs(61));
    let recent = start_login(&hub).await;
    let everywhere = logout(&hub, &recent.access).json(json!({"everywhere": true}));
    assert_eq!(everywhere.send().await.status, 204);
    assert_eq!(revocations(&hub).await, 2.0);
    // Nor do they count as logouts, of which the next would be one everywhere.
    hub.clock.advance(Duration::from_secs(2));
    let (one, other) = (start_login(&hub).await, start_login(&hub).await);
    assert_eq!(logout(&hub, &one.access).send().await.status, 204);
    other.connect(&hub).await.subscribe("news").await;
}

#[actix_rt::test]
async fn user_who_logs_out_everywhere_all_the_time_does_not_fill_the_list() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.logouts_per_user = 3).await;
    for _ in 0..10 {
        let tokens = start_login(&hub).await;
        let everywhere = logout(&hub, &tokens.access).json(json!({"everywhere": true}));
        assert_eq!(everywhere.send().await.status, 204);
        hub.clock.advance(Duration::from_secs(2));
    }
    // All of the user at all issuers, and three logins.
    assert_eq!(revocations(&hub).await, 4.0);
    start_login(&hub).await.connect(&hub).await;
}

#[actix_rt::test]
async fn login_above_the_limit_of_a_user_closes_the_sockets_of_the_one_that_it_ends() {
    let (hub, _users) = start_login_hub_with(|config| config.login.logins_per_user = 1).await;
    let first = start_login(&hub).await;
    let mut socket = first.connect(&hub).await;
    let second = start_login(&hub).await;
    let mut newer = second.connect(&hub).await;
    assert_closed_as_revoked(&mut socket).await;
    assert_eq!(hub.try_handshake(&format!("/socket?token={}", first.access), &[]).await.status, 401);
    newer.subscribe("news").await;
}

#[actix_rt::test]
async fn user_who_logs_in_all_the_time_fills_no_list_and_keeps_the_newest_login() {
    let (hub, _users) = start_login_hub_with(|config| {
        config.login.logins_per_user = 1;
        config.limits.logouts_per_user = 2;
    })
    .await;
    let mut tokens = start_login(&hub).await;
    let mut kept = Vec::new();
    for _ in 0..8 {
        let mut socket = tokens.connect(&hub).await;
        kept.push(std::mem::replace(&mut tokens, start_login(&hub).await).refresh);
        if revocations(&hub).await < 2.0 {
            assert_closed_as_revoked(&mut socket).await;
        }
    }
    assert_eq!(revocations(&hub).await, 2.0);
    // Nor with the refresh tokens of the logins that have ended.
    let mut statuses = Vec::new();
    for refresh in kept.iter().rev() {
        let body = json!({"refresh_token": refresh});
        statuses.push(http::post(hub.address, "/auth/logout").json(body).send().await.status);
    }
    assert_eq!(statuses, [204, 204, 429, 429, 429, 429, 429, 429]);
    assert_eq!(revocations(&hub).await, 4.0);
    tokens.connect(&hub).await.subscribe("news").await;
    // These revocations do not count as logouts of the user, which would then be logouts everywhere.
    let other = log_in(&hub, "ann", PASSWORD).await;
    assert_eq!(logout(&hub, &Tokens::of(&other).access).send().await.status, 204);
    start_login(&hub).await.connect(&hub).await.subscribe("news").await;
}

#[actix_rt::test]
async fn second_cookie_with_a_refresh_token_is_400_and_uses_no_token() {
    let (hub, _users) = start_login_hub_with(|config: &mut Config| config.login.cookie = true).await;
    let tokens = start_login(&hub).await;
    let own = format!("http://{}", hub.address);
    let twice = format!("wardcast_token_refresh={0}; wardcast_token_refresh={0}", tokens.refresh);
    let answer = http::post(hub.address, "/auth/refresh").header("Origin", &own).header("Cookie", &twice).send().await;
    assert!(answer.status == 400 && !answer.body.contains(&tokens.refresh), "{answer:?}");
    assert!(answer.header("set-cookie").is_none(), "{answer:?}");
    Tokens::of(&refresh(&hub, &tokens.refresh).await);
}

#[actix_rt::test]
async fn revoking_while_redis_is_away_is_an_error_and_in_force_on_its_node() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, give_up_redis_soon).await;
    let tokens = start_login(&hub).await;
    let mut socket = tokens.connect(&hub).await;
    redis.freeze();
    let of_no_login = hub.call_api("revoke_token", json!({"jti": "of no login"})).await;
    assert_eq!(of_no_login["error"]["code"], 100, "{of_no_login}");
    assert_eq!(socket.request(json!({"id": 9, "ping": {}})).await["id"], 9, "the session goes on");
    let revoked = hub.call_api("revoke_token", json!({"jti": tokens.claim("jti")})).await;
    assert_eq!(revoked["error"]["code"], 100, "{revoked}");
    assert_closed_as_revoked(&mut socket).await;
    let invalidated = hub.call_api("invalidate_user_tokens", json!({"user": "ann"})).await;
    assert_eq!(invalidated["error"]["code"], 100, "{invalidated}");
    let answer = logout(&hub, &tokens.access).send().await;
    assert!(answer.status == 503 && answer.header("retry-after").is_some(), "{answer:?}");
    redis.resume();
    poll_until("logging out works again", async || logout(&hub, &tokens.access).send().await.status == 204).await;
    assert_ended(&hub, &tokens.refresh).await;
}

/// A login under way, as Redis sees it: stored after the revocation.
async fn store_again(redis: &RedisServer, key: &str, record: &[String]) {
    redis.run::<i64>(&["HSET", key, &record[0], &record[1]]).await;
}

#[actix_rt::test]
async fn login_that_is_stored_after_an_invalidation_gets_no_further_tokens_and_ends() {
    let redis = RedisServer::start().await;
    let (one, two, _users) = start_two_login_hubs(&redis).await;
    let tokens = start_login(&one).await;
    let keys: Vec<String> = redis.run(&["KEYS", "*login*"]).await;
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    let record: Vec<String> = redis.run(&["HGETALL", key]).await;
    invalidate(&two, json!({"user": "ann"})).await;
    store_again(&redis, key, &record).await;
    // In a later second, so that the new access token would be younger than the revocation.
    [&one, &two].iter().for_each(|hub| hub.clock.advance(Duration::from_secs(2)));
    assert_ended(&one, &tokens.refresh).await;
    assert_eq!(
        redis.run::<i64>(&["HLEN", key]).await,
        0,
        "its next refresh would be accepted when the revocation has expired"
    );
    assert_eq!(one.metric("wardcast_login_refreshes_total{outcome=\"ended\"}").await, 1.0);
}

#[actix_rt::test]
async fn login_that_is_stored_while_an_invalidation_waits_for_a_node_ends_with_it() {
    let prefixed = PrefixedRedis::whole(RedisForm::one_server().await);
    let (hub, _users) = start_login_hub_with(|config| {
        config.broker.kind = wardcast::config::BrokerKind::Redis;
        prefixed.configure(&mut config.broker.redis);
    })
    .await;
    hub.wait_for_broker(true).await;
    let redis = &prefixed.form.masters()[0];
    let other = Node::start(&prefixed, &[]).await;
    hub.wait_for_nodes(2).await;
    start_login(&hub).await;
    let keys: Vec<String> = redis.run(&["KEYS", "*login*"]).await;
    let record: Vec<String> = redis.run(&["HGETALL", &keys[0]]).await;
    other.freeze();
    let invalidated = hub.call_api("invalidate_user_tokens", json!({"user": "ann"}));
    let stored = async {
        poll_until("the revocation is in force", async || revocations(&hub).await > 0.0).await;
        let under_way = [LoginId::random("ann").unwrap().split().1.to_owned(), record[1].clone()];
        store_again(redis, &keys[0], &under_way).await;
    };
    let (answer, ()) = join(invalidated, stored).await;
    assert_eq!(answer["error"]["code"], 100, "{answer}");
    assert_eq!(redis.run::<i64>(&["HLEN", &keys[0]]).await, 0);
}

#[actix_rt::test]
async fn login_in_the_second_in_which_the_tokens_of_its_user_were_revoked_waits_for_the_next_one() {
    let (hub, _users) = start_login_hub().await;
    for _ in 0..3 {
        invalidate(&hub, json!({"user": "ann"})).await;
        start_login(&hub).await.connect(&hub).await.subscribe("news").await;
    }
}

#[actix_rt::test]
async fn login_while_the_tokens_of_its_user_are_revoked_is_503_and_leaves_nothing_behind() {
    let (hub, _users) = start_login_hub().await;
    let soon = hub.clock.now().unix_seconds() + 5;
    invalidate(&hub, json!({"user": "ann", "issued_before": soon})).await;
    let refused = log_in(&hub, "ann", PASSWORD).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
    assert!(!refused.body.contains("_token\""), "{refused:?}");
    assert_eq!(hub.metric("wardcast_logins_total{outcome=\"unavailable\"}").await, 1.0);
    hub.clock.advance(Duration::from_secs(6));
    start_login(&hub).await.connect(&hub).await.subscribe("news").await;
}
