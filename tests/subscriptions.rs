//! Subscriptions that need a subscription token (`$` channels), server-side subscriptions of a connection token (`channels`,
//! `subs`), and how both end.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::protocol::schema::{Command, SubRefreshRequest, SubscribeRequest};

use crate::support::{Client, TestHub, start_hub, start_hub_with};

fn subscription_claims(user: &str, channel: &str, exp: i64) -> Value {
    json!({"sub": user, "channel": channel, "exp": exp})
}

async fn subscribe_with_token(hub: &TestHub, client: &mut Client, channel: &str, claims: Value) -> Value {
    client.subscribe_with(channel, json!({"token": hub.token_with_claims(claims)})).await
}

#[actix_rt::test]
async fn private_channel_requires_subscription_token() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let without_token = client.subscribe_with("$secret", json!({})).await;
    assert_eq!(without_token["error"]["code"], 103);
    let reply = subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
    assert_eq!(reply["subscribe"]["expires"], true, "{reply}");
    let ttl = reply["subscribe"]["ttl"].as_u64().unwrap();
    assert!((1..=30).contains(&ttl), "the refresh margin is at most half of the 60 s: {reply}");
    hub.publish("$secret", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn subscription_with_its_own_token_survives_new_claims_of_the_session() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let reply = subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 600)).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    let token = hub.token_for("ann", Duration::from_secs(120));
    let reply = client.request(json!({"id": 2, "refresh": {"token": token}})).await;
    assert!(reply["refresh"].is_object(), "{reply}");
    hub.publish("$secret", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn bad_subscription_token_is_103_and_expired_or_early_one_109_and_session_continues() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let cases = [
        (hub.forged_token("ann"), 103),
        (hub.token("ann"), 103),
        ("garbage".to_owned(), 103),
        (hub.token_with_claims(subscription_claims("ann", "$secret", -60)), 109),
        (hub.token_with_claims(json!({"sub": "ann", "channel": "$secret", "exp": 60, "nbf": 30})), 109),
    ];
    for (token, code) in cases {
        let reply = client.subscribe_with("$secret", json!({"token": token})).await;
        assert_eq!(reply["error"]["code"], code);
    }
}

#[actix_rt::test]
async fn subscription_token_for_other_user_or_channel_closes_with_3500() {
    let hub = start_hub().await;
    for claims in [
        subscription_claims("bob", "$secret", 60),
        subscription_claims("ann", "$other", 60),
        subscription_claims("ann", "$secret1", 60),
    ] {
        let mut client = hub.connect("ann").await;
        client
            .send(json!({"id": 2, "subscribe": {"channel": "$secret", "token": hub.token_with_claims(claims)}}))
            .await;
        assert_eq!(client.wait_for_close().await.0, Some(3500));
    }
}

#[actix_rt::test]
async fn subscription_token_opens_no_connection() {
    let hub = start_hub().await;
    let path = format!("/socket?token={}", hub.token_with_claims(subscription_claims("ann", "news", 60)));
    assert!(Client::connect(hub.address, &path).await.is_err());
    let mut client = hub.connect_without_token().await;
    client
        .send(json!({"id": 1, "connect": {"token": hub.token_with_claims(subscription_claims("ann", "news", 60))}}))
        .await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn expired_subscription_token_ends_subscription_and_delivery() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
    client.subscribe("news").await;
    hub.clock.advance(Duration::from_secs(61));
    hub.publish("$secret", json!("late")).await;
    let push = client.receive().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("$secret"), &json!(2501)), "{push}");
    hub.publish("$secret", json!("later")).await;
    hub.publish("news", json!("other subscription")).await;
    assert_eq!(client.receive_publication().await, json!("other subscription"));
}

#[actix_rt::test]
async fn idle_subscription_ends_at_expiry_too() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2501);
}

