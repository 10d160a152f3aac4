//! `chaos`: breaks deployments of hubs and Redis, one failure after the other, while publications flow, and reports what
//! clients see, for how long, and what is lost.
//!
//! Read in this order: `cells`, the table of failures; `fault`, what each one does; `deployment`, `redis_deployment` and
//! `servers`, which start what is broken; `subscriber`, `publisher` and `readiness`; `findings`, the conclusions; and `chaos_table`, what is
//! printed. `events` breaks a backend beside a hub and looks at what it is told. Each cell has a deployment of its own, and so begins with nothing that an earlier one has left.

mod cells;
mod chaos_table;
mod deployment;
pub(crate) mod events;
mod fault;
mod findings;
mod proxy;
mod publisher;
mod readiness;
mod redis_deployment;
mod redis_server;
mod servers;
mod subscriber;

use std::cell::{Ref, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use clap::ValueEnum;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::args::ChaosArgs;
use crate::error::{Context, Result, fail};
use crate::hub_under_test::sign_tokens;
use crate::program::Program;
use crate::terminal::Terminal;

use cells::{CELLS, Cell};
pub(crate) use chaos_table::ChaosTable;
use deployment::{Deployment, Programs, Setup};
use findings::{Findings, SubscriberLog};
use publisher::Publishers;
use readiness::ReadinessWatch;
pub(crate) use redis_deployment::Form;
use subscriber::Subscriber;

/// How a cell is measured, for `--help`.
const HELP: &str = "\
Each failure in each form is a cell: hubs and Redis are started for it on free ports of loopback, publications flow through \
all hubs in turn, and once everything runs, the failure happens and is mended. The subscribers behave as the SDKs do: they \
notice missing pings, reconnect to the next hub after a backoff, and subscribe again after an unsubscribe push. Half of them \
recover what they missed. The cell ends when all of them receive again. It shows how connections and subscriptions ended, \
how publishing was answered, when and for how long `/health/ready` of a hub was not 200, the longest time without a delivery and without an accepted publication, and which of the \
publications that were answered with ok never arrived or arrived twice.

Exit code 1: a cell could not be measured, or has shown what must not happen: a recovering subscriber lost a publication \
without learning of it, received one twice or out of order, or a subscriber never received any again. A cell takes 5 to 60 s; \
all of them about 10 minutes.";
/// The channels, `chaos-0` and so on: enough for every master of a cluster.
const CHANNELS: usize = 6;
/// How long publications flow before the fault and after everything works again.
const STEADY_TIME: Duration = Duration::from_millis(1500);
/// How long everything may take to work again after the fault is mended: longer than any timeout of hubs and clients.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the last publications may take to arrive.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two checks of what subscribers have.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The names of all cells.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    CELLS.iter().map(|cell| cell.name)
}

