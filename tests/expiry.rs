//! Tokens end on time: on every frame, on every delivery, and with no traffic at all. The clock is moved, not waited for.

use std::time::Duration;

use serde_json::json;

use crate::support::{Client, Hub, hub, hub_with, raw};

async fn session_for(hub: &Hub, ttl: u64) -> Client {
    let token = hub.token_for("ann", Duration::from_secs(ttl));
    let mut client = Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap();
    client.hear().await;
    client.subscribe("news").await;
    client
}

#[actix_rt::test]
async fn a_silent_session_is_closed_3005_when_its_time_is_over_and_others_stay() {
    let hub = hub().await;
    let mut short = session_for(&hub, 60).await;
    let mut long = session_for(&hub, 3600).await;
    hub.clock.advance(Duration::from_secs(61));
    let (code, push) = short.ended().await;
    assert_eq!((code, push.unwrap()["code"].clone()), (Some(3005), json!(3005)));
    hub.publish("news", json!("later")).await;
    assert_eq!(long.publication().await, json!("later"));
}

#[actix_rt::test]
async fn nothing_published_after_the_end_ever_arrives() {
    let hub = hub().await;
    for _ in 0..20 {
        let mut client = session_for(&hub, 60).await;
        hub.publish("news", json!("before")).await;
        assert_eq!(client.publication().await, json!("before"));
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
async fn an_inbound_frame_after_the_end_is_not_obeyed() {
    let hub = hub().await;
    let mut other = session_for(&hub, 36_000).await;
    for opcode in [raw::TEXT, raw::PING] {
        let token = hub.token_for("bob", Duration::from_secs(60));
        let mut bob = raw::Raw::connect(hub.address, &format!("/socket?token={token}")).await;
        bob.next().await.expect("a greeting");
        hub.clock.advance(Duration::from_secs(61));
        bob.send(&raw::frame(raw::FIN | opcode, br#"{"id":1,"publish":{"channel":"news","data":"late"}}"#)).await;
        assert_eq!(bob.close_code().await, Some(3005));
    }
    hub.publish("news", json!("next")).await;
    assert_eq!(other.publication().await, json!("next"), "and not what came late");
}

#[actix_rt::test]
async fn a_client_that_does_not_read_is_gone_on_time_too() {
    let hub = hub().await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut deaf = raw::Raw::connect(hub.address, &format!("/socket?token={token}")).await;
    deaf.send(&raw::frame(raw::FIN | raw::TEXT, br#"{"id":1,"subscribe":{"channel":"news"}}"#)).await;
    while deaf.next().await.expect("a frame").text() != r#"{"id":1,"subscribe":{}}"# {}
    // Fill what the kernel takes, so that its outbox has something that waits.
    while hub.metric("wardcast_sockets_full_total").await == 0.0 {
        hub.publish("news", json!("x".repeat(60_000))).await;
    }
    hub.clock.advance(Duration::from_secs(61));
    crate::support::eventually("the connection is given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn the_wall_clock_may_jump_and_expiry_follows_it() {
    let hub = hub().await;
    let mut client = session_for(&hub, 7200).await;
    hub.clock.set_back(Duration::from_secs(3600));
    hub.publish("news", json!("still here")).await;
    assert_eq!(client.publication().await, json!("still here"));
    hub.clock.advance(Duration::from_secs(3 * 3600));
    assert_eq!(client.ended().await.0, Some(3005));
}

#[actix_rt::test]
async fn a_refresh_in_time_keeps_the_session() {
    let hub = hub().await;
    let mut client = session_for(&hub, 60).await;
    client.say_text(&format!("Authorization: Bearer {}", hub.token("ann"))).await;
    assert!(client.hear().await["push"]["connect"]["ttl"].as_u64().unwrap() > 3000);
    hub.clock.advance(Duration::from_secs(120));
    hub.publish("news", json!("still here")).await;
    assert_eq!(client.publication().await, json!("still here"));
}

#[actix_rt::test]
async fn a_client_that_never_pongs_is_gone_when_its_time_is_over_and_not_when_its_pong_is_due() {
    let hub = hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(200);
        config.server.pong_timeout = Duration::from_secs(600);
    })
    .await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut mute = raw::Raw::connect(hub.address, &format!("/socket?token={token}")).await;
    while mute.next().await.expect("a ping").opcode != raw::PING {}
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(mute.close_code().await, Some(3005));
    crate::support::eventually("the connection is given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn stalled_clients_give_everything_back_when_their_time_is_over() {
    let hub = hub().await;
    let token = hub.token_for("ann", Duration::from_secs(60));
    let mut deaf = Vec::new();
    for number in 0..10 {
        let mut raw = raw::Raw::connect(hub.address, &format!("/socket?token={token}")).await;
        let subscribe = json!({"id": 1, "subscribe": {"channel": format!("own-{number}")}}).to_string();
        raw.send(&raw::frame(raw::FIN | raw::TEXT, subscribe.as_bytes())).await;
        while raw.next().await.expect("a frame").text() != r#"{"id":1,"subscribe":{}}"# {}
        deaf.push(raw);
    }
    while hub.metric("wardcast_sockets_full_total").await < 10.0 {
        for number in 0..10 {
            hub.publish(&format!("own-{number}"), json!("x".repeat(60_000))).await;
        }
    }
    hub.clock.advance(Duration::from_secs(61));
    crate::support::eventually("connections and channels are given back", async || {
        let channels = hub.api("channels", json!({})).await;
        hub.connections() == 0 && channels == json!({"result": {"channels": {}}})
    })
    .await;
    // Nobody was told, since nobody read; what was half out is cut off.
    assert_eq!(hub.running().metrics.closed_for(3005), 10);
    assert_eq!(hub.running().metrics.closed_for(3008), 0);
}

#[actix_rt::test]
async fn the_wall_clock_may_jump_and_subscriptions_that_a_token_grants_follow_it() {
    let hub = hub().await;
    let mut client = session_for(&hub, 36_000).await;
    let granted = hub.signed(json!({"sub": "ann", "channel": "$desk", "exp": 7200}));
    client.ask(json!({"id": 2, "subscribe": {"channel": "$desk", "token": granted}})).await;
    hub.clock.set_back(Duration::from_secs(3600));
    hub.publish("$desk", json!("still here")).await;
    assert_eq!(client.publication().await, json!("still here"));
    hub.clock.advance(Duration::from_secs(2 * 3600));
    hub.publish("$desk", json!("an hour later")).await;
    assert_eq!(client.publication().await, json!("an hour later"));
    hub.clock.advance(Duration::from_secs(3600));
    let push = client.hear().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("$desk"), &json!(2501)), "{push}");
    hub.publish("news", json!("goes on")).await;
    assert_eq!(client.publication().await, json!("goes on"));
}
