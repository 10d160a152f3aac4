//! Ways to send a token (`auth.doors`): query string, subprotocol, `Authorization` header, cookie, first message as text and
//! as a `connect` command. Each is tested with good and bad tokens, in every form that is accepted.

use serde_json::json;
use wardcast::config::{Door, RejectMode};

use crate::support::{Client, Stopwatch, TestHub, http, mark_secret, raw, start_hub, start_hub_with};

/// Checks that a session can subscribe and receive.
async fn assert_authenticated(hub: &TestHub, mut client: Client) {
    client.subscribe("news").await;
    hub.publish("news", json!("hello")).await;
    assert_eq!(client.receive_publication().await, json!("hello"));
}

#[actix_rt::test]
async fn token_in_url_is_accepted_under_three_names_on_every_path() {
    let hub = start_hub().await;
    let token = hub.token("ann");
    for path in [
        format!("/connection/websocket?token={token}"),
        format!("/socket?access_token={token}"),
        format!("/?authorization=Bearer%20{token}"),
        format!("/socket?token=Bearer+{token}"),
    ] {
        let mut client = Client::connect(hub.address, &path).await.unwrap();
        let connect = client.receive_connect_push().await;
        assert!(connect["ttl"].as_u64().unwrap() <= 3600 - 30, "the ttl must end before the refresh margin: {connect}");
        assert_authenticated(&hub, client).await;
    }
}

#[actix_rt::test]
async fn bare_token_as_subprotocol_is_accepted_and_echoed_for_browsers() {
    let hub = start_hub().await;
    for offer in [hub.token("ann"), format!("bearer.{}", hub.token("ann"))] {
        let mut client =
            Client::connect_with(hub.address, "/socket", &[("Sec-WebSocket-Protocol", &offer)]).await.unwrap();
        assert_eq!(client.response.headers()["sec-websocket-protocol"], *offer);
        client.receive().await;
        assert_authenticated(&hub, client).await;
    }
}

#[actix_rt::test]
async fn token_without_answerable_subprotocol_is_400_and_takes_no_place() {
    let hub = start_hub_with(|config| config.limits.connections_per_user = 1).await;
    let token = hub.token("ann");
    for offer in [format!("bearer, {token}"), format!("{token}, chat"), format!("chat, bearer.{token}")] {
        let answer = hub.try_handshake("/socket", &[("Sec-WebSocket-Protocol", &offer)]).await;
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{answer:?}");
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("wardcast.v1") && !answer.body.contains(&token), "{message}");
    }
    assert_eq!(hub.connections(), 0);
    let _ann = hub.connect("ann").await;
}

#[actix_rt::test]
async fn entry_that_is_no_token_beside_marker_is_401_at_once() {
    let hub = start_hub().await;
    for offer in ["wardcast.v1, undefined", "null, wardcast.v1", "centrifuge-json, undefined"] {
        let answer = hub.try_handshake("/socket", &[("Sec-WebSocket-Protocol", offer)]).await;
        assert_eq!((answer.status, answer.header("connection")), (401, Some("close")), "{offer}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{offer}");
    }
    let with_token = hub.try_handshake(&hub.path_for("ann"), &[("Sec-WebSocket-Protocol", "wardcast.v1, chat")]).await;
    assert_eq!((with_token.status, with_token.header("sec-websocket-protocol")), (101, Some("wardcast.v1")));
    let sdk = hub.try_handshake("/socket", &[("Sec-WebSocket-Protocol", "centrifuge-json, centrifuge-protobuf")]).await;
    assert_eq!(sdk.status, 101);
}

#[actix_rt::test]
async fn marker_subprotocol_beside_token_is_selected_and_token_is_not_echoed() {
    let hub = start_hub().await;
    for marker in ["wardcast.v1", "centrifuge-json"] {
        let token = hub.token("ann");
        for offer in [format!("{marker}, {token}"), format!("{token}, {marker}")] {
            let mut client =
                Client::connect_with(hub.address, "/socket", &[("Sec-WebSocket-Protocol", &offer)]).await.unwrap();
            assert_eq!(client.response.headers()["sec-websocket-protocol"], marker);
            assert!(!format!("{:?}", client.response).contains(&token));
            client.receive().await;
            assert_authenticated(&hub, client).await;
        }
    }
}

