//! The connect hook: the backend says who a client without a token is, over every transport.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::{
    config::{AllowSubscribe, AnonymousAccess, ChannelAccess, Config, Door, Namespace},
    protocol::schema::{Command, ConnectRequest, RpcRequest},
};

use crate::support::{
    Client, TestHub,
    backend::{Answer, Backend},
    http,
    protobuf::ProtobufClient,
    start_hub_with,
    stream::{self, StreamClient},
};

/// A hub whose connect and rpc hooks ask `/connect` and `/rpc`, and which is closed without them.
async fn start(backend: &Backend, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        backend.configure_connect(config);
        backend.configure(&mut config.hooks.rpc, "/rpc");
        config.hooks.rpc.headers = config.hooks.connect.headers.clone();
        config.channels.allow_subscribe = AllowSubscribe::None;
        config.channels.allow_publish = ChannelAccess::None;
        change(config);
    })
    .await
}

/// The headers of a page of the hub's own origin that has a session of the backend.
fn page(hub: &TestHub) -> [(&'static str, String); 2] {
    [("Origin", format!("http://{}", hub.address)), ("Cookie", "session=abc".to_owned())]
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn connect_from_page(hub: &TestHub) -> Client {
    Client::connect_with(hub.address, "/connection/websocket", &borrowed(&page(hub))).await.unwrap()
}

fn connect() -> Value {
    json!({"id": 1, "connect": {"name": "js", "version": "5", "data": {"d": 1}}})
}

#[actix_rt::test]
async fn cookie_of_the_backend_is_the_credential_of_an_sdk_session() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    let result = json!({"user": "ann", "info": {"name": "Ann"}, "data": {"welcome": true}, "meta": {"shard": 7},
        "channels": ["news"], "subs": {"#ann": {"data": 1}},
        "caps": [{"channels": ["chat"], "allow": ["sub", "pub"]}]});
    backend.answer_json("/connect", json!({"result": result}));
    let mut ann = connect_from_page(&hub).await;
    let reply = ann.request(connect()).await;
    let connected = &reply["connect"];
    assert_eq!(connected["data"], json!({"welcome": true}), "{reply}");
    assert_eq!(connected["subs"], json!({"#ann": {"data": 1}, "news": {}}));
    assert!(connected["pong"] == true && connected.get("expires").is_none(), "{reply}");
    let call = backend.calls("/connect").remove(0);
    let client = &connected["client"];
    let expected = format!(
        r#"{{"client":{client},"transport":"websocket","protocol":"json","encoding":"json","name":"js","version":"5","data":{{"d":1}}}}"#
    );
    assert_eq!((call.body.as_str(), call.headers("cookie")), (expected.as_str(), vec!["session=abc"]));
    ann.subscribe("chat").await;
    ann.send(json!({"id": 2, "publish": {"channel": "chat", "data": "hello"}})).await;
    let received = [ann.receive().await, ann.receive().await];
    let publication = received.iter().find_map(|message| message["push"].get("pub")).expect("a publication");
    assert_eq!(
        (&publication["info"]["user"], &publication["info"]["conn_info"]),
        (&json!("ann"), &json!({"name": "Ann"}))
    );
    assert_eq!(ann.subscribe_with("other", json!({})).await["error"]["code"], 103);
    backend.answer_json("/rpc", json!({"result": {}}));
    ann.request(json!({"id": 3, "rpc": {"method": "m"}})).await;
    let call = backend.calls("/rpc").remove(0);
    assert_eq!((&call.json()["user"], &call.json()["meta"]), (&json!("ann"), &json!({"shard": 7})));
    assert_eq!(call.headers("cookie"), ["session=abc"]);
    assert_eq!(backend.calls("/connect").len(), 1);
}

#[actix_rt::test]
async fn cookies_of_the_hub_itself_are_not_forwarded_to_the_backend() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.auth.cookie = "__Host-token".to_owned();
        config.hooks.connect.headers.push("x-other".to_owned());
    })
    .await;
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    let origin = format!("http://{}", hub.address);
    let admin = "wardcast_admin_x=secret";
    let (over_tls, below_prefix) = (format!("__Host-{admin}"), format!("__Secure-{admin}"));
    let refresh = "__Host-token_refresh=secret";
    let cases = [
        (format!("session=abc; {admin}; other=\"x\"; {over_tls}; {below_prefix}"), vec!["session=abc; other=\"x\""]),
        (format!("{refresh};{admin};session=abc; x_wardcast_admin=1"), vec!["session=abc; x_wardcast_admin=1"]),
        (format!(" {refresh} ; ; wardcast_admin = secret"), vec![]),
        ("a=1;b=wardcast_admin=2;  c".to_owned(), vec!["a=1;b=wardcast_admin=2;  c"]),
    ];
    for (number, (sent, expected)) in cases.iter().enumerate() {
        let headers = [("Origin", origin.as_str()), ("Cookie", sent), ("X-Other", "wardcast_admin=1")];
        let mut ann = Client::connect_with(hub.address, "/connection/websocket", &headers).await.unwrap();
        ann.request(connect()).await;
        let calls = backend.calls("/connect");
        let call = &calls[number];
        assert_eq!((&call.headers("cookie"), call.headers("x-other")), (expected, vec!["wardcast_admin=1"]), "{sent}");
    }
}

