//! Backend hooks: the backend decides about subscriptions and publications, and answers rpc.

use std::time::Duration;

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use wardcast::config::{AllowSubscribe, ChannelAccess, Config, Namespace, Secret};

use crate::support::{
    TestHub,
    backend::{Answer, Backend},
    http, start_hub_with,
};

/// A namespace whose channels ask the hooks, and which is closed without them.
fn asking_namespace(config: &Config) -> Namespace {
    let mut channels = config.channels.clone();
    (channels.subscribe_hook, channels.publish_hook) = (true, true);
    (channels.allow_subscribe, channels.allow_publish) = (AllowSubscribe::None, ChannelAccess::None);
    channels.history_size = 10;
    channels.allow_history = ChannelAccess::User;
    Namespace { name: "ask".to_owned(), channels }
}

/// A hub whose hooks ask `/subscribe`, `/publish` and `/rpc` of the backend.
pub async fn start(backend: &Backend, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        backend.configure(&mut config.hooks.subscribe, "/subscribe");
        backend.configure(&mut config.hooks.publish, "/publish");
        backend.configure(&mut config.hooks.rpc, "/rpc");
        config.namespaces.push(asking_namespace(config));
        (config.limits.commands_per_second, config.limits.publications_per_second) = (0, 0);
        change(config);
    })
    .await
}

pub fn rpc(id: u32, method: &str) -> Value {
    json!({"id": id, "rpc": {"method": method, "data": {"n": id}}})
}

#[actix_rt::test]
async fn rpc_passes_method_data_and_user_to_the_backend_and_its_answer_to_the_client() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let (mut ann, greeting) = hub.connect_with_claims(json!({"sub": "ann", "exp": 3600})).await;
    backend.answer(
        "/rpc",
        Answer::Raw(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"result\": {\"data\": {\n \"price\": 1.50\r\n}}}".to_vec(),
        ),
    );
    ann.send(rpc(2, "price")).await;
    assert_eq!(ann.receive_text().await, r#"{"id":2,"rpc":{"data":{  "price": 1.50  }}}"#);
    let call = backend.calls("/rpc").remove(0);
    let client = &greeting["client"];
    let expected = format!(
        r#"{{"client":{client},"transport":"websocket","protocol":"json","encoding":"json","user":"ann","method":"price","data":{{"n":2}}}}"#
    );
    assert_eq!(call.body, expected);
    assert_eq!(call.headers("content-type"), ["application/json"]);
    backend.answer_json("/rpc", json!({"result": {}}));
    assert_eq!(ann.request(json!({"id": 3, "rpc": {}})).await, json!({"id": 3, "rpc": {}}));
    backend.answer_json("/rpc", json!({"error": {"code": 1000, "message": "no funds"}}));
    assert_eq!(ann.request(rpc(4, "x")).await, json!({"id": 4, "error": {"code": 1000, "message": "no funds"}}));
    backend.answer_json("/rpc", json!({"disconnect": {"code": 4500, "reason": "banned"}}));
    ann.send(rpc(5, "x")).await;
    assert_eq!(ann.wait_for_close().await, (Some(4500), "banned".to_owned()));
    assert_eq!(hub.metric("wardcast_hook_calls_total{hook=\"rpc\",outcome=\"answered\"}").await, 2.0);
    assert_eq!(hub.metric("wardcast_hook_calls_total{hook=\"rpc\",outcome=\"refused\"}").await, 2.0);
}

#[actix_rt::test]
async fn subscribe_hook_decides_where_no_grant_does() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    backend.answer_json("/subscribe", json!({"error": {"code": 103, "message": "permission denied"}}));
    let claims = json!({"sub": "ann", "exp": 3600, "caps": [{"channels": ["ask:granted"], "allow": ["sub"]}]});
    let (mut ann, _) = hub.connect_with_claims(claims).await;
    assert_eq!(ann.subscribe_with("ask:1", json!({"data": {"why": 1}})).await["error"]["code"], 103);
    let call = backend.calls("/subscribe").remove(0).json();
    assert_eq!((&call["channel"], &call["user"], &call["data"]), (&json!("ask:1"), &json!("ann"), &json!({"why": 1})));
    for (channel, code) in [("ask:granted", None), ("ask:#ann", None), ("ask:#bob", Some(103)), ("$ask:1", Some(103))] {
        let reply = ann.subscribe_with(channel, json!({})).await;
        assert_eq!(reply["error"]["code"].as_u64(), code, "{channel}: {reply}");
    }
    assert_eq!(ann.subscribe_with("news", json!({})).await["subscribe"], json!({}));
    assert_eq!(backend.calls("/subscribe").len(), 1, "only where no grant decides");
    backend.answer_json("/subscribe", json!({"disconnect": {"code": 4000, "reason": "later"}}));
    ann.send(json!({"id": 9, "subscribe": {"channel": "ask:2"}})).await;
    assert_eq!(ann.wait_for_close().await, (Some(4000), "later".to_owned()));
}

