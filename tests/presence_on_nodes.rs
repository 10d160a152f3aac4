//! Presence, joins and leaves of several hubs on one Redis.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Config};

use crate::support::{
    Client, TestHub, allow_any_rate, poll_until,
    redis::{PrefixedRedis, RedisServer, test_on_every_form},
    start_hub_over,
};

test_on_every_form! {
    subscriber_is_present_on_every_node_when_its_subscribe_is_answered
    joins_publications_and_leaves_arrive_in_order_on_the_other_node
    client_that_moves_to_another_node_stays_present
    subscribers_are_present_again_soon_after_redis_has_lost_them
    presence_outlives_its_time_to_live_while_the_subscription_lasts
    options_and_info_of_a_subscription_token_apply_on_every_node
}

async fn start_node(redis: &PrefixedRedis, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_over(redis, |config| {
        config.channels.presence = true;
        config.channels.join_leave = true;
        config.channels.allow_presence = ChannelAccess::User;
        config.broker.redis.heartbeat_interval = Duration::from_millis(500);
        allow_any_rate(config);
        change(config);
    })
    .await
}

async fn start_two_nodes(redis: &PrefixedRedis) -> (TestHub, TestHub) {
    let (one, two) = (start_node(redis, |_| ()).await, start_node(redis, |_| ()).await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    (one, two)
}

/// The users that the server API of a hub lists, each as often as it is present.
async fn present_users(hub: &TestHub) -> Vec<String> {
    let response = hub.call_api("presence", json!({"channel": "news"})).await;
    let present = response["result"]["presence"].as_object().unwrap_or_else(|| panic!("{response}"));
    let mut users: Vec<String> = present.values().map(|info| info["user"].as_str().unwrap().to_owned()).collect();
    users.sort();
    users
}

async fn connect_watcher(hub: &TestHub) -> Client {
    let mut watcher = hub.connect("eve").await;
    watcher.subscribe_with("news", json!({"join_leave": true})).await;
    assert_eq!(watcher.receive().await["push"]["join"]["info"]["user"], "eve");
    watcher
}

async fn subscriber_is_present_on_every_node_when_its_subscribe_is_answered(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_nodes(redis).await;
    let mut expected = Vec::new();
    let mut clients = Vec::new();
    for round in 0..10 {
        for hub in [&one, &two] {
            clients.push(hub.connect_subscriber("ann", "news").await);
            expected.push("ann");
            assert_eq!(present_users(&one).await, expected);
            assert_eq!(present_users(&two).await, expected);
        }
        let stats = two.call_api("presence_stats", json!({"channel": "news"})).await;
        assert_eq!(stats, json!({"result": {"num_clients": 2 * (round + 1), "num_users": 1}}));
    }
    let mut bob = two.connect("bob").await;
    let reply = bob.request(json!({"id": 1, "presence": {"channel": "news"}})).await;
    assert_eq!(reply["presence"]["presence"].as_object().unwrap().len(), 20);
    let reply = bob.request(json!({"id": 2, "presence_stats": {"channel": "news"}})).await;
    assert_eq!(reply["presence_stats"], json!({"num_clients": 20, "num_users": 1}));
}

async fn joins_publications_and_leaves_arrive_in_order_on_the_other_node(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_nodes(redis).await;
    let mut eve = connect_watcher(&two).await;
    let mut bob = one.connect("bob").await;
    for round in 0..20 {
        // In one message, so that nothing waits for the arrival of anything.
        let commands = [
            json!({"id": 1, "subscribe": {"channel": "news"}}),
            json!({"id": 2, "publish": {"channel": "news", "data": round}}),
            json!({"id": 3, "unsubscribe": {"channel": "news"}}),
        ];
        bob.send_text(&commands.map(|command| command.to_string()).join("\n")).await;
        for expected in ["join", "pub", "leave"] {
            let push = eve.receive().await["push"].take();
            assert!(push[expected].is_object(), "{expected} of round {round}: {push}");
        }
        // The leave follows the end of the presence.
        assert_eq!(present_users(&two).await, ["eve"]);
    }
    drop((eve, bob));
    poll_until("nothing of presence is left in Redis", async || redis.keys("[pe]:*").await.is_empty()).await;
}

async fn client_that_moves_to_another_node_stays_present(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_nodes(redis).await;
    let mut ann = one.connect_subscriber("ann", "news").await;
    for _ in 0..5 {
        let on_two = two.connect_subscriber("ann", "news").await;
        drop(ann);
        poll_until("the old connection is gone", async || present_users(&one).await.len() == 1).await;
        assert_eq!(present_users(&two).await, ["ann"]);
        ann = one.connect_subscriber("ann", "news").await;
        drop(on_two);
        poll_until("the old connection is gone", async || present_users(&two).await.len() == 1).await;
    }
    assert_eq!(present_users(&one).await, ["ann"]);
    drop(ann);
    poll_until("nobody is present", async || present_users(&two).await.is_empty()).await;
}

async fn subscribers_are_present_again_soon_after_redis_has_lost_them(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_nodes(redis).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push([&one, &two][number % 2].connect_subscriber(&format!("user-{number}"), "news").await);
    }
    let mut late = one.connect("late").await;
    if let Some(servers) = redis.servers_without_replicas() {
        servers.iter_mut().for_each(RedisServer::kill);
        for hub in [&one, &two] {
            hub.wait_for_broker(false).await;
        }
        let reply = late.request(json!({"id": 1, "subscribe": {"channel": "news"}})).await;
        assert_eq!(reply["error"]["code"], 100, "its presence cannot be stored: {reply}");
        join_all(servers.iter_mut().map(RedisServer::restart)).await;
    } else {
        redis.lose_everything().await;
    }
    for hub in [&one, &two] {
        hub.wait_for_broker(true).await;
    }
    poll_until("all subscribers are present again", async || present_users(&one).await.len() == 20).await;
    late.subscribe("news").await;
    assert_eq!(present_users(&two).await.len(), 21);
}

async fn presence_outlives_its_time_to_live_while_the_subscription_lasts(redis: &mut PrefixedRedis) {
    let hub = start_node(redis, |config| config.broker.presence_ttl = Duration::from_secs(1)).await;
    let _ann = hub.connect_subscriber("ann", "news").await;
    // 1 s has two refreshes.
    let before = redis.calls("zadd").await;
    poll_until("it was refreshed for more than two seconds", async || {
        assert_eq!(present_users(&hub).await, ["ann"]);
        redis.calls("zadd").await >= before + 6
    })
    .await;
}

async fn options_and_info_of_a_subscription_token_apply_on_every_node(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_nodes(redis).await;
    let mut hidden = one.connect("ann").await;
    let overrides = json!({"presence": {"value": false}, "join_leave": {"value": false}});
    let claims = json!({"sub": "ann", "channel": "news", "exp": 60, "override": overrides});
    hidden.subscribe_with("news", json!({"token": one.token_with_claims(claims)})).await;
    let mut eve = connect_watcher(&two).await;
    let info = json!({"sub": "bob", "channel": "news", "exp": 60, "info": {"seat": 7}});
    let mut bob = one.connect("bob").await;
    bob.subscribe_with("news", json!({"token": one.token_with_claims(info)})).await;
    let join: Value = eve.receive().await["push"]["join"]["info"].take();
    assert_eq!((&join["user"], &join["chan_info"]), (&json!("bob"), &json!({"seat": 7})));
    assert_eq!(present_users(&two).await, ["bob", "eve"]);
}
