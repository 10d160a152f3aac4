//! The configuration. `config/default.toml` has every key with its default and its description; it is embedded in the
//! binary and is the only source of defaults. These types mirror its sections. Every module may read them; none changes
//! them. A reload replaces the whole configuration ([`LiveConfig`]).

mod admin;
mod auth;
mod bind;
mod channels;
mod error;
mod hook_events;
mod hooks;
mod key_rules;
mod keys;
mod load;
mod print;
mod reload;
mod source;
mod trusted_proxy;
mod user_prefixes;
mod validate;
mod value;
mod weakness;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use admin::AdminConfig;
pub use auth::{
    AnonymousAccess, AuthConfig, Door, KeyConfig, KeyPurpose, KeySetsConfig, KeySource, LoginConfig, RejectMode,
    RequiredClaim, TicketBinding, url_without_secrets,
};
pub(crate) use bind::UNIX;
pub use bind::{BindAddress, BindAddresses};
pub use channels::{
    AllowSubscribe, ChannelAccess, ChannelOptions, DataFormat, DeltaType, Namespace, OptionOverrides, RecoveryMode,
};
pub use error::{ConfigError, ConfigErrors};
pub use hook_events::{EventType, EventsConfig};
pub(crate) use hooks::SIGNATURE_HEADER;
pub use hooks::{HookConfig, HookEndpoint, HooksConfig};
pub use key_rules::{KeyRules, KindRules, TokenIssuer, TokenKind};
pub use keys::DEFAULTS;
pub use load::{Environment, LoadReport, SettingSources, Sources, find_environment, load, load_with_errors};
pub use print::print;
pub use reload::{ConfigChange, ConfigOption, LiveConfig, OPTIONS, OptionEffect};
pub use source::VARIABLE_PREFIX;
pub use trusted_proxy::TrustedProxy;
pub use user_prefixes::UserPrefixes;
pub(crate) use validate::{MAX_KEY_ID_BYTES, MIN_DEMO_PASSWORD_BYTES, MIN_SECRET_BYTES};
pub use validate::{MAX_PASSWORD_BYTES, NO_OPEN_CHANNEL, opens_channels, warnings};
pub use value::Secret;
pub(crate) use weakness::{find_weakness, is_published_sample};

/// A whole configuration.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is a section of config/default.toml and documented there")]
pub struct Config {
    pub environment: Environment,
    pub namespaces: Vec<Namespace>,
    pub server: ServerConfig,
    pub auth: AuthConfig,
    pub login: LoginConfig,
    pub origins: OriginsConfig,
    pub web: WebConfig,
    pub admin: AdminConfig,
    pub api: ApiConfig,
    pub channels: ChannelOptions,
    pub hooks: HooksConfig,
    pub broker: BrokerConfig,
    pub limits: Limits,
    pub log: LogConfig,
    pub audit: AuditConfig,
}

impl Config {
    /// Returns the secret that signs the tokens of the login.
    pub fn login_secret(&self) -> &Secret {
        if self.login.key.is_empty() { &self.auth.hmac_secret } else { &self.login.key }
    }

    /// Returns the `iss` of the tokens of the login; empty if they have none.
    pub fn login_issuer(&self) -> &str {
        self.auth.issuer.as_deref().unwrap_or_default()
    }
}

impl Default for Config {
    /// The defaults of `config/default.toml`, without those of an environment.
    fn default() -> Self {
        load::default_config()
    }
}

/// `[server]`: the listeners, and what applies to every connection.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct ServerConfig {
    pub bind: BindAddresses,
    #[serde(deserialize_with = "bind::optional")]
    pub internal_bind: Option<BindAddresses>,
    #[serde(deserialize_with = "value::file_mode")]
    pub unix_mode: u32,
    pub workers: usize,
    pub websocket_paths: Vec<String>,
    pub path_prefix: String,
    pub behind_tls: bool,
    #[serde(deserialize_with = "value::optional_text")]
    pub public_url: Option<String>,
    pub trusted_proxies: Vec<TrustedProxy>,
    pub proxy_protocol: bool,
    #[serde(with = "value::duration")]
    pub drain: Duration,
    #[serde(with = "value::duration")]
    pub drain_delay: Duration,
    #[serde(with = "value::duration")]
    pub ping_interval: Duration,
    #[serde(with = "value::duration")]
    pub pong_timeout: Duration,
    #[serde(with = "value::duration")]
    pub position_check_interval: Duration,
    pub compression: CompressionConfig,
    pub tls: TlsConfig,
    pub internal_tls: InternalTlsConfig,
}

