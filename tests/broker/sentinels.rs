//! Sentinels: they name the master, and each failover is followed, also by connections that still work.

use std::time::Duration;

use bytes::Bytes;
use wardcast::config::{RedisConfig, Secret};

use super::fixture::{ELSEWHERE, Instance, start_broker_with, start_ready_broker, wait_until_delivered};
use crate::support::{
    Stopwatch, mark_secret, poll_until,
    redis::{RedisServer, SentinelOptions, SentinelTrio, start_sentinel},
    tls::Authority,
};

/// An instance that asks these sentinels.
fn start_with_sentinels(urls: &[String], change: impl FnOnce(&mut RedisConfig)) -> Instance {
    start_broker_with(ELSEWHERE, |config| {
        config.sentinel.urls = urls.iter().map(Secret::new).collect();
        config.sentinel.master_name = SentinelTrio::MASTER.to_owned();
        change(config);
    })
}

fn urls(sentinels: &[RedisServer]) -> Vec<String> {
    sentinels.iter().map(RedisServer::url).collect()
}

/// How many clients of this server are subscribed to the channel "news".
async fn subscribers(server: &RedisServer) -> i64 {
    let (_, count): (String, i64) = server.run(&["PUBSUB", "NUMSUB", "wardcast:c:{news}"]).await;
    count
}

/// Makes a sentinel believe that another one has seen a failover to this server.
async fn announce_failover(sentinel: &RedisServer, to: &RedisServer, epoch: u32) {
    let (id, name, port) = ("f".repeat(40), SentinelTrio::MASTER, to.port());
    let hello = format!("127.0.0.1,1,{id},{epoch},{name},127.0.0.1,{port},{epoch}");
    sentinel.run::<i64>(&["PUBLISH", "__sentinel__:hello", &hello]).await;
}

#[tokio::test]
async fn failover_is_followed_when_the_master_dies() {
    let mut trio = SentinelTrio::start().await;
    let sentinels = urls(&trio.sentinels);
    let (one, two) = (start_with_sentinels(&sentinels, |_| ()), start_with_sentinels(&sentinels, |_| ()));
    one.wait_until_ready().await;
    two.wait_until_ready().await;
    two.subscribe("news").await;
    wait_until_delivered(&one, &two, "news").await;
    trio.servers[0].kill();
    let error = one.wait_for_outage("").await;
    println!("{error}");
    let new = trio.wait_for_new_master(0).await;
    println!("delivered {:?} after the failover", wait_until_delivered(&one, &two, "news").await);
    assert_eq!(subscribers(&trio.servers[new]).await, 1);
    one.wait_until_ready().await;
    one.broker.put_ticket("ticket".to_owned(), Bytes::from_static(b"value"), Duration::from_secs(10)).await.unwrap();
    assert_eq!(two.broker.take_ticket("ticket".to_owned()).await.unwrap().as_deref(), Some(&b"value"[..]));
}

#[tokio::test]
async fn failover_is_followed_while_both_servers_live() {
    let trio = SentinelTrio::start().await;
    let instance = start_with_sentinels(&urls(&trio.sentinels), |_| ());
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let new = trio.fail_over().await;
    poll_until("the subscription is on the new master", async || {
        subscribers(&trio.servers[new]).await == 1 && subscribers(&trio.servers[1 - new]).await == 0
    })
    .await;
    wait_until_delivered(&instance, &instance, "news").await;
}

/// The old master has been cut off from the sentinels, but not from the instance: it still is a master, and works.
#[tokio::test]
async fn announced_failover_is_followed_at_once_though_the_old_master_works() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinel = start_sentinel(&old).await;
    // Only the announcement can be so fast.
    let interval = Duration::from_secs(60);
    let instance = start_with_sentinels(&[sentinel.url()], |config| config.probe_interval = interval);
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let early = start_ready_broker(&new.url()).await;
    early.subscribe("news").await;
    let since = Stopwatch::start();
    announce_failover(&sentinel, &new, 5).await;
    poll_until("the subscription is on the new master", async || subscribers(&new).await == 2).await;
    println!("moved after {:?}", since.elapsed());
    // After about ten seconds the sentinel makes the old master a replica, which ends its connections anyway.
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    assert_eq!(subscribers(&old).await, 0);
    wait_until_delivered(&instance, &early, "news").await;
    // The pool leads there, too.
    instance.broker.put_ticket("moved".to_owned(), Bytes::from_static(b"1"), Duration::from_secs(10)).await.unwrap();
    assert_eq!(new.run::<i64>(&["EXISTS", "wardcast:ticket:moved"]).await, 1);
}

