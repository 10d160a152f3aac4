//! Two hubs on one Redis: a publication on either one reaches the subscribers of both, also after outages of the Redis.

use std::time::Duration;

use futures_util::future::{join, join_all};
use serde_json::{Value, json};
use wardcast::config::{BrokerKind, Secret};

use crate::{
    support::{
        Client, Stopwatch, TestHub, allow_any_rate, events, http, poll_until, redis::RedisServer, start_hub_on,
        start_hub_with,
    },
    tickets::{request_ticket, ticket_request},
};

async fn start_one_hub(redis: &RedisServer) -> TestHub {
    start_hub_on(redis, |config| {
        config.broker.redis.linger = Duration::from_millis(300);
        allow_any_rate(config);
    })
    .await
}

async fn start_two_hubs() -> (RedisServer, TestHub, TestHub) {
    let redis = RedisServer::start().await;
    let (one, two) = (start_one_hub(&redis).await, start_one_hub(&redis).await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    (redis, one, two)
}

/// Waits until Redis has exactly this many subscribed channels whose names match `pattern`.
async fn wait_for_redis_channels(redis: &RedisServer, pattern: &str, count: usize) {
    let subscribed = async || redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", pattern]).await.len();
    events::wait_until(&format!("{count} channels in Redis"), async || subscribed().await == count).await;
}

/// Each channel has a turn for itself, and two turns are under way: the refused one ends first.
#[actix_rt::test]
async fn broadcast_answers_in_the_order_of_its_channels_whichever_turn_ends_first() {
    let redis = RedisServer::start().await;
    let hub = start_one_hub(&redis).await;
    hub.wait_for_nodes(1).await;
    let data = "x".repeat((1 << 20) - 100);
    let request = json!({"channels": ["a", "unknown:1", "b", "unknown:2"], "data": data});
    let answer = hub.call_api("broadcast", request).await;
    let responses = answer["result"]["responses"].as_array().unwrap();
    let codes: Vec<_> = responses.iter().map(|response| response["error"]["code"].as_u64()).collect();
    assert_eq!(codes, [None, Some(102), None, Some(102)]);
}

#[actix_rt::test]
async fn publication_on_one_hub_reaches_subscribers_of_both() {
    let (_redis, one, two) = start_two_hubs().await;
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
    let channels = one.call_api("channels", json!({})).await;
    assert_eq!(channels, json!({"result": {"channels": {"news": {"num_clients": 2}}}}));
}

#[actix_rt::test]
async fn pages_of_channels_on_two_hubs_have_each_channel_once() {
    let (_redis, one, two) = start_two_hubs().await;
    let (mut ann, mut bob) = (one.connect("ann").await, two.connect("bob").await);
    for name in ["a", "c", "d"] {
        ann.subscribe(name).await;
    }
    for name in ["b", "c", "e"] {
        bob.subscribe(name).await;
    }
    let page = async |body: Value| one.call_api("channels", body).await["result"].clone();
    let channel = |clients: u64| json!({"num_clients": clients});
    let first = page(json!({"limit": 3})).await;
    assert_eq!(
        first,
        json!({"channels": {"a": channel(1), "b": channel(1), "c": channel(2)}, "cursor": "c", "num_channels": 5})
    );
    let second = page(json!({"limit": 3, "cursor": "c"})).await;
    assert_eq!(second, json!({"channels": {"d": channel(1), "e": channel(1)}}));
    // Not all channels of either hub are on the page, so what both have is not known.
    let short = page(json!({"limit": 2})).await;
    assert_eq!(short, json!({"channels": {"a": channel(1), "b": channel(1)}, "cursor": "b"}));
    let own = page(json!({"limit": 1, "pattern": "e*"})).await;
    assert_eq!(own, json!({"channels": {"e": channel(1)}, "num_channels": 1}));
}

#[actix_rt::test]
async fn info_of_each_hub_lists_both_hubs() {
    let (_redis, one, two) = start_two_hubs().await;
    let _clients = [
        one.connect_subscriber("ann", "news").await,
        two.connect_subscriber("bob", "news").await,
        two.connect("cat").await,
    ];
    let nodes = async |hub: &TestHub| {
        let response = hub.call_api("info", json!({})).await;
        let mut nodes = response["result"]["nodes"].as_array().unwrap().clone();
        // Time has passed between two requests.
        nodes.iter_mut().for_each(|node| {
            ["uptime", "cpu_ms", "memory_bytes"].iter().for_each(|&field| node[field] = json!(0));
        });
        nodes
    };
    let (from_one, from_two) = (nodes(&one).await, nodes(&two).await);
    assert_eq!(from_one, from_two);
    let clients: u64 = from_one.iter().map(|node| node["num_clients"].as_u64().unwrap()).sum();
    assert_eq!((from_one.len(), clients), (2, 3));
    assert_ne!(from_one[0]["uid"], from_one[1]["uid"]);
    two.stop().await;
    one.wait_for_nodes(1).await;
    let info = one.call_api("info", json!({})).await;
    assert_eq!(info["result"]["nodes"][0]["num_clients"], 1, "{info}");
    assert_eq!((info["result"]["nodes"].as_array().unwrap().len(), &info["result"]["unreachable"]), (1, &json!(null)));
}

#[actix_rt::test]
async fn channel_without_subscribers_is_unsubscribed_from_redis() {
    let redis = RedisServer::start().await;
    let hub = start_one_hub(&redis).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let bob = hub.connect_subscriber("bob", "news").await;
    wait_for_redis_channels(&redis, "*news*", 1).await;
    ann.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    hub.publish("news", json!("for bob")).await;
    drop(bob);
    wait_for_redis_channels(&redis, "*news*", 0).await;
    ann.subscribe("news").await;
    wait_for_redis_channels(&redis, "*news*", 1).await;
}

#[actix_rt::test]
async fn publications_keep_their_order_across_hubs() {
    let (_redis, one, two) = start_two_hubs().await;
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
    let (mut redis, one, two) = start_two_hubs().await;
    let mut ann = two.connect_subscriber("ann", "news").await;
    redis.kill();
    for hub in [&one, &two] {
        hub.wait_for_broker(false).await;
        assert!(!hub.is_ready().await);
    }
    assert_eq!(http::get(one.address, "/health/live").send().await.status, 200, "a hub without Redis is alive");
    let body = http::get(one.address, "/health/ready").send().await.body;
    let problem = "\"problem\":\"cannot publish and receives no publications; see the log of this instance\"";
    assert!(body.contains(problem) && !body.contains("127.0.0.1"), "the endpoint is public: {body}");
    assert_eq!(one.call_api("publish", json!({"channel": "news", "data": 1})).await["error"]["code"], 100);
    let info = one.call_api("info", json!({})).await["result"].clone();
    let (nodes, unreachable) = (info["nodes"].as_array().unwrap(), info["unreachable"].as_array().unwrap());
    assert_eq!((nodes.len(), unreachable.len(), &nodes[0]["name"]), (1, 1, &unreachable[0]["name"]), "{info}");
    let channels = one.call_api("channels", json!({})).await["result"].clone();
    assert_eq!(channels, json!({"channels": {}, "unreachable": unreachable}), "ann is connected to the other hub");
    let mut bob = one.connect("bob").await;
    let reply = bob.request(json!({"id": 1, "subscribe": {"channel": "other"}})).await;
    assert_eq!(reply["error"], json!({"code": 100, "message": "internal server error", "temporary": true}));

    redis.restart().await;
    for hub in [&one, &two] {
        hub.wait_for_broker(true).await;
        assert!(hub.is_ready().await);
    }
    poll_until("both hubs answer", async || {
        let info = one.call_api("info", json!({})).await;
        info["result"]["nodes"].as_array().unwrap().len() == 2 && info["result"]["unreachable"].is_null()
    })
    .await;
    one.publish("news", json!("recovered")).await;
    assert_eq!(ann.receive_publication().await, json!("recovered"), "over the old subscription");
    bob.subscribe("other").await;
}

#[actix_rt::test]
async fn commands_on_a_frozen_redis_get_error_100_within_the_timeout_and_the_session_goes_on() {
    let redis = RedisServer::start().await;
    let hub = start_hub_on(&redis, |config| config.broker.redis.timeout = Duration::from_millis(700)).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect_subscriber("bob", "news").await);
    redis.freeze();
    let since = Stopwatch::start();
    let subscribe = ann.request(json!({"id": 1, "subscribe": {"channel": "news-2"}}));
    let publish = bob.request(json!({"id": 2, "publish": {"channel": "news", "data": 1}}));
    let api = hub.call_api("publish", json!({"channel": "news", "data": 2}));
    let (subscribed, published, from_api) = tokio::join!(subscribe, publish, api);
    println!("answered after {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_millis(1700), "{:?}", since.elapsed());
    for reply in [subscribed, published, from_api] {
        assert_eq!(reply["error"]["code"], 100, "{reply}");
    }
    assert_eq!(ann.request(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}));
    redis.resume();
    poll_until("the hub is ready", async || hub.is_ready().await).await;
    ann.subscribe("news-2").await;
    hub.publish("news-2", json!("hello")).await;
    assert_eq!(ann.receive_publication().await, json!("hello"));
}

