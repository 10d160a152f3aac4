//! Events for the backend from several nodes on one Redis: nodes that are killed, a Redis that is lost, a backend that is down.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use wardcast::config::{EventType, HookEndpoint};

use crate::support::{
    backend::{Answer, Backend},
    node::{Node, start_nodes},
    poll_until,
    redis::{PrefixedRedis, RedisForm, RedisServer},
    start_hub_on,
};

const PATH: &str = "/events";

/// Settings of nodes that send these events, and notice soon that another one is lost.
fn settings(backend: &Backend, types: &str) -> Vec<String> {
    vec![
        format!("hooks.events.endpoint={}", backend.url(PATH)),
        format!("hooks.events.types={types}"),
        "hooks.events.timeout=500ms".to_owned(),
        "hooks.events.retry_delay=200ms".to_owned(),
        "hooks.events.vacated_delay=100ms".to_owned(),
        "hooks.events.batch=10".to_owned(),
        "hooks.pause=200ms".to_owned(),
        "broker.redis.heartbeat_interval=300ms".to_owned(),
        "channels.allow_subscribe=user".to_owned(),
        "limits.commands_per_second=0".to_owned(),
    ]
}

async fn start<const COUNT: usize>(backend: &Backend, types: &str) -> (PrefixedRedis, [Node; COUNT]) {
    start_on(RedisForm::one_server().await, backend, types).await
}

