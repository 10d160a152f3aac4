//! The addresses of a listener: several of them, host names, and Unix sockets.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
};

use serde_json::json;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::UnixStream};
use wardcast::{
    clock::Clock,
    config::Config,
    server::{self, ListenAddress},
};

use crate::support::{
    API_KEY, Client, TestHub, config, http, poll_until,
    process::{run, wardcast},
    start_hub_with,
};

/// Binds a hub to a Unix socket in this directory, and to an address of TCP.
fn bind_unix(config: &mut Config, directory: &TempDir) {
    config.server.bind = format!("unix:{}, 127.0.0.1:0", socket_in(directory)).parse().unwrap();
}

fn socket_in(directory: &TempDir) -> String {
    directory.path().join("hub.sock").display().to_string()
}

/// Returns why a hub does not start on these addresses.
async fn start_error(bind: &str) -> String {
    let mut config = config();
    config.server.bind = bind.parse().unwrap();
    server::start(config, Clock::default()).await.err().expect("an error").to_string()
}

async fn connect_unix(path: &str, hub: &TestHub, forwarded_for: Option<&str>) -> Result<Client, String> {
    let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
    let headers: Vec<_> = forwarded_for.iter().map(|address| ("X-Forwarded-For", *address)).collect();
    let url = format!("ws://localhost{}", hub.path_for("ann"));
    let mut client = Client::connect_over(Box::new(stream), &url, &headers).await.map_err(|error| error.to_string())?;
    client.receive_connect_push().await;
    Ok(client)
}

#[actix_rt::test]
async fn clients_of_all_addresses_receive_the_same_publications() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let hub = start_hub_with(|config| {
        config.server.workers = 1;
        config.server.bind = format!("127.0.0.1:0,unix:{path},127.0.0.2:0").parse().unwrap();
    })
    .await;
    let addresses = hub.running().addresses();
    let [ListenAddress::Tcp(first), ListenAddress::Unix(unix), ListenAddress::Tcp(second)] = &*addresses else {
        panic!("{addresses:?}");
    };
    assert_eq!((unix.as_path(), second.ip().to_string().as_str()), (Path::new(&path), "127.0.0.2"));
    let path_and_token = hub.path_for("ann");
    let mut clients = vec![
        Client::connect(*first, &path_and_token).await.unwrap(),
        Client::connect(*second, &path_and_token).await.unwrap(),
    ];
    for client in &mut clients {
        client.receive_connect_push().await;
    }
    clients.push(connect_unix(&path, &hub, None).await.unwrap());
    for client in &mut clients {
        client.subscribe("news").await;
    }
    hub.call_api("publish", json!({"channel": "news", "data": 7})).await;
    for client in &mut clients {
        assert_eq!(client.receive_publication().await, 7);
    }
    // A worker has one hub for all of them.
    let info = hub.call_api("info", json!({})).await;
    assert_eq!(info["result"]["nodes"][0]["num_clients"], 3, "{info}");
    assert_eq!(hub.running().hubs(), 1);
}

#[actix_rt::test]
async fn unix_socket_has_the_configured_mode_and_is_removed_by_a_stop() {
    for mode in [0o660, 0o600] {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_in(&directory);
        let hub = start_hub_with(|config| {
            bind_unix(config, &directory);
            config.server.unix_mode = mode;
        })
        .await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        let client = connect_unix(&path, &hub, None).await.unwrap();
        drop(client);
        hub.stop().await;
        assert!(!Path::new(&path).exists());
    }
}

#[actix_rt::test]
async fn socket_of_a_dead_process_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    // The file stays when its listener is closed.
    drop(UnixListener::bind(&path).unwrap());
    let hub = start_hub_with(|config| bind_unix(config, &directory)).await;
    let error = start_error(&format!("unix:{path}")).await;
    assert!(error.contains("server.bind") && error.contains("another process listens there"), "{error}");
    connect_unix(&path, &hub, None).await.expect("the first hub still has its socket");
    // A file that another process has put there is not removed.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    hub.stop().await;
    assert!(Path::new(&path).exists());
}

