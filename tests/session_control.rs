//! Controls of the server API: their effect on live sessions, on this node and on others.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    API_KEY, Client, TestHub, client::Closed, http, mark_secret, redis::RedisServer, start_hub, start_hub_on,
    start_hub_with,
};

async fn call_control(hub: &TestHub, method: &str, body: Value) {
    assert_eq!(hub.call_api(method, body).await, json!({"result": {}}));
}

async fn connect_with_client_id(hub: &TestHub, user: &str) -> (Client, String) {
    let (client, connect) = hub.connect_with_claims(json!({"sub": user, "exp": 3600})).await;
    (client, connect["client"].as_str().unwrap().to_owned())
}

#[actix_rt::test]
async fn disconnect_closes_all_connections_of_one_user_only() {
    let hub = start_hub().await;
    let (mut one, mut two, mut bob) = (hub.connect("ann").await, hub.connect("ann").await, hub.connect("bob").await);
    call_control(&hub, "disconnect", json!({"user": "ann"})).await;
    for client in [&mut one, &mut two] {
        assert_eq!(client.wait_for_close().await, (Some(3503), "force disconnect".to_owned()));
    }
    bob.subscribe("news").await;
}

#[actix_rt::test]
async fn disconnect_uses_code_and_reason_of_the_backend_and_skips_whitelisted_clients() {
    let hub = start_hub().await;
    let ((mut one, _), (mut two, listed)) =
        (connect_with_client_id(&hub, "ann").await, connect_with_client_id(&hub, "ann").await);
    let close = json!({"code": 4501, "reason": "signed in elsewhere"});
    call_control(&hub, "disconnect", json!({"user": "ann", "whitelist": [listed], "disconnect": close})).await;
    assert_eq!(one.wait_for_close().await, (Some(4501), "signed in elsewhere".to_owned()));
    two.subscribe("news").await;
    call_control(&hub, "disconnect", json!({"user": "bob", "client": listed})).await;
    two.subscribe("sport").await;
    call_control(&hub, "disconnect", json!({"user": "ann", "client": listed})).await;
    assert_eq!(two.wait_for_close().await.0, Some(3503));
}

/// gocent names these two fields so, and sends `null` where its caller did not set them.
#[actix_rt::test]
async fn disconnect_takes_the_field_names_of_gocent() {
    let hub = start_hub().await;
    let ((mut one, _), (mut two, listed)) =
        (connect_with_client_id(&hub, "ann").await, connect_with_client_id(&hub, "ann").await);
    let close = json!({"code": 4001, "reason": "away", "reconnect": false});
    call_control(&hub, "disconnect", json!({"user": "ann", "Disconnect": close, "ClientWhitelist": [listed]})).await;
    assert_eq!(one.wait_for_close().await, (Some(4001), "away".to_owned()));
    two.subscribe("news").await;
    call_control(&hub, "disconnect", json!({"user": "ann", "Disconnect": null, "ClientWhitelist": null})).await;
    assert_eq!(two.wait_for_close().await.0, Some(3503));
}

/// By these codes the hub closes slow and expired connections without sending their backlog. An API call is neither.
#[actix_rt::test]
async fn disconnect_with_code_3008_or_3005_reaches_client_like_any_other_code() {
    let hub = start_hub().await;
    for (code, reason) in [(3008, "slow"), (3008, "too slow"), (3005, "connection expired"), (3005, "over")] {
        let mut client = hub.connect_subscriber("u", "news").await;
        hub.publish("news", json!(1)).await;
        let disconnect = json!({"code": code, "reason": reason});
        call_control(&hub, "disconnect", json!({"user": "u", "disconnect": disconnect})).await;
        assert_eq!(client.receive_publication().await, json!(1));
        assert_eq!(client.next().await, Err(Closed { code: Some(code), reason: reason.to_owned() }));
    }
}

