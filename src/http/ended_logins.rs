//! Logins that have ended, and that the broker keeps until their tokens are revoked: those that were replaced by newer ones, and those
//! whose refresh token was used twice. If this instance ends before, or a reply of the broker is lost, the next refresh of the
//! login or the next login of its user finds them.

use std::time::Duration;

use actix_web::web::Data;
use tokio::time::sleep;

use super::{HttpContext, request_source::RequestSource};
use crate::{
    audit::AuditFields,
    broker::{LoginRecord, LoginSelection, revoke_until_stored},
    revocation::{LoginId, Revocation},
};

/// Time until the next attempt to end a login whose start may have failed, and how many attempts there are.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const MAX_ATTEMPTS: u32 = 10;

/// Revokes the tokens of ended logins, and removes the logins then. Tries again while the broker fails, for as long as the tokens may
/// be valid.
pub(super) async fn revoke_ended_logins(
    logins: impl IntoIterator<Item = LoginId>,
    revocations: Vec<Revocation>,
    cause: &AuditFields<'_>,
    context: &HttpContext,
) {
    if !revocations.is_empty() {
        let (audit, lifetime) = ((&*context.audit, *cause), context.config.current().login.token_ttl);
        revoke_until_stored(&*context.broker, revocations, audit, &context.metrics, lifetime).await;
    }
    remove_ended_logins(logins, context).await;
}

/// Removes ended logins from the broker. Those that it does not remove now stay until they are found again, or were idle for too long.
pub(super) async fn remove_ended_logins(logins: impl IntoIterator<Item = LoginId>, context: &HttpContext) {
    for login in logins {
        let one = LoginSelection::One(login.clone());
        if let Err(error) = context.broker.end_logins(login.split().0.to_owned(), one).await {
            log::warn!("could not remove an ended login sid={:?} error={:?}", login.as_str(), error.to_string());
        }
    }
}

/// Revokes the tokens of logins that a newer one of their user has ended (`login.logins_per_user`), behind the response: the new login
/// does not depend on it. Above `limits.logouts_per_user` they are removed without a revocation; their access tokens expire.
pub(super) fn revoke_replaced_logins(replaced: Vec<LoginRecord>, source: &RequestSource, context: &Data<HttpContext>) {
    if replaced.is_empty() {
        return;
    }
    let now = context.clock.now();
    let of_login = |login: &LoginRecord| {
        let revocation = login.revocation(&context.config.current(), now)?;
        // One that an earlier login of the user is having revoked is not charged again.
        let is_known = context.revocations.has(&revocation.target);
        (is_known || context.revocations.may_revoke_replaced_login(&login.user)).then_some(revocation)
    };
    let revocations: Vec<Revocation> = replaced.iter().filter_map(of_login).collect();
    let (source, context) = (source.clone(), context.clone());
    actix_rt::spawn(async move {
        let cause = AuditFields { by: Some("logins_per_user"), ..source.request_fields() };
        revoke_ended_logins(replaced.into_iter().map(|login| login.id), revocations, &cause, &context).await;
    });
}

/// Ends a login whose start the broker has not confirmed, behind the response, and the logins that it has replaced: the broker may have
/// stored it. No client has received its tokens.
pub(super) fn undo_start(login: LoginId, source: &RequestSource, context: &Data<HttpContext>) {
    let (source, context) = (source.clone(), context.clone());
    actix_rt::spawn(async move {
        let tag = login.split().0;
        for _ in 0..MAX_ATTEMPTS {
            let one = LoginSelection::One(login.clone());
            if context.broker.end_logins(tag.to_owned(), one).await.is_ok()
                && let Ok(replaced) = context.broker.find_logins(tag.to_owned(), LoginSelection::Ended).await
            {
                return revoke_replaced_logins(replaced, &source, &context);
            }
            sleep(RETRY_INTERVAL).await;
        }
        log::warn!("could not end a login that may have been started sid={:?}", login.as_str());
    });
}
