//! The warning that a plain session gets before its token expires; and subscription tokens, which end, are refreshed and revoked
//! alike in plain sessions and in SDK sessions.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    revocation::revoke,
    support::{Client, TestHub, slow_broker::Worker, start_hub, start_hub_with},
};

/// Connects a plain client with a token that lives for so many seconds.
async fn connect_for(hub: &TestHub, seconds: u64) -> Client {
    let token = hub.token_for("ann", Duration::from_secs(seconds));
    hub.connect_to(&format!("/socket?token={token}"), &[]).await
}

/// Asserts that a warning comes next, with so many seconds at most to refresh.
async fn assert_warned(client: &mut Client, ttl: u64) {
    let push = client.receive().await;
    let refresh = &push["push"]["refresh"];
    let is_near = |told: u64| (ttl.saturating_sub(2)..=ttl).contains(&told);
    assert!(refresh["expires"] == true && refresh["ttl"].as_u64().is_some_and(is_near), "{push}");
}

/// Asserts that nothing was sent before the reply to a command, when the hub has looked at its deadlines.
async fn assert_silent(hub: &TestHub, client: &mut Client) {
    // A session whose token expires later than this one's is looked at in the same tick, and its end tells that this is over.
    let mut probe = connect_for(hub, 1).await;
    hub.clock.advance(Duration::from_millis(1100));
    assert_eq!(probe.wait_for_close().await.0, Some(3005));
    let ping = json!({"id": 9, "ping": {}});
    assert_eq!(client.request(ping.clone()).await, ping);
}

#[actix_rt::test]
async fn plain_session_is_warned_once_before_its_token_expires() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut client = connect_for(&hub, 120).await;
    hub.clock.advance(Duration::from_secs(85));
    assert_silent(&hub, &mut client).await;
    hub.clock.advance(Duration::from_secs(5));
    assert_warned(&mut client, 15).await;
    hub.clock.advance(Duration::from_secs(10));
    assert_silent(&hub, &mut client).await;
    hub.clock.advance(Duration::from_secs(30));
    assert_eq!(client.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn token_that_lives_shortly_is_warned_of_at_half_of_its_life() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut client = connect_for(&hub, 40).await;
    hub.clock.advance(Duration::from_secs(18));
    assert_silent(&hub, &mut client).await;
    hub.clock.advance(Duration::from_secs(2));
    assert_warned(&mut client, 10).await;
}

/// By the timing wheel, without a jump of the clock.
#[actix_rt::test]
async fn warning_comes_in_time_by_itself() {
    let hub = start_hub_with(|config| config.auth.refresh_margin = Duration::from_secs(3600)).await;
    let mut client = connect_for(&hub, 2).await;
    assert_warned(&mut client, 1).await;
    assert_eq!(client.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn refreshed_plain_session_is_warned_of_its_newest_token_only() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    for refresh in [
        |token: &str| format!("Authorization: Bearer {token}"),
        |token: &str| json!({"id": 2, "refresh": {"token": token}}).to_string(),
        |token: &str| json!({"id": 2, "token": token, "ping": {}}).to_string(),
    ] {
        let mut client = connect_for(&hub, 120).await;
        client.send_text(&refresh(&hub.token_for("ann", Duration::from_secs(600)))).await;
        client.receive().await;
        hub.clock.advance(Duration::from_secs(130));
        assert_silent(&hub, &mut client).await;
        hub.clock.advance(Duration::from_secs(440));
        assert_warned(&mut client, 15).await;
        // Again after the next one.
        client.send_text(&refresh(&hub.token_for("ann", Duration::from_secs(120)))).await;
        client.receive().await;
        hub.clock.advance(Duration::from_secs(91));
        assert_warned(&mut client, 15).await;
    }
}

#[actix_rt::test]
async fn api_refresh_moves_the_warning() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut client = connect_for(&hub, 120).await;
    let at = hub.clock.now().unix_seconds() + 600;
    hub.call_api("refresh", json!({"user": "ann", "expire_at": at})).await;
    assert_warned(&mut client, 570).await;
    hub.clock.advance(Duration::from_secs(130));
    assert_silent(&hub, &mut client).await;
    hub.clock.advance(Duration::from_secs(440));
    assert_warned(&mut client, 15).await;
}

