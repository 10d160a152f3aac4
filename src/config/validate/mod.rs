//! Checks the configuration as a whole: rules between values, and bounds. Each error names its key and a remedy.

mod channels;
mod hook_events;
mod hooks;
mod issuers;
mod listeners;
mod redis;

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::Deserialize;

pub use channels::{NO_OPEN_CHANNEL, opens_channels};
pub(super) use redis::unused_redis_keys;

use super::{Config, ConfigError, Environment, KeyConfig, KeySource, Limits, RequiredClaim, find_weakness};
use crate::{
    emulation::MESSAGE_COST_BYTES,
    origin::{Origin, OriginPattern},
};

/// Minimum length of an HMAC secret: that of the hash (RFC 7518 §3.2, RFC 8725 §3.5). Shorter ones can be guessed
/// offline.
pub(crate) const MIN_SECRET_BYTES: usize = 32;
/// Minimum length of the demo user's password. Only this machine can reach a development hub.
pub(crate) const MIN_DEMO_PASSWORD_BYTES: usize = 8;
/// Maximum length of a password. Longer ones are refused before they are hashed.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// Maximum length of a namespace's name, so that the names of its channels are not too long.
const MAX_NAMESPACE_BYTES: usize = 64;
/// Maximum length of a `kid`. Tokens with a longer one are refused.
pub(crate) const MAX_KEY_ID_BYTES: usize = 255;

/// Minimum of `limits.token_bytes`: tokens of the login are shorter.
const MIN_TOKEN_BYTES: usize = 8192;
/// Maximum of `limits.token_bytes`. A URL may have 65534 bytes.
const MAX_TOKEN_BYTES: usize = 65_000;

const SECOND: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Returns all errors of the configuration as a whole.
pub(super) fn validate(config: &Config, environment: Environment) -> Vec<ConfigError> {
    let mut errors = ErrorCollector(Vec::new());
    check_secrets(config, environment, &mut errors);
    check_demo_password(config, environment, &mut errors);
    check_keys(config, &mut errors);
    issuers::check_issuers(config, &mut errors);
    check_namespaces(config, &mut errors);
    channels::check_channels(config, &mut errors);
    listeners::check_listeners(config, environment, &mut errors);
    check_origins(config, &mut errors);
    check_login(config, environment, &mut errors);
    check_admin(config, environment, &mut errors);
    check_durations(config, &mut errors);
    check_limits(config, &mut errors);
    check_verifications(&config.limits, &mut errors);
    hooks::check_hooks(config, &mut errors);
    hook_events::check_events(&config.hooks, &mut errors);
    redis::check_redis(config, &mut errors);
    errors.0
}

struct ErrorCollector(Vec<ConfigError>);

impl ErrorCollector {
    fn add(&mut self, key: &str, problem: impl Into<String>) {
        self.0.push(ConfigError::new(key, "the whole configuration", problem));
    }

    fn require(&mut self, is_met: bool, key: &str, problem: impl Into<String>) {
        if !is_met {
            self.add(key, problem);
        }
    }
}

/// Checks that a certificate has its key. Both are PEM files.
fn check_pair(section: &str, cert: &Option<PathBuf>, key: &Option<PathBuf>, errors: &mut ErrorCollector) {
    errors.require(
        cert.is_some() == key.is_some(),
        section,
        "cert and key belong together: set both PEM files or neither",
    );
}

fn check_secrets(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    let (auth, login) = (&config.auth, &config.login);
    errors.require(
        environment == Environment::Development
            || !auth.hmac_secret.is_empty()
            || !auth.keys.is_empty()
            || config.hooks.connect.endpoint.is_some(),
        "auth.hmac_secret",
        "production requires this key, auth.keys or hooks.connect.endpoint; generate a secret with: openssl rand -hex 32 (or a whole configuration \
         with: wardcast init --dir DIR)",
    );
    for (key, secret) in [
        ("auth.hmac_secret", &auth.hmac_secret),
        ("api.key", &config.api.key),
        ("api.previous_key", &config.api.previous_key),
        ("hooks.secret", &config.hooks.secret),
        ("hooks.previous_secret", &config.hooks.previous_secret),
        ("login.key", &login.key),
        ("broker.redis.bus_key", &config.broker.redis.bus_key),
        ("broker.redis.bus_key_accepted", &config.broker.redis.bus_key_accepted),
    ] {
        let weakness = find_weakness(secret.expose().as_bytes(), MIN_SECRET_BYTES).filter(|_| !secret.is_empty());
        if let Some(problem) = weakness {
            errors.add(key, format!("{problem}; generate a secret with: openssl rand -hex 32"));
        }
    }
    let can_sign = !login.key.is_empty() || !auth.hmac_secret.is_empty();
    errors.require(
        can_sign || login.users_file.is_none() || environment == Environment::Development,
        "login.key",
        "must be set when login.users_file is set and auth.hmac_secret is not; generate a secret with: openssl rand -hex 32",
    );
}