#[actix_rt::test]
async fn broadcasts_at_the_same_time_wait_for_each_other_and_reach_every_channel() {
    const CALLS: usize = 8;
    let redis = RedisServer::start().await;
    let hub = start_hub_on(&redis, |config| {
        config.broker.redis.timeout = Duration::from_secs(60);
        config.broker.redis.probe_interval = Duration::from_secs(60);
    })
    .await;
    let channels: Vec<String> = (0..5_000).map(|number| format!("c-{number}")).collect();
    let broadcast = json!({"channels": channels, "data": 1});
    // Nothing leaves the queue until all of them have published what they may.
    redis.freeze();
    let calls = join_all((0..CALLS).map(|_| hub.call_api("broadcast", broadcast.clone())));
    let resume = async {
        let mut published = (0.0, 0);
        poll_until("no broadcast publishes any more", async || {
            let now = hub.metric("wardcast_publications_total").await;
            published = if now == published.0 { (now, published.1 + 1) } else { (now, 0) };
            now > 0.0 && published.1 == 20
        })
        .await;
        redis.resume();
    };
    let (responses, ()) = join(calls, resume).await;
    for response in responses {
        let responses = response["result"]["responses"].as_array().unwrap();
        assert_eq!(responses.len(), channels.len());
        assert!(responses.iter().all(|response| response["result"].is_object()), "{:?}", responses[0]);
    }
}

