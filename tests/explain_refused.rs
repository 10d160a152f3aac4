//! `explain` for a user who is not connected because its clients are refused: on two nodes, of which the other one is asked.

use serde_json::{Value, json};
use wardcast::config::RejectMode;

use crate::support::{
    Client, TestHub,
    node::{Node, start_nodes},
    poll_until,
    redis::{PrefixedRedis, RedisForm},
    start_hub_with,
};

/// Waits until a hub names this cause for a user, and returns what it says of the newest attempt.
async fn wait_for_cause(hub: &TestHub, user: &str, cause: &str) -> Value {
    let mut answer = Value::Null;
    poll_until(&format!("{user}: {cause}"), async || {
        answer = hub.call_api("explain", json!({"user": user, "channel": "news"})).await["result"].take();
        answer["cause"] == cause
    })
    .await;
    answer["sessions"][0].take()
}

fn assert_refused(session: &Value, code: Option<u64>, reason: &str) {
    let end = &session["end"];
    assert_eq!((end["code"].as_u64(), end["reason"].as_str()), (code, Some(reason)), "{session}");
    assert!(session["is_open"] == false && end["time"] == session["connected_at"], "{session}");
}

#[actix_rt::test]
async fn refused_token_of_a_user_is_explained_by_another_node() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let [asked, other]: [Node; 2] = start_nodes(&redis, &["channels.allow_subscribe=user"]).await;
    let of_handshake = format!("/socket?token={}", other.expired_token("handshake"));
    assert_eq!(other.try_handshake(&of_handshake, &[]).await.status, 401);
    assert_refused(&wait_for_cause(&asked, "handshake", "connect_refused").await, None, "expired");

    // A client without a token that presents one later: it may present another one on the same connection.
    let mut client = other.connect_without_token().await;
    let connect = |id: u32, token: String| json!({"id": id, "connect": {"token": token}});
    assert_eq!(client.request(connect(1, other.expired_token("command"))).await["error"]["code"], 109);
    let refused = wait_for_cause(&asked, "command", "connect_refused").await;
    assert_refused(&refused, Some(109), "expired");
    let of_client = json!({"client": refused["client"], "channel": "news"});
    let answer = asked.call("explain", of_client).await;
    assert_eq!(answer["cause"], "not_authenticated", "the connection is open: {answer}");
    assert!(client.request(connect(2, other.token("command"))).await["connect"].is_object());
    client.subscribe("news").await;
    wait_for_cause(&asked, "command", "delivered").await;

    let mut forged = other.connect_without_token().await;
    forged.send(connect(1, other.forged_token("forged"))).await;
    assert_eq!(forged.wait_for_close().await.0, Some(3500));
    assert_refused(&wait_for_cause(&asked, "forged", "connect_refused").await, Some(3500), "wrong signature");
    let unknown = asked.call("explain", json!({"user": "nobody", "channel": "news"})).await;
    assert_eq!(unknown["cause"], "not_connected", "{unknown}");
}

#[actix_rt::test]
async fn newest_of_a_refused_attempt_and_an_ended_session_is_the_cause() {
    let hub = start_hub_with(|config| {
        config.auth.reject = RejectMode::Close;
        config.limits.connections_per_user = 1;
    })
    .await;
    let refused = Client::connect(hub.address, &format!("/socket?token={}", hub.expired_token("ann"))).await;
    refused.unwrap().wait_for_close().await;
    wait_for_cause(&hub, "ann", "connect_refused").await;
    let mut ann = hub.connect("ann").await;
    wait_for_cause(&hub, "ann", "not_subscribed").await;
    let second = hub.try_handshake(&hub.path_for("ann"), &[]).await;
    assert_eq!(second.status, 429, "{second:?}");
    wait_for_cause(&hub, "ann", "not_subscribed").await;
    hub.call_api("disconnect", json!({"user": "ann"})).await;
    ann.wait_for_close().await;
    wait_for_cause(&hub, "ann", "closed").await;
    hub.wait_for_connections(0).await;
    let third = hub.connect("ann").await;
    hub.try_handshake(&hub.path_for("ann"), &[]).await;
    drop(third);
    // Lost after the attempt.
    wait_for_cause(&hub, "ann", "connection_lost").await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": -10, "jti": "secret-id"}));
    Client::connect(hub.address, &format!("/socket?token={token}")).await.unwrap().wait_for_close().await;
    let session = wait_for_cause(&hub, "ann", "connect_refused").await;
    assert_refused(&session, None, "expired");
    assert!(!session.to_string().contains("secret-id"), "{session}");
}

#[actix_rt::test]
async fn forged_tokens_hide_neither_the_end_of_a_session_nor_a_refused_token_of_the_user() {
    let hub = start_hub_with(|config| config.limits.ended_sessions = 4).await;
    let refuse = async |token: String| {
        assert_eq!(hub.try_handshake(&format!("/socket?token={token}"), &[]).await.status, 401);
    };
    for _ in 0..2 {
        refuse(hub.expired_token("ann")).await;
    }
    let mut bob = hub.connect("bob").await;
    hub.call_api("disconnect", json!({"user": "bob"})).await;
    bob.wait_for_close().await;
    wait_for_cause(&hub, "bob", "closed").await;
    // As many names as are remembered, and more.
    for number in 0..8 {
        refuse(hub.forged_token(&format!("user-{number}"))).await;
    }
    for user in ["ann", "bob", "carl"] {
        refuse(hub.forged_token(user)).await;
    }
    let explain = async |user: &str| {
        let answer = hub.call_api("explain", json!({"user": user, "channel": "news"})).await;
        let sessions = answer["result"]["sessions"].as_array().unwrap();
        let fields = ["cause", "signed", "attempts"];
        sessions.iter().map(|session| json!(fields.map(|field| &session[field]))).collect::<Vec<Value>>()
    };
    let forged = json!(["connect_refused", false, 1]);
    assert_eq!(explain("ann").await, [json!(["connect_refused", true, 2]), forged.clone()]);
    assert_eq!(explain("bob").await, [json!(["closed", null, null]), forged.clone()]);
    assert_eq!(explain("carl").await, [forged]);
    assert_eq!(explain("user-0").await, [] as [Value; 0]);
    wait_for_cause(&hub, "bob", "closed").await;
}
