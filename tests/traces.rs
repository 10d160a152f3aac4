//! Live traces: `GET /v1/trace` sends what happens to a user, a connection or a channel on any node.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    hooks,
    support::{
        API_KEY, Client, TestHub, backend::Backend, http, poll_until, redis::RedisServer, start_hub_on, start_hub_with,
        stream,
    },
};

/// A trace that is being read.
pub struct Trace {
    stream: TcpStream,
    received: String,
}

impl Trace {
    /// Begins a trace, and waits until the nodes note events for it.
    async fn begin(hub: &TestHub, query: &str) -> Self {
        Self::begin_with(hub, query, &[("X-API-Key", API_KEY)]).await
    }

    /// The same with other headers than the API key.
    pub async fn begin_with(hub: &TestHub, query: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let head = stream::get(hub.address, &format!("/v1/trace?{query}"), headers);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut trace = Self { stream, received: String::new() };
        trace.read_until("the trace has begun").await;
        assert!(trace.received.contains("content-type: text/event-stream"), "{}", trace.received);
        trace
    }

    /// Reads until the text has come; returns everything so far.
    pub async fn read_until(&mut self, text: &str) -> &str {
        stream::read_more_until(&mut self.stream, &mut self.received, text).await;
        &self.received
    }

    /// The events that have come so far.
    fn events(&self) -> Vec<Value> {
        let data = self.received.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|json| serde_json::from_str(json).unwrap()).collect()
    }

    fn names(&self) -> Vec<String> {
        self.events().iter().map(|event| event["event"].as_str().unwrap_or("end").to_owned()).collect()
    }
}

/// Connects a client and subscribes it to a channel with a history.
async fn connect_subscriber(hub: &TestHub, user: &str, channel: &str) -> Client {
    let mut client = hub.connect(user).await;
    client.subscribe_with(channel, json!({})).await;
    client
}

