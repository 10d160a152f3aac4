//! New tokens for a live session: the `refresh` command, the text form, and a token on any command. New claims apply at
//! once.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::protocol::schema::{Command, RefreshRequest};

use crate::support::{Client, TestHub, deny_by_default, start_hub, start_hub_with};

fn claims(user: &str, channels: &[&str]) -> Value {
    let allow = json!(["sub", "pub"]);
    json!({"sub": user, "exp": 3600, "caps": [{"channels": channels, "allow": allow}]})
}

async fn connect_sdk(hub: &TestHub, claims: Value) -> Client {
    hub.connect_sdk(&hub.token_with_claims(claims)).await
}

#[actix_rt::test]
async fn refresh_extends_session_and_returns_ttl() {
    let hub = start_hub().await;
    let mut client = connect_sdk(&hub, json!({"sub": "ann", "exp": 60})).await;
    let reply = client.request(json!({"id": 2, "refresh": {"token": hub.token("ann")}})).await;
    let result = &reply["refresh"];
    assert!(result["ttl"].as_u64().unwrap() > 3000 && result["expires"] == true && result["client"].is_string());
    hub.clock.advance(Duration::from_secs(120));
    assert_eq!(client.request(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}));
}

#[actix_rt::test]
async fn refresh_without_token_closes_with_3501_and_with_bad_or_other_users_token_with_3500() {
    let hub = start_hub().await;
    for (request, code) in [
        (json!({"id": 2, "refresh": {}}), 3501),
        (json!({"id": 2, "refresh": {"token": ""}}), 3501),
        (json!({"id": 2, "refresh": {"token": "garbage"}}), 3500),
        (json!({"id": 2, "refresh": {"token": hub.forged_token("ann")}}), 3500),
        (json!({"id": 2, "refresh": {"token": hub.token("bob")}}), 3500),
    ] {
        let mut client = connect_sdk(&hub, json!({"sub": "ann", "exp": 60})).await;
        client.send(request.clone()).await;
        assert_eq!(client.wait_for_close().await.0, Some(code), "{request}");
    }
}

#[actix_rt::test]
async fn refresh_with_expired_token_closes_with_3005_and_the_reconnecting_client_gets_109() {
    let hub = start_hub().await;
    let mut client = connect_sdk(&hub, json!({"sub": "ann", "exp": 60})).await;
    client.send(json!({"id": 2, "refresh": {"token": hub.expired_token("ann")}})).await;
    assert_eq!(client.wait_for_close().await, (Some(3005), "connection expired".to_owned()));
    let mut again = hub.connect_without_token().await;
    let connect = again.request(json!({"id": 1, "connect": {"token": hub.expired_token("ann")}})).await;
    assert_eq!(connect["error"]["code"], 109);

    let mut plain = hub.connect("ann").await;
    plain.send(json!({"id": 2, "refresh": {"token": hub.expired_token("ann")}})).await;
    assert_eq!(plain.wait_for_close().await.0, Some(3005));
    let mut protobuf = hub.connect_protobuf_sdk("ann").await;
    let refresh = Some(RefreshRequest { token: hub.expired_token("ann") });
    protobuf.send(Command { id: 2, refresh, ..Default::default() }).await;
    assert_eq!(protobuf.wait_for_close().await, (Some(3005), "connection expired".to_owned()));
}

#[actix_rt::test]
async fn token_with_earlier_expiry_shortens_session() {
    let hub = start_hub().await;
    let mut client = connect_sdk(&hub, json!({"sub": "ann", "exp": 3600})).await;
    let reply = client
        .request(json!({"id": 2, "refresh": {"token": hub.token_with_claims(json!({"sub": "ann", "exp": 30}))}}))
        .await;
    assert!(reply["refresh"]["ttl"].as_u64().unwrap() <= 30);
    hub.clock.advance(Duration::from_secs(31));
    assert_eq!(client.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn revoked_permission_ends_live_subscription_and_others_stay() {
    let hub = start_hub_with(deny_by_default).await;
    let mut client = connect_sdk(&hub, claims("ann", &["news", "sport"])).await;
    for channel in ["news", "sport"] {
        client.request(json!({"id": 2, "subscribe": {"channel": channel}})).await;
    }
    client.send(json!({"id": 3, "refresh": {"token": hub.token_with_claims(claims("ann", &["sport"]))}})).await;
    let reply_and_push = [client.receive().await, client.receive().await];
    let push = reply_and_push.iter().find(|received| received["push"].is_object()).expect("a push");
    assert_eq!((&push["push"]["channel"], &push["push"]["unsubscribe"]["code"]), (&json!("news"), &json!(2000)));
    hub.publish("news", json!(1)).await;
    hub.publish("sport", json!(2)).await;
    assert_eq!(client.receive_publication().await, json!(2), "nothing of the revoked channel arrives");
    let publish = json!({"id": 4, "publish": {"channel": "news", "data": 1}});
    assert_eq!(client.request(publish).await["error"]["code"], 103);
    assert_eq!(client.request(json!({"id": 5, "subscribe": {"channel": "news"}})).await["error"]["code"], 103);
}

#[actix_rt::test]
async fn new_token_adds_and_removes_server_side_subscriptions() {
    let hub = start_hub_with(deny_by_default).await;
    let (mut client, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["a", "b"]})).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "channels": ["b", "c"]}));
    client.send(json!({"id": 2, "refresh": {"token": token}})).await;
    let received = [client.receive().await, client.receive().await, client.receive().await];
    let has_push = |channel: &str, kind: &str| {
        received.iter().any(|received| received["push"]["channel"] == channel && received["push"][kind].is_object())
    };
    assert!(has_push("a", "unsubscribe") && has_push("c", "subscribe"), "{received:?}");
    assert!(received.iter().any(|received| received["refresh"]["expires"] == true), "{received:?}");
    for (channel, data) in [("a", 1), ("b", 2), ("c", 3)] {
        hub.publish(channel, json!(data)).await;
    }
    assert_eq!([client.receive_publication().await, client.receive_publication().await], [json!(2), json!(3)]);
}

