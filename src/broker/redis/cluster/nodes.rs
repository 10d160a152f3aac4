//! Asks the nodes of a Cluster for its topology, over one connection to each. Any node may be asked, replicas too.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{Client, Pipeline, Value, aio::MultiplexedConnection};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    super::server,
    at_address,
    topology::{NodeAddress, Topology},
};
use crate::config::{RedisConfig, Secret};

/// Maximum number of nodes that are asked, besides the configured ones.
const MAX_NODES: usize = 32;
/// Maximum time to ask a node. One that is down must not hold up what the others say.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// After this time the views of the nodes that have answered are enough, if they are the majority. One that is gone would otherwise
/// hold up each change of the topology. Nodes on another continent answer within it.
const MAJORITY_TIMEOUT: Duration = Duration::from_millis(300);
/// How a problem begins that no later answer mends.
pub(super) const TOO_OLD: &str = "needs Redis 7.0 or newer";

/// The connections to the nodes.
pub(super) struct NodeConnections {
    config: RedisConfig,
    /// By URL, which may contain a password.
    connections: HashMap<String, NodeConnection>,
}

/// An open connection to a node. It needs no file of the configuration any more, such as a certificate that is being replaced.
#[derive(Clone)]
struct NodeConnection {
    client: Client,
    redis: MultiplexedConnection,
}

impl NodeConnections {
    /// Starts without connections.
    pub(super) fn new(config: &RedisConfig) -> Self {
        Self { config: config.clone(), connections: HashMap::new() }
    }

    /// Asks the configured nodes and the known ones. Returns their views, and the last problem.
    pub(super) async fn ask_all(&mut self, known: &BTreeSet<NodeAddress>) -> (Vec<Topology>, Option<String>) {
        let seeds = &self.config.cluster.urls;
        let mut urls: BTreeSet<String> = seeds.iter().map(|url| url.expose().to_owned()).collect();
        if let Some(seed) = seeds.first() {
            urls.extend(known.iter().take(MAX_NODES).map(|address| at_address(seed.expose(), address)));
        }
        self.connections.retain(|url, _| urls.contains(url));
        let asked = urls.into_iter().map(|url| {
            // It stays for the next question, also if the node answers too late for this one.
            let connection = self.connections.get(&url).cloned();
            let config = RedisConfig { url: Secret::new(url.clone()), ..self.config.clone() };
            async move { (url, ask(&config, connection).await) }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let majority = asked.len() / 2 + 1;
        let (mut views, mut problem) = (Vec::new(), None);
        let enough_at = Instant::now() + MAJORITY_TIMEOUT;
        loop {
            let next = asked.next();
            let next = if views.len() < majority {
                next.await
            } else {
                timeout_at(enough_at, next).await.unwrap_or_else(|_| {
                    problem.get_or_insert_with(|| "some nodes have not answered yet".to_owned());
                    None
                })
            };
            let Some((url, answer)) = next else { break };
            match answer {
                Ok((connection, view)) => {
                    self.connections.insert(url, connection);
                    views.push(view);
                }
                Err(error) => {
                    log::debug!("redis node did not report the topology error={error:?}");
                    self.connections.remove(&url);
                    problem = Some(error);
                }
            }
        }
        (views, problem)
    }
}

/// Asks one node.
async fn ask(config: &RedisConfig, connection: Option<NodeConnection>) -> Result<(NodeConnection, Topology), String> {
    let (client, redis) = match connection {
        Some(NodeConnection { client, redis }) => (client, Some(redis)),
        None => (server::client_of(config).map_err(|error| error.to_string())?, None),
    };
    let address = client.get_connection_info().addr().to_string();
    let host = address.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
    let limit = ANSWER_TIMEOUT.min(config.timeout);
    let asked = timeout(limit, async {
        let mut redis = match redis {
            Some(redis) => redis,
            None => client.get_multiplexed_async_connection().await.map_err(|error| server::describe(&error, limit))?,
        };
        let mut questions = Pipeline::new();
        questions.cmd("HELLO").cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
        let replies = redis.send_packed_commands(&questions, 0, 3).await;
        let replies = replies.map_err(|error| server::describe(&error, limit))?;
        let Ok([hello, info, slots]) = <[Value; 3]>::try_from(replies) else {
            return Err("the number of replies is not that of the commands".to_owned());
        };
        if let Some(version) = version(&hello).filter(|version| is_too_old(version)) {
            return Err(format!("{TOO_OLD}, for sharded PUB/SUB: this is {version}"));
        }
        let info: String = read(info)?;
        Ok((redis, Topology::parse(host, &info, read(slots)?)?))
    });
    let asked = asked.await.unwrap_or_else(|_| Err("no reply".to_owned()));
    let (redis, topology) = asked.map_err(|error| format!("node {address}: {error}"))?;
    Ok((NodeConnection { client, redis }, topology))
}

fn read<T: redis::FromRedisValue>(reply: Value) -> Result<T, String> {
    redis::from_redis_value(server::accepted(reply)?).map_err(|error| error.to_string())
}

/// Returns the version in the reply to HELLO. Valkey gives that of the Redis with which it is compatible.
fn version(hello: &Value) -> Option<String> {
    let Value::Map(fields) = hello else { return None };
    let is_version = |key: &Value| matches!(key, Value::BulkString(key) if key == b"version");
    fields.iter().find(|(key, _)| is_version(key)).and_then(|(_, version)| redis::from_redis_value_ref(version).ok())
}

fn is_too_old(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major < 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharded_pub_sub_needs_version_7() {
        assert_eq!(["6.2.14", "7.0.0", "7.2.4", "10.1", "?"].map(is_too_old), [true, false, false, false, false]);
    }
}