async fn start_on<const COUNT: usize>(
    redis: RedisForm,
    backend: &Backend,
    types: &str,
) -> (PrefixedRedis, [Node; COUNT]) {
    backend.answer_json(PATH, json!({}));
    let redis = PrefixedRedis::whole(redis);
    let settings = settings(backend, types);
    let nodes = start_nodes(&redis, &settings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    (redis, nodes)
}

/// The types of the events of a channel, in their order.
fn of_channel(backend: &Backend, channel: &str) -> Vec<String> {
    let events = backend.events(PATH);
    let of_it = events.iter().filter(|event| event["channel"] == channel);
    of_it.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

fn unavailable() -> Answer {
    Answer::Raw(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec())
}

#[actix_rt::test]
async fn killed_node_and_backend_that_is_down_lose_no_end_and_keep_the_order_of_each_user() {
    lose_a_node_and_the_backend(RedisForm::one_server().await).await;
}

#[actix_rt::test]
async fn killed_node_and_backend_that_is_down_lose_no_end_over_several_servers() {
    lose_a_node_and_the_backend(RedisForm::several_servers().await).await;
}

async fn lose_a_node_and_the_backend(redis: RedisForm) {
    let backend = Backend::start().await;
    let (_redis, mut nodes) = start_on::<3>(redis, &backend, r#"["connect", "disconnect"]"#).await;
    backend.answer(PATH, unavailable());
    let mut open: Vec<HashMap<String, Vec<_>>> = vec![HashMap::new(), HashMap::new(), HashMap::new()];
    for round in 0..4 {
        for user in 0..10 {
            let name = format!("user-{user}");
            for (node, open) in nodes.iter().zip(&mut open) {
                let (client, greeting) = node.connect_with_claims(json!({"sub": name, "exp": 3600})).await;
                let of_user = open.entry(name.clone()).or_default();
                of_user.push((client, greeting["client"].clone()));
                // Half of the sessions end while the backend is down.
                if round % 2 == 1 {
                    of_user.remove(0);
                }
            }
        }
    }
    // 120 begins, and 60 ends on each of which the broker has heard before the kill.
    let waiting = async |node: &Node| node.metric("wardcast_hook_events_waiting").await;
    poll_until("180 events wait", async || waiting(&nodes[1]).await == 180.0).await;
    nodes[0].kill();
    let last = open.remove(0);
    // One of the two others tells the ends of its sessions, or each some of them.
    poll_until("200 events wait", async || waiting(&nodes[1]).await == 200.0).await;
    assert!(backend.events(PATH).is_empty());
    backend.answer_json(PATH, json!({}));
    backend.wait_for_events(PATH, 200).await;
    drop(open);
    let events = backend.wait_for_events(PATH, 240).await;
    assert_eq!(events.len(), 240);
    let mut begun: HashMap<&str, Vec<&Value>> = HashMap::new();
    let mut ended = 0;
    for event in &events {
        let begun = begun.entry(event["user"].as_str().unwrap()).or_default();
        if event["type"] == "connect" {
            begun.push(&event["client"]);
        } else {
            let place = begun.iter().position(|client| **client == event["client"]);
            begun.remove(place.expect("its begin was told before"));
            ended += 1;
        }
    }
    assert_eq!(ended, 120);
    assert!(begun.values().all(Vec::is_empty));
    // What ended one after the other on one node is told in this order.
    for user in 0..10 {
        let of_user = events.iter().filter(|event| event["user"] == format!("user-{user}"));
        let mut times: HashMap<&str, Vec<i64>> = HashMap::new();
        for event in of_user.filter(|event| event["reason"] != "the node was lost") {
            times.entry(event["node"].as_str().unwrap()).or_default().push(event["time"].as_i64().unwrap());
        }
        assert!(times.values().all(|times| times.is_sorted()), "{times:?}");
    }
    let lost: Vec<&Value> = events.iter().filter(|event| event["reason"] == "the node was lost").collect();
    let clients: Vec<&Value> = last.values().flatten().map(|(_, client)| client).collect();
    assert_eq!(lost.len(), 20);
    assert!(lost.iter().all(|event| event["code"].is_null() && clients.contains(&&event["client"])));
}

#[actix_rt::test]
async fn ends_of_a_killed_node_are_told_although_the_node_that_was_telling_them_has_died_too() {
    let backend = Backend::start().await;
    let (redis, mut nodes) = start::<2>(&backend, r#"["connect", "disconnect"]"#).await;
    let (_client, greeting) = nodes[0].connect_with_claims(json!({"sub": "ann", "exp": 3600})).await;
    backend.wait_for_events(PATH, 1).await;
    let server = &redis.form.masters()[0];
    let keys = server.run::<Vec<String>>(&["KEYS", "wardcast:{events-*}:sessions:*"]).await;
    let (lane, killed) = keys[0].split_once(":sessions:").unwrap();
    let now: (i64, i64) = server.run(&["TIME"]).await;
    let until = now.0 * 1000 + 4000;
    let fields = [format!("taker:{killed}"), "dead".to_owned(), format!("taken until:{killed}"), until.to_string()];
    let state = format!("{lane}:state");
    let command: Vec<&str> = ["HSET", &state].into_iter().chain(fields.iter().map(String::as_str)).collect();
    server.run::<()>(&command).await;
    nodes[0].kill();
    let events = backend.wait_for_events(PATH, 2).await;
    assert_eq!((&events[1]["client"], &events[1]["reason"]), (&greeting["client"], &json!("the node was lost")));
    assert!(events[1]["time"].as_i64().unwrap() >= until, "{events:?}");
    let fields = async || server.run::<Vec<String>>(&["HKEYS", &state]).await;
    poll_until("the killed node is forgotten", async || !fields().await.iter().any(|field| field.ends_with(killed)))
        .await;
}

#[actix_rt::test]
async fn channel_is_occupied_and_vacated_once_for_all_nodes_also_if_one_is_killed() {
    occupy_and_vacate_on_nodes(RedisForm::one_server().await).await;
}

#[actix_rt::test]
async fn channel_is_occupied_and_vacated_once_for_all_nodes_over_several_servers() {
    occupy_and_vacate_on_nodes(RedisForm::several_servers().await).await;
}

async fn occupy_and_vacate_on_nodes(redis: RedisForm) {
    let backend = Backend::start().await;
    let (_redis, mut nodes) = start_on::<3>(redis, &backend, r#"["occupied", "vacated"]"#).await;
    let one = nodes[0].connect_subscriber("ann", "news").await;
    backend.wait_for_events(PATH, 1).await;
    let mut two = nodes[1].connect_subscriber("bob", "news").await;
    let _three = nodes[0].connect_subscriber("eve", "killed").await;
    backend.wait_for_events(PATH, 2).await;
    let moved = nodes[0].connect_subscriber("ann", "moved").await;
    backend.wait_for_events(PATH, 3).await;
    drop(moved);
    let moved = nodes[1].connect_subscriber("ann", "moved").await;
    drop(one);
    // Its turn comes after that of the others.
    drop(nodes[0].connect_subscriber("ann", "after").await);
    backend.wait_for_events(PATH, 5).await;
    assert_eq!(of_channel(&backend, "after"), ["occupied", "vacated"]);
    nodes[0].kill();
    backend.wait_for_events(PATH, 6).await;
    assert_eq!(of_channel(&backend, "killed"), ["occupied", "vacated"]);
    for channel in ["news", "moved"] {
        assert_eq!(of_channel(&backend, channel), ["occupied"], "{channel}");
    }
    drop(moved);
    two.request(json!({"id": 9, "unsubscribe": {"channel": "news"}})).await;
    backend.wait_for_events(PATH, 8).await;
    for channel in ["news", "moved"] {
        assert_eq!(of_channel(&backend, channel), ["occupied", "vacated"], "{channel}");
    }
}

#[actix_rt::test]
async fn node_that_was_frozen_for_long_tells_the_ends_of_its_sessions_again() {
    let backend = Backend::start().await;
    let (_redis, nodes) = start::<2>(&backend, r#"["connect", "disconnect"]"#).await;
    let (client, greeting) = nodes[0].connect_with_claims(json!({"sub": "ann", "exp": 3600})).await;
    // The others know the session when its begin is told.
    backend.wait_for_events(PATH, 1).await;
    nodes[0].freeze();
    let events = backend.wait_for_events(PATH, 2).await;
    assert_eq!((&events[1]["type"], &events[1]["client"]), (&json!("disconnect"), &greeting["client"]));
    nodes[0].resume();
    // What it has stored again is taken over if it is lost for good, so it is told when it ends.
    drop(client);
    let events = backend.wait_for_events(PATH, 3).await;
    assert_eq!((&events[2]["client"], &events[2]["reason"]), (&greeting["client"], &json!("the connection was lost")));
}

#[actix_rt::test]
async fn stopping_node_tells_its_ends_and_leaves_nothing_for_others() {
    let backend = Backend::start().await;
    let (redis, nodes) = start::<2>(&backend, r#"["disconnect"]"#).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(nodes[0].connect(&format!("user-{number}")).await);
    }
    let [stopping, staying] = nodes;
    stopping.begin_stop();
    for client in &mut clients {
        client.wait_for_close().await;
    }
    stopping.wait_for_exit();
    let events = backend.wait_for_events(PATH, 20).await;
    assert!(events.iter().all(|event| event["code"] == 3001), "{events:?}");
    let registered = async || redis.form.masters()[0].run::<usize>(&["ZCARD", "wardcast:{events-0}:nodes"]).await;
    poll_until("the registration of the stopped node has expired", async || registered().await == 1).await;
    let taken_over = "wardcast_hook_events_total{outcome=\"queued\"}";
    assert_eq!(staying.metric(taken_over).await, 0.0);
}

#[actix_rt::test]
async fn redis_that_comes_back_empty_loses_no_end_of_an_open_session() {
    let backend = Backend::start().await;
    backend.answer_json(PATH, json!({}));
    let mut redis = RedisServer::start().await;
    let hub = start_hub_on(&redis, |config| {
        config.hooks.events.endpoint = HookEndpoint::parse(&backend.url(PATH)).ok();
        config.hooks.events.types = vec![EventType::Connect, EventType::Disconnect];
        config.broker.redis.heartbeat_interval = Duration::from_millis(100);
    })
    .await;
    let before = hub.connect("ann").await;
    let kept = hub.connect("bob").await;
    backend.wait_for_events(PATH, 2).await;
    redis.kill();
    hub.wait_for_broker(false).await;
    drop(before);
    hub.wait_for_connections(1).await;
    redis.restart().await;
    let events = backend.wait_for_events(PATH, 3).await;
    assert_eq!((&events[2]["type"], &events[2]["user"]), (&json!("disconnect"), &json!("ann")));
    let stored = async || {
        let mut sessions = 0;
        for key in redis.run::<Vec<String>>(&["KEYS", "wardcast:{events-*}:sessions:*"]).await {
            sessions += redis.run::<usize>(&["HLEN", &key]).await;
        }
        sessions
    };
    poll_until("the open session is stored again", async || stored().await == 1).await;
    drop(kept);
    backend.wait_for_events(PATH, 4).await;
}
