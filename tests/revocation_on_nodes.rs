//! Revocations that an instance does not have yet: it holds what it delivers, and all instances of a Redis obey.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};
use wardcast::{
    audit::{AuditFields, AuditLog},
    broker::{Broker, Deliver, Login, LoginLimits, LoginSelection, revoke_with_logins},
    channel::Channel,
    clock::NEVER,
    hub::CheckHealth,
    revocation::{IssuerScope, LoginId, Revocation, RevocationTarget},
};

use crate::{
    logout_failures::{login_key, start_login_hub_and_node, wait_until_logins_have_ended},
    refresh_tokens::start_login,
    revocation::{assert_closed_as_revoked, claims, connect, logout, path, revoke},
    support::{
        API_KEY, Stopwatch, TestHub,
        client::Closed,
        http,
        node::start_nodes,
        poll_until,
        raw::RawClient,
        redis::{PrefixedRedis, RedisForm, RedisServer},
        slow_broker::Worker,
        start_hub_on,
    },
    tickets::ticket_request,
    two_hubs::start_hub_before_redis,
};

/// As when a node has been frozen, or has lost its Redis: revocations may be missing.
#[actix_rt::test]
async fn held_deliveries_go_out_only_after_the_revocations_that_were_missing() {
    let worker = Worker::start(|_| ());
    worker.broker.answer(2);
    let mut clients = [worker.connect(json!({"jti": "1"})).await, worker.connect(json!({"jti": "2"})).await];
    for client in &mut clients {
        assert!(client.receive().await["push"]["connect"].is_object());
        client.send(&[json!({"id": 1, "subscribe": {"channel": "news"}})]).await;
        assert!(client.receive().await["subscribe"].is_object());
    }
    worker.hubs.revocations().hold();
    worker.publish("news", "1").await;
    worker.hub.send(CheckHealth).await.unwrap();
    let missing = Revocation::of_all(RevocationTarget::Token("1".to_owned(), IssuerScope::Any), NEVER);
    worker.hubs.add_revocations(vec![missing]).unwrap();
    worker.hubs.release_deliveries();
    let [mut revoked, mut other] = clients;
    assert_eq!(revoked.next_close().await, Ok(3500), "nothing was delivered");
    assert_eq!(other.receive().await["push"]["pub"]["data"], 1);
}

#[actix_rt::test]
async fn subscription_whose_token_is_revoked_while_the_broker_is_slow_is_103_and_nothing_is_delivered() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    worker.publish("news", "1").await;
    let mut client = worker.connect(json!({"jti": "c"})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let token = worker.token(json!({"channel": "news", "exp": 60, "jti": "s"}));
    let subscribe = json!({"id": 1, "subscribe": {"channel": "news", "token": token, "recover": true}});
    client.send(&[subscribe]).await;
    worker.broker.wait_for_calls(&["subscribe"]).await;
    worker.broker.answer(1);
    worker.broker.wait_for_calls(&["subscribe", "read_history"]).await;
    let revoked = Revocation::of_all(RevocationTarget::Token("s".to_owned(), IssuerScope::Any), NEVER);
    worker.broker.revoke(vec![revoked], Duration::from_secs(5)).await.unwrap();
    worker.broker.answer(1);
    assert_eq!(client.receive().await["error"]["code"], 103);
}

#[actix_rt::test]
async fn history_that_was_read_before_a_revocation_in_the_channel_is_not_sent_after_it() {
    let worker = Worker::start(|config| {
        (config.channels.history_size, config.channels.allow_history) = (10, wardcast::config::ChannelAccess::User);
    });
    worker.publish("news", "1").await;
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let history = json!({"id": 1, "history": {"channel": "news", "limit": 10}});
    for (is_revoked, reads) in [(false, 1), (true, 2)] {
        client.send(std::slice::from_ref(&history)).await;
        worker.broker.wait_for_calls(&["read_history"].repeat(reads)).await;
        if is_revoked {
            let news = RevocationTarget::Channel("ann".to_owned(), Channel::new("news").unwrap());
            worker.broker.revoke(vec![Revocation::of_all(news, NEVER)], Duration::from_secs(5)).await.unwrap();
        }
        worker.broker.answer(1);
        let reply = client.receive().await;
        let outcome = (reply["history"]["publications"].is_array(), reply["error"]["code"].as_u64());
        assert_eq!(outcome, if is_revoked { (false, Some(103)) } else { (true, None) }, "{reply}");
    }
}

