//! A real redis-server of a test's own: on loopback, on a port of its own, without persistence, gone when dropped. It can
//! be killed, frozen and started again on the same port.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// One redis-server.
pub struct RedisServer {
    directory: TempDir,
    port: u16,
    process: Child,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        // Between finding a free port and listening on it another test may take it: then the next one.
        for _ in 0..10 {
            let port = free_port();
            let directory = tempfile::tempdir().unwrap();
            let process = spawn(&directory, port);
            let mut server = Self { directory, port, process };
            if server.wait_until_ready().await {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// A port nobody listens on, and a server for it that is not started yet.
    pub async fn start_stopped() -> Self {
        let mut server = Self::start().await;
        server.kill();
        server
    }

    /// What goes into `broker.redis.url`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it at once, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on its port, empty.
    pub async fn restart(&mut self) {
        self.process = spawn(&self.directory, self.port);
        assert!(self.wait_until_ready().await, "redis-server does not come back on port {}", self.port);
    }

    /// Stops it without closing anything: its connections stay, and nothing answers.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Runs one command.
    pub async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_run(command).await.unwrap()
    }

    /// Publishes raw bytes, as anybody at this Redis may; to how many.
    pub async fn publish(&self, name: &str, message: &[u8]) -> usize {
        let mut connection = self.connection().await.unwrap();
        redis::cmd("PUBLISH").arg(name).arg(message).query_async(&mut connection).await.unwrap()
    }

    async fn connection(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await
    }

    async fn try_run<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.connection().await?;
        let mut cmd = redis::cmd(command[0]);
        command[1..].iter().for_each(|argument| _ = cmd.arg(argument));
        cmd.query_async(&mut connection).await
    }

    async fn wait_until_ready(&mut self) -> bool {
        for _ in 0..500 {
            // Whoever else has the port would answer too.
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            let own = self.process.id().to_string();
            let info: redis::RedisResult<String> = self.try_run(&["INFO", "server"]).await;
            if info.is_ok_and(|info| info.contains(&format!("process_id:{own}\r\n"))) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.process.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // SIGKILL ends a frozen one too; one that was killed already is no fault.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(directory: &TempDir, port: u16) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}
