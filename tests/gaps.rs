//! Publications that do not reach a hub, reach it twice, or in another order: subscribers that rely on their position receive
//! them in order from the history, or are told.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use wardcast::{
    broker::{Broker, ChannelTop, Deliver, PresenceEvent, PublishOptions, Retention},
    channel::Channel,
    clock::WallTime,
    config::{Config, DeltaType},
    hub::CheckHealth,
    position::Position,
    publication::{ClientInfo, Publication},
};

use crate::support::slow_broker::{Client, Worker};

pub(crate) fn news() -> Channel {
    Channel::new("news").unwrap()
}

pub(crate) fn retention(worker: &Worker) -> Retention {
    Retention::from_options(&worker.config().channels).unwrap()
}

/// A worker whose channels keep ten publications, and whose broker answers at once.
fn start() -> Worker {
    start_with(|_| ())
}

pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Worker {
    let worker = Worker::start(|config| {
        config.channels.history_size = 10;
        config.channels.force_recovery = true;
        config.channels.allowed_delta_types = vec![DeltaType::Fossil];
        change(config);
    });
    worker.broker.answer(1000);
    worker
}

/// A client that is subscribed to `news` with these options.
pub(crate) async fn subscriber(worker: &Worker, mut options: Value) -> Client {
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    options["channel"] = json!("news");
    client.send(&[json!({"id": 1, "subscribe": options})]).await;
    let reply = client.receive().await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    client
}

/// A worker with a positioned subscriber, to which the first publication is on its way.
async fn start_at_first_publication() -> (Worker, Client) {
    let worker = start();
    let client = positioned(&worker).await;
    worker.publish("news", "1").await;
    (worker, client)
}

pub(crate) async fn positioned(worker: &Worker) -> Client {
    subscriber(worker, json!({"positioned": true})).await
}

pub(crate) async fn receive_data(client: &mut Client, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    for _ in 0..count {
        let mut push = client.receive().await;
        assert!(push["push"]["pub"].is_object(), "{push}");
        all.push(push["push"]["pub"]["data"].take());
    }
    all
}

pub(crate) async fn expect_told(client: &mut Client) {
    let push = client.receive().await;
    assert_eq!(push["push"]["unsubscribe"], json!({"code": 2500, "reason": "insufficient state"}), "{push}");
}

/// The client has received everything that the hub has sent it.
pub(crate) async fn expect_nothing(client: &mut Client) {
    client.send(&[json!({"id": 99, "ping": {}})]).await;
    let reply = client.receive().await;
    assert_eq!(reply["id"], 99, "{reply}");
}

pub(crate) async fn lose(worker: &Worker, data: &'static str) {
    let publication = Publication::new(news(), Bytes::from_static(data.as_bytes()));
    worker.broker.lose(publication, retention(worker)).await;
}

pub(crate) fn history_reads(worker: &Worker) -> usize {
    worker.broker.calls.borrow().iter().filter(|call| **call == "read_history").count()
}

/// Resubscribes, as a broker does after an outage.
pub(crate) async fn resubscribe(worker: &Worker) {
    worker.hubs.note_interrupted(&[news()]);
    worker.hubs.note_resubscribed(&[news()]);
    worker.hub.send(CheckHealth).await.unwrap();
}

#[actix_rt::test]
async fn gap_that_a_publication_reveals_is_filled_in_order() {
    let (worker, mut client) = start_at_first_publication().await;
    lose(&worker, "2").await;
    lose(&worker, "3").await;
    worker.publish("news", "4").await;
    worker.publish("news", "5").await;
    assert_eq!(receive_data(&mut client, 5).await, [1, 2, 3, 4, 5]);
    worker.publish("news", "6").await;
    assert_eq!(receive_data(&mut client, 1).await, [6]);
}

