//! Logins in Redis: a hash per user, with a record per login. Each change is one script, so that of several instances with the same
//! refresh token exactly one refreshes. Redis removes the logins of users who do not return.

use super::{
    RedisContext,
    scripts::{self, RedisScript},
    store::{Store, millis},
};
use crate::{
    broker::{BrokerError, Login, LoginLimits, LoginRecord, LoginRefresh, LoginSelection},
    clock::WallTime,
    revocation::LoginId,
};

const STORE: Store = Store("logins");

/// A login that a script has found or ended: the part of its name behind the tag, its latest refresh in milliseconds, and its user.
type FoundLogin = (String, i64, String);

/// Stores a login, and ends those of the user that are too many. Returns these, and those that had ended before and still are stored.
pub(super) async fn start(
    context: &RedisContext,
    id: &LoginId,
    login: &Login,
    limits: &LoginLimits,
) -> Result<Vec<LoginRecord>, BrokerError> {
    let (tag, own_part) = id.split();
    let Login { user, password, started_at, ends_at } = login;
    let (started, ends) = (started_at.unix_millis(), ends_at.unix_millis());
    let key = context.names.logins_key(tag);
    let mut call = scripts::LOGIN_START.call(&[&key]);
    call.arg(started).arg(millis(limits.idle)).arg(own_part);
    call.arg(format!("0 {started} {started} {ends} {password} {user}")).arg(ends).arg(limits.per_user);
    Ok(records(tag, STORE.query(context, &key, &call).await?))
}

/// Refreshes a login.
pub(super) async fn refresh(
    context: &RedisContext,
    id: &LoginId,
    generation: u32,
    now: WallTime,
    limits: &LoginLimits,
) -> Result<LoginRefresh, BrokerError> {
    let (tag, own_part) = id.split();
    let key = context.names.logins_key(tag);
    let mut call = scripts::LOGIN_REFRESH.call(&[&key]);
    call.arg(now.unix_millis()).arg(millis(limits.idle)).arg(own_part).arg(generation).arg(millis(limits.grace));
    let reply: Vec<String> = STORE.query(context, &key, &call).await?;
    let unexpected = || STORE.unexpected("record");
    let time = |text: &str| text.parse().map(WallTime::from_unix_millis).map_err(|_| unexpected());
    Ok(match reply.as_slice() {
        [generation, started, ends, password, user] => LoginRefresh::Refreshed {
            user: user.clone(),
            password: password.clone(),
            started_at: time(started)?,
            ends_at: time(ends)?,
            generation: generation.parse().map_err(|_| unexpected())?,
        },
        [] => LoginRefresh::Unknown,
        _ => LoginRefresh::Spent,
    })
}

/// Returns logins.
pub(super) async fn find(
    context: &RedisContext,
    tag: &str,
    selection: &LoginSelection,
) -> Result<Vec<LoginRecord>, BrokerError> {
    select(context, tag, selection, &scripts::LOGIN_FIND).await
}

/// Ends logins.
pub(super) async fn end(
    context: &RedisContext,
    tag: &str,
    selection: &LoginSelection,
) -> Result<Vec<LoginRecord>, BrokerError> {
    select(context, tag, selection, &scripts::LOGIN_END).await
}

/// Runs a script for some logins, and returns them.
async fn select(
    context: &RedisContext,
    tag: &str,
    selection: &LoginSelection,
    script: &RedisScript,
) -> Result<Vec<LoginRecord>, BrokerError> {
    let key = context.names.logins_key(tag);
    let mut call = script.call(&[&key]);
    match selection {
        LoginSelection::One(id) => call.arg("login").arg(id.split().1),
        LoginSelection::StartedBefore(time) => call.arg("before").arg(time.unix_millis()),
        LoginSelection::OtherPassword(password) => call.arg("password").arg(password),
        LoginSelection::Ended => call.arg("ended").arg(""),
    };
    Ok(records(tag, STORE.query(context, &key, &call).await?))
}

fn records(tag: &str, found: Vec<FoundLogin>) -> Vec<LoginRecord> {
    let read = |(own_part, refreshed, user): FoundLogin| {
        let refreshed_at = WallTime::from_unix_millis(refreshed);
        Some(LoginRecord { id: LoginId::join(tag, &own_part)?, user, refreshed_at })
    };
    found.into_iter().filter_map(read).collect()
}
