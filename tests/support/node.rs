//! Nodes: hubs that share a Redis, each of them a process of its own that a test can kill.

use std::ops::Deref;

use futures_util::future::join_all;
use serde_json::{Value, json};
use wardcast::clock::Clock;

use super::{
    API_KEY, SECRET, TestHub, config, poll_until,
    process::{Process, ProcessResult, wardcast},
    redis::PrefixedRedis,
};

const SIGTERM: u32 = 15;
const SIGCONT: u32 = 18;

/// A running node. What concerns the inside of a [`TestHub`] is not available.
pub struct Node {
    hub: TestHub,
    process: Process,
}

impl Node {
    /// Starts a node on this Redis with these settings (`key=value`) and waits until it is ready.
    pub async fn start(redis: &PrefixedRedis, settings: &[&str]) -> Self {
        let node = Self::start_unready(redis, settings);
        poll_until("the node is ready", async || node.is_ready().await).await;
        node
    }

    /// Starts a node on this Redis with these settings (`key=value`) and waits until it listens.
    pub fn start_unready(redis: &PrefixedRedis, settings: &[&str]) -> Self {
        let redis = redis.settings();
        let settings = redis.iter().map(String::as_str).chain(settings.iter().copied());
        let (secret, key) = (format!("auth.hmac_secret={SECRET}"), format!("api.key={API_KEY}"));
        let mut arguments = vec!["serve"];
        for setting in ["server.bind=127.0.0.1:0", "server.workers=2", &secret, &key].into_iter().chain(settings) {
            arguments.extend(["--set", setting]);
        }
        let mut process = Process::start(&mut wardcast(&arguments));
        let banner = process.banner();
        let hub = TestHub { address: banner.address, clock: Clock::default(), config: config(), running: None };
        Self { hub, process }
    }

    /// Waits until the log has a line with this phrase, and returns it.
    pub fn wait_for_log(&self, phrase: &str) -> String {
        self.process.wait_for_log(phrase)
    }

    /// Kills the process, as a crash does. Its connections are reset.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops the process without closing anything.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Continues a frozen process.
    pub fn resume(&self) {
        self.process.signal(SIGCONT);
    }

    /// Begins to stop the node in order.
    pub fn begin_stop(&self) {
        self.process.signal(SIGTERM);
    }

    /// Waits until the node has stopped.
    pub fn wait_for_exit(self) -> ProcessResult {
        self.process.wait_for_exit()
    }

    /// Waits until the node knows so many nodes, itself included.
    pub async fn wait_for_nodes(&self, count: usize) {
        poll_until(&format!("{count} nodes"), async || self.metric("wardcast_nodes").await == count as f64).await;
    }

    /// The `result` of a method of the server API.
    pub async fn call(&self, method: &str, body: Value) -> Value {
        let mut response = self.call_api(method, body).await;
        assert!(response["result"].is_object(), "{method}: {response}");
        response["result"].take()
    }

    /// The offsets and numbers of a whole history, in order.
    pub async fn read_history(&self, channel: &str) -> Vec<(u64, u64)> {
        numbered(&self.call("history", json!({"channel": channel, "limit": -1})).await["publications"])
    }

    /// The users who are present in a channel, in alphabetical order.
    pub async fn present_users(&self, channel: &str) -> Vec<String> {
        let presence = self.call("presence", json!({"channel": channel})).await;
        let members = presence["presence"].as_object().cloned().unwrap_or_default();
        let mut users: Vec<String> = members.values().map(|info| info["user"].as_str().unwrap().to_owned()).collect();
        users.sort();
        users
    }
}

impl Deref for Node {
    type Target = TestHub;

    fn deref(&self) -> &TestHub {
        &self.hub
    }
}

/// Starts nodes on this Redis, and waits until each of them knows all of them.
pub async fn start_nodes<const COUNT: usize>(redis: &PrefixedRedis, settings: &[&str]) -> [Node; COUNT] {
    let nodes = join_all([(); COUNT].map(|()| Node::start(redis, settings))).await;
    for node in &nodes {
        node.wait_for_nodes(COUNT).await;
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!("there are so many"))
}

/// The offset and the number of each of these publications, whose data are numbers.
pub fn numbered(publications: &Value) -> Vec<(u64, u64)> {
    let empty = Vec::new();
    let pair = |publication: &Value| (publication["offset"].as_u64().unwrap(), publication["data"].as_u64().unwrap());
    publications.as_array().unwrap_or(&empty).iter().map(pair).collect()
}
