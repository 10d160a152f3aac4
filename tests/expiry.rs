//! Expiry of tokens: on every frame, on every delivery, and without any traffic. The tests move the hub's clock and do not
//! wait.

use std::time::Duration;

use serde_json::json;
use wardcast::clock::WallTime;

use crate::support::{Client, Stopwatch, TestHub, raw, start_hub, start_hub_with};

async fn connect_for_seconds(hub: &TestHub, ttl: u64) -> Client {
    let token = hub.token_for("ann", Duration::from_secs(ttl));
    let mut client = hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    client.subscribe("news").await;
    client
}

/// Connects a client that reads nothing after it has subscribed.
async fn connect_stalled(hub: &TestHub, channel: &str) -> raw::RawClient {
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut raw = raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
    raw.subscribe(channel).await;
    raw
}

#[actix_rt::test]
async fn expired_token_closes_idle_session_with_3005_and_others_stay() {
    let hub = start_hub().await;
    let mut short = connect_for_seconds(&hub, 60).await;
    let mut long = connect_for_seconds(&hub, 3600).await;
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(short.wait_for_close().await, (Some(3005), "connection expired".to_owned()));
    hub.publish("news", json!("later")).await;
    assert_eq!(long.receive_publication().await, json!("later"));
}

#[actix_rt::test]
async fn nothing_is_delivered_after_expiry() {
    let hub = start_hub().await;
    for _ in 0..20 {
        let mut client = connect_for_seconds(&hub, 60).await;
        hub.publish("news", json!("before")).await;
        assert_eq!(client.receive_publication().await, json!("before"));
        hub.clock.advance(Duration::from_secs(61));
        hub.publish("news", json!("after")).await;
        loop {
            match client.next().await {
                Ok(text) => assert!(!text.contains("after"), "{text}"),
                Err(closed) => break assert_eq!(closed.code, Some(3005)),
            }
        }
    }
}

