//! Tickets, of every broker and of several instances on one Redis.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use wardcast::broker::BrokerError;

use super::{
    fixture::{Instance, TICKETS, TIMEOUT, at, eventually, on},
    proxy::{Mode, Proxy},
};
use crate::support::{redis::RedisServer, secret};

const LONG: Duration = Duration::from_secs(60);
/// What a ticket may hold: every byte there is.
const VALUE: &[u8] = b"\0\r\n\xff{}";

impl Instance {
    async fn put(&self, id: &str, value: &[u8], ttl: Duration) -> Result<(), BrokerError> {
        self.broker.put_ticket(id.to_owned(), Bytes::copy_from_slice(value), ttl).await
    }

    async fn take(&self, id: &str) -> Option<Bytes> {
        self.broker.take_ticket(id.to_owned()).await.unwrap()
    }
}

pub async fn a_ticket_is_taken_once(instance: Instance) {
    assert_eq!(instance.take("a").await, None);
    instance.put("a", VALUE, LONG).await.unwrap();
    instance.put("b-_9", b"", LONG).await.unwrap();
    assert_eq!(instance.take("a").await.as_deref(), Some(VALUE));
    assert_eq!(instance.take("a").await, None);
    assert_eq!(instance.take("b-_9").await.as_deref(), Some(&b""[..]));
    assert_eq!(instance.take("A").await, None);
}

pub async fn of_all_who_ask_for_a_ticket_at_once_one_gets_it(instance: Instance) {
    for round in 0..20 {
        let id = secret(format!("a-ticket-of-round-{round}"));
        instance.put(&id, VALUE, LONG).await.unwrap();
        let taken = join_all((0..20).map(|_| instance.take(&id))).await;
        assert_eq!(taken.iter().flatten().count(), 1);
    }
}

pub async fn a_ticket_that_is_over_is_not_there(instance: Instance) {
    instance.put("short", VALUE, Duration::from_millis(1)).await.unwrap();
    instance.put("none", VALUE, Duration::ZERO).await.unwrap();
    instance.put("long", VALUE, LONG).await.unwrap();
    // Nothing tells of it: the time itself has to be over.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((instance.take("short").await, instance.take("none").await), (None, None));
    assert_eq!(instance.take("long").await.as_deref(), Some(VALUE));
}

pub async fn a_ticket_that_is_put_again_is_the_new_one(instance: Instance) {
    instance.put("a", b"old", LONG).await.unwrap();
    instance.put("a", b"new", LONG).await.unwrap();
    assert_eq!(instance.take("a").await.as_deref(), Some(&b"new"[..]));
    assert_eq!(instance.take("a").await, None);
}

pub async fn what_cannot_be_a_tickets_id_is_not_there(instance: Instance) {
    let long = "x".repeat(65);
    for id in ["", "a b", "a:b", "{a}", "../a", "a\0", "a\r\nFLUSHALL", "é", "*", &long] {
        assert_eq!(instance.take(id).await, None, "{id:?}");
        assert!(instance.put(id, VALUE, LONG).await.is_err(), "{id:?}");
    }
    let longest = "x".repeat(64);
    instance.put(&longest, VALUE, LONG).await.unwrap();
    assert!(instance.take(&longest).await.is_some());
}

#[tokio::test]
async fn in_memory_more_tickets_than_the_limit_are_busy() {
    let instance = super::memory();
    for number in 0..TICKETS {
        instance.put(&number.to_string(), VALUE, LONG).await.unwrap();
    }
    assert_eq!(instance.put("more", VALUE, LONG).await, Err(BrokerError::Busy));
    assert!(instance.take("0").await.is_some());
    assert_eq!(instance.put("more", VALUE, LONG).await, Ok(()));
}

#[tokio::test]
async fn two_instances_that_get_one_ticket_at_once_open_one_connection() {
    let server = RedisServer::start().await;
    let (alice, bob) = (on(&server.url()).await, on(&server.url()).await);
    for round in 0..50 {
        let id = secret(format!("a-ticket-of-round-{round}"));
        alice.put(&id, VALUE, LONG).await.unwrap();
        let (one, other) = tokio::join!(alice.take(&id), bob.take(&id));
        assert_eq!([one, other].iter().flatten().count(), 1);
    }
}

#[tokio::test]
async fn tickets_belong_to_their_prefix_and_are_forgotten_by_redis_itself() {
    let server = RedisServer::start().await;
    let (one, other) = (at(&server.url(), "one"), at(&server.url(), "other"));
    one.becomes_ready().await;
    other.becomes_ready().await;
    one.put("a", VALUE, LONG).await.unwrap();
    assert_eq!(other.take("a").await, None);
    let keys: Vec<String> = server.run(&["KEYS", "*"]).await;
    assert_eq!(keys, ["one:ticket:a"]);
    let left: i64 = server.run(&["PTTL", "one:ticket:a"]).await;
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_key_of_another_kind_is_an_error_and_no_ticket() {
    let server = RedisServer::start().await;
    let alice = on(&server.url()).await;
    server.run::<()>(&["RPUSH", "wardcast:ticket:a", "1"]).await;
    let taken = alice.broker.take_ticket("a".to_owned()).await;
    assert!(matches!(taken, Err(BrokerError::Unavailable(_))), "{taken:?}");
}

#[tokio::test]
async fn a_redis_that_answers_nothing_costs_a_ticket_no_more_than_the_timeout() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let alice = on(&proxy.url()).await;
    alice.put("a", VALUE, LONG).await.unwrap();
    proxy.set(Mode::BlackHole);
    let since = Instant::now();
    let taken = alice.broker.take_ticket("a".to_owned()).await;
    assert!(matches!(taken, Err(BrokerError::Unavailable(_))), "{taken:?}");
    assert!(since.elapsed() < TIMEOUT + Duration::from_millis(500), "{:?}", since.elapsed());
    proxy.set(Mode::Pass);
    // Either way it was not taken twice; that it can be asked again is what counts.
    eventually("tickets work again", async || alice.put("b", VALUE, LONG).await.is_ok()).await;
    assert_eq!(alice.take("b").await.as_deref(), Some(VALUE));
}
