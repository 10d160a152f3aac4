//! Failed logins in Redis: three keys for each attempt, which expire, all on one server. There are no more keys than passwords that
//! were checked, because a delayed attempt creates none.

use std::time::Duration;

use redis::Cmd;

use super::{
    super::{RedisContext, scripts, store::millis},
    STORE,
};
use crate::broker::{
    BrokerError, LoginDelayRule, LoginFailureNames, SharedLoginAttempt, SharedLoginVerdict,
    shared_limits::LoginFailures,
};

/// Starts an attempt.
pub(super) async fn begin(
    context: &RedisContext,
    names: &LoginFailureNames,
    rule: LoginDelayRule,
) -> Result<SharedLoginVerdict, BrokerError> {
    let keys = keys(context, names);
    let mut call = scripts::LOGIN_BEGIN.call(&keys);
    let LoginDelayRule { forget_after, first_wait, max_wait, free_of_pair, free_of_address, attacked_above } = rule;
    call.arg(millis(forget_after)).arg(millis(first_wait)).arg(millis(max_wait));
    call.arg(free_of_pair).arg(free_of_address).arg(attacked_above);
    type Reply = (u8, u32, u64, u32, u64, u32, String, String);
    let (is_allowed, pair, pair_wait, address, address_wait, user, set, before): Reply =
        STORE.query(context, &context.names.login_failures_home(), &call).await?;
    let failures = |failures, wait| LoginFailures { failures, wait: Duration::from_millis(wait) };
    Ok(SharedLoginVerdict {
        attempt: (is_allowed == 1).then_some(SharedLoginAttempt([set, before])),
        pair: failures(pair, pair_wait),
        address: failures(address, address_wait),
        user,
    })
}

/// Undoes an attempt, because its password was right.
pub(super) async fn forgive(
    context: &RedisContext,
    names: &LoginFailureNames,
    SharedLoginAttempt([set, before]): SharedLoginAttempt,
) -> Result<(), BrokerError> {
    let keys = keys(context, names);
    let mut call: Cmd = scripts::LOGIN_FORGIVE.call(&keys);
    call.arg(set).arg(before);
    match STORE.query::<String>(context, &context.names.login_failures_home(), &call).await?.as_str() {
        "OK" => Ok(()),
        _ => Err(STORE.unexpected("reply")),
    }
}

fn keys(context: &RedisContext, names: &LoginFailureNames) -> [String; 3] {
    let LoginFailureNames { pair, address, user } = names;
    [("pair", pair), ("address", address), ("user", user)]
        .map(|(kind, name)| context.names.login_failures_key(kind, name))
}