#[actix_rt::test]
async fn deliveries_wait_for_the_publications_before_them_and_joins_keep_their_order() {
    let worker = Worker::start(|config| {
        (config.channels.history_size, config.channels.force_recovery) = (10, true);
        (config.channels.join_leave, config.channels.force_push_join_leave) = (true, true);
    });
    worker.broker.answer(2);
    let mut client = positioned(&worker).await;
    assert!(client.receive().await["push"]["join"].is_object(), "its own");
    worker.publish("news", "1").await;
    lose(&worker, "2").await;
    worker.publish("news", "3").await;
    let info = ClientInfo { user: "bob".into(), client: "b".into(), conn_info: None, chan_info: None };
    worker.hubs.deliver_presence_event(news(), PresenceEvent::Join, info.into()).unwrap();
    worker.publish("news", "4").await;
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    worker.broker.wait_for_calls(&["subscribe", "read_history", "read_history"]).await;
    expect_nothing(&mut client).await;
    worker.broker.answer(1);
    assert_eq!(receive_data(&mut client, 2).await, [2, 3]);
    assert_eq!(client.receive().await["push"]["join"]["info"]["user"], "bob");
    assert_eq!(receive_data(&mut client, 1).await, [4]);
}

#[actix_rt::test]
async fn channel_without_positioned_subscribers_skips_a_gap_at_once() {
    let worker = start_with(|config| config.channels.force_recovery = false);
    let mut client = subscriber(&worker, json!({})).await;
    worker.publish("news", "1").await;
    lose(&worker, "2").await;
    worker.publish("news", "3").await;
    assert_eq!(receive_data(&mut client, 2).await, [1, 3]);
    assert_eq!(history_reads(&worker), 1, "when it subscribed");
}

#[actix_rt::test]
async fn gap_that_the_history_does_not_have_is_told_and_other_subscribers_go_on() {
    let worker = start_with(|config| (config.channels.force_recovery, config.channels.history_size) = (false, 2));
    let mut plain = subscriber(&worker, json!({})).await;
    let mut client = positioned(&worker).await;
    worker.publish("news", "1").await;
    for data in ["2", "3"] {
        lose(&worker, data).await;
    }
    for data in ["4", "5"] {
        worker.publish("news", data).await;
    }
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    expect_told(&mut client).await;
    assert_eq!(receive_data(&mut plain, 3).await, [1, 4, 5]);
    client.send(&[json!({"id": 2, "subscribe": {"channel": "news", "positioned": true}})]).await;
    assert_eq!(client.receive().await["subscribe"]["offset"], 5);
    worker.publish("news", "6").await;
    assert_eq!(
        (receive_data(&mut client, 1).await, receive_data(&mut plain, 1).await),
        (vec![json!(6)], vec![json!(6)])
    );
}

#[actix_rt::test]
async fn gap_larger_than_a_reply_is_told() {
    let worker = start_with(|config| config.limits.outbox_bytes = 16_384);
    let mut client = positioned(&worker).await;
    let large: &'static str = Box::leak(format!("\"{}\"", "x".repeat(3000)).into_boxed_str());
    for _ in 0..4 {
        lose(&worker, large).await;
    }
    worker.publish("news", "5").await;
    expect_told(&mut client).await;
    let limit = worker.config().limits.client_reply_bytes();
    let request = worker.broker.requests.lock().pop().unwrap();
    assert_eq!(request.max_bytes, Some(limit), "what is too much is not read either");
}

#[actix_rt::test]
async fn gap_in_a_server_side_subscription_that_cannot_be_filled_closes_with_3010() {
    let worker = start_with(|config| config.channels.history_size = 1);
    let mut client = worker.connect(json!({"channels": ["news"]})).await;
    assert!(client.receive().await["push"]["connect"]["subs"]["news"].is_object());
    lose(&worker, "1").await;
    lose(&worker, "2").await;
    worker.publish("news", "3").await;
    assert_eq!(client.wait_for_close().await, 3010);
}

#[actix_rt::test]
async fn more_deliveries_than_may_wait_end_the_positioned_subscriptions() {
    let worker = Worker::start(|config| {
        (config.channels.history_size, config.channels.force_recovery) = (10, false);
        config.limits.hub_queue_bytes = 4 * 400;
    });
    worker.broker.answer(2);
    let mut plain = subscriber(&worker, json!({})).await;
    let mut client = positioned(&worker).await;
    lose(&worker, "1").await;
    for data in ["2", "3", "4", "5"] {
        worker.publish("news", data).await;
    }
    expect_told(&mut client).await;
    assert_eq!(receive_data(&mut plain, 4).await, [2, 3, 4, 5], "what waited");
    worker.publish("news", "6").await;
    assert_eq!(receive_data(&mut plain, 1).await, [6]);
}

