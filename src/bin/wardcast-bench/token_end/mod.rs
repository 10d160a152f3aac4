//! `revoke` and `expiry`: tokens end while publications arrive. Counted is what reaches their sessions afterwards; timed are the
//! last delivery, the close, and the deliveries to others.
//!
//! A publication that was sent after the end and arrives is a fault of the hub. One that was sent before may still be on its way:
//! the hub has passed it to the kernel in time, and this program reads it later.

mod api;
mod options;
mod sessions;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

pub(crate) use self::options::{ExpiryArgs, RevokeArgs, TokenEndArgs};
use self::{
    api::ApiConnection,
    sessions::{SessionPlan, Sessions},
};
use crate::error::{BenchError, Context, Result, fail};
use crate::publication_stamp::{PublicationStamp, check_size};
use crate::{clock, hub_under_test::HubUnderTest, process::raise_file_limit, run::Run};

/// The channel of all sessions.
pub(crate) const CHANNEL: &str = "bench";
/// The user of the sessions whose tokens are revoked.
const REVOKED_USER: &str = "bench-revoked";
/// Settings of a hub that is started for the run: one user has all sessions.
const SETTINGS: &[&str] = &["limits.connections_per_user=1000000"];
/// Time before the first token ends, and after the last one.
const PHASE: Duration = Duration::from_secs(3);
/// How long sessions may take to end.
const MAX_END: Duration = Duration::from_secs(20);
const SECOND: u64 = 1_000_000_000;
/// A time that has not come.
const NEVER: u64 = u64::MAX;

/// Runs `revoke`.
pub(crate) fn revoke(args: &RevokeArgs, run: &mut Run) -> Result<()> {
    let common = &args.common;
    let hub = open(common, run)?;
    let now = clock::unix_nanos() / SECOND;
    let end = Arc::new(AtomicU64::new(NEVER));
    let plan = |number: usize, is_meant: bool| SessionPlan {
        user: if is_meant { REVOKED_USER.to_owned() } else { format!("bench-{number}") },
        expires_at: now + 3600,
        end: is_meant.then(|| end.clone()),
    };
    let mut sessions = Sessions::open(&hub, run, common, plan)?;
    let publisher = Publisher::start(&hub, common)?;
    sessions.read_for(PHASE, run)?;
    let frozen = args.freeze.then(|| run.pids.last().copied()).flatten();
    if let Some(pid) = frozen {
        signal(pid, Signal::STOP)?;
    }
    sessions.begin_after();
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
    sessions.read_for(PHASE, run)?;
    run.report.set("publications", publisher.stop()?);
    sessions.finish(run, Some((called_at, resumed_at)))
}

/// Runs `expiry`.
pub(crate) fn expiry(args: &ExpiryArgs, run: &mut Run) -> Result<()> {
    let common = &args.common;
    let hub = open(common, run)?;
    // Tokens expire at full seconds.
    let first = clock::unix_nanos() / SECOND + 5 + u64::from(common.connections) / 2000;
    let to_clock = |unix_seconds: u64| {
        let (unix, here) = (clock::unix_nanos(), clock::now());
        here.saturating_add((unix_seconds * SECOND).saturating_sub(unix))
    };
    let plan = |number: usize, is_meant: bool| {
        let expires_at = if is_meant { first + number as u64 % u64::from(args.spread.max(1)) } else { first + 3600 };
        let end = is_meant.then(|| Arc::new(AtomicU64::new(to_clock(expires_at))));
        SessionPlan { user: format!("bench-{number}"), expires_at, end }
    };
    let mut sessions = Sessions::open(&hub, run, common, plan)?;
    let publisher = Publisher::start(&hub, common)?;
    let until_first = to_clock(first).saturating_sub(clock::now());
    sessions.read_for(Duration::from_nanos(until_first), run)?;
    sessions.begin_after();
    sessions.read_for(Duration::from_secs(args.spread.into()), run)?;
    sessions.read_until(run, MAX_END, Sessions::have_readers_ended)?;
    sessions.read_for(PHASE, run)?;
    run.report.set("publications", publisher.stop()?);
    sessions.finish(run, None)
}

fn open<'a>(args: &'a TokenEndArgs, run: &mut Run) -> Result<HubUnderTest<'a>> {
    check_size(args.size)?;
    raise_file_limit((args.connections + args.others) as usize)?;
    let hub = HubUnderTest::select_nodes(run, &args.hub, Some(&args.api), SETTINGS, args.nodes.into())?;
    run.report.set("connections", args.connections + args.others);
    run.report.set("size_bytes", args.size);
    run.report.set("pace", format!("{} /s", args.rate));
    Ok(hub)
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or_else(|| BenchError("no process id".to_owned()))?, signal).context("kill")
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).context("starting a thread")
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| fail("a thread has panicked"))
}

/// Publishes at a rate until it is stopped, to the hubs in turns.
struct Publisher {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Publisher {
    fn start(hub: &HubUnderTest<'_>, args: &TokenEndArgs) -> Result<Self> {
        let key = hub.api_key()?;
        let connections = hub.targets.iter().map(|target| ApiConnection::open(target, key));
        let mut connections = connections.collect::<Result<Vec<_>>>()?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (stopped, interval, size) = (is_stopped.clone(), Duration::from_secs_f64(1.0 / args.rate), args.size);
        let thread = spawn("publisher", move || {
            let (started, count) = (clock::now(), connections.len());
            let mut published = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let due = started + published * interval.as_nanos() as u64;
                clock::sleep(Duration::from_nanos(due.saturating_sub(clock::now())));
                let stamp = PublicationStamp { publisher: 0, sequence: published as u32, sent_at: clock::now() };
                let data = String::from_utf8(stamp.data(size)).context("a stamp")?;
                // A frozen node answers later; the others go on.
                let node = published as usize % count.saturating_sub(1).max(1);
                let body = format!("{{\"channel\":\"{CHANNEL}\",\"data\":{data}}}");
                connections[node].call("/api/publish", &body)?;
                published += 1;
            }
            Ok(published)
        })?;
        Ok(Self { is_stopped, thread })
    }

    /// Returns how many publications there were.
    fn stop(self) -> Result<u64> {
        self.is_stopped.store(true, Ordering::Relaxed);
        join(self.thread)
    }
}
