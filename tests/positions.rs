//! Gaps: a lost history ends the positioned subscriptions of a channel, so that their clients subscribe again. Other
//! subscriptions continue.

use std::time::Duration;

use serde_json::json;
use wardcast::config::Config;

use crate::support::{Client, TestHub, start_hub_with};

/// Starts a hub whose memory broker keeps little, so that long publications in some channels cost another its history.
async fn start_hub_with_history(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.history_size = 10;
        config.channels.history_ttl = Duration::from_secs(60);
        config.limits.history_bytes = 50_000;
        change(config);
    })
    .await
}

/// Fills the memory for histories, so that the channel loses its history that has had no publication for longest.
async fn lose_oldest_history(hub: &TestHub, client: &mut Client) {
    // Times of publications are compared in milliseconds.
    hub.clock.advance(Duration::from_secs(1));
    for other in ["one", "two", "three"] {
        client.publish(other, json!("x".repeat(20_000))).await;
    }
}

#[actix_rt::test]
async fn lost_history_ends_positioned_subscriptions_only() {
    let hub = start_hub_with_history(|_| ()).await;
    let (mut plain, mut positioned, mut bob) =
        (hub.connect("ann").await, hub.connect("cat").await, hub.connect("bob").await);
    plain.subscribe("news").await;
    let reply = positioned.subscribe_with("news", json!({"positioned": true})).await;
    assert_eq!(reply["subscribe"]["positioned"], true, "{reply}");
    bob.publish("news", json!(1)).await;
    assert_eq!((plain.receive_publication().await, positioned.receive_publication().await), (json!(1), json!(1)));
    lose_oldest_history(&hub, &mut bob).await;
    bob.publish("news", json!(2)).await;
    assert_eq!(plain.receive_publication().await, 2);
    let push = positioned.receive().await;
    assert_eq!(push["push"]["unsubscribe"], json!({"code": 2500, "reason": "insufficient state"}), "{push}");
    let explained = hub.call_api("explain", json!({"user": "cat", "channel": "news"})).await["result"].clone();
    assert_eq!(explained["cause"], "subscription_lost", "{explained}");
    // It may subscribe again at once, and continues from the new position.
    let again = positioned.subscribe_with("news", json!({"positioned": true})).await;
    assert_eq!(again["subscribe"]["offset"], 1, "{again}");
    assert_ne!(again["subscribe"]["epoch"], reply["subscribe"]["epoch"]);
    bob.publish("news", json!(3)).await;
    assert_eq!((plain.receive_publication().await, positioned.receive_publication().await), (json!(3), json!(3)));
}

#[actix_rt::test]
async fn gap_in_server_side_subscription_closes_session_with_3010() {
    let hub = start_hub_with_history(|config| config.channels.force_positioning = true).await;
    let (mut ann, connect) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["news"]})).await;
    assert_eq!(connect["subs"]["news"]["positioned"], true, "{connect}");
    let mut bob = hub.connect("bob").await;
    bob.publish("news", json!(1)).await;
    lose_oldest_history(&hub, &mut bob).await;
    bob.publish("news", json!(2)).await;
    assert_eq!(ann.receive_publication().await, 1);
    assert_eq!(ann.wait_for_close().await, (Some(3010), "insufficient state".to_owned()));
}

#[actix_rt::test]
async fn position_check_finds_lost_history_of_silent_channel() {
    let hub = start_hub_with_history(|config| config.server.position_check_interval = Duration::from_millis(200)).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    bob.publish("news", json!(1)).await;
    ann.subscribe_with("news", json!({"positioned": true})).await;
    lose_oldest_history(&hub, &mut bob).await;
    let push = ann.receive().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
}

#[actix_rt::test]
async fn position_check_leaves_valid_positions_alone() {
    let hub = start_hub_with_history(|config| {
        // Longer than what follows takes: a comparison counts as a use of the history, and the history used last is kept.
        config.server.position_check_interval = Duration::from_secs(2);
        config.server.workers = 1;
    })
    .await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    bob.publish("lost", json!("x".repeat(20_000))).await;
    for channel in ["news", "lost"] {
        ann.subscribe_with(channel, json!({"positioned": true})).await;
    }
    hub.clock.advance(Duration::from_secs(1));
    bob.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
    hub.clock.advance(Duration::from_secs(1));
    for other in ["one", "two"] {
        bob.publish(other, json!("x".repeat(16_000))).await;
    }
    // The hub compares both channels in the same round.
    let push = ann.receive().await;
    assert_eq!((&push["push"]["channel"], &push["push"]["unsubscribe"]["code"]), (&json!("lost"), &json!(2500)));
    bob.publish("news", json!(2)).await;
    assert_eq!(ann.receive_publication().await, 2);
}