impl ServerConfig {
    /// Returns whether `trusted_proxies` contain `address`, or the peers of Unix sockets if it is [`UNKNOWN_ADDRESS`].
    ///
    /// [`UNKNOWN_ADDRESS`]: crate::address::UNKNOWN_ADDRESS
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|proxy| proxy.contains(address))
    }
}

/// `[server.compression]`: permessage-deflate.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct CompressionConfig {
    pub enabled: bool,
    pub min_bytes: u16,
    pub max_bytes: u32,
    pub level: u8,
}

/// `[server.tls]`: the PEM files of the certificate, of which both are set or neither, and the keys of session tickets.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct TlsConfig {
    #[serde(deserialize_with = "value::optional_path")]
    pub cert: Option<PathBuf>,
    #[serde(deserialize_with = "value::optional_path")]
    pub key: Option<PathBuf>,
    pub ticket_keys: Vec<PathBuf>,
}

/// `[server.internal_tls]`: the certificate of the internal listener, and those that its clients must have.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct InternalTlsConfig {
    #[serde(deserialize_with = "value::optional_path")]
    pub cert: Option<PathBuf>,
    #[serde(deserialize_with = "value::optional_path")]
    pub key: Option<PathBuf>,
    #[serde(deserialize_with = "value::optional_path")]
    pub client_ca: Option<PathBuf>,
    pub client_names: Vec<String>,
}

/// `[origins]`: the origins whose pages may connect.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct OriginsConfig {
    pub allowed: Vec<String>,
}

/// `[web]`: pages that the hub serves.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct WebConfig {
    pub demo_page: bool,
}

/// `[api]`: the server API.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct ApiConfig {
    pub key: Secret,
    pub previous_key: Secret,
    pub key_in_query: bool,
    pub body_bytes: usize,
    pub publication_bytes: usize,
    pub replies_bytes: usize,
    pub connections_page: usize,
    pub connection_channels: usize,
    pub traces: usize,
    #[serde(with = "value::duration")]
    pub trace_duration: Duration,
}

impl ApiConfig {
    /// Returns the keys that are accepted.
    pub fn keys(&self) -> impl Iterator<Item = &Secret> {
        [&self.key, &self.previous_key].into_iter().filter(|key| !key.is_empty())
    }
}

/// `[broker]`: how publications reach the hubs.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct BrokerConfig {
    #[serde(rename = "type")]
    pub kind: BrokerKind,
    #[serde(with = "value::duration")]
    pub presence_ttl: Duration,
    pub redis: RedisConfig,
}

/// The kind of broker.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// In the memory of this process, for a single instance.
    Memory,
    /// Redis PUB/SUB, for several instances.
    Redis,
}

/// `[broker.redis]`: used when `broker.type = "redis"`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct RedisConfig {
    /// A secret, because it may contain a password.
    pub url: Secret,
    /// Secrets, too.
    pub urls: Vec<Secret>,
    #[serde(deserialize_with = "value::optional_text")]
    pub username: Option<String>,
    pub password: Secret,
    pub prefix: String,
    pub pool_size: usize,
    #[serde(with = "value::duration")]
    pub timeout: Duration,
    #[serde(with = "value::duration")]
    pub probe_interval: Duration,
    #[serde(with = "value::duration")]
    pub heartbeat_interval: Duration,
    pub max_nodes: usize,
    #[serde(with = "value::duration")]
    pub linger: Duration,
    pub message_bytes: usize,
    pub bus_key: Secret,
    pub bus_key_accepted: Secret,
    pub bus_accept_unsigned: bool,
    pub partitions: usize,
    pub tls: RedisTlsConfig,
    pub sentinel: RedisSentinelConfig,
    pub cluster: RedisClusterConfig,
}

/// `[broker.redis.cluster]`: a Redis Cluster, instead of `broker.redis.url`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct RedisClusterConfig {
    /// URLs of some of its nodes. Secrets, because they may contain a password.
    pub urls: Vec<Secret>,
}

