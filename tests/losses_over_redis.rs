//! A Redis that has lost acknowledged publications, and stored others since, while the hub had received none of them: it has seen
//! them only in the history, when a client subscribed. No client may go on from a position whose
//! publications are lost.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::Config;

use crate::{
    gaps_over_redis::{Dump, dump, expect_no_recovery, expect_told, lose_writes, receive_up_to},
    support::{
        TestHub, allow_any_rate, poll_until,
        redis::{PrefixedRedis, RedisForm, test_on_every_form},
        start_hub_over,
    },
};

test_on_every_form! {
    position_of_the_subscribe_reply_is_void_if_its_publications_are_lost
    position_of_a_recovery_is_void_if_its_publications_are_lost
    channel_of_plain_subscribers_gets_a_new_epoch_if_publications_are_lost
}

/// How far the history is when the hub is subscribed again, which had three publications.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The last ones are missing.
    Behind,
    /// Others are in their places.
    Replaced,
    /// Others are in their places, and one more.
    Overtaken,
}

const LOSSES: [Loss; 3] = [Loss::Behind, Loss::Replaced, Loss::Overtaken];

async fn start_hub(redis: &PrefixedRedis, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_over(redis, |config| {
        config.server.workers = 1;
        config.server.ping_interval = Duration::from_secs(600);
        // No comparison in rounds finds the loss.
        config.server.position_check_interval = Duration::from_secs(600);
        (config.channels.history_size, config.channels.history_ttl) = (1000, Duration::from_secs(60));
        allow_any_rate(config);
        change(config);
    })
    .await
}

/// Publishes three publications; returns what Redis has stored after the loss, which has not happened yet.
async fn publish_three(redis: &PrefixedRedis, hub: &TestHub, loss: Loss) -> Vec<Dump> {
    hub.publish("news", json!(1)).await;
    let first = dump(redis).await;
    let others: &[Value] = match loss {
        Loss::Behind => &[],
        Loss::Replaced => &[json!("other 2"), json!("other 3")],
        Loss::Overtaken => &[json!("other 2"), json!("other 3"), json!("other 4")],
    };
    for data in others {
        hub.publish("news", data.clone()).await;
    }
    let lossy = dump(redis).await;
    // A publication carries its time in milliseconds, by which it is distinguished from the lost one.
    tokio::time::sleep(Duration::from_millis(5)).await;
    lose_writes(redis, &first).await;
    for data in [2, 3] {
        hub.publish("news", json!(data)).await;
    }
    lossy
}

/// Loses publications while the hub is not subscribed, as a failover does.
async fn fail_over(redis: &PrefixedRedis, lossy: &[Dump]) {
    lose_writes(redis, lossy).await;
    redis.cut_subscriptions().await;
}

/// Until the hub has renewed the epoch, it may tell a client that it has missed nothing, and then the client has to subscribe again.
async fn wait_for_new_epoch(hub: &TestHub, old: &Value) {
    // While Redis is unavailable, the answer has no epoch.
    let epoch = async || hub.call_api("history", json!({"channel": "news"})).await["result"]["epoch"].take();
    poll_until("a new epoch", async || [epoch().await].iter().any(|epoch| epoch.is_string() && epoch != old)).await;
    assert_eq!(hub.metric("wardcast_gaps_total{outcome=\"lost_writes\"}").await, 1.0);
}

async fn remove(redis: &PrefixedRedis) {
    for key in redis.keys("[sm]:*news*").await {
        redis.master_with(&key).await.run::<()>(&["DEL", &key]).await;
    }
}

