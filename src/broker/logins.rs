//! Logins, which the broker keeps for all instances, so that each refresh token works once, on any of them. It keeps no token
//! and nothing from which one could be made: only which refresh of a login is the latest.

use std::{ops::RangeInclusive, time::Duration};

use futures_util::future::join;
use tokio::time::timeout;

use super::{Broker, BrokerError, RevokeError, revoke_everywhere};
use crate::{
    audit::{AuditFields, AuditLog},
    clock::{NEVER, WallTime},
    config::Config,
    metrics::Metrics,
    revocation::{IssueTimes, IssuerScope, LoginId, Revocation, RevocationTarget, Revocations, user_tag},
};

/// Maximum time from a refresh in the broker to the signing of its access token, and between the clocks of two instances.
const MAX_SIGNING_DELAY: Duration = Duration::from_secs(60);

/// How long the revocation of a user waits for the logins of the user, to be stored together with theirs or not at all.
const FIND_TIMEOUT: Duration = Duration::from_millis(100);

/// A login as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Names the password with which the user has logged in: not empty, without spaces.
    pub password: String,
    /// When that was.
    pub started_at: WallTime,
    /// When it ends, however often it is refreshed.
    pub ends_at: WallTime,
}

/// What limits the logins of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginLimits {
    /// A login ends when it was not refreshed for this long.
    pub idle: Duration,
    /// For how long the refresh before the latest may be repeated, because its reply was lost.
    pub grace: Duration,
    /// Maximum number of logins of a user. Above it, those end that were not refreshed for the longest time.
    pub per_user: usize,
}

/// What a refresh has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginRefresh {
    /// The login goes on.
    Refreshed {
        /// Its user.
        user: String,
        /// The password of the login.
        password: String,
        /// When the login was started.
        started_at: WallTime,
        /// When it ends, however often it is refreshed.
        ends_at: WallTime,
        /// Counts the refreshes: the next one has to name this number.
        generation: u32,
    },
    /// This refresh has taken place before, so two parties have the same refresh token. The login has ended. It stays stored, and each
    /// further refresh comes to the same, until [`Broker::end_logins`]: this result may be lost before its tokens are revoked.
    Spent,
    /// There is no such login, or it has ended.
    Unknown,
}

/// Some logins of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginSelection {
    /// One.
    One(LoginId),
    /// Those that were started before a time.
    StartedBefore(WallTime),
    /// Those with another password than this one.
    OtherPassword(String),
    /// Those that were replaced by newer ones or had a refresh token used twice, and that are stored until their tokens are revoked.
    Ended,
}

/// A login that was found or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRecord {
    /// The login.
    pub id: LoginId,
    /// Its user.
    pub user: String,
    /// When it was refreshed for the last time, or started.
    pub refreshed_at: WallTime,
}

impl LoginRecord {
    /// Returns the revocation of its tokens; `None` if all of them have expired.
    pub fn revocation(&self, config: &Config, now: WallTime) -> Option<Revocation> {
        let tokens_end = login_tokens_end(self.refreshed_at, config);
        (now < tokens_end).then(|| revocation_of_login(&self.id, config.login_issuer(), tokens_end))
    }

    /// Returns the revocation of its tokens; `None` if all of them have expired, or above `limits.logouts_per_user`. What takes its place there
    /// would be all tokens that the user has now, with those that are newer than the caller means. The login gets no further ones.
    fn limited_revocation(&self, config: &Config, list: &Revocations) -> Option<Revocation> {
        let revocation = self.revocation(config, list.now())?;
        let limited = list.limit_per_user(&self.user, revocation, self.latest_issue(config), IssueTimes::Known);
        (!matches!(limited.target, RevocationTarget::User(..))).then_some(limited)
    }

    /// Returns the earliest and the latest time at which its latest access token may have been signed.
    pub fn latest_issue(&self, config: &Config) -> RangeInclusive<WallTime> {
        self.refreshed_at..=latest_issue(self.refreshed_at, config)
    }
}

/// Returns when the last access token of a login has expired that is not refreshed after a time, which another instance may have read.
pub fn login_tokens_end(refreshed_at: WallTime, config: &Config) -> WallTime {
    latest_issue(refreshed_at, config).saturating_add(config.login.token_ttl)
}

/// Returns until when an access token may be signed by a refresh that took place at a time, and may be repeated for a while.
fn latest_issue(refreshed_at: WallTime, config: &Config) -> WallTime {
    refreshed_at.saturating_add(config.login.refresh_grace + MAX_SIGNING_DELAY)
}

