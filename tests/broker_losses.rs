//! Brokers that were interrupted, have lost publications and gone on, or announce what their histories do not have.

use serde_json::json;
use wardcast::{
    broker::{ChannelTop, Deliver, PresenceEvent},
    hub::CheckHealth,
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
};

use crate::gaps::{
    expect_no_recovery, expect_nothing, expect_told, history_reads, lose, news, positioned, receive_data, resubscribe,
    retention, start_with, subscriber,
};

/// What a broker sends that has lost publications and gone on.
#[actix_rt::test]
async fn channel_without_positioned_subscribers_goes_back_with_the_broker_after_an_interruption() {
    let worker = start_with(|config| config.channels.force_recovery = false);
    let mut client = subscriber(&worker, json!({})).await;
    for data in ["1", "2", "3"] {
        worker.publish("news", data).await;
    }
    assert_eq!(receive_data(&mut client, 3).await, [1, 2, 3]);
    let stored = worker.broker.stored(&news(), retention(&worker)).await;
    resubscribe(&worker).await;
    for publication in [&stored[1], &stored[2], &stored[2], &stored[0]] {
        worker.hubs.deliver_publication(publication.clone()).unwrap();
    }
    assert_eq!(receive_data(&mut client, 2).await, [2, 3]);
    expect_nothing(&mut client).await;
}

/// What was on its way before the interruption may arrive during it.
#[actix_rt::test]
async fn channel_may_go_back_after_an_interruption_although_a_late_publication_came_during_it() {
    let worker = start_with(|config| config.channels.force_recovery = false);
    let mut client = subscriber(&worker, json!({})).await;
    for data in ["1", "2", "3"] {
        worker.publish("news", data).await;
    }
    let stored = worker.broker.stored(&news(), retention(&worker)).await;
    worker.hubs.note_interrupted(&[news()]);
    worker.hub.send(CheckHealth).await.unwrap();
    worker.publish("news", "4").await;
    assert_eq!(receive_data(&mut client, 4).await, [1, 2, 3, 4]);
    worker.hubs.note_resubscribed(&[news()]);
    worker.hub.send(CheckHealth).await.unwrap();
    worker.hubs.deliver_publication(stored[1].clone()).unwrap();
    assert_eq!(receive_data(&mut client, 1).await, [2]);
}

/// A history has what was announced, unless the broker has lost it, or another program has announced it.
#[actix_rt::test]
async fn publication_that_the_history_does_not_reach_is_told_and_read_once() {
    let worker = start_with(|config| config.channels.force_recovery = false);
    let mut plain = subscriber(&worker, json!({})).await;
    let mut client = positioned(&worker).await;
    worker.publish("news", "1").await;
    let stored = worker.broker.stored(&news(), retention(&worker)).await.remove(0);
    let last = stored.position.unwrap();
    let reads = history_reads(&worker);
    for offset in [u64::MAX, last.offset + 2] {
        let position = Some(Position { offset, ..last });
        worker.hubs.deliver_publication(Publication { position, ..stored.clone() }).unwrap();
    }
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    expect_told(&mut client).await;
    assert_eq!(history_reads(&worker), reads + 1);
    expect_no_recovery(&mut client, last).await;
    worker.publish("news", "2").await;
    assert_eq!(receive_data(&mut client, 1).await, [2]);
    assert_eq!(receive_data(&mut plain, 4).await, [1, 1, 1, 2]);
}

#[actix_rt::test]
async fn what_waits_through_an_interruption_waits_for_the_history_as_well() {
    let worker = start_with(|config| {
        (config.channels.join_leave, config.channels.force_push_join_leave) = (true, true);
    });
    let mut client = positioned(&worker).await;
    assert!(client.receive().await["push"]["join"].is_object(), "its own");
    worker.publish("news", "1").await;
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    worker.hubs.note_interrupted(&[news()]);
    lose(&worker, "2").await;
    worker.publish("news", "3").await;
    let info = ClientInfo { user: "bob".into(), client: "b".into(), conn_info: None, chan_info: None };
    worker.hubs.deliver_presence_event(news(), PresenceEvent::Join, info.into()).unwrap();
    expect_nothing(&mut client).await;
    worker.hubs.note_resubscribed(&[news()]);
    assert_eq!(receive_data(&mut client, 2).await, [2, 3]);
    assert_eq!(client.receive().await["push"]["join"]["info"]["user"], "bob");
}

#[actix_rt::test]
async fn room_for_what_waits_is_given_back() {
    // There is room for at most three deliveries.
    let worker = start_with(|config| config.limits.hub_queue_bytes = 4 * 400);
    let mut client = positioned(&worker).await;
    for _ in 0..5 {
        worker.hubs.note_interrupted(&[news()]);
        lose(&worker, "1").await;
        worker.publish("news", "2").await;
        worker.hubs.note_resubscribed(&[news()]);
        assert_eq!(receive_data(&mut client, 2).await, [1, 2]);
    }
}

/// The history has publications that are still on their way to the hub.
#[actix_rt::test]
async fn plain_subscriber_receives_the_first_publications_of_another_history_that_come_after_it_was_found() {
    let worker = start_with(|config| config.channels.force_recovery = false);
    let mut plain = subscriber(&worker, json!({})).await;
    let mut client = positioned(&worker).await;
    worker.publish("news", "0").await;
    assert_eq!(
        (receive_data(&mut plain, 1).await, receive_data(&mut client, 1).await),
        (vec![json!(0)], vec![json!(0)])
    );
    let stored = worker.broker.stored(&news(), retention(&worker)).await.remove(0);
    let epoch = Epoch::parse("anotherE").unwrap();
    let at = |offset| Position { offset, epoch };
    *worker.broker.top.lock() = Some(ChannelTop { position: at(2), time: None });
    resubscribe(&worker).await;
    expect_told(&mut client).await;
    for offset in [1, 2] {
        worker.hubs.deliver_publication(Publication { position: Some(at(offset)), ..stored.clone() }).unwrap();
    }
    assert_eq!(receive_data(&mut plain, 2).await, [0, 0]);
}
