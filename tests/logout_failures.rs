//! Logouts that fail, in whole or half way: they can be repeated, and the hub repeats them itself.

use std::time::Duration;

use crate::{
    audit::AuditedHub,
    login::{
        PASSWORD, give_up_redis_soon, start_login_hub_on, start_login_hub_over, start_login_hub_with, write_users_file,
    },
    logout::log_out_everywhere,
    refresh_tokens::{Tokens, assert_ended, set_cookies, start_login},
    revocation::{assert_closed_as_revoked, invalidate, logout, revoke},
    support::{
        TestHub, http,
        node::Node,
        poll_until,
        redis::{PrefixedRedis, RedisForm, RedisServer},
        start_hub_over,
    },
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

async fn fill_list(hub: &TestHub, entries: usize) {
    let soon = hub.clock.now().unix_seconds() + 60;
    for number in 0..entries {
        revoke(hub, json!({"jti": format!("fills the list {number}"), "expire_at": soon})).await;
    }
}

#[actix_rt::test]
async fn logout_everywhere_without_room_revokes_and_ends_nothing_and_can_be_repeated() {
    // One for the user, and one for each of the two logins.
    let (hub, _users) = start_login_hub_with(|config| config.limits.revocations = 3).await;
    let (one, other) = (start_login(&hub).await, start_login(&hub).await);
    let mut socket = other.connect(&hub).await;
    fill_list(&hub, 2).await;
    let failed = log_out_everywhere(&hub, &one.refresh).await;
    assert_eq!((failed.status, failed.header("retry-after")), (503, Some("5")), "{failed:?}");
    assert_eq!(hub.metric("wardcast_revocations").await, 2.0, "all or none");
    socket.subscribe("news").await;
    let other = Tokens::of(&crate::refresh_tokens::refresh(&hub, &other.refresh).await);
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(log_out_everywhere(&hub, &one.refresh).await.status, 204);
    assert_closed_as_revoked(&mut socket).await;
    for login in [&one, &other] {
        assert_ended(&hub, &login.refresh).await;
    }
}

/// The login ends although its tokens cannot be revoked: until they expire, it gets no further ones.
#[actix_rt::test]
async fn logout_without_room_ends_the_login_and_a_repetition_revokes_its_tokens() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.revocations = 1).await;
    for by_refresh_token in [true, false] {
        let login = start_login(&hub).await;
        let mut socket = login.connect(&hub).await;
        let send = || match by_refresh_token {
            true => http::post(hub.address, "/auth/logout").json(json!({"refresh_token": login.refresh})),
            false => logout(&hub, &login.access),
        };
        fill_list(&hub, 1).await;
        assert_eq!(send().send().await.status, 503);
        socket.subscribe("news").await;
        assert_ended(&hub, &login.refresh).await;
        hub.clock.advance(Duration::from_secs(61));
        assert_eq!(send().send().await.status, 204);
        assert_closed_as_revoked(&mut socket).await;
        hub.clock.advance(hub.config.auth.max_ttl);
    }
}

#[actix_rt::test]
async fn browser_keeps_the_cookies_of_a_logout_that_it_can_repeat() {
    let (hub, _users) = start_login_hub_with(|config| {
        config.login.cookie = true;
        config.limits.revocations = 1;
    })
    .await;
    let own = format!("http://{}", hub.address);
    let credentials = json!({"username": "ann", "password": PASSWORD, "cookie": true});
    let answer = http::post(hub.address, "/auth/login").header("Origin", &own).json(credentials).send().await;
    let cookies = set_cookies(&answer).into_iter().map(|(cookie, _)| cookie).collect::<Vec<_>>().join("; ");
    fill_list(&hub, 1).await;
    let logout = || http::post(hub.address, "/auth/logout").header("Cookie", &cookies).header("Origin", &own).send();
    let failed = logout().await;
    assert_eq!((failed.status, set_cookies(&failed)), (503, Vec::new()), "{failed:?}");
    hub.clock.advance(Duration::from_secs(61));
    let repeated = logout().await;
    assert_eq!(repeated.status, 204, "{repeated:?}");
    for (cookie, attributes) in set_cookies(&repeated) {
        assert!(cookie.ends_with('=') && attributes.ends_with("Max-Age=0"), "{cookie} {attributes}");
    }
    assert_eq!(set_cookies(&repeated).len(), 2);
}

