//! Watches the users files of the login and of the admin page, and ends the logins of users that the first does not have any more or
//! that have a new password. The sessions of the admin page need no end: each request compares them with the file.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use super::seen_files::{Reload, SeenFiles, stamp_of};
use crate::{
    audit::AuditFields,
    auth::users::{ChangedUser, Users, UsersFileError},
    broker::{BrokerError, LoginSelection, login_tokens_end, revoke_until_stored},
    http::HttpContext,
    revocation::{IssuerScope, Revocation, RevocationTarget, user_tag},
};

/// Time until the next attempt to end logins, while the broker is unavailable.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Starts to look for changes every `login.users_file_interval`. Ends with the server.
pub(super) fn watch(context: &Arc<HttpContext>) {
    let (config, context) = (context.config.snapshot(), Arc::downgrade(context));
    if config.login.users_file_interval.is_zero() {
        return;
    }
    if config.login.users_file.is_some() {
        actix_rt::spawn(watch_login(context.clone()));
    }
    if config.admin.users_file.is_some() {
        actix_rt::spawn(watch_admins(context));
    }
}

async fn watch_login(context: Weak<HttpContext>) {
    let mut seen = SeenFiles::default();
    while let Some(context) = after_interval(&context).await {
        let Some(users) = context.login_users.clone() else { return };
        let path = context.config.current().login.users_file.clone();
        if let Some(reload) = reload_if_changed(&mut seen, path, users).await {
            if reload.is_news {
                log_reload("login", &reload.result, reload.is_first);
            }
            let changed = reload.result.unwrap_or_default();
            actix_rt::spawn(end_logins(Arc::downgrade(&context), changed));
        }
    }
}

async fn watch_admins(context: Weak<HttpContext>) {
    let mut seen = SeenFiles::default();
    while let Some(context) = after_interval(&context).await {
        let Some(users) = context.admin_sessions.as_ref().and_then(|sessions| sessions.users().cloned()) else {
            return;
        };
        let path = context.config.current().admin.users_file.clone();
        if let Some(reload) = reload_if_changed(&mut seen, path, users).await.filter(|reload| reload.is_news) {
            log_reload("admin", &reload.result, reload.is_first);
        }
    }
}

/// Waits for the next look; `None`: the server has ended.
async fn after_interval(context: &Weak<HttpContext>) -> Option<Arc<HttpContext>> {
    let interval = context.upgrade()?.config.current().login.users_file_interval;
    sleep(interval).await;
    context.upgrade()
}

async fn reload_if_changed(
    seen: &mut SeenFiles,
    path: Option<PathBuf>,
    users: Arc<Users>,
) -> Option<Reload<Vec<ChangedUser>, UsersFileError>> {
    let before = std::mem::take(seen);
    // A network drive may take long.
    let look = tokio::task::spawn_blocking(move || before.look(path.iter().map(stamp_of).collect(), || users.reload()));
    let (after, reload) = look.await.unwrap_or_default();
    *seen = after;
    reload
}

/// Logs what a reload of the users file has changed.
fn log_reload(file: &str, reloaded: &Result<Vec<ChangedUser>, UsersFileError>, is_first: bool) {
    match reloaded {
        // Most likely what was read at the start.
        Ok(changed) if is_first && changed.is_empty() => {}
        Ok(changed) => {
            let removed = changed.iter().filter(|user| user.password_name.is_none()).count();
            log::info!("reloaded {file} file removed={removed} new_passwords={}", changed.len() - removed);
        }
        Err(error) => log::error!("{file} file reload failed, keeping the old users error={:?}", error.to_string()),
    }
}

/// Ends the logins of users with the password that they had before, and revokes their tokens. Tries again while the broker is
/// unavailable, for as long as an access token of theirs may be valid: no refresh token of theirs is.
pub(super) async fn end_logins(context: Weak<HttpContext>, mut changed: Vec<ChangedUser>) {
    let Some(lifetime) = context.upgrade().map(|context| context.config.current().login.token_ttl) else { return };
    let until = tokio::time::Instant::now() + lifetime;
    while let (Some(user), Some(context)) = (changed.last(), context.upgrade()) {
        match end_logins_of(user, &context).await {
            Ok(()) => _ = changed.pop(),
            Err(error) if tokio::time::Instant::now() >= until => {
                return log::error!("could not end logins user={:?} error={:?}", user.name, error.to_string());
            }
            Err(error) => {
                log::warn!("could not end logins yet user={:?} error={:?}", user.name, error.to_string());
                drop(context);
                sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn end_logins_of(user: &ChangedUser, context: &HttpContext) -> Result<(), BrokerError> {
    let selection = LoginSelection::OtherPassword(user.password_name.clone().unwrap_or_default());
    let ended = context.broker.end_logins(user_tag(&user.name), selection).await?;
    let (config, now) = (context.config.current(), context.clock.now());
    let mut revocations: Vec<Revocation> = ended.iter().filter_map(|login| login.revocation(&config, now)).collect();
    if user.password_name.is_none() {
        // Also the tokens of logins that newer ones had ended: `limits.logouts_per_user` may have left them out.
        let target = RevocationTarget::User(user.name.clone(), IssuerScope::Only(config.login_issuer().to_owned()));
        let issued_before = context.revocations.issued_until_now();
        revocations.push(Revocation { target, issued_before, expires_at: login_tokens_end(now, &config) });
    }
    if revocations.is_empty() {
        return Ok(());
    }
    let cause = AuditFields { by: Some("users_file"), ..AuditFields::default() };
    // The logins have ended, so another attempt would not find them.
    let (audit, lifetime) = ((&*context.audit, cause), context.config.current().login.token_ttl);
    revoke_until_stored(&*context.broker, revocations, audit, &context.metrics, lifetime).await;
    Ok(())
}
