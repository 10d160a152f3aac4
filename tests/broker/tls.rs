//! TLS to a real Redis: whom the broker trusts, and how it authenticates itself.

use std::{fs, path::PathBuf};

use wardcast::{
    broker::redis::RedisBroker,
    config::{Config, RedisConfig, Secret},
};

use super::fixture::{Instance, start_broker_with, wait_until_delivered};
use crate::support::{
    mark_secret,
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
    tls::{Authority, PairFiles},
};

fn use_certificate(config: &mut RedisConfig, files: PairFiles) {
    (config.tls.cert, config.tls.key) = (Some(files.cert), Some(files.key));
}

async fn check_every_connection(instance: &Instance) {
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    wait_until_delivered(instance, instance, "news").await;
}

#[tokio::test]
async fn tls_connections_carry_everything() {
    let authority = Authority::new();
    let mut server = RedisServer::start_with_tls(&authority, false).await;
    server.run::<()>(&["ACL", "SETUSER", "hub", "on", ">p@ss:word/1", "allkeys", "allchannels", "+@all"]).await;
    let instance = start_broker_with(&server.tls_url(), |config| {
        config.tls.ca = Some(authority.root_path());
        config.username = Some("hub".to_owned());
        config.password = Secret::new(mark_secret("p@ss:word/1"));
    });
    check_every_connection(&instance).await;
    let clients: String = server.run(&["CLIENT", "LIST"]).await;
    assert!(clients.lines().filter(|client| client.contains("user=hub")).count() >= 3, "{clients}");
    server.kill();
    instance.wait_for_outage("").await;
    server.restart().await;
    instance.wait_for_outage("WRONGPASS").await;
    server.run::<()>(&["ACL", "SETUSER", "hub", "on", ">p@ss:word/1", "allkeys", "allchannels", "+@all"]).await;
    check_every_connection(&instance).await;
}

#[tokio::test]
async fn certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = RedisServer::start_with_tls(&authority, false).await;
    let instance = start_broker_with(&server.tls_url(), |config| config.tls.ca = Some(other.root_path()));
    println!("{}", instance.wait_for_outage("invalid peer certificate").await);
    // The authorities of the system do not include the test's.
    let instance = start_broker_with(&server.tls_url(), |_| ());
    println!("{}", instance.wait_for_outage("invalid peer certificate").await);
}

#[tokio::test]
async fn certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let server = RedisServer::start_with_tls(&authority, false).await;
    let url = server.tls_url().replace("localhost", "127.0.0.1");
    let instance = start_broker_with(&url, |config| config.tls.ca = Some(authority.root_path()));
    println!("{}", instance.wait_for_outage("invalid peer certificate").await);
}

#[tokio::test]
async fn required_client_certificate_is_sent() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = RedisServer::start_with_tls(&authority, true).await;
    let start = |files: Option<PairFiles>| {
        start_broker_with(&server.tls_url(), |config| {
            config.tls.ca = Some(authority.root_path());
            files.into_iter().for_each(|files| use_certificate(config, files));
        })
    };
    check_every_connection(&start(Some(authority.issue("hub")))).await;
    println!("without: {}", start(None).wait_for_outage("alert").await);
    println!("of another authority: {}", start(Some(other.issue("hub"))).wait_for_outage("alert").await);
}

#[tokio::test]
async fn endless_tls_handshake_ends_with_the_timeout() {
    let authority = Authority::new();
    let server = RedisServer::start_with_tls(&authority, false).await;
    let proxy = Proxy::start(server.tls_port()).await;
    proxy.set(ProxyMode::BlackHole);
    let url = format!("rediss://localhost:{}", proxy.port());
    let instance = start_broker_with(&url, |config| config.tls.ca = Some(authority.root_path()));
    println!("{}", instance.wait_for_outage("no reply within").await);
    proxy.set(ProxyMode::Pass);
    check_every_connection(&instance).await;
}

#[test]
fn faults_in_tls_files_name_their_key() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (pair, stranger) = (authority.issue("hub"), other.issue("hub"));
    let garbage = authority.root_path().with_file_name("garbage.pem");
    fs::write(&garbage, "not PEM").unwrap();
    let nowhere = PathBuf::from("/nowhere/file.pem");
    let check = |ca: &PathBuf, cert: &PathBuf, key: &PathBuf| {
        let mut config = Config::default().broker.redis;
        config.url = Secret::new("rediss://localhost");
        (config.tls.ca, config.tls.cert, config.tls.key) = (Some(ca.clone()), Some(cert.clone()), Some(key.clone()));
        RedisBroker::check_config(&config).map_err(|error| {
            println!("{error}");
            error.key
        })
    };
    let root = authority.root_path();
    assert_eq!(check(&root, &pair.cert, &pair.key), Ok(()));
    for bad in [&garbage, &nowhere, &pair.key] {
        assert_eq!(check(bad, &pair.cert, &pair.key), Err("broker.redis.tls.ca"));
        assert_eq!(check(&root, bad, &pair.key), Err("broker.redis.tls.cert"));
    }
    for bad in [&garbage, &nowhere, &stranger.key, &pair.cert] {
        assert_eq!(check(&root, &pair.cert, bad), Err("broker.redis.tls.key"));
    }
}