#[actix_rt::test]
async fn sdk_sessions_and_tokens_that_never_expire_get_no_warning() {
    let hub = start_hub_with(|config| {
        config.server.workers = 1;
        config.auth.required_claims.clear();
    })
    .await;
    let token = || hub.token_for("ann", Duration::from_secs(120));
    let mut sdk = hub.connect_sdk(&token()).await;
    let mut native = Client::connect(hub.address, "/socket?cf_ws_frame_ping_pong=true").await.unwrap();
    native.request(json!({"id": 1, "connect": {"token": token()}})).await;
    let mut upgraded = connect_for(&hub, 120).await;
    upgraded.request(json!({"id": 1, "connect": {}})).await;
    let (mut forever, _) = hub.connect_with_claims(json!({"sub": "ann"})).await;
    hub.clock.advance(Duration::from_secs(100));
    for client in [&mut sdk, &mut native, &mut upgraded, &mut forever] {
        assert_silent(&hub, client).await;
    }
}

#[actix_rt::test]
async fn client_that_does_not_read_is_warned_and_expires_all_the_same() {
    let hub = start_hub().await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut stalled = crate::support::raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
    stalled.subscribe("news").await;
    while hub.metric("wardcast_sockets_full_total").await == 0.0 {
        hub.publish("news", json!("x".repeat(60_000))).await;
    }
    hub.clock.advance(Duration::from_secs(31));
    hub.clock.advance(Duration::from_secs(30));
    hub.wait_for_connections(0).await;
}

/// A plain client and one that speaks as SDKs do, each in a hub of its own.
async fn both_kinds() -> [(TestHub, Client); 2] {
    let (one, other) = (start_hub().await, start_hub().await);
    let plain = one.connect("ann").await;
    let sdk = other.connect_sdk(&other.token("ann")).await;
    [(one, plain), (other, sdk)]
}

fn subscription_token(hub: &TestHub, jti: &str, seconds: i64) -> String {
    hub.token_with_claims(json!({"sub": "ann", "channel": "$desk", "exp": seconds, "jti": jti}))
}

/// Asserts that the subscription ends with this code, and that nothing is delivered any more while the session goes on.
async fn assert_ended(hub: &TestHub, client: &mut Client, code: u16) {
    hub.publish("$desk", json!("late")).await;
    let push = client.receive().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("$desk"), &json!(code)), "{push}");
    hub.publish("$desk", json!("later")).await;
    let ping = json!({"id": 9, "ping": {}});
    assert_eq!(client.request(ping.clone()).await, ping);
}

#[actix_rt::test]
async fn subscription_token_expires_in_every_kind_of_session() {
    for (hub, mut client) in both_kinds().await {
        let reply = client.subscribe_with("$desk", json!({"token": subscription_token(&hub, "1", 60)})).await;
        assert!((28..=30).contains(&reply["subscribe"]["ttl"].as_u64().unwrap()), "{reply}");
        hub.clock.advance(Duration::from_secs(61));
        assert_ended(&hub, &mut client, 2501).await;
    }
}

#[actix_rt::test]
async fn subscription_token_is_refreshed_in_every_kind_of_session() {
    for (hub, mut client) in both_kinds().await {
        client.subscribe_with("$desk", json!({"token": subscription_token(&hub, "1", 60)})).await;
        let refresh = |token: String| json!({"id": 2, "sub_refresh": {"channel": "$desk", "token": token}});
        let reply = client.request(refresh(subscription_token(&hub, "2", 600))).await;
        assert!(reply["sub_refresh"]["ttl"].as_u64().unwrap() > 500, "{reply}");
        hub.clock.advance(Duration::from_secs(120));
        hub.publish("$desk", json!("after the first one")).await;
        assert_eq!(client.receive_publication().await, json!("after the first one"));
        // The older token shortens it again: the newest one that was presented counts.
        let reply = client.request(refresh(subscription_token(&hub, "3", 20))).await;
        assert!(reply["sub_refresh"]["ttl"].as_u64().unwrap() <= 10, "{reply}");
        hub.clock.advance(Duration::from_secs(21));
        assert_ended(&hub, &mut client, 2501).await;
    }
}

#[actix_rt::test]
async fn subscription_token_is_revoked_in_every_kind_of_session() {
    for (hub, mut client) in both_kinds().await {
        let token = subscription_token(&hub, "1", 600);
        client.subscribe_with("$desk", json!({"token": token})).await;
        revoke(&hub, json!({"jti": "1"})).await;
        assert_ended(&hub, &mut client, 2000).await;
        let again: Value = client.subscribe_with("$desk", json!({"token": token})).await;
        assert_eq!(again["error"]["code"], 103, "{again}");
    }
}

/// Asserts that a warning of the expiry of a subscription comes next, with so many seconds at most to refresh.
async fn assert_subscription_warned(client: &mut Client, channel: &str, ttl: u64) {
    let push = client.receive().await["push"].clone();
    let is_near = |told: u64| (ttl.saturating_sub(2)..=ttl).contains(&told);
    assert_eq!((&push["channel"], &push["sub_refresh"]["expires"]), (&json!(channel), &json!(true)), "{push}");
    assert!(push["sub_refresh"]["ttl"].as_u64().is_some_and(is_near), "{push}");
}