#[tokio::test]
async fn failover_is_found_by_asking_where_the_user_may_not_hear_of_it() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinel = start_sentinel(&old).await;
    sentinel.run::<()>(&["ACL", "SETUSER", "default", "-subscribe"]).await;
    let instance = start_with_sentinels(&[sentinel.url()], |_| ());
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let since = Stopwatch::start();
    announce_failover(&sentinel, &new, 5).await;
    poll_until("the subscription is on the new master", async || subscribers(&new).await == 1).await;
    // As above.
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
}

/// Two sentinels have missed the failover.
#[tokio::test]
async fn master_of_an_older_epoch_is_never_used() {
    let (old, mut new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinels = [start_sentinel(&old).await, start_sentinel(&old).await, start_sentinel(&old).await];
    announce_failover(&sentinels[2], &new, 5).await;
    let instance = start_with_sentinels(&urls(&sentinels), |_| ());
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    assert_eq!((subscribers(&old).await, subscribers(&new).await), (0, 1));
    new.kill();
    let error = instance.wait_for_outage("which the sentinels name").await;
    assert!(error.contains(&new.port().to_string()) && !error.contains(&format!(":{},", old.port())), "{error}");
    assert!(instance.publish("news", "1").await.is_err());
    assert_eq!(subscribers(&old).await, 0);
    new.restart().await;
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn sentinels_that_do_not_answer_are_passed_over() {
    let master = RedisServer::start().await;
    let (mut dead, frozen, alive) =
        (start_sentinel(&master).await, start_sentinel(&master).await, start_sentinel(&master).await);
    dead.kill();
    frozen.freeze();
    let sentinels = [dead, frozen, alive];
    let instance = start_with_sentinels(&urls(&sentinels), |_| ());
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    wait_until_delivered(&instance, &instance, "news").await;
}

#[tokio::test]
async fn instance_works_on_while_all_sentinels_are_down() {
    let master = RedisServer::start().await;
    let mut sentinel = start_sentinel(&master).await;
    let instance = start_with_sentinels(&[sentinel.url()], |_| ());
    instance.wait_until_ready().await;
    sentinel.kill();
    // Two intervals, in which it asks.
    for _ in 0..2 {
        instance.subscribe("news").await;
        wait_until_delivered(&instance, &instance, "news").await;
        instance.broker.check_ready().await.unwrap();
    }
    master.run::<i64>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    println!("{}", instance.wait_for_outage("no sentinel names the master").await);
    sentinel.restart().await;
    instance.wait_until_ready().await;
}

#[tokio::test]
async fn servers_and_sentinels_have_passwords_and_tls_of_their_own_also_after_a_failover() {
    let authority = Authority::new();
    let (password, server_password) = ("password of the sentinels", "password of the servers");
    let options = SentinelOptions {
        password: Some(password),
        server_password: Some(server_password),
        tls: Some(&authority),
        ..SentinelOptions::default()
    };
    let trio = SentinelTrio::start_with(&options).await;
    let urls = trio.sentinels.each_ref().map(RedisServer::tls_url);
    let start = |sentinel_password: &'static str, sentinel_ca: bool| {
        start_with_sentinels(&urls, |config| {
            config.url = Secret::new("rediss://unused");
            config.tls.ca = Some(authority.root_path());
            config.password = Secret::new(mark_secret(server_password));
            config.sentinel.password = Secret::new(mark_secret(sentinel_password));
            config.sentinel.tls.ca = sentinel_ca.then(|| authority.root_path());
        })
    };
    let instance = start(password, true);
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    wait_until_delivered(&instance, &instance, "news").await;
    let new = trio.fail_over().await;
    poll_until("the subscription is on the new master", async || subscribers(&trio.servers[new]).await == 1).await;
    wait_until_delivered(&instance, &instance, "news").await;
    println!("{}", start("password of somebody else", true).wait_for_outage("WRONGPASS").await);
    println!("{}", start(password, false).wait_for_outage("invalid peer certificate").await);
}

#[tokio::test]
async fn misconfigured_sentinels_are_named() {
    let master = RedisServer::start().await;
    let sentinel = start_sentinel(&master).await;
    let start = |url: &str, name: &str| {
        start_with_sentinels(&[url.to_owned()], |config| config.sentinel.master_name = name.to_owned())
    };
    let error = start(&sentinel.url(), "other").wait_for_outage("no sentinel names the master \"other\"").await;
    assert!(error.contains("it monitors no master of this name"), "{error}");
    let error = start(&master.url(), SentinelTrio::MASTER).wait_for_outage("no sentinel names the master").await;
    println!("{error}");
    let error = start_broker_with(&sentinel.url(), |_| ()).wait_for_outage("this is a sentinel").await;
    assert!(error.contains("broker.redis.sentinel.urls"), "{error}");
}
