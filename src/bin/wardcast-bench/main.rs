//! `wardcast-bench`, the load generator: simulated clients on bare epoll, so that on shared cores it costs less than what it
//! measures. Read in this order: args, fanout, crowd, receiver, connection, then driver for the publishing side.
#![forbid(unsafe_code)]
// A report on the terminal is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;

mod crowds;
mod fanout;
mod limit;
mod limit_server;
mod run;

mod connection;
mod crowd;
mod receiver;

mod driver;
mod http;
mod outlet;

mod clock;
mod error;
mod frame;
mod handshake;
mod process;
mod report;
mod socket;
mod stamp;
mod tally;
mod target;
mod tls;
mod token;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Fanout(args) => fanout::run(&args).map(|report| Some(report.render(args.crowd.json))),
        Command::Connect(args) => crowds::connect(&args).map(|report| Some(report.render(args.crowd.json))),
        Command::Idle(args) => crowds::idle(&args).map(|report| Some(report.render(args.crowd.json))),
        Command::Limit(args) => limit::run(&args).map(|report| Some(report.render(args.crowd.json))),
        Command::LimitServer => limit_server::run().map(|()| None),
    };
    match result {
        Ok(report) => {
            report.iter().for_each(|text| println!("{text}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("wardcast-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
