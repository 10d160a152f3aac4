//! `events`: has the backend of a deployment down for a time, kills a hub meanwhile, and reports which events were told, how often,
//! and in which order. Then it measures what an event costs.
//!
//! Read in this order: `users`, who begin and end sessions; `backend`, which is told; `findings`, the comparison of both.

mod backend;
mod findings;
mod users;

use std::{cell::RefCell, path::Path, rc::Rc, time::Duration};

use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use crate::args::EventsArgs;
use crate::error::{BenchError, Context, Result, fail};
use crate::hub_under_test::sign_tokens;
use crate::process::CpuTime;
use crate::program::Program;
use crate::report::Report;
use crate::{machine, terminal::Terminal};

use super::deployment::{Deployment, Programs, Setup};
use super::publisher::{check_status, exchange};
use super::redis_deployment::Form;
use super::wait_until;
use backend::Backend;
use findings::{EventFindings, KilledHub};
use users::{Session, Users};

/// How it is measured, for `--help`.
pub(crate) const HELP: &str = "\
Hubs on a Redis are started on free ports of loopback, with a backend in this program that is told the begin and the end of each \
session. Users have sessions of 1 s with pauses of 0.5 s, on each hub in turn. The backend refuses connections for --backend-down; \
after half of that time the first hub is killed (SIGKILL) for good. When everything has been told, the backend goes down again \
until --events wait, and comes back while nothing else happens: what hubs and Redis need for that is the cost of the events.

Exit code 1: the end of a session was not told, or an event of a user came after a later one. Not a fault: an event that came \
twice, and a session that began within a second before its hub was killed and of which nothing was told.";
/// How long sessions begin and end before and after the backend is down.
const STEADY_TIME: Duration = Duration::from_secs(3);
/// How long events may take to be told after the backend is back: longer than the pause between two attempts, and than the other
/// nodes take to notice that one was killed.
const TELL_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the outbox gets to take what the hubs have.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The keys of the outbox that hold what waits.
const WAITING_KEYS: &str = "wardcast:{events-*}:queue";

/// Runs `events`. Returns whether something happened that must not.
pub(crate) fn run(args: &EventsArgs, terminal: &Terminal) -> Result<(Report, bool)> {
    if args.form == Form::Memory {
        return fail("--form memory has one hub, whose events end with it; choose a form with Redis");
    }
    let this = std::env::current_exe().context("finding this program")?;
    let wardcast = Program::find(&this.with_file_name("wardcast"), "wardcast", "--version");
    let wardcast = wardcast.context("the hub beside this program (cargo build --release builds it)")?;
    let redis = Program::find(Path::new("redis-server"), "Redis server", "--version").ok();
    let programs = Programs { wardcast, redis };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let result = LocalSet::new().block_on(&runtime, measure(args, &programs, terminal));
    terminal.clear_progress();
    result
}

/// What the phases of a run work with.
struct EventsRun<'a> {
    args: &'a EventsArgs,
    terminal: &'a Terminal,
    deployment: Deployment,
    backend: Backend,
    sessions: Rc<RefCell<Vec<Session>>>,
    report: Report,
}

async fn measure(args: &EventsArgs, programs: &Programs, terminal: &Terminal) -> Result<(Report, bool)> {
    let mut backend = Backend::new()?;
    backend.start().await?;
    let settings = [
        format!("hooks.events.endpoint=http://127.0.0.1:{}/", backend.port),
        "hooks.events.types=[\"connect\", \"disconnect\"]".to_owned(),
    ];
    let setup = Setup { hubs: args.hubs.into(), settings: &settings };
    let deployment = Deployment::start(args.form, programs, setup).await?;
    let mut report = Report::new("events");
    machine::report_machine(&mut report);
    let mut run = EventsRun { args, terminal, deployment, backend, sessions: Rc::default(), report };
    let has_failed = run.break_backend_and_hub().await?;
    run.measure_cost().await?;
    run.report.interrupted = terminal.is_interrupted();
    Ok((run.report, has_failed))
}

