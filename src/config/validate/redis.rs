//! Checks `[broker.redis]`.

use std::time::Duration;

use toml::Table;

use super::{
    super::{
        BrokerKind, Config, ConfigError,
        keys::{all_keys, default_table, lookup},
    },
    ErrorCollector,
};

/// Maximum size of a Redis message without the data of its publication: names, two times `info`, tags of which every character
/// is escaped, and a signature.
const MAX_ENVELOPE_BYTES: usize = 40_960;

/// Returns an error for each key of `broker.redis` that is set although the memory broker is used. A deployment would
/// otherwise run without its Redis, which shows only when a second instance starts.
pub(crate) fn unused_redis_keys(config: &Config, table: &Table) -> Vec<ConfigError> {
    if config.broker.kind == BrokerKind::Redis {
        return Vec::new();
    }
    let defaults = default_table();
    let is_redis = |path: &Vec<String>| path.len() > 2 && path[0] == "broker" && path[1] == "redis";
    let changed = all_keys().into_iter().filter(is_redis).filter(|path| lookup(table, path) != lookup(&defaults, path));
    let error = |path: Vec<String>| {
        let problem = "has no effect with broker.type = \"memory\"; set broker.type = \"redis\", or remove this key";
        ConfigError::new(path.join("."), "the whole configuration", problem)
    };
    changed.map(error).collect()
}

pub(super) fn check_redis(config: &Config, errors: &mut ErrorCollector) {
    if config.broker.kind != BrokerKind::Redis {
        return;
    }
    let redis = &config.broker.redis;
    let has_scheme = |scheme: &str| redis.url.expose().starts_with(scheme);
    errors.require(
        has_scheme("redis://") || has_scheme("rediss://") || has_scheme("unix:"),
        "broker.redis.url",
        "must begin with redis://, with rediss:// for TLS, or with unix: for a socket",
    );
    for (key, is_set) in [
        ("broker.redis.tls.ca", redis.tls.ca.is_some()),
        ("broker.redis.tls.cert", redis.tls.cert.is_some()),
        ("broker.redis.tls.key", redis.tls.key.is_some()),
    ] {
        errors.require(
            !is_set || has_scheme("rediss://"),
            key,
            "is for TLS only; begin broker.redis.url with rediss://, or remove this key",
        );
    }
    errors.require(
        redis.tls.cert.is_some() == redis.tls.key.is_some(),
        "broker.redis.tls",
        "cert and key belong together: set both PEM files or neither",
    );
    errors.require(
        !redis.prefix.is_empty()
            && redis.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
        "broker.redis.prefix",
        "must have only letters, digits, '-', '_' and '.', and at least one",
    );
    errors.require(redis.pool_size >= 1, "broker.redis.pool_size", "must be at least 1");
    for (key, bytes) in [
        ("limits.publication_bytes", config.limits.publication_bytes),
        ("api.publication_bytes", config.api.publication_bytes),
    ] {
        errors.require(
            redis.message_bytes >= bytes.saturating_add(MAX_ENVELOPE_BYTES),
            "broker.redis.message_bytes",
            format!("must be at least {key} + {MAX_ENVELOPE_BYTES}, for a publication with its tags and infos"),
        );
    }
    for (key, is_set) in [
        ("broker.redis.bus_key_accepted", !redis.bus_key_accepted.is_empty()),
        ("broker.redis.bus_accept_unsigned", redis.bus_accept_unsigned),
    ] {
        let problem = "has no effect without broker.redis.bus_key; set that key, or remove this one";
        errors.require(!is_set || !redis.bus_key.is_empty(), key, problem);
    }
    errors.require(
        redis.bus_key.is_empty() || redis.bus_key != redis.bus_key_accepted,
        "broker.redis.bus_key_accepted",
        "is equal to broker.redis.bus_key; set the other key of a change here, or remove it",
    );
    errors.require(redis.max_nodes >= 1, "broker.redis.max_nodes", "must be at least 1");
    for (key, value) in [("broker.redis.timeout", redis.timeout), ("broker.redis.probe_interval", redis.probe_interval)]
    {
        errors.require(value >= Duration::from_millis(100), key, "must be at least 100ms");
    }
}
