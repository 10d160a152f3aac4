//! The audit log of a hub: a line for everyone who is let in, refused or revoked, and no secret in it.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use wardcast::config::{BrokerKind, Config, RejectMode, Secret};

use crate::{
    login::{PASSWORD, log_in, start_login_hub_with},
    support::{API_KEY, Client, TestHub, http, mark_secret, poll_until, raw, redis::RedisServer, start_hub_with},
};

/// A hub with an audit log of its own.
pub struct AuditedHub {
    pub hub: TestHub,
    folder: tempfile::TempDir,
}

impl AuditedHub {
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hub = start_hub_with(|config| {
            config.audit.output = Some(folder.path().join("audit.log").display().to_string());
            change(config);
        })
        .await;
        Self { hub, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    pub fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap_or_default()
    }

    pub fn lines(&self, event: &str) -> Vec<Value> {
        let text = self.text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// Waits for the next line about this event, and returns it.
    pub async fn wait_for(&self, event: &str, number: usize) -> Value {
        poll_until(&format!("line {number} of {event}"), async || self.lines(event).len() >= number).await;
        self.lines(event)[number - 1].clone()
    }
}

pub fn assert_fields(line: &Value, expected: Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
}

pub fn claims(jti: &str) -> Value {
    json!({"sub": "ann", "exp": 60, "iss": "https://id.example.com", "jti": jti, "sid": "s1"})
}

#[actix_rt::test]
async fn client_that_is_let_in_is_recorded_with_its_credential() {
    let audited = AuditedHub::start(|_| ()).await;
    let hub = &audited.hub;
    let (_ann, push) = hub.connect_with_claims(claims("1")).await;
    let line = audited.wait_for("connected", 1).await;
    assert_fields(
        &line,
        json!({"address": "127.0.0.1", "door": "query", "user": "ann", "issuer": "https://id.example.com", "jti": "1", "sid": "s1",
            "client": push["client"]}),
    );
    assert!(line["time"].is_string() && line["node"].is_string() && line["expires_at"].is_string(), "{line}");
    hub.connect_sdk(&hub.token("bob")).await;
    assert_fields(
        &audited.wait_for("connected", 2).await,
        json!({"door": "connect", "user": "bob", "address": "127.0.0.1"}),
    );
    let mut cho = hub.connect_without_token().await;
    cho.send_text(&hub.token_message("cho")).await;
    assert_fields(&audited.wait_for("connected", 3).await, json!({"door": "message", "user": "cho"}));
}

#[actix_rt::test]
async fn refused_credentials_are_recorded_with_their_reason() {
    for reject in [RejectMode::Http, RejectMode::Close] {
        let audited = AuditedHub::start(|config| config.auth.reject = reject).await;
        let hub = &audited.hub;
        let path = format!("/socket?token={}", hub.expired_token("ann"));
        drop(Client::connect(hub.address, &path).await);
        let line = audited.wait_for("refused", 1).await;
        assert_fields(&line, json!({"address": "127.0.0.1", "door": "query", "reason": "refused token: expired"}));
        let mut bob = hub.connect_without_token().await;
        bob.send(json!({"id": 1, "connect": {"token": hub.forged_token("bob")}})).await;
        let line = audited.wait_for("refused", 2).await;
        assert_fields(&line, json!({"reason": "refused token: wrong signature", "address": "127.0.0.1"}));
        assert!(line["client"].is_string(), "{line}");
        assert!(audited.lines("connected").is_empty(), "{}", audited.text());
    }
}

#[actix_rt::test]
async fn refresh_is_recorded_once_and_another_users_token_as_refused() {
    let audited = AuditedHub::start(|_| ()).await;
    let hub = &audited.hub;
    let (mut ann, _) = hub.connect_with_claims(claims("1")).await;
    let second = hub.token_with_claims(claims("2"));
    ann.request(json!({"id": 1, "refresh": {"token": second}})).await;
    assert_fields(&audited.wait_for("refreshed", 1).await, json!({"user": "ann", "jti": "2"}));
    // The same token again, beside a command.
    ann.request(json!({"id": 2, "token": second, "ping": {}})).await;
    ann.send(json!({"id": 3, "refresh": {"token": hub.token("bob")}})).await;
    ann.wait_for_close().await;
    let line = audited.wait_for("refused", 1).await;
    assert_fields(&line, json!({"user": "bob", "reason": "the token belongs to another user than the session"}));
    assert_eq!(audited.lines("refreshed").len(), 1);
}

#[actix_rt::test]
async fn connection_over_the_limit_of_its_user_is_recorded_as_refused_and_not_as_connected() {
    let audited = AuditedHub::start(|config| config.limits.connections_per_user = 1).await;
    let hub = &audited.hub;
    let _one = hub.connect("ann").await;
    assert_eq!(hub.try_handshake(&hub.path_for("ann"), &[]).await.status, 429);
    let mut late = hub.connect_without_token().await;
    late.send(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    assert_eq!(late.wait_for_close().await.0, Some(3504));
    for number in [1, 2] {
        let line = audited.wait_for("refused", number).await;
        assert_fields(&line, json!({"user": "ann", "reason": "too many connections of this user"}));
    }
    assert_eq!(audited.lines("connected").len(), 1);
}

#[actix_rt::test]
async fn ticket_is_recorded_when_it_is_issued_and_when_it_is_used() {
    let audited = AuditedHub::start(|_| ()).await;
    let hub = &audited.hub;
    let bearer = format!("Bearer {}", hub.token_with_claims(claims("1")));
    let issued = http::post(hub.address, "/auth/ticket").header("Authorization", &bearer).send().await.json();
    assert_fields(&audited.wait_for("ticket_issued", 1).await, json!({"user": "ann", "path": "/auth/ticket"}));
    let path = format!("/socket?ticket={}", issued["ticket"].as_str().unwrap());
    let _ann = hub.connect_to(&path, &[]).await;
    let line = audited.wait_for("ticket_used", 1).await;
    assert_fields(&line, json!({"user": "ann", "jti": "1", "sid": "s1", "door": "ticket", "address": "127.0.0.1"}));
    assert_fields(&audited.wait_for("connected", 1).await, json!({"user": "ann", "door": "ticket"}));
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401);
    let line = audited.wait_for("refused", 1).await;
    assert_fields(
        &line,
        json!({"door": "ticket", "reason": "refused token: the ticket is unknown, has expired or was used before"}),
    );
    assert_eq!((audited.lines("ticket_used").len(), audited.lines("refused").len()), (1, 1), "{}", audited.text());
}

#[actix_rt::test]
async fn end_of_a_session_is_recorded_with_code_reason_and_duration() {
    let audited = AuditedHub::start(|_| ()).await;
    let hub = &audited.hub;
    // A client that closes, one that vanishes, and one that breaks the protocol.
    let mut ann = hub.connect_raw("ann").await;
    hub.clock.advance(std::time::Duration::from_millis(61_500));
    ann.send(&raw::frame(0x88, &1000u16.to_be_bytes())).await;
    ann.wait_for_close().await;
    drop(ann);
    let line = audited.wait_for("disconnected", 1).await;
    let ended = json!({"user": "ann", "code": 1000, "reason": "closed by the client", "address": "127.0.0.1"});
    assert_fields(&line, ended);
    assert!((61.5..90.0).contains(&line["seconds"].as_f64().unwrap()), "{line}");
    assert_eq!(line["client"], audited.lines("connected")[0]["client"]);

    drop(hub.connect_raw("ben").await);
    let line = audited.wait_for("disconnected", 2).await;
    assert_fields(&line, json!({"user": "ben", "code": null, "reason": "the connection was lost"}));

    let mut cho = hub.connect_raw("cho").await;
    cho.send(&raw::frame(0xB1, b"x")).await;
    assert_eq!(cho.wait_for_close().await, Some(1002));
    drop(cho);
    let line = audited.wait_for("disconnected", 3).await;
    assert_fields(&line, json!({"user": "cho", "code": 1002}));
    assert!(line["reason"].as_str().unwrap().len() > 3, "{line}");
}

#[actix_rt::test]
async fn end_of_a_session_by_the_hub_is_recorded_with_the_code_and_reason_that_the_client_gets() {
    let audited = AuditedHub::start(|_| ()).await;
    let hub = &audited.hub;
    let mut dan = hub.connect("dan").await;
    hub.call_api("disconnect", json!({"user": "dan", "disconnect": {"code": 4567, "reason": "go away"}})).await;
    assert_eq!(dan.wait_for_close().await, (Some(4567), "go away".to_owned()));
    let line = audited.wait_for("disconnected", 1).await;
    assert_fields(&line, json!({"user": "dan", "code": 4567, "reason": "go away"}));

    let (mut eva, _) = hub.connect_with_claims(claims("7")).await;
    hub.call_api("revoke_token", json!({"jti": "7"})).await;
    let (code, reason) = eva.wait_for_close().await;
    drop(eva);
    assert_eq!(code, Some(3500));
    let line = audited.wait_for("disconnected", 2).await;
    assert_fields(&line, json!({"user": "ann", "code": 3500, "reason": reason}));

    let mut fay = hub.connect_sdk(&hub.token_for("fay", std::time::Duration::from_secs(3))).await;
    assert_eq!(fay.wait_for_close().await.0, Some(3005));
    drop(fay);
    let line = audited.wait_for("disconnected", 3).await;
    assert_fields(&line, json!({"user": "fay", "code": 3005}));
    assert!((0.0..6.0).contains(&line["seconds"].as_f64().unwrap()), "{line}");

    // Those who were never let in have no end.
    let mut nobody = hub.connect_without_token().await;
    nobody.send(json!({"id": 1, "connect": {"token": hub.forged_token("eve")}})).await;
    nobody.wait_for_close().await;
    drop(nobody);
    hub.wait_for_connections(0).await;
    let folder = audited.folder;
    audited.hub.stop().await;
    let text = fs::read_to_string(folder.path().join("audit.log")).unwrap();
    assert_eq!(text.matches("\"disconnected\"").count(), 3, "{text}");
}

/// A line for each of them fits into the queue.
#[actix_rt::test]
async fn stop_of_a_hub_records_the_end_of_every_session_before_its_last_line() {
    let AuditedHub { hub, folder } = AuditedHub::start(|_| ()).await;
    let clients = futures_util::future::join_all((0..300).map(|_| hub.connect_raw("ann"))).await;
    let reading: Vec<_> =
        clients.into_iter().map(|mut client| actix_rt::spawn(async move { client.wait_for_close().await })).collect();
    hub.stop().await;
    let codes = futures_util::future::join_all(reading).await;
    assert!(codes.into_iter().all(|code| code.unwrap() == Some(3001)));
    let text = fs::read_to_string(folder.path().join("audit.log")).unwrap();
    for event in ["connected", "disconnected"] {
        assert_eq!(text.matches(&format!("\"event\":\"{event}\"")).count(), 300, "{event}");
    }
    assert_eq!(text.matches("\"code\":3001,\"reason\":\"shutdown\"").count(), 300);
    assert!(text.lines().last().unwrap().contains("\"stopped\"") && !text.contains("lines_lost"));
}

#[actix_rt::test]
async fn every_refused_handshake_is_recorded_once_with_its_reason() {
    let audited = AuditedHub::start(|config| {
        config.origins.allowed = vec!["https://app.example.com".to_owned()];
        config.limits.connections_per_address = 2;
        config.limits.waiting_per_address = 1;
    })
    .await;
    let hub = &audited.hub;
    let path = hub.path_for("ann");
    let waits = hub.connect_without_token().await;
    let request = |path: &str, change: &[(&str, &str)]| {
        change.iter().fold(raw::handshake(hub.address, path), |text, (from, to)| text.replace(from, to))
    };
    let address_is_full = "too many connections of this address wait for a token";
    let cases: [(String, u16, &str); 7] = [
        (request(&path, &[("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 12")]), 426, "version is 13"),
        (request(&path, &[("Upgrade: websocket", "Upgrade: h2c")]), 400, "upgrade is websocket"),
        (request(&path, &[("HTTP/1.1\r\n", "HTTP/1.1\r\nOrigin: https://evil.example\r\n")]), 403, "refused origin: "),
        (request(&format!("{path}&token=second"), &[]), 400, "refused credentials: "),
        (request("/socket?ticket=unknown", &[]), 401, "refused token: the ticket is unknown"),
        (request("/socket", &[]), 429, address_is_full),
        (format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", hub.address), 426, "only accepts WebSocket"),
    ];
    for (number, (request, status, reason)) in cases.iter().enumerate() {
        assert_eq!(http::exchange(hub.address, request.as_bytes()).await.status, *status, "{request}");
        let line = audited.wait_for("refused", number + 1).await;
        assert!(line["reason"].as_str().unwrap().contains(reason), "{reason}: {line}");
        assert_eq!(line["address"], "127.0.0.1");
    }
    let _ann = hub.connect("ann").await;
    assert_eq!(hub.try_handshake(&hub.path_for("bob"), &[]).await.status, 429);
    let line = audited.wait_for("refused", cases.len() + 1).await;
    assert_fields(&line, json!({"reason": "too many connections of this address", "path": "/socket"}));
    drop(waits);
    assert_eq!(audited.lines("refused").len(), cases.len() + 1, "{}", audited.text());
    assert!(!audited.text().contains("second"), "{}", audited.text());
}

#[actix_rt::test]
async fn handshakes_over_the_limits_of_the_hub_and_of_the_rate_are_recorded() {
    let full = AuditedHub::start(|config| config.limits.connections = 1).await;
    let _ann = full.hub.connect("ann").await;
    assert_eq!(full.hub.try_handshake(&full.hub.path_for("bob"), &[]).await.status, 503);
    let line = full.wait_for("refused", 1).await;
    assert_fields(&line, json!({"reason": "too many connections; try again soon"}));

    let fast = AuditedHub::start(|config| config.limits.handshakes_per_second = 1).await;
    let mut refused = 0;
    while refused == 0 {
        refused += usize::from(fast.hub.try_handshake("/socket?token=x", &[]).await.status == 429);
    }
    let lines = || fast.lines("refused");
    let is_rate = |line: &Value| line["reason"] == "too many handshakes from this address";
    poll_until("a line about the rate", async || lines().iter().any(is_rate)).await;
    while http::post(fast.hub.address, "/auth/ticket").send().await.status != 429 {}
    let is_request =
        |line: &Value| line["reason"] == "too many requests from this address" && line["path"] == "/auth/ticket";
    poll_until("a line about a request", async || lines().iter().any(is_request)).await;
}

#[actix_rt::test]
async fn refused_refresh_is_recorded_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (hub, _users) = start_login_hub_with(|config| {
        config.audit.output = Some(path.display().to_string());
        config.login.refresh_grace = std::time::Duration::ZERO;
    })
    .await;
    let refresh =
        async |token: &str| http::post(hub.address, "/auth/refresh").json(json!({"refresh_token": token})).send().await;
    let login = log_in(&hub, "ann", PASSWORD).await.json();
    let first = mark_secret(login["refresh_token"].as_str().unwrap().to_owned());
    assert_eq!(refresh("nonsense").await.status, 401);
    let next = refresh(&first).await.json();
    mark_secret(next["refresh_token"].as_str().unwrap());
    assert_eq!(refresh(&first).await.status, 401);
    assert_eq!(refresh(&first).await.status, 401);
    let lines = || {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line["path"] == "/auth/refresh").collect::<Vec<_>>()
    };
    poll_until("four lines", async || lines().len() == 4).await;
    let found: Vec<(String, Value)> =
        lines().iter().map(|line| (line["event"].as_str().unwrap().to_owned(), line["reason"].clone())).collect();
    let expected = [
        ("refused", json!("refused refresh token: malformed, or its MAC is wrong")),
        ("refresh_token_used", json!(null)),
        ("refresh_token_reused", json!(null)),
        ("refused", json!("refused refresh token: its login has ended")),
    ];
    assert_eq!(found, expected.map(|(event, reason)| (event.to_owned(), reason)));
    assert!(lines()[3]["sid"].is_string() && lines()[3]["address"] == "127.0.0.1");
}

