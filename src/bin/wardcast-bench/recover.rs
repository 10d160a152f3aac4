//! `recover`: all subscribers of a channel are cut at once and come back at once, each with the position that it had reached;
//! each checks that it gets everything, once and in order, by the hub's offsets and by the publishers' own numbers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};

use crate::args::RecoverArgs;
use crate::clients::{ClientBehavior, ClientOptions, ClientStats, Clients};
use crate::error::{BenchError, IoContext, Result};
use crate::fanout::api_endpoint;
use crate::http_transport::{HttpTransport, PublishMethod};
use crate::hub_under_test::HubUnderTest;
use crate::load_driver::{CLIENTS_TOKEN, LoadDriver, Workload};
use crate::measurement::{
    ResourceMeter, SETTLE_TIME, client_options, close_clients, report_memory, report_outcome, report_publications,
};
use crate::process::{raise_file_limit, resident_bytes};
use crate::publication_stamp::MIN_DATA_BYTES;
use crate::report::Report;
use crate::run_clock::RunClock;
use crate::terminal::Terminal;

/// Settings of a hub of our own: a history that holds more than anybody misses.
pub(crate) const KEEP_HISTORY: &[&str] = &["channels.history_size=1000", "channels.history_ttl=5m"];

/// Runs `recover`.
pub(crate) fn run(args: &RecoverArgs, hub: &HubUnderTest, terminal: &Terminal) -> Result<Report> {
    let (count, publishers) = (args.connections as usize, usize::from(args.publishers));
    if args.size < MIN_DATA_BYTES {
        return Err(BenchError::Usage(format!("--size {}: a publication needs {MIN_DATA_BYTES} bytes", args.size)));
    }
    raise_file_limit(count + publishers)?;
    let channels = vec![args.channel.clone()];
    let mut readers = ClientOptions {
        publishers,
        channels,
        ..hub.complete_client_options(client_options(ClientBehavior::Reconnect, count, &args.clients))?
    };
    readers.is_positioned = true;
    readers.reconnect_concurrency = args.returning.map_or(count, |returning| returning as usize);
    let mut report = Report::new("recover");
    report.set("connections", count);
    report.set("channels", 1);
    report.set("concurrency", readers.reconnect_concurrency);
    report.set("size_bytes", args.size);
    report.set("pace", Workload::Rate(args.rate).to_string());
    report.set("publishing_connections", publishers);
    let endpoint = api_endpoint(&args.api, hub, PublishMethod::Publish, readers.channels.clone())?;
    let (clock, before) = (RunClock::start(), resident_bytes(&hub.pids)?);
    let poll = Poll::new().context(|| "epoll")?;
    let waker = Arc::new(Waker::new(poll.registry(), CLIENTS_TOKEN).context(|| "epoll")?);
    let transport = HttpTransport::new(endpoint, publishers, &poll)?;

    let clients = Clients::open(readers, clock, &waker, terminal)?;
    terminal.wait(SETTLE_TIME);
    let opened = clients.shared.opened.load(Ordering::Relaxed);
    report_memory(&mut report, &hub.pids, before, count)?;
    let workload = (Workload::Rate(args.rate), publishers, args.size);
    let mut driver = LoadDriver::new(poll, transport, (&clients, terminal), clock, workload);
    let result = disconnect_and_reconnect(&mut driver, (&clients, terminal), clock, (args, hub), &mut report);
    clients.stop_reading();
    drop(driver);
    let (published, stats) = close_clients(result, clients)?;
    report.set("deliveries", stats.deliveries.delivered);
    report.set("deliveries_lost", (published * opened).saturating_sub(stats.deliveries.delivered));
    report_recovery(&mut report, &stats);
    report_outcome(&mut report, &stats);
    Ok(report)
}

/// Returns how many publications were taken in all.
fn disconnect_and_reconnect(
    driver: &mut LoadDriver<'_, HttpTransport>,
    (clients, terminal): (&Clients, &Terminal),
    clock: RunClock,
    (args, hub): (&RecoverArgs, &HubUnderTest),
    report: &mut Report,
) -> Result<u64> {
    let around = Duration::from_secs_f64(args.seconds);
    driver.run_for("before", around)?;
    let mut published = driver.published;
    if terminal.is_interrupted() {
        return Ok(published);
    }
    clients.disconnect_all()?;
    let disconnected_at = Instant::now();
    driver.publish_count("away", args.missed.into())?;
    published += driver.published;
    report.set("missed_publications", driver.published);
    terminal.wait(Duration::from_secs_f64(args.away).saturating_sub(disconnected_at.elapsed()));

    let mut meter = Some(ResourceMeter::start(&hub.pids, clock)?);
    let all = clients.connections as u64;
    clients.shared.measured_from.store(clock.now(), Ordering::Relaxed);
    clients.shared.reconnect_started_at.store(clock.now(), Ordering::Relaxed);
    let mut all_reconnected_at: Option<Instant> = None;
    let seconds = driver.run_until("coming back", around, || {
        if let Some(since) = all_reconnected_at {
            return Ok(since.elapsed() >= around);
        }
        if clients.shared.reconnected.load(Ordering::Relaxed) >= all {
            all_reconnected_at = Some(Instant::now());
            if let Some(meter) = meter.take()
                && let (Some(spent), _) = meter.finish(report)?
            {
                report.set_number("server_cpu_us_per_return", spent.total as f64 / 1000.0 / all as f64);
            }
        }
        Ok(false)
    })?;
    report.set_number("seconds", seconds.as_secs_f64());
    report_publications(report, driver, seconds.as_secs_f64());
    Ok(published + driver.published)
}

fn report_recovery(report: &mut Report, stats: &ClientStats) {
    let found = stats.deliveries.recoveries;
    report.set("returned", stats.time_to_recovery.len());
    if !stats.time_to_recovery.is_empty() {
        report.set_number("returning_seconds", stats.time_to_recovery.max() as f64 / 1e9);
    }
    report.set("recovered", found.recovered);
    report.set("unrecovered", found.unrecovered);
    report.set("recovered_publications", found.publications);
    report.set("offset_gaps", found.gaps);
    report.set("offset_out_of_order", found.out_of_order);
    report.set_percentiles("back", &stats.time_to_recovery);
    report.set_percentiles("to_101", &stats.time_to_101);
    report.set_percentiles("to_subscribed", &stats.time_to_ready);
    if found.unrecovered > 0 {
        report.add_note(
            "who missed more than limits.recovered_publications, or than the channel keeps (channels.history_size, \
             channels.history_ttl), is not recovered: raise them, or lower --missed and --rate",
        );
    }
}
