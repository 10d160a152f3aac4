//! Origins: the pages that may open a connection, and CORS for the pages that may read HTTP responses.

use serde_json::json;

use crate::support::{Client, TestHub, http, start_hub, start_hub_with};

const LISTED: &str = "https://app.example.com";

async fn start_hub_with_origins(entries: &'static [&'static str]) -> TestHub {
    start_hub_with(move |config| config.origins.allowed = entries.iter().map(|entry| (*entry).to_owned()).collect())
        .await
}

/// The status of a handshake with a valid token from a page of this origin.
async fn status_from(hub: &TestHub, origin: &str) -> u16 {
    hub.try_handshake(&hub.path_for("ann"), &[("Origin", origin)]).await.status
}

async fn cookie_status(hub: &TestHub, headers: &[(&str, &str)]) -> u16 {
    let cookie = format!("a=b; wardcast_token={}", hub.token("ann"));
    let headers: Vec<_> = headers.iter().copied().chain([("Cookie", &*cookie)]).collect();
    hub.try_handshake("/socket", &headers).await.status
}

#[actix_rt::test]
async fn foreign_origin_is_403_before_upgrade_with_configuration_hint() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    for path in ["/socket".to_owned(), hub.path_for("ann")] {
        let response = hub.try_handshake(&path, &[("Origin", "https://evil.com")]).await;
        assert_eq!((response.status, response.header("connection")), (403, Some("close")), "{response:?}");
        assert_eq!(response.json()["error"]["code"], json!(103));
        assert!(response.json()["error"]["message"].as_str().unwrap().contains("origins.allowed"), "{response:?}");
        assert_eq!(response.header("sec-websocket-accept"), None);
    }
    assert_eq!(hub.metric("wardcast_handshakes_refused_total{reason=\"origin\"}").await, 2.0);
    assert_eq!(hub.connections(), 0);
}

#[actix_rt::test]
async fn same_origin_pages_and_non_browser_clients_need_no_list() {
    let hub = start_hub().await;
    assert_eq!(status_from(&hub, &format!("http://{}", hub.address)).await, 101);
    assert_eq!(status_from(&hub, &format!("https://{}", hub.address)).await, 403, "another scheme");
    assert_eq!(status_from(&hub, "http://127.0.0.1").await, 403, "another port");
    assert_eq!(status_from(&hub, &format!("http://localhost:{}", hub.address.port())).await, 403, "another name");
    assert_eq!(hub.try_handshake(&hub.path_for("ann"), &[]).await.status, 101);
}

#[actix_rt::test]
async fn origins_similar_to_a_listed_one_are_403() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    for same in [LISTED, "https://app.example.com:443", "https://APP.Example.com", "HTTPS://app.example.com"] {
        assert_eq!(status_from(&hub, same).await, 101, "{same}");
    }
    for other in [
        "https://app.example.com.evil.com",
        "https://evil-app.example.com",
        "https://example.com",
        "https://x.app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com:80",
        "http://app.example.com",
        "http://app.example.com:443",
        "wss://app.example.com",
    ] {
        assert_eq!(status_from(&hub, other).await, 403, "{other}");
    }
}

#[actix_rt::test]
async fn invalid_origin_is_403() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    for garbage in [
        "null",
        "",
        "*",
        "app.example.com",
        "https://app.example.com.",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://evil.com@app.example.com",
        "https://app.example.com@evil.com",
        "https://app.example.com, https://evil.com",
        "https://app.example.com https://evil.com",
        "https://app.example.com:443:443",
        "https://app.example.com:+443",
        "https://app.example.com\u{ff0e}",
        "\u{ff}",
        "file://",
    ] {
        assert_eq!(status_from(&hub, garbage).await, 403, "{garbage:?}");
    }
}

#[actix_rt::test]
async fn two_origin_headers_are_400_even_when_both_are_listed() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    let path = hub.path_for("ann");
    for second in [LISTED, "https://evil.com"] {
        assert_eq!(hub.try_handshake(&path, &[("Origin", LISTED), ("origin", second)]).await.status, 400);
    }
}

#[actix_rt::test]
async fn wildcard_origin_matches_subdomains_only() {
    let hub = start_hub_with_origins(&["https://*.example.com"]).await;
    for below in [LISTED, "https://a.b.example.com", "https://APP.example.com:443"] {
        assert_eq!(status_from(&hub, below).await, 101, "{below}");
    }
    for other in [
        "https://example.com",
        "https://evil-example.com",
        "https://evilexample.com",
        "https://.example.com",
        "https://app.example.com.evil.com",
        "http://app.example.com",
        "https://app.example.com:8443",
    ] {
        assert_eq!(status_from(&hub, other).await, 403, "{other}");
    }
}

#[actix_rt::test]
async fn public_url_is_the_own_origin_for_any_host_header() {
    let hub = start_hub_with(|config| config.server.public_url = Some("https://hub.example.com".to_owned())).await;
    assert_eq!(status_from(&hub, "https://hub.example.com").await, 101);
    assert_eq!(
        status_from(&hub, &format!("http://{}", hub.address)).await,
        403,
        "the Host header may be a name that an attacker points at this address"
    );
}