#[actix_rt::test]
async fn unsubscribe_ends_one_subscription_of_a_user() {
    let hub = start_hub().await;
    let mut client = hub.connect_subscriber("ann", "news").await;
    client.subscribe("sport").await;
    call_control(&hub, "unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    let push = client.receive().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("news"), &json!(2000)));
    hub.publish("news", json!(1)).await;
    hub.publish("sport", json!(2)).await;
    assert_eq!(client.receive_publication().await, json!(2));
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn api_refresh_changes_session_expiry_and_connection_info() {
    let hub = start_hub().await;
    let mut client = hub.connect_subscriber("ann", "news").await;
    let at = hub.clock.now().unix_seconds() + 2 * 3600;
    call_control(&hub, "refresh", json!({"user": "ann", "expire_at": at, "info": {"name": "Ann"}})).await;
    let refreshed = client.receive().await["push"]["refresh"].clone();
    assert!(refreshed["ttl"].as_u64().unwrap() > 7000, "{refreshed}");
    hub.clock.advance(Duration::from_secs(3700));
    client.send(json!({"id": 2, "publish": {"channel": "news", "data": 1}})).await;
    let reply_and_push = [client.receive().await, client.receive().await];
    let has_info = |received: &Value| received["push"]["pub"]["info"]["conn_info"] == json!({"name": "Ann"});
    assert!(reply_and_push.iter().any(has_info), "{reply_and_push:?}");
    call_control(&hub, "refresh", json!({"user": "ann", "expired": true})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn disconnect_with_code_3000_cuts_the_connection_without_push_or_close_frame() {
    let hub = start_hub().await;
    for sdk in [false, true] {
        let mut ann = if sdk { hub.connect_sdk(&hub.token("ann")).await } else { hub.connect("ann").await };
        let disconnect = json!({"code": 3000, "reason": "x"});
        call_control(&hub, "disconnect", json!({"user": "ann", "disconnect": disconnect})).await;
        assert_eq!(ann.next().await, Err(Closed { code: None, reason: "aborted".to_owned() }));
    }
    assert_eq!(hub.running().metrics.closes_with_code(3000), 2);
}

#[actix_rt::test]
async fn control_with_client_and_session_applies_to_the_session_that_has_both() {
    let hub = start_hub().await;
    let ((mut one, first), (mut two, second)) =
        (connect_with_client_id(&hub, "ann").await, connect_with_client_id(&hub, "ann").await);
    call_control(&hub, "disconnect", json!({"user": "ann", "client": first, "session": second})).await;
    call_control(&hub, "disconnect", json!({"user": "ann", "client": first, "session": first})).await;
    assert_eq!(one.wait_for_close().await.0, Some(3503));
    two.subscribe("news").await;
}

#[actix_rt::test]
async fn controls_reach_sessions_on_every_node() {
    let redis = RedisServer::start().await;
    let (one, two) = (start_hub_on(&redis, |_| ()).await, start_hub_on(&redis, |_| ()).await);
    let (mut here, mut there) = (one.connect("ann").await, two.connect_subscriber("ann", "news").await);
    call_control(&one, "unsubscribe", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(there.receive().await["push"]["unsubscribe"]["code"], 2000);
    call_control(&one, "disconnect", json!({"user": "ann"})).await;
    assert_eq!((here.wait_for_close().await.0, there.wait_for_close().await.0), (Some(3503), Some(3503)));
}

/// Its clients, users, subscriptions and channels.
fn counts_of_first_node(info: &Value) -> [u64; 4] {
    let node = &info["result"]["nodes"][0];
    ["num_clients", "num_users", "num_subs", "num_channels"].map(|name| node[name].as_u64().unwrap())
}

#[actix_rt::test]
async fn info_counts_connections_users_subscriptions_and_channels() {
    let hub = start_hub().await;
    let _clients = [
        hub.connect_subscriber("ann", "a").await,
        hub.connect_subscriber("ann", "b").await,
        hub.connect_subscriber("bob", "a").await,
    ];
    let info = hub.call_api("info", json!({})).await;
    assert_eq!(counts_of_first_node(&info), [3, 2, 3, 2], "{info}");
    let node = &info["result"]["nodes"][0];
    assert!(node["uid"].is_string() && node["version"].is_string() && node["uptime"].is_u64(), "{info}");
}

#[actix_rt::test]
async fn controls_require_the_api_key() {
    let hub = start_hub().await;
    let mut client = hub.connect("ann").await;
    for method in ["disconnect", "unsubscribe", "refresh", "info", "batch"] {
        let post = || http::post(hub.address, &format!("/api/{method}"));
        let wrong_key = mark_secret(API_KEY.replace('k', "K"));
        for request in [post(), post().header("X-API-Key", &wrong_key)] {
            let response = request.json(json!({"user": "ann", "channel": "news"})).send().await;
            assert_eq!(response.status, 401, "{method}");
        }
    }
    client.subscribe("news").await;
}

#[actix_rt::test]
async fn controls_racing_with_closes_count_each_connection_once_and_leave_nothing_behind() {
    let hub = start_hub_with(|config| config.server.workers = 2).await;
    let mut closed = 0;
    for round in 0..15 {
        let mut clients = join_all((0..12).map(|_| hub.connect_subscriber("ann", "news"))).await;
        let leave = clients.iter_mut().enumerate().map(async |(number, client)| match (number + round) % 4 {
            // Closed by the hub for its command, by itself with a close frame, or by the control alone.
            0 => client.send(json!({"send": {}})).await,
            1 => client.send(json!({"id": 2, "refresh": {"token": hub.token("bob")}})).await,
            2 => client.send_message(Message::Close(None)).await,
            _ => {}
        });
        let disconnect = call_control(&hub, "disconnect", json!({"user": "ann"}));
        let unsubscribe = call_control(&hub, "unsubscribe", json!({"user": "ann", "channel": "news"}));
        tokio::join!(join_all(leave), disconnect, unsubscribe);
        for client in &mut clients {
            closed += u64::from(client.wait_for_close().await.0.is_some());
        }
        drop(clients);
        hub.wait_for_connections(0).await;
    }
    let counted: u64 = [3500, 3503, 3508].map(|code| hub.running().metrics.closes_with_code(code)).iter().sum();
    assert_eq!(counted, closed);
    assert_eq!(hub.call_api("channels", json!({})).await, json!({"result": {"channels": {}}}));
}

#[actix_rt::test]
async fn user_index_follows_connects_refreshes_and_all_kinds_of_close() {
    let hub = start_hub_with(|config| config.limits.handshakes_per_second = 0).await;
    let counts = async || counts_of_first_node(&hub.call_api("info", json!({})).await);
    for _ in 0..5 {
        let crowd = join_all((0..60).map(async |number| {
            let user = format!("user-{}", number % 6);
            let mut client = hub.connect_subscriber(&user, &format!("channel-{}", number % 10)).await;
            if number % 2 == 0 {
                client.request(json!({"id": 2, "refresh": {"token": hub.token(&user)}})).await;
            }
            if number % 3 == 0 {
                client.request(json!({"id": 3, "connect": {}})).await;
            }
            client
        }))
        .await;
        assert_eq!(counts().await, [60, 6, 60, 10]);
        call_control(&hub, "disconnect", json!({"user": "user-0"})).await;
        let (disconnected, others): (Vec<_>, Vec<_>) = crowd.into_iter().enumerate().partition(|(n, _)| n % 6 == 0);
        for (_, mut client) in disconnected {
            assert_eq!(client.wait_for_close().await.0, Some(3503));
        }
        // The index leads to all connections of the user, and to no others.
        hub.wait_for_connections(50).await;
        assert_eq!(counts().await[..2], [50, 5]);
        for (number, mut client) in others {
            match number % 6 {
                1 => client.send_message(Message::Close(None)).await,
                2 => client.send(json!({"send": {}})).await,
                _ => drop(client),
            }
        }
        hub.wait_for_connections(0).await;
        assert_eq!(counts().await, [0; 4]);
    }
}
