//! Checks `[server]`: addresses, TLS, and the durations of a stop.

use rustls_pki_types::ServerName;

use super::{ErrorCollector, check_pair};
use crate::config::{BindAddresses, Config, Environment, TrustedProxy};

pub(super) fn check_listeners(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    check_public_listener(config, environment, errors);
    check_internal_listener(config, environment, errors);
}

fn check_public_listener(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    let server = &config.server;
    let tls = server.tls.cert.is_some();
    check_pair("server.tls", &server.tls.cert, &server.tls.key, errors);
    errors.require(
        tls || server.tls.ticket_keys.is_empty(),
        "server.tls.ticket_keys",
        "requires server.tls.cert and server.tls.key: tickets resume TLS sessions with this instance",
    );
    for bind in server.bind.iter().filter(|bind| !bind.is_local()) {
        errors.require(
            environment == Environment::Production,
            "server.bind",
            format!(
                "development listens on loopback only, not on {bind}; for other machines set WARDCAST_ENV=production, or \
                 environment = \"production\" at the top of the file"
            ),
        );
        errors.require(
            tls || server.behind_tls,
            "server.bind",
            format!(
                "other machines can reach {bind}, so tokens would be sent unencrypted; set server.tls.cert and server.tls.key, or \
                 server.behind_tls = true if a load balancer in front terminates TLS",
            ),
        );
    }
    check_overlaps("server.bind", &server.bind, errors);
    errors.require(
        server.websocket_paths.iter().all(|path| path.starts_with('/')) && !server.websocket_paths.is_empty(),
        "server.websocket_paths",
        "must list at least one path, and each must begin with \"/\"",
    );
    errors.require(
        is_path_prefix(&server.path_prefix),
        "server.path_prefix",
        "must be empty, or begin with \"/\" and not end with it, like \"/realtime\"; between the slashes only letters, digits, \
         '-', '_', '.' and '~'; at most 200 bytes, and not \"/health\"",
    );
    errors.require(server.workers <= 512, "server.workers", "must be at most 512");
    errors.require(
        (1..=9).contains(&server.compression.level),
        "server.compression.level",
        "must be 1 (fastest) to 9 (smallest); to send nothing compressed, set server.compression.enabled = false",
    );
    errors.require(
        !server.proxy_protocol || !server.trusted_proxies.is_empty(),
        "server.proxy_protocol",
        "requires server.trusted_proxies: PROXY headers are read from these addresses only",
    );
    errors.require(
        server.drain_delay <= server.drain / 2,
        "server.drain_delay",
        "must be at most half of server.drain, which includes it: the rest is for closing the sessions; shorten it, or \
         raise server.drain",
    );
}

fn check_internal_listener(config: &Config, environment: Environment, errors: &mut ErrorCollector) {
    const BIND: &str = "server.internal_bind";
    let (server, tls) = (&config.server, &config.server.internal_tls);
    let has_certificate = tls.cert.is_some();
    check_pair("server.internal_tls", &tls.cert, &tls.key, errors);
    errors.require(
        tls.client_ca.is_none() || has_certificate,
        "server.internal_tls.client_ca",
        "requires server.internal_tls.cert and key: without TLS clients send no certificate",
    );
    errors.require(
        tls.client_names.is_empty() || tls.client_ca.is_some(),
        "server.internal_tls.client_names",
        "requires server.internal_tls.client_ca: without it no client certificate is asked for",
    );
    for name in tls.client_names.iter().filter(|name| ServerName::try_from(name.as_str()).is_err()) {
        let problem = format!("{name:?} is neither a DNS name nor an IP address, as certificates have them");
        errors.add("server.internal_tls.client_names", problem);
    }
    let Some(internal) = &server.internal_bind else {
        return errors.require(
            !has_certificate,
            "server.internal_tls",
            "is the certificate of the internal listener; set server.internal_bind, or server.tls for the public one",
        );
    };
    for bind in internal.iter() {
        errors.require(
            !server.bind.iter().any(|public| public.overlaps(bind)),
            BIND,
            format!("{bind} is the address of server.bind, {}; choose another", server.bind),
        );
        errors.require(
            bind.is_local() || environment == Environment::Production,
            BIND,
            format!("development listens on loopback only, not on {bind}"),
        );
        errors.require(
            bind.is_local() || has_certificate || server.behind_tls,
            BIND,
            format!(
                "other machines can reach {bind}, so the API key would be sent unencrypted; set server.internal_tls.cert and key, \
                 or server.behind_tls = true if only a network that you trust reaches it"
            ),
        );
    }
    check_overlaps(BIND, internal, errors);
}