#[actix_rt::test]
async fn protobuf_client_connects_and_calls_rpc_through_the_backend() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    backend.answer_json("/connect", json!({"result": {"user": "ann", "data": [1]}}));
    let headers = page(&hub);
    let path = "/connection/websocket?format=protobuf";
    let mut ann = ProtobufClient::connect(hub.address, path, &borrowed(&headers)).await.unwrap();
    let request = ConnectRequest { data: b"{\"d\": 1}"[..].into(), name: "go".to_owned(), ..Default::default() };
    let reply = ann.request(Command { id: 1, connect: Some(request), ..Default::default() }).await;
    assert_eq!(&reply.connect.expect("a connect result").data[..], b"[1]");
    let call = backend.calls("/connect").remove(0).json();
    assert_eq!((&call["protocol"], &call["name"], &call["data"]), (&json!("protobuf"), &json!("go"), &json!({"d": 1})));
    backend.answer_json("/rpc", json!({"result": {"data": {"price": 1.5}}}));
    let rpc = |data: &'static [u8]| RpcRequest { method: "price".to_owned(), data: data.into() };
    let reply = ann.request(Command { id: 2, rpc: Some(rpc(b"[7]")), ..Default::default() }).await;
    assert_eq!((reply.id, &reply.rpc.expect("an rpc result").data[..]), (2, &b"{\"price\":1.5}"[..]));
    let call = backend.calls("/rpc").remove(0).json();
    assert_eq!((&call["method"], &call["data"], &call["protocol"]), (&json!("price"), &json!([7]), &json!("protobuf")));
    backend.answer_json("/rpc", json!({"error": {"code": 1000, "message": "no", "temporary": true}}));
    let reply = ann.request(Command { id: 3, rpc: Some(rpc(b"")), ..Default::default() }).await;
    let error = reply.error.expect("an error");
    assert_eq!((error.code, error.message.as_str(), error.temporary), (1000, "no", true));
    backend.answer_json("/rpc", json!({"disconnect": {"code": 4500, "reason": "gone"}}));
    ann.send(Command { id: 4, rpc: Some(rpc(b"1")), ..Default::default() }).await;
    assert_eq!(ann.wait_for_close().await, (Some(4500), "gone".to_owned()));
}

#[actix_rt::test]
async fn streams_connect_through_the_backend() {
    let backend = Backend::start().await;
    let hub = start(&backend, |_| ()).await;
    backend.answer_json("/connect", json!({"result": {"user": "ann", "channels": ["news"]}}));
    let headers = page(&hub);
    let sse = format!("/connection/sse?{}", stream::first_commands(&connect()));
    let mut events = StreamClient::events(hub.address, &sse, &borrowed(&headers)).await;
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let post = String::from_utf8(stream::post(
        hub.address,
        "/connection/http_stream",
        "application/json",
        connect().to_string().as_bytes(),
    ));
    let post = post.unwrap().replacen("\r\n", &format!("\r\n{lines}"), 1);
    let mut lines = StreamClient::open(hub.address, post.as_bytes(), b"\n").await;
    for client in [&mut events, &mut lines] {
        let connected = client.receive().await;
        assert_eq!(connected["connect"]["subs"], json!({"news": {}}), "{connected}");
        stream::subscribe(hub.address, client, &connected["connect"], "#ann").await;
    }
    hub.publish("#ann", json!("hello")).await;
    assert_eq!(
        (events.receive_publication().await, lines.receive_publication().await),
        (json!("hello"), json!("hello"))
    );
    let calls = backend.calls("/connect");
    // Both were under way at the same time.
    let mut transports: Vec<String> =
        calls.iter().map(|call| call.json()["transport"].as_str().unwrap().to_owned()).collect();
    transports.sort();
    assert_eq!(transports, ["http_stream", "sse"]);
    assert!(calls.iter().all(|call| call.headers("cookie") == ["session=abc"]));
    backend.answer_json("/connect", json!({"disconnect": {"code": 4501, "reason": "go away"}}));
    let mut refused = StreamClient::events(hub.address, &sse, &borrowed(&headers)).await;
    assert_eq!(refused.wait_for_close().await, (4501, "go away".to_owned()));
}

