//! A redis-server or a Sentinel of a deployment, and the commands that break and mend it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use redis::{FromRedisValue, Value, aio::MultiplexedConnection};

use crate::child_process::free_port;
use crate::error::{BenchError, Context, Result, fail};
use crate::program::Program;

use super::proxy::{Proxy, REDIS_SOURCE};
use super::servers::{Server, ServerCommand, server_folder};

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// What a node of a cluster answers while it moves a key.
const MIGRATE_TIMEOUT_MS: &str = "1000";

/// The server.
pub(super) struct RedisServer {
    /// Its process.
    pub(super) server: Server,
    /// The network before it, whose address it announces as its own; `None` if each hub has one.
    pub(super) network: Option<Proxy>,
}

/// Where a server listens.
pub(super) struct Place {
    pub(super) port: u16,
    pub(super) network: Option<Proxy>,
}

impl Place {
    /// A free port.
    pub(super) fn free() -> Result<Self> {
        Ok(Self { port: free_port()?, network: None })
    }

    /// A free port behind a network.
    pub(super) async fn behind_network() -> Result<Self> {
        let port = free_port()?;
        Ok(Self { port, network: Some(Proxy::start((Ipv4Addr::LOCALHOST, port).into()).await?) })
    }

    /// The port that hubs connect to.
    pub(super) fn announced_port(&self) -> u16 {
        self.network.as_ref().map_or(self.port, |network| network.address.port())
    }
}

/// What a server is started with, beside a folder and a port.
pub(super) struct RedisOptions<'a> {
    pub(super) program: &'a Program,
    /// The folder of the run.
    pub(super) run: &'a Path,
    /// Its name, which no other server of the run has.
    pub(super) name: String,
    /// Lines of its configuration file.
    pub(super) config: Vec<String>,
    /// Files beside it, by name.
    pub(super) files: Vec<(&'static str, String)>,
    /// Whether it is a Sentinel.
    pub(super) is_sentinel: bool,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub(super) async fn start(place: Place, options: RedisOptions<'_>) -> Result<Self> {
        let Place { port, network } = place;
        let RedisOptions { program, run, name, config, files, is_sentinel } = options;
        let folder = server_folder(run, &name)?;
        let common = [
            "bind 127.0.0.1".to_owned(),
            format!("bind-source-addr {REDIS_SOURCE}"),
            format!("port {port}"),
            format!("dir {}", folder.display()),
        ];
        let config = common.into_iter().chain(config).collect::<Vec<_>>().join("\n") + "\n";
        for (file, text) in files.iter().map(|(file, text)| (*file, text)).chain([("redis.conf", &config)]) {
            std::fs::write(folder.join(file), text).context(format_args!("writing {file} of {name}"))?;
        }
        let mut arguments = vec!["redis.conf".to_owned()];
        arguments.extend(is_sentinel.then(|| "--sentinel".to_owned()));
        let command = ServerCommand { program: program.path.clone(), arguments, variables: path_variable(), folder };
        let mut redis = Self { server: Server::start(name, port, command)?, network };
        redis.wait_until_ready().await?;
        Ok(redis)
    }

    /// Waits until the server answers and has read its data.
    pub(super) async fn wait_until_ready(&mut self) -> Result<()> {
        let port = self.server.port;
        self.server.wait_until(async || run::<Value>(port, &["PING"]).await).await.map(drop)
    }

    /// Starts the server again, and waits until it answers.
    pub(super) async fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_until_ready().await
    }

    /// Runs a command.
    pub(super) async fn run<T: FromRedisValue>(&self, command: &[&str]) -> Result<T> {
        run(self.server.port, command).await.context(&self.server.name)
    }

    /// The address that hubs connect to.
    pub(super) fn announced_address(&self) -> SocketAddr {
        self.network.as_ref().map_or(self.server.address(), |network| network.address)
    }

    /// Returns whether the server is a master, as it says itself.
    pub(super) async fn is_master(&self) -> bool {
        let role: Result<Vec<Value>> = self.run(&["ROLE"]).await;
        role.is_ok_and(|role| matches!(role.first(), Some(Value::BulkString(role)) if role == b"master"))
    }

    /// The id of a node of a cluster.
    pub(super) async fn node_id(&self) -> Result<String> {
        self.run(&["CLUSTER", "MYID"]).await
    }

    /// The names of PUB/SUB that hubs have subscribed to here and that contain `part`, sharded ones included.
    pub(super) async fn subscribed_names(&self, part: &str) -> Result<Vec<String>> {
        let pattern = format!("*{part}*");
        let mut names: Vec<String> = self.run(&["PUBSUB", "CHANNELS", &pattern]).await?;
        names.extend(self.run::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS", &pattern]).await?);
        Ok(names)
    }

    /// Moves a slot with its keys to another master, as resharding does. `masters` get the new owner.
    pub(super) async fn move_slot(&self, slot: &str, target: &Self, masters: &[&Self]) -> Result<()> {
        let (from, to) = (self.node_id().await?, target.node_id().await?);
        target.run::<Value>(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &from]).await?;
        self.run::<Value>(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &to]).await?;
        let port = target.server.port.to_string();
        loop {
            let keys: Vec<String> = self.run(&["CLUSTER", "GETKEYSINSLOT", slot, "100"]).await?;
            if keys.is_empty() {
                break;
            }
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_TIMEOUT_MS, "KEYS"];
            command.extend(keys.iter().map(String::as_str));
            self.run::<Value>(&command).await?;
        }
        // The new master first, so that the slot always has one.
        for node in [target, self].into_iter().chain(masters.iter().copied()) {
            node.run::<Value>(&["CLUSTER", "SETSLOT", slot, "NODE", &to]).await?;
        }
        Ok(())
    }
}

async fn connect(port: u16) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).context("the URL of Redis")?;
    client.get_multiplexed_async_connection().await.context("connecting")
}

/// Runs a command on the server at a port.
async fn run<T: FromRedisValue>(port: u16, command: &[&str]) -> Result<T> {
    let [name, arguments @ ..] = command else { return fail("no command") };
    let mut redis_command = redis::cmd(name);
    redis_command.arg(arguments);
    let answer = async { redis_command.query_async(&mut connect(port).await?).await.context(name) };
    let answer = tokio::time::timeout(COMMAND_TIMEOUT, answer).await;
    answer.map_err(|_| BenchError(format!("{name} was not answered within {} s", COMMAND_TIMEOUT.as_secs())))?
}

/// Where programs are found. A server that is started with an empty environment needs nothing else.
fn path_variable() -> Vec<(&'static str, String)> {
    vec![("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned())]
}