#[actix_rt::test]
async fn logout_is_recorded_only_when_it_has_succeeded() {
    let users = write_users_file();
    let audited = AuditedHub::start(|config| {
        config.login.users_file = Some(users.path().to_owned());
        config.limits.revocations = 1;
    })
    .await;
    let hub = &audited.hub;
    let login = start_login(hub).await;
    fill_list(hub, 1).await;
    let send = || http::post(hub.address, "/auth/logout").json(json!({"refresh_token": login.refresh})).send();
    assert_eq!(send().await.status, 503);
    // Lines are written in their order, and the failed revocation has one.
    assert_eq!(audited.wait_for("revoked", 2).await["by"], "logout");
    assert!(!audited.text().contains("\"logged_out\""), "{}", audited.text());
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(send().await.status, 204);
    let line = audited.wait_for("logged_out", 1).await;
    assert_eq!((&line["user"], &line["sid"]), (&json!("ann"), &login.claim("sid")), "{line}");
}

async fn allow_ending_logins(redis: &RedisServer, is_allowed: bool) {
    redis.run::<()>(&["ACL", "SETUSER", "default", if is_allowed { "+hdel" } else { "-hdel" }]).await;
}

pub async fn login_key(redis: &RedisServer) -> String {
    let mut keys: Vec<String> = redis.run(&["KEYS", "*login*"]).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.remove(0)
}

pub async fn wait_until_logins_have_ended(redis: &RedisServer, key: &str) {
    poll_until("the logins have ended", async || redis.run::<i64>(&["HLEN", key]).await == 0).await;
}

#[actix_rt::test]
async fn logout_everywhere_that_stops_half_way_is_finished_by_the_hub() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, |_| ()).await;
    let (one, other) = (start_login(&hub).await, start_login(&hub).await);
    let (mut socket, key) = (other.connect(&hub).await, login_key(&redis).await);
    allow_ending_logins(&redis, false).await;
    assert_eq!(log_out_everywhere(&hub, &one.refresh).await.status, 503);
    assert_closed_as_revoked(&mut socket).await;
    assert_eq!(redis.run::<i64>(&["HLEN", &key]).await, 2);
    allow_ending_logins(&redis, true).await;
    wait_until_logins_have_ended(&redis, &key).await;
}

/// The access token is the only one that the client has, and was revoked by the first attempt.
#[actix_rt::test]
async fn logout_everywhere_that_stops_half_way_can_be_finished_by_the_revoked_token() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, |_| ()).await;
    let (one, _other) = (start_login(&hub).await, start_login(&hub).await);
    let key = login_key(&redis).await;
    allow_ending_logins(&redis, false).await;
    let everywhere = || logout(&hub, &one.access).json(json!({"everywhere": true})).send();
    assert_eq!([everywhere().await.status, everywhere().await.status], [503, 503]);
    allow_ending_logins(&redis, true).await;
    assert_eq!(everywhere().await.status, 204);
    assert_eq!(redis.run::<i64>(&["HLEN", &key]).await, 0);
}

#[actix_rt::test]
async fn revoked_token_still_ends_its_login() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, |_| ()).await;
    let (one, other) = (start_login(&hub).await, start_login(&hub).await);
    let key = login_key(&redis).await;
    allow_ending_logins(&redis, false).await;
    let invalidated = hub.call_api("invalidate_user_tokens", json!({"user": "ann"})).await;
    assert_eq!(invalidated["error"]["code"], 100, "{invalidated}");
    let socket = hub.try_handshake(&format!("/socket?token={}", one.access), &[]).await;
    assert_eq!(socket.status, 401, "the user's tokens are revoked, but no login has ended: {socket:?}");
    assert_eq!(logout(&hub, &one.access).send().await.status, 503);
    allow_ending_logins(&redis, true).await;
    for (login, left) in [(&one, 1), (&one, 1), (&other, 0)] {
        assert_eq!(logout(&hub, &login.access).send().await.status, 204);
        assert_eq!(redis.run::<i64>(&["HLEN", &key]).await, left);
    }
    invalidate(&hub, json!({"user": "ann"})).await;
}

#[actix_rt::test]
async fn logout_that_redis_has_not_answered_is_carried_out_when_redis_is_back() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, give_up_redis_soon).await;
    let login = start_login(&hub).await;
    let mut socket = login.connect(&hub).await;
    redis.freeze();
    assert_eq!(logout(&hub, &login.access).send().await.status, 503);
    redis.resume();
    assert_closed_as_revoked(&mut socket).await;
    assert_ended(&hub, &login.refresh).await;
}

/// Starts a hub with the user ann, and another node on the same Redis.
pub async fn start_login_hub_and_node() -> (PrefixedRedis, TestHub, tempfile::NamedTempFile, Node) {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let (hub, users) = start_login_hub_over(&redis, |_| ()).await;
    let other = Node::start(&redis, &[]).await;
    hub.wait_for_nodes(2).await;
    (redis, hub, users, other)
}

