//! The admin page: when it is served, its login, and that each of its sections works. Its behaviour in a browser is tested in
//! tests/browser.

use std::time::Duration;

use serde_json::{Value, json};
use wardcast::config::{self, Config, Environment, Sources};

use crate::{
    audit::{AuditedHub, assert_fields},
    login::{PASSWORD, WRONG, write_users_file},
    support::{
        API_KEY, TestHub, http, mark_secret, redis::RedisServer, start_hub, start_hub_on, start_hub_with,
        trust_loopback_proxy,
    },
    traces::Trace,
};

pub fn enable(config: &mut Config) {
    config.admin.enabled = true;
}

pub async fn start_admin_hub() -> TestHub {
    start_hub_with(enable).await
}

/// Starts a hub whose admin page has the user ann.
pub async fn start_users_hub(change: impl FnOnce(&mut Config)) -> (TestHub, tempfile::NamedTempFile) {
    let users = write_users_file();
    let path = users.path().to_owned();
    let hub = start_hub_with(move |config| {
        enable(config);
        config.admin.users_file = Some(path);
        change(config);
    });
    (hub.await, users)
}

/// A request as the browser sends it for the page.
pub fn page_request(method: &str, address: std::net::SocketAddr, path: &str) -> http::Request {
    let request = http::request(address, method, path).header("X-Wardcast-Admin", "1");
    if method == "GET" { request } else { request.header("Origin", &format!("http://{address}")) }
}

pub async fn log_in_with(address: std::net::SocketAddr, credential: Value) -> http::Response {
    page_request("POST", address, "/admin/login").json(credential).send().await
}

/// Logs in with the API key. Returns the `Cookie` header of the session.
pub async fn log_in(address: std::net::SocketAddr) -> String {
    let response = log_in_with(address, json!({"api_key": API_KEY})).await;
    assert_eq!(response.status, 200, "{response:?}");
    cookie_of(&response)
}

pub fn cookie_of(response: &http::Response) -> String {
    mark_secret(response.header("set-cookie").unwrap().split(';').next().unwrap().to_owned())
}

/// Calls a method of the server API as the page does.
pub async fn call(address: std::net::SocketAddr, cookie: &str, method: &str, body: Value) -> http::Response {
    page_request("POST", address, &format!("/api/{method}")).header("Cookie", cookie).json(body).send().await
}

pub async fn status_of_info(hub: &TestHub, cookie: &str) -> u16 {
    call(hub.address, cookie, "info", json!({})).await.status
}

#[actix_rt::test]
async fn admin_page_is_404_when_disabled() {
    let hub = start_hub().await;
    for path in ["/admin", "/admin/", "/admin/app.js", "/admin/session", "/admin/login"] {
        assert_eq!(page_request("GET", hub.address, path).send().await.status, 404, "{path}");
    }
    assert_eq!(log_in_with(hub.address, json!({"api_key": API_KEY})).await.status, 404);
    assert_eq!(status_of_info(&hub, "wardcast_admin=1.a.b.c.d").await, 401);
}

#[test]
fn admin_page_is_on_in_development_and_in_production_only_with_an_api_key() {
    let load = |environment, flags: &[(&str, &str)]| {
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        config::load(Sources { environment, file: None, variables: Vec::new(), flags })
    };
    let (secret, enabled) = (("auth.hmac_secret", "0123456789abcdef0123456789abcdef"), ("admin.enabled", "true"));
    let key = ("api.key", "fedcba9876543210fedcba9876543210");
    assert!(load(Environment::Development, &[]).unwrap().admin.enabled);
    assert!(!load(Environment::Production, &[secret]).unwrap().admin.enabled);
    assert!(load(Environment::Production, &[secret, enabled, key]).unwrap().admin.enabled);
    let error = load(Environment::Production, &[secret, enabled]).unwrap_err().to_string();
    assert!(error.contains("admin.enabled") && error.contains("api.key"), "{error}");
    let error = load(Environment::Development, &[("admin.session_ttl", "31d")]).unwrap_err().to_string();
    assert!(error.contains("admin.session_ttl") && error.contains("30d"), "{error}");
}