/// Checks the password of the demo user, who exists without a file, for the first minutes with Wardcast.
fn check_demo_password(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    const KEY: &str = "login.demo_password";
    let password = config.login.demo_password.expose().as_bytes();
    if password.is_empty() {
        return;
    }
    errors.require(
        environment == Environment::Development,
        KEY,
        "is for development only; remove it, add a user with: wardcast user add NAME --file users.toml, and set \
         login.users_file to that file",
    );
    errors.require(
        config.login.users_file.is_none(),
        KEY,
        "cannot be combined with login.users_file, which has the users; remove one of them",
    );
    if let Some(problem) = find_weakness(password, MIN_DEMO_PASSWORD_BYTES) {
        errors.add(KEY, format!("{problem}; remove it, and the hub generates a password and prints it"));
    }
    errors.require(
        password.len() <= MAX_PASSWORD_BYTES,
        KEY,
        format!("is longer than {MAX_PASSWORD_BYTES} bytes, which no login accepts; shorten it"),
    );
}

/// Checks that each entry of `auth.keys` is complete. The verifier checks the keys themselves when it reads their
/// files.
fn check_keys(config: &Config, errors: &mut ErrorCollector) {
    errors.require(
        config.auth.issuer_url.is_none() || config.auth.jwks_url.is_none(),
        "auth.jwks_url",
        "cannot be combined with auth.issuer_url, which leads to the keys, too; remove one of them",
    );
    for (index, key) in config.auth.keys.iter().enumerate() {
        let name = if key.id.is_empty() { format!("auth.keys[{index}]") } else { format!("auth.keys {:?}", key.id) };
        let source = key.source();
        errors.require(source.is_some(), &name, format!("must have exactly one of {}", KeySource::SETTINGS));
        errors.require(
            key.id.len() <= MAX_KEY_ID_BYTES,
            &name,
            format!("has an id that is too long for a token; shorten it to {MAX_KEY_ID_BYTES} bytes"),
        );
        let is_fetched = matches!(source, Some(KeySource::SetUrl(_) | KeySource::Issuer(_)));
        errors.require(
            is_fetched || (key.private_networks.is_none() && key.ca.is_none()),
            &name,
            "has private_networks or ca, which are for keys that are fetched (jwks_url, issuer_url); remove them",
        );
        if source.is_some_and(KeySource::is_set) {
            errors.require(key.id.is_empty(), &name, "gets the ids of its keys from the set; remove id");
        } else {
            errors.require(!key.id.is_empty() || has_kid(key), &name, "must have an id, which its tokens name as kid");
        }
        errors.require(
            key.algorithm.is_some() || key.file.is_none(),
            &name,
            "must have an algorithm; the token does not choose it",
        );
    }
}

/// Returns whether a JWK has its own id. If it is not JSON, the verifier reports it.
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
            format!("the name {name:?} must have 1 to {MAX_NAMESPACE_BYTES} letters, digits, '_', '.' and '-'"),
        );
        errors.require(
            config.namespaces[..index].iter().all(|other| other.name != *name),
            "namespaces",
            format!("the name {name:?} is used twice; rename one of the two"),
        );
    }
}

/// Returns warnings about settings that are valid but rarely intended, for the log at start.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.auth.required_claims.contains(&RequiredClaim::Exp) {
        warnings.push(
            "auth.required_claims does not list \"exp\": a token without exp never expires; add \"exp\"".to_owned(),
        );
    }
    warnings.extend(issuers::audience_warnings(config));
    warnings.extend(listeners::unix_warning(config));
    warnings
}

