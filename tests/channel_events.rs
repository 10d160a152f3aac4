//! The publications of one channel as events, for `EventSource`.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::{AllowSubscribe, AnonymousAccess, ChannelAccess, Config};

use crate::support::{
    TestHub, http, ping_often, start_hub, start_hub_with,
    stream::{Event, StreamClient, get},
};

fn keep_history(config: &mut Config) {
    config.channels.history_size = 100;
    config.channels.history_ttl = Duration::from_secs(600);
}

/// Opens the events of a channel; returns the stream with the result of the subscription.
async fn open(hub: &TestHub, channel: &str, headers: &[(&str, &str)]) -> (StreamClient, Event) {
    let path = format!("/v1/channels/{channel}/events?token={}", hub.token("ann"));
    let mut client = StreamClient::events(hub.address, &path, headers).await;
    let subscribed = client.event().await;
    assert_eq!(subscribed.name, "subscribe");
    (client, subscribed)
}

async fn status(hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> u16 {
    http::exchange(hub.address, get(hub.address, path, headers).as_bytes()).await.status
}

fn data(event: &Event) -> Value {
    assert_eq!(event.name, "", "{event:?}");
    event.json()["data"].clone()
}

#[actix_rt::test]
async fn publications_of_a_channel_are_events() {
    let hub = start_hub().await;
    let (mut client, subscribed) = open(&hub, "news", &[]).await;
    assert_eq!((subscribed.data.as_str(), subscribed.id.as_str()), ("{}", ""));
    hub.publish_with(json!({"channel": "news", "data": {"a": [1]}, "tags": {"k": "v"}})).await;
    let event = client.event().await;
    assert_eq!(event.json(), json!({"data": {"a": [1]}, "tags": {"k": "v"}}));
    let mut bob = hub.connect("bob").await;
    bob.publish("news", json!("hello")).await;
    let event = client.event().await.json();
    assert_eq!((&event["data"], &event["info"]["user"]), (&json!("hello"), &json!("bob")));
    hub.publish("other", json!(1)).await;
    hub.publish("news", json!("line\nbreak")).await;
    assert_eq!(data(&client.event().await), json!("line\nbreak"));
    drop(client);
    hub.wait_for_connections(1).await;
    hub.wait_for_channels(&[]).await;
}

#[actix_rt::test]
async fn last_event_id_recovers_what_was_missed_in_order() {
    let hub = start_hub_with(keep_history).await;
    let (mut client, subscribed) = open(&hub, "news", &[]).await;
    assert!(subscribed.id.ends_with(":0"), "{subscribed:?}");
    hub.publish("news", json!(1)).await;
    let first = client.event().await;
    assert!(first.id.ends_with(":1"), "{first:?}");
    drop(client);
    for number in 2..5 {
        hub.publish("news", json!(number)).await;
    }
    for (id, expected) in [(&first.id, 2..5), (&subscribed.id, 1..5)] {
        let (mut client, again) = open(&hub, "news", &[("Last-Event-ID", id)]).await;
        assert_eq!((&again.json()["recovered"], &again.id), (&json!(true), id));
        for number in expected {
            let event = client.event().await;
            assert_eq!((data(&event), event.id.rsplit(':').next().unwrap()), (json!(number), &*number.to_string()));
        }
        hub.publish("other", json!(0)).await;
    }
    // For the first request of a page, which can set no header.
    let path =
        format!("/v1/channels/news/events?token={}&last_event_id={}", hub.token("ann"), first.id.replace(':', "%3A"));
    let mut client = StreamClient::events(hub.address, &path, &[]).await;
    assert_eq!(client.event().await.json()["recovered"], json!(true));
    assert_eq!(data(&client.event().await), json!(2));
}

#[actix_rt::test]
async fn forged_last_event_id_is_answered_with_the_current_position_and_no_publications() {
    let hub = start_hub_with(keep_history).await;
    hub.publish("news", json!(1)).await;
    let (_, subscribed) = open(&hub, "news", &[]).await;
    let (long, beyond) = ("9".repeat(5000), subscribed.id.replace(":1", ":7"));
    let forged = ["abcdefgh:1", "0", "?", "a:b:c", "../../x", "abcdefgh:99999999999999999999", &long, &beyond];
    let mut clients = Vec::new();
    for forged in forged {
        let (client, answer) = open(&hub, "news", &[("Last-Event-ID", forged)]).await;
        let result = answer.json();
        assert_eq!((&result["was_recovering"], result.get("recovered")), (&json!(true), None), "{forged}: {result}");
        assert_eq!(answer.id, subscribed.id, "{forged}");
        clients.push(client);
    }
    hub.publish("news", json!("next")).await;
    for mut client in clients {
        assert_eq!(data(&client.event().await), json!("next"));
    }
}

#[actix_rt::test]
async fn channel_events_need_the_permission_to_subscribe() {
    let hub = start_hub_with(|config| {
        config.channels.allow_subscribe = AllowSubscribe::None;
    })
    .await;
    let granted =
        hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "caps": [{"channels": ["news"], "allow": ["sub"]}]}));
    let path = |channel: &str, token: &str| format!("/v1/channels/{channel}/events?token={token}");
    for (path, expected) in [
        (path("news", &granted), 200),
        (path("other", &granted), 403),
        (path("news", &hub.token("bob")), 403),
        (path("news", &hub.forged_token("ann")), 401),
        (path("news", &hub.expired_token("ann")), 401),
        (path("unknown:1", &granted), 404),
        (path("a%00b", &granted), 400),
        (path("%2A", &granted), 400),
        ("/v1/channels/news/events".to_owned(), 401),
    ] {
        let client = StreamClient::open(hub.address, get(hub.address, &path, &[]).as_bytes(), b"\n\n").await;
        assert_eq!(client.head.status, expected, "{path}");
    }
    assert_eq!(http::post(hub.address, &path("news", &granted)).send().await.status, 405);
    let cookie = format!("wardcast_token={granted}");
    assert_eq!(status(&hub, "/v1/channels/news/events", &[("Cookie", &cookie)]).await, 403, "which page?");
    assert_eq!(status(&hub, &path("news", &granted), &[("Origin", "https://evil.com")]).await, 403);
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn anonymous_clients_receive_events_only_where_both_allow_it() {
    let hub = start_hub_with(|config| {
        config.auth.anonymous = AnonymousAccess::Always;
        config.channels.allow_subscribe = AllowSubscribe::Anonymous;
        config.channels.allow_publish = ChannelAccess::User;
    })
    .await;
    let mut client = StreamClient::events(hub.address, "/v1/channels/news/events", &[]).await;
    assert_eq!(client.event().await.name, "subscribe");
    hub.publish("news", json!(1)).await;
    assert_eq!(data(&client.event().await), json!(1));
}