#[actix_rt::test]
async fn outage_without_losses_delivers_what_waited_and_reads_no_history() {
    let (worker, mut client) = start_at_first_publication().await;
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    worker.hubs.note_interrupted(&[news()]);
    worker.hub.send(CheckHealth).await.unwrap();
    worker.hubs.note_resubscribed(&[news()]);
    worker.hub.send(CheckHealth).await.unwrap();
    worker.publish("news", "2").await;
    assert_eq!((receive_data(&mut client, 1).await, history_reads(&worker)), (vec![json!(2)], 1));
}

#[actix_rt::test]
async fn publications_lost_in_an_outage_are_delivered_without_a_later_one() {
    let (worker, mut client) = start_at_first_publication().await;
    lose(&worker, "2").await;
    lose(&worker, "3").await;
    resubscribe(&worker).await;
    assert_eq!(receive_data(&mut client, 3).await, [1, 2, 3]);
    expect_nothing(&mut client).await;
}

#[actix_rt::test]
async fn nothing_is_delivered_between_an_interruption_and_the_comparison() {
    let (worker, mut client) = start_at_first_publication().await;
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    worker.hubs.note_interrupted(&[news()]);
    worker.hub.send(CheckHealth).await.unwrap();
    worker.publish("news", "2").await;
    expect_nothing(&mut client).await;
    worker.hubs.note_resubscribed(&[news()]);
    assert_eq!(receive_data(&mut client, 1).await, [2]);
}

#[actix_rt::test]
async fn broker_that_came_back_empty_is_told_and_its_new_epoch_recovers_nothing() {
    let (worker, mut client) = start_at_first_publication().await;
    let before = worker.broker.stored(&news(), retention(&worker)).await[0].position.unwrap();
    worker.broker.renew_epoch(news(), before.epoch).await.unwrap();
    resubscribe(&worker).await;
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    expect_told(&mut client).await;
    expect_no_recovery(&mut client, before).await;
}

/// The client subscribes again from a position, and hears that what it missed cannot be recovered.
pub(crate) async fn expect_no_recovery(client: &mut Client, from: Position) {
    let recover = json!({"channel": "news", "recover": true, "offset": from.offset, "epoch": from.epoch});
    client.send(&[json!({"id": 2, "subscribe": recover})]).await;
    let reply = client.receive().await["subscribe"].take();
    assert_eq!((&reply["recovered"], &reply["was_recovering"]), (&Value::Null, &json!(true)), "{reply}");
    assert_ne!(reply["epoch"], json!(from.epoch), "{reply}");
}

#[actix_rt::test]
async fn lost_writes_renew_the_epoch_before_the_clients_subscribe_again() {
    for is_replaced in [false, true] {
        let worker = start();
        let mut client = positioned(&worker).await;
        worker.publish("news", "1").await;
        worker.publish("news", "2").await;
        assert_eq!(receive_data(&mut client, 2).await, [1, 2]);
        let stored = worker.broker.stored(&news(), retention(&worker)).await;
        let (first, last) = (stored[0].position.unwrap(), stored[1].position.unwrap());
        let other_time = WallTime::from_unix_millis(stored[1].time.unix_millis() + 1);
        *worker.broker.top.lock() = Some(if is_replaced {
            ChannelTop { position: last, time: Some(other_time) }
        } else {
            ChannelTop { position: first, time: Some(stored[0].time) }
        });
        resubscribe(&worker).await;
        expect_told(&mut client).await;
        worker.broker.top.lock().take();
        expect_no_recovery(&mut client, last).await;
    }
}

#[actix_rt::test]
async fn offset_that_goes_back_is_compared_and_a_repetition_is_not_delivered() {
    let worker = start();
    let mut client = positioned(&worker).await;
    for data in ["1", "2"] {
        worker.publish("news", data).await;
    }
    assert_eq!(receive_data(&mut client, 2).await, [1, 2]);
    let stored = worker.broker.stored(&news(), retention(&worker)).await;
    for publication in &stored {
        worker.hubs.deliver_publication(publication.clone()).unwrap();
    }
    wait_for_comparison(&worker).await;
    expect_nothing(&mut client).await;
    // Now the broker has only the first one.
    *worker.broker.top.lock() = Some(ChannelTop { position: stored[0].position.unwrap(), time: None });
    worker.hubs.deliver_publication(stored[0].clone()).unwrap();
    expect_told(&mut client).await;
}

