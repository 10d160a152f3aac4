//! Events for the backend: sessions, subscriptions and channels that begin and end.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use wardcast::config::{Config, EventType, HookEndpoint, Secret};

use crate::support::{
    Client, TestHub, allow_any_rate,
    backend::{Answer, Backend},
    poll_until,
    redis::RedisServer,
    start_hub_on, start_hub_with,
};

pub const PATH: &str = "/events";

fn endpoint(backend: &Backend) -> Option<HookEndpoint> {
    HookEndpoint::parse(&backend.url(PATH)).ok()
}

/// A hub that sends these events to a backend that accepts them.
pub async fn start(backend: &Backend, types: &[EventType], change: impl FnOnce(&mut Config)) -> TestHub {
    backend.answer_json(PATH, json!({}));
    start_hub_with(|config| {
        config.hooks.events.endpoint = endpoint(backend);
        config.hooks.events.types = types.to_vec();
        config.hooks.events.vacated_delay = Duration::from_millis(50);
        allow_any_rate(config);
        change(config);
    })
    .await
}

/// The types of the events of a user or a channel, in their order.
fn types(events: &[Value], member: &str, value: &str) -> Vec<String> {
    let of_it = events.iter().filter(|event| event[member] == value && (member == "user" || event["user"].is_null()));
    of_it.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

/// Closes a connection in order.
pub async fn leave(mut client: Client) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    client.send_message(Message::Close(Some(frame))).await;
    client.wait_for_close().await;
}

#[actix_rt::test]
async fn backend_gets_what_begins_and_ends_in_order() {
    let backend = Backend::start().await;
    let hub = start(&backend, &EventType::ALL, |config| config.hooks.events.client_address = true).await;
    let (mut ann, greeting) = hub.connect_with_claims(json!({"sub": "ann", "exp": 3600})).await;
    ann.subscribe("news").await;
    ann.subscribe("other").await;
    ann.request(json!({"id": 9, "unsubscribe": {"channel": "other"}})).await;
    leave(ann).await;
    // connect, two subscribe, unsubscribe, disconnect; two occupied, two vacated.
    let events = backend.wait_for_events(PATH, 9).await;
    assert_eq!(types(&events, "user", "ann"), ["connect", "subscribe", "subscribe", "unsubscribe", "disconnect"]);
    assert_eq!(types(&events, "channel", "news"), ["occupied", "vacated"]);
    assert_eq!(types(&events, "channel", "other"), ["occupied", "vacated"]);
    let of_type = |name: &str| events.iter().find(|event| event["type"] == name).unwrap();
    let (connect, disconnect) = (of_type("connect"), of_type("disconnect"));
    for event in [connect, disconnect] {
        assert_eq!(event["client"], greeting["client"]);
        assert_eq!((&event["transport"], &event["protocol"]), (&json!("websocket"), &json!("json")));
        assert_eq!(event["address"], "127.0.0.1");
    }
    assert_eq!((&disconnect["code"], &disconnect["reason"]), (&json!(1000), &json!("closed by the client")));
    assert_eq!(disconnect["connected_at"], connect["time"]);
    let unsubscribe = of_type("unsubscribe");
    assert_eq!((&unsubscribe["channel"], &unsubscribe["code"]), (&json!("other"), &Value::Null));
    let ids: HashSet<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    let nodes: HashSet<&str> = events.iter().map(|event| event["node"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), nodes.len()), (9, 1));
    assert_eq!(hub.metric("wardcast_hook_events_total{outcome=\"sent\"}").await, 9.0);
    assert_eq!(hub.metric("wardcast_hook_events_total{outcome=\"queued\"}").await, 9.0);
    assert_eq!(hub.metric("wardcast_hook_events_waiting").await, 0.0);
}

