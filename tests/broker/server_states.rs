//! A Redis that is there, but does not work for the hub: each reason is a line of its own, and ends by itself when the operator
//! has mended it.

use std::time::Duration;

use bytes::Bytes;
use wardcast::{
    broker::BrokerError,
    config::{RedisConfig, Secret},
};

use super::fixture::{Instance, start_broker_with, start_ready_broker};
use crate::support::{
    mark_secret, poll_until,
    redis::{PretendedRedis, RedisServer},
};

const PASSWORD: &str = "the password of a user of redis";

async fn put_ticket(instance: &Instance) -> Result<(), BrokerError> {
    instance.broker.put_ticket("ticket".to_owned(), Bytes::from_static(b"value"), Duration::from_secs(10)).await
}

fn as_user(name: &'static str) -> impl FnOnce(&mut RedisConfig) {
    move |config| (config.username, config.password) = (Some(name.to_owned()), Secret::new(mark_secret(PASSWORD)))
}

#[tokio::test]
async fn wrong_password_is_named_until_it_is_right() {
    let server = RedisServer::start().await;
    let instance = start_broker_with(&server.url(), as_user("hub"));
    let error = instance.wait_for_outage("refuses the user or its password").await;
    assert!(error.contains("WRONGPASS") && error.contains("broker.redis"), "{error}");
    server
        .run::<()>(&["ACL", "SETUSER", "hub", "on", &format!(">{PASSWORD}"), "allkeys", "allchannels", "+@all"])
        .await;
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn missing_password_is_named() {
    let server = RedisServer::start_with(&["--requirepass", PASSWORD]).await;
    let instance = start_broker_with(&server.url(), |_| ());
    println!("{}", instance.wait_for_outage("set broker.redis.password").await);
}

#[tokio::test]
async fn database_is_used_and_one_that_does_not_exist_is_named() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&format!("{}/3", server.url())).await;
    put_ticket(&instance).await.unwrap();
    let sizes: String = server.run(&["INFO", "keyspace"]).await;
    assert!(sizes.contains("db3:") && !sizes.contains("db0:"), "{sizes}");
    let instance = start_broker_with(&format!("{}/99", server.url()), |_| ());
    println!("{}", instance.wait_for_outage("no database with the number").await);
}

#[tokio::test]
async fn missing_right_is_named_with_its_command() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["ACL", "SETUSER", "default", "-getdel"]).await;
    let error = instance.wait_for_outage("lacks a right").await;
    assert!(error.contains("GETDEL") && error.contains("cannot store anything"), "{error}");
    server.run::<()>(&["ACL", "SETUSER", "default", "+getdel"]).await;
    instance.wait_until_ready().await;
    // Keys outside the prefix are not the hub's.
    server.run::<()>(&["ACL", "SETUSER", "default", "resetkeys", "~other:*"]).await;
    println!("{}", instance.wait_for_outage("lacks a right").await);
    server.run::<()>(&["ACL", "SETUSER", "default", "~wardcast:*"]).await;
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn full_redis_makes_the_instance_unready_but_not_silent() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.subscribe("news").await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = instance.wait_for_outage("is full and refuses writes").await;
    assert!(error.contains("raise its maxmemory"), "{error}");
    assert_eq!(instance.metrics.broker_up.get(), 0);
    let refused = put_ticket(&instance).await;
    assert!(matches!(&refused, Err(BrokerError::Unavailable(why)) if why.contains("is full")), "{refused:?}");
    instance.publish("news", "1").await.unwrap();
    instance.wait_for_publications(1).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    instance.wait_until_ready().await;
    put_ticket(&instance).await.unwrap();
    assert_eq!(instance.metrics.broker_reconnects.get(), 0);
}

