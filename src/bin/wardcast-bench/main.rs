//! `wardcast-bench`, the load generator: simulated clients on bare epoll, so that on shared cores it costs less than what it
//! measures. Read in this order: args, hub, fanout, crowd, receiver, connection, then driver for the publishing side; advice
//! and fields for what is told.
#![forbid(unsafe_code)]
// A report on the terminal is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;

mod connect_idle;
mod fanout;
mod limit;
mod limit_server;
mod measurement;
mod publish;
mod recover;

mod clients;
mod receiver_thread;
mod simulated_client;

mod http_transport;
mod load_driver;
mod publish_transport;
mod socket_transport;

mod delivery_stats;
mod error;
mod frame;
mod hub_under_test;
mod machine;
mod process;
mod publication_stamp;
mod remedies;
mod report;
mod report_fields;
mod run_clock;
mod server_monitor;
mod socket;
mod stream_position;
mod target_url;
mod terminal;
mod tls;
mod token;
mod upgrade;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, HubArgs, PublishOver};
use crate::error::Result;
use crate::hub_under_test::HubUnderTest;
use crate::machine::MachineCounters;
use crate::report::Report;
use crate::terminal::Terminal;

/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(Some(report)) => {
            println!("{}", if cli.json { report.to_json() } else { report.to_table() });
            if report.interrupted { INTERRUPTED.into() } else { ExitCode::SUCCESS }
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            eprintln!("wardcast-bench: {text}");
            if let Some(remedy) = remedies::remedy(&text) {
                eprintln!("  {remedy}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs a command; the children of others have nothing to report.
fn run(cli: &Cli) -> Result<Option<Report>> {
    match &cli.command {
        Command::LimitServer => return limit_server::run().map(|()| None),
        Command::HubServer { program, arguments } => {
            return hub_under_test::exec_hub(program, arguments).map(|()| None);
        }
        _ => {}
    }
    let terminal = Terminal::open(cli.quiet || cli.json)?;
    let (mut machine, before) = (Report::new("machine"), MachineCounters::read());
    machine::report_machine(&mut machine);
    let on_hub =
        |args: &HubArgs, key: Option<&str>, settings: &[&str], run: &dyn Fn(&HubUnderTest) -> Result<Report>| {
            let hub = HubUnderTest::select(args, key, settings)?;
            let mut report = run(&hub)?;
            hub.report_identity(&mut report);
            Ok(report)
        };
    let key = |api: &args::ApiArgs| api.api_key.clone();
    let report = match &cli.command {
        Command::Fanout(args) => {
            on_hub(&args.hub, key(&args.api).as_deref(), &[], &|hub| fanout::run(args, hub, &terminal))
        }
        Command::Publish(args) => {
            let settings = if args.over == PublishOver::Socket { publish::UNLIMITED_PUBLISHING } else { &[] };
            on_hub(&args.hub, key(&args.api).as_deref(), settings, &|hub| publish::run(args, hub, &terminal))
        }
        Command::Connect(args) => on_hub(&args.hub, None, &[], &|hub| connect_idle::connect(args, hub, &terminal)),
        Command::Idle(args) => {
            let settings = if args.positioned { recover::KEEP_HISTORY } else { &[] };
            on_hub(&args.hub, None, settings, &|hub| connect_idle::idle(args, hub, &terminal))
        }
        Command::Recover(args) => on_hub(&args.hub, key(&args.api).as_deref(), recover::KEEP_HISTORY, &|hub| {
            recover::run(args, hub, &terminal)
        }),
        Command::Limit(args) => limit::run(args, &terminal),
        Command::LimitServer | Command::HubServer { .. } => return Ok(None),
    };
    terminal.clear_progress();
    let mut report = report?;
    report.merge(machine);
    measurement::report_overflows(&mut report, before);
    report.interrupted = terminal.is_interrupted();
    Ok(Some(report))
}