fn check_origins(config: &Config, errors: &mut ErrorCollector) {
    let is_origin = |url: &String| Origin::parse(url).is_some_and(|origin| origin.is_http());
    errors.require(
        config.server.public_url.as_ref().is_none_or(is_origin),
        "server.public_url",
        "must be https://host[:port] or http://host[:port], without a path or a trailing slash",
    );
    for entry in config.origins.allowed.iter().filter(|entry| OriginPattern::parse(entry).is_none()) {
        errors.add(
            "origins.allowed",
            format!(
                "{entry:?} is not an origin; write it like \"https://app.example.com\", \"https://*.example.com\" or \"*\", \
                 without a path or a trailing slash"
            ),
        );
    }
}

fn check_login(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    let (auth, login) = (&config.auth, &config.login);
    errors.require(!auth.doors.is_empty(), "auth.doors", "must list at least one way to send a token");
    let is_cookie_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    errors.require(
        !auth.cookie.is_empty() && auth.cookie.bytes().all(is_cookie_byte),
        "auth.cookie",
        "must be the name of a cookie: letters, digits, '-', '_' and '.'",
    );
    errors.require(
        // development.toml sets login.cookie, so it may be set although the user disables the cookie in auth.doors.
        login.can_set_cookie(&auth.doors) || !login.cookie || environment == Environment::Development,
        "login.cookie",
        "sets a cookie that is not accepted; add \"cookie\" to auth.doors",
    );
    errors.require(
        !login.is_enabled() || auth.login_tokens_have_required_claims(),
        "auth.required_claims",
        "lists claims that tokens of the login do not have; remove \"nbf\", and \"iss\" and \"aud\" unless \
         auth.issuer and auth.audience are set",
    );
    errors.require(
        login.refresh_ttl.is_zero() || (login.token_ttl..=YEAR).contains(&login.refresh_ttl),
        "login.refresh_ttl",
        "must be 0s, or at least login.token_ttl and at most a year",
    );
    errors.require(
        login.refresh_idle >= login.token_ttl,
        "login.refresh_idle",
        "must be at least login.token_ttl; otherwise a refresh token would expire before the access token",
    );
    errors.require(login.refresh_grace <= 600 * SECOND, "login.refresh_grace", "must be at most 10m");
    errors.require((1..=1000).contains(&login.logins_per_user), "login.logins_per_user", "must be 1 to 1000");
    errors.require(login.failures >= 1, "login.failures", "must be at least 1");
    errors.require(
        login.token_ttl <= auth.max_ttl,
        "login.token_ttl",
        "must be at most auth.max_ttl; otherwise no token of the login would be accepted",
    );
}

fn check_admin(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    let admin = &config.admin;
    errors.require(
        config.api.previous_key.is_empty() || !config.api.key.is_empty() || environment == Environment::Development,
        "api.previous_key",
        "requires api.key",
    );
    errors.require(
        !admin.enabled || !config.api.key.is_empty() || environment == Environment::Development,
        "admin.enabled",
        "requires api.key, which logs in and from which the sessions are signed; generate it with: openssl rand -hex 32",
    );
    errors.require(
        (SECOND..=30 * 86_400 * SECOND).contains(&admin.session_ttl),
        "admin.session_ttl",
        "must be at least 1s and at most 30d",
    );
}

fn check_durations(config: &Config, errors: &mut ErrorCollector) {
    let (server, auth, login) = (&config.server, &config.auth, &config.login);
    let mut check = |range: RangeInclusive<Duration>, range_text: &str, durations: &[(&str, Duration)]| {
        for (key, duration) in durations {
            errors.require(range.contains(duration), key, format!("must be {range_text}"));
        }
    };
    check(
        Duration::from_millis(100)..=10 * YEAR,
        "at least 100ms and at most ten years",
        &[
            ("server.ping_interval", server.ping_interval),
            ("server.pong_timeout", server.pong_timeout),
            ("server.position_check_interval", server.position_check_interval),
            ("auth.first_message_timeout", auth.first_message_timeout),
            ("limits.outbox_stall", config.limits.outbox_stall),
            ("login.token_ttl", login.token_ttl),
            ("auth.max_ttl", auth.max_ttl),
            ("auth.key_sets.refresh", auth.key_sets.refresh),
            ("auth.key_sets.retry", auth.key_sets.retry),
            ("auth.key_sets.unknown_kid_interval", auth.key_sets.unknown_kid_interval),
            ("auth.key_sets.timeout", auth.key_sets.timeout),
            ("auth.key_sets.stale", auth.key_sets.stale),
            ("auth.key_sets.startup_timeout", auth.key_sets.startup_timeout),
        ],
    );
    let seconds = [
        ("auth.ticket_ttl", auth.ticket_ttl),
        ("login.backoff", login.backoff),
        ("log.refusals_interval", config.log.refusals_interval),
        ("broker.presence_ttl", config.broker.presence_ttl),
    ];
    check(SECOND..=3600 * SECOND, "at least 1s and at most 1h", &seconds);
    let heartbeat = [("broker.redis.heartbeat_interval", config.broker.redis.heartbeat_interval)];
    check(Duration::from_millis(100)..=600 * SECOND, "at least 100ms and at most 10m", &heartbeat);
}

