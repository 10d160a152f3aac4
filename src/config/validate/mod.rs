//! What must hold between values, judged on the whole configuration; every finding names its key and a remedy.

mod channels;

use std::time::Duration;

use serde::Deserialize;

use super::{BrokerKind, Config, ConfigError, Environment, KeyConfig, RequiredClaim, find_weakness};
use crate::origin::{Origin, OriginPattern};

/// The shortest HMAC secret that is not guessed offline: the hash's own length (RFC 7518 §3.2, RFC 8725 §3.5).
const MIN_SECRET_BYTES: usize = 32;
/// The shortest password of the demo user, whom only this machine can reach.
const MIN_DEMO_PASSWORD_BYTES: usize = 8;
/// The longest name of a namespace: it leaves room for the name of a channel.
const MAX_NAMESPACE_BYTES: usize = 64;
/// The longest `kid` that is looked up.
pub(crate) const MAX_KEY_ID_BYTES: usize = 255;

/// Everything that is wrong with `config` as a whole.
pub(super) fn validate(config: &Config, environment: Environment) -> Vec<ConfigError> {
    let mut errors = ErrorCollector(Vec::new());
    check_secrets(config, environment, &mut errors);
    check_keys(config, &mut errors);
    check_namespaces(config, &mut errors);
    channels::check_channels(config, &mut errors);
    check_listener(config, environment, &mut errors);
    check_pages(config, environment, &mut errors);
    errors.require(
        config.login.token_ttl <= config.auth.max_ttl,
        "login.token_ttl",
        "must be at most auth.max_ttl, or no token of the login would be accepted",
    );
    check_limits(config, &mut errors);
    check_redis(config, &mut errors);
    errors.0
}

struct ErrorCollector(Vec<ConfigError>);

impl ErrorCollector {
    fn require(&mut self, fine: bool, key: &str, problem: impl Into<String>) {
        if !fine {
            self.0.push(ConfigError::new(key, "the whole configuration", problem));
        }
    }
}

fn check_secrets(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    let required = environment == Environment::Production && config.auth.keys.is_empty();
    for (key, secret, required) in [
        ("auth.hmac_secret", &config.auth.hmac_secret, required),
        ("api.key", &config.api.key, false),
        ("login.key", &config.login.key, false),
    ] {
        if secret.is_empty() {
            let remedy = "must be set in production, or auth.keys; make one with: openssl rand -hex 32 (or a whole \
                          configuration with: wardcast init --dir DIR)";
            errors.require(!required, key, remedy);
        } else if let Some(problem) = find_weakness(secret.expose().as_bytes(), MIN_SECRET_BYTES) {
            errors.require(false, key, format!("{problem}; make one with: openssl rand -hex 32"));
        }
    }
    check_demo_password(config, environment, errors);
    let can_sign = !config.login.key.is_empty() || !config.auth.hmac_secret.is_empty();
    errors.require(
        can_sign || config.login.users_file.is_none() || environment == Environment::Development,
        "login.key",
        "must be set when login.users_file is and auth.hmac_secret is not; make one with: openssl rand -hex 32",
    );
    errors.require(
        !config.login.is_enabled() || config.auth.login_tokens_have_required_claims(),
        "auth.required_claims",
        "asks for what tokens of the login do not have: leave out \"nbf\" and \"jti\", and \"iss\" and \"aud\" unless \
         auth.issuer and auth.audience are set",
    );
}

/// One user without a file, for the first five minutes.
fn check_demo_password(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    const KEY: &str = "login.demo_password";
    let password = &config.login.demo_password;
    if password.is_empty() {
        return;
    }
    errors.require(
        environment == Environment::Development,
        KEY,
        "is for development only; leave it out, make a user with: wardcast user add NAME --file users.toml, and set \
         login.users_file to that file",
    );
    errors.require(
        config.login.users_file.is_none(),
        KEY,
        "stands beside login.users_file, which has the users; leave one of them out",
    );
    let bytes = password.expose().len();
    if let Some(problem) = find_weakness(password.expose().as_bytes(), MIN_DEMO_PASSWORD_BYTES) {
        errors.require(false, KEY, format!("{problem}; leave it out, and each run makes one and prints it"));
    }
    errors.require(bytes <= 1024, KEY, "has more than 1024 bytes, which no login takes; shorten it");
}

