//! Histories: offsets, what is kept and for how long, pages, and what happens to a channel that is not used.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use wardcast::{
    broker::{BrokerError, ChannelTop, HistoryRequest, PublishOptions, Retention, SincePosition, Version},
    position::{Epoch, Position},
    publication::Publication,
    tags::Tags,
};

use super::fixture::{
    HISTORY_BYTES, Instance, KEEP_FIVE, WHOLE_HISTORY, channel, client_info, memory_instance, offsets, publication,
};

fn numbers(offsets: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    offsets.into_iter().map(|offset| (offset, offset.to_string())).collect()
}

/// Publishes the numbers from 1 as data. In a new channel they equal the offsets.
async fn store_numbers(instance: &Instance, name: &str, count: u64) -> Position {
    let mut last = None;
    for number in 1..=count {
        last = Some(instance.store(name, &number.to_string()).await);
    }
    last.unwrap()
}

fn since(offset: u64, epoch: Option<Epoch>) -> HistoryRequest {
    HistoryRequest { since: Some(SincePosition { offset, epoch }), ..WHOLE_HISTORY }
}

fn before(offset: u64) -> HistoryRequest {
    HistoryRequest { is_reverse: true, ..since(offset, None) }
}

pub async fn offsets_follow_the_order_of_delivery(instance: Instance) {
    instance.subscribe("news").await;
    let retention = Retention { size: 2_000, ..KEEP_FIVE };
    let instance = Arc::new(instance);
    let publishers = (0..4).map(|publisher| {
        let instance = instance.clone();
        tokio::spawn(async move {
            let mut offsets = Vec::new();
            for number in 0..250 {
                offsets.push(instance.store_with("news", &format!("1{publisher}{number:03}"), retention).await.offset);
            }
            offsets
        })
    });
    let mut given: Vec<u64> = Vec::new();
    for offsets in join_all(publishers).await {
        let offsets = offsets.unwrap();
        assert!(offsets.is_sorted());
        given.extend(offsets);
    }
    given.sort_unstable();
    assert_eq!(given, (1..=1_000).collect::<Vec<_>>());
    let received = instance.wait_for_publications(1_000).await;
    let delivered: Vec<u64> = received.iter().map(|publication| publication.position.unwrap().offset).collect();
    assert_eq!(delivered, (1..=1_000).collect::<Vec<_>>());
    assert_eq!(
        instance.broker.read_history(channel("news"), WHOLE_HISTORY, retention).await.unwrap().publications,
        received
    );
}

pub async fn publications_keep_the_order_of_their_calls_whatever_their_options(instance: Instance) {
    let names = ["news", "sports", "weather"];
    for name in names {
        instance.subscribe(name).await;
    }
    let kept = |size| Some(Retention { size, ..KEEP_FIVE });
    let options = |number: u64| match number % 7 {
        0 => PublishOptions { retention: kept(2_000), ..Default::default() },
        1 => PublishOptions {
            retention: kept(2_000),
            version: Some(Version { number, epoch: "".into() }),
            ..Default::default()
        },
        2 => PublishOptions {
            retention: kept(2_000),
            idempotency_key: Some(number.to_string().into()),
            ..Default::default()
        },
        4 => PublishOptions::default(),
        6 => PublishOptions { idempotency_key: Some(number.to_string().into()), ..Default::default() },
        _ => PublishOptions { retention: kept(1_999), ..Default::default() },
    };
    let numbers = 1..=300;
    let calls = numbers.clone().flat_map(|number| names.map(|name| (name, number)));
    let calls = calls.map(|(name, number)| instance.publish_with(name, &number.to_string(), options(number)));
    // Every call is queued before the first one is awaited.
    let receipts = join_all(calls.collect::<Vec<_>>()).await;
    let stored = receipts.iter().step_by(names.len()).filter_map(|receipt| receipt.as_ref().unwrap().position);
    let offsets: Vec<u64> = stored.map(|position| position.offset).collect();
    assert_eq!(offsets, (1..=offsets.len() as u64).collect::<Vec<_>>());
    instance.wait_for_publications(900).await;
    for name in names {
        assert_eq!(instance.data_received(name), numbers.clone().map(|number| number.to_string()).collect::<Vec<_>>());
    }
}

