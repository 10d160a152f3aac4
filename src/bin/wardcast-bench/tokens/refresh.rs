//! `refresh`: all sessions refresh their tokens within a few seconds. No session may end, also not when the first tokens
//! expire, and none may miss a publication.

use std::time::Duration;

use super::{
    CHANNEL, CONNECTIONS_PER_SECOND, MAX_END, OPENING, RefreshArgs, SECOND, open_hubs,
    publisher::{Publisher, TimedFrom},
    sessions::{SessionPlan, Sessions},
};
use crate::error::{Result, fail};
use crate::{clock, measurement::ResourceMeter, run::Run};

/// Runs `refresh`.
pub(crate) fn run(args: &RefreshArgs, run: &mut Run) -> Result<()> {
    let count = args.connections as usize;
    let publishing = &args.publishing;
    let publications = (publishing.size, publishing.rate);
    let hub = open_hubs((&args.hub, &args.api), run, &[], publishing.nodes, (args.connections, publications))?;
    let spread = u64::from(args.spread) * SECOND;
    // The first tokens expire soon after the last refresh, so that a refresh without effect shows.
    let opened_until = clock::now() + SECOND * (OPENING + u64::from(args.connections) / CONNECTIONS_PER_SECOND);
    let expire_at = opened_until + spread + 2 * publishing.margin().as_nanos() as u64;
    let expires_at = clock::unix_nanos() / SECOND + (expire_at - clock::now()).div_ceil(SECOND);
    let user = |number: usize| format!("bench-{number}");
    let plan = |number| SessionPlan { user: user(number), expires_at, end: None };
    let mut sessions = Sessions::open((&hub, CHANNEL), run, 0..count, 0, plan)?;
    let tokens = (0..count).map(|number| hub.token_of(&user(number), expires_at + 3600)).collect::<Result<Vec<_>>>()?;
    if clock::now() > opened_until {
        return fail("connecting took too long: the tokens would expire before they are refreshed");
    }
    let publisher = Publisher::start((&hub, CHANNEL), publishing.rate, publishing.size, TimedFrom::Sent)?;
    sessions.read_for(publishing.margin(), run)?;
    let (meter, began_at) = (ResourceMeter::start(run)?, clock::now());
    for (number, token) in tokens.iter().enumerate() {
        let due = began_at + spread * number as u64 / count as u64;
        while clock::now() < due && !run.terminal.is_interrupted() {
            sessions.read_for(Duration::from_nanos(due.saturating_sub(clock::now())), run)?;
        }
        sessions.refresh(number, token, due);
    }
    sessions.read_until(run, MAX_END, Sessions::have_refreshed)?;
    let ended_at = clock::now();
    meter.finish(run)?;
    let until_expired = expire_at.saturating_sub(clock::now());
    sessions.read_for(publishing.margin() + Duration::from_nanos(until_expired), run)?;
    let published = publisher.stop()?;
    sessions.read_until(run, MAX_END, |sessions| sessions.have_received(published))?;
    run.report.set("publications", published);
    sessions.report_refreshes(run, published);
    sessions.report_deliveries((began_at, ended_at), run);
    Ok(())
}
