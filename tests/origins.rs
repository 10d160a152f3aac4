//! Whose pages may open a connection, and read what we answer over HTTP.

use serde_json::json;

use crate::support::{Client, Hub, http, hub, hub_with};

const LISTED: &str = "https://app.example.com";

async fn hub_listing(entries: &'static [&'static str]) -> Hub {
    hub_with(move |config| config.origins.allowed = entries.iter().map(|entry| (*entry).to_owned()).collect()).await
}

/// The status of a handshake with a good token from a page of this origin.
async fn status(hub: &Hub, origin: &str) -> u16 {
    hub.knock(&format!("/socket?token={}", hub.token("ann")), &[("Origin", origin)]).await.status
}

async fn cookie_status(hub: &Hub, headers: &[(&str, &str)]) -> u16 {
    let cookie = format!("a=b; wardcast_token={}", hub.token("ann"));
    let headers: Vec<_> = headers.iter().copied().chain([("Cookie", &*cookie)]).collect();
    hub.knock("/socket", &headers).await.status
}

#[actix_rt::test]
async fn a_foreign_page_is_403_before_the_upgrade_and_told_what_would_let_it_in() {
    let hub = hub_listing(&[LISTED]).await;
    for path in ["/socket".to_owned(), format!("/socket?token={}", hub.token("ann"))] {
        let answer = hub.knock(&path, &[("Origin", "https://evil.com")]).await;
        assert_eq!((answer.status, answer.header("connection")), (403, Some("close")), "{answer:?}");
        assert_eq!(answer.json()["error"]["code"], json!(103));
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("origins.allowed"), "{answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), None);
    }
    assert_eq!(hub.metric("wardcast_handshakes_refused_total{reason=\"origin\"}").await, 2.0);
    assert_eq!(hub.connections(), 0);
}

#[actix_rt::test]
async fn pages_of_our_own_host_and_clients_that_are_no_pages_need_no_list() {
    let hub = hub().await;
    assert_eq!(status(&hub, &format!("http://{}", hub.address)).await, 101);
    assert_eq!(status(&hub, &format!("https://{}", hub.address)).await, 403, "another scheme");
    assert_eq!(status(&hub, "http://127.0.0.1").await, 403, "another port");
    assert_eq!(status(&hub, &format!("http://localhost:{}", hub.address.port())).await, 403, "another name");
    assert_eq!(hub.knock(&format!("/socket?token={}", hub.token("ann")), &[]).await.status, 101);
}

#[actix_rt::test]
async fn look_alikes_of_a_listed_origin_are_403() {
    let hub = hub_listing(&[LISTED]).await;
    for same in [LISTED, "https://app.example.com:443", "https://APP.Example.com", "HTTPS://app.example.com"] {
        assert_eq!(status(&hub, same).await, 101, "{same}");
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
        assert_eq!(status(&hub, other).await, 403, "{other}");
    }
}

#[actix_rt::test]
async fn what_is_no_origin_is_403() {
    let hub = hub_listing(&[LISTED]).await;
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
        assert_eq!(status(&hub, garbage).await, 403, "{garbage:?}");
    }
}

#[actix_rt::test]
async fn two_origins_are_400_even_when_both_are_good() {
    let hub = hub_listing(&[LISTED]).await;
    let path = format!("/socket?token={}", hub.token("ann"));
    for second in [LISTED, "https://evil.com"] {
        assert_eq!(hub.knock(&path, &[("Origin", LISTED), ("origin", second)]).await.status, 400);
    }
}

#[actix_rt::test]
async fn a_star_stands_for_subdomains_only() {
    let hub = hub_listing(&["https://*.example.com"]).await;
    for below in [LISTED, "https://a.b.example.com", "https://APP.example.com:443"] {
        assert_eq!(status(&hub, below).await, 101, "{below}");
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
        assert_eq!(status(&hub, other).await, 403, "{other}");
    }
}

#[actix_rt::test]
async fn the_public_url_is_our_origin_whatever_host_the_request_names() {
    let hub = hub_with(|config| config.server.public_url = Some("https://hub.example.com".to_owned())).await;
    assert_eq!(status(&hub, "https://hub.example.com").await, 101);
    assert_eq!(status(&hub, &format!("http://{}", hub.address)).await, 403, "a name that a stranger points at us");
}

