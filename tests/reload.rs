//! A configuration that is loaded again while the hub runs: what changes for sessions that exist and for those that come.

use std::time::Duration;

use serde_json::json;
use wardcast::config::{
    AllowSubscribe, ChannelAccess, Config, DataFormat, Environment, EventType, HookEndpoint, Namespace, Secret,
};

use crate::support::{
    API_KEY, Client, TestHub, allow_any_rate,
    backend::{Answer, Backend, Call},
    deny_by_default, http, mark_secret, poll_until,
    protobuf::ProtobufClient,
    raw, start_hub_with,
    stream::StreamClient,
    trust_loopback_proxy,
};

/// A namespace in which users may subscribe and publish.
fn namespace(name: &str) -> Namespace {
    let mut channels = Config::default().channels;
    (channels.allow_subscribe, channels.allow_publish) = (AllowSubscribe::User, ChannelAccess::User);
    Namespace { name: name.to_owned(), channels }
}

fn reload(hub: &TestHub, change: impl FnOnce(&mut Config)) {
    let mut config = hub.config.clone();
    change(&mut config);
    hub.running().reload_config(&config).unwrap();
}

async fn start_hub_of(namespaces: &[&str]) -> TestHub {
    start_hub_with(|config| {
        deny_by_default(config);
        config.namespaces = namespaces.iter().map(|name| namespace(name)).collect();
    })
    .await
}

async fn expect_unsubscribe(client: &mut Client, channel: &str) {
    let push = client.receive().await;
    let shown = (&push["push"]["channel"], &push["push"]["unsubscribe"]["code"]);
    assert_eq!(shown, (&json!(channel), &json!(2000)), "{push}");
}

async fn error_code(client: &mut Client, command: serde_json::Value) -> u64 {
    let reply = client.request(command).await;
    reply["error"]["code"].as_u64().unwrap_or_default()
}

#[actix_rt::test]
async fn namespace_that_disappears_ends_subscriptions_of_every_kind_with_2000_and_its_channels_are_unknown() {
    let hub = start_hub_of(&["chat", "game"]).await;
    let (mut client, _) =
        hub.connect_with_claims(json!({"sub": "ann", "exp": 3600, "subs": {"chat:token": {}, "game:token": {}}})).await;
    client.subscribe("chat:1").await;
    client.subscribe("game:1").await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "channel": "chat:secret"}));
    client.subscribe_with("chat:secret", json!({"token": token})).await;
    hub.call_api("subscribe", json!({"user": "ann", "channel": "chat:api"})).await;
    assert!(client.receive().await["push"]["subscribe"].is_object());

    reload(&hub, |config| config.namespaces = vec![namespace("game")]);
    let mut ended = Vec::new();
    for _ in 0..4 {
        let push = client.receive().await;
        assert_eq!(push["push"]["unsubscribe"]["code"], 2000, "{push}");
        ended.push(push["push"]["channel"].as_str().unwrap().to_owned());
    }
    ended.sort_unstable();
    assert_eq!(ended, ["chat:1", "chat:api", "chat:secret", "chat:token"]);
    hub.wait_for_channels(&[("game:1", 1), ("game:token", 1)]).await;
    assert_eq!(error_code(&mut client, json!({"id": 7, "subscribe": {"channel": "chat:1"}})).await, 102);
    assert_eq!(error_code(&mut client, json!({"id": 8, "publish": {"channel": "chat:1", "data": 1}})).await, 102);
    let refused = hub.call_api("publish", json!({"channel": "chat:1", "data": 1})).await;
    assert_eq!(refused["error"]["code"], 102, "{refused}");
    hub.publish("game:1", json!("still here")).await;
    assert_eq!(client.receive_publication().await, json!("still here"));
}

