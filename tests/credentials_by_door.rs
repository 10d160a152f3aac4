//! Each way to send a token (`Door`) on its own: the outcome for a good, a forged and an expired token, for one connection
//! too many and for a token without a user; and that no door accepts what belongs to another.

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use wardcast::config::{AllowSubscribe, AnonymousAccess, Door, RejectMode};

use crate::support::{
    PATIENCE, TestHub, http, mark_secret,
    raw::{self, RawClient},
    start_hub, start_hub_with,
};

const HANDSHAKE_DOORS: [Door; 5] = [Door::Query, Door::Ticket, Door::Subprotocol, Door::Cookie, Door::Header];
const ALL_DOORS: [Door; 7] =
    [Door::Query, Door::Ticket, Door::Subprotocol, Door::Cookie, Door::Header, Door::Message, Door::Connect];

/// The outcome of an attempt to authenticate.
#[derive(Debug, PartialEq)]
enum Outcome {
    Authenticated,
    /// The status of a response other than 101, and the error code in its body.
    Refused(u16, u64),
    /// The code of an error reply, after which the session stays open.
    Error(u64),
    /// Code and reason of the close frame.
    Closed(u16, String),
}

fn closed_with(code: u16, reason: &str) -> Outcome {
    Outcome::Closed(code, reason.to_owned())
}

fn unknown_ticket() -> String {
    "x".repeat(43)
}

/// Makes the credential that this door expects for a token: a ticket, or the token itself.
async fn make_credential(hub: &TestHub, door: Door, token: &str) -> String {
    if door != Door::Ticket {
        return token.to_owned();
    }
    let answer =
        http::post(hub.address, "/auth/ticket").header("Authorization", &format!("Bearer {token}")).send().await;
    if answer.status == 200 {
        mark_secret(answer.json()["ticket"].as_str().unwrap().to_owned())
    } else {
        unknown_ticket()
    }
}

/// Connects and presents a credential at one door.
async fn try_credential(hub: &TestHub, door: Door, credential: &str) -> Outcome {
    let own = format!("http://{}", hub.address);
    let value = match door {
        Door::Subprotocol => format!("wardcast.v1, {credential}"),
        Door::Cookie => format!("wardcast_token={credential}"),
        _ => format!("Bearer {credential}"),
    };
    let (path, headers) = match door {
        Door::Query => (format!("/socket?token={credential}"), vec![]),
        Door::Ticket => (format!("/socket?ticket={credential}"), vec![]),
        Door::Subprotocol => ("/socket".to_owned(), vec![("Sec-WebSocket-Protocol", value.as_str())]),
        Door::Cookie => ("/socket".to_owned(), vec![("Cookie", value.as_str()), ("Origin", own.as_str())]),
        Door::Header => ("/socket".to_owned(), vec![("Authorization", value.as_str())]),
        Door::Message | Door::Connect => ("/socket".to_owned(), vec![]),
    };
    let mut raw = RawClient { stream: TcpStream::connect(hub.address).await.unwrap() };
    raw.send(raw::handshake_with(hub.address, &path, &headers).as_bytes()).await;
    let head = raw.read_head().await;
    if !head.starts_with("HTTP/1.1 101 ") {
        return read_refusal(&head, raw).await;
    }
    let first = match door {
        Door::Message => format!("Authorization: {value}"),
        Door::Connect => json!({"id": 1, "connect": {"token": credential}}).to_string(),
        // Without authentication this is refused.
        _ => json!({"id": 9, "ping": {}}).to_string(),
    };
    raw.send_until_closed(&raw::text_frame(&first)).await;
    read_outcome(&mut raw).await
}

async fn read_refusal(head: &str, mut raw: RawClient) -> Outcome {
    let mut body = Vec::new();
    timeout(PATIENCE, raw.stream.read_to_end(&mut body)).await.expect("an end").unwrap();
    let status = head[9..12].parse().unwrap();
    let head = head.to_lowercase();
    assert!(head.contains("\r\nconnection: close") && !head.contains("sec-websocket-accept"), "{head}");
    assert_eq!(head.contains("\r\nretry-after: "), status == 429, "{head}");
    assert_eq!(head.contains("\r\nwww-authenticate: bearer error=\"invalid_token\""), status == 401, "{head}");
    let body: Value = serde_json::from_slice(&body).unwrap();
    Outcome::Refused(status, body["error"]["code"].as_u64().unwrap())
}