async fn wait_for_comparison(worker: &Worker) {
    while worker.broker.position_queries.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[actix_rt::test]
async fn broker_that_fails_for_a_moment_is_asked_again() {
    let worker = start();
    let mut client = positioned(&worker).await;
    lose(&worker, "1").await;
    worker.broker.failing_reads.store(3, Ordering::Relaxed);
    resubscribe(&worker).await;
    assert_eq!(receive_data(&mut client, 1).await, [1]);
    lose(&worker, "2").await;
    worker.broker.failing_reads.store(3, Ordering::Relaxed);
    worker.publish("news", "3").await;
    assert_eq!(receive_data(&mut client, 2).await, [2, 3]);
}

#[actix_rt::test]
async fn deltas_and_filters_stay_right_through_a_fill() {
    let worker = start();
    let mut client = subscriber(&worker, json!({"positioned": true, "delta": "fossil"})).await;
    let publish = async |data: String, is_lost: bool| {
        let publication = Publication { use_delta: true, ..Publication::new(news(), data.into_bytes().into()) };
        let retention = retention(&worker);
        if is_lost {
            worker.broker.lose(publication, retention).await;
        } else {
            let options = PublishOptions { retention: Some(retention), ..PublishOptions::default() };
            worker.broker.publish(publication, options).await.unwrap();
        }
        worker.hub.send(CheckHealth).await.unwrap();
    };
    let text = |number: u32| format!("\"{}{number}\"", "always the same text ".repeat(20));
    for (number, is_lost) in [(1, false), (2, true), (3, true), (4, false), (5, false)] {
        publish(text(number), is_lost).await;
    }
    let mut base = String::new();
    for number in 1..=5 {
        let push = client.receive().await["push"]["pub"].take();
        let data = push["data"].as_str().unwrap();
        let whole = if push["delta"] == true {
            String::from_utf8(wardcast::delta::decode(base.as_bytes(), data.as_bytes(), 1 << 20).unwrap()).unwrap()
        } else {
            data.to_owned()
        };
        assert_eq!(whole, text(number), "{push}");
        assert_eq!(push["delta"] == true, number > 1, "{push}");
        base = whole;
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Publish,
    Lose,
    /// Delivers a stored publication, counted from the newest.
    Repeat(usize),
    Interrupt,
    Resubscribe,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Publish),
        4 => Just(Event::Lose),
        4 => (0..6_usize).prop_map(Event::Repeat),
        1 => Just(Event::Interrupt),
        1 => Just(Event::Resubscribe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn positioned_subscriber_receives_everything_once_and_in_order_whatever_is_lost_repeated_or_interrupted(
        events in prop::collection::vec(event(), 1..40),
    ) {
        actix_rt::System::new().block_on(async {
            let worker = start_with(|config| config.channels.history_size = 100);
            let mut client = positioned(&worker).await;
            let mut count = 0;
            for event in events {
                match event {
                    Event::Publish => {
                        count += 1;
                        worker.publish("news", number(count)).await;
                    }
                    Event::Lose => {
                        count += 1;
                        lose(&worker, number(count)).await;
                    }
                    Event::Repeat(back) => {
                        let stored = worker.broker.stored(&news(), retention(&worker)).await;
                        if let Some(publication) = stored.iter().rev().nth(back) {
                            worker.hubs.deliver_publication(publication.clone()).unwrap();
                        }
                    }
                    Event::Interrupt => worker.hubs.note_interrupted(&[news()]),
                    Event::Resubscribe => resubscribe(&worker).await,
                }
                worker.hub.send(CheckHealth).await.unwrap();
            }
            resubscribe(&worker).await;
            let received = receive_data(&mut client, count).await;
            assert_eq!(received, (1..=count).collect::<Vec<_>>());
            expect_nothing(&mut client).await;
        });
    }
}

fn number(count: usize) -> &'static str {
    Box::leak(count.to_string().into_boxed_str())
}