#[actix_rt::test]
async fn sub_refresh_extends_subscription() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
    let token = hub.token_with_claims(subscription_claims("ann", "$secret", 3600));
    let reply = client.request(json!({"id": 3, "sub_refresh": {"channel": "$secret", "token": token}})).await;
    assert!(reply["sub_refresh"]["ttl"].as_u64().unwrap() > 3000, "{reply}");
    hub.clock.advance(Duration::from_secs(120));
    hub.publish("$secret", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn sub_refresh_without_subscription_or_with_bad_token_is_103() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let token = hub.token_with_claims(subscription_claims("ann", "$secret", 3600));
    let refresh = |token: Value| json!({"id": 3, "sub_refresh": {"channel": "$secret", "token": token}});
    assert_eq!(client.request(refresh(json!(token))).await["error"]["code"], 103, "not subscribed");
    subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
    assert_eq!(client.request(refresh(json!(hub.forged_token("ann")))).await["error"]["code"], 103);
    assert_eq!(client.request(refresh(json!(""))).await["error"]["code"], 103);
    client.send(refresh(json!(hub.token_with_claims(subscription_claims("bob", "$secret", 60))))).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn expired_token_of_sub_refresh_ends_subscription_with_2501_and_session_continues() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let expired = hub.token_with_claims(subscription_claims("ann", "$secret", -1));
    let refresh = json!({"id": 3, "sub_refresh": {"channel": "$secret", "token": expired}});
    assert_eq!(client.request(refresh.clone()).await["error"]["code"], 103, "not subscribed");
    subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
    let push = client.request(refresh).await;
    let ended = json!({"channel": "$secret", "unsubscribe": {"code": 2501, "reason": "subscription expired"}});
    assert_eq!(push, json!({"push": ended}));
    assert_eq!(client.receive().await, json!({"id": 3, "sub_refresh": {}}));
    hub.publish("$secret", json!("not for ann")).await;
    subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
    hub.publish("$secret", json!("again")).await;
    assert_eq!(client.receive_publication().await, json!("again"));

    let mut protobuf = hub.connect_protobuf_sdk("ann").await;
    let token = |ttl| hub.token_with_claims(subscription_claims("ann", "$desk", ttl));
    let subscribe = SubscribeRequest { channel: "$desk".to_owned(), token: token(60), ..Default::default() };
    protobuf.request(Command { id: 2, subscribe: Some(subscribe), ..Default::default() }).await.subscribe.unwrap();
    let sub_refresh = SubRefreshRequest { channel: "$desk".to_owned(), token: token(-1), r#type: 0 };
    let push = protobuf.request(Command { id: 3, sub_refresh: Some(sub_refresh), ..Default::default() }).await.push;
    assert_eq!(push.unwrap().unsubscribe.unwrap().code, 2501);
    let reply = protobuf.receive().await;
    assert!(reply.id == 3 && reply.sub_refresh.is_some() && reply.error.is_none(), "{reply:?}");
}

#[actix_rt::test]
async fn channels_of_the_token_are_subscribed_before_the_connect_push() {
    let hub = start_hub().await;
    let soon = hub.clock.now().unix_seconds() + 60;
    let subs = json!({"$desk": {"data": {"motd": "hi"}, "info": {"seat": 4}, "expire_at": soon}});
    let claims = json!({"sub": "ann", "exp": 3600, "channels": ["news"], "subs": subs});
    let (mut client, connect) = hub.connect_with_claims(claims.clone()).await;
    assert_eq!(connect["subs"]["news"], json!({}));
    assert_eq!(connect["subs"]["$desk"]["data"], json!({"motd": "hi"}), "{connect}");
    hub.publish("news", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));

    let mut sdk = hub.connect_without_token().await;
    let mut claims = claims;
    claims["subs"]["$desk"].as_object_mut().unwrap().remove("expire_at");
    let reply = sdk.request(json!({"id": 1, "connect": {"token": hub.token_with_claims(claims)}})).await;
    assert!(reply["connect"]["subs"]["news"].is_object() && reply["id"] == 1, "{reply}");
}

#[actix_rt::test]
async fn subscription_info_of_token_is_attached_to_publications() {
    let hub = start_hub().await;
    let claims = json!({"sub": "ann", "exp": 60, "info": {"name": "Ann"}, "subs": {"news": {"info": {"seat": 4}}}});
    let (mut client, _) = hub.connect_with_claims(claims).await;
    client.send(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    let reply_and_push = [client.receive().await, client.receive().await];
    let info = reply_and_push.iter().find_map(|received| received["push"]["pub"].get("info")).expect("a publication");
    assert_eq!((&info["conn_info"], &info["chan_info"]), (&json!({"name": "Ann"}), &json!({"seat": 4})));
}

#[actix_rt::test]
async fn expired_server_side_subscription_closes_session_with_3006() {
    let hub = start_hub().await;
    let at = hub.clock.now().unix_seconds() + 60;
    let (mut client, _) =
        hub.connect_with_claims(json!({"sub": "ann", "exp": 3600, "subs": {"news": {"expire_at": at}}})).await;
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(client.wait_for_close().await.0, Some(3006));
}

#[actix_rt::test]
async fn server_side_subscription_cannot_be_subscribed_again_until_unsubscribed() {
    let hub = start_hub().await;
    let (mut client, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["news"]})).await;
    assert_eq!(client.subscribe_with("news", json!({})).await["error"]["code"], 105);
    client.request(json!({"id": 3, "unsubscribe": {"channel": "news"}})).await;
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn token_with_too_many_channels_is_refused_and_closes_with_3505_on_refresh() {
    let hub = start_hub_with(|config| config.limits.channels_per_session = 2).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["a", "b", "c"]}));
    assert!(Client::connect(hub.address, &format!("/socket?token={token}")).await.is_err());
    let mut client = hub.connect("ann").await;
    client.subscribe("one").await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "channels": ["a", "b"]}));
    client.send(json!({"id": 2, "refresh": {"token": token}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3505));
}

