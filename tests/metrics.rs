//! `/metrics`: commands and calls by method and result, the lag of the bus, and how full queues are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::json;
use tokio::time::sleep;
use wardcast::{
    config::ChannelAccess,
    metrics::{Metrics, Queue},
};

use crate::support::{
    API_KEY, Client, TestHub,
    backend::{Answer, Backend},
    http, poll_until,
    redis::{PrefixedRedis, RedisForm},
    start_hub, start_hub_over, start_hub_with,
};

/// The counters of this metric that are not 0: the two values of their labels, and the count.
async fn counts(hub: &TestHub, metric: &str) -> BTreeMap<(String, String), u64> {
    let text = http::get(hub.address, "/metrics").send().await.body;
    let lines = text.lines().filter_map(|line| line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} "));
    let counts = lines.map(|(labels, count)| {
        let mut values = labels.split(',').map(|label| label.split('"').nth(1).unwrap().to_owned());
        ((values.next().unwrap(), values.next().unwrap()), count.parse::<u64>().unwrap())
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

fn expected(counts: &[(&str, &str, u64)]) -> BTreeMap<(String, String), u64> {
    counts.iter().map(|(method, result, count)| (((*method).to_owned(), (*result).to_owned()), *count)).collect()
}

const COMMANDS: &str = "wardcast_commands_total";
const API_CALLS: &str = "wardcast_api_calls_total";

#[actix_rt::test]
async fn each_command_is_counted_once_by_method_and_result() {
    let hub = start_hub_with(|config| {
        config.channels.history_size = 5;
        config.channels.allow_history = ChannelAccess::User;
    })
    .await;
    let mut ann = hub.connect_sdk(&hub.token("ann")).await;
    // A group: one subscription that the session gets, one that it has already, and one that it may not have.
    let subscribe = |id, channel| json!({"id": id, "subscribe": {"channel": channel}}).to_string();
    ann.send_text(&[subscribe(2, "news"), subscribe(3, "unknown:1"), subscribe(4, "more")].join("\n")).await;
    for id in [2, 3, 4] {
        assert_eq!(ann.receive().await["id"], id);
    }
    assert_eq!(ann.subscribe_with("news", json!({})).await["error"]["code"], 105);
    for (command, is_ok) in [
        (json!({"id": 5, "publish": {"channel": "other", "data": 1}}), true),
        (json!({"id": 6, "publish": {"channel": "unknown:1", "data": 1}}), false),
        (json!({"id": 7, "history": {"channel": "news", "limit": 1}}), true),
        (json!({"id": 8, "presence": {"channel": "news"}}), false),
        (json!({"id": 9, "unsubscribe": {"channel": "more"}}), true),
        (json!({"id": 10, "ping": {}}), true),
        (json!({"id": 11, "rpc": {"method": "x"}}), false),
        (json!({"id": 12, "subscribe": {"channel": "map", "type": 1}}), false),
    ] {
        let reply = ann.request(command.clone()).await;
        assert_eq!(reply["error"].is_null(), is_ok, "{command}: {reply}");
    }
    ann.send(json!({"send": {"data": 1}})).await;
    ann.wait_for_close().await;
    let mut bob = hub.connect("bob").await;
    bob.send_text("nonsense").await;
    assert_eq!(bob.receive().await["error"]["code"], 107);
    let mut carl = hub.connect_without_token().await;
    carl.send_text(&hub.token_message("carl")).await;
    carl.receive_connect_push().await;
    let mut dave = hub.connect_without_token().await;
    dave.send(json!({"id": 1, "connect": {"token": hub.forged_token("dave")}})).await;
    dave.wait_for_close().await;
    let mut eve = hub.connect_without_token().await;
    let reply = eve.request(json!({"id": 1, "connect": {"token": hub.expired_token("eve")}})).await;
    assert_eq!(reply["error"]["code"], 109, "{reply}");
    // Neither handled nor answered, and so not counted.
    eve.send(json!({"id": 2, "ping": {}})).await;
    let reply = eve.request(json!({"id": 3, "connect": {"token": hub.token("eve")}})).await;
    assert!(reply["connect"].is_object(), "{reply}");
    let expected = expected(&[
        ("connect", "closed", 1),
        ("connect", "error", 1),
        ("connect", "ok", 3),
        ("history", "ok", 1),
        ("ping", "ok", 1),
        ("presence", "error", 1),
        ("publish", "error", 1),
        ("publish", "ok", 1),
        ("rpc", "error", 1),
        ("send", "closed", 1),
        ("subscribe", "error", 2),
        ("subscribe", "ok", 2),
        ("unknown", "error", 2),
        ("unsubscribe", "ok", 1),
    ]);
    assert_eq!(counts(&hub, COMMANDS).await, expected);
}

#[actix_rt::test]
async fn commands_that_a_hook_decides_on_are_counted_once() {
    let backend = Backend::start().await;
    let hub = crate::hooks::start(&backend, |_| {}).await;
    let mut ann = hub.connect("ann").await;
    backend.answer_json("/subscribe", json!({"result": {}}));
    let subscribe = |id| json!({"id": id, "subscribe": {"channel": format!("ask:{id}")}}).to_string();
    ann.send_text(&[subscribe(1), subscribe(2)].join("\n")).await;
    for id in [1, 2] {
        assert!(ann.receive().await["subscribe"].is_object(), "{id}");
    }
    backend.answer_json("/subscribe", json!({"error": {"code": 403, "message": "no"}}));
    assert_eq!(ann.subscribe_with("ask:3", json!({})).await["error"]["code"], 403);
    let expected = expected(&[("subscribe", "error", 1), ("subscribe", "ok", 2)]);
    assert_eq!(counts(&hub, COMMANDS).await, expected);
}

#[actix_rt::test]
async fn command_that_waits_behind_a_new_token_is_counted_once() {
    let hub = start_hub().await;
    let mut ann = hub.connect("ann").await;
    // The hub adds the subscription that the token brings before the command is handled.
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 7_000, "channels": ["more"]}));
    let mut replied = false;
    ann.send(json!({"id": 1, "token": token, "subscribe": {"channel": "news"}})).await;
    while !replied {
        replied = ann.receive().await["id"] == 1;
    }
    assert_eq!(counts(&hub, COMMANDS).await, expected(&[("subscribe", "ok", 1)]));
}

