//! Tickets: what stands for a token in a URL, for one connection and not for long.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wardcast::config::Door;

use crate::support::{Client, Hub, http, hub, hub_with, secret};

fn ask(hub: &Hub, token: &str) -> http::Request {
    http::post(hub.address, "/auth/ticket").header("Authorization", &format!("Bearer {token}"))
}

async fn ticket(hub: &Hub, token: &str) -> String {
    let answer = ask(hub, token).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    secret(answer.json()["ticket"].as_str().unwrap().to_owned())
}

#[actix_rt::test]
async fn a_ticket_opens_one_connection_for_the_user_of_its_token() {
    let hub = hub().await;
    let answer = ask(&hub, &hub.token("ann")).send().await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
    assert_eq!(answer.json()["expires_in"], json!(30));
    let path = format!("/socket?ticket={}", secret(answer.json()["ticket"].as_str().unwrap()));
    let mut ann = hub.client_with(&path, &[]).await;
    ann.subscribe("news").await;
    hub.client("bob").await.say(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    assert_eq!(ann.publication().await, json!(1));
    let again = hub.knock(&path, &[]).await;
    assert_eq!((again.status, again.header("connection")), (401, Some("close")), "{again:?}");
}

#[actix_rt::test]
async fn twenty_at_once_with_the_same_ticket_are_one() {
    let hub = hub().await;
    let path = format!("/socket?ticket={}", ticket(&hub, &hub.token("ann")).await);
    let statuses = join_all((0..20).map(|_| hub.knock(&path, &[]))).await;
    let mut statuses: Vec<u16> = statuses.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (101, &[401; 19][..]));
}

#[actix_rt::test]
async fn a_ticket_that_was_never_given_is_401() {
    let hub = hub().await;
    let given = ticket(&hub, &hub.token("ann")).await;
    let long = "a".repeat(4000);
    for never in ["", "a", &given[1..], &format!("{given}a"), &"A".repeat(43), "..%2f..%2f", "%00", &long] {
        let answer = hub.knock(&format!("/socket?ticket={never}"), &[]).await;
        assert_eq!(answer.status, 401, "{never:.50}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    }
    assert_eq!(hub.knock("/socket?ticket=%zz", &[]).await.status, 400);
    assert_eq!(hub.knock(&format!("/socket?ticket={given}"), &[]).await.status, 101, "they did not use it up");
}

#[actix_rt::test]
async fn a_ticket_beside_a_token_or_another_ticket_is_400_and_not_used_up() {
    let hub = hub().await;
    let given = ticket(&hub, &hub.token("ann")).await;
    let token = hub.token("ann");
    let bearer = format!("Bearer {token}");
    assert_eq!(hub.knock(&format!("/socket?ticket={given}&token={token}"), &[]).await.status, 400);
    assert_eq!(hub.knock(&format!("/socket?ticket={given}&ticket={given}"), &[]).await.status, 400);
    let path = format!("/socket?ticket={given}");
    assert_eq!(hub.knock(&path, &[("Authorization", &bearer)]).await.status, 400);
    assert_eq!(hub.knock(&path, &[("Sec-WebSocket-Protocol", &token)]).await.status, 400);
    assert_eq!(hub.knock(&path, &[]).await.status, 101);
}

#[actix_rt::test]
async fn a_ticket_is_given_for_one_good_bearer_token_only() {
    let hub = hub().await;
    for (token, code) in [(hub.forged_token("ann"), 101), (hub.expired_token("ann"), 109), ("x".repeat(9000), 101)] {
        let answer = ask(&hub, &token).send().await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!(code)), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(!answer.body.contains(&token));
    }
    let token = hub.token("ann");
    let without = || http::post(hub.address, "/auth/ticket");
    for request in [
        without(),
        without().header("Authorization", &format!("Basic {token}")),
        ask(&hub, &token).header("Authorization", &format!("Bearer {token}")),
        without().header("Cookie", &format!("wardcast_token={token}")),
        http::post(hub.address, &format!("/auth/ticket?token={token}")),
    ] {
        let answer = request.send().await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    assert_eq!(http::get(hub.address, "/auth/ticket").send().await.status, 405);
}

#[actix_rt::test]
async fn a_ticket_opens_nothing_after_its_token_has_expired() {
    let hub = hub().await;
    let answer = ask(&hub, &hub.token_for("ann", Duration::from_secs(10))).send().await.json();
    assert!(answer["expires_in"].as_u64().unwrap() <= 10, "{answer}");
    hub.clock.advance(Duration::from_secs(11));
    let late = hub.knock(&format!("/socket?ticket={}", secret(answer["ticket"].as_str().unwrap())), &[]).await;
    assert_eq!(late.status, 401, "{late:?}");
}

#[actix_rt::test]
async fn one_user_cannot_take_all_the_tickets() {
    let hub = hub_with(|config| (config.limits.tickets_per_second, config.limits.tickets) = (1, 20)).await;
    let mut given = 0;
    for _ in 0..10 {
        let answer = ask(&hub, &hub.token("ann")).send().await;
        given += usize::from(answer.status == 200);
        assert!(answer.status == 200 || (answer.status == 429 && answer.header("retry-after").is_some()), "{answer:?}");
    }
    assert!((2..5).contains(&given), "two at once and one a second: {given}");
    ticket(&hub, &hub.token("bob")).await;
}

#[actix_rt::test]
async fn one_who_is_nobody_takes_no_tickets_of_others_who_are_nobody() {
    let hub = hub_with(|config| {
        config.auth.anonymous = wardcast::config::Anonymous::Token;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.limits.tickets_per_second = 1;
    })
    .await;
    let nobody = hub.signed(json!({"sub": "", "exp": 60}));
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(ask(&hub, &nobody).header("X-Forwarded-For", "192.0.2.1").send().await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(ask(&hub, &nobody).header("X-Forwarded-For", "192.0.2.2").send().await.status, 200);
}

#[actix_rt::test]
async fn where_the_door_is_closed_there_are_no_tickets() {
    let hub = hub_with(|config| config.auth.doors = vec![Door::Query, Door::Message]).await;
    assert_eq!(ask(&hub, &hub.token("ann")).send().await.status, 404);
    let mut stranger = Client::connect(hub.address, "/socket?ticket=anything").await.unwrap();
    stranger.say_text(&format!("Authorization: Bearer {}", hub.token("ann"))).await;
    assert!(stranger.hear().await["push"]["connect"].is_object(), "it is a parameter like any other");
}
