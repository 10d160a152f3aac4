//! Client address and scheme from PROXY headers and forwarded headers: accepted from trusted proxies only.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use wardcast::config::Config;

use crate::support::{
    PATIENCE, TestHub,
    client::tls_over,
    raw::{self, RawClient},
    start_hub_with,
    tls::Certificate,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

fn trust_proxies(config: &mut Config, network: &str) {
    config.server.trusted_proxies = vec![network.parse().unwrap()];
}

/// Starts a hub that trusts the test as a proxy. It allows one connection for each address, so that the status of a
/// handshake shows which address it was counted for.
async fn start_hub_behind_proxies(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        trust_proxies(config, "127.0.0.0/8");
        config.server.proxy_protocol = true;
        config.limits.connections_per_address = 1;
        change(config);
    })
    .await
}

fn proxy_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &u16::try_from(rest.len()).unwrap().to_be_bytes(), rest].concat()
}

/// The PROXY header for a connection from `source`.
fn proxy_header_from(source: &str) -> Vec<u8> {
    match source.parse().unwrap() {
        IpAddr::V4(source) => {
            proxy_header(PROXY, 0x11, &[&source.octets()[..], &[10, 0, 0, 1], &[1, 2, 3, 4]].concat())
        }
        IpAddr::V6(source) => {
            let destination = Ipv6Addr::LOCALHOST.octets();
            proxy_header(PROXY, 0x21, &[&source.octets()[..], &destination, &[1, 2, 3, 4]].concat())
        }
    }
}

/// Connects and sends a header and a handshake; returns the status of the response, or 0 if the connection was closed, and
/// the connection.
async fn handshake_with_proxy_header(hub: &TestHub, header: &[u8]) -> (u16, TcpStream) {
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let handshake = raw::handshake(hub.address, &hub.path_for("ann"));
    let _ = stream.write_all(&[header, handshake.as_bytes()].concat()).await;
    let mut line = [0; 12];
    let read = timeout(PATIENCE, stream.read_exact(&mut line)).await.expect("a response or an end");
    let status = read.map_or(0, |_| std::str::from_utf8(&line[9..]).unwrap().parse().unwrap());
    (status, stream)
}

