//! Pings and pongs of plain and SDK sessions, and connections that answer none.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{TestHub, raw, start_hub_with, wait_until};

/// A hub that pings all the time.
async fn start_pinging_hub() -> TestHub {
    start_hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(400);
        config.server.pong_timeout = Duration::from_millis(400);
    })
    .await
}

#[actix_rt::test]
async fn plain_session_gets_native_pings_and_stays_open_while_it_answers() {
    let hub = start_pinging_hub().await;
    let mut client = hub.connect("ann").await;
    for _ in 0..4 {
        // tungstenite answers while it reads, as browsers do.
        assert!(matches!(client.next_message().await, Some(Message::Ping(_))));
    }
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn sdk_session_is_kept_alive_by_empty_replies() {
    let hub = start_pinging_hub().await;
    let mut client = hub.connect_without_token().await;
    client.request(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    for _ in 0..4 {
        assert_eq!(client.receive_text().await, "{}");
        client.send_text("{}").await;
    }
    assert_eq!(client.receive_text().await, "{}");
    assert_eq!(client.wait_for_close().await.0, Some(3012), "when it stops answering");
}

#[actix_rt::test]
async fn plain_session_without_pong_is_closed_with_3012() {
    let hub = start_pinging_hub().await;
    let mut mute = raw::RawClient::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    assert_eq!(mute.close_code().await, Some(3012));
    wait_until("the connection is given back", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn unanswered_close_does_not_hold_the_connection() {
    let hub = start_pinging_hub().await;
    let mut mute = raw::RawClient::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    while mute.next().await.expect("a close frame").opcode != raw::CLOSE {}
    // It neither answers nor goes.
    wait_until("the connection is cut", async || hub.connections() == 0).await;
}

#[actix_rt::test]
async fn message_that_never_ends_is_closed_by_deadline() {
    let hub = start_hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(400);
        config.server.pong_timeout = Duration::from_secs(5);
        config.limits.message_age = Duration::from_millis(500);
    })
    .await;
    let mut slow = raw::RawClient::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
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
async fn busy_client_with_complete_messages_stays_connected() {
    let hub = start_hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(300);
        config.server.pong_timeout = Duration::from_secs(10);
        config.limits.message_age = Duration::from_millis(500);
    })
    .await;
    let mut busy = raw::RawClient::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
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
async fn unsolicited_pongs_do_not_affect_others() {
    let hub = start_pinging_hub().await;
    let mut flood = raw::RawClient::connect(hub.address, &format!("/socket?token={}", hub.token("ann"))).await;
    let mut other = hub.connect_subscriber("bob", "news").await;
    let answers = raw::frame(raw::FIN | raw::TEXT, "{}\n".repeat(20_000).as_bytes());
    for number in 0..20 {
        flood.send(&answers).await;
        flood.send(&raw::frame(raw::FIN | raw::PONG, b"").repeat(1000)).await;
        hub.publish("news", json!(number)).await;
        assert_eq!(other.receive_publication().await, json!(number));
    }
}
