//! `publish`: how many publications a second a hub takes, through its API or from sessions, and how soon it answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Poll, Waker};

use crate::args::{PublishArgs, PublishOver};
use crate::clients::{ClientBehavior, ClientOptions, Clients};
use crate::error::{BenchError, IoContext, Result};
use crate::fanout::api_endpoint;
use crate::http_transport::{HttpTransport, PublishMethod};
use crate::hub_under_test::HubUnderTest;
use crate::load_driver::{CLIENTS_TOKEN, LoadDriver, Workload};
use crate::measurement::{
    ResourceMeter, client_options, close_clients, report_deliveries, report_outcome, report_publications,
};
use crate::process::raise_file_limit;
use crate::publication_stamp::MIN_DATA_BYTES;
use crate::publish_transport::PublishTransport;
use crate::report::Report;
use crate::run_clock::RunClock;
use crate::socket_transport::SocketTransport;
use crate::terminal::Terminal;

/// Settings of a hub of our own that is published to over sockets: its pace for sessions is not what is measured.
pub(crate) const UNLIMITED_PUBLISHING: &[&str] = &["limits.publications_per_second=0", "limits.commands_per_second=0"];

/// Runs `publish`.
pub(crate) fn run(args: &PublishArgs, hub: &HubUnderTest, terminal: &Terminal) -> Result<Report> {
    check(args)?;
    let (publishers, channels) = (usize::from(args.connections), channels(args));
    let subscribers = usize::from(args.subscribers) * channels.len();
    raise_file_limit(publishers + subscribers)?;
    let (clock, poll) = (RunClock::start(), Poll::new().context(|| "epoll")?);
    let waker = Arc::new(Waker::new(poll.registry(), CLIENTS_TOKEN).context(|| "epoll")?);
    let method = method(args);
    let mut report = Report::new("publish");
    report.set("channels", channels.len());
    report.set("size_bytes", args.size);
    report.set("publishing_connections", publishers);
    report.set("subscribers", subscribers);
    let readers = match subscribers {
        0 => ClientOptions { threads: 0, ..client_options(ClientBehavior::Receive, 0, &args.clients) },
        some => ClientOptions {
            channels: channels.clone(),
            ..hub.complete_client_options(client_options(ClientBehavior::Receive, some, &args.clients))?
        },
    };
    if args.over == PublishOver::Socket {
        report.set("publications_per_call", 1);
        let (tokens, options) = (hub.tokens(publishers)?, hub.socket_options(&hub.targets)?);
        let transport = SocketTransport::connect((&hub.targets, &tokens, publishers), channels, &options, &poll)?;
        return with(transport, args, (hub, terminal), (poll, clock), (readers, &waker), report);
    }
    let endpoint = api_endpoint(&args.api, hub, method, channels)?;
    report.set("publications_per_call", endpoint.publications());
    let transport = HttpTransport::new(endpoint, publishers, &poll)?;
    with(transport, args, (hub, terminal), (poll, clock), (readers, &waker), report)
}

/// What the command line cannot tell to be wrong.
fn check(args: &PublishArgs) -> Result<()> {
    let wrong = |text: String| Err(BenchError::Usage(text));
    if args.size < MIN_DATA_BYTES {
        return wrong(format!("--size {}: a publication needs {MIN_DATA_BYTES} bytes", args.size));
    }
    if args.over == PublishOver::Socket && (args.batch > 1 || args.broadcast) {
        return wrong(
            "--batch and --broadcast are the server API's: a session's command is one publication".to_owned(),
        );
    }
    Ok(())
}

fn channels(args: &PublishArgs) -> Vec<String> {
    (0..args.channels).map(|number| format!("bench-{number}")).collect()
}

fn method(args: &PublishArgs) -> PublishMethod {
    match (args.broadcast, args.batch) {
        (true, _) => PublishMethod::Broadcast,
        (false, 1) => PublishMethod::Publish,
        (false, count) => PublishMethod::Batch(u32::from(count)),
    }
}

fn with<O: PublishTransport>(
    transport: O,
    args: &PublishArgs,
    (hub, terminal): (&HubUnderTest, &Terminal),
    (poll, clock): (Poll, RunClock),
    (readers, waker): (ClientOptions, &Arc<Waker>),
    mut report: Report,
) -> Result<Report> {
    let workload = args.rate.map_or(Workload::ClosedLoopCalls(args.connections), Workload::Rate);
    report.set("pace", workload.to_string());
    let clients = Clients::open(readers, clock, waker, terminal)?;
    let publishers = usize::from(args.connections);
    let mut driver = LoadDriver::new(poll, transport, (&clients, terminal), clock, (workload, publishers, args.size));
    let result = measure(&mut driver, (&clients, terminal), clock, (args, hub), &mut report);
    clients.stop_reading();
    drop(driver);
    let ((), stats) = close_clients(result, clients)?;
    if args.subscribers > 0 {
        report_outcome(&mut report, &stats);
    }
    Ok(report)
}

fn measure<O: PublishTransport>(
    driver: &mut LoadDriver<'_, O>,
    (clients, terminal): (&Clients, &Terminal),
    clock: RunClock,
    (args, hub): (&PublishArgs, &HubUnderTest),
    report: &mut Report,
) -> Result<()> {
    let each = u64::from(args.subscribers);
    driver.run_for("warming up", Duration::from_secs_f64(args.warmup))?;
    driver.await_deliveries(driver.published * each)?;
    if terminal.is_interrupted() {
        return Ok(());
    }
    let before = clients.shared.delivered.load(Ordering::Acquire);
    clients.shared.measured_from.store(clock.now(), Ordering::Relaxed);
    let meter = ResourceMeter::start(&hub.pids, clock)?;
    let seconds = driver.run_for("measured", Duration::from_secs_f64(args.seconds))?.as_secs_f64();
    let expected = driver.published * each;
    driver.await_deliveries(before + expected)?;
    let (spent, _) = meter.finish(report)?;
    report.set_number("seconds", seconds);
    report_publications(report, driver, seconds);
    if each > 0 {
        report_deliveries(report, (clients.shared.delivered.load(Ordering::Acquire) - before, expected), seconds);
    }
    if let Some(spent) = spent {
        let publications = driver.published.max(1) as f64;
        report.set_number("server_cpu_us_per_publication", spent.total as f64 / 1000.0 / publications);
    }
    Ok(())
}
