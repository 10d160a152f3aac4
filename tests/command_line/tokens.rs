//! Tokens made and judged on the command line, by the verifier that a hub has.

use serde_json::{Value, json};

use super::{
    LOOPBACK,
    process::{Ended, Process, run, wardcast},
};
use crate::support::{Client, SECRET, secret};

/// A run of `token` with the secret of the tests.
fn token(arguments: &[&str]) -> Ended {
    run(wardcast(&[&["token", "--user", "ann"], arguments].concat()).env("WARDCAST_AUTH__HMAC_SECRET", SECRET))
}

/// A run of `check-token` on this input, with the secret of the tests.
fn check(input: &str, arguments: &[&str]) -> Ended {
    let mut command = wardcast(&[&["check-token"], arguments].concat());
    Process::fed(command.env("WARDCAST_AUTH__HMAC_SECRET", SECRET), input).end()
}

#[actix_rt::test]
async fn a_made_token_brings_its_channels_caps_and_info_into_a_session() {
    let caps = r#"{"channels":["in*"],"match":"wildcard","allow":["pub"]}"#;
    let made = token(&["--channel", "news", "--channel", "#ann", "--caps", caps, "--info", r#"{"name":"Ann"}"#]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let mut hub = Process::start(wardcast(&LOOPBACK).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    let path = format!("/socket?token={}", made.stdout);
    let mut client = Client::connect(hub.banner().address, &path).await.unwrap();
    let greeting = client.hear().await;
    let subscribed = greeting.pointer("/push/connect/subs").and_then(Value::as_object).unwrap();
    assert_eq!(subscribed.keys().collect::<Vec<_>>(), ["#ann", "news"]);
}

#[actix_rt::test]
async fn a_made_subscription_token_opens_its_private_channel() {
    let (made, subscription) = (token(&[]), token(&["--subscription", "$payroll"]));
    let mut hub = Process::start(wardcast(&LOOPBACK).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    let path = format!("/socket?token={}", made.stdout);
    let mut client = Client::connect(hub.banner().address, &path).await.unwrap();
    client.hear().await;
    let ask = |token: &str| json!({"id": 1, "subscribe": {"channel": "$payroll", "token": token}});
    let refused = client.ask(ask("")).await;
    assert!(refused["error"].is_object(), "{refused}");
    let granted = client.ask(ask(&subscription.stdout)).await;
    assert!(granted["subscribe"].is_object(), "{granted}");
}

#[test]
fn a_token_that_the_hub_would_refuse_is_not_printed() {
    token(&["--ttl", "48h"]).failed_with(&["auth.max_ttl", "--ttl may be at most 24h"]);
    token(&["--ttl", "0s"]).failed_with(&["--ttl must be at least a second"]);
    token(&["--channel", "chat:1"]).failed_with(&["namespace"]);
    token(&["--channel", "#bob"]).failed_with(&["limited to others"]);
    token(&["--subscription", "#bob"]).failed_with(&["limited to others"]);
    token(&["--caps", r#"{"channels":["a"],"allow":["everything"]}"#]).failed_with(&["caps", "exact|wildcard|regex"]);
    token(&["--caps", "{"]).failed_with(&["--caps is no JSON"]);
    token(&["--info", "Ann"]).failed_with(&["--info is no JSON"]);
    token(&["--set", "auth.required_claims=exp,jti"]).failed_with(&["auth.required_claims", "from your backend"]);
}

#[test]
fn where_only_public_keys_are_configured_it_says_who_signs() {
    let keys = r#"auth.keys=[{"id":"a","algorithm":"ES256","file":"a.pem"}]"#;
    run(&mut wardcast(&["token", "--user", "ann", "--set", keys])).failed_with(&["your backend", "auth.hmac_secret"]);
    run(&mut wardcast(&["token", "--user", "ann"])).failed_with(&["--config FILE", "makes its own for each run"]);
}

#[test]
fn a_good_token_is_told_with_its_times_and_rights() {
    let made = token(&["--ttl", "15m", "--channel", "news", "--caps", r#"{"channels":["a"],"allow":["pub","sub"]}"#]);
    let told = check(&format!("{}\n", made.stdout), &[]);
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{told:?}");
    for part in [
        "alg        \"HS256\"",
        "sub        \"ann\"",
        "expires in 14m",
        "good: it opens connections of the user \"ann\"",
        "receive, without asking: news",
        "pub, sub in a (exact)",
        "Anybody who holds a token can read all of this",
    ] {
        assert!(told.stdout.contains(part), "no {part:?} in {}", told.stdout);
    }
    let header = format!("Authorization: Bearer {}", made.stdout);
    assert_eq!(check(&header, &[]).code, Some(0), "as it stands in a header");
    let told = check(&token(&["--subscription", "$payroll"]).stdout, &[]);
    assert!(told.stdout.contains("lets the user \"ann\" subscribe to the channel \"$payroll\""), "{told:?}");
}

#[test]
fn a_bad_token_is_1_with_the_reason_and_what_to_do() {
    let made = token(&[]).stdout;
    let other = Process::fed(
        wardcast(&["check-token"]).env("WARDCAST_AUTH__HMAC_SECRET", secret("another secret, 32 bytes or more")),
        &made,
    );
    let other = other.end();
    assert_eq!(other.code, Some(1));
    assert!(other.stdout.contains("signed with another secret") && other.stdout.contains("\"ann\""), "{other:?}");
    assert!(other.stderr.contains("refuse") && !other.stderr.contains(&made), "{other:?}");
    for (input, told) in
        [("hello", "cannot be read"), (&made[..made.len() / 2], "copy it again"), ("a.b.c", "copy it again")]
    {
        let ended = check(input, &[]);
        assert!(ended.code == Some(1) && ended.stdout.contains(told), "{input}: {ended:?}");
    }
    check("", &[]).failed_with(&["wardcast check-token < token.txt"]);
    let bare = Process::fed(&mut wardcast(&["check-token"]), &made).end();
    assert!(bare.code == Some(1) && bare.stdout.contains("no key is configured here"), "{bare:?}");
}

#[test]
fn the_same_as_json_is_one_object() {
    let told = check(&token(&[]).stdout, &["--json"]);
    let object: Value = told.stdout.parse().unwrap();
    assert_eq!((&object["verdict"]["good"], &object["claims"]["sub"]), (&json!(true), &json!("ann")));
    let told = check("hello", &["--json"]);
    let object: Value = told.stdout.parse().unwrap();
    assert_eq!((told.code, &object["verdict"]["good"]), (Some(1), &json!(false)));
    assert!(object["verdict"]["remedy"].is_string(), "{object}");
}

#[test]
fn a_token_that_would_write_on_the_terminal_is_shown_as_text() {
    let claims = json!({"sub": "\u{1b}[2J\u{9b}2J\u{202e}ann", "exp": 1, "\u{1b}]0;x": 1});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let forged = secret(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap());
    let told = check(&forged, &[]);
    let is_plain = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
    assert!(told.stdout.chars().all(is_plain) && told.stdout.contains("1970-01-01"), "{told:?}");
}
