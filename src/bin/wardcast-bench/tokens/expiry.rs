//! `expiry`: tokens expire, a share of them each second.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use super::{
    CHANNEL, CONNECTIONS_PER_SECOND, ExpiryArgs, MAX_END, OPENING, SECOND, open,
    publisher::{Publisher, TimedFrom},
    sessions::{SessionPlan, Sessions},
    staying::StayingSessions,
};
use crate::error::{Result, fail};
use crate::{clock, run::Run};

/// Runs `expiry`.
pub(crate) fn run(args: &ExpiryArgs, run: &mut Run) -> Result<()> {
    let common = &args.common;
    let hub = open(common, run)?;
    // Tokens expire at full seconds.
    let first = clock::unix_nanos() / SECOND + OPENING + u64::from(common.connections) / CONNECTIONS_PER_SECOND;
    let to_clock = |unix_seconds: u64| {
        let (unix, here) = (clock::unix_nanos(), clock::now());
        here.saturating_add((unix_seconds * SECOND).saturating_sub(unix))
    };
    let expiring = |number: usize| {
        let expires_at = first + number as u64 % u64::from(args.spread.max(1));
        let end = Some(Arc::new(AtomicU64::new(to_clock(expires_at))));
        SessionPlan { user: format!("bench-{number}"), expires_at, end }
    };
    let others = |number| SessionPlan { user: format!("bench-{number}"), expires_at: first + 3600, end: None };
    let mut sessions = Sessions::open((&hub, CHANNEL), run, common.ending(), common.stalled.into(), expiring)?;
    let staying = StayingSessions::start(Sessions::open((&hub, CHANNEL), run, common.staying(), 0, others)?)?;
    let publisher = Publisher::start((&hub, CHANNEL), common.publishing.rate, common.publishing.size, TimedFrom::Sent)?;
    if clock::now() > to_clock(first) {
        return fail("connecting took too long: tokens have expired before all sessions were open");
    }
    let until_first = to_clock(first).saturating_sub(clock::now());
    sessions.read_for(Duration::from_nanos(until_first), run)?;
    let began_at = clock::now();
    sessions.read_for(Duration::from_secs(args.spread.into()), run)?;
    sessions.read_until(run, MAX_END, Sessions::have_readers_ended)?;
    let ended_at = clock::now();
    sessions.read_for(common.publishing.margin(), run)?;
    run.report.set("publications", publisher.stop()?);
    staying.finish((began_at, ended_at), run)?;
    sessions.report_ends(run, None)
}
