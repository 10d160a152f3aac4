//! User and password for a token.

use serde_json::json;

use crate::support::{Client, Hub, http, hub, hub_with};

/// A hub with the user ann, whose password is "right horse".
async fn login_hub() -> (Hub, tempfile::NamedTempFile) {
    let users = tempfile::NamedTempFile::new().unwrap();
    let hash = wardcast::auth::login::hash("right horse").unwrap();
    let text = format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\ninfo = {{ name = \"Ann\" }}\n");
    std::fs::write(&users, text).unwrap();
    let path = users.path().to_owned();
    (hub_with(move |config| config.login.users_file = Some(path)).await, users)
}

async fn log_in(hub: &Hub, username: &str, password: &str) -> http::Response {
    http::post(hub.address, "/auth/login").json(json!({"username": username, "password": password})).send().await
}

#[actix_rt::test]
async fn the_right_password_gives_a_token_that_opens_a_connection() {
    let (hub, _users) = login_hub().await;
    let response = log_in(&hub, "ann", "right horse").await;
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")));
    let answer = response.json();
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(900)));
    let token = answer["access_token"].as_str().unwrap();
    let mut ann = Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap();
    ann.subscribe_after_hello("news").await;
    ann.say(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    let both = [ann.hear().await, ann.hear().await];
    let info = both.iter().find_map(|message| message["push"]["pub"].get("info")).unwrap();
    assert_eq!((&info["user"], &info["conn_info"]), (&json!("ann"), &json!({"name": "Ann"})));
}

#[actix_rt::test]
async fn a_login_with_a_key_of_its_own_gives_tokens_that_are_accepted() {
    let (_, users) = login_hub().await;
    let path = users.path().to_owned();
    let hub = hub_with(move |config| {
        config.login.users_file = Some(path);
        config.login.key = wardcast::config::Secret::new("another key than the one of the backend");
    })
    .await;
    let answer = log_in(&hub, "ann", "right horse").await.json();
    let path = format!("/socket?token={}", answer["access_token"].as_str().unwrap());
    Client::connect(hub.address, &path).await.unwrap().subscribe_after_hello("news").await;
    hub.client("the backend's token is good, too").await;
}

#[actix_rt::test]
async fn an_unknown_user_and_a_wrong_password_look_alike() {
    let (hub, _users) = login_hub().await;
    let (wrong, unknown) = (log_in(&hub, "ann", "wrong").await, log_in(&hub, "bob", "right horse").await);
    assert_eq!((wrong.status, &wrong.body), (401, &unknown.body));
    assert_eq!(unknown.status, 401);
    assert_eq!(log_in(&hub, "ann", &"x".repeat(2000)).await.status, 401);
}

#[actix_rt::test]
async fn bad_bodies_are_refused_before_anything_is_hashed() {
    let (hub, _users) = login_hub().await;
    let post = || http::post(hub.address, "/auth/login");
    assert_eq!(post().json(json!({"username": "ann"})).send().await.status, 400);
    assert_eq!(post().header("Content-Type", "text/plain").body("{}").send().await.status, 415);
    assert_eq!(post().json(json!({"username": "ann", "password": "x".repeat(1 << 20)})).send().await.status, 413);
    assert_eq!(http::get(hub.address, "/auth/login").send().await.status, 405);
}

#[actix_rt::test]
async fn without_a_login_file_there_is_no_login() {
    assert_eq!(log_in(&hub().await, "ann", "right horse").await.status, 404);
}
