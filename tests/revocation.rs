//! Revocations: tokens that are void before they expire, by the server API and by a logout.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    support::{Client, TestHub, http, raw::RawClient, start_hub, start_hub_with},
    tickets::{request_ticket, ticket_request},
};

const REVOKED: (Option<u16>, &str) = (Some(3500), "token revoked");

pub fn claims(user: &str, jti: &str) -> Value {
    json!({"sub": user, "exp": 3600, "iat": 0, "jti": jti})
}

pub fn path(hub: &TestHub, claims: Value) -> String {
    format!("/socket?token={}", hub.token_with_claims(claims))
}

pub async fn connect(hub: &TestHub, claims: Value) -> Client {
    hub.connect_to(&path(hub, claims), &[]).await
}

pub async fn revoke(hub: &TestHub, target: Value) {
    assert_eq!(hub.call_api("revoke_token", target).await, json!({"result": {}}));
}

pub async fn invalidate(hub: &TestHub, target: Value) {
    assert_eq!(hub.call_api("invalidate_user_tokens", target).await, json!({"result": {}}));
}

pub async fn assert_closed_as_revoked(client: &mut Client) {
    let (code, reason) = client.wait_for_close().await;
    assert_eq!((code, reason.as_str()), REVOKED);
}

#[actix_rt::test]
async fn revoked_jti_closes_its_sessions_and_opens_no_new_ones() {
    let hub = start_hub().await;
    let (mut one, mut two) = (connect(&hub, claims("ann", "1")).await, connect(&hub, claims("ann", "1")).await);
    let mut other = connect(&hub, claims("ann", "2")).await;
    revoke(&hub, json!({"jti": "1"})).await;
    assert_closed_as_revoked(&mut one).await;
    assert_closed_as_revoked(&mut two).await;
    other.subscribe("news").await;
    let refused = hub.try_handshake(&path(&hub, claims("ann", "1")), &[]).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].clone()), (401, json!(101)), "{refused:?}");
    connect(&hub, claims("ann", "3")).await;
    assert_eq!(hub.metric("wardcast_revocations").await, 1.0);
    assert_eq!(hub.running().metrics.closes_with_code(3500), 2);
    // As Centrifugo names it.
    revoke(&hub, json!({"uid": "2", "jti": "", "expire_at": 0})).await;
    assert_closed_as_revoked(&mut other).await;
}

#[actix_rt::test]
async fn revoked_sid_means_every_token_of_the_session_presented_or_not() {
    let hub = start_hub().await;
    let of_session = |jti: &str, sid: &str| json!({"sub": "ann", "exp": 3600, "jti": jti, "sid": sid});
    let (mut mine, mut other) = (connect(&hub, of_session("1", "a")).await, connect(&hub, of_session("2", "b")).await);
    revoke(&hub, json!({"sid": "a"})).await;
    assert_closed_as_revoked(&mut mine).await;
    other.subscribe("news").await;
    assert_eq!(hub.try_handshake(&path(&hub, of_session("3", "a")), &[]).await.status, 401);
}

/// Issuers choose their ids without knowing those of others.
#[actix_rt::test]
async fn revocation_within_one_issuer_means_no_token_of_another_with_the_same_id() {
    let hub = start_hub().await;
    let of = |issuer: &str| json!({"sub": "ann", "exp": 3600, "iat": -10, "iss": issuer, "jti": "1", "sid": "1"});
    for (method, target) in [
        ("revoke_token", json!({"jti": "1", "issuer": "https://one"})),
        ("revoke_token", json!({"sid": "1", "issuer": "https://two"})),
        ("invalidate_user_tokens", json!({"user": "ann", "issuer": "https://three"})),
    ] {
        let meant = target["issuer"].as_str().unwrap();
        let (mut revoked, mut other) = (connect(&hub, of(meant)).await, connect(&hub, of("https://other")).await);
        assert_eq!(hub.call_api(method, target.clone()).await, json!({"result": {}}), "{target}");
        assert_closed_as_revoked(&mut revoked).await;
        other.subscribe("news").await;
        assert_eq!(hub.try_handshake(&path(&hub, of(meant)), &[]).await.status, 401, "{target}");
    }
    let mut remaining = [connect(&hub, of("https://other")).await, connect(&hub, of("")).await];
    revoke(&hub, json!({"jti": "1", "issuer": ""})).await;
    for client in &mut remaining {
        assert_closed_as_revoked(client).await;
    }
}