/// Whether each of `auth.keys` is written whole; the keys themselves are judged by whoever reads their files.
fn check_keys(config: &Config, errors: &mut ErrorCollector) {
    for (index, key) in config.auth.keys.iter().enumerate() {
        let name = if key.id.is_empty() { format!("auth.keys[{index}]") } else { format!("auth.keys {:?}", key.id) };
        let sources = [key.file.is_some(), !key.jwk.is_empty(), key.jwks.is_some()];
        errors.require(
            sources.into_iter().filter(|is_set| *is_set).count() == 1,
            &name,
            "must have exactly one of file, jwk and jwks",
        );
        errors.require(
            key.id.len() <= MAX_KEY_ID_BYTES,
            &name,
            format!("has an id that no token can name; shorten it to {MAX_KEY_ID_BYTES} bytes"),
        );
        if key.jwks.is_some() {
            errors.require(key.id.is_empty(), &name, "takes its ids from the set; leave id out");
        } else {
            errors.require(!key.id.is_empty() || has_kid(key), &name, "must have an id, which tokens name as kid");
        }
        errors.require(
            key.algorithm.is_some() || key.file.is_none(),
            &name,
            "must have an algorithm: the key decides it, not the token",
        );
    }
}

/// Whether a JWK says its own id. What is no JSON is told by whoever reads it.
fn has_kid(key: &KeyConfig) -> bool {
    #[derive(Deserialize)]
    struct JwkId {
        kid: Option<String>,
    }
    serde_json::from_str::<JwkId>(key.jwk.expose()).is_ok_and(|jwk| jwk.kid.is_some())
}

fn check_namespaces(config: &Config, errors: &mut ErrorCollector) {
    for (index, namespace) in config.namespaces.iter().enumerate() {
        let name = &namespace.name;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        errors.require(
            (1..=MAX_NAMESPACE_BYTES).contains(&name.len()) && name.bytes().all(is_name),
            "namespaces",
            format!("{name:?} must be 1 to {MAX_NAMESPACE_BYTES} letters, digits, '_', '.' and '-'"),
        );
        errors.require(
            config.namespaces[..index].iter().all(|other| other.name != *name),
            "namespaces",
            format!("{name:?} is there twice; rename one of them"),
        );
    }
}

/// What is allowed and yet hardly ever meant; for the log at start.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.auth.required_claims.contains(&RequiredClaim::Exp) {
        warnings.push(
            "auth.required_claims leaves \"exp\" out: a token without it opens connections for ever; add \"exp\""
                .to_owned(),
        );
    }
    warnings
}

fn check_listener(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    let server = &config.server;
    let tls = server.tls.cert.is_some();
    errors.require(
        tls == server.tls.key.is_some(),
        "server.tls",
        "cert and key go together: set both PEM files or neither",
    );
    let loopback = server.bind.ip().is_loopback();
    errors.require(
        loopback || environment == Environment::Production,
        "server.bind",
        format!(
            "development listens on loopback only, not on {}; set WARDCAST_ENV=production to be reached from outside",
            server.bind
        ),
    );
    errors.require(
        loopback || tls || server.behind_tls,
        "server.bind",
        format!(
            "{} is beyond loopback and tokens would travel in the clear; set server.tls.cert and server.tls.key, or \
             server.behind_tls = true when a balancer in front ends TLS",
            server.bind
        ),
    );
    errors.require(
        server.websocket_paths.iter().all(|path| path.starts_with('/')) && !server.websocket_paths.is_empty(),
        "server.websocket_paths",
        "must name at least one path, each beginning with \"/\"",
    );
    errors.require(!config.auth.doors.is_empty(), "auth.doors", "must leave at least one door open");
    errors.require(server.workers <= 512, "server.workers", "must be at most 512");
    for (key, value) in [
        ("server.ping_interval", server.ping_interval),
        ("server.pong_timeout", server.pong_timeout),
        ("server.position_check_interval", server.position_check_interval),
        ("auth.first_message_timeout", config.auth.first_message_timeout),
        ("login.token_ttl", config.login.token_ttl),
        ("auth.max_ttl", config.auth.max_ttl),
    ] {
        let bounds = Duration::from_millis(100)..=Duration::from_secs(10 * 365 * 86400);
        errors.require(bounds.contains(&value), key, "must be at least 100ms and at most ten years");
    }
}

