//! Each door by itself: what comes of a good token, a bad one, one that is over, one too many and one of nobody, and that no
//! door opens for another.

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use wardcast::config::{AllowSubscribe, Anonymous, Door, Reject};

use crate::support::{
    Hub, PATIENCE, http, hub, hub_with,
    raw::{self, CLOSE, FIN, Raw, TEXT},
    secret,
};

const AT_THE_HANDSHAKE: [Door; 5] = [Door::Query, Door::Ticket, Door::Subprotocol, Door::Cookie, Door::Header];
const ALL: [Door; 7] =
    [Door::Query, Door::Ticket, Door::Subprotocol, Door::Cookie, Door::Header, Door::Message, Door::Connect];

/// What came of it.
#[derive(Debug, PartialEq)]
enum Outcome {
    In,
    /// No 101: the status and the code in its body.
    Refused(u16, u64),
    /// An error reply; the session waits.
    Error(u64),
    /// A close, with the reason that was pushed before it.
    Closed(u16, String),
}

fn closed(code: u16, reason: &str) -> Outcome {
    Outcome::Closed(code, reason.to_owned())
}

fn no_ticket() -> String {
    "x".repeat(43)
}

/// What stands for the token at this door.
async fn credential(hub: &Hub, door: Door, token: &str) -> String {
    if door != Door::Ticket {
        return token.to_owned();
    }
    let answer =
        http::post(hub.address, "/auth/ticket").header("Authorization", &format!("Bearer {token}")).send().await;
    if answer.status == 200 { secret(answer.json()["ticket"].as_str().unwrap().to_owned()) } else { no_ticket() }
}

/// Comes to one door with what opens it.
async fn come(hub: &Hub, door: Door, credential: &str) -> Outcome {
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
    let mut raw = Raw { stream: TcpStream::connect(hub.address).await.unwrap() };
    raw.send(raw::handshake_with(hub.address, &path, &headers).as_bytes()).await;
    let head = raw.head().await;
    if !head.starts_with("HTTP/1.1 101 ") {
        return refusal(&head, raw).await;
    }
    let first = match door {
        Door::Message => format!("Authorization: {value}"),
        Door::Connect => json!({"id": 1, "connect": {"token": credential}}).to_string(),
        // Who is nobody is told so.
        _ => json!({"id": 9, "ping": {}}).to_string(),
    };
    raw.pour(&raw::frame(FIN | TEXT, first.as_bytes())).await;
    outcome(&mut raw).await
}

