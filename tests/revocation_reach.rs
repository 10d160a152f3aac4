//! What a revocation reaches, for how long, and what it leaves alone: attempts to stay in spite of one, and to revoke more than one
//! may.

use std::time::Duration;

use serde_json::json;

use crate::{
    login::{start_login_hub, start_login_hub_with},
    refresh_tokens::{Tokens, assert_ended, refresh, start_login},
    revocation::{assert_closed_as_revoked, claims, connect, invalidate, logout, path, revoke},
    support::{
        TestHub, http,
        raw::{RawClient, text_frame},
        start_hub, start_hub_with,
    },
};

#[actix_rt::test]
async fn sessions_are_closed_before_the_call_is_answered() {
    let hub = start_hub_with(|config| config.limits.connections_per_user = 100).await;
    let mut sessions = Vec::new();
    for _ in 0..40 {
        sessions.push(connect(&hub, claims("ann", "1")).await);
    }
    revoke(&hub, json!({"jti": "1"})).await;
    assert_eq!(hub.running().metrics.closes_with_code(3500), 40);
}

#[actix_rt::test]
async fn revocation_lasts_as_long_as_any_token_that_it_means() {
    let hub = start_hub().await;
    let token = |sid: &str, jti: &str, exp: i64| json!({"sub": "ann", "exp": exp, "jti": jti, "sid": sid});
    let (day, first) = (24 * 3600 - 60, hub.token_with_claims(token("s", "1", 60)));
    let (named, of_session) = (path(&hub, token("other", "2", day)), path(&hub, token("s", "3", day)));
    revoke(&hub, json!({"jti": "2"})).await;
    assert_eq!(logout(&hub, &first).send().await.status, 204);
    hub.clock.advance(Duration::from_secs(23 * 3600));
    assert_eq!(hub.try_handshake(&named, &[]).await.status, 401);
    assert_eq!(hub.try_handshake(&of_session, &[]).await.status, 401, "the token of the logout has expired long ago");
}

#[actix_rt::test]
async fn wildcards_revoke_nothing_but_what_has_their_name() {
    let hub = start_hub().await;
    let mut ann = connect(&hub, json!({"sub": "ann", "exp": 3600, "iat": 0, "jti": "1", "sid": "s"})).await;
    for pattern in ["*", "%", ".*", "ann*", "#"] {
        revoke(&hub, json!({"jti": pattern})).await;
        revoke(&hub, json!({"sid": pattern})).await;
        invalidate(&hub, json!({"user": pattern})).await;
        let mut everywhere = json!({"user": "ann", "channel": pattern});
        assert_eq!(hub.call_api("revoke_token", everywhere.clone()).await["error"]["code"], 107, "{pattern}");
        everywhere["user"] = json!(pattern);
        hub.call_api("invalidate_user_tokens", everywhere).await;
    }
    ann.subscribe("news").await;
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, json!(1));
}

#[actix_rt::test]
async fn client_that_connects_again_does_not_get_back_a_channel_that_is_revoked_for_its_token() {
    let hub = start_hub().await;
    // One that is issued in a later second than that of the call is not revoked.
    let token = hub.token_with_claims(claims("ann", "1"));
    invalidate(&hub, json!({"user": "ann", "channel": "news"})).await;
    let mut client = hub.connect_without_token().await;
    let subs = json!({"news": {}, "other": {}});
    let reply = client.request(json!({"id": 1, "connect": {"token": token, "subs": subs}})).await;
    let subs = reply["connect"]["subs"].as_object().unwrap_or_else(|| panic!("{reply}"));
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["other"], "{reply}");
}

#[actix_rt::test]
async fn cookie_is_kept_for_another_attempt_when_its_token_cannot_be_revoked_and_else_cleared() {
    let hub = start_hub_with(|config| config.limits.revocations = 1).await;
    revoke(&hub, json!({"jti": "other"})).await;
    let own = format!("http://{}", hub.address);
    let post = |token: &str| {
        let cookie = format!("wardcast_token={token}");
        http::post(hub.address, "/auth/logout").header("Cookie", &cookie).header("Origin", &own)
    };
    let token = hub.token("ann");
    let response = post(&token).send().await;
    assert_eq!((response.status, response.header("set-cookie")), (503, None), "{response:?}");
    assert_eq!(hub.try_handshake(&format!("/socket?token={token}"), &[]).await.status, 101);
    let expired = post(&hub.expired_token("ann")).json(json!({"everywhere": true})).send().await;
    assert_eq!(expired.status, 401, "{expired:?}");
    assert!(expired.header("set-cookie").unwrap().starts_with("wardcast_token=; "), "{expired:?}");
}