impl EventsRun<'_> {
    /// Has the backend down, kills a hub, and reports what was told.
    async fn break_backend_and_hub(&mut self) -> Result<bool> {
        let down = Duration::from_secs_f64(self.args.backend_down);
        self.terminal.show_progress(|| format!("sessions on {} hubs", self.args.hubs));
        let users = self.start_users()?;
        sleep(STEADY_TIME).await;
        self.terminal.show_progress(|| format!("the backend is down for {} s", down.as_secs_f64()));
        self.backend.stop().await;
        self.sleep(down / 2).await;
        self.deployment.hubs[0].server.kill();
        let killed = KilledHub { hub: 0, at: Instant::now() };
        self.sleep(down / 2).await;
        let waiting = self.waiting().await?;
        self.report_outbox(waiting).await?;
        let back_at = Instant::now();
        self.backend.start().await?;
        self.terminal.show_progress(|| "the backend is back".to_owned());
        sleep(STEADY_TIME).await;
        users.stop().await;
        let findings = || {
            let log = self.backend.log.borrow();
            EventFindings::new(&self.sessions.borrow(), &log.events, Some(killed))
        };
        let are_all_told = wait_until(TELL_TIMEOUT, self.terminal, || findings().not_told == 0).await;
        let findings = findings();
        let last_at = self.backend.log.borrow().last_at;
        if let Some(malformed) = self.backend.log.borrow().malformed.first() {
            return fail(format!("the backend was sent {malformed}"));
        }
        let report = &mut self.report;
        report.set_number("events_backend_down_seconds", self.args.backend_down);
        for (name, count) in [
            ("events_sessions", findings.sessions),
            ("events_told", findings.told),
            ("events_doubled", findings.doubled),
            ("events_ended_twice", findings.ended_twice),
            ("events_of_lost_node", findings.of_lost_node),
            ("events_unheard", findings.unheard),
            ("events_not_told", findings.not_told),
            ("events_out_of_order", findings.out_of_order),
        ] {
            report.set(name, count);
        }
        if let (true, Some(last_at)) = (are_all_told, last_at) {
            report.set_number("events_told_after_seconds", last_at.saturating_duration_since(back_at).as_secs_f64());
        }
        if findings.has_failed() {
            report.add_note("this must not happen: an end was not told, or an event of a user came after a later one");
        }
        Ok(findings.has_failed())
    }

    /// Takes the backend down until enough events wait, and measures what it costs to send them.
    async fn measure_cost(&mut self) -> Result<()> {
        if self.terminal.is_interrupted() {
            return Ok(());
        }
        self.terminal.show_progress(|| format!("{} events wait for the backend", self.args.events));
        self.backend.stop().await;
        let before = self.sessions.borrow().len();
        let users = self.start_users()?;
        let wanted = before + usize::try_from(self.args.events / 2).unwrap_or(usize::MAX);
        let sessions = self.sessions.clone();
        wait_until(Duration::MAX, self.terminal, || sessions.borrow().len() >= wanted).await;
        users.stop().await;
        let queued = 2 * (self.sessions.borrow().len() - before) as u64;
        let start = Instant::now();
        while self.waiting().await? < queued {
            if start.elapsed() > APPEND_TIMEOUT {
                return fail(format!("{} of {queued} events wait in the outbox", self.waiting().await?));
            }
            sleep(Duration::from_millis(100)).await;
        }
        let hubs: Vec<u32> = self.deployment.hubs[1..].iter().filter_map(|hub| hub.server.pid()).collect();
        let redis: Vec<u32> = self.deployment.redis()?.servers.iter().filter_map(|redis| redis.server.pid()).collect();
        let accepted = self.backend.log.borrow().events.len() as u64;
        let cpu = [CpuTime::read(&hubs)?, CpuTime::read(&redis)?];
        self.backend.start().await?;
        let log = self.backend.log.clone();
        let are_told = || log.borrow().events.len() as u64 >= accepted + queued;
        if !wait_until(TELL_TIMEOUT, self.terminal, are_told).await {
            return fail("not all events were told after the backend was back");
        }
        for (name, pids, before) in [("events_hub_cpu_us", &hubs, &cpu[0]), ("events_redis_cpu_us", &redis, &cpu[1])] {
            let nanos = CpuTime::read(pids)?.since(before).total;
            self.report.set_number(name, nanos as f64 / 1000.0 / queued as f64);
        }
        self.report.set("events_measured", queued);
        Ok(())
    }

    /// Reports how many events wait at the end of the backend's absence, and the memory that they take in Redis.
    async fn report_outbox(&mut self, waiting: u64) -> Result<()> {
        let mut bytes = 0;
        for redis in &self.deployment.redis()?.servers {
            if !redis.is_master().await {
                continue;
            }
            for key in redis.run::<Vec<String>>(&["KEYS", WAITING_KEYS]).await? {
                let used: Option<u64> = redis.run(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await?;
                bytes += used.unwrap_or_default();
            }
        }
        self.report.set("events_waiting", waiting);
        if waiting > 0 {
            self.report.set_number("events_bytes_each", bytes as f64 / waiting as f64);
        }
        Ok(())
    }

    fn start_users(&self) -> Result<Users> {
        let tokens = sign_tokens(self.args.users.into(), &self.deployment.secret)?;
        Ok(Users::start(&self.deployment.hub_addresses(), tokens, self.sessions.clone()))
    }

    /// How many events wait in the outbox, as the last hub says.
    async fn waiting(&self) -> Result<u64> {
        let addresses = self.deployment.hub_addresses();
        let address = *addresses.last().ok_or_else(|| BenchError("there is no hub".to_owned()))?;
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = exchange(address, request.as_bytes()).await?;
        let text = String::from_utf8_lossy(check_status(&answer)?);
        let value = text.lines().find_map(|line| line.strip_prefix("wardcast_hook_events_waiting "));
        let value = value.and_then(|value| value.trim().parse().ok());
        value.ok_or_else(|| BenchError("the hub does not say how many events wait".to_owned()))
    }

    /// Waits, unless Ctrl-C ends the run.
    async fn sleep(&self, time: Duration) {
        wait_until(time, self.terminal, || false).await;
    }
}
