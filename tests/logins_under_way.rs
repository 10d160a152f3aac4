//! Logins that take their time, because a password is hashed or the process was frozen, while the tokens of their user are revoked or
//! the password is changed.

use std::{path::Path, sync::LazyLock, time::Duration};

use argon2::{Argon2, Params, PasswordHasher};
use serde_json::{Value, json};
use wardcast::clock::Clock;

use crate::{
    audit::AuditedHub,
    login::{PASSWORD, access_token, assert_cookie, assert_lifetime, log_in, start_login_hub_with},
    refresh_tokens::{Tokens, assert_ended, set_cookies},
    support::{
        TestHub, http, mark_secret,
        node::start_nodes,
        poll_until,
        redis::{PrefixedRedis, RedisForm},
        start_hub_with,
    },
};

/// Rounds of a hash that takes a second or more.
const SLOW_ROUNDS: u32 = 60;

/// A hash of [`PASSWORD`] that takes a second or more to check, and as long to make: once for all tests.
static SLOW_HASH: LazyLock<String> = LazyLock::new(|| {
    let slow = Argon2::from(Params::new(Params::DEFAULT_M_COST, SLOW_ROUNDS, 1, None).unwrap());
    mark_secret(slow.hash_password(mark_secret(PASSWORD).as_bytes()).unwrap().to_string())
});

/// Writes a login file with the user ann, whose password takes a second or more to check.
fn write_slow_user(file: &Path) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("[[users]]\nname = \"ann\"\npassword = \"{}\"\n", *SLOW_HASH)).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn wait_for_hash(hub: &TestHub) {
    poll_until("the password is being checked", async || {
        hub.metric(r#"wardcast_queue_entries{queue="password_hashes"}"#).await > 0.0
    })
    .await;
}

/// Waits for the next second of the clock, and returns it.
async fn next_second(clock: &Clock) -> i64 {
    let next = clock.now().unix_seconds() + 1;
    poll_until("the next second", async || clock.now().unix_seconds() >= next).await;
    next
}

async fn status(hub: &TestHub, access_token: &str) -> u16 {
    hub.try_handshake(&format!("/socket?token={access_token}"), &[]).await.status
}

#[actix_rt::test]
async fn token_of_a_slow_login_is_no_newer_than_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_slow_user(&file);
    let hub = start_hub_with(|config| config.login.users_file = Some(file)).await;
    let revoke_during_the_check = async {
        wait_for_hash(&hub).await;
        next_second(&hub.clock).await
    };
    let (answer, issued_before) = tokio::join!(log_in(&hub, "ann", PASSWORD), revoke_during_the_check);
    let tokens = Tokens::of(&answer);
    assert_eq!(status(&hub, &tokens.access).await, 101);
    // As on an instance that has the revocation, when this one was frozen meanwhile.
    let invalidate = json!({"user": "ann", "issued_before": issued_before});
    assert_eq!(hub.call_api("invalidate_user_tokens", invalidate).await, json!({"result": {}}));
    assert_eq!(status(&hub, &tokens.access).await, 401);
    assert_ended(&hub, &tokens.refresh).await;
}

#[actix_rt::test]
async fn login_that_was_under_way_on_a_frozen_node_gets_no_token_that_survives_an_invalidation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_slow_user(&file);
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let nodes = start_nodes::<2>(&redis, &[&format!("login.users_file={}", file.display())]).await;
    let revoke_while_it_is_frozen = async {
        wait_for_hash(&nodes[1]).await;
        nodes[1].freeze();
        let revoked = nodes[0].call_api("invalidate_user_tokens", json!({"user": "ann"})).await;
        assert_eq!(revoked["error"]["code"], 100, "the frozen node has not confirmed: {revoked}");
        // What is issued from now on is newer than the revocation.
        next_second(&nodes[0].clock).await;
        nodes[1].resume();
    };
    let (answer, ()) = tokio::join!(log_in(&nodes[1], "ann", PASSWORD), revoke_while_it_is_frozen);
    // The node may have learnt of the revocation before it answered.
    match answer.status {
        200 => assert_eq!(status(&nodes[0], &access_token(&answer)).await, 401, "{answer:?}"),
        status => assert_eq!(status, 503, "{answer:?}"),
    }
    let again = log_in(&nodes[1], "ann", PASSWORD).await;
    assert_eq!(status(&nodes[0], &access_token(&again)).await, 101, "a login after the revocation");
}

