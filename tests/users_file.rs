//! The users file of the login while the hub runs.

use std::{path::Path, time::Duration};

use serde_json::json;
use wardcast::{
    config::{BrokerKind, Config, Secret},
    revocation::user_tag,
};

use crate::{
    login::{PASSWORD, access_token, log_in},
    revocation::{assert_closed_as_revoked, revoke},
    support::{
        Client, TestHub, http, identity_provider::ProviderKey, mark_secret, poll_until, redis::RedisServer,
        start_hub_with,
    },
};

const NEW_PASSWORD: &str = "another horse";

/// Starts a hub with a users file that is checked often.
async fn start_hub_of(file: &Path) -> TestHub {
    start_changed_hub_of(file, |_| ()).await
}

async fn start_changed_hub_of(file: &Path, change: impl FnOnce(&mut Config)) -> TestHub {
    let file = file.to_owned();
    start_hub_with(|config| {
        config.login.users_file = Some(file);
        config.login.users_file_interval = Duration::from_millis(30);
        change(config);
    })
    .await
}

fn write_users(file: &Path, users: &[(&str, &str)]) {
    let entry = |(name, password): &(&str, &str)| {
        let hash = mark_secret(wardcast::auth::users::hash_password(mark_secret(*password)).unwrap());
        format!("[[users]]\nname = \"{name}\"\npassword = \"{hash}\"\n")
    };
    let text: String = users.iter().map(entry).collect();
    // As an editor or a mounted secret does it: never half a file.
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn connect(hub: &TestHub, user: &str) -> (Client, String) {
    let answer = log_in(hub, user, PASSWORD).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let refresh = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    (hub.connect_to(&format!("/socket?token={}", access_token(&answer)), &[]).await, refresh)
}

async fn refresh_status(hub: &TestHub, token: &str) -> u16 {
    let answer = http::post(hub.address, "/auth/refresh").json(json!({"refresh_token": token})).send().await;
    if answer.status == 200 {
        mark_secret(access_token(&answer));
        mark_secret(answer.json()["refresh_token"].as_str().unwrap());
    }
    answer.status
}

#[actix_rt::test]
async fn removed_user_and_changed_password_end_the_logins_of_these_users_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_users(&file, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    let ann_and_bob = std::fs::read_to_string(&file).unwrap();
    let hub = start_hub_of(&file).await;
    let ((mut ann, ann_token), (mut bob, bob_token)) = (connect(&hub, "ann").await, connect(&hub, "bob").await);
    let carol = ann_and_bob.rsplit("[[users]]").next().unwrap().replace("bob", "carol");
    std::fs::write(&file, format!("{ann_and_bob}[[users]]{carol}")).unwrap();
    poll_until("carol is read", async || log_in(&hub, "carol", PASSWORD).await.status == 200).await;
    ann.subscribe("news").await;
    bob.subscribe("news").await;
    // Ann has a new password, bob is gone.
    write_users(&file, &[("ann", NEW_PASSWORD)]);
    assert_closed_as_revoked(&mut ann).await;
    assert_closed_as_revoked(&mut bob).await;
    assert_eq!((refresh_status(&hub, &ann_token).await, refresh_status(&hub, &bob_token).await), (401, 401));
    assert_eq!(log_in(&hub, "bob", PASSWORD).await.status, 401);
    let again = log_in(&hub, "ann", NEW_PASSWORD).await;
    assert_eq!(again.status, 200, "{again:?}");
    hub.connect_to(&format!("/socket?token={}", access_token(&again)), &[]).await.subscribe("news").await;
}

#[actix_rt::test]
async fn bad_users_file_keeps_the_old_users_and_their_logins() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_users(&file, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    let hub = start_hub_of(&file).await;
    let (mut ann, token) = connect(&hub, "ann").await;
    std::fs::write(&file, "[[users]]\nname = \"ann\"\npassword = \"in the clear\"\n").unwrap();
    assert!(hub.running().reload_users().is_err());
    assert_eq!(log_in(&hub, "bob", PASSWORD).await.status, 200);
    assert_eq!(refresh_status(&hub, &token).await, 200);
    ann.subscribe("news").await;
    write_users(&file, &[("bob", PASSWORD)]);
    assert_closed_as_revoked(&mut ann).await;
}

/// The server has read the file before it listens.
#[actix_rt::test]
async fn users_removed_between_the_start_and_the_first_look_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_users(&file, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    let hub = start_changed_hub_of(&file, |config| config.login.users_file_interval = Duration::from_millis(500)).await;
    write_users(&file, &[("ann", PASSWORD)]);
    poll_until("bob is gone", async || log_in(&hub, "bob", PASSWORD).await.status != 200).await;
}

#[actix_rt::test]
async fn users_of_tokens_with_a_prefix_refresh_until_they_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_users(&file, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    let hub = start_changed_hub_of(&file, |config| config.auth.user_prefix = Some("own:".to_owned())).await;
    let (mut ann, token) = connect(&hub, "ann").await;
    assert_eq!(refresh_status(&hub, &token).await, 200);
    write_users(&file, &[("bob", PASSWORD)]);
    assert_closed_as_revoked(&mut ann).await;
}

#[actix_rt::test]
async fn logins_of_a_removed_user_that_cannot_be_revoked_at_first_are_revoked_later() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_users(&file, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    let hub = start_changed_hub_of(&file, |config| config.limits.revocations = 1).await;
    let (mut ann, token) = connect(&hub, "ann").await;
    revoke(&hub, json!({"jti": "fills the list", "expire_at": hub.clock.now().unix_seconds() + 60})).await;
    write_users(&file, &[("bob", PASSWORD)]);
    poll_until("the login has ended", async || refresh_status(&hub, &token).await == 401).await;
    ann.subscribe("news").await;
    hub.clock.advance(Duration::from_secs(61));
    assert_closed_as_revoked(&mut ann).await;
}

#[actix_rt::test]
async fn removed_user_has_no_socket_of_a_login_that_a_newer_one_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_users(&file, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    // Of the logins that newer ones end, only the first is revoked then.
    let hub = start_changed_hub_of(&file, |config| {
        config.login.logins_per_user = 1;
        config.limits.logouts_per_user = 1;
    })
    .await;
    let (mut first, _) = connect(&hub, "ann").await;
    let (mut second, second_token) = connect(&hub, "ann").await;
    let (mut third, _) = connect(&hub, "ann").await;
    assert_closed_as_revoked(&mut first).await;
    assert_eq!(refresh_status(&hub, &second_token).await, 401);
    second.subscribe("news").await;
    write_users(&file, &[("bob", PASSWORD)]);
    assert_closed_as_revoked(&mut second).await;
    assert_closed_as_revoked(&mut third).await;
}

#[actix_rt::test]
async fn removed_user_loses_the_sockets_while_redis_is_away_and_the_logins_when_it_is_back() {
    let (redis, folder) = (RedisServer::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("users.toml");
    write_users(&file, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    let url = redis.url();
    let hub = start_changed_hub_of(&file, |config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(url);
        config.broker.redis.timeout = Duration::from_millis(300);
    })
    .await;
    hub.wait_for_broker(true).await;
    let (mut ann, _) = connect(&hub, "ann").await;
    redis.freeze();
    write_users(&file, &[("bob", PASSWORD)]);
    // Refused with the new file; until then Redis is missing.
    poll_until("ann is gone", async || log_in(&hub, "ann", PASSWORD).await.status == 401).await;
    assert_closed_as_revoked(&mut ann).await;
    redis.resume();
    let logins = async || redis.run::<Vec<String>>(&["KEYS", "*logins*"]).await;
    poll_until("the login has ended", async || logins().await.is_empty()).await;
}

#[actix_rt::test]
async fn user_whose_logins_cannot_be_ended_holds_up_no_other() {
    let (redis, folder) = (RedisServer::start().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("users.toml");
    let users = [("aaa", PASSWORD), ("ann", PASSWORD), ("bob", PASSWORD), ("zoe", PASSWORD)];
    write_users(&file, &users);
    let url = redis.url();
    let hub = start_changed_hub_of(&file, |config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(url);
    })
    .await;
    hub.wait_for_broker(true).await;
    let (mut ann, _) = connect(&hub, "ann").await;
    let (mut bob, bob_token) = connect(&hub, "bob").await;
    let key = |user: &str| format!("wardcast:logins:{}", user_tag(user));
    for user in ["aaa", "zoe"] {
        // As another program may leave it: every call fails.
        redis.run::<()>(&["SET", &key(user), "no hash"]).await;
    }
    // Bob has a new password, so that which logins of bob end is known only to Redis.
    write_users(&file, &[("bob", NEW_PASSWORD)]);
    assert_closed_as_revoked(&mut ann).await;
    assert_closed_as_revoked(&mut bob).await;
    assert_eq!(refresh_status(&hub, &bob_token).await, 401);
    let is_gone = async || redis.run::<i64>(&["EXISTS", &key("ann"), &key("bob")]).await == 0;
    poll_until("the logins have ended", is_gone).await;
}

/// The instance that reads the file last must not end what another has started with the new password.
#[actix_rt::test]
async fn instance_with_an_old_users_file_refuses_a_refresh_and_does_not_end_the_login() {
    let (redis, folder) = (RedisServer::start().await, tempfile::tempdir().unwrap());
    let (new, old) = (folder.path().join("new.toml"), folder.path().join("old.toml"));
    write_users(&new, &[("ann", NEW_PASSWORD)]);
    write_users(&old, &[("ann", PASSWORD)]);
    let start = |file: &Path| {
        let (file, url) = (file.to_owned(), redis.url());
        start_hub_with(|config| {
            config.broker.kind = BrokerKind::Redis;
            config.broker.redis.url = Secret::new(url);
            config.login.users_file = Some(file);
        })
    };
    let (up_to_date, outdated) = (start(&new).await, start(&old).await);
    up_to_date.wait_for_broker(true).await;
    outdated.wait_for_broker(true).await;
    let answer = log_in(&up_to_date, "ann", NEW_PASSWORD).await;
    let token = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(refresh_status(&outdated, &token).await, 401);
    assert_eq!(refresh_status(&up_to_date, &token).await, 200);
}

/// Such a reload was once accepted, and every later one of the users file failed.
#[actix_rt::test]
async fn reload_of_the_configuration_that_no_user_of_the_file_would_survive_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.toml");
    write_users(&file, &[("team:ann", PASSWORD)]);
    let hub = start_hub_of(&file).await;
    let key = ProviderKey::ec("team");
    let reload = |prefix: &str| {
        let mut config = hub.config.clone();
        // Valid by itself: the users of the file would be "own:team:ann" and the like. But that changes with a restart only.
        config.auth.user_prefix = Some("own:".to_owned());
        let entry = format!("jwk = '{}'\nissuer = \"team\"\nuser_prefix = {prefix:?}", key.jwk);
        config.auth.keys = vec![toml::from_str(&entry).unwrap()];
        hub.running().reload_config(&config)
    };
    let of_team = key.sign(hub.clock.now(), json!({"iss": "team", "sub": "bob"}));
    let path = format!("/socket?token={of_team}");
    let errors = reload("team:").unwrap_err();
    assert_eq!(errors.0.iter().map(|error| &*error.key).collect::<Vec<_>>(), ["login.users_file"], "{errors}");
    let text = errors.to_string();
    assert!(text.contains("auth.keys") && text.contains("\"team:ann\""), "{text}");
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401);
    hub.running().reload_users().unwrap();
    let (mut ann, _) = connect(&hub, "team:ann").await;
    reload("other:").unwrap();
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 101);
    hub.running().reload_users().unwrap();
    ann.subscribe("news").await;
}