#[actix_rt::test]
async fn end_of_the_token_or_the_subscription_ends_the_events_with_a_code() {
    let hub = start_hub().await;
    let short = hub.token_for("ann", Duration::from_secs(60));
    let path = format!("/v1/channels/news/events?token={short}");
    let mut client = StreamClient::events(hub.address, &path, &[]).await;
    assert_eq!(client.event().await.name, "subscribe");
    let (mut unsubscribed, _) = open(&hub, "sport", &[]).await;
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "sport"})).await;
    let event = unsubscribed.event().await;
    assert_eq!((event.name.as_str(), &event.json()["code"]), ("unsubscribe", &json!(2000)));
    let event = unsubscribed.event().await;
    assert_eq!((event.name.as_str(), &event.json()["code"]), ("disconnect", &json!(3503)));
    assert_eq!(unsubscribed.next_event().await, None);
    hub.clock.advance(Duration::from_secs(61));
    hub.publish("news", json!("late")).await;
    let event = client.event().await;
    assert_eq!((event.name.as_str(), &event.json()["code"]), ("disconnect", &json!(3005)));
    assert_eq!(client.next_event().await, None);
    assert_eq!(status(&hub, &path, &[]).await, 401, "EventSource gives up");
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn events_have_no_other_channel_than_the_one_of_the_path() {
    let hub = start_hub_with(|config| config.channels.join_leave = true).await;
    let claims = json!({"sub": "ann", "exp": 3600, "channels": ["own"]});
    let path = format!("/v1/channels/news/events?token={}", hub.token_with_claims(claims));
    let mut client = StreamClient::events(hub.address, &path, &[]).await;
    assert_eq!(client.event().await.name, "subscribe");
    hub.call_api("subscribe", json!({"user": "ann", "channel": "given"})).await;
    hub.wait_for_channels(&[("news", 1)]).await;
    for channel in ["own", "given", "news"] {
        hub.publish(channel, json!(channel)).await;
    }
    assert_eq!(data(&client.event().await), json!("news"));
}

#[actix_rt::test]
async fn idle_events_are_kept_alive_by_comments() {
    let hub = start_hub_with(ping_often).await;
    let (mut client, _) = open(&hub, "news", &[]).await;
    for _ in 0..4 {
        assert_eq!(client.next().await.expect("a comment"), b":");
    }
}

#[actix_rt::test]
async fn revoked_token_ends_its_events() {
    let hub = start_hub().await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "iat": 0, "jti": "1"}));
    let path = format!("/v1/channels/news/events?token={token}");
    let mut client = StreamClient::events(hub.address, &path, &[]).await;
    assert_eq!(client.event().await.name, "subscribe");
    hub.call_api("revoke_token", json!({"jti": "1"})).await;
    let event = client.event().await;
    assert_eq!((event.name.as_str(), &event.json()["code"]), ("disconnect", &json!(3500)));
    assert_eq!(status(&hub, &path, &[]).await, 401);
}