#[actix_rt::test]
async fn token_on_any_command_is_adopted_before_the_command_runs() {
    let hub = start_hub_with(deny_by_default).await;
    let (mut client, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "news"}});
    assert_eq!(client.request(subscribe.clone()).await["error"]["code"], 103);
    let mut with_token = subscribe.clone();
    with_token["token"] = json!(hub.token_with_claims(claims("ann", &["news"])));
    assert_eq!(client.request(with_token).await, json!({"id": 2, "subscribe": {}}));
    hub.clock.advance(Duration::from_secs(120));
    let ping = json!({"id": 3, "ping": {}});
    assert_eq!(client.request(ping.clone()).await, ping, "the token has extended the session too");
}

#[actix_rt::test]
async fn command_waits_for_channels_of_its_token() {
    let hub = start_hub_with(deny_by_default).await;
    let (mut client, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["news"]}));
    client.send_text(&format!("{{\"id\":2,\"token\":\"{token}\",\"ping\":{{}}}}\n{{\"id\":3,\"ping\":{{}}}}")).await;
    assert_eq!(client.receive().await["push"]["channel"], "news");
    assert_eq!(client.receive().await, json!({"id": 2, "ping": {}}));
    assert_eq!(client.receive().await, json!({"id": 3, "ping": {}}), "the next command runs once and in order");
    hub.publish("news", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn bad_or_other_users_token_on_command_closes_with_3500_and_expired_token_is_109() {
    let hub = start_hub().await;
    for token in [hub.forged_token("ann"), hub.token("bob"), "x".repeat(33_000)] {
        let mut client = hub.connect("ann").await;
        client.send(json!({"id": 2, "token": token, "ping": {}})).await;
        assert_eq!(client.wait_for_close().await.0, Some(3500));
    }
    let mut client = hub.connect("ann").await;
    let reply = client.request(json!({"id": 2, "token": hub.expired_token("ann"), "ping": {}})).await;
    assert_eq!(reply["error"]["code"], 109);
    assert_eq!(client.request(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}));
}

#[actix_rt::test]
async fn required_token_per_message_makes_command_without_it_101_and_not_executed() {
    let hub = start_hub_with(|config| config.auth.require_token_per_message = true).await;
    let mut client = hub.connect("ann").await;
    let token = hub.token("ann");
    assert_eq!(client.request(json!({"id": 1, "connect": {}})).await["error"]["code"], 101, "for `connect` too");
    for command in [
        json!({"subscribe": {"channel": "news"}}),
        json!({"publish": {"channel": "other", "data": 1}}),
        json!({"unsubscribe": {"channel": "news"}}),
        json!({"ping": {}}),
    ] {
        let mut command = command;
        command["id"] = json!(2);
        assert_eq!(client.request(command.clone()).await["error"]["code"], 101, "{command}");
        command["token"] = json!(token);
        assert!(client.request(command.clone()).await["error"].is_null(), "{command}");
    }
    client.send_text("{}").await;
    let reply = client.request(json!({"id": 9, "refresh": {"token": token}})).await;
    assert!(reply["refresh"].is_object(), "a refresh carries its token anyway: {reply}");
}

