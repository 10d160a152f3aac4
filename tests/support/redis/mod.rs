//! Real Redis servers for one test, on loopback, on their own ports, killed when dropped: a single server, a master with its
//! replica and three sentinels, a cluster of six nodes; and one type for any of these forms. A test can kill and freeze each of them, and start it again on its
//! port.

mod cluster;
mod form;
mod pretended;
mod process;
mod sentinel;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use tempfile::TempDir;

use self::process::RedisProcess;
use super::{PATIENCE, tls::Authority};

pub use self::{
    cluster::{ClusterOptions, RedisCluster},
    form::{BreakingTest, PrefixedRedis, RedisForm, run_in_turn, run_on_parts},
    pretended::PretendedRedis,
    sentinel::{SentinelOptions, SentinelTrio, start_sentinel, start_sentinel_of},
};
pub(crate) use form::test_on_every_form;

/// Makes a server keep its data when it is killed: each write is in its file before it is answered. Nothing waits for the
/// disk, which only matters if the machine crashes.
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "no"];

/// In which time a server that is alive answers.
const ANSWER_TIME: Duration = Duration::from_millis(500);

pub struct RedisServer {
    directory: Arc<TempDir>,
    port: u16,
    /// The second listener of a server with TLS.
    tls_port: u16,
    password: Option<String>,
    arguments: Vec<String>,
    process: RedisProcess,
}

/// Where a server is going to listen and to store its files.
struct Place {
    directory: Arc<TempDir>,
    port: u16,
    /// For TLS or for the bus of a cluster.
    second_port: u16,
}

impl RedisServer {
    /// Starts an empty server without persistence and waits until it accepts connections.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server that keeps its data when it is killed and started again.
    pub async fn start_durable() -> Self {
        Self::start_with(&DURABLE).await
    }

    /// Starts a server with these further arguments. With `--requirepass`, the commands of the test use that password.
    pub async fn start_with(arguments: &[&str]) -> Self {
        start_in_free_place(|_| owned(arguments))
    }

    /// Starts a server that also listens for TLS, with a certificate of this authority.
    pub async fn start_with_tls(authority: &Authority, requires_client_certificate: bool) -> Self {
        start_in_free_place(|place| {
            tls_arguments(place.second_port, authority, &["localhost"], requires_client_certificate)
        })
    }

    /// Reserves a port for a server that is started later, by `restart`.
    pub async fn start_stopped() -> Self {
        let mut server = Self::start().await;
        server.kill();
        server
    }

    /// Starts a Redis there; `None` if another process has taken a port.
    fn start_at(place: &Place, more: &[String]) -> Option<Self> {
        let socket = place.directory.path().join("redis.sock").display().to_string();
        let directory = place.directory.path().display().to_string();
        let port = place.port.to_string();
        let mut arguments = owned(&["--port", &port, "--bind", "127.0.0.1", "--unixsocket", &socket]);
        arguments.extend(owned(&["--save", "", "--appendonly", "no", "--dir", &directory]));
        arguments.extend_from_slice(more);
        Self::start_process(place, arguments)
    }

    fn start_process(place: &Place, arguments: Vec<String>) -> Option<Self> {
        let process = RedisProcess::start(&arguments)?;
        let password = arguments.iter().skip_while(|argument| *argument != "--requirepass").nth(1).cloned();
        let directory = place.directory.clone();
        Some(Self { directory, port: place.port, tls_port: place.second_port, password, arguments, process })
    }

