//! Subscriptions that a token grants (`$` channels, subscription tokens) or brings (`channels`, `subs`), and how they end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Hub, hub, hub_with};

fn grant(user: &str, channel: &str, exp: i64) -> Value {
    json!({"sub": user, "channel": channel, "exp": exp})
}

async fn subscribes(hub: &Hub, client: &mut Client, channel: &str, claims: Value) -> Value {
    client.ask(json!({"id": 2, "subscribe": {"channel": channel, "token": hub.signed(claims)}})).await
}

#[actix_rt::test]
async fn a_secret_channel_opens_to_a_subscription_token_only() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    let bare = client.ask(json!({"id": 2, "subscribe": {"channel": "$secret"}})).await;
    assert_eq!(bare["error"]["code"], 103);
    let reply = subscribes(&hub, &mut client, "$secret", grant("ann", "$secret", 60)).await;
    assert_eq!(reply["subscribe"]["expires"], true, "{reply}");
    assert!(
        (1..=30).contains(&reply["subscribe"]["ttl"].as_u64().unwrap()),
        "the margin is half of it at most: {reply}"
    );
    hub.publish("$secret", json!(1)).await;
    assert_eq!(client.publication().await, json!(1));
}

#[actix_rt::test]
async fn a_bad_subscription_token_is_103_an_expired_one_109_and_the_session_goes_on() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    let cases = [
        (hub.forged_token("ann"), 103),
        (hub.token("ann"), 103),
        ("garbage".to_owned(), 103),
        (hub.signed(grant("ann", "$secret", -60)), 109),
    ];
    for (token, code) in cases {
        let reply = client.ask(json!({"id": 2, "subscribe": {"channel": "$secret", "token": token}})).await;
        assert_eq!(reply["error"]["code"], code);
    }
}

#[actix_rt::test]
async fn a_subscription_token_of_another_user_or_channel_is_3500() {
    let hub = hub().await;
    for claims in [grant("bob", "$secret", 60), grant("ann", "$other", 60), grant("ann", "$secret1", 60)] {
        let mut client = hub.client("ann").await;
        client.say(json!({"id": 2, "subscribe": {"channel": "$secret", "token": hub.signed(claims)}})).await;
        assert_eq!(client.ended().await.0, Some(3500));
    }
}

#[actix_rt::test]
async fn a_subscription_token_opens_no_connection() {
    let hub = hub().await;
    let path = format!("/socket?token={}", hub.signed(grant("ann", "news", 60)));
    assert!(Client::connect(hub.address, &path).await.is_err());
    let mut client = hub.stranger().await;
    client.say(json!({"id": 1, "connect": {"token": hub.signed(grant("ann", "news", 60))}})).await;
    assert_eq!(client.ended().await.0, Some(3500));
}

#[actix_rt::test]
async fn a_subscription_ends_with_its_token_and_nothing_is_delivered_after() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    subscribes(&hub, &mut client, "$secret", grant("ann", "$secret", 60)).await;
    client.ask(json!({"id": 3, "subscribe": {"channel": "news"}})).await;
    hub.clock.advance(Duration::from_secs(61));
    hub.publish("$secret", json!("late")).await;
    let push = client.hear().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("$secret"), &json!(2501)), "{push}");
    hub.publish("$secret", json!("later")).await;
    hub.publish("news", json!("goes on")).await;
    assert_eq!(client.publication().await, json!("goes on"));
}

#[actix_rt::test]
async fn a_subscription_ends_without_any_publication_too() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    subscribes(&hub, &mut client, "$secret", grant("ann", "$secret", 60)).await;
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(client.hear().await["push"]["unsubscribe"]["code"], 2501);
}

#[actix_rt::test]
async fn a_sub_refresh_lengthens_a_subscription() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    subscribes(&hub, &mut client, "$secret", grant("ann", "$secret", 60)).await;
    let token = hub.signed(grant("ann", "$secret", 3600));
    let reply = client.ask(json!({"id": 3, "sub_refresh": {"channel": "$secret", "token": token}})).await;
    assert!(reply["sub_refresh"]["ttl"].as_u64().unwrap() > 3000, "{reply}");
    hub.clock.advance(Duration::from_secs(120));
    hub.publish("$secret", json!(1)).await;
    assert_eq!(client.publication().await, json!(1));
}