#[actix_rt::test]
async fn thousand_refreshes_a_second_are_rate_limited_without_effect_on_others() {
    let hub = start_hub().await;
    let mut other = hub.connect_subscriber("bob", "news").await;
    let mut client = hub.connect("ann").await;
    let refresh = json!({"id": 2, "refresh": {"token": hub.token("ann")}}).to_string();
    client.send_text(&vec![refresh.as_str(); 90].join("\n")).await;
    for _ in 0..11 {
        client.send_text(&vec![refresh.as_str(); 90].join("\n")).await;
    }
    assert_eq!(client.wait_for_close().await.0, Some(3013));
    hub.publish("news", json!(1)).await;
    assert_eq!(other.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn nothing_of_a_revoked_channel_follows_the_reply_or_push() {
    let hub = start_hub_with(deny_by_default).await;
    let (mut bob, _) = hub.connect_with_claims(claims("bob", &["news"])).await;
    let publish = json!({"id": 2, "publish": {"channel": "news", "data": 1}}).to_string();
    let lines = vec![publish; 60].join("\n");
    let forms = [
        // Each form in which a client can send a new token.
        |token: &str| json!({"id": 3, "refresh": {"token": token}}).to_string(),
        |token: &str| json!({"id": 3, "token": token, "ping": {}}).to_string(),
        |token: &str| format!("Authorization: Bearer {token}"),
    ];
    for round in 0..30 {
        let (mut ann, _) = hub.connect_with_claims(claims("ann", &["news", "sport"])).await;
        ann.subscribe("news").await;
        bob.send_text(&lines).await;
        let token = hub.token_with_claims(claims("ann", &["sport"]));
        ann.send_text(&forms[round % forms.len()](&token)).await;
        ann.send(json!({"id": 4, "ping": {}})).await;
        let (mut has_ended, mut has_reply) = (false, false);
        loop {
            let received = ann.receive().await;
            has_ended |= received["push"]["unsubscribe"]["code"] == 2000;
            has_reply |= received["id"] == 3 || received["push"]["connect"].is_object();
            assert!(!has_reply || has_ended, "the reply came before the subscription ended: {received}");
            assert!(!has_ended || received["push"]["pub"].is_null(), "delivered after the end: {received}");
            if received["id"] == 4 {
                break;
            }
        }
        assert!(has_ended && has_reply);
        for _ in 0..60 {
            bob.receive().await;
        }
    }
}

#[actix_rt::test]
async fn token_on_each_command_counts_as_one_command() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 5).await;
    let mut client = hub.connect("ann").await;
    for id in 1..=10 {
        // Each token adds a channel, so that each command is put back once until the subscription is there.
        let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600 + id, "channels": [format!("c{id}")]}));
        client.send(json!({"id": id, "token": token, "ping": {}})).await;
        let reply = loop {
            let received = client.receive().await;
            if received["id"] == id {
                break received;
            }
        };
        assert_eq!(reply, json!({"id": id, "ping": {}}));
    }
}

#[actix_rt::test]
async fn required_token_is_required_by_every_command() {
    let hub = start_hub_with(|config| config.auth.require_token_per_message = true).await;
    let mut client = hub.connect("ann").await;
    for command in [
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "sub_refresh",
        "rpc",
        "ping",
        "connect",
    ] {
        let reply = client.request(json!({"id": 1, command: {"channel": "news", "method": "x", "data": 1}})).await;
        assert_eq!(reply["error"]["code"], 101, "{command}");
    }
}

#[actix_rt::test]
async fn thousand_refreshes_leave_the_claims_of_the_last_token() {
    let hub = start_hub_with(deny_by_default).await;
    let mut client = connect_sdk(&hub, claims("ann", &["news", "sport"])).await;
    for channel in ["news", "sport"] {
        client.request(json!({"id": 1, "subscribe": {"channel": channel}})).await;
    }
    // An older token that expires sooner and grants fewer channels comes after each newer one.
    let newer = hub.token_with_claims(claims("ann", &["news", "sport"]));
    let older = json!({"sub": "ann", "exp": 60, "iat": -60, "caps": claims("ann", &["news"])["caps"]});
    let older = hub.token_with_claims(older);
    let tokens = [&older, &newer];
    let refresh = |id: usize| json!({"id": id, "refresh": {"token": (tokens[id % 2])}}).to_string();
    for first in (1..=1000).step_by(100) {
        client.send_text(&(first..first + 100).map(refresh).collect::<Vec<_>>().join("\n")).await;
    }
    let (mut answered, mut ended) = (0, 0);
    while answered < 1000 {
        let received = client.receive().await;
        answered += usize::from(received["refresh"].is_object());
        ended += usize::from(received["push"]["unsubscribe"]["code"] == 2000 && received["push"]["channel"] == "sport");
    }
    assert_eq!(ended, 1);
    hub.publish("sport", json!(1)).await;
    hub.publish("news", json!(2)).await;
    assert_eq!(client.receive_publication().await, json!(2));
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(client.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn token_of_another_user_among_a_thousand_refreshes_closes_with_3500_and_nothing_behind_it_runs() {
    let hub = start_hub_with(crate::support::allow_any_rate).await;
    let mut other = hub.connect_subscriber("bob", "news").await;
    let mut client = connect_sdk(&hub, json!({"sub": "ann", "exp": 60})).await;
    let refresh = |token: &str| json!({"id": 2, "refresh": {"token": token}}).to_string();
    let mut lines = vec![refresh(&hub.token("ann")); 100];
    lines.push(refresh(&hub.token("bob")));
    lines.push(json!({"id": 3, "publish": {"channel": "news", "data": "as another user"}}).to_string());
    client.send_text(&lines.join("\n")).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));
    hub.publish("news", json!("next")).await;
    assert_eq!(other.receive_publication().await, json!("next"));
}