#[actix_rt::test]
async fn plain_session_is_warned_once_before_a_subscription_token_expires() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut client = hub.connect("ann").await;
    for (channel, seconds) in [("$desk", 120), ("$long", 240)] {
        let token = hub.token_with_claims(json!({"sub": "ann", "channel": channel, "exp": seconds}));
        client.subscribe_with(channel, json!({"token": token})).await;
    }
    client.subscribe("news").await;
    hub.clock.advance(Duration::from_secs(85));
    assert_silent(&hub, &mut client).await;
    hub.clock.advance(Duration::from_secs(5));
    assert_subscription_warned(&mut client, "$desk", 15).await;
    hub.clock.advance(Duration::from_secs(10));
    assert_silent(&hub, &mut client).await;
    hub.clock.advance(Duration::from_secs(20));
    let ended = client.receive().await["push"].clone();
    assert_eq!((&ended["channel"], &ended["unsubscribe"]["code"]), (&json!("$desk"), &json!(2501)), "{ended}");
    hub.clock.advance(Duration::from_secs(90));
    assert_subscription_warned(&mut client, "$long", 15).await;
}

#[actix_rt::test]
async fn refreshed_subscription_is_warned_of_its_newest_token_only() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut client = hub.connect("ann").await;
    client.subscribe_with("$desk", json!({"token": subscription_token(&hub, "1", 120)})).await;
    let refresh = |jti: &str, seconds: i64| {
        let token = subscription_token(&hub, jti, seconds);
        json!({"id": 2, "sub_refresh": {"channel": "$desk", "token": token}})
    };
    client.request(refresh("2", 600)).await;
    hub.clock.advance(Duration::from_secs(130));
    assert_silent(&hub, &mut client).await;
    hub.clock.advance(Duration::from_secs(440));
    assert_subscription_warned(&mut client, "$desk", 15).await;
    // Again after the next one.
    client.request(refresh("3", 120)).await;
    hub.clock.advance(Duration::from_secs(91));
    assert_subscription_warned(&mut client, "$desk", 15).await;
}

/// By the timing wheel, without a jump of the clock.
#[actix_rt::test]
async fn warning_of_a_subscription_comes_in_time_by_itself() {
    let hub = start_hub_with(|config| config.auth.refresh_margin = Duration::from_secs(3600)).await;
    let mut client = hub.connect("ann").await;
    client.subscribe_with("$desk", json!({"token": subscription_token(&hub, "1", 3)})).await;
    assert_subscription_warned(&mut client, "$desk", 1).await;
    assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2501);
}

#[actix_rt::test]
async fn subscription_that_has_ended_and_sdk_sessions_get_no_warning() {
    let hub = start_hub_with(|config| config.server.workers = 1).await;
    let mut sdk = hub.connect_sdk(&hub.token("ann")).await;
    let mut upgraded = hub.connect("ann").await;
    let mut ended = hub.connect("ann").await;
    for client in [&mut sdk, &mut upgraded, &mut ended] {
        client.subscribe_with("$desk", json!({"token": subscription_token(&hub, "1", 120)})).await;
    }
    upgraded.request(json!({"id": 1, "connect": {}})).await;
    ended.request(json!({"id": 3, "unsubscribe": {"channel": "$desk"}})).await;
    hub.clock.advance(Duration::from_secs(100));
    for client in [&mut sdk, &mut upgraded, &mut ended] {
        assert_silent(&hub, client).await;
    }
}

/// The hub has sent the warning while the session waits for the broker, and the client has sent its next token.
#[actix_rt::test]
async fn warning_that_crosses_a_refresh_is_not_sent() {
    let worker = Worker::start(|_| ());
    let (mut client, mut other) =
        (worker.connect(json!({"exp": 120})).await, worker.connect(json!({"exp": 120})).await);
    for client in [&mut client, &mut other] {
        assert!(client.receive().await["push"]["connect"].is_object());
    }
    let token = worker.token(json!({"exp": 600}));
    client
        .send(&[json!({"id": 1, "subscribe": {"channel": "news"}}), json!({"id": 2, "refresh": {"token": token}})])
        .await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.clock.advance(Duration::from_secs(91));
    assert!(other.receive().await["push"]["refresh"].is_object());
    worker.broker.answer(1);
    assert!(client.receive().await["subscribe"].is_object());
    assert!(client.receive().await["refresh"].is_object());
    let ping = json!({"id": 3, "ping": {}});
    client.send(std::slice::from_ref(&ping)).await;
    assert_eq!(client.receive().await, ping);
}