/// Has all instances obey a revocation, and ends the logins whose tokens it means, so that no refresh token of theirs outlives it. It
/// can be repeated until it succeeds.
///
/// The login of one token or `sid` ends at the same time: if the revocation fails, the login gets no further tokens, and a broker that is slow
/// to end it delays no revocation. The logins of a user end last, because their list says which of them there are: a login that was under
/// way is stored by then, or its instance sees that its token is revoked.
///
/// # Errors
/// [`RevokeError::Broker`]: not all nodes obey, or logins may go on. [`RevokeError::Unconfirmed`]: the revocation is in force.
pub async fn revoke_with_logins(
    broker: &dyn Broker,
    revocation: Revocation,
    config: &Config,
    list: &Revocations,
    audit: (&AuditLog, AuditFields<'_>),
    metrics: &Metrics,
) -> Result<(), RevokeError> {
    let Some((tag, selection)) = logins_of(&revocation.target, revocation.issued_before, config) else {
        return revoke_everywhere(broker, vec![revocation], audit, metrics).await;
    };
    if !matches!(revocation.target, RevocationTarget::User(..)) {
        let revoked = revoke_everywhere(broker, vec![revocation], audit, metrics);
        let (ended, revoked) = join(broker.end_logins(tag, selection), revoked).await;
        return ended.map_err(RevokeError::from).and(revoked);
    }
    // A refresh that is under way may sign its access token in a later second than those that the revocation of the user means.
    let revocation_of = |login: &LoginRecord| login.limited_revocation(config, list);
    let revoke = |revocations| revoke_everywhere(broker, revocations, audit, metrics);
    let mut found = broker.find_logins(tag.clone(), selection.clone());
    let (known, revoked) = match timeout(FIND_TIMEOUT, &mut found).await {
        Ok(Ok(known)) => {
            let revocations = [revocation].into_iter().chain(known.iter().filter_map(revocation_of)).collect();
            (Ok(known), revoke(revocations).await)
        }
        Ok(Err(error)) => (Err(error), revoke(vec![revocation]).await),
        // The broker is slow: the tokens of the user do not wait for it.
        Err(_) => {
            let of_logins = async {
                let known = found.await?;
                let revocations: Vec<Revocation> = known.iter().filter_map(revocation_of).collect();
                let revoked = if revocations.is_empty() { Ok(()) } else { revoke(revocations).await };
                Ok((known, revoked))
            };
            match join(revoke(vec![revocation]), of_logins).await {
                (of_user, Ok((known, of_logins))) => (Ok(known), of_user.and(of_logins)),
                (of_user, Err(error)) => (Err(error), of_user),
            }
        }
    };
    let known = match (known, &revoked) {
        (_, Err(RevokeError::Broker(_))) => return revoked,
        (Err(error), _) => return revoked.and(Err(error.into())),
        (Ok(known), _) => known,
    };
    let ended = broker.end_logins(tag, selection).await?;
    // Those that were stored or refreshed meanwhile.
    let late: Vec<Revocation> = ended.iter().filter(|login| !known.contains(login)).filter_map(revocation_of).collect();
    if !late.is_empty() {
        revoke(late).await?;
    }
    revoked
}

/// Returns whether there are logins whose tokens a revocation of this target would mean.
///
/// # Errors
/// The broker is unavailable.
pub async fn has_logins_of(
    broker: &dyn Broker,
    target: &RevocationTarget,
    config: &Config,
) -> Result<bool, BrokerError> {
    match logins_of(target, NEVER, config) {
        Some((tag, selection)) => Ok(!broker.find_logins(tag, selection).await?.is_empty()),
        None => Ok(false),
    }
}

/// Returns the tag of the user, and the selection, of the logins whose tokens a revocation means; `None` if it means no login's.
fn logins_of(target: &RevocationTarget, issued_before: WallTime, config: &Config) -> Option<(String, LoginSelection)> {
    if !config.login.is_enabled() || target.issuer().is_some_and(|only| only != config.login_issuer()) {
        return None;
    }
    let one = |id: LoginId| (id.split().0.to_owned(), LoginSelection::One(id));
    match target {
        RevocationTarget::Session(sid, _) => LoginId::parse(sid).map(one),
        RevocationTarget::Token(jti, _) => LoginId::of_jti(jti).map(one),
        RevocationTarget::User(user, _) => Some((user_tag(user), LoginSelection::StartedBefore(issued_before))),
        // The tokens of a login have a `sid`.
        RevocationTarget::UserWithoutSession(..) | RevocationTarget::Channel(..) => None,
    }
}

/// Returns the revocation of all tokens of a login, none of which lives longer than until `expires_at`.
pub fn revocation_of_login(id: &LoginId, issuer: &str, expires_at: WallTime) -> Revocation {
    let target = RevocationTarget::Session(id.as_str().to_owned(), IssuerScope::Only(issuer.to_owned()));
    Revocation::of_all(target, expires_at)
}
