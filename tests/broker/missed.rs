//! What reconnecting clients have missed: the callers of one instance share what is read.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::timeout;
use wardcast::{
    broker::{HistoryPage, HistoryRequest, Retention, SincePosition},
    position::Position,
};

use super::fixture::{Instance, channel, start_broker_with, start_pair, start_ready_broker, wait_until};
use crate::support::redis::RedisServer;

const KEEP: Retention = Retention { size: 1000, ttl: Duration::from_secs(600), meta_ttl: Duration::from_secs(600) };

impl Instance {
    /// What a client has missed that has received everything up to a position.
    async fn read_missed(&self, since: Position) -> HistoryPage {
        let request = HistoryRequest {
            since: Some(SincePosition { offset: since.offset, epoch: None }),
            limit: 1000,
            ..HistoryRequest::default()
        };
        let known = Some(SincePosition { offset: since.offset, epoch: Some(since.epoch) });
        self.broker.read_missed(channel("news"), request, KEEP, known).await.unwrap()
    }

    async fn missed_offsets(&self, since: Position) -> Vec<u64> {
        let page = self.read_missed(since).await;
        page.publications.iter().map(|publication| publication.position.unwrap().offset).collect()
    }

    async fn store_many(&self, count: usize) -> Position {
        let mut last = None;
        for number in 0..count {
            last = Some(self.store_with("news", &number.to_string(), KEEP).await);
        }
        last.unwrap()
    }

    /// Waits until this instance has received a publication that is stored now, and so everything before it.
    async fn catch_up_with(&self, other: &Self) -> Position {
        let before = self.received().len();
        let position = other.store_many(1).await;
        wait_until("the publication", async || {
            self.received()[before..].iter().any(|publication| publication.position == Some(position))
        })
        .await;
        position
    }
}

/// How often Redis has read a part of a stream. Publishing does so at every 64th offset.
async fn stream_reads(server: &RedisServer) -> usize {
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_xrange:calls=")).unwrap_or("0");
    line.split(',').next().unwrap().parse().unwrap()
}

pub async fn missed_publications_are_those_after_the_position_of_the_client(instance: Instance) {
    instance.subscribe("news").await;
    let first = instance.store_many(1).await;
    instance.store_many(2).await;
    instance.wait_for_publications(3).await;
    assert_eq!(instance.missed_offsets(first).await, [2, 3]);
    instance.store_many(2).await;
    instance.wait_for_publications(5).await;
    assert_eq!(instance.missed_offsets(first).await, [2, 3, 4, 5]);
    assert_eq!(instance.missed_offsets(Position { offset: 4, ..first }).await, [5]);
    instance.broker.remove_history(channel("news")).await.unwrap();
    let page = instance.read_missed(first).await;
    assert_eq!((page.publications, page.top), (vec![], Position { offset: 5, ..first }));
}

#[tokio::test]
async fn one_read_serves_all_callers_while_publications_arrive() {
    let server = RedisServer::start().await;
    // The check of the storage at each interval reads a part of a stream, too.
    let start = || start_broker_with(&server.url(), |config| config.probe_interval = Duration::from_secs(60));
    let (one, two) = (start(), start());
    for instance in [&one, &two] {
        instance.wait_for_nodes(2).await;
        instance.wait_until_ready().await;
    }
    one.subscribe("news").await;
    let first = two.store_many(1).await;
    one.catch_up_with(&two).await;
    let before = stream_reads(&server).await;
    let at_once = join_all((0..100).map(|_| one.missed_offsets(first))).await;
    assert!(at_once.iter().all(|offsets| *offsets == [2]), "{at_once:?}");
    let reads = stream_reads(&server).await - before;
    assert!(reads > 0 && reads <= 3, "{reads} for one page");
    for _ in 0..10 {
        let top = one.catch_up_with(&two).await;
        assert_eq!(one.missed_offsets(first).await, (2..=top.offset).collect::<Vec<_>>());
    }
    assert_eq!(stream_reads(&server).await - before, reads, "nothing was read again");
}

#[tokio::test]
async fn client_that_is_ahead_of_its_instance_gets_a_page_that_has_its_position() {
    let (_server, one, two) = start_pair().await;
    let first = two.store_many(1).await;
    // This instance receives nothing, as if everything were late.
    assert!(one.missed_offsets(first).await.is_empty());
    let ahead = two.store_many(2).await;
    assert_eq!(one.read_missed(first).await.top, first);
    let page = one.read_missed(ahead).await;
    assert_eq!((page.publications, page.top), (vec![], ahead));
}

#[tokio::test]
async fn removed_history_is_on_no_page_of_any_instance() {
    let (_server, one, two) = start_pair().await;
    one.subscribe("news").await;
    two.subscribe("news").await;
    let first = one.store_many(1).await;
    for instance in [&one, &two] {
        instance.catch_up_with(&one).await;
        assert!(!instance.missed_offsets(first).await.is_empty());
    }
    one.broker.remove_history(channel("news")).await.unwrap();
    assert!(one.missed_offsets(first).await.is_empty());
    // What is published after the removal arrives after the news of it.
    let later = two.catch_up_with(&one).await;
    assert_eq!(two.missed_offsets(first).await, [later.offset]);
}

#[tokio::test]
async fn renewed_epoch_is_on_the_pages_of_all_instances() {
    let (_server, one, two) = start_pair().await;
    two.subscribe("news").await;
    let first = one.store_many(1).await;
    let second = two.catch_up_with(&one).await;
    assert_eq!(two.missed_offsets(first).await, [second.offset]);
    one.broker.renew_epoch(channel("news"), first.epoch).await.unwrap();
    let reads_again =
        wait_until("the other instance reads again", async || two.read_missed(first).await.top.epoch != first.epoch);
    timeout(Duration::from_secs(4), reads_again).await.expect("before the page expires");
}