#[actix_rt::test]
async fn approved_subscription_has_info_data_and_options_and_ends_when_the_backend_said() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut ann = hub.connect("ann").await;
    let expire_at = hub.clock.now().unix_seconds() + 60;
    let result = json!({"info": {"role": "admin"}, "data": {"welcome": 1}, "expire_at": expire_at,
        "override": {"force_positioning": {"value": true}}});
    backend.answer_json("/subscribe", json!({"result": result}));
    let reply = ann.subscribe_with("ask:1", json!({})).await;
    let subscribed = &reply["subscribe"];
    assert_eq!((&subscribed["data"], &subscribed["positioned"]), (&json!({"welcome": 1}), &json!(true)), "{reply}");
    assert!(subscribed.get("expires").is_none(), "it has no token to refresh: {reply}");
    backend.answer_json("/publish", json!({"result": {}}));
    ann.send(json!({"id": 3, "publish": {"channel": "ask:1", "data": 1}})).await;
    let received = [ann.receive().await, ann.receive().await];
    let publication = received.iter().find(|message| message["push"].is_object()).unwrap();
    assert_eq!(publication["push"]["pub"]["info"]["chan_info"], json!({"role": "admin"}));
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2501);
    backend.answer_json("/subscribe", json!({"error": {"code": 403, "message": "no longer"}}));
    assert_eq!(ann.subscribe_with("ask:1", json!({})).await["error"]["code"], 403);
}

#[actix_rt::test]
async fn subscribe_commands_that_follow_each_other_ask_the_hook_at_once_and_are_answered_in_order() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut ann = hub.connect("ann").await;
    // The backend answers none before it has all of them.
    backend.answer("/subscribe", Answer::WhenCalled(20));
    let commands = (1..=20).map(|id| json!({"id": id, "subscribe": {"channel": format!("ask:{id}")}}).to_string());
    let mut text = commands.collect::<Vec<_>>().join("\n");
    text += "\n{\"id\":21,\"subscribe\":{\"channel\":\"news\"}}\n{\"id\":22,\"ping\":{}}";
    ann.send_text(&text).await;
    for id in 1..=22 {
        let reply = ann.receive().await;
        assert_eq!(reply["id"], id, "{reply}");
        assert!(reply.get("error").is_none(), "{reply}");
    }
    assert_eq!(backend.calls("/subscribe").len(), 20, "each is asked once");
}

#[actix_rt::test]
async fn publish_hook_refuses_or_changes_what_clients_publish() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.limits.publication_bytes = 1000).await;
    backend.answer_json("/subscribe", json!({"result": {}}));
    let mut bob = hub.connect("bob").await;
    bob.subscribe_with("ask:1", json!({})).await;
    let mut ann = hub.connect("ann").await;
    let publish = |id: u32| json!({"id": id, "publish": {"channel": "ask:1", "data": {"text": "darn"}}});
    backend.answer_json("/publish", json!({"error": {"code": 1001, "message": "rude"}}));
    assert_eq!(ann.request(publish(2)).await["error"]["code"], 1001);
    backend.answer_json("/publish", json!({"result": {"data": {"text": "****"}, "skip_history": true}}));
    assert_eq!(ann.request(publish(3)).await, json!({"id": 3, "publish": {}}));
    assert_eq!(bob.receive_publication().await, json!({"text": "****"}));
    backend.answer_json("/publish", json!({"result": {}}));
    assert_eq!(ann.request(publish(4)).await, json!({"id": 4, "publish": {}}));
    assert_eq!(bob.receive_publication().await, json!({"text": "darn"}));
    let history = ann.request(json!({"id": 5, "history": {"channel": "ask:1", "limit": 10}})).await;
    assert_eq!(history["history"]["publications"].as_array().unwrap().len(), 1, "{history}");
    backend.answer_json("/publish", json!({"result": {"data": "x".repeat(1000)}}));
    assert_eq!(ann.request(publish(6)).await["error"]["code"], 106);
    for (channel, code) in [("ask:#bob", 103), ("$ask:1", 103)] {
        let reply = ann.request(json!({"id": 7, "publish": {"channel": channel, "data": 1}})).await;
        assert_eq!(reply["error"]["code"], code, "{channel}");
    }
    let calls = backend.calls("/publish");
    assert_eq!(calls.len(), 4);
    assert_eq!(calls[0].json()["data"], json!({"text": "darn"}));
}

