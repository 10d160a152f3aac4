//! wss: sessions over TLS, and certificates that are renewed while the server runs.

use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpStream;
use wardcast::{clock::Clock, server};

use crate::support::{
    Client, TestHub,
    client::{tls_client_config_for, tls_stream, tls_with},
    config, http, start_hub_with,
    tls::Certificate,
};

async fn connect_over_tls(hub: &TestHub, certificate: &Certificate) -> Client {
    let path = format!("/connection/websocket?token={}", hub.token("ann"));
    let mut client = Client::connect_tls(hub.address, &path, certificate.root()).await.unwrap();
    client.receive_connect_push().await;
    client
}

#[actix_rt::test]
async fn publications_of_every_size_arrive_over_wss_in_order() {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| certificate.configure(config)).await;
    let (mut ann, mut bob) = (connect_over_tls(&hub, &certificate).await, connect_over_tls(&hub, &certificate).await);
    ann.subscribe("news").await;
    for size in [0, 1, 125, 126, 16_384, 60_000] {
        for number in 0..8 {
            bob.publish("news", json!([number, "x".repeat(size)])).await;
        }
        for number in 0..8 {
            assert_eq!(ann.receive_publication().await[0], json!(number));
        }
    }
}

#[actix_rt::test]
async fn every_cipher_suite_of_both_versions_delivers() {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| certificate.configure(config)).await;
    let mut seen = 0;
    for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
        // The certificate has an ECDSA key.
        if format!("{suite:?}").contains("RSA") {
            continue;
        }
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: vec![*suite],
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        let version = suite.version();
        let config = tls_client_config_for(certificate.root(), provider, &[version]);
        let tcp = TcpStream::connect(hub.address).await.unwrap();
        let tls = tls_with(Arc::new(config), tcp).await.unwrap_or_else(|error| panic!("{suite:?}: {error}"));
        let mut client =
            Client::connect_over(Box::new(tls), &format!("wss://localhost{}", hub.path_for("ann")), &[]).await.unwrap();
        client.receive_connect_push().await;
        client.subscribe("news").await;
        for size in [1, 20_000, 60_000] {
            client.publish("news", json!("x".repeat(size))).await;
            assert_eq!(client.receive_publication().await.as_str().map(str::len), Some(size), "{suite:?}");
        }
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[actix_rt::test]
async fn certificate_reload_drops_no_connection() {
    let mut certificate = Certificate::new();
    let hub = start_hub_with(|config| certificate.configure(config)).await;
    let mut old = connect_over_tls(&hub, &certificate).await;
    certificate.renew();
    assert!(tls_stream(hub.address, certificate.root()).await.is_err(), "not reloaded yet");
    hub.running().reload_certificate().unwrap();
    connect_over_tls(&hub, &certificate).await;
    old.subscribe("news").await;

    std::fs::write(certificate.cert_path(), "nonsense").unwrap();
    assert!(hub.running().reload_certificate().is_err());
    connect_over_tls(&hub, &certificate).await;
}

#[actix_rt::test]
async fn plain_http_on_tls_port_gets_no_response() {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| certificate.configure(config)).await;
    assert_eq!(http::get(hub.address, "/health/live").send().await.status, 0);
    connect_over_tls(&hub, &certificate).await;
}

#[actix_rt::test]
async fn certificate_with_wrong_or_missing_key_prevents_start() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let mut config = config();
    one.configure(&mut config);
    config.server.tls.cert = Some(other.cert_path());
    let refused = server::start(config.clone(), Clock::default()).await.err().unwrap().to_string();
    assert!(refused.contains("server.tls"), "{refused}");
    config.server.tls.cert = Some("/nowhere/cert.pem".into());
    let refused = server::start(config, Clock::default()).await.err().unwrap().to_string();
    assert!(refused.contains("/nowhere/cert.pem"), "{refused}");
}
