//! Sessions without a user: only where the configuration says so, and with what it grants to them by name.

use serde_json::json;
use wardcast::config::{AllowPublish, AllowSubscribe, Anonymous, Config};

use crate::support::{Client, hub_with};

fn open_to_anonymous(config: &mut Config) {
    config.channels.allow_subscribe = AllowSubscribe::Anonymous;
    config.channels.allow_publish = AllowPublish::User;
}

#[actix_rt::test]
async fn an_empty_user_is_refused_unless_anonymous_sessions_are_switched_on() {
    let hub = hub_with(open_to_anonymous).await;
    let token = hub.signed(json!({"sub": "", "exp": 60}));
    assert!(Client::connect(hub.address, &format!("/socket?token={token}")).await.is_err());
    let mut client = hub.stranger().await;
    client.say(json!({"id": 1, "connect": {}})).await;
    assert_eq!(client.ended().await.0, Some(3501));
}

#[actix_rt::test]
async fn a_token_with_an_empty_user_gets_what_is_granted_to_anonymous_and_no_more() {
    let hub = hub_with(|config| {
        open_to_anonymous(config);
        config.auth.anonymous = Anonymous::Token;
    })
    .await;
    let (mut client, greeting) = hub.client_of(json!({"sub": "", "exp": 60})).await;
    assert_eq!(greeting["expires"], true);
    client.subscribe("news").await;
    let reply = client.ask(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    assert_eq!(reply["error"]["code"], 103, "publishing is for users");
    assert_eq!(client.ask(json!({"id": 3, "subscribe": {"channel": "#"}})).await["error"]["code"], 103);
    let mut stranger = hub.stranger().await;
    stranger.say(json!({"id": 1, "connect": {}})).await;
    assert_eq!(stranger.ended().await.0, Some(3501), "without a token there still is no way in");
}

#[actix_rt::test]
async fn a_connect_without_a_token_is_a_session_that_does_not_end_by_itself() {
    let hub = hub_with(|config| {
        open_to_anonymous(config);
        config.auth.anonymous = Anonymous::Always;
    })
    .await;
    let mut client = hub.stranger().await;
    let reply = client.ask(json!({"id": 1, "connect": {}})).await;
    assert!(reply["connect"]["client"].is_string() && reply["connect"]["expires"].is_null(), "{reply}");
    hub.clock.advance(std::time::Duration::from_secs(365 * 86_400));
    assert_eq!(client.ask(json!({"id": 2, "subscribe": {"channel": "news"}})).await, json!({"id": 2, "subscribe": {}}));
    client.say(json!({"id": 3, "refresh": {"token": hub.token("ann")}})).await;
    assert_eq!(client.ended().await.0, Some(3500), "nobody becomes somebody else");
}