async fn refused_proxy_headers(hub: &TestHub) -> f64 {
    // The test is a trusted proxy, so even this request needs a header.
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(&[&proxy_header(LOCAL, 0, &[])[..], request].concat()).await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let line = text.lines().find(|line| line.starts_with("wardcast_proxy_headers_refused_total ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[actix_rt::test]
async fn proxy_header_gives_the_client_address() {
    let hub = start_hub_behind_proxies(|_| ()).await;
    let mut open = Vec::new();
    for source in ["192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:3::1"] {
        let (status, stream) = handshake_with_proxy_header(&hub, &proxy_header_from(source)).await;
        assert_eq!(status, 101, "{source}");
        open.push(stream);
    }
    for same in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8:1:2:ffff::"] {
        assert_eq!(handshake_with_proxy_header(&hub, &proxy_header_from(same)).await.0, 429, "{same}");
    }
}

#[actix_rt::test]
async fn slow_proxy_header_is_read_exactly_to_its_end() {
    let hub = start_hub_behind_proxies(|_| ()).await;
    let mut raw = RawClient { stream: TcpStream::connect(hub.address).await.unwrap() };
    let extended = [&[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4][..], &[4, 0, 2, 7, 7]].concat();
    for byte in proxy_header(PROXY, 0x11, &extended) {
        raw.send(&[byte]).await;
        raw.stream.flush().await.unwrap();
    }
    let handshake = raw::handshake(hub.address, &hub.path_for("ann"));
    raw.send(&[handshake.as_bytes(), &raw::text_frame(r#"{"id":7,"ping":{}}"#)].concat()).await;
    assert!(raw.read_head().await.starts_with("HTTP/1.1 101 "));
    raw.next().await.expect("a connect push");
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":7,"ping":{}}"#);
}

#[actix_rt::test]
async fn local_proxy_command_keeps_the_proxys_address() {
    let hub = start_hub_behind_proxies(|_| ()).await;
    let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4];
    let (status, _open) = handshake_with_proxy_header(&hub, &proxy_header(LOCAL, 0x11, &v4)).await;
    assert_eq!(status, 101);
    assert_eq!(
        handshake_with_proxy_header(&hub, &proxy_header(PROXY, 0x00, &v4)).await.0,
        429,
        "an unknown client counts as the proxy itself"
    );
    assert_eq!(handshake_with_proxy_header(&hub, &proxy_header_from("192.0.2.1")).await.0, 101);
}

#[actix_rt::test]
async fn trusted_proxy_without_valid_header_is_closed_and_counted() {
    let hub = start_hub_behind_proxies(|_| ()).await;
    let bad: [&[u8]; 7] = [
        b"",
        b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
        &proxy_header(0x11, 0x11, &[0; 12]),
        &proxy_header(PROXY, 0x12, &[0; 12]),
        &proxy_header(PROXY, 0x11, &[0; 11]),
        &proxy_header(PROXY, 0x21, &[0; 35]),
        &proxy_header(PROXY, 0x11, &[0; 1025]),
    ];
    for (number, header) in bad.into_iter().enumerate() {
        assert_eq!(handshake_with_proxy_header(&hub, header).await.0, 0, "{header:?}");
        assert_eq!(refused_proxy_headers(&hub).await, number as f64 + 1.0, "{header:?}");
    }
    let endless = [SIGNATURE, &[PROXY, 0x11, 0xff, 0xff], &[0; 0xffff]].concat();
    assert_eq!(handshake_with_proxy_header(&hub, &endless).await.0, 0);
    assert_eq!(handshake_with_proxy_header(&hub, &proxy_header_from("192.0.2.1")).await.0, 101);
}

#[actix_rt::test]
async fn incomplete_proxy_header_is_closed_after_5_seconds() {
    let hub = start_hub_behind_proxies(|_| ()).await;
    let started = Instant::now();
    let send_part = async |length: usize| {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(&proxy_header_from("192.0.2.1")[..length]).await.unwrap();
        let read = timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("an end");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    };
    tokio::join!(send_part(0), send_part(5), send_part(14), send_part(20));
    let took = started.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
}

#[actix_rt::test]
async fn proxy_header_of_untrusted_peer_is_parsed_as_http_and_refused() {
    let hub = start_hub_behind_proxies(|config| trust_proxies(config, "10.0.0.0/8")).await;
    let (status, _open) = handshake_with_proxy_header(&hub, b"").await;
    assert_eq!(status, 101);
    let status = handshake_with_proxy_header(&hub, &proxy_header_from("192.0.2.1")).await.0;
    assert_eq!(status, 400, "an untrusted peer must not choose its address");
}

#[actix_rt::test]
async fn proxy_header_precedes_tls() {
    let certificate = Certificate::new();
    let hub = start_hub_behind_proxies(|config| certificate.configure(config)).await;
    let mut open = Vec::new();
    for (source, status) in [("192.0.2.1", "101"), ("192.0.2.2", "101"), ("192.0.2.1", "429")] {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(&proxy_header_from(source)).await.unwrap();
        let mut tls = tls_over(stream, certificate.root()).await.unwrap();
        let path = hub.path_for("ann");
        tls.write_all(raw::handshake(hub.address, &path).as_bytes()).await.unwrap();
        let mut line = [0; 12];
        timeout(PATIENCE, tls.read_exact(&mut line)).await.unwrap().unwrap();
        assert_eq!(line, *format!("HTTP/1.1 {status}").as_bytes(), "{source}");
        open.push(tls);
    }
    let without_header = TcpStream::connect(hub.address).await.unwrap();
    assert!(tls_over(without_header, certificate.root()).await.is_err());
}

/// The status of a handshake with these headers. It shows the address and scheme that the limits and the origin check use.
async fn forwarded_status(hub: &TestHub, headers: &[(&str, &str)]) -> u16 {
    hub.try_handshake(&hub.path_for("ann"), headers).await.status
}

fn https_origin(address: SocketAddr) -> String {
    format!("https://{address}")
}

#[actix_rt::test]
async fn nearest_forwarded_address_that_is_not_a_trusted_proxy_is_used() {
    let hub = start_hub_with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        config.limits.connections_per_address = 1;
    })
    .await;
    let path = hub.path_for("ann");
    let _one = hub.connect_to(&path, &[("X-Forwarded-For", "192.0.2.1")]).await;
    for same in ["198.51.100.1, 192.0.2.1", "garbage, 192.0.2.1, 10.0.0.7", "192.0.2.1:4711"] {
        assert_eq!(forwarded_status(&hub, &[("X-Forwarded-For", same)]).await, 429, "{same}");
    }
    let split = [("X-Forwarded-For", "198.51.100.1, 192.0.2.1"), ("X-Forwarded-For", "10.0.0.7")];
    assert_eq!(forwarded_status(&hub, &split).await, 429);
    assert_eq!(forwarded_status(&hub, &[("X-Forwarded-For", "192.0.2.1, 198.51.100.1")]).await, 101);
    let _proxy = hub.connect_to(&path, &[]).await;
    for unreadable in ["", "garbage", "192.0.2.9, unknown", "192.0.2.256", "192.0.2.9,"] {
        assert_eq!(
            forwarded_status(&hub, &[("X-Forwarded-For", unreadable)]).await,
            429,
            "counts as the proxy: {unreadable}"
        );
    }
}

#[actix_rt::test]
async fn forwarded_scheme_of_trusted_proxy_defines_own_origin() {
    let hub = start_hub_with(|config| trust_proxies(config, "127.0.0.1/32")).await;
    let own = https_origin(hub.address);
    assert_eq!(forwarded_status(&hub, &[("Origin", &own)]).await, 403);
    let plain = format!("http://{}", hub.address);
    for (scheme, own_status, plain_status) in
        [("https", 101, 403), ("wss", 101, 403), ("WSS", 101, 403), ("http", 403, 101), ("ws", 403, 101)]
    {
        let status =
            async |origin: &str| forwarded_status(&hub, &[("Origin", origin), ("X-Forwarded-Proto", scheme)]).await;
        assert_eq!((status(&own).await, status(&plain).await), (own_status, plain_status), "{scheme}");
    }
    let other_host = [("Origin", "https://evil.com"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.com")];
    assert_eq!(forwarded_status(&hub, &other_host).await, 403, "the host is taken from the Host header");
}

#[actix_rt::test]
async fn forwarded_scheme_of_untrusted_peer_is_ignored_and_tls_is_https() {
    let hub = start_hub_with(|config| trust_proxies(config, "10.0.0.0/8")).await;
    let own = https_origin(hub.address);
    assert_eq!(forwarded_status(&hub, &[("Origin", &own), ("X-Forwarded-Proto", "https")]).await, 403);
    let behind = start_hub_with(|config| config.server.behind_tls = true).await;
    assert_eq!(forwarded_status(&behind, &[("Origin", &https_origin(behind.address))]).await, 101);
    assert_eq!(forwarded_status(&behind, &[("Origin", &format!("http://{}", behind.address))]).await, 403);
}