#[actix_rt::test]
async fn every_file_of_the_admin_page_has_restrictive_security_headers() {
    let hub = start_admin_hub().await;
    let mut found = vec!["/admin".to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        let response = http::get(hub.address, &path).send().await;
        assert_eq!(response.status, 200, "{path}");
        let policy = response.header("content-security-policy").unwrap();
        assert_eq!(
            policy,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'",
            "{path}"
        );
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(response.header(name), Some(value), "{path}: {name}");
        }
        let html = response.body.split("=\"admin/").skip(1).filter_map(|rest| rest.split('"').next());
        let scripts = response.body.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
        for name in html.chain(scripts) {
            let path = format!("/admin/{name}");
            if !found.contains(&path) {
                found.push(path);
            }
        }
        at += 1;
    }
    // All files that there are.
    assert_eq!(found.len(), 17, "{found:?}");
    let redirect = http::get(hub.address, "/admin/").send().await;
    assert_eq!((redirect.status, redirect.header("location")), (308, Some("../admin")));
}

#[actix_rt::test]
async fn admin_page_is_served_where_the_server_api_is() {
    let hub = start_hub_with(|config| {
        enable(config);
        config.server.internal_bind = Some(([127, 0, 0, 1], 0).into());
        // The address of the clients is no address of the page.
        config.server.public_url = Some("https://hub.example.com".to_owned());
    })
    .await;
    let internal = hub.internal_address();
    for path in ["/admin", "/admin/app.js", "/admin/session"] {
        assert_eq!(page_request("GET", hub.address, path).send().await.status, 404, "{path}");
        assert_eq!(page_request("GET", internal, path).send().await.status, 200, "{path}");
    }
    assert_eq!(log_in_with(hub.address, json!({"api_key": API_KEY})).await.status, 404);
    let cookie = log_in(internal).await;
    assert_eq!(call(internal, &cookie, "info", json!({})).await.status, 200);
    assert_eq!(call(hub.address, &cookie, "info", json!({})).await.status, 404);
    let publish = page_request("POST", hub.address, "/v1/channels/news/messages").header("Cookie", &cookie);
    assert_eq!(publish.json(json!(1)).send().await.status, 401, "a session is worth nothing on the public listener");
}

#[actix_rt::test]
async fn login_and_logout_of_another_origin_are_refused() {
    let hub = start_admin_hub().await;
    let cookie = log_in(hub.address).await;
    for path in ["/admin/login", "/admin/logout"] {
        let post = |header: &str, origin: &str| {
            let request = http::post(hub.address, path).header("Cookie", &cookie).header(header, "1");
            request.header("Origin", origin).json(json!({"api_key": API_KEY}))
        };
        let own = format!("http://{}", hub.address);
        assert_eq!(post("X-Wardcast-Admin", "https://evil.example.com").send().await.status, 403, "{path}");
        assert_eq!(post("X-Other", &own).send().await.status, 403, "{path}");
    }
    let form = page_request("POST", hub.address, "/admin/login").header("Content-Type", "text/plain");
    assert_eq!(form.body(json!({"api_key": API_KEY}).to_string()).send().await.status, 415);
    assert_eq!(status_of_info(&hub, &cookie).await, 200, "the session goes on");
}

#[actix_rt::test]
async fn malformed_login_is_refused_without_a_session() {
    let (hub, _users) = start_users_hub(|_| ()).await;
    for body in [
        json!({}),
        json!([API_KEY]),
        json!({"username": "ann"}),
        json!({"username": "ann", "password": PASSWORD, "api_key": API_KEY}),
        json!({"api_key": 7}),
        json!({"api_key": API_KEY, "more": 1}),
    ] {
        let response = log_in_with(hub.address, body.clone()).await;
        assert_eq!((response.status, response.header("set-cookie")), (400, None), "{body}");
        assert!(!response.body.contains(PASSWORD) && !response.body.contains(API_KEY), "{}", response.body);
    }
    let long = "x".repeat(2000);
    assert_eq!(log_in_with(hub.address, json!({"username": "ann", "password": long})).await.status, 401);
    let huge = "x".repeat(5000);
    assert_eq!(log_in_with(hub.address, json!({"username": "ann", "password": huge})).await.status, 413);
}