#[actix_rt::test]
async fn trace_of_a_user_shows_what_happens_on_another_node() {
    let redis = RedisServer::start().await;
    let start = async || start_hub_on(&redis, |config| config.channels.history_size = 5).await;
    let (one, two) = (start().await, start().await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    let mut trace = Trace::begin(&one, "user=ann").await;
    let mut ann = connect_subscriber(&two, "ann", "news").await;
    let _bob = connect_subscriber(&two, "bob", "news").await;
    ann.request(json!({"id": 5, "subscribe": {"channel": "$private"}})).await;
    ann.request(json!({"id": 6, "unsubscribe": {"channel": "news"}})).await;
    one.call_api("disconnect", json!({"user": "ann"})).await;
    trace.read_until("\"event\":\"disconnected\"").await;
    assert_eq!(trace.names(), ["connected", "subscribed", "subscribe_refused", "unsubscribed", "disconnected"]);
    let events = trace.events();
    let info = one.call_api("info", json!({})).await;
    let uids: Vec<&Value> = info["result"]["nodes"].as_array().unwrap().iter().map(|node| &node["uid"]).collect();
    for event in &events {
        assert!(event["user"] == "ann" && event["time"].is_i64() && uids.contains(&&event["node"]["uid"]), "{event}");
    }
    assert_eq!(
        (&events[1]["channel"], &events[2]["code"], &events[4]["code"]),
        (&json!("news"), &json!(103), &json!(3503))
    );
}

/// The commands of a group are handled again when the hook has answered.
#[actix_rt::test]
async fn refused_subscribe_commands_are_told_once_each_also_beside_questions_to_the_hook() {
    let backend = Backend::start().await;
    backend.answer_json("/subscribe", json!({"result": {}}));
    let hub = hooks::start(&backend, |_| ()).await;
    let mut ann = hub.connect("ann").await;
    let mut trace = Trace::begin(&hub, "user=ann").await;
    let channels = ["$one", "ask:1", "$two", "news", "$three"];
    let commands = (1..).zip(channels).map(|(id, channel)| json!({"id": id, "subscribe": {"channel": channel}}));
    let lines: Vec<String> = commands.map(|command| command.to_string()).collect();
    ann.send_text(&lines.join("\n")).await;
    for id in 1..=5 {
        assert_eq!(ann.receive().await["id"], id);
    }
    ann.request(json!({"id": 6, "unsubscribe": {"channel": "news"}})).await;
    trace.read_until("\"event\":\"unsubscribed\"").await;
    let (events, refused) = (trace.events(), |event: &&Value| event["event"] == "subscribe_refused");
    let of_channels: Vec<&Value> = events.iter().filter(refused).map(|event| &event["channel"]).collect();
    assert_eq!(of_channels, ["$one", "$two", "$three"], "{events:?}");
}

#[actix_rt::test]
async fn trace_of_a_channel_shows_its_publications_and_subscribers_and_no_others() {
    let hub = start_hub_with(|config| {
        config.server.workers = 1;
        config.channels.history_size = 5;
    })
    .await;
    let mut trace = Trace::begin(&hub, "channel=odd%20%22%C3%A9%2F").await;
    let mut ann = hub.connect("ann").await;
    for channel in ["other", "odd \"é/"] {
        ann.subscribe_with(channel, json!({})).await;
        hub.publish(channel, json!("secret data")).await;
        ann.receive_publication().await;
    }
    trace.read_until("\"event\":\"delivered\"").await;
    assert_eq!(trace.names(), ["subscribed", "delivered"], "{}", trace.received);
    let delivered = &trace.events()[1];
    assert_eq!(
        (&delivered["offset"], &delivered["num_clients"], &delivered["bytes"]),
        (&json!(1), &json!(1), &json!(13))
    );
    assert!(!trace.received.contains("secret data"), "a trace has no data");
}

#[actix_rt::test]
async fn traces_are_limited_in_number_and_time_and_end_with_the_reason() {
    let hub = start_hub_with(|config| {
        config.api.traces = 2;
        config.api.trace_duration = std::time::Duration::from_millis(1500);
    })
    .await;
    let mut traces = [Trace::begin(&hub, "user=ann").await, Trace::begin(&hub, "user=ann").await];
    let request = || http::get(hub.address, "/v1/trace?user=ann").header("X-API-Key", API_KEY);
    assert_eq!(request().send().await.status, 503);
    for trace in &mut traces {
        trace.read_until("event: end\ndata: {\"reason\":\"api.trace_duration is over\"}").await;
    }
    // Their permits are free when their responses have ended.
    poll_until("a trace has room", async || {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        let head = format!("GET /v1/trace?user=a HTTP/1.1\r\nHost: a\r\nX-API-Key: {API_KEY}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        &status == b"HTTP/1.1 200"
    })
    .await;
}

#[actix_rt::test]
async fn trace_needs_the_api_key_and_one_target() {
    let hub = start_hub_with(|_| {}).await;
    for key in ["", "wrong"] {
        let refused = http::get(hub.address, "/v1/trace?user=ann").header("X-API-Key", key).send().await;
        assert_eq!(refused.status, 401);
    }
    let bearer = hub.bearer("ann");
    assert_eq!(http::get(hub.address, "/v1/trace?user=ann").header("Authorization", &bearer).send().await.status, 401);
    for query in ["", "user=ann&channel=news", "client=x", "channel=a*", "user=%00"] {
        let refused = http::get(hub.address, &format!("/v1/trace?{query}")).header("X-API-Key", API_KEY).send().await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!(107)), "{query}");
    }
}

#[actix_rt::test]
async fn trace_does_not_hold_up_the_stop_of_its_node() {
    let hub = start_hub_with(|_| {}).await;
    let mut trace = Trace::begin(&hub, "user=ann").await;
    let stopped = hub.stop();
    let ended = trace.read_until("the node stops");
    let (_, ()) = futures_util::future::join(ended, stopped).await;
}