#[actix_rt::test]
async fn each_call_of_the_server_api_is_counted_by_method_and_result() {
    let hub = start_hub().await;
    let call = async |path: &str, key: &str, body: &str| {
        http::post(hub.address, path).header("X-API-Key", key).body(body.to_owned()).send().await.status
    };
    let publish = r#"{"channel":"news","data":1}"#;
    assert_eq!(call("/api/publish", API_KEY, publish).await, 200);
    assert_eq!(call("/api/publish", API_KEY, r#"{"channel":"unknown:1","data":1}"#).await, 200);
    assert_eq!(call("/api/publish", API_KEY, r#"{"channel":7}"#).await, 400);
    assert_eq!(call("/api/nonsense", API_KEY, "{}").await, 404);
    let batch = format!(r#"{{"commands":[{{"publish":{publish}}},{{"nonsense":{{}}}},{{"batch":{{}}}}]}}"#);
    assert_eq!(call("/api/batch", API_KEY, &batch).await, 200);
    assert_eq!(
        call("/api", API_KEY, r#"{"method":"info"}{"method":"history","params":{"channel":"news"}}"#).await,
        200
    );
    let message = http::post(hub.address, "/v1/channels/news/messages").header("X-API-Key", API_KEY);
    assert_eq!(message.json(json!(1)).send().await.status, 200);
    let message = http::post(hub.address, "/v1/channels/unknown:1/messages").header("X-API-Key", API_KEY);
    assert_eq!(message.json(json!(1)).send().await.status, 200);
    // Strangers call nothing.
    assert_eq!(call("/api/publish", "wrong", publish).await, 401);
    call("/api/nonsense", "wrong", "{}").await;
    let expected = expected(&[
        ("batch", "ok", 1),
        ("history", "error", 1),
        ("info", "ok", 1),
        ("publish", "error", 3),
        ("publish", "ok", 3),
        ("unknown", "error", 3),
    ]);
    assert_eq!(counts(&hub, API_CALLS).await, expected);
}

/// The number of probes, and of those that took longer than a quarter of a second.
async fn probes(hub: &TestHub, server: &str) -> (f64, f64) {
    let labels = format!("server=\"{server}\"");
    let all = hub.metric(&format!("wardcast_bus_lag_seconds_count{{{labels}}}")).await;
    let quick = hub.metric(&format!("wardcast_bus_lag_seconds_bucket{{le=\"0.256\",{labels}}}")).await;
    (all, all - quick)
}

#[actix_rt::test]
async fn bus_lag_is_measured_through_each_redis_by_the_probes_of_the_node() {
    let redis = PrefixedRedis::whole(RedisForm::several_servers().await);
    let hub = start_hub_over(&redis, |config| config.broker.redis.probe_interval = Duration::from_secs(1)).await;
    let servers: Vec<String> = redis.form.masters().iter().map(|server| server.address()).collect();
    assert!(servers.len() > 1);
    for server in &servers {
        poll_until(&format!("a probe through {server}"), async || probes(&hub, server).await.0 > 0.0).await;
    }
    // A probe that is sent meanwhile arrives when the server continues.
    let (before, slow_before) = probes(&hub, &servers[0]).await;
    poll_until("the next probe", async || probes(&hub, &servers[0]).await.0 > before).await;
    redis.form.masters()[0].freeze();
    sleep(Duration::from_millis(1500)).await;
    redis.form.masters()[0].resume();
    poll_until("a slow probe", async || probes(&hub, &servers[0]).await.1 > slow_before).await;
}

fn queue(metric: &str, queue: Queue) -> String {
    format!("wardcast_queue_{metric}{{queue=\"{}\"}}", queue.name())
}

#[actix_rt::test]
async fn bytes_for_clients_that_do_not_read_are_in_the_outboxes_until_they_leave() {
    let hub = start_hub_with(|config| config.limits.outbox_bytes = 4 << 20).await;
    let mut slow = hub.connect_raw("slow").await;
    slow.subscribe("news").await;
    let waiting = async || hub.metric(&queue("bytes", Queue::Outboxes)).await;
    assert_eq!(waiting().await, 0.0);
    let data = "x".repeat(60_000);
    // More than the kernels have room for, and less than would close the connection.
    for _ in 0..100 {
        if waiting().await < 600_000.0 {
            hub.publish("news", json!(data)).await;
        }
    }
    assert!((600_000.0..(4 << 20) as f64).contains(&waiting().await));
    drop(slow);
    poll_until("nothing waits", async || waiting().await == 0.0).await;
}

#[actix_rt::test]
async fn calls_that_wait_for_a_hook_fill_its_queue() {
    let backend = Backend::start().await;
    let start = crate::hooks::start(&backend, |config| (config.hooks.rpc.concurrency, config.hooks.waiting) = (1, 4));
    let hub = start.await;
    backend.answer("/rpc", Answer::Silence);
    let entries = async || hub.metric(&queue("entries", Queue::Hooks)).await;
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..3 {
        let mut client = hub.connect(&format!("user{number}")).await;
        client.send(crate::hooks::rpc(1, "x")).await;
        clients.push(client);
    }
    // One is asked, and two wait.
    poll_until("two calls wait", async || entries().await == 2.0).await;
    assert_eq!(hub.metric(&queue("ratio", Queue::Hooks)).await, 0.5, "that of the fullest hook");
    drop(hub);
}

#[actix_rt::test]
async fn commands_that_wait_for_redis_fill_its_queue() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let hub = start_hub_over(&redis, |_| {}).await;
    let mut ann = hub.connect("ann").await;
    let bytes = async || hub.metric(&queue("bytes", Queue::BrokerCommands)).await;
    redis.form.masters()[0].freeze();
    ann.send(json!({"id": 1, "publish": {"channel": "news", "data": "x".repeat(20_000)}})).await;
    poll_until("the publication waits", async || bytes().await >= 20_000.0).await;
    assert!(hub.metric(&queue("ratio", Queue::BrokerCommands)).await > 0.0);
    redis.form.masters()[0].resume();
    assert_eq!(ann.receive().await["id"], 1);
    poll_until("nothing waits", async || bytes().await < 20_000.0).await;
}

#[actix_rt::test]
async fn commands_whose_clients_leave_before_the_answer_are_counted() {
    let backend = Backend::start().await;
    let hub = crate::hooks::start(&backend, |_| {}).await;
    for path in ["/rpc", "/subscribe"] {
        backend.answer(path, Answer::Silence);
    }
    let mut ann = hub.connect("ann").await;
    ann.send(crate::hooks::rpc(1, "x")).await;
    let mut bob = hub.connect("bob").await;
    let subscribe = |id| json!({"id": id, "subscribe": {"channel": format!("ask:{id}")}}).to_string();
    bob.send_text(&[subscribe(1), subscribe(2)].join("\n")).await;
    backend.wait_for_calls("/rpc", 1).await;
    backend.wait_for_calls("/subscribe", 2).await;
    drop((ann, bob));
    for path in ["/rpc", "/subscribe"] {
        backend.answer(path, Answer::Kept(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec()));
    }
    hub.wait_for_connections(0).await;
    assert_eq!(counts(&hub, COMMANDS).await, expected(&[("rpc", "error", 1), ("subscribe", "error", 2)]));
}

/// The names of all series, without their values.
async fn series(hub: &TestHub) -> BTreeSet<String> {
    let text = http::get(hub.address, "/metrics").send().await.body;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[actix_rt::test]
async fn series_are_those_of_the_table_and_do_not_grow_with_channels_and_sessions() {
    let hub = start_hub_with(|config| config.limits.channels_per_session = 500).await;
    let mut first = hub.connect_subscriber("user0", "channel-0").await;
    hub.publish("channel-0", json!(1)).await;
    first.receive_publication().await;
    let before = series(&hub).await;
    let is_known = |series: &String| {
        let name = series.split('{').next().unwrap();
        let is_histogram = |exposed: &str, kind: &str| kind == "histogram" && name.starts_with(exposed);
        Metrics::EXPOSED.iter().any(|(exposed, kind)| *exposed == name || is_histogram(exposed, kind))
    };
    assert!(before.len() > 60 && before.iter().all(is_known), "{before:#?}");
    let mut clients = Vec::new();
    for number in 1..20 {
        let mut client = hub.connect(&format!("user{number}")).await;
        let subscribe = |id| json!({"id": id, "subscribe": {"channel": format!("channel-{number}-{id}")}}).to_string();
        client.send_text(&(1..=20).map(subscribe).collect::<Vec<_>>().join("\n")).await;
        for _ in 1..=20 {
            client.receive().await;
        }
        clients.push(client);
    }
    hub.publish("channel-7-7", json!(1)).await;
    assert_eq!(series(&hub).await, before);
    assert!(hub.metric("wardcast_hub_delay_seconds").await > 0.0);
}
