//! Sessions of the admin page: what a request with one must have, and when they end.

use std::time::Duration;

use serde_json::json;
use wardcast::config::Secret;

use crate::{
    admin::{
        call, cookie_of, enable, log_in, log_in_with, page_request, start_admin_hub, start_two_hubs, start_users_hub,
        status_of_info,
    },
    login::PASSWORD,
    support::{API_KEY, http, mark_secret, poll_until, start_hub_with, stream, trust_loopback_proxy},
    traces::Trace,
};

#[actix_rt::test]
async fn session_cookie_has_restrictive_flags_and_over_tls_a_host_prefix() {
    let hub = start_hub_with(|config| {
        enable(config);
        trust_loopback_proxy(config);
    })
    .await;
    let response = log_in_with(hub.address, json!({"api_key": API_KEY})).await;
    let cookie = response.header("set-cookie").unwrap();
    let (value, flags) = cookie.split_once("; ").unwrap();
    assert!(value.starts_with("wardcast_admin_") && !value.contains(API_KEY), "{cookie}");
    assert_eq!(flags, "HttpOnly; SameSite=Strict; Path=/; Max-Age=28800");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let login = http::post(hub.address, "/admin/login")
        .header("X-Wardcast-Admin", "1")
        .header("X-Forwarded-Proto", "https")
        .header("Origin", &format!("https://{}", hub.address));
    let response = login.json(json!({"api_key": API_KEY})).send().await;
    let cookie = response.header("set-cookie").unwrap();
    let (value, flags) = cookie.split_once("; ").unwrap();
    assert!(value.starts_with("__Host-wardcast_admin_"), "{cookie}");
    assert_eq!(flags, "HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age=28800");
}

#[actix_rt::test]
async fn session_cookie_below_a_path_prefix_is_for_that_path_only() {
    let hub = start_hub_with(|config| {
        enable(config);
        trust_loopback_proxy(config);
        config.server.path_prefix = "/realtime".to_owned();
    })
    .await;
    for (scheme, prefix, secure) in [("http", "", ""), ("https", "__Secure-", " Secure;")] {
        let origin = format!("{scheme}://{}", hub.address);
        let post = |path: &str| {
            let request = http::post(hub.address, path).header("X-Wardcast-Admin", "1");
            request.header("X-Forwarded-Proto", scheme).header("Origin", &origin)
        };
        let response = post("/realtime/admin/login").json(json!({"api_key": API_KEY})).send().await;
        let set = response.header("set-cookie").unwrap();
        let (value, flags) = set.split_once("; ").unwrap();
        assert!(value.starts_with(&format!("{prefix}wardcast_admin_")), "{set}");
        assert_eq!(flags, format!("HttpOnly;{secure} SameSite=Strict; Path=/realtime; Max-Age=28800"));
        let cookie = cookie_of(&response);
        let info = post("/realtime/api/info").header("Cookie", &cookie).json(json!({})).send().await;
        assert_eq!(info.status, 200, "{scheme}");
        let forgotten = post("/realtime/admin/logout").header("Cookie", &cookie).send().await;
        let forgotten = forgotten.header("set-cookie").unwrap().to_owned();
        let name = cookie.split_once('=').unwrap().0;
        assert_eq!(forgotten, format!("{name}=; HttpOnly;{secure} SameSite=Strict; Path=/realtime; Max-Age=0"));
    }
}

/// Browsers send a cookie to all ports of its host.
#[actix_rt::test]
async fn hubs_on_one_host_do_not_sign_each_other_out() {
    let other_key = mark_secret("the API key of another hub, 32 bytes or more");
    let (one, other) = (
        start_admin_hub().await,
        start_hub_with(|config| {
            enable(config);
            config.api.key = Secret::new(other_key);
        })
        .await,
    );
    let of_one = log_in(one.address).await;
    let of_other = cookie_of(&log_in_with(other.address, json!({"api_key": other_key})).await);
    assert_ne!(of_one.split('=').next(), of_other.split('=').next(), "the browser keeps both");
    let both = format!("{of_one}; {of_other}");
    assert_eq!((status_of_info(&one, &both).await, status_of_info(&other, &both).await), (200, 200));
    let logout = page_request("POST", other.address, "/admin/logout").header("Cookie", &both).send().await;
    let forgotten = logout.header("set-cookie").unwrap();
    assert!(forgotten.starts_with(&format!("{}=;", of_other.split('=').next().unwrap())), "{forgotten}");
    assert_eq!((status_of_info(&one, &both).await, status_of_info(&other, &both).await), (200, 401));
}

