//! Histories in Redis where it does something that a memory broker cannot do: it loses scripts, runs out of memory, comes back
//! empty, and lets other clients write to its keys.

use std::sync::Arc;

use futures_util::future::join_all;
use wardcast::{
    broker::{BrokerError, ChannelTop, HistoryRequest, PublishOptions, PublishReceipt, Retention, Version},
    position::Position,
};

use super::fixture::{
    Instance, KEEP_FIVE, WHOLE_HISTORY, channel, start_broker_with, start_pair, start_ready_broker, wait_until,
};
use crate::support::redis::RedisServer;

pub const STREAM: &str = "wardcast:s:{news}";
pub const META: &str = "wardcast:m:{news}";
/// The default of `broker.redis.message_bytes`.
const MESSAGE_BYTES: usize = 2 << 20;
const NEWEST_FIRST: HistoryRequest = HistoryRequest { is_reverse: true, ..WHOLE_HISTORY };

pub async fn start() -> (RedisServer, Instance) {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    (server, instance)
}

pub async fn store_five(instance: &Instance) -> Position {
    for number in 1..5 {
        instance.store("news", &number.to_string()).await;
    }
    instance.store("news", "5").await
}

async fn offsets(instance: &Instance, request: HistoryRequest) -> Vec<u64> {
    let page = instance.read_history("news", request).await;
    page.publications.iter().map(|publication| publication.position.unwrap().offset).collect()
}

impl Instance {
    async fn try_store(&self, data: &str) -> Result<PublishReceipt, BrokerError> {
        let options = PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
        self.publish_with("news", data, options).await
    }

    async fn store_error(&self) -> String {
        self.try_store("0").await.unwrap_err().to_string()
    }
}

#[tokio::test]
async fn flushed_scripts_are_loaded_again_and_nothing_is_stored_twice() {
    let (server, instance) = start().await;
    instance.subscribe("news").await;
    let retention = Retention { size: 1_000, ..KEEP_FIVE };
    let mut stored = 0;
    for _ in 0..5 {
        server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        let calls = (0..100).map(|_| instance.store_with("news", "1", retention));
        let positions = join_all(calls).await;
        let expected: Vec<u64> = (stored + 1..=stored + 100).collect();
        assert_eq!(positions.iter().map(|position| position.offset).collect::<Vec<_>>(), expected);
        stored += 100;
    }
    let received = instance.wait_for_publications(500).await;
    server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    let page = instance.broker.read_history(channel("news"), WHOLE_HISTORY, retention).await.unwrap();
    assert_eq!(page.publications, received);
}

#[tokio::test]
async fn redis_that_came_back_empty_gives_a_channel_a_new_epoch() {
    let (mut server, instance) = start().await;
    let old = store_five(&instance).await;
    server.kill();
    server.restart().await;
    instance.wait_until_ready().await;
    assert_eq!(instance.broker.read_positions(vec![(channel("news"), KEEP_FIVE)]).await, [Ok(None)]);
    let new = instance.store("news", "1").await;
    assert_eq!(new.offset, 1);
    assert_ne!(new.epoch, old.epoch);
}

#[tokio::test]
async fn durable_redis_keeps_histories_epochs_and_idempotency_keys() {
    let mut server = RedisServer::start_durable().await;
    let instance = start_ready_broker(&server.url()).await;
    let last = store_five(&instance).await;
    let once =
        PublishOptions { retention: Some(KEEP_FIVE), idempotency_key: Some("key".into()), ..PublishOptions::default() };
    let first = instance.publish_with("news", "6", once.clone()).await.unwrap();
    let page = instance.read_history("news", WHOLE_HISTORY).await;
    server.kill();
    server.restart().await;
    instance.wait_until_ready().await;
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await, page);
    assert_eq!(instance.publish_with("news", "7", once).await, Ok(first));
    assert_eq!(instance.store("news", "7").await, Position { offset: 7, ..last });
}

