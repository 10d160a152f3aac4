//! Two hubs on one Redis: what is published on either reaches the subscribers of both, through outages of the Redis too.

use futures_util::future::join_all;
use serde_json::json;
use wardcast::config::BrokerKind;

use crate::support::{Client, TestHub, http, mark_secret, redis::RedisServer, start_hub_with, wait_until};

async fn hub_on(redis: &RedisServer) -> TestHub {
    let url = redis.url();
    let hub = start_hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = wardcast::config::Secret::new(url);
        config.broker.redis.linger = std::time::Duration::from_millis(300);
        (config.limits.commands_per_second, config.limits.publications_per_second) = (0, 0);
    })
    .await;
    wait_until("the hub is ready", async || is_ready(&hub).await).await;
    hub
}

async fn is_ready(hub: &TestHub) -> bool {
    http::get(hub.address, "/health/ready").send().await.status == 200
}

/// Publishes until it is taken.
async fn publish_again(hub: &TestHub, channel: &str, data: serde_json::Value) {
    wait_until("a publication is taken", async || {
        hub.call_api("publish", json!({"channel": channel, "data": data})).await == json!({"result": {}})
    })
    .await;
}

#[actix_rt::test]
async fn publication_on_one_hub_reaches_subscribers_of_both() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let mut clients = [one.connect_subscriber("ann", "news").await, two.connect_subscriber("bob", "news").await];
    one.publish("news", json!("over REST")).await;
    for client in &mut clients {
        assert_eq!(client.receive_publication().await, json!("over REST"));
    }
    let mut cat = two.connect("cat").await;
    cat.request(json!({"id": 2, "publish": {"channel": "news", "data": "over a socket"}})).await;
    for client in &mut clients {
        let push = client.receive().await;
        assert_eq!(push["push"]["pub"]["data"], "over a socket");
        assert_eq!(push["push"]["pub"]["info"]["user"], "cat");
    }
    let counted = one.call_api("channels", json!({})).await;
    assert_eq!(counted, json!({"result": {"channels": {"news": {"num_clients": 2}}}}));
}

#[actix_rt::test]
async fn info_of_each_hub_lists_both_hubs() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let _clients = [
        one.connect_subscriber("ann", "news").await,
        two.connect_subscriber("bob", "news").await,
        two.connect("cat").await,
    ];
    let nodes = async |hub: &TestHub| {
        let answer = hub.call_api("info", json!({})).await;
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
    // Asked while it stops, it may not answer any more: then nobody is told of.
    wait_until("who has stopped is not told of", async || {
        one.call_api("info", json!({})).await["result"]["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1)
    })
    .await;
}

#[actix_rt::test]
async fn channel_without_subscribers_is_unsubscribed_from_redis() {
    let redis = RedisServer::start().await;
    let hub = hub_on(&redis).await;
    let known = async || redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "*news*"]).await.len();
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let bob = hub.connect_subscriber("bob", "news").await;
    assert_eq!(known().await, 1);
    ann.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    hub.publish("news", json!("for bob")).await;
    drop(bob);
    wait_until("given back", async || known().await == 0).await;
    ann.subscribe("news").await;
    assert_eq!(known().await, 1);
}

#[actix_rt::test]
async fn publications_keep_their_order_across_hubs() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let mut ann = two.connect_subscriber("ann", "news").await;
    let mut bob = one.connect("bob").await;
    let batch: Vec<String> =
        (1..=500).map(|id| json!({"id": id, "publish": {"channel": "news", "data": id}}).to_string()).collect();
    bob.send_text(&batch.join("\n")).await;
    for number in 1..=500 {
        assert_eq!(ann.receive_publication().await, json!(number));
    }
}

#[actix_rt::test]
async fn redis_outage_is_reported_and_closes_no_session() {
    let mut redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    let mut ann = two.connect_subscriber("ann", "news").await;
    redis.kill();
    wait_until("not ready", async || !is_ready(&one).await && !is_ready(&two).await).await;
    assert_eq!(http::get(one.address, "/health/live").send().await.status, 200, "but alive");
    let told = http::get(one.address, "/health/ready").send().await.body;
    assert!(told.contains("see the log") && !told.contains("127.0.0.1"), "anybody may ask: {told}");
    assert_eq!(one.call_api("publish", json!({"channel": "news", "data": 1})).await["error"]["code"], 100);
    let mut bob = one.connect("bob").await;
    let refused = bob.request(json!({"id": 1, "subscribe": {"channel": "other"}})).await;
    assert_eq!(refused["error"], json!({"code": 100, "message": "internal server error", "temporary": true}));

    redis.restart().await;
    wait_until("ready again", async || is_ready(&one).await && is_ready(&two).await).await;
    publish_again(&one, "news", json!("healed")).await;
    assert_eq!(ann.receive_publication().await, json!("healed"), "on the subscription from before");
    bob.subscribe("other").await;
}

#[actix_rt::test]
async fn hub_starts_without_redis_and_becomes_ready_when_redis_starts() {
    let mut redis = RedisServer::start_stopped().await;
    let url = redis.url();
    let hub = start_hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = wardcast::config::Secret::new(url);
    })
    .await;
    assert!(!is_ready(&hub).await);
    let mut ann: Client = hub.connect("ann").await;
    redis.restart().await;
    wait_until("ready", async || is_ready(&hub).await).await;
    ann.subscribe("news").await;
    publish_again(&hub, "news", json!("hello")).await;
    assert_eq!(ann.receive_publication().await, json!("hello"));
}

