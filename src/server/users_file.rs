//! Watches the users file of the login, and ends the logins of users that it does not have any more or that have a new password.

use std::{sync::Weak, time::Duration};

use tokio::time::sleep;

use super::seen_files::{SeenFiles, stamp_of};
use crate::{
    audit::AuditFields,
    auth::users::{ChangedUser, UsersFileError},
    broker::{BrokerError, LoginSelection, revocation_of_login, revoke_until_stored},
    http::HttpContext,
    revocation::user_tag,
};

/// Time until the next attempt to end logins, while the broker is unavailable.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Looks for changes every `login.users_file_interval`. Ends with the server.
pub(super) async fn watch(context: Weak<HttpContext>) {
    let mut seen = SeenFiles::default();
    loop {
        let Some(interval) = context.upgrade().map(|context| context.config.current().login.users_file_interval) else {
            return;
        };
        sleep(interval).await;
        let Some((context, users)) =
            context.upgrade().and_then(|context| Some((context.clone(), context.login_users.clone()?)))
        else {
            return;
        };
        let (path, before) = (context.config.current().login.users_file.clone(), std::mem::take(&mut seen));
        // A network drive may take long.
        let look =
            tokio::task::spawn_blocking(move || before.look(path.iter().map(stamp_of).collect(), || users.reload()));
        let (after, reload) = look.await.unwrap_or_default();
        seen = after;
        if let Some(reload) = reload {
            if reload.is_news {
                log_reload(&reload.result, reload.is_first);
            }
            let changed = reload.result.unwrap_or_default();
            actix_rt::spawn(end_logins(std::sync::Arc::downgrade(&context), changed));
        }
    }
}

/// Logs what a reload of the users file has changed.
fn log_reload(reloaded: &Result<Vec<ChangedUser>, UsersFileError>, is_first: bool) {
    match reloaded {
        // Most likely what was read at the start.
        Ok(changed) if is_first && changed.is_empty() => {}
        Ok(changed) => {
            let removed = changed.iter().filter(|user| user.password_name.is_none()).count();
            log::info!("reloaded login file removed={removed} new_passwords={}", changed.len() - removed);
        }
        Err(error) => log::error!("login file reload failed, keeping the old users error={:?}", error.to_string()),
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
    let end = context.clock.now().saturating_add(context.config.current().login.token_ttl);
    let revocations: Vec<_> = ended
        .iter()
        .map(|login| revocation_of_login(&login.id, context.config.current().login_issuer(), end))
        .collect();
    if revocations.is_empty() {
        return Ok(());
    }
    let cause = AuditFields { by: Some("users_file"), ..AuditFields::default() };
    // The logins have ended, so another attempt would not find them.
    let (audit, lifetime) = ((&*context.audit, cause), context.config.current().login.token_ttl);
    revoke_until_stored(&*context.broker, revocations, audit, &context.metrics, lifetime).await;
    Ok(())
}
