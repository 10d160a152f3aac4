//! Logins that have ended, and whose tokens are revoked whatever happens meanwhile.

use std::time::Duration;

use serde_json::json;
use wardcast::config::{BrokerKind, Config};

use crate::{
    login::{PASSWORD, log_in, start_login_hub_on, start_login_hub_over, start_login_hub_with},
    refresh_tokens::{Tokens, assert_ended, refresh, start_login},
    revocation::{assert_closed_as_revoked, revoke},
    support::{
        poll_until,
        redis::{PrefixedRedis, RedisForm, RedisServer},
    },
};

/// The script of the new login stores it and ends the old one, and fails then.
#[actix_rt::test]
async fn login_that_is_replaced_by_one_whose_start_has_failed_is_revoked_and_the_new_one_ends() {
    let redis = RedisServer::start().await;
    let (hub, _users) = start_login_hub_on(&redis, |config| config.login.logins_per_user = 1).await;
    let first = start_login(&hub).await;
    let mut socket = first.connect(&hub).await;
    redis.run::<()>(&["ACL", "SETUSER", "default", "-pexpire"]).await;
    assert_eq!(log_in(&hub, "ann", PASSWORD).await.status, 503);
    assert_closed_as_revoked(&mut socket).await;
    redis.run::<()>(&["ACL", "SETUSER", "default", "+pexpire"]).await;
    poll_until("both logins are gone", async || redis.run::<Vec<String>>(&["KEYS", "*logins:*"]).await.is_empty())
        .await;
}

#[actix_rt::test]
async fn reuse_above_the_limit_of_the_user_ends_the_login_and_says_that_it_is_not_revoked() {
    let (hub, _users) = start_login_hub_with(|config| config.limits.logouts_per_user = 1).await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let stolen = start_login(&hub).await;
        let second = Tokens::of(&refresh(&hub, &stolen.refresh).await);
        sockets.push(second.connect(&hub).await);
        let third = Tokens::of(&refresh(&hub, &second.refresh).await);
        assert_ended(&hub, &stolen.refresh).await;
        assert_ended(&hub, &third.refresh).await;
    }
    assert_closed_as_revoked(&mut sockets[0]).await;
    sockets[1].subscribe("news").await;
    assert_eq!(hub.metric("wardcast_login_refreshes_total{outcome=\"spent\"}").await, 2.0);
}

/// The logins are there, but the list of revocations is longer than what this instance may keep.
#[actix_rt::test]
async fn login_and_refresh_change_nothing_while_the_first_list_of_revocations_is_missing() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let at_once = |config: &mut Config| {
        (config.login.refresh_grace, config.login.logins_per_user) = (Duration::ZERO, 1);
    };
    let (hub, users) = start_login_hub_over(&redis, at_once).await;
    let login = start_login(&hub).await;
    for jti in ["1", "2"] {
        revoke(&hub, json!({"jti": jti})).await;
    }
    let (late, _users) = start_login_hub_with(|config| {
        at_once(config);
        config.broker.kind = BrokerKind::Redis;
        redis.configure(&mut config.broker.redis);
        config.limits.revocations = 1;
        config.login.users_file = Some(users.path().to_owned());
    })
    .await;
    poll_until("the late hub reaches Redis", async || {
        late.call_api("publish", json!({"channel": "news", "data": 1})).await["result"].is_object()
    })
    .await;
    for refused in [refresh(&late, &login.refresh).await, log_in(&late, "ann", PASSWORD).await] {
        assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    }
    Tokens::of(&refresh(&hub, &login.refresh).await);
}
