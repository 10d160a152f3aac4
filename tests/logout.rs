//! Logouts with a refresh token, and everywhere.

use std::time::Duration;

use serde_json::json;

use crate::{
    login::{start_login_hub, start_login_hub_with},
    refresh_tokens::{assert_ended, refresh, start_login},
    revocation::{assert_closed_as_revoked, invalidate, logout},
    support::{TestHub, http, poll_until, start_hub},
};

#[actix_rt::test]
async fn logout_everywhere_by_refresh_token_ends_the_other_logins_of_the_user_too() {
    let (hub, _users) = start_login_hub().await;
    let logins = [start_login(&hub).await, start_login(&hub).await];
    let mut sockets = [logins[0].connect(&hub).await, logins[1].connect(&hub).await];
    let body = json!({"refresh_token": logins[0].refresh, "everywhere": true});
    assert_eq!(http::post(hub.address, "/auth/logout").json(body).send().await.status, 204);
    for (login, socket) in logins.iter().zip(&mut sockets) {
        assert_closed_as_revoked(socket).await;
        assert_ended(&hub, &login.refresh).await;
    }
}

pub async fn log_out_everywhere(hub: &TestHub, refresh_token: &str) -> http::Response {
    let body = json!({"refresh_token": refresh_token, "everywhere": true});
    http::post(hub.address, "/auth/logout").json(body).send().await
}

#[actix_rt::test]
async fn refresh_token_of_an_ended_login_logs_its_user_out_everywhere() {
    let (hub, _users) = start_login_hub().await;
    let (logged_out, idle) = (start_login(&hub).await, start_login(&hub).await);
    assert_eq!(logout(&hub, &logged_out.access).send().await.status, 204);
    hub.clock.advance(hub.config.login.refresh_idle + Duration::from_secs(1));
    for ended in [logged_out, idle] {
        let other = start_login(&hub).await;
        let mut socket = other.connect(&hub).await;
        let answer = log_out_everywhere(&hub, &ended.refresh).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_closed_as_revoked(&mut socket).await;
        assert_ended(&hub, &other.refresh).await;
    }
}

#[actix_rt::test]
async fn access_token_that_was_revoked_logs_its_user_out_everywhere() {
    let hub = start_hub().await;
    let (revoked, other) = (hub.token("ann"), hub.token("ann"));
    assert_eq!(logout(&hub, &revoked).send().await.status, 204);
    let mut socket = hub.connect_to(&format!("/socket?token={other}"), &[]).await;
    assert_eq!(logout(&hub, &revoked).send().await.status, 204, "it is void, and ends nothing else");
    socket.subscribe("news").await;
    assert_eq!(logout(&hub, &revoked).json(json!({"everywhere": true})).send().await.status, 204);
    assert_closed_as_revoked(&mut socket).await;
}

#[actix_rt::test]
async fn logout_everywhere_by_tokens_that_name_no_user_is_401_and_ends_nothing() {
    let (hub, _users) = start_login_hub().await;
    let login = start_login(&hub).await;
    let mut socket = login.connect(&hub).await;
    let (content, _) = login.refresh.rsplit_once('.').unwrap();
    let bodies = [
        json!({"everywhere": true}),
        json!({"everywhere": true, "refresh_token": format!("{content}.{}", "A".repeat(43))}),
        json!({"everywhere": true, "refresh_token": login.access}),
    ];
    let own = format!("http://{}", hub.address);
    let without_token = bodies.map(|body| http::post(hub.address, "/auth/logout").header("Origin", &own).json(body));
    let everywhere = json!({"everywhere": true});
    let expired = logout(&hub, &hub.expired_token("ann")).json(everywhere.clone());
    let forged = logout(&hub, &hub.forged_token("ann")).json(everywhere);
    for request in without_token.into_iter().chain([expired, forged]) {
        let answer = request.send().await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!(101)), "{answer:?}");
        assert!(!answer.body.contains(&login.access) && !answer.body.contains(content), "{answer:?}");
    }
    socket.subscribe("news").await;
    assert_eq!(hub.metric("wardcast_revocations").await, 0.0);
}

