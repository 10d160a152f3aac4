//! Ids of HTTP requests.

use serde_json::json;

use crate::{
    audit::AuditedHub,
    support::{
        API_KEY, Client, TestHub, backend::Backend, http, poll_until, start_hub, start_hub_with, trace_log::audit_path,
        trust_loopback_proxy,
    },
};

async fn id_with(hub: &TestHub, headers: &[(&str, &str)]) -> String {
    let mut request = http::get(hub.address, "/health/live");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send().await.header("x-request-id").expect("an id").to_owned()
}

#[actix_rt::test]
async fn every_response_has_an_id_of_its_own_and_strangers_cannot_choose_it() {
    let hub = start_hub().await;
    let (one, other) = (id_with(&hub, &[]).await, id_with(&hub, &[("X-Request-Id", "mine")]).await);
    assert!(one != other && other != "mine", "{one} {other}");
    let refused = hub.try_handshake("/socket?token=nonsense", &[]).await;
    assert!(refused.status == 401 && refused.header("x-request-id").is_some(), "{refused:?}");
    let accepted = hub.try_handshake(&hub.path_for("ann"), &[]).await;
    assert!(accepted.status == 101 && accepted.header("x-request-id").is_some(), "{accepted:?}");
    let missing = http::get(hub.address, "/nothing").send().await;
    assert!(missing.status == 404 && missing.header("x-request-id").is_some(), "{missing:?}");
}

#[actix_rt::test]
async fn trusted_proxy_chooses_the_id_if_it_is_a_short_word() {
    let hub = start_hub_with(trust_loopback_proxy).await;
    assert_eq!(id_with(&hub, &[("X-Request-Id", "edge-1.2_x")]).await, "edge-1.2_x");
    let long = "x".repeat(65);
    for bad in ["a b", "a=\"b\"", "", &long] {
        let id = id_with(&hub, &[("X-Request-Id", bad)]).await;
        assert!(id != bad && !id.is_empty(), "{bad:?} became {id:?}");
    }
    let id = id_with(&hub, &[("X-Request-Id", "one"), ("X-Request-Id", "two")]).await;
    assert!(!["one", "two"].contains(&id.as_str()), "{id}");
}

#[actix_rt::test]
async fn audit_lines_about_a_request_have_its_id() {
    let hub = start_hub_with(trust_loopback_proxy).await;
    let unique = |place: &str| format!("{place}-{}", hub.address.port());
    let [handshake, origin, call] = ["handshake", "origin", "call"].map(unique);
    hub.try_handshake("/socket?token=nonsense", &[("X-Request-Id", &handshake)]).await;
    let headers = [("X-Request-Id", &*origin), ("Origin", "https://evil.example")];
    hub.try_handshake(&hub.path_for("ann"), &headers).await;
    let body = json!({"user": "ann"}).to_string();
    http::post(hub.address, "/api/disconnect")
        .header("X-API-Key", API_KEY)
        .header("X-Request-Id", &call)
        .body(body)
        .send()
        .await;
    for id in [handshake, origin, call] {
        let field = format!("\"request\":\"{id}\"");
        poll_until(&field, async || std::fs::read_to_string(audit_path()).unwrap().contains(&field)).await;
    }
}

#[actix_rt::test]
async fn every_audit_line_about_a_session_has_the_id_of_its_handshake() {
    let audited = AuditedHub::start(trust_loopback_proxy).await;
    let hub = &audited.hub;
    let connect =
        async |id: &str, path: &str| Client::connect_with(hub.address, path, &[("X-Request-Id", id)]).await.unwrap();
    let mut by_handshake = connect("by-handshake", &hub.path_for("ann")).await;
    by_handshake.receive_connect_push().await;
    by_handshake.request(json!({"id": 1, "refresh": {"token": hub.token("ann")}})).await;
    by_handshake.subscribe_with("$secret", json!({"token": "nonsense"})).await;
    let mut by_command = connect("by-command", "/socket").await;
    by_command.request(json!({"id": 1, "connect": {"token": hub.token("bob")}})).await;
    let mut refused = connect("refused", "/socket").await;
    refused.send(json!({"id": 1, "connect": {"token": hub.forged_token("eve")}})).await;
    refused.wait_for_close().await;
    drop((by_handshake, by_command));
    for (event, number, id) in [
        ("connected", 1, "by-handshake"),
        ("refreshed", 1, "by-handshake"),
        ("refused", 1, "by-handshake"),
        ("connected", 2, "by-command"),
        ("refused", 2, "refused"),
    ] {
        assert_eq!(audited.wait_for(event, number).await["request"], id, "{event}");
    }
    let ended = [audited.wait_for("disconnected", 1).await, audited.wait_for("disconnected", 2).await];
    let mut ended = ended.map(|line| line["request"].as_str().unwrap_or_default().to_owned());
    ended.sort();
    assert_eq!(ended, ["by-command", "by-handshake"]);
}

#[actix_rt::test]
async fn body_of_an_http_error_has_the_id_of_its_header() {
    let hub = start_hub().await;
    let call = |key: &str, body: &str| {
        http::post(hub.address, "/api/publish").header("X-API-Key", key).body(body.to_owned()).send()
    };
    let refused_handshake = hub.try_handshake("/socket?token=nonsense", &[]).await;
    let missing = http::get(hub.address, "/nothing").send().await;
    let login = http::post(hub.address, "/auth/refresh").json(json!({"refresh_token": "nonsense"})).send().await;
    for response in [refused_handshake, missing, login, call("wrong", "{}").await, call(API_KEY, "[]").await] {
        assert!(response.status >= 400, "{response:?}");
        let body = response.json();
        assert!(body["error"]["code"].is_u64(), "{response:?}");
        assert_eq!(body["request"].as_str(), response.header("x-request-id"), "{response:?}");
    }
    // As the protocol of the server API has it.
    let failed = call(API_KEY, r#"{"channel":"unknown:1","data":1}"#).await;
    assert_eq!((failed.status, failed.json()), (200, json!({"error": {"code": 102, "message": "unknown channel"}})));
    // As OpenID Connect Back-Channel Logout has it.
    let logout = http::post(hub.address, "/auth/backchannel-logout").body("nonsense").send().await;
    assert!(logout.status == 400 && logout.json()["request"].is_null(), "{logout:?}");
}

#[actix_rt::test]
async fn audit_line_about_a_client_that_is_let_in_has_the_id_of_its_handshake() {
    let hub = start_hub_with(trust_loopback_proxy).await;
    let id = format!("let-in-{}", hub.address.port());
    let accepted = hub.try_handshake(&hub.path_for("ann"), &[("X-Request-Id", &id)]).await;
    assert_eq!(accepted.status, 101);
    let field = format!("\"request\":\"{id}\"");
    poll_until("the line", async || {
        let text = std::fs::read_to_string(audit_path()).unwrap();
        text.lines().any(|line| line.contains(&field) && line.contains("\"event\":\"connected\""))
    })
    .await;
}

#[actix_rt::test]
async fn hook_that_lists_the_header_gets_the_id_of_the_handshake() {
    let backend = Backend::start().await;
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    let hub = start_hub_with(|config| {
        backend.configure_connect(config);
        config.hooks.connect.headers = vec!["x-request-id".to_owned()];
        trust_loopback_proxy(config);
    })
    .await;
    let headers = [("X-Request-Id", "edge-7")];
    let mut client = crate::support::Client::connect_with(hub.address, "/socket", &headers).await.unwrap();
    let reply = client.request(json!({"id": 1, "connect": {}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    assert_eq!(backend.calls("/connect")[0].headers("x-request-id"), ["edge-7"]);
}