/// While the logout waits for a frozen node, its client goes away. The logins end behind that wait.
#[actix_rt::test]
async fn client_that_goes_away_does_not_stop_its_logout_half_way() {
    let (prefixed, hub, _users, other) = start_login_hub_and_node().await;
    let redis = &prefixed.form.masters()[0];
    let login = start_login(&hub).await;
    let key = login_key(redis).await;
    other.freeze();
    let mut client = TcpStream::connect(hub.address).await.unwrap();
    let body = json!({"refresh_token": login.refresh, "everywhere": true}).to_string();
    let head = format!("POST /auth/logout HTTP/1.1\r\nHost: {}\r\nContent-Length: {}", hub.address, body.len());
    client.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    poll_until("the revocation is in force", async || hub.metric("wardcast_revocations").await > 0.0).await;
    assert_eq!(redis.run::<i64>(&["HLEN", &key]).await, 1, "the logout has not ended");
    client.set_zero_linger().unwrap();
    drop(client);
    wait_until_logins_have_ended(redis, &key).await;
}

/// Above `limits.logouts_per_user`, a logout revokes all tokens of the user. That a node has not confirmed this is an error also when
/// the logout is repeated.
#[actix_rt::test]
async fn repeated_logout_above_the_limit_is_204_only_when_every_node_has_obeyed() {
    let prefixed = PrefixedRedis::whole(RedisForm::one_server().await);
    let hub = start_hub_over(&prefixed, |config| config.limits.logouts_per_user = 30).await;
    let other = Node::start(&prefixed, &[]).await;
    hub.wait_for_nodes(2).await;
    let token = |claims: Value| {
        let mut token = json!({"sub": "ann", "exp": 3600, "iat": 0});
        token.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        hub.token_with_claims(token)
    };
    let (named, nameless) = (token(json!({"jti": "named"})), token(json!({})));
    for number in 0..30 {
        assert_eq!(logout(&hub, &token(json!({"jti": number.to_string()}))).send().await.status, 204);
    }
    other.freeze();
    for token in [&named, &named, &nameless] {
        let answer = logout(&hub, token).send().await;
        assert!(answer.status == 503 && answer.body.contains("have not confirmed"), "{answer:?}");
    }
    assert_eq!(hub.metric("wardcast_revocations").await, 31.0, "of the first tokens, and of the user");
    other.resume();
    poll_until("the node obeys", async || logout(&hub, &named).send().await.status == 204).await;
}

/// A caller repeats what has failed half way. The user has logged in again meanwhile.
#[actix_rt::test]
async fn repeated_invalidation_counts_the_logins_once_and_ends_no_newer_one() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, |config| config.limits.logouts_per_user = 3).await;
    let (one, _other) = (start_login(&hub).await, start_login(&hub).await);
    let mut socket = one.connect(&hub).await;
    allow_ending_logins(&redis, false).await;
    let before = json!({"user": "ann", "issued_before": hub.clock.now().unix_seconds() + 1});
    hub.clock.advance(Duration::from_secs(2));
    let newer = start_login(&hub).await;
    let mut newer_socket = newer.connect(&hub).await;
    for _ in 0..4 {
        let failed = hub.call_api("invalidate_user_tokens", before.clone()).await;
        assert_eq!(failed["error"]["code"], 100, "{failed}");
    }
    assert_closed_as_revoked(&mut socket).await;
    newer_socket.subscribe("news").await;
    assert_eq!(hub.metric("wardcast_revocations").await, 3.0, "of the user, and of both logins");
    allow_ending_logins(&redis, true).await;
    invalidate(&hub, before).await;
    assert_ended(&hub, &one.refresh).await;
    Tokens::of(&crate::refresh_tokens::refresh(&hub, &newer.refresh).await);
}

/// While the revocation waits for a frozen node, the client of the spent refresh token goes away. The login is removed behind that wait.
#[actix_rt::test]
async fn client_that_goes_away_does_not_stop_the_revocation_of_its_spent_refresh_token() {
    let (prefixed, hub, _users, other) = start_login_hub_and_node().await;
    let redis = &prefixed.form.masters()[0];
    let stolen = start_login(&hub).await;
    let second = Tokens::of(&crate::refresh_tokens::refresh(&hub, &stolen.refresh).await);
    let mut socket = second.connect(&hub).await;
    hub.clock.advance(Duration::from_secs(31));
    let key = login_key(redis).await;
    other.freeze();
    let mut client = TcpStream::connect(hub.address).await.unwrap();
    let body = json!({"refresh_token": stolen.refresh}).to_string();
    let head = format!(
        "POST /auth/refresh HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}",
        hub.address,
        body.len()
    );
    client.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    poll_until("the revocation is in force", async || hub.metric("wardcast_revocations").await > 0.0).await;
    assert_eq!(redis.run::<i64>(&["HLEN", &key]).await, 1, "the refresh has not ended");
    client.set_zero_linger().unwrap();
    drop(client);
    wait_until_logins_have_ended(redis, &key).await;
    assert_closed_as_revoked(&mut socket).await;
}
