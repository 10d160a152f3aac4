//! The Redis of a deployment, in each of its forms: started for one cell, on free ports of loopback.

use std::time::Duration;

use tokio::time::sleep;

use crate::child_process::free_port;
use crate::error::{BenchError, Result, fail};
use crate::program::Program;

use super::proxy::Proxy;
use super::redis_server::{Place, RedisOptions, RedisServer};
use super::servers::RunFolder;

/// The forms of a deployment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub(crate) enum Form {
    /// One hub on the memory broker, without Redis
    Memory,
    /// Two hubs on one Redis, with an append-only file
    Single,
    /// Two hubs on one Redis that keeps nothing on disk
    NoAof,
    /// Two hubs on three Redis servers, each with a part of the channels
    Several,
    /// Two hubs on a master and two replicas, watched by three Sentinels
    Sentinel,
    /// Two hubs on a Cluster of three masters, each with a replica
    Cluster,
}

impl Form {
    /// The form in words.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Memory => "one hub, memory broker",
            Self::Single => "one Redis with AOF",
            Self::NoAof => "one Redis without AOF",
            Self::Several => "three Redis servers",
            Self::Sentinel => "Sentinel",
            Self::Cluster => "Cluster",
        }
    }
}

/// The name of the master that Sentinels watch.
const MASTER_NAME: &str = "wardcast";
/// After how long Sentinels and nodes of a cluster take a silent server for dead. Their defaults are 30 and 15 s.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(2);
/// The servers that share the channels.
const SEVERAL: usize = 3;
/// The masters of the cluster. Each has one replica.
const MASTERS: usize = 3;
/// The replicas beside one master, and the Sentinels.
const REPLICAS: usize = 2;
const SENTINELS: usize = 3;
/// The slots of a cluster.
const SLOTS: usize = 16_384;
/// How long the parts of a form may take to find each other.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// The time between two questions meanwhile.
const QUESTION_INTERVAL: Duration = Duration::from_millis(50);

/// The servers.
pub(super) struct RedisDeployment {
    /// The servers that hold data: the first one is the master at the start, or the first [`MASTERS`] of a cluster are.
    pub(super) servers: Vec<RedisServer>,
    /// The Sentinels, if there are any.
    pub(super) sentinels: Vec<RedisServer>,
}

impl RedisDeployment {
    /// Starts the servers of a form, and waits until they know each other. `None` on the memory broker.
    pub(super) async fn start(form: Form, program: Option<&Program>, run: &RunFolder) -> Result<Option<Self>> {
        if form == Form::Memory {
            return Ok(None);
        }
        let program = program.ok_or_else(|| BenchError("redis-server is not installed".to_owned()))?;
        let launcher = Launcher { program, run };
        let deployment = match form {
            Form::Memory | Form::Single => Self::of(vec![launcher.start("redis".to_owned(), persistent()).await?]),
            Form::NoAof => Self::of(vec![launcher.start("redis".to_owned(), volatile()).await?]),
            Form::Several => {
                let mut servers = Vec::new();
                for number in 1..=SEVERAL {
                    // All hubs must know a server by the same URL: channels are spread over the servers by their URLs.
                    let place = Place::behind_network().await?;
                    let name = format!("redis-{number}");
                    servers.push(launcher.start_at(place, name, persistent(), Vec::new(), false).await?);
                }
                Self::of(servers)
            }
            Form::Sentinel => launcher.start_sentinel().await?,
            Form::Cluster => launcher.start_cluster().await?,
        };
        Ok(Some(deployment))
    }

    fn of(servers: Vec<RedisServer>) -> Self {
        Self { servers, sentinels: Vec::new() }
    }

    /// The networks that all hubs share.
    pub(super) fn shared_networks(&self) -> impl Iterator<Item = &Proxy> {
        self.servers.iter().chain(&self.sentinels).filter_map(|redis| redis.network.as_ref())
    }

    /// The settings by which a hub finds these servers, through networks of its own to each of them if it has such.
    pub(super) fn hub_settings(&self, form: Form, own_networks: &[Proxy]) -> Vec<String> {
        let urls = |servers: &[RedisServer]| {
            let urls = servers.iter().enumerate().map(|(index, redis)| {
                let address = own_networks.get(index).map_or_else(|| redis.announced_address(), |own| own.address);
                format!("redis://{address}")
            });
            urls.collect::<Vec<String>>().join(",")
        };
        let mut settings = vec!["broker.type=redis".to_owned()];
        settings.extend(match form {
            Form::Memory | Form::Single | Form::NoAof => vec![format!("broker.redis.url={}", urls(&self.servers))],
            Form::Several => vec![format!("broker.redis.urls={}", urls(&self.servers))],
            Form::Sentinel => vec![
                format!("broker.redis.sentinel.master_name={MASTER_NAME}"),
                format!("broker.redis.sentinel.urls={}", urls(&self.sentinels)),
            ],
            Form::Cluster => vec![format!("broker.redis.cluster.urls={}", urls(&self.servers[..MASTERS]))],
        });
        settings
    }