#[actix_rt::test]
async fn publish_hook_is_asked_about_publications_of_users_over_rest_and_not_of_the_server_api() {
    let backend = Backend::start().await;
    let listed = ["x-trace", "authorization", "cookie"];
    let hub = start(&backend, |config| config.hooks.publish.headers = listed.map(str::to_owned).into()).await;
    backend.answer_json("/subscribe", json!({"result": {}}));
    let mut bob = hub.connect("bob").await;
    bob.subscribe_with("ask:1", json!({})).await;
    let post = || {
        let request =
            http::post(hub.address, "/v1/channels/ask:1/messages").header("Authorization", &hub.bearer("ann"));
        request.header("X-Trace", "7").header("Cookie", "session=7").json(json!("darn")).send()
    };
    backend.answer_json("/publish", json!({"error": {"code": 1001, "message": "rude"}}));
    assert_eq!(post().await.json()["error"]["code"], 1001);
    backend.answer_json("/publish", json!({"disconnect": {"code": 4500, "reason": "banned"}}));
    assert_eq!(post().await.json()["error"]["code"], 103);
    backend.answer_json("/publish", json!({"result": {"data": "****"}}));
    assert!(post().await.json()["result"].is_object());
    assert_eq!(bob.receive_publication().await, json!("****"));
    let call = backend.calls("/publish").remove(0);
    assert_eq!(
        call.body,
        r#"{"transport":"http","protocol":"json","encoding":"json","user":"ann","channel":"ask:1","data":"darn"}"#
    );
    assert_eq!(call.headers("x-trace"), ["7"]);
    assert!(call.headers("cookie").is_empty() && call.headers("authorization").is_empty());
    hub.publish("ask:1", json!("from the backend")).await;
    assert_eq!(bob.receive_publication().await, json!("from the backend"));
    assert_eq!(backend.calls("/publish").len(), 3);
}

#[actix_rt::test]
async fn waiting_for_a_hook_holds_up_only_the_later_commands_of_its_client() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.server.workers = 1).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect_subscriber("bob", "news").await);
    ann.subscribe("news").await;
    backend.answer("/rpc", Answer::Silence);
    ann.send(rpc(2, "slow")).await;
    ann.send(json!({"id": 3, "ping": {}})).await;
    backend.wait_for_calls("/rpc", 1).await;
    assert_eq!(bob.request(json!({"id": 4, "ping": {}})).await, json!({"id": 4, "ping": {}}));
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, json!(1));
    backend.answer_json("/rpc", json!({"result": {"data": "late"}}));
    assert_eq!(ann.receive().await, json!({"id": 2, "rpc": {"data": "late"}}));
    assert_eq!(ann.receive().await, json!({"id": 3, "ping": {}}));
}

#[actix_rt::test]
async fn earlier_end_by_the_server_api_does_not_wait_for_the_commands_of_the_client() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.rpc.timeout = Duration::from_secs(25)).await;
    let mut ann = hub.connect("ann").await;
    backend.answer("/rpc", Answer::Silence);
    ann.send(rpc(2, "slow")).await;
    backend.wait_for_calls("/rpc", 1).await;
    let expire_at = hub.clock.now().unix_seconds() + 2;
    hub.call_api("refresh", json!({"user": "ann", "expire_at": expire_at})).await;
    assert_eq!(ann.wait_for_close().await.0, Some(3005));
    assert!(hub.clock.now().unix_seconds() < expire_at + 15, "before the backend has timed out");
}

