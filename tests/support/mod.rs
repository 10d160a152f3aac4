//! The tools of the tests: a hub, clients, raw connections and HTTP requests. All are real, on ephemeral ports of loopback.

pub mod backend;
pub mod child_process;
pub mod client;
pub mod deflate;
pub mod events;
pub mod generated;
pub mod haproxy;
pub mod http;
pub mod identity_provider;
pub mod node;
pub mod process;
pub mod protobuf;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod slow_broker;
pub mod slow_link;
pub mod stopwatch;
pub mod stream;
pub mod tls;
pub mod trace_log;
mod worker_client;

use std::{net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};
use wardcast::{
    auth::{Signer, users::UserClaims},
    clock::Clock,
    config::{AllowSubscribe, AuthConfig, BrokerKind, ChannelAccess, Config, Secret},
    server::{self, ListenAddress, RunningServer},
};

use self::{
    raw::RawClient,
    redis::{PrefixedRedis, RedisServer},
};

pub use child_process::KillOnDrop;
pub use client::Client;
pub use stopwatch::Stopwatch;
pub use trace_log::mark_secret;

/// Maximum time that a test waits for one thing. It is long, because the machine may do other work too.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const SECRET: &str = "the secret of the tests: 32 bytes or more";
pub const API_KEY: &str = "the API key of the tests: 32 bytes or more";

/// A running hub and the clock that it uses.
pub struct TestHub {
    pub address: SocketAddr,
    pub clock: Clock,
    pub config: Config,
    running: Option<RunningServer>,
}

/// Starts a hub in which users may subscribe and publish to ordinary channels.
pub async fn start_hub() -> TestHub {
    start_hub_with(|_| ()).await
}

/// Starts a hub with a changed configuration.
pub async fn start_hub_with(change: impl FnOnce(&mut Config)) -> TestHub {
    trace_log::start();
    let mut config = config();
    change(&mut config);
    let clock = Clock::default();
    let running = server::start(config.clone(), clock.clone()).await.unwrap_or_else(|error| panic!("{error}"));
    let address = running.addresses().iter().find_map(ListenAddress::tcp);
    // A hub without one listens on Unix sockets only.
    let address = address.unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
    TestHub { address, clock, config, running: Some(running) }
}

/// Starts a hub on this Redis and waits until it is connected.
pub async fn start_hub_on(redis: &RedisServer, change: impl FnOnce(&mut Config)) -> TestHub {
    let hub = start_hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.url = Secret::new(redis.url());
        change(config);
    })
    .await;
    hub.wait_for_broker(true).await;
    hub
}

/// Starts a hub on a Redis of any form and waits until it is connected.
pub async fn start_hub_over(redis: &PrefixedRedis, change: impl FnOnce(&mut Config)) -> TestHub {
    let hub = start_hub_with(|config| {
        config.broker.kind = BrokerKind::Redis;
        redis.configure(&mut config.broker.redis);
        change(config);
    })
    .await;
    hub.wait_for_broker(true).await;
    hub
}

/// The folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The configuration of [`start_hub`].
pub fn config() -> Config {
    let mut config = Config::default();
    config.server.bind = ([127, 0, 0, 1], 0).into();
    config.server.workers = 2;
    (config.server.drain, config.server.drain_delay) = (Duration::from_secs(2), Duration::ZERO);
    config.auth.hmac_secret = Secret::new(SECRET);
    config.api.key = Secret::new(API_KEY);
    config.audit.output = Some(trace_log::audit_path().display().to_string());
    config.channels.allow_subscribe = AllowSubscribe::User;
    config.channels.allow_publish = ChannelAccess::User;
    // Hundreds of clients of one address that connect at once would be a storm for a build without optimization.
    config.limits.verification_turn = Duration::ZERO;
    config
}

/// Allows only what tokens grant, at any rate.
pub fn deny_by_default(config: &mut Config) {
    config.channels.allow_subscribe = AllowSubscribe::None;
    config.channels.allow_publish = ChannelAccess::None;
    allow_any_rate(config);
}

/// Removes the rate limits of a session.
pub fn allow_any_rate(config: &mut Config) {
    (config.limits.commands_per_second, config.limits.publications_per_second) = (0, 0);
}

