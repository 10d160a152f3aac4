//! `recover`: all subscribers of a channel are disconnected at once and reconnect at once, each with its position. Each checks
//! that it receives everything once and in order, by the hub's offsets and by the publishers' sequence numbers. Other sessions may stay
//! connected meanwhile, in a channel of their own.

use std::time::{Duration, Instant};

use crate::clients::{ClientBehavior, ClientOptions};
use crate::load_driver::{Load, LoadDriver, Workload};
use crate::{
    args::RecoverArgs, clock, delivery_stats::SharedState, error::Result, error::fail, http_transport::PublishMethod,
    hub_under_test::HubUnderTest, measurement::ResourceMeter, process::raise_file_limit, publication_stamp::check_size,
    run::Run, signing_key::Es256Key, tokens::SessionsBeside,
};

/// Settings of a hub that is started for positioned subscriptions: a history that holds more than any client misses.
pub(crate) const KEEP_HISTORY: &[&str] = &["channels.history_size=1000", "channels.history_ttl=5m"];

/// Runs `recover`.
pub(crate) fn run(args: &RecoverArgs, run: &mut Run) -> Result<()> {
    check_size(args.size)?;
    let (connections, publishers) = (args.connections as usize, usize::from(args.publishers));
    let others = args.others as usize;
    raise_file_limit(connections + publishers + others)?;
    let key = args.algorithm.new_key()?;
    let key_setting = key.as_ref().map(Es256Key::hub_setting);
    let settings: Vec<&str> = KEEP_HISTORY.iter().copied().chain(key_setting.as_deref()).collect();
    let hub = HubUnderTest::select(run, &args.hub, Some(&args.api), &settings)?;
    if key.is_some() && !hub.is_started() {
        return fail("--algorithm es256 is for a hub that is started for the run: give no --url and no secret with it");
    }
    let channels = vec![args.channel.clone()];
    let transport =
        hub.http_transport((run.poll.registry(), &args.api), (PublishMethod::Publish, 1), &channels, publishers)?;
    let reconnect_concurrency = args.returning.unwrap_or(args.connections) as usize;
    let options = hub.client_options(ClientBehavior::Reconnect, connections, &args.clients)?;
    let tokens = key.map_or(Ok(options.tokens), |key| key.sign_tokens(connections))?;
    let options = ClientOptions {
        tokens,
        publishers,
        channels,
        is_positioned: true,
        reconnect_concurrency,
        // Clients have machines of their own. Beside sessions that are timed, they take no processor time from the hub.
        has_lower_priority: others > 0,
        ..options
    };
    run.report.set("connections", connections);
    run.report.set("channels", 1);
    run.report.set("concurrency", reconnect_concurrency);
    run.report.set("publishing_connections", publishers);
    run.report.set("others", others);
    let channel_beside = format!("{}-others", args.channel);
    let load_beside = (channel_beside.as_str(), args.others_rate, args.size);
    let beside = (others > 0).then(|| SessionsBeside::start(&hub, run, others, load_beside)).transpose()?;
    let clients = run.open_clients(options)?;
    let load = Load { transport, workload: Workload::Rate(args.rate), publishers, size: args.size };
    let phases = |driver: &mut LoadDriver<'_>| {
        beside.iter().for_each(|beside| beside.wait_for_publications(driver.run));
        disconnect_and_reconnect(args, driver)
    };
    let (Outcome { published, disconnected }, shared) = run.drive(clients, load, phases)?;
    if let Some(beside) = beside {
        beside.finish(disconnected, run)?;
    }
    let delivered = shared.delivered.get();
    run.report.set("deliveries", delivered);
    run.report.set("deliveries_lost", (published * shared.opened.get()).saturating_sub(delivered));
    report_recovery(run, &shared);
    Ok(())
}

/// What has happened to the clients.
struct Outcome {
    /// How many publications were accepted in all phases together.
    published: u64,
    /// The clock when they were disconnected, and when all had reconnected.
    disconnected: (u64, u64),
}

fn disconnect_and_reconnect(args: &RecoverArgs, driver: &mut LoadDriver<'_>) -> Result<Outcome> {
    let time = Duration::from_secs_f64(args.seconds);
    driver.run_for("before", time)?;
    let mut published = driver.published;
    if driver.run.terminal.is_interrupted() {
        return Ok(Outcome { published, disconnected: (clock::now(), clock::now()) });
    }
    let clients = driver.clients;
    let (disconnecting_at, disconnected_at) = (clock::now(), Instant::now());
    clients.disconnect_all()?;
    driver.publish_count("away", args.missed.into())?;
    published += driver.published;
    driver.run.report.set("missed_publications", driver.published);
    driver.run.terminal.wait(Duration::from_secs_f64(args.away).saturating_sub(disconnected_at.elapsed()));

    let mut meter = Some(ResourceMeter::start(driver.run)?);
    let all = clients.options.connections as u64;
    clients.shared.measured_from.set(clock::now());
    clients.shared.reconnect_at.set(clock::now());
    let (mut all_reconnected_at, mut reconnected_at): (Option<Instant>, _) = (None, None);
    let seconds = driver.run_until("reconnecting", time, |run| {
        if clients.shared.reconnected.get() >= all
            && let Some(meter) = meter.take()
        {
            (all_reconnected_at, reconnected_at) = (Some(Instant::now()), Some(clock::now()));
            if let (Some(server), _) = meter.finish(run)? {
                run.report.set_number("server_cpu_us_per_return", server.total as f64 / 1000.0 / all as f64);
            }
        }
        Ok(all_reconnected_at.is_some_and(|at| at.elapsed() >= time))
    })?;
    driver.report_publications(seconds.as_secs_f64());
    let disconnected = (disconnecting_at, reconnected_at.unwrap_or_else(clock::now));
    Ok(Outcome { published: published + driver.published, disconnected })
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
    report.set_counts("refused_returns", &results.refused);
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