/// Has two clients send a command while deliveries are held, as on a node that was frozen or has just started: its list may lack
/// revocations. When the broker has answered `calls`, the token of the first client is revoked, and deliveries go on: the client is
/// closed, and nothing is left of its reply. Returns that of the other.
async fn reply_after_a_hold(worker: &Worker, command: Value, calls: &[&str]) -> Value {
    worker.publish("news", "1").await;
    let mut clients = [worker.connect(json!({"jti": "1"})).await, worker.connect(json!({"jti": "2"})).await];
    for client in &mut clients {
        assert!(client.receive().await["push"]["connect"].is_object());
    }
    worker.hubs.revocations().hold();
    worker.broker.answer(10);
    for client in &mut clients {
        client.send(std::slice::from_ref(&command)).await;
    }
    worker.broker.wait_for_calls(calls).await;
    worker.hub.send(CheckHealth).await.unwrap();
    let missing = Revocation::of_all(RevocationTarget::Token("1".to_owned(), IssuerScope::Any), NEVER);
    worker.hubs.add_revocations(vec![missing]).unwrap();
    worker.hubs.release_deliveries();
    let [mut revoked, mut other] = clients;
    assert_eq!(revoked.next_close().await, Ok(3500), "nothing was sent");
    other.receive().await
}

#[actix_rt::test]
async fn recovered_publications_are_held_until_the_missing_revocations_are_there() {
    let worker = Worker::start(|config| (config.channels.history_size, config.channels.force_recovery) = (10, true));
    let command = json!({"id": 1, "subscribe": {"channel": "news", "recover": true}});
    let reply = reply_after_a_hold(&worker, command, &["subscribe", "read_history", "read_history"]).await;
    assert_eq!(reply["subscribe"]["publications"][0]["data"], 1);
}

#[actix_rt::test]
async fn history_replies_are_held_until_the_missing_revocations_are_there() {
    let worker = Worker::start(|config| {
        (config.channels.history_size, config.channels.allow_history) = (10, wardcast::config::ChannelAccess::User);
    });
    let command = json!({"id": 1, "history": {"channel": "news", "limit": 10}});
    let reply = reply_after_a_hold(&worker, command, &["read_history", "read_history"]).await;
    assert_eq!(reply["history"]["publications"][0]["data"], 1);
}

async fn is_refused(hub: &TestHub, jti: &str) -> bool {
    hub.try_handshake(&path(hub, claims("ann", jti)), &[]).await.status == 401
}

