//! Whose pages may open a connection, and read what we answer over HTTP.

use serde_json::json;

use crate::support::{Client, TestHub, http, start_hub, start_hub_with};

const LISTED: &str = "https://app.example.com";

async fn start_hub_with_origins(entries: &'static [&'static str]) -> TestHub {
    start_hub_with(move |config| config.origins.allowed = entries.iter().map(|entry| (*entry).to_owned()).collect())
        .await
}

/// The status of a handshake with a good token from a page of this origin.
async fn handshake_status(hub: &TestHub, origin: &str) -> u16 {
    hub.try_handshake(&format!("/socket?token={}", hub.token("ann")), &[("Origin", origin)]).await.status
}

async fn cookie_handshake_status(hub: &TestHub, headers: &[(&str, &str)]) -> u16 {
    let cookie = format!("a=b; wardcast_token={}", hub.token("ann"));
    let headers: Vec<_> = headers.iter().copied().chain([("Cookie", &*cookie)]).collect();
    hub.try_handshake("/socket", &headers).await.status
}

#[actix_rt::test]
async fn foreign_origin_is_403_before_upgrade_with_configuration_hint() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    for path in ["/socket".to_owned(), format!("/socket?token={}", hub.token("ann"))] {
        let answer = hub.try_handshake(&path, &[("Origin", "https://evil.com")]).await;
        assert_eq!((answer.status, answer.header("connection")), (403, Some("close")), "{answer:?}");
        assert_eq!(answer.json()["error"]["code"], json!(103));
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("origins.allowed"), "{answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), None);
    }
    assert_eq!(hub.metric("wardcast_handshakes_refused_total{reason=\"origin\"}").await, 2.0);
    assert_eq!(hub.connections(), 0);
}

#[actix_rt::test]
async fn same_origin_pages_and_non_browser_clients_need_no_list() {
    let hub = start_hub().await;
    assert_eq!(handshake_status(&hub, &format!("http://{}", hub.address)).await, 101);
    assert_eq!(handshake_status(&hub, &format!("https://{}", hub.address)).await, 403, "another scheme");
    assert_eq!(handshake_status(&hub, "http://127.0.0.1").await, 403, "another port");
    assert_eq!(handshake_status(&hub, &format!("http://localhost:{}", hub.address.port())).await, 403, "another name");
    assert_eq!(hub.try_handshake(&format!("/socket?token={}", hub.token("ann")), &[]).await.status, 101);
}

#[actix_rt::test]
async fn origins_similar_to_a_listed_one_are_403() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    for same in [LISTED, "https://app.example.com:443", "https://APP.Example.com", "HTTPS://app.example.com"] {
        assert_eq!(handshake_status(&hub, same).await, 101, "{same}");
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
        assert_eq!(handshake_status(&hub, other).await, 403, "{other}");
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
        assert_eq!(handshake_status(&hub, garbage).await, 403, "{garbage:?}");
    }
}

#[actix_rt::test]
async fn two_origin_headers_are_400_even_when_both_are_listed() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    let path = format!("/socket?token={}", hub.token("ann"));
    for second in [LISTED, "https://evil.com"] {
        assert_eq!(hub.try_handshake(&path, &[("Origin", LISTED), ("origin", second)]).await.status, 400);
    }
}

#[actix_rt::test]
async fn wildcard_origin_matches_subdomains_only() {
    let hub = start_hub_with_origins(&["https://*.example.com"]).await;
    for below in [LISTED, "https://a.b.example.com", "https://APP.example.com:443"] {
        assert_eq!(handshake_status(&hub, below).await, 101, "{below}");
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
        assert_eq!(handshake_status(&hub, other).await, 403, "{other}");
    }
}

#[actix_rt::test]
async fn public_url_is_the_own_origin_for_any_host_header() {
    let hub = start_hub_with(|config| config.server.public_url = Some("https://hub.example.com".to_owned())).await;
    assert_eq!(handshake_status(&hub, "https://hub.example.com").await, 101);
    assert_eq!(
        handshake_status(&hub, &format!("http://{}", hub.address)).await,
        403,
        "a name that a stranger points at us"
    );
}

#[actix_rt::test]
async fn wildcard_for_all_origins_accepts_any_page_but_no_cookie() {
    let hub = start_hub_with_origins(&["*", LISTED]).await;
    for any in ["https://evil.com", "null", "http://localhost:3000"] {
        assert_eq!(handshake_status(&hub, any).await, 101, "{any}");
        let cookie = format!("wardcast_token={}", hub.token("ann"));
        let headers = [("Origin", any), ("Cookie", &*cookie)];
        let mut client = Client::connect_with(hub.address, "/socket", &headers).await.unwrap();
        client.send(json!({"id": 1, "connect": {}})).await;
        assert_eq!(client.wait_for_close().await.0, Some(3501), "{any}: the cookie makes it nobody");
    }
    assert_eq!(handshake_status(&hub, "https://evil.com/path").await, 403, "no browser says that");
    assert_eq!(cookie_handshake_status(&hub, &[("Origin", LISTED)]).await, 101);
}

