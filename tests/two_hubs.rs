//! Two hubs on one Redis: what is published on either reaches the subscribers of both, through outages of the Redis too.

use serde_json::json;
use wardcast::config::BrokerKind;

use crate::support::{Client, Hub, eventually, http, hub_with, redis::RedisServer, secret};

async fn hub_on(redis: &RedisServer) -> Hub {
    let url = redis.url();
    let hub = hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = wardcast::config::Secret::new(url);
        config.broker.redis.linger = std::time::Duration::from_millis(300);
        (config.limits.commands_per_second, config.limits.publications_per_second) = (0, 0);
    })
    .await;
    eventually("the hub is ready", async || is_ready(&hub).await).await;
    hub
}

async fn is_ready(hub: &Hub) -> bool {
    http::get(hub.address, "/health/ready").send().await.status == 200
}

/// Publishes until it is taken.
async fn publish_again(hub: &Hub, channel: &str, data: serde_json::Value) {
    eventually("a publication is taken", async || {
        hub.api("publish", json!({"channel": channel, "data": data})).await == json!({"result": {}})
    })
    .await;
}

#[actix_rt::test]
async fn what_is_published_on_one_reaches_the_subscribers_of_both() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let mut clients = [one.subscriber("ann", "news").await, two.subscriber("bob", "news").await];
    one.publish("news", json!("over REST")).await;
    for client in &mut clients {
        assert_eq!(client.publication().await, json!("over REST"));
    }
    let mut cat = two.client("cat").await;
    cat.ask(json!({"id": 2, "publish": {"channel": "news", "data": "over a socket"}})).await;
    for client in &mut clients {
        let push = client.hear().await;
        assert_eq!(push["push"]["pub"]["data"], "over a socket");
        assert_eq!(push["push"]["pub"]["info"]["user"], "cat");
    }
    let counted = one.api("channels", json!({})).await;
    assert_eq!(counted, json!({"result": {"channels": {"news": {"num_clients": 2}}}}));
}

#[actix_rt::test]
async fn each_tells_of_both() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let _clients = [one.subscriber("ann", "news").await, two.subscriber("bob", "news").await, two.client("cat").await];
    let nodes = async |hub: &Hub| {
        let answer = hub.api("info", json!({})).await;
        let mut nodes = answer["result"]["nodes"].as_array().unwrap().clone();
        // What may have passed between two questions.
        nodes.iter_mut().for_each(|node| node["uptime"] = json!(0));
        nodes
    };
    let (told_by_one, told_by_two) = (nodes(&one).await, nodes(&two).await);
    assert_eq!(told_by_one, told_by_two);
    let clients: u64 = told_by_one.iter().map(|node| node["num_clients"].as_u64().unwrap()).sum();
    assert_eq!((told_by_one.len(), clients), (2, 3));
    assert_ne!(told_by_one[0]["uid"], told_by_one[1]["uid"]);
    two.stop().await;
    eventually("who has stopped is not told of", async || nodes(&one).await.len() == 1).await;
}

#[actix_rt::test]
async fn a_channel_that_nobody_listens_to_is_given_back_to_redis() {
    let redis = RedisServer::start().await;
    let hub = hub_on(&redis).await;
    let known = async || redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "*news*"]).await.len();
    let mut ann = hub.subscriber("ann", "news").await;
    let bob = hub.subscriber("bob", "news").await;
    assert_eq!(known().await, 1);
    ann.ask(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    hub.publish("news", json!("for bob")).await;
    drop(bob);
    eventually("given back", async || known().await == 0).await;
    ann.subscribe("news").await;
    assert_eq!(known().await, 1);
}

#[actix_rt::test]
async fn order_is_kept_across_hubs() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let mut ann = two.subscriber("ann", "news").await;
    let mut bob = one.client("bob").await;
    let batch: Vec<String> =
        (1..=500).map(|id| json!({"id": id, "publish": {"channel": "news", "data": id}}).to_string()).collect();
    bob.say_text(&batch.join("\n")).await;
    for number in 1..=500 {
        assert_eq!(ann.publication().await, json!(number));
    }
}