#[actix_rt::test]
async fn revocation_on_one_node_closes_sessions_on_all_and_holds_on_those_that_start_later() {
    let redis = RedisServer::start().await;
    let start = || start_hub_on(&redis, |config| config.limits.revocations = 2);
    let (one, two) = (start().await, start().await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    let mut clients = [connect(&one, claims("ann", "1")).await, connect(&two, claims("ann", "1")).await];
    revoke(&one, json!({"jti": "1"})).await;
    for client in &mut clients {
        assert_closed_as_revoked(client).await;
    }
    let three = start().await;
    poll_until("the list is loaded", async || is_refused(&three, "1").await).await;
    let response = logout(&three, &three.token_with_claims(claims("ann", "2"))).send().await;
    assert_eq!(response.status, 204, "{response:?}");
    assert!(is_refused(&one, "2").await && is_refused(&two, "2").await);
    let full = two.call_api("revoke_token", json!({"jti": "3"})).await;
    assert_eq!(full["error"]["code"], 106, "{full}");
    // The list has no room on this node either, and the caller learns it.
    redis.freeze();
    let since = Stopwatch::start();
    let failed = two.call_api("revoke_token", json!({"jti": "4"})).await;
    assert_eq!(failed["error"]["code"], 106, "{failed}");
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert!(!is_refused(&two, "4").await && is_refused(&two, "1").await);
}

#[actix_rt::test]
async fn frozen_node_is_named_and_obeys_before_it_delivers_anything_again() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let nodes = start_nodes::<2>(&redis, &["channels.allow_subscribe=user"]).await;
    let mut ann = nodes[1].connect_to(&path(&nodes[1], claims("ann", "1")), &[]).await;
    let mut bob = nodes[1].connect("bob").await;
    for client in [&mut ann, &mut bob] {
        client.subscribe("news").await;
    }
    nodes[1].freeze();
    nodes[0].publish("news", json!("before")).await;
    let since = Stopwatch::start();
    let unconfirmed = nodes[0].call_api("revoke_token", json!({"jti": "1"})).await;
    assert!(since.elapsed() < Duration::from_millis(2500), "{:?}", since.elapsed());
    assert_eq!(unconfirmed["error"]["code"], 100, "{unconfirmed}");
    let message = unconfirmed["error"]["message"].as_str().unwrap();
    assert!(message.contains("in force") && message.contains("not confirmed by node "), "{message}");
    assert_eq!(nodes[0].metric("wardcast_revocations_unconfirmed_total").await, 1.0);
    nodes[0].publish("news", json!("after")).await;
    nodes[1].resume();
    assert_eq!(ann.next().await, Err(Closed { code: Some(3500), reason: "token revoked".to_owned() }));
    for expected in ["before", "after"] {
        assert_eq!(bob.receive_publication().await, json!(expected));
    }
}

/// The message about the revocation was lost while the node was frozen: only the list in Redis has it.
#[actix_rt::test]
async fn node_that_was_frozen_loads_the_list_before_it_delivers_or_writes_anything() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let nodes = start_nodes::<2>(&redis, &["channels.allow_subscribe=user", "server.workers=1"]).await;
    let revoked = path(&nodes[1], claims("ann", "1"));
    let mut ann = nodes[1].connect_to(&revoked, &[]).await;
    let mut bob = nodes[1].connect("bob").await;
    let mut stalled = RawClient::connect(nodes[1].address, &revoked).await;
    stalled.next().await.expect("a connect push");
    stalled.subscribe("backlog").await;
    for client in [&mut ann, &mut bob] {
        client.subscribe("news").await;
    }
    bob.subscribe("backlog").await;
    let data = "x".repeat(30_000);
    for number in 0..60 {
        nodes[0].publish("backlog", json!([number, data])).await;
        bob.receive_publication().await;
    }
    nodes[1].freeze();
    nodes[0].publish("news", json!("before")).await;
    let list = format!("{}:{{revocations}}:entries", redis.prefix);
    redis.form.masters()[0].run::<i64>(&["HSET", &list, "j:1", "253402300799000 "]).await;
    // The kernel has what the frozen node has written, and wakes its writer when it continues.
    let mut received = Vec::new();
    while let Ok(Some(frame)) = timeout(Duration::from_millis(300), stalled.next()).await {
        received.push(frame.text().to_owned());
    }
    sleep(Duration::from_millis(1200)).await;
    nodes[1].resume();
    assert_eq!(ann.next().await, Err(Closed { code: Some(3500), reason: "token revoked".to_owned() }));
    let in_kernel = received.len();
    while let Some(frame) = stalled.next().await {
        received.push(frame.text().to_owned());
    }
    assert!(received.len() <= in_kernel + 1, "{in_kernel} {}", received.len());
    assert!(in_kernel > 0 && in_kernel < 60, "{in_kernel}");
    assert_eq!(bob.receive_publication().await, json!("before"));
}

