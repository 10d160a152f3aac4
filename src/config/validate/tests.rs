//! Tests of the validation: which configurations are errors, and what the errors say.

use super::*;
use crate::config::BrokerKind;
use crate::config::Secret;

fn errors(environment: Environment, change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::default();
    change(&mut config);
    validate(&config, environment).iter().map(|error| format!("{error}\n")).collect()
}

#[test]
fn production_requires_a_strong_secret() {
    assert!(errors(Environment::Production, |_| ()).contains("auth.hmac_secret"));
    for weak in ["secret", "short", &"a".repeat(40), "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYI"] {
        let reported = errors(Environment::Production, |config| config.auth.hmac_secret = Secret::new(weak));
        assert!(reported.contains("auth.hmac_secret") && reported.contains("openssl rand"), "{weak}: {reported}");
    }
    let strong = Secret::new("0123456789abcdef0123456789abcdef");
    assert_eq!(errors(Environment::Production, |config| config.auth.hmac_secret = strong), "");
}

#[test]
fn public_address_requires_tls_or_behind_tls() {
    let secret = || Secret::new("0123456789abcdef0123456789abcdef");
    let open = |config: &mut Config| {
        config.auth.hmac_secret = secret();
        config.server.bind = ([0, 0, 0, 0], 8000).into();
    };
    assert!(errors(Environment::Production, open).contains("unencrypted"));
    assert!(errors(Environment::Development, open).contains("loopback only"));
    let behind_tls = |config: &mut Config| {
        open(config);
        config.server.behind_tls = true;
    };
    assert_eq!(errors(Environment::Production, behind_tls), "");
}

#[test]
fn malformed_origin_is_reported_with_the_expected_form() {
    let allowed = |entry: &str| {
        let entry = entry.to_owned();
        errors(Environment::Development, |config| config.origins.allowed = vec!["*".to_owned(), entry])
    };
    for fine in
        ["*", "https://app.example.com", "http://localhost:3000", "https://*.example.com", "capacitor://localhost"]
    {
        assert_eq!(allowed(fine), "", "{fine}");
    }
    for wrong in ["app.example.com", "https://app.example.com/", "https://a.*.com", "null", "", "https://*"] {
        let reported = allowed(wrong);
        assert!(
            reported.contains("origins.allowed") && reported.contains(&format!("{wrong:?} is not an origin")),
            "{reported}"
        );
    }
    for wrong in ["hub.example.com", "https://hub.example.com/", "wss://hub.example.com", "https://hub.example.com/x"] {
        let reported = errors(Environment::Development, |config| config.server.public_url = Some(wrong.to_owned()));
        assert!(reported.contains("server.public_url") && reported.contains("without a path"), "{wrong}: {reported}");
    }
}

#[test]
fn proxy_protocol_requires_trusted_proxies() {
    let reported = errors(Environment::Development, |config| config.server.proxy_protocol = true);
    assert!(reported.contains("server.proxy_protocol") && reported.contains("trusted_proxies"), "{reported}");
}

#[test]
fn drain_delay_is_at_most_half_of_the_drain() {
    for (delay, is_valid) in [(0, true), (4, true), (5, false)] {
        let reported = errors(Environment::Development, |config| config.server.drain_delay = delay * SECOND);
        assert_eq!(!reported.contains("server.drain_delay"), is_valid, "{delay} s of 8 s: {reported}");
    }
    assert!(errors(Environment::Development, |config| config.server.drain = SECOND).contains("raise server.drain"));
}

#[test]
fn login_cookie_requires_a_valid_name_and_the_cookie_door() {
    for wrong in ["", "a b", "a=b", "a;b", "\u{e9}"] {
        assert!(errors(Environment::Development, |config| config.auth.cookie = wrong.into()).contains("auth.cookie"));
    }
    let reported = |environment| {
        errors(environment, |config| {
            config.login.cookie = true;
            config.auth.doors = vec![crate::config::Door::Query];
        })
    };
    assert!(reported(Environment::Production).contains("login.cookie"));
    // In development login.cookie is a default, so disabling the cookie in auth.doors is no error.
    assert!(!reported(Environment::Development).contains("login.cookie"));
}

