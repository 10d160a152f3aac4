//! Gaps that are made visible: whoever was promised to be told of what is missing has to come again, and nobody else does.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::Config;

use crate::support::{Client, TestHub, start_hub_with};

/// The memory broker keeps little: long publications in some channels cost another its history.
async fn start_hub_with_history(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.history_size = 10;
        config.channels.history_ttl = Duration::from_secs(60);
        config.limits.history_bytes = 50_000;
        change(config);
    })
    .await
}

async fn publish(client: &mut Client, channel: &str, data: Value) {
    let reply = client.request(json!({"id": 9, "publish": {"channel": channel, "data": data}})).await;
    assert_eq!(reply, json!({"id": 9, "publish": {}}));
}

async fn lose_history(hub: &TestHub, client: &mut Client) {
    // Which of them rests longer is told apart by milliseconds.
    hub.clock.advance(Duration::from_secs(1));
    for other in ["one", "two", "three"] {
        publish(client, other, json!("x".repeat(20_000))).await;
    }
}

#[actix_rt::test]
async fn lost_history_ends_positioned_subscriptions_only() {
    let hub = start_hub_with_history(|_| ()).await;
    let (mut plain, mut positioned, mut bob) =
        (hub.connect("ann").await, hub.connect("cat").await, hub.connect("bob").await);
    plain.subscribe("news").await;
    let reply = positioned.request(json!({"id": 1, "subscribe": {"channel": "news", "positioned": true}})).await;
    assert_eq!(reply["subscribe"]["positioned"], true, "{reply}");
    publish(&mut bob, "news", json!(1)).await;
    assert_eq!((plain.receive_publication().await, positioned.receive_publication().await), (json!(1), json!(1)));
    lose_history(&hub, &mut bob).await;
    publish(&mut bob, "news", json!(2)).await;
    assert_eq!(plain.receive_publication().await, 2);
    let push = positioned.receive().await;
    assert_eq!(push["push"]["unsubscribe"], json!({"code": 2500, "reason": "insufficient state"}), "{push}");
    // It may come again at once, and goes on from there.
    let again = positioned.request(json!({"id": 2, "subscribe": {"channel": "news", "positioned": true}})).await;
    assert_eq!(again["subscribe"]["offset"], 1, "{again}");
    assert_ne!(again["subscribe"]["epoch"], reply["subscribe"]["epoch"]);
    publish(&mut bob, "news", json!(3)).await;
    assert_eq!((plain.receive_publication().await, positioned.receive_publication().await), (json!(3), json!(3)));
    hub.stop().await;
}

#[actix_rt::test]
async fn gap_in_server_side_subscription_closes_session_with_3010() {
    let hub = start_hub_with_history(|config| config.channels.force_positioning = true).await;
    let (mut ann, greeting) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["news"]})).await;
    assert_eq!(greeting["subs"]["news"]["positioned"], true, "{greeting}");
    let mut bob = hub.connect("bob").await;
    publish(&mut bob, "news", json!(1)).await;
    lose_history(&hub, &mut bob).await;
    publish(&mut bob, "news", json!(2)).await;
    assert_eq!(ann.receive_publication().await, 1);
    let (code, push) = ann.wait_for_close().await;
    assert_eq!((code, &push.unwrap()["code"]), (Some(3010), &json!(3010)));
    hub.stop().await;
}

#[actix_rt::test]
async fn position_check_finds_lost_history_of_silent_channel() {
    let hub = start_hub_with_history(|config| config.server.position_check_interval = Duration::from_millis(200)).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    publish(&mut bob, "news", json!(1)).await;
    ann.request(json!({"id": 1, "subscribe": {"channel": "news", "positioned": true}})).await;
    lose_history(&hub, &mut bob).await;
    let push = ann.receive().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
    hub.stop().await;
}

#[actix_rt::test]
async fn position_check_leaves_valid_positions_alone() {
    let hub = start_hub_with_history(|config| config.server.position_check_interval = Duration::from_millis(100)).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    ann.request(json!({"id": 1, "subscribe": {"channel": "news", "positioned": true}})).await;
    for number in 1..=5 {
        publish(&mut bob, "news", json!(number)).await;
        assert_eq!(ann.receive_publication().await, number);
        // Longer than two checks and the time that a difference has to last.
        actix_rt::time::sleep(Duration::from_millis(500)).await;
    }
    hub.stop().await;
}