async fn read_outcome(raw: &mut RawClient) -> Outcome {
    let frame = raw.next().await.expect("a frame");
    if let Some(code) = frame.close_code() {
        return Outcome::Closed(code, String::from_utf8(frame.payload[2..].to_vec()).unwrap());
    }
    let received: Value = serde_json::from_str(frame.text()).unwrap();
    if received["push"]["connect"].is_object() || received["connect"].is_object() {
        return Outcome::Authenticated;
    }
    Outcome::Error(received["error"]["code"].as_u64().unwrap_or_else(|| panic!("{received}")))
}

#[actix_rt::test]
async fn only_the_enabled_one_of_seven_doors_accepts_token() {
    for enabled in ALL_DOORS {
        let hub = start_hub_with(|config| config.auth.doors = vec![enabled]).await;
        for door in ALL_DOORS {
            let outcome = try_credential(&hub, door, &make_credential(&hub, door, &hub.token("ann")).await).await;
            let expected = if door == enabled { Outcome::Authenticated } else { closed_with(3501, "bad request") };
            assert_eq!(outcome, expected, "{door:?} while only {enabled:?} is enabled");
        }
    }
}

#[actix_rt::test]
async fn forged_token_is_401_in_handshake_and_3500_after_it() {
    let hub = start_hub().await;
    for door in ALL_DOORS {
        let expected = if HANDSHAKE_DOORS.contains(&door) {
            Outcome::Refused(401, 101)
        } else {
            closed_with(3500, "invalid token")
        };
        for token in [hub.forged_token("ann"), hub.token_with_claims(json!({"sub": "ann"})), "eyJ.e30.e30".to_owned()] {
            let credential = make_credential(&hub, door, &token).await;
            assert_eq!(try_credential(&hub, door, &credential).await, expected, "{door:?}");
        }
    }
}

#[actix_rt::test]
async fn every_door_reports_expired_token_as_expired() {
    let hub = start_hub().await;
    for door in ALL_DOORS {
        let credential = make_credential(&hub, door, &hub.token_with_claims(json!({"sub": "ann", "exp": 60}))).await;
        // The token expires, and the ticket does not.
        hub.clock.step_forward(std::time::Duration::from_secs(61));
        let expected = match door {
            Door::Message => closed_with(3500, "token expired"),
            Door::Connect => Outcome::Error(109),
            _ => Outcome::Refused(401, 109),
        };
        assert_eq!(try_credential(&hub, door, &credential).await, expected, "{door:?}");
    }
}

#[actix_rt::test]
async fn every_door_accepts_token_of_hundreds_of_groups_up_to_token_bytes() {
    let hub = start_hub().await;
    let token_of = |bytes: usize| {
        let groups: Vec<String> = (0..bytes / 28).map(|at| format!("CN=group-{at:04},OU=x")).collect();
        hub.token_with_claims(json!({"sub": "ann", "exp": 60, "groups": groups}))
    };
    for token in [token_of(9_000), token_of(16_384), token_of(32_000)] {
        assert!(token.len() < hub.config.limits.token_bytes, "{}", token.len());
        for door in ALL_DOORS {
            let credential = make_credential(&hub, door, &token).await;
            let outcome = try_credential(&hub, door, &credential).await;
            assert_eq!(outcome, Outcome::Authenticated, "{door:?} with {} bytes", token.len());
        }
    }
    let long = token_of(34_000);
    assert!(long.len() > hub.config.limits.token_bytes, "{}", long.len());
    for door in ALL_DOORS {
        let outcome = try_credential(&hub, door, &make_credential(&hub, door, &long).await).await;
        let expected = if HANDSHAKE_DOORS.contains(&door) {
            Outcome::Refused(401, 101)
        } else {
            closed_with(3500, "invalid token")
        };
        assert_eq!(outcome, expected, "{door:?}");
    }
}

#[actix_rt::test]
async fn every_door_asks_for_another_token_if_nbf_is_in_the_future() {
    let hub = start_hub().await;
    for door in ALL_DOORS {
        let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "nbf": 0}));
        let credential = make_credential(&hub, door, &token).await;
        hub.clock.step_back(std::time::Duration::from_secs(60));
        let expected = match door {
            Door::Message => closed_with(3500, "token expired"),
            Door::Connect => Outcome::Error(109),
            _ => Outcome::Refused(401, 109),
        };
        assert_eq!(try_credential(&hub, door, &credential).await, expected, "{door:?}");
        hub.clock.step_forward(std::time::Duration::from_secs(60));
    }
}