#[actix_rt::test]
async fn calls_that_change_sessions_and_revocations_are_recorded_and_publications_are_not() {
    let audited = AuditedHub::start(|_| ()).await;
    let hub = &audited.hub;
    hub.publish("news", json!(1)).await;
    hub.call_api("info", json!({})).await;
    hub.call_api("subscribe", json!({"user": "ann", "channel": "news"})).await;
    let line = audited.wait_for("api_call", 1).await;
    assert_fields(
        &line,
        json!({"method": "subscribe", "user": "ann", "channel": "news", "by": "api_key", "address": "127.0.0.1"}),
    );
    assert!(line["code"].is_null(), "{line}");
    hub.call_api(
        "batch",
        json!({"commands": [{"disconnect": {"user": ""}}, {"publish": {"channel": "news", "data": 1}}]}),
    )
    .await;
    assert_fields(&audited.wait_for("api_call", 2).await, json!({"method": "disconnect", "code": 107}));
    hub.call_api("revoke_token", json!({"jti": "7", "issuer": "me"})).await;
    let named = json!({"jti": "7", "issuer": "me", "by": "api_key"});
    assert_fields(&audited.wait_for("revoked", 1).await, named.clone());
    assert_fields(&audited.wait_for("api_call", 3).await, named);
    assert_eq!(audited.lines("api_call").len(), 3, "{}", audited.text());
}