#[actix_rt::test]
async fn session_that_the_server_api_has_refreshed_can_still_be_revoked_by_its_token() {
    let hub = start_hub().await;
    let (mut by_jti, mut by_user) = (connect(&hub, claims("ann", "1")).await, connect(&hub, claims("bob", "2")).await);
    for (client, user) in [(&mut by_jti, "ann"), (&mut by_user, "bob")] {
        hub.call_api("refresh", json!({"user": user, "info": {"name": user}})).await;
        assert!(client.receive().await["push"]["refresh"].is_object());
    }
    revoke(&hub, json!({"jti": "1"})).await;
    assert_closed_as_revoked(&mut by_jti).await;
    invalidate(&hub, json!({"user": "bob"})).await;
    assert_closed_as_revoked(&mut by_user).await;
}

/// Its `iat` may be ahead by `auth.clock_skew`, and its `exp` later than `auth.max_ttl` after that by as much.
#[actix_rt::test]
async fn revocation_lasts_as_long_as_the_longest_token_that_exists_with_it() {
    let hub = start_hub().await;
    let (day, skew) = (hub.config.auth.max_ttl, hub.config.auth.clock_skew);
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap();
    let longest = json!({"sub": "ann", "exp": seconds(day + 2 * skew) - 1, "iat": seconds(skew) - 1, "jti": "1"});
    let path = path(&hub, longest);
    revoke(&hub, json!({"jti": "1"})).await;
    hub.clock.advance(day + Duration::from_secs(1));
    assert_eq!(hub.try_handshake(&path, &[]).await.status, 401);
}

/// The server API has given them a later end, and they belong to the newest token that they have presented.
#[actix_rt::test]
async fn expired_token_still_logs_out_the_sessions_that_it_has_opened() {
    let hub = start_hub_with(|config| config.limits.logouts_per_user = 3).await;
    let with = |jti: &str, sid: Option<&str>| json!({"sub": "ann", "exp": 60, "iat": 0, "jti": jti, "sid": sid});
    let tokens = [with("1", None), with("2", Some("s")), with("3", None)].map(|claims| hub.token_with_claims(claims));
    let nameless = hub.token_with_claims(json!({"sub": "ann", "exp": 60}));
    let mut sessions = Vec::new();
    for token in &tokens {
        sessions.push(hub.connect_to(&format!("/socket?token={token}"), &[]).await);
    }
    let later = hub.clock.now().unix_seconds() + 7200;
    hub.call_api("refresh", json!({"user": "ann", "expire_at": later})).await;
    for session in &mut sessions {
        assert!(session.receive().await["push"]["refresh"].is_object());
    }
    hub.clock.advance(Duration::from_secs(3600));
    assert_eq!(logout(&hub, &nameless).send().await.status, 204);
    for (token, session) in tokens.iter().zip(&mut sessions).take(2) {
        session.subscribe("news").await;
        let everywhere = logout(&hub, token).json(json!({"everywhere": true})).send().await;
        assert_eq!(everywhere.status, 401, "{everywhere:?}");
        assert_eq!(logout(&hub, token).send().await.status, 204);
        assert_closed_as_revoked(session).await;
    }
    assert_eq!(logout(&hub, &tokens[1]).send().await.status, 204, "again");
    let limited = logout(&hub, &tokens[2]).send().await;
    assert!(limited.status == 429 && limited.header("retry-after").is_some(), "{limited:?}");
    sessions[2].subscribe("news").await;
    assert_eq!(logout(&hub, &hub.forged_token("ann")).send().await.status, 401);
}

#[actix_rt::test]
async fn expired_token_of_a_login_ends_it_and_counts_not_at_all_beside_its_refresh_token() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.logouts_per_user = 2).await;
    let logins = [start_login(&hub).await, start_login(&hub).await, start_login(&hub).await];
    hub.clock.advance(hub.config.login.token_ttl + Duration::from_secs(1));
    let newest = Tokens::of(&refresh(&hub, &logins[2].refresh).await);
    let mut socket = newest.connect(&hub).await;
    for login in &logins[..2] {
        let both = logout(&hub, &login.access).json(json!({"refresh_token": login.refresh}));
        assert_eq!(both.send().await.status, 204);
        assert_ended(&hub, &login.refresh).await;
    }
    socket.subscribe("news").await;
    assert_eq!(logout(&hub, &logins[2].access).send().await.status, 204);
    assert_closed_as_revoked(&mut socket).await;
    assert_ended(&hub, &newest.refresh).await;
}