#[tokio::test]
async fn key_of_another_type_fails_its_channel_alone_and_stores_nothing() {
    let (server, instance) = start().await;
    store_five(&instance).await;
    for key in [STREAM, META, "wardcast:i:{news}{key}"] {
        server.run::<()>(&["SET", "saved", ""]).await;
        let existed: bool = server.run(&["COPY", key, "saved", "REPLACE"]).await;
        server.run::<()>(&["DEL", key]).await;
        server.run::<()>(&["SADD", key, "member"]).await;
        let once = PublishOptions {
            retention: Some(KEEP_FIVE),
            idempotency_key: Some("key".into()),
            ..PublishOptions::default()
        };
        let error = instance.publish_with("news", "0", once).await.unwrap_err().to_string();
        assert!(error.contains("WRONGTYPE"), "{key}: {error}");
        if key != "wardcast:i:{news}{key}" {
            let error = instance.broker.read_history(channel("news"), WHOLE_HISTORY, KEEP_FIVE).await.unwrap_err();
            assert!(error.to_string().contains("WRONGTYPE"), "{key}: {error}");
        }
        assert_eq!(instance.broker.check_ready().await, Ok(()));
        instance.store("other", "1").await;
        server.run::<()>(&["DEL", key]).await;
        if existed {
            server.run::<bool>(&["COPY", "saved", key]).await;
        }
    }
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [1, 2, 3, 4, 5]);
    assert_eq!(instance.store("news", "6").await.offset, 6);
}

#[tokio::test]
async fn page_has_no_hole_where_another_client_has_deleted_publications() {
    let (server, instance) = start().await;
    store_five(&instance).await;
    server.run::<()>(&["XDEL", STREAM, "3-0"]).await;
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [4, 5]);
    assert_eq!(offsets(&instance, NEWEST_FIRST).await, [5, 4]);
    assert_eq!(offsets(&instance, HistoryRequest { limit: 2, ..WHOLE_HISTORY }).await, [1, 2]);
    server.run::<()>(&["XDEL", STREAM, "5-0"]).await;
    assert!(offsets(&instance, WHOLE_HISTORY).await.is_empty());
    assert!(offsets(&instance, NEWEST_FIRST).await.is_empty());
    assert_eq!(instance.store("news", "6").await.offset, 6);
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [6]);
    server.run::<()>(&["XTRIM", STREAM, "MAXLEN", "0"]).await;
    assert!(offsets(&instance, WHOLE_HISTORY).await.is_empty());
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await.top.offset, 6);
}

#[tokio::test]
async fn records_of_another_client_are_counted_and_not_returned() {
    let (server, instance) = start().await;
    let last = store_five(&instance).await;
    server.run::<()>(&["DEL", STREAM]).await;
    for (id, field, record) in [("1-0", "t", "1"), ("2-0", "d", "1"), ("3-0", "x", "1"), ("4-0", "d", "garbage")] {
        server.run::<()>(&["XADD", STREAM, id, "t", "9999999999999", field, record]).await;
    }
    server.run::<()>(&["XADD", STREAM, "5-1", "d", "garbage"]).await;
    assert!(offsets(&instance, WHOLE_HISTORY).await.is_empty());
    assert!(offsets(&instance, NEWEST_FIRST).await.is_empty());
    assert!(instance.dropped_count("not_ours") > 0);
    server.run::<()>(&["DEL", STREAM]).await;
    let record = "WC\x01p\0\0\0\x04news\0[1]";
    let too_long = format!("{record}{}", " ".repeat(MESSAGE_BYTES));
    for (id, record) in [("3-0", record), ("4-0", &too_long), ("5-0", record)] {
        server.run::<()>(&["XADD", STREAM, id, "t", "9999999999999", "d", record]).await;
    }
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [5], "one is larger than any message");
    // An entry behind the top leaves no offset for the next publication.
    let mut epoch = last.epoch;
    for id in ["6-0", "18446744073709551615-18446744073709551615"] {
        server.run::<()>(&["XADD", STREAM, id, "t", "1"]).await;
        let new = instance.store("news", "1").await;
        assert_eq!(new.offset, 1, "{id}");
        assert_ne!(new.epoch, epoch);
        assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [1]);
        epoch = new.epoch;
    }
}

#[tokio::test]
async fn top_that_another_client_has_made_impossible_is_replaced_by_a_new_epoch() {
    let (server, instance) = start().await;
    let mut epoch = store_five(&instance).await.epoch;
    for top in ["18446744073709551615", "9007199254740992", "-1", "x"] {
        server.run::<()>(&["HSET", "wardcast:m:{news}", "o", top]).await;
        let new = instance.store("news", "1").await;
        assert_eq!(new.offset, 1, "{top}");
        assert_ne!(new.epoch, epoch);
        assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [1]);
        epoch = new.epoch;
    }
}