#[actix_rt::test]
async fn wrong_password_and_wrong_key_are_delayed_like_other_logins() {
    let (hub, _users) = start_users_hub(trust_loopback_proxy).await;
    let credentials = [
        ("192.0.2.1", json!({"username": "ann", "password": WRONG}), json!({"username": "ann", "password": PASSWORD})),
        ("192.0.2.2", json!({"api_key": WRONG}), json!({"api_key": API_KEY})),
    ];
    for (address, wrong, right) in credentials {
        let try_it = async |body: &Value| {
            let request = page_request("POST", hub.address, "/admin/login").header("X-Forwarded-For", address);
            request.json(body.clone()).send().await
        };
        let mut tries = 0;
        let delayed = loop {
            let response = try_it(&wrong).await;
            match response.status {
                401 => tries += 1,
                _ => break response,
            }
            assert_eq!(response.header("set-cookie"), None);
        };
        assert_eq!(delayed.status, 429, "{delayed:?}");
        // More, if the machine is so busy that the first delays end meanwhile.
        assert!(tries >= 5, "{tries}");
        let wait: u64 = delayed.header("retry-after").unwrap().parse().unwrap();
        assert_eq!(try_it(&right).await.status, 429, "also the right one has to wait");
        hub.clock.advance(Duration::from_secs(wait + 1));
        assert_eq!(try_it(&right).await.status, 200);
    }
    // Another address never had to wait.
    assert_eq!(log_in_with(hub.address, json!({"api_key": API_KEY})).await.status, 200);
}