    /// The value for `broker.redis.url`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// The value for `broker.redis.url` of a server with TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port)
    }

    /// The value for `broker.redis.url` over the unix socket, which every server has.
    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.directory.path().join("redis.sock").display())
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Makes the server a replica of this one, as a failover does with the old master.
    pub async fn demote(&self, master: &Self) {
        self.run::<()>(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]).await;
    }

    /// Makes the server a master again.
    pub async fn promote(&self) {
        self.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// Lets time pass for everything that is stored under names with this prefix. Blocks the thread, like an advance of a
    /// [`wardcast::clock::Clock`].
    pub fn advance_clock(&self, prefix: &str, by: Duration) {
        let mut connection = redis::Client::open(self.unix_url()).unwrap().get_connection().unwrap();
        let mut advance = redis::cmd("EVAL");
        advance.arg(include_str!("advance_clock.lua")).arg(0).arg(prefix).arg(u64::try_from(by.as_millis()).unwrap());
        advance.query::<()>(&mut connection).unwrap();
    }

    /// Kills the server at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the killed server again on its port, and waits until it accepts connections. It is empty, unless it is durable.
    pub async fn restart(&mut self) {
        let process = RedisProcess::start(&self.arguments);
        self.process = process.unwrap_or_else(|| panic!("redis-server does not start again on port {}", self.port));
    }

    /// Stops the process without closing anything: its connections stay open, and nothing answers.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// Continues a frozen process.
    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// Runs one command.
    pub async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await.unwrap();
        let reply = as_command(command).query_async(&mut connection).await;
        reply.unwrap_or_else(|error| panic!("{command:?} at {}: {error}", self.port))
    }

    /// Runs one command, which may fail. A server that does not answer within half a second has failed.
    pub async fn try_run<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.connection_with(ANSWER_TIME).await?;
        as_command(command).query_async(&mut connection).await
    }

    /// Publishes raw bytes, as every client of this Redis may; returns how many clients received them.
    pub async fn publish(&self, name: &str, message: &[u8]) -> usize {
        let mut connection = self.connection().await.unwrap();
        redis::cmd("PUBLISH").arg(name).arg(message).query_async(&mut connection).await.unwrap()
    }

    /// A connection for the commands of a test, which waits for replies as long as a test waits for anything.
    pub async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        self.connection_with(PATIENCE).await
    }

    async fn connection_with(&self, timeout: Duration) -> redis::RedisResult<MultiplexedConnection> {
        let login = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{login}{}", self.address()))?;
        let config = AsyncConnectionConfig::new();
        let config = config.set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// The value of a line `name:value` of the reply to a command such as `INFO replication`; `None` if the server does not
    /// answer.
    async fn info(&self, command: &[&str], name: &str) -> Option<String> {
        let text: String = self.try_run(command).await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Some(line.unwrap_or_default().to_owned())
    }

    /// Whether the server is a replica that receives the writes of its master.
    pub async fn is_replicating(&self) -> bool {
        self.info(&["INFO", "replication"], "master_link_status").await.as_deref() == Some("up")
    }
}

impl Place {
    fn free() -> Self {
        let [port, second_port] = free_ports();
        Self { directory: Arc::new(tempfile::tempdir().unwrap()), port, second_port }
    }
}

/// Starts a server wherever there is room: another test may take a free port before the server listens on it.
fn start_in_free_place(arguments: impl Fn(&Place) -> Vec<String>) -> RedisServer {
    retry(|| {
        let place = Place::free();
        RedisServer::start_at(&place, &arguments(&place))
    })
}

fn retry<T>(mut start: impl FnMut() -> Option<T>) -> T {
    (0..10).find_map(|_| start()).expect("redis-server does not start; is it installed?")
}

fn tls_arguments(port: u16, authority: &Authority, hosts: &[&str], requires_client_certificate: bool) -> Vec<String> {
    let pair = authority.issue_for(&format!("redis-{port}"), hosts);
    let path = |path: PathBuf| path.display().to_string();
    let (cert, key, root) = (path(pair.cert), path(pair.key), path(authority.root_path()));
    let clients = if requires_client_certificate { "yes" } else { "no" };
    let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &root];
    [owned(&["--tls-port", &port.to_string(), "--tls-auth-clients", clients]), owned(&files)].concat()
}

fn as_command(command: &[&str]) -> redis::Cmd {
    let mut cmd = redis::cmd(command[0]);
    command[1..].iter().for_each(|argument| _ = cmd.arg(argument));
    cmd
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// Different ports that nobody listens on.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