#[tokio::test]
async fn lost_keys_of_a_channel_never_join_two_histories() {
    let (server, instance) = start().await;
    let last = store_five(&instance).await;
    server.run::<()>(&["DEL", STREAM]).await;
    assert!(offsets(&instance, WHOLE_HISTORY).await.is_empty());
    assert_eq!(instance.store("news", "6").await, Position { offset: 6, ..last });
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [6]);
    server.run::<()>(&["DEL", META]).await;
    let new = instance.store("news", "1").await;
    assert_eq!((new.offset, new.epoch == last.epoch), (1, false));
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [1]);
    server.run::<()>(&["DEL", META]).await;
    let page = instance.read_history("news", WHOLE_HISTORY).await;
    assert_eq!((page.publications.len(), page.top.offset), (0, 0));
    assert_ne!(page.top.epoch, new.epoch);
    assert_eq!(
        instance.store("news", "1").await,
        Position { offset: 1, ..page.top },
        "the reader's position stays valid"
    );
    for field in ["e", "o"] {
        store_five(&instance).await;
        server.run::<()>(&["HSET", META, field, "?"]).await;
        assert_eq!(instance.store("news", "1").await.offset, 1, "{field}");
        assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [1]);
    }
}

#[tokio::test]
async fn publication_that_does_not_fit_into_the_memory_of_redis_is_not_stored() {
    let (server, instance) = start().await;
    instance.subscribe("news").await;
    store_five(&instance).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for _ in 0..3 {
        assert!(instance.store_error().await.contains("OOM"));
    }
    let error = instance.publish_with(
        "new",
        "0",
        PublishOptions { retention: Some(KEEP_FIVE), idempotency_key: Some("key".into()), ..Default::default() },
    );
    assert!(error.await.unwrap_err().to_string().contains("OOM"));
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [1, 2, 3, 4, 5], "what is stored can be read");
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(instance.store("news", "6").await.offset, 6);
    instance.wait_for_publications(6).await;
    assert_eq!(instance.data_received("news"), ["1", "2", "3", "4", "5", "6"]);
    let keys: Vec<String> = server.run(&["KEYS", "*new}*"]).await;
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn busy_redis_stores_nothing_until_its_script_is_killed() {
    let (server, instance) = start().await;
    store_five(&instance).await;
    server.run::<()>(&["CONFIG", "SET", "busy-reply-threshold", "50"]).await;
    let server = Arc::new(server);
    let endless = {
        let server = server.clone();
        tokio::spawn(async move { server.try_run::<()>(&["EVAL", "while true do end", "0"]).await })
    };
    let mut error = String::new();
    wait_until("redis is busy", async || {
        error = instance.try_store("0").await.err().map(|error| error.to_string()).unwrap_or_default();
        !error.is_empty()
    })
    .await;
    let stored_before = instance.try_store("0").await;
    assert!(stored_before.is_err(), "{stored_before:?}");
    wait_until("the script is killed", async || server.try_run::<()>(&["SCRIPT", "KILL"]).await.is_ok()).await;
    assert!(endless.await.unwrap().is_err());
    instance.wait_until_ready().await;
    let page = instance.read_history("news", WHOLE_HISTORY).await;
    assert_eq!(instance.store("news", "6").await.offset, page.top.offset + 1);
}

#[tokio::test]
async fn history_longer_than_a_reply_is_read_in_parts() {
    let (_server, instance) = start().await;
    let retention = Retention { size: 1_000, ..KEEP_FIVE };
    let long = format!("\"{}\"", "x".repeat(65_000));
    for round in 0..40 {
        instance.store_with("news", &long, retention).await;
        let short = (0..10).map(|_| instance.store_with("news", "1", retention));
        assert_eq!(join_all(short).await[9].offset, 11 * (round + 1));
    }
    let read = async |request| {
        let page = instance.broker.read_history(channel("news"), request, retention).await.unwrap();
        let offsets = page.publications.iter().map(|publication| publication.position.unwrap().offset);
        offsets.collect::<Vec<_>>()
    };
    assert_eq!(read(WHOLE_HISTORY).await, (1..=440).collect::<Vec<_>>());
    assert_eq!(read(NEWEST_FIRST).await, (1..=440).rev().collect::<Vec<_>>());
    assert_eq!(read(HistoryRequest { limit: 333, ..WHOLE_HISTORY }).await, (1..=333).collect::<Vec<_>>());
    assert_eq!(read(HistoryRequest { limit: 333, ..NEWEST_FIRST }).await, (108..=440).rev().collect::<Vec<_>>());
    // The caller drops what does not fit, so one publication more is enough.
    for (max_bytes, read_publications) in [(1, 1..=1), (70_000, 12..=24), (5 << 20, 440..=440)] {
        let request = HistoryRequest { max_bytes: Some(max_bytes), ..WHOLE_HISTORY };
        let count = read(request).await.len();
        assert!(read_publications.contains(&count), "{max_bytes}: {count}");
    }
}

