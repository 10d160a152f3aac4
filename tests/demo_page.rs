//! The demo page: when it is served, its security headers, and that a WebSocket handshake at `/` still works. Its behaviour
//! in a browser is tested in tests/browser.

use serde_json::json;
use wardcast::config::{self, AnonymousAccess, Door, Environment, Secret, Sources};

use crate::support::{TestHub, http, start_hub, start_hub_with};

/// Starts a hub that serves the page.
async fn start_page_hub() -> TestHub {
    start_hub_with(|config| config.web.demo_page = true).await
}

async fn get(hub: &TestHub, path: &str) -> http::Response {
    http::get(hub.address, path).send().await
}

/// The paths of the page and of all files that it refers to, directly or through other files.
async fn page_paths(hub: &TestHub) -> Vec<String> {
    let mut found = vec!["/".to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        let text = get(hub, &path).await.body;
        let html = text.split("=\"demo/").skip(1).filter_map(|rest| rest.split('"').next());
        let scripts = text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
        for name in html.chain(scripts) {
            let path = format!("/demo/{name}");
            if !found.contains(&path) {
                found.push(path);
            }
        }
        at += 1;
    }
    found
}

#[actix_rt::test]
async fn demo_page_is_404_when_disabled() {
    let hub = start_hub().await;
    assert_eq!(get(&hub, "/").await.status, 426, "without the page, / is a WebSocket path only");
    for path in ["/demo/hub.json", "/demo/app.js", "/demo/", "/demo"] {
        assert_eq!(get(&hub, path).await.status, 404, "{path}");
    }
}

#[test]
fn demo_page_is_on_in_development_and_off_in_production_by_default() {
    let load = |environment, flags: &[(&str, &str)]| {
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        config::load(Sources { environment, file: None, variables: Vec::new(), flags }).unwrap().web.demo_page
    };
    let secret = ("auth.hmac_secret", "0123456789abcdef0123456789abcdef");
    assert!(load(Environment::Development, &[]));
    assert!(!load(Environment::Development, &[("web.demo_page", "false")]));
    assert!(!load(Environment::Production, &[secret]));
    assert!(load(Environment::Production, &[secret, ("web.demo_page", "true")]));
}

#[actix_rt::test]
async fn every_page_file_has_restrictive_security_headers() {
    let hub = start_page_hub().await;
    let paths = page_paths(&hub).await;
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        let response = get(&hub, &path).await;
        let (status, extension) = (response.status, path.rsplit('.').next().unwrap());
        let media_type = match extension {
            "/" => "text/html; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!((status, response.header("content-type")), (200, Some(media_type)), "{path}");
        let policy = response.header("content-security-policy").unwrap();
        let sockets = format!("connect-src 'self' ws://{0} wss://{0};", hub.address);
        for rule in [
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';",
            &*sockets,
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none';",
            "require-trusted-types-for 'script'; trusted-types 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        for (name, value) in [
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(response.header(name), Some(value), "{path}: {name}");
        }
        assert!(response.header("permissions-policy").unwrap().contains("camera=()"), "{path}");
        assert_eq!(response.header("access-control-allow-origin"), None, "{path}");
    }
}

#[actix_rt::test]
async fn page_names_no_other_host_and_has_no_inline_script_or_style() {
    let hub = start_page_hub().await;
    for path in page_paths(&hub).await {
        let text = get(&hub, &path).await.body.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for outside in ["http://", "https://", "=\"//", "@import"] {
            assert!(!text.contains(outside), "{path}: {outside}");
        }
        assert!(!path.ends_with(".css") || !text.contains("url("), "{path}");
        for unsafe_way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(!text.contains(unsafe_way), "{path}: {unsafe_way}");
        }
        if path == "/" {
            assert!(!text.contains("style=") && !text.contains("<style") && !text.contains("javascript:"));
            let mut attributes = text.split_whitespace().filter_map(|word| word.split_once('='));
            assert!(attributes.all(|(name, _)| !name.starts_with("on")), "an inline handler");
            let scripts: Vec<&str> = text.split("<script").skip(1).collect();
            assert!(scripts.len() == 1 && scripts[0].starts_with(" type=\"module\" src=\"demo/app.js\"></script>"));
        }
    }
}

#[actix_rt::test]
async fn host_header_cannot_extend_the_security_policy() {
    let hub = start_page_hub().await;
    for host in ["evil.com; script-src *", "evil.com *", "'unsafe-inline'", "a,b", &"x".repeat(300), ""] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = http::exchange(hub.address, request.as_bytes()).await;
        let Some(policy) = response.header("content-security-policy") else { continue };
        assert!(policy.contains("connect-src 'self'; base-uri"), "{host}: {policy}");
    }
    let two = "GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\nConnection: close\r\n\r\n";
    let policy = http::exchange(hub.address, two.as_bytes()).await;
    assert!(policy.header("content-security-policy").is_none_or(|policy| !policy.contains("a.com")), "{policy:?}");
}