#[actix_rt::test]
async fn hub_on_a_demoted_master_answers_error_100_and_is_not_ready() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let (late, early) = (start_one_hub(&old).await, start_one_hub(&new).await);
    let mut ann = early.connect_subscriber("ann", "news").await;
    old.demote(&new).await;
    for number in 0..50 {
        let response = late.call_api("publish", json!({"channel": "news", "data": number})).await;
        assert_eq!(response["error"]["code"], 100, "publication {number}: {response}");
    }
    assert!(!late.is_ready().await && early.is_ready().await);
    assert_eq!(http::get(late.address, "/health/live").send().await.status, 200);
    early.publish("news", json!("arrives")).await;
    assert_eq!(ann.receive_publication().await, json!("arrives"));
}

/// Starts a hub whose Redis does not run yet.
pub async fn start_hub_before_redis() -> (RedisServer, TestHub) {
    let redis = RedisServer::start_stopped().await;
    let url = redis.url();
    let hub = start_hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(url);
    })
    .await;
    (redis, hub)
}

#[actix_rt::test]
async fn hub_starts_without_redis_and_becomes_ready_when_redis_starts() {
    let (mut redis, hub) = start_hub_before_redis().await;
    assert!(!hub.is_ready().await);
    redis.restart().await;
    poll_until("the hub is ready", async || hub.is_ready().await).await;
    let mut ann = hub.connect("ann").await;
    ann.subscribe("news").await;
    hub.publish("news", json!("hello")).await;
    assert_eq!(ann.receive_publication().await, json!("hello"));
}