#[actix_rt::test]
async fn plain_client_is_asked_about_in_the_handshake_if_so_configured() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.hooks.connect_in_handshake = true).await;
    backend.answer_json("/connect", json!({"result": {"user": "ann", "data": 7, "channels": ["news"]}}));
    let headers = page(&hub);
    let headers = borrowed(&headers);
    let mut ann = Client::connect_with(hub.address, "/socket", &headers).await.unwrap();
    let greeting = ann.receive_connect_push().await;
    assert_eq!((&greeting["data"], &greeting["subs"]), (&json!(7), &json!({"news": {}})));
    assert_eq!(backend.calls("/connect")[0].json()["client"], greeting["client"]);
    hub.publish("news", json!("hello")).await;
    assert_eq!(ann.receive_publication().await, json!("hello"));
    assert!(ann.request(connect()).await["connect"].is_object(), "an SDK takes the session over");
    assert_eq!(backend.calls("/connect").len(), 1);
    let refused = "wardcast_handshakes_refused_total{reason=\"hook\"}";
    for (answer, status, code) in [
        (json!({"error": {"code": 1003, "message": "log in"}}), 403, 1003),
        (json!({"error": {"code": 1004, "message": "later", "temporary": true}}), 503, 1004),
        (json!({"result": {}}), 503, 100),
        (json!({}), 503, 100),
    ] {
        let before = hub.metric(refused).await;
        backend.answer_json("/connect", answer.clone());
        let response = hub.try_handshake("/socket", &headers).await;
        assert_eq!((response.status, &response.json()["error"]["code"]), (status, &json!(code)), "{answer}");
        assert_eq!(response.header("retry-after").is_some(), status == 503, "{answer}");
        assert_eq!(hub.metric(refused).await, before + 1.0);
    }
    backend.answer_json("/connect", json!({"disconnect": {"code": 4500, "reason": "banned"}}));
    let mut banned = Client::connect_with(hub.address, "/socket", &headers).await.unwrap();
    assert_eq!(banned.wait_for_close().await, (Some(4500), "banned".to_owned()));
    drop(ann);
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn events_of_a_channel_ask_connect_and_subscribe_hook() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        backend.configure(&mut config.hooks.subscribe, "/subscribe");
        let mut channels = config.channels.clone();
        (channels.subscribe_hook, channels.history_size) = (true, 10);
        config.namespaces.push(Namespace { name: "ask".to_owned(), channels });
    })
    .await;
    let headers = page(&hub);
    let headers = borrowed(&headers);
    let path = "/v1/channels/ask:1/events";
    let open = async || http::exchange(hub.address, stream::get(hub.address, path, &headers).as_bytes()).await;
    backend.answer_json("/connect", json!({"error": {"code": 1003, "message": "log in"}}));
    assert_eq!((open().await.status, backend.calls("/subscribe").len()), (403, 0));
    backend.answer_json("/connect", json!({"result": {"user": "ann", "meta": 5}}));
    backend.answer_json("/subscribe", json!({"error": {"code": 103, "message": "permission denied"}}));
    assert_eq!(open().await.status, 403);
    let call = backend.calls("/subscribe").remove(0).json();
    assert_eq!((&call["channel"], &call["user"], &call["meta"]), (&json!("ask:1"), &json!("ann"), &json!(5)));
    assert_eq!(call["transport"], "sse");
    backend.answer("/subscribe", Answer::Raw(b"HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n".to_vec()));
    let failed = open().await;
    assert!(failed.status == 200 && failed.body.contains("\nretry: "), "it reconnects by itself: {failed:?}");
    backend.answer_json("/subscribe", json!({"disconnect": {"code": 4500, "reason": "banned"}}));
    assert_eq!(open().await.status, 403);
    let expire_at = hub.clock.now().unix_seconds() + 60;
    backend.answer_json("/subscribe", json!({"result": {"data": {"d": 1}, "expire_at": expire_at}}));
    let mut events = StreamClient::events(hub.address, path, &headers).await;
    let subscribed = events.event().await;
    assert_eq!((subscribed.name.as_str(), &subscribed.json()["data"]), ("subscribe", &json!({"d": 1})));
    hub.publish("ask:1", json!("hello")).await;
    assert_eq!(events.event().await.json()["data"], "hello");
    hub.clock.advance(Duration::from_secs(61));
    hub.publish("ask:1", json!("too late")).await;
    let closed = events.event().await;
    assert_eq!((closed.name.as_str(), &closed.json()["code"]), ("disconnect", &json!(3006)), "{closed:?}");
    assert_eq!(events.next_event().await, None);
}

