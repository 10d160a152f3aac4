//! Subscribe commands that a client sends at once: they wait for the broker together, and their replies keep their order.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::{channel::Channel, config::DeltaType};

use crate::support::slow_broker::{Client, Worker};

fn subscribe(id: u32, channel: &str) -> Value {
    json!({"id": id, "subscribe": {"channel": channel}})
}

async fn connect(worker: &Worker) -> Client {
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    client
}

/// Receives the replies to the commands 1 to `last`, in this order; returns the code of each error.
async fn receive_replies(client: &mut Client, last: u32) -> Vec<Option<u64>> {
    let mut codes = Vec::new();
    for id in 1..=last {
        let reply = client.receive().await;
        assert_eq!(reply["id"], id, "{reply}");
        codes.push(reply["error"]["code"].as_u64());
    }
    codes
}

#[actix_rt::test]
async fn subscribes_of_one_frame_wait_for_the_broker_together() {
    let worker = Worker::start(|_| ());
    let mut client = connect(&worker).await;
    client.send(&[subscribe(1, "a"), subscribe(2, "b"), subscribe(3, "c")]).await;
    worker.broker.wait_for_calls(&["subscribe"; 3]).await;
    worker.broker.answer(3);
    assert_eq!(receive_replies(&mut client, 3).await, [None; 3]);
    for channel in ["a", "b", "c"] {
        worker.publish(channel, "1").await;
        assert_eq!(client.receive().await["push"]["channel"], channel);
    }
}

#[actix_rt::test]
async fn subscribes_in_a_frame_each_wait_for_the_broker_together() {
    let worker = Worker::start(|_| ());
    let mut client = connect(&worker).await;
    client.send_in_frames(&[subscribe(1, "a"), subscribe(2, "b"), subscribe(3, "c")]).await;
    worker.broker.wait_for_calls(&["subscribe"; 3]).await;
    worker.broker.answer(3);
    assert_eq!(receive_replies(&mut client, 3).await, [None; 3]);
}

/// Of three subscribe commands, the broker gets the third when it has answered the first two.
async fn assert_third_subscribe_waits_for_two(worker: &Worker, client: &mut Client) {
    worker.broker.wait_for_calls(&["subscribe"; 2]).await;
    worker.broker.answer(2);
    assert_eq!(receive_replies(client, 2).await, [None; 2]);
    worker.broker.wait_for_calls(&["subscribe"; 3]).await;
    worker.broker.answer(1);
    assert_eq!(client.receive().await["id"], 3);
}

#[actix_rt::test]
async fn no_more_subscribes_are_carried_out_at_once_than_the_limit_allows() {
    let worker = Worker::start(|config| config.limits.concurrent_subscribes = 2);
    let mut client = connect(&worker).await;
    client.send(&[subscribe(1, "a"), subscribe(2, "b"), subscribe(3, "c")]).await;
    assert_third_subscribe_waits_for_two(&worker, &mut client).await;
}

#[actix_rt::test]
async fn commands_that_are_carried_out_at_once_are_together_hardly_longer_than_a_message_may_be() {
    let worker = Worker::start(|config| config.limits.message_bytes = 10_000);
    let mut client = connect(&worker).await;
    let long = |id: u32, channel: &str| {
        let mut command = subscribe(id, channel);
        command["padding"] = "x".repeat(6_000).into();
        command
    };
    client.send_in_frames(&[long(1, "a"), long(2, "b"), long(3, "c")]).await;
    assert_third_subscribe_waits_for_two(&worker, &mut client).await;
}

/// The first command needs the broker. The others could be answered before it.
#[actix_rt::test]
async fn replies_keep_the_order_of_the_commands_errors_among_them() {
    let worker = Worker::start(|_| ());
    worker.broker.answer(1);
    let mut other = connect(&worker).await;
    other.send(&[subscribe(1, "held")]).await;
    assert_eq!(receive_replies(&mut other, 1).await, [None]);

    *worker.broker.failing.lock() = Some(Channel::new("bad").unwrap());
    let mut client = connect(&worker).await;
    let invalid_filter = json!({"id": 6, "subscribe": {"channel": "filtered", "tf": {"op": "none"}}});
    let ping = json!({"id": 8, "ping": {}});
    client
        .send(&[
            subscribe(1, "slow"),
            subscribe(2, "held"),
            subscribe(3, "$secret"),
            subscribe(4, "bad"),
            subscribe(5, "last"),
            invalid_filter,
            subscribe(7, ""),
            ping,
        ])
        .await;
    worker.broker.wait_for_calls(&["subscribe"; 4]).await;
    worker.broker.answer(3);
    let codes = receive_replies(&mut client, 8).await;
    assert_eq!(codes, [None, None, Some(103), Some(100), None, Some(107), Some(107), None]);
}