/// A refresh token has no date: it is as old as its login, also if a refresh has made it later.
#[actix_rt::test]
async fn revocation_until_a_time_ends_every_refresh_token_of_older_logins_and_none_of_newer_ones() {
    let (hub, _users) = start_login_hub().await;
    let (unused, refreshed) = (start_login(&hub).await, start_login(&hub).await);
    let before = hub.clock.now().unix_seconds() + 1;
    hub.clock.advance(Duration::from_secs(10));
    let newer = start_login(&hub).await;
    let refreshed = Tokens::of(&refresh(&hub, &refreshed.refresh).await);
    let mut sockets = [refreshed.connect(&hub).await, newer.connect(&hub).await];
    invalidate(&hub, json!({"user": "ann", "issued_before": before})).await;
    let [refreshed_socket, newer_socket] = &mut sockets;
    assert_closed_as_revoked(refreshed_socket).await;
    newer_socket.subscribe("news").await;
    let newer = Tokens::of(&refresh(&hub, &newer.refresh).await);
    for token in [&unused.refresh, &refreshed.refresh] {
        assert_ended(&hub, token).await;
    }
    // Beyond auth.max_ttl the revocation is forgotten.
    hub.clock.advance(Duration::from_secs(25 * 3600));
    for token in [&unused.refresh, &refreshed.refresh] {
        assert_ended(&hub, token).await;
    }
    Tokens::of(&refresh(&hub, &newer.refresh).await);
}

/// The repetition gives a newer access token, but does not count as a refresh.
#[actix_rt::test]
async fn token_of_a_late_repetition_of_a_refresh_ends_with_its_login() {
    let (hub, _users) = start_login_hub_with(|config| {
        config.login.refresh_grace = Duration::from_secs(600);
        config.login.token_ttl = Duration::from_secs(60);
    })
    .await;
    let login = start_login(&hub).await;
    let before = hub.clock.now().unix_seconds() + 1;
    hub.clock.advance(Duration::from_secs(10));
    Tokens::of(&refresh(&hub, &login.refresh).await);
    hub.clock.advance(Duration::from_secs(590));
    let repeated = Tokens::of(&refresh(&hub, &login.refresh).await);
    let mut socket = repeated.connect(&hub).await;
    invalidate(&hub, json!({"user": "ann", "issued_before": before})).await;
    assert_closed_as_revoked(&mut socket).await;
}

/// Publications wait for a client that does not read. An outbox does not know the channels of its frames, so the connection ends, and its client reconnects.
#[actix_rt::test]
async fn what_waits_for_a_client_whose_subscription_has_ended_never_reaches_it() {
    let subscription_token = |hub: &TestHub, jti: &str, exp: i64| {
        hub.token_with_claims(json!({"sub": "ann", "exp": exp, "jti": jti, "channel": "news"}))
    };
    for end in ["jti", "channel", "expiry"] {
        let hub = start_hub().await;
        let mut stalled = RawClient::connect(hub.address, &path(&hub, claims("ann", "c"))).await;
        stalled.next().await.expect("a connect push");
        let token = subscription_token(&hub, "1", 60);
        let subscribe = json!({"id": 1, "subscribe": {"channel": "news", "token": token}});
        stalled.send(&text_frame(&subscribe.to_string())).await;
        while !stalled.next().await.expect("a reply").text().contains("\"subscribe\"") {}
        let mut watcher = hub.connect_subscriber("bob", "news").await;
        let data = "x".repeat(30_000);
        for number in 0..60 {
            hub.publish("news", json!([number, data])).await;
            watcher.receive_publication().await;
        }
        match end {
            "jti" => revoke(&hub, json!({"jti": "1"})).await,
            "channel" => invalidate(&hub, json!({"user": "ann", "channel": "news"})).await,
            _ => {
                hub.clock.advance(Duration::from_secs(61));
                hub.publish("news", json!("expired")).await;
                watcher.receive_publication().await;
            }
        }
        let mut last = None;
        while let Some(frame) = stalled.next().await {
            last = Some(frame);
        }
        assert!(last.is_none_or(|last| !last.text().contains("[59,")), "{end}: the backlog was dropped");
        assert_eq!(hub.running().metrics.closes_with_code(3010), 1, "{end}");
    }
}
