//! Commands of a client and their replies: subscribe, publish, many commands in a frame, protocol errors, and features that
//! are not enabled.

use serde_json::json;
use wardcast::{
    config::{AllowSubscribe, ChannelAccess},
    protocol::schema::{self, PublishRequest, SubRefreshRequest, SubscribeRequest, UnsubscribeRequest},
};

use crate::support::{raw, start_hub, start_hub_with};

#[actix_rt::test]
async fn publication_carries_authenticated_sender_and_ignores_claimed_one() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let mut bob = hub.connect("bob").await;
    let spoof = json!({"id": 2, "publish": {"channel": "news", "data": {"n": 1}, "info": {"user": "root"}}});
    assert_eq!(bob.request(spoof).await, json!({"id": 2, "publish": {}}));
    let push = ann.receive().await;
    let publication = &push["push"]["pub"];
    assert_eq!(publication["data"], json!({"n": 1}));
    assert_eq!(publication["info"]["user"], "bob");
    assert_eq!(push["push"]["channel"], "news");
}

#[actix_rt::test]
async fn replies_keep_the_order_of_commands_in_one_frame() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let lines: Vec<String> = (1..=40)
        .map(|id| match id % 4 {
            0 => json!({"id": id, "ping": {}}),
            1 => json!({"id": id, "subscribe": {"channel": format!("channel-{id}")}}),
            2 => json!({"id": id, "presence": {"channel": "x"}}),
            _ => json!({"id": id, "publish": {"channel": "elsewhere", "data": id}}),
        })
        .map(|command| command.to_string())
        .collect();
    client.send_text(&(lines.join("\n") + "\n")).await;
    for id in 1..=40 {
        assert_eq!(client.receive().await["id"], id);
    }
}

#[actix_rt::test]
async fn second_subscribe_is_105_and_unsubscribe_ends_delivery() {
    let hub = start_hub().await;
    let mut client = hub.connect_subscriber("ann", "news").await;
    assert_eq!(client.subscribe_with("news", json!({})).await["error"]["code"], 105);
    for id in [3, 4] {
        let reply = client.request(json!({"id": id, "unsubscribe": {"channel": "news"}})).await;
        assert_eq!(reply, json!({"id": id, "unsubscribe": {}}));
    }
    hub.publish("news", json!("while unsubscribed")).await;
    client.subscribe("news").await;
    hub.publish("news", json!("while subscribed")).await;
    assert_eq!(client.receive_publication().await, json!("while subscribed"));
}

#[actix_rt::test]
async fn denied_channel_and_missing_channel_give_same_error() {
    let hub = start_hub_with(|config| {
        config.channels.allow_subscribe = AllowSubscribe::None;
        config.channels.allow_publish = ChannelAccess::None;
    })
    .await;
    let mut client = hub.connect("ann").await;
    for channel in ["news", "nothing", "$secret", "#bob"] {
        let subscribe = client.request(json!({"id": 1, "subscribe": {"channel": channel}})).await;
        let publish = client.request(json!({"id": 1, "publish": {"channel": channel, "data": 1}})).await;
        assert_eq!(subscribe, publish, "{channel}");
        assert_eq!(subscribe["error"]["code"], 103, "{channel}");
    }
    let unknown = client.request(json!({"id": 1, "subscribe": {"channel": "chat:1"}})).await;
    assert_eq!(unknown["error"]["code"], 102);
}

#[actix_rt::test]
async fn misleading_channel_name_is_107() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    for channel in ["", "a*", " a", "a\nb", "a\u{202e}b", "a\0", &"x".repeat(256)] {
        let reply = client.subscribe_with(channel, json!({})).await;
        assert_eq!(reply["error"]["code"], 107, "{channel:?}");
    }
}

#[actix_rt::test]
async fn publishing_may_be_limited_to_subscribers() {
    let hub = start_hub_with(|config| config.channels.allow_publish = ChannelAccess::Subscriber).await;
    let mut client = hub.connect("ann").await;
    let publish = json!({"id": 2, "publish": {"channel": "news", "data": 1}});
    assert_eq!(client.request(publish.clone()).await["error"]["code"], 103);
    client.subscribe("news").await;
    client.send(publish).await;
    let reply_and_push = [client.receive().await, client.receive().await];
    assert!(reply_and_push.contains(&json!({"id": 2, "publish": {}})), "{reply_and_push:?}");
    assert!(reply_and_push.iter().any(|received| received["push"]["pub"]["data"] == 1), "{reply_and_push:?}");
}

