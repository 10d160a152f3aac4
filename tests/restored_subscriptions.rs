//! Server-side subscriptions that a client had before it reconnected, and names in `connect`: it gets those that the server API
//! has given and not taken away, and those to which it may subscribe.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::{
    config::{AllowSubscribe, Config},
    protocol::schema::{Command, ConnectRequest, SubscribeRequest},
};

use crate::support::{
    Client, TestHub, poll_until, protobuf::ProtobufClient, redis::RedisServer, start_hub_on, start_hub_with,
};

/// Starts a hub with a history. `$` channels and the namespace `closed` are open to nobody without a grant.
async fn start_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        (config.channels.history_size, config.channels.force_recovery) = (10, true);
        let closed = toml::from_str("name = \"closed\"\nhistory_size = 10\nforce_recovery = true").unwrap();
        config.namespaces = vec![closed];
        change(config);
    })
    .await
}

/// Connects as SDKs do, and names these subscriptions.
async fn connect_with_subs(hub: &TestHub, token: &str, subs: &Value) -> (Client, Value) {
    let mut client = hub.connect_without_token().await;
    let mut reply = client.request(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    (client, reply["connect"]["subs"].take())
}

/// Has the server API subscribe all sessions of ann to a channel. Returns the position with which the client reconnects.
async fn subscribe_ann(hub: &TestHub, ann: &mut Client, mut request: Value) -> Value {
    request["user"] = json!("ann");
    assert_eq!(hub.call_api("subscribe", request).await, json!({"result": {}}));
    let push = ann.receive().await;
    let subscribed = &push["push"]["subscribe"];
    assert!(subscribed["recoverable"] == true && subscribed["epoch"].is_string(), "{push}");
    json!({"recover": true, "epoch": subscribed["epoch"], "offset": subscribed["offset"].as_u64().unwrap_or(0)})
}

fn data_of(result: &Value) -> Vec<Value> {
    result["publications"].as_array().into_iter().flatten().map(|missed| missed["data"].clone()).collect()
}

#[actix_rt::test]
async fn subscription_of_the_server_api_is_restored_with_recovery_and_its_terms() {
    let hub = start_hub(|_| ()).await;
    for channel in ["news", "closed:1", "$secret"] {
        let mut ann = hub.connect_sdk(&hub.token("ann")).await;
        let expire_at = hub.clock.now().unix_seconds() + 600;
        let request = json!({"channel": channel, "data": {"hi": 1}, "info": {"seat": 4}, "expire_at": expire_at});
        let position = subscribe_ann(&hub, &mut ann, request).await;
        drop(ann);
        hub.publish(channel, json!("missed")).await;
        let (mut ann, subs) = connect_with_subs(&hub, &hub.token("ann"), &json!({channel: position})).await;
        let result = &subs[channel];
        assert_eq!((&result["recovered"], data_of(result)), (&json!(true), vec![json!("missed")]), "{channel}: {subs}");
        assert_eq!((&result["data"], &result["expires"]), (&json!({"hi": 1}), &json!(true)), "{channel}: {subs}");
        hub.publish(channel, json!("live")).await;
        assert_eq!(ann.receive_publication().await, "live");
        // It is still a subscription of the server API, which a newer token does not end.
        let refresh = json!({"id": 2, "refresh": {"token": hub.token_for("ann", Duration::from_secs(120))}});
        assert!(ann.request(refresh).await["refresh"].is_object());
        hub.publish(channel, json!("later")).await;
        assert_eq!(ann.receive_publication().await, "later");
        hub.call_api("unsubscribe", json!({"user": "ann", "channel": channel})).await;
        assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
    }
}

#[actix_rt::test]
async fn subscription_of_the_server_api_is_restored_in_protobuf() {
    let hub = start_hub(|_| ()).await;
    let mut ann = hub.connect_sdk(&hub.token("ann")).await;
    let position = subscribe_ann(&hub, &mut ann, json!({"channel": "closed:1"})).await;
    hub.publish("closed:1", json!(1)).await;
    let headers = &[("Sec-WebSocket-Protocol", "centrifuge-protobuf")];
    let mut client = ProtobufClient::connect(hub.address, "/connection/websocket", headers).await.unwrap();
    let epoch = position["epoch"].as_str().unwrap().to_owned();
    let asked = SubscribeRequest { recover: true, epoch, ..Default::default() };
    let subs = [("closed:1".to_owned(), asked)].into();
    let connect = Some(ConnectRequest { token: hub.token("ann"), subs, ..Default::default() });
    let reply = client.request(Command { id: 1, connect, ..Default::default() }).await;
    let result = reply.connect.expect("a result").subs.remove(0).result.expect("a subscription");
    assert!(result.recovered && result.publications.len() == 1, "{result:?}");
}

#[actix_rt::test]
async fn client_gets_what_it_may_subscribe_to_and_nothing_else() {
    let hub = start_hub(|_| ()).await;
    let subs = json!({"news": {"recover": true}, "closed:1": {"recover": true}, "$secret": {}, "dialog#bob": {}, "#ann": {},
        "nowhere:1": {}, "a*": {}, "": {}});
    let (mut ann, granted) = connect_with_subs(&hub, &hub.token("ann"), &subs).await;
    assert_eq!(granted.as_object().unwrap().keys().collect::<Vec<_>>(), ["#ann", "news"]);
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
    // A subscription by right ends when newer claims no longer give it; here the hub's options give it to every user.
    let caps = json!([{"channels": ["closed:1"], "allow": ["sub"]}]);
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "caps": caps}));
    let (mut ann, granted) = connect_with_subs(&hub, &token, &json!({"closed:1": {"recover": true}})).await;
    assert_eq!(granted["closed:1"]["recovered"], true, "{granted}");
    ann.send(json!({"id": 2, "refresh": {"token": hub.token("ann")}})).await;
    assert_eq!(ann.receive().await["push"]["unsubscribe"]["code"], 2000);
}

