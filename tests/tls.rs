//! wss: the same sessions over TLS, with certificates that change under a running server.

use serde_json::json;
use wardcast::{clock::Clock, server};

use crate::support::{Client, Hub, client::tls_stream, config, http, hub_with, tls::Certificate};

async fn client(hub: &Hub, certificate: &Certificate) -> Client {
    let path = format!("/connection/websocket?token={}", hub.token("ann"));
    let mut client = Client::connect_tls(hub.address, &path, certificate.root()).await.unwrap();
    client.hear().await;
    client
}

#[actix_rt::test]
async fn a_publication_arrives_over_wss_in_every_size_and_in_order() {
    let certificate = Certificate::new();
    let hub = hub_with(|config| certificate.configure(config)).await;
    let (mut ann, mut bob) = (client(&hub, &certificate).await, client(&hub, &certificate).await);
    ann.subscribe("news").await;
    for size in [0, 1, 125, 126, 16_384, 60_000] {
        for number in 0..8 {
            let data = json!([number, "x".repeat(size)]);
            let published = bob.ask(json!({"id": 2, "publish": {"channel": "news", "data": data}})).await;
            assert_eq!(published, json!({"id": 2, "publish": {}}));
        }
        for number in 0..8 {
            assert_eq!(ann.publication().await[0], json!(number));
        }
    }
}

#[actix_rt::test]
async fn a_certificate_is_read_again_without_dropping_anybody() {
    let mut certificate = Certificate::new();
    let hub = hub_with(|config| certificate.configure(config)).await;
    let mut old = client(&hub, &certificate).await;
    certificate.renew();
    assert!(tls_stream(hub.address, certificate.root()).await.is_err(), "not yet");
    hub.running().reload_certificate().unwrap();
    client(&hub, &certificate).await;
    old.subscribe("news").await;

    std::fs::write(certificate.cert_path(), "nonsense").unwrap();
    assert!(hub.running().reload_certificate().is_err());
    client(&hub, &certificate).await;
}

#[actix_rt::test]
async fn plain_http_on_a_tls_port_gets_nothing() {
    let certificate = Certificate::new();
    let hub = hub_with(|config| certificate.configure(config)).await;
    assert_eq!(http::get(hub.address, "/health/live").send().await.status, 0);
    client(&hub, &certificate).await;
}

#[actix_rt::test]
async fn a_key_of_another_certificate_is_no_start() {
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
