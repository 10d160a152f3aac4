//! `revoke`: the tokens of one user are revoked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    CHANNEL, MAX_END, RevokeArgs, SECOND, join, open,
    publisher::{Publisher, TimedFrom},
    sessions::{NEVER, SessionPlan, Sessions},
    spawn,
    staying::StayingSessions,
};
use crate::api_connection::ApiConnection;
use crate::error::{BenchError, Context, Result};
use crate::{clock, run::Run};

/// The user of the sessions whose tokens are revoked.
const REVOKED_USER: &str = "bench-revoked";

/// Runs `revoke`.
pub(crate) fn run(args: &RevokeArgs, run: &mut Run) -> Result<()> {
    let common = &args.common;
    let hub = open(common, run)?;
    let expires_at = clock::unix_nanos() / SECOND + 3600;
    let end = Arc::new(AtomicU64::new(NEVER));
    let revoked = |_| SessionPlan { user: REVOKED_USER.to_owned(), expires_at, end: Some(end.clone()) };
    let others = |number| SessionPlan { user: format!("bench-{number}"), expires_at, end: None };
    let mut sessions = Sessions::open((&hub, CHANNEL), run, common.ending(), common.stalled.into(), revoked)?;
    let staying = StayingSessions::start(Sessions::open((&hub, CHANNEL), run, common.staying(), 0, others)?)?;
    let publisher = Publisher::start((&hub, CHANNEL), common.publishing.rate, common.publishing.size, TimedFrom::Sent)?;
    sessions.read_until(run, MAX_END, Sessions::have_received_any)?;
    staying.wait_for_publications(run);
    sessions.read_for(common.publishing.margin(), run)?;
    let frozen = args.freeze.then(|| run.pids.last().copied()).flatten();
    if let Some(pid) = frozen {
        signal(pid, Signal::STOP)?;
    }
    let called_at = clock::now();
    let call = {
        let (mut api, end) = (ApiConnection::open(&hub.targets[0], hub.api_key()?)?, end.clone());
        move || -> Result<(Value, u64)> {
            let answer = api.call("/api/invalidate_user_tokens", &json!({"user": REVOKED_USER}).to_string())?;
            let answered_at = clock::now();
            // A node that has not confirmed obeys before it delivers anything: what was sent after the answer counts for all.
            end.store(answered_at, Ordering::Release);
            Ok((answer, answered_at))
        }
    };
    let call = spawn("call", call)?;
    sessions.read_until(run, MAX_END, |_| call.is_finished())?;
    let (answer, answered_at) = join(call)?;
    run.report.set("token_end_answer", answer.to_string());
    run.report.set_number("token_end_answer_ms", (answered_at - called_at) as f64 / 1e6);
    let resumed_at = if let Some(pid) = frozen {
        sessions.read_for(Duration::from_secs(1), run)?;
        signal(pid, Signal::CONT)?;
        clock::now()
    } else {
        called_at
    };
    sessions.read_until(run, MAX_END, Sessions::have_readers_ended)?;
    let ended_at = clock::now();
    sessions.read_for(common.publishing.margin(), run)?;
    run.report.set("publications", publisher.stop()?);
    staying.finish((called_at, ended_at), run)?;
    sessions.report_ends(run, Some((called_at, resumed_at)))
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or_else(|| BenchError("no process id".to_owned()))?, signal).context("kill")
}
