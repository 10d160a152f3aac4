//! The hooks `refresh` and `sub_refresh`: sessions and subscriptions that a hook has allowed for a time go on if the backend says so
//! before it ends.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use wardcast::config::{Config, Namespace};

use crate::support::{
    Client, TestHub,
    backend::{Answer, Backend},
    poll_until, start_hub_with,
};

/// How long the backend allows something.
const LIFETIME: i64 = 600;
/// After this time the backend has been asked, which it is after 300 to 450 s.
const ASKED: Duration = Duration::from_secs(460);

/// A hub whose hooks ask `/connect`, `/refresh`, `/subscribe` and `/sub_refresh`.
async fn start(backend: &Backend, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        backend.configure_connect(config);
        backend.configure(&mut config.hooks.refresh, "/refresh");
        backend.configure(&mut config.hooks.subscribe, "/subscribe");
        backend.configure(&mut config.hooks.sub_refresh, "/sub_refresh");
        backend.configure(&mut config.hooks.rpc, "/rpc");
        config.hooks.failures = 1000;
        config.auth.refresh_margin = Duration::from_secs(300);
        let mut channels = config.channels.clone();
        (channels.subscribe_hook, channels.presence) = (true, true);
        config.namespaces.push(Namespace { name: "ask".to_owned(), channels });
        change(config);
    })
    .await
}

/// The Unix time in so many seconds.
fn after(hub: &TestHub, seconds: i64) -> i64 {
    hub.clock.now().unix_seconds() + seconds
}

/// Connects ann, whom the backend allows for a time.
async fn connect(hub: &TestHub, backend: &Backend) -> Client {
    let result =
        json!({"user": "ann", "info": 1, "meta": {"m": 1}, "expire_at": after(hub, LIFETIME), "channels": ["news"]});
    backend.answer_json("/connect", json!({"result": result}));
    let mut client = hub.connect_without_token().await;
    let reply = client.request(json!({"id": 1, "connect": {}})).await;
    assert!(reply["connect"].get("expires").is_none(), "{reply}");
    client
}

/// Connects bob, and subscribes him where the backend allows it for a time.
async fn subscribe(hub: &TestHub, backend: &Backend) -> Client {
    let (mut client, _) = hub.connect_with_claims(json!({"sub": "bob", "exp": 36_000})).await;
    backend.answer_json("/subscribe", json!({"result": {"info": 1, "expire_at": after(hub, LIFETIME)}}));
    let reply = client.subscribe_with("ask:1", json!({})).await;
    assert_eq!(reply["subscribe"], json!({}), "it has nothing to refresh");
    client
}

/// Waits until the refresh hook has had so many answers with this outcome, and the session knows of them.
async fn wait_for_answers(hub: &TestHub, client: &mut Client, outcome: &str, count: f64) {
    wait_for_outcome(hub, "refresh", outcome, count).await;
    assert_eq!(client.request(json!({"id": 7, "ping": {}})).await, json!({"id": 7, "ping": {}}));
}

async fn wait_for_outcome(hub: &TestHub, hook: &str, outcome: &str, count: f64) {
    let name = format!("wardcast_hook_calls_total{{hook=\"{hook}\",outcome=\"{outcome}\"}}");
    poll_until("the answer of the backend", async || hub.metric(&name).await >= count).await;
}

async fn published(hub: &TestHub, channel: &str, client: &mut Client, number: u32) {
    hub.publish(channel, json!(number)).await;
    assert_eq!(client.receive_publication().await, json!(number));
}

fn failure() -> Answer {
    Answer::Raw(b"HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n".to_vec())
}

