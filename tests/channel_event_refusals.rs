//! Requests for the events of a channel that are refused for a while: an `EventSource` reconnects by itself.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use wardcast::config::AnonymousAccess;

use crate::{
    audit::AuditedHub,
    hooks, storms,
    support::{
        TestHub,
        backend::{Answer, Backend},
        http::{self, Response},
        start_hub_with,
        stream::{StreamClient, get},
    },
    tickets::request_ticket,
};

fn path_for(hub: &TestHub) -> String {
    format!("/v1/channels/news/events?token={}", hub.token("ann"))
}

/// Sends the request of an `EventSource`.
async fn request_events(hub: &TestHub) -> Response {
    http::exchange(hub.address, get(hub.address, &path_for(hub), &[]).as_bytes()).await
}

/// Sends the requests of so many of them at once.
async fn open_together(hub: &TestHub, count: usize) -> Vec<StreamClient> {
    let path = path_for(hub);
    let request = get(hub.address, &path, &[]);
    join_all((0..count).map(|_| StreamClient::open(hub.address, request.as_bytes(), b"\n\n"))).await
}

/// Returns the reason and the reconnection time, in milliseconds, of a stream that is nothing else.
fn reconnection(response: &Response) -> (&str, u64) {
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")), "{response:?}");
    assert_eq!(response.header("connection"), Some("close"), "{response:?}");
    assert!(response.header("cache-control").unwrap().contains("no-store"), "{response:?}");
    let lines: Vec<&str> = response.body.split('\n').collect();
    let [comment, retry, "", ""] = lines[..] else { panic!("{response:?}") };
    (comment.strip_prefix(": ").unwrap(), retry.strip_prefix("retry: ").unwrap().parse().unwrap())
}

#[actix_rt::test]
async fn full_hub_tells_event_sources_to_reconnect_and_other_clients_the_status() {
    let audited = AuditedHub::start(|config| config.limits.connections = 1).await;
    let hub = &audited.hub;
    let bob = hub.connect("bob").await;
    let mut times = BTreeSet::new();
    for _ in 0..20 {
        let response = request_events(hub).await;
        let (reason, time) = reconnection(&response);
        assert_eq!(reason, "too many connections; try again soon");
        times.insert(time);
    }
    assert!(times.iter().all(|time| (5000..=7000).contains(time)) && times.len() > 10, "not spread: {times:?}");
    let refused = audited.wait_for("refused", 1).await;
    assert_eq!(refused["reason"], "too many connections; try again soon", "{refused}");
    assert_eq!(hub.metric("wardcast_handshakes_refused_total{reason=\"full\"}").await, 20.0);
    for accept in ["*/*", "text/event-stream, application/json", "application/json"] {
        let request = http::get(hub.address, &path_for(hub)).header("Accept", accept);
        let response = request.send().await;
        assert_eq!((response.status, response.header("retry-after")), (503, Some("5")), "{accept}: {response:?}");
        assert_eq!(response.json()["error"]["code"], 111, "{accept}: {response:?}");
    }
    drop(bob);
    hub.wait_for_connections(0).await;
    let mut client = StreamClient::events(hub.address, &path_for(hub), &[]).await;
    assert_eq!(client.event().await.name, "subscribe");
}

#[actix_rt::test]
async fn event_sources_above_a_rate_wait_as_long_as_it_takes() {
    let hub = start_hub_with(|config| config.limits.handshakes_per_second = 1).await;
    let answers = open_together(&hub, 10).await;
    let response = answers.into_iter().map(|client| client.head).find(|head| !head.body.is_empty()).unwrap();
    let (reason, time) = reconnection(&response);
    assert_eq!(reason, "too many handshakes from this address");
    assert!((1000..=4000).contains(&time), "{time}");
}

#[actix_rt::test]
async fn event_sources_survive_a_storm_of_handshakes() {
    let hub = start_hub_with(storms::narrow).await;
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..20 {
        for mut client in open_together(&hub, 100).await {
            assert_eq!(client.head.status, 200, "EventSource would give up: {:?}", client.head);
            if client.head.body.is_empty() {
                assert_eq!(client.event().await.name, "subscribe");
                opened += 1;
            } else {
                let (reason, time) = reconnection(&client.head);
                assert_eq!(reason, "too many clients connect; try again soon");
                assert!((1000..=7000).contains(&time), "{time}");
                refused += 1;
            }
        }
        if opened > 0 && refused > 0 {
            break;
        }
    }
    assert!(opened > 0 && refused > 0, "{opened} {refused}");
    assert_eq!(storms::refused(&hub).await, f64::from(refused), "before it cost a verification");
}

