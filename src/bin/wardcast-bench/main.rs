//! `wardcast-bench`, the load generator: simulated clients on bare epoll, because they share the processor cores with the hub
//! that they measure.
//!
//! Read in this order: `args`; a command such as `fanout`; `run` and `measurement`, which the commands share; the receiving
//! side (`clients`, `receiver_thread`, `simulated_client`, `delivery_stats`); the publishing side (`load_driver`,
//! `http_transport`); the `probe` beside both; what all build on (`websocket`, `connection`, `socket`); and what is printed (`report`,
//! `report_fields`, `remedies`). `compare` runs the other commands on several servers in turn. `chaos` stands alone
//! with `events`: they measure no load, but what failures do to clients and to a backend.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program prints its result")]

mod args;

mod connect_idle;
mod everything;
mod fanout;
mod limit;
mod limit_server;
mod publish;
mod recover;
mod tokens;

mod chaos;
mod compare;

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

mod api_connection;
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
mod program;
mod signing_key;

mod clock;
mod error;
mod remedies;
mod report;
mod report_fields;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::error::{BenchError, Result, fail};
use crate::{report::Report, run::Run, terminal::Terminal};

/// The exit code of a program that Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a command prints, and how the program ends.
struct Outcome {
    text: String,
    is_interrupted: bool,
    has_failed: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(&cli) {
        Ok(Some(Outcome { text, is_interrupted, has_failed })) => {
            println!("{text}");
            match (is_interrupted, has_failed) {
                (true, _) => INTERRUPTED.into(),
                (_, true) => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            }
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

/// Executes a command. Child processes have nothing to print.
fn execute(cli: &Cli) -> Result<Option<Outcome>> {
    match &cli.command {
        Command::LimitServer { tls } => return limit_server::run(*tls).map(|()| None),
        Command::HubServer { program, arguments } => {
            return hub_under_test::exec_hub(program, arguments).map(|()| None);
        }
        _ => {}
    }
    let terminal = Terminal::open(cli.quiet || cli.json)?;
    let outcome = match &cli.command {
        Command::Compare(args) => {
            let comparison = compare::run(args, &terminal)?;
            let text = match (cli.json, args.markdown) {
                (true, _) => comparison.to_json(),
                (_, true) => comparison.to_markdown(),
                _ => comparison.to_table(),
            };
            Outcome { text, is_interrupted: comparison.interrupted, has_failed: !comparison.failures.is_empty() }
        }
        Command::Chaos(args) => {
            let table = chaos::run(args, &terminal)?;
            let text = match (cli.json, args.markdown) {
                (true, _) => table.to_json(),
                (_, true) => table.to_markdown(),
                _ => table.to_text(),
            };
            Outcome { text, is_interrupted: table.interrupted, has_failed: table.has_failed() }
        }
        Command::Events(args) => {
            let (report, has_failed) = chaos::events::run(args, &terminal)?;
            let text = if cli.json { report.to_json() } else { report.to_table() };
            Outcome { text, is_interrupted: report.interrupted, has_failed }
        }
        command => {
            let report = measure(command, terminal)?;
            let text = if cli.json { report.to_json() } else { report.to_table() };
            Outcome { text, is_interrupted: report.interrupted, has_failed: false }
        }
    };
    Ok(Some(outcome))
}

/// Executes a command that measures one server.
fn measure(command: &Command, terminal: Terminal) -> Result<Report> {
    let mut run = Run::open(command.name(), terminal)?;
    let result = match command {
        Command::Fanout(args) => fanout::run(args, &mut run),
        Command::Publish(args) => publish::run(args, &mut run),
        Command::Connect(args) => connect_idle::connect(args, &mut run),
        Command::Idle(args) => connect_idle::idle(args, &mut run),
        Command::Recover(args) => recover::run(args, &mut run),
        Command::Revoke(args) => tokens::revoke(args, &mut run),
        Command::Expiry(args) => tokens::expiry(args, &mut run),
        Command::Refresh(args) => tokens::refresh(args, &mut run),
        Command::Forged(args) => tokens::forged(args, &mut run),
        Command::Limit(args) => limit::run(args, &mut run),
        Command::Compare(_)
        | Command::Chaos(_)
        | Command::Events(_)
        | Command::LimitServer { .. }
        | Command::HubServer { .. } => fail(format!("{} does not measure one server", command.name())),
    };
    run.terminal.clear_progress();
    result.map(|()| run.finish())
}