#[actix_rt::test]
async fn login_with_a_password_that_is_changed_during_its_check_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_slow_user(&file);
    let audited = AuditedHub::start(|config| {
        config.login.users_file = Some(file.clone());
        config.login.users_file_interval = Duration::ZERO;
    })
    .await;
    let hub = &audited.hub;
    let new = wardcast::auth::users::hash_password(mark_secret("another horse")).unwrap();
    let change_password = async {
        wait_for_hash(hub).await;
        std::fs::write(&file, format!("[[users]]\nname = \"ann\"\npassword = \"{}\"\n", mark_secret(new))).unwrap();
        hub.running().reload_users().unwrap();
    };
    let (answer, ()) = tokio::join!(log_in(hub, "ann", PASSWORD), change_password);
    let error: Value = answer.json();
    assert_eq!((answer.status, &error["error"]["message"]), (401, &json!("wrong user or password")), "{answer:?}");
    let line = audited.wait_for("login_failed", 1).await;
    assert!(line["user"] == "ann" && line["reason"].as_str().unwrap().starts_with("right password, but"), "{line}");
    assert_eq!(hub.metric(r#"wardcast_logins_total{outcome="failed"}"#).await, 1.0);
    assert_eq!(log_in(hub, "ann", "another horse").await.status, 200);
}

#[actix_rt::test]
async fn response_tells_how_long_the_tokens_last_from_then_on_and_not_from_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_slow_user(&file);
    let hub = start_hub_with(|config| {
        (config.login.users_file, config.login.cookie) = (Some(file), true);
        config.login.refresh_ttl = Duration::from_secs(3600);
    })
    .await;
    let own = format!("http://{}", hub.address);
    let credentials = |cookie: bool| json!({"username": "ann", "password": PASSWORD, "cookie": cookie});
    for cookie in [false, true] {
        let login = http::post(hub.address, "/auth/login").header("Origin", &own).json(credentials(cookie)).send();
        let spend_time = async {
            wait_for_hash(&hub).await;
            hub.clock.advance(Duration::from_secs(100));
        };
        let (answer, ()) = tokio::join!(login, spend_time);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_lifetime(answer.json()["expires_in"].as_u64().unwrap(), 800);
        if cookie {
            let cookies = set_cookies(&answer);
            assert_cookie(&cookies[0].1, "HttpOnly; Secure; SameSite=Strict; Path=/", 800);
            assert_cookie(&cookies[1].1, "HttpOnly; Secure; SameSite=Strict; Path=/auth", 3500);
        } else {
            Tokens::of(&answer);
        }
    }
}

/// As after a revocation by an instance whose clock is ahead.
#[actix_rt::test]
async fn login_waits_up_to_two_seconds_until_its_tokens_are_none_of_the_revoked_ones() {
    let (hub, _users) = start_login_hub_with(|_| ()).await;
    let invalidate = async |seconds_ahead: i64| {
        let issued_before = hub.clock.now().unix_seconds() + seconds_ahead;
        let request = json!({"user": "ann", "issued_before": issued_before});
        assert_eq!(hub.call_api("invalidate_user_tokens", request).await, json!({"result": {}}));
        issued_before
    };
    // The login has to wait for almost two seconds then.
    next_second(&hub.clock).await;
    let issued_before = invalidate(2).await;
    let answer = log_in(&hub, "ann", PASSWORD).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(hub.clock.now().unix_seconds() >= issued_before);
    assert_eq!(status(&hub, &Tokens::of(&answer).access).await, 101);
    let issued_before = invalidate(600).await;
    assert_eq!(log_in(&hub, "ann", PASSWORD).await.status, 503);
    assert!(hub.clock.now().unix_seconds() < issued_before - 500);
}
