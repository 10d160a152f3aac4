//! A redis-server process, under `tests/support/guarded`: it ends with its test, however the test ends.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
};

/// What a server logs when it accepts connections: a Redis, or a sentinel.
const READY: [&str; 2] = ["Ready to accept connections", "Sentinel ID is"];

pub(super) struct RedisProcess {
    /// Kills the server when its stdin closes, and exits with it.
    guard: Child,
    pid: String,
}

impl RedisProcess {
    /// Starts redis-server and waits until it accepts connections; `None` if it exits before, because another process has a
    /// port.
    pub(super) fn start(arguments: &[String]) -> Option<Self> {
        let guarded = super::super::repository().join("tests/support/guarded");
        let mut command = Command::new(guarded);
        command.arg("redis-server").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut guard = command.spawn().unwrap();
        let mut lines = BufReader::new(guard.stdout.take().unwrap()).lines().map_while(Result::ok);
        let pid = lines.next().expect("a process id; is redis-server installed?");
        if !lines.any(|line| READY.iter().any(|ready| line.contains(ready))) {
            guard.wait().unwrap();
            return None;
        }
        // A full pipe would block the server.
        thread::spawn(move || lines.for_each(drop));
        Some(Self { guard, pid })
    }

    /// Kills the server at once, as a crash does, also if it is frozen or killed already.
    pub(super) fn kill(&mut self) {
        self.guard.stdin.take();
        self.guard.wait().unwrap();
    }

    pub(super) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
