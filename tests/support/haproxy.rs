//! A real HAProxy with config/haproxy.cfg, in front of the hubs of a test: only the addresses of its listeners and the
//! discovery of the hubs are replaced. Ended with the test.

use std::{
    fmt::Write,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{TestHub, poll_until, repository};

pub struct HaProxy {
    /// Its address for clients.
    pub address: SocketAddr,
    /// Its address for backends.
    pub internal_address: SocketAddr,
    directory: TempDir,
    process: Child,
}

/// The lines that discover the hubs, in two backends each: on the port for clients, and on that for backends.
const DISCOVERY: &str = "server-template hub 32 hub:8000";
const INTERNAL_DISCOVERY: &str = "server-template hub 32 hub:8001";

impl HaProxy {
    /// Starts HAProxy in front of these hubs, which have internal listeners, and waits until it has checked all of them.
    pub async fn start(hubs: &[&TestHub]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [public, internal] = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, internal_address] = [&public, &internal].map(|socket| socket.local_addr().unwrap());
        drop((public, internal));
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, configuration((address, internal_address), hubs, &socket_path(&directory))).unwrap();
        // It reports the state of each hub. -q silences that, but not the errors of a start that fails.
        let process = Command::new("haproxy").arg("-db").arg("-q").arg("-f").arg(&file).stdout(Stdio::null()).spawn();
        let process = process.expect("haproxy is installed: tests/run does it");
        let balancer = Self { address, internal_address, directory, process };
        balancer.wait_for_ready_hubs(hubs.len()).await;
        balancer
    }

    /// Waits until this many hubs are ready, by its own checks.
    pub async fn wait_for_ready_hubs(&self, count: usize) {
        for backend in ["hubs", "internal_hubs"] {
            let is_known = async || self.checked_hubs(backend).await == Some(count);
            poll_until(&format!("{count} of {backend} are ready"), is_known).await;
        }
    }

    /// The hubs of this backend whose last check of readiness has succeeded; `None` while a hub has not been checked.
    async fn checked_hubs(&self, backend: &str) -> Option<usize> {
        let mut socket = UnixStream::connect(socket_path(&self.directory)).await.ok()?;
        socket.write_all(format!("show stat {backend} 4 -1 typed\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.ok()?;
        let values = |field: &'static str| {
            text.lines()
                .filter(move |line| line.contains(field))
                .map(|line| line.rsplit(':').next().unwrap_or_default())
        };
        let is_checked = values(".check_status.").all(|status| status.starts_with('L') || status.starts_with("* L"));
        is_checked.then(|| values(".status.").filter(|status| status.starts_with("UP")).count())
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn socket_path(directory: &TempDir) -> PathBuf {
    directory.path().join("stats.sock")
}

fn configuration((address, internal): (SocketAddr, SocketAddr), hubs: &[&TestHub], stats: &Path) -> String {
    let shipped = repository().join("config/haproxy.cfg");
    let shipped = fs::read_to_string(shipped).unwrap();
    for lines in [DISCOVERY, INTERNAL_DISCOVERY] {
        assert_eq!(shipped.matches(lines).count(), 2, "{shipped}");
    }
    assert!(shipped.contains("bind :8000\n") && shipped.contains("bind :8001\n"), "{shipped}");
    let mut text = String::new();
    let mut is_resolver = false;
    for line in shipped.lines() {
        is_resolver = line == "resolvers docker" || is_resolver && line.starts_with(' ');
        match line.trim() {
            _ if is_resolver || line.contains("resolvers docker") => {}
            "bind :8000" => writeln!(text, "    bind {address}").unwrap(),
            "bind :8001" => writeln!(text, "    bind {internal}").unwrap(),
            discovery @ (DISCOVERY | INTERNAL_DISCOVERY) => {
                for (number, hub) in hubs.iter().enumerate() {
                    let internal = hub.internal_address();
                    let server = if discovery == DISCOVERY { hub.address } else { internal };
                    writeln!(text, "    server hub{number} {server}").unwrap();
                }
            }
            "global" => writeln!(text, "global\n    stats socket {} level user", stats.display()).unwrap(),
            _ => writeln!(text, "{line}").unwrap(),
        }
    }
    text
}