/// As the browser sends them if a hub with the same API key is at `/` and this one below it, or another host of the domain has set one.
#[actix_rt::test]
async fn every_cookie_of_the_name_is_tried_and_a_logout_ends_all_sessions() {
    let hub = start_admin_hub().await;
    let (one, other) = (log_in(hub.address).await, log_in(hub.address).await);
    let name = one.split('=').next().unwrap();
    for cookies in [format!("{name}=planted; {one}"), format!("{one}; {name}=planted"), format!("{one}; {other}")] {
        assert_eq!(status_of_info(&hub, &cookies).await, 200, "{cookies}");
    }
    let both = format!("{name}=planted; {one}; {other}");
    let logout = page_request("POST", hub.address, "/admin/logout").header("Cookie", &both).send().await;
    assert_eq!(logout.status, 204);
    assert_eq!((status_of_info(&hub, &one).await, status_of_info(&hub, &other).await), (401, 401));
}

#[actix_rt::test]
async fn sessions_and_live_traces_of_a_removed_api_key_end_and_those_of_the_new_one_go_on() {
    let new_key = mark_secret("the API key of tomorrow: 32 bytes or more");
    let (hub, _users) = start_users_hub(|_| ()).await;
    let reload = |key: &str, previous: &str| {
        let mut config = hub.config.clone();
        (config.api.key, config.api.previous_key) = (Secret::new(key), Secret::new(previous));
        hub.running().reload_config(&config).unwrap();
    };
    let password = json!({"username": "ann", "password": PASSWORD});
    let of_old = [log_in(hub.address).await, cookie_of(&log_in_with(hub.address, password.clone()).await)];
    let with_page = [("Cookie", &*of_old[0]), ("X-Wardcast-Admin", "1")];
    let mut of_session = Trace::begin_with(&hub, "user=ann", &with_page).await;
    let mut of_key = Trace::begin_with(&hub, "user=ann", &[("X-API-Key", API_KEY)]).await;
    let mut of_new_key = {
        reload(new_key, API_KEY);
        Trace::begin_with(&hub, "user=ann", &[("X-API-Key", new_key)]).await
    };
    let statuses = async |cookies: &[String]| {
        let mut statuses = Vec::new();
        for cookie in cookies {
            statuses.push(status_of_info(&hub, cookie).await);
        }
        statuses
    };
    assert_eq!(statuses(&of_old).await, [200, 200]);
    // A login with the old key is one of the old key.
    let with_old_key = log_in(hub.address).await;
    let of_new = [
        cookie_of(&log_in_with(hub.address, password).await),
        cookie_of(&log_in_with(hub.address, json!({"api_key": new_key})).await),
    ];
    reload(new_key, "");
    assert_eq!(statuses(&of_old).await, [401, 401]);
    assert_eq!(statuses(&[with_old_key]).await, [401]);
    assert_eq!(statuses(&of_new).await, [200, 200]);
    assert_eq!(log_in_with(hub.address, json!({"api_key": API_KEY})).await.status, 401);
    of_session.read_until("the admin session has ended").await;
    of_key.read_until("the API key was removed").await;
    let ann = hub.connect("ann").await;
    of_new_key.read_until("\"event\":\"connected\"").await;
    drop(ann);
}

#[actix_rt::test]
async fn session_authorizes_the_server_api_and_shows_its_name_and_end() {
    let (hub, _users) = start_users_hub(|_| ()).await;
    let response = log_in_with(hub.address, json!({"username": "ann", "password": PASSWORD})).await;
    let body = response.json();
    let end = hub.clock.now().unix_seconds() + 8 * 3600;
    assert_eq!((&body["name"], body["expires_at"].as_i64().unwrap() - end), (&json!("ann"), 0));
    let cookie = cookie_of(&response);
    let info = call(hub.address, &cookie, "info", json!({})).await.json();
    assert_eq!(info["result"]["nodes"].as_array().unwrap().len(), 1);
    let session = page_request("GET", hub.address, "/admin/session");
    let session = session.header("Cookie", &cookie).send().await.json();
    assert_eq!(session, json!({"has_users": true, "session": body}));
    let without = page_request("GET", hub.address, "/admin/session").send().await.json();
    assert_eq!(without, json!({"has_users": true, "session": null}));
}

