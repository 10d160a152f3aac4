//! Three hubs as processes on one Redis, of which one freezes, is killed or stops: what the server API of another one says.

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use serde_json::{Value, json};

use super::{
    API_KEY, Banner, SIGTERM, connect_with_token,
    process::{Process, wardcast},
};
use crate::support::{http, poll_until, redis::RedisServer};

const SIGCONT: u32 = 18;

struct Node {
    process: Process,
    banner: Banner,
}

/// Starts three hubs that know each other.
async fn start_nodes(redis: &RedisServer, heartbeat_interval: &str) -> [Node; 3] {
    start_nodes_with(redis, heartbeat_interval, &[]).await
}

/// The same with further settings (`key=value`).
async fn start_nodes_with(redis: &RedisServer, heartbeat_interval: &str, settings: &[&str]) -> [Node; 3] {
    let (url, interval) = (redis.url(), format!("broker.redis.heartbeat_interval={heartbeat_interval}"));
    let nodes = [(); 3].map(|()| {
        let settings =
            ["server.bind=127.0.0.1:0", "broker.type=redis", &interval].into_iter().chain(settings.iter().copied());
        let arguments: Vec<&str> = settings.flat_map(|setting| ["--set", setting]).collect();
        let mut command = wardcast(&arguments);
        command.env("WARDCAST_BROKER__REDIS__URL", &url).env("WARDCAST_API__KEY", API_KEY);
        let mut process = Process::start(&mut command);
        Node { banner: process.banner(), process }
    });
    for node in &nodes {
        node.wait_for_nodes(3).await;
    }
    nodes
}

impl Node {
    fn address(&self) -> SocketAddr {
        self.banner.address
    }

    async fn call(&self, method: &str, body: Value) -> Value {
        let request = http::post(self.address(), &format!("/api/{method}")).header("X-API-Key", API_KEY);
        request.body(body.to_string()).send().await.json()
    }

    /// The result of `info`: the ids of the nodes, and those of the unreachable ones.
    async fn info(&self) -> (BTreeSet<String>, Vec<String>) {
        let info = self.call("info", json!({})).await;
        let uids = |nodes: &Value| -> Vec<String> {
            let uid = |node: &Value| node["uid"].as_str().unwrap().to_owned();
            nodes.as_array().map(|nodes| nodes.iter().map(uid).collect()).unwrap_or_default()
        };
        assert!(info["result"].is_object(), "{info}");
        (uids(&info["result"]["nodes"]).into_iter().collect(), uids(&info["result"]["unreachable"]))
    }

    /// Polls, because the process does not report the change.
    async fn wait_for_nodes(&self, count: usize) {
        let line = format!("wardcast_nodes {count}");
        poll_until(&line, async || {
            http::get(self.address(), "/metrics").send().await.body.lines().any(|found| found == line)
        })
        .await;
    }
}

#[actix_rt::test]
async fn frozen_hub_is_named_while_the_others_answer_and_is_back_when_it_continues() {
    let redis = RedisServer::start().await;
    let [first, second, third] = start_nodes(&redis, "5s").await;
    let mut ann = connect_with_token(second.address(), &second.banner.token).await;
    ann.subscribe("news").await;
    let (all, unreachable) = first.info().await;
    assert_eq!((all.len(), unreachable.len()), (3, 0));
    let _bob = connect_with_token(third.address(), &third.banner.token).await;
    let info = third.call("info", json!({})).await;
    let nodes = info["result"]["nodes"].as_array().unwrap();
    let of_third = |node: &&Value| node["num_clients"] == 1 && node["num_subs"] == 0;
    let third_uid = nodes.iter().find(of_third).unwrap()["uid"].as_str().unwrap();

    third.process.freeze();
    let frozen = [third_uid.to_owned()];
    let others: BTreeSet<String> = all.iter().filter(|uid| *uid != third_uid).cloned().collect();
    for round in 1..=3 {
        let since = Instant::now();
        assert_eq!(first.info().await, (others.clone(), frozen.to_vec()));
        let channels = first.call("channels", json!({})).await["result"].clone();
        assert_eq!(channels["channels"], json!({"news": {"num_clients": 1}}), "{channels}");
        assert_eq!(channels["unreachable"][0]["uid"], third_uid, "{channels}");
        println!("round {round}: info and channels took {:?}", since.elapsed());
    }
    let since = Instant::now();
    first.call("publish", json!({"channel": "news", "data": 1})).await;
    assert_eq!(ann.receive_publication().await, json!(1));
    first.call("unsubscribe", json!({"user": "demo", "channel": "news"})).await;
    assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
    first.call("disconnect", json!({"user": "demo"})).await;
    assert_eq!(ann.wait_for_close().await.0, Some(3503));
    println!("publish, unsubscribe and disconnect took {:?}", since.elapsed());

    third.process.signal(SIGCONT);
    poll_until("all three answer", async || first.info().await == (all.clone(), Vec::new())).await;
    poll_until("the third knows all three", async || third.info().await == (all.clone(), Vec::new())).await;
}

#[actix_rt::test]
async fn killed_hub_is_unreachable_until_its_heartbeats_are_missed() {
    let redis = RedisServer::start().await;
    let [first, second, mut third] = start_nodes(&redis, "1s").await;
    third.process.kill();
    let (nodes, unreachable) = first.info().await;
    assert_eq!((nodes.len(), unreachable.len()), (2, 1));
    for node in [&first, &second] {
        node.wait_for_nodes(2).await;
        assert_eq!(node.info().await, (nodes.clone(), Vec::new()));
    }
}

#[actix_rt::test]
async fn stopped_hub_is_gone_at_once_and_never_unreachable() {
    let redis = RedisServer::start().await;
    // Only its goodbye can tell the others within the time of the test, and only a hello let them know each other.
    let [first, second, third] = start_nodes(&redis, "10m").await;
    third.process.signal(SIGTERM);
    let (mut left, mut unreachable) = (BTreeSet::new(), BTreeSet::new());
    for node in [&first, &second] {
        poll_until("two nodes", async || {
            let (nodes, missed) = node.info().await;
            let is_settled = nodes.len() == 2 && missed.is_empty();
            unreachable.extend(missed);
            left = nodes;
            is_settled
        })
        .await;
    }
    // On a busy machine one of the two that go on may answer too late.
    assert!(unreachable.is_subset(&left), "the stopped one was unreachable: {unreachable:?}");
    assert_eq!(third.process.wait_for_exit().code, Some(0));
}

/// As on a busy machine: the goodbye needs longer than half a second.
#[actix_rt::test]
async fn stopping_hub_waits_for_a_slow_redis_until_it_has_said_goodbye() {
    let redis = RedisServer::start().await;
    let settings = ["broker.redis.probe_interval=1m", "server.drain_delay=0s"];
    let [first, second, third] = start_nodes_with(&redis, "10m", &settings).await;
    // Redis runs what it gets during the pause after it, unless the connection has been closed.
    redis.run::<()>(&["CLIENT", "PAUSE", "1500", "WRITE"]).await;
    third.process.signal(SIGTERM);
    assert_eq!(third.process.wait_for_exit().code, Some(0));
    for node in [&first, &second] {
        node.wait_for_nodes(2).await;
    }
}
