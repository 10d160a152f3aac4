//! Orders to sessions over the server API: what goes out to the instances, read where it passes, on the bus; and what is
//! refused before it does.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use wardcast::config::{BrokerKind, Secret};

use crate::support::{Hub, PATIENCE, eventually, hub, hub_with, redis::RedisServer};

/// A hub on a Redis, and somebody who listens there to what instances tell each other.
struct Overheard {
    hub: Hub,
    bus: redis::aio::PubSub,
    _redis: RedisServer,
}

async fn overheard() -> Overheard {
    let server = RedisServer::start().await;
    let url = server.url();
    let mut bus = redis::Client::open(url.as_str()).unwrap().get_async_pubsub().await.unwrap();
    bus.subscribe("wardcast:control").await.unwrap();
    let hub = hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(url);
    })
    .await;
    eventually("the broker is up", async || hub.running().metrics.broker_up.get() == 1).await;
    Overheard { hub, bus, _redis: server }
}

impl Overheard {
    /// Calls a method, which has to go well; the order that comes of it.
    async fn order(&mut self, method: &str, request: Value) -> Value {
        assert_eq!(self.hub.api(method, request).await, json!({"result": {}}));
        let message = tokio::time::timeout(PATIENCE, self.bus.on_message().next()).await.unwrap().unwrap();
        let order = message.get_payload_bytes().strip_prefix(b"WC\x01o").expect("an order").to_vec();
        serde_json::from_slice(&order).unwrap()
    }
}

fn order_to_ann(order: Value) -> Value {
    json!({"user": "ann", "client": null, "whitelist": [], "order": order})
}

