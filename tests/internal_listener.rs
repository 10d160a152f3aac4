//! The internal listener: the server API, metrics and health on an address of their own, which clients cannot reach.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wardcast::{
    clock::Clock,
    config::Config,
    server::{self, ListenError, ServerStartError},
};

use crate::support::{
    API_KEY, Client, TestHub, config, http, poll_until, raw, start_hub_with,
    tls::{Authority, Certificate, PairFiles},
};

fn bind_internally(config: &mut Config) {
    config.server.internal_bind = Some(([127, 0, 0, 1], 0).into());
}

async fn start_hub_with_internal_listener(change: impl FnOnce(&mut Config)) -> (TestHub, SocketAddr) {
    let hub = start_hub_with(|config| {
        bind_internally(config);
        change(config);
    })
    .await;
    let internal = hub.internal_address();
    (hub, internal)
}

async fn status_of(address: SocketAddr, path: &str) -> u16 {
    http::get(address, path).send().await.status
}

async fn publish(address: SocketAddr) -> u16 {
    let body = json!({"channel": "news", "data": 1});
    http::post(address, "/api/publish").header("X-API-Key", API_KEY).json(body).send().await.status
}

#[actix_rt::test]
async fn public_listener_serves_neither_the_server_api_nor_metrics() {
    let (hub, internal) = start_hub_with_internal_listener(|config| config.web.demo_page = true).await;
    for path in ["/metrics", "/api", "/api/info", "/%6detrics"] {
        assert_eq!(status_of(hub.address, path).await, 404, "{path}");
    }
    assert_eq!((publish(hub.address).await, publish(internal).await), (404, 200));
    assert_eq!(status_of(internal, "/metrics").await, 200);
    for address in [hub.address, internal] {
        assert_eq!((status_of(address, "/health/live").await, status_of(address, "/health/ready").await), (200, 200));
    }
    assert_eq!(status_of(hub.address, "/").await, 200, "the demo page");
}

#[actix_rt::test]
async fn publication_from_the_internal_listener_reaches_clients_of_the_public_one() {
    let (hub, internal) = start_hub_with_internal_listener(|_| ()).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    assert_eq!(publish(internal).await, 200);
    assert_eq!(ann.receive_publication().await, 1);
}

#[actix_rt::test]
async fn internal_listener_serves_no_clients() {
    let (hub, internal) = start_hub_with_internal_listener(|config| config.web.demo_page = true).await;
    let handshake = raw::handshake(internal, &hub.path_for("ann"));
    assert_eq!(http::exchange(internal, handshake.as_bytes()).await.status, 404);
    for path in ["/", "/socket", "/connection/websocket", "/auth/ticket", "/demo/hub.json"] {
        assert_eq!(status_of(internal, path).await, 404, "{path}");
    }
    assert_eq!(
        http::post(internal, "/auth/ticket").header("Authorization", &hub.bearer("ann")).send().await.status,
        404
    );
}

/// A key that leaked is worth nothing to those who reach only the public listener.
#[actix_rt::test]
async fn api_key_is_refused_on_the_public_listener_and_tokens_are_not() {
    let (hub, internal) = start_hub_with_internal_listener(|_| ()).await;
    let path = "/v1/channels/news/messages";
    let post = |address, name, value: String| http::post(address, path).header(name, &value).json(json!(1)).send();
    assert_eq!(post(hub.address, "X-API-Key", API_KEY.to_owned()).await.status, 401);
    assert_eq!(post(internal, "X-API-Key", API_KEY.to_owned()).await.status, 200);
    assert_eq!(post(hub.address, "Authorization", hub.bearer("ann")).await.status, 200);
}

#[actix_rt::test]
async fn internal_listener_answers_while_the_sessions_of_a_stopping_hub_are_closed() {
    let (hub, internal) = start_hub_with_internal_listener(|config| {
        config.server.drain = Duration::from_secs(4);
    })
    .await;
    let public = hub.address;
    // A client that does not answer the close frame keeps the stop waiting.
    let mut deaf = hub.connect_raw("ann").await;
    let stopped = actix_rt::spawn(hub.stop());
    while deaf.next().await.expect("a close frame").close_code() != Some(3001) {}
    assert!(TcpStream::connect(public).await.is_err());
    assert_eq!(publish(internal).await, 200);
    assert_eq!(status_of(internal, "/health/ready").await, 503);
    drop(deaf);
    stopped.await.unwrap();
    assert!(TcpStream::connect(internal).await.is_err());
}

#[actix_rt::test]
async fn clients_that_use_up_the_public_listener_do_not_hold_up_the_internal_one() {
    let (hub, internal) = start_hub_with_internal_listener(|config| {
        (config.server.workers, config.limits.http_connections) = (1, 2);
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(hub.address).await.unwrap());
    }
    // The head of its request is never complete.
    silent[0].write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(publish(internal).await, 200);
}