#[actix_rt::test]
async fn commands_for_one_channel_keep_their_order() {
    let worker = Worker::start(|_| ());
    worker.broker.answer(10);
    let mut client = connect(&worker).await;
    let unsubscribe = |id: u32| json!({"id": id, "unsubscribe": {"channel": "a"}});
    client
        .send(&[
            subscribe(1, "a"),
            subscribe(2, "a"),
            unsubscribe(3),
            subscribe(4, "a"),
            subscribe(5, "b"),
            unsubscribe(6),
            subscribe(7, "c"),
            json!({"id": 8, "publish": {"channel": "c", "data": 1}}),
        ])
        .await;
    assert_eq!(receive_replies(&mut client, 7).await, [None, Some(105), None, None, None, None, None]);
    // The publisher is subscribed: it receives its own publication, and the reply.
    let mut last = [client.receive().await, client.receive().await];
    last.sort_by_key(|message| message["id"].is_null());
    assert_eq!((&last[0]["id"], &last[1]["push"]["channel"]), (&json!(8), &json!("c")));
    worker.publish("a", "1").await;
    worker.publish("b", "2").await;
    assert_eq!(client.receive().await["push"]["channel"], "b", "a is unsubscribed");
}

/// The subscriptions before it are checked against the claims of its token.
#[actix_rt::test]
async fn subscribe_with_a_token_of_the_connection_waits_for_those_before_it() {
    let worker = Worker::start(|_| ());
    let mut client = connect(&worker).await;
    let mut with_token = subscribe(2, "b");
    with_token["token"] = worker.token(json!({"exp": 7200})).into();
    client.send(&[subscribe(1, "a"), with_token, subscribe(3, "c")]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.broker.answer(1);
    assert_eq!(receive_replies(&mut client, 1).await, [None]);
    worker.broker.wait_for_calls(&["subscribe"; 3]).await;
    worker.broker.answer(2);
    assert_eq!([client.receive().await["id"].clone(), client.receive().await["id"].clone()], [2, 3]);
}

/// Together they would share the failure.
#[actix_rt::test]
async fn second_subscribe_of_a_channel_asks_the_broker_when_the_first_is_answered() {
    let worker = Worker::start(|_| ());
    *worker.broker.failing.lock() = Some(Channel::new("bad").unwrap());
    let mut client = connect(&worker).await;
    client.send(&[subscribe(1, "bad"), subscribe(2, "bad")]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.broker.failing.lock().take();
    worker.broker.answer(2);
    assert_eq!(receive_replies(&mut client, 2).await, [Some(100), None]);
}

/// A subscription that is ready waits until those before it are, and misses nothing meanwhile.
#[actix_rt::test]
async fn what_is_published_while_a_ready_subscription_waits_for_its_turn_is_recovered_once() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    worker.broker.answer(2);
    let mut other = connect(&worker).await;
    other.send(&[subscribe(1, "news")]).await;
    assert_eq!(receive_replies(&mut other, 1).await, [None]);

    let mut client = connect(&worker).await;
    let recover = json!({"id": 2, "subscribe": {"channel": "news", "recover": true}});
    client.send(&[subscribe(1, "slow"), recover]).await;
    let calls = ["subscribe", "read_history", "subscribe", "read_history"];
    worker.broker.wait_for_calls(&calls).await;
    worker.publish("news", "1").await;
    assert_eq!(other.receive().await["push"]["pub"]["data"], 1);
    worker.broker.answer(3);
    assert_eq!(client.receive().await["id"], 1);
    let reply = client.receive().await;
    assert_eq!(reply["subscribe"]["publications"][0]["data"], 1, "{reply}");
    assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
    worker.publish("news", "2").await;
    assert_eq!(client.receive().await["push"]["pub"]["data"], 2);
}

/// The third page has no room beside the second. The first one does not wait for others.
#[actix_rt::test]
async fn what_is_read_for_a_group_waits_in_no_more_memory_than_an_outbox_and_is_read_again_otherwise() {
    const DATA: &str = concat!("\"", "0123456789012345678901234567890123456789", "\"");
    let worker = Worker::start(|config| {
        (config.channels.history_size, config.channels.force_recovery) = (100, true);
        config.limits.outbox_bytes = 30_000;
    });
    for channel in ["a", "b", "c", "d", "e"] {
        for _ in 0..70 {
            worker.publish(channel, DATA).await;
        }
    }
    worker.broker.answer(20);
    let mut client = connect(&worker).await;
    let recover = |id: u32, channel| json!({"id": id, "subscribe": {"channel": channel, "recover": true}});
    let commands = (1..).zip(["a", "b", "c", "d", "e"]).map(|(id, channel)| recover(id, channel));
    client.send(&commands.collect::<Vec<_>>()).await;
    for id in 1..=5 {
        let reply = client.receive().await;
        assert_eq!((&reply["id"], &reply["subscribe"]["recovered"]), (&json!(id), &json!(true)), "{reply}");
        assert_eq!(reply["subscribe"]["publications"].as_array().map_or(0, Vec::len), 70);
    }
    let reads = worker.broker.calls.borrow().iter().filter(|call| **call == "read_history").count();
    assert_eq!(reads, 8, "the third and what follows it are read once more, one by one");
    worker.publish("c", "1").await;
    assert_eq!(client.receive().await["push"]["channel"], "c");
}

/// Publishes to channels, and lets a client recover all of it.
async fn publish_to_each(worker: &Worker, channels: &[&str], count: usize, data: &'static str) {
    for channel in channels {
        for _ in 0..count {
            worker.publish(channel, data).await;
        }
    }
}

#[actix_rt::test]
async fn no_more_than_four_histories_are_read_at_once_for_a_session() {
    let worker = Worker::start(|config| {
        (config.channels.history_size, config.channels.force_recovery) = (100, true);
    });
    let channels = ["a", "b", "c", "d", "e", "f"];
    publish_to_each(&worker, &channels, 1, "1").await;
    let mut client = connect(&worker).await;
    let recover = |id: u32, channel| json!({"id": id, "subscribe": {"channel": channel, "recover": true}});
    let commands = (1..).zip(channels).map(|(id, channel)| recover(id, channel));
    client.send(&commands.collect::<Vec<_>>()).await;
    worker.broker.wait_for_calls(&["subscribe"; 6]).await;
    worker.broker.answer(6);
    let mut calls = [["subscribe"; 6].as_slice(), &["read_history"; 4]].concat();
    worker.broker.wait_for_calls(&calls).await;
    worker.broker.answer(1);
    calls.push("read_history");
    worker.broker.wait_for_calls(&calls).await;
    worker.broker.answer(5);
    for id in 1..=6 {
        let reply = client.receive().await;
        assert_eq!((&reply["id"], &reply["subscribe"]["recovered"]), (&json!(id), &json!(true)), "{reply}");
    }
}

/// So what no reply could bring is not read to its end.
#[actix_rt::test]
async fn page_for_a_recovery_is_read_as_far_as_a_reply_goes_unless_deltas_or_a_filter_may_shorten_the_reply() {
    let worker = Worker::start(|config| {
        (config.channels.history_size, config.channels.force_recovery) = (100, true);
        (config.channels.allowed_delta_types, config.limits.recovered_publications) = (vec![DeltaType::Fossil], 10);
        config.limits.outbox_bytes = 262_144;
    });
    publish_to_each(&worker, &["a", "b", "c"], 1, "1").await;
    worker.broker.answer(10);
    let mut client = connect(&worker).await;
    let recover = |id: u32, channel, option: &str, value: Value| {
        let mut command = json!({"id": id, "subscribe": {"channel": channel, "recover": true}});
        command["subscribe"][option] = value;
        command
    };
    let filter = json!({"key": "a", "cmp": "ex"});
    client
        .send(&[
            recover(1, "a", "data", Value::Null),
            recover(2, "b", "delta", "fossil".into()),
            recover(3, "c", "tf", filter),
        ])
        .await;
    assert_eq!(receive_replies(&mut client, 3).await, [None; 3]);
    let max_bytes: Vec<_> = worker.broker.requests.lock().iter().map(|request| request.max_bytes).collect();
    assert!(matches!(max_bytes[..], [Some(131_072..140_000), None, None]), "{max_bytes:?}");
}

#[actix_rt::test]
async fn token_that_expires_while_a_group_waits_closes_with_3005_and_nothing_is_subscribed() {
    let worker = Worker::start(|_| ());
    let mut client = connect(&worker).await;
    client.send(&[subscribe(1, "a"), subscribe(2, "b")]).await;
    worker.broker.wait_for_calls(&["subscribe"; 2]).await;
    worker.clock.advance(Duration::from_secs(3601));
    worker.broker.answer(2);
    assert_eq!(client.wait_for_close().await, 3005);
    worker.broker.wait_for_unsubscribe("a").await;
    worker.broker.wait_for_unsubscribe("b").await;
}

#[actix_rt::test]
async fn limited_subscribes_are_answered_with_111_in_their_turn() {
    let worker = Worker::start(|config| config.limits.commands_per_second = 1);
    worker.broker.answer(10);
    let mut client = connect(&worker).await;
    client.send(&[subscribe(1, "a"), subscribe(2, "b"), subscribe(3, "c")]).await;
    assert_eq!(receive_replies(&mut client, 3).await, [None, None, Some(111)]);
}
