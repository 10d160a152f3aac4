//! Logouts with a refresh token: everywhere, and when they fail.

use serde_json::json;

use crate::{
    login::{PASSWORD, start_login_hub, start_login_hub_with},
    refresh_tokens::{assert_ended, refresh, set_cookies, start_login},
    revocation::{assert_closed_as_revoked, revoke},
    support::http,
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

#[actix_rt::test]
async fn browser_forgets_the_tokens_of_a_logout_that_fails() {
    let (hub, _users) = start_login_hub_with(|config| {
        config.login.cookie = true;
        config.limits.revocations = 1;
    })
    .await;
    let own = format!("http://{}", hub.address);
    let credentials = json!({"username": "ann", "password": PASSWORD, "cookie": true});
    let answer = http::post(hub.address, "/auth/login").header("Origin", &own).json(credentials).send().await;
    let cookies = set_cookies(&answer).into_iter().map(|(cookie, _)| cookie).collect::<Vec<_>>().join("; ");
    revoke(&hub, json!({"jti": "fills the list"})).await;
    let failed = http::post(hub.address, "/auth/logout").header("Cookie", &cookies).header("Origin", &own).send().await;
    assert_eq!(failed.status, 503, "{failed:?}");
    for (cookie, attributes) in set_cookies(&failed) {
        assert!(cookie.ends_with('=') && attributes.ends_with("Max-Age=0"), "{cookie} {attributes}");
    }
    assert_eq!(set_cookies(&failed).len(), 2);
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