/// `[broker.redis.sentinel]`: used when it has URLs.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct RedisSentinelConfig {
    /// Secrets, because they may contain a password.
    pub urls: Vec<Secret>,
    pub master_name: String,
    #[serde(deserialize_with = "value::optional_text")]
    pub username: Option<String>,
    pub password: Secret,
    pub tls: RedisTlsConfig,
}

/// `[broker.redis.tls]` and `[broker.redis.sentinel.tls]`: certificates for URLs that begin with `rediss://`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct RedisTlsConfig {
    #[serde(deserialize_with = "value::optional_path")]
    pub ca: Option<PathBuf>,
    #[serde(deserialize_with = "value::optional_path")]
    pub cert: Option<PathBuf>,
    #[serde(deserialize_with = "value::optional_path")]
    pub key: Option<PathBuf>,
}

/// `[limits]`: a maximum for everything that clients and other services can make the hub store or do.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct Limits {
    pub token_bytes: usize,
    pub message_bytes: usize,
    pub message_fragments: usize,
    #[serde(with = "value::duration")]
    pub message_age: Duration,
    pub emulation_bytes: usize,
    pub publication_bytes: usize,
    pub outbox_bytes: usize,
    #[serde(with = "value::duration")]
    pub outbox_stall: Duration,
    pub unsent_bytes: u32,
    pub hub_queue_bytes: usize,
    pub paced_publications: usize,
    pub paced_bytes: usize,
    pub history_bytes: usize,
    pub recovered_publications: usize,
    pub filter_nodes_per_channel: usize,
    pub filter_positions: usize,
    pub ended_sessions: usize,
    pub ended_subscriptions: usize,
    pub history_publications: usize,
    pub reply_bytes: usize,
    pub idempotency_keys: usize,
    pub broadcast_channels: usize,
    pub channels_per_session: usize,
    pub concurrent_subscribes: usize,
    pub api_grant_bytes: usize,
    pub commands_per_second: u32,
    pub publications_per_second: u32,
    pub errors: u32,
    pub connections: usize,
    pub connections_per_user: usize,
    pub connections_per_address: usize,
    pub handshakes_per_second: u32,
    pub emulation_requests_per_second: u32,
    pub http_connections: usize,
    pub http_unread_bytes: usize,
    pub waiting: usize,
    pub waiting_per_address: usize,
    #[serde(with = "value::duration")]
    pub verification_turn: Duration,
    pub verification_queue: usize,
    #[serde(with = "value::duration")]
    pub verification_wait: Duration,
    pub refused_token_share: u32,
    pub tickets: usize,
    pub tickets_per_second: u32,
    pub revocations: usize,
    pub logouts_per_user: u32,
}

impl Limits {
    /// Maximum bytes of a reply to a client: a longer one would fill its outbox, and the client would be closed for its own
    /// command.
    pub fn client_reply_bytes(&self) -> usize {
        self.client_reply_limit().1
    }

    /// Returns what limits the bytes of a reply to a client, and the limit.
    pub fn client_reply_limit(&self) -> (&'static str, usize) {
        let half_an_outbox = self.outbox_bytes / 2;
        if self.reply_bytes > half_an_outbox {
            ("half of limits.outbox_bytes", half_an_outbox)
        } else {
            ("limits.reply_bytes", self.reply_bytes)
        }
    }
}

/// `[log]`: the log on stderr.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct LogConfig {
    pub level: log::LevelFilter,
    pub format: LogFormat,
    pub refusals: RefusalLogging,
    #[serde(deserialize_with = "value::duration::deserialize")]
    pub refusals_interval: Duration,
}

/// `[audit]`: the audit log.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct AuditConfig {
    #[serde(deserialize_with = "value::optional_text")]
    pub output: Option<String>,
    pub queue: usize,
    pub lines_per_second: u32,
    pub refusals_per_second: u32,
}

/// How the lines of the log are written.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A phrase and `key=value` pairs.
    Text,
    /// A JSON object each.
    Json,
}

/// How refused tokens, origins and other credentials are logged.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RefusalLogging {
    /// Each one, at level info.
    Each,
    /// The first one at once, and equal ones as a count, at level warn.
    Summary,
}
