//! Controls of the server API as messages to all nodes, read from the Redis channel that carries them; and calls that are
//! refused before a message is sent.

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::{PATIENCE, TestHub, redis::RedisServer, start_hub, start_hub_on};

/// A hub on a Redis, and a connection that receives the hub's control messages there.
struct HubAndBus {
    hub: TestHub,
    bus: redis::aio::PubSub,
    _redis: RedisServer,
}

async fn start_hub_and_listen() -> HubAndBus {
    let redis = RedisServer::start().await;
    let mut bus = redis::Client::open(redis.url()).unwrap().get_async_pubsub().await.unwrap();
    bus.subscribe("wardcast:control").await.unwrap();
    HubAndBus { hub: start_hub_on(&redis, |_| ()).await, bus, _redis: redis }
}

impl HubAndBus {
    /// Calls a method, which must succeed; returns the control message that it sends.
    async fn call(&mut self, method: &str, request: Value) -> Value {
        assert_eq!(self.hub.call_api(method, request).await, json!({"result": {}}));
        self.receive().await
    }

    async fn receive(&mut self) -> Value {
        let mut messages = self.bus.on_message();
        loop {
            let message = tokio::time::timeout(PATIENCE, messages.next()).await.unwrap().unwrap();
            // The hub's heartbeats use the same channel.
            if let Some(control) = message.get_payload_bytes().strip_prefix(b"WC\x01o") {
                return serde_json::from_slice(control).unwrap();
            }
        }
    }
}

fn control_for_ann(order: Value) -> Value {
    json!({"user": "ann", "client": null, "whitelist": [], "order": order})
}

