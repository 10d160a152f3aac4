//! What operators read about refused clients: each refusal with its reason and remedy in development, counts in production,
//! and never a token.

use std::{net::SocketAddr, process::Command};

use serde_json::json;

use super::{
    LOOPBACK, PRODUCTION_LOOPBACK,
    process::{Process, wardcast},
};
use crate::support::{API_KEY, Client, SECRET, http, mark_secret, raw};

/// A token that is well-formed, and signed by nobody.
fn forged_token() -> String {
    mark_secret("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE4OTM0NTYwMDB9.c2lnbmVkIGJ5IGFub3RoZXIga2V5".to_owned())
}

async fn handshake(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> u16 {
    http::exchange(address, raw::handshake_with(address, path, headers).as_bytes()).await.status
}

fn configured(arguments: &[&str]) -> Command {
    let mut command = wardcast(&[&LOOPBACK[..], arguments].concat());
    command.env("WARDCAST_AUTH__HMAC_SECRET", SECRET).env("WARDCAST_API__KEY", API_KEY);
    command
}

/// Checks that the next line with this phrase has all of these parts.
#[track_caller]
fn assert_logged(hub: &Process, phrase: &str, parts: &[&str]) {
    let line = hub.wait_for_log(phrase);
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[actix_rt::test]
async fn development_logs_each_refusal_with_reason_and_remedy() {
    let doors = "auth.doors=[\"query\", \"subprotocol\", \"header\", \"cookie\", \"connect\"]";
    let mut hub = Process::start(&mut configured(&["--set", doors, "--set", "origins.allowed=[]"]));
    let address = hub.banner().address;
    let token = forged_token();
    for _ in 0..2 {
        assert_eq!(handshake(address, &format!("/socket?token={token}"), &[]).await, 401);
        let parts =
            [" INFO ", "address=127.0.0.1 door=\"query\"", "error=\"wrong signature\"", "remedy=\"", "--config"];
        assert_logged(&hub, "refused token ", &parts);
    }
    assert_eq!(handshake(address, "/socket", &[("Sec-WebSocket-Protocol", "wardcast.v1, undefined")]).await, 401);
    assert_logged(&hub, "refused token ", &["door=\"subprotocol\"", "error=\"not three parts"]);
    assert_eq!(handshake(address, "/socket", &[("Sec-WebSocket-Protocol", &format!("bearer, {token}"))]).await, 400);
    assert_logged(&hub, "refused credentials ", &["wardcast.v1", "remedy=\"connect with new WebSocket("]);
    assert_eq!(handshake(address, "/socket", &[("Origin", "https://evil.example")]).await, 403);
    assert_logged(&hub, "refused origin ", &["origin=\"https://evil.example\"", "list its origin in origins.allowed"]);
    let cookie = format!("wardcast_token={token}");
    assert_eq!(handshake(address, "/socket", &[("Cookie", &cookie)]).await, 403);
    assert_logged(&hub, "refused origin ", &["the token cookie is only accepted with an Origin header"]);
    assert_eq!(handshake(address, "/socket?ticket=x", &[]).await, 101);
    assert_logged(&hub, "ignored token ", &["auth.doors does not list \\\"ticket\\\""]);
    let login = http::post(address, "/auth/login").header("Origin", "https://evil.example").json(json!({}));
    assert_eq!(login.send().await.status, 403);
    assert_logged(&hub, "refused origin ", &["origin=\"https://evil.example\""]);
    let message = http::post(address, "/v1/channels/news/messages").header("Authorization", &format!("Bearer {token}"));
    assert_eq!(message.json(json!(1)).send().await.status, 401);
    assert_logged(&hub, "refused token ", &["path=\"/v1/channels\"", "wrong signature"]);
    let stderr = hub.kill();
    assert!(!stderr.contains(&token), "{stderr}");
}

#[actix_rt::test]
async fn development_logs_refusals_after_the_handshake() {
    let doors = "auth.doors=[\"query\", \"connect\"]";
    let mut hub = Process::start(&mut configured(&["--set", doors]));
    let banner = hub.banner();
    let token = forged_token();
    let connect = json!({"id": 1, "connect": {"token": token}});
    for (first, phrase, parts) in [
        (connect.to_string(), "refused token ", ["client=", "error=\"wrong signature\""]),
        (json!({"id": 1, "connect": {}}).to_string(), "refused connect ", ["client=", "auth.anonymous"]),
        (
            format!("Authorization: Bearer {token}"),
            "ignored token ",
            ["client=", "auth.doors does not list \\\"message\\\""],
        ),
    ] {
        let mut client = Client::connect(banner.address, "/socket").await.unwrap();
        client.send_text(&first).await;
        assert_logged(&hub, phrase, &parts);
    }
    let mut client = Client::connect(banner.address, &format!("/socket?token={}", banner.token)).await.unwrap();
    client.receive_connect_push().await;
    let reply = client.request(json!({"id": 2, "subscribe": {"channel": "$news", "token": token}})).await;
    assert_eq!(reply["error"]["code"], 103);
    assert_logged(&hub, "refused subscription token ", &["channel=\"$news\"", "error=\"wrong signature\"", "remedy="]);
    let stderr = hub.kill();
    assert!(!stderr.contains(&token), "{stderr}");
}

/// Starts a hub in production that logs its refusals in this interval.
fn start_in_production(interval: &str) -> (Process, SocketAddr) {
    let interval = format!("log.refusals_interval={interval}");
    let mut command = wardcast(&[&PRODUCTION_LOOPBACK[..], &["--set", &interval, "--set", "log.level=info"]].concat());
    command.env("WARDCAST_AUTH__HMAC_SECRET", SECRET).env("WARDCAST_SERVER__BEHIND_TLS", "true");
    let hub = Process::start(command.env("WARDCAST_ENV", "production"));
    let line = hub.wait_for_log("server started");
    let address = line.split_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    (hub, address)
}

#[actix_rt::test]
async fn equal_refusals_within_an_interval_are_one_line() {
    let (mut hub, address) = start_in_production("1h");
    let path = format!("/socket?token={}", forged_token());
    for _ in 0..20 {
        assert_eq!(handshake(address, &path, &[]).await, 401);
    }
    assert_eq!(handshake(address, "/socket", &[("Origin", "https://evil.example")]).await, 403);
    hub.wait_for_log("refused origin ");
    assert_eq!(hub.kill().matches("refused token ").count(), 1);
}

#[actix_rt::test]
async fn production_logs_the_first_refusal_and_counts_equal_ones() {
    let (mut hub, address) = start_in_production("1s");
    let token = forged_token();
    let path = format!("/socket?token={token}");
    assert_eq!(handshake(address, &path, &[]).await, 401);
    assert_logged(
        &hub,
        "refused token ",
        &[" WARN ", " count=1 address=127.0.0.1 ", "error=\"wrong signature\"", "remedy="],
    );
    let mut counted = 0;
    while counted < 30 {
        for _ in 0..10 {
            assert_eq!(handshake(address, &path, &[]).await, 401);
        }
        let line = hub.wait_for_log("refused token ");
        counted += line.split_once(" count=").unwrap().1.split(' ').next().unwrap().parse::<u32>().unwrap();
    }
    assert_eq!(handshake(address, "/socket", &[("Origin", "https://evil.example")]).await, 403);
    assert_logged(&hub, "refused origin ", &[" WARN ", " count=1 ", "origin=\"https://evil.example\""]);
    let stderr = hub.kill();
    assert!(!stderr.contains(&token), "{stderr}");
    assert!(stderr.matches("refused token ").count() <= 31, "{stderr}");
}