#[actix_rt::test]
async fn a_sub_refresh_of_what_is_not_subscribed_or_with_a_bad_token_is_103() {
    let hub = hub().await;
    let mut client = hub.client("ann").await;
    let token = hub.signed(grant("ann", "$secret", 3600));
    let refresh = |token: Value| json!({"id": 3, "sub_refresh": {"channel": "$secret", "token": token}});
    assert_eq!(client.ask(refresh(json!(token))).await["error"]["code"], 103, "not subscribed");
    subscribes(&hub, &mut client, "$secret", grant("ann", "$secret", 60)).await;
    assert_eq!(client.ask(refresh(json!(hub.forged_token("ann")))).await["error"]["code"], 103);
    assert_eq!(client.ask(refresh(json!(""))).await["error"]["code"], 103);
    let expired = hub.signed(grant("ann", "$secret", -1));
    assert_eq!(client.ask(refresh(json!(expired))).await["error"]["code"], 109);
    client.say(refresh(json!(hub.signed(grant("bob", "$secret", 60))))).await;
    assert_eq!(client.ended().await.0, Some(3500));
}

#[actix_rt::test]
async fn channels_of_the_token_are_subscribed_before_the_greeting_is_heard() {
    let hub = hub().await;
    let soon = hub.clock.now() / 1000 + 60;
    let subs = json!({"$desk": {"data": {"motd": "hi"}, "info": {"seat": 4}, "expire_at": soon}});
    let claims = json!({"sub": "ann", "exp": 3600, "channels": ["news"], "subs": subs});
    let (mut client, greeting) = hub.client_of(claims.clone()).await;
    assert_eq!(greeting["subs"]["news"], json!({}));
    assert_eq!(greeting["subs"]["$desk"]["data"], json!({"motd": "hi"}), "{greeting}");
    hub.publish("news", json!(1)).await;
    assert_eq!(client.publication().await, json!(1));

    let mut sdk = hub.stranger().await;
    let mut claims = claims;
    claims["subs"]["$desk"].as_object_mut().unwrap().remove("expire_at");
    let reply = sdk.ask(json!({"id": 1, "connect": {"token": hub.signed(claims)}})).await;
    assert!(reply["connect"]["subs"]["news"].is_object() && reply["id"] == 1, "{reply}");
}