#[actix_rt::test]
async fn session_goes_on_while_the_backend_says_so() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut ann = connect(&hub, &backend).await;
    for number in 1..=3 {
        backend
            .answer_json("/refresh", json!({"result": {"expire_at": after(&hub, 460 + LIFETIME), "info": number + 1}}));
        hub.clock.advance(ASKED);
        backend.wait_for_calls("/refresh", number as usize).await;
        let call = backend.calls("/refresh").pop().unwrap().json();
        assert_eq!((&call["user"], &call["meta"]), (&json!("ann"), &json!({"m": 1})));
        wait_for_answers(&hub, &mut ann, "answered", f64::from(number)).await;
        published(&hub, "news", &mut ann, number).await;
    }
    // Without an end it is not asked about again.
    backend.answer_json("/refresh", json!({"result": {}}));
    hub.clock.advance(ASKED);
    wait_for_answers(&hub, &mut ann, "answered", 4.0).await;
    hub.clock.advance(Duration::from_secs(86_400));
    published(&hub, "news", &mut ann, 9).await;
    assert_eq!(backend.calls("/refresh").len(), 4);
}

/// A session handles nothing while its client waits for an `rpc`.
#[actix_rt::test]
async fn pending_command_holds_up_neither_question_nor_answer() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let (mut ann, mut bob) = (connect(&hub, &backend).await, subscribe(&hub, &backend).await);
    backend.answer("/rpc", Answer::Silence);
    for client in [&mut ann, &mut bob] {
        client.send(json!({"id": 5, "rpc": {"method": "slow"}})).await;
    }
    backend.wait_for_calls("/rpc", 2).await;
    for (number, asked, ended) in [(1, 460, 145), (2, 310, 150)] {
        for path in ["/refresh", "/sub_refresh"] {
            backend
                .answer_json(path, json!({"result": {"expire_at": after(&hub, asked + LIFETIME), "info": number + 1}}));
        }
        hub.clock.advance(Duration::from_secs(asked as u64));
        for hook in ["refresh", "sub_refresh"] {
            wait_for_outcome(&hub, hook, "answered", f64::from(number)).await;
        }
        // The second time the end about which the backend was asked has passed, and the answers have reached the hub.
        for pause in [ended, 0] {
            published(&hub, "news", &mut ann, number).await;
            published(&hub, "ask:1", &mut bob, number).await;
            hub.clock.advance(Duration::from_secs(pause));
        }
    }
    // Then the session knows its new end, and asks again before it.
    backend.answer_json("/rpc", json!({"result": {}}));
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.receive().await, json!({"id": 5, "rpc": {}}));
    }
    backend.answer_json("/subscribe", json!({"result": {}}));
    ann.subscribe("ask:2").await;
    let found = hub.call_api("presence", json!({"channel": "ask:2"})).await;
    let members: Vec<&Value> = found["result"]["presence"].as_object().unwrap().values().collect();
    assert_eq!(members[0]["conn_info"], 3);
    backend.answer_json("/refresh", json!({"result": {"expired": true}}));
    hub.clock.advance(Duration::from_secs(400));
    assert_eq!(ann.wait_for_close().await.0, Some(3005));
}

#[actix_rt::test]
async fn session_ends_at_once_when_the_backend_says_so() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    for (answer, code) in [
        (json!({"result": {"expired": true}}), 3005),
        (json!({"result": {"expire_at": 1}}), 3005),
        (json!({"disconnect": {"code": 4500, "reason": "banned"}}), 4500),
    ] {
        let mut ann = connect(&hub, &backend).await;
        backend.answer_json("/refresh", answer);
        hub.clock.advance(ASKED);
        assert_eq!(ann.wait_for_close().await.0, Some(code));
    }
}