pub async fn positions_of_many_channels_are_read_without_creating_a_history(instance: Instance) {
    let time_of = async |position: Position| {
        let publications = instance.read_history("news", WHOLE_HISTORY).await.publications;
        publications.iter().find(|publication| publication.position == Some(position)).unwrap().time
    };
    let mut news = instance.store("news", "1").await;
    let (first_time, mut newest_time) = (time_of(news).await, time_of(news).await);
    while newest_time == first_time {
        news = instance.store("news", "2").await;
        newest_time = time_of(news).await;
    }
    let empty = instance.read_history("empty", WHOLE_HISTORY).await.top;
    for _ in 0..2 {
        let names = ["news", "unknown", "empty", "news"].map(|name| (channel(name), KEEP_FIVE));
        let read = instance.broker.read_positions(names.to_vec()).await;
        let known = ChannelTop { position: news, time: Some(newest_time) };
        let expected = [Some(known), None, Some(ChannelTop { position: empty, time: None }), Some(known)];
        assert_eq!(read, expected.map(Ok));
    }
}

pub async fn lost_epoch_is_renewed_once(instance: Instance) {
    let lost = store_numbers(&instance, "news", 3).await;
    let other = Epoch::random().unwrap();
    assert_eq!(instance.broker.renew_epoch(channel("news"), other).await, Ok(Some(lost)), "another epoch is not lost");
    assert_eq!(instance.broker.renew_epoch(channel("unknown"), other).await, Ok(None));
    let renewed = instance.broker.renew_epoch(channel("news"), lost.epoch).await.unwrap();
    let page = instance.read_history("news", WHOLE_HISTORY).await;
    assert!(page.publications.is_empty() && page.top.offset == 0 && page.top.epoch != lost.epoch, "{page:?}");
    assert!(renewed.is_none_or(|renewed| renewed == page.top), "{renewed:?}");
    assert_eq!(instance.broker.renew_epoch(channel("news"), lost.epoch).await, Ok(Some(page.top)));
}

pub async fn history_keeps_the_newest_publications_and_its_top_position(instance: Instance) {
    let last = store_numbers(&instance, "news", 7).await;
    assert_eq!(instance.read_all("news").await, numbers(3..=7));
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await.top, last);
    assert_eq!(last.offset, 7);
    let smaller = Retention { size: 2, ..KEEP_FIVE };
    instance.store_with("news", "8", smaller).await;
    assert_eq!(instance.read_all("news").await, numbers(7..=8));
}

pub async fn expired_publications_are_gone_and_their_offsets_are_not_reused(instance: Instance) {
    store_numbers(&instance, "news", 2).await;
    instance.advance_clock(Duration::from_secs(40));
    instance.store("news", "3").await;
    instance.advance_clock(Duration::from_secs(20));
    assert_eq!(instance.read_all("news").await, numbers(3..=3));
    instance.advance_clock(Duration::from_secs(40));
    assert_eq!(instance.read_all("news").await, numbers([]));
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await.top.offset, 3);
    instance.store("news", "4").await;
    assert_eq!(instance.read_all("news").await, numbers(4..=4));
}

pub async fn history_page_starts_after_a_position_or_ends_before_it(instance: Instance) {
    // The history keeps 3 to 7.
    let epoch = Some(store_numbers(&instance, "news", 7).await.epoch);
    for (request, expected) in [
        (since(0, None), vec![3, 4, 5, 6, 7]),
        (since(4, epoch), vec![5, 6, 7]),
        (since(7, epoch), vec![]),
        (before(6), vec![5, 4, 3]),
        (before(3), vec![]),
        (before(2), vec![]),
        (before(0), vec![]),
        (before(8), vec![7, 6, 5, 4, 3]),
        (HistoryRequest { limit: 2, ..WHOLE_HISTORY }, vec![3, 4]),
        (HistoryRequest { limit: 2, ..since(4, None) }, vec![5, 6]),
        (HistoryRequest { limit: 2, is_reverse: true, ..WHOLE_HISTORY }, vec![7, 6]),
        (HistoryRequest { limit: 2, ..before(6) }, vec![5, 4]),
        (HistoryRequest { limit: 0, ..WHOLE_HISTORY }, vec![]),
        (HistoryRequest { limit: 0, ..before(6) }, vec![]),
    ] {
        let history = instance.read_history("news", request).await;
        assert_eq!((offsets(&history), history.top.offset), (numbers(expected), 7), "{request:?}");
    }
}

