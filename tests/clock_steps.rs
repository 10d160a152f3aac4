//! Steps of the wall clock, by NTP, an administrator or a resumed machine. Dates follow them at once; whatever has a length
//! lasts as long as before.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Config};

use crate::{
    revocation::{assert_closed_as_revoked, revoke},
    support::{Client, TestHub, http, raw, redis::RedisServer, start_hub_on, start_hub_with},
};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Starts a hub whose channels have presence and a history of a minute.
async fn start_hub_with_lifetimes() -> TestHub {
    start_hub_with(|config: &mut Config| {
        config.channels.presence = true;
        config.channels.allow_presence = ChannelAccess::User;
        config.channels.history_size = 10;
        config.channels.history_ttl = Duration::from_secs(60);
        config.limits.connections_per_user = 100;
    })
    .await
}

async fn count_present(hub: &TestHub) -> u64 {
    hub.call_api("presence_stats", json!({"channel": "news"})).await["result"]["num_clients"].as_u64().unwrap()
}

async fn publish_once(hub: &TestHub, data: &str) -> Value {
    hub.publish_with(json!({"channel": "news", "data": data, "idempotency_key": "retried"})).await
}

async fn read_history(hub: &TestHub) -> Value {
    hub.call_api("history", json!({"channel": "news", "limit": 10})).await["result"].clone()
}

/// Connects a client whose token outlives every step.
async fn connect_for_ever(hub: &TestHub, user: &str) -> Client {
    let (mut client, _) = hub.connect_with_claims(json!({"sub": user, "exp": 3600})).await;
    client.subscribe("news").await;
    client
}

#[actix_rt::test]
async fn step_forward_keeps_presence_of_40_clients() {
    let hub = start_hub_with_lifetimes().await;
    let mut clients = Vec::new();
    for number in 0..40 {
        clients.push(connect_for_ever(&hub, &format!("user {number}")).await);
    }
    hub.clock.step_forward(Duration::from_secs(61));
    assert_eq!(count_present(&hub).await, 40);
    hub.clock.step_back(YEAR);
    assert_eq!(count_present(&hub).await, 40);
}

#[actix_rt::test]
async fn publication_retried_after_a_step_forward_is_not_published_again() {
    let hub = start_hub_with_lifetimes().await;
    let mut client = connect_for_ever(&hub, "ann").await;
    let first = publish_once(&hub, "first").await;
    hub.clock.step_forward(Duration::from_secs(301));
    assert_eq!(publish_once(&hub, "retried").await, first);
    hub.publish("news", json!("next")).await;
    assert_eq!(client.receive_publication().await, json!("first"));
    assert_eq!(client.receive_publication().await, json!("next"));
}

#[actix_rt::test]
async fn history_and_its_epoch_survive_steps_in_either_direction() {
    let hub = start_hub_with_lifetimes().await;
    hub.publish("news", json!("stored")).await;
    let before = read_history(&hub).await;
    assert_eq!(before["publications"][0]["data"], json!("stored"));
    for step in [YEAR, Duration::ZERO] {
        hub.clock.step_forward(step);
        assert_eq!(read_history(&hub).await, before);
        hub.clock.step_back(YEAR);
    }
    assert_eq!(read_history(&hub).await, before);
}