#[actix_rt::test]
async fn backend_that_fails_is_asked_again_until_the_session_ends() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.refresh.timeout = Duration::from_millis(300)).await;
    for (number, outcome, answer) in [
        (1, "status", failure()),
        (2, "timeout", Answer::Silence),
        (3, "malformed", Answer::Json(json!({"result": 7}))),
    ] {
        let mut ann = connect(&hub, &backend).await;
        let before = backend.calls("/refresh").len();
        backend.answer("/refresh", answer);
        hub.clock.advance(ASKED);
        wait_for_answers(&hub, &mut ann, outcome, 1.0).await;
        assert_eq!(backend.calls("/refresh").len(), before + 1);
        // In the half of the time that is left.
        hub.clock.advance(Duration::from_secs(75));
        // The next answer must not be for this question.
        wait_for_outcome(&hub, "refresh", outcome, 2.0).await;
        assert_eq!(backend.calls("/refresh").len(), before + 2);
        published(&hub, "news", &mut ann, number).await;
        hub.clock.advance(Duration::from_secs(70));
        hub.publish("news", json!("too late")).await;
        assert_eq!(ann.next().await.map_err(|closed| closed.code), Err(Some(3005)));
    }
    // An error that is not temporary is a decision: it is not asked again, and the session has its time.
    let mut ann = connect(&hub, &backend).await;
    let before = backend.calls("/refresh").len();
    backend.answer_json("/refresh", json!({"error": {"code": 1003, "message": "no"}}));
    hub.clock.advance(ASKED);
    wait_for_answers(&hub, &mut ann, "refused", 1.0).await;
    hub.clock.advance(Duration::from_secs(120));
    published(&hub, "news", &mut ann, 4).await;
    hub.clock.advance(Duration::from_secs(25));
    assert_eq!(ann.wait_for_close().await.0, Some(3005));
    assert_eq!(backend.calls("/refresh").len(), before + 1);
}

#[actix_rt::test]
async fn answer_about_a_session_that_has_a_token_meanwhile_has_no_effect() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut ann = connect(&hub, &backend).await;
    backend.answer("/refresh", Answer::Silence);
    hub.clock.advance(ASKED);
    backend.wait_for_calls("/refresh", 1).await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 1000, "channels": ["news"]}));
    assert!(ann.request(json!({"id": 2, "refresh": {"token": token}})).await["refresh"].is_object());
    backend.answer_json("/refresh", json!({"result": {"expired": true}}));
    wait_for_answers(&hub, &mut ann, "answered", 1.0).await;
    hub.clock.advance(Duration::from_secs(900));
    published(&hub, "news", &mut ann, 1).await;
    hub.clock.advance(Duration::from_secs(101));
    assert_eq!(ann.wait_for_close().await.0, Some(3005));
}

/// A backend may end a session and the tokens that it issues for it at the same time.
#[actix_rt::test]
async fn answer_about_a_session_has_no_effect_after_a_token_that_ends_when_the_session_would() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let later = after(&hub, 10 * LIFETIME);
    for (calls, answer, outcome, count) in [
        (1, json!({"result": {"expired": true}}), "answered", 1.0),
        (2, json!({"disconnect": {"code": 4500, "reason": "banned"}}), "refused", 1.0),
        (3, json!({"result": {"expire_at": later}}), "answered", 2.0),
    ] {
        let mut ann = connect(&hub, &backend).await;
        let end = backend.last_json("/connect")["result"]["expire_at"].as_i64().unwrap();
        backend.answer("/refresh", Answer::Silence);
        hub.clock.advance(ASKED);
        backend.wait_for_calls("/refresh", calls).await;
        let token = hub.token_that_ends_at(json!({"sub": "ann", "channels": ["news"]}), end);
        assert!(ann.request(json!({"id": 2, "refresh": {"token": token}})).await["refresh"].is_object());
        backend.answer_json("/refresh", answer.clone());
        wait_for_answers(&hub, &mut ann, outcome, count).await;
        published(&hub, "news", &mut ann, 1).await;
        hub.clock.advance(Duration::from_secs(LIFETIME as u64 - 460 + 1));
        hub.publish("news", json!("too late")).await;
        assert_eq!(ann.next().await.map_err(|closed| closed.code), Err(Some(3005)), "{answer}");
    }
}