/// The end of `chaos --help`: how it works, and all cells.
pub(crate) fn help() -> String {
    let lines = CELLS.iter().map(|cell| {
        let forms: Vec<String> =
            cell.forms.iter().filter_map(ValueEnum::to_possible_value).map(|form| form.get_name().to_owned()).collect();
        format!("  {:18} {}: {} ({})", cell.name, cell.component, cell.failure, forms.join(", "))
    });
    format!("{HELP}\n\nFailures, and the forms in which they are measured:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// Runs `chaos`.
pub(crate) fn run(args: &ChaosArgs, terminal: &Terminal) -> Result<ChaosTable> {
    let this = std::env::current_exe().context("finding this program")?;
    let wardcast = Program::find(&this.with_file_name("wardcast"), "wardcast", "--version");
    let wardcast = wardcast.context("the hub beside this program (cargo build --release builds it)")?;
    let redis = Program::find(Path::new("redis-server"), "Redis server", "--version");
    let programs = Programs { wardcast, redis: redis.ok() };
    let mut table = ChaosTable::new(args, &programs);
    let is_selected = |cell: &&Cell| args.only.is_empty() || args.only.iter().any(|name| name == cell.name);
    let forms = Form::value_variants().iter().filter(|form| args.form.is_empty() || args.form.contains(form));
    for form in forms {
        for cell in CELLS.iter().filter(|cell| cell.forms.contains(form)).filter(is_selected) {
            terminal.show_progress(|| format!("{}, {form:?}", cell.name));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
            let findings = LocalSet::new().block_on(&runtime, run_cell(cell, *form, args, &programs, terminal));
            if terminal.is_interrupted() {
                table.interrupted = true;
                return Ok(table);
            }
            table.add(cell, *form, findings);
        }
    }
    if table.is_empty() {
        return fail("no cell has been selected: that failure does not exist in that form");
    }
    Ok(table)
}

/// Starts a deployment, breaks it, and returns what clients have seen.
async fn run_cell(
    cell: &Cell,
    form: Form,
    args: &ChaosArgs,
    programs: &Programs,
    terminal: &Terminal,
) -> Result<Findings> {
    let mut deployment = Deployment::start(form, programs, Setup::default()).await?;
    let channels: Vec<String> = (0..CHANNELS).map(|number| format!("chaos-{number}")).collect();
    let logs = start_subscribers(&deployment, &channels, args.subscribers.into())?;
    let all = |check: &dyn Fn(&SubscriberLog) -> bool| logs.iter().all(|log| check(&log.borrow()));
    if !wait_until(SETTLE_TIMEOUT, terminal, || all(&|log| log.is_live)).await {
        return fail("not all subscribers were subscribed before the fault");
    }
    let publishers = Rc::new(Publishers {
        addresses: deployment.hub_addresses().into(),
        api_key: deployment.api_key.clone(),
        channels,
        rate: args.rate,
        log: RefCell::default(),
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let publishing = spawn_local(publishers.clone().run(stopped));
    let readiness = ReadinessWatch::start(&deployment.hub_addresses());
    sleep(STEADY_TIME).await;

    let broken_at = Instant::now();
    cell.fault.inject(&mut deployment).await.context("breaking the deployment")?;
    let first_number = publishers.log.borrow().len() as u64;
    let mended_at = Instant::now();
    let is_settled = wait_until(SETTLE_TIMEOUT, terminal, || all(&|log| log.has_received_from(first_number))).await;
    let settled_after = is_settled.then(|| mended_at.elapsed());
    sleep(STEADY_TIME).await;
    // The publishers end by themselves if they have failed.
    _ = stop.send(());
    publishing.await.context("the publishers")?;
    let readiness = readiness.findings(broken_at);
    let publications = publishers.log.take();
    wait_until(ARRIVAL_TIMEOUT, terminal, || all(&|log| log.is_complete(&publications))).await;
    let logs: Vec<Ref<'_, SubscriberLog>> = logs.iter().map(|log| log.borrow()).collect();
    let findings = Findings::new(&publications, logs.iter().map(|log| &**log), settled_after);
    Ok(Findings { readiness, ..findings })
}

/// Starts `count` subscribers, spread over hubs and channels, half of which recover.
fn start_subscribers(
    deployment: &Deployment,
    channels: &[String],
    count: usize,
) -> Result<Vec<Rc<RefCell<SubscriberLog>>>> {
    let addresses: Rc<[_]> = deployment.client_addresses().into();
    let tokens = sign_tokens(count, &deployment.secret)?;
    let subscribers = tokens.into_iter().enumerate().map(|(number, token)| {
        // All channels, then the other kind of subscriber, then the other hub.
        let (channel, rest) = (number % channels.len(), number / channels.len());
        let log = Rc::new(RefCell::new(SubscriberLog::new(channel, rest % 2 == 0)));
        let subscriber = Subscriber::new(log.clone(), channels[channel].clone(), token, (addresses.clone(), rest / 2));
        spawn_local(subscriber.run());
        log
    });
    Ok(subscribers.collect())
}

/// Waits until something holds. Returns whether it does.
async fn wait_until(time: Duration, terminal: &Terminal, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > time || terminal.is_interrupted() {
            return false;
        }
        sleep(CHECK_INTERVAL).await;
    }
    true
}
