//! Tickets: a short-lived credential for one connection, which a URL can carry instead of a token.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use wardcast::config::{AllowSubscribe, Config, Door, Namespace, RejectMode, Secret, TicketBinding};

use crate::{
    audit::{AuditedHub, assert_fields},
    support::{
        Client, PATIENCE, TestHub,
        backend::Backend,
        deflate::EXTENSIONS,
        http, mark_secret, poll_until,
        proxy::{Proxy, ProxyMode},
        redis::{PrefixedRedis, RedisForm},
        start_hub, start_hub_over, start_hub_with,
        stream::{StreamClient, get},
    },
};

pub fn ticket_request(hub: &TestHub, token: &str) -> http::Request {
    http::post(hub.address, "/auth/ticket").header("Authorization", &format!("Bearer {token}"))
}

pub async fn request_ticket(hub: &TestHub, token: &str) -> String {
    let response = ticket_request(hub, token).send().await;
    assert_eq!(response.status, 200, "{response:?}");
    mark_secret(response.json()["ticket"].as_str().unwrap().to_owned())
}

#[actix_rt::test]
async fn ticket_opens_one_connection_for_the_user_of_its_token() {
    let hub = start_hub().await;
    let response = ticket_request(&hub, &hub.token("ann")).send().await;
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")), "{response:?}");
    assert_eq!(response.json()["expires_in"], json!(30));
    let path = format!("/socket?ticket={}", mark_secret(response.json()["ticket"].as_str().unwrap()));
    let mut ann = hub.connect_to(&path, &[]).await;
    ann.subscribe("news").await;
    let mut bob = hub.connect("bob").await;
    bob.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, json!(1));
    let again = hub.try_handshake(&path, &[]).await;
    assert_eq!((again.status, again.header("connection")), (401, Some("close")), "{again:?}");
}

#[actix_rt::test]
async fn twenty_simultaneous_handshakes_with_one_ticket_open_one_connection() {
    let hub = start_hub().await;
    let path = format!("/socket?ticket={}", request_ticket(&hub, &hub.token("ann")).await);
    let statuses = join_all((0..20).map(|_| hub.try_handshake(&path, &[]))).await;
    let mut statuses: Vec<u16> = statuses.iter().map(|response| response.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (101, &[401; 19][..]));
}

