//! Subscriptions while the broker is slow, or fails.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use wardcast::{
    broker::{BrokerError, Control, ControlAction, Deliver, Retention},
    channel::Channel,
    clock::NEVER,
    config::{ChannelAccess, Config},
    hub::{
        CheckHealth, Subscribe, SubscribeError, Subscription, SubscriptionOptions, SubscriptionSource, Unregister,
        Unsubscribe, Visibility,
    },
    publication::ClientInfo,
    revocation::{IssuerScope, Revocation, RevocationTarget},
};

use crate::support::{PATIENCE, ping_often, raw, slow_broker::Worker};

/// A subscribe command; `options` are added to its channel.
fn subscribe(id: u32, channel: &str, mut options: Value) -> Value {
    options["channel"] = json!(channel);
    json!({"id": id, "subscribe": options})
}

fn error(id: u32, code: u32) -> impl Fn(&Value) -> bool {
    move |reply| reply["id"] == id && reply["error"]["code"] == code
}

#[actix_rt::test]
async fn subscription_token_that_expires_while_the_broker_is_slow_is_109_and_nothing_is_delivered() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    worker.publish("news", "1").await;
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let token = worker.token(json!({"channel": "news", "exp": 60}));
    client.send(&[subscribe(1, "news", json!({"token": token, "recover": true}))]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.broker.answer(1);
    worker.broker.wait_for_calls(&["subscribe", "read_history"]).await;
    worker.clock.advance(Duration::from_secs(61));
    worker.broker.answer(1);
    let reply = client.receive().await;
    assert!(error(1, 109)(&reply), "{reply}");
    worker.broker.wait_for_unsubscribe("news").await;
    worker.publish("news", "2").await;
    client.send(&[json!({"id": 2, "unsubscribe": {"channel": "news"}})]).await;
    assert_eq!(client.receive().await, json!({"id": 2, "unsubscribe": {}}), "no publication came before");

    let token = worker.token(json!({"channel": "news", "exp": 60}));
    worker.broker.answer(2);
    client.send(&[subscribe(3, "news", json!({"token": token}))]).await;
    let reply = client.receive().await;
    assert_eq!((&reply["id"], &reply["subscribe"]["offset"]), (&json!(3), &json!(2)), "{reply}");
}

