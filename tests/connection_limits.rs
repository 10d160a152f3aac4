//! Limits of connections and handshakes: in total, per address, per user, and for unauthenticated connections.

use serde_json::json;

use crate::support::{
    Client, TestHub, http,
    raw::{RawClient, text_frame},
    start_hub_with, trust_loopback_proxy,
};

/// Checks the response of a limit to a handshake.
fn assert_retry_later(answer: &http::Response, status: u16) {
    assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{answer:?}");
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1, "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], json!(111));
}

fn forwarded_for(address: &str) -> [(&'static str, &str); 1] {
    [("X-Forwarded-For", address)]
}

async fn refused_handshakes(hub: &TestHub, reason: &str) -> f64 {
    hub.metric(&format!("wardcast_handshakes_refused_total{{reason=\"{reason}\"}}")).await
}

#[actix_rt::test]
async fn connections_per_address_are_limited() {
    let hub = start_hub_with(|config| {
        trust_loopback_proxy(config);
        config.limits.connections_per_address = 2;
    })
    .await;
    let path = hub.path_for("ann");
    let one = hub.connect_to(&path, &forwarded_for("192.0.2.1")).await;
    let _two = hub.connect_to(&path, &forwarded_for("192.0.2.1")).await;
    assert_retry_later(&hub.try_handshake(&path, &forwarded_for("192.0.2.1")).await, 429);
    assert_retry_later(&hub.try_handshake("/socket", &forwarded_for("192.0.2.1")).await, 429);
    assert_eq!(refused_handshakes(&hub, "address").await, 2.0);
    let _other = hub.connect_to(&path, &forwarded_for("192.0.2.2")).await;
    drop(one);
    hub.wait_for_connections(2).await;
    assert_eq!(hub.try_handshake(&path, &forwarded_for("192.0.2.1")).await.status, 101);
}

#[actix_rt::test]
async fn ipv6_network_of_64_bits_counts_as_one_address() {
    let hub = start_hub_with(|config| {
        trust_loopback_proxy(config);
        config.limits.connections_per_address = 1;
    })
    .await;
    let path = hub.path_for("ann");
    let _one = hub.connect_to(&path, &forwarded_for("2001:db8:1:2::1")).await;
    assert_retry_later(&hub.try_handshake(&path, &forwarded_for("2001:db8:1:2:ffff::9")).await, 429);
    let _other = hub.connect_to(&path, &forwarded_for("2001:db8:1:3::1")).await;
    let _mapped = hub.connect_to(&path, &forwarded_for("::ffff:192.0.2.1")).await;
    assert_retry_later(&hub.try_handshake(&path, &forwarded_for("192.0.2.1")).await, 429);
}

#[actix_rt::test]
async fn forged_forwarded_address_does_not_evade_limits() {
    let hub = start_hub_with(|config| config.limits.connections_per_address = 1).await;
    let path = hub.path_for("ann");
    let _one = hub.connect_to(&path, &forwarded_for("192.0.2.1")).await;
    for header in ["X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP"] {
        let value = if header == "Forwarded" { "for=192.0.2.2" } else { "192.0.2.2" };
        assert_retry_later(&hub.try_handshake(&path, &[(header, value)]).await, 429);
    }
}

#[actix_rt::test]
async fn connections_per_user_are_limited_across_doors() {
    let hub = start_hub_with(|config| config.limits.connections_per_user = 1).await;
    let ann = hub.connect("ann").await;
    let bearer = hub.bearer("ann");
    assert_retry_later(&hub.try_handshake(&hub.path_for("ann"), &[]).await, 429);
    assert_retry_later(&hub.try_handshake("/socket", &[("Authorization", &bearer)]).await, 429);
    assert_retry_later(&hub.try_handshake("/socket", &[("Sec-WebSocket-Protocol", &hub.token("ann"))]).await, 429);
    assert_eq!(refused_handshakes(&hub, "user").await, 3.0);
    let _bob = hub.connect("bob").await;
    drop(ann);
    hub.wait_for_connections(1).await;
    assert_eq!(hub.try_handshake("/socket", &[("Authorization", &bearer)]).await.status, 101);
}

#[actix_rt::test]
async fn one_address_cannot_hold_all_unauthenticated_permits() {
    let hub = start_hub_with(|config| {
        trust_loopback_proxy(config);
        (config.limits.waiting, config.limits.waiting_per_address) = (3, 2);
    })
    .await;
    let stranger = async |address| Client::connect_with(hub.address, "/socket", &forwarded_for(address)).await.unwrap();
    let (mut one, _two) = (stranger("192.0.2.1").await, stranger("192.0.2.1").await);
    assert_retry_later(&hub.try_handshake("/socket", &forwarded_for("192.0.2.1")).await, 429);
    let with_token = hub.try_handshake(&hub.path_for("ann"), &forwarded_for("192.0.2.1")).await;
    assert_eq!(with_token.status, 101, "a handshake with a token needs no such permit");
    let _three = stranger("192.0.2.2").await;
    assert_retry_later(&hub.try_handshake("/socket", &forwarded_for("192.0.2.3")).await, 503);
    one.send_text(&hub.token_message("ann")).await;
    one.receive_connect_push().await;
    stranger("192.0.2.1").await;
}

#[actix_rt::test]
async fn client_that_is_told_to_get_another_token_keeps_its_unauthenticated_permit() {
    let hub = start_hub_with(|config| config.limits.waiting = 1).await;
    let mut ann = hub.connect_without_token().await;
    let reply = ann.request(json!({"id": 1, "connect": {"token": hub.expired_token("ann")}})).await;
    assert_eq!(reply["error"]["code"], 109, "{reply}");
    assert_retry_later(&hub.try_handshake("/socket", &[]).await, 503);
    let reply = ann.request(json!({"id": 2, "connect": {"token": hub.token("ann")}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    assert_eq!(hub.try_handshake("/socket", &[]).await.status, 101);
}

#[actix_rt::test]
async fn handshakes_over_the_rate_are_429_with_any_credential() {
    let hub = start_hub_with(|config| {
        trust_loopback_proxy(config);
        config.limits.handshakes_per_second = 1;
    })
    .await;
    let (good, bad) = (hub.path_for("ann"), "/socket?token=garbage".to_owned());
    assert_eq!(hub.try_handshake(&good, &forwarded_for("192.0.2.1")).await.status, 101);
    let refused = hub.try_handshake(&bad, &forwarded_for("192.0.2.1")).await;
    assert_eq!(refused.status, 401, "a refused handshake counts too");
    // The rate is a burst of two and one a second. On a slow machine a few of these ten may pass.
    let mut refusals = 0;
    for path in [&good, &bad].into_iter().cycle().take(10) {
        let answer = hub.try_handshake(path, &forwarded_for("192.0.2.1")).await;
        if answer.status == 429 {
            assert_retry_later(&answer, 429);
            refusals += 1;
        }
    }
    assert!(refusals >= 7, "{refusals}");
    assert!(refused_handshakes(&hub, "rate").await >= 7.0);
    assert_eq!(hub.try_handshake(&good, &forwarded_for("192.0.2.2")).await.status, 101, "of another address");
}

#[actix_rt::test]
async fn logins_and_tickets_share_the_handshake_rate() {
    let hub = start_hub_with(|config| config.limits.handshakes_per_second = 1).await;
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
    assert_eq!(http::get(hub.address, "/health/live").send().await.status, 200, "health has no rate limit");
}

#[actix_rt::test]
async fn refused_handshake_holds_no_permit_of_address_or_user() {
    let hub = start_hub_with(|config| {
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
            let status = hub.try_handshake(path, headers).await.status;
            assert!([400, 401, 403].contains(&status), "{path}: {status}");
        }
    }
    let _ann = hub.connect("ann").await;
}

#[actix_rt::test]
async fn refused_client_that_does_not_leave_holds_no_unauthenticated_permit() {
    let hub = start_hub_with(|config| config.limits.waiting_per_address = 1).await;
    let mut stays = RawClient::connect(hub.address, "/socket").await;
    stays.send(&text_frame("garbage")).await;
    while stays.next().await.expect("a close frame").close_code().is_none() {}
    // The client has its close frame an instant before the permit is free.
    for _ in 0..10 {
        if hub.try_handshake("/socket", &[]).await.status == 101 {
            return;
        }
    }
    panic!("its connection still counts");
}