#[actix_rt::test]
async fn new_namespace_and_new_permissions_apply_to_the_next_command_of_an_open_session() {
    let hub = start_hub_of(&["chat"]).await;
    let mut client = hub.connect("ann").await;
    client.subscribe("chat:1").await;
    assert_eq!(error_code(&mut client, json!({"id": 7, "subscribe": {"channel": "news:1"}})).await, 102);
    reload(&hub, |config| {
        config.namespaces.push(namespace("news"));
        config.namespaces[0].channels.allow_publish = ChannelAccess::None;
    });
    client.subscribe("news:1").await;
    assert_eq!(error_code(&mut client, json!({"id": 8, "publish": {"channel": "chat:1", "data": 1}})).await, 103);
    // Subscribing is allowed as before, so the subscription stays.
    hub.publish("chat:1", json!("still here")).await;
    assert_eq!(client.receive_publication().await, json!("still here"));
    reload(&hub, |config| {
        config.namespaces.push(namespace("news"));
        config.namespaces[0].channels.allow_subscribe = AllowSubscribe::None;
    });
    expect_unsubscribe(&mut client, "chat:1").await;
    client.publish("news:1", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn channel_that_becomes_binary_ends_the_subscriptions_of_json_clients_only() {
    let hub = start_hub_of(&["doc"]).await;
    let mut json_client = hub.connect("ann").await;
    let path = hub.path_for("bob").replace('?', "?format=protobuf&");
    let mut binary = ProtobufClient::connect(hub.address, &path, &[]).await.unwrap();
    json_client.subscribe("doc:1").await;
    binary.receive().await.push.and_then(|push| push.connect).expect("a connect push");
    binary.subscribe("doc:1").await;
    reload(&hub, |config| config.namespaces[0].channels.data_format = DataFormat::Binary);
    expect_unsubscribe(&mut json_client, "doc:1").await;
    assert_eq!(error_code(&mut json_client, json!({"id": 7, "subscribe": {"channel": "doc:1"}})).await, 108);
    hub.wait_for_channels(&[("doc:1", 1)]).await;
}

#[actix_rt::test]
async fn event_stream_whose_hook_answers_after_the_end_of_its_namespace_gets_no_subscription() {
    let backend = Backend::start().await;
    let hub = start_hub_with(|config| {
        deny_by_default(config);
        backend.configure(&mut config.hooks.subscribe, "/subscribe");
        let mut game = namespace("game");
        (game.channels.subscribe_hook, game.channels.allow_subscribe) = (true, AllowSubscribe::None);
        config.namespaces = vec![game];
    })
    .await;
    let path = format!("/v1/channels/game:1/events?token={}", hub.token_for("ann", Duration::from_secs(60)));
    backend.answer("/subscribe", Answer::Silence);
    let address = hub.address;
    let opening = actix_rt::spawn(async move { StreamClient::events(address, &path, &[]).await });
    backend.wait_for_calls("/subscribe", 1).await;
    reload(&hub, |config| config.namespaces.clear());
    backend.answer_json("/subscribe", json!({"result": {}}));
    let event = opening.await.unwrap().event().await;
    assert_eq!((event.name.as_str(), &event.json()["code"]), ("disconnect", &json!(3503)));
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn origins_apply_to_the_next_handshake_and_do_not_close_sessions() {
    const PAGE: &str = "https://app.example.com";
    let hub = start_hub_with(|config| config.origins.allowed = vec![PAGE.to_owned()]).await;
    let handshake = async || hub.try_handshake(&hub.path_for("ann"), &[("Origin", PAGE)]).await.status;
    let mut client = hub.connect_to(&hub.path_for("ann"), &[("Origin", PAGE)]).await;
    reload(&hub, |config| config.origins.allowed.clear());
    assert_eq!(handshake().await, 403);
    client.subscribe("news").await;
    reload(&hub, |_| ());
    assert_eq!(handshake().await, 101);
}

#[actix_rt::test]
async fn limits_apply_to_the_next_use() {
    let hub = start_hub_with(|config| {
        trust_loopback_proxy(config);
        config.limits.channels_per_session = 3;
        // Sessions that begin while users have no limit are not counted.
        config.limits.connections_per_user = 100;
    })
    .await;
    let mut client = hub.connect("ann").await;
    for channel in ["a", "b", "c"] {
        client.subscribe(channel).await;
    }
    assert_eq!(error_code(&mut client, json!({"id": 7, "subscribe": {"channel": "d"}})).await, 106);
    reload(&hub, |config| {
        config.limits.channels_per_session = 4;
        config.limits.publication_bytes = 4;
        config.limits.connections_per_address = 1;
        config.limits.connections = 2;
        config.limits.publications_per_second = 1;
    });
    client.subscribe("d").await;
    let publish = |id: u32, data: &str| json!({"id": id, "publish": {"channel": "a", "data": data}});
    assert_eq!(error_code(&mut client, publish(8, "longer")).await, 106);
    let claims = json!({"sub": "bob", "exp": 3600, "channels": ["1", "2", "3", "4", "5"]});
    let path = format!("/socket?token={}", hub.token_with_claims(claims));
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401, "the limit of a token is the new one, too");
    let status =
        async |address: &str| hub.try_handshake(&hub.path_for("bob"), &[("X-Forwarded-For", address)]).await.status;
    let _second = hub.connect_to(&hub.path_for("bob"), &[("X-Forwarded-For", "192.0.2.1")]).await;
    assert_eq!(status("192.0.2.1").await, 429, "connections_per_address");
    assert_eq!(status("192.0.2.2").await, 503, "connections");
    reload(&hub, |config| config.limits.connections_per_user = 1);
    assert_eq!(status("192.0.2.3").await, 429, "connections_per_user");
    reload(&hub, |config| config.limits.handshakes_per_second = 1);
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(status("192.0.2.3").await);
    }
    assert!(statuses.starts_with(&[101, 101]) && statuses.contains(&429), "a burst of two: {statuses:?}");
}

#[actix_rt::test]
async fn pace_of_delivery_applies_to_channels_that_get_their_first_subscriber_then() {
    let hub = start_hub_with(allow_any_rate).await;
    // Sessions of all workers: what begins after the reload would have the new configuration in any case.
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(hub.connect("ann").await);
    }
    reload(&hub, |config| {
        config.channels.delivery_interval = Duration::from_secs(1);
        config.channels.conflate = true;
    });
    for client in &mut clients {
        client.subscribe("news").await;
    }
    for number in 1..=3 {
        hub.publish("news", json!(number)).await;
    }
    for client in &mut clients {
        assert_eq!(client.receive_publication().await, json!(1));
        assert_eq!(client.receive_publication().await, json!(3));
    }
}

