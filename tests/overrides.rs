//! Options of one subscription in a token: `override`, and `info` and `data` in Base64, in `subs` and in subscription tokens, in
//! JSON and in Protobuf.

use serde_json::{Value, json};
use wardcast::{
    config::{ChannelAccess, Config},
    protocol::schema::{Command, ConnectRequest, SubscribeRequest},
};

use crate::support::{Client, TestHub, protobuf::ProtobufClient, start_hub_with};

const PROTOBUF: (&str, &str) = ("Sec-WebSocket-Protocol", "centrifuge-protobuf");

/// Starts a hub whose channels have a history, presence, and joins and leaves.
async fn start_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        (config.channels.history_size, config.channels.presence, config.channels.join_leave) = (10, true, true);
        config.channels.allow_presence = ChannelAccess::User;
        change(config);
    })
    .await
}

/// Claims of ann with a server-side subscription to `news` that has these options.
fn server_side(options: Value) -> Value {
    json!({"sub": "ann", "exp": 3600, "subs": {"news": options}})
}

/// A token of ann for one subscription to `news` with these options.
fn subscription_token(hub: &TestHub, mut options: Value) -> String {
    options
        .as_object_mut()
        .unwrap()
        .extend(json!({"sub": "ann", "exp": 3600, "channel": "news"}).as_object().unwrap().clone());
    hub.token_with_claims(options)
}

/// Subscribes ann to `news` with these options, once by `subs` and once by a subscription token; returns the clients, each with
/// the result of its subscription.
async fn subscribe_both_ways(hub: &TestHub, options: &Value) -> [(Client, Value); 2] {
    let (server_side, mut connect) = hub.connect_with_claims(server_side(options.clone())).await;
    let mut client = hub.connect("ann").await;
    let mut reply = client.subscribe_with("news", json!({"token": subscription_token(hub, options.clone())})).await;
    [(server_side, connect["subs"]["news"].take()), (client, reply["subscribe"].take())]
}

async fn presence(hub: &TestHub) -> Vec<Value> {
    let mut reply = hub.call_api("presence", json!({"channel": "news"})).await;
    reply["result"]["presence"].take().as_object().unwrap().values().cloned().collect()
}

#[actix_rt::test]
async fn overridden_presence_and_base64_info_are_obeyed_in_both_kinds_of_token() {
    let hub = start_hub(|_| ()).await;
    let hidden = json!({"b64info": "e30=", "override": {"presence": {"value": false}}});
    let clients = subscribe_both_ways(&hub, &hidden).await;
    assert_eq!(presence(&hub).await, Vec::<Value>::new());
    drop(clients);
    hub.wait_for_connections(0).await;
    let visible = json!({"b64info": "eyJzZWF0Ijo0fQ==", "b64data": "WzFd"});
    for (_client, result) in subscribe_both_ways(&hub, &visible).await {
        assert_eq!(result["data"], json!([1]), "{result}");
        assert!(presence(&hub).await.iter().all(|info| info["chan_info"] == json!({"seat": 4})));
    }
}

#[actix_rt::test]
async fn overridden_join_and_leave_are_neither_sent_nor_received() {
    let hub = start_hub(|config| config.channels.force_push_join_leave = true).await;
    let mut eve = hub.connect("eve").await;
    eve.subscribe_with("news", json!({})).await;
    assert_eq!(eve.receive().await["push"]["join"]["info"]["user"], "eve");
    let silent = json!({"override": {"join_leave": {"value": false}, "force_push_join_leave": {"value": false}}});
    let clients = subscribe_both_ways(&hub, &silent).await;
    let mut bob = hub.connect("bob").await;
    bob.subscribe_with("news", json!({})).await;
    assert_eq!(eve.receive().await["push"]["join"]["info"]["user"], "bob", "the first one after eve's own");
    hub.publish("news", json!(1)).await;
    for (mut client, _) in clients {
        assert_eq!(client.receive_publication().await, 1, "the first push");
    }
}

#[actix_rt::test]
async fn join_and_leave_can_be_switched_on_for_one_subscription() {
    let hub = start_hub(|config| config.channels.join_leave = false).await;
    let loud = json!({"override": {"join_leave": {"value": true}, "force_push_join_leave": {"value": true}}});
    let [(mut server_side, _), (mut client, _)] = subscribe_both_ways(&hub, &loud).await;
    for _ in 0..2 {
        assert_eq!(server_side.receive().await["push"]["join"]["info"]["user"], "ann");
    }
    assert_eq!(client.receive().await["push"]["join"]["info"]["user"], "ann");
}