/// Starts two hubs on one Redis, with the admin page.
pub async fn start_two_hubs() -> (RedisServer, TestHub, TestHub) {
    let redis = RedisServer::start().await;
    let change = |config: &mut Config| {
        enable(config);
        config.channels.history_size = 10;
        config.channels.presence = true;
    };
    let (one, two) = (start_hub_on(&redis, change).await, start_hub_on(&redis, change).await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    (redis, one, two)
}

#[actix_rt::test]
async fn every_section_of_the_page_works_across_two_nodes() {
    let (_redis, one, two) = start_two_hubs().await;
    let mut ann = two.connect_subscriber("ann", "news").await;
    let cookie = log_in(one.address).await;
    let result = async |method: &str, body: Value| {
        let response = call(one.address, &cookie, method, body).await;
        assert_eq!(response.status, 200, "{method}");
        let answer = response.json();
        assert_eq!(answer["error"], Value::Null, "{method}: {answer}");
        answer["result"].clone()
    };
    assert_eq!(result("info", json!({})).await["nodes"].as_array().unwrap().len(), 2);
    let channels = result("channels", json!({"limit": 50})).await;
    assert_eq!(channels, json!({"channels": {"news": {"num_clients": 1}}, "num_channels": 1}));
    let connections = result("connections", json!({"user": "ann", "limit": 50, "channels": 10})).await;
    let connection = &connections["connections"][0];
    assert_eq!((&connection["address"], &connection["channels"]), (&json!("127.0.0.1"), &json!(["news"])));
    result("publish", json!({"channel": "news", "data": {"hello": "world"}})).await;
    assert_eq!(ann.receive_publication().await, json!({"hello": "world"}));
    let history = result("history", json!({"channel": "news", "limit": 10, "reverse": true})).await;
    assert_eq!(history["publications"][0]["data"], json!({"hello": "world"}));
    assert_eq!(result("presence_stats", json!({"channel": "news"})).await["num_clients"], 1);
    assert_eq!(result("channel_info", json!({"channel": "news"})).await["num_clients"], 1);
    let explained = result("explain", json!({"user": "ann", "channel": "news"})).await;
    assert_eq!(explained["cause"], "delivered");
    let headers = [("Cookie", &*cookie), ("X-Wardcast-Admin", "1")];
    let mut trace = Trace::begin_with(&one, "user=ann", &headers).await;
    result("disconnect", json!({"user": "ann", "client": connection["client"]})).await;
    assert_eq!(ann.wait_for_close().await.0, Some(3503));
    trace.read_until("\"event\":\"disconnected\"").await;
    let mut bob = two.connect_subscriber("bob", "news").await;
    result("invalidate_user_tokens", json!({"user": "bob"})).await;
    assert_eq!(bob.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn logins_calls_and_logouts_of_admins_are_recorded_with_their_name() {
    let users = write_users_file();
    let path = users.path().to_owned();
    let audited = AuditedHub::start(move |config| {
        enable(config);
        config.admin.users_file = Some(path);
    })
    .await;
    let hub = &audited.hub;
    for (username, by) in [("ann", json!("admin:ann")), ("right horse battery", Value::Null)] {
        assert_eq!(log_in_with(hub.address, json!({"username": username, "password": WRONG})).await.status, 401);
        let line = audited.wait_for("login_failed", if by.is_null() { 2 } else { 1 }).await;
        assert_fields(&line, json!({"by": by, "path": "/admin/login", "address": "127.0.0.1"}));
    }
    assert!(!audited.text().contains("battery"));
    let cookie = cookie_of(&log_in_with(hub.address, json!({"username": "ann", "password": PASSWORD})).await);
    let logged_in = audited.wait_for("logged_in", 1).await;
    assert_fields(&logged_in, json!({"by": "admin:ann", "path": "/admin/login", "user": null}));
    assert!(logged_in["sid"].is_string() && logged_in["expires_at"].is_string(), "{logged_in}");
    call(hub.address, &cookie, "publish", json!({"channel": "news", "data": 1})).await;
    call(hub.address, &cookie, "info", json!({})).await;
    call(hub.address, &cookie, "disconnect", json!({"user": "bob"})).await;
    call(hub.address, &cookie, "invalidate_user_tokens", json!({"user": "bob"})).await;
    let fields = [("publish", json!({"channel": "news"})), ("disconnect", json!({"user": "bob"}))];
    for (number, (method, subject)) in fields.into_iter().enumerate() {
        let line = audited.wait_for("api_call", number + 1).await;
        assert_fields(&line, json!({"method": method, "by": "admin:ann", "address": "127.0.0.1"}));
        assert_fields(&line, subject);
    }
    assert_fields(&audited.wait_for("revoked", 1).await, json!({"by": "admin:ann", "user": "bob"}));
    page_request("POST", hub.address, "/admin/logout").header("Cookie", &cookie).send().await;
    assert_fields(&audited.wait_for("logged_out", 1).await, json!({"by": "admin:ann", "sid": logged_in["sid"]}));
    let with_key = log_in(hub.address).await;
    call(hub.address, &with_key, "disconnect", json!({"user": "bob"})).await;
    let line = audited.wait_for("api_call", 4).await;
    assert_fields(&line, json!({"method": "disconnect", "by": "admin"}));
    assert!(!audited.text().contains(cookie.rsplit_once('.').unwrap().1), "the text of a session");
}

#[actix_rt::test]
async fn users_file_that_cannot_be_used_stops_the_start() {
    let mut config = crate::support::config();
    enable(&mut config);
    config.admin.users_file = Some("/nonexistent/admins.toml".into());
    let error = wardcast::server::start(config, wardcast::clock::Clock::default()).await.err().unwrap().to_string();
    assert!(error.starts_with("admin.users_file: /nonexistent/admins.toml"), "{error}");
}
