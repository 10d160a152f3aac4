//! What must hold between values, judged on the whole configuration; every finding names its key and a remedy.

use std::time::Duration;

use super::{BrokerKind, Config, Door, Environment, Fault, Secret};
use crate::origin::{Origin, Rule};

/// The shortest HMAC secret that is not guessed offline: the hash's own length (RFC 7518 §3.2, RFC 8725 §3.5).
pub(crate) const SECRET_BYTES: usize = 32;

/// Everything that is wrong with `config` as a whole.
pub(super) fn validate(config: &Config, environment: Environment) -> Vec<Fault> {
    let mut findings = Findings(Vec::new());
    secrets(config, environment, &mut findings);
    listener(config, environment, &mut findings);
    pages(config, &mut findings);
    findings.unless(
        config.login.token_ttl <= config.auth.max_ttl,
        "login.token_ttl",
        "must be at most auth.max_ttl, or no token of the login would be accepted",
    );
    limits(config, &mut findings);
    redis(config, &mut findings);
    findings.0
}

struct Findings(Vec<Fault>);

impl Findings {
    fn unless(&mut self, fine: bool, key: &str, problem: impl Into<String>) {
        if !fine {
            self.0.push(Fault::new(key, "the whole configuration", problem));
        }
    }
}

fn secrets(config: &Config, environment: Environment, findings: &mut Findings) {
    let required = environment == Environment::Production;
    for (key, secret, required) in [
        ("auth.hmac_secret", &config.auth.hmac_secret, required),
        ("api.key", &config.api.key, false),
        ("login.key", &config.login.key, false),
    ] {
        if secret.is_empty() {
            let remedy = "must be set in production; make one with: openssl rand -hex 32";
            findings.unless(!required, key, remedy);
        } else if let Some(problem) = weakness(secret) {
            findings.unless(false, key, format!("{problem}; make one with: openssl rand -hex 32"));
        }
    }
}

/// Why a secret would be guessed.
fn weakness(secret: &Secret) -> Option<String> {
    let bytes = secret.expose().as_bytes();
    let samples = ["secret", "changeme", "password", "your-256-bit-secret"];
    if samples.iter().any(|sample| secret.expose().eq_ignore_ascii_case(sample)) {
        Some("is a sample that everybody knows".to_owned())
    } else if bytes.len() < SECRET_BYTES {
        Some(format!("has {} bytes and must have at least {SECRET_BYTES}", bytes.len()))
    } else if bytes.iter().all(|byte| *byte == bytes[0]) {
        Some("is one byte repeated".to_owned())
    } else if secret.expose().starts_with("-----BEGIN") {
        Some("is a PEM file, which everybody may know, not a secret".to_owned())
    } else {
        None
    }
}

fn listener(config: &Config, environment: Environment, findings: &mut Findings) {
    let server = &config.server;
    let tls = server.tls.cert.is_some();
    findings.unless(
        tls == server.tls.key.is_some(),
        "server.tls",
        "cert and key go together: set both PEM files or neither",
    );
    let loopback = server.bind.ip().is_loopback();
    findings.unless(
        loopback || environment == Environment::Production,
        "server.bind",
        format!(
            "development listens on loopback only, not on {}; set WARDCAST_ENV=production to be reached from outside",
            server.bind
        ),
    );
    findings.unless(
        loopback || tls || server.behind_tls,
        "server.bind",
        format!(
            "{} is beyond loopback and tokens would travel in the clear; set server.tls.cert and server.tls.key, or \
             server.behind_tls = true when a balancer in front ends TLS",
            server.bind
        ),
    );
    findings.unless(
        server.websocket_paths.iter().all(|path| path.starts_with('/')) && !server.websocket_paths.is_empty(),
        "server.websocket_paths",
        "must name at least one path, each beginning with \"/\"",
    );
    findings.unless(!config.auth.doors.is_empty(), "auth.doors", "must leave at least one door open");
    findings.unless(server.workers <= 512, "server.workers", "must be at most 512");
    for (key, value) in [
        ("server.ping_interval", server.ping_interval),
        ("server.pong_timeout", server.pong_timeout),
        ("auth.first_message_timeout", config.auth.first_message_timeout),
        ("login.token_ttl", config.login.token_ttl),
        ("auth.max_ttl", config.auth.max_ttl),
    ] {
        let bounds = Duration::from_millis(100)..=Duration::from_secs(10 * 365 * 86400);
        findings.unless(bounds.contains(&value), key, "must be at least 100ms and at most ten years");
    }
}

/// Whose pages and whose proxies are believed, and the cookie.
fn pages(config: &Config, findings: &mut Findings) {
    let server = &config.server;
    let is_origin = |url: &String| Origin::parse(url).is_some_and(|origin| origin.is_http());
    findings.unless(
        server.public_url.as_ref().is_none_or(is_origin),
        "server.public_url",
        "must be https://host[:port] or http://host[:port], without a path or a slash at its end",
    );
    findings.unless(
        !server.proxy_protocol || !server.trusted_proxies.is_empty(),
        "server.proxy_protocol",
        "is believed from server.trusted_proxies only; name them",
    );
    for entry in config.origins.allowed.iter().filter(|entry| Rule::parse(entry).is_none()) {
        let form =
            "\"https://app.example.com\", \"https://*.example.com\" or \"*\", without a path or a slash at its end";
        findings.unless(false, "origins.allowed", format!("{entry:?} is no origin; write it as {form}"));
    }
    let auth = &config.auth;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    findings.unless(
        !auth.cookie.is_empty() && auth.cookie.bytes().all(is_token),
        "auth.cookie",
        "must be the name of a cookie: letters, digits, '-', '_' and '.'",
    );
    findings.unless(
        !config.login.cookie || auth.doors.contains(&Door::Cookie),
        "login.cookie",
        "sets a cookie that no door takes; add \"cookie\" to auth.doors",
    );
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    findings.unless(bounds.contains(&auth.ticket_ttl), "auth.ticket_ttl", "must be at least 1s and at most 1h");
    findings.unless(bounds.contains(&config.login.backoff), "login.backoff", "must be at least 1s and at most 1h");
    findings.unless(config.login.failures >= 1, "login.failures", "must be at least 1");
}