#[actix_rt::test]
async fn unsubscribe_and_disconnect_say_whom_and_what() {
    let mut overheard = overheard().await;
    let order = overheard.order("unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(order, order_to_ann(json!({"unsubscribe": {"channel": "news"}})));
    let forced = json!({"disconnect": {"code": 3503, "reason": "force disconnect"}});
    // The second as clients write it that know no difference between nothing and zero.
    let unset =
        json!({"user": "ann", "client": "", "session": "", "whitelist": [], "disconnect": {"code": 0, "reason": ""}});
    for request in [json!({"user": "ann"}), unset, json!({"user": "ann", "client": null, "whitelist": null})] {
        assert_eq!(overheard.order("disconnect", request).await, order_to_ann(forced.clone()));
    }
    let request = json!({"user": "ann", "session": "c1", "whitelist": ["c2", "c3"], "disconnect": {"code": 4999, "reason": "bye"}});
    let order = overheard.order("disconnect", request).await;
    let bye = json!({"disconnect": {"code": 4999, "reason": "bye"}});
    assert_eq!(order, json!({"user": "ann", "client": "c1", "whitelist": ["c2", "c3"], "order": bye}));
    let order = overheard.order("disconnect", json!({"user": "ann", "disconnect": {"reason": "why"}})).await;
    assert_eq!(order, order_to_ann(json!({"disconnect": {"code": 3503, "reason": "why"}})));
}

#[actix_rt::test]
async fn refresh_says_until_when_and_what_is_over_closes() {
    let mut overheard = overheard().await;
    let now = overheard.hub.clock.now() / 1000;
    for (request, expires_at) in [
        (json!({}), None),
        (json!({"expire_at": 0, "expired": false}), None),
        (json!({"expire_at": now + 60}), Some((now + 60) * 1000)),
    ] {
        let order = overheard.order("refresh", of_ann(request)).await;
        assert_eq!(order, order_to_ann(json!({"refresh": {"expires_at": expires_at, "info": null}})));
    }
    let order =
        overheard.order("refresh", json!({"user": "ann", "info": {"name": "Ann"}, "expire_at": i64::MAX})).await;
    assert_eq!(order, order_to_ann(json!({"refresh": {"expires_at": i64::MAX, "info": "{\"name\":\"Ann\"}"}})));
    overheard.hub.clock.advance(Duration::from_secs(120));
    let over = order_to_ann(json!({"disconnect": {"code": 3005, "reason": "connection expired"}}));
    for request in [
        json!({"expired": true}),
        json!({"expire_at": now + 60}),
        json!({"expire_at": -1}),
        json!({"expire_at": i64::MIN}),
    ] {
        assert_eq!(overheard.order("refresh", of_ann(request)).await, over);
    }
}

fn of_ann(mut request: Value) -> Value {
    request["user"] = json!("ann");
    request
}

#[actix_rt::test]
async fn an_order_over_several_lines_stays_one_line() {
    let mut overheard = overheard().await;
    let body = "{\"user\":\"ann\",\n\"info\":[1,\r\n2]}";
    let call = super::api::call(&overheard.hub, "refresh", body).await;
    assert_eq!(call.json(), json!({"result": {}}));
    let message = tokio::time::timeout(PATIENCE, overheard.bus.on_message().next()).await.unwrap().unwrap();
    let order: Value = serde_json::from_slice(&message.get_payload_bytes()[4..]).unwrap();
    assert_eq!(order["order"]["refresh"]["info"], "[1,  2]");
}

#[actix_rt::test]
async fn orders_that_no_session_can_do_are_refused() {
    let hub = hub().await;
    for method in ["unsubscribe", "disconnect", "refresh"] {
        for user in [json!(null), json!(""), json!("a\0b"), json!("x".repeat(256))] {
            let answer = hub.api(method, json!({"user": user, "channel": "news"})).await;
            assert_eq!(answer["error"]["code"], 107, "{method} {user:.20}");
        }
        for whom in [json!({"client": "a", "session": "b"}), json!({"client": "x".repeat(65)})] {
            let mut request = of_ann(whom);
            request["channel"] = json!("news");
            assert_eq!(hub.api(method, request).await["error"]["code"], 107);
        }
    }
    for (channel, code) in [(json!(null), 107), (json!(""), 107), (json!("a*"), 107), (json!("chat:1"), 102)] {
        let answer = hub.api("unsubscribe", json!({"user": "ann", "channel": channel})).await;
        assert_eq!(answer["error"]["code"], code, "{channel}");
    }
    for close in [
        json!({"code": 2999}),
        json!({"code": 5000}),
        json!({"code": 1000}),
        json!({"code": -1}),
        json!({"code": 70_000}),
        json!({"code": 68_536 + 3503}),
        json!({"code": 3503, "reason": "x".repeat(124)}),
        json!({"code": 3503, "reason": "{\"a\":1}"}),
        json!({"reason": "7"}),
    ] {
        let answer = hub.api("disconnect", json!({"user": "ann", "disconnect": close})).await;
        assert_eq!(answer["error"]["code"], 107, "{close}");
    }
}

#[actix_rt::test]
async fn whitelists_and_infos_without_end_are_refused() {
    let hub = hub().await;
    let spared = |count: usize| json!({"user": "ann", "whitelist": vec!["c"; count]});
    assert_eq!(hub.api("disconnect", spared(1000)).await, json!({"result": {}}));
    assert_eq!(hub.api("disconnect", spared(100_000)).await["error"]["code"], 106);
    let info = |bytes: usize| json!({"user": "ann", "info": "x".repeat(bytes - 2)});
    assert_eq!(hub.api("refresh", info(4096)).await, json!({"result": {}}));
    assert_eq!(hub.api("refresh", info(4097)).await["error"]["code"], 106);
}

#[actix_rt::test]
async fn an_order_without_redis_is_a_temporary_error_that_says_nothing_of_it() {
    let mut redis = RedisServer::start().await;
    let url = redis.url();
    let hub = hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(url);
    })
    .await;
    eventually("the broker is up", async || hub.running().metrics.broker_up.get() == 1).await;
    redis.kill();
    eventually("the broker is down", async || hub.running().metrics.broker_up.get() == 0).await;
    let error = json!({"error": {"code": 100, "message": "internal server error", "temporary": true}});
    for method in ["disconnect", "refresh", "info", "channels"] {
        assert_eq!(hub.api(method, json!({"user": "ann"})).await, error, "{method}");
    }
    assert_eq!(hub.api("unsubscribe", json!({"user": "ann", "channel": "news"})).await, error);
    let batch = json!({"commands": [{"disconnect": {"user": "ann"}}]});
    assert_eq!(hub.api("batch", batch).await, json!({"replies": [error]}));
}