/// Whose pages and whose proxies are believed, and the cookie.
fn check_pages(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    let server = &config.server;
    let is_origin = |url: &String| Origin::parse(url).is_some_and(|origin| origin.is_http());
    errors.require(
        server.public_url.as_ref().is_none_or(is_origin),
        "server.public_url",
        "must be https://host[:port] or http://host[:port], without a path or a slash at its end",
    );
    errors.require(
        !server.proxy_protocol || !server.trusted_proxies.is_empty(),
        "server.proxy_protocol",
        "is believed from server.trusted_proxies only; name them",
    );
    for entry in config.origins.allowed.iter().filter(|entry| OriginPattern::parse(entry).is_none()) {
        let form =
            "\"https://app.example.com\", \"https://*.example.com\" or \"*\", without a path or a slash at its end";
        errors.require(false, "origins.allowed", format!("{entry:?} is no origin; write it as {form}"));
    }
    let auth = &config.auth;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    errors.require(
        !auth.cookie.is_empty() && auth.cookie.bytes().all(is_token),
        "auth.cookie",
        "must be the name of a cookie: letters, digits, '-', '_' and '.'",
    );
    errors.require(
        // Development sets login.cookie by itself; who closes doors there has not asked for it.
        config.login.can_set_cookie(&auth.doors) || !config.login.cookie || environment == Environment::Development,
        "login.cookie",
        "sets a cookie that no door takes; add \"cookie\" to auth.doors",
    );
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    errors.require(bounds.contains(&auth.ticket_ttl), "auth.ticket_ttl", "must be at least 1s and at most 1h");
    errors.require(bounds.contains(&config.login.backoff), "login.backoff", "must be at least 1s and at most 1h");
    errors.require(config.login.failures >= 1, "login.failures", "must be at least 1");
}

fn check_limits(config: &Config, errors: &mut ErrorCollector) {
    let limits = &config.limits;
    for (key, value, at_least) in [
        ("limits.message_bytes", limits.message_bytes, 1024),
        ("limits.message_fragments", limits.message_fragments, 1),
        ("limits.publication_bytes", limits.publication_bytes, 1),
        ("limits.outbox_bytes", limits.outbox_bytes, 4096),
        ("limits.history_bytes", limits.history_bytes, 65_536),
        ("limits.recovered_publications", limits.recovered_publications, 1),
        ("limits.filter_nodes_per_channel", limits.filter_nodes_per_channel, 1),
        ("limits.history_publications", limits.history_publications, 1),
        ("limits.reply_bytes", limits.reply_bytes, 16_384),
        ("limits.idempotency_keys", limits.idempotency_keys, 1),
        ("limits.broadcast_channels", limits.broadcast_channels, 1),
        ("limits.channels_per_session", limits.channels_per_session, 1),
        ("limits.connections", limits.connections, 1),
        ("limits.http_connections", limits.http_connections, 1),
        ("limits.waiting", limits.waiting, 1),
        ("limits.waiting_per_address", limits.waiting_per_address, 1),
        ("limits.tickets", limits.tickets, 1),
        ("api.body_bytes", config.api.body_bytes, 1024),
        ("login.concurrency", config.login.concurrency, 1),
    ] {
        errors.require(value >= at_least, key, format!("must be at least {at_least}"));
    }
    let room = limits.publication_bytes.saturating_mul(2);
    errors.require(
        limits.outbox_bytes >= room && limits.hub_queue_bytes >= room,
        "limits.publication_bytes",
        "must fit twice into limits.outbox_bytes and limits.hub_queue_bytes",
    );
    errors.require(
        limits.reply_bytes >= room && limits.history_bytes / 2 >= room,
        "limits.publication_bytes",
        "must fit twice into limits.reply_bytes and four times into limits.history_bytes",
    );
}

fn check_redis(config: &Config, errors: &mut ErrorCollector) {
    if config.broker.kind != BrokerKind::Redis {
        return;
    }
    let redis = &config.broker.redis;
    errors.require(
        redis.url.expose().starts_with("redis://") || redis.url.expose().starts_with("unix:"),
        "broker.redis.url",
        "must begin with redis:// (or unix: for a socket)",
    );
    errors.require(
        !redis.prefix.is_empty()
            && redis.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
        "broker.redis.prefix",
        "must consist of letters, digits, '-', '_' and '.'",
    );
    errors.require(redis.pool_size >= 1, "broker.redis.pool_size", "must be at least 1");
    errors.require(
        redis.message_bytes >= config.limits.publication_bytes + 4096,
        "broker.redis.message_bytes",
        "must hold a publication and its envelope: at least limits.publication_bytes + 4096",
    );
    for (key, value) in [("broker.redis.timeout", redis.timeout), ("broker.redis.probe_interval", redis.probe_interval)]
    {
        errors.require(value >= Duration::from_millis(100), key, "must be at least 100ms");
    }
}

#[cfg(test)]
mod tests;
