//! Pings and pongs of plain and SDK sessions, and connections that answer none.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Hub, eventually, hub_with, raw};

/// A hub that pings all the time.
async fn pinging_hub() -> Hub {
    hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(400);
        config.server.pong_timeout = Duration::from_millis(400);
    })
    .await
}

#[actix_rt::test]
async fn a_plain_session_gets_native_pings_and_stays_as_long_as_it_answers() {
    let hub = pinging_hub().await;
    let mut client = hub.client("ann").await;
    for _ in 0..4 {
        // tungstenite answers while it reads, as browsers do.
        assert!(matches!(client.next_message().await, Some(Message::Ping(_))));
    }
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn an_sdk_session_gets_empty_replies_and_answers_them() {
    let hub = pinging_hub().await;
    let mut client = hub.stranger().await;
    client.ask(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    for _ in 0..4 {
        assert_eq!(client.hear_text().await, "{}");
        client.say_text("{}").await;
    }
    assert_eq!(client.hear_text().await, "{}");
    assert_eq!(client.ended().await.0, Some(3012), "when it stops answering");
}

#[actix_rt::test]
async fn a_plain_session_that_never_pongs_is_closed_3012() {
    let hub = pinging_hub().await;
    let mut mute = raw::Raw::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    assert_eq!(mute.close_code().await, Some(3012));
    eventually("the connection is given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn a_close_that_is_not_answered_does_not_hold_the_connection() {
    let hub = pinging_hub().await;
    let mut mute = raw::Raw::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    while mute.next().await.expect("a close frame").opcode != raw::CLOSE {}
    // It neither answers nor goes.
    eventually("the connection is cut", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn a_message_that_never_ends_is_ended() {
    let hub = hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(400);
        config.server.pong_timeout = Duration::from_secs(5);
        config.limits.message_age = Duration::from_millis(500);
    })
    .await;
    let mut slow = raw::Raw::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    slow.send(&raw::frame(raw::TEXT, b"a beginning")).await;
    let mut code = None;
    while let Some(frame) = slow.next().await {
        match frame.opcode {
            raw::PING => slow.send(&raw::frame(raw::FIN | raw::PONG, &frame.payload)).await,
            raw::CLOSE => code = Some(u16::from_be_bytes([frame.payload[0], frame.payload[1]])),
            _ => {}
        }
    }
    assert_eq!(code, Some(3501));
}

#[actix_rt::test]
async fn a_busy_client_whose_messages_do_end_stays() {
    let hub = hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(300);
        config.server.pong_timeout = Duration::from_secs(10);
        config.limits.message_age = Duration::from_millis(500);
    })
    .await;
    let mut busy = raw::Raw::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    let ping = raw::frame(raw::FIN | raw::TEXT, br#"{"id":1,"ping":{}}"#);
    // Every write ends inside the next frame, so that no read ever ends between two.
    busy.send(&ping[..3]).await;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..40 {
        tick.tick().await;
        busy.send(&[&ping[3..], &ping[..3]].concat()).await;
    }
    busy.send(&ping[3..]).await;
    let mut replies = 0;
    while replies < 41 {
        let frame = busy.next().await.expect("a reply");
        assert_ne!(frame.opcode, raw::CLOSE, "{frame:?}");
        replies += usize::from(frame.opcode == raw::TEXT && frame.text().contains("\"ping\":{}"));
    }
}

#[actix_rt::test]
async fn a_flood_of_answers_to_no_ping_costs_nobody_anything() {
    let hub = pinging_hub().await;
    let mut flood = raw::Raw::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    let mut other = hub.subscriber("bob", "news").await;
    let answers = raw::frame(raw::FIN | raw::TEXT, "{}\n".repeat(20_000).as_bytes());
    for number in 0..20 {
        flood.send(&answers).await;
        flood.send(&raw::frame(raw::FIN | raw::PONG, b"").repeat(1000)).await;
        hub.publish("news", json!(number)).await;
        assert_eq!(other.publication().await, json!(number));
    }
}
