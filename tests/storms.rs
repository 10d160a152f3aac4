//! More clients than a worker can verify.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wardcast::config::Config;

use crate::{
    support::{Client, PATIENCE, TestHub, mark_secret, start_hub_with},
    tickets::ticket_request,
};

/// A hub of one worker, on which one client at a time is verified and one waits.
pub fn narrow(config: &mut Config) {
    config.server.workers = 1;
    config.limits.verification_turn = Duration::from_micros(1);
    config.limits.verification_queue = 2;
    config.limits.verification_wait = Duration::from_millis(10);
}

/// How many clients were refused before their token was verified.
pub async fn refused(hub: &TestHub) -> f64 {
    hub.metric("wardcast_verifications_total{outcome=\"refused\"}").await
}

#[actix_rt::test]
async fn handshakes_above_the_queue_are_503_with_a_spread_retry_after_and_accepted_later() {
    let hub = start_hub_with(narrow).await;
    let mut staying = hub.connect_subscriber("bob", "news").await;
    let path = hub.path_for("ann");
    let mut waits = std::collections::BTreeSet::new();
    let mut accepted = 0;
    for round in 0..20 {
        let answers = join_all((0..100).map(|_| hub.try_handshake(&path, &[]))).await;
        for answer in answers {
            match answer.status {
                101 => accepted += 1,
                503 => {
                    assert_eq!(answer.json()["error"]["code"], 111, "{answer:?}");
                    waits.insert(answer.header("retry-after").unwrap().parse::<u32>().unwrap());
                }
                status => panic!("{status}"),
            }
        }
        hub.publish("news", json!(round)).await;
        assert_eq!(staying.receive_publication().await, json!(round));
        if waits.len() > 2 && accepted > 0 {
            break;
        }
    }
    assert!(waits.len() > 2 && waits.iter().all(|wait| (1..=5).contains(wait)) && accepted > 0, "{waits:?} {accepted}");
    assert!(refused(&hub).await > 0.0);
    assert_eq!(hub.metric("wardcast_handshakes_refused_total{reason=\"overload\"}").await, refused(&hub).await);
    hub.connect("ann").await.subscribe("news").await;
}

#[actix_rt::test]
async fn ticket_of_an_overloaded_handshake_is_accepted_later() {
    let hub = start_hub_with(|config| {
        narrow(config);
        (config.limits.tickets_per_second, config.limits.connections_per_user) = (1000, 1000);
        config.auth.ticket_ttl = Duration::from_secs(600);
    })
    .await;
    let mut paths = Vec::new();
    while paths.len() < 100 {
        let response = ticket_request(&hub, &hub.token("ann")).send().await;
        if response.status == 200 {
            paths.push(format!("/socket?ticket={}", mark_secret(response.json()["ticket"].as_str().unwrap())));
        }
    }
    let mut refused = 0;
    while !paths.is_empty() {
        let answers = join_all(paths.iter().map(|path| hub.try_handshake(path, &[]))).await;
        let mut left = Vec::new();
        for (path, answer) in paths.into_iter().zip(answers) {
            match answer.status {
                101 => {}
                503 => left.push(path),
                status => panic!("{status}: {answer:?}"),
            }
        }
        refused += left.len();
        paths = left;
    }
    assert!(refused > 0);
}

/// Connects without a token, and sends the first message at the same time as the others.
async fn connect_together(hub: &TestHub, message: &str) -> Vec<Client> {
    let mut clients = join_all((0..100).map(|_| hub.connect_without_token())).await;
    join_all(clients.iter_mut().map(|client| client.send_text(message))).await;
    clients
}

#[actix_rt::test]
async fn first_messages_above_the_queue_are_answered_as_temporary() {
    let hub = start_hub_with(narrow).await;
    // What an SDK sends behind its connect is ignored after an error.
    let connect = json!({"id": 1, "connect": {"token": hub.token("ann")}});
    let frame = format!("{connect}\n{}", json!({"id": 2, "subscribe": {"channel": "news"}}));
    let mut refused_commands = 0;
    for mut client in connect_together(&hub, &frame).await {
        let mut reply = client.receive().await;
        while !reply["error"].is_null() {
            assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(1), &json!(111)), "{reply}");
            assert_eq!(reply["error"]["temporary"], true, "{reply}");
            refused_commands += 1;
            reply = client.request(connect.clone()).await;
        }
        assert!(reply["connect"].is_object(), "{reply}");
    }
    let mut closed = 0;
    for mut client in connect_together(&hub, &hub.token_message("ann")).await {
        match tokio::time::timeout(PATIENCE, client.next()).await.unwrap() {
            Ok(push) => assert!(push.contains("\"connect\""), "{push}"),
            Err(end) => {
                assert_eq!(end.code, Some(3013));
                closed += 1;
            }
        }
    }
    assert!(refused_commands > 0 && closed > 0, "{refused_commands} {closed}");
}

#[actix_rt::test]
async fn every_way_to_send_a_token_waits_for_its_turn() {
    let hub = start_hub_with(|config| {
        config.server.workers = 1;
        config.limits.verification_turn = Duration::from_micros(1);
    })
    .await;
    let posts = ["/auth/ticket", "/auth/logout", "/v1/channels/news/messages"];
    let waited = async || hub.metric("wardcast_verifications_total{outcome=\"waited\"}").await;
    for path in posts {
        let before = waited().await;
        let mut rounds = 0;
        while waited().await == before {
            let token = hub.bearer("ann");
            let request = || crate::support::http::post(hub.address, path).header("Authorization", &token);
            let answers = join_all((0..50).map(|_| request().json(json!({})).send())).await;
            assert!(answers.iter().all(|answer| answer.status != 503), "{path}");
            rounds += 1;
            assert!(rounds < 50, "{path}: nothing has waited");
        }
    }
    assert_eq!(refused(&hub).await, 0.0);
}