#[actix_rt::test]
async fn token_as_first_text_message_is_accepted() {
    let hub = start_hub().await;
    let mut client = hub.connect_without_token().await;
    client.send_text(&hub.token_message("ann")).await;
    client.receive_connect_push().await;
    assert_authenticated(&hub, client).await;
}

#[actix_rt::test]
async fn token_in_connect_command_is_accepted_as_sdks_send_it() {
    let hub = start_hub().await;
    let mut client = hub.connect_without_token().await;
    let reply = client.request(json!({"id": 1, "connect": {"token": hub.token("ann"), "name": "js"}})).await;
    let connect = &reply["connect"];
    assert_eq!((&connect["ping"], &connect["pong"], &connect["expires"]), (&json!(25), &json!(true), &json!(true)));
    client.send(json!({"id": 2, "subscribe": {"channel": "news"}})).await;
    assert_eq!(client.receive().await, json!({"id": 2, "subscribe": {}}));
}

#[actix_rt::test]
async fn session_authenticated_in_handshake_may_become_sdk_session() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    let reply = client.request(json!({"id": 1, "connect": {}})).await;
    assert_eq!(reply["connect"]["pong"], json!(true));
    client.send(json!({"id": 2, "connect": {}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3501), "a second `connect` is a protocol error");
}

