//! What the audit log has of logins, logouts and revocations.

use serde_json::{Value, json};
use wardcast::config::{BrokerKind, Secret};

use crate::{
    audit::{AuditedHub, assert_fields, claims},
    backchannel_logout::{logout_token, send, trust_issuer},
    support::{http, mark_secret, redis::RedisServer, trust_loopback_proxy},
    tickets::request_ticket,
};

#[actix_rt::test]
async fn logout_is_recorded_with_what_it_revokes() {
    let audited = AuditedHub::start(|_| ()).await;
    let bearer = format!("Bearer {}", audited.hub.token_with_claims(claims("9")));
    let response = http::post(audited.hub.address, "/auth/logout").header("Authorization", &bearer).send().await;
    assert_eq!(response.status, 204);
    assert_fields(&audited.wait_for("logged_out", 1).await, json!({"user": "ann", "jti": "9", "address": "127.0.0.1"}));
    assert_fields(&audited.wait_for("revoked", 1).await, json!({"sid": "s1", "by": "logout", "address": "127.0.0.1"}));
}

#[actix_rt::test]
async fn logout_at_the_provider_is_recorded_with_whom_it_names_and_what_it_revokes() {
    let audited = AuditedHub::start(trust_issuer).await;
    let token = logout_token(&audited.hub, "5", json!({"sid": "s1", "sub": "ann"}));
    assert_eq!(send(audited.hub.address, &token).await.status, 200);
    let named =
        json!({"issuer": "https://id.example.com", "user": "ann", "jti": "5", "sid": "s1", "address": "127.0.0.1"});
    assert_fields(&audited.wait_for("back_channel_logout", 1).await, named);
    for (number, what) in [json!({"sid": "s1"}), json!({"user": "ann"}), json!({"jti": "5"})].into_iter().enumerate() {
        let line = audited.wait_for("revoked", number + 1).await;
        assert_fields(&line, json!({"by": "back_channel_logout", "issuer": "https://id.example.com"}));
        assert_fields(&line, what);
    }
}

#[actix_rt::test]
async fn revocation_that_fails_is_recorded_with_its_reason() {
    let audited = AuditedHub::start(|config| config.limits.revocations = 1).await;
    for jti in ["1", "2"] {
        audited.hub.call_api("revoke_token", json!({"jti": jti})).await;
    }
    assert_eq!(audited.wait_for("revoked", 1).await["reason"], Value::Null);
    let failed = audited.wait_for("revoked", 2).await;
    assert!(failed["jti"] == "2" && failed["reason"].as_str().unwrap().contains("limits.revocations"), "{failed}");
}

/// What is no user may be a password, typed into the wrong field.
#[actix_rt::test]
async fn failed_login_is_recorded_with_its_user_only_if_there_is_one() {
    let audited = AuditedHub::start(|config| config.login.demo_password = Secret::new("right horse")).await;
    for (username, recorded) in [("demo", json!("demo")), ("right horse battery", Value::Null)] {
        let login = http::post(audited.hub.address, "/auth/login");
        login.json(json!({"username": username, "password": "wrong horse"})).send().await;
        let number = if recorded.is_null() { 2 } else { 1 };
        assert_eq!(audited.wait_for("login_failed", number).await["user"], recorded);
    }
    assert!(!audited.text().contains("battery"));
}

#[actix_rt::test]
async fn login_that_is_delayed_is_recorded_as_failed() {
    let audited = AuditedHub::start(|config| {
        config.login.demo_password = Secret::new("right horse");
        trust_loopback_proxy(config);
    })
    .await;
    let mut answers = Vec::new();
    while answers.last() != Some(&429) {
        let login = http::post(audited.hub.address, "/auth/login").header("X-Forwarded-For", "192.0.2.1");
        answers.push(login.json(json!({"username": "demo", "password": "wrong horse"})).send().await.status);
    }
    let delayed = audited.wait_for("login_failed", answers.len()).await;
    assert_fields(
        &delayed,
        json!({"reason": "delayed after earlier failures", "user": "demo", "address": "192.0.2.1"}),
    );
}

#[actix_rt::test]
async fn refresh_tokens_are_recorded_when_they_are_used_and_when_they_are_used_again() {
    let audited = AuditedHub::start(|config| config.login.demo_password = Secret::new("right horse")).await;
    let post = async |path: &str, body: Value| http::post(audited.hub.address, path).json(body).send().await;
    let tokens =
        |answer: http::Response| answer.json()["refresh_token"].as_str().map(|token| mark_secret(token.to_owned()));
    let login = post("/auth/login", json!({"username": "demo", "password": "right horse"})).await;
    let first = tokens(login).unwrap();
    let second = tokens(post("/auth/refresh", json!({"refresh_token": first})).await).unwrap();
    let sid = audited.wait_for("logged_in", 1).await["sid"].clone();
    assert_fields(&audited.wait_for("refresh_token_used", 1).await, json!({"sid": sid, "address": "127.0.0.1"}));
    post("/auth/refresh", json!({"refresh_token": second})).await;
    assert_eq!(post("/auth/refresh", json!({"refresh_token": first})).await.status, 401);
    assert_fields(&audited.wait_for("refresh_token_reused", 1).await, json!({"sid": sid, "address": "127.0.0.1"}));
    assert_fields(&audited.wait_for("revoked", 1).await, json!({"sid": sid, "by": "refresh_token_reuse"}));
}

#[actix_rt::test]
async fn handshake_that_takes_too_long_is_recorded() {
    let redis = RedisServer::start().await;
    let audited = AuditedHub::start(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(redis.url());
        config.broker.redis.timeout = std::time::Duration::from_secs(60);
    })
    .await;
    let hub = &audited.hub;
    hub.wait_for_broker(true).await;
    let ticket = request_ticket(hub, &hub.token("ann")).await;
    redis.freeze();
    let answer = hub.try_handshake(&format!("/socket?ticket={ticket}"), &[]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
    let reason = "the handshake took too long; try again soon";
    assert_fields(&audited.wait_for("refused", 1).await, json!({"path": "/socket", "reason": reason}));
    redis.resume();
    assert_eq!(hub.metric("wardcast_handshakes_refused_total{reason=\"timeout\"}").await, 1.0);
}

#[actix_rt::test]
async fn ticket_that_redis_takes_after_the_handshake_has_timed_out_is_recorded() {
    let redis = RedisServer::start().await;
    let audited = AuditedHub::start(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(redis.url());
        config.broker.redis.timeout = std::time::Duration::from_secs(60);
        config.limits.connections_per_user = 0;
    })
    .await;
    let hub = &audited.hub;
    hub.wait_for_broker(true).await;
    let ticket = request_ticket(hub, &hub.token("ann")).await;
    redis.run::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={ticket}"), &[]).await.status, 503);
    assert!(!audited.text().contains("ticket_used"), "{}", audited.text());
    redis.run::<()>(&["CLIENT", "UNPAUSE"]).await;
    assert_fields(&audited.wait_for("ticket_used", 1).await, json!({"user": "ann", "door": "ticket"}));
}
