//! `forged`: handshakes with tokens that another key has signed, as fast as the hub refuses them, beside sessions that stay.

use std::time::Instant;

use super::{CHANNEL, ForgedArgs, beside::SessionsBeside, open_hubs};
use crate::clients::{ClientBehavior, ClientOptions, Clients};
use crate::error::Result;
use crate::hub_under_test::{random_secret, sign_tokens};
use crate::run::{Run, SETTLE_TIME};
use crate::signing_key::{Es256Key, TokenAlgorithm};
use crate::{clock, measurement::ResourceMeter, process::resident_bytes};

/// How many forged tokens there are, which the handshakes use in turns.
const TOKENS: usize = 1000;

/// Runs `forged`.
pub(crate) fn run(args: &ForgedArgs, run: &mut Run) -> Result<()> {
    let setting = args.algorithm.new_key()?.as_ref().map(Es256Key::hub_setting);
    let settings: Vec<&str> = setting.iter().map(String::as_str).collect();
    let publications = (args.size, args.rate);
    let hub = open_hubs((&args.hub, &args.api), run, &settings, 1, (args.others, publications))?;
    let beside = SessionsBeside::start(&hub, run, args.others as usize, (CHANNEL, args.rate, args.size))?;
    let options = hub.client_options(ClientBehavior::ConnectAndClose, args.handshakes as usize, &args.clients)?;
    // Those who forge tokens have machines of their own, and take no processor time from the hub.
    let options = ClientOptions { tokens: forged_tokens(args.algorithm)?, has_lower_priority: true, ..options };
    beside.wait_for_publications(run);
    run.terminal.wait(args.margin());

    let resident_before = resident_bytes(&run.pids)?;
    let (meter, began_at, start) = (ResourceMeter::start(run)?, clock::now(), Instant::now());
    let clients = Clients::open(options, run)?;
    let (seconds, ended_at) = (start.elapsed().as_secs_f64(), clock::now());
    let (server, _) = meter.finish(run)?;
    let shared = clients.close()?;
    run.terminal.wait(SETTLE_TIME);
    let memory = |bytes: u64| bytes as f64 / 1024.0;
    run.report.set_number("server_rss_before_kib", memory(resident_before));
    run.report.set_number("server_rss_after_kib", memory(resident_bytes(&run.pids)?));
    let (refused, connected) = (shared.failed.get(), shared.opened.get());
    run.report.set("connected", connected);
    run.report.set_number("opening_seconds", seconds);
    run.report.set_number("refused_per_second", refused as f64 / seconds);
    if let Some(server) = server {
        let each = server.total as f64 / 1000.0 / (refused + connected).max(1) as f64;
        run.report.set_number("server_cpu_us_per_connect", each);
    }
    run.report.set_counts("failures", &shared.results.lock().failed);
    let published = beside.finish((began_at, ended_at), run)?;
    run.report.set("publications", published);
    Ok(())
}

/// Tokens that are right but for their key.
fn forged_tokens(algorithm: TokenAlgorithm) -> Result<Vec<String>> {
    match algorithm.new_key()? {
        None => sign_tokens(TOKENS, &random_secret()),
        Some(key) => key.sign_tokens(TOKENS),
    }
}