#[actix_rt::test]
async fn unknown_ticket_is_401() {
    let hub = start_hub().await;
    let given = request_ticket(&hub, &hub.token("ann")).await;
    let long = "a".repeat(4000);
    for never in ["", "a", &given[1..], &format!("{given}a"), &"A".repeat(43), "..%2f..%2f", "%00", &long] {
        let response = hub.try_handshake(&format!("/socket?ticket={never}"), &[]).await;
        assert_eq!(response.status, 401, "{never:.50}");
        assert_eq!(response.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    }
    assert_eq!(hub.try_handshake("/socket?ticket=%zz", &[]).await.status, 400);
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={given}"), &[]).await.status, 101, "still valid");
}

#[actix_rt::test]
async fn ticket_is_no_token_and_no_token_is_a_ticket() {
    let hub = start_hub().await;
    let (given, token) = (request_ticket(&hub, &hub.token("ann")).await, hub.token("ann"));
    for (path, header) in [
        (format!("/socket?token={given}"), None),
        (format!("/socket?access_token={given}"), None),
        (format!("/socket?ticket={token}"), None),
        ("/socket".to_owned(), Some(("Authorization", format!("Bearer {given}")))),
        ("/socket".to_owned(), Some(("Sec-WebSocket-Protocol", format!("wardcast.v1, bearer.{given}")))),
    ] {
        let headers: Vec<_> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let response = hub.try_handshake(&path, &headers).await;
        assert!(response.status == 401 && !response.body.contains(&given), "{path} {header:?}: {response:?}");
    }
    assert_eq!(ticket_request(&hub, &given).send().await.status, 401, "no ticket for a ticket");
    let mut client = hub.connect_without_token().await;
    client.send(json!({"id": 1, "connect": {"token": given}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={given}"), &[]).await.status, 101, "still valid");
}

#[actix_rt::test]
async fn ticket_beside_token_or_second_ticket_is_400_and_stays_valid() {
    let hub = start_hub().await;
    let given = request_ticket(&hub, &hub.token("ann")).await;
    let token = hub.token("ann");
    let bearer = format!("Bearer {token}");
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={given}&token={token}"), &[]).await.status, 400);
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={given}&ticket={given}"), &[]).await.status, 400);
    let path = format!("/socket?ticket={given}");
    assert_eq!(hub.try_handshake(&path, &[("Authorization", &bearer)]).await.status, 400);
    assert_eq!(hub.try_handshake(&path, &[("Sec-WebSocket-Protocol", &token)]).await.status, 400);
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 101);
}

#[actix_rt::test]
async fn ticket_requires_exactly_one_valid_bearer_token() {
    let hub = start_hub().await;
    for (token, code) in [(hub.forged_token("ann"), 101), (hub.expired_token("ann"), 109), ("x".repeat(33_000), 101)] {
        let response = ticket_request(&hub, &token).send().await;
        assert_eq!((response.status, &response.json()["error"]["code"]), (401, &json!(code)), "{response:?}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert!(!response.body.contains(&token));
    }
    let token = hub.token("ann");
    let without = || http::post(hub.address, "/auth/ticket");
    for request in [
        without(),
        without().header("Authorization", &format!("Basic {token}")),
        ticket_request(&hub, &token).header("Authorization", &format!("Bearer {token}")),
        without().header("Cookie", &format!("wardcast_token={token}")),
        http::post(hub.address, &format!("/auth/ticket?token={token}")),
    ] {
        let response = request.send().await;
        assert_eq!(response.status, 401, "{response:?}");
        assert!(response.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    assert_eq!(http::get(hub.address, "/auth/ticket").send().await.status, 405);
}

#[actix_rt::test]
async fn ticket_expires_with_its_token() {
    let hub = start_hub().await;
    let response = ticket_request(&hub, &hub.token_for("ann", Duration::from_secs(10))).send().await.json();
    assert!(response["expires_in"].as_u64().unwrap() <= 10, "{response}");
    hub.clock.advance(Duration::from_secs(11));
    let late =
        hub.try_handshake(&format!("/socket?ticket={}", mark_secret(response["ticket"].as_str().unwrap())), &[]).await;
    assert_eq!(late.status, 401, "{late:?}");
}

#[actix_rt::test]
async fn one_user_cannot_take_all_tickets() {
    let hub = start_hub_with(|config| (config.limits.tickets_per_second, config.limits.tickets) = (1, 20)).await;
    let mut given = 0;
    for _ in 0..10 {
        let response = ticket_request(&hub, &hub.token("ann")).send().await;
        given += usize::from(response.status == 200);
        assert!(
            response.status == 200 || (response.status == 429 && response.header("retry-after").is_some()),
            "{response:?}"
        );
    }
    assert!((2..5).contains(&given), "a burst of two, then one a second: {given}");
    request_ticket(&hub, &hub.token("bob")).await;
}

#[actix_rt::test]
async fn anonymous_ticket_rate_is_limited_per_address() {
    let hub = start_hub_with(|config| {
        config.auth.anonymous = wardcast::config::AnonymousAccess::Token;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.limits.tickets_per_second = 1;
    })
    .await;
    let anonymous = hub.token_with_claims(json!({"sub": "", "exp": 60}));
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(ticket_request(&hub, &anonymous).header("X-Forwarded-For", "192.0.2.1").send().await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(ticket_request(&hub, &anonymous).header("X-Forwarded-For", "192.0.2.2").send().await.status, 200);
}

#[actix_rt::test]
async fn ticket_endpoint_is_404_when_its_door_is_disabled() {
    let hub = start_hub_with(|config| config.auth.doors = vec![Door::Query, Door::Message]).await;
    assert_eq!(ticket_request(&hub, &hub.token("ann")).send().await.status, 404);
    let mut stranger = Client::connect(hub.address, "/socket?ticket=anything").await.unwrap();
    stranger.send_text(&hub.token_message("ann")).await;
    stranger.receive_connect_push().await;
}

#[actix_rt::test]
async fn ticket_that_nobody_has_used_is_worthless_after_its_lifetime() {
    let hub = start_hub().await;
    let (used, late) = (request_ticket(&hub, &hub.token("ann")).await, request_ticket(&hub, &hub.token("ann")).await);
    hub.clock.advance(hub.config.auth.ticket_ttl - Duration::from_secs(1));
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={used}"), &[]).await.status, 101);
    hub.clock.advance(Duration::from_secs(1));
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={late}"), &[]).await.status, 401);
}

#[actix_rt::test]
async fn stolen_ticket_bound_to_address_and_origin_is_refused_elsewhere_and_used_up() {
    let hub = start_hub_with(|config| {
        config.auth.ticket_bind = vec![TicketBinding::Address, TicketBinding::Origin];
        config.origins.allowed = vec!["https://a.example.com".to_owned(), "https://b.example.com".to_owned()];
        crate::support::trust_loopback_proxy(config);
    })
    .await;
    let (token, at, from) = (hub.token("ann"), "192.0.2.1", "https://a.example.com");
    for (address, origin, status) in
        [(at, from, 101), ("192.0.2.2", from, 401), (at, "https://b.example.com", 401), (at, "", 401)]
    {
        let request = ticket_request(&hub, &token).header("X-Forwarded-For", at).header("Origin", from);
        let response = request.send().await;
        let ticket = mark_secret(response.json()["ticket"].as_str().unwrap().to_owned());
        let path = format!("/socket?ticket={ticket}");
        let headers = [("X-Forwarded-For", address), ("Origin", origin)];
        let headers = if origin.is_empty() { &headers[..1] } else { &headers[..] };
        assert_eq!(hub.try_handshake(&path, headers).await.status, status, "{address} {origin}");
        let again = hub.try_handshake(&path, &[("X-Forwarded-For", at), ("Origin", from)]).await;
        assert_eq!(again.status, 401, "used up");
    }
}

/// A browser sends an `Origin` with the POST for the ticket, and none with the GET of an `EventSource` of the same origin.
#[actix_rt::test]
async fn ticket_bound_to_the_own_page_opens_an_event_source_that_sends_no_origin() {
    let hub = start_hub_with(|config| {
        config.auth.ticket_bind = vec![TicketBinding::Origin];
        config.origins.allowed = vec!["https://a.example.com".to_owned()];
        config.channels.history_size = 10;
    })
    .await;
    let own = format!("http://{}", hub.address);
    let (same_origin, cross_site) = (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site"));
    for (origin, headers, status) in [
        (own.as_str(), vec![same_origin], 200),
        (&own, vec![cross_site], 401),
        (&own, vec![same_origin, same_origin], 401),
        (&own, vec![], 401),
        ("https://a.example.com", vec![same_origin], 401),
    ] {
        for path in ["/connection/sse", "/v1/channels/news/events"] {
            let answer = ticket_request(&hub, &hub.token("ann")).header("Origin", origin).send().await;
            let ticket = mark_secret(answer.json()["ticket"].as_str().unwrap().to_owned());
            let get = get(hub.address, &format!("{path}?ticket={ticket}"), &headers);
            let client = StreamClient::open(hub.address, get.as_bytes(), b"\n\n").await;
            assert_eq!(client.head.status, status, "{path} {origin} {headers:?}");
        }
    }
}

#[actix_rt::test]
async fn ticket_of_a_token_that_is_revoked_meanwhile_opens_no_connection() {
    let hub = start_hub().await;
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "jti": "1"}));
    let path = format!("/socket?ticket={}", request_ticket(&hub, &token).await);
    assert_eq!(hub.call_api("revoke_token", json!({"jti": "1"})).await, json!({"result": {}}));
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401);
}

#[actix_rt::test]
async fn handshake_over_the_limit_of_its_user_leaves_its_ticket_unused() {
    let audited = AuditedHub::start(|config| config.limits.connections_per_user = 1).await;
    let hub = &audited.hub;
    let ann = hub.connect("ann").await;
    let path = format!("/socket?ticket={}", request_ticket(hub, &hub.token("ann")).await);
    let refused = hub.try_handshake(&path, &[]).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true), "{refused:?}");
    drop(ann);
    hub.wait_for_connections(0).await;
    let mut status = 429;
    poll_until("ann may connect", async || {
        status = hub.try_handshake(&path, &[]).await.status;
        status != 429
    })
    .await;
    assert_eq!(status, 101);
    hub.wait_for_connections(0).await;
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401, "used up");
    assert_fields(&audited.wait_for("ticket_used", 1).await, json!({"user": "ann", "door": "ticket"}));
    assert_eq!(audited.text().matches("ticket_used").count(), 1);
}

/// Each is refused after its ticket is read, so the audit log has the use of the ticket before the refusal.
#[actix_rt::test]
async fn handshake_that_is_refused_for_good_uses_its_ticket_up() {
    let audited = AuditedHub::start(|config| {
        config.server.compression.enabled = true;
        config.channels.allow_subscribe = AllowSubscribe::None;
        config.auth.ticket_bind = vec![TicketBinding::Origin];
        config.origins.allowed = vec!["https://a.example.com".to_owned()];
    })
    .await;
    let hub = &audited.hub;
    let revoked = hub.token_with_claims(json!({"sub": "ann", "exp": 60, "jti": "1"}));
    let refusals = [
        (hub.token("ann"), "/socket", (EXTENSIONS, "permessage-deflate; ="), 400, "ann"),
        (hub.token("bob"), "/v1/channels/news/events", ("Accept", "*/*"), 403, "bob"),
        (hub.token("cho"), "/socket", ("Origin", "https://a.example.com"), 401, ""),
        (revoked, "/socket", ("Accept", "*/*"), 401, ""),
    ];
    for (number, (token, path, header, status, user)) in refusals.into_iter().enumerate() {
        let path = format!("{path}?ticket={}", request_ticket(hub, &token).await);
        if number == 3 {
            assert_eq!(hub.call_api("revoke_token", json!({"jti": "1"})).await, json!({"result": {}}));
        }
        let answer = http::exchange(hub.address, handshake_or_get(hub, &path, &[header]).as_bytes()).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        let line = audited.wait_for("ticket_used", number + 1).await;
        assert_fields(&line, json!({"door": "ticket", "address": "127.0.0.1"}));
        assert_eq!(line["user"].as_str().unwrap_or_default(), user, "{line}");
        let again = http::exchange(hub.address, handshake_or_get(hub, &path, &[]).as_bytes()).await;
        assert_eq!(again.status, 401, "{path} is used up: {again:?}");
    }
    assert_eq!(audited.text().matches("ticket_used").count(), 4);
}

/// Returns a handshake, or a request for events.
fn handshake_or_get(hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> String {
    match path.starts_with("/socket") {
        true => crate::support::raw::handshake_with(hub.address, path, headers),
        false => get(hub.address, path, headers),
    }
}

#[actix_rt::test]
async fn subscribe_hook_is_asked_again_for_an_unused_ticket_and_not_above_the_limit_of_its_user() {
    let backend = Backend::start().await;
    let hub = start_hub_with(|config| {
        backend.configure(&mut config.hooks.subscribe, "/subscribe");
        let mut channels = config.channels.clone();
        (channels.subscribe_hook, channels.allow_subscribe) = (true, AllowSubscribe::None);
        config.namespaces.push(Namespace { name: "ask".to_owned(), channels });
        config.limits.connections_per_user = 1;
    })
    .await;
    backend.answer_json("/subscribe", json!({"error": {"code": 1000, "message": "later", "temporary": true}}));
    let path = format!("/v1/channels/ask:1/events?ticket={}", request_ticket(&hub, &hub.token("ann")).await);
    // Not as an `EventSource` does, which would not learn the status.
    let request = async || http::get(hub.address, &path).send().await.status;
    let ann = hub.connect("ann").await;
    assert_eq!((request().await, backend.calls("/subscribe").len()), (429, 0));
    drop(ann);
    hub.wait_for_connections(0).await;
    let mut status = 429;
    poll_until("ann may connect", async || {
        status = request().await;
        status != 429
    })
    .await;
    assert_eq!((status, backend.calls("/subscribe").len()), (503, 1));
    // The refused stream may still count for its user.
    poll_until("ann may try again", async || {
        status = request().await;
        status != 429
    })
    .await;
    assert_eq!((status, backend.calls("/subscribe").len()), (503, 2), "it is unused");
}

/// Two hubs over a Redis that is far away: handshakes that begin together have all read their ticket before one uses it up.
struct HubsOverSlowRedis {
    redis: PrefixedRedis,
    hubs: [TestHub; 2],
    proxy: Proxy,
}

/// What comes of one use of a ticket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TicketUse {
    Accepted,
    Refused,
    /// 503: the machine is busy.
    Late,
}

impl HubsOverSlowRedis {
    async fn start(reject: RejectMode) -> Self {
        let redis = PrefixedRedis::whole(RedisForm::one_server().await);
        let proxy = Proxy::start(redis.form.masters()[0].port()).await;
        let change = |config: &mut Config| {
            config.broker.redis.url = Secret::new(proxy.url());
            config.broker.redis.timeout = PATIENCE;
            config.limits.connections_per_user = 0;
            config.auth.reject = reject;
        };
        let hubs = [start_hub_over(&redis, change).await, start_hub_over(&redis, change).await];
        Self { redis, hubs, proxy }
    }

    /// Uses a ticket twenty times at once, and asserts that one use is accepted. Repeats that, with a slower Redis, until at least
    /// fifteen of the uses have read the ticket before one has used it up.
    async fn assert_one_is_accepted(&self, connect: impl AsyncFn(&TestHub, String) -> TicketUse) {
        let [one, two] = &self.hubs;
        for delay in [100, 200, 400, 800, 1200] {
            self.proxy.set(ProxyMode::Pass);
            let path = format!("/socket?ticket={}", request_ticket(one, &one.token("ann")).await);
            self.proxy.set(ProxyMode::Delay(Duration::from_millis(delay)));
            let taken_before = self.redis.calls("getdel").await;
            let uses = join_all((0..20).map(|number| connect([one, two][number % 2], path.clone()))).await;
            let count = |kind| uses.iter().filter(|outcome| **outcome == kind).count();
            assert!(count(TicketUse::Accepted) <= 1, "{} connections", count(TicketUse::Accepted));
            if count(TicketUse::Late) == 0 && self.redis.calls("getdel").await >= taken_before + 15 {
                assert_eq!(count(TicketUse::Accepted), 1);
                return;
            }
        }
        panic!("the machine is too busy for handshakes at the same time");
    }
}

#[actix_rt::test]
async fn handshakes_that_have_read_one_ticket_at_the_same_time_open_one_connection() {
    let hubs = HubsOverSlowRedis::start(RejectMode::Http).await;
    let connect = async |hub: &TestHub, path: String| match hub.try_handshake(&path, &[]).await.status {
        101 => TicketUse::Accepted,
        401 => TicketUse::Refused,
        503 => TicketUse::Late,
        status => panic!("{status}"),
    };
    hubs.assert_one_is_accepted(connect).await;
}

#[actix_rt::test]
async fn connection_that_loses_the_race_for_a_ticket_is_closed_where_refusals_are_closed() {
    let hubs = HubsOverSlowRedis::start(RejectMode::Close).await;
    let connect = async |hub: &TestHub, path: String| {
        let Ok(mut client) = Client::connect(hub.address, &path).await else { return TicketUse::Late };
        match client.next().await {
            Ok(push) if push.contains("\"connect\"") => TicketUse::Accepted,
            Ok(push) => panic!("{push}"),
            Err(end) => {
                assert_eq!(end.code, Some(3500));
                TicketUse::Refused
            }
        }
    };
    hubs.assert_one_is_accepted(connect).await;
}