/// `connect` without a token keeps the claims of a plain session. The session handles it before it learns of the renewal.
#[actix_rt::test]
async fn command_that_keeps_the_claims_does_not_undo_a_renewal_that_came_before_it() {
    for is_first_end_over in [false, true] {
        let backend = Backend::start().await;
        let hub = start(&backend, |config| config.hooks.connect_in_handshake = true).await;
        let result = json!({"user": "ann", "expire_at": after(&hub, LIFETIME), "channels": ["news"]});
        backend.answer_json("/connect", json!({"result": result}));
        let mut ann = hub.connect_without_token().await;
        ann.receive_connect_push().await;
        backend.answer("/rpc", Answer::Silence);
        let commands = [json!({"id": 1, "rpc": {"method": "slow"}}), json!({"id": 2, "connect": {}})];
        ann.send_text(&commands.map(|command| command.to_string()).join("\n")).await;
        backend.wait_for_calls("/rpc", 1).await;
        let second_end = after(&hub, 460 + LIFETIME);
        backend.answer_json("/refresh", json!({"result": {"expire_at": second_end}}));
        hub.clock.advance(ASKED);
        wait_for_outcome(&hub, "refresh", "answered", 1.0).await;
        // The hub knows it when it delivers this.
        published(&hub, "news", &mut ann, 1).await;
        if is_first_end_over {
            hub.clock.advance(Duration::from_secs(145));
        }
        backend.answer_json("/rpc", json!({"result": {}}));
        assert_eq!(ann.receive().await, json!({"id": 1, "rpc": {}}));
        assert!(ann.receive().await["connect"].is_object());
        hub.clock.advance(Duration::from_secs(if is_first_end_over { 0 } else { 145 }));
        published(&hub, "news", &mut ann, 2).await;
        // It is asked about the second end, and its answer counts.
        backend.answer_json("/refresh", json!({"result": {"expire_at": second_end + LIFETIME}}));
        hub.clock.advance(Duration::from_secs(310));
        wait_for_answers(&hub, &mut ann, "answered", 2.0).await;
        assert_eq!(backend.calls("/refresh").len(), 2);
        hub.clock.advance(Duration::from_secs(150));
        published(&hub, "news", &mut ann, 3).await;
    }
}

#[actix_rt::test]
async fn question_about_a_session_that_has_ended_does_not_keep_its_socket() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    backend.answer_json("/connect", json!({"result": {"user": "ann", "expire_at": after(&hub, LIFETIME)}}));
    let stream = TcpStream::connect(hub.address).await.unwrap();
    let port = stream.local_addr().unwrap().port();
    let url = format!("ws://{}/socket", hub.address);
    let mut ann = Client::connect_over(Box::new(stream), &url, &[]).await.unwrap();
    assert!(ann.request(json!({"id": 1, "connect": {}})).await["connect"].is_object());
    backend.answer_json("/subscribe", json!({"result": {"expire_at": after(&hub, LIFETIME)}}));
    assert!(ann.subscribe_with("ask:1", json!({})).await["subscribe"].is_object());
    backend.answer("/refresh", Answer::Silence);
    backend.answer("/sub_refresh", Answer::Silence);
    hub.clock.advance(ASKED);
    backend.wait_for_calls("/refresh", 1).await;
    backend.wait_for_calls("/sub_refresh", 1).await;
    let socket = socket_of_hub(hub.address.port(), port);
    assert!(has_descriptor_of(&socket));
    drop(ann);
    hub.wait_for_connections(0).await;
    poll_until("the hub closes the socket", async || !has_descriptor_of(&socket)).await;
    let answered = hub.metric("wardcast_hook_calls_total{hook=\"refresh\",outcome=\"answered\"}").await;
    assert_eq!((answered, backend.calls("/refresh").len()), (0.0, 1), "the question is still open");
}

/// Returns the name of the hub's socket of this connection, as links to descriptors have it.
fn socket_of_hub(server: u16, client: u16) -> String {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let port = |address: &str| u16::from_str_radix(&address[address.len() - 4..], 16).unwrap();
        ((port(fields[1]), port(fields[2])) == (server, client)).then(|| fields[9].to_owned())
    });
    format!("socket:[{}]", inode.expect("a connection"))
}