#[test]
fn production_without_hmac_secret_requires_complete_keys() {
    let key = |text: &str| toml::from_str::<KeyConfig>(text).unwrap();
    let good = "id = \"a\"\nalgorithm = \"ES256\"\nfile = \"a.pem\"";
    assert_eq!(errors(Environment::Production, |config| config.auth.keys = vec![key(good)]), "");
    let reported = errors(Environment::Production, |config| {
        config.auth.keys = vec![key(good)];
        config.login.users_file = Some("users.toml".into());
    });
    assert!(reported.contains("login.key"), "no key to sign with: {reported}");
    for (text, remedy) in [
        ("id = \"a\"\nalgorithm = \"ES256\"", "exactly one of"),
        ("id = \"a\"\nalgorithm = \"ES256\"\nfile = \"a\"\njwks = \"b\"", "exactly one of"),
        ("algorithm = \"ES256\"\nfile = \"a\"", "must have an id"),
        ("jwk = '{\"kty\":\"EC\"}'", "must have an id"),
        ("id = \"a\"\nfile = \"a\"", "must have an algorithm"),
        ("id = \"a\"\njwks = \"a\"", "remove id"),
    ] {
        let reported = errors(Environment::Development, |config| config.auth.keys = vec![key(text)]);
        assert!(reported.contains("auth.keys") && reported.contains(remedy), "{text}: {reported}");
    }
    let named = key("jwk = '{\"kty\":\"EC\",\"kid\":\"a\"}'");
    assert_eq!(errors(Environment::Development, |config| config.auth.keys = vec![named]), "");
}

/// An entry of `auth.keys` with these settings.
fn entry(settings: &str) -> KeyConfig {
    toml::from_str(settings).unwrap_or_else(|error| panic!("{settings}: {error}"))
}

#[test]
fn two_issuers_without_different_user_prefixes_are_an_error() {
    let with = |more: [&str; 2], change: fn(&mut Config)| {
        errors(Environment::Development, |config| {
            let key = |(id, more): (&str, &str)| {
                entry(&format!("id = {id:?}\nalgorithm = \"ES256\"\nfile = \"{id}\"\n{more}"))
            };
            config.auth.keys = ["a", "b"].into_iter().zip(more).map(key).collect();
            change(config);
        })
    };
    let (a, b) = ("issuer = \"a\"", "issuer = \"b\"");
    let reported = with([a, b], |_| ());
    assert!(reported.contains("the issuer \"a\" and of the issuer \"b\""), "{reported}");
    assert!(reported.contains("user_prefix") && reported.contains("auth.shared_subjects = true"), "{reported}");
    assert_eq!(with([a, a], |_| ()), "", "two keys of one issuer");
    assert_eq!(with(["", ""], |_| ()), "", "two keys of the operator's own");
    assert_eq!(with([a, "issuer = \"b\"\nuser_prefix = \"b:\""], |_| ()), "");
    assert_eq!(with([a, b], |config| config.auth.shared_subjects = true), "");
    assert_eq!(with([a, "issuer = \"b\"\npurpose = \"subscription\""], |_| ()), "", "it opens no connections");
    assert_ne!(with([a, b], |config| config.auth.user_prefix = Some("all:".to_owned())), "", "one prefix for both");
    assert_ne!(with([a, ""], |_| ()), "", "an issuer, and a key of any issuer");
    assert_eq!(with([a, ""], |config| config.auth.issuer = Some("a".to_owned())), "");
    let secret = |config: &mut Config| config.auth.hmac_secret = Secret::new("0123456789abcdef0123456789abcdef");
    assert!(with([a, a], secret).contains("the keys without an issuer and of the issuer \"a\""));
    let login = |config: &mut Config| config.login.key = Secret::new("0123456789abcdef0123456789abcdef");
    assert_ne!(with([a, a], login), "", "users of the login, and of an issuer");
    let sets = errors(Environment::Development, |config| {
        config.auth.keys = ["a.json", "b.json"].map(|path| entry(&format!("jwks = {path:?}"))).into();
    });
    assert!(sets.contains("the JWK set a.json without an issuer"), "{sets}");
}

#[test]
fn a_user_prefix_is_the_beginning_of_a_channel_of_one_user() {
    for (prefix, is_valid) in [
        ("id:", true),
        ("a#b", true),
        ("é", true),
        ("a,", false),
        ("a\n", false),
        ("*", false),
        (&"x".repeat(65), false),
    ] {
        let reported = errors(Environment::Development, |config| config.auth.user_prefix = Some(prefix.to_owned()));
        assert_eq!(reported.is_empty(), is_valid, "{prefix:?}: {reported}");
        let key = format!("id = \"a\"\nalgorithm = \"ES256\"\nfile = \"a\"\nuser_prefix = {prefix:?}");
        let reported = errors(Environment::Development, |config| config.auth.keys = vec![entry(&key)]);
        assert_eq!(reported.is_empty(), is_valid, "{prefix:?}: {reported}");
    }
}