#[actix_rt::test]
async fn unchanged_page_file_is_304() {
    let hub = start_page_hub().await;
    let tag = get(&hub, "/demo/app.js").await.header("etag").unwrap().to_owned();
    assert_ne!(get(&hub, "/").await.header("etag"), Some(&*tag));
    let again = |tag: &str| http::get(hub.address, "/demo/app.js").header("If-None-Match", tag).send();
    for known in [&*tag, &format!("W/{tag}"), &format!("\"other\", {tag}")] {
        let response = again(known).await;
        assert_eq!((response.status, &*response.body, response.header("etag")), (304, "", Some(&*tag)), "{known}");
        assert!(response.header("content-security-policy").is_some());
    }
    for other in ["\"other\"", "*", "nonsense", ""] {
        assert_eq!(again(other).await.status, 200, "{other}");
    }
}

#[actix_rt::test]
async fn page_files_allow_get_and_head_only() {
    let hub = start_page_hub().await;
    for path in ["/", "/demo/style.css", "/demo/hub.json"] {
        let body = get(&hub, path).await.body.len();
        let head = http::request(hub.address, "HEAD", path).send().await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-length"), Some(&*body.to_string()), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let response = http::request(hub.address, method, path).send().await;
            assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    for path in
        ["/demo/../Cargo.toml", "/demo/%2e%2e/lib.rs", "/demo/nothing.js", "/demo/app.js/", "//", "/demo/APP.js"]
    {
        assert_eq!(get(&hub, path).await.status, 404, "{path}");
    }
}

#[actix_rt::test]
async fn websocket_handshake_at_root_works_beside_the_page() {
    let hub = start_page_hub().await;
    let mut ann = hub.connect_to(&format!("/?token={}", hub.token("ann")), &[]).await;
    ann.subscribe("news").await;
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, json!(1));
    assert_eq!(hub.try_handshake("/?token=garbage", &[]).await.status, 401);
    // A request with an Upgrade header is a handshake, never a request for the page, even if the handshake is invalid.
    let other = http::get(hub.address, "/").header("Upgrade", "h2c").header("Connection", "Upgrade").send().await;
    assert_eq!(other.status, 400, "{other:?}");
    let hub = start_hub_with(|config| {
        config.web.demo_page = true;
        config.server.websocket_paths = vec!["/socket".to_owned()];
    })
    .await;
    assert_eq!(hub.try_handshake(&format!("/?token={}", hub.token("ann")), &[]).await.status, 404);
    assert_eq!(get(&hub, "/").await.status, 200);
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn page_facts_list_enabled_doors_and_no_secret() {
    let users = tempfile::NamedTempFile::new().unwrap();
    let hash = wardcast::auth::users::hash_password("right horse").unwrap();
    std::fs::write(&users, format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\n")).unwrap();
    let path = users.path().to_owned();
    let hub = start_hub_with(move |config| {
        config.web.demo_page = true;
        config.auth.doors = vec![Door::Ticket, Door::Cookie];
        config.auth.anonymous = AnonymousAccess::Token;
        config.login.users_file = Some(path);
        config.login.key = Secret::new("a secret of the login, long enough");
        config.login.cookie = true;
        config.server.websocket_paths = vec!["/ws".to_owned(), "/".to_owned()];
    })
    .await;
    let response = get(&hub, "/demo/hub.json").await;
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let facts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "websocket_path": "/ws",
        "doors": ["ticket", "cookie"],
        "internal_api": false,
        "login": true,
        "login_refresh": true,
        "login_cookie": true,
        "anonymous": "token",
        "user_prefixes": false,
        "refresh_margin": 30,
        "message_bytes": 65536,
        "publication_bytes": 65536,
    });
    assert_eq!(response.json(), facts);
    let without_login = start_page_hub().await;
    let facts = get(&without_login, "/demo/hub.json").await.json();
    assert_eq!((&facts["login"], &facts["login_cookie"]), (&json!(false), &json!(false)));
    let with_prefix = start_hub_with(|config| {
        config.web.demo_page = true;
        config.auth.user_prefix = Some("idp:".to_owned());
    })
    .await;
    assert_eq!(get(&with_prefix, "/demo/hub.json").await.json()["user_prefixes"], json!(true));
}