#[actix_rt::test]
async fn any_success_accepts_events_and_keeps_the_connection() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Disconnect], |_| ()).await;
    let answers = [
        "204 No Content\r\n\r\n",
        "202 Accepted\r\ncontent-length: 2\r\n\r\n{}",
        "201 Created\r\ncontent-length: 0\r\n\r\n",
    ];
    for number in 0..9 {
        backend.answer(PATH, Answer::Kept(format!("HTTP/1.1 {}", answers[number % 3]).into_bytes()));
        drop(hub.connect("ann").await);
        backend.wait_for_events(PATH, number + 1).await;
    }
    assert_eq!((backend.connections(), backend.calls(PATH).len()), (1, 9));
}

#[actix_rt::test]
async fn end_by_the_server_has_code_and_reason_and_only_the_wanted_events_are_sent() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Disconnect, EventType::Unsubscribe], |_| ()).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    ann.subscribe("other").await;
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "other"})).await;
    backend.wait_for_events(PATH, 1).await;
    hub.call_api("disconnect", json!({"user": "ann", "disconnect": {"code": 4501, "reason": "banned"}})).await;
    assert_eq!(ann.wait_for_close().await, (Some(4501), "banned".to_owned()));
    let events = backend.wait_for_events(PATH, 2).await;
    let shown: Vec<_> = events.iter().map(|event| (&event["type"], &event["code"], &event["reason"])).collect();
    let unsubscribed = (&json!("unsubscribe"), &json!(2000), &json!("unsubscribed by the server"));
    assert_eq!(shown, [unsubscribed, (&json!("disconnect"), &json!(4501), &json!("banned"))]);
    assert!(events[1].get("address").is_none(), "it is only sent if it is asked for");
}

#[actix_rt::test]
async fn channel_is_occupied_once_and_vacated_when_its_subscribers_stay_away() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Occupied, EventType::Vacated], |config| {
        config.hooks.events.vacated_delay = Duration::from_secs(3600);
    })
    .await;
    // On both workers, again and again.
    for _ in 0..3 {
        let clients = [hub.connect_subscriber("ann", "news").await, hub.connect_subscriber("bob", "news").await];
        for client in clients {
            leave(client).await;
        }
    }
    let mut last = hub.connect_subscriber("ann", "last").await;
    let told = backend.wait_for_events(PATH, 2).await;
    assert_eq!(types(&told, "channel", "news"), ["occupied"]);
    last.request(json!({"id": 9, "unsubscribe": {"channel": "last"}})).await;
    drop(last);
    // A stop without other nodes vacates what has no subscribers.
    hub.stop().await;
    let told = backend.events(PATH);
    for channel in ["news", "last"] {
        assert_eq!(types(&told, "channel", channel), ["occupied", "vacated"]);
    }
}

#[actix_rt::test]
async fn backend_that_is_down_gets_every_end_later_in_order_and_costs_sessions_nothing() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Connect, EventType::Disconnect], |config| {
        config.hooks.events.timeout = Duration::from_millis(200);
        config.hooks.events.retry_delay = Duration::from_millis(200);
        config.hooks.events.batch = 7;
        (config.hooks.failures, config.hooks.pause) = (3, Duration::from_millis(300));
    })
    .await;
    backend.answer(PATH, Answer::Raw(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec()));
    for number in 0..60 {
        leave(hub.connect(&format!("user-{}", number % 5)).await).await;
    }
    backend.answer(PATH, Answer::Silence);
    poll_until("a timeout", async || {
        hub.metric("wardcast_hook_calls_total{hook=\"events\",outcome=\"timeout\"}").await > 0.0
    })
    .await;
    backend.answer_json(PATH, json!({"accepted": true}));
    let accepted = backend.wait_for_events(PATH, 120).await;
    assert_eq!(accepted.len(), 120);
    let calls = backend.calls(PATH);
    assert!(calls.iter().all(|call| (1..=7).contains(&call.json()["events"].as_array().unwrap().len())));
    for user in 0..5 {
        let of_user: Vec<&Value> = accepted.iter().filter(|event| event["user"] == format!("user-{user}")).collect();
        assert_eq!(of_user.len(), 24);
        for pair in of_user.chunks(2) {
            assert_eq!((&pair[0]["type"], &pair[1]["type"]), (&json!("connect"), &json!("disconnect")));
            assert_eq!(pair[0]["client"], pair[1]["client"]);
        }
        assert!(of_user.is_sorted_by_key(|event| event["time"].as_i64().unwrap()));
    }
}

