//! Listening sockets that a service manager passes, as systemd does (`LISTEN_FDS`). The tests are the service manager: they listen, and
//! give their sockets to the hub as descriptors 3 and 4.

use std::{
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use actix_rt::task::{JoinHandle, spawn_blocking};
use tokio::net::TcpStream;

use crate::support::{
    API_KEY, KillOnDrop, http, poll_until,
    process::{ProcessResult, run},
    raw,
};

const SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a6978";

/// Moves standard input and output to the descriptors 3 and 4, which are the sockets, and becomes the hub.
const LAUNCH: &str = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"";

/// A hub with these sockets, as systemd would start it.
fn hub_with_sockets(names: &str, sockets: [Option<OwnedFd>; 2], settings: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", LAUNCH, env!("CARGO_BIN_EXE_wardcast"), "serve", "--ephemeral"]);
    settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("WARDCAST_API__KEY", API_KEY)
        .env("WARDCAST_AUTH__HMAC_SECRET", SECRET)
        .env("LISTEN_FDS", sockets.iter().flatten().count().to_string())
        .env("LISTEN_FDNAMES", names);
    let [first, second] = sockets.map(|socket| socket.map_or_else(Stdio::null, Stdio::from));
    command.stdin(first).stdout(second);
    command
}

fn start(mut command: Command) -> KillOnDrop {
    KillOnDrop(command.spawn().unwrap())
}

async fn fail(mut command: Command) -> ProcessResult {
    let output = spawn_blocking(move || command.stderr(Stdio::piped()).output().unwrap()).await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ProcessResult { code: output.status.code(), stdout: String::new(), stderr }
}

/// Ends a hub as systemd does, and waits until it has ended.
async fn terminate(mut hub: KillOnDrop) {
    let status = Command::new("kill").arg(hub.0.id().to_string()).status().unwrap();
    assert!(status.success());
    let ended = spawn_blocking(move || hub.0.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn descriptor_of(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().unwrap().into()
}

/// Connects again and again, and counts the responses. Panics at the first connection that is refused or reset.
fn start_load(
    address: SocketAddr,
    request: String,
    count: &Arc<AtomicUsize>,
    is_over: &Arc<AtomicBool>,
) -> JoinHandle<()> {
    let (count, is_over) = (count.clone(), is_over.clone());
    actix_rt::spawn(async move {
        while !is_over.load(Ordering::Relaxed) {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("a request");
            let response = http::receive(&mut stream).await;
            assert!([200, 101].contains(&response.status), "{response:?}");
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[actix_rt::test]
async fn restart_with_a_passed_socket_refuses_no_connection() {
    let (listener, address) = listener();
    let settings =
        ["server.bind=systemd:", "server.drain_delay=0s", "server.drain=2s", "limits.handshakes_per_second=0"];
    let launch = || start(hub_with_sockets("wardcast.socket", [Some(descriptor_of(&listener)), None], &settings));
    let mut hub = launch();
    let (count, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let body = r#"{"channel":"news","data":1}"#;
    let publish = format!(
        "POST /api/publish HTTP/1.1\r\nHost: hub\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let requests = [publish, raw::handshake(address, "/connection/websocket")];
    let load: Vec<_> = (0..8).map(|index| start_load(address, requests[index % 2].clone(), &count, &is_over)).collect();
    let wait_for_more = async || {
        let before = count.load(Ordering::Relaxed);
        poll_until("the hub answers", async || count.load(Ordering::Relaxed) > before + 50).await;
    };
    wait_for_more().await;
    for _ in 0..2 {
        // What connects while no hub runs waits in the queue of the socket.
        terminate(hub).await;
        hub = launch();
        wait_for_more().await;
    }
    is_over.store(true, Ordering::Relaxed);
    for client in load {
        client.await.unwrap();
    }
    drop(hub);
}

#[actix_rt::test]
async fn names_tell_which_listener_a_socket_is_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("internal.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let (listener, address) = listener();
    let settings =
        ["server.bind=systemd:", "server.internal_bind=systemd:internal", "server.drain=1s", "server.drain_delay=0s"];
    let sockets = [Some(unix.try_clone().unwrap().into()), Some(descriptor_of(&listener))];
    let hub = start(hub_with_sockets("internal:public", sockets, &settings));
    assert_eq!(http::get(address, "/health/ready").send().await.status, 200);
    assert_eq!(http::get(address, "/metrics").send().await.status, 404, "they are on the internal listener");
    let url = format!("http://unix:{}", path.display());
    let publish = move || {
        let arguments = ["pub", "news", "1", "--url", &url];
        run(crate::support::process::wardcast(&arguments).env("WARDCAST_API__KEY", API_KEY))
    };
    let published = spawn_blocking(publish).await.unwrap();
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    terminate(hub).await;
    assert!(path.exists(), "the socket is the service manager's");
    // Connections are still accepted by the kernel.
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    TcpStream::connect(address).await.unwrap();
}

#[actix_rt::test]
async fn hub_without_its_sockets_or_with_unusable_ones_does_not_start() {
    let (listener, _) = listener();
    let none = fail(hub_with_sockets("", [None, None], &["server.bind=systemd:"])).await;
    none.assert_failed_with(&["server.bind", "LISTEN_FDS"]);
    let named = hub_with_sockets("public", [Some(descriptor_of(&listener)), None], &["server.bind=systemd:other"]);
    fail(named).await.assert_failed_with(&["systemd:other", "FileDescriptorName"]);
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let wrong_kind = hub_with_sockets("public", [Some(datagram.into()), None], &["server.bind=systemd:"]);
    fail(wrong_kind).await.assert_failed_with(&["socket 1", "public"]);
    let exposed = TcpListener::bind("0.0.0.0:0").unwrap();
    let exposed = hub_with_sockets("public", [Some(exposed.into()), None], &["server.bind=systemd:"]);
    fail(exposed).await.assert_failed_with(&["server.bind", "other machines can reach 0.0.0.0", "behind_tls"]);
}

#[actix_rt::test]
async fn command_that_cannot_know_the_passed_address_says_so() {
    let health = || run(&mut crate::support::process::wardcast(&["health", "--set", "server.bind=systemd:"]));
    spawn_blocking(health).await.unwrap().assert_failed_with(&["server.bind", "socket unit", "--url"]);
}
