//! Pings and pongs of plain and SDK sessions, and the deadlines that end connections without an answer.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    ping_often,
    raw::{self, RawClient},
    slow_link::connect_with_small_buffer,
    start_hub_with,
};

#[actix_rt::test]
async fn plain_session_gets_native_pings_and_stays_open_while_it_answers() {
    let hub = start_hub_with(ping_often).await;
    let mut client = hub.connect("ann").await;
    for _ in 0..4 {
        // tungstenite answers pings while it reads, as browsers do.
        assert!(matches!(client.next_message().await, Some(Message::Ping(_))));
    }
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn sdk_session_is_kept_alive_by_empty_replies() {
    let hub = start_hub_with(ping_often).await;
    let mut client = hub.connect_sdk(&hub.token("ann")).await;
    for _ in 0..4 {
        assert_eq!(client.receive_text().await, "{}");
        client.send_text("{}").await;
    }
    assert_eq!(client.receive_text().await, "{}");
    assert_eq!(client.wait_for_close().await.0, Some(3012), "the last ping was not answered");
}

#[actix_rt::test]
async fn plain_session_without_pong_is_closed_with_3012() {
    let hub = start_hub_with(ping_often).await;
    let mut mute = hub.connect_raw("ann").await;
    assert_eq!(mute.wait_for_close().await, Some(3012));
    hub.wait_for_connections(0).await;
    let explained = hub.call_api("explain", json!({"user": "ann", "channel": "news"})).await["result"].clone();
    assert_eq!(explained["cause"], "no_pong", "{explained}");
}

#[actix_rt::test]
async fn unanswered_close_does_not_hold_the_connection() {
    let hub = start_hub_with(ping_often).await;
    let mut mute = hub.connect_raw("ann").await;
    while mute.next().await.expect("a close frame").opcode != raw::CLOSE {}
    // The client neither answers the close nor disconnects.
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn message_that_never_ends_is_closed_at_its_deadline_not_at_a_ping() {
    const AGE: Duration = Duration::from_millis(700);
    let hub = start_hub_with(|config| {
        // Only the deadline of the message can close it while the test waits.
        config.server.ping_interval = Duration::from_secs(600);
        config.limits.message_age = AGE;
    })
    .await;
    let mut slow = hub.connect_raw("ann").await;
    slow.send(&raw::frame(raw::TEXT, br#"{"id":1,"#)).await;
    slow.send(&raw::frame(raw::FIN | raw::CONTINUATION, br#""ping":{}}"#)).await;
    assert_eq!(slow.next().await.expect("a reply").text(), r#"{"id":1,"ping":{}}"#);
    let begun = Instant::now();
    slow.send(&raw::frame(raw::TEXT, br#"{"id":2,"#)).await;
    assert_eq!(slow.wait_for_close().await, Some(3501));
    assert!(begun.elapsed() >= AGE, "{:?}", begun.elapsed());
}

#[actix_rt::test]
async fn pings_come_at_their_interval_while_pongs_have_more_time() {
    let hub = start_hub_with(|config| {
        config.server.ping_interval = Duration::from_millis(100);
        config.server.pong_timeout = Duration::from_secs(2);
    })
    .await;
    let (mut mute, mut pings) = (hub.connect_raw("ann").await, 0);
    while mute.next().await.expect("a ping or a close").opcode == raw::PING {
        pings += 1;
        assert!(pings < 100, "not closed after {pings} pings");
    }
    assert!(pings > 3, "{pings}");
    assert_eq!(hub.running().metrics.closes_with_code(3012), 1, "the first unanswered ping sets the deadline");
    let mut lazy = hub.connect_raw("bob").await;
    for number in 1..=40 {
        let frame = lazy.next().await.expect("a ping");
        assert_eq!(frame.opcode, raw::PING, "one pong answers all pings before it");
        if number % 4 == 0 {
            lazy.send(&raw::frame(raw::FIN | raw::PONG, &frame.payload)).await;
        }
    }
}

#[actix_rt::test]
async fn busy_client_with_complete_messages_stays_connected() {
    let hub = start_hub_with(|config| {
        ping_often(config);
        config.limits.message_age = Duration::from_millis(1500);
    })
    .await;
    let mut busy = hub.connect_raw("ann").await;
    let command = raw::text_frame(r#"{"id":1,"ping":{}}"#);
    // Every write ends inside the next frame, so that no read ever ends between two frames. The server's pings, every
    // 400 ms, time the writes; after six of them a message that never ended would be older than its limit.
    busy.send(&command[..3]).await;
    let (mut pings, mut replies) = (0, 0);
    while replies < 6 {
        let frame = busy.next().await.expect("a ping or a reply");
        assert_ne!(frame.opcode, raw::CLOSE, "{frame:?}");
        if frame.opcode == raw::PING {
            pings += 1;
            let pong = raw::frame(raw::FIN | raw::PONG, &frame.payload);
            busy.send(&[&command[3..], &pong, &command[..3]].concat()).await;
        } else {
            assert_eq!(frame.text(), r#"{"id":1,"ping":{}}"#);
            replies += 1;
        }
    }
    assert!(pings >= 6, "{pings}");
}

#[actix_rt::test]
async fn unsolicited_pongs_do_not_affect_others() {
    let hub = start_hub_with(ping_often).await;
    let mut flood = hub.connect_raw("ann").await;
    let mut other = hub.connect_subscriber("bob", "news").await;
    let responses = raw::text_frame(&"{}\n".repeat(20_000));
    for number in 0..20 {
        flood.send(&responses).await;
        flood.send(&raw::frame(raw::FIN | raw::PONG, b"").repeat(1000)).await;
        hub.publish("news", json!(number)).await;
        assert_eq!(other.receive_publication().await, json!(number));
    }
}

#[actix_rt::test]
async fn only_the_latest_ping_sent_while_the_socket_is_full_is_answered() {
    let hub = start_hub_with(|_| ()).await;
    let mut client = RawClient { stream: connect_with_small_buffer(hub.address).await };
    client.send(raw::handshake(hub.address, &hub.path_for("ann")).as_bytes()).await;
    assert!(client.read_head().await.starts_with("HTTP/1.1 101 "));
    client.next().await.expect("a connect push");
    client.subscribe("live").await;
    let (data, mut published) = ("x".repeat(60_000), 0);
    while hub.metric("wardcast_sockets_full_total").await == 0.0 {
        hub.publish("live", json!(data)).await;
        published += 1;
    }
    for _ in 0..8 {
        hub.publish("live", json!(data)).await;
    }
    for payload in ["first", "second", "latest"] {
        client.send(&raw::frame(raw::FIN | raw::PING, payload.as_bytes())).await;
    }
    // Its effect shows that the hub has read the pings.
    client.send(&raw::text_frame(r#"{"id":2,"unsubscribe":{"channel":"live"}}"#)).await;
    hub.wait_for_channels(&[]).await;
    // The pong overtakes the backlog, unless the client reads as fast as the hub writes.
    let (mut pongs, mut publications, mut is_unsubscribed) = (Vec::new(), 0, false);
    while pongs.is_empty() || !is_unsubscribed {
        let frame = client.next().await.expect("an open connection");
        match frame.opcode {
            raw::PONG => pongs.push(frame.payload),
            _ if frame.text() == r#"{"id":2,"unsubscribe":{}}"# => is_unsubscribed = true,
            _ => publications += usize::from(frame.text().contains("pub")),
        }
    }
    assert_eq!((pongs, publications), (vec![b"latest".to_vec()], published + 8));
    client.send(&raw::frame(raw::FIN | raw::PING, b"again")).await;
    assert_eq!(client.next().await.map(|frame| frame.payload), Some(b"again".to_vec()));
}
