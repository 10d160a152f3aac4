//! Sessions without a user: accepted only if `auth.anonymous` allows them, and only with permissions that the channel
//! options give to anonymous sessions.

use serde_json::json;
use wardcast::config::{AllowSubscribe, AnonymousAccess, ChannelAccess, Config};

use crate::support::{Client, start_hub_with};

fn allow_anonymous_subscribe(config: &mut Config) {
    config.channels.allow_subscribe = AllowSubscribe::Anonymous;
    config.channels.allow_publish = ChannelAccess::User;
}

#[actix_rt::test]
async fn token_with_empty_user_is_refused_unless_anonymous_sessions_are_enabled() {
    let hub = start_hub_with(allow_anonymous_subscribe).await;
    for claims in [json!({"sub": "", "exp": 60}), json!({"exp": 60})] {
        let token = hub.token_with_claims(claims);
        assert!(Client::connect(hub.address, &format!("/socket?token={token}")).await.is_err());
    }
    let mut client = hub.connect_without_token().await;
    client.send(json!({"id": 1, "connect": {}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3501));
}

#[actix_rt::test]
async fn token_with_empty_user_gets_anonymous_permissions_only() {
    let hub = start_hub_with(|config| {
        allow_anonymous_subscribe(config);
        config.auth.anonymous = AnonymousAccess::Token;
    })
    .await;
    let (mut client, greeting) = hub.connect_with_claims(json!({"sub": "", "exp": 60})).await;
    assert_eq!(greeting["expires"], true);
    client.subscribe("news").await;
    let reply = client.request(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    assert_eq!(reply["error"]["code"], 103, "only users may publish");
    assert_eq!(client.request(json!({"id": 3, "subscribe": {"channel": "#"}})).await["error"]["code"], 103);
    let mut stranger = hub.connect_without_token().await;
    stranger.send(json!({"id": 1, "connect": {}})).await;
    assert_eq!(stranger.wait_for_close().await.0, Some(3501), "a connect without a token is still refused");
}

#[actix_rt::test]
async fn token_without_sub_opens_anonymous_session_where_anonymous_sessions_are_enabled() {
    for anonymous in [AnonymousAccess::Token, AnonymousAccess::Always] {
        let hub = start_hub_with(|config| {
            allow_anonymous_subscribe(config);
            config.auth.anonymous = anonymous;
        })
        .await;
        let (mut client, _) = hub.connect_with_claims(json!({"exp": 60})).await;
        client.subscribe("news").await;
        assert_eq!(client.request(json!({"id": 3, "subscribe": {"channel": "#"}})).await["error"]["code"], 103);
        let subscription = hub.token_with_claims(json!({"exp": 60, "channel": "$secret"}));
        let reply = client.subscribe_with("$secret", json!({"token": subscription})).await;
        assert!(reply["subscribe"].is_object(), "{reply}");
        let of_ann = hub.token_with_claims(json!({"exp": 60, "channel": "$other", "sub": "ann"}));
        client.send(json!({"id": 5, "subscribe": {"channel": "$other", "token": of_ann}})).await;
        assert_eq!(client.wait_for_close().await.0, Some(3500), "a subscription token of a user");
    }
}

#[actix_rt::test]
async fn connect_without_token_opens_session_that_never_expires() {
    let hub = start_hub_with(|config| {
        allow_anonymous_subscribe(config);
        config.auth.anonymous = AnonymousAccess::Always;
    })
    .await;
    let mut client = hub.connect_without_token().await;
    let reply = client.request(json!({"id": 1, "connect": {}})).await;
    assert!(reply["connect"]["client"].is_string() && reply["connect"]["expires"].is_null(), "{reply}");
    hub.clock.advance(std::time::Duration::from_secs(365 * 86_400));
    assert_eq!(
        client.request(json!({"id": 2, "subscribe": {"channel": "news"}})).await,
        json!({"id": 2, "subscribe": {}})
    );
    client.send(json!({"id": 3, "refresh": {"token": hub.token("ann")}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500), "an anonymous session cannot become a user's");
}
