//! Tickets: of every broker, and of several instances on one Redis.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use wardcast::broker::BrokerError;

use super::fixture::{Instance, TICKETS, TIMEOUT, start_broker, start_pair, start_ready_broker, wait_until};
use crate::support::{
    Stopwatch, mark_secret,
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
};

const LONG: Duration = Duration::from_secs(60);
/// The value of a ticket may contain any byte.
const VALUE: &[u8] = b"\0\r\n\xff{}";

impl Instance {
    async fn put(&self, id: &str, value: &[u8], ttl: Duration) -> Result<(), BrokerError> {
        self.broker.put_ticket(id.to_owned(), Bytes::copy_from_slice(value), ttl).await
    }

    async fn read(&self, id: &str) -> Option<Bytes> {
        self.broker.read_ticket(id.to_owned()).await.unwrap()
    }

    async fn take(&self, id: &str) -> Option<Bytes> {
        self.broker.take_ticket(id.to_owned()).await.unwrap()
    }
}

pub async fn ticket_is_taken_once(instance: Instance) {
    assert_eq!(instance.take("a").await, None);
    instance.put("a", VALUE, LONG).await.unwrap();
    instance.put("b-_9", b"", LONG).await.unwrap();
    for _ in 0..2 {
        assert_eq!(instance.read("a").await.as_deref(), Some(VALUE), "reading leaves it");
    }
    assert_eq!(instance.take("a").await.as_deref(), Some(VALUE));
    assert_eq!((instance.take("a").await, instance.read("a").await), (None, None));
    assert_eq!(instance.take("b-_9").await.as_deref(), Some(&b""[..]));
    assert_eq!(instance.take("A").await, None);
}

pub async fn concurrent_takes_of_one_ticket_succeed_once(instance: Instance) {
    for round in 0..20 {
        let id = mark_secret(format!("a-ticket-of-round-{round}"));
        instance.put(&id, VALUE, LONG).await.unwrap();
        let taken = join_all((0..20).map(|_| instance.take(&id))).await;
        assert_eq!(taken.iter().flatten().count(), 1);
    }
}

pub async fn expired_ticket_is_not_found(instance: Instance) {
    instance.put("short", VALUE, Duration::from_millis(1)).await.unwrap();
    instance.put("none", VALUE, Duration::ZERO).await.unwrap();
    instance.put("long", VALUE, LONG).await.unwrap();
    // No event reports an expiry, and no clock of the test controls it: the time has to pass.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((instance.read("short").await, instance.read("none").await), (None, None));
    assert_eq!((instance.take("short").await, instance.take("none").await), (None, None));
    assert_eq!(instance.take("long").await.as_deref(), Some(VALUE));
}

pub async fn second_put_replaces_the_ticket(instance: Instance) {
    instance.put("a", b"old", LONG).await.unwrap();
    instance.put("a", b"new", LONG).await.unwrap();
    assert_eq!(instance.take("a").await.as_deref(), Some(&b"new"[..]));
    assert_eq!(instance.take("a").await, None);
}

pub async fn invalid_ticket_ids_are_not_found(instance: Instance) {
    let long = "x".repeat(65);
    for id in ["", "a b", "a:b", "{a}", "../a", "a\0", "a\r\nFLUSHALL", "é", "*", &long] {
        assert_eq!((instance.read(id).await, instance.take(id).await), (None, None), "{id:?}");
        assert!(instance.put(id, VALUE, LONG).await.is_err(), "{id:?}");
    }
    let longest = "x".repeat(64);
    instance.put(&longest, VALUE, LONG).await.unwrap();
    assert!(instance.take(&longest).await.is_some());
}

#[tokio::test]
async fn in_memory_tickets_over_the_limit_are_a_busy_error() {
    let instance = super::memory_instance();
    for number in 0..TICKETS {
        instance.put(&number.to_string(), VALUE, LONG).await.unwrap();
    }
    assert_eq!(instance.put("more", VALUE, LONG).await, Err(BrokerError::Busy));
    assert!(instance.take("0").await.is_some());
    assert_eq!(instance.put("more", VALUE, LONG).await, Ok(()));
}

#[tokio::test]
async fn two_instances_take_one_ticket_once() {
    let (_server, first, second) = start_pair().await;
    for round in 0..50 {
        let id = mark_secret(format!("a-ticket-of-round-{round}"));
        first.put(&id, VALUE, LONG).await.unwrap();
        let (one, other) = tokio::join!(first.take(&id), second.take(&id));
        assert_eq!([one, other].iter().flatten().count(), 1);
    }
}

#[tokio::test]
async fn tickets_belong_to_their_prefix_and_expire_in_redis() {
    let server = RedisServer::start().await;
    let (one, other) = (start_broker(&server.url(), "one"), start_broker(&server.url(), "other"));
    one.wait_until_ready().await;
    other.wait_until_ready().await;
    one.put("a", VALUE, LONG).await.unwrap();
    assert_eq!(other.take("a").await, None);
    let keys: Vec<String> = server.run(&["KEYS", "*ticket*"]).await;
    assert_eq!(keys, ["one:ticket:a"]);
    let left: i64 = server.run(&["PTTL", "one:ticket:a"]).await;
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn redis_key_of_another_type_is_an_error() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    server.run::<()>(&["RPUSH", "wardcast:ticket:a", "1"]).await;
    let taken = instance.broker.take_ticket("a".to_owned()).await;
    assert!(matches!(taken, Err(BrokerError::Unavailable(_))), "{taken:?}");
}

#[tokio::test]
async fn ticket_request_fails_within_the_timeout_when_redis_is_silent() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let instance = start_ready_broker(&proxy.url()).await;
    instance.put("a", VALUE, LONG).await.unwrap();
    proxy.set(ProxyMode::BlackHole);
    let since = Stopwatch::start();
    let taken = instance.broker.take_ticket("a".to_owned()).await;
    assert!(matches!(taken, Err(BrokerError::Unavailable(_))), "{taken:?}");
    assert!(since.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", since.elapsed());
    proxy.set(ProxyMode::Pass);
    // The first ticket may be gone or not. Tickets must work again.
    wait_until("tickets work again", async || instance.put("b", VALUE, LONG).await.is_ok()).await;
    assert_eq!(instance.take("b").await.as_deref(), Some(VALUE));
}
