//! Checks `[hooks]`, and that a namespace that asks a hook has one.

use std::time::Duration;

use super::{ErrorCollector, SECOND};
use crate::config::{ChannelOptions, Config, SIGNATURE_HEADER};

/// Headers that the hub writes itself, and those that belong to the connection of the client.
const UNFORWARDED_HEADERS: [&str; 13] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    SIGNATURE_HEADER,
];

/// Less than the time within which a handshake must be answered.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Checks the hooks.
pub(super) fn check_hooks(config: &Config, errors: &mut ErrorCollector) {
    let hooks = &config.hooks;
    for (key, value) in [
        ("hooks.response_bytes", hooks.response_bytes),
        ("hooks.failures", hooks.failures as usize),
        ("hooks.waiting", hooks.waiting),
        ("hooks.send_queue", hooks.send_queue),
    ] {
        errors.require(value >= 1, key, "must be at least 1");
    }
    errors.require(
        hooks.response_bytes <= config.limits.outbox_bytes / 2,
        "hooks.response_bytes",
        "must be at most half of limits.outbox_bytes",
    );
    errors.require(
        (Duration::from_millis(100)..=3600 * SECOND).contains(&hooks.pause),
        "hooks.pause",
        "must be at least 100ms and at most 1h",
    );
    for (name, hook) in hooks.named() {
        let key = |key: &str| format!("hooks.{name}.{key}");
        errors.require(hook.concurrency >= 1, &key("concurrency"), "must be at least 1");
        errors.require(
            (Duration::from_millis(10)..=30 * SECOND).contains(&hook.timeout),
            &key("timeout"),
            "must be at least 10ms and at most 30s: the client's later commands wait for it",
        );
        for header in &hook.headers {
            let is_name = hyper::header::HeaderName::from_bytes(header.as_bytes()).is_ok();
            let lower = header.to_ascii_lowercase();
            let is_forwarded = !UNFORWARDED_HEADERS.contains(&lower.as_str()) && !lower.starts_with("sec-websocket-");
            errors.require(
                is_name && is_forwarded,
                &key("headers"),
                format!("{header:?} cannot be forwarded; name headers like \"cookie\" or \"x-forwarded-for\""),
            );
        }
    }
    check_connect(config, errors);
    check_channels(config, "channels", &config.channels, errors);
    for namespace in &config.namespaces {
        check_channels(config, &format!("namespaces {:?}", namespace.name), &namespace.channels, errors);
    }
}

/// Checks the hooks that decide who a client is.
fn check_connect(config: &Config, errors: &mut ErrorCollector) {
    let hooks = &config.hooks;
    let has_connect = hooks.connect.endpoint.is_some();
    let is_in_time =
        hooks.connect.timeout <= MAX_CONNECT_TIMEOUT && hooks.connect.timeout < config.auth.first_message_timeout;
    errors.require(
        is_in_time || !has_connect,
        "hooks.connect.timeout",
        "must be at most 4s and less than auth.first_message_timeout: connections wait for it that are not authenticated",
    );
    errors.require(
        !has_connect || !config.auth.require_token_per_message,
        "auth.require_token_per_message",
        "cannot be combined with hooks.connect.endpoint, whose sessions have no token",
    );
    errors.require(
        has_connect || !hooks.connect_in_handshake,
        "hooks.connect_in_handshake",
        "requires a hook: set hooks.connect.endpoint",
    );
    for (key, hook, name, first) in [
        ("hooks.refresh.endpoint", &hooks.refresh, "connect", &hooks.connect),
        ("hooks.sub_refresh.endpoint", &hooks.sub_refresh, "subscribe", &hooks.subscribe),
    ] {
        errors.require(
            hook.endpoint.is_none() || first.endpoint.is_some(),
            key,
            format!("extends what another hook allows: set hooks.{name}.endpoint"),
        );
    }
}

fn check_channels(config: &Config, section: &str, options: &ChannelOptions, errors: &mut ErrorCollector) {
    for (key, is_set, name, hook) in [
        ("subscribe_hook", options.subscribe_hook, "subscribe", &config.hooks.subscribe),
        ("publish_hook", options.publish_hook, "publish", &config.hooks.publish),
    ] {
        errors.require(
            !is_set || hook.endpoint.is_some(),
            &format!("{section}.{key}"),
            format!("requires a hook: set hooks.{name}.endpoint"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, HookEndpoint, Secret, validate::validate};

    fn errors(environment: Environment, change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        validate(&config, environment).iter().map(|error| format!("{error}\n")).collect()
    }

    fn endpoint() -> Option<HookEndpoint> {
        HookEndpoint::parse("http://127.0.0.1:3000/").ok()
    }

    #[test]
    fn hook_of_a_namespace_requires_an_endpoint_and_headers_of_the_connection_are_not_forwarded() {
        let development = |change: fn(&mut Config)| errors(Environment::Development, change);
        for (change, key) in [
            (
                (|config: &mut Config| config.channels.subscribe_hook = true) as fn(&mut Config),
                "channels.subscribe_hook (",
            ),
            (|config: &mut Config| config.channels.publish_hook = true, "channels.publish_hook ("),
            (|config: &mut Config| config.hooks.secret = Secret::new("short"), "hooks.secret ("),
            (|config: &mut Config| config.hooks.rpc.headers = vec!["Host".to_owned()], "hooks.rpc.headers ("),
            (|config: &mut Config| config.hooks.rpc.headers = vec!["a b".to_owned()], "hooks.rpc.headers ("),
            (|config: &mut Config| config.hooks.rpc.timeout = 31 * SECOND, "hooks.rpc.timeout ("),
            (|config: &mut Config| config.hooks.rpc.concurrency = 0, "hooks.rpc.concurrency ("),
            (|config: &mut Config| config.hooks.failures = 0, "hooks.failures ("),
            (
                |config: &mut Config| {
                    (config.hooks.connect.endpoint, config.hooks.connect.timeout) = (endpoint(), 5 * SECOND);
                },
                "hooks.connect.timeout (",
            ),
            (
                |config: &mut Config| {
                    (config.hooks.connect.endpoint, config.auth.first_message_timeout) = (endpoint(), SECOND);
                },
                "hooks.connect.timeout (",
            ),
            (|config: &mut Config| config.hooks.connect_in_handshake = true, "hooks.connect_in_handshake ("),
            (|config: &mut Config| config.hooks.refresh.endpoint = endpoint(), "hooks.refresh.endpoint ("),
            (|config: &mut Config| config.hooks.sub_refresh.endpoint = endpoint(), "hooks.sub_refresh.endpoint ("),
            (
                |config: &mut Config| {
                    (config.hooks.connect.endpoint, config.auth.require_token_per_message) = (endpoint(), true);
                },
                "auth.require_token_per_message (",
            ),
            (|config: &mut Config| config.hooks.response_bytes = usize::MAX, "hooks.response_bytes ("),
        ] {
            assert!(development(change).contains(key), "{key}: {}", development(change));
        }
        let complete = development(|config| {
            config.channels.subscribe_hook = true;
            config.hooks.subscribe.endpoint = endpoint();
            config.hooks.subscribe.headers = vec!["Cookie".to_owned()];
        });
        assert_eq!(complete, "");
    }
}
