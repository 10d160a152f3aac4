//! `wardcast-bench`, the load generator: simulated clients on bare epoll, so that on shared cores it costs less than what it
//! measures. Read in this order: args, hub, fanout, crowd, receiver, connection, then driver for the publishing side; advice
//! and fields for what is told.
#![forbid(unsafe_code)]
// A report on the terminal is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;

mod crowds;
mod fanout;
mod limit;
mod limit_server;
mod publish;
mod recover;
mod run;

mod connection;
mod crowd;
mod receiver;

mod driver;
mod http;
mod outlet;
mod sockets;

mod advice;
mod clock;
mod console;
mod error;
mod fields;
mod frame;
mod handshake;
mod hub;
mod machine;
mod process;
mod report;
mod socket;
mod stamp;
mod standing;
mod tally;
mod target;
mod tls;
mod token;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, HubArgs, Way};
use crate::console::Console;
use crate::error::Result;
use crate::hub::Hub;
use crate::machine::Machine;
use crate::report::Report;

/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(Some(report)) => {
            println!("{}", if cli.json { report.json() } else { report.table() });
            if report.interrupted { INTERRUPTED.into() } else { ExitCode::SUCCESS }
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            eprintln!("wardcast-bench: {text}");
            if let Some(remedy) = advice::remedy(&text) {
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
        Command::HubServer { program, arguments } => return hub::become_hub(program, arguments).map(|()| None),
        _ => {}
    }
    let console = Console::open(cli.quiet || cli.json)?;
    let (mut machine, before) = (Report::new("machine"), Machine::read());
    machine::describe(&mut machine);
    let on_hub = |args: &HubArgs, key: Option<&str>, settings: &[&str], run: &dyn Fn(&Hub) -> Result<Report>| {
        let hub = Hub::find(args, key, settings)?;
        let mut report = run(&hub)?;
        hub.describe(&mut report);
        Ok(report)
    };
    let key = |api: &args::ApiArgs| api.api_key.clone();
    let report = match &cli.command {
        Command::Fanout(args) => {
            on_hub(&args.hub, key(&args.api).as_deref(), &[], &|hub| fanout::run(args, hub, &console))
        }
        Command::Publish(args) => {
            let settings = if args.over == Way::Socket { publish::NO_PACE } else { &[] };
            on_hub(&args.hub, key(&args.api).as_deref(), settings, &|hub| publish::run(args, hub, &console))
        }
        Command::Connect(args) => on_hub(&args.hub, None, &[], &|hub| crowds::connect(args, hub, &console)),
        Command::Idle(args) => {
            let settings = if args.positioned { recover::HISTORY } else { &[] };
            on_hub(&args.hub, None, settings, &|hub| crowds::idle(args, hub, &console))
        }
        Command::Recover(args) => {
            on_hub(&args.hub, key(&args.api).as_deref(), recover::HISTORY, &|hub| recover::run(args, hub, &console))
        }
        Command::Limit(args) => limit::run(args, &console),
        Command::LimitServer | Command::HubServer { .. } => return Ok(None),
    };
    console.clear();
    let mut report = report?;
    report.adopt(machine);
    run::report_overflows(&mut report, before);
    report.interrupted = console.is_interrupted();
    Ok(Some(report))
}