#[actix_rt::test]
async fn session_used_across_origins_is_refused() {
    let hub = start_hub_with(|config| {
        enable(config);
        // Neither is enough: these pages are not the admin page.
        config.origins.allowed = vec!["https://app.example.com".to_owned(), "*".to_owned()];
    })
    .await;
    let cookie = log_in(hub.address).await;
    let own = format!("http://{}", hub.address);
    let send = async |headers: &[(&str, &str)]| {
        let mut request = http::post(hub.address, "/api/info").header("Cookie", &cookie);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.json(json!({})).send().await.status
    };
    let page = ("X-Wardcast-Admin", "1");
    assert_eq!(send(&[page, ("Origin", &own)]).await, 200);
    assert_eq!(send(&[page, ("Origin", &own), ("Sec-Fetch-Site", "same-origin")]).await, 200);
    for refused in [
        &[("Origin", &*own)][..],
        &[page],
        &[page, ("Origin", "https://app.example.com")],
        &[page, ("Origin", "https://evil.example.com")],
        &[page, ("Origin", "null")],
        &[page, ("Origin", &own.replace("http:", "https:"))],
        &[page, ("Origin", &own), ("Origin", &own)],
        &[page, ("Origin", &own), ("Sec-Fetch-Site", "same-site")],
        &[page, ("Origin", &own), ("Sec-Fetch-Site", "cross-site")],
    ] {
        assert_eq!(send(refused).await, 401, "{refused:?}");
    }
    // A GET of the page has no Origin; one of another page that is allowed to connect is refused all the same.
    for (headers, status) in [
        (&[page][..], 200),
        (&[], 401),
        (&[page, ("Origin", "https://app.example.com")], 401),
        (&[page, ("Sec-Fetch-Site", "cross-site")], 401),
    ] {
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([("Cookie", &*cookie)]).collect();
        let request = stream::get(hub.address, "/v1/trace?user=ann", &all);
        let response = stream::StreamClient::open(hub.address, request.as_bytes(), b"\n\n").await;
        assert_eq!(response.head.status, status, "{headers:?}");
    }
    // Nor may such a page send the header: the preflight does not allow it.
    let preflight = http::request(hub.address, "OPTIONS", "/v1/trace")
        .header("Origin", "https://app.example.com")
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "x-wardcast-admin");
    assert_eq!(preflight.send().await.status, 400);
}

#[actix_rt::test]
async fn session_ends_when_it_expires() {
    let hub = start_hub_with(|config| {
        enable(config);
        config.admin.session_ttl = Duration::from_secs(600);
    })
    .await;
    let cookie = log_in(hub.address).await;
    hub.clock.advance(Duration::from_secs(590));
    assert_eq!(status_of_info(&hub, &cookie).await, 200);
    hub.clock.advance(Duration::from_secs(11));
    let refused = call(hub.address, &cookie, "info", json!({})).await;
    assert_eq!(refused.status, 401);
    assert!(refused.body.contains("the admin session has ended; log in again"), "{}", refused.body);
}

#[actix_rt::test]
async fn changed_cookie_is_refused() {
    let hub = start_admin_hub().await;
    let cookie = log_in(hub.address).await;
    let end = cookie.split(['=', '.']).nth(1).unwrap();
    for forged in [
        cookie.replace(end, "9999999999"),
        cookie[..cookie.len() - 1].to_owned(),
        "wardcast_admin=".to_owned(),
        cookie.replace("wardcast_admin_", "wardcast_admin_x"),
        cookie.replace(cookie.split('=').next().unwrap(), "wardcast_admin"),
        cookie.replace("wardcast_admin", "__Host-wardcast_admin"),
        cookie.replace("wardcast_admin", "__Secure-wardcast_admin"),
        cookie.rsplit_once('.').unwrap().0.to_owned(),
    ] {
        assert_eq!(status_of_info(&hub, &forged).await, 401, "{forged}");
    }
    let with_key =
        page_request("POST", hub.address, "/api/info").header("Cookie", &cookie).header("X-API-Key", "wrong");
    assert_eq!(with_key.json(json!({})).send().await.status, 401, "a wrong key beside a session");
}