#[test]
fn a_public_key_without_audience_is_a_warning() {
    let warned = |keys: &[&str], audience: &str| {
        let mut config = Config::default();
        config.auth.keys = keys.iter().map(|key| entry(key)).collect();
        config.auth.audience = Some(audience.to_owned()).filter(|audience| !audience.is_empty());
        warnings(&config)
    };
    let provider = "jwks = \"a.json\"\nissuer = \"https://id.example.com/\"";
    let text = warned(&[provider], "").join("\n");
    assert!(text.contains("https://id.example.com/") && text.contains("set audience"), "{text}");
    assert_eq!(warned(&[provider, provider], "").len(), 1, "once for each issuer");
    assert_eq!(warned(&[&format!("{provider}\naudience = \"hub\"")], "").len(), 0);
    assert_eq!(warned(&[provider], "hub").len(), 0);
    let public = "id = \"a\"\nalgorithm = \"ES256\"\nfile = \"a.pem\"";
    assert!(warned(&[public], "").join("\n").contains("accepted whatever application they are for"));
    let secret = "id = \"a\"\nalgorithm = \"HS256\"\nfile = \"a.txt\"";
    assert_eq!(warned(&[secret], "").len(), 0, "a secret of one backend");
    assert_eq!(warned(&[&format!("{secret}\nissuer = \"x\"")], "").len(), 1);
}

#[test]
fn token_bytes_has_bounds() {
    for (bytes, is_valid) in [(8191, false), (8192, true), (65_000, true), (65_001, false)] {
        let reported = errors(Environment::Development, |config| config.limits.token_bytes = bytes);
        assert_eq!(reported.is_empty(), is_valid, "{bytes}: {reported}");
    }
}

#[test]
fn namespace_names_are_valid_and_unique() {
    let names = |names: &[&str]| {
        errors(Environment::Development, |config| {
            config.namespaces = names.iter().map(|name| toml::from_str(&format!("name = {name:?}")).unwrap()).collect();
        })
    };
    assert_eq!(names(&["chat", "a-b_c.9"]), "");
    assert!(names(&["chat", "chat"]).contains("twice"));
    for bad in ["", "a b", "a:b", "$a", "a#", "é", &"x".repeat(65)] {
        assert!(names(&[bad]).contains("letters, digits"), "{bad}");
    }
}

#[test]
fn missing_exp_requirement_is_a_warning() {
    let mut config = Config::default();
    assert!(warnings(&config).is_empty());
    config.auth.required_claims = Vec::new();
    assert!(warnings(&config)[0].contains("required_claims"));
}

#[test]
fn limits_too_small_for_a_publication_are_errors() {
    assert!(errors(Environment::Development, |config| config.limits.outbox_bytes = 70_000).contains("at most half"));
}

#[test]
fn demo_password_requires_development_no_users_file_and_strength() {
    let demo = |environment, password: &str, more: fn(&mut Config)| {
        errors(environment, |config| {
            config.auth.hmac_secret = Secret::new("0123456789abcdef0123456789abcdef");
            config.login.demo_password = Secret::new(password);
            more(config);
        })
    };
    let good = "right horse";
    assert_eq!(demo(Environment::Development, good, |_| ()), "");
    assert!(demo(Environment::Production, good, |_| ()).contains("wardcast user add"));
    let with_users_file =
        demo(Environment::Development, good, |config| config.login.users_file = Some("users.toml".into()));
    assert!(with_users_file.contains("remove one of them"), "{with_users_file}");
    for weak in ["short", "password", "aaaaaaaaaaaa"] {
        let reported = demo(Environment::Development, weak, |_| ());
        assert!(reported.contains("login.demo_password") && reported.contains("the hub generates"), "{reported}");
    }
    let jti = |config: &mut Config| config.auth.required_claims.push(RequiredClaim::Jti);
    assert_eq!(demo(Environment::Development, good, jti), "", "tokens of the login have a jti");
    let nbf = |config: &mut Config| config.auth.required_claims.push(RequiredClaim::Nbf);
    assert!(demo(Environment::Development, good, nbf).contains("auth.required_claims"));
}