#[tokio::test]
async fn page_expires_long_before_its_publications() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.subscribe("news").await;
    let keep = Retention { ttl: Duration::from_secs(1), ..KEEP };
    let first = instance.store_with("news", "1", keep).await;
    instance.store_with("news", "2", keep).await;
    instance.wait_for_publications(2).await;
    let since = Some(SincePosition { offset: first.offset, epoch: None });
    let read = async || {
        let request = HistoryRequest { since, limit: 1000, ..HistoryRequest::default() };
        instance.broker.read_missed(channel("news"), request, keep, None).await.unwrap().publications.len()
    };
    assert_eq!(read().await, 1);
    // Nothing tells the instance of it.
    for key in server.run::<Vec<String>>(&["KEYS", "*news*"]).await {
        if server.run::<String>(&["TYPE", &key]).await == "stream" {
            server.run::<i64>(&["DEL", &key]).await;
        }
    }
    wait_until("the page is read again", async || read().await == 0).await;
}

#[tokio::test]
async fn instance_without_a_subscription_connection_keeps_no_page() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.subscribe("news").await;
    let first = instance.store_many(1).await;
    instance.catch_up_with(&instance).await;
    assert_eq!(instance.missed_offsets(first).await, [2]);
    let losses = instance.hubs.losses.load(Ordering::Relaxed);
    let mut connection = server.connection().await.unwrap();
    // Its other connections stay open, and it gets no new one.
    let mut commands = redis::pipe();
    commands.cmd("CONFIG").arg("SET").arg("maxclients").arg(1).cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub");
    commands.exec_async(&mut connection).await.unwrap();
    wait_until("the loss", async || instance.hubs.losses.load(Ordering::Relaxed) > losses).await;
    let third = instance.store_many(1).await;
    assert_eq!(instance.missed_offsets(first).await, [2, third.offset]);
}

#[tokio::test]
async fn read_that_may_lack_something_serves_only_the_caller_that_began_it() {
    let server = RedisServer::start().await;
    let one = start_broker_with(&server.url(), |config| config.probe_interval = Duration::from_secs(60));
    one.wait_until_ready().await;
    one.subscribe("news").await;
    let first = one.store_many(1).await;
    one.catch_up_with(&one).await;
    let reads_of = async |forgets: bool| {
        let before = stream_reads(&server).await;
        server.freeze();
        let both = join_all([one.missed_offsets(first), one.missed_offsets(first)]);
        let resume = async {
            if forgets {
                // What is stored from now on does not arrive here.
                one.broker.unsubscribe(channel("news"));
            }
            server.resume();
        };
        let (both, ()) = tokio::join!(both, resume);
        assert!(both.iter().all(|offsets| *offsets == [2]), "{both:?}");
        stream_reads(&server).await - before
    };
    let shared = reads_of(false).await;
    one.broker.unsubscribe(channel("news"));
    one.subscribe("news").await;
    assert_eq!(reads_of(true).await, 2 * shared);
}

#[tokio::test]
async fn page_is_read_again_after_an_interruption_an_unsubscribe_and_a_lost_epoch() {
    let (server, one, two) = start_pair().await;
    one.subscribe("news").await;
    let first = two.store_many(1).await;
    one.catch_up_with(&two).await;
    assert_eq!(one.missed_offsets(first).await, [2]);
    // Without its subscription the instance does not receive what is stored next.
    one.broker.unsubscribe(channel("news"));
    one.subscribe("other").await;
    two.store_many(1).await;
    one.subscribe("news").await;
    assert_eq!(one.missed_offsets(first).await, [2, 3]);
    let count = |events: &AtomicUsize| events.load(Ordering::Relaxed);
    let (losses, resubscribed) = (count(&one.hubs.losses), count(&one.hubs.resubscribed));
    server.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    wait_until("the interruption", async || count(&one.hubs.losses) > losses).await;
    // A page that is read before the instance is subscribed again may lack what is stored until then.
    assert_eq!(one.missed_offsets(first).await, [2, 3]);
    two.store_many(1).await;
    wait_until("the end of the interruption", async || count(&one.hubs.resubscribed) > resubscribed).await;
    assert_eq!(one.missed_offsets(first).await, [2, 3, 4]);
    one.catch_up_with(&two).await;
    assert_eq!(one.missed_offsets(first).await, [2, 3, 4, 5]);
    one.broker.renew_epoch(channel("news"), first.epoch).await.unwrap();
    let page = one.read_missed(first).await;
    assert!(page.publications.is_empty() && page.top.epoch != first.epoch, "{page:?}");
}

#[tokio::test]
async fn page_that_a_later_read_contradicts_is_read_again() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    instance.subscribe("news").await;
    for how in ["a page", "a position", "the positions of many channels"] {
        let first = instance.store_many(1).await;
        instance.catch_up_with(&instance).await;
        assert_eq!(instance.missed_offsets(first).await, [2], "{how}");
        server.run::<()>(&["FLUSHALL"]).await;
        let read = async |limit| {
            let request = HistoryRequest { limit, ..HistoryRequest::default() };
            instance.broker.read_history(channel("news"), request, KEEP).await.unwrap().top
        };
        let read = match how {
            "a page" => Some(read(1).await),
            "a position" => Some(read(0).await),
            _ => instance
                .broker
                .read_positions(vec![(channel("news"), KEEP)])
                .await
                .remove(0)
                .unwrap()
                .map(|top| top.position),
        };
        let page = instance.read_missed(first).await;
        assert!(page.publications.is_empty() && page.top.epoch != first.epoch, "{how}: {page:?}");
        assert!(read.is_none_or(|read| read == page.top), "{how}: {read:?} {page:?}");
    }
}
