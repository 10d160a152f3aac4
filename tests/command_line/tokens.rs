//! The commands `token` and `check-token`, which check tokens with the verifier of the hub.

use serde_json::{Value, json};

use super::{
    LOOPBACK,
    process::{Process, ProcessResult, run, wardcast},
};
use crate::support::{Client, SECRET, mark_secret};

/// Runs `token` with the secret of the tests.
fn make_token(arguments: &[&str]) -> ProcessResult {
    run(wardcast(&[&["token", "--user", "ann"], arguments].concat()).env("WARDCAST_AUTH__HMAC_SECRET", SECRET))
}

/// Runs `check-token` on this input, with the secret of the tests.
fn check_token(input: &str, arguments: &[&str]) -> ProcessResult {
    let mut command = wardcast(&[&["check-token"], arguments].concat());
    Process::start_with_input(command.env("WARDCAST_AUTH__HMAC_SECRET", SECRET), input).wait_for_exit()
}

#[actix_rt::test]
async fn generated_token_carries_channels_caps_and_info_into_session() {
    let caps = r#"{"channels":["in*"],"match":"wildcard","allow":["pub"]}"#;
    let made = make_token(&["--channel", "news", "--channel", "#ann", "--caps", caps, "--info", r#"{"name":"Ann"}"#]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let mut hub = Process::start(wardcast(&LOOPBACK).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    let path = format!("/socket?token={}", made.stdout);
    let mut client = Client::connect(hub.banner().address, &path).await.unwrap();
    let connect = client.receive_connect_push().await;
    assert_eq!(connect["subs"].as_object().unwrap().keys().collect::<Vec<_>>(), ["#ann", "news"]);
}

#[actix_rt::test]
async fn generated_subscription_token_opens_private_channel() {
    let (made, subscription) = (make_token(&[]), make_token(&["--subscription", "$payroll"]));
    let mut hub = Process::start(wardcast(&LOOPBACK).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    let path = format!("/socket?token={}", made.stdout);
    let mut client = Client::connect(hub.banner().address, &path).await.unwrap();
    client.receive_connect_push().await;
    let refused = client.subscribe_with("$payroll", json!({"token": ""})).await;
    assert!(refused["error"].is_object(), "{refused}");
    let granted = client.subscribe_with("$payroll", json!({"token": subscription.stdout})).await;
    assert!(granted["subscribe"].is_object(), "{granted}");
}

#[test]
fn token_that_the_hub_would_refuse_is_not_printed() {
    make_token(&["--ttl", "48h"]).assert_failed_with(&["auth.max_ttl", "--ttl may be at most 24h"]);
    make_token(&["--ttl", "0s"]).assert_failed_with(&["--ttl must be at least a second"]);
    make_token(&["--channel", "chat:1"]).assert_failed_with(&["namespace"]);
    make_token(&["--channel", "#bob"]).assert_failed_with(&["limited to other users"]);
    make_token(&["--subscription", "#bob"]).assert_failed_with(&["limited to other users"]);
    make_token(&["--caps", r#"{"channels":["a"],"allow":["everything"]}"#])
        .assert_failed_with(&["caps", "exact|wildcard|regex"]);
    make_token(&["--caps", "{"]).assert_failed_with(&["--caps is not valid JSON"]);
    make_token(&["--info", "Ann"]).assert_failed_with(&["--info is not valid JSON"]);
    make_token(&["--set", "auth.required_claims=exp,nbf"])
        .assert_failed_with(&["auth.required_claims", "from your backend"]);
}

#[test]
fn token_command_without_signing_key_explains_who_signs() {
    let keys = r#"auth.keys=[{"id":"a","algorithm":"ES256","file":"a.pem"}]"#;
    run(&mut wardcast(&["token", "--user", "ann", "--set", keys]))
        .assert_failed_with(&["your backend", "auth.hmac_secret"]);
    run(&mut wardcast(&["token", "--user", "ann"])).assert_failed_with(&["--config FILE", "start a development hub"]);
}

#[test]
fn check_token_shows_times_and_permissions_of_valid_token() {
    let made =
        make_token(&["--ttl", "15m", "--channel", "news", "--caps", r#"{"channels":["a"],"allow":["pub","sub"]}"#]);
    let result = check_token(&format!("{}\n", made.stdout), &[]);
    assert_eq!((result.code, result.stderr.as_str()), (Some(0), ""), "{result:?}");
    for part in [
        "alg        \"HS256\"",
        "sub        \"ann\"",
        "expires in 14m",
        "valid: opens connections of the user \"ann\"",
        "is subscribed automatically to news",
        "may subscribe, publish in a\n",
        "Anyone who holds this token can read all of this",
    ] {
        assert!(result.stdout.contains(part), "no {part:?} in {}", result.stdout);
    }
    let header = format!("Authorization: Bearer {}", made.stdout);
    assert_eq!(check_token(&header, &[]).code, Some(0), "a whole header is accepted too");
    let result = check_token(&make_token(&["--subscription", "$payroll"]).stdout, &[]);
    assert!(result.stdout.contains("lets the user \"ann\" subscribe to the channel \"$payroll\""), "{result:?}");
}

#[test]
fn check_token_finds_token_in_header_lines_of_any_case_urls_and_json() {
    let token = make_token(&[]).stdout;
    for text in [
        format!("authorization: Bearer {token}"),
        format!("AUTHORIZATION: BEARER {token}"),
        format!("cookie: theme=dark; wardcast_token={token}"),
        format!("Sec-WebSocket-Protocol: wardcast.v1, {token}"),
        format!("GET /socket?token={token} HTTP/1.1"),
        format!("{{\"access_token\":\"{token}\",\"expires_in\":900}}"),
    ] {
        assert_eq!(check_token(&text, &[]).code, Some(0), "{text:.40}");
    }
    check_token(&format!("{token} {}", make_token(&[]).stdout), &[]).assert_failed_with(&["several tokens"]);
}

#[test]
fn check_token_lists_what_namespaces_allow() {
    let made = make_token(&[]).stdout;
    let namespaces = "namespaces=[{\"name\":\"chat\",\"allow_subscribe\":\"user\",\"allow_publish\":\"subscriber\"}]";
    let result = check_token(&made, &["--set", namespaces]);
    for part in [
        "channels without a namespace: allow_subscribe = \"user\"",
        "channels chat:…: allow_subscribe = \"user\", allow_publish = \"subscriber\", allow_history = \"none\"",
        "the channel \"#ann\"",
    ] {
        assert!(result.stdout.contains(part), "no {part:?} in {}", result.stdout);
    }
    let chat = make_token(&["--channel", "chat:1", "--set", namespaces]).stdout;
    assert_eq!(check_token(&chat, &["--set", namespaces]).code, Some(0));
    let unknown = check_token(&chat, &[]);
    assert!(unknown.code == Some(1) && unknown.stdout.contains("configure the namespace"), "{unknown:?}");
}

#[test]
fn check_token_names_what_the_hub_ignores() {
    let sign = |claims: Value| {
        let header = jsonwebtoken::Header { x5t: Some("abc".to_owned()), ..jsonwebtoken::Header::default() };
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        mark_secret(jsonwebtoken::encode(&header, &claims, &key).unwrap())
    };
    let exp = wardcast::clock::Clock::default().now().unix_seconds() + 60;
    let claims = json!({"sub": "ann", "exp": exp, "email": "x", "subs": {"news": {"recover": true}}});
    let result = check_token(&sign(claims.clone()), &[]);
    let line = "Ignored, because the hub does not know them\n  header.x5t, email, subs.news.recover\n";
    assert!(result.code == Some(0) && result.stdout.contains(line), "{result:?}");
    let object: Value = check_token(&sign(claims), &["--json"]).stdout.parse().unwrap();
    assert_eq!(object["ignored"], json!(["header.x5t", "email", "subs.news.recover"]));
    assert!(!check_token(&make_token(&["--channel", "news"]).stdout, &[]).stdout.contains("Ignored"));
}

#[test]
fn check_token_names_the_limit_of_a_long_token_and_the_user_with_its_prefix() {
    let made = make_token(&["--info", &format!("{:?}", "x".repeat(4000))]).stdout;
    let claims = json!({"sub": "ann", "exp": 1, "groups": "x".repeat(30_000)});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let long = mark_secret(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap());
    let result = check_token(&long, &[]);
    assert!(result.stdout.contains("longer than 32768 bytes (limits.token_bytes)"), "{}", result.stderr);
    assert!(result.stdout.contains("raise limits.token_bytes"), "{}", result.stderr);
    let result = check_token(&long, &["--set", "limits.token_bytes=60000"]);
    assert!(result.stdout.contains("refused: expired"), "{}", result.stderr);
    let result = check_token(&made, &["--set", "auth.user_prefix=own:"]);
    assert!(result.stdout.contains("valid: opens connections of the user \"own:ann\""), "{}", result.stderr);
    let issuer = make_token(&["--set", "auth.issuer=https://id.example.com"]).stdout;
    let result = check_token(&issuer, &["--set", "auth.issuer=https://id.example.com/"]);
    assert!(result.stdout.contains("one of the two ends with a slash"), "{}", result.stdout);
}

#[test]
fn check_token_exits_1_with_reason_and_remedy_for_invalid_token() {
    let made = make_token(&[]).stdout;
    let other = Process::start_with_input(
        wardcast(&["check-token"]).env("WARDCAST_AUTH__HMAC_SECRET", mark_secret("another secret, 32 bytes or more")),
        &made,
    );
    let other = other.wait_for_exit();
    assert_eq!(other.code, Some(1));
    assert!(other.stdout.contains("signed with another secret") && other.stdout.contains("\"ann\""), "{other:?}");
    assert!(other.stderr.contains("refuse") && !other.stderr.contains(&made), "{other:?}");
    for (input, reason) in
        [("hello", "cannot be decoded"), (&made[..made.len() / 2], "copy it again"), ("a.b.c", "copy it again")]
    {
        let result = check_token(input, &[]);
        assert!(result.code == Some(1) && result.stdout.contains(reason), "{input}: {result:?}");
    }
    check_token("", &[]).assert_failed_with(&["wardcast check-token < token.txt"]);
    let without_key = Process::start_with_input(&mut wardcast(&["check-token"]), &made).wait_for_exit();
    assert!(without_key.code == Some(1), "{without_key:?}");
    assert!(without_key.stdout.contains("no key is configured here"), "{without_key:?}");
}

#[test]
fn check_token_prints_one_json_object_on_request() {
    let result = check_token(&make_token(&[]).stdout, &["--json"]);
    let object: Value = result.stdout.parse().unwrap();
    assert_eq!((&object["verdict"]["good"], &object["claims"]["sub"]), (&json!(true), &json!("ann")));
    let result = check_token("hello", &["--json"]);
    let object: Value = result.stdout.parse().unwrap();
    assert_eq!((result.code, &object["verdict"]["good"]), (Some(1), &json!(false)));
    assert!(object["verdict"]["remedy"].is_string(), "{object}");
}

#[test]
fn check_token_escapes_terminal_control_characters() {
    let claims = json!({"sub": "\u{1b}[2J\u{9b}2J\u{202e}ann", "exp": 1, "\u{1b}]0;x": 1});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let forged = mark_secret(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap());
    let result = check_token(&forged, &[]);
    let is_plain = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
    assert!(result.stdout.chars().all(is_plain) && result.stdout.contains("1970-01-01"), "{result:?}");
}