/// Otherwise the publication that is sent at once would overtake those that wait.
#[actix_rt::test]
async fn later_subscriber_does_not_change_the_pace_of_a_channel_with_subscribers() {
    for history_size in [0, 10] {
        let hub = start_hub_with(|config| {
            allow_any_rate(config);
            config.server.workers = 1;
            config.channels.delivery_interval = Duration::from_secs(1);
            config.channels.history_size = history_size;
        })
        .await;
        let (mut ann, mut bob) = (hub.connect("ann").await, hub.connect("bob").await);
        ann.subscribe("news").await;
        hub.publish("news", json!(1)).await;
        hub.publish("news", json!(2)).await;
        reload(&hub, |config| config.channels.delivery_interval = Duration::ZERO);
        bob.subscribe("news").await;
        hub.publish("news", json!(3)).await;
        for number in 1..=3 {
            assert_eq!(ann.receive_publication().await, json!(number), "history_size {history_size}");
        }
        // Without subscribers the channel loses its pace.
        drop((ann, bob));
        hub.wait_for_channels(&[]).await;
        let mut ann = hub.connect("ann").await;
        ann.subscribe("news").await;
        for number in 4..=5 {
            hub.publish("news", json!(number)).await;
            assert_eq!(ann.receive_publication().await, json!(number));
        }
    }
}

#[actix_rt::test]
async fn limit_of_message_age_applies_to_sessions_that_exist() {
    let hub = start_hub_with(|config| {
        config.limits.message_age = Duration::from_secs(3600);
        config.server.ping_interval = Duration::from_secs(1);
    })
    .await;
    let mut raw = hub.connect_raw("ann").await;
    reload(&hub, |config| config.limits.message_age = Duration::from_millis(200));
    // The first fragment of a text.
    raw.send(&raw::frame(0x01, b"{")).await;
    assert_eq!(raw.wait_for_close().await, Some(3501));
}

#[actix_rt::test]
async fn options_that_need_a_restart_do_not_hold_up_the_others() {
    let hub = start_hub_of(&["chat"]).await;
    let mut changed = hub.config.clone();
    changed.server.workers += 1;
    changed.broker.presence_ttl *= 2;
    changed.namespaces.push(namespace("news"));
    let in_force = hub.running().reload_config(&changed).unwrap();
    assert_eq!((in_force.server.workers, in_force.namespaces.len()), (hub.config.server.workers, 2));
    let mut client = hub.connect("ann").await;
    client.subscribe("news:1").await;
}

#[actix_rt::test]
async fn mixture_that_would_be_invalid_is_refused_and_changes_nothing() {
    let hub = start_hub_with(|config| {
        (config.api.publication_bytes, config.limits.outbox_bytes) = (2 << 20, 8 << 20);
        config.namespaces = vec![namespace("chat")];
    })
    .await;
    let mut client = hub.connect_subscriber("ann", "chat:1").await;
    let mut changed = hub.config.clone();
    (changed.api.publication_bytes, changed.limits.outbox_bytes) = (1 << 16, 1 << 20);
    changed.namespaces.clear();
    let errors = hub.running().reload_config(&changed).unwrap_err();
    assert!(errors.0.iter().all(|error| error.key == "api.publication_bytes"), "{errors}");
    hub.publish("chat:1", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));
    let mut other = hub.connect("bob").await;
    other.subscribe("chat:1").await;
}

