//! What proxies tell: believed of those that are trusted, and of nobody else.

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
    Hub, PATIENCE,
    client::tls_over,
    hub_with,
    raw::{self, Raw},
    tls::Certificate,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

fn trust(config: &mut Config, network: &str) {
    config.server.trusted_proxies = vec![network.parse().unwrap()];
}

/// A hub that has one connection for each address, so that its answers tell them apart, and whose proxies are the test.
async fn hub_behind_proxies(change: impl FnOnce(&mut Config)) -> Hub {
    hub_with(|config| {
        trust(config, "127.0.0.0/8");
        config.server.proxy_protocol = true;
        config.limits.connections_per_address = 1;
        change(config);
    })
    .await
}

fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &u16::try_from(rest.len()).unwrap().to_be_bytes(), rest].concat()
}

/// The header of a connection from `source`.
fn header_of(source: &str) -> Vec<u8> {
    match source.parse().unwrap() {
        IpAddr::V4(source) => header(PROXY, 0x11, &[&source.octets()[..], &[10, 0, 0, 1], &[1, 2, 3, 4]].concat()),
        IpAddr::V6(source) => {
            let destination = Ipv6Addr::LOCALHOST.octets();
            header(PROXY, 0x21, &[&source.octets()[..], &destination, &[1, 2, 3, 4]].concat())
        }
    }
}

/// A connection that sends a header and a handshake, and the status it is answered; 0 when it is closed instead.
async fn knock(hub: &Hub, header: &[u8]) -> (u16, TcpStream) {
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let handshake = raw::handshake(hub.address, &format!("/socket?token={}", hub.token("ann")));
    let _ = stream.write_all(&[header, handshake.as_bytes()].concat()).await;
    let mut line = [0; 12];
    let read = timeout(PATIENCE, stream.read_exact(&mut line)).await.expect("an answer or an end");
    let status = read.map_or(0, |_| std::str::from_utf8(&line[9..]).unwrap().parse().unwrap());
    (status, stream)
}

