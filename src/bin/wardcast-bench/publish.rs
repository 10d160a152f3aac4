//! `publish`: how many publications per second a hub accepts, through its server API or from sessions, and how soon it answers.

use crate::args::{PublishArgs, PublishOver};
use crate::clients::{ClientBehavior, ClientOptions};
use crate::error::{Result, fail};
use crate::load_driver::{Load, LoadDriver, PublishTransport, Workload};
use crate::{
    http_transport::PublishMethod, hub_under_test::HubUnderTest, measurement::Measured, process::raise_file_limit,
    publication_stamp::check_size, run::Run, socket_transport::SocketTransport,
};

/// Settings of a hub that is started to publish with sessions: the rate limits of sessions are not what is measured.
const NO_RATE_LIMITS: &[&str] = &["limits.publications_per_second=0", "limits.commands_per_second=0"];

/// Runs `publish`.
pub(crate) fn run(args: &PublishArgs, run: &mut Run) -> Result<()> {
    check_size(args.size)?;
    let is_over_http = args.over == PublishOver::Http;
    if !is_over_http && (args.batch > 1 || args.broadcast) {
        return fail("--batch and --broadcast are for the server API: a session publishes one publication per command");
    }
    let (publishers, receivers) = (usize::from(args.connections), usize::from(args.subscribers));
    let channels: Vec<String> = (0..args.channels).map(|number| format!("bench-{number}")).collect();
    let subscribers = receivers * channels.len();
    raise_file_limit(publishers + subscribers)?;
    let settings = if is_over_http { &[] } else { NO_RATE_LIMITS };
    let hub = HubUnderTest::select(run, &args.hub, Some(&args.api), settings)?;
    let (method, publications) = match (args.broadcast, args.batch) {
        (true, _) => (PublishMethod::Broadcast, args.channels),
        (false, 1) => (PublishMethod::Publish, 1),
        (false, count) => (PublishMethod::Batch, count),
    };
    run.report.set("channels", channels.len());
    run.report.set("publishing_connections", publishers);
    run.report.set("subscribers", subscribers);
    // Without `publishers` clients only count: the publications of one publisher go to several channels.
    let options = match subscribers {
        0 => ClientOptions::default(),
        _ => hub.client_options(ClientBehavior::Receive, subscribers, &args.clients)?,
    };
    let options = ClientOptions { channels: channels.clone(), ..options };
    let transport: Box<dyn PublishTransport> = match args.over {
        PublishOver::Http => {
            hub.http_transport((run.poll.registry(), &args.api), (method, publications.into()), &channels, publishers)?
        }
        PublishOver::Socket => Box::new(SocketTransport::connect(&hub, publishers, channels, &run.poll)?),
    };
    run.report.set("publications_per_call", publications);
    let clients = run.open_clients(options)?;
    let workload = args.rate.map_or(Workload::ClosedLoopCalls(args.connections), Workload::Rate);
    let load = Load { transport, workload, publishers, size: args.size };
    let phases = |driver: &mut LoadDriver<'_>| {
        let measured = driver.measure(args.warmup, args.seconds, receivers as u64)?;
        if let Some(Measured { server: Some(server), .. }) = measured {
            let publications = driver.published.max(1) as f64;
            let each = server.total as f64 / 1000.0 / publications;
            driver.run.report.set_number("server_cpu_us_per_publication", each);
        }
        Ok(())
    };
    run.drive(clients, load, phases).map(drop)
}