#[actix_rt::test]
async fn logout_everywhere_of_a_user_who_does_not_exist_any_more_is_401() {
    let (hub, users) =
        start_login_hub_with(|config| config.login.users_file_interval = Duration::from_millis(30)).await;
    let login = start_login(&hub).await;
    let mut socket = login.connect(&hub).await;
    let without_ann = std::fs::read_to_string(&users).unwrap().replace("\"ann\"", "\"bob\"");
    std::fs::write(&users, without_ann).unwrap();
    assert_closed_as_revoked(&mut socket).await;
    // Its login ends after its tokens are revoked.
    poll_until("401", async || log_out_everywhere(&hub, &login.refresh).await.status == 401).await;
}

/// Otherwise a thief of an old refresh token could log its user out at every login.
#[actix_rt::test]
async fn void_tokens_log_their_user_out_everywhere_only_so_often() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.logouts_per_user = 2).await;
    let [ended, revoked] = [start_login(&hub).await, start_login(&hub).await];
    assert_eq!(logout(&hub, &ended.access).send().await.status, 204);
    assert_eq!(log_out_everywhere(&hub, &ended.refresh).await.status, 204);
    let by_access_token = || logout(&hub, &revoked.access).json(json!({"everywhere": true})).send();
    assert_eq!(by_access_token().await.status, 204);
    let login = start_login(&hub).await;
    let mut socket = login.connect(&hub).await;
    for refused in [log_out_everywhere(&hub, &ended.refresh).await, by_access_token().await] {
        assert!(refused.status == 429 && refused.header("retry-after").is_some(), "{refused:?}");
    }
    socket.subscribe("news").await;
    assert_eq!(log_out_everywhere(&hub, &login.refresh).await.status, 204, "its own login goes on");
    assert_closed_as_revoked(&mut socket).await;
}

/// A browser sends the access token and the refresh token of one login. Counted twice, the second logout of the user would be above the
/// limit, and log out everywhere.
#[actix_rt::test]
async fn logout_by_both_tokens_of_a_login_counts_once() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.logouts_per_user = 2).await;
    let other = start_login(&hub).await;
    let mut socket = other.connect(&hub).await;
    for _ in 0..2 {
        let login = start_login(&hub).await;
        let body = json!({"refresh_token": login.refresh});
        assert_eq!(logout(&hub, &login.access).json(body).send().await.status, 204);
        assert_ended(&hub, &login.refresh).await;
    }
    socket.subscribe("news").await;
    assert_eq!(hub.metric("wardcast_revocations").await, 2.0);
}

#[actix_rt::test]
async fn revoked_token_that_nothing_names_needs_no_logout() {
    let hub = start_hub().await;
    let nameless = hub.token_with_claims(json!({"sub": "ann", "exp": 3600}));
    invalidate(&hub, json!({"user": "ann"})).await;
    assert_eq!(logout(&hub, &nameless).send().await.status, 204);
}

/// Of two tokens, one that can be used is enough.
#[actix_rt::test]
async fn expired_access_token_does_not_keep_the_refresh_token_from_logging_out_everywhere() {
    let (hub, _users) = start_login_hub().await;
    let (one, other) = (start_login(&hub).await, start_login(&hub).await);
    let body = json!({"refresh_token": one.refresh, "everywhere": true});
    let answer = logout(&hub, &hub.expired_token("ann")).json(body).send().await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_ended(&hub, &other.refresh).await;
}

/// The login begins after the call, so that it is not ended, but before the time whose tokens are revoked.
#[actix_rt::test]
async fn refresh_gives_no_token_that_is_revoked() {
    let (hub, _users) = start_login_hub().await;
    let login = start_login(&hub).await;
    let until = json!({"user": "ann", "issued_before": hub.clock.now().unix_seconds() + 60});
    assert_eq!(hub.call_api("invalidate_user_tokens", until).await, json!({"result": {}}));
    assert_ended(&hub, &login.refresh).await;
}

/// One of the two may be of another login, if another page has set it.
#[actix_rt::test]
async fn logout_with_a_refresh_token_and_a_bearer_token_of_another_login_ends_both() {
    let (hub, _users) = start_login_hub().await;
    let logins = [start_login(&hub).await, start_login(&hub).await];
    let bearer = format!("Bearer {}", logins[0].access);
    let body = json!({"refresh_token": logins[1].refresh});
    let logout = http::post(hub.address, "/auth/logout").header("Authorization", &bearer).json(body);
    assert_eq!(logout.send().await.status, 204);
    for login in &logins {
        assert_eq!(refresh(&hub, &login.refresh).await.status, 401);
    }
}
