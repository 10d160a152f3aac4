//! How many may come and how fast: in all, per address, per user, and before they are somebody.

use serde_json::json;

use crate::support::{Client, Hub, eventually, http, hub_with};

/// What a limit answers before the upgrade.
fn is_told_to_come_back(answer: &http::Response, status: u16) {
    assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{answer:?}");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1, "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], json!(111));
}

/// The test's own address is a proxy's, so that a header says where a client comes from.
fn behind_a_proxy(config: &mut wardcast::config::Config) {
    config.server.trusted_proxies = vec!["127.0.0.1".parse::<std::net::IpAddr>().unwrap().into()];
}

fn from(address: &str) -> [(&'static str, &str); 1] {
    [("X-Forwarded-For", address)]
}

async fn refused(hub: &Hub, reason: &str) -> f64 {
    hub.metric(&format!("wardcast_handshakes_refused_total{{reason=\"{reason}\"}}")).await
}

#[actix_rt::test]
async fn one_address_has_its_own_connections_and_no_more() {
    let hub = hub_with(|config| {
        behind_a_proxy(config);
        config.limits.connections_per_address = 2;
    })
    .await;
    let path = format!("/socket?token={}", hub.token("ann"));
    let one = hub.client_with(&path, &from("192.0.2.1")).await;
    let _two = hub.client_with(&path, &from("192.0.2.1")).await;
    is_told_to_come_back(&hub.knock(&path, &from("192.0.2.1")).await, 429);
    is_told_to_come_back(&hub.knock("/socket", &from("192.0.2.1")).await, 429);
    assert_eq!(refused(&hub, "address").await, 2.0);
    hub.client_with(&path, &from("192.0.2.2")).await;
    drop(one);
    eventually("a seat is free", async || hub.knock(&path, &from("192.0.2.1")).await.status == 101).await;
}

#[actix_rt::test]
async fn a_network_of_64_bits_is_one_address() {
    let hub = hub_with(|config| {
        behind_a_proxy(config);
        config.limits.connections_per_address = 1;
    })
    .await;
    let path = format!("/socket?token={}", hub.token("ann"));
    let _one = hub.client_with(&path, &from("2001:db8:1:2::1")).await;
    is_told_to_come_back(&hub.knock(&path, &from("2001:db8:1:2:ffff::9")).await, 429);
    hub.client_with(&path, &from("2001:db8:1:3::1")).await;
    let _mapped = hub.client_with(&path, &from("::ffff:192.0.2.1")).await;
    is_told_to_come_back(&hub.knock(&path, &from("192.0.2.1")).await, 429);
}

#[actix_rt::test]
async fn who_makes_up_where_it_comes_from_is_counted_all_the_same() {
    let hub = hub_with(|config| config.limits.connections_per_address = 1).await;
    let path = format!("/socket?token={}", hub.token("ann"));
    let _one = hub.client_with(&path, &from("192.0.2.1")).await;
    for header in ["X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP"] {
        let value = if header == "Forwarded" { "for=192.0.2.2" } else { "192.0.2.2" };
        is_told_to_come_back(&hub.knock(&path, &[(header, value)]).await, 429);
    }
}

#[actix_rt::test]
async fn one_user_has_its_own_connections_whatever_door_it_takes() {
    let hub = hub_with(|config| config.limits.connections_per_user = 1).await;
    let ann = hub.client("ann").await;
    let bearer = format!("Bearer {}", hub.token("ann"));
    is_told_to_come_back(&hub.knock(&format!("/socket?token={}", hub.token("ann")), &[]).await, 429);
    is_told_to_come_back(&hub.knock("/socket", &[("Authorization", &bearer)]).await, 429);
    is_told_to_come_back(&hub.knock("/socket", &[("Sec-WebSocket-Protocol", &hub.token("ann"))]).await, 429);
    assert_eq!(refused(&hub, "user").await, 3.0);
    let _bob = hub.client("bob").await;
    drop(ann);
    eventually("her seat is free", async || hub.knock("/socket", &[("Authorization", &bearer)]).await.status == 101)
        .await;
}

#[actix_rt::test]
async fn one_address_cannot_take_all_the_places_of_those_who_wait() {
    let hub = hub_with(|config| {
        behind_a_proxy(config);
        (config.limits.waiting, config.limits.waiting_per_address) = (3, 2);
    })
    .await;
    let stranger = async |address| Client::connect_with(hub.address, "/socket", &from(address)).await.unwrap();
    let (mut one, _two) = (stranger("192.0.2.1").await, stranger("192.0.2.1").await);
    is_told_to_come_back(&hub.knock("/socket", &from("192.0.2.1")).await, 429);
    let token = format!("/socket?token={}", hub.token("ann"));
    assert_eq!(hub.knock(&token, &from("192.0.2.1")).await.status, 101, "who has a token need not wait");
    let _three = stranger("192.0.2.2").await;
    is_told_to_come_back(&hub.knock("/socket", &from("192.0.2.3")).await, 503);
    one.say_text(&format!("Authorization: Bearer {}", hub.token("ann"))).await;
    assert!(one.hear().await["push"]["connect"].is_object());
    stranger("192.0.2.1").await;
}

#[actix_rt::test]
async fn handshakes_that_come_too_fast_are_429_whatever_they_bring() {
    let hub = hub_with(|config| {
        behind_a_proxy(config);
        config.limits.handshakes_per_second = 1;
    })
    .await;
    let (good, bad) = (format!("/socket?token={}", hub.token("ann")), "/socket?token=garbage".to_owned());
    assert_eq!(hub.knock(&good, &from("192.0.2.1")).await.status, 101);
    assert_eq!(hub.knock(&bad, &from("192.0.2.1")).await.status, 401, "a refused one counts, too");
    // Two at once and one a second: of these ten at most one more, were the machine that slow.
    let mut refusals = 0;
    for path in [&good, &bad].into_iter().cycle().take(10) {
        let answer = hub.knock(path, &from("192.0.2.1")).await;
        if answer.status == 429 {
            is_told_to_come_back(&answer, 429);
            refusals += 1;
        }
    }
    assert!(refusals >= 7, "{refusals}");
    assert!(refused(&hub, "rate").await >= 7.0);
    assert_eq!(hub.knock(&good, &from("192.0.2.2")).await.status, 101, "others come as they like");
}

#[actix_rt::test]
async fn logins_and_tickets_share_the_rate_of_handshakes() {
    let hub = hub_with(|config| config.limits.handshakes_per_second = 1).await;
    let mut refusals = 0;
    for path in ["/auth/login", "/auth/ticket", "/auth/logout"].into_iter().cycle().take(12) {
        let answer = http::post(hub.address, path).send().await;
        if answer.status == 429 {
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            assert_eq!(answer.json()["error"]["code"], json!(111));
            refusals += 1;
        }
    }
    assert!(refusals >= 8, "{refusals}");
    assert_eq!(http::get(hub.address, "/health/live").send().await.status, 200, "health is not counted");
}

#[actix_rt::test]
async fn a_refused_handshake_keeps_no_seat_of_its_address_or_user() {
    let hub = hub_with(|config| {
        config.origins.allowed = vec!["*".to_owned()];
        config.limits.connections_per_address = 1;
        config.limits.connections_per_user = 1;
        config.limits.waiting_per_address = 1;
    })
    .await;
    let cookie = format!("wardcast_token={}", hub.token("ann"));
    for (path, headers) in [
        ("/socket?token=forged", &[][..]),
        ("/socket?token=a&token=b", &[]),
        ("/socket", &[("Authorization", "Basic x")]),
        ("/socket", &[("Cookie", &*cookie)]),
    ] {
        for _ in 0..3 {
            let status = hub.knock(path, headers).await.status;
            assert!([400, 401, 403].contains(&status), "{path}: {status}");
        }
    }
    let _ann = hub.client("ann").await;
}