#[actix_rt::test]
async fn what_a_token_says_of_a_subscription_is_shown_beside_its_publications() {
    let hub = hub().await;
    let claims = json!({"sub": "ann", "exp": 60, "info": {"name": "Ann"}, "subs": {"news": {"info": {"seat": 4}}}});
    let (mut client, _) = hub.client_of(claims).await;
    client.say(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    let both = [client.hear().await, client.hear().await];
    let info = both.iter().find_map(|heard| heard["push"]["pub"].get("info")).expect("a publication");
    assert_eq!((&info["conn_info"], &info["chan_info"]), (&json!({"name": "Ann"}), &json!({"seat": 4})));
}

#[actix_rt::test]
async fn a_subscription_that_the_token_brought_ends_the_session_when_its_time_is_over() {
    let hub = hub().await;
    let at = hub.clock.now() / 1000 + 60;
    let (mut client, _) = hub.client_of(json!({"sub": "ann", "exp": 3600, "subs": {"news": {"expire_at": at}}})).await;
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(client.ended().await.0, Some(3006));
}

#[actix_rt::test]
async fn what_the_token_brings_cannot_be_asked_for_again_but_given_back() {
    let hub = hub().await;
    let (mut client, _) = hub.client_of(json!({"sub": "ann", "exp": 60, "channels": ["news"]})).await;
    assert_eq!(client.ask(json!({"id": 2, "subscribe": {"channel": "news"}})).await["error"]["code"], 105);
    client.ask(json!({"id": 3, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(client.ask(json!({"id": 4, "subscribe": {"channel": "news"}})).await, json!({"id": 4, "subscribe": {}}));
}

#[actix_rt::test]
async fn a_token_that_brings_more_than_there_is_room_for_is_refused_and_at_a_refresh_3505() {
    let hub = hub_with(|config| config.limits.channels_per_session = 2).await;
    let token = hub.signed(json!({"sub": "ann", "exp": 60, "channels": ["a", "b", "c"]}));
    assert!(Client::connect(hub.address, &format!("/socket?token={token}")).await.is_err());
    let mut client = hub.client("ann").await;
    client.subscribe("one").await;
    let token = hub.signed(json!({"sub": "ann", "exp": 60, "channels": ["a", "b"]}));
    client.say(json!({"id": 2, "refresh": {"token": token}})).await;
    assert_eq!(client.ended().await.0, Some(3505));
}

#[actix_rt::test]
async fn a_personal_channel_is_its_users_and_a_limited_one_its_members() {
    let hub = hub().await;
    let mut ann = hub.client("42").await;
    for channel in ["#42", "dialog#42,43"] {
        assert_eq!(
            ann.ask(json!({"id": 2, "subscribe": {"channel": channel}})).await,
            json!({"id": 2, "subscribe": {}})
        );
    }
    hub.publish("#42", json!(1)).await;
    assert_eq!(ann.publication().await, json!(1));
    let mut eve = hub.client("4").await;
    for channel in ["#42", "dialog#42,43", "#", "dialog#42,4 ", "#4,42#"] {
        let reply = eve.ask(json!({"id": 2, "subscribe": {"channel": channel}})).await;
        let is_own = channel == "#4,42#";
        assert_eq!(reply["error"].is_null(), is_own, "{channel}: {reply}");
        let reply = eve.ask(json!({"id": 3, "publish": {"channel": "dialog#42,43", "data": 1}})).await;
        assert_eq!(reply["error"]["code"], 103);
    }
}

#[actix_rt::test]
async fn namespaces_have_rules_of_their_own() {
    let hub = hub_with(|config| {
        let table = "[[namespaces]]\nname = \"chat\"\nallow_subscribe = \"user\"\nchannel_regex = \"[a-z0-9]+\"\n\
                     [[namespaces]]\nname = \"wall\"\n";
        let mut table: toml::Table = table.parse().unwrap();
        config.namespaces = table.remove("namespaces").unwrap().try_into().unwrap();
    })
    .await;
    let mut client = hub.client("ann").await;
    for (channel, code) in [("chat:room1", 0), ("chat:ROOM", 107), ("chat:", 107), ("wall:1", 103), ("nobody:1", 102)] {
        let reply = client.ask(json!({"id": 2, "subscribe": {"channel": channel}})).await;
        assert_eq!(reply["error"]["code"].as_u64().unwrap_or(0), code, "{channel}: {reply}");
    }
    let reply = client.ask(json!({"id": 2, "publish": {"channel": "chat:room1", "data": 1}})).await;
    assert_eq!(reply["error"]["code"], 103, "subscribing is not publishing");
    assert_eq!(hub.api("publish", json!({"channel": "chat:room1", "data": 1})).await, json!({"result": {}}));
    assert_eq!(client.publication().await, json!(1));
}

#[actix_rt::test]
async fn a_subscription_token_serves_every_connection_of_its_user_and_nobody_elses() {
    let hub = hub().await;
    let token = hub.signed(grant("ann", "$secret", 60));
    let subscribe = json!({"id": 2, "subscribe": {"channel": "$secret", "token": token}});
    let (mut one, mut two, mut eve) = (hub.client("ann").await, hub.client("ann").await, hub.client("eve").await);
    for client in [&mut one, &mut two] {
        assert!(client.ask(subscribe.clone()).await["subscribe"].is_object());
    }
    eve.say(subscribe.clone()).await;
    assert_eq!(eve.ended().await.0, Some(3500), "it has been stolen");
    hub.publish("$secret", json!(1)).await;
    assert_eq!([one.publication().await, two.publication().await], [json!(1), json!(1)]);
    hub.clock.advance(Duration::from_secs(61));
    for client in [&mut one, &mut two] {
        assert_eq!(client.hear().await["push"]["unsubscribe"]["code"], 2501);
        assert_eq!(client.ask(subscribe.clone()).await["error"]["code"], 109, "replayed after its time");
    }
}

#[actix_rt::test]
async fn a_sub_refresh_does_not_lengthen_what_the_sessions_own_token_brings() {
    let hub = hub().await;
    let at = hub.clock.now() / 1000 + 60;
    let claims = json!({"sub": "ann", "exp": 3600, "subs": {"$desk": {"expire_at": at}}});
    let (mut client, _) = hub.client_of(claims).await;
    let token = hub.signed(grant("ann", "$desk", 3600));
    let reply = client.ask(json!({"id": 2, "sub_refresh": {"channel": "$desk", "token": token}})).await;
    assert_eq!(reply["error"]["code"], 103);
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(client.ended().await.0, Some(3006));
}

#[actix_rt::test]
async fn who_may_publish_as_a_subscriber_may_not_when_the_subscriptions_time_is_over() {
    let hub = hub_with(|config| config.channels.allow_publish = wardcast::config::AllowPublish::Subscriber).await;
    let mut listener = hub.client("bob").await;
    subscribes(&hub, &mut listener, "$secret", grant("bob", "$secret", 36_000)).await;
    for _ in 0..20 {
        let mut client = hub.client("ann").await;
        subscribes(&hub, &mut client, "$secret", grant("ann", "$secret", 60)).await;
        hub.clock.advance(Duration::from_secs(61));
        // At once: the wheel may not have come by yet.
        client.say(json!({"id": 3, "publish": {"channel": "$secret", "data": "late"}})).await;
        let both = [client.hear().await, client.hear().await];
        assert!(both.iter().any(|heard| heard["error"]["code"] == 103), "{both:?}");
    }
    hub.publish("$secret", json!("next")).await;
    assert_eq!(listener.publication().await, json!("next"), "and nothing late");
}