#[actix_rt::test]
async fn wrong_api_key_is_recorded_with_its_address() {
    let audited = AuditedHub::start(|_| ()).await;
    http::post(audited.hub.address, "/api/info").header("X-API-Key", "wrong").send().await;
    assert_fields(&audited.wait_for("refused", 1).await, json!({"path": "/api/info", "address": "127.0.0.1"}));
}

/// The audit logs of all other tests are searched for secrets by tests/log.sh.
#[actix_rt::test]
async fn no_line_has_a_token_a_ticket_or_a_key() {
    let audited = AuditedHub::start(|_| ()).await;
    let hub = &audited.hub;
    let (token, forged) = (hub.token("ann"), hub.forged_token("ann"));
    let bearer = format!("Bearer {token}");
    let ticket = http::post(hub.address, "/auth/ticket").header("Authorization", &bearer).send().await.json();
    let ticket = ticket["ticket"].as_str().unwrap();
    let _ann = hub.connect_to(&format!("/socket?ticket={ticket}"), &[]).await;
    hub.try_handshake(&format!("/socket?token={forged}"), &[]).await;
    hub.try_handshake(&format!("/socket?token={token}&ticket={ticket}"), &[]).await;
    let key = API_KEY.replace(' ', "%20");
    http::post(hub.address, &format!("/api/info?api_key={key}")).send().await;
    audited.wait_for("refused", 3).await;
    let text = audited.text();
    for secret in [&*token, &forged, ticket, API_KEY, &key] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[actix_rt::test]
async fn last_line_of_a_stop_is_written_before_it_ends() {
    let AuditedHub { hub, folder } = AuditedHub::start(|_| ()).await;
    hub.stop().await;
    let text = fs::read_to_string(folder.path().join("audit.log")).unwrap();
    assert!(text.lines().last().unwrap().contains("\"event\":\"stopped\""), "{text}");
}

#[actix_rt::test]
async fn connection_over_the_limit_of_its_user_on_all_nodes_is_recorded_as_refused() {
    let redis = RedisServer::start().await;
    let one_each = |config: &mut Config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(redis.url());
        config.limits.connections_per_user = 1;
    };
    let (first, audited) = (start_hub_with(one_each).await, AuditedHub::start(one_each).await);
    for hub in [&first, &audited.hub] {
        hub.wait_for_broker(true).await;
    }
    let _one = first.connect("ann").await;
    let mut late = audited.hub.connect_without_token().await;
    late.send(json!({"id": 1, "connect": {"token": audited.hub.token("ann")}})).await;
    assert_eq!(late.wait_for_close().await.0, Some(3504));
    let line = audited.wait_for("refused", 1).await;
    assert_fields(
        &line,
        json!({"user": "ann", "door": "connect", "reason": "too many connections of this user", "address": "127.0.0.1"}),
    );
    assert_eq!(line["client"], audited.wait_for("connected", 1).await["client"]);
    assert_fields(&audited.wait_for("disconnected", 1).await, json!({"user": "ann", "code": 3504}));
}