#[actix_rt::test]
async fn positions_and_recovery_are_switched_on_and_off() {
    for (key, is_recoverable) in [("force_positioning", false), ("force_recovery", true)] {
        let off = start_hub(|_| ()).await;
        let options = |value: bool| json!({"override": {key: {"value": value}}});
        for (_client, result) in subscribe_both_ways(&off, &options(true)).await {
            assert_eq!(result["positioned"], true, "{key}: {result}");
            assert_eq!(result["recoverable"] == true, is_recoverable, "{key}: {result}");
            assert!(result["epoch"].is_string(), "{key}: {result}");
        }
        let on = start_hub(|config| {
            (config.channels.force_positioning, config.channels.force_recovery) = (!is_recoverable, is_recoverable);
        })
        .await;
        for (_client, result) in subscribe_both_ways(&on, &options(false)).await {
            assert!(result["positioned"].is_null() && result["recoverable"].is_null(), "{key}: {result}");
        }
    }
    // Without a history there is no position, whatever a token says.
    let hub = start_hub(|config| config.channels.history_size = 0).await;
    for (_client, result) in subscribe_both_ways(&hub, &json!({"override": {"force_recovery": {"value": true}}})).await
    {
        assert!(result["positioned"].is_null() && result["recoverable"].is_null(), "{result}");
    }
}

#[actix_rt::test]
async fn options_of_tokens_are_obeyed_in_protobuf_too() {
    let hub = start_hub(|_| ()).await;
    let hidden = json!({"b64info": "e30=", "b64data": "WzFd", "override": {
        "presence": {"value": false}, "force_recovery": {"value": true},
    }});
    let mut server_side_client =
        ProtobufClient::connect(hub.address, "/connection/websocket", &[PROTOBUF]).await.unwrap();
    let token = hub.token_with_claims(server_side(hidden.clone()));
    let connect = Some(ConnectRequest { token, ..Default::default() });
    let reply = server_side_client.request(Command { id: 1, connect, ..Default::default() }).await;
    let result = reply.connect.expect("a result").subs.remove(0).result.expect("a subscription");
    assert!(result.recoverable && result.positioned && &result.data[..] == b"[1]", "{result:?}");
    let mut client = ProtobufClient::connect(hub.address, "/connection/websocket", &[PROTOBUF]).await.unwrap();
    let connect = Some(ConnectRequest { token: hub.token("ann"), ..Default::default() });
    client.request(Command { id: 1, connect, ..Default::default() }).await;
    let (channel, token) = ("news".to_owned(), subscription_token(&hub, hidden));
    let subscribe = Some(SubscribeRequest { channel, token, ..Default::default() });
    let result = client.request(Command { id: 2, subscribe, ..Default::default() }).await.subscribe.expect("a result");
    assert!(result.recoverable && result.positioned && &result.data[..] == b"[1]", "{result:?}");
    assert_eq!(presence(&hub).await, Vec::<Value>::new());
}

#[actix_rt::test]
async fn server_api_overrides_options_too_and_a_restored_subscription_keeps_them() {
    let hub = start_hub(|_| ()).await;
    let mut ann = hub.connect_sdk(&hub.token("ann")).await;
    let overrides = json!({"presence": {"value": false}, "force_recovery": {"value": true}, "join_leave": null});
    let request = json!({"user": "ann", "channel": "news", "override": overrides});
    assert_eq!(hub.call_api("subscribe", request).await, json!({"result": {}}));
    let push = ann.receive().await;
    assert_eq!(push["push"]["subscribe"]["recoverable"], true, "{push}");
    assert_eq!(presence(&hub).await, Vec::<Value>::new());
    drop(ann);
    hub.wait_for_connections(0).await;
    let mut ann = hub.connect_without_token().await;
    let connect = json!({"token": hub.token("ann"), "subs": {"news": {}}});
    let reply = ann.request(json!({"id": 1, "connect": connect})).await;
    assert_eq!(reply["connect"]["subs"]["news"]["recoverable"], true, "{reply}");
    assert_eq!(presence(&hub).await, Vec::<Value>::new());
}
