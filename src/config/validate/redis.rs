//! Checks `[broker.redis]`.

use std::time::Duration;

use toml::Table;

use super::{
    super::{
        BrokerKind, Config, ConfigError, RedisTlsConfig, Secret,
        keys::{all_keys, default_table, lookup},
    },
    ErrorCollector, check_pair,
};

/// Maximum size of a Redis message without the data of its publication: names, two times `info`, tags of which every character
/// is escaped, and a signature.
const MAX_ENVELOPE_BYTES: usize = 40_960;

/// Slots of a Redis Cluster.
const MAX_PARTITIONS: usize = 16_384;

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
    let mut urls = redis.urls.iter().chain(&redis.cluster.urls);
    let has_tls = has_scheme("rediss://") || urls.any(|url| url.expose().starts_with("rediss://"));
    let remedy = match (redis.cluster.urls.is_empty(), redis.urls.is_empty()) {
        (false, _) => "begin the entries of broker.redis.cluster.urls with rediss://",
        (_, false) => "begin an entry of broker.redis.urls with rediss://",
        _ => "begin broker.redis.url with rediss://",
    };
    check_tls("broker.redis", &redis.tls, remedy, has_tls, errors);
    check_sentinel(config, errors);
    check_several(config, errors);
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

/// Checks the keys of several servers and of a Cluster.
fn check_several(config: &Config, errors: &mut ErrorCollector) {
    let redis = &config.broker.redis;
    let has_only = |urls: &[Secret], schemes: &[&str]| {
        urls.iter().all(|url| schemes.iter().any(|scheme| url.expose().starts_with(scheme)))
    };
    errors.require(
        has_only(&redis.urls, &["redis://", "rediss://", "unix:"]),
        "broker.redis.urls",
        "must have only URLs that begin with redis://, with rediss:// for TLS, or with unix: for a socket",
    );
    errors.require(
        has_only(&redis.cluster.urls, &["redis://", "rediss://"]),
        "broker.redis.cluster.urls",
        "must have only URLs that begin with redis://, or with rediss:// for TLS",
    );
    let lists = [&redis.urls, &redis.cluster.urls, &redis.sentinel.urls];
    errors.require(
        lists.into_iter().filter(|list| !list.is_empty()).count() <= 1,
        "broker.redis",
        "has more than one of urls, cluster.urls and sentinel.urls; these exclude each other, so keep one",
    );
    errors.require(
        (1..=MAX_PARTITIONS).contains(&redis.partitions),
        "broker.redis.partitions",
        format!("must be 1 to {MAX_PARTITIONS}, the number of slots"),
    );
    let defaults = Config::default().broker.redis;
    for (list, urls) in [("urls", &redis.urls), ("cluster.urls", &redis.cluster.urls)] {
        let problem = format!("has no effect beside broker.redis.{list}; remove one of them");
        errors.require(urls.is_empty() || redis.url == defaults.url, "broker.redis.url", problem);
    }
    errors.require(
        !redis.cluster.urls.is_empty() || redis.partitions == defaults.partitions,
        "broker.redis.partitions",
        "has no effect without broker.redis.cluster.urls; name nodes of the cluster there, or remove this key",
    );
}

fn check_sentinel(config: &Config, errors: &mut ErrorCollector) {
    let (redis, sentinel) = (&config.broker.redis, &config.broker.redis.sentinel);
    let has_scheme = |url: &Secret, scheme: &str| url.expose().starts_with(scheme);
    errors.require(
        sentinel.urls.iter().all(|url| has_scheme(url, "redis://") || has_scheme(url, "rediss://")),
        "broker.redis.sentinel.urls",
        "must have only URLs that begin with redis://, or with rediss:// for TLS",
    );
    errors.require(
        !sentinel.master_name.is_empty(),
        "broker.redis.sentinel.master_name",
        "must name the master, as in \"sentinel monitor NAME\" of the sentinels",
    );
    let has_tls = sentinel.urls.iter().any(|url| has_scheme(url, "rediss://"));
    let remedy = "begin an entry of broker.redis.sentinel.urls with rediss://";
    check_tls("broker.redis.sentinel", &sentinel.tls, remedy, has_tls, errors);
    if sentinel.urls.is_empty() {
        for (key, is_set) in [
            ("username", sentinel.username.is_some()),
            ("password", !sentinel.password.is_empty()),
            ("master_name", sentinel.master_name != Config::default().broker.redis.sentinel.master_name),
        ] {
            let problem =
                "has no effect without broker.redis.sentinel.urls; name the sentinels there, or remove this key";
            errors.require(!is_set, &format!("broker.redis.sentinel.{key}"), problem);
        }
    } else {
        errors.require(
            !has_scheme(&redis.url, "unix:"),
            "broker.redis.url",
            "must begin with redis:// or rediss://, because sentinels name the master by host and port",
        );
    }
}

/// Checks the certificates of a section. They need a URL with TLS; `remedy` says how to get one.
fn check_tls(section: &str, tls: &RedisTlsConfig, remedy: &str, has_tls: bool, errors: &mut ErrorCollector) {
    for (key, is_set) in [("ca", tls.ca.is_some()), ("cert", tls.cert.is_some()), ("key", tls.key.is_some())] {
        let problem = format!("is for TLS only; {remedy}, or remove this key");
        errors.require(!is_set || has_tls, &format!("{section}.tls.{key}"), problem);
    }
    check_pair(&format!("{section}.tls"), &tls.cert, &tls.key, errors);
}
