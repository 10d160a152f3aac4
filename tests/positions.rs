//! Gaps that are made visible: whoever was promised to be told of what is missing has to come again, and nobody else does.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::Config;

use crate::support::{Client, Hub, hub_with};

/// The memory broker keeps little: long publications in some channels cost another its history.
async fn forgetful_hub(change: impl FnOnce(&mut Config)) -> Hub {
    hub_with(|config| {
        config.channels.history_size = 10;
        config.channels.history_ttl = Duration::from_secs(60);
        config.limits.history_bytes = 50_000;
        change(config);
    })
    .await
}

async fn publish(client: &mut Client, channel: &str, data: Value) {
    let reply = client.ask(json!({"id": 9, "publish": {"channel": channel, "data": data}})).await;
    assert_eq!(reply, json!({"id": 9, "publish": {}}));
}

async fn forget(hub: &Hub, client: &mut Client) {
    // Which of them rests longer is told apart by milliseconds.
    hub.clock.advance(Duration::from_secs(1));
    for other in ["one", "two", "three"] {
        publish(client, other, json!("x".repeat(20_000))).await;
    }
}

#[actix_rt::test]
async fn a_lost_history_ends_positioned_subscriptions_and_no_others() {
    let hub = forgetful_hub(|_| ()).await;
    let (mut plain, mut positioned, mut bob) =
        (hub.client("ann").await, hub.client("cat").await, hub.client("bob").await);
    plain.subscribe("news").await;
    let reply = positioned.ask(json!({"id": 1, "subscribe": {"channel": "news", "positioned": true}})).await;
    assert_eq!(reply["subscribe"]["positioned"], true, "{reply}");
    publish(&mut bob, "news", json!(1)).await;
    assert_eq!((plain.publication().await, positioned.publication().await), (json!(1), json!(1)));
    forget(&hub, &mut bob).await;
    publish(&mut bob, "news", json!(2)).await;
    assert_eq!(plain.publication().await, 2);
    let push = positioned.hear().await;
    assert_eq!(push["push"]["unsubscribe"], json!({"code": 2500, "reason": "insufficient state"}), "{push}");
    // It may come again at once, and goes on from there.
    let again = positioned.ask(json!({"id": 2, "subscribe": {"channel": "news", "positioned": true}})).await;
    assert_eq!(again["subscribe"]["offset"], 1, "{again}");
    assert_ne!(again["subscribe"]["epoch"], reply["subscribe"]["epoch"]);
    publish(&mut bob, "news", json!(3)).await;
    assert_eq!((plain.publication().await, positioned.publication().await), (json!(3), json!(3)));
    hub.stop().await;
}

#[actix_rt::test]
async fn a_gap_in_what_a_token_brought_ends_the_session_with_3010() {
    let hub = forgetful_hub(|config| config.channels.force_positioning = true).await;
    let (mut ann, greeting) = hub.client_of(json!({"sub": "ann", "exp": 60, "channels": ["news"]})).await;
    assert_eq!(greeting["subs"]["news"]["positioned"], true, "{greeting}");
    let mut bob = hub.client("bob").await;
    publish(&mut bob, "news", json!(1)).await;
    forget(&hub, &mut bob).await;
    publish(&mut bob, "news", json!(2)).await;
    assert_eq!(ann.publication().await, 1);
    let (code, push) = ann.ended().await;
    assert_eq!((code, &push.unwrap()["code"]), (Some(3010), &json!(3010)));
    hub.stop().await;
}

#[actix_rt::test]
async fn a_silent_channel_whose_history_was_lost_is_found_by_its_position() {
    let hub = forgetful_hub(|config| config.server.position_check_interval = Duration::from_millis(200)).await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    publish(&mut bob, "news", json!(1)).await;
    ann.ask(json!({"id": 1, "subscribe": {"channel": "news", "positioned": true}})).await;
    forget(&hub, &mut bob).await;
    let push = ann.hear().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
    hub.stop().await;
}

#[actix_rt::test]
async fn a_position_that_holds_is_left_alone_however_often_it_is_checked() {
    let hub = forgetful_hub(|config| config.server.position_check_interval = Duration::from_millis(100)).await;
    let (mut ann, mut bob) = (hub.client("ann").await, hub.client("bob").await);
    ann.ask(json!({"id": 1, "subscribe": {"channel": "news", "positioned": true}})).await;
    for number in 1..=5 {
        publish(&mut bob, "news", json!(number)).await;
        assert_eq!(ann.publication().await, number);
        // Longer than two checks and the time that a difference has to last.
        actix_rt::time::sleep(Duration::from_millis(500)).await;
    }
    hub.stop().await;
}