#[actix_rt::test]
async fn command_received_after_expiry_is_not_executed() {
    let hub = start_hub().await;
    let mut other = connect_for_seconds(&hub, 36_000).await;
    for opcode in [raw::TEXT, raw::PING] {
        let token = hub.token_for("bob", Duration::from_secs(60));
        let mut bob = raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
        bob.next().await.expect("a connect push");
        hub.clock.advance(Duration::from_secs(61));
        bob.send(&raw::frame(raw::FIN | opcode, br#"{"id":1,"publish":{"channel":"news","data":"late"}}"#)).await;
        assert_eq!(bob.wait_for_close().await, Some(3005));
    }
    hub.publish("news", json!("next")).await;
    assert_eq!(other.receive_publication().await, json!("next"), "the late command was not executed");
}

#[actix_rt::test]
async fn expired_client_that_does_not_read_is_disconnected_on_time() {
    let hub = start_hub().await;
    let _stalled = connect_stalled(&hub, "news").await;
    // Fill the kernel's buffers, so that frames wait in the outbox.
    while hub.metric("wardcast_sockets_full_total").await == 0.0 {
        hub.publish("news", json!("x".repeat(60_000))).await;
    }
    hub.clock.advance(Duration::from_secs(61));
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn session_expiry_follows_jumps_of_the_wall_clock() {
    let hub = start_hub().await;
    let mut client = connect_for_seconds(&hub, 7200).await;
    hub.clock.step_back(Duration::from_secs(3600));
    hub.publish("news", json!("before expiry")).await;
    assert_eq!(client.receive_publication().await, json!("before expiry"));
    hub.clock.advance(Duration::from_secs(3 * 3600));
    assert_eq!(client.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn refresh_before_expiry_keeps_session_open() {
    let hub = start_hub().await;
    let mut client = connect_for_seconds(&hub, 60).await;
    client.send_text(&hub.token_message("ann")).await;
    assert!(client.receive_connect_push().await["ttl"].as_u64().unwrap() > 3000);
    hub.clock.advance(Duration::from_secs(120));
    hub.publish("news", json!("after the old expiry")).await;
    assert_eq!(client.receive_publication().await, json!("after the old expiry"));
}

#[actix_rt::test]
async fn client_without_pong_is_closed_at_expiry_not_at_later_pong_deadline() {
    let hub = start_hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(200);
        config.server.pong_timeout = Duration::from_secs(600);
    })
    .await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut mute = raw::RawClient::connect(hub.address, &format!("/socket?token={token}")).await;
    while mute.next().await.expect("a ping").opcode != raw::PING {}
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(mute.wait_for_close().await, Some(3005));
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn expired_stalled_clients_release_all_resources() {
    let hub = start_hub().await;
    let mut stalled = Vec::new();
    for number in 0..10 {
        stalled.push(connect_stalled(&hub, &format!("own-{number}")).await);
    }
    while hub.metric("wardcast_sockets_full_total").await < 10.0 {
        for number in 0..10 {
            hub.publish(&format!("own-{number}"), json!("x".repeat(60_000))).await;
        }
    }
    hub.clock.advance(Duration::from_secs(61));
    hub.wait_for_connections(0).await;
    hub.wait_for_channels(&[]).await;
    // No client read its close frame, and a frame that was written in part was cut off: the clients count as expired, not
    // as slow.
    assert_eq!(hub.running().metrics.closes_with_code(3005), 10);
    assert_eq!(hub.running().metrics.closes_with_code(3008), 0);
}

#[actix_rt::test]
async fn subscription_expiry_follows_jumps_of_the_wall_clock() {
    let hub = start_hub().await;
    let mut client = connect_for_seconds(&hub, 36_000).await;
    let granted = hub.token_with_claims(json!({"sub": "ann", "channel": "$desk", "exp": 7200}));
    client.subscribe_with("$desk", json!({"token": granted})).await;
    hub.clock.step_back(Duration::from_secs(3600));
    hub.publish("$desk", json!("before expiry")).await;
    assert_eq!(client.receive_publication().await, json!("before expiry"));
    hub.clock.advance(Duration::from_secs(2 * 3600));
    hub.publish("$desk", json!("an hour later")).await;
    assert_eq!(client.receive_publication().await, json!("an hour later"));
    hub.clock.advance(Duration::from_secs(3600));
    let push = client.receive().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("$desk"), &json!(2501)), "{push}");
    hub.publish("news", json!("other subscription")).await;
    assert_eq!(client.receive_publication().await, json!("other subscription"));
}

/// The clock is set to just before the expiry, and then runs by itself. What ends the sessions is the timing wheel alone: no step
/// of the clock, no traffic.
#[actix_rt::test]
async fn sessions_and_subscriptions_without_traffic_end_within_a_second_of_their_expiry() {
    let hub = start_hub().await;
    let exp = hub.clock.now().unix_seconds() + 60;
    let claims = |user: &str| json!({"sub": user, "exp": exp - hub.clock.now().unix_seconds()});
    let (mut idle, _) = hub.connect_with_claims(claims("ann")).await;
    let stalled = hub.token_with_claims(claims("bob"));
    let mut stalled = raw::RawClient::connect(hub.address, &format!("/socket?token={stalled}")).await;
    stalled.subscribe("flood").await;
    let mut subscriber = hub.connect("eve").await;
    let mut desk = claims("eve");
    desk["channel"] = json!("$desk");
    subscriber.subscribe_with("$desk", json!({"token": hub.token_with_claims(desk)})).await;
    while hub.metric("wardcast_sockets_full_total").await == 0.0 {
        hub.publish("flood", json!("x".repeat(60_000))).await;
    }
    let expiry = WallTime::from_unix_seconds(exp);
    let left = expiry.saturating_duration_since(hub.clock.now());
    hub.clock.step_forward(left - Duration::from_millis(500));
    let since = Stopwatch::start();
    let is_on_time = |what: &str| {
        let late = since.elapsed().saturating_sub(Duration::from_millis(500));
        // A tick is 100 ms. The machine may do other work, but the first ping would come after ten seconds.
        assert!(hub.clock.now() >= expiry && late < Duration::from_secs(3), "{what} {late:?} late");
    };
    assert_eq!(idle.wait_for_close().await.0, Some(3005));
    is_on_time("closed");
    let mut push = subscriber.receive().await["push"].take();
    if push["sub_refresh"]["expires"] == true {
        // The warning, if there was time for one.
        push = subscriber.receive().await["push"].take();
    }
    assert_eq!(push["unsubscribe"]["code"], 2501, "{push}");
    is_on_time("unsubscribed");
    hub.wait_for_connections(1).await;
    is_on_time("closed without reading");
}
