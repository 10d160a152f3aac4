//! Checks `[hooks.events]`.

use std::time::Duration;

use super::{ErrorCollector, SECOND};
use crate::config::HooksConfig;

/// Checks the events.
pub(super) fn check_events(hooks: &HooksConfig, errors: &mut ErrorCollector) {
    let events = &hooks.events;
    errors.require(
        (Duration::from_millis(10)..=60 * SECOND).contains(&events.timeout),
        "hooks.events.timeout",
        "must be at least 10ms and at most 60s",
    );
    errors.require((1..=1000).contains(&events.batch), "hooks.events.batch", "must be at least 1 and at most 1000");
    errors.require(
        (Duration::from_millis(100)..=3600 * SECOND).contains(&events.retry_delay),
        "hooks.events.retry_delay",
        "must be at least 100ms and at most 1h",
    );
    errors.require(events.refused_for <= 7 * 24 * 3600 * SECOND, "hooks.events.refused_for", "must be at most 7d");
    for (key, value) in [("hooks.events.queue", events.queue), ("hooks.events.outbox", events.outbox)] {
        errors.require(value >= 1, key, "must be at least 1");
    }
    errors.require(events.vacated_delay <= 3600 * SECOND, "hooks.events.vacated_delay", "must be at most 1h");
    errors.require(
        events.endpoint.is_none() || !events.types.is_empty(),
        "hooks.events.types",
        "names no event; name some, like \"disconnect\", or leave hooks.events.endpoint out",
    );
    errors.require(
        hooks.previous_secret.is_empty() || !hooks.secret.is_empty(),
        "hooks.previous_secret",
        "requires hooks.secret",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, HookEndpoint, Secret, validate::validate};

    #[test]
    fn events_have_bounds_and_an_endpoint_has_types() {
        for (change, key) in [
            ((|config: &mut Config| config.hooks.events.timeout = 61 * SECOND) as fn(&mut Config), "timeout"),
            (|config: &mut Config| config.hooks.events.batch = 0, "batch"),
            (|config: &mut Config| config.hooks.events.batch = 1001, "batch"),
            (|config: &mut Config| config.hooks.events.retry_delay = Duration::ZERO, "retry_delay"),
            (|config: &mut Config| config.hooks.events.refused_for = 8 * 24 * 3600 * SECOND, "refused_for"),
            (|config: &mut Config| config.hooks.events.queue = 0, "queue"),
            (|config: &mut Config| config.hooks.events.outbox = 0, "outbox"),
            (|config: &mut Config| config.hooks.events.vacated_delay = 3601 * SECOND, "vacated_delay"),
            (
                |config: &mut Config| {
                    config.hooks.events.types.clear();
                    config.hooks.events.endpoint = HookEndpoint::parse("http://127.0.0.1:3000/").ok();
                },
                "types",
            ),
        ] {
            let mut config = Config::default();
            change(&mut config);
            let errors: String =
                validate(&config, Environment::Development).iter().map(|error| format!("{error}\n")).collect();
            assert!(errors.contains(&format!("hooks.events.{key} (")), "{key}: {errors}");
        }
        let mut config = Config::default();
        config.hooks.previous_secret = Secret::new("5f2a9c81e07b4d36a8c1f4e2b7093d65");
        let errors: String =
            validate(&config, Environment::Development).iter().map(|error| format!("{error}\n")).collect();
        assert!(errors.contains("hooks.previous_secret ("), "{errors}");
    }
}