#[tokio::test]
async fn redis_that_refuses_writes_for_want_of_replicas_is_named() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    println!("{}", instance.wait_for_outage("min-replicas-to-write").await);
    server.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn redis_that_cannot_save_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = RedisServer::start_with(&["--enable-protected-configs", "yes", "--save", "3600 1"]).await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["CONFIG", "SET", "dir", folder.path().to_str().unwrap()]).await;
    folder.close().unwrap();
    server.run::<()>(&["BGSAVE"]).await;
    let error = instance.wait_for_outage("cannot save its data").await;
    assert!(error.contains("MISCONF"), "{error}");
    server.run::<()>(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn script_that_blocks_redis_is_named_until_it_is_killed() {
    let server = RedisServer::start_with(&["--busy-reply-threshold", "50"]).await;
    let instance = start_ready_broker(&server.url()).await;
    let mut connection = server.connection().await.unwrap();
    let blocking = tokio::spawn(async move {
        redis::cmd("EVAL").arg("while true do end").arg(0).query_async::<redis::Value>(&mut connection).await
    });
    println!("{}", instance.wait_for_outage("blocks redis; end it with SCRIPT KILL").await);
    server.run::<()>(&["SCRIPT", "KILL"]).await;
    assert!(blocking.await.unwrap().is_err());
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn redis_that_loads_its_data_is_named_until_it_has() {
    // It answers other commands after each kilobyte that it has loaded.
    let arguments = ["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"];
    let server = RedisServer::start_with(&arguments).await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["DEBUG", "POPULATE", "2000", "filler", "1000"]).await;
    // Two seconds, because a hub asks twice in one.
    server.run::<()>(&["CONFIG", "SET", "key-load-delay", "1000"]).await;
    let mut connection = server.connection().await.unwrap();
    let loading =
        tokio::spawn(async move { redis::cmd("DEBUG").arg("RELOAD").query_async::<()>(&mut connection).await });
    let error = instance.wait_for_outage("redis is loading its data").await;
    assert!(error.contains("LOADING"), "{error}");
    loading.await.unwrap().unwrap();
    instance.wait_until_ready().await;
    put_ticket(&instance).await.unwrap();
}

#[tokio::test]
async fn redis_older_than_6_2_is_refused_with_its_version() {
    for (version, expected) in [
        (Some("6.0.16"), "redis 6.0.16 is too old; the hub needs redis 6.2 or newer"),
        (Some("5.0.14"), "redis 5.0.14 is too old"),
        // It does not know HELLO.
        (None, "redis is too old"),
    ] {
        let redis = PretendedRedis::start(version).await;
        let instance = start_broker_with(&redis.url(), |_| ());
        println!("{}", instance.wait_for_outage(expected).await);
        assert!(instance.publish("news", "1").await.is_err());
    }
}

#[tokio::test]
async fn redis_without_room_for_more_connections_is_named() {
    let server = RedisServer::start().await;
    // The connection of this command is open until it has been answered.
    server.run::<()>(&["CONFIG", "SET", "maxclients", "1"]).await;
    poll_until("another instance gets no connection", async || {
        let instance = start_broker_with(&server.url(), |_| ());
        let error = instance.wait_for_outage("").await;
        error.contains("not connected yet") || error.contains("raise its maxclients")
    })
    .await;
    let instance = start_broker_with(&server.url(), |_| ());
    println!("{}", instance.wait_for_outage("raise its maxclients").await);
}

/// Of a release that looks for keys under other names.
#[tokio::test]
async fn node_beside_one_of_another_layout_version_is_not_ready_and_says_why() {
    let server = RedisServer::start().await;
    let former = "1000 version=0";
    server.run::<()>(&["SET", "wardcast:layout", former]).await;
    let start = || start_broker_with(&server.url(), |config| config.heartbeat_interval = Duration::from_millis(100));
    let instance = start();
    let error = instance.wait_for_outage("version=0").await;
    let metrics = instance.metrics.encode().unwrap();
    assert!(metrics.contains("wardcast_settings_conflict{setting=\"key_layout\"} 1"), "{metrics}");
    assert!(error.contains("\"version=1\"") && error.contains("releases of one layout"), "{error}");
    assert_eq!(server.run::<String>(&["GET", "wardcast:layout"]).await, former);
    // What no release writes does not count.
    for foreign in ["garbage", "1 ", "99999999999999999999999999 x", &format!("1 {}", "x".repeat(101))] {
        server.run::<()>(&["SET", "wardcast:layout", foreign]).await;
        poll_until("the record is replaced", async || {
            server.run::<String>(&["GET", "wardcast:layout"]).await.ends_with(" version=1")
        })
        .await;
        instance.wait_until_ready().await;
    }
    server.run::<i64>(&["DEL", "wardcast:layout"]).await;
    server.run::<i64>(&["HSET", "wardcast:layout", "field", "value"]).await;
    start().wait_for_outage("wardcast:layout at 127.0.0.1:").await;
    instance.wait_until_ready().await;
}
