//! Newer tokens on a living session: the `refresh` command, the text form, a token on any command. New claims hold at once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Hub, hub, hub_with};

/// A hub in which nothing is allowed but what tokens grant.
async fn strict() -> Hub {
    hub_with(|config| {
        config.channels.allow_subscribe = wardcast::config::AllowSubscribe::None;
        config.channels.allow_publish = wardcast::config::AllowPublish::None;
        (config.limits.commands_per_second, config.limits.publications_per_second) = (0, 0);
    })
    .await
}

fn claims(user: &str, channels: &[&str]) -> Value {
    let allow = json!(["sub", "pub"]);
    json!({"sub": user, "exp": 3600, "caps": [{"channels": channels, "allow": allow}]})
}

async fn sdk(hub: &Hub, claims: Value) -> Client {
    let mut client = hub.stranger().await;
    let reply = client.ask(json!({"id": 1, "connect": {"token": hub.signed(claims)}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    client
}

#[actix_rt::test]
async fn a_refresh_lengthens_the_session_and_says_how_long() {
    let hub = hub().await;
    let mut client = sdk(&hub, json!({"sub": "ann", "exp": 60})).await;
    let reply = client.ask(json!({"id": 2, "refresh": {"token": hub.token("ann")}})).await;
    let result = &reply["refresh"];
    assert!(result["ttl"].as_u64().unwrap() > 3000 && result["expires"] == true && result["client"].is_string());
    hub.clock.advance(Duration::from_secs(120));
    assert_eq!(client.ask(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}));
}

#[actix_rt::test]
async fn a_refresh_without_a_token_is_3501_and_with_a_bad_one_or_of_another_user_3500() {
    let hub = hub().await;
    for (request, code) in [
        (json!({"id": 2, "refresh": {}}), 3501),
        (json!({"id": 2, "refresh": {"token": ""}}), 3501),
        (json!({"id": 2, "refresh": {"token": "garbage"}}), 3500),
        (json!({"id": 2, "refresh": {"token": hub.forged_token("ann")}}), 3500),
        (json!({"id": 2, "refresh": {"token": hub.token("bob")}}), 3500),
    ] {
        let mut client = sdk(&hub, json!({"sub": "ann", "exp": 60})).await;
        client.say(request.clone()).await;
        assert_eq!(client.ended().await.0, Some(code), "{request}");
    }
}

#[actix_rt::test]
async fn a_refresh_with_an_expired_token_is_109_and_the_session_goes_on() {
    let hub = hub().await;
    let mut client = sdk(&hub, json!({"sub": "ann", "exp": 60})).await;
    let reply = client.ask(json!({"id": 2, "refresh": {"token": hub.expired_token("ann")}})).await;
    assert_eq!(reply["error"]["code"], 109);
    assert_eq!(client.ask(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}));
}

#[actix_rt::test]
async fn an_older_token_shortens_the_session_and_does_not_lengthen_it() {
    let hub = hub().await;
    let mut client = sdk(&hub, json!({"sub": "ann", "exp": 3600})).await;
    let reply = client.ask(json!({"id": 2, "refresh": {"token": hub.signed(json!({"sub": "ann", "exp": 30}))}})).await;
    assert!(reply["refresh"]["ttl"].as_u64().unwrap() <= 30);
    hub.clock.advance(Duration::from_secs(31));
    assert_eq!(client.ended().await.0, Some(3005));
}

#[actix_rt::test]
async fn a_right_withdrawn_ends_the_living_subscription_and_others_stay() {
    let hub = strict().await;
    let mut client = sdk(&hub, claims("ann", &["news", "sport"])).await;
    for channel in ["news", "sport"] {
        client.ask(json!({"id": 2, "subscribe": {"channel": channel}})).await;
    }
    client.say(json!({"id": 3, "refresh": {"token": hub.signed(claims("ann", &["sport"]))}})).await;
    let both = [client.hear().await, client.hear().await];
    let push = both.iter().find(|heard| heard["push"].is_object()).expect("a push");
    assert_eq!((&push["push"]["channel"], &push["push"]["unsubscribe"]["code"]), (&json!("news"), &json!(2000)));
    hub.publish("news", json!(1)).await;
    hub.publish("sport", json!(2)).await;
    assert_eq!(client.publication().await, json!(2), "and nothing of what was withdrawn");
    let publish = json!({"id": 4, "publish": {"channel": "news", "data": 1}});
    assert_eq!(client.ask(publish).await["error"]["code"], 103);
    assert_eq!(client.ask(json!({"id": 5, "subscribe": {"channel": "news"}})).await["error"]["code"], 103);
}

#[actix_rt::test]
async fn channels_that_the_new_token_brings_are_subscribed_and_those_it_drops_are_ended() {
    let hub = strict().await;
    let (mut client, _) = hub.client_of(json!({"sub": "ann", "exp": 60, "channels": ["a", "b"]})).await;
    let token = hub.signed(json!({"sub": "ann", "exp": 3600, "channels": ["b", "c"]}));
    client.say(json!({"id": 2, "refresh": {"token": token}})).await;
    let heard = [client.hear().await, client.hear().await, client.hear().await];
    let told = |channel: &str, what: &str| {
        heard.iter().any(|heard| heard["push"]["channel"] == channel && heard["push"][what].is_object())
    };
    assert!(told("a", "unsubscribe") && told("c", "subscribe"), "{heard:?}");
    assert!(heard.iter().any(|heard| heard["refresh"]["expires"] == true), "{heard:?}");
    for (channel, data) in [("a", 1), ("b", 2), ("c", 3)] {
        hub.publish(channel, json!(data)).await;
    }
    assert_eq!([client.publication().await, client.publication().await], [json!(2), json!(3)]);
}

#[actix_rt::test]
async fn a_token_on_any_command_replaces_the_claims_before_the_command_is_done() {
    let hub = strict().await;
    let (mut client, _) = hub.client_of(json!({"sub": "ann", "exp": 60})).await;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "news"}});
    assert_eq!(client.ask(subscribe.clone()).await["error"]["code"], 103);
    let mut with_token = subscribe.clone();
    with_token["token"] = json!(hub.signed(claims("ann", &["news"])));
    assert_eq!(client.ask(with_token).await, json!({"id": 2, "subscribe": {}}));
    hub.clock.advance(Duration::from_secs(120));
    assert_eq!(client.ask(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}), "it lasts longer, too");
}