#[actix_rt::test]
async fn unsubscribe_of_the_server_api_takes_the_grant_away_also_while_its_client_is_away() {
    let hub = start_hub(|_| ()).await;
    for filter in [json!({}), json!({"client": "another"})] {
        let mut ann = hub.connect_sdk(&hub.token("ann")).await;
        let position = subscribe_ann(&hub, &mut ann, json!({"channel": "closed:1"})).await;
        drop(ann);
        let mut request = json!({"user": "ann", "channel": "closed:1"});
        request.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        hub.call_api("unsubscribe", request).await;
        let (_ann, subs) = connect_with_subs(&hub, &hub.token("ann"), &json!({"closed:1": position})).await;
        assert!(subs.is_null(), "{subs}");
    }
}

#[actix_rt::test]
async fn user_that_the_server_api_has_sent_away_gets_nothing_back() {
    let hub = start_hub(|_| ()).await;
    for (close, is_restored) in [(json!({"code": 4000, "reason": "later"}), true), (Value::Null, false)] {
        let mut ann = hub.connect_sdk(&hub.token("ann")).await;
        let position = subscribe_ann(&hub, &mut ann, json!({"channel": "closed:1"})).await;
        hub.call_api("disconnect", json!({"user": "ann", "disconnect": close})).await;
        ann.wait_for_close().await;
        let (_ann, subs) = connect_with_subs(&hub, &hub.token("ann"), &json!({"closed:1": position})).await;
        assert_eq!(subs["closed:1"].is_object(), is_restored, "{close}: {subs}");
        hub.call_api("unsubscribe", json!({"user": "ann", "channel": "closed:1"})).await;
    }
}