#[actix_rt::test]
async fn any_page_is_let_in_where_a_star_says_so_but_not_by_its_cookies() {
    let hub = hub_listing(&["*", LISTED]).await;
    for any in ["https://evil.com", "null", "http://localhost:3000"] {
        assert_eq!(status(&hub, any).await, 101, "{any}");
        let cookie = format!("wardcast_token={}", hub.token("ann"));
        let headers = [("Origin", any), ("Cookie", &*cookie)];
        let mut client = Client::connect_with(hub.address, "/socket", &headers).await.unwrap();
        client.say(json!({"id": 1, "connect": {}})).await;
        assert_eq!(client.ended().await.0, Some(3501), "{any}: the cookie makes it nobody");
    }
    assert_eq!(status(&hub, "https://evil.com/path").await, 403, "no browser says that");
    assert_eq!(cookie_status(&hub, &[("Origin", LISTED)]).await, 101);
}

#[actix_rt::test]
async fn a_cookie_counts_with_a_same_or_listed_origin_only() {
    let hub = hub_listing(&[LISTED, "https://*.example.org"]).await;
    let own = format!("http://{}", hub.address);
    for good in [LISTED, "https://app.example.org", &own] {
        assert_eq!(cookie_status(&hub, &[("Origin", good)]).await, 101, "{good}");
    }
    for bad in ["https://evil.com", "null", "https://example.org"] {
        assert_eq!(cookie_status(&hub, &[("Origin", bad)]).await, 403, "{bad}");
    }
    assert_eq!(cookie_status(&hub, &[]).await, 403, "a page may hide where it is from");
    let token = format!("Bearer {}", hub.token("ann"));
    assert_eq!(cookie_status(&hub, &[("Authorization", &token)]).await, 101, "what is explicit needs no cookie");
}

fn preflight(hub: &Hub, path: &str, origin: &str) -> http::Request {
    http::request(hub.address, "OPTIONS", path)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,content-type")
}

fn cors(answer: &http::Response) -> (Option<&str>, Option<&str>) {
    (answer.header("access-control-allow-origin"), answer.header("access-control-allow-credentials"))
}

#[actix_rt::test]
async fn a_listed_page_may_read_and_send_cookies_and_a_foreign_one_neither() {
    let hub = hub_listing(&[LISTED]).await;
    for path in ["/auth/login", "/auth/ticket", "/auth/logout", "/v1/channels/news/messages"] {
        let answer = preflight(&hub, path, LISTED).send().await;
        assert_eq!((answer.status, cors(&answer)), (200, (Some(LISTED), Some("true"))), "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        let answer = preflight(&hub, path, "https://evil.com").send().await;
        assert_eq!(cors(&answer), (None, None), "{path}: {answer:?}");
        let answer = http::post(hub.address, path).header("Origin", LISTED).send().await;
        assert_eq!(cors(&answer), (Some(LISTED), Some("true")), "{path}: {answer:?}");
        assert!(answer.header("vary").unwrap().contains("Origin"), "{answer:?}");
        let answer = http::post(hub.address, path).header("Origin", "https://evil.com").send().await;
        assert_eq!(cors(&answer), (None, None), "{path}: {answer:?}");
    }
}

#[actix_rt::test]
async fn a_star_never_comes_with_credentials() {
    let hub = hub_listing(&["*", LISTED]).await;
    for origin in ["https://evil.com", "null"] {
        let answer = preflight(&hub, "/v1/channels/news/messages", origin).send().await;
        assert_eq!((answer.status, cors(&answer)), (200, (Some(origin), None)), "{answer:?}");
        let answer = http::post(hub.address, "/v1/channels/news/messages").header("Origin", origin).send().await;
        assert_eq!(cors(&answer), (Some(origin), None), "{answer:?}");
    }
    let answer = preflight(&hub, "/auth/ticket", LISTED).send().await;
    assert_eq!(cors(&answer), (Some(LISTED), Some("true")));
}

#[actix_rt::test]
async fn a_page_may_publish_over_rest_with_its_token() {
    let hub = hub_listing(&[LISTED]).await;
    let mut bob = hub.subscriber("bob", "news").await;
    let answer = http::post(hub.address, "/v1/channels/news/messages")
        .header("Origin", LISTED)
        .header("Authorization", &format!("Bearer {}", hub.token("ann")))
        .json(json!("hello"))
        .send()
        .await;
    assert_eq!((answer.status, cors(&answer).0), (200, Some(LISTED)), "{answer:?}");
    assert_eq!(bob.publication().await, json!("hello"));
}

#[actix_rt::test]
async fn the_server_api_is_for_no_page() {
    let hub = hub_listing(&["*", LISTED]).await;
    for origin in [LISTED, "https://evil.com"] {
        let answer = preflight(&hub, "/api/publish", origin).send().await;
        assert_eq!((answer.status, cors(&answer)), (405, (None, None)), "{answer:?}");
        let answer = http::post(hub.address, "/api/publish").header("Origin", origin).send().await;
        assert_eq!(cors(&answer), (None, None), "{answer:?}");
    }
}

#[actix_rt::test]
async fn a_foreign_page_gets_nothing_from_auth() {
    let hub = hub().await;
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