#[test]
fn contradicting_channel_options_are_reported_with_their_namespace() {
    let reported = |options: &str| {
        let namespace = toml::from_str(&format!("name = \"chat\"\n{options}")).expect("a namespace");
        errors(Environment::Development, |config| config.namespaces = vec![namespace])
    };
    for fine in [
        "history_size = 1000000\nforce_recovery = true\nforce_recovery_mode = \"cache\"",
        "history_size = 1\nforce_positioning = true\nhistory_ttl = \"1s\"\nhistory_meta_ttl = \"1s\"",
        "presence = true\njoin_leave = true\nforce_push_join_leave = true",
        "allowed_delta_types = [\"fossil\"]\ndelta_publish = true\nallow_history = \"subscriber\"",
    ] {
        assert_eq!(reported(fine), "", "{fine}");
    }
    for (wrong, word) in [
        ("history_size = 1000001", "history_size (from the whole configuration): must be at most 1000000"),
        ("history_ttl = \"900ms\"", ".history_ttl (from the whole configuration): must"),
        ("history_ttl = \"366d\"", ".history_ttl (from the whole configuration): must"),
        ("history_ttl = \"2h\"\nhistory_meta_ttl = \"1h\"", "history_meta_ttl (from the whole configuration): must"),
        ("force_positioning = true", "set history_size"),
        ("force_recovery = true", "set history_size"),
        ("force_recovery_mode = \"cache\"", "set history_size"),
        ("force_push_join_leave = true", "requires join_leave"),
        ("delta_publish = true", "allowed_delta_types"),
    ] {
        let reported = reported(wrong);
        assert!(reported.contains("namespaces \"chat\"") && reported.contains(word), "{wrong}: {reported}");
    }
}

#[test]
fn redis_tls_without_tls_url_or_with_half_a_pair_is_an_error() {
    let reported = |url: &str, change: fn(&mut crate::config::RedisTlsConfig)| {
        errors(Environment::Development, |config| {
            config.broker.kind = BrokerKind::Redis;
            config.broker.redis.url = Secret::new(url);
            change(&mut config.broker.redis.tls);
        })
    };
    assert_eq!(reported("rediss://localhost", |_| ()), "");
    let with_plain_url = reported("redis://localhost", |tls| tls.ca = Some("ca.pem".into()));
    assert!(with_plain_url.contains("broker.redis.tls.ca") && with_plain_url.contains("rediss://"), "{with_plain_url}");
    let half = reported("rediss://localhost", |tls| tls.key = Some("key.pem".into()));
    assert!(half.contains("broker.redis.tls ") && half.contains("belong together"), "{half}");
    assert!(reported("http://localhost", |_| ()).contains("broker.redis.url"));
}

#[test]
fn sentinel_keys_that_cannot_work_are_errors() {
    type Change<'a> = &'a dyn Fn(&mut crate::config::RedisSentinelConfig);
    let reported = |url: &str, change: Change| {
        errors(Environment::Development, |config| {
            config.broker.kind = BrokerKind::Redis;
            config.broker.redis.url = Secret::new(url);
            change(&mut config.broker.redis.sentinel);
        })
    };
    let with = |url: &str| vec![Secret::new("redis://one:26379"), Secret::new(url)];
    let url = "redis://localhost";
    assert_eq!(reported(url, &|sentinel| sentinel.urls = with("rediss://two:26379")), "");
    let cases: [(&str, &str, Change); 7] = [
        (url, "without broker.redis.sentinel.urls", &|sentinel| sentinel.master_name = "main".to_owned()),
        (url, "sentinel.urls", &|sentinel| sentinel.urls = with("two:26379")),
        (url, "sentinel.master_name", &|sentinel| sentinel.master_name.clear()),
        (url, "sentinel.password", &|sentinel| sentinel.password = Secret::new("secret")),
        (url, "sentinel.username", &|sentinel| sentinel.username = Some("hub".to_owned())),
        (url, "begin an entry of broker.redis.sentinel.urls", &|sentinel| sentinel.tls.ca = Some("ca.pem".into())),
        ("unix:/run/redis", "broker.redis.url", &|sentinel| sentinel.urls = with("redis://two:26379")),
    ];
    for (url, problem, change) in cases {
        let reported = reported(url, change);
        assert!(reported.contains(problem), "{problem}: {reported}");
    }
}