#[actix_rt::test]
async fn grant_is_not_another_users_nor_for_a_session_that_asks_for_nothing() {
    let hub = start_hub(|_| ()).await;
    let mut ann = hub.connect_sdk(&hub.token("ann")).await;
    subscribe_ann(&hub, &mut ann, json!({"channel": "closed:1"})).await;
    let (_bob, subs) = connect_with_subs(&hub, &hub.token("bob"), &json!({"closed:1": {}})).await;
    assert!(subs.is_null(), "{subs}");
    let (_other, subs) = connect_with_subs(&hub, &hub.token("ann"), &json!({})).await;
    assert!(subs.is_null(), "{subs}");
}

#[actix_rt::test]
async fn grant_ends_with_the_token_of_its_session_and_a_refresh_extends_it() {
    enum Extension {
        None,
        Refresh,
        ApiRefresh,
        Reconnect,
    }
    let hub = start_hub(|_| ()).await;
    let asked = json!({"closed:1": {"recover": true}});
    for (extension, is_restored) in [
        (Extension::None, false),
        (Extension::Refresh, true),
        (Extension::ApiRefresh, true),
        (Extension::Reconnect, true),
    ] {
        let mut ann = hub.connect_sdk(&hub.token_for("ann", Duration::from_secs(60))).await;
        subscribe_ann(&hub, &mut ann, json!({"channel": "closed:1"})).await;
        let newer = hub.token_for("ann", Duration::from_secs(3600));
        match extension {
            Extension::None => {}
            Extension::Refresh => {
                assert!(ann.request(json!({"id": 2, "refresh": {"token": newer}})).await["refresh"].is_object());
            }
            Extension::ApiRefresh => {
                let expire_at = hub.clock.now().unix_seconds() + 3600;
                hub.call_api("refresh", json!({"user": "ann", "expire_at": expire_at})).await;
                assert!(ann.receive().await["push"]["refresh"].is_object());
            }
            Extension::Reconnect => assert!(connect_with_subs(&hub, &newer, &asked).await.1["closed:1"].is_object()),
        }
        drop(ann);
        hub.clock.advance(Duration::from_secs(61));
        let (_ann, subs) = connect_with_subs(&hub, &hub.token("ann"), &asked).await;
        assert_eq!(subs["closed:1"].is_object(), is_restored, "{subs}");
        hub.call_api("unsubscribe", json!({"user": "ann", "channel": "closed:1"})).await;
    }
}

#[actix_rt::test]
async fn grant_in_a_channel_that_is_limited_to_other_users_is_not_restored() {
    let hub = start_hub(|_| ()).await;
    for channel in ["dialog#bob", "dialog#ann,bob"] {
        assert_eq!(hub.call_api("subscribe", json!({"user": "ann", "channel": channel})).await, json!({"result": {}}));
    }
    let asked = json!({"dialog#bob": {}, "dialog#ann,bob": {}});
    let (_ann, subs) = connect_with_subs(&hub, &hub.token("ann"), &asked).await;
    assert_eq!(subs.as_object().unwrap().keys().collect::<Vec<_>>(), ["dialog#ann,bob"]);
}

#[actix_rt::test]
async fn restored_subscriptions_use_no_more_channels_than_a_session_may_have() {
    let hub = start_hub(|config| config.limits.channels_per_session = 3).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["own"]}));
    let asked: serde_json::Map<String, Value> = (0..50).map(|number| (format!("c{number:02}"), json!({}))).collect();
    let (_ann, subs) = connect_with_subs(&hub, &token, &Value::Object(asked)).await;
    assert_eq!(subs.as_object().unwrap().keys().collect::<Vec<_>>(), ["c00", "c01", "own"]);
}

#[actix_rt::test]
async fn connect_of_a_plain_session_leaves_its_own_subscriptions_as_they_are() {
    let hub = start_hub(|config| config.channels.allow_subscribe = AllowSubscribe::User).await;
    let mut ann = hub.connect("ann").await;
    let claims = json!({"sub": "ann", "exp": 60, "channel": "news", "info": {"seat": 4}});
    ann.subscribe_with("news", json!({"token": hub.token_with_claims(claims)})).await;
    ann.send(json!({"id": 2, "connect": {"subs": {"news": {"recover": true}}}})).await;
    assert!(ann.receive().await["connect"]["client"].is_string());
    ann.send(json!({"id": 3, "publish": {"channel": "news", "data": 1}})).await;
    let received = [ann.receive().await, ann.receive().await];
    let info = received.iter().find_map(|received| received["push"]["pub"].get("info")).expect("a publication");
    assert_eq!(info["chan_info"], json!({"seat": 4}));
}

