//! Checks the options of channels: contradictions and bounds.

use std::time::Duration;

use super::{ErrorCollector, SECOND, YEAR};
use crate::config::{AllowSubscribe, ChannelOptions, Config, KeyPurpose, RecoveryMode};

/// Maximum publications in the history of a channel: searching all of them must not delay other channels.
const MAX_HISTORY_SIZE: usize = 1_000_000;

/// Maximum `delivery_interval`. It has to stay below the two seconds for which a hub may be behind the broker's position without
/// looking for lost publications.
const MAX_DELIVERY_INTERVAL: Duration = SECOND;
/// Minimum `delivery_interval` other than 0: timers are not more precise.
const MIN_DELIVERY_INTERVAL: Duration = Duration::from_millis(5);

/// What to do about a configuration that opens no channel, followed by lines for its file.
pub const NO_OPEN_CHANNEL: &str = "no channel is open, so users may subscribe only to what their tokens grant, and get error 103 for every \
    other channel; add the lines below to the configuration file to open all channels without a namespace to users, or \
    with \"none\" instead of \"user\" if your tokens grant all channels\n[channels]\nallow_subscribe = \"user\"";

/// Returns whether the configuration lets clients subscribe to a channel, or shows that tokens do.
pub fn opens_channels(config: &Config) -> bool {
    let mut options = config.namespaces.iter().map(|namespace| &namespace.channels).chain([&config.channels]);
    options.any(|options| {
        options.allow_subscribe != AllowSubscribe::None || options.subscribe_to_personal || options.subscribe_hook
    }) || config.auth.keys.iter().any(|key| key.purpose == KeyPurpose::Subscription)
}

/// Checks the options of channels without a namespace, and of each namespace.
pub(super) fn check_channels(config: &Config, errors: &mut ErrorCollector) {
    check_options("channels", &config.channels, errors);
    for namespace in &config.namespaces {
        check_options(&format!("namespaces {:?}", namespace.name), &namespace.channels, errors);
    }
}

fn check_options(section: &str, options: &ChannelOptions, errors: &mut ErrorCollector) {
    let mut require = |is_met: bool, key: &str, problem: &str| {
        errors.require(is_met, &format!("{section}.{key}"), problem);
    };
    let has_history = options.has_history();
    require(options.history_size <= MAX_HISTORY_SIZE, "history_size", &format!("must be at most {MAX_HISTORY_SIZE}"));
    require((SECOND..=YEAR).contains(&options.history_ttl), "history_ttl", "must be at least 1s and at most 365d");
    require(
        options.history_ttl <= options.history_meta_ttl && options.history_meta_ttl <= 10 * YEAR,
        "history_meta_ttl",
        "must be at least history_ttl and at most ten years",
    );
    for (key, is_set) in [
        ("force_positioning", options.force_positioning),
        ("force_recovery", options.force_recovery),
        ("force_recovery_mode", options.force_recovery_mode == RecoveryMode::Cache),
    ] {
        require(has_history || !is_set, key, "requires a history: set history_size");
    }
    require(
        options.join_leave || !options.force_push_join_leave,
        "force_push_join_leave",
        "requires join_leave = true",
    );
    require(
        !options.allowed_delta_types.is_empty() || !options.delta_publish,
        "delta_publish",
        "requires deltas: set allowed_delta_types = [\"fossil\"]",
    );
    let interval = options.delivery_interval;
    require(
        interval.is_zero() || (MIN_DELIVERY_INTERVAL..=MAX_DELIVERY_INTERVAL).contains(&interval),
        "delivery_interval",
        "must be 0s, or at least 5ms and at most 1s",
    );
    require(!options.conflate || !interval.is_zero(), "conflate", "requires a delivery_interval, like \"50ms\"");
    require(options.conflate || options.conflate_by_tag.is_empty(), "conflate_by_tag", "requires conflate = true");
}
