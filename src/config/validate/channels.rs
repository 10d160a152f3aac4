//! Checks the options of channels: contradictions, bounds, and options that the broker does not support.

use super::{ErrorCollector, SECOND, YEAR};
use crate::config::{BrokerKind, ChannelOptions, Config, RecoveryMode};

/// Maximum publications in the history of a channel: searching all of them must not delay other channels.
const MAX_HISTORY_SIZE: usize = 1_000_000;

/// Checks the options of channels without a namespace, and of each namespace.
pub(super) fn check_channels(config: &Config, errors: &mut ErrorCollector) {
    check_options("channels", &config.channels, config, errors);
    for namespace in &config.namespaces {
        check_options(&format!("namespaces {:?}", namespace.name), &namespace.channels, config, errors);
    }
}

fn check_options(key: &str, options: &ChannelOptions, config: &Config, errors: &mut ErrorCollector) {
    let has_history = options.has_history();
    let bound = format!("history_size must be at most {MAX_HISTORY_SIZE}");
    errors.require(options.history_size <= MAX_HISTORY_SIZE, key, bound);
    errors.require(
        (SECOND..=YEAR).contains(&options.history_ttl),
        key,
        "history_ttl must be at least 1s and at most 365d",
    );
    errors.require(
        options.history_ttl <= options.history_meta_ttl && options.history_meta_ttl <= 10 * YEAR,
        key,
        "history_meta_ttl must be at least history_ttl and at most ten years",
    );
    for (name, is_set) in [
        ("force_positioning", options.force_positioning),
        ("force_recovery", options.force_recovery),
        ("force_recovery_mode = \"cache\"", options.force_recovery_mode == RecoveryMode::Cache),
    ] {
        errors.require(has_history || !is_set, key, format!("{name} requires a history: set history_size"));
    }
    errors.require(
        options.join_leave || !options.force_push_join_leave,
        key,
        "force_push_join_leave requires join_leave = true",
    );
    for (name, is_set) in
        [("history_size", has_history), ("presence", options.presence), ("join_leave", options.join_leave)]
    {
        errors.require(
            !is_set || config.broker.kind == BrokerKind::Memory,
            key,
            format!("{name} is not supported with Redis yet; remove it, or set broker.type = \"memory\""),
        );
    }
}