#[actix_rt::test]
async fn subscription_over_the_channel_limit_is_106() {
    let hub = start_hub_with(|config| config.limits.channels_per_session = 3).await;
    let mut client = hub.connect("ann").await;
    for channel in ["a", "b", "c"] {
        client.subscribe(channel).await;
    }
    assert_eq!(client.subscribe_with("d", json!({})).await["error"]["code"], 106);
    client.request(json!({"id": 2, "unsubscribe": {"channel": "a"}})).await;
    client.subscribe("d").await;
}

#[actix_rt::test]
async fn protocol_errors_of_plain_session_are_107_until_the_limit_closes_it_with_3509() {
    let hub = start_hub_with(|config| config.limits.errors = 3).await;
    let mut client = hub.connect("ann").await;
    for (text, error) in [
        ("hello", json!({"error": {"code": 107, "message": "bad request: not a JSON object"}})),
        (
            r#"{"id":4,"foo":{}}"#,
            json!({"id": 4, "error": {"code": 107, "message": "bad request: unknown method \"foo\""}}),
        ),
        (
            r#"{"id":6,"subscribe":{"channel":5}}"#,
            json!({"id": 6, "error": {"code": 107, "message": "bad request: subscribe.channel has the wrong type"}}),
        ),
    ] {
        client.send_text(text).await;
        assert_eq!(client.receive().await, error);
    }
    client.subscribe("news").await;
    client.send_text("hello").await;
    assert_eq!(client.wait_for_close().await.0, Some(3509));
}

#[actix_rt::test]
async fn protocol_error_closes_sdk_session_with_3501() {
    let hub = start_hub().await;
    for text in ["hello", r#"{"id":1}"#, r#"{"id":0,"ping":{}}"#, "{\"id\":2,\"ping\":{}}\n\n{\"id\":3,\"ping\":{}}"] {
        let mut client = hub.connect_sdk(&hub.token("ann")).await;
        client.send_text(text).await;
        assert_eq!(client.wait_for_close().await.0, Some(3501), "{text}");
    }
}

#[actix_rt::test]
async fn unsubscribe_of_a_name_that_no_channel_can_have_succeeds() {
    let hub = start_hub().await;
    let mut client = hub.connect_sdk(&hub.token("ann")).await;
    for channel in ["a\u{0}b", "", "a*", " ", &"x".repeat(256), "nowhere:1", "never subscribed"] {
        let reply = client.request(json!({"id": 5, "unsubscribe": {"channel": channel}})).await;
        assert_eq!(reply, json!({"id": 5, "unsubscribe": {}}), "{channel:?}");
    }
    let mut protobuf = hub.connect_protobuf_sdk("ann").await;
    let unsubscribe = Some(UnsubscribeRequest { channel: "a\u{0}b".to_owned() });
    let reply = protobuf.request(schema::Command { id: 5, unsubscribe, ..Default::default() }).await;
    assert!(reply.id == 5 && reply.unsubscribe.is_some() && reply.error.is_none(), "{reply:?}");
}

#[actix_rt::test]
async fn publish_without_data_is_107_and_the_session_continues() {
    let hub = start_hub().await;
    for mut client in [hub.connect("ann").await, hub.connect_sdk(&hub.token("ann")).await] {
        for publish in [json!({"channel": "news"}), json!({}), json!({"channel": "news", "tags": {}})] {
            let reply = client.request(json!({"id": 4, "publish": publish})).await;
            let message = "bad request: publish.data is missing";
            assert_eq!(reply, json!({"id": 4, "error": {"code": 107, "message": message}}));
        }
        client.publish("news", json!(null)).await;
    }
}