#[actix_rt::test]
async fn credentials_that_a_browser_sends_by_itself_reach_hooks_from_listed_origins_only() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.origins.allowed = vec!["*".to_owned(), "https://app.example.com".to_owned()];
        config.auth.doors.retain(|door| *door != Door::Header);
    })
    .await;
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    backend.answer_json("/rpc", json!({"result": {}}));
    let own = format!("http://{}", hub.address);
    let rows = [
        (Some(own.as_str()), None, true, true),
        (Some("https://app.example.com"), None, true, true),
        (Some("https://evil.example.com"), None, false, false),
        (Some("null"), None, false, false),
        (None, None, false, true),
        (None, Some("cross-site"), false, false),
    ];
    let token = hub.path_for("ann");
    for (number, (origin, site, has_cookie, has_authorization)) in rows.into_iter().enumerate() {
        let mut headers = vec![("Cookie", "session=abc"), ("Authorization", "Basic YTpi")];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        headers.extend(site.map(|site| ("Sec-Fetch-Site", site)));
        // With a token, too: the backend may believe the cookie rather than the user.
        hub.connect_to(&token, &headers).await.request(json!({"id": 1, "rpc": {}})).await;
        let mut client = Client::connect_with(hub.address, "/socket", &headers).await.unwrap();
        assert!(client.request(connect()).await["connect"].is_object());
        for call in [backend.calls("/rpc").remove(number), backend.calls("/connect").remove(number)] {
            let forwarded = (!call.headers("cookie").is_empty(), !call.headers("authorization").is_empty());
            assert_eq!(forwarded, (has_cookie, has_authorization), "{origin:?} {site:?}");
        }
    }
}

#[actix_rt::test]
async fn page_that_is_not_allowed_never_reaches_the_backend() {
    let backend = Backend::start().await;
    for in_handshake in [false, true] {
        let hub = start(&backend, |config| config.hooks.connect_in_handshake = in_handshake).await;
        let evil = [("Origin", "https://evil.example.com"), ("Cookie", "session=abc")];
        for path in ["/socket", "/connection/websocket"] {
            assert_eq!(hub.try_handshake(path, &evil).await.status, 403);
        }
        for path in [&*format!("/connection/sse?{}", stream::first_commands(&connect())), "/v1/channels/news/events"] {
            let response = http::exchange(hub.address, stream::get(hub.address, path, &evil).as_bytes()).await;
            assert_eq!(response.status, 403, "{path}");
        }
    }
    assert!(backend.calls("/connect").is_empty());
}