#[actix_rt::test]
async fn reject_close_reports_reason_with_3500_for_every_handshake_door() {
    let hub = start_hub_with(|config| config.auth.reject = RejectMode::Close).await;
    for door in HANDSHAKE_DOORS {
        let bad = make_credential(&hub, door, &hub.forged_token("ann")).await;
        assert_eq!(try_credential(&hub, door, &bad).await, closed_with(3500, "invalid token"), "{door:?}");
        let expired = make_credential(&hub, door, &hub.token_with_claims(json!({"sub": "ann", "exp": 60}))).await;
        hub.clock.step_forward(std::time::Duration::from_secs(61));
        assert_eq!(try_credential(&hub, door, &expired).await, closed_with(3500, "token expired"), "{door:?}");
        let good = make_credential(&hub, door, &hub.token("ann")).await;
        assert_eq!(try_credential(&hub, door, &good).await, Outcome::Authenticated, "{door:?}");
    }
    assert_eq!(
        try_credential(&hub, Door::Connect, &hub.expired_token("ann")).await,
        Outcome::Error(109),
        "`auth.reject` is about handshakes only"
    );
}

#[actix_rt::test]
async fn session_opened_for_rejection_accepts_no_other_token() {
    let hub = start_hub_with(|config| config.auth.reject = RejectMode::Close).await;
    let mut client = RawClient::connect(hub.address, &format!("/socket?token={}", hub.forged_token("ann"))).await;
    let good = hub.token("ann");
    for text in [format!("Authorization: Bearer {good}"), json!({"id": 1, "connect": {"token": good}}).to_string()] {
        client.send_until_closed(&raw::text_frame(&text)).await;
    }
    assert_eq!(read_outcome(&mut client).await, closed_with(3500, "invalid token"));
    assert_eq!(client.next().await, None);
    hub.wait_for_connections(0).await;
    assert_eq!(hub.metric("wardcast_connections_waiting").await, 0.0);
}

#[actix_rt::test]
async fn connection_over_the_user_limit_is_refused_by_every_door() {
    let hub = start_hub_with(|config| config.limits.connections_per_user = 1).await;
    let _first = hub.connect("ann").await;
    for door in ALL_DOORS {
        let expected = match door {
            Door::Message | Door::Connect => closed_with(3504, "connection limit"),
            _ => Outcome::Refused(429, 111),
        };
        let credential = make_credential(&hub, door, &hub.token("ann")).await;
        assert_eq!(try_credential(&hub, door, &credential).await, expected, "{door:?}");
    }
}

#[actix_rt::test]
async fn token_without_user_is_accepted_by_every_door_only_if_anonymous_allows_it() {
    for anonymous in [AnonymousAccess::Never, AnonymousAccess::Token, AnonymousAccess::Always] {
        let hub = start_hub_with(|config| {
            config.auth.anonymous = anonymous;
            config.channels.allow_subscribe = AllowSubscribe::Anonymous;
        })
        .await;
        let empty_user = hub.token_with_claims(json!({"sub": "", "exp": 60}));
        let no_user = hub.token_with_claims(json!({"exp": 60}));
        for door in ALL_DOORS {
            for token in [&empty_user, &no_user] {
                let outcome = try_credential(&hub, door, &make_credential(&hub, door, token).await).await;
                let is_accepted = outcome == Outcome::Authenticated;
                assert_eq!(is_accepted, anonymous != AnonymousAccess::Never, "{door:?} {anonymous:?}");
            }
        }
    }
}

#[actix_rt::test]
async fn connect_without_token_opens_anonymous_session_only_if_message_door_is_enabled() {
    let without = async |doors: &[Door]| {
        let hub = start_hub_with(|config| {
            config.auth.anonymous = AnonymousAccess::Always;
            config.auth.doors = doors.to_vec();
        })
        .await;
        let mut outcomes = Vec::new();
        for first in [json!({"id": 1, "connect": {}}), json!({"id": 1, "subscribe": {"channel": "news"}})] {
            let mut raw = RawClient::connect(hub.address, "/socket").await;
            raw.send(&raw::text_frame(&first.to_string())).await;
            outcomes.push(read_outcome(&mut raw).await);
        }
        assert_eq!(outcomes.pop(), Some(closed_with(3501, "bad request")), "only `connect` authenticates");
        outcomes.pop()
    };
    assert_eq!(without(&ALL_DOORS).await, Some(Outcome::Authenticated));
    assert_eq!(without(&[Door::Query, Door::Message]).await, Some(closed_with(3501, "bad request")));
}
