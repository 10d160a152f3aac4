//! `wardcast-bench`, the load generator: simulated clients on bare epoll, because they share the processor cores with the hub
//! that they measure.
//!
//! Read in this order: `args`; a command such as `fanout`; `run` and `measurement`, which the commands share; the receiving
//! side (`clients`, `receiver_thread`, `simulated_client`, `delivery_stats`); the publishing side (`load_driver`,
//! `http_transport`); the `probe` beside both; what all build on (`websocket`, `connection`, `socket`); and what is printed (`report`,
//! `report_fields`, `remedies`).
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program prints its result")]

mod args;

mod connect_idle;
mod fanout;
mod limit;
mod limit_server;
mod publish;
mod recover;

mod measurement;
mod run;

mod clients;
mod delivery_stats;
mod publication_stamp;
mod receiver_thread;
mod simulated_client;

mod http_transport;
mod load_driver;
mod socket_transport;

mod probe;
mod probe_operations;
mod probe_stats;

mod certificate;
mod connection;
mod http;
mod target_url;
mod tls;
mod websocket;

mod child_process;
mod hub_under_test;
mod machine;
mod process;

mod clock;
mod error;
mod remedies;
mod report;
mod report_fields;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::error::{BenchError, Result};
use crate::{report::Report, run::Run};

/// The exit code of a program that Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(&cli) {
        Ok(Some(report)) => {
            println!("{}", if cli.json { report.to_json() } else { report.to_table() });
            if report.interrupted { INTERRUPTED.into() } else { ExitCode::SUCCESS }
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(BenchError(message)) => {
            eprintln!("wardcast-bench: {message}");
            if let Some(remedy) = remedies::find_remedy(&message) {
                eprintln!("  {remedy}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Executes a command. Child processes have nothing to report.
fn execute(cli: &Cli) -> Result<Option<Report>> {
    match &cli.command {
        Command::Fanout(args) => measure(cli, "fanout", |run| fanout::run(args, run)),
        Command::Publish(args) => measure(cli, "publish", |run| publish::run(args, run)),
        Command::Connect(args) => measure(cli, "connect", |run| connect_idle::connect(args, run)),
        Command::Idle(args) => measure(cli, "idle", |run| connect_idle::idle(args, run)),
        Command::Recover(args) => measure(cli, "recover", |run| recover::run(args, run)),
        Command::Limit(args) => measure(cli, "limit", |run| limit::run(args, run)),
        Command::LimitServer { tls } => limit_server::run(*tls).map(|()| None),
        Command::HubServer { program, arguments } => hub_under_test::exec_hub(program, arguments).map(|()| None),
    }
}

fn measure(cli: &Cli, command: &'static str, execute: impl Fn(&mut Run) -> Result<()>) -> Result<Option<Report>> {
    let mut run = Run::open(command, cli.quiet || cli.json)?;
    let result = execute(&mut run);
    run.terminal.clear_progress();
    result.map(|()| Some(run.finish()))
}