/// Map subscriptions, keyed publications and the like are not offered. Answering them as the default type would deliver
/// something else than the client asked for.
#[actix_rt::test]
async fn type_other_than_0_is_108_before_anything_else_is_judged() {
    let hub = start_hub_with(|config| config.auth.require_token_per_message = true).await;
    let mut client = hub.connect("ann").await;
    for method in [
        json!({"subscribe": {"channel": "m", "type": 1}}),
        json!({"subscribe": {"channel": "m", "type": -1, "phase": 1, "limit": 5}}),
        json!({"subscribe": {"channel": "no\nname", "type": 2, "token": "x", "tf": 5, "delta": "fossil"}}),
        json!({"publish": {"channel": "news", "type": 1, "key": "k", "removed": true}}),
        json!({"publish": {"channel": "", "type": 1}}),
        json!({"sub_refresh": {"channel": "news", "type": 2, "track": [{"keys": []}]}}),
    ] {
        let mut command = method.clone();
        command["id"] = json!(5);
        let reply = client.request(command).await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(5), &json!(108)), "{method}: {reply}");
    }
    let mut protobuf = hub.connect_protobuf_sdk("ann").await;
    let subscribe = Some(SubscribeRequest { channel: "m".to_owned(), r#type: 1, ..Default::default() });
    let publish = Some(PublishRequest { channel: "m".to_owned(), r#type: 1, ..Default::default() });
    let sub_refresh = Some(SubRefreshRequest { channel: "m".to_owned(), r#type: -1, ..Default::default() });
    for command in [
        schema::Command { subscribe, ..Default::default() },
        schema::Command { publish, ..Default::default() },
        schema::Command { sub_refresh, ..Default::default() },
    ] {
        let reply = protobuf.request(schema::Command { id: 6, ..command }).await;
        assert_eq!((reply.id, reply.error.map(|error| error.code)), (6, Some(108)));
    }
}

#[actix_rt::test]
async fn disabled_features_are_108_and_send_closes_with_3508() {
    let hub = start_hub().await;
    let mut client = hub.connect_sdk(&hub.token("ann")).await;
    for method in ["presence", "presence_stats", "history", "rpc"] {
        let mut command = json!({"id": 2});
        command[method] = json!({"channel": "news"});
        assert_eq!(client.request(command).await["error"]["code"], 108, "{method}");
    }
    client.send(json!({"send": {"data": 1}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3508));
}

#[actix_rt::test]
async fn data_over_the_size_limit_is_refused_and_deeply_nested_data_is_delivered() {
    let hub = start_hub_with(|config| config.limits.publication_bytes = 20_000).await;
    let mut client = hub.connect_subscriber("ann", "news").await;
    let big = json!({"id": 2, "publish": {"channel": "news", "data": "x".repeat(20_000)}});
    assert_eq!(client.request(big).await["error"]["code"], 106);
    let deep = format!("{}{}", "[".repeat(9_000), "]".repeat(9_000));
    client.send_text(&format!(r#"{{"id":3,"publish":{{"channel":"news","data":{deep}}}}}"#)).await;
    let both = [client.receive_text().await, client.receive_text().await];
    assert!(both.iter().any(|text| text.contains(&deep)) && both.iter().any(|text| text.contains(r#""id":3"#)));
}

#[actix_rt::test]
async fn valid_and_invalid_commands_in_one_frame_are_answered_in_order() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let bob = hub.token("bob");
    let frame = [
        r#"{"id":1,"subscribe":{"channel":"a"}}"#,
        "nonsense",
        r#"{"id":2,"subscribe":{"channel":"a*"}}"#,
        r#"{"id":3,"history":{"channel":"a"}}"#,
        "{}",
        r#"{"id":4,"id":5,"ping":{}}"#,
        r#"{"id":6,"publish":{"channel":"$x","data":1}}"#,
        r#"{"id":7,"ping":{}}"#,
        &format!(r#"{{"id":8,"token":"{bob}","ping":{{}}}}"#),
        r#"{"id":9,"publish":{"channel":"a","data":"after the close"}}"#,
    ];
    client.send_text(&frame.join("\n")).await;
    assert_eq!(client.receive().await, json!({"id": 1, "subscribe": {}}));
    let expected = [(json!(null), 107), (json!(2), 107), (json!(3), 108), (json!(null), 107), (json!(6), 103)];
    for (id, code) in expected {
        let reply = client.receive().await;
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&id, &json!(code)), "{reply}");
    }
    assert_eq!(client.receive().await, json!({"id": 7, "ping": {}}));
    let mut other = hub.connect_subscriber("cat", "a").await;
    assert_eq!(client.wait_for_close().await.0, Some(3500), "the token of another user closes the session");
    hub.publish("a", json!("next")).await;
    assert_eq!(other.receive_publication().await, json!("next"), "the command after it is not executed");
}

#[actix_rt::test]
async fn nul_and_lone_surrogates_are_refused_in_names_and_tokens_and_kept_in_data() {
    let hub = start_hub_with(|config| config.limits.errors = 100).await;
    let mut client = hub.connect_subscriber("ann", "news").await;
    for (name, code) in
        [(r"a\u0000b", 107), (r"\ufeff", 107), (r"\ufffd", 107), (r"a\ud800", 107), (r"\udc00\ud800", 107)]
    {
        for method in ["subscribe", "publish", "sub_refresh"] {
            client.send_text(&format!(r#"{{"id":2,"{method}":{{"channel":"{name}","data":1,"token":"x"}}}}"#)).await;
            assert_eq!(client.receive().await["error"]["code"], code, "{method} {name}");
        }
    }
    for token in [r"a\u0000b", r"a\u0000.b.c", r".\u0000."] {
        let mut other = hub.connect("ann").await;
        other.send_text(&format!(r#"{{"id":2,"refresh":{{"token":"{token}"}}}}"#)).await;
        assert_eq!(other.wait_for_close().await.0, Some(3500), "{token}");
    }
    client.send_text(r#"{"id":2,"subscribe":{"channel":"$x","token":"a\u0000b"}}"#).await;
    assert_eq!(client.receive().await["error"]["code"], 103);
    client.send_text(r#"{"id":2,"refresh":{"token":"\ud800"}}"#).await;
    assert_eq!(client.receive().await["error"]["code"], 107, "the JSON string is not valid text");
    // Data is forwarded unchanged; its receivers decide what it means, as with numbers out of range.
    client.send_text(r#"{"id":3,"publish":{"channel":"news","data":"\ud800\u0000"}}"#).await;
    let reply_and_push = [client.receive_text().await, client.receive_text().await];
    assert!(reply_and_push.iter().any(|text| text.contains(r#""data":"\ud800\u0000""#)), "{reply_and_push:?}");
}

#[actix_rt::test]
async fn eight_megabytes_of_newlines_are_refused_by_frame_header_and_fewer_are_protocol_errors() {
    let hub = start_hub().await;
    let mut flood = hub.connect_raw("ann").await;
    flood.send_until_closed(&raw::frame(raw::FIN | raw::TEXT, &vec![b'\n'; 8 << 20])).await;
    // The server disconnects without reading the rest, so that a reset may overtake the close frame.
    let code = flood.wait_for_close().await;
    assert!([Some(1009), None].contains(&code), "{code:?}");
    assert_eq!(hub.running().metrics.closes_with_code(1009), 1);

    let newlines = "\n".repeat(60_000);
    let mut plain = hub.connect("ann").await;
    plain.send_text(&newlines).await;
    for _ in 0..16 {
        assert_eq!(plain.receive().await["error"]["code"], 107);
    }
    assert_eq!(plain.wait_for_close().await.0, Some(3509));
    let mut sdk = hub.connect_sdk(&hub.token("ann")).await;
    sdk.send_text(&newlines).await;
    assert_eq!(sdk.wait_for_close().await.0, Some(3501));
}

#[actix_rt::test]
async fn hundred_thousand_keys_and_deep_unknown_members_are_ignored() {
    let hub = start_hub_with(|config| config.limits.message_bytes = 4 << 20).await;
    let mut client = hub.connect("ann").await;
    let keys: Vec<String> = (0..100_000).map(|n| format!(r#""k{n}":{n}"#)).collect();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for extra in [
        keys.join(","),
        format!(r#""x":{deep}"#),
        format!(r#""x":{}"#, r#"{"a":"#.repeat(9_000) + "1" + &"}".repeat(9_000)),
    ] {
        client.send_text(&format!(r#"{{"id":1,{extra},"ping":{{}}}}"#)).await;
        assert_eq!(client.receive().await, json!({"id": 1, "ping": {}}));
        client.send_text(&format!(r#"{{"id":1,"unsubscribe":{{{extra},"channel":"a"}}}}"#)).await;
        assert_eq!(client.receive().await, json!({"id": 1, "unsubscribe": {}}));
    }
    // A duplicate key is not ignored: the choice between the two values would be a guess.
    client.send_text(r#"{"id":1,"subscribe":{"channel":"a","channel":"b"}}"#).await;
    assert_eq!(client.receive().await["error"]["code"], 107);
}