#[actix_rt::test]
async fn removed_user_and_new_password_end_sessions() {
    let (hub, users) = start_users_hub(|_| ()).await;
    let credential = json!({"username": "ann", "password": PASSWORD});
    let with_key = log_in(hub.address).await;
    let of_ann = cookie_of(&log_in_with(hub.address, credential.clone()).await);
    assert!(hub.running().reload_admins().unwrap());
    assert_eq!(status_of_info(&hub, &of_ann).await, 200, "the same file");
    let before = std::fs::read_to_string(users.path()).unwrap();
    let hash = mark_secret(wardcast::auth::users::hash_password(mark_secret("another horse")).unwrap());
    std::fs::write(users.path(), format!("[[users]]\nname = \"ann\"\npassword = \"{hash}\"\n")).unwrap();
    hub.running().reload_admins().unwrap();
    assert_eq!((status_of_info(&hub, &of_ann).await, status_of_info(&hub, &with_key).await), (401, 200));
    assert_eq!(log_in_with(hub.address, credential).await.status, 401);
    std::fs::write(users.path(), before).unwrap();
    hub.running().reload_admins().unwrap();
    assert_eq!(status_of_info(&hub, &of_ann).await, 200, "the password of the session again");
    std::fs::write(users.path(), "").unwrap();
    hub.running().reload_admins().unwrap();
    assert_eq!(status_of_info(&hub, &of_ann).await, 401);
}

#[actix_rt::test]
async fn changed_users_file_is_read_again_by_itself() {
    let (hub, users) = start_users_hub(|config| config.login.users_file_interval = Duration::from_millis(20)).await;
    let cookie = cookie_of(&log_in_with(hub.address, json!({"username": "ann", "password": PASSWORD})).await);
    assert_eq!(status_of_info(&hub, &cookie).await, 200);
    std::fs::write(users.path(), "").unwrap();
    poll_until("the session has ended", async || status_of_info(&hub, &cookie).await == 401).await;
}

#[actix_rt::test]
async fn logout_ends_the_session_and_its_live_trace_and_no_other_session() {
    let hub = start_admin_hub().await;
    let (cookie, other) = (log_in(hub.address).await, log_in(hub.address).await);
    let headers = [("Cookie", &*cookie), ("X-Wardcast-Admin", "1")];
    let mut trace = Trace::begin_with(&hub, "user=ann", &headers).await;
    let logout = page_request("POST", hub.address, "/admin/logout").header("Cookie", &cookie).send().await;
    assert_eq!((logout.status, logout.header("cache-control")), (204, Some("no-store")));
    let forgotten = logout.header("set-cookie").unwrap();
    assert!(forgotten.starts_with("wardcast_admin_") && forgotten.ends_with("Path=/; Max-Age=0"), "{forgotten}");
    assert_eq!((status_of_info(&hub, &cookie).await, status_of_info(&hub, &other).await), (401, 200));
    trace.read_until("the admin session has ended").await;
    // Logging out again is no error.
    let again = page_request("POST", hub.address, "/admin/logout").header("Cookie", &cookie).send().await;
    assert_eq!(again.status, 204);
}

#[actix_rt::test]
async fn session_is_good_on_every_node_and_a_logout_ends_it_on_all() {
    let (_redis, one, two) = start_two_hubs().await;
    let cookie = log_in(one.address).await;
    assert_eq!(status_of_info(&two, &cookie).await, 200);
    let logout = page_request("POST", two.address, "/admin/logout").header("Cookie", &cookie).send().await;
    assert_eq!(logout.status, 204);
    for hub in [&one, &two] {
        assert_eq!(status_of_info(hub, &cookie).await, 401);
    }
}
