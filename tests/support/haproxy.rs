//! A real HAProxy with config/haproxy.cfg, in front of the hubs of a test: only the address of its listener and the
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

use super::poll_until;

pub struct HaProxy {
    /// The address of its listener.
    pub address: SocketAddr,
    directory: TempDir,
    process: Child,
}

/// The line that discovers the hubs, in each backend.
const DISCOVERY: &str = "server-template hub 32 hub:8000";

impl HaProxy {
    /// Starts HAProxy in front of these hubs and waits until it has checked all of them.
    pub async fn start(hubs: &[SocketAddr]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = directory.path().join("haproxy.cfg");
        fs::write(&file, configuration(address, hubs, &socket_path(&directory))).unwrap();
        // It reports the state of each hub. -q silences that, but not the errors of a start that fails.
        let process = Command::new("haproxy").arg("-db").arg("-q").arg("-f").arg(&file).stdout(Stdio::null()).spawn();
        let process = process.expect("haproxy is installed: tests/run does it");
        let balancer = Self { address, directory, process };
        balancer.wait_for_ready_hubs(hubs.len()).await;
        balancer
    }

    /// Waits until this many hubs are ready, by its own checks.
    pub async fn wait_for_ready_hubs(&self, count: usize) {
        poll_until(&format!("{count} hubs are ready"), async || self.checked_hubs().await == Some(count)).await;
    }

    /// The hubs whose last check of readiness has succeeded; `None` while a hub has not been checked.
    async fn checked_hubs(&self) -> Option<usize> {
        let mut socket = UnixStream::connect(socket_path(&self.directory)).await.ok()?;
        socket.write_all(b"show stat hubs 4 -1 typed\n").await.ok()?;
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

fn configuration(address: SocketAddr, hubs: &[SocketAddr], stats: &Path) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/haproxy.cfg");
    let shipped = fs::read_to_string(shipped).unwrap();
    assert!(shipped.matches(DISCOVERY).count() == 2 && shipped.contains("bind :8000\n"), "{shipped}");
    let mut text = String::new();
    let mut is_resolver = false;
    for line in shipped.lines() {
        is_resolver = line == "resolvers docker" || is_resolver && line.starts_with(' ');
        match line.trim() {
            _ if is_resolver || line.contains("resolvers docker") => {}
            "bind :8000" => writeln!(text, "    bind {address}").unwrap(),
            DISCOVERY => {
                let servers = hubs.iter().enumerate();
                servers.for_each(|(number, hub)| writeln!(text, "    server hub{number} {hub}").unwrap());
            }
            "global" => writeln!(text, "global\n    stats socket {} level user", stats.display()).unwrap(),
            _ => writeln!(text, "{line}").unwrap(),
        }
    }
    text
}