#[actix_rt::test]
async fn lifetimes_end_on_time_after_a_step_back() {
    let hub = start_hub_with_lifetimes().await;
    let first = publish_once(&hub, "first").await;
    hub.clock.step_back(YEAR);
    hub.clock.advance(Duration::from_secs(60));
    assert!(read_history(&hub).await["publications"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(publish_once(&hub, "retried").await, first);
    hub.clock.advance(Duration::from_secs(240));
    assert_ne!(publish_once(&hub, "five minutes later").await, first);
}

#[actix_rt::test]
async fn date_that_a_step_reaches_closes_the_session_with_3005() {
    let hub = start_hub_with_lifetimes().await;
    let mut staying = connect_for_ever(&hub, "bob").await;
    let (mut expiring, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    hub.clock.step_forward(Duration::from_secs(61));
    assert_eq!(expiring.wait_for_close().await.0, Some(3005));
    hub.publish("news", json!("later")).await;
    assert_eq!(staying.receive_publication().await, json!("later"));
}

#[actix_rt::test]
async fn step_forward_ends_no_deadline_of_a_connection() {
    let hub = start_hub_with(|config| config.limits.commands_per_second = 1).await;
    // It has ten seconds for its first message, a quarter of a minute for its first ping, and half a minute for a message.
    let mut unauthenticated = raw::RawClient::connect(hub.address, "/socket").await;
    let mut client = hub.connect_raw("ann").await;
    client.send(&raw::frame(raw::TEXT, br#"{"id":1,"#)).await;
    hub.clock.step_forward(Duration::from_secs(600));
    // The hub checks all sessions after a jump; a session that expires by it shows that this has happened.
    let (mut expiring, _) = hub.connect_with_claims(json!({"sub": "eve", "exp": 60})).await;
    hub.clock.step_forward(Duration::from_secs(61));
    assert_eq!(expiring.wait_for_close().await.0, Some(3005));
    client.send(&raw::frame(raw::FIN | raw::CONTINUATION, br#""ping":{}}"#)).await;
    assert_eq!(client.next().await.expect("a reply").text(), r#"{"id":1,"ping":{}}"#);
    unauthenticated.send(&raw::text_frame(&hub.token_message("bob"))).await;
    assert!(unauthenticated.next().await.expect("a connect push").text().contains(r#""connect""#));
}

#[actix_rt::test]
async fn ticket_outlives_a_step_forward_that_its_token_outlives() {
    let hub = start_hub_with(|_| ()).await;
    let request = http::post(hub.address, "/auth/ticket").header("Authorization", &hub.bearer("ann"));
    let ticket = request.send().await.json()["ticket"].as_str().unwrap().to_owned();
    hub.clock.step_forward(Duration::from_secs(600));
    hub.connect_to(&format!("/socket?ticket={ticket}"), &[]).await;
}

const HOUR: Duration = Duration::from_secs(3600);

/// Revokes one of two tokens of a user for a quarter of an hour.
async fn revoke_for_a_while(hub: &TestHub, jti: &str) {
    let until = hub.clock.now().unix_seconds() + 900;
    revoke(hub, json!({"jti": jti, "expire_at": until})).await;
}

#[actix_rt::test]
async fn revocation_that_expired_by_a_clock_that_was_ahead_closes_sessions_when_it_is_set_back() {
    let hub = start_hub_with(|config| config.limits.revocations = 1).await;
    let token = |jti: &str| hub.token_with_claims(json!({"sub": "ann", "exp": 2 * 3600, "jti": jti}));
    let [revoked, other] = ["1", "2"].map(token);
    revoke_for_a_while(&hub, "1").await;
    hub.clock.step_forward(HOUR);
    // It takes the room of the other.
    revoke_for_a_while(&hub, "3").await;
    let connect = async |token: &str| hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    let (mut socket, mut other) = (connect(&revoked).await, connect(&other).await);
    socket.subscribe("news").await;
    other.subscribe("news").await;
    hub.clock.step_back(HOUR);
    assert_closed_as_revoked(&mut socket).await;
    assert_eq!(hub.try_handshake(&format!("/socket?token={revoked}"), &[]).await.status, 401);
    assert_eq!(other.request(json!({"id": 9, "ping": {}})).await["id"], 9);
}

#[actix_rt::test]
async fn revocation_that_comes_while_the_clock_of_a_node_is_ahead_closes_its_sessions_when_it_is_set_back() {
    let redis = RedisServer::start().await;
    let (right, ahead) = (start_hub_on(&redis, |_| ()).await, start_hub_on(&redis, |_| ()).await);
    for hub in [&right, &ahead] {
        hub.wait_for_broker(true).await;
        hub.wait_for_nodes(2).await;
    }
    let token = right.token_with_claims(json!({"sub": "ann", "exp": 2 * 3600, "jti": "1"}));
    ahead.clock.step_forward(HOUR);
    let mut socket = ahead.connect_to(&format!("/socket?token={token}"), &[]).await;
    revoke_for_a_while(&right, "1").await;
    socket.subscribe("news").await;
    ahead.clock.step_back(HOUR);
    assert_closed_as_revoked(&mut socket).await;
    assert_eq!(ahead.try_handshake(&format!("/socket?token={token}"), &[]).await.status, 401);
}