#[actix_rt::test]
async fn every_session_of_a_busy_hub_is_told_of_new_rules() {
    let hub = start_hub_of(&["chat", "game"]).await;
    let mut clients = Vec::new();
    for number in 0..150 {
        let mut client = hub.connect(&format!("user{number}")).await;
        client.subscribe("chat:1").await;
        client.subscribe("game:1").await;
        clients.push(client);
    }
    reload(&hub, |config| config.namespaces = vec![namespace("game")]);
    // Again, while the first round is under way.
    reload(&hub, |config| config.namespaces = vec![namespace("game"), namespace("other")]);
    poll_until("all subscriptions are ended", async || {
        let channels = hub.call_api("channels", json!({})).await;
        channels["result"]["channels"] == json!({"game:1": {"num_clients": 150}})
    })
    .await;
    for client in &mut clients {
        expect_unsubscribe(client, "chat:1").await;
    }
}

fn signatures(call: &Call) -> usize {
    call.headers("x-wardcast-signature").first().map_or(0, |header| header.matches("v1=").count())
}

#[actix_rt::test]
async fn secrets_of_hooks_and_events_change_with_the_next_call() {
    let (old, new) =
        (mark_secret("the old secret of the hooks, 32 bytes"), mark_secret("the new secret of the hooks, 32 bytes"));
    let backend = Backend::start().await;
    let hub = start_hub_with(|config| {
        backend.configure(&mut config.hooks.rpc, "/rpc");
        config.hooks.events.endpoint = HookEndpoint::parse(&backend.url("/events")).ok();
        config.hooks.events.types = vec![EventType::Connect];
        config.hooks.secret = Secret::new(old);
    })
    .await;
    backend.answer_json("/rpc", json!({"result": {}}));
    backend.answer_json("/events", json!({}));
    for (number, (secret, previous, count)) in
        [(old, "", 1), (new, old, 2), (new, "", 1), ("", "", 0)].into_iter().enumerate()
    {
        reload(&hub, |config| {
            (config.hooks.secret, config.hooks.previous_secret) = (Secret::new(secret), Secret::new(previous));
        });
        let mut ann = hub.connect("ann").await;
        ann.request(json!({"id": 1, "rpc": {"method": "m"}})).await;
        backend.wait_for_events("/events", number + 1).await;
        let [call, event] = ["/rpc", "/events"].map(|path| backend.calls(path).pop().unwrap());
        assert_eq!((signatures(&call), signatures(&event)), (count, count), "{number}");
    }
}

#[actix_rt::test]
async fn api_key_changes_with_a_reload_and_the_previous_one_is_accepted_until_it_is_removed() {
    let new = mark_secret("the new API key, which has 32 bytes or more");
    let hub = start_hub_with(|_| ()).await;
    let statuses = async || {
        let mut statuses = Vec::new();
        for key in [API_KEY, new, ""] {
            let call = http::post(hub.address, "/api/info").header("X-API-Key", key);
            statuses.push(call.json(json!({})).send().await.status);
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 401, 401]);
    for (key, previous, expected) in [
        (new, API_KEY, [200, 200, 401]),
        (new, "", [401, 200, 401]),
        (API_KEY, "", [200, 401, 401]),
        ("", "", [401; 3]),
    ] {
        reload(&hub, |config| (config.api.key, config.api.previous_key) = (Secret::new(key), Secret::new(previous)));
        assert_eq!(statuses().await, expected);
    }
}

#[actix_rt::test]
async fn production_hub_refuses_an_api_key_that_is_another_secret_of_the_hub() {
    let hub = start_hub_with(|config| config.environment = Environment::Production).await;
    for previous in [false, true] {
        let mut config = hub.config.clone();
        let key = if previous { &mut config.api.previous_key } else { &mut config.api.key };
        *key = hub.config.auth.hmac_secret.clone();
        let error = hub.running().reload_config(&config).unwrap_err().to_string();
        assert!(error.contains("is the same secret as api."), "{error}");
    }
    let call = http::post(hub.address, "/api/info").header("X-API-Key", API_KEY);
    assert_eq!(call.json(json!({})).send().await.status, 200);
}