#[actix_rt::test]
async fn session_survives_refresh_during_redis_outage_and_gets_new_channels_afterwards() {
    let mut redis = RedisServer::start().await;
    let hub = hub_on(&redis).await;
    let (mut ann, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["old"]})).await;
    redis.kill();
    wait_until("not ready", async || !is_ready(&hub).await).await;
    let refresh = |channels: &[&str]| {
        let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "channels": channels}));
        json!({"id": 2, "refresh": {"token": token}})
    };
    let reply = ann.request(refresh(&["old"])).await;
    assert!(reply["refresh"]["ttl"].as_u64().unwrap() > 3000, "what it has costs no question: {reply}");
    let reply = ann.request(refresh(&["old", "new"])).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)), "{reply}");
    assert_eq!(ann.request(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}), "it lives");

    // Whoever comes anew with channels is told to come again later.
    let token = hub.token_with_claims(json!({"sub": "bob", "exp": 60, "channels": ["news"]}));
    let mut bob = hub.connect_without_token().await;
    bob.send(json!({"id": 1, "connect": {"token": token}})).await;
    assert_eq!(bob.wait_for_close().await.0, Some(3004));
    let mut plain = Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap();
    assert_eq!(plain.wait_for_close().await.0, Some(3004));

    redis.restart().await;
    wait_until("ready again", async || is_ready(&hub).await).await;
    ann.send(refresh(&["old", "new"])).await;
    let both = [ann.receive().await, ann.receive().await];
    assert!(both[0]["push"]["channel"] == "new" && both[1]["refresh"].is_object(), "{both:?}");
    for channel in ["old", "new"] {
        publish_again(&hub, channel, json!(channel)).await;
        assert_eq!(ann.receive_publication().await, json!(channel));
    }
}

#[actix_rt::test]
async fn every_channel_is_unsubscribed_from_redis_after_outages_and_disconnects() {
    let mut redis = RedisServer::start().await;
    let hub = hub_on(&redis).await;
    let known =
        async |redis: &RedisServer| redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "wardcast:c:*"]).await.len();
    let mut kept = hub.connect_subscriber("ann", "c-kept").await;
    let brought: Vec<String> = (0..20).map(|number| format!("c-{number}")).collect();
    for round in 0..3 {
        let token = hub.token_with_claims(json!({"sub": "bob", "exp": 3600, "channels": brought}));
        let come_and_go = join_all((0..12).map(async |number| {
            // Each of these may meet the outage anywhere: before, within, behind.
            let path = format!("/socket?token={token}");
            let Ok(mut bob) = Client::connect(hub.address, &path).await else { return };
            if number % 3 == 0 {
                return;
            }
            if bob.next().await.is_err() {
                return;
            }
            for id in 1..=10_u32 {
                let channel = format!("c-{}", (id + number) % 20);
                let method = if id % 2 == 0 { "subscribe" } else { "unsubscribe" };
                let mut command = json!({"id": id});
                command[method] = json!({"channel": channel});
                bob.send(command).await;
                if bob.next().await.is_err() {
                    return;
                }
            }
        }));
        let outage = async {
            redis.kill();
            redis.restart().await;
        };
        futures_util::future::join(come_and_go, outage).await;
        wait_until("all have gone", async || hub.connections() == 1).await;
        wait_until("ready again", async || is_ready(&hub).await).await;
        wait_until("one channel is left", async || known(&redis).await == 1).await;
        publish_again(&hub, "c-kept", json!(round)).await;
        assert_eq!(kept.receive_publication().await, json!(round));
    }
}

fn ask_for_ticket(hub: &TestHub) -> http::Request {
    http::post(hub.address, "/auth/ticket").header("Authorization", &format!("Bearer {}", hub.token("ann")))
}

async fn ticket_path(hub: &TestHub) -> String {
    let answer = ask_for_ticket(hub).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    format!("/socket?ticket={}", mark_secret(answer.json()["ticket"].as_str().unwrap()))
}

#[actix_rt::test]
async fn concurrent_use_of_one_ticket_at_two_hubs_opens_one_connection() {
    let redis = RedisServer::start().await;
    let (one, two) = (hub_on(&redis).await, hub_on(&redis).await);
    for _ in 0..10 {
        let path = ticket_path(&one).await;
        let (here, there) = tokio::join!(one.try_handshake(&path, &[]), two.try_handshake(&path, &[]));
        let mut statuses = [here.status, there.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [101, 401]);
        assert_eq!(
            (one.try_handshake(&path, &[]).await.status, two.try_handshake(&path, &[]).await.status),
            (401, 401),
            "nor later"
        );
    }
}

#[actix_rt::test]
async fn without_redis_tickets_are_503_and_other_credentials_still_work() {
    let mut redis = RedisServer::start().await;
    let hub = hub_on(&redis).await;
    let path = ticket_path(&hub).await;
    redis.kill();
    for answer in [hub.try_handshake(&path, &[]).await, ask_for_ticket(&hub).send().await] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
        assert_eq!((answer.header("connection"), answer.header("cache-control")), (Some("close"), Some("no-store")));
        assert!(!answer.body.to_lowercase().contains("redis") && !answer.body.contains("127.0.0.1"), "{answer:?}");
    }
    assert_eq!(hub.try_handshake("/socket?ticket=x", &[]).await.status, 401, "for what is none nobody is asked");
    // Held, or its connection may end before it is counted.
    let _ann = hub.connect("ann").await;
    assert_eq!(hub.connections(), 1, "a refused one keeps no seat");
    redis.restart().await;
    wait_until("tickets are given again", async || ask_for_ticket(&hub).send().await.status == 200).await;
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401, "what the old Redis knew is gone");
    let path = ticket_path(&hub).await;
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 101);
}
