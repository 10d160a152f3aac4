//! A redis-server for one test: on loopback, on its own port, without persistence, killed when dropped. A test can kill it,
//! freeze it, and start it again on the same port.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
};

use tempfile::TempDir;

pub struct RedisServer {
    directory: TempDir,
    port: u16,
    process: Child,
}

impl RedisServer {
    /// Starts a server and waits until it accepts connections.
    pub async fn start() -> Self {
        // Another test may take the free port before the server listens on it. Then try the next one.
        for _ in 0..10 {
            let port = free_port();
            let directory = tempfile::tempdir().unwrap();
            if let Some(process) = spawn(&directory, port) {
                return Self { directory, port, process };
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

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the killed server again on its port, empty, and waits until it accepts connections.
    pub async fn restart(&mut self) {
        let process = spawn(&self.directory, self.port);
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
fn spawn(directory: &TempDir, port: u16) -> Option<Child> {
    let mut process = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(directory.path())
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