#[actix_rt::test]
async fn stopping_hub_tells_event_sources_to_reconnect() {
    let hub = start_hub_with(|config| config.server.drain = Duration::from_secs(20)).await;
    let mut open = TcpStream::connect(hub.address).await.unwrap();
    open.write_all(b"GET /health/live HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
    assert_eq!(http::receive(&mut open).await.status, 200);
    let request = get(hub.address, &path_for(&hub), &[]);
    let mut events = StreamClient::events(hub.address, &path_for(&hub), &[]).await;
    assert_eq!(events.event().await.name, "subscribe");
    // It does not answer the close frame, so the hub serves open connections for a while.
    let session = hub.connect_raw("bob").await;
    let stopped = actix_rt::spawn(hub.stop());
    let end = events.event().await;
    assert_eq!((end.name.as_str(), &end.json()["code"]), ("disconnect", &json!(3001)));
    open.write_all(request.as_bytes()).await.unwrap();
    let response = http::receive(&mut open).await;
    let (reason, time) = reconnection(&response);
    assert_eq!(reason, "this instance is stopping; try again");
    assert!((1000..=3000).contains(&time), "{time}");
    drop(session);
    stopped.await.unwrap();
}

#[actix_rt::test]
async fn message_of_the_backend_adds_no_event_to_a_refusal() {
    let backend = Backend::start().await;
    let hub = start_hub_with(|config| {
        backend.configure_connect(config);
        config.auth.anonymous = AnonymousAccess::Never;
    })
    .await;
    for line_end in ["\n", "\r", "\r\n"] {
        let message = format!("busy{line_end}{line_end}data: forged{line_end}{line_end}");
        backend.answer_json("/connect", json!({"error": {"code": 1000, "message": message, "temporary": true}}));
        let request = get(hub.address, "/v1/channels/news/events", &[]);
        let response = http::exchange(hub.address, request.as_bytes()).await;
        assert_eq!(reconnection(&response).0, "busy", "{line_end:?}");
    }
    // A refusal that stays is a status, after which the browser gives up.
    backend.answer_json("/connect", json!({"error": {"code": 1000, "message": "banned"}}));
    let request = get(hub.address, "/v1/channels/news/events", &[]);
    assert_eq!(http::exchange(hub.address, request.as_bytes()).await.status, 403);
}

#[actix_rt::test]
async fn ticket_of_an_event_source_stays_unused_while_the_subscribe_hook_is_unavailable() {
    let backend = Backend::start().await;
    let hub = hooks::start(&backend, |_| ()).await;
    let path = format!("/v1/channels/ask:1/events?ticket={}", request_ticket(&hub, &hub.token("ann")).await);
    let request = get(hub.address, &path, &[]);
    backend.answer("/subscribe", Answer::Raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec()));
    for _ in 0..2 {
        reconnection(&http::exchange(hub.address, request.as_bytes()).await);
    }
    backend.answer_json("/subscribe", json!({"result": {}}));
    let mut client = StreamClient::events(hub.address, &path, &[]).await;
    assert_eq!(client.event().await.name, "subscribe");
    assert_eq!(http::exchange(hub.address, request.as_bytes()).await.status, 401, "used up");
    // A refusal that stays uses it up, too.
    let path = format!("/v1/channels/ask:1/events?ticket={}", request_ticket(&hub, &hub.token("ann")).await);
    let request = get(hub.address, &path, &[]);
    backend.answer_json("/subscribe", json!({"error": {"code": 403, "message": "no"}}));
    for expected in [403, 401] {
        assert_eq!(http::exchange(hub.address, request.as_bytes()).await.status, expected);
    }
}

/// Each asks the backend, and one of them opens the stream.
#[actix_rt::test]
async fn simultaneous_event_sources_with_one_ticket_open_one_stream() {
    let backend = Backend::start().await;
    let hub = hooks::start(&backend, |_| ()).await;
    backend.answer_json("/subscribe", json!({"result": {}}));
    let path = format!("/v1/channels/ask:1/events?ticket={}", request_ticket(&hub, &hub.token("ann")).await);
    let request = get(hub.address, &path, &[]);
    let streams = join_all((0..10).map(|_| StreamClient::open(hub.address, request.as_bytes(), b"\n\n"))).await;
    let statuses: Vec<u16> = streams.iter().map(|stream| stream.head.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 401].contains(status)), "{statuses:?}");
}