#[actix_rt::test]
async fn grant_is_known_to_every_hub_and_forgotten_by_one_that_may_have_missed_an_unsubscribe() {
    let redis = RedisServer::start().await;
    let closed = |config: &mut Config| config.namespaces = vec![toml::from_str("name = \"closed\"").unwrap()];
    let (one, two) = (start_hub_on(&redis, closed).await, start_hub_on(&redis, closed).await);
    one.wait_for_nodes(2).await;
    let asked = json!({"closed:1": {}});
    let mut ann = one.connect_sdk(&one.token("ann")).await;
    one.call_api("subscribe", json!({"user": "ann", "channel": "closed:1"})).await;
    assert!(ann.receive().await["push"]["subscribe"].is_object());
    // The other hub learns of it over Redis, perhaps a little later.
    poll_until("the other hub restores the subscription", async || {
        connect_with_subs(&two, &two.token("ann"), &asked).await.1["closed:1"].is_object()
    })
    .await;
    redis.run::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    poll_until("the hubs have lost their connections", async || {
        connect_with_subs(&two, &two.token("ann"), &asked).await.1.is_null()
    })
    .await;
}

#[actix_rt::test]
async fn grant_from_a_redis_connection_that_failed_to_come_up_is_forgotten() {
    let redis = RedisServer::start().await;
    let hub =
        start_hub_on(&redis, |config| config.namespaces = vec![toml::from_str("name = \"closed\"").unwrap()]).await;
    let mut eve = hub.connect("eve").await;
    eve.subscribe("news").await;
    // The hub may subscribe to its own channels, and then not to that of the publications.
    let own = ["&wardcast:control", "&wardcast:replies:*", "&wardcast:probe:*"];
    redis.run::<()>(&[&["ACL", "SETUSER", "default", "resetchannels"], &own[..]].concat()).await;
    redis.run::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let order =
        json!({"subscribe": {"channel": "closed:1", "info": null, "data": null, "since": null, "expires_at": null}});
    let control = json!({"user": "ann", "client": null, "whitelist": [], "order": order});
    let message = [b"WC\x01o", control.to_string().as_bytes()].concat();
    // It receives some of these between the two.
    let mut received = 0;
    while received < 5 {
        received += redis.publish("wardcast:control", &message).await;
    }
    poll_until("the hub gives up the connection that has received them", async || {
        redis.run::<(String, u64)>(&["PUBSUB", "NUMSUB", "wardcast:control"]).await.1 == 0
    })
    .await;
    redis.run::<()>(&["ACL", "SETUSER", "default", "allchannels"]).await;
    hub.wait_for_broker(true).await;
    let (_ann, subs) = connect_with_subs(&hub, &hub.token("ann"), &json!({"closed:1": {}})).await;
    assert!(subs.is_null(), "{subs}");
}

#[actix_rt::test]
async fn user_whose_tokens_are_invalidated_gets_back_nothing_that_the_server_api_gave() {
    let hub = start_hub(|_| ()).await;
    let mut ann = hub.connect_sdk(&hub.token("ann")).await;
    let position = subscribe_ann(&hub, &mut ann, json!({"channel": "closed:1"})).await;
    assert_eq!(hub.call_api("invalidate_user_tokens", json!({"user": "ann"})).await, json!({"result": {}}));
    assert_eq!(ann.wait_for_close().await.0, Some(3500));
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "iat": 3}));
    let (_ann, subs) = connect_with_subs(&hub, &token, &json!({"closed:1": position})).await;
    assert_eq!(subs, Value::Null);
}
