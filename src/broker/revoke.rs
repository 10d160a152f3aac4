//! Carries out a revocation for the server API and the logout: stores it, sends it to all nodes and records it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{Broker, BrokerError, NodeIdentity};
use crate::{
    audit::{AuditEvent, AuditFields, AuditLog},
    metrics::Metrics,
    protocol::{ErrorCode, WireError},
    revocation::Revocation,
};

/// How long the nodes have to confirm revocations. The caller gets its answer within 2 s.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_millis(1800);

/// Time until the next attempt to store a revocation.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why a revocation is not in force on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// It is not stored. Unless the list is full, it is in force on this node, which repeats it until the others obey.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// It is in force, but these nodes have not confirmed it.
    #[error("the revocation is in force, but not confirmed by {}", NodeNames(.0))]
    Unconfirmed(Vec<NodeIdentity>),
}

/// Writes the names and ids of nodes.
struct NodeNames<'a>(&'a [NodeIdentity]);

impl fmt::Display for NodeNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, NodeIdentity { uid, name }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}node {name} ({uid})")?;
        }
        Ok(())
    }
}

/// The error that a caller of the server API gets.
impl From<RevokeError> for WireError {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Broker(BrokerError::RevocationsFull(_)) => {
                ErrorCode::LimitExceeded.with_detail("limits.revocations")
            }
            RevokeError::Broker(error) => error.into(),
            RevokeError::Unconfirmed(_) => ErrorCode::Internal.with_detail(error),
        }
    }
}

/// Revokes tokens on all nodes, and waits until every live node has closed the sessions that have them. `cause` says in the audit
/// log who does it: `by`, and what is known of the request.
///
/// # Errors
/// [`RevokeError`].
pub async fn revoke_everywhere(
    broker: &dyn Broker,
    revocations: Vec<Revocation>,
    (audit, cause): (&AuditLog, AuditFields<'_>),
    metrics: &Metrics,
) -> Result<(), RevokeError> {
    let audited = if audit.is_enabled() { revocations.clone() } else { Vec::new() };
    let revoked = broker.revoke(revocations, CONFIRMATION_TIMEOUT).await;
    let failure = revoked.as_ref().err().map(ToString::to_string);
    let unconfirmed = revoked.as_ref().ok().map(|nodes| nodes.len() as u64).filter(|count| *count > 0);
    for revocation in &audited {
        let fields = AuditFields { reason: failure.as_deref(), count: unconfirmed, ..cause };
        audit.record(AuditEvent::Revoked, fields.with_revocation(revocation));
    }
    let mut unconfirmed =
        revoked.inspect_err(|error| log::warn!("could not revoke tokens error={:?}", error.to_string()))?;
    if unconfirmed.is_empty() {
        return Ok(());
    }
    metrics.revocations_unconfirmed.inc();
    unconfirmed.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
    for NodeIdentity { uid, name } in &unconfirmed {
        log::warn!("node did not confirm revocation uid={uid:?} name={name:?}");
    }
    Err(RevokeError::Unconfirmed(unconfirmed))
}

/// Revokes as [`revoke_everywhere`] does, but tries again while the broker fails, until the tokens have expired: for revocations that
/// nothing else would ask for again. A revocation that is stored but not confirmed is in force.
pub async fn revoke_until_stored(
    broker: &dyn Broker,
    revocations: Vec<Revocation>,
    (audit, cause): (&AuditLog, AuditFields<'_>),
    metrics: &Metrics,
    token_lifetime: Duration,
) {
    let until = Instant::now() + token_lifetime;
    while let Err(RevokeError::Broker(_)) =
        revoke_everywhere(broker, revocations.clone(), (audit, cause), metrics).await
        && Instant::now() < until
    {
        sleep(RETRY_INTERVAL).await;
    }
}