#[actix_rt::test]
async fn bad_token_in_handshake_is_401_without_reason_or_token() {
    let hub = start_hub().await;
    let none_header = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9.";
    for (token, code) in [
        (hub.forged_token("ann"), 101),
        (hub.expired_token("ann"), 109),
        (none_header.to_owned(), 101),
        ("garbage".to_owned(), 101),
        (String::new(), 101),
        ("x".repeat(33_000), 101),
    ] {
        let response =
            http::exchange(hub.address, raw::handshake(hub.address, &format!("/socket?token={token}")).as_bytes())
                .await;
        assert_eq!(response.status, 401, "{response:?}");
        assert_eq!(response.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        assert_eq!(response.header("connection"), Some("close"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.json()["error"]["code"], code, "{token:.40}");
        assert!(token.is_empty() || !response.body.contains(&token));
    }
}

#[actix_rt::test]
async fn bad_token_as_subprotocol_is_401() {
    let hub = start_hub().await;
    for offer in [hub.forged_token("ann"), format!("wardcast.v1, {}", hub.expired_token("ann"))] {
        assert_eq!(hub.try_handshake("/socket", &[("Sec-WebSocket-Protocol", &offer)]).await.status, 401);
    }
}

#[actix_rt::test]
async fn two_tokens_in_one_handshake_are_400() {
    let hub = start_hub().await;
    let token = hub.token("ann");
    let twice = format!("/socket?token={token}&token={token}");
    let names = format!("/socket?token={token}&access_token={token}");
    assert_eq!(hub.try_handshake(&twice, &[]).await.status, 400);
    assert_eq!(hub.try_handshake(&names, &[]).await.status, 400);
    let query = format!("/socket?token={token}");
    assert_eq!(hub.try_handshake(&query, &[("Sec-WebSocket-Protocol", &token)]).await.status, 400);
    assert_eq!(hub.try_handshake("/socket?token=%zz", &[]).await.status, 400);
}

#[actix_rt::test]
async fn bad_token_or_other_scheme_in_first_message_closes_with_3500() {
    let hub = start_hub().await;
    for (text, reason) in [
        (format!("Authorization: Bearer {}", hub.forged_token("ann")), "invalid token"),
        (format!("Authorization: Bearer {}", hub.expired_token("ann")), "token expired"),
        (format!("Authorization: Basic {}", mark_secret("YW5uOnNlY3JldA==")), "invalid token"),
    ] {
        let mut client = hub.connect_without_token().await;
        client.send_text(&text).await;
        assert_eq!(client.wait_for_close().await, (Some(3500), reason.to_owned()), "{text:.40}");
    }
}

#[actix_rt::test]
async fn connect_with_bad_token_closes_with_3500_and_with_expired_token_is_109_and_may_retry() {
    let hub = start_hub().await;
    let mut client = hub.connect_without_token().await;
    client.send(json!({"id": 1, "connect": {"token": hub.forged_token("ann")}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));

    let mut client = hub.connect_without_token().await;
    let reply = client.request(json!({"id": 1, "connect": {"token": hub.expired_token("ann")}})).await;
    assert_eq!(reply["error"]["code"], 109);
    let reply = client.request(json!({"id": 2, "connect": {"token": hub.token("ann")}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
}

#[actix_rt::test]
async fn commands_sent_behind_a_connect_with_expired_token_are_ignored_until_the_next_connect() {
    let hub = start_hub().await;
    let mut client = hub.connect_without_token().await;
    client.send(json!({"id": 1, "connect": {"token": hub.expired_token("ann")}})).await;
    client.send(json!({"id": 2, "subscribe": {"channel": "news"}})).await;
    client.send(json!({"id": 3, "connect": {"token": hub.token("ann")}})).await;
    assert_eq!(client.receive().await["error"]["code"], 109);
    let reply = client.receive().await;
    assert!(reply["id"] == 3 && reply["connect"]["client"].is_string(), "{reply}");
    assert_eq!(
        client.request(json!({"id": 4, "subscribe": {"channel": "news"}})).await,
        json!({"id": 4, "subscribe": {}})
    );

    let mut client = hub.connect_without_token().await;
    client.request(json!({"id": 1, "connect": {"token": hub.expired_token("ann")}})).await;
    client.send_text("garbage").await;
    assert_eq!(client.wait_for_close().await.0, Some(3501));
}

#[actix_rt::test]
async fn garbage_or_command_before_connect_closes_with_3501() {
    let hub = start_hub().await;
    for text in [
        "hello",
        "",
        "{}",
        r#"{"id":1,"subscribe":{"channel":"news"}}"#,
        r#"{"id":1,"publish":{"channel":"news","data":1}}"#,
        r#"{"id":1,"connect":{}}"#,
        r#"{"id":0,"connect":{"token":"x"}}"#,
    ] {
        let mut client = hub.connect_without_token().await;
        client.send_text(text).await;
        assert_eq!(client.wait_for_close().await.0, Some(3501), "{text}");
    }
}

#[actix_rt::test]
async fn client_without_complete_first_message_is_closed_with_3502() {
    let hub = start_hub_with(|config| config.auth.first_message_timeout = std::time::Duration::from_millis(400)).await;
    let mut silent = hub.connect_without_token().await;
    assert_eq!(silent.wait_for_close().await.0, Some(3502));
    let mut halfway = raw::RawClient::connect(hub.address, "/socket").await;
    halfway.send(&raw::frame(raw::FIN | raw::TEXT, b"Authorization: Bearer x")[..12]).await;
    assert_eq!(halfway.wait_for_close().await, Some(3502));
}

#[actix_rt::test]
async fn slow_first_message_has_same_deadline_and_holds_unauthenticated_permit() {
    let hub = start_hub_with(|config| {
        config.auth.first_message_timeout = std::time::Duration::from_secs(2);
        config.limits.waiting = 1;
    })
    .await;
    let mut raw = raw::RawClient::connect(hub.address, "/socket").await;
    let started = Stopwatch::start();
    let message = raw::frame(raw::FIN | raw::TEXT, &[b' '; 2000]);
    raw.send(&message[..9]).await;
    assert_eq!(hub.try_handshake("/socket", &[]).await.status, 503, "half a frame does not authenticate");
    // The attack is to send a byte at a time, so that the connection is never idle for long.
    let (mut read, mut write) = raw.stream.into_split();
    let send_slowly = async {
        for byte in &message[9..] {
            if tokio::io::AsyncWriteExt::write_all(&mut write, &[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let mut received = Vec::new();
    tokio::select! {
        () = send_slowly => panic!("the whole message was accepted"),
        _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut received) => {}
    }
    assert!(received.windows(2).any(|code| code == 3502_u16.to_be_bytes()), "{received:?}");
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}

#[actix_rt::test]
async fn marker_in_second_subprotocol_header_is_selected_and_token_in_first_is_not_echoed() {
    let hub = start_hub().await;
    let token = hub.token("ann");
    let headers = [("Sec-WebSocket-Protocol", &*token), ("Sec-WebSocket-Protocol", "wardcast.v1")];
    let answer = hub.try_handshake("/socket", &headers).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("wardcast.v1")), "{answer:?}");
    assert_eq!(answer.head.to_lowercase().matches("sec-websocket-protocol").count(), 1, "{answer:?}");
}

#[actix_rt::test]
async fn second_token_refreshes_same_user_and_closes_session_for_other_user() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    client.send_text(&hub.token_message("ann")).await;
    client.receive_connect_push().await;
    client.send_text(&hub.token_message("bob")).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));

    let mut client = hub.connect("ann").await;
    client.send(json!({"id": 1, "connect": {"token": hub.token("bob")}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn disabled_door_accepts_no_token() {
    let hub = start_hub_with(|config| config.auth.doors = vec![Door::Connect]).await;
    let mut client = Client::connect(hub.address, &hub.path_for("ann")).await.unwrap();
    client.send_text(&hub.token_message("ann")).await;
    assert_eq!(client.wait_for_close().await.0, Some(3501));
    let mut client = hub.connect_without_token().await;
    let reply = client.request(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    assert!(reply["connect"].is_object());
}

#[actix_rt::test]
async fn token_in_authorization_header_is_accepted_in_every_spelling() {
    let hub = start_hub().await;
    for scheme in ["Bearer ", "bearer ", "BEARER ", "Bearer    "] {
        let bearer = format!("{scheme}{}", hub.token("ann"));
        assert_authenticated(&hub, hub.connect_to("/socket", &[("Authorization", &bearer)]).await).await;
    }
}

#[actix_rt::test]
async fn other_scheme_or_second_authorization_header_is_401() {
    let hub = start_hub().await;
    let bearer = hub.bearer("ann");
    for values in [&["Basic YW5uOnNlY3JldA=="][..], &["Bearer"], &[""], &[&bearer, &bearer], &["Basic x", &bearer]] {
        let headers: Vec<_> = values.iter().map(|value| ("Authorization", *value)).collect();
        let answer = hub.try_handshake("/socket", &headers).await;
        assert_eq!((answer.status, answer.header("connection")), (401, Some("close")), "{values:?}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    let forged = format!("Bearer {}", hub.forged_token("ann"));
    assert_eq!(hub.try_handshake("/socket", &[("Authorization", &forged)]).await.status, 401);
}

#[actix_rt::test]
async fn cookie_token_is_accepted_from_own_pages() {
    let hub = start_hub().await;
    let own = format!("http://{}", hub.address);
    let cookie = format!("theme=dark; wardcast_token={}; lang=en", hub.token("ann"));
    assert_authenticated(&hub, hub.connect_to("/socket", &[("Origin", &own), ("Cookie", &cookie)]).await).await;
    for bad in [hub.forged_token("ann"), hub.expired_token("ann"), String::new(), "\u{ff}".to_owned()] {
        let cookie = format!("wardcast_token={bad}");
        assert_eq!(
            hub.try_handshake("/socket", &[("Origin", &own), ("Cookie", &cookie)]).await.status,
            401,
            "{bad:.40}"
        );
    }
}

#[actix_rt::test]
async fn second_cookie_of_same_name_is_400_because_another_host_may_have_set_it() {
    let hub = start_hub().await;
    let own = format!("http://{}", hub.address);
    let one = format!("wardcast_token={}", hub.token("ann"));
    let both = format!("{one}; {one}");
    assert_eq!(hub.try_handshake("/socket", &[("Origin", &own), ("Cookie", &both)]).await.status, 400);
    assert_eq!(hub.try_handshake("/socket", &[("Origin", &own), ("Cookie", &one), ("Cookie", &one)]).await.status, 400);
}

#[actix_rt::test]
async fn explicit_token_overrides_cookie_even_when_it_is_bad() {
    let hub = start_hub().await;
    let own = format!("http://{}", hub.address);
    let cookie = format!("wardcast_token={}", hub.token("bob"));
    let headers = [("Origin", &*own), ("Cookie", &*cookie)];
    let mut ann = hub.connect_to(&hub.path_for("ann"), &headers).await;
    ann.subscribe("news").await;
    ann.send(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    let reply_and_push = [ann.receive().await, ann.receive().await];
    let is_from_ann = |received: &serde_json::Value| received["push"]["pub"]["info"]["user"] == "ann";
    assert!(reply_and_push.iter().any(is_from_ann), "{reply_and_push:?}");
    assert_eq!(hub.try_handshake(&format!("/socket?token={}", hub.forged_token("ann")), &headers).await.status, 401);
}

#[actix_rt::test]
async fn cookie_name_is_configurable() {
    let hub = start_hub_with(|config| config.auth.cookie = "__Host-ward".to_owned()).await;
    let own = format!("http://{}", hub.address);
    let cookie = format!("wardcast_token=garbage; __Host-ward={}", hub.token("ann"));
    assert_authenticated(&hub, hub.connect_to("/socket", &[("Origin", &own), ("Cookie", &cookie)]).await).await;
}

#[actix_rt::test]
async fn each_handshake_door_can_be_disabled_separately() {
    let hub = start_hub_with(|config| config.auth.doors = vec![Door::Connect]).await;
    let token = hub.token("ann");
    let (bearer, cookie, own) =
        (format!("Bearer {token}"), format!("wardcast_token={token}"), format!("http://{}", hub.address));
    let offer = format!("wardcast.v1, {token}");
    for headers in [
        &[("Authorization", &*bearer)][..],
        &[("Authorization", "Basic x"), ("Authorization", &*bearer)],
        &[("Cookie", &*cookie), ("Origin", &*own)],
        &[("Cookie", &*cookie)],
        &[("Sec-WebSocket-Protocol", &*offer)],
    ] {
        let mut client = Client::connect_with(hub.address, "/socket", headers).await.unwrap();
        client.send(json!({"id": 1, "subscribe": {"channel": "news"}})).await;
        assert_eq!(client.wait_for_close().await.0, Some(3501), "not authenticated: {headers:?}");
    }
}

#[actix_rt::test]
async fn explicit_tokens_from_any_two_doors_are_400() {
    let hub = start_hub().await;
    let token = hub.token("ann");
    let bearer = format!("Bearer {token}");
    let offer = format!("wardcast.v1, {token}, {token}");
    assert_eq!(hub.try_handshake(&format!("/socket?token={token}"), &[("Authorization", &bearer)]).await.status, 400);
    let both = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", &*token)];
    assert_eq!(hub.try_handshake("/socket", &both).await.status, 400);
    assert_eq!(hub.try_handshake("/socket", &[("Sec-WebSocket-Protocol", &offer)]).await.status, 400);
}

#[actix_rt::test]
async fn reject_close_accepts_handshake_with_bad_token_and_sends_close_code() {
    let hub = start_hub_with(|config| config.auth.reject = RejectMode::Close).await;
    for token in [hub.forged_token("ann"), hub.expired_token("ann"), String::new()] {
        assert_eq!(hub.try_handshake(&format!("/socket?token={token}"), &[]).await.status, 101);
    }
    assert_eq!(hub.try_handshake("/socket?ticket=never-given", &[]).await.status, 101);
    let two_tokens = hub.try_handshake("/socket?token=a&token=b", &[]).await;
    assert_eq!(two_tokens.status, 400, "an ambiguous handshake is refused as always");
    let foreign = [("Origin", "https://evil.com")];
    assert_eq!(hub.try_handshake("/socket?token=a", &foreign).await.status, 403, "a foreign page learns no reason");
}