#[actix_rt::test]
async fn wildcard_for_all_origins_accepts_any_page_but_no_cookie() {
    let hub = start_hub_with_origins(&["*", LISTED]).await;
    for any in ["https://evil.com", "null", "http://localhost:3000"] {
        assert_eq!(status_from(&hub, any).await, 101, "{any}");
        let cookie = format!("wardcast_token={}", hub.token("ann"));
        let headers = [("Origin", any), ("Cookie", &*cookie)];
        let mut client = Client::connect_with(hub.address, "/socket", &headers).await.unwrap();
        client.send(json!({"id": 1, "connect": {}})).await;
        assert_eq!(client.wait_for_close().await.0, Some(3501), "{any}: the cookie does not authenticate");
    }
    assert_eq!(status_from(&hub, "https://evil.com/path").await, 403, "not a valid origin");
    assert_eq!(cookie_status(&hub, &[("Origin", LISTED)]).await, 101);
}

#[actix_rt::test]
async fn cookie_is_accepted_with_same_or_listed_origin_only() {
    let hub = start_hub_with_origins(&[LISTED, "https://*.example.org"]).await;
    let own = format!("http://{}", hub.address);
    for good in [LISTED, "https://app.example.org", &own] {
        assert_eq!(cookie_status(&hub, &[("Origin", good)]).await, 101, "{good}");
    }
    for bad in ["https://evil.com", "null", "https://example.org"] {
        assert_eq!(cookie_status(&hub, &[("Origin", bad)]).await, 403, "{bad}");
    }
    assert_eq!(cookie_status(&hub, &[]).await, 403, "a page may hide its origin");
    let token = hub.bearer("ann");
    assert_eq!(
        cookie_status(&hub, &[("Authorization", &token)]).await,
        101,
        "an explicit token makes the cookie irrelevant"
    );
}

fn preflight_request(hub: &TestHub, path: &str, origin: &str) -> http::Request {
    http::request(hub.address, "OPTIONS", path)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,content-type")
}

fn cors_headers(response: &http::Response) -> (Option<&str>, Option<&str>) {
    (response.header("access-control-allow-origin"), response.header("access-control-allow-credentials"))
}

#[actix_rt::test]
async fn cors_allows_listed_origin_with_credentials_and_no_foreign_origin() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    for path in ["/auth/login", "/auth/ticket", "/auth/logout", "/v1/channels/news/messages"] {
        let response = preflight_request(&hub, path, LISTED).send().await;
        assert_eq!(
            (response.status, cors_headers(&response)),
            (200, (Some(LISTED), Some("true"))),
            "{path}: {response:?}"
        );
        let methods = response.header("access-control-allow-methods").unwrap_or_default();
        assert!(methods.contains("POST") && !methods.contains("DELETE"), "{methods}");
        let response = preflight_request(&hub, path, "https://evil.com").send().await;
        assert_eq!(cors_headers(&response), (None, None), "{path}: {response:?}");
        let response = http::post(hub.address, path).header("Origin", LISTED).send().await;
        assert_eq!(cors_headers(&response), (Some(LISTED), Some("true")), "{path}: {response:?}");
        assert!(response.header("vary").unwrap().contains("Origin"), "{response:?}");
        let response = http::post(hub.address, path).header("Origin", "https://evil.com").send().await;
        assert_eq!(cors_headers(&response), (None, None), "{path}: {response:?}");
    }
}

#[actix_rt::test]
async fn cors_wildcard_never_allows_credentials() {
    let hub = start_hub_with_origins(&["*", LISTED]).await;
    for origin in ["https://evil.com", "null"] {
        let response = preflight_request(&hub, "/v1/channels/news/messages", origin).send().await;
        assert_eq!((response.status, cors_headers(&response)), (200, (Some(origin), None)), "{response:?}");
        let response = http::post(hub.address, "/v1/channels/news/messages").header("Origin", origin).send().await;
        assert_eq!(cors_headers(&response), (Some(origin), None), "{response:?}");
    }
    let response = preflight_request(&hub, "/auth/ticket", LISTED).send().await;
    assert_eq!(cors_headers(&response), (Some(LISTED), Some("true")));
}

#[actix_rt::test]
async fn listed_page_may_publish_over_rest_with_its_token() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    let mut bob = hub.connect_subscriber("bob", "news").await;
    let response = http::post(hub.address, "/v1/channels/news/messages")
        .header("Origin", LISTED)
        .header("Authorization", &hub.bearer("ann"))
        .json(json!("hello"))
        .send()
        .await;
    assert_eq!((response.status, cors_headers(&response).0), (200, Some(LISTED)), "{response:?}");
    assert_eq!(bob.receive_publication().await, json!("hello"));
}

#[actix_rt::test]
async fn server_api_sends_no_cors_headers() {
    let hub = start_hub_with_origins(&["*", LISTED]).await;
    for origin in [LISTED, "https://evil.com"] {
        let response = preflight_request(&hub, "/api/publish", origin).send().await;
        assert_eq!((response.status, cors_headers(&response)), (405, (None, None)), "{response:?}");
        let response = http::post(hub.address, "/api/publish").header("Origin", origin).send().await;
        assert_eq!(cors_headers(&response), (None, None), "{response:?}");
    }
}

#[actix_rt::test]
async fn auth_endpoints_refuse_foreign_origin() {
    let hub = start_hub().await;
    for path in ["/auth/ticket", "/auth/logout"] {
        for origin in ["https://evil.com", "null"] {
            let response = http::post(hub.address, path)
                .header("Origin", origin)
                .header("Authorization", &hub.bearer("ann"))
                .send()
                .await;
            assert_eq!(response.status, 403, "{path} {origin}: {response:?}");
        }
    }
}
