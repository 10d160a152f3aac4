//! Orders of the server API to living sessions, on this instance and on others.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{API_KEY, Client, Hub, eventually, hub, hub_with, redis::RedisServer, secret};

async fn order(hub: &Hub, method: &str, body: Value) {
    assert_eq!(hub.api(method, body).await, json!({"result": {}}));
}

async fn greeted(hub: &Hub, user: &str) -> (Client, String) {
    let (client, greeting) = hub.client_of(json!({"sub": user, "exp": 3600})).await;
    (client, greeting["client"].as_str().unwrap().to_owned())
}

#[actix_rt::test]
async fn a_user_is_disconnected_with_all_connections_and_others_are_not() {
    let hub = hub().await;
    let (mut one, mut two, mut bob) = (hub.client("ann").await, hub.client("ann").await, hub.client("bob").await);
    order(&hub, "disconnect", json!({"user": "ann"})).await;
    for client in [&mut one, &mut two] {
        let (code, push) = client.ended().await;
        assert_eq!((code, &push.unwrap()["reason"]), (Some(3503), &json!("force disconnect")));
    }
    bob.subscribe("news").await;
}

#[actix_rt::test]
async fn a_disconnect_says_what_the_backend_wants_and_spares_whom_it_names() {
    let hub = hub().await;
    let ((mut one, _), (mut two, spared)) = (greeted(&hub, "ann").await, greeted(&hub, "ann").await);
    let why = json!({"code": 4501, "reason": "signed in elsewhere"});
    order(&hub, "disconnect", json!({"user": "ann", "whitelist": [spared], "disconnect": why})).await;
    let (code, push) = one.ended().await;
    assert_eq!((code, push.unwrap()), (Some(4501), why));
    two.subscribe("news").await;
    order(&hub, "disconnect", json!({"user": "bob", "client": spared})).await;
    two.subscribe("sport").await;
    order(&hub, "disconnect", json!({"user": "ann", "client": spared})).await;
    assert_eq!(two.ended().await.0, Some(3503));
}

