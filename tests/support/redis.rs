//! A redis-server for one test: on loopback, on its own port, without persistence, killed when dropped. A test can kill it,
//! freeze it, and start it again on the same port.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use tempfile::TempDir;

use super::tls::Authority;

pub struct RedisServer {
    directory: TempDir,
    port: u16,
    /// The second listener of a server with TLS.
    tls_port: u16,
    arguments: Vec<String>,
    process: Child,
}

impl RedisServer {
    /// Starts a server and waits until it accepts connections.
    pub async fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// Starts a server that also listens for TLS, with a certificate of this authority.
    pub async fn start_with_tls(authority: &Authority, requires_client_certificate: bool) -> Self {
        let pair = authority.issue("redis");
        let path = |path: PathBuf| path.display().to_string();
        let files = [path(pair.cert), path(pair.key), path(authority.root_path())];
        let clients = if requires_client_certificate { "yes" } else { "no" };
        Self::start_with(|tls_port| {
            let port = tls_port.to_string();
            let [cert, key, root] = &files;
            let arguments = [
                ["--tls-port", &port],
                ["--tls-cert-file", cert],
                ["--tls-key-file", key],
                ["--tls-ca-cert-file", root],
                ["--tls-auth-clients", clients],
            ];
            arguments.as_flattened().iter().map(|argument| (*argument).to_owned()).collect()
        })
    }

    fn start_with(arguments: impl Fn(u16) -> Vec<String>) -> Self {
        // Another test may take the free port before the server listens on it. Then try the next one.
        for _ in 0..10 {
            let (port, tls_port) = (free_port(), free_port());
            let directory = tempfile::tempdir().unwrap();
            let arguments = arguments(tls_port);
            if let Some(process) = spawn(&directory, port, &arguments) {
                return Self { directory, port, tls_port, arguments, process };
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// Reserves a port for a server that is started later, by `restart`.
    pub async fn start_stopped() -> Self {
        let mut server = Self::start().await;
        server.kill();
        server
    }

    /// The value for `broker.redis.url`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The value for `broker.redis.url` of a server with TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port)
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

    /// Kills the server at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the killed server again on its port, empty, and waits until it accepts connections.
    pub async fn restart(&mut self) {
        let process = spawn(&self.directory, self.port, &self.arguments);
        self.process = process.unwrap_or_else(|| panic!("redis-server does not start again on port {}", self.port));
    }

    /// Stops the process without closing anything: its connections stay open, and nothing answers.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Continues a frozen process.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Runs one command.
    pub async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await;
        let mut cmd = redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| _ = cmd.arg(argument));
        cmd.query_async(&mut connection).await.unwrap()
    }

    /// Publishes raw bytes, as every client of this Redis may; returns how many clients received them.
    pub async fn publish(&self, name: &str, message: &[u8]) -> usize {
        let mut connection = self.connection().await;
        redis::cmd("PUBLISH").arg(name).arg(message).query_async(&mut connection).await.unwrap()
    }

    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // SIGKILL ends a frozen process too. An error means that it was killed already.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a server and waits until its log says that it accepts connections; `None` if it exits before, because another
/// process has the port.
fn spawn(directory: &TempDir, port: u16, arguments: &[String]) -> Option<Child> {
    let mut process = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(directory.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let mut log = BufReader::new(process.stdout.take().unwrap());
    let is_ready = log.by_ref().lines().map_while(Result::ok).any(|line| line.contains("Ready to accept connections"));
    if !is_ready {
        process.wait().unwrap();
        return None;
    }
    // A full pipe would block the server.
    thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    Some(process)
}