pub async fn position_of_another_epoch_or_beyond_the_top_gives_an_empty_page(instance: Instance) {
    store_numbers(&instance, "news", 3).await;
    let other = Epoch::parse("another_").unwrap();
    for request in [
        since(0, Some(other)),
        since(2, Some(other)),
        since(4, None),
        since(u64::MAX, None),
        HistoryRequest { is_reverse: true, ..since(2, Some(other)) },
    ] {
        let history = instance.read_history("news", request).await;
        assert_eq!((offsets(&history), history.top.offset), (numbers([]), 3), "{request:?}");
    }
    assert_eq!(
        offsets(&instance.read_history("news", before(u64::MAX)).await),
        [(3, "3".into()), (2, "2".into()), (1, "1".into())]
    );
}

pub async fn first_reader_of_a_channel_creates_its_position(instance: Instance) {
    let page = instance.read_history("news", WHOLE_HISTORY).await;
    assert_eq!((page.publications, page.top.offset), (Vec::new(), 0));
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await.top, page.top);
    let first = instance.store("news", "1").await;
    assert_eq!(first, Position { offset: 1, ..page.top });
}

pub async fn channel_unused_for_meta_ttl_restarts_with_a_new_epoch(instance: Instance) {
    let old = store_numbers(&instance, "news", 3).await;
    instance.advance_clock(Duration::from_secs(3_599));
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await.top, old);
    // The read has extended the lifetime.
    instance.advance_clock(Duration::from_secs(3_599));
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await.top, old);
    instance.advance_clock(Duration::from_secs(3_604));
    let new = instance.store("news", "1").await;
    assert_eq!(new.offset, 1);
    assert_ne!(new.epoch, old.epoch);
}

pub async fn removed_history_keeps_its_position(instance: Instance) {
    let last = store_numbers(&instance, "news", 3).await;
    instance.broker.remove_history(channel("news")).await.unwrap();
    instance.broker.remove_history(channel("never")).await.unwrap();
    let history = instance.read_history("news", WHOLE_HISTORY).await;
    assert_eq!((offsets(&history), history.top), (numbers([]), last));
    assert_eq!(instance.store("news", "4").await.offset, 4);
    assert_eq!(instance.read_all("news").await, numbers(4..=4));
}

pub async fn history_returns_every_field_of_a_publication(instance: Instance) {
    instance.subscribe("news").await;
    let sent = Publication {
        info: Some(client_info("c").into()),
        tags: Tags::new([("a", "1")]).unwrap(),
        use_delta: true,
        exclude: Some(uuid::Uuid::from_u128(7)),
        ..publication("news", "{\"n\": [1]}")
    };
    let before = instance.clock.now();
    let options = PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
    let position = instance.broker.publish(sent.clone(), options).await.unwrap().position;
    let received = instance.wait_for_publications(1).await;
    let time = received[0].time;
    assert!((before..=instance.clock.now()).contains(&time), "{time:?}");
    assert_eq!(received, [Publication { position, time, ..sent }]);
    assert_eq!(instance.read_history("news", WHOLE_HISTORY).await.publications, received);
}

pub async fn channels_have_independent_histories(instance: Instance) {
    let awkward = ["{}", "}{", "{a}", "a", "{a", "a}", "%7Ba%7D", "a b", "\"a\"", "'a'", "a?", "[a]", "\\a", "a\\n"];
    let longest = "é".repeat(127) + "a";
    let mut names: Vec<String> = (0..200).map(|number| format!("news:{number}")).collect();
    names.extend(awkward.into_iter().chain([&*longest]).map(str::to_owned));
    for (index, name) in names.iter().enumerate() {
        store_numbers(&instance, name, index as u64 % 3 + 1).await;
    }
    let mut epochs = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let top = instance.read_history(name, WHOLE_HISTORY).await.top;
        assert_eq!(
            (instance.read_all(name).await, top.offset),
            (numbers(1..=index as u64 % 3 + 1), index as u64 % 3 + 1)
        );
        assert!(!epochs.contains(&top.epoch));
        epochs.push(top.epoch);
    }
}

