//! Permissions for channels on every path: subscribe and publish over a socket, publish over REST with a user's token,
//! server-side subscriptions of a token. A missing permission gives the same error on all of them, and a name that is
//! similar to a granted one is another channel.

use serde_json::{Value, json};

use crate::support::{Client, TestHub, deny_by_default, http, raw, start_hub_with};

fn caps(channels: &[&str], kind: &str) -> Value {
    json!({"sub": "ann", "exp": 3600, "caps": [{"channels": channels, "match": kind, "allow": ["sub", "pub"]}]})
}

/// The channel as one path segment, in which every byte but ASCII letters and digits is escaped.
fn path_segment(channel: &str) -> String {
    let escaped =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { format!("%{byte:02X}") };
    channel.bytes().map(escaped).collect()
}

/// Publishes over REST with a user's token; returns the body of the response.
async fn publish_over_rest(hub: &TestHub, segment: &str, token: &str) -> Value {
    let request = http::post(hub.address, &format!("/v1/channels/{segment}/messages"));
    let answer = request.header("Authorization", &format!("Bearer {token}")).json(json!(1)).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Tries a channel on the three paths that a client can choose; returns the error codes, 0 for success.
async fn try_every_path(hub: &TestHub, client: &mut Client, channel: &str, token: &str) -> [u64; 3] {
    let code = |answer: &Value| answer["error"]["code"].as_u64().unwrap_or(0);
    let publish = client.request(json!({"id": 3, "publish": {"channel": channel, "data": 1}})).await;
    let subscribe = client.request(json!({"id": 2, "subscribe": {"channel": channel}})).await;
    if code(&subscribe) == 0 {
        client.request(json!({"id": 4, "unsubscribe": {"channel": channel}})).await;
    }
    [code(&subscribe), code(&publish), code(&publish_over_rest(hub, &path_segment(channel), token).await)]
}

const LOOK_ALIKES: [&str; 12] = [
    "room-10",
    "room-1:x",
    "ROOM-1",
    "Room-1",
    "room-",
    "room-1-",
    "room-１",
    "ｒｏｏｍ-1",
    "rооm-1",
    "room‐1",
    "$room-1",
    "room-1#",
];

#[actix_rt::test]
async fn name_similar_to_granted_channel_is_denied_on_every_path() {
    let hub = start_hub_with(deny_by_default).await;
    for (granted, kind) in [("room-1", "exact"), ("room-1", "wildcard"), ("room-[1]", "regex")] {
        let claims = caps(&[granted], kind);
        let (mut client, _) = hub.connect_with_claims(claims.clone()).await;
        let token = hub.token_with_claims(claims);
        assert_eq!(try_every_path(&hub, &mut client, "room-1", &token).await, [0; 3], "{kind}");
        for channel in LOOK_ALIKES {
            // "room-1:x" is in a namespace that does not exist.
            let code = if channel.contains(':') { 102 } else { 103 };
            assert_eq!(try_every_path(&hub, &mut client, channel, &token).await, [code; 3], "{kind} {channel}");
        }
        for channel in ["room-1\0", " room-1", "room-1 ", "room-1\n", "room-1\u{200b}", "room-1*", "\u{feff}room-1"] {
            assert_eq!(try_every_path(&hub, &mut client, channel, &token).await, [107; 3], "{kind} {channel:?}");
        }
    }
}

#[actix_rt::test]
async fn publication_to_similar_channel_name_does_not_reach_the_channel() {
    let hub = start_hub_with(deny_by_default).await;
    let (mut ann, _) = hub.connect_with_claims(caps(&["room-1"], "exact")).await;
    ann.subscribe("room-1").await;
    let (mut bob, _) = hub.connect_with_claims(caps(&LOOK_ALIKES, "exact")).await;
    for channel in LOOK_ALIKES {
        bob.request(json!({"id": 2, "publish": {"channel": channel, "data": "other channel"}})).await;
    }
    hub.publish("room-1", json!("right channel")).await;
    assert_eq!(ann.receive_publication().await, json!("right channel"));
}

#[actix_rt::test]
async fn escaped_nul_or_invalid_utf8_in_path_is_107() {
    let hub = start_hub_with(deny_by_default).await;
    let token = hub.token_with_claims(caps(&["room-1"], "exact"));
    for segment in ["room-1%00", "%00", "room-1%0A", "room-1%FF", "room-1%C0%80", "room-1%ED%A0%80", "room-1%EF%BF%BD"]
    {
        assert_eq!(publish_over_rest(&hub, segment, &token).await["error"]["code"], 107, "{segment}");
        let request = http::post(hub.address, &format!("/v1/channels/{segment}/messages"));
        let with_key = request.header("X-API-Key", crate::support::API_KEY).json(json!(1)).send().await;
        assert_eq!(with_key.json()["error"]["code"], 107, "{segment}");
    }
    assert_eq!(publish_over_rest(&hub, "room-1", &token).await, json!({"result": {}}));
}

#[actix_rt::test]
async fn denied_and_missing_channels_give_same_errors_on_every_path() {
    let hub = start_hub_with(deny_by_default).await;
    let claims = json!({"sub": "ann", "exp": 3600});
    let _bob = hub.connect_with_claims(json!({"sub": "bob", "exp": 3600, "channels": ["there", "$there"]})).await;
    let (mut client, _) = hub.connect_with_claims(claims.clone()).await;
    let token = hub.token_with_claims(claims);
    for (existing, missing) in [("there", "nothing"), ("$there", "$nothing"), ("there#bob", "nothing#bob")] {
        let mut replies = Vec::new();
        for channel in [existing, missing] {
            let subscribe = json!({"id": 2, "subscribe": {"channel": channel}});
            let publish = json!({"id": 2, "publish": {"channel": channel, "data": 1}});
            let refresh = json!({"id": 2, "sub_refresh": {"channel": channel, "token": hub.forged_token("ann")}});
            let (subscribe, publish) = (client.request(subscribe).await, client.request(publish).await);
            let refresh = client.request(refresh).await;
            assert_eq!((&subscribe, &publish), (&publish, &refresh), "{channel}");
            replies.push((subscribe, publish_over_rest(&hub, &path_segment(channel), &token).await));
        }
        assert_eq!(replies[0], replies[1], "{existing}");
        assert_eq!(replies[0].1, json!({"error": {"code": 103, "message": "permission denied"}}));
    }
    // An unsubscribe without a subscription reveals nothing either.
    for channel in ["there", "nothing"] {
        let reply = client.request(json!({"id": 2, "unsubscribe": {"channel": channel}})).await;
        assert_eq!(reply, json!({"id": 2, "unsubscribe": {}}));
    }
}

#[actix_rt::test]
async fn permissions_are_independent_and_tokens_cannot_enter_channels_limited_to_other_users() {
    let hub = start_hub_with(deny_by_default).await;
    let only = |right: &str| json!({"sub": "ann", "exp": 60, "caps": [{"channels": ["news"], "allow": [right]}]});
    for (right, expected) in [("sub", [0, 103, 103]), ("pub", [103, 0, 0]), ("hst", [103; 3])] {
        let (mut client, _) = hub.connect_with_claims(only(right)).await;
        assert_eq!(
            try_every_path(&hub, &mut client, "news", &hub.token_with_claims(only(right))).await,
            expected,
            "{right}"
        );
    }
    let subscribed = json!({"sub": "ann", "exp": 60, "channels": ["news"]});
    let (mut client, _) = hub.connect_with_claims(subscribed.clone()).await;
    let publish = client.request(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    assert_eq!(publish["error"]["code"], 103, "a server-side subscription does not permit publishing");
    assert_eq!(publish_over_rest(&hub, "news", &hub.token_with_claims(subscribed)).await["error"]["code"], 103);
    for channel in ["dialog#bob,eve", "#bob", "#", "nobody:1"] {
        for subs in [json!({"channels": [channel]}), json!({"subs": {channel: {}}})] {
            let mut claims = json!({"sub": "ann", "exp": 60});
            claims.as_object_mut().unwrap().extend(subs.as_object().unwrap().clone());
            let path = format!("/socket?token={}", hub.token_with_claims(claims));
            assert!(Client::connect(hub.address, &path).await.is_err(), "{channel}");
        }
    }
}

#[actix_rt::test]
async fn million_subscribes_are_stopped_after_a_burst_and_leave_nothing_behind() {
    let hub = start_hub_with(|config| config.limits.channels_per_session = 1_000_000).await;
    let mut flood = hub.connect_raw("ann").await;
    let mut other = hub.connect_subscriber("bob", "news").await;
    let (mut number, mut frames) = (0, 0);
    while number < 1_000_000 && hub.running().metrics.closes_with_code(3013) == 0 {
        let lines: Vec<String> = (number..number + 1000)
            .map(|n| format!("{{\"id\":{},\"subscribe\":{{\"channel\":\"c{n}\"}}}}", n + 1))
            .collect();
        flood.send_until_closed(&raw::frame(raw::FIN | raw::TEXT, lines.join("\n").as_bytes())).await;
        (number, frames) = (number + 1000, frames + 1);
        hub.publish("news", json!(frames)).await;
        assert_eq!(other.receive_publication().await, json!(frames), "other clients are served meanwhile");
    }
    assert_eq!(hub.running().metrics.closes_with_code(3013), 1);
    drop(flood);
    hub.wait_for_channels(&[("news", 1)]).await;
}

#[actix_rt::test]
async fn ten_thousand_subscribe_and_unsubscribe_pairs_leave_nothing_behind() {
    let hub = start_hub_with(deny_by_default).await;
    let (mut client, _) = hub.connect_with_claims(caps(&["c*"], "wildcard")).await;
    for round in 0..40 {
        let lines: Vec<String> = (0..250)
            .flat_map(|n| {
                let channel = format!("c{}", round * 250 + n);
                [
                    json!({"id": 1, "subscribe": {"channel": channel}}),
                    json!({"id": 2, "unsubscribe": {"channel": channel}}),
                ]
            })
            .map(|command| command.to_string())
            .collect();
        client.send_text(&lines.join("\n")).await;
        for _ in 0..250 {
            assert_eq!(client.receive().await, json!({"id": 1, "subscribe": {}}));
            assert_eq!(client.receive().await, json!({"id": 2, "unsubscribe": {}}));
        }
    }
    let node = hub.call_api("info", json!({})).await["result"]["nodes"][0].clone();
    assert_eq!((&node["num_subs"], &node["num_channels"]), (&json!(0), &json!(0)), "{node}");
}