fn limits(config: &Config, findings: &mut Findings) {
    let limits = &config.limits;
    for (key, value, at_least) in [
        ("limits.message_bytes", limits.message_bytes, 1024),
        ("limits.message_fragments", limits.message_fragments, 1),
        ("limits.publication_bytes", limits.publication_bytes, 1),
        ("limits.outbox_bytes", limits.outbox_bytes, 4096),
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
        findings.unless(value >= at_least, key, format!("must be at least {at_least}"));
    }
    let room = limits.publication_bytes.saturating_mul(2);
    findings.unless(
        limits.outbox_bytes >= room && limits.hub_queue_bytes >= room,
        "limits.publication_bytes",
        "must fit twice into limits.outbox_bytes and limits.hub_queue_bytes",
    );
}

fn redis(config: &Config, findings: &mut Findings) {
    if config.broker.kind != BrokerKind::Redis {
        return;
    }
    let redis = &config.broker.redis;
    findings.unless(
        redis.url.expose().starts_with("redis://") || redis.url.expose().starts_with("unix:"),
        "broker.redis.url",
        "must begin with redis:// (or unix: for a socket)",
    );
    findings.unless(
        !redis.prefix.is_empty()
            && redis.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
        "broker.redis.prefix",
        "must consist of letters, digits, '-', '_' and '.'",
    );
    findings.unless(redis.pool_size >= 1, "broker.redis.pool_size", "must be at least 1");
    findings.unless(
        redis.message_bytes >= config.limits.publication_bytes + 4096,
        "broker.redis.message_bytes",
        "must hold a publication and its envelope: at least limits.publication_bytes + 4096",
    );
    for (key, value) in [("broker.redis.timeout", redis.timeout), ("broker.redis.probe_interval", redis.probe_interval)]
    {
        findings.unless(value >= Duration::from_millis(100), key, "must be at least 100ms");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(environment: Environment, change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        validate(&config, environment).iter().map(|fault| format!("{fault}\n")).collect()
    }

    #[test]
    fn production_wants_a_real_secret() {
        assert!(faults(Environment::Production, |_| ()).contains("auth.hmac_secret"));
        for weak in ["secret", "short", &"a".repeat(40), "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYI"] {
            let told = faults(Environment::Production, |config| config.auth.hmac_secret = Secret::new(weak));
            assert!(told.contains("auth.hmac_secret") && told.contains("openssl rand"), "{weak}: {told}");
        }
        let strong = Secret::new("0123456789abcdef0123456789abcdef");
        assert_eq!(faults(Environment::Production, |config| config.auth.hmac_secret = strong), "");
    }

    #[test]
    fn beyond_loopback_wants_tls_or_a_word() {
        let secret = || Secret::new("0123456789abcdef0123456789abcdef");
        let open = |config: &mut Config| {
            config.auth.hmac_secret = secret();
            config.server.bind = ([0, 0, 0, 0], 8000).into();
        };
        assert!(faults(Environment::Production, open).contains("in the clear"));
        assert!(faults(Environment::Development, open).contains("loopback only"));
        let meant = |config: &mut Config| {
            open(config);
            config.server.behind_tls = true;
        };
        assert_eq!(faults(Environment::Production, meant), "");
    }

    #[test]
    fn an_origin_that_is_none_is_told_with_its_form() {
        let allowed = |entry: &str| {
            let entry = entry.to_owned();
            faults(Environment::Development, |config| config.origins.allowed = vec!["*".to_owned(), entry])
        };
        for fine in
            ["*", "https://app.example.com", "http://localhost:3000", "https://*.example.com", "capacitor://localhost"]
        {
            assert_eq!(allowed(fine), "", "{fine}");
        }
        for wrong in ["app.example.com", "https://app.example.com/", "https://a.*.com", "null", "", "https://*"] {
            let told = allowed(wrong);
            assert!(told.contains("origins.allowed") && told.contains(&format!("{wrong:?} is no origin")), "{told}");
        }
        for wrong in
            ["hub.example.com", "https://hub.example.com/", "wss://hub.example.com", "https://hub.example.com/x"]
        {
            let told = faults(Environment::Development, |config| config.server.public_url = Some(wrong.to_owned()));
            assert!(told.contains("server.public_url") && told.contains("without a path"), "{wrong}: {told}");
        }
    }

    #[test]
    fn a_proxys_header_is_believed_of_somebody_or_not_at_all() {
        let told = faults(Environment::Development, |config| config.server.proxy_protocol = true);
        assert!(told.contains("server.proxy_protocol") && told.contains("trusted_proxies"), "{told}");
    }

    #[test]
    fn a_cookie_has_a_name_and_a_door() {
        for wrong in ["", "a b", "a=b", "a;b", "\u{e9}"] {
            assert!(
                faults(Environment::Development, |config| config.auth.cookie = wrong.into()).contains("auth.cookie")
            );
        }
        let told = faults(Environment::Development, |config| {
            config.login.cookie = true;
            config.auth.doors = vec![Door::Query];
        });
        assert!(told.contains("login.cookie"), "{told}");
    }

    #[test]
    fn limits_that_cannot_hold_a_publication_are_refused() {
        assert!(faults(Environment::Development, |config| config.limits.outbox_bytes = 70_000).contains("fit twice"));
    }
}
