//! `recover`: all subscribers of a channel are disconnected at once and reconnect at once, each with its position. Each checks
//! that it receives everything once and in order, by the hub's offsets and by the publishers' sequence numbers.

use std::time::{Duration, Instant};

use crate::clients::{ClientBehavior, ClientOptions};
use crate::load_driver::{Load, LoadDriver, Workload};
use crate::{
    args::RecoverArgs, clock, delivery_stats::SharedState, error::Result, http_transport::PublishMethod,
    hub_under_test::HubUnderTest, measurement::ResourceMeter, process::raise_file_limit, publication_stamp::check_size,
    run::Run,
};

/// Settings of a hub that is started for positioned subscriptions: a history that holds more than any client misses.
pub(crate) const KEEP_HISTORY: &[&str] = &["channels.history_size=1000", "channels.history_ttl=5m"];

/// Runs `recover`.
pub(crate) fn run(args: &RecoverArgs, run: &mut Run) -> Result<()> {
    check_size(args.size)?;
    let (connections, publishers) = (args.connections as usize, usize::from(args.publishers));
    raise_file_limit(connections + publishers)?;
    let hub = HubUnderTest::select(run, &args.hub, Some(&args.api), KEEP_HISTORY)?;
    let channels = vec![args.channel.clone()];
    let transport =
        hub.http_transport((run.poll.registry(), &args.api), (PublishMethod::Publish, 1), &channels, publishers)?;
    let reconnect_concurrency = args.returning.unwrap_or(args.connections) as usize;
    let options = hub.client_options(ClientBehavior::Reconnect, connections, &args.clients)?;
    let options = ClientOptions { publishers, channels, is_positioned: true, reconnect_concurrency, ..options };
    run.report.set("connections", connections);
    run.report.set("channels", 1);
    run.report.set("concurrency", reconnect_concurrency);
    run.report.set("publishing_connections", publishers);
    let clients = run.open_clients(options)?;
    let load = Load { transport, workload: Workload::Rate(args.rate), publishers, size: args.size };
    let (published, shared) = run.drive(clients, load, |driver| disconnect_and_reconnect(args, driver))?;
    let delivered = shared.delivered.get();
    run.report.set("deliveries", delivered);
    run.report.set("deliveries_lost", (published * shared.opened.get()).saturating_sub(delivered));
    report_recovery(run, &shared);
    Ok(())
}

/// Returns how many publications were accepted in all phases together.
fn disconnect_and_reconnect(args: &RecoverArgs, driver: &mut LoadDriver<'_>) -> Result<u64> {
    let time = Duration::from_secs_f64(args.seconds);
    driver.run_for("before", time)?;
    let mut published = driver.published;
    if driver.run.terminal.is_interrupted() {
        return Ok(published);
    }
    let clients = driver.clients;
    clients.disconnect_all()?;
    let disconnected_at = Instant::now();
    driver.publish_count("away", args.missed.into())?;
    published += driver.published;
    driver.run.report.set("missed_publications", driver.published);
    driver.run.terminal.wait(Duration::from_secs_f64(args.away).saturating_sub(disconnected_at.elapsed()));

    let mut meter = Some(ResourceMeter::start(driver.run)?);
    let all = clients.options.connections as u64;
    clients.shared.measured_from.set(clock::now());
    clients.shared.reconnect_at.set(clock::now());
    let mut all_reconnected_at: Option<Instant> = None;
    let seconds = driver.run_until("reconnecting", time, |run| {
        if clients.shared.reconnected.get() >= all
            && let Some(meter) = meter.take()
        {
            all_reconnected_at = Some(Instant::now());
            if let (Some(server), _) = meter.finish(run)? {
                run.report.set_number("server_cpu_us_per_return", server.total as f64 / 1000.0 / all as f64);
            }
        }
        Ok(all_reconnected_at.is_some_and(|at| at.elapsed() >= time))
    })?;
    driver.report_publications(seconds.as_secs_f64());
    Ok(published + driver.published)
}

fn report_recovery(run: &mut Run, shared: &SharedState) {
    let (report, results) = (&mut run.report, shared.results.lock());
    report.set("returned", results.to_recovered.0.len());
    if !results.to_recovered.0.is_empty() {
        report.set_number("returning_seconds", results.to_recovered.0.max() as f64 / 1e9);
    }
    for (name, counter) in [
        ("recovered", &shared.recovered),
        ("unrecovered", &shared.unrecovered),
        ("recovered_publications", &shared.recovered_publications),
        ("offset_gaps", &shared.offset_gaps),
        ("offset_out_of_order", &shared.offset_out_of_order),
    ] {
        report.set(name, counter.get());
    }
    report.set_percentiles("back", &results.to_recovered);
    report.set_percentiles("to_101", &results.to_101);
    report.set_percentiles("to_subscribed", &results.to_live);
    if shared.unrecovered.get() > 0 {
        report.add_note(
            "a client that missed more than limits.recovered_publications, or more than the channel keeps \
             (channels.history_size, channels.history_ttl), is not recovered: raise them, or lower --missed and --rate",
        );
    }
}