#[test]
fn keys_of_several_servers_and_of_a_cluster_that_cannot_work_are_errors() {
    let reported = |change: &dyn Fn(&mut crate::config::RedisConfig)| {
        errors(Environment::Development, |config| {
            config.broker.kind = BrokerKind::Redis;
            change(&mut config.broker.redis);
        })
    };
    let list = |urls: &[&str]| urls.iter().map(|url| Secret::new(*url)).collect::<Vec<_>>();
    let two = ["redis://one", "unix:/run/two"];
    assert_eq!(reported(&|redis| redis.urls = list(&two)), "");
    assert_eq!(reported(&|redis| redis.cluster.urls = list(&["redis://one", "rediss://two"])), "");
    assert!(reported(&|redis| redis.urls = list(&["redis://one", "two"])).contains("broker.redis.urls"));
    let tls = reported(&|redis| (redis.tls.ca, redis.urls) = (Some("ca.pem".into()), list(&two)));
    assert!(tls.contains("begin an entry of broker.redis.urls"), "{tls}");
    assert!(reported(&|redis| redis.cluster.urls = list(&two)).contains("broker.redis.cluster.urls"));
    assert!(reported(&|redis| redis.partitions = 0).contains("broker.redis.partitions"));
    assert!(reported(&|redis| redis.partitions = 16_385).contains("broker.redis.partitions"));
    let both = reported(&|redis| (redis.urls, redis.cluster.urls) = (list(&two), list(&["redis://one"])));
    assert!(both.contains("exclude each other"), "{both}");
    let tls = reported(&|redis| (redis.tls.ca, redis.urls) = (Some("ca.pem".into()), list(&["rediss://one"])));
    assert_eq!(tls, "");
}

#[test]
fn keys_of_one_form_of_redis_beside_another_form_are_errors() {
    type Change<'a> = &'a dyn Fn(&mut crate::config::RedisConfig);
    let list = || vec![Secret::new("redis://one:1")];
    let url = || Secret::new("redis://elsewhere");
    let cases: [(Change, &[&str]); 7] = [
        (&|redis| (redis.url, redis.urls) = (url(), list()), &["broker.redis.url ", "beside broker.redis.urls"]),
        (
            &|redis| (redis.url, redis.cluster.urls) = (url(), list()),
            &["broker.redis.url ", "beside broker.redis.cluster.urls"],
        ),
        (&|redis| redis.partitions = 64, &["broker.redis.partitions ", "without broker.redis.cluster.urls"]),
        (
            &|redis| (redis.partitions, redis.urls) = (64, list()),
            &["broker.redis.partitions ", "without broker.redis.cluster.urls"],
        ),
        (&|redis| (redis.partitions, redis.cluster.urls) = (64, list()), &[]),
        // With sentinels, the URL says how to authenticate to the master.
        (&|redis| (redis.url, redis.sentinel.urls) = (url(), list()), &[]),
        (&|redis| (redis.urls, redis.sentinel.urls) = (list(), list()), &["broker.redis ", "exclude each other"]),
    ];
    for (change, expected) in cases {
        let reported = errors(Environment::Development, |config| {
            config.broker.kind = BrokerKind::Redis;
            change(&mut config.broker.redis);
        });
        assert_eq!(reported.is_empty(), expected.is_empty(), "{expected:?}: {reported}");
        expected.iter().for_each(|part| assert!(reported.contains(part), "no {part:?} in {reported}"));
    }
}

#[test]
fn bus_keys_that_are_weak_equal_or_without_a_first_one_are_errors() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let reported = |key: &str, accepted: &str, accepts_unsigned| {
        errors(Environment::Production, |config| {
            config.auth.hmac_secret = Secret::new(KEY);
            config.broker.kind = BrokerKind::Redis;
            let redis = &mut config.broker.redis;
            (redis.bus_key, redis.bus_key_accepted) = (Secret::new(key), Secret::new(accepted));
            redis.bus_accept_unsigned = accepts_unsigned;
        })
    };
    let other = KEY.replace('0', "x");
    for (key, accepted, accepts_unsigned) in [("", "", false), (KEY, "", false), (KEY, &other, true)] {
        assert_eq!(reported(key, accepted, accepts_unsigned), "");
    }
    for (key, accepted, accepts_unsigned, named, problem) in [
        ("short", "", false, "bus_key ", "at least 32"),
        (KEY, "short", false, "bus_key_accepted", "at least 32"),
        (KEY, KEY, false, "bus_key_accepted", "is equal to"),
        ("", KEY, false, "bus_key_accepted", "without broker.redis.bus_key"),
        ("", "", true, "bus_accept_unsigned", "without broker.redis.bus_key"),
    ] {
        let text = reported(key, accepted, accepts_unsigned);
        assert!(text.contains(&format!("broker.redis.{named}")) && text.contains(problem), "{text}");
    }
}