async fn position_of_the_subscribe_reply_is_void_if_its_publications_are_lost(redis: &mut PrefixedRedis) {
    for loss in LOSSES {
        println!("{loss:?}");
        let hub = start_hub(redis, |config| config.channels.force_recovery = true).await;
        let lossy = publish_three(redis, &hub, loss).await;
        let mut client = hub.connect("ann").await;
        let reply = client.subscribe_with("news", json!({"positioned": true})).await["subscribe"].take();
        assert_eq!(reply["offset"], 3, "{reply}");
        fail_over(redis, &lossy).await;
        expect_told(&mut client).await;
        expect_no_recovery(&mut client, &reply["epoch"], 3).await;
        remove(redis).await;
    }
}

async fn position_of_a_recovery_is_void_if_its_publications_are_lost(redis: &mut PrefixedRedis) {
    for loss in LOSSES {
        println!("{loss:?}");
        let hub = start_hub(redis, |config| config.channels.force_recovery = true).await;
        let lossy = publish_three(redis, &hub, loss).await;
        let epoch = hub.call_api("history", json!({"channel": "news"})).await["result"]["epoch"].take();
        let mut client = hub.connect("ann").await;
        let since = json!({"recover": true, "positioned": true, "epoch": epoch, "offset": 1});
        let reply = client.subscribe_with("news", since).await["subscribe"].take();
        assert_eq!((&reply["recovered"], reply["publications"].as_array().unwrap().len()), (&json!(true), 2));
        fail_over(redis, &lossy).await;
        expect_told(&mut client).await;
        expect_no_recovery(&mut client, &epoch, 3).await;
        remove(redis).await;
    }
}

/// A client that has left, or is connected elsewhere, has a position.
async fn channel_of_plain_subscribers_gets_a_new_epoch_if_publications_are_lost(redis: &mut PrefixedRedis) {
    for loss in LOSSES {
        println!("{loss:?}");
        let hub = start_hub(redis, |_| ()).await;
        let mut plain = hub.connect("ann").await;
        let lossy = publish_three(redis, &hub, loss).await;
        let reply = plain.subscribe_with("news", json!({})).await["subscribe"].take();
        assert!(reply["positioned"].is_null(), "{reply}");
        let epoch = hub.call_api("history", json!({"channel": "news"})).await["result"]["epoch"].take();
        fail_over(redis, &lossy).await;
        wait_for_new_epoch(&hub, &epoch).await;
        let mut client = hub.connect("bob").await;
        expect_no_recovery(&mut client, &epoch, 3).await;
        hub.publish("news", json!("new")).await;
        assert_eq!(plain.receive_publication().await, "new", "plain subscribers go on");
        assert_eq!(receive_up_to(&mut client, &json!("new")).await, ["new"]);
        remove(redis).await;
    }
}

/// A Redis that saves snapshots only, and crashes: with a positioned and with a plain subscriber.
#[actix_rt::test]
async fn redis_with_snapshots_that_crashes_voids_the_positions_of_what_it_has_not_saved() {
    for is_positioned in [true, false] {
        println!("positioned: {is_positioned}");
        let mut redis = PrefixedRedis::whole(RedisForm::one_server().await);
        let hub = start_hub(&redis, |_| ()).await;
        for data in [1, 2] {
            hub.publish("news", json!(data)).await;
        }
        redis.form.masters()[0].run::<()>(&["SAVE"]).await;
        for data in [3, 4] {
            hub.publish("news", json!(data)).await;
        }
        let mut client = hub.connect("ann").await;
        let options = json!({"positioned": is_positioned, "recoverable": true});
        let reply = client.subscribe_with("news", options).await["subscribe"].take();
        let epoch = hub.call_api("history", json!({"channel": "news"})).await["result"]["epoch"].take();
        let server = &mut redis.servers_without_replicas().unwrap()[0];
        server.kill();
        server.restart().await;
        if is_positioned {
            assert_eq!(reply["offset"], 4, "{reply}");
            expect_told(&mut client).await;
            expect_no_recovery(&mut client, &epoch, 4).await;
        }
        wait_for_new_epoch(&hub, &epoch).await;
        expect_no_recovery(&mut hub.connect("bob").await, &epoch, 4).await;
    }
}