#[actix_rt::test]
async fn token_counts_before_the_hook_and_a_refused_one_is_not_asked_about() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.auth.anonymous = AnonymousAccess::Always).await;
    backend.answer_json("/connect", json!({"result": {"user": "bob"}}));
    let mut ann = hub.connect_sdk(&hub.token("ann")).await;
    assert_eq!(ann.subscribe_with("#ann", json!({})).await["subscribe"], json!({}));
    let mut forger = hub.connect_without_token().await;
    forger.send(json!({"id": 1, "connect": {"token": hub.forged_token("ann")}})).await;
    assert_eq!(forger.wait_for_close().await.0, Some(3500));
    let mut late = hub.connect_without_token().await;
    assert_eq!(
        late.request(json!({"id": 1, "connect": {"token": hub.expired_token("ann")}})).await["error"]["code"],
        109
    );
    assert!(backend.calls("/connect").is_empty());
    // The hook decides before auth.anonymous does.
    let mut bob = hub.connect_without_token().await;
    assert!(bob.request(connect()).await["connect"].is_object());
    assert_eq!(bob.subscribe_with("#bob", json!({})).await["subscribe"], json!({}));
    backend.answer_json("/connect", json!({"result": {"user": ""}}));
    let mut nobody = hub.connect_without_token().await;
    assert!(nobody.request(connect()).await["connect"].is_object());
    // A session of the hook can become one of a token of the same user.
    let refreshed = bob.request(json!({"id": 5, "refresh": {"token": hub.token("bob")}})).await;
    assert_eq!(refreshed["refresh"]["expires"], true, "{refreshed}");
    bob.send(json!({"id": 6, "refresh": {"token": hub.token("ann")}})).await;
    assert_eq!(bob.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn token_sent_in_a_disabled_way_counts_as_none() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| {
        config.auth.doors = vec![Door::Header];
        config.hooks.connect_in_handshake = true;
    })
    .await;
    backend.answer_json("/connect", json!({"result": {"user": "bob"}}));
    let is_bob = async |client: &mut Client| client.subscribe_with("#bob", json!({})).await["subscribe"] == json!({});
    for token in [hub.token("ann"), hub.forged_token("ann")] {
        let mut by_query = Client::connect_with(hub.address, &format!("/socket?token={token}"), &[]).await.unwrap();
        by_query.receive_connect_push().await;
        assert!(is_bob(&mut by_query).await);
    }
    assert_eq!(backend.calls("/connect").len(), 2);
    let hub = start(&backend, |config| config.auth.doors = vec![Door::Header]).await;
    for token in [hub.token("ann"), hub.forged_token("ann")] {
        let mut by_command = hub.connect_without_token().await;
        let connected = by_command.request(json!({"id": 1, "connect": {"token": token}})).await;
        assert!(connected["connect"].is_object(), "{connected}");
        assert!(is_bob(&mut by_command).await);
    }
    assert_eq!(backend.calls("/connect").len(), 4);
}

#[actix_rt::test]
async fn session_ends_with_its_expiry_its_user_limit_and_a_revocation() {
    let backend = Backend::start().await;
    let hub = start(&backend, |config| config.limits.connections_per_user = 1).await;
    let expire_at = hub.clock.now().unix_seconds() + 60;
    backend.answer_json("/connect", json!({"result": {"user": "ann", "expire_at": expire_at, "channels": ["news"]}}));
    let mut ann = connect_from_page(&hub).await;
    assert!(ann.request(connect()).await["connect"].get("expires").is_none(), "it has nothing to refresh");
    let mut second = connect_from_page(&hub).await;
    second.send(connect()).await;
    assert_eq!(second.wait_for_close().await.0, Some(3504));
    hub.clock.advance(Duration::from_secs(61));
    hub.publish("news", json!("too late")).await;
    assert_eq!(ann.next().await.map_err(|closed| closed.code), Err(Some(3005)));
    hub.wait_for_connections(0).await;
    // The backend still names the old end.
    let mut expired = connect_from_page(&hub).await;
    expired.send(connect()).await;
    assert_eq!(expired.wait_for_close().await.0, Some(3005));
    backend.answer_json("/connect", json!({"result": {"user": "ann"}}));
    hub.wait_for_connections(0).await;
    let mut ann = connect_from_page(&hub).await;
    assert!(ann.request(connect()).await["connect"].is_object());
    hub.call_api("invalidate_user_tokens", json!({"user": "ann"})).await;
    assert_eq!(ann.wait_for_close().await.0, Some(3500));
    hub.wait_for_connections(0).await;
    // What the backend allows later is another session, in the same second, too.
    let mut ann = connect_from_page(&hub).await;
    assert!(ann.request(connect()).await["connect"].is_object());
}