#[actix_rt::test]
async fn cookie_is_accepted_with_same_or_listed_origin_only() {
    let hub = start_hub_with_origins(&[LISTED, "https://*.example.org"]).await;
    let own = format!("http://{}", hub.address);
    for good in [LISTED, "https://app.example.org", &own] {
        assert_eq!(cookie_handshake_status(&hub, &[("Origin", good)]).await, 101, "{good}");
    }
    for bad in ["https://evil.com", "null", "https://example.org"] {
        assert_eq!(cookie_handshake_status(&hub, &[("Origin", bad)]).await, 403, "{bad}");
    }
    assert_eq!(cookie_handshake_status(&hub, &[]).await, 403, "a page may hide where it is from");
    let token = format!("Bearer {}", hub.token("ann"));
    assert_eq!(
        cookie_handshake_status(&hub, &[("Authorization", &token)]).await,
        101,
        "what is explicit needs no cookie"
    );
}

fn preflight_request(hub: &TestHub, path: &str, origin: &str) -> http::Request {
    http::request(hub.address, "OPTIONS", path)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,content-type")
}

fn cors_headers(answer: &http::Response) -> (Option<&str>, Option<&str>) {
    (answer.header("access-control-allow-origin"), answer.header("access-control-allow-credentials"))
}

#[actix_rt::test]
async fn cors_allows_listed_origin_with_credentials_and_no_foreign_origin() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    for path in ["/auth/login", "/auth/ticket", "/auth/logout", "/v1/channels/news/messages"] {
        let answer = preflight_request(&hub, path, LISTED).send().await;
        assert_eq!((answer.status, cors_headers(&answer)), (200, (Some(LISTED), Some("true"))), "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        let answer = preflight_request(&hub, path, "https://evil.com").send().await;
        assert_eq!(cors_headers(&answer), (None, None), "{path}: {answer:?}");
        let answer = http::post(hub.address, path).header("Origin", LISTED).send().await;
        assert_eq!(cors_headers(&answer), (Some(LISTED), Some("true")), "{path}: {answer:?}");
        assert!(answer.header("vary").unwrap().contains("Origin"), "{answer:?}");
        let answer = http::post(hub.address, path).header("Origin", "https://evil.com").send().await;
        assert_eq!(cors_headers(&answer), (None, None), "{path}: {answer:?}");
    }
}

#[actix_rt::test]
async fn cors_wildcard_never_allows_credentials() {
    let hub = start_hub_with_origins(&["*", LISTED]).await;
    for origin in ["https://evil.com", "null"] {
        let answer = preflight_request(&hub, "/v1/channels/news/messages", origin).send().await;
        assert_eq!((answer.status, cors_headers(&answer)), (200, (Some(origin), None)), "{answer:?}");
        let answer = http::post(hub.address, "/v1/channels/news/messages").header("Origin", origin).send().await;
        assert_eq!(cors_headers(&answer), (Some(origin), None), "{answer:?}");
    }
    let answer = preflight_request(&hub, "/auth/ticket", LISTED).send().await;
    assert_eq!(cors_headers(&answer), (Some(LISTED), Some("true")));
}

#[actix_rt::test]
async fn listed_page_may_publish_over_rest_with_its_token() {
    let hub = start_hub_with_origins(&[LISTED]).await;
    let mut bob = hub.connect_subscriber("bob", "news").await;
    let answer = http::post(hub.address, "/v1/channels/news/messages")
        .header("Origin", LISTED)
        .header("Authorization", &format!("Bearer {}", hub.token("ann")))
        .json(json!("hello"))
        .send()
        .await;
    assert_eq!((answer.status, cors_headers(&answer).0), (200, Some(LISTED)), "{answer:?}");
    assert_eq!(bob.receive_publication().await, json!("hello"));
}

#[actix_rt::test]
async fn server_api_sends_no_cors_headers() {
    let hub = start_hub_with_origins(&["*", LISTED]).await;
    for origin in [LISTED, "https://evil.com"] {
        let answer = preflight_request(&hub, "/api/publish", origin).send().await;
        assert_eq!((answer.status, cors_headers(&answer)), (405, (None, None)), "{answer:?}");
        let answer = http::post(hub.address, "/api/publish").header("Origin", origin).send().await;
        assert_eq!(cors_headers(&answer), (None, None), "{answer:?}");
    }
}

#[actix_rt::test]
async fn auth_endpoints_refuse_foreign_origin() {
    let hub = start_hub().await;
    for path in ["/auth/ticket", "/auth/logout"] {
        for origin in ["https://evil.com", "null"] {
            let answer = http::post(hub.address, path)
                .header("Origin", origin)
                .header("Authorization", &format!("Bearer {}", hub.token("ann")))
                .send()
                .await;
            assert_eq!(answer.status, 403, "{path} {origin}: {answer:?}");
        }
    }
}
