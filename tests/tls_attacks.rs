//! TLS clients that break rules, stall, or send their bytes in the most expensive way.

use std::{
    io::{self, Write},
    pin::Pin,
    process::{Command, Stdio},
    task::{Context, Poll},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    Client, PATIENCE, TestHub,
    client::{tls_over, tls_stream},
    poll_until, raw, start_hub_with,
    stream::read_until,
    tls::Certificate,
};

const SUBSCRIBE: &str = r#"{"id":1,"subscribe":{"channel":"news"}}"#;

async fn start_tls_hub() -> (TestHub, Certificate) {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| certificate.configure(config)).await;
    (hub, certificate)
}

/// Checks that the hub still serves other clients.
async fn assert_serves_others(hub: &TestHub, certificate: &Certificate) {
    let mut other = Client::connect_tls(hub.address, &hub.path_for("bob"), certificate.root()).await.unwrap();
    other.receive_connect_push().await;
    other.subscribe("news").await;
    other.publish("news", json!("works")).await;
    assert_eq!(other.receive_publication().await, json!("works"));
}

/// Reads until the server has closed the connection. Returns what it sent.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, io::Result<usize>) {
    let mut received = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("a closed connection in time");
    (received, end)
}

/// Passes one byte at a time to the network.
struct OneByteAtATime(TcpStream);

