//! Histories: offsets, what is kept and for how long, pages, and what becomes of a channel that nobody uses.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use wardcast::{
    broker::{BrokerError, HistoryRequest, PublishOptions, Retention, Since},
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
    tags::Tags,
};

use super::fixture::{ALL, FIVE, HISTORY_BYTES, Instance, channel, memory, offsets, publication};

fn numbers(offsets: impl IntoIterator<Item = u64>) -> Vec<(u64, String)> {
    offsets.into_iter().map(|offset| (offset, offset.to_string())).collect()
}

/// Publishes the numbers as data, which are their offsets if they are the first.
async fn keep_all(instance: &Instance, name: &str, count: u64) -> Position {
    let mut last = None;
    for number in 1..=count {
        last = Some(instance.keep(name, &number.to_string(), FIVE).await);
    }
    last.unwrap()
}

fn since(offset: u64, epoch: Option<Epoch>) -> HistoryRequest {
    HistoryRequest { since: Some(Since { offset, epoch }), ..ALL }
}

fn before(offset: u64) -> HistoryRequest {
    HistoryRequest { is_reverse: true, ..since(offset, None) }
}

pub async fn publications_have_offsets_in_the_order_in_which_they_arrive(instance: Instance) {
    instance.subscribe("news").await;
    let retention = Retention { size: 2_000, ..FIVE };
    let instance = Arc::new(instance);
    let publishers = (0..4).map(|publisher| {
        let instance = instance.clone();
        tokio::spawn(async move {
            let mut offsets = Vec::new();
            for number in 0..250 {
                offsets.push(instance.keep("news", &format!("{publisher}{number:03}"), retention).await.offset);
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
    let received = instance.receives(1_000).await;
    let delivered: Vec<u64> = received.iter().map(|publication| publication.position.unwrap().offset).collect();
    assert_eq!(delivered, (1..=1_000).collect::<Vec<_>>());
    assert_eq!(instance.broker.history(channel("news"), ALL, retention).await.unwrap().publications, received);
}

pub async fn a_history_keeps_the_newest_and_knows_where_it_stands(instance: Instance) {
    let last = keep_all(&instance, "news", 7).await;
    assert_eq!(instance.all("news").await, numbers(3..=7));
    assert_eq!(instance.ask("news", ALL).await.top, last);
    assert_eq!(last.offset, 7);
    let smaller = Retention { size: 2, ..FIVE };
    instance.keep("news", "8", smaller).await;
    assert_eq!(instance.all("news").await, numbers(7..=8));
}

pub async fn publications_whose_time_is_over_are_gone_and_their_offsets_are_not_given_again(instance: Instance) {
    keep_all(&instance, "news", 2).await;
    instance.later(Duration::from_secs(40));
    instance.keep("news", "3", FIVE).await;
    instance.later(Duration::from_secs(20));
    assert_eq!(instance.all("news").await, numbers(3..=3));
    instance.later(Duration::from_secs(40));
    assert_eq!(instance.all("news").await, numbers([]));
    assert_eq!(instance.ask("news", ALL).await.top.offset, 3);
    instance.keep("news", "4", FIVE).await;
    assert_eq!(instance.all("news").await, numbers(4..=4));
}

pub async fn a_page_is_behind_a_place_or_before_it(instance: Instance) {
    // 3 to 7 are kept.
    let epoch = Some(keep_all(&instance, "news", 7).await.epoch);
    for (request, expected) in [
        (since(0, None), vec![3, 4, 5, 6, 7]),
        (since(4, epoch), vec![5, 6, 7]),
        (since(7, epoch), vec![]),
        (before(6), vec![5, 4, 3]),
        (before(3), vec![]),
        (before(2), vec![]),
        (before(0), vec![]),
        (before(8), vec![7, 6, 5, 4, 3]),
        (HistoryRequest { limit: 2, ..ALL }, vec![3, 4]),
        (HistoryRequest { limit: 2, ..since(4, None) }, vec![5, 6]),
        (HistoryRequest { limit: 2, is_reverse: true, ..ALL }, vec![7, 6]),
        (HistoryRequest { limit: 2, ..before(6) }, vec![5, 4]),
        (HistoryRequest { limit: 0, ..ALL }, vec![]),
        (HistoryRequest { limit: 0, ..before(6) }, vec![]),
    ] {
        let history = instance.ask("news", request).await;
        assert_eq!((offsets(&history), history.top.offset), (numbers(expected), 7), "{request:?}");
    }
}

pub async fn a_place_of_another_epoch_or_beyond_the_top_has_nothing_behind_it(instance: Instance) {
    keep_all(&instance, "news", 3).await;
    let other = Epoch::read("another_").unwrap();
    for request in [
        since(0, Some(other)),
        since(2, Some(other)),
        since(4, None),
        since(u64::MAX, None),
        HistoryRequest { is_reverse: true, ..since(2, Some(other)) },
    ] {
        let history = instance.ask("news", request).await;
        assert_eq!((offsets(&history), history.top.offset), (numbers([]), 3), "{request:?}");
    }
    assert_eq!(
        offsets(&instance.ask("news", before(u64::MAX)).await),
        [(3, "3".into()), (2, "2".into()), (1, "1".into())]
    );
}

pub async fn whoever_asks_first_has_a_position_that_lasts(instance: Instance) {
    let asked = instance.ask("news", ALL).await;
    assert_eq!((asked.publications, asked.top.offset), (Vec::new(), 0));
    assert_eq!(instance.ask("news", ALL).await.top, asked.top);
    let first = instance.keep("news", "1", FIVE).await;
    assert_eq!(first, Position { offset: 1, ..asked.top });
}

pub async fn a_channel_that_nobody_asked_for_long_begins_anew(instance: Instance) {
    let old = keep_all(&instance, "news", 3).await;
    instance.later(Duration::from_secs(3_599));
    assert_eq!(instance.ask("news", ALL).await.top, old);
    // The question has prolonged it.
    instance.later(Duration::from_secs(3_599));
    assert_eq!(instance.ask("news", ALL).await.top, old);
    instance.later(Duration::from_secs(3_600));
    let new = instance.keep("news", "1", FIVE).await;
    assert_eq!(new.offset, 1);
    assert_ne!(new.epoch, old.epoch);
}

pub async fn a_removed_history_still_knows_where_it_stands(instance: Instance) {
    let last = keep_all(&instance, "news", 3).await;
    instance.broker.remove_history(channel("news")).await.unwrap();
    instance.broker.remove_history(channel("never")).await.unwrap();
    let history = instance.ask("news", ALL).await;
    assert_eq!((offsets(&history), history.top), (numbers([]), last));
    assert_eq!(instance.keep("news", "4", FIVE).await.offset, 4);
    assert_eq!(instance.all("news").await, numbers(4..=4));
}

pub async fn a_publication_comes_back_whole(instance: Instance) {
    instance.subscribe("news").await;
    let conn_info = Some(Bytes::from_static(b"{\"name\":\"Ann\"}"));
    let info = ClientInfo { user: "é".to_owned(), client: "c".to_owned(), chan_info: conn_info.clone(), conn_info };
    let sent = Publication {
        info: Some(info.into()),
        tags: Tags::new([("a", "1")]).unwrap(),
        is_delta: true,
        exclude: Some(uuid::Uuid::from_u128(7)),
        ..publication("news", "{\"n\": [1]}")
    };
    let before = instance.clock.now();
    let options = PublishOptions { retention: Some(FIVE), ..PublishOptions::default() };
    let position = instance.broker.publish(sent.clone(), options).await.unwrap().position;
    let received = instance.receives(1).await;
    let time = received[0].time;
    assert!((before..=instance.clock.now()).contains(&time), "{time}");
    assert_eq!(received, [Publication { position, time, ..sent }]);
    assert_eq!(instance.ask("news", ALL).await.publications, received);
}

pub async fn histories_of_channels_have_nothing_to_do_with_each_other(instance: Instance) {
    let names: Vec<String> = (0..200).map(|number| format!("news:{number}")).collect();
    for (index, name) in names.iter().enumerate() {
        keep_all(&instance, name, index as u64 % 3 + 1).await;
    }
    let mut epochs = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let top = instance.ask(name, ALL).await.top;
        assert_eq!((instance.all(name).await, top.offset), (numbers(1..=index as u64 % 3 + 1), index as u64 % 3 + 1));
        assert!(!epochs.contains(&top.epoch));
        epochs.push(top.epoch);
    }
}

pub async fn what_is_not_to_be_kept_is_only_told(instance: Instance) {
    instance.subscribe("news").await;
    instance.keep("news", "1", FIVE).await;
    instance.publish("news", "skipped").await.unwrap();
    instance.keep("news", "2", FIVE).await;
    instance.receives(3).await;
    assert_eq!(instance.heard("news"), ["1", "skipped", "2"]);
    assert_eq!(instance.received()[1].position, None);
    assert_eq!(instance.all("news").await, numbers(1..=2));
}

#[tokio::test]
async fn in_memory_what_no_hub_has_room_for_is_not_kept_either() {
    let instance = memory();
    instance.subscribe("news").await;
    keep_all(&instance, "news", 2).await;
    instance.hubs.is_full.store(true, Ordering::Relaxed);
    let options = PublishOptions { retention: Some(FIVE), ..PublishOptions::default() };
    assert_eq!(instance.broker.publish(publication("news", "3"), options).await, Err(BrokerError::Busy));
    assert_eq!(instance.all("news").await, numbers(1..=2));
    instance.hubs.is_full.store(false, Ordering::Relaxed);
    assert_eq!(instance.keep("news", "3", FIVE).await.offset, 3);
}

#[tokio::test]
async fn in_memory_the_channel_that_has_rested_longest_loses_its_history_and_begins_anew() {
    let instance = memory();
    let kilobytes = "7".repeat(1_000);
    let many = HISTORY_BYTES / 1_000;
    let first = instance.keep("first", &kilobytes, FIVE).await;
    let asked = instance.keep("asked", &kilobytes, FIVE).await;
    for number in 0..many {
        instance.later(Duration::from_millis(1));
        instance.keep(&format!("n{number}"), &kilobytes, FIVE).await;
        if number % 100 == 0 {
            instance.ask("asked", HistoryRequest { limit: 0, ..ALL }).await;
        }
    }
    assert_eq!(instance.ask("asked", ALL).await.top, asked);
    assert_eq!(instance.all("asked").await.len(), 1, "whoever is asked does not rest");
    assert_eq!(instance.all(&format!("n{}", many - 1)).await.len(), 1);
    let top = instance.ask("first", ALL).await.top;
    assert_eq!(top.offset, 0);
    assert_ne!(top.epoch, first.epoch, "nobody recovers over the hole");
}

#[tokio::test]
async fn in_memory_who_asks_for_a_million_channels_washes_no_history_out() {
    let instance = memory();
    let kept = instance.keep("news", "1", FIVE).await;
    let first = instance.ask("asked0", ALL).await.top;
    for number in 0..2 * HISTORY_BYTES / 384 {
        instance.later(Duration::from_millis(1));
        instance.ask(&format!("asked{number}"), ALL).await;
    }
    assert_eq!((instance.ask("news", ALL).await.top, instance.all("news").await.len()), (kept, 1));
    assert_ne!(instance.ask("asked0", ALL).await.top.epoch, first.epoch, "of these the oldest went");
}

#[tokio::test]
async fn in_memory_one_channel_alone_does_not_displace_all_others() {
    let instance = memory();
    let endless = Retention { size: usize::MAX, ..FIVE };
    instance.keep("other", "1", FIVE).await;
    let mut last = None;
    for _ in 0..2 * HISTORY_BYTES / 1_000 {
        last = Some(instance.keep("news", &"7".repeat(1_000), endless).await);
    }
    let history = instance.broker.history(channel("news"), ALL, endless).await.unwrap();
    let kept = history.publications.len();
    assert!((HISTORY_BYTES / 2_500..HISTORY_BYTES / 2_000).contains(&kept), "{kept} publications");
    assert_eq!((Some(history.top), instance.all("other").await.len()), (last, 1));
}