#[actix_rt::test]
async fn session_survives_refresh_during_redis_outage_and_gets_new_channels_afterwards() {
    let mut redis = RedisServer::start().await;
    let hub = start_one_hub(&redis).await;
    let (mut ann, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["old"]})).await;
    redis.kill();
    hub.wait_for_broker(false).await;
    let refresh = |channels: &[&str]| {
        let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "channels": channels}));
        json!({"id": 2, "refresh": {"token": token}})
    };
    let reply = ann.request(refresh(&["old"])).await;
    assert!(reply["refresh"]["ttl"].as_u64().unwrap() > 3000, "existing channels need no broker: {reply}");
    let reply = ann.request(refresh(&["old", "new"])).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)), "{reply}");
    assert_eq!(ann.request(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}), "the session is open");

    // A new session whose token has channels is closed, with a code that makes the client reconnect later.
    let token = hub.token_with_claims(json!({"sub": "bob", "exp": 60, "channels": ["news"]}));
    let mut bob = hub.connect_without_token().await;
    bob.send(json!({"id": 1, "connect": {"token": token}})).await;
    assert_eq!(bob.wait_for_close().await.0, Some(3004));
    let mut plain = Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap();
    assert_eq!(plain.wait_for_close().await.0, Some(3004));

    redis.restart().await;
    hub.wait_for_broker(true).await;
    ann.send(refresh(&["old", "new"])).await;
    let both = [ann.receive().await, ann.receive().await];
    assert!(both[0]["push"]["channel"] == "new" && both[1]["refresh"].is_object(), "{both:?}");
    for channel in ["old", "new"] {
        hub.publish(channel, json!(channel)).await;
        assert_eq!(ann.receive_publication().await, json!(channel));
    }
}

#[actix_rt::test]
async fn every_channel_is_unsubscribed_from_redis_after_outages_and_disconnects() {
    let mut redis = RedisServer::start().await;
    let hub = start_one_hub(&redis).await;
    let mut kept = hub.connect_subscriber("ann", "c-kept").await;
    let granted: Vec<String> = (0..20).map(|number| format!("c-{number}")).collect();
    for round in 0..3 {
        let token = hub.token_with_claims(json!({"sub": "bob", "exp": 3600, "channels": granted}));
        let clients = join_all((0..12).map(async |number| {
            // The outage may hit each client at any step. Every third one disconnects at once.
            let Ok(mut bob) = Client::connect(hub.address, &format!("/socket?token={token}")).await else { return };
            if number % 3 == 0 || bob.next().await.is_err() {
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
            hub.wait_for_broker(false).await;
            redis.restart().await;
        };
        join(clients, outage).await;
        hub.wait_for_connections(1).await;
        hub.wait_for_broker(true).await;
        wait_for_redis_channels(&redis, "wardcast:c:*", 1).await;
        hub.publish("c-kept", json!(round)).await;
        assert_eq!(kept.receive_publication().await, json!(round));
    }
}

async fn ticket_path(hub: &TestHub) -> String {
    format!("/socket?ticket={}", request_ticket(hub, &hub.token("ann")).await)
}

#[actix_rt::test]
async fn concurrent_use_of_one_ticket_at_two_hubs_opens_one_connection() {
    let (_redis, one, two) = start_two_hubs().await;
    for _ in 0..10 {
        let path = ticket_path(&one).await;
        let (at_one, at_two) = tokio::join!(one.try_handshake(&path, &[]), two.try_handshake(&path, &[]));
        let mut statuses = [at_one.status, at_two.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [101, 401]);
        let later = (one.try_handshake(&path, &[]).await.status, two.try_handshake(&path, &[]).await.status);
        assert_eq!(later, (401, 401));
    }
}

#[actix_rt::test]
async fn without_redis_tickets_are_503_and_other_credentials_still_work() {
    let mut redis = RedisServer::start().await;
    let hub = start_one_hub(&redis).await;
    let path = ticket_path(&hub).await;
    redis.kill();
    hub.wait_for_broker(false).await;
    for response in [hub.try_handshake(&path, &[]).await, ticket_request(&hub, &hub.token("ann")).send().await] {
        assert_eq!((response.status, response.header("retry-after")), (503, Some("5")), "{response:?}");
        let headers = (response.header("connection"), response.header("cache-control"));
        assert_eq!(headers, (Some("close"), Some("no-store")));
        assert!(
            !response.body.to_lowercase().contains("redis") && !response.body.contains("127.0.0.1"),
            "{response:?}"
        );
    }
    assert_eq!(hub.try_handshake("/socket?ticket=x", &[]).await.status, 401, "an invalid ticket needs no broker");
    // Held, or its connection may end before it is counted.
    let _ann = hub.connect("ann").await;
    assert_eq!(hub.connections(), 1, "a refused handshake holds no permit");
    redis.restart().await;
    hub.wait_for_broker(true).await;
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401, "the restarted Redis is empty");
    let path = ticket_path(&hub).await;
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 101);
}