async fn refused(hub: &Hub) -> f64 {
    // Whoever asks is a proxy, too, and asks for itself.
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(&[&header(LOCAL, 0, &[])[..], request].concat()).await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let line = text.lines().find(|line| line.starts_with("wardcast_proxy_headers_refused_total ")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[actix_rt::test]
async fn the_header_says_whose_the_connection_is() {
    let hub = hub_behind_proxies(|_| ()).await;
    let mut open = Vec::new();
    for source in ["192.0.2.1", "192.0.2.2", "2001:db8:1:2::1", "2001:db8:1:3::1"] {
        let (status, stream) = knock(&hub, &header_of(source)).await;
        assert_eq!(status, 101, "{source}");
        open.push(stream);
    }
    for same in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8:1:2:ffff::"] {
        assert_eq!(knock(&hub, &header_of(same)).await.0, 429, "{same}");
    }
}

#[actix_rt::test]
async fn a_header_that_drips_is_read_to_its_end_and_not_further() {
    let hub = hub_behind_proxies(|_| ()).await;
    let mut raw = Raw { stream: TcpStream::connect(hub.address).await.unwrap() };
    let extended = [&[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4][..], &[4, 0, 2, 7, 7]].concat();
    for byte in header(PROXY, 0x11, &extended) {
        raw.send(&[byte]).await;
        raw.stream.flush().await.unwrap();
    }
    let handshake = raw::handshake(hub.address, &format!("/socket?token={}", hub.token("ann")));
    raw.send(&[handshake.as_bytes(), &raw::frame(raw::FIN | raw::TEXT, br#"{"id":7,"ping":{}}"#)].concat()).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    raw.next().await.expect("a greeting");
    assert_eq!(raw.next().await.unwrap().text(), r#"{"id":7,"ping":{}}"#);
}

#[actix_rt::test]
async fn a_proxy_that_asks_for_itself_keeps_its_own_address() {
    let hub = hub_behind_proxies(|_| ()).await;
    let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4];
    let (status, _open) = knock(&hub, &header(LOCAL, 0x11, &v4)).await;
    assert_eq!(status, 101);
    assert_eq!(knock(&hub, &header(PROXY, 0x00, &v4)).await.0, 429, "an unknown client counts as the proxy itself");
    assert_eq!(knock(&hub, &header_of("192.0.2.1")).await.0, 101);
}

#[actix_rt::test]
async fn a_trusted_proxy_without_a_good_header_is_closed_and_counted() {
    let hub = hub_behind_proxies(|_| ()).await;
    let bad: [&[u8]; 7] = [
        b"",
        b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
        &header(0x11, 0x11, &[0; 12]),
        &header(PROXY, 0x12, &[0; 12]),
        &header(PROXY, 0x11, &[0; 11]),
        &header(PROXY, 0x21, &[0; 35]),
        &header(PROXY, 0x11, &[0; 1025]),
    ];
    for (number, header) in bad.into_iter().enumerate() {
        assert_eq!(knock(&hub, header).await.0, 0, "{header:?}");
        assert_eq!(refused(&hub).await, number as f64 + 1.0, "{header:?}");
    }
    let endless = [SIGNATURE, &[PROXY, 0x11, 0xff, 0xff], &[0; 0xffff]].concat();
    assert_eq!(knock(&hub, &endless).await.0, 0);
    assert_eq!(knock(&hub, &header_of("192.0.2.1")).await.0, 101);
}

#[actix_rt::test]
async fn half_a_header_is_ended_after_5_seconds() {
    let hub = hub_behind_proxies(|_| ()).await;
    let began = Instant::now();
    let half = async |length: usize| {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(&header_of("192.0.2.1")[..length]).await.unwrap();
        let read = timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("an end");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    };
    tokio::join!(half(0), half(5), half(14), half(20));
    let took = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&took), "{took:?}");
}

#[actix_rt::test]
async fn who_is_no_trusted_proxy_speaks_plainly_and_its_header_is_no_http() {
    let hub = hub_behind_proxies(|config| trust(config, "10.0.0.0/8")).await;
    let (status, _open) = knock(&hub, b"").await;
    assert_eq!(status, 101);
    let answer = knock(&hub, &header_of("192.0.2.1")).await.0;
    assert_eq!(answer, 400, "it may not choose whom it counts as");
}

#[actix_rt::test]
async fn the_header_comes_before_tls() {
    let certificate = Certificate::new();
    let hub = hub_behind_proxies(|config| certificate.configure(config)).await;
    let mut open = Vec::new();
    for (source, status) in [("192.0.2.1", "101"), ("192.0.2.2", "101"), ("192.0.2.1", "429")] {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        stream.write_all(&header_of(source)).await.unwrap();
        let mut tls = tls_over(stream, certificate.root()).await.unwrap();
        let path = format!("/socket?token={}", hub.token("ann"));
        tls.write_all(raw::handshake(hub.address, &path).as_bytes()).await.unwrap();
        let mut line = [0; 12];
        timeout(PATIENCE, tls.read_exact(&mut line)).await.unwrap().unwrap();
        assert_eq!(line, *format!("HTTP/1.1 {status}").as_bytes(), "{source}");
        open.push(tls);
    }
    let plainly = TcpStream::connect(hub.address).await.unwrap();
    assert!(tls_over(plainly, certificate.root()).await.is_err(), "TLS is no header");
}

/// The address and scheme that forwarded headers make, as limits and origins see them.
async fn forwarded(hub: &Hub, headers: &[(&str, &str)]) -> u16 {
    hub.knock(&format!("/socket?token={}", hub.token("ann")), headers).await.status
}

fn loopback(address: SocketAddr) -> String {
    format!("https://{address}")
}

#[actix_rt::test]
async fn the_nearest_address_that_is_no_proxy_counts_and_not_what_stands_before_it() {
    let hub = hub_with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        config.limits.connections_per_address = 1;
    })
    .await;
    let path = format!("/socket?token={}", hub.token("ann"));
    let _one = hub.client_with(&path, &[("X-Forwarded-For", "192.0.2.1")]).await;
    for same in ["198.51.100.1, 192.0.2.1", "garbage, 192.0.2.1, 10.0.0.7", "192.0.2.1:4711"] {
        assert_eq!(forwarded(&hub, &[("X-Forwarded-For", same)]).await, 429, "{same}");
    }
    let split = [("X-Forwarded-For", "198.51.100.1, 192.0.2.1"), ("X-Forwarded-For", "10.0.0.7")];
    assert_eq!(forwarded(&hub, &split).await, 429);
    assert_eq!(forwarded(&hub, &[("X-Forwarded-For", "192.0.2.1, 198.51.100.1")]).await, 101);
    let _proxy = hub.client_with(&path, &[]).await;
    for unreadable in ["", "garbage", "192.0.2.9, unknown", "192.0.2.256", "192.0.2.9,"] {
        assert_eq!(forwarded(&hub, &[("X-Forwarded-For", unreadable)]).await, 429, "counts as the proxy: {unreadable}");
    }
}

#[actix_rt::test]
async fn the_scheme_that_a_trusted_proxy_tells_makes_our_own_origin() {
    let hub = hub_with(|config| trust(config, "127.0.0.1/32")).await;
    let own = loopback(hub.address);
    assert_eq!(forwarded(&hub, &[("Origin", &own)]).await, 403);
    assert_eq!(forwarded(&hub, &[("Origin", &own), ("X-Forwarded-Proto", "https")]).await, 101);
    let plain = format!("http://{}", hub.address);
    assert_eq!(forwarded(&hub, &[("Origin", &plain), ("X-Forwarded-Proto", "https")]).await, 403);
    let other_host = [("Origin", "https://evil.com"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.com")];
    assert_eq!(forwarded(&hub, &other_host).await, 403, "the host is what Host says");
}

#[actix_rt::test]
async fn a_stranger_tells_no_scheme_and_behind_tls_it_is_https() {
    let hub = hub_with(|config| trust(config, "10.0.0.0/8")).await;
    let own = loopback(hub.address);
    assert_eq!(forwarded(&hub, &[("Origin", &own), ("X-Forwarded-Proto", "https")]).await, 403);
    let behind = hub_with(|config| config.server.behind_tls = true).await;
    assert_eq!(forwarded(&behind, &[("Origin", &loopback(behind.address))]).await, 101);
    assert_eq!(forwarded(&behind, &[("Origin", &format!("http://{}", behind.address))]).await, 403);
}