#[actix_rt::test]
async fn client_whose_pongs_wait_behind_a_command_stays_connected() {
    let worker = Worker::start(ping_often);
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    client.send(&[subscribe(1, "news", json!({}))]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    // The deadline of the first ping is before the second one. The hub reads the pongs after the command.
    client.wait_for_pings(4).await;
    worker.broker.answer(1);
    assert_eq!(client.receive().await, json!({"id": 1, "subscribe": {}}));
    client.wait_for_pings(2).await;
}

#[actix_rt::test]
async fn message_whose_rest_waits_behind_a_command_is_not_overdue() {
    let worker = Worker::start(|config| {
        ping_often(config);
        config.limits.message_age = Duration::from_millis(200);
    });
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    client.send_with_beginning(subscribe(1, "news", json!({})), "{\"id\":2,").await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    client.wait_for_pings(2).await;
    worker.broker.answer(1);
    assert_eq!(client.receive().await, json!({"id": 1, "subscribe": {}}));
    client.send_rest("\"ping\":{}}").await;
    assert_eq!(client.receive().await, json!({"id": 2, "ping": {}}));
}

#[actix_rt::test]
async fn client_without_pongs_is_closed_after_its_command() {
    let worker = Worker::start(ping_often);
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    client.send(&[subscribe(1, "news", json!({}))]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    client.wait_for_pings(2).await;
    worker.broker.answer(1);
    client.wait_for_close_without_pongs(3012).await;
}

#[actix_rt::test]
async fn server_side_subscription_that_expires_while_the_broker_is_slow_closes_with_3006() {
    let worker = Worker::start(|_| ());
    let expire_at = worker.clock.now().unix_seconds() + 60;
    let mut client = worker.connect(json!({"subs": {"news": {"override": {}, "expire_at": expire_at}}})).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.clock.advance(Duration::from_secs(61));
    worker.broker.answer(1);
    assert_eq!(client.wait_for_close().await, 3006);
    worker.broker.wait_for_unsubscribe("news").await;
}

#[actix_rt::test]
async fn session_that_has_no_room_for_an_unsubscribe_of_the_server_api_is_closed() {
    for (controls, close) in [(8, None), (9, Some(3004))] {
        let worker = Worker::start(|config| config.limits.channels_per_session = 4);
        let mut client = worker.connect(json!({})).await;
        assert!(client.receive().await["push"]["connect"].is_object());
        client.send(&[json!({"id": 1, "connect": {"subs": {"news": {}}}})]).await;
        worker.broker.wait_for_calls(&["subscribe"]).await;
        for number in (0..controls).rev() {
            let channel = if number == 0 { "news".to_owned() } else { format!("other {number}") };
            let action = ControlAction::Unsubscribe { channel };
            let control = Control { user: "ann".to_owned(), client: None, whitelist: Vec::new(), action };
            worker.hubs.deliver_control(control).unwrap();
        }
        worker.hub.send(CheckHealth).await.unwrap();
        worker.broker.answer(1);
        match close {
            Some(code) => assert_eq!(client.wait_for_close().await, code),
            None => {
                assert!(client.receive().await["connect"]["subs"]["news"].is_object());
                assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2000);
            }
        }
    }
}

#[actix_rt::test]
async fn second_of_two_subscribes_in_one_frame_is_105_and_publications_come_once() {
    let worker = Worker::start(|_| ());
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    client.send(&[subscribe(1, "news", json!({})), subscribe(2, "news", json!({}))]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.broker.answer(1);
    assert_eq!(client.receive().await, json!({"id": 1, "subscribe": {}}));
    let reply = client.receive().await;
    assert!(error(2, 105)(&reply), "{reply}");
    for data in ["1", "2"] {
        worker.publish("news", data).await;
        assert_eq!(client.receive().await["push"]["pub"]["data"].to_string(), data);
    }
    client.send(&[json!({"id": 3, "unsubscribe": {"channel": "news"}})]).await;
    assert_eq!(client.receive().await, json!({"id": 3, "unsubscribe": {}}));
    worker.broker.wait_for_unsubscribe("news").await;
}

#[actix_rt::test]
async fn publications_delivered_while_the_history_is_read_follow_it_except_excluded_ones() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    worker.publish("news", "1").await;
    let mut client = worker.connect(json!({})).await;
    let greeting = client.receive().await;
    let client_id = greeting["push"]["connect"]["client"].as_str().unwrap().parse().unwrap();
    client.send(&[subscribe(1, "news", json!({"recover": true}))]).await;
    worker.broker.answer(1);
    worker.broker.wait_for_calls(&["subscribe", "read_history"]).await;
    worker.publish_excluding("news", "2", Some(client_id)).await;
    worker.publish("news", "3").await;
    worker.broker.answer(1);
    let reply = client.receive().await["subscribe"].take();
    assert_eq!((&reply["recovered"], data(&reply)), (&json!(true), json!([1, 3])), "{reply}");
    worker.publish("news", "4").await;
    assert_eq!(client.receive().await["push"]["pub"]["data"], 4);
}

/// The catch-up buffer holds one delivery. Each time two are delivered the history has to be read again, three times at most.
#[actix_rt::test]
async fn history_is_read_again_if_too_much_is_delivered_and_recovery_fails_after_the_third_time() {
    for (outrun, is_recovered) in [(1, true), (2, true), (3, false)] {
        let worker = Worker::start(|config| {
            (config.channels.history_size, config.channels.force_recovery) = (10, true);
            config.limits.hub_queue_bytes = 4 * 200;
        });
        worker.publish("news", "1").await;
        let mut client = worker.connect(json!({})).await;
        assert!(client.receive().await["push"]["connect"].is_object());
        client.send(&[subscribe(1, "news", json!({"recover": true}))]).await;
        let mut expected = vec!["subscribe"];
        worker.broker.answer(1);
        for _ in 0..outrun {
            expected.push("read_history");
            worker.broker.wait_for_calls(&expected).await;
            worker.publish("news", "2").await;
            worker.publish("news", "3").await;
            worker.broker.answer(1);
        }
        worker.broker.answer(1);
        let reply = client.receive().await["subscribe"].take();
        assert_eq!(reply["recovered"].as_bool().unwrap_or_default(), is_recovered, "{reply}");
        let publications = data(&reply).as_array().map_or(0, Vec::len);
        assert_eq!(publications, if is_recovered { 1 + 2 * outrun } else { 0 }, "{reply}");
        assert_eq!(worker.broker.calls.borrow().len(), 1 + outrun + usize::from(is_recovered));
        worker.publish("news", "4").await;
        // What was outrun is a gap after the position of the reply, which the history fills.
        worker.broker.answer(1);
        let live = if is_recovered { vec![4] } else { vec![2, 3, 4] };
        for data in live {
            assert_eq!(client.receive().await["push"]["pub"]["data"], data);
        }
    }
}

/// The data of the publications in a reply.
fn data(reply: &Value) -> Value {
    reply["publications"].as_array().map_or(Value::Null, |all| all.iter().map(|one| one["data"].clone()).collect())
}

#[actix_rt::test]
async fn concurrent_requests_of_one_session_subscribe_it_once() {
    let worker = Worker::start(|_| ());
    let (key, _client) = worker.register().await;
    let first = worker.hub.send(worker.request(key, &["news"]));
    let second = worker.hub.send(worker.request(key, &["news", "other"]));
    let both = tokio::spawn(async move { (first.await.unwrap(), second.await.unwrap()) });
    worker.broker.wait_for_calls(&["subscribe", "subscribe"]).await;
    worker.broker.answer(2);
    let results = timeout(PATIENCE, both).await.unwrap().unwrap();
    assert_eq!(results, (Ok(()), Err(SubscribeError::AlreadySubscribed)));
    worker.broker.wait_for_unsubscribe("other").await;
    assert!(worker.hub.send(Unsubscribe { key, channel: Channel::new("news").unwrap() }).await.unwrap());
    worker.broker.wait_for_unsubscribe("news").await;
}

#[actix_rt::test]
async fn failed_channel_releases_the_other_channels_of_its_request() {
    let worker = Worker::start(|_| ());
    *worker.broker.failing.lock() = Some(Channel::new("bad").unwrap());
    let (key, _client) = worker.register().await;
    worker.broker.answer(2);
    let result = worker.hub.send(worker.request(key, &["news", "bad"])).await.unwrap();
    assert!(matches!(result, Err(SubscribeError::Broker(BrokerError::Unavailable(_)))), "{result:?}");
    // At once: the failure must not be remembered for as long as a channel without subscribers.
    worker.broker.failing.lock().take();
    worker.broker.answer(1);
    assert_eq!(worker.hub.send(worker.request(key, &["bad"])).await.unwrap(), Ok(()));
    worker.broker.wait_for_unsubscribe("news").await;
}

#[actix_rt::test]
async fn connect_of_a_session_that_is_subscribed_already_recovers_nothing() {
    let worker = Worker::start(|config| config.channels.history_size = 10);
    worker.publish("news", "1").await;
    worker.broker.answer(2);
    let mut client = worker.connect(json!({"channels": ["news"]})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let position = json!({"recover": true, "offset": 1});
    client.send(&[json!({"id": 1, "connect": {"subs": {"news": position}}})]).await;
    let reply = client.receive().await["connect"].take();
    let result = &reply["subs"]["news"];
    assert!(result.is_object() && result["recovered"].is_null() && result["was_recovering"].is_null(), "{reply}");
    worker.publish("news", "2").await;
    assert_eq!(client.receive().await["push"]["pub"]["data"], 2);
}

#[actix_rt::test]
async fn history_is_read_if_the_position_of_a_channel_is_lost_while_the_broker_is_slow() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    worker.publish("news", "1").await;
    worker.broker.answer(2);
    let mut first = worker.connect(json!({"channels": ["news"]})).await;
    assert!(first.receive().await["push"]["connect"].is_object());
    worker.broker.wait_for_calls(&["subscribe", "read_history"]).await;

    // The position of "news" is known on this hub, until its only subscriber unsubscribes.
    let mut second = worker.connect(json!({"channels": ["news", "other"]})).await;
    worker.broker.wait_for_calls(&["subscribe", "read_history", "subscribe"]).await;
    first.send(&[json!({"id": 1, "unsubscribe": {"channel": "news"}})]).await;
    assert_eq!(first.receive().await, json!({"id": 1, "unsubscribe": {}}));
    worker.broker.answer(4);
    let greeting = second.receive().await["push"]["connect"].take();
    let news = &greeting["subs"]["news"];
    assert!(news["epoch"].is_string() && news["offset"] == 1, "{greeting}");
    worker
        .broker
        .wait_for_calls(&["subscribe", "read_history", "subscribe", "read_history", "read_history", "read_history"])
        .await;
}

#[actix_rt::test]
async fn request_that_fails_leaves_no_presence() {
    let worker = Worker::start(|_| ());
    let (key, _client) = worker.register().await;
    let present = async |channel: &str| worker.broker.present(channel).await;
    let request = |channel: &str| {
        let info = ClientInfo { user: "ann".into(), client: "c".into(), conn_info: None, chan_info: None };
        let visibility = Visibility { info: info.into(), in_presence: true, sends_join_leave: false };
        let options = SubscriptionOptions { visibility: Some(visibility), ..SubscriptionOptions::default() };
        let channel = Channel::new(channel).unwrap();
        Subscribe {
            key,
            subscriptions: vec![Subscription::new(channel, SubscriptionSource::Client, options)],
            reply: None,
        }
    };
    *worker.broker.failing.lock() = Some(Channel::new("bad").unwrap());
    worker.broker.answer(1);
    let failed = worker.hub.send(request("bad")).await.unwrap();
    assert!(matches!(failed, Err(SubscribeError::Broker(_))), "{failed:?}");
    assert!(present("bad").await.is_empty());

    // Of two requests at the same time one fails. The session is subscribed, so it stays present.
    let first = worker.hub.send(request("news"));
    let second = worker.hub.send(request("news"));
    let both = tokio::spawn(async move { (first.await.unwrap(), second.await.unwrap()) });
    worker.broker.wait_for_calls(&["subscribe", "subscribe"]).await;
    assert_eq!(present("news").await, ["c"], "before the request has succeeded");
    worker.broker.answer(1);
    let results = timeout(PATIENCE, both).await.unwrap().unwrap();
    assert_eq!(results, (Ok(()), Err(SubscribeError::AlreadySubscribed)));
    assert_eq!(present("news").await, ["c"]);

    // A session that ends while its request waits.
    let waiting = worker.hub.send(request("late"));
    let waiting = tokio::spawn(waiting);
    worker.broker.wait_for_calls(&["subscribe", "subscribe", "subscribe"]).await;
    worker.hub.send(Unregister(key)).await.unwrap();
    worker.broker.answer(1);
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap(), Err(SubscribeError::Closing));
    assert!(present("late").await.is_empty() && present("news").await.is_empty());
}