impl AsyncRead for OneByteAtATime {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for OneByteAtATime {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[actix_rt::test]
async fn handshake_and_records_that_arrive_byte_by_byte_are_understood() {
    let (hub, certificate) = start_tls_hub().await;
    let tcp = TcpStream::connect(hub.address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let mut tls = tls_over(OneByteAtATime(tcp), certificate.root()).await.unwrap();
    tls.write_all(raw::handshake(hub.address, &hub.path_for("ann")).as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    read_until(&mut tls, "connect").await;
    tls.write_all(&raw::text_frame(SUBSCRIBE)).await.unwrap();
    tls.flush().await.unwrap();
    read_until(&mut tls, r#"{"id":1,"subscribe":{}}"#).await;
}

#[actix_rt::test]
async fn records_of_one_byte_are_joined_to_messages() {
    let (hub, certificate) = start_tls_hub().await;
    let mut tls = tls_stream(hub.address, certificate.root()).await.unwrap();
    tls.write_all(raw::handshake(hub.address, &hub.path_for("ann")).as_bytes()).await.unwrap();
    read_until(&mut tls, "connect").await;
    for byte in raw::text_frame(SUBSCRIBE) {
        tls.write_all(&[byte]).await.unwrap();
        tls.flush().await.unwrap();
    }
    read_until(&mut tls, r#"{"id":1,"subscribe":{}}"#).await;
}

#[actix_rt::test]
async fn frames_sent_together_with_the_last_message_of_the_handshake_are_handled() {
    let (hub, certificate) = start_tls_hub().await;
    let tcp = TcpStream::connect(hub.address).await.unwrap();
    let config = crate::support::client::tls_client_config(certificate.root());
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let request = raw::handshake(hub.address, &hub.path_for("ann"));
    // What is written before the handshake leaves together with its end.
    let mut connecting = connector.connect_with("localhost".try_into().unwrap(), tcp, |tls| {
        tls.writer().write_all(request.as_bytes()).unwrap();
        tls.writer().write_all(&raw::text_frame(SUBSCRIBE)).unwrap();
    });
    let mut tls = timeout(PATIENCE, &mut connecting).await.unwrap().unwrap();
    read_until(&mut tls, r#"{"id":1,"subscribe":{}}"#).await;
}

#[actix_rt::test]
async fn key_updates_are_answered_and_a_flood_of_them_closes_the_connection() {
    let (hub, certificate) = start_tls_hub().await;
    let mut tls = tls_stream(hub.address, certificate.root()).await.unwrap();
    tls.write_all(raw::handshake(hub.address, &hub.path_for("ann")).as_bytes()).await.unwrap();
    read_until(&mut tls, "connect").await;
    for id in 1..5 {
        tls.get_mut().1.refresh_traffic_keys().unwrap();
        let command = format!(r#"{{"id":{id},"ping":{{}}}}"#);
        tls.write_all(&raw::text_frame(&command)).await.unwrap();
        read_until(&mut tls, &format!(r#""id":{id}"#)).await;
    }
    for _ in 0..1000 {
        tls.get_mut().1.refresh_traffic_keys().unwrap();
    }
    // The hub may close the connection before everything is written.
    let _ = timeout(PATIENCE, tls.flush()).await.unwrap();
    let _ = read_to_end(&mut tls).await;
    hub.wait_for_connections(0).await;
    assert_serves_others(&hub, &certificate).await;
}

#[actix_rt::test]
async fn oversized_and_forged_records_close_their_connection_only() {
    let (hub, certificate) = start_tls_hub().await;
    for record in [
        // Longer than any record, without its content.
        [&[23, 3, 3, 0xff, 0xff][..], &[0; 10]].concat(),
        // A record of the right form that no key has encrypted.
        [&[23, 3, 3, 0, 40][..], &[7; 40]].concat(),
        // A start of a handshake in plaintext: a renegotiation is no better when nothing encrypts it.
        [&[22, 3, 3, 0, 4][..], &[1, 0, 0, 0]].concat(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut tls = tls_stream(hub.address, certificate.root()).await.unwrap();
        tls.write_all(raw::handshake(hub.address, &hub.path_for("ann")).as_bytes()).await.unwrap();
        read_until(&mut tls, "connect").await;
        let tcp = tls.get_mut().0;
        tcp.write_all(&record).await.unwrap();
        let (_, end) = read_to_end(&mut tls).await;
        let alert = end.expect_err("an alert").to_string();
        assert!(alert.contains("alert"), "{record:?}: {alert}");
        hub.wait_for_connections(0).await;
    }
    assert_serves_others(&hub, &certificate).await;
}

#[actix_rt::test]
async fn endless_handshake_message_is_cut_off_before_it_takes_memory() {
    let (hub, certificate) = start_tls_hub().await;
    let mut tcp = TcpStream::connect(hub.address).await.unwrap();
    // A ClientHello that announces 60,000 bytes, in records of 1 KiB: more than any client sends, less than the library takes.
    let record = |content: &[u8]| [&[22, 3, 1][..], &(content.len() as u16).to_be_bytes(), content].concat();
    let mut content = vec![0; 1024];
    content[..4].copy_from_slice(&[1, 0, 0xea, 0x60]);
    for _ in 0..24 {
        // The connection may have ended.
        let _ = tcp.write_all(&record(&content)).await;
        content.fill(0);
    }
    read_to_end(&mut tcp).await.1.ok();
    let count = |outcome| hub.running().metrics.tls_handshakes_with_outcome(outcome);
    // It is counted when the connection has ended.
    poll_until("the handshake is counted", async || count("failed") + count("timeout") > 0).await;
    assert_eq!((count("failed"), count("timeout")), (1, 0));
    assert_serves_others(&hub, &certificate).await;
}

#[actix_rt::test]
async fn renegotiation_is_refused() {
    let (hub, certificate) = start_tls_hub().await;
    let address = hub.address.to_string();
    let output = tokio::task::spawn_blocking(move || {
        let mut client = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-tls1_2", "-legacy_renegotiation"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A line with an R starts a renegotiation.
        client.stdin.take().unwrap().write_all(b"R\n").unwrap();
        client.wait_with_output().unwrap()
    });
    let output = timeout(PATIENCE, output).await.expect("the client ends in time").unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("RENEGOTIATING"), "{text}");
    assert!(text.contains("no renegotiation") || text.contains("alert"), "{text}");
    assert_serves_others(&hub, &certificate).await;
}

#[actix_rt::test]
async fn flood_of_silent_handshakes_neither_blocks_others_nor_stays() {
    let (hub, certificate) = start_tls_hub().await;
    let silent = join_all((0..200).map(|_| TcpStream::connect(hub.address))).await;
    assert_serves_others(&hub, &certificate).await;
    // They hold a handshake for 3 s, which no clock of the tests moves.
    for tcp in silent {
        let (received, _) = read_to_end(&mut tcp.unwrap()).await;
        assert_eq!(received, b"");
    }
    let timeouts = || hub.running().metrics.tls_handshakes_with_outcome("timeout");
    poll_until("all timeouts are counted", async || timeouts() == 200).await;
}

#[actix_rt::test]
async fn both_sides_announce_the_end_of_what_they_send() {
    let (hub, certificate) = start_tls_hub().await;
    // The client closes its half first.
    let mut tls = tls_stream(hub.address, certificate.root()).await.unwrap();
    tls.write_all(raw::handshake(hub.address, &hub.path_for("ann")).as_bytes()).await.unwrap();
    read_until(&mut tls, "connect").await;
    tls.shutdown().await.unwrap();
    let (_, end) = read_to_end(&mut tls).await;
    end.expect("close_notify of the hub");
    hub.wait_for_connections(0).await;
    // The hub closes first.
    let mut tls = tls_stream(hub.address, certificate.root()).await.unwrap();
    tls.write_all(raw::handshake(hub.address, &hub.path_for("ann")).as_bytes()).await.unwrap();
    read_until(&mut tls, "connect").await;
    tls.write_all(&raw::frame(raw::FIN | raw::CLOSE, &1000_u16.to_be_bytes())).await.unwrap();
    let (_, end) = read_to_end(&mut tls).await;
    end.expect("close_notify after the close frame");
}