#[actix_rt::test]
async fn an_unsubscribe_ends_one_subscription_of_a_user() {
    let hub = hub().await;
    let mut client = hub.subscriber("ann", "news").await;
    client.subscribe("sport").await;
    order(&hub, "unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    let push = client.hear().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("news"), &json!(2000)));
    hub.publish("news", json!(1)).await;
    hub.publish("sport", json!(2)).await;
    assert_eq!(client.publication().await, json!(2));
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn a_refresh_changes_the_end_of_a_session_and_what_others_see() {
    let hub = hub().await;
    let mut client = hub.subscriber("ann", "news").await;
    let at = hub.clock.now() / 1000 + 2 * 3600;
    order(&hub, "refresh", json!({"user": "ann", "expire_at": at, "info": {"name": "Ann"}})).await;
    let refreshed = client.hear().await["push"]["refresh"].clone();
    assert!(refreshed["ttl"].as_u64().unwrap() > 7000, "{refreshed}");
    hub.clock.advance(Duration::from_secs(3700));
    client.say(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    let both = [client.hear().await, client.hear().await];
    assert!(both.iter().any(|heard| heard["push"]["pub"]["info"]["conn_info"] == json!({"name": "Ann"})), "{both:?}");
    order(&hub, "refresh", json!({"user": "ann", "expired": true})).await;
    assert_eq!(client.ended().await.0, Some(3005));
}

#[actix_rt::test]
async fn a_refresh_into_the_past_ends_the_session() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    order(&hub, "refresh", json!({"user": "ann", "expire_at": hub.clock.now() / 1000 - 1})).await;
    assert_eq!(client.ended().await.0, Some(3005));
}

#[actix_rt::test]
async fn orders_reach_the_sessions_of_every_instance() {
    let redis = RedisServer::start().await;
    let on_redis = async || {
        hub_with(|config| {
            config.broker.kind = wardcast::config::BrokerKind::Redis;
            config.broker.redis.url = wardcast::config::Secret::new(redis.url());
        })
        .await
    };
    let (one, two) = (on_redis().await, on_redis().await);
    for hub in [&one, &two] {
        eventually("ready", async || {
            crate::support::http::get(hub.address, "/health/ready").send().await.status == 200
        })
        .await;
    }
    let (mut here, mut there) = (one.client("ann").await, two.subscriber("ann", "news").await);
    order(&one, "unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(there.hear().await["push"]["unsubscribe"]["code"], 2000);
    order(&one, "disconnect", json!({"user": "ann"})).await;
    assert_eq!((here.ended().await.0, there.ended().await.0), (Some(3503), Some(3503)));
}

#[actix_rt::test]
async fn info_counts_connections_users_subscriptions_and_channels() {
    let hub = hub().await;
    let _clients =
        [hub.subscriber("ann", "a").await, hub.subscriber("ann", "b").await, hub.subscriber("bob", "a").await];
    let answer = hub.api("info", json!({})).await;
    let node = &answer["result"]["nodes"][0];
    let counts = ["num_clients", "num_users", "num_subs", "num_channels"].map(|name| node[name].as_u64().unwrap());
    assert_eq!(counts, [3, 2, 3, 2], "{answer}");
    assert!(node["uid"].is_string() && node["version"].is_string() && node["uptime"].is_u64(), "{answer}");
}

#[actix_rt::test]
async fn orders_want_the_key() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    for method in ["disconnect", "unsubscribe", "refresh", "info", "batch"] {
        let request = crate::support::http::post(hub.address, &format!("/api/{method}"));
        assert_eq!(request.json(json!({"user": "ann", "channel": "news"})).send().await.status, 401, "{method}");
        let wrong = secret(API_KEY.replace('k', "K"));
        let request = crate::support::http::post(hub.address, &format!("/api/{method}")).header("X-API-Key", &wrong);
        assert_eq!(request.json(json!({"user": "ann", "channel": "news"})).send().await.status, 401, "{method}");
    }
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn orders_that_race_with_closes_count_each_connection_once_and_leave_nothing() {
    let hub = hub_with(|config| config.server.workers = 2).await;
    let mut told = 0;
    for round in 0..15 {
        let mut clients = join_all((0..12).map(|_| hub.subscriber("ann", "news"))).await;
        let leave = clients.iter_mut().enumerate().map(async |(number, client)| match (number + round) % 4 {
            // Closed by us for what it says, by itself with a close frame, or by nobody but the order.
            0 => client.say(json!({"send": {}})).await,
            1 => client.say(json!({"id": 2, "refresh": {"token": hub.token("bob")}})).await,
            2 => client.send(Message::Close(None)).await,
            _ => {}
        });
        let ordered = order(&hub, "disconnect", json!({"user": "ann"}));
        let unsubscribed = order(&hub, "unsubscribe", json!({"user": "ann", "channel": "news"}));
        futures_util::future::join3(join_all(leave), ordered, unsubscribed).await;
        for client in &mut clients {
            told += u64::from(client.ended().await.1.is_some());
        }
        drop(clients);
        eventually("all are gone", async || hub.connections() == 0).await;
    }
    let counted: u64 = [3500, 3503, 3508].map(|code| hub.running().metrics.closed_for(code)).iter().sum();
    assert_eq!(counted, told);
    assert_eq!(hub.api("channels", json!({})).await, json!({"result": {"channels": {}}}));
}

#[actix_rt::test]
async fn the_index_of_users_follows_connects_refreshes_and_closes_of_any_kind() {
    let hub = hub_with(|config| config.limits.handshakes_per_second = 0).await;
    let counts = async || {
        let node = hub.api("info", json!({})).await["result"]["nodes"][0].clone();
        ["num_clients", "num_users", "num_subs", "num_channels"].map(|name| node[name].as_u64().unwrap())
    };
    for _ in 0..5 {
        let crowd = join_all((0..60).map(async |number| {
            let user = format!("user-{}", number % 6);
            let mut client = hub.subscriber(&user, &format!("channel-{}", number % 10)).await;
            if number % 2 == 0 {
                client.ask(json!({"id": 2, "refresh": {"token": hub.token(&user)}})).await;
            }
            if number % 3 == 0 {
                client.ask(json!({"id": 3, "connect": {}})).await;
            }
            client
        }))
        .await;
        assert_eq!(counts().await, [60, 6, 60, 10]);
        order(&hub, "disconnect", json!({"user": "user-0"})).await;
        // The index leads to all of a user's connections and to nobody else's.
        eventually("one user is gone", async || counts().await[..2] == [50, 5]).await;
        for (number, mut client) in crowd.into_iter().enumerate() {
            match number % 6 {
                0 => assert_eq!(client.ended().await.0, Some(3503)),
                1 => client.send(Message::Close(None)).await,
                2 => client.say(json!({"send": {}})).await,
                _ => drop(client),
            }
        }
        eventually("nothing is left", async || counts().await == [0; 4]).await;
    }
}