#[actix_rt::test]
async fn command_behind_one_that_waits_for_the_broker_is_not_executed_after_expiry() {
    let worker = Worker::start(|config| config.channels.history_size = 10);
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let publish = json!({"id": 2, "publish": {"channel": "other", "data": "late"}});
    client.send(&[subscribe(1, "news", json!({})), publish]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.clock.advance(Duration::from_secs(3601));
    worker.broker.answer(2);
    assert_eq!(client.wait_for_close().await, 3005);
    let retention = Retention::from_options(&worker.config().channels).unwrap();
    assert!(worker.broker.stored(&Channel::new("other").unwrap(), retention).await.is_empty());
}

#[actix_rt::test]
async fn presence_that_was_read_before_a_reload_denied_it_is_not_sent() {
    let allow = |config: &mut Config| {
        (config.channels.presence, config.channels.allow_presence) = (true, ChannelAccess::User);
    };
    let worker = Worker::start(allow);
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let mut calls = Vec::new();
    for (method, call) in [("presence", "presence"), ("presence_stats", "count_presence")] {
        for is_denied in [false, true] {
            client.send(&[json!({"id": 1, (method): {"channel": "news"}})]).await;
            calls.push(call);
            worker.broker.wait_for_calls(&calls).await;
            if is_denied {
                worker.reload_channels(|config| config.channels.allow_presence = ChannelAccess::None);
            }
            worker.broker.answer(1);
            let reply = client.receive().await;
            let outcome = (reply[method].is_object(), reply["error"]["code"].as_u64());
            assert_eq!(outcome, if is_denied { (false, Some(103)) } else { (true, None) }, "{reply}");
            worker.reload_channels(allow);
        }
    }
}

/// A handshake waits for the broker between the verification of its token and its session, and clients may send commands with it.
#[actix_rt::test]
async fn token_that_is_revoked_between_its_verification_and_its_session_carries_out_no_command() {
    let worker = Worker::start(|_| ());
    let mut watcher = worker.connect(json!({})).await;
    assert!(watcher.receive().await["push"]["connect"].is_object());
    worker.broker.answer(1);
    watcher.send(&[subscribe(1, "news", json!({}))]).await;
    assert!(watcher.receive().await["subscribe"].is_object());
    let claims = worker.services.verifier.verify(&worker.token(json!({"jti": "1"}))).unwrap();
    let target = RevocationTarget::Token("1".to_owned(), IssuerScope::Any);
    worker.hubs.add_revocations(vec![Revocation::of_all(target, NEVER)]).unwrap();
    let publish = json!({"id": 1, "publish": {"channel": "news", "data": "revoked"}});
    let mut client = worker.start_session(claims, &raw::text_frame(&publish.to_string())).await;
    assert_eq!(client.wait_for_close().await, 3500);
    worker.publish("news", "\"after\"").await;
    assert_eq!(watcher.receive().await["push"]["pub"]["data"], "after");
}
