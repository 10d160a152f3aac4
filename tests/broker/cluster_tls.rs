//! Redis Cluster with TLS on every connection, also between its nodes, and a user with no more rights than the documentation lists.

use std::fs;

use wardcast::config::Secret;

use super::fixture::{Instance, start_broker_with, wait_until, wait_until_delivered};
use crate::support::{
    mark_secret,
    redis::{ClusterOptions, RedisCluster, RedisServer},
    tls::Authority,
};

/// The rights of `docs/deploying.md` for a Redis, and those that it adds for a Cluster.
fn documented_rights() -> Vec<&'static str> {
    let page = include_str!("../../docs/deploying.md");
    let rights = page.split("```redis-acl").nth(1).and_then(|rest| rest.split("```").next()).expect("the rights");
    let more = page.split("An ACL user needs\n`").nth(1).and_then(|rest| rest.split('`').next()).expect("the rights");
    rights.split_whitespace().skip(4).chain(more.split_whitespace()).collect()
}

async fn create_user(node: &RedisServer, password: &str) {
    let password = format!(">{password}");
    node.run::<()>(&[&["ACL", "SETUSER", "hub", "on", &password][..], &documented_rights()].concat()).await;
}

async fn expect_delivery(instance: &Instance) {
    instance.wait_until_ready().await;
    for number in 0..20 {
        let name = format!("chat:{number}");
        instance.subscribe(&name).await;
        instance.store(&name, "1").await;
        wait_until_delivered(instance, instance, &name).await;
    }
}

#[tokio::test]
async fn tls_and_the_documented_rights_suffice_for_moves_and_failovers_and_a_broken_file_affects_new_masters_only() {
    let authority = Authority::new();
    let options = ClusterOptions { tls: Some(&authority), ..ClusterOptions::default() };
    let cluster = RedisCluster::start_with(&options).await;
    let password = mark_secret("p@ss:word/1");
    for node in &cluster.nodes {
        create_user(node, password).await;
    }
    let root = authority.root_path();
    let instance = start_broker_with("", |config| {
        config.cluster.urls = vec![Secret::new(format!("rediss://{}", cluster.addresses()[0]))];
        config.tls.ca = Some(root.clone());
        (config.username, config.password) = (Some("hub".to_owned()), Secret::new(password));
    });
    expect_delivery(&instance).await;
    for node in &cluster.nodes[..3] {
        let clients: String = node.run(&["CLIENT", "LIST"]).await;
        assert!(clients.lines().filter(|client| client.contains("user=hub")).count() >= 3, "{clients}");
    }
    cluster.move_slots(0..=1000, 1).await;
    expect_delivery(&instance).await;

    let certificate = fs::read(&root).unwrap();
    fs::write(&root, "not PEM").unwrap();
    let heir = cluster.fail_over(2).await;
    let error = instance.wait_for_outage("cannot use the master").await;
    assert!(error.contains("broker.redis.tls.ca"), "{error}");
    // What follows is a change of the other masters, which needs no file.
    cluster.move_slots(0..=1000, 0).await;
    let mut accepted = 0;
    wait_until("the channels of the other masters work", async || {
        accepted = 0;
        for number in 0..20 {
            accepted += usize::from(instance.publish(&format!("chat:{number}"), "2").await.is_ok());
        }
        accepted >= 8
    })
    .await;
    assert!(accepted < 20, "those of the new master {heir} do not");
    fs::write(&root, certificate).unwrap();
    expect_delivery(&instance).await;
}
