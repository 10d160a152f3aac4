//! Brokers that were interrupted, have lost publications and gone on, or announce what their histories do not have.

use std::sync::atomic::Ordering;

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
use crate::support::{poll_until, slow_broker::Worker};

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

/// The broker may be interrupted after it has answered a subscription, and before the client has its reply.
#[actix_rt::test]
async fn position_that_was_read_before_an_interruption_is_compared_after_it() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    lose(&worker, "1").await;
    let lost = worker.broker.stored(&news(), retention(&worker)).await.remove(0);
    lose(&worker, "2").await;
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    worker.broker.answer(1);
    client.send(&[json!({"id": 1, "subscribe": {"channel": "news", "positioned": true}})]).await;
    worker.broker.wait_for_calls(&["subscribe", "read_history"]).await;
    *worker.broker.top.lock() = Some(ChannelTop { position: lost.position.unwrap(), time: Some(lost.time) });
    resubscribe(&worker).await;
    worker.broker.answer(1000);
    let reply = client.receive().await;
    assert_eq!(reply["subscribe"]["offset"], 2, "{reply}");
    expect_told(&mut client).await;
}

/// A client was connected to another node, and has received more than this hub.
#[actix_rt::test]
async fn what_a_client_has_received_elsewhere_is_missed_after_an_interruption() {
    let worker = start_with(|_| ());
    let mut behind = positioned(&worker).await;
    worker.publish("news", "1").await;
    assert_eq!(receive_data(&mut behind, 1).await, [1]);
    let kept = worker.broker.stored(&news(), retention(&worker)).await.remove(0);
    let epoch = kept.position.unwrap().epoch.as_str().to_owned();
    lose(&worker, "2").await;
    let mut ahead =
        subscriber(&worker, json!({"positioned": true, "recover": true, "epoch": epoch, "offset": 2})).await;
    *worker.broker.top.lock() = Some(ChannelTop { position: kept.position.unwrap(), time: Some(kept.time) });
    resubscribe(&worker).await;
    expect_told(&mut behind).await;
    expect_told(&mut ahead).await;
}

/// Nothing is held back there, and the comparison waits for a broker that fails.
#[actix_rt::test]
async fn channel_without_positioned_subscribers_gets_a_new_epoch_when_the_broker_answers_again() {
    let worker = start_with(|config| config.channels.force_recovery = false);
    let mut client = subscriber(&worker, json!({})).await;
    for data in ["1", "2"] {
        worker.publish("news", data).await;
    }
    assert_eq!(receive_data(&mut client, 2).await, [1, 2]);
    let stored = worker.broker.stored(&news(), retention(&worker)).await;
    let kept = ChannelTop { position: stored[0].position.unwrap(), time: Some(stored[0].time) };
    *worker.broker.top.lock() = Some(kept);
    worker.broker.failing_reads.store(2, Ordering::Relaxed);
    resubscribe(&worker).await;
    // Another publication at the offset of the lost one is delivered meanwhile.
    worker.hubs.deliver_publication(stored[0].clone()).unwrap();
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    poll_until("a new epoch", async || worker.broker.writes.lock().contains(&"renew_epoch")).await;
    worker.broker.top.lock().take();
    worker.publish("news", "3").await;
    assert_eq!(receive_data(&mut client, 1).await, [3]);
    let renewed = worker.broker.stored(&news(), retention(&worker)).await.remove(0).position.unwrap();
    assert_eq!((renewed.offset, renewed.epoch == kept.position.epoch), (1, false));
}

/// The history of another channel of the same request is slow.
#[actix_rt::test]
async fn publications_that_an_interruption_hid_after_the_history_was_read_come_before_the_next_one() {
    for ends_later in [false, true] {
        let worker =
            Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
        let mut client = worker.connect(json!({})).await;
        assert!(client.receive().await["push"]["connect"].is_object());
        let subscribe =
            |id: u32, channel: &str| json!({"id": id, "subscribe": {"channel": channel, "positioned": true}});
        // Not the second history.
        worker.broker.answer(3);
        client.send(&[subscribe(1, "news"), subscribe(2, "other")]).await;
        worker.broker.wait_for_calls(&["subscribe", "read_history", "subscribe", "read_history"]).await;
        worker.hubs.note_interrupted(&[news()]);
        lose(&worker, "1").await;
        if !ends_later {
            worker.hubs.note_resubscribed(&[news()]);
        }
        worker.hub.send(CheckHealth).await.unwrap();
        // The second history, and that of the gap.
        worker.broker.answer(100);
        for id in [1, 2] {
            let reply = client.receive().await;
            assert!(reply["id"] == id && reply["subscribe"].is_object(), "{reply}");
        }
        if ends_later {
            lose(&worker, "2").await;
            expect_nothing(&mut client).await;
            worker.hubs.note_resubscribed(&[news()]);
            assert_eq!(receive_data(&mut client, 2).await, [1, 2]);
        } else {
            assert_eq!(receive_data(&mut client, 1).await, [1]);
        }
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