#[actix_rt::test]
async fn path_that_cannot_be_a_socket_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    fs::write(&path, "notes").unwrap();
    let error = start_error(&format!("unix:{path}")).await;
    assert!(error.contains("is not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
    let missing = start_error(&format!("unix:{path}/below/hub.sock")).await;
    assert!(missing.contains("server.bind") && missing.contains("below/hub.sock"), "{missing}");
}

#[actix_rt::test]
async fn peers_of_a_unix_socket_share_the_limits_of_one_address_unless_their_proxy_is_trusted() {
    for (trusted, is_trusted) in [(vec!["0.0.0.0/0"], false), (vec!["unix"], true)] {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_in(&directory);
        let hub = start_hub_with(|config| {
            bind_unix(config, &directory);
            config.limits.connections_per_address = 1;
            config.server.trusted_proxies = trusted.iter().map(|proxy| proxy.parse().unwrap()).collect();
        })
        .await;
        let _one = connect_unix(&path, &hub, Some("192.0.2.1")).await.unwrap();
        let second = connect_unix(&path, &hub, Some("192.0.2.2")).await;
        assert_eq!(second.is_ok(), is_trusted, "{trusted:?}: {:?}", second.err());
        let refused = connect_unix(&path, &hub, Some("192.0.2.1")).await;
        assert!(refused.is_err_and(|error| error.contains("429")), "{trusted:?}");
    }
}

#[actix_rt::test]
async fn trusted_proxy_on_a_unix_socket_chooses_request_ids() {
    for (trusted, is_trusted) in [(vec!["0.0.0.0/0"], false), (vec!["unix"], true)] {
        let directory = tempfile::tempdir().unwrap();
        let _hub = start_hub_with(|config| {
            bind_unix(config, &directory);
            config.server.trusted_proxies = trusted.iter().map(|proxy| proxy.parse().unwrap()).collect();
        })
        .await;
        let mut stream = UnixStream::connect(socket_in(&directory)).await.unwrap();
        let request = b"GET /health/live HTTP/1.1\r\nHost: hub\r\nX-Request-Id: edge-1\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let response = http::receive(&mut stream).await;
        assert_eq!(response.header("x-request-id") == Some("edge-1"), is_trusted, "{trusted:?} {response:?}");
    }
}

#[actix_rt::test]
async fn host_name_stands_for_its_addresses() {
    let hub = start_hub_with(|config| config.server.bind = "localhost:0".parse().unwrap()).await;
    let addresses = hub.running().addresses();
    assert!(!addresses.is_empty());
    for address in addresses {
        let address = address.tcp().unwrap();
        assert!(address.ip().is_loopback());
        assert_eq!(http::get(address, "/health/ready").send().await.status, 200, "{address}");
    }
}

#[actix_rt::test]
async fn wildcards_of_both_families_listen_side_by_side() {
    let free = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    let hub = start_hub_with(|config| {
        config.server.bind = format!("0.0.0.0:{free},[::]:{free}").parse().unwrap();
        config.server.behind_tls = true;
        config.environment = wardcast::config::Environment::Production;
    })
    .await;
    assert_eq!(hub.running().addresses().len(), 2);
    for address in [format!("127.0.0.1:{free}"), format!("[::1]:{free}")] {
        assert_eq!(http::get(address.parse().unwrap(), "/health/ready").send().await.status, 200, "{address}");
    }
}

#[actix_rt::test]
async fn internal_listener_may_be_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let hub =
        start_hub_with(|config| config.server.internal_bind = Some(format!("unix:{path}").parse().unwrap())).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let publish = ["pub", "news", "5", "--url", &format!("http://unix:{path}")].map(str::to_owned);
    let published = actix_rt::task::spawn_blocking(move || {
        let arguments: Vec<&str> = publish.iter().map(String::as_str).collect();
        run(wardcast(&arguments).env("WARDCAST_API__KEY", API_KEY))
    })
    .await
    .unwrap();
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    assert_eq!(ann.receive_publication().await, 5);
}

#[actix_rt::test]
async fn health_command_finds_the_unix_socket_of_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let hub = start_hub_with(|config| bind_unix(config, &directory)).await;
    let bind = format!("server.bind=unix:{}", socket_in(&directory));
    let health = move || run(&mut wardcast(&["health", "--set", &bind]));
    let ready = actix_rt::task::spawn_blocking(health.clone()).await.unwrap();
    assert_eq!(ready.code, Some(0), "{}", ready.stderr);
    hub.stop().await;
    let gone = actix_rt::task::spawn_blocking(health).await.unwrap();
    gone.assert_failed_with(&["http://unix:", "no hub listens there"]);
}

#[actix_rt::test]
async fn client_that_does_not_read_from_a_unix_socket_is_disconnected() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_in(&directory);
    let hub = start_hub_with(|config| {
        bind_unix(config, &directory);
        config.limits.outbox_bytes = 256 * 1024;
        config.api.publication_bytes = 64 * 1024;
        config.channels.allow_publish = wardcast::config::ChannelAccess::None;
    })
    .await;
    let mut stalled = connect_unix(&path, &hub, None).await.unwrap();
    stalled.subscribe("news").await;
    let data = "x".repeat(32 * 1024);
    poll_until("the stalled client is closed", async || {
        hub.call_api("publish", json!({"channel": "news", "data": data})).await;
        hub.running().connections() == 0
    })
    .await;
}