    /// Waits until a server other than `old` is a master, of the same part of the data, and returns its index.
    pub(super) async fn wait_for_new_master(&self, old: usize) -> Result<usize> {
        wait(&format!("a new master instead of {}", self.servers[old].server.name), async || {
            for index in self.same_data(old).filter(|index| *index != old) {
                if self.servers[index].is_master().await {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// Promotes a replica of a master, as an operator does, and waits until the old master follows it.
    pub(super) async fn fail_over(&self, master: usize) -> Result<()> {
        match self.sentinels.first() {
            Some(sentinel) => sentinel.run::<redis::Value>(&["SENTINEL", "FAILOVER", MASTER_NAME]).await?,
            None => self.servers[self.replica_of(master)?].run(&["CLUSTER", "FAILOVER"]).await?,
        };
        self.wait_for_new_master(master).await?;
        wait("the end of the failover", async || (!self.servers[master].is_master().await).then_some(())).await
    }

    /// Moves the slot of a name to another master.
    pub(super) async fn move_slot_of(&self, master: usize, name: &str) -> Result<()> {
        let slot: u16 = self.servers[master].run(&["CLUSTER", "KEYSLOT", name]).await?;
        let masters: Vec<&RedisServer> = self.servers[..MASTERS].iter().collect();
        let target = masters[(master + 1) % MASTERS];
        self.servers[master].move_slot(&slot.to_string(), target, &masters).await
    }

    /// The index of the master that carries a channel: that which hubs have subscribed to it on. With its name there.
    pub(super) async fn master_of_channel(&self, channel: &str) -> Result<(usize, String)> {
        wait("the subscription of the hubs", async || {
            for (index, redis) in self.servers.iter().enumerate() {
                let names = redis.subscribed_names(channel).await.unwrap_or_default();
                if let Some(name) = names.into_iter().next() {
                    return Some((index, name));
                }
            }
            None
        })
        .await
    }

    /// The servers that hold the same data as a server: all, or in a cluster a master and its replica.
    fn same_data(&self, of: usize) -> impl Iterator<Item = usize> {
        let is_cluster = self.servers.len() == 2 * MASTERS;
        (0..self.servers.len()).filter(move |index| !is_cluster || index % MASTERS == of % MASTERS)
    }

    /// A replica of a server.
    pub(super) fn replica_of(&self, master: usize) -> Result<usize> {
        let replica = self.same_data(master).find(|index| *index != master);
        replica.ok_or_else(|| BenchError(format!("{} has no replica", self.servers[master].server.name)))
    }
}

/// A server that loses at most a second of what it has acknowledged when it is killed.
fn persistent() -> Vec<String> {
    ["appendonly yes", "appendfsync everysec", "save \"\""].map(str::to_owned).into()
}

fn volatile() -> Vec<String> {
    ["appendonly no", "save \"\""].map(str::to_owned).into()
}

/// Starts servers of one run.
struct Launcher<'a> {
    program: &'a Program,
    run: &'a RunFolder,
}

impl Launcher<'_> {
    async fn start(&self, name: String, config: Vec<String>) -> Result<RedisServer> {
        self.start_at(Place::free()?, name, config, Vec::new(), false).await
    }

    async fn start_at(
        &self,
        place: Place,
        name: String,
        config: Vec<String>,
        files: Vec<(&'static str, String)>,
        is_sentinel: bool,
    ) -> Result<RedisServer> {
        let options = RedisOptions { program: self.program, run: &self.run.0, name, config, files, is_sentinel };
        RedisServer::start(place, options).await
    }

    async fn start_sentinel(&self) -> Result<RedisDeployment> {
        let mut servers: Vec<RedisServer> = Vec::new();
        for number in 1..=1 + REPLICAS {
            let place = Place::behind_network().await?;
            let mut config = persistent();
            config.extend([
                "repl-diskless-sync-delay 0".to_owned(),
                "replica-announce-ip 127.0.0.1".to_owned(),
                format!("replica-announce-port {}", place.announced_port()),
            ]);
            config.extend(
                servers.first().map(|master| format!("replicaof 127.0.0.1 {}", master.announced_address().port())),
            );
            servers.push(self.start_at(place, format!("redis-{number}"), config, Vec::new(), false).await?);
        }
        let master = servers[0].announced_address().port();
        wait("the replicas", async || {
            let role: Vec<redis::Value> = servers[0].run(&["ROLE"]).await.ok()?;
            matches!(role.get(2), Some(redis::Value::Array(replicas)) if replicas.len() == REPLICAS).then_some(())
        })
        .await?;
        let mut sentinels = Vec::new();
        for number in 1..=SENTINELS {
            let place = Place::behind_network().await?;
            let config = vec![
                // Else it announces the address that it connects from.
                "sentinel announce-ip 127.0.0.1".to_owned(),
                format!("sentinel announce-port {}", place.announced_port()),
                format!("sentinel monitor {MASTER_NAME} 127.0.0.1 {master} {}", SENTINELS / 2 + 1),
                format!("sentinel down-after-milliseconds {MASTER_NAME} {}", DEAD_AFTER.as_millis()),
                format!("sentinel failover-timeout {MASTER_NAME} {}", 5 * DEAD_AFTER.as_millis()),
            ];
            sentinels.push(self.start_at(place, format!("sentinel-{number}"), config, Vec::new(), true).await?);
        }
        wait("the Sentinels", async || {
            for sentinel in &sentinels {
                // The others count if this one reaches them.
                let usable: String = sentinel.run(&["SENTINEL", "CKQUORUM", MASTER_NAME]).await.ok()?;
                let replicas: Vec<redis::Value> = sentinel.run(&["SENTINEL", "REPLICAS", MASTER_NAME]).await.ok()?;
                if !usable.starts_with(&format!("OK {SENTINELS} usable")) || replicas.len() != REPLICAS {
                    return None;
                }
            }
            Some(())
        })
        .await?;
        Ok(RedisDeployment { servers, sentinels })
    }

    /// Starts the nodes with the table that they would have agreed on, so that they need not be introduced to each other.
    async fn start_cluster(&self) -> Result<RedisDeployment> {
        let mut places = Vec::new();
        for _ in 0..2 * MASTERS {
            places.push(Place::behind_network().await?);
        }
        let ports: Vec<(u16, u16)> =
            places.iter().map(|place| Ok((place.announced_port(), free_port()?))).collect::<Result<_>>()?;
        let mut servers = Vec::new();
        for (index, place) in places.into_iter().enumerate() {
            let (announced_port, bus_port) = ports[index];
            let config = persistent().into_iter().chain([
                "cluster-enabled yes".to_owned(),
                "repl-diskless-sync-delay 0".to_owned(),
                format!("cluster-port {bus_port}"),
                "cluster-announce-ip 127.0.0.1".to_owned(),
                format!("cluster-announce-port {announced_port}"),
                format!("cluster-node-timeout {}", DEAD_AFTER.as_millis()),
            ]);
            let files = vec![("nodes.conf", cluster_table(&ports, index))];
            servers.push(self.start_at(place, format!("redis-{}", index + 1), config.collect(), files, false).await?);
        }
        wait("the cluster", async || {
            for (index, redis) in servers.iter().enumerate() {
                let info: String = redis.run(&["CLUSTER", "INFO"]).await.ok()?;
                let replication: String = redis.run(&["INFO", "replication"]).await.ok()?;
                let is_linked = index < MASTERS || replication.contains("master_link_status:up");
                if !info.contains("cluster_state:ok") || !is_linked {
                    return None;
                }
            }
            Some(())
        })
        .await?;
        Ok(RedisDeployment::of(servers))
    }
}

/// The table of the cluster as the node with an index stores it.
fn cluster_table(ports: &[(u16, u16)], own: usize) -> String {
    let id = |index: usize| format!("{:040x}", index + 1);
    let lines = ports.iter().enumerate().map(|(index, (port, bus_port))| {
        let master = index % MASTERS;
        let myself = if index == own { "myself," } else { "" };
        let role = match index < MASTERS {
            true => format!(
                "{myself}master - 0 0 {} connected {}-{}",
                index + 1,
                first_slot(index),
                first_slot(index + 1) - 1
            ),
            false => format!("{myself}slave {} 0 0 {} connected", id(master), master + 1),
        };
        format!("{} 127.0.0.1:{port}@{bus_port} {role}\n", id(index))
    });
    lines.collect::<String>() + &format!("vars currentEpoch {MASTERS} lastVoteEpoch 0\n")
}

fn first_slot(master: usize) -> usize {
    SLOTS * master / MASTERS
}

/// Waits until `question` has an answer.
async fn wait<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let asked = async {
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            sleep(QUESTION_INTERVAL).await;
        }
    };
    match tokio::time::timeout(JOIN_TIMEOUT, asked).await {
        Ok(answer) => Ok(answer),
        Err(_) => fail(format!("waited in vain for {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_a_cluster_has_every_slot_once_and_a_replica_for_each_master() {
        let table = cluster_table(&[(1, 11), (2, 12), (3, 13), (4, 14), (5, 15), (6, 16)], 4);
        let slots = table.lines().filter_map(|line| line.rsplit(' ').next()?.split_once('-'));
        let mut next = 0;
        for (first, last) in slots {
            assert_eq!(first.parse(), Ok(next), "{table}");
            next = last.parse::<usize>().unwrap() + 1;
        }
        assert_eq!(next, SLOTS, "{table}");
        assert!(table.contains("127.0.0.1:5@15 myself,slave 0000000000000000000000000000000000000002 "), "{table}");
    }
}