#[actix_rt::test]
async fn unsubscribe_and_disconnect_controls_name_target_and_code() {
    let mut setup = start_hub_and_listen().await;
    let control = setup.call("unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(control, control_for_ann(json!({"unsubscribe": {"channel": "news"}})));
    let forced = json!({"disconnect": {"code": 3503, "reason": "force disconnect"}});
    // The second is written as by clients that do not distinguish an absent member from a zero.
    let unset =
        json!({"user": "ann", "client": "", "session": "", "whitelist": [], "disconnect": {"code": 0, "reason": ""}});
    for request in [json!({"user": "ann"}), unset, json!({"user": "ann", "client": null, "whitelist": null})] {
        assert_eq!(setup.call("disconnect", request).await, control_for_ann(forced.clone()));
    }
    let request = json!({"user": "ann", "session": "c1", "whitelist": ["c2", "c3"], "disconnect": {"code": 4999, "reason": "bye"}});
    let control = setup.call("disconnect", request).await;
    let bye = json!({"disconnect": {"code": 4999, "reason": "bye"}});
    assert_eq!(control, json!({"user": "ann", "client": "c1", "whitelist": ["c2", "c3"], "order": bye}));
    let control = setup.call("disconnect", json!({"user": "ann", "disconnect": {"reason": "why"}})).await;
    assert_eq!(control, control_for_ann(json!({"disconnect": {"code": 3503, "reason": "why"}})));
}

#[actix_rt::test]
async fn refresh_control_sets_expiry_and_expired_flag_closes_session() {
    let mut setup = start_hub_and_listen().await;
    let now = setup.hub.clock.now().unix_seconds();
    for (request, expires_at) in [
        (json!({}), None),
        (json!({"expire_at": 0, "expired": false}), None),
        (json!({"expire_at": now + 60}), Some((now + 60) * 1000)),
    ] {
        let control = setup.call("refresh", request_for_ann(request)).await;
        assert_eq!(control, control_for_ann(json!({"refresh": {"expires_at": expires_at, "info": null}})));
    }
    let last = 99_999_999_999_i64;
    let control = setup.call("refresh", json!({"user": "ann", "info": {"name": "Ann"}, "expire_at": last})).await;
    assert_eq!(control, control_for_ann(json!({"refresh": {"expires_at": last * 1000, "info": "{\"name\":\"Ann\"}"}})));
    let over = control_for_ann(json!({"disconnect": {"code": 3005, "reason": "connection expired"}}));
    for request in [json!({"expired": true}), json!({"expired": true, "expire_at": now - 60})] {
        assert_eq!(setup.call("refresh", request_for_ann(request)).await, over);
    }
}

#[actix_rt::test]
async fn expire_at_in_the_past_or_in_milliseconds_is_107_and_changes_nothing() {
    let hub = start_hub().await;
    let mut ann = hub.connect("ann").await;
    let now = hub.clock.now().unix_seconds();
    for (expire_at, problem) in [
        (1, "is in the past"),
        (now, "is in the past"),
        (-1, "is in the past"),
        (i64::MIN, "is in the past"),
        (now * 1000 + 60_000, "is in milliseconds"),
        (i64::MAX, "is in milliseconds"),
    ] {
        for method in ["subscribe", "refresh"] {
            let answer = hub.call_api(method, json!({"user": "ann", "channel": "news", "expire_at": expire_at})).await;
            let message = format!(
                "bad request: expire_at must be a date in the future, in seconds since 1970; {expire_at} {problem}"
            );
            assert_eq!(answer, json!({"error": {"code": 107, "message": message}}), "{method}");
        }
    }
    ann.subscribe("news").await;
}

#[actix_rt::test]
async fn control_whose_client_and_session_differ_reaches_nobody_and_is_no_error() {
    let mut setup = start_hub_and_listen().await;
    let request =
        |client: &str, session: &str| json!({"user": "ann", "channel": "news", "client": client, "session": session});
    for method in ["subscribe", "unsubscribe", "disconnect", "refresh"] {
        assert_eq!(setup.hub.call_api(method, request("c1", "other")).await, json!({"result": {}}), "{method}");
        for bad in [request("c1", &"x".repeat(65)), request(&"x".repeat(65), "c1")] {
            assert_eq!(setup.hub.call_api(method, bad).await["error"]["code"], 107, "{method}");
        }
    }
    // The first control that is sent is this one.
    let control = setup.call("unsubscribe", request("c1", "c1")).await;
    assert_eq!((&control["client"], &control["order"]["unsubscribe"]["channel"]), (&json!("c1"), &json!("news")));
}

fn request_for_ann(mut request: Value) -> Value {
    request["user"] = json!("ann");
    request
}

#[actix_rt::test]
async fn control_message_is_always_one_line() {
    let mut setup = start_hub_and_listen().await;
    let body = "{\"user\":\"ann\",\n\"info\":[1,\r\n2]}";
    let response = super::api::post_api(&setup.hub, "refresh", body).await;
    assert_eq!(response.json(), json!({"result": {}}));
    assert_eq!(setup.receive().await["order"]["refresh"]["info"], "[1,  2]");
}

#[actix_rt::test]
async fn invalid_controls_are_refused_by_the_api() {
    let hub = start_hub().await;
    for method in ["unsubscribe", "disconnect", "refresh"] {
        for user in [json!(null), json!(""), json!("a\0b"), json!("x".repeat(256))] {
            let answer = hub.call_api(method, json!({"user": user, "channel": "news"})).await;
            assert_eq!(answer["error"]["code"], 107, "{method} {user:.20}");
        }
        let long_id = json!({"user": "ann", "channel": "news", "client": "x".repeat(65)});
        assert_eq!(hub.call_api(method, long_id).await["error"]["code"], 107);
    }
    for (channel, code) in [(json!(null), 107), (json!(""), 107), (json!("a*"), 107), (json!("chat:1"), 102)] {
        let answer = hub.call_api("unsubscribe", json!({"user": "ann", "channel": channel})).await;
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
        let answer = hub.call_api("disconnect", json!({"user": "ann", "disconnect": close})).await;
        assert_eq!(answer["error"]["code"], 107, "{close}");
    }
}

#[actix_rt::test]
async fn oversized_whitelist_and_info_are_refused() {
    let hub = start_hub().await;
    let whitelist = |count: usize| json!({"user": "ann", "whitelist": vec!["c"; count]});
    assert_eq!(hub.call_api("disconnect", whitelist(1000)).await, json!({"result": {}}));
    assert_eq!(hub.call_api("disconnect", whitelist(100_000)).await["error"]["code"], 106);
    let info = |bytes: usize| json!({"user": "ann", "info": "x".repeat(bytes - 2)});
    assert_eq!(hub.call_api("refresh", info(4096)).await, json!({"result": {}}));
    assert_eq!(hub.call_api("refresh", info(4097)).await["error"]["code"], 106);
}

#[actix_rt::test]
async fn control_without_redis_is_temporary_error_100_without_details() {
    let mut redis = RedisServer::start().await;
    let hub = start_hub_on(&redis, |_| ()).await;
    redis.kill();
    hub.wait_for_broker(false).await;
    let error = json!({"error": {"code": 100, "message": "internal server error", "temporary": true}});
    for method in ["disconnect", "refresh"] {
        assert_eq!(hub.call_api(method, json!({"user": "ann"})).await, error, "{method}");
    }
    assert_eq!(hub.call_api("unsubscribe", json!({"user": "ann", "channel": "news"})).await, error);
    let batch = json!({"commands": [{"disconnect": {"user": "ann"}}]});
    assert_eq!(hub.call_api("batch", batch).await, json!({"replies": [error]}));
}