/// Sends a ping every 400 ms and waits for its pong for a second: a client on a busy machine needs its time.
pub fn ping_often(config: &mut Config) {
    config.server.ping_interval = Duration::from_millis(400);
    config.server.pong_timeout = Duration::from_secs(1);
}

/// Trusts the address of the tests as a proxy, so that a header can give any client address.
pub fn trust_loopback_proxy(config: &mut Config) {
    config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
}

impl TestHub {
    /// The address of the internal listener.
    pub fn internal_address(&self) -> SocketAddr {
        self.running().internal_addresses()[0].tcp().expect("server.internal_bind")
    }

    /// A token that is valid for an hour by the hub's clock.
    pub fn token(&self, user: &str) -> String {
        self.token_for(user, Duration::from_secs(3600))
    }

    pub fn token_for(&self, user: &str, ttl: Duration) -> String {
        mark_secret(Signer::new(&self.config.auth, self.clock.clone()).sign(user, ttl, &UserClaims::default()).unwrap())
    }

    /// A token that expired a minute ago.
    pub fn expired_token(&self, user: &str) -> String {
        let before = Clock::default();
        before.step_back(Duration::from_secs(120));
        mark_secret(
            Signer::new(&self.config.auth, before).sign(user, Duration::from_secs(60), &UserClaims::default()).unwrap(),
        )
    }

    /// A token that is signed with another secret.
    pub fn forged_token(&self, user: &str) -> String {
        let auth = AuthConfig {
            hmac_secret: Secret::new(mark_secret("the secret of an attacker, long enough")),
            ..self.config.auth.clone()
        };
        mark_secret(
            Signer::new(&auth, self.clock.clone())
                .sign(user, Duration::from_secs(3600), &UserClaims::default())
                .unwrap(),
        )
    }

    /// A token with exactly these claims. Numbers in its dates (`exp`, `expire_at`, `nbf`, `iat`) are seconds from now.
    pub fn token_with_claims(&self, mut claims: Value) -> String {
        let now = self.clock.now().unix_seconds();
        for date in ["exp", "expire_at", "nbf", "iat"] {
            if let Some(seconds) = claims.get(date).and_then(Value::as_i64) {
                claims[date] = json!(now + seconds);
            }
        }
        self.sign(&claims)
    }