#[tokio::test]
async fn instances_share_offsets_idempotency_keys_and_versions() {
    let (_server, first, second) = start_pair().await;
    let retention = Retention { size: 1_000, ..KEEP_FIVE };
    first.subscribe("news").await;
    second.subscribe("news").await;
    let numbers: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let calls = numbers.iter().flat_map(|number| {
        let data = [number.clone(), number.clone()];
        [&first, &second]
            .into_iter()
            .zip(data)
            .map(|(instance, data)| async move { instance.store_with("news", &data, retention).await.offset })
    });
    let mut offsets = join_all(calls).await;
    offsets.sort_unstable();
    assert_eq!(offsets, (1..=400).collect::<Vec<_>>());
    let received = first.wait_for_publications(400).await;
    assert_eq!(second.wait_for_publications(400).await, received);
    let received: Vec<u64> = received.iter().map(|publication| publication.position.unwrap().offset).collect();
    assert_eq!(received, offsets);

    let with_key = PublishOptions { idempotency_key: Some("key".into()), ..Default::default() };
    let stored = PublishOptions { retention: Some(retention), ..with_key.clone() };
    let receipt = first.publish_with("once", "1", stored.clone()).await.unwrap();
    assert_eq!(second.publish_with("once", "2", stored).await, Ok(receipt));
    assert_eq!(second.publish_with("once", "3", with_key.clone()).await, Ok(receipt));
    let unstored = first.publish_with("unstored", "1", with_key.clone()).await;
    assert_eq!(unstored, Ok(PublishReceipt::default()));
    assert_eq!(second.publish_with("unstored", "2", with_key).await, unstored);

    let version = |number| PublishOptions {
        retention: Some(retention),
        version: Some(Version { number, epoch: "".into() }),
        ..Default::default()
    };
    let newest = first.publish_with("state", "1", version(10)).await.unwrap();
    assert_eq!(second.publish_with("state", "2", version(9)).await, Ok(newest));
    assert_ne!(second.publish_with("state", "3", version(11)).await, Ok(newest));
}

#[tokio::test]
async fn publication_too_long_to_be_announced_is_not_stored() {
    let server = RedisServer::start().await;
    let instance = start_broker_with(&server.url(), |config| config.message_bytes = 8192);
    instance.wait_until_ready().await;
    instance.subscribe("news").await;
    let data = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
    let mut length = 8192;
    while instance.try_store(&data(length)).await.is_err() {
        length -= 1;
    }
    instance.wait_for_publications(1).await;
    assert!(length > 8100, "{length}");
    assert_eq!(offsets(&instance, WHOLE_HISTORY).await, [1]);
}

#[tokio::test]
async fn positions_of_thousands_of_channels_are_read_at_once() {
    let (server, instance) = start().await;
    let news = store_five(&instance).await;
    server.run::<()>(&["SET", "wardcast:m:{broken}", ""]).await;
    let mut channels: Vec<_> = (0..2_000).map(|number| (channel(&format!("n{number}")), KEEP_FIVE)).collect();
    channels.insert(700, (channel("news"), KEEP_FIVE));
    channels.insert(1_700, (channel("broken"), KEEP_FIVE));
    let newest = instance.read_history("news", NEWEST_FIRST).await.publications[0].time;
    for (index, result) in instance.broker.read_positions(channels).await.into_iter().enumerate() {
        match index {
            700 => assert_eq!(result, Ok(Some(ChannelTop { position: news, time: Some(newest) }))),
            1_700 => assert!(result.unwrap_err().to_string().contains("WRONGTYPE")),
            _ => assert_eq!(result, Ok(None), "{index}"),
        }
    }
}