#[actix_rt::test]
async fn events_above_the_bound_are_dropped_and_counted_and_the_first_ones_stay() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Disconnect], |config| {
        config.hooks.events.outbox = 40;
        config.hooks.events.retry_delay = Duration::from_millis(100);
    })
    .await;
    backend.answer(PATH, Answer::Raw(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_vec()));
    for _ in 0..20 {
        leave(hub.connect("ann").await).await;
    }
    // An eighth of the outbox for one user.
    let dropped = "wardcast_hook_events_total{outcome=\"dropped\"}";
    poll_until("15 dropped events", async || hub.metric(dropped).await == 15.0).await;
    backend.answer_json(PATH, json!({}));
    let sent = "wardcast_hook_events_total{outcome=\"sent\"}";
    poll_until("5 events", async || hub.metric(sent).await == 5.0).await;
    leave(hub.connect("ann").await).await;
    poll_until("one more event", async || hub.metric(sent).await == 6.0).await;
}

/// An answer with this status and no body.
pub fn status(line: &str) -> Answer {
    Answer::Raw(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").into_bytes())
}

#[actix_rt::test]
async fn failing_backend_gets_one_call_a_pause_and_each_repeated_call_has_a_signature_of_its_own_time() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Disconnect], |config| {
        (config.hooks.failures, config.hooks.pause) = (3, Duration::from_secs(600));
        config.hooks.events.retry_delay = Duration::from_millis(100);
        config.hooks.secret = Secret::new(crate::support::mark_secret("the secret of the events: 32 bytes or more"));
    })
    .await;
    backend.answer(PATH, status("503 Service Unavailable"));
    leave(hub.connect("ann").await).await;
    backend.wait_for_calls(PATH, 3).await;
    // Many retries would fit into this time.
    let quiet = Duration::from_secs(1);
    tokio::time::sleep(quiet).await;
    assert_eq!(backend.calls(PATH).len(), 3, "paused after hooks.failures");
    hub.clock.advance(Duration::from_secs(601));
    backend.wait_for_calls(PATH, 4).await;
    tokio::time::sleep(quiet).await;
    assert_eq!(backend.calls(PATH).len(), 4, "one call a pause");
    backend.answer_json(PATH, json!({}));
    hub.clock.advance(Duration::from_secs(601));
    backend.wait_for_events(PATH, 1).await;
    let signed_at: Vec<i64> = backend
        .calls(PATH)
        .iter()
        .map(|call| {
            let signature = call.headers("x-wardcast-signature")[0];
            signature.strip_prefix("t=").unwrap().split_once(',').unwrap().0.parse().unwrap()
        })
        .collect();
    assert!(signed_at[3] - signed_at[2] >= 600 && signed_at[4] - signed_at[3] >= 600, "{signed_at:?}");
}