    /// A token with these claims that ends at this Unix time.
    pub fn token_that_ends_at(&self, mut claims: Value, end: i64) -> String {
        claims["exp"] = json!(end);
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> String {
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        mark_secret(jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap())
    }

    /// The path of a handshake that carries a token of this user.
    pub fn path_for(&self, user: &str) -> String {
        format!("/socket?token={}", self.token(user))
    }

    /// The value of an `Authorization` header with a token of this user.
    pub fn bearer(&self, user: &str) -> String {
        format!("Bearer {}", self.token(user))
    }

    /// The text of a first message with a token of this user.
    pub fn token_message(&self, user: &str) -> String {
        format!("Authorization: {}", self.bearer(user))
    }

    /// Connects a plain client with a token in the query string and reads its connect push.
    pub async fn connect(&self, user: &str) -> Client {
        self.connect_to(&self.path_for(user), &[]).await
    }

    /// Connects a plain client with these claims; also returns its connect push.
    pub async fn connect_with_claims(&self, claims: Value) -> (Client, Value) {
        let path = format!("/socket?token={}", self.token_with_claims(claims));
        let mut client = Client::connect(self.address, &path).await.unwrap();
        let push = client.receive_connect_push().await;
        (client, push)
    }

    /// Connects a plain client by a handshake with this path and these headers, and reads its connect push.
    pub async fn connect_to(&self, path: &str, headers: &[(&str, &str)]) -> Client {
        let mut client = Client::connect_with(self.address, path, headers).await.unwrap();
        client.receive_connect_push().await;
        client
    }

    /// Connects a plain client and subscribes it to a channel.
    pub async fn connect_subscriber(&self, user: &str, channel: &str) -> Client {
        let mut client = self.connect(user).await;
        client.subscribe(channel).await;
        client
    }

    /// Connects a client that authenticates with a `connect` command, as the SDKs do.
    pub async fn connect_sdk(&self, token: &str) -> Client {
        let mut client = self.connect_without_token().await;
        let reply = client.request(json!({"id": 1, "connect": {"token": token}})).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        client
    }

    /// Connects a client that has not authenticated yet.
    pub async fn connect_without_token(&self) -> Client {
        Client::connect(self.address, "/socket").await.unwrap()
    }

    /// Connects a plain client whose frames the test writes itself, and reads its connect push.
    pub async fn connect_raw(&self, user: &str) -> RawClient {
        let mut raw = RawClient::connect(self.address, &self.path_for(user)).await;
        let push = raw.next().await.expect("a connect push");
        assert!(push.text().starts_with(r#"{"push":{"connect":"#), "{push:?}");
        raw
    }

    /// Returns the response to a handshake. If it is a 101, the connection is dropped.
    pub async fn try_handshake(&self, path: &str, headers: &[(&str, &str)]) -> http::Response {
        http::exchange(self.address, raw::handshake_with(self.address, path, headers).as_bytes()).await
    }

    /// The status of a handshake with this token in the query string.
    pub async fn status_of_token(&self, token: &str) -> u16 {
        self.try_handshake(&format!("/socket?token={token}"), &[]).await.status
    }

    /// Whether the hub says that it is ready.
    pub async fn is_ready(&self) -> bool {
        http::get(self.address, "/health/ready").send().await.status == 200
    }

    /// Calls a method of the server API with the key.
    pub async fn call_api(&self, method: &str, body: Value) -> Value {
        let response = http::post(self.address, &format!("/api/{method}"))
            .header("X-API-Key", API_KEY)
            .body(body.to_string())
            .send()
            .await;
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// Publishes over the server API.
    pub async fn publish(&self, channel: &str, data: Value) {
        self.publish_with(json!({"channel": channel, "data": data})).await;
    }

    /// Publishes over the server API with all members of this request; returns the result.
    pub async fn publish_with(&self, request: Value) -> Value {
        let response = self.call_api("publish", request).await;
        assert!(response["result"].is_object(), "{response}");
        response["result"].clone()
    }

    /// The value of a counter or gauge of `/metrics`; 0 if it is not there yet.
    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.address, name).await
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.running().connections()
    }

    /// Waits until exactly this many connections are open.
    pub async fn wait_for_connections(&self, count: usize) {
        poll_until(&format!("{count} open connections"), async || self.connections() == count).await;
    }

    /// Waits until the channels with subscribers are exactly these, each with its number of clients.
    pub async fn wait_for_channels(&self, expected: &[(&str, u64)]) {
        let clients = |count: &u64| json!({"num_clients": count});
        let expected: Value = expected.iter().map(|(name, count)| ((*name).to_owned(), clients(count))).collect();
        poll_until(&format!("the channels {expected}"), async || {
            self.call_api("channels", json!({})).await["result"]["channels"] == expected
        })
        .await;
    }

    /// Waits until a session has applied the controls that the API has accepted: it applies one more, which subscribes it to a
    /// channel, after them.
    pub async fn wait_until_controls_are_applied(&self, user: &str, channel: &str) {
        self.call_api("subscribe", json!({"user": user, "channel": channel})).await;
        poll_until("the controls are applied", async || {
            self.call_api("channels", json!({})).await["result"]["channels"][channel].is_object()
        })
        .await;
    }

    /// Waits until the hub has noticed that its broker is available, or that it is not.
    pub async fn wait_for_broker(&self, is_available: bool) {
        events::wait_until(&format!("the broker is available: {is_available}"), async || {
            let running = self.running();
            running.metrics.broker_up.get() == i64::from(is_available) && (!is_available || running.has_revocations())
        })
        .await;
    }

    /// Waits until the hub knows so many nodes, itself included.
    pub async fn wait_for_nodes(&self, count: i64) {
        events::wait_until(&format!("{count} nodes"), async || self.running().metrics.nodes.get() == count).await;
    }

    pub async fn stop(mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub fn running(&self) -> &RunningServer {
        self.running.as_ref().unwrap()
    }
}

/// The value of a counter or gauge of `/metrics` at an address; 0 if it is not there yet.
pub async fn metric(address: SocketAddr, name: &str) -> f64 {
    let text = http::get(address, "/metrics").send().await.body;
    let line = text.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with(' '));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Waits until a condition holds, by checking it every 20 ms. Only for states that the hub reports to nobody: where there is
/// a reply, a push or a log line to wait for, wait for that.
pub async fn poll_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "this did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
