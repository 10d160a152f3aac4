//! Watches the users files of the login and of the admin page, and ends the logins of users that the first does not have any more or
//! that have a new password. The sessions of the admin page need no end: each request compares them with the file.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{join_all, ready},
    stream,
};
use tokio::time::{Instant, sleep};

use super::seen_files::{Reload, SeenFiles, stamp_of};
use crate::{
    audit::AuditFields,
    auth::users::{ChangedUser, Users, UsersFileError},
    broker::{LoginSelection, RevokeError, login_tokens_end, revoke_everywhere},
    http::HttpContext,
    revocation::{IssuerScope, Revocation, RevocationTarget, user_tag},
};

/// Time until the next attempt to end logins, while the broker is unavailable. It doubles with each.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum of it. Each attempt writes lines into the logs for each user.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// For how many users logins are ended at the same time.
const PARALLEL_USERS: usize = 512;

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

/// Revokes the tokens of users who were removed, and ends the logins of these and of users with a new password. Tries again while the broker is
/// unavailable, for as long as an access token of theirs may be valid: no refresh token of theirs is.
pub(super) async fn end_logins(context: Weak<HttpContext>, changed: Vec<ChangedUser>) {
    let Some(mut ending) = context.upgrade().map(|context| EndingUser::all(changed, &context)) else { return };
    let Some(lifetime) = context.upgrade().map(|context| context.config.current().login.token_ttl) else { return };
    let (until, mut pause) = (Instant::now() + lifetime, RETRY_INTERVAL);
    while let Some(current) = context.upgrade().filter(|_| !ending.is_empty()) {
        // A user whose logins cannot be ended holds up no other.
        let attempts = ending.into_iter().map(|user| user.attempt(&current));
        ending = stream::iter(attempts).buffer_unordered(PARALLEL_USERS).filter_map(ready).collect().await;
        if Instant::now() >= until {
            return ending.iter().for_each(|user| log::error!("could not end logins user={:?}", user.user.name));
        }
        drop(current);
        if !ending.is_empty() {
            log::warn!("could not end the logins of all users yet count={}", ending.len());
            sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY_INTERVAL);
        }
    }
}

/// A user whose logins are to end.
struct EndingUser {
    user: ChangedUser,
    /// What is not stored yet. It stays the same, so that tokens of a later login are not meant.
    revocations: Vec<Revocation>,
    has_logins: bool,
}

impl EndingUser {
    fn all(changed: Vec<ChangedUser>, context: &HttpContext) -> Vec<Self> {
        let (config, now) = (context.config.current(), context.clock.now());
        let issued_before = context.revocations.issued_until_now();
        let new = |user: ChangedUser| {
            // The tokens of all logins, also of those that newer ones had ended: `limits.logouts_per_user` may have left them out.
            let is_removed = user.password_name.is_none();
            let scope = || IssuerScope::Only(config.login_issuer().to_owned());
            let of_user = is_removed.then(|| Revocation {
                target: RevocationTarget::User(user.name.clone(), scope()),
                issued_before,
                expires_at: login_tokens_end(now, &config),
            });
            Self { revocations: of_user.into_iter().collect(), has_logins: true, user }
        };
        changed.into_iter().map(new).collect()
    }

    /// Does what is left to do. Returns `None` when that is nothing. The revocation comes first: it is in force on this instance also while
    /// the broker is unavailable.
    async fn attempt(mut self, context: &HttpContext) -> Option<Self> {
        self.revoke(context).await;
        if self.has_logins {
            let selection = LoginSelection::OtherPassword(self.user.password_name.clone().unwrap_or_default());
            match context.broker.end_logins(user_tag(&self.user.name), selection).await {
                Ok(ended) => {
                    let (config, now) = (context.config.current(), context.clock.now());
                    self.has_logins = false;
                    self.revocations.extend(ended.iter().filter_map(|login| login.revocation(&config, now)));
                    self.revoke(context).await;
                }
                Err(error) => {
                    let error = error.to_string();
                    log::debug!("could not end logins yet user={:?} error={error:?}", self.user.name);
                }
            }
        }
        (self.has_logins || !self.revocations.is_empty()).then_some(self)
    }

    /// Revokes what is not revoked yet: each for itself, because a list that is nearly full may have room for one of them.
    async fn revoke(&mut self, context: &HttpContext) {
        let cause = AuditFields { by: Some("users_file"), ..AuditFields::default() };
        let audit = (&*context.audit, cause);
        let attempts = std::mem::take(&mut self.revocations).into_iter().map(async |revocation| {
            let revoked = revoke_everywhere(&*context.broker, vec![revocation.clone()], audit, &context.metrics).await;
            // One that is stored but not confirmed is in force.
            matches!(revoked, Err(RevokeError::Broker(_))).then_some(revocation)
        });
        self.revocations = join_all(attempts).await.into_iter().flatten().collect();
    }
}