/// As when the file is part of an image, or is changed between a stop and a start.
#[actix_rt::test]
async fn token_of_a_user_who_was_removed_while_no_hub_looked_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.toml"), folder.path().join("new.toml"));
    write_users(&old, &[("ann", PASSWORD), ("bob", PASSWORD)]);
    write_users(&new, &[("bob", PASSWORD)]);
    let key = ProviderKey::ec("team");
    for prefix in [None, Some("own:")] {
        let change = |config: &mut Config| {
            config.auth.user_prefix = prefix.map(str::to_owned);
            let entry = format!("jwk = '{}'\nissuer = \"team\"\nuser_prefix = \"team:\"", key.jwk);
            config.auth.keys = vec![toml::from_str(&entry).unwrap()];
        };
        let before = start_changed_hub_of(&old, change).await;
        let [ann, bob] = [log_in(&before, "ann", PASSWORD).await, log_in(&before, "bob", PASSWORD).await];
        before.stop().await;
        let after = start_changed_hub_of(&new, change).await;
        let status = async |token: &str| after.try_handshake(&format!("/socket?token={token}"), &[]).await.status;
        let ticket_status = async |token: &str| crate::tickets::ticket_request(&after, token).send().await.status;
        let [ann, bob] = [access_token(&ann), access_token(&bob)];
        // The instance of the login may have read a newer file.
        assert_eq!((status(&ann).await, ticket_status(&ann).await), (503, 503), "{prefix:?}");
        after.clock.advance(Duration::from_secs(61));
        assert_eq!((status(&ann).await, ticket_status(&ann).await, status(&bob).await), (401, 401, 101), "{prefix:?}");
        let refreshed = json!({"id": 1, "refresh": {"token": ann}});
        let (code, _) = {
            let mut client = after.connect_to(&format!("/socket?token={bob}"), &[]).await;
            client.send(refreshed).await;
            client.wait_for_close().await
        };
        assert_eq!(code, Some(3500));
        // Logging out is possible all the same, and tokens that are not of the login need no user of the file.
        assert_eq!(crate::revocation::logout(&after, &ann).send().await.status, 204);
        assert_eq!(status(&after.token("ann")).await, 101);
        let of_team = key.sign(after.clock.now(), json!({"iss": "team", "sub": "ann", "sid": "s"}));
        assert_eq!(status(&of_team).await, 101);
    }
}