async fn refusal(head: &str, mut raw: Raw) -> Outcome {
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

async fn outcome(raw: &mut Raw) -> Outcome {
    let heard: Value = serde_json::from_str(raw.next().await.expect("a frame").text()).unwrap();
    if heard["push"]["connect"].is_object() || heard["connect"].is_object() {
        return Outcome::In;
    }
    if let Some(code) = heard["error"]["code"].as_u64() {
        return Outcome::Error(code);
    }
    let push = &heard["push"]["disconnect"];
    let reason = push["reason"].as_str().unwrap_or_else(|| panic!("{heard}")).to_owned();
    let close = raw.next().await.expect("a close");
    assert_eq!(close.opcode, CLOSE, "nothing between the push and the close");
    let code = u16::from_be_bytes([close.payload[0], close.payload[1]]);
    assert_eq!(push["code"], code);
    Outcome::Closed(code, reason)
}

#[actix_rt::test]
async fn of_seven_doors_only_the_one_that_is_open_lets_in() {
    for open in ALL {
        let hub = hub_with(|config| config.auth.doors = vec![open]).await;
        for door in ALL {
            let outcome = come(&hub, door, &credential(&hub, door, &hub.token("ann")).await).await;
            let expected = if door == open { Outcome::In } else { closed(3501, "bad request") };
            assert_eq!(outcome, expected, "{door:?} where {open:?} is open");
        }
    }
}

#[actix_rt::test]
async fn a_forged_token_is_401_at_the_handshake_and_3500_after_it() {
    let hub = hub().await;
    for door in ALL {
        let expected =
            if AT_THE_HANDSHAKE.contains(&door) { Outcome::Refused(401, 101) } else { closed(3500, "invalid token") };
        for token in [hub.forged_token("ann"), hub.signed(json!({"sub": "ann"})), "eyJ.e30.e30".to_owned()] {
            let credential = credential(&hub, door, &token).await;
            assert_eq!(come(&hub, door, &credential).await, expected, "{door:?}");
        }
    }
}

#[actix_rt::test]
async fn a_token_that_is_over_is_told_as_such_by_every_door() {
    let hub = hub().await;
    for door in ALL {
        let credential = credential(&hub, door, &hub.signed(json!({"sub": "ann", "exp": 60}))).await;
        hub.clock.advance(std::time::Duration::from_secs(61));
        let expected = match door {
            Door::Message => closed(3500, "invalid token"),
            Door::Connect => Outcome::Error(109),
            _ => Outcome::Refused(401, 109),
        };
        assert_eq!(come(&hub, door, &credential).await, expected, "{door:?}");
    }
}

#[actix_rt::test]
async fn where_scripts_are_to_read_why_every_door_of_the_handshake_says_it_and_closes_3500() {
    let hub = hub_with(|config| config.auth.reject = Reject::Close).await;
    for door in AT_THE_HANDSHAKE {
        let bad = credential(&hub, door, &hub.forged_token("ann")).await;
        assert_eq!(come(&hub, door, &bad).await, closed(3500, "invalid token"), "{door:?}");
        let over = credential(&hub, door, &hub.signed(json!({"sub": "ann", "exp": 60}))).await;
        hub.clock.advance(std::time::Duration::from_secs(61));
        assert_eq!(come(&hub, door, &over).await, closed(3500, "token expired"), "{door:?}");
        let good = credential(&hub, door, &hub.token("ann")).await;
        assert_eq!(come(&hub, door, &good).await, Outcome::In, "{door:?}");
    }
    assert_eq!(come(&hub, Door::Connect, &hub.expired_token("ann")).await, Outcome::Error(109), "no door of those");
}

#[actix_rt::test]
async fn who_was_let_in_to_be_told_no_gets_in_by_no_other_token() {
    let hub = hub_with(|config| config.auth.reject = Reject::Close).await;
    let mut client = Raw::connect(hub.address, &format!("/socket?token={}", hub.forged_token("ann"))).await;
    let good = hub.token("ann");
    for text in [format!("Authorization: Bearer {good}"), json!({"id": 1, "connect": {"token": good}}).to_string()] {
        client.pour(&raw::frame(FIN | TEXT, text.as_bytes())).await;
    }
    assert_eq!(outcome(&mut client).await, closed(3500, "invalid token"));
    assert_eq!(client.next().await, None);
    crate::support::eventually("its seats are free", async || {
        hub.connections() == 0 && hub.metric("wardcast_connections_waiting").await == 0.0
    })
    .await;
}

#[actix_rt::test]
async fn one_connection_too_many_of_a_user_is_refused_by_every_door() {
    let hub = hub_with(|config| config.limits.connections_per_user = 1).await;
    let _first = hub.client("ann").await;
    for door in ALL {
        let expected = match door {
            Door::Message => closed(3013, "too many requests"),
            Door::Connect => closed(3504, "connection limit"),
            _ => Outcome::Refused(429, 111),
        };
        let credential = credential(&hub, door, &hub.token("ann")).await;
        assert_eq!(come(&hub, door, &credential).await, expected, "{door:?}");
    }
}

#[actix_rt::test]
async fn a_token_of_nobody_opens_every_door_where_anonymous_says_so_and_none_where_not() {
    for anonymous in [Anonymous::Never, Anonymous::Token, Anonymous::Always] {
        let hub = hub_with(|config| {
            config.auth.anonymous = anonymous;
            config.channels.allow_subscribe = AllowSubscribe::Anonymous;
        })
        .await;
        let nobody = hub.signed(json!({"sub": "", "exp": 60}));
        for door in ALL {
            let is_in = come(&hub, door, &credential(&hub, door, &nobody).await).await == Outcome::In;
            assert_eq!(is_in, anonymous != Anonymous::Never, "{door:?} {anonymous:?}");
        }
        let missing = hub.signed(json!({"exp": 60}));
        for door in ALL {
            assert_ne!(come(&hub, door, &credential(&hub, door, &missing).await).await, Outcome::In, "{door:?}");
        }
    }
}

#[actix_rt::test]
async fn without_a_token_only_connect_lets_nobody_in_and_only_while_it_is_open() {
    let without = async |doors: &[Door]| {
        let hub = hub_with(|config| {
            config.auth.anonymous = Anonymous::Always;
            config.auth.doors = doors.to_vec();
        })
        .await;
        let mut said = Vec::new();
        for first in [json!({"id": 1, "connect": {}}), json!({"id": 1, "subscribe": {"channel": "news"}})] {
            let mut stranger = Raw::connect(hub.address, "/socket").await;
            stranger.send(&raw::frame(FIN | TEXT, first.to_string().as_bytes())).await;
            said.push(outcome(&mut stranger).await);
        }
        assert_eq!(said.pop(), Some(closed(3501, "bad request")), "nobody is not somebody by asking");
        said.pop()
    };
    assert_eq!(without(&ALL).await, Some(Outcome::In));
    assert_eq!(without(&[Door::Query, Door::Message]).await, Some(closed(3501, "bad request")));
}