#[actix_rt::test]
async fn session_belongs_to_its_newest_token() {
    let hub = start_hub().await;
    let mut client = connect(&hub, claims("ann", "1")).await;
    let refresh =
        |id: u32, jti: &str| json!({"id": id, "refresh": {"token": hub.token_with_claims(claims("ann", jti))}});
    let reply = client.request(refresh(1, "2")).await;
    assert!(reply["refresh"].is_object(), "{reply}");
    revoke(&hub, json!({"jti": "1"})).await;
    client.subscribe("news").await;
    client.send(refresh(7, "1")).await;
    let closed = client.wait_for_close().await;
    assert_eq!(closed, (Some(3500), "invalid token".to_owned()), "a spent token is refused");
    let mut client = connect(&hub, claims("ann", "2")).await;
    revoke(&hub, json!({"jti": "2"})).await;
    assert_closed_as_revoked(&mut client).await;
}

#[actix_rt::test]
async fn invalidated_user_loses_the_tokens_issued_before_and_no_others() {
    let hub = start_hub().await;
    let issued = |user: &str, at: i64| json!({"sub": user, "exp": 3600, "iat": at});
    let (mut ann, mut bob) = (connect(&hub, issued("ann", -100)).await, connect(&hub, issued("bob", -100)).await);
    let mut without_iat = connect(&hub, json!({"sub": "ann", "exp": 3600})).await;
    let mut newer = connect(&hub, issued("ann", -1)).await;
    // However long the steps take.
    let before = hub.clock.now().unix_seconds() - 50;
    invalidate(&hub, json!({"user": "ann", "issued_before": before})).await;
    assert_closed_as_revoked(&mut ann).await;
    assert_closed_as_revoked(&mut without_iat).await;
    newer.subscribe("news").await;
    assert_eq!(hub.try_handshake(&path(&hub, issued("ann", -90)), &[]).await.status, 401);
    let of_this_second = path(&hub, issued("ann", 0));
    invalidate(&hub, json!({"user": "ann"})).await;
    assert_closed_as_revoked(&mut newer).await;
    assert_eq!(hub.try_handshake(&of_this_second, &[]).await.status, 401, "issued in the same second");
    connect(&hub, issued("ann", 3)).await.subscribe("news").await;
    bob.subscribe("news").await;
}

#[actix_rt::test]
async fn invalidated_channel_ends_subscriptions_there_until_a_newer_token_comes() {
    let hub = start_hub_with(|config| config.channels.allow_history = wardcast::config::ChannelAccess::User).await;
    let issued = |at: i64| json!({"sub": "ann", "exp": 3600, "iat": at, "channels": ["granted"]});
    let mut client = connect(&hub, issued(-10)).await;
    for channel in ["news", "other"] {
        client.subscribe(channel).await;
    }
    for channel in ["news", "granted"] {
        invalidate(&hub, json!({"user": "ann", "channel": channel})).await;
        let push = client.receive().await["push"].clone();
        assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!(channel), &json!(2000)));
    }
    for command in [json!({"subscribe": {"channel": "news"}}), json!({"publish": {"channel": "news", "data": 1}})] {
        let mut command = command;
        command["id"] = json!(5);
        assert_eq!(client.request(command.clone()).await["error"]["code"], 103, "{command}");
    }
    hub.publish("news", json!("no")).await;
    hub.publish("other", json!("yes")).await;
    assert_eq!(client.receive_publication().await, json!("yes"));
    let (_, push) = hub.connect_with_claims(issued(-9)).await;
    assert_eq!(push["subs"], Value::Null, "an old token does not bring the channel: {push}");
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "iat": -9, "channel": "news"}));
    let old = client.request(json!({"id": 6, "subscribe": {"channel": "news", "token": token}})).await;
    assert_eq!(old["error"]["code"], 103);
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "iat": 3, "channel": "news"}));
    client.subscribe_with("news", json!({"token": token})).await;
    hub.publish("news", json!("again")).await;
    assert_eq!(client.receive_publication().await, json!("again"));
}