pub async fn publication_without_retention_is_delivered_but_not_stored(instance: Instance) {
    instance.subscribe("news").await;
    instance.store("news", "1").await;
    instance.publish("news", "0").await.unwrap();
    instance.store("news", "2").await;
    instance.wait_for_publications(3).await;
    assert_eq!(instance.data_received("news"), ["1", "0", "2"]);
    assert_eq!(instance.received()[1].position, None);
    assert_eq!(instance.read_all("news").await, numbers(1..=2));
}

#[tokio::test]
async fn in_memory_publication_refused_by_a_full_queue_is_not_stored() {
    let instance = memory_instance();
    instance.subscribe("news").await;
    store_numbers(&instance, "news", 2).await;
    instance.hubs.has_full_queue.store(true, Ordering::Relaxed);
    let options = PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
    assert_eq!(instance.publish_with("news", "3", options).await, Err(BrokerError::Busy));
    assert_eq!(instance.read_all("news").await, numbers(1..=2));
    instance.hubs.has_full_queue.store(false, Ordering::Relaxed);
    assert_eq!(instance.store("news", "3").await.offset, 3);
}

#[tokio::test]
async fn in_memory_least_recently_used_history_is_evicted_with_its_epoch() {
    let instance = memory_instance();
    let kilobytes = "7".repeat(1_000);
    let many = HISTORY_BYTES / 1_000;
    let first = instance.store("first", &kilobytes).await;
    let read = instance.store("read", &kilobytes).await;
    for number in 0..many {
        instance.advance_clock(Duration::from_millis(1));
        instance.store(&format!("n{number}"), &kilobytes).await;
        if number % 100 == 0 {
            instance.read_history("read", HistoryRequest { limit: 0, ..WHOLE_HISTORY }).await;
        }
    }
    assert_eq!(instance.read_history("read", WHOLE_HISTORY).await.top, read);
    assert_eq!(instance.read_all("read").await.len(), 1, "a history that is read is not evicted");
    assert_eq!(instance.read_all(&format!("n{}", many - 1)).await.len(), 1);
    let top = instance.read_history("first", WHOLE_HISTORY).await.top;
    assert_eq!(top.offset, 0);
    assert_ne!(top.epoch, first.epoch, "no client can recover over the lost publications");
}

#[tokio::test]
async fn in_memory_reading_many_empty_histories_evicts_no_publications() {
    let instance = memory_instance();
    let kept = instance.store("news", "1").await;
    let first = instance.read_history("empty0", WHOLE_HISTORY).await.top;
    for number in 0..2 * HISTORY_BYTES / 384 {
        instance.advance_clock(Duration::from_millis(1));
        instance.read_history(&format!("empty{number}"), WHOLE_HISTORY).await;
    }
    assert_eq!(
        (instance.read_history("news", WHOLE_HISTORY).await.top, instance.read_all("news").await.len()),
        (kept, 1)
    );
    assert_ne!(
        instance.read_history("empty0", WHOLE_HISTORY).await.top.epoch,
        first.epoch,
        "the oldest of the empty histories was evicted"
    );
}

#[tokio::test]
async fn in_memory_one_channel_does_not_evict_all_others() {
    let instance = memory_instance();
    let endless = Retention { size: usize::MAX, ..KEEP_FIVE };
    instance.store("other", "1").await;
    let mut last = None;
    for _ in 0..2 * HISTORY_BYTES / 1_000 {
        last = Some(instance.store_with("news", &"7".repeat(1_000), endless).await);
    }
    let history = instance.broker.read_history(channel("news"), WHOLE_HISTORY, endless).await.unwrap();
    let kept = history.publications.len();
    assert!((HISTORY_BYTES / 2_500..HISTORY_BYTES / 2_000).contains(&kept), "{kept} publications");
    assert_eq!((Some(history.top), instance.read_all("other").await.len()), (last, 1));
}
