//! What tests are written in: a hub, clients, raw connections and HTTP, all real and on ephemeral ports.

pub mod client;
pub mod generated;
pub mod http;
pub mod protobuf;
pub mod raw;
pub mod redis;
pub mod tls;
pub mod trace_log;

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use wardcast::{
    auth::Signer,
    clock::Clock,
    config::{AllowSubscribe, ChannelAccess, Config, Secret},
    server::{self, RunningServer},
};

pub use client::Client;
pub use trace_log::mark_secret;

/// Nothing that a test waits for takes longer, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const SECRET: &str = "the secret of the tests: 32 bytes or more";
pub const API_KEY: &str = "the API key of the tests: 32 bytes or more";

/// A running hub and the clock that it goes by.
pub struct TestHub {
    pub address: SocketAddr,
    pub clock: Clock,
    pub config: Config,
    running: Option<RunningServer>,
}

/// A hub in which users may use plain channels.
pub async fn start_hub() -> TestHub {
    start_hub_with(|_| ()).await
}

/// The same, changed.
pub async fn start_hub_with(change: impl FnOnce(&mut Config)) -> TestHub {
    trace_log::start();
    let mut config = config();
    change(&mut config);
    let clock = Clock::default();
    let running = server::start(config.clone(), clock.clone()).await.unwrap_or_else(|error| panic!("{error}"));
    TestHub { address: running.address, clock, config, running: Some(running) }
}

pub fn config() -> Config {
    let mut config = Config::default();
    config.server.bind = ([127, 0, 0, 1], 0).into();
    config.server.workers = 2;
    config.server.drain = Duration::from_secs(2);
    config.auth.hmac_secret = Secret::new(SECRET);
    config.api.key = Secret::new(API_KEY);
    config.channels.allow_subscribe = AllowSubscribe::User;
    config.channels.allow_publish = ChannelAccess::User;
    config
}

impl TestHub {
    /// A token that is good for an hour by the hub's clock.
    pub fn token(&self, user: &str) -> String {
        self.token_for(user, Duration::from_secs(3600))
    }

    pub fn token_for(&self, user: &str, ttl: Duration) -> String {
        mark_secret(Signer::new(&self.config.auth, self.clock.clone()).sign(user, ttl, None).unwrap())
    }

    /// A token that was good until a minute ago.
    pub fn expired_token(&self, user: &str) -> String {
        let before = Clock::default();
        before.set_back(Duration::from_secs(120));
        mark_secret(Signer::new(&self.config.auth, before).sign(user, Duration::from_secs(60), None).unwrap())
    }

    /// A token with a signature of somebody else.
    pub fn forged_token(&self, user: &str) -> String {
        let auth = wardcast::config::AuthConfig {
            hmac_secret: Secret::new(mark_secret("the secret of somebody else, long enough")),
            ..self.config.auth.clone()
        };
        mark_secret(Signer::new(&auth, self.clock.clone()).sign(user, Duration::from_secs(3600), None).unwrap())
    }

    /// A token with just these claims; a number for `exp` counts from now.
    pub fn token_with_claims(&self, mut claims: Value) -> String {
        let now = self.clock.now() / 1000;
        for date in ["exp", "expire_at", "nbf", "iat"] {
            if let Some(seconds) = claims.get(date).and_then(Value::as_i64) {
                claims[date] = json!(now + seconds);
            }
        }
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        mark_secret(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap())
    }

    /// A plain client with these claims, which has been greeted; and how.
    pub async fn connect_with_claims(&self, claims: Value) -> (Client, Value) {
        let path = format!("/socket?token={}", self.token_with_claims(claims));
        let mut client = Client::connect(self.address, &path).await.unwrap();
        let greeting = client.receive().await["push"]["connect"].clone();
        assert!(greeting["client"].is_string(), "{greeting}");
        (client, greeting)
    }

    /// A plain client that came in through the query door and has been greeted.
    pub async fn connect(&self, user: &str) -> Client {
        let mut client = Client::connect(self.address, &format!("/socket?token={}", self.token(user))).await.unwrap();
        assert!(client.receive().await["push"]["connect"]["client"].is_string());
        client
    }

    /// The same, subscribed to a channel.
    pub async fn connect_subscriber(&self, user: &str, channel: &str) -> Client {
        let mut client = self.connect(user).await;
        client.subscribe(channel).await;
        client
    }

    /// A client that nobody knows yet.
    pub async fn connect_without_token(&self) -> Client {
        Client::connect(self.address, "/socket").await.unwrap()
    }

    /// The answer to a handshake; who gets in leaves at once.
    pub async fn try_handshake(&self, path: &str, headers: &[(&str, &str)]) -> http::Response {
        http::exchange(self.address, raw::handshake_with(self.address, path, headers).as_bytes()).await
    }

    /// A plain client whose handshake has these headers.
    pub async fn connect_to(&self, path: &str, headers: &[(&str, &str)]) -> Client {
        let mut client = Client::connect_with(self.address, path, headers).await.unwrap();
        assert!(client.receive().await["push"]["connect"]["client"].is_string());
        client
    }

    /// A method of the server API, with the key.
    pub async fn call_api(&self, method: &str, body: Value) -> Value {
        let response = http::post(self.address, &format!("/api/{method}"))
            .header("X-API-Key", API_KEY)
            .body(body.to_string())
            .send()
            .await;
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    pub async fn publish(&self, channel: &str, data: Value) {
        let answer = self.call_api("publish", json!({"channel": channel, "data": data})).await;
        assert_eq!(answer, json!({"result": {}}));
    }

    /// The value of a counter or gauge of `/metrics`, 0 while it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.address, "/metrics").send().await.body;
        let line = text.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with(' '));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub fn connections(&self) -> usize {
        self.running.as_ref().unwrap().connections()
    }

    pub async fn stop(mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub fn running(&self) -> &RunningServer {
        self.running.as_ref().unwrap()
    }
}

/// Looks again until it holds.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