#[actix_rt::test]
async fn personal_and_user_limited_channels_accept_only_their_users() {
    let hub = start_hub().await;
    let mut ann = hub.connect("42").await;
    for channel in ["#42", "dialog#42,43"] {
        ann.subscribe(channel).await;
    }
    hub.publish("#42", json!(1)).await;
    assert_eq!(ann.receive_publication().await, json!(1));
    let mut eve = hub.connect("4").await;
    for channel in ["#42", "dialog#42,43", "#", "dialog#42,4 ", "#4,42#"] {
        let reply = eve.subscribe_with(channel, json!({})).await;
        let is_own = channel == "#4,42#";
        assert_eq!(reply["error"].is_null(), is_own, "{channel}: {reply}");
        let reply = eve.request(json!({"id": 3, "publish": {"channel": "dialog#42,43", "data": 1}})).await;
        assert_eq!(reply["error"]["code"], 103);
    }
}

#[actix_rt::test]
async fn namespace_options_apply_to_its_channels_only() {
    let hub = start_hub_with(|config| {
        let table = "[[namespaces]]\nname = \"chat\"\nallow_subscribe = \"user\"\nchannel_regex = \"[a-z0-9]+\"\n\
                     [[namespaces]]\nname = \"wall\"\n";
        let mut table: toml::Table = table.parse().unwrap();
        config.namespaces = table.remove("namespaces").unwrap().try_into().unwrap();
    })
    .await;
    let mut client = hub.connect("ann").await;
    for (channel, code) in [("chat:room1", 0), ("chat:ROOM", 107), ("chat:", 107), ("wall:1", 103), ("nobody:1", 102)] {
        let reply = client.subscribe_with(channel, json!({})).await;
        assert_eq!(reply["error"]["code"].as_u64().unwrap_or(0), code, "{channel}: {reply}");
    }
    let reply = client.request(json!({"id": 2, "publish": {"channel": "chat:room1", "data": 1}})).await;
    assert_eq!(reply["error"]["code"], 103, "the namespace permits subscribing, not publishing");
    assert_eq!(hub.call_api("publish", json!({"channel": "chat:room1", "data": 1})).await, json!({"result": {}}));
    assert_eq!(client.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn subscription_token_works_for_every_connection_of_its_user_only() {
    let hub = start_hub().await;
    let token = hub.token_with_claims(subscription_claims("ann", "$secret", 60));
    let subscribe = json!({"id": 2, "subscribe": {"channel": "$secret", "token": token}});
    let (mut one, mut two, mut eve) = (hub.connect("ann").await, hub.connect("ann").await, hub.connect("eve").await);
    for client in [&mut one, &mut two] {
        assert!(client.request(subscribe.clone()).await["subscribe"].is_object());
    }
    eve.send(subscribe.clone()).await;
    assert_eq!(eve.wait_for_close().await.0, Some(3500), "the token must have been stolen");
    hub.publish("$secret", json!(1)).await;
    assert_eq!([one.receive_publication().await, two.receive_publication().await], [json!(1), json!(1)]);
    hub.clock.advance(Duration::from_secs(61));
    for client in [&mut one, &mut two] {
        assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2501);
        assert_eq!(client.request(subscribe.clone()).await["error"]["code"], 109, "the token has expired");
    }
}

#[actix_rt::test]
async fn sub_refresh_does_not_extend_server_side_subscription() {
    let hub = start_hub().await;
    let at = hub.clock.now().unix_seconds() + 60;
    let claims = json!({"sub": "ann", "exp": 3600, "subs": {"$desk": {"expire_at": at}}});
    let (mut client, _) = hub.connect_with_claims(claims).await;
    let token = hub.token_with_claims(subscription_claims("ann", "$desk", 3600));
    let reply = client.request(json!({"id": 2, "sub_refresh": {"channel": "$desk", "token": token}})).await;
    assert_eq!(reply["error"]["code"], 103);
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(client.wait_for_close().await.0, Some(3006));
}

#[actix_rt::test]
async fn expired_subscription_gives_no_permission_to_publish() {
    let hub =
        start_hub_with(|config| config.channels.allow_publish = wardcast::config::ChannelAccess::Subscriber).await;
    let mut listener = hub.connect("bob").await;
    subscribe_with_token(&hub, &mut listener, "$secret", subscription_claims("bob", "$secret", 36_000)).await;
    for _ in 0..20 {
        let mut client = hub.connect("ann").await;
        subscribe_with_token(&hub, &mut client, "$secret", subscription_claims("ann", "$secret", 60)).await;
        hub.clock.advance(Duration::from_secs(61));
        // The hub may not have ended the subscription yet: the command itself must see that it has expired.
        client.send(json!({"id": 3, "publish": {"channel": "$secret", "data": "late"}})).await;
        let reply_and_push = [client.receive().await, client.receive().await];
        assert!(reply_and_push.iter().any(|received| received["error"]["code"] == 103), "{reply_and_push:?}");
    }
    hub.publish("$secret", json!("next")).await;
    assert_eq!(listener.receive_publication().await, json!("next"), "no late command was executed");
}