#[actix_rt::test]
async fn a_command_whose_token_brings_channels_is_done_when_they_are_there() {
    let hub = strict().await;
    let (mut client, _) = hub.client_of(json!({"sub": "ann", "exp": 60})).await;
    let token = hub.signed(json!({"sub": "ann", "exp": 60, "channels": ["news"]}));
    client.say_text(&format!("{{\"id\":2,\"token\":\"{token}\",\"ping\":{{}}}}\n{{\"id\":3,\"ping\":{{}}}}")).await;
    assert_eq!(client.hear().await["push"]["channel"], "news");
    assert_eq!(client.hear().await, json!({"id": 2, "ping": {}}));
    assert_eq!(client.hear().await, json!({"id": 3, "ping": {}}), "and what came behind it once, in its order");
    hub.publish("news", json!(1)).await;
    assert_eq!(client.publication().await, json!(1));
}

#[actix_rt::test]
async fn a_bad_token_on_a_command_is_3500_another_users_too_and_an_expired_one_109() {
    let hub = hub().await;
    for token in [hub.forged_token("ann"), hub.token("bob"), "x".repeat(9000)] {
        let mut client = hub.client("ann").await;
        client.say(json!({"id": 2, "token": token, "ping": {}})).await;
        assert_eq!(client.ended().await.0, Some(3500));
    }
    let mut client = hub.client("ann").await;
    let reply = client.ask(json!({"id": 2, "token": hub.expired_token("ann"), "ping": {}})).await;
    assert_eq!(reply["error"]["code"], 109);
    assert_eq!(client.ask(json!({"id": 3, "ping": {}})).await, json!({"id": 3, "ping": {}}));
}