/// Returns whether this process, which runs the hub, has a descriptor of a socket.
fn has_descriptor_of(socket: &str) -> bool {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok());
    targets.any(|target| target.as_os_str() == socket)
}

#[actix_rt::test]
async fn subscription_goes_on_while_the_backend_says_so() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut bob = subscribe(&hub, &backend).await;
    let info = async || {
        let found = hub.call_api("presence", json!({"channel": "ask:1"})).await;
        let members: Vec<Value> = found["result"]["presence"].as_object().unwrap().values().cloned().collect();
        members.first().map(|member| member["chan_info"].clone())
    };
    for number in 1..=3 {
        backend.answer_json(
            "/sub_refresh",
            json!({"result": {"expire_at": after(&hub, 460 + LIFETIME), "info": number + 1}}),
        );
        hub.clock.advance(ASKED);
        backend.wait_for_calls("/sub_refresh", number as usize).await;
        let call = backend.calls("/sub_refresh").pop().unwrap().json();
        assert_eq!((&call["user"], &call["channel"]), (&json!("bob"), &json!("ask:1")));
        poll_until("the subscription is extended", async || info().await == Some(json!(number + 1))).await;
        published(&hub, "ask:1", &mut bob, number).await;
    }
}

#[actix_rt::test]
async fn subscription_ends_when_the_backend_says_so_or_does_not_answer_in_time() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    for answer in [json!({"result": {"expired": true}}), json!({"result": {"expire_at": 1}})] {
        let mut bob = subscribe(&hub, &backend).await;
        backend.answer_json("/sub_refresh", answer);
        hub.clock.advance(ASKED);
        assert_eq!(bob.receive().await["push"]["unsubscribe"]["code"], 2501);
    }
    let mut bob = subscribe(&hub, &backend).await;
    let before = backend.calls("/sub_refresh").len();
    backend.answer("/sub_refresh", failure());
    hub.clock.advance(ASKED);
    wait_for_outcome(&hub, "sub_refresh", "status", 1.0).await;
    // The answer has reached the hub before this publication does.
    published(&hub, "ask:1", &mut bob, 1).await;
    hub.clock.advance(Duration::from_secs(75));
    backend.wait_for_calls("/sub_refresh", before + 2).await;
    hub.clock.advance(Duration::from_secs(70));
    hub.publish("ask:1", json!("too late")).await;
    assert_eq!(bob.receive().await["push"]["unsubscribe"]["code"], 2501);
    let mut bob = subscribe(&hub, &backend).await;
    backend.answer_json("/sub_refresh", json!({"disconnect": {"code": 4500, "reason": "banned"}}));
    hub.clock.advance(ASKED);
    assert_eq!(bob.wait_for_close().await, (Some(4500), "banned".to_owned()));
}

#[actix_rt::test]
async fn answer_about_a_subscription_that_has_ended_has_no_effect_on_the_next_one() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let mut bob = subscribe(&hub, &backend).await;
    backend.answer("/sub_refresh", Answer::Silence);
    hub.clock.advance(ASKED);
    backend.wait_for_calls("/sub_refresh", 1).await;
    bob.request(json!({"id": 2, "unsubscribe": {"channel": "ask:1"}})).await;
    backend.answer_json("/subscribe", json!({"result": {}}));
    assert_eq!(bob.subscribe_with("ask:1", json!({})).await["subscribe"], json!({}));
    backend.answer_json("/sub_refresh", json!({"result": {"expired": true}}));
    wait_for_outcome(&hub, "sub_refresh", "answered", 1.0).await;
    published(&hub, "ask:1", &mut bob, 1).await;
    hub.clock.advance(Duration::from_secs(86_400 / 10));
    published(&hub, "ask:1", &mut bob, 2).await;
}