fn is_path_prefix(prefix: &str) -> bool {
    let is_segment = |segment: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !["", ".", ".."].contains(&segment) && segment.bytes().all(is_allowed)
    };
    let segments = prefix.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
    prefix.is_empty() || (segments && prefix.len() <= 200 && prefix.split('/').nth(1) != Some("health"))
}

/// Checks that no address of a list stands for another one of it.
fn check_overlaps(key: &str, addresses: &BindAddresses, errors: &mut ErrorCollector) {
    for (at, address) in addresses.iter().enumerate() {
        if let Some(earlier) = addresses.iter().take(at).find(|earlier| earlier.overlaps(address)) {
            errors.add(key, format!("names {address} although it has {earlier}; remove one of them"));
        }
    }
}

/// Warns of Unix sockets of clients whose addresses the hub does not know.
pub(super) fn unix_warning(config: &Config) -> Option<String> {
    let server = &config.server;
    let is_unix = server.bind.unix_paths().next().is_some();
    (is_unix && !server.trusted_proxies.contains(&TrustedProxy::Unix)).then(|| {
        "server.bind has a Unix socket, and server.trusted_proxies does not list \"unix\": all its clients share the limits of \
         one address; add \"unix\" if a load balancer connects there that sets X-Forwarded-For"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    /// The errors of a production hub behind TLS, with the internal listener that `change` describes.
    fn errors(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        config.auth.hmac_secret = Secret::new("0123456789abcdef0123456789abcdef");
        config.server.internal_bind = Some(([127, 0, 0, 1], 8001).into());
        change(&mut config);
        super::super::validate(&config, Environment::Production).iter().map(|error| format!("{error}\n")).collect()
    }

    #[test]
    fn internal_listener_needs_another_address_than_the_public_one() {
        assert_eq!(errors(|_| ()), "");
        for (bind, internal, is_same) in [
            ("127.0.0.1:8000", "127.0.0.1:8000", true),
            ("0.0.0.0:8000", "127.0.0.1:8000", true),
            ("127.0.0.1:8000", "[::]:8000", true),
            ("127.0.0.1:8000", "127.0.0.2:8000", false),
            ("127.0.0.1:8000", "127.0.0.1:8001", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let found = errors(|config| {
                config.server.behind_tls = true;
                config.server.bind = bind.parse().unwrap();
                config.server.internal_bind = Some(internal.parse().unwrap());
            });
            assert_eq!(found.contains("is the address of server.bind"), is_same, "{bind} {internal}: {found}");
        }
    }

    #[test]
    fn path_prefix_is_a_path_without_a_slash_at_its_end() {
        for (prefix, is_valid) in [
            ("", true),
            ("/realtime", true),
            ("/a/b-1.~_", true),
            ("/", false),
            ("realtime", false),
            ("/realtime/", false),
            ("/a//b", false),
            ("/a/../b", false),
            ("/{a}", false),
            ("/a?b", false),
            ("/a%20", false),
            ("/health", false),
        ] {
            let found = errors(|config| config.server.path_prefix = prefix.to_owned());
            assert_eq!(found.is_empty(), is_valid, "{prefix}: {found}");
        }
    }

    #[test]
    fn internal_listener_for_other_machines_needs_tls_or_behind_tls() {
        let open = |config: &mut Config| config.server.internal_bind = Some(([0, 0, 0, 0], 8001).into());
        assert!(errors(open).contains("the API key would be sent unencrypted"));
        let with_tls = |config: &mut Config| {
            open(config);
            let tls = &mut config.server.internal_tls;
            (tls.cert, tls.key) = (Some("cert.pem".into()), Some("key.pem".into()));
        };
        assert_eq!(errors(with_tls), "");
    }

    #[test]
    fn settings_of_internal_tls_require_each_other() {
        assert!(errors(|config| config.server.internal_tls.cert = Some("a".into())).contains("belong together"));
        assert!(errors(|config| config.server.internal_tls.client_ca = Some("a".into())).contains("client_ca"));
        let names = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            errors(|config| {
                let tls = &mut config.server.internal_tls;
                (tls.cert, tls.key, tls.client_ca) = (Some("a".into()), Some("a".into()), Some("a".into()));
                tls.client_names = names;
            })
        };
        assert_eq!(names(&["backend.internal", "10.0.0.5"]), "");
        assert!(names(&["not a name"]).contains("neither a DNS name nor an IP address"));
        assert!(errors(|config| config.server.internal_tls.client_names = vec!["a".to_owned()]).contains("client_ca"));
        let unused = errors(|config| {
            config.server.internal_bind = None;
            (config.server.internal_tls.cert, config.server.internal_tls.key) = (Some("a".into()), Some("a".into()));
        });
        assert!(unused.contains("set server.internal_bind"), "{unused}");
    }
}