#[actix_rt::test]
async fn when_every_command_must_carry_a_token_one_without_is_101_and_is_not_done() {
    let hub = hub_with(|config| config.auth.require_token_per_message = true).await;
    let mut client = hub.client("ann").await;
    let token = hub.token("ann");
    assert_eq!(client.ask(json!({"id": 1, "connect": {}})).await["error"]["code"], 101, "also to speak as an SDK");
    for command in [
        json!({"subscribe": {"channel": "news"}}),
        json!({"publish": {"channel": "other", "data": 1}}),
        json!({"unsubscribe": {"channel": "news"}}),
        json!({"ping": {}}),
    ] {
        let mut command = command;
        command["id"] = json!(2);
        assert_eq!(client.ask(command.clone()).await["error"]["code"], 101, "{command}");
        command["token"] = json!(token);
        assert!(client.ask(command.clone()).await["error"].is_null(), "{command}");
    }
    client.say_text("{}").await;
    let reply = client.ask(json!({"id": 9, "refresh": {"token": token}})).await;
    assert!(reply["refresh"].is_object(), "a refresh carries its own: {reply}");
}

#[actix_rt::test]
async fn a_thousand_refreshes_a_second_are_stopped_and_cost_the_others_nothing() {
    let hub = hub().await;
    let mut other = hub.subscriber("bob", "news").await;
    let mut client = hub.client("ann").await;
    let refresh = json!({"id": 2, "refresh": {"token": hub.token("ann")}}).to_string();
    client.say_text(&vec![refresh.as_str(); 90].join("\n")).await;
    for _ in 0..11 {
        client.say_text(&vec![refresh.as_str(); 90].join("\n")).await;
    }
    assert_eq!(client.ended().await.0, Some(3013));
    hub.publish("news", json!(1)).await;
    assert_eq!(other.publication().await, json!(1));
}

#[actix_rt::test]
async fn nothing_of_a_channel_that_is_withdrawn_follows_the_answer_or_the_push() {
    let hub = strict().await;
    let (mut bob, _) = hub.client_of(claims("bob", &["news"])).await;
    let publish = json!({"id": 2, "publish": {"channel": "news", "data": 1}}).to_string();
    let lines = vec![publish; 60].join("\n");
    let withdraw = [
        // Each of the ways in which a newer token comes.
        |token: &str| json!({"id": 3, "refresh": {"token": token}}).to_string(),
        |token: &str| json!({"id": 3, "token": token, "ping": {}}).to_string(),
        |token: &str| format!("Authorization: Bearer {token}"),
    ];
    for round in 0..30 {
        let (mut ann, _) = hub.client_of(claims("ann", &["news", "sport"])).await;
        ann.subscribe("news").await;
        bob.say_text(&lines).await;
        ann.say_text(&withdraw[round % withdraw.len()](&hub.signed(claims("ann", &["sport"])))).await;
        ann.say(json!({"id": 4, "ping": {}})).await;
        let (mut is_over, mut is_answered) = (false, false);
        loop {
            let heard = ann.hear().await;
            is_over |= heard["push"]["unsubscribe"]["code"] == 2000;
            is_answered |= heard["id"] == 3 || heard["push"]["connect"].is_object();
            assert!(!is_answered || is_over, "answered before it is so: {heard}");
            assert!(!is_over || heard["push"]["pub"].is_null(), "still in flight: {heard}");
            if heard["id"] == 4 {
                break;
            }
        }
        assert!(is_over && is_answered);
        for _ in 0..60 {
            bob.hear().await;
        }
    }
}

#[actix_rt::test]
async fn a_token_on_each_command_counts_as_one_command() {
    let hub = hub_with(|config| config.limits.commands_per_second = 5).await;
    let mut client = hub.client("ann").await;
    for id in 1..=10 {
        // Each token is another, so that each brings the command back once.
        let token = hub.signed(json!({"sub": "ann", "exp": 3600 + id, "channels": [format!("c{id}")]}));
        client.say(json!({"id": id, "token": token, "ping": {}})).await;
        loop {
            let heard = client.hear().await;
            if heard["id"] == id {
                assert_eq!(heard, json!({"id": id, "ping": {}}));
                break;
            }
        }
    }
}