#[actix_rt::test]
async fn revocation_of_a_user_does_not_wait_for_a_broker_that_is_slow_to_find_the_logins() {
    let worker = Worker::start(|config| config.login.users_file = Some("users.toml".into()));
    let mut client = worker.connect(json!({})).await;
    assert!(client.receive().await["push"]["connect"].is_object());
    let id = LoginId::random("ann").unwrap();
    let (started_at, ends_at) = (worker.clock.now(), NEVER);
    let login = Login { user: "ann".to_owned(), password: "p".to_owned(), started_at, ends_at };
    let (hour, per_user) = (Duration::from_secs(3600), 20);
    let limits = LoginLimits { idle: hour, grace: Duration::ZERO, per_user };
    worker.broker.start_login(id.clone(), login, limits).await.unwrap();
    let (broker, config, list) = (worker.broker.clone(), worker.config(), worker.hubs.revocations().clone());
    let metrics = worker.services.metrics.clone();
    let revoked = actix_rt::spawn(async move {
        let target = RevocationTarget::User("ann".to_owned(), IssuerScope::Any);
        let issued_before = list.issued_until_now();
        let revocation = Revocation { issued_before, ..Revocation::of_all(target, list.default_expiry()) };
        let audit = (&*AuditLog::disabled(), AuditFields::default());
        revoke_with_logins(&*broker, revocation, &config, &list, audit, &metrics).await
    });
    assert_eq!(client.next_close().await, Ok(3500), "before the logins are found");
    assert!(!revoked.is_finished());
    worker.broker.answer(1);
    assert_eq!(revoked.await.unwrap(), Ok(()));
    assert_eq!(worker.hubs.revocations().count(), 2, "the user and the login");
    worker.broker.answer(1);
    let ended = worker.broker.find_logins(id.split().0.to_owned(), LoginSelection::One(id.clone())).await.unwrap();
    assert_eq!(ended, []);
}

/// The caller goes away while the revocation waits for a frozen node. The logins end behind that wait.
#[actix_rt::test]
async fn caller_that_goes_away_does_not_stop_its_revocation_half_way() {
    let (prefixed, hub, _users, other) = start_login_hub_and_node().await;
    let redis = &prefixed.form.masters()[0];
    start_login(&hub).await;
    let key = login_key(redis).await;
    other.freeze();
    let mut caller = TcpStream::connect(hub.address).await.unwrap();
    let body = json!({"user": "ann"}).to_string();
    let (address, length) = (hub.address, body.len());
    let head = format!("POST /api/invalidate_user_tokens HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {API_KEY}");
    caller.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
    poll_until("the revocation is in force", async || hub.metric("wardcast_revocations").await > 0.0).await;
    assert_eq!(redis.run::<i64>(&["HLEN", &key]).await, 1, "the call has not ended");
    caller.set_zero_linger().unwrap();
    drop(caller);
    wait_until_logins_have_ended(redis, &key).await;
}

/// It does not know yet which tokens are revoked.
#[actix_rt::test]
async fn instance_without_its_first_list_accepts_no_token_for_a_while() {
    let (mut redis, hub) = start_hub_before_redis().await;
    let (token, forged) = (hub.token("ann"), hub.forged_token("ann"));
    let path = format!("/socket?token={token}");
    let publish =
        http::post(hub.address, "/v1/channels/news/messages").header("Authorization", &format!("Bearer {token}"));
    let refused = [
        hub.try_handshake(&path, &[]).await,
        ticket_request(&hub, &token).send().await,
        publish.json(json!(1)).send().await,
    ];
    for refused in refused {
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
        assert_eq!(refused.json()["error"]["code"], 100, "{refused:?}");
    }
    assert_eq!(hub.metric("wardcast_handshakes_refused_total{reason=\"broker\"}").await, 1.0);
    assert_eq!(hub.try_handshake(&format!("/socket?token={forged}"), &[]).await.status, 401, "invalid for ever");
    let mut sdk = hub.connect_without_token().await;
    let connect = json!({"id": 1, "connect": {"token": token}});
    let reply = sdk.request(connect.clone()).await;
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)), "{reply}");
    let mut text = hub.connect_without_token().await;
    text.send_text(&format!("Authorization: Bearer {token}")).await;
    assert_eq!(text.wait_for_close().await.0, Some(3004));
    redis.restart().await;
    hub.wait_for_broker(true).await;
    assert!(sdk.request(connect).await["connect"].is_object());
    hub.connect_to(&path, &[]).await.subscribe("news").await;
}
