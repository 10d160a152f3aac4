//! One attempt to log in: checks whether earlier failures, on this instance or on others, delay it, and records how it ends.
//!
//! Where the broker connects instances, failures are counted there, and the table of this instance is a copy of what the broker
//! has said last: it refuses what is delayed without a call, and decides alone while the broker does not answer.

use std::time::Duration;

use actix_web::web::{self, Data};
use tokio::time::timeout;

use super::{HttpContext, HttpError};
use crate::{
    address::ClientAddress,
    auth::login_backoff::LoginAttempt,
    broker::{BrokerFuture, LoginFailureNames, SharedLoginAttempt, SharedLoginVerdict},
};

/// Maximum time for which a login waits for the broker. Meanwhile it keeps others from being checked.
const BROKER_TIMEOUT: Duration = Duration::from_millis(250);

/// The label of the metric for a login that earlier failures delay.
const DELAYED: &str = "delayed";

/// Why no credential was checked.
struct LoginFailure {
    /// The label of the metric.
    outcome: &'static str,
    error: HttpError,
}

impl LoginFailure {
    fn delayed(wait: Duration) -> Self {
        Self { outcome: DELAYED, error: HttpError::too_many("too many failed logins", wait) }
    }
}

/// Checks a credential for an account, and returns what `verify` does. `report` gets the reason of a failed login; a login that cannot be
/// checked now is only counted.
///
/// # Errors
/// 401 with the text `wrong`, or why the credential was not checked.
pub(super) async fn require_credential<T: Send + 'static>(
    account: (&str, ClientAddress),
    context: &Data<HttpContext>,
    verify: impl FnOnce() -> Option<T> + Send + 'static,
    wrong: &'static str,
    report: impl Fn(&'static str),
) -> Result<T, HttpError> {
    let checked = check_credential(account, context, verify).await;
    let verified = checked.map_err(|LoginFailure { outcome, error }| {
        if outcome == DELAYED {
            report("delayed after earlier failures");
        }
        context.metrics.count_login(outcome);
        error
    })?;
    verified.ok_or_else(|| {
        context.metrics.count_login("failed");
        report(wrong);
        HttpError::unauthorized(wrong)
    })
}

/// Checks a credential for an account outside of the workers, unless earlier failures for the account from this address delay that.
/// Returns what `verify` does: `None` if the credential is wrong.
async fn check_credential<T: Send + 'static>(
    (account, address): (&str, ClientAddress),
    context: &Data<HttpContext>,
    verify: impl FnOnce() -> Option<T> + Send + 'static,
) -> Result<Option<T>, LoginFailure> {
    let backoff = &context.login_backoff;
    let attempt = backoff.begin(context.clock.monotonic_now(), account, address).map_err(LoginFailure::delayed)?;
    // No queue: a flood of logins would fill it, and each one costs a hash.
    let Ok(permit) = context.hashing_permits.clone().try_acquire_owned() else {
        backoff.withdraw(attempt);
        let error = HttpError::at_capacity("too many logins at the same time; try again soon");
        return Err(LoginFailure { outcome: "busy", error });
    };
    let (account, context) = (account.to_owned(), context.clone());
    // A task of its own: the result is counted also if the client disconnects meanwhile.
    let checked = actix_rt::spawn(async move {
        let names = context.login_keys.load().failure_names.of(&account, address);
        let StartedAttempt { attempt, shared } = begin_shared(attempt, &names, &context).await?;
        let hashing_context = context.clone();
        let checked = web::block(move || {
            let _permit = permit;
            let verified = verify();
            if verified.is_some() {
                hashing_context.login_backoff.succeed(attempt);
            }
            verified
        });
        let verified =
            checked.await.map_err(|_| LoginFailure { outcome: "unavailable", error: HttpError::internal() })?;
        if verified.is_some() {
            forgive_shared(shared, names, context).await;
        }
        Ok(verified)
    });
    checked.await.unwrap_or_else(|_| Err(LoginFailure { outcome: "unavailable", error: HttpError::internal() }))
}

/// An attempt that may be made.
struct StartedAttempt {
    attempt: LoginAttempt,
    shared: SharedAttempt,
}

/// How an attempt counts for all instances.
enum SharedAttempt {
    /// Not: there is one instance, or the broker has failed.
    Uncounted,
    Counted(SharedLoginAttempt),
    /// The broker has not answered yet.
    Late(BrokerFuture<SharedLoginVerdict>),
}

/// Starts an attempt for all instances, if the broker connects some and answers.
async fn begin_shared(
    attempt: LoginAttempt,
    names: &LoginFailureNames,
    context: &HttpContext,
) -> Result<StartedAttempt, LoginFailure> {
    let backoff = &context.login_backoff;
    let Some(limits) = context.broker.shared_limits() else {
        return Ok(StartedAttempt { attempt, shared: SharedAttempt::Uncounted });
    };
    let mut verdict = limits.begin_login(names.clone(), backoff.delay_rule());
    let verdict = match timeout(BROKER_TIMEOUT, &mut verdict).await {
        Ok(Ok(verdict)) => verdict,
        // The table of this instance decides.
        Ok(Err(_)) => return Ok(StartedAttempt { attempt, shared: SharedAttempt::Uncounted }),
        Err(_) => return Ok(StartedAttempt { attempt, shared: SharedAttempt::Late(verdict) }),
    };
    let attempt = backoff.adopt(context.clock.monotonic_now(), attempt, &verdict);
    match verdict.attempt {
        Some(shared) => Ok(StartedAttempt { attempt, shared: SharedAttempt::Counted(shared) }),
        None => Err(LoginFailure::delayed(verdict.pair.wait.max(verdict.address.wait))),
    }
}

/// Undoes an attempt whose credential was right.
async fn forgive_shared(attempt: SharedAttempt, names: LoginFailureNames, context: Data<HttpContext>) {
    let Some(limits) = context.broker.shared_limits() else { return };
    match attempt {
        SharedAttempt::Uncounted => {}
        // It goes on if it takes longer.
        SharedAttempt::Counted(attempt) => _ = timeout(BROKER_TIMEOUT, limits.forgive_login(names, attempt)).await,
        // A task of its own, for the time limit of a broker call: the client does not wait for it.
        SharedAttempt::Late(verdict) => {
            actix_rt::spawn(async move {
                if let Ok(SharedLoginVerdict { attempt: Some(attempt), .. }) = verdict.await {
                    _ = limits.forgive_login(names, attempt).await;
                }
            });
        }
    }
}