#[actix_rt::test]
async fn revoked_subscription_token_ends_its_subscription_with_2000() {
    let hub = start_hub_with(|config| config.channels.allow_subscribe = wardcast::config::AllowSubscribe::None).await;
    let mut client = connect(&hub, claims("ann", "c")).await;
    let token = |jti: &str, channel: &str| {
        hub.token_with_claims(json!({"sub": "ann", "exp": 3600, "jti": jti, "channel": channel}))
    };
    client.subscribe_with("news", json!({"token": token("1", "news")})).await;
    client.subscribe_with("other", json!({"token": token("2", "other")})).await;
    // A refreshed subscription belongs to its newest token.
    let refresh = json!({"id": 9, "sub_refresh": {"channel": "other", "token": token("3", "other")}});
    assert!(client.request(refresh).await["sub_refresh"].is_object());
    revoke(&hub, json!({"jti": "2"})).await;
    revoke(&hub, json!({"jti": "1"})).await;
    let push = client.receive().await["push"].clone();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("news"), &json!(2000)));
    let again = client.request(json!({"id": 4, "subscribe": {"channel": "news", "token": token("1", "news")}})).await;
    assert_eq!(again["error"]["code"], 103);
    let spent = json!({"id": 5, "sub_refresh": {"channel": "other", "token": token("2", "other")}});
    assert_eq!(client.request(spent).await["error"]["code"], 103);
    hub.publish("other", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn revoked_token_is_refused_on_every_path() {
    let hub = start_hub_with(|config| config.auth.anonymous = wardcast::config::AnonymousAccess::Token).await;
    let token = hub.token_with_claims(claims("ann", "1"));
    let ticket = request_ticket(&hub, &token).await;
    revoke(&hub, json!({"jti": "1"})).await;
    assert_eq!(hub.try_handshake(&format!("/socket?ticket={ticket}"), &[]).await.status, 401);
    assert_eq!(ticket_request(&hub, &token).send().await.status, 401);
    let bearer = format!("Bearer {token}");
    assert_eq!(hub.try_handshake("/socket", &[("Authorization", &bearer)]).await.status, 401);
    let publish = http::post(hub.address, "/v1/channels/news/messages").header("Authorization", &bearer).json(json!(1));
    assert_eq!(publish.send().await.status, 401);
    let invalid = (Some(3500), "invalid token".to_owned());
    let mut sdk = hub.connect_without_token().await;
    sdk.send(json!({"id": 1, "connect": {"token": token}})).await;
    assert_eq!(sdk.wait_for_close().await, invalid);
    let mut text = hub.connect_without_token().await;
    text.send_text(&format!("Authorization: {bearer}")).await;
    assert_eq!(text.wait_for_close().await, invalid);
    let mut client = connect(&hub, claims("ann", "2")).await;
    client.send(json!({"id": 1, "token": token, "publish": {"channel": "news", "data": 1}})).await;
    assert_eq!(client.wait_for_close().await, invalid);
    // Without a user, too.
    let mut nobody = connect(&hub, json!({"exp": 3600, "jti": "n"})).await;
    revoke(&hub, json!({"jti": "n"})).await;
    assert_closed_as_revoked(&mut nobody).await;
}

/// The connection does not read, so publications wait in its outbox.
#[actix_rt::test]
async fn what_waits_for_a_revoked_client_never_reaches_it() {
    let hub = start_hub().await;
    let token = path(&hub, claims("ann", "1"));
    let mut stalled = RawClient::connect(hub.address, &token).await;
    stalled.next().await.expect("a connect push");
    stalled.subscribe("news").await;
    let mut watcher = hub.connect_subscriber("bob", "news").await;
    let data = "x".repeat(30_000);
    for number in 0..60 {
        hub.publish("news", json!([number, data])).await;
        watcher.receive_publication().await;
    }
    revoke(&hub, json!({"jti": "1"})).await;
    hub.publish("news", json!("after")).await;
    let mut last = None;
    while let Some(frame) = stalled.next().await {
        assert!(!frame.text().contains("after"));
        last = Some(frame);
    }
    assert!(last.is_none_or(|last| !last.text().contains("[59,")), "the backlog was dropped");
}

#[actix_rt::test]
async fn revocation_above_the_limit_fails_and_forgets_none() {
    let hub = start_hub_with(|config| config.limits.revocations = 2).await;
    for jti in ["1", "2"] {
        revoke(&hub, json!({"jti": jti})).await;
    }
    let full = hub.call_api("revoke_token", json!({"jti": "3"})).await;
    assert_eq!(full["error"]["code"], 106, "{full}");
    for (jti, status) in [("1", 401), ("2", 401), ("3", 101)] {
        assert_eq!(hub.try_handshake(&path(&hub, claims("ann", jti)), &[]).await.status, status, "{jti}");
    }
    hub.clock.advance(Duration::from_secs(25 * 3600));
    revoke(&hub, json!({"jti": "3"})).await;
}

#[actix_rt::test]
async fn invalid_revocations_are_refused() {
    let hub = start_hub().await;
    let long = "x".repeat(256);
    for (method, body) in [
        ("revoke_token", json!({})),
        ("revoke_token", json!({"jti": ""})),
        ("revoke_token", json!({"jti": "1", "sid": "1"})),
        ("revoke_token", json!({"jti": "1", "uid": "1"})),
        ("revoke_token", json!({"jti": long})),
        ("revoke_token", json!({"jti": "a\n"})),
        ("revoke_token", json!({"jti": "1", "issuer": long})),
        ("revoke_token", json!({"jti": "1", "issuer": "a\n"})),
        ("revoke_token", json!({"issuer": "a"})),
        ("revoke_token", json!({"jti": "1", "expire_at": 1})),
        ("revoke_token", json!({"jti": "1", "expire_at": 4_102_444_800_000_i64})),
        ("invalidate_user_tokens", json!({})),
        ("invalidate_user_tokens", json!({"user": ""})),
        ("invalidate_user_tokens", json!({"user": "a\u{0}b"})),
        ("invalidate_user_tokens", json!({"user": "ann", "channel": "a*"})),
        ("invalidate_user_tokens", json!({"user": "ann", "channel": "news", "issuer": "a"})),
        ("invalidate_user_tokens", json!({"user": "ann", "issued_before": 4_102_444_800_000_i64})),
        ("invalidate_user_tokens", json!({"user": "ann", "issued_before": -1})),
    ] {
        assert_eq!(hub.call_api(method, body.clone()).await["error"]["code"], 107, "{method} {body}");
    }
    let unknown = hub.call_api("invalidate_user_tokens", json!({"user": "ann", "channel": "nothing:1"})).await;
    assert_eq!(unknown["error"]["code"], 102);
    // What nobody has can be revoked.
    revoke(&hub, json!({"jti": "unknown"})).await;
}

pub fn logout(hub: &TestHub, token: &str) -> http::Request {
    http::post(hub.address, "/auth/logout").header("Authorization", &format!("Bearer {token}"))
}

#[actix_rt::test]
async fn logout_closes_the_sockets_of_that_login_only() {
    let hub = start_hub().await;
    let (phone, laptop) = (hub.token("ann"), hub.token("ann"));
    let connect = async |token: &str| hub.connect_to(&format!("/socket?token={token}"), &[]).await;
    let (mut one, mut two, mut other) = (connect(&phone).await, connect(&phone).await, connect(&laptop).await);
    let response = logout(&hub, &phone).send().await;
    assert_eq!((response.status, response.header("set-cookie")), (204, None), "{response:?}");
    assert_closed_as_revoked(&mut one).await;
    assert_closed_as_revoked(&mut two).await;
    other.subscribe("news").await;
    assert_eq!(hub.try_handshake(&format!("/socket?token={phone}"), &[]).await.status, 401);
    assert_eq!(logout(&hub, &phone).send().await.status, 204, "once more");
    let everywhere = logout(&hub, &laptop).json(json!({"everywhere": true})).send().await;
    assert_eq!(everywhere.status, 204, "{everywhere:?}");
    assert_closed_as_revoked(&mut other).await;
}

#[actix_rt::test]
async fn logout_ends_no_session_of_another_issuer_with_the_same_ids() {
    let hub = start_hub().await;
    let of = |issuer: Value| {
        let mut claims = json!({"sub": "ann", "exp": 3600, "jti": "1", "sid": "1"});
        if issuer.is_string() {
            claims["iss"] = issuer;
        }
        claims
    };
    for issuer in [Value::Null, json!("https://one")] {
        let (mut mine, mut other) =
            (connect(&hub, of(issuer.clone())).await, connect(&hub, of(json!("https://two"))).await);
        assert_eq!(logout(&hub, &hub.token_with_claims(of(issuer))).send().await.status, 204);
        assert_closed_as_revoked(&mut mine).await;
        other.subscribe("news").await;
    }
}

#[actix_rt::test]
async fn one_user_who_logs_out_all_the_time_does_not_fill_the_list() {
    let limits =
        |config: &mut wardcast::config::Config| (config.limits.logouts_per_user, config.limits.revocations) = (2, 4);
    let hub = start_hub_with(limits).await;
    let mut other_login = connect(&hub, claims("ann", "other")).await;
    for number in 0..10 {
        let token = hub.token_with_claims(claims("ann", &number.to_string()));
        assert_eq!(logout(&hub, &token).send().await.status, 204);
        // It is void, and is carried out again so often as logouts of the user are.
        let again = logout(&hub, &token).send().await;
        assert_eq!(again.status, if number < 2 { 204 } else { 429 }, "{number}: {again:?}");
        hub.clock.advance(Duration::from_secs(2));
    }
    assert_closed_as_revoked(&mut other_login).await;
    assert_eq!(hub.metric("wardcast_revocations").await, 3.0);
    revoke(&hub, json!({"jti": "of another user"})).await;
}

#[actix_rt::test]
async fn user_of_tokens_without_iat_is_locked_out_no_longer_than_the_tokens_live_that_were_logged_out() {
    let limits =
        |config: &mut wardcast::config::Config| (config.limits.logouts_per_user, config.limits.revocations) = (1, 2);
    let hub = start_hub_with(limits).await;
    let token = |jti: &str| hub.token_with_claims(json!({"sub": "ann", "exp": 60, "jti": jti}));
    for jti in ["1", "2"] {
        assert_eq!(logout(&hub, &token(jti)).send().await.status, 204);
    }
    let status = async |jti: &str| hub.try_handshake(&format!("/socket?token={}", token(jti)), &[]).await.status;
    assert_eq!(status("3").await, 401, "above the limit, and with a list that is half full, a logout means all tokens");
    hub.clock.advance(Duration::from_secs(61));
    assert_eq!(status("4").await, 101);
}

#[actix_rt::test]
async fn user_of_tokens_without_iat_is_not_locked_out_while_the_list_has_room_for_others() {
    let limits =
        |config: &mut wardcast::config::Config| (config.limits.logouts_per_user, config.limits.revocations) = (1, 20);
    let hub = start_hub_with(limits).await;
    let claims = |jti: &str| json!({"sub": "ann", "exp": 60, "jti": jti, "sid": format!("s{jti}")});
    for number in 0..8 {
        let mut client = connect(&hub, claims(&number.to_string())).await;
        assert_eq!(logout(&hub, &hub.token_with_claims(claims(&number.to_string()))).send().await.status, 204);
        assert_closed_as_revoked(&mut client).await;
    }
    connect(&hub, claims("next")).await.subscribe("news").await;
}

#[actix_rt::test]
async fn logout_by_cookie_revokes_the_token_and_clears_the_cookie() {
    let hub = start_hub().await;
    let own = format!("http://{}", hub.address);
    let cookie = format!("wardcast_token={}", hub.token("ann"));
    let headers = [("Origin", own.as_str()), ("Cookie", cookie.as_str())];
    let mut client = hub.connect_to("/socket", &headers).await;
    let post = || http::post(hub.address, "/auth/logout").header("Cookie", &cookie);
    for origin in ["https://evil.com", "null"] {
        assert_eq!(post().header("Origin", origin).send().await.status, 403);
    }
    client.subscribe("news").await;
    let response = post().header("Origin", &own).send().await;
    assert_eq!(response.status, 204, "{response:?}");
    assert!(response.header("set-cookie").unwrap().starts_with("wardcast_token=; "), "{response:?}");
    assert_closed_as_revoked(&mut client).await;
    assert_eq!(hub.try_handshake("/socket", &headers).await.status, 401);
}

#[actix_rt::test]
async fn logout_refuses_bad_tokens_and_bodies_and_tokens_that_cannot_be_named() {
    let hub = start_hub().await;
    assert_eq!(logout(&hub, &hub.forged_token("ann")).send().await.status, 401);
    let nameless = hub.token_with_claims(json!({"sub": "ann", "exp": 3600}));
    let response = logout(&hub, &nameless).send().await;
    assert!(response.status == 400 && response.body.contains("everywhere"), "{response:?}");
    for body in ["[]", "{\"everywhere\":1}", "{\"every\":true}", "x", "{\"everywhere\":true,\"everywhere\":false}"] {
        assert_eq!(logout(&hub, &hub.token("ann")).body(body.to_owned()).send().await.status, 400, "{body}");
    }
    assert_eq!(hub.metric("wardcast_revocations").await, 0.0);
    assert_eq!(logout(&hub, &nameless).json(json!({"everywhere": true})).send().await.status, 204);
    assert_eq!(hub.try_handshake(&format!("/socket?token={nameless}"), &[]).await.status, 401);
}
