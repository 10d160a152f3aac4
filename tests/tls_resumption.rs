//! Resumed TLS sessions: tickets of one and of several instances, their keys and their reload.

use std::{fs, path::PathBuf, sync::Arc};

use rustls::{ClientConfig, HandshakeKind, crypto::aws_lc_rs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use wardcast::{clock::Clock, server};

use crate::support::{
    PATIENCE, TestHub,
    client::{tls_client_config, tls_client_config_for, tls_with},
    config, start_hub_with,
    tls::Certificate,
};

/// Sends a request over a connection of its own. Returns how the handshake was done.
async fn request(hub: &TestHub, client: &Arc<ClientConfig>) -> HandshakeKind {
    let tcp = TcpStream::connect(hub.address).await.unwrap();
    let mut tls = tls_with(client.clone(), tcp).await.unwrap();
    tls.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = Vec::new();
    timeout(PATIENCE, tls.read_to_end(&mut response)).await.expect("a response in time").unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response));
    tls.get_ref().1.handshake_kind().unwrap()
}

async fn start_with_ticket_keys(certificate: &Certificate, files: &[PathBuf]) -> TestHub {
    start_hub_with(|config| {
        certificate.configure(config);
        config.server.tls.ticket_keys = files.to_vec();
    })
    .await
}

fn client(certificate: &Certificate) -> Arc<ClientConfig> {
    Arc::new(tls_client_config(certificate.root()))
}

#[actix_rt::test]
async fn second_connection_resumes_the_session_of_the_first_on_both_versions() {
    let certificate = Certificate::new();
    for version in rustls::ALL_VERSIONS {
        let hub = start_with_ticket_keys(&certificate, &[]).await;
        let config = tls_client_config_for(certificate.root(), aws_lc_rs::default_provider(), &[version]);
        let client = Arc::new(config);
        assert_eq!(request(&hub, &client).await, HandshakeKind::Full, "{version:?}");
        assert_eq!(request(&hub, &client).await, HandshakeKind::Resumed, "{version:?}");
        // The resumed session brought a ticket of its own.
        assert_eq!(request(&hub, &client).await, HandshakeKind::Resumed, "{version:?}");
        let count = |outcome| hub.running().metrics.tls_handshakes_with_outcome(outcome);
        assert_eq!((count("full"), count("resumed"), count("failed")), (1, 2, 0));
    }
}

#[actix_rt::test]
async fn client_resumes_although_hundreds_of_others_have_connected_since() {
    let certificate = Certificate::new();
    let hub = start_with_ticket_keys(&certificate, &[]).await;
    let clients: Vec<_> = (0..300).map(|_| client(&certificate)).collect();
    for client in &clients {
        request(&hub, client).await;
    }
    assert_eq!(request(&hub, &clients[0]).await, HandshakeKind::Resumed);
}

#[actix_rt::test]
async fn tickets_survive_a_reload_of_the_certificate() {
    let mut certificate = Certificate::new();
    let hub = start_with_ticket_keys(&certificate, &[]).await;
    let client = client(&certificate);
    request(&hub, &client).await;
    certificate.renew();
    hub.running().reload_certificate().unwrap();
    assert_eq!(request(&hub, &client).await, HandshakeKind::Resumed);
}

#[actix_rt::test]
async fn ticket_of_another_instance_falls_back_to_a_full_handshake() {
    let certificate = Certificate::new();
    let (one, other) =
        (start_with_ticket_keys(&certificate, &[]).await, start_with_ticket_keys(&certificate, &[]).await);
    let client = client(&certificate);
    request(&one, &client).await;
    assert_eq!(request(&other, &client).await, HandshakeKind::Full);
}

#[actix_rt::test]
async fn instances_with_the_same_key_files_resume_each_others_sessions_through_a_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["new", "old"].map(|name| directory.path().join(name));
    let write = |new: u8, old: u8| {
        fs::write(&files[0], [new; 80]).unwrap();
        fs::write(&files[1], [old; 80]).unwrap();
    };
    write(2, 1);
    let certificate = Certificate::new();
    let (one, other) =
        (start_with_ticket_keys(&certificate, &files).await, start_with_ticket_keys(&certificate, &files).await);
    let (early, late) = (client(&certificate), client(&certificate));
    request(&one, &early).await;
    request(&one, &late).await;
    assert_eq!(request(&other, &early).await, HandshakeKind::Resumed);
    write(3, 2);
    other.running().reload_certificate().unwrap();
    assert_eq!(request(&other, &late).await, HandshakeKind::Resumed, "by the older key");
    // The ticket of the key that is removed now.
    request(&one, &late).await;
    write(4, 3);
    other.running().reload_certificate().unwrap();
    assert_eq!(request(&other, &late).await, HandshakeKind::Full, "its key is gone");
}

#[actix_rt::test]
async fn unusable_ticket_key_prevents_start_and_keeps_the_old_keys_at_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ticket.key");
    let certificate = Certificate::new();
    let refusal = async || {
        let mut config = config();
        certificate.configure(&mut config);
        config.server.tls.ticket_keys = vec![file.clone()];
        server::start(config, Clock::default()).await.err().unwrap().to_string()
    };
    assert!(refusal().await.contains("ticket.key"));
    fs::write(&file, [1; 31]).unwrap();
    assert!(refusal().await.contains("at least 32"));
    fs::write(&file, vec![1; 5000]).unwrap();
    assert!(refusal().await.contains("at most 4096"));

    fs::write(&file, [1; 32]).unwrap();
    let hub = start_with_ticket_keys(&certificate, std::slice::from_ref(&file)).await;
    let client = client(&certificate);
    request(&hub, &client).await;
    fs::write(&file, [1; 31]).unwrap();
    hub.running().reload_certificate().unwrap_err();
    assert_eq!(request(&hub, &client).await, HandshakeKind::Resumed);
}

#[actix_rt::test]
async fn early_data_is_never_accepted() {
    let certificate = Certificate::new();
    let hub = start_with_ticket_keys(&certificate, &[]).await;
    let mut config = tls_client_config(certificate.root());
    config.enable_early_data = true;
    let client = Arc::new(config);
    request(&hub, &client).await;
    let mut next = rustls::ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
    assert!(next.early_data().is_none(), "the ticket permits a request that can be recorded and sent again");
}