#[actix_rt::test]
async fn ends_above_the_queue_of_the_node_are_dropped_and_counted_while_the_broker_hangs() {
    let (backend, redis) = (Backend::start().await, RedisServer::start().await);
    backend.answer_json(PATH, json!({}));
    let hub = start_hub_on(&redis, |config| {
        config.hooks.events.endpoint = endpoint(&backend);
        config.hooks.events.types = vec![EventType::Disconnect];
        config.hooks.events.queue = 4;
        allow_any_rate(config);
    })
    .await;
    leave(hub.connect("ann").await).await;
    backend.wait_for_events(PATH, 1).await;
    redis.freeze();
    let dropped = async || hub.metric("wardcast_hook_events_total{outcome=\"dropped\"}").await;
    // Whenever a call fails, what waits leaves the queue for the next one: on a busy machine fewer are dropped.
    let mut ends = 1;
    while dropped().await < 10.0 {
        assert!(ends < 1000, "hardly any were dropped");
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(hub.connect("ann").await);
        }
        for client in clients {
            leave(client).await;
        }
        ends += 20;
    }
    redis.resume();
    hub.wait_for_broker(true).await;
    leave(hub.connect("last").await).await;
    poll_until("the end after the outage", async || backend.events(PATH).iter().any(|event| event["user"] == "last"))
        .await;
    poll_until("every end is told or counted as dropped", async || {
        backend.events(PATH).len() as f64 + dropped().await >= f64::from(ends + 1)
    })
    .await;
    let stored = async || redis.run::<Vec<String>>(&["KEYS", "wardcast:{events-*}:sessions:*"]).await;
    poll_until("no session is stored as open", async || stored().await.is_empty()).await;
}

/// The first code block of a language in docs/hooks.md.
fn documented(language: &str) -> &'static str {
    let page = include_str!("../docs/hooks.md");
    let code = page.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    code.expect("a code block")
}

#[actix_rt::test]
async fn documented_code_accepts_calls_of_the_hub_and_no_others() {
    let backend = Backend::start().await;
    let (secret, previous) = ("9f2a6c81e07b4d36a8c1f4e2b7093d65", "1d7e5b0394ac4f28be60d2c58a1f7e93");
    let hub = start(&backend, &[EventType::Disconnect], |config| {
        (config.hooks.secret, config.hooks.previous_secret) = (Secret::new(secret), Secret::new(previous));
    })
    .await;
    leave(hub.connect("ann").await).await;
    backend.wait_for_events(PATH, 1).await;
    let call = backend.calls(PATH).remove(0);
    let signature = call.headers("x-wardcast-signature")[0].to_owned();
    let (time, codes) = signature.split_once(',').unwrap();
    let old = format!("t={},{codes}", time[2..].parse::<u64>().unwrap() - 301);
    let cases: Vec<(&str, &str, String, bool)> = vec![
        (secret, &signature, call.body.clone(), true),
        (previous, &signature, call.body.clone(), true),
        ("another secret", &signature, call.body.clone(), false),
        (secret, &signature, call.body.replace("ann", "bob"), false),
        (secret, &old, call.body.clone(), false),
        (secret, time, call.body.clone(), false),
        (secret, "", call.body.clone(), false),
        (secret, "t=x,v1,v1=zz,=", call.body.clone(), false),
    ];
    let asked: Vec<Value> = cases.iter().map(|(secret, signature, body, _)| json!([secret, signature, body])).collect();
    let expected: Vec<bool> = cases.iter().map(|(.., is_accepted)| *is_accepted).collect();
    let asked = Value::from(asked).to_string();
    let python = format!(
        "{}\nimport json, sys\nprint(json.dumps([is_from_hub(s.encode(), g, b.encode()) for s, g, b in json.loads(sys.argv[1])]))",
        documented("python")
    );
    let javascript = format!(
        "{}\nconsole.log(JSON.stringify(JSON.parse(process.argv[1]).map(([s, g, b]) => isFromHub(s, g, b))));",
        documented("javascript")
    );
    let programs: [(&str, Vec<&str>); 2] =
        [("python3", vec!["-c", &python]), ("node", vec!["--input-type=module", "-e", &javascript])];
    for (program, arguments) in programs {
        let output = std::process::Command::new(program).args(arguments).arg(&asked).output().unwrap();
        let answer: Result<Vec<bool>, _> = serde_json::from_slice(&output.stdout);
        assert_eq!(answer.ok().as_ref(), Some(&expected), "{program}: {output:?}");
    }
}