#[actix_rt::test]
async fn internal_listener_reads_no_proxy_header() {
    let (hub, internal) = start_hub_with_internal_listener(|config| {
        config.server.proxy_protocol = true;
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    assert_eq!(status_of(internal, "/health/live").await, 200);
    assert_eq!(status_of(hub.address, "/health/live").await, 0, "the public one requires the header");
}

/// A hub whose internal listener has a certificate of `authority` for localhost, and whose clients there must have one, too.
async fn start_mutual_tls_hub(authority: &Authority, names: &[&str]) -> (TestHub, SocketAddr) {
    start_hub_with_clients_of(authority, authority.root_path(), names).await
}

async fn start_hub_with_clients_of(authority: &Authority, client_ca: PathBuf, names: &[&str]) -> (TestHub, SocketAddr) {
    let PairFiles { cert, key } = authority.issue("server");
    start_hub_with_internal_listener(|config| {
        let tls = &mut config.server.internal_tls;
        (tls.cert, tls.key, tls.client_ca) = (Some(cert), Some(key), Some(client_ca));
        tls.client_names = names.iter().map(|name| (*name).to_owned()).collect();
    })
    .await
}

fn client_certificate(authority: &Authority, name: &str) -> PairFiles {
    authority.issue_for(name, &[name])
}

/// Asks for `/health/live` over TLS, with this client certificate; 0 if the hub refuses the client.
async fn ask_over_tls(address: SocketAddr, authority: &Authority, client: Option<&PairFiles>) -> u16 {
    let request = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    send_over_tls(address, authority, client, request).await
}

/// Sends a request over TLS, with this client certificate. Returns its status; 0 if the hub refuses the client.
async fn send_over_tls(address: SocketAddr, authority: &Authority, client: Option<&PairFiles>, request: &str) -> u16 {
    let Some(mut stream) = connect_over_tls(address, authority, client).await else { return 0 };
    if stream.write_all(request.as_bytes()).await.is_err() {
        return 0;
    }
    // In TLS 1.3 a client learns that it was refused when it reads.
    let mut response = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut response).await;
    String::from_utf8_lossy(&response).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Connects over TLS, with this client certificate; `None` if the handshake fails.
async fn connect_over_tls(
    address: SocketAddr,
    authority: &Authority,
    client: Option<&PairFiles>,
) -> Option<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.root_path()).unwrap()).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(PairFiles { cert, key }) => {
            let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

/// Asks for `/health/live` on an open connection.
async fn ask_again(stream: &mut TlsStream<TcpStream>) -> http::Response {
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    http::receive(stream).await
}

#[actix_rt::test]
async fn client_without_a_certificate_of_the_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_hub, internal) = start_mutual_tls_hub(&authority, &[]).await;
    assert_eq!(
        ask_over_tls(internal, &authority, Some(&client_certificate(&authority, "backend.internal"))).await,
        200
    );
    assert_eq!(ask_over_tls(internal, &authority, None).await, 0);
    assert_eq!(ask_over_tls(internal, &authority, Some(&client_certificate(&other, "backend.internal"))).await, 0);
}

#[actix_rt::test]
async fn client_certificate_without_a_listed_name_is_refused() {
    let authority = Authority::new();
    let (_hub, internal) = start_mutual_tls_hub(&authority, &["backend.internal", "metrics.internal"]).await;
    for (name, status) in
        [("backend.internal", 200), ("metrics.internal", 200), ("other.internal", 0), ("x.backend.internal", 0)]
    {
        assert_eq!(
            ask_over_tls(internal, &authority, Some(&client_certificate(&authority, name))).await,
            status,
            "{name}"
        );
    }
}