#[actix_rt::test]
async fn redis_that_is_down_is_told_and_costs_no_session() {
    let mut redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let mut ann = two.subscriber("ann", "news").await;
    redis.kill();
    eventually("not ready", async || !is_ready(&one).await && !is_ready(&two).await).await;
    assert_eq!(http::get(one.address, "/health/live").send().await.status, 200, "but alive");
    assert_eq!(one.api("publish", json!({"channel": "news", "data": 1})).await["error"]["code"], 100);
    let mut bob = one.client("bob").await;
    let refused = bob.ask(json!({"id": 1, "subscribe": {"channel": "other"}})).await;
    assert_eq!(refused["error"], json!({"code": 100, "message": "internal server error", "temporary": true}));

    redis.restart().await;
    eventually("ready again", async || is_ready(&one).await && is_ready(&two).await).await;
    publish_again(&one, "news", json!("healed")).await;
    assert_eq!(ann.publication().await, json!("healed"), "on the subscription from before");
    bob.subscribe("other").await;
}

#[actix_rt::test]
async fn a_hub_starts_without_redis_and_gets_ready_when_it_comes() {
    let mut redis = RedisServer::start_later().await;
    let url = redis.url();
    let hub = hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = wardcast::config::Secret::new(url);
    })
    .await;
    assert!(!is_ready(&hub).await);
    let mut ann: Client = hub.client("ann").await;
    redis.restart().await;
    eventually("ready", async || is_ready(&hub).await).await;
    ann.subscribe("news").await;
    publish_again(&hub, "news", json!("hello")).await;
    assert_eq!(ann.publication().await, json!("hello"));
}

fn ask_for_ticket(hub: &Hub) -> http::Request {
    http::post(hub.address, "/auth/ticket").header("Authorization", &format!("Bearer {}", hub.token("ann")))
}

async fn ticket_path(hub: &Hub) -> String {
    let answer = ask_for_ticket(hub).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    format!("/socket?ticket={}", secret(answer.json()["ticket"].as_str().unwrap()))
}

#[actix_rt::test]
async fn one_ticket_at_two_hubs_at_once_opens_one_connection() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    for _ in 0..10 {
        let path = ticket_path(&one).await;
        let (here, there) = tokio::join!(one.knock(&path, &[]), two.knock(&path, &[]));
        let mut statuses = [here.status, there.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [101, 401]);
        assert_eq!((one.knock(&path, &[]).await.status, two.knock(&path, &[]).await.status), (401, 401), "nor later");
    }
}

#[actix_rt::test]
async fn without_redis_tickets_are_503_other_doors_stay_open_and_no_ticket_counts_twice() {
    let mut redis = RedisServer::start().await;
    let hub = hub_on(&redis).await;
    let path = ticket_path(&hub).await;
    redis.kill();
    for answer in [hub.knock(&path, &[]).await, ask_for_ticket(&hub).send().await] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
        assert_eq!((answer.header("connection"), answer.header("cache-control")), (Some("close"), Some("no-store")));
        assert!(!answer.body.to_lowercase().contains("redis") && !answer.body.contains("127.0.0.1"), "{answer:?}");
    }
    assert_eq!(hub.knock("/socket?ticket=x", &[]).await.status, 401, "for what is none nobody is asked");
    hub.client("ann").await;
    assert_eq!(hub.connections(), 1, "a refused one keeps no seat");
    redis.restart().await;
    eventually("tickets are given again", async || ask_for_ticket(&hub).send().await.status == 200).await;
    assert_eq!(hub.knock(&path, &[]).await.status, 401, "what the old Redis knew is gone");
    let path = ticket_path(&hub).await;
    assert_eq!(hub.knock(&path, &[]).await.status, 101);
}