#[actix_rt::test]
async fn answer_for_a_session_that_has_ended_meanwhile_has_no_effect() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    backend.answer_json("/subscribe", json!({"result": {}}));
    let (mut bob, _) = hub.connect_with_claims(json!({"sub": "bob", "exp": 36_000})).await;
    bob.subscribe_with("ask:1", json!({})).await;
    for (number, path, command) in [
        (1, "/publish", json!({"id": 2, "publish": {"channel": "ask:1", "data": "too late"}})),
        (2, "/subscribe", json!({"id": 2, "subscribe": {"channel": "ask:2"}})),
    ] {
        let token = hub.token_for("ann", Duration::from_secs(60));
        let mut ann = hub.connect_to(&format!("/socket?token={token}"), &[]).await;
        backend.answer(path, Answer::Silence);
        ann.send(command).await;
        backend.wait_for_calls(path, number).await;
        hub.clock.advance(Duration::from_secs(61));
        assert_eq!(ann.wait_for_close().await.0, Some(3005));
        backend.answer_json(path, json!({"result": {}}));
    }
    hub.wait_for_connections(1).await;
    hub.publish("ask:1", json!("end")).await;
    assert_eq!(bob.receive_publication().await, json!("end"));
    hub.wait_for_channels(&[("ask:1", 1)]).await;
}

#[actix_rt::test]
async fn right_to_publish_that_ends_while_the_backend_is_asked_is_missing() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
    backend.answer_json("/subscribe", json!({"result": {}}));
    bob.subscribe_with("ask:1", json!({})).await;
    backend.answer("/publish", Answer::Silence);
    ann.send(json!({"id": 7, "publish": {"channel": "ask:1", "data": 1}})).await;
    backend.wait_for_calls("/publish", 1).await;
    let token = hub.bearer("ann");
    let request = http::post(hub.address, "/v1/channels/ask:1/messages").header("Authorization", &token);
    let over_rest = actix_rt::spawn(request.json(json!(2)).send());
    backend.wait_for_calls("/publish", 2).await;
    hub.call_api("invalidate_user_tokens", json!({"user": "ann", "channel": "ask:1"})).await;
    backend.answer_json("/publish", json!({"result": {}}));
    let reply = ann.receive().await;
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(7), &json!(103)), "{reply}");
    let reply = over_rest.await.unwrap().json();
    assert_eq!(reply["error"]["code"], 103, "{reply}");
    hub.publish("ask:1", json!("next")).await;
    assert_eq!(bob.receive_publication().await, "next");
}

#[actix_rt::test]
async fn hook_gets_only_listed_headers_of_the_handshake_and_a_signature() {
    let secret = "the secret of the hooks: 32 bytes or more";
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.hooks.rpc.headers = vec!["Cookie".to_owned(), "x-forwarded-for".to_owned()];
        config.hooks.secret = Secret::new(secret);
    })
    .await;
    backend.answer_json("/rpc", json!({"result": {}}));
    let origin = format!("http://{}", hub.address);
    let headers = [("Origin", &*origin), ("Cookie", "session=abc"), ("X-Other", "x"), ("X-Forwarded-For", "1.2.3.4")];
    let mut ann = hub.connect_to(&hub.path_for("ann"), &headers).await;
    ann.request(rpc(1, "x")).await;
    let call = backend.calls("/rpc").remove(0);
    assert_eq!(call.headers("cookie"), ["session=abc"]);
    assert_eq!(call.headers("x-forwarded-for"), ["1.2.3.4"]);
    assert!(call.headers("x-other").is_empty() && call.headers("authorization").is_empty());
    let signature = call.headers("x-wardcast-signature")[0];
    let (time, hex) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    hmac::verify(&key, format!("{time}.{}", call.body).as_bytes(), &bytes).unwrap();
    assert!((hub.clock.now().unix_seconds() - time.parse::<i64>().unwrap()).abs() < 60);
    let long = "x".repeat(9000);
    let path = hub.path_for("ann");
    assert_eq!(hub.try_handshake(&path, &[("X-Forwarded-For", &long)]).await.status, 400);
}

#[actix_rt::test]
async fn connection_that_the_backend_has_closed_is_replaced() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut ann = hub.connect("ann").await;
    let closing = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"result\":{}}";
    backend.answer("/rpc", Answer::Raw(closing.to_vec()));
    for id in 1..=10 {
        // The close may still be on its way, so a call may fail; but only that one.
        let reply = ann.request(rpc(id, "x")).await;
        assert!(reply["rpc"].is_object() || reply["error"]["code"] == 100, "{reply}");
    }
    backend.answer_json("/rpc", json!({"result": {}}));
    ann.request(rpc(11, "x")).await;
    assert_eq!(ann.request(rpc(12, "x")).await, json!({"id": 12, "rpc": {}}));
}