#[actix_rt::test]
async fn audit_log_names_the_certificate_of_the_caller() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let audit = folder.path().join("audit.log");
    let PairFiles { cert, key } = authority.issue("server");
    let (_hub, internal) = start_hub_with_internal_listener(|config| {
        let tls = &mut config.server.internal_tls;
        (tls.cert, tls.key, tls.client_ca) = (Some(cert), Some(key), Some(authority.root_path()));
        config.audit.output = Some(audit.display().to_string());
    })
    .await;
    let call_method = |method: &str, body: &str, key: &str| {
        format!(
            "POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {key}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let call = |key: &str| call_method("disconnect", r#"{"user":"ann"}"#, key);
    let named = authority.issue_for("named", &["10.0.0.9", "backend.internal", "other.internal"]);
    let unnamed = authority.issue_for("unnamed", &["10.0.0.9"]);
    assert_eq!(send_over_tls(internal, &authority, Some(&named), &call(API_KEY)).await, 200);
    assert_eq!(send_over_tls(internal, &authority, Some(&unnamed), &call(API_KEY)).await, 200);
    assert_eq!(send_over_tls(internal, &authority, Some(&named), &call("wrong")).await, 401);
    let lines = async || {
        let text = std::fs::read_to_string(&audit).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| ["api_call", "refused"].contains(&line["event"].as_str().unwrap())).collect::<Vec<_>>()
    };
    poll_until("three lines", async || lines().await.len() == 3).await;
    let lines = lines().await;
    let certificate = CertificateDer::from_pem_file(&unnamed.cert).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    let fingerprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    for (line, name) in lines.iter().zip(["backend.internal", &format!("sha256:{fingerprint}"), "backend.internal"]) {
        assert_eq!(line["certificate"], name, "{line}");
    }
    let by: Vec<_> = lines.iter().map(|line| line["by"].clone()).collect();
    assert_eq!(by, [json!("api_key"), json!("api_key"), json!(null)]);
    let batch = r#"{"commands":[{"invalidate_user_tokens":{"user":"ann"}}]}"#;
    for (method, body) in [("revoke_token", r#"{"jti":"1"}"#), ("batch", batch)] {
        assert_eq!(send_over_tls(internal, &authority, Some(&named), &call_method(method, body, API_KEY)).await, 200);
    }
    let revoked = || {
        let text = std::fs::read_to_string(&audit).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let revoked = lines.filter(|line| line["event"] == "revoked");
        revoked.map(|line| (line["certificate"].clone(), line["by"].clone())).collect::<Vec<_>>()
    };
    poll_until("two revocations", async || revoked().len() == 2).await;
    assert_eq!(revoked(), vec![(json!("backend.internal"), json!("api_key")); 2]);
}

#[actix_rt::test]
async fn authorities_of_clients_are_reloaded_and_kept_if_the_file_is_bad() {
    let (authority, next, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let client_ca = folder.path().join("clients.pem");
    std::fs::copy(authority.root_path(), &client_ca).unwrap();
    let (hub, internal) = start_hub_with_clients_of(&authority, client_ca.clone(), &[]).await;
    let [old, new] = [&authority, &next].map(|issuer| client_certificate(issuer, "backend.internal"));
    assert_eq!(ask_over_tls(internal, &authority, Some(&old)).await, 200);
    std::fs::copy(next.root_path(), &client_ca).unwrap();
    assert!(hub.running().reload_internal_certificate().unwrap());
    assert_eq!(ask_over_tls(internal, &authority, Some(&old)).await, 0);
    assert_eq!(ask_over_tls(internal, &authority, Some(&new)).await, 200);
    std::fs::write(&client_ca, "nonsense").unwrap();
    assert!(hub.running().reload_internal_certificate().is_err());
    assert_eq!(ask_over_tls(internal, &authority, Some(&new)).await, 200);
}

#[actix_rt::test]
async fn open_connection_does_not_outlive_its_client_certificate() {
    let (authority, next, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let client_ca = folder.path().join("clients.pem");
    std::fs::copy(authority.root_path(), &client_ca).unwrap();
    let (hub, internal) = start_hub_with_clients_of(&authority, client_ca.clone(), &[]).await;
    let mut clients = Vec::new();
    for pair in [
        client_certificate(&authority, "backend.internal"),
        authority.issue_until("short", &["backend.internal"], 2100),
    ] {
        let mut client = connect_over_tls(internal, &authority, Some(&pair)).await.unwrap();
        assert_eq!(ask_again(&mut client).await.status, 200);
        clients.push(client);
    }
    // The same authorities again, and a while in which they are verified again.
    assert!(hub.running().reload_internal_certificate().unwrap());
    for _ in 0..2 {
        for client in &mut clients {
            assert_eq!(ask_again(client).await.status, 200);
        }
        hub.clock.advance(Duration::from_secs(2));
    }
    hub.clock.step_forward(Duration::from_secs(80 * 365 * 86400));
    let expired = ask_again(&mut clients[1]).await;
    assert_eq!((expired.status, expired.header("connection")), (401, Some("close")), "{expired:?}");
    assert_eq!(ask_again(&mut clients[0]).await.status, 200);
    std::fs::copy(next.root_path(), &client_ca).unwrap();
    assert!(hub.running().reload_internal_certificate().unwrap());
    let refused = ask_again(&mut clients[0]).await;
    assert_eq!((refused.status, refused.header("connection")), (401, Some("close")), "{refused:?}");
    for client in &mut clients {
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(client, &mut rest).await;
        assert!(rest.is_empty(), "the connection has ended");
    }
}

#[actix_rt::test]
async fn public_tls_is_separate_from_that_of_the_internal_listener() {
    let certificate = Certificate::new();
    let (hub, internal) = start_hub_with_internal_listener(|config| certificate.configure(config)).await;
    assert_eq!(publish(internal).await, 200, "plain HTTP");
    let path = format!("/connection/websocket?token={}", hub.token("ann"));
    Client::connect_tls(hub.address, &path, certificate.root()).await.unwrap().receive_connect_push().await;
    assert!(!hub.running().reload_internal_certificate().unwrap(), "it has none");
}

#[actix_rt::test]
async fn address_in_use_names_the_key_of_the_internal_listener() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.server.internal_bind = Some(taken.local_addr().unwrap().into());
    match server::start(config, Clock::default()).await.err().unwrap() {
        ServerStartError::Listen(ListenError::Bind { key, .. }) => assert_eq!(key, "server.internal_bind"),
        error => panic!("{error}"),
    }
}