fn check_verifications(limits: &Limits, errors: &mut ErrorCollector) {
    let turn = limits.verification_turn <= Duration::from_millis(10);
    errors.require(turn, "limits.verification_turn", "must be at most 10ms");
    let wait = (Duration::from_millis(10)..=4 * SECOND).contains(&limits.verification_wait);
    errors.require(wait, "limits.verification_wait", "must be at least 10ms and at most 4s");
    errors.require(limits.verification_queue >= 2, "limits.verification_queue", "must be at least 2");
    let share = (1..=100).contains(&limits.refused_token_share);
    errors.require(share, "limits.refused_token_share", "must be at least 1 and at most 100");
}

fn check_limits(config: &Config, errors: &mut ErrorCollector) {
    let limits = &config.limits;
    for (key, value, minimum) in [
        ("limits.token_bytes", limits.token_bytes, MIN_TOKEN_BYTES),
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
        ("limits.concurrent_subscribes", limits.concurrent_subscribes, 1),
        ("limits.connections", limits.connections, 1),
        ("limits.http_connections", limits.http_connections, 1),
        ("limits.http_unread_bytes", limits.http_unread_bytes, 1024),
        ("limits.waiting", limits.waiting, 1),
        ("limits.waiting_per_address", limits.waiting_per_address, 1),
        ("limits.tickets", limits.tickets, 1),
        ("limits.revocations", limits.revocations, 1),
        ("limits.logouts_per_user", limits.logouts_per_user as usize, 1),
        ("api.body_bytes", config.api.body_bytes, 1024),
        ("api.publication_bytes", config.api.publication_bytes, 1),
        ("api.replies_bytes", config.api.replies_bytes, 1024),
        ("login.concurrency", config.login.concurrency, 1),
        ("audit.queue", config.audit.queue, 1),
        ("auth.key_sets.document_bytes", config.auth.key_sets.document_bytes, 1024),
        ("auth.key_sets.keys", config.auth.key_sets.keys, 1),
    ] {
        errors.require(value >= minimum, key, format!("must be at least {minimum}"));
    }
    errors.require(
        limits.emulation_bytes >= limits.message_bytes.saturating_add(MESSAGE_COST_BYTES),
        "limits.emulation_bytes",
        format!("must be at least limits.message_bytes + {MESSAGE_COST_BYTES}: a message would never fit"),
    );
    errors.require(
        limits.token_bytes <= MAX_TOKEN_BYTES,
        "limits.token_bytes",
        format!("must be at most {MAX_TOKEN_BYTES}: a URL with a longer token could not be read"),
    );
    check_publication_sizes(config, errors);
}

/// Checks that every buffer has room for two of the largest publications.
fn check_publication_sizes(config: &Config, errors: &mut ErrorCollector) {
    let limits = &config.limits;
    for (key, bytes) in [
        ("limits.publication_bytes", limits.publication_bytes),
        ("api.publication_bytes", config.api.publication_bytes),
    ] {
        let two_publications = bytes.saturating_mul(2);
        errors.require(
            limits.outbox_bytes >= two_publications && limits.hub_queue_bytes >= two_publications,
            key,
            "must be at most half of limits.outbox_bytes and of limits.hub_queue_bytes",
        );
        errors.require(
            limits.reply_bytes >= two_publications && limits.history_bytes / 2 >= two_publications,
            key,
            "must be at most half of limits.reply_bytes and a quarter of limits.history_bytes",
        );
    }
}

#[cfg(test)]
mod tests;
