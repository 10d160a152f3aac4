//! `compare`: the measurements of the other commands, on the bare loop, on Wardcast and on Centrifugo, in turns.
//!
//! Read in this order: `workloads`, what is measured; `contender`, on what and with which settings; `servers`, which starts and
//! ends them; `comparison`, what is printed.
//!
//! Every measurement is a command of this program against servers that are started for it alone. The servers take turns
//! within each measurement, and their order is reversed in each round, so that whatever else the machine does meanwhile is
//! spread over all of them.

mod comparison;
mod contender;
mod servers;
mod sizes;
mod workloads;

use std::path::Path;

use clap::Parser;

use crate::args::{Cli, CompareArgs};
use crate::error::{BenchError, Context, Result};
use crate::program::{CENTRIFUGO, Program};
use crate::report::{Report, thousands};
use crate::{clock, machine, process::hard_file_limit, terminal::Terminal};

use comparison::Comparison;
use contender::Contender;

use servers::Servers;
use sizes::Capacity;
use workloads::{Setup, WORKLOADS, Workload};

/// Less than this share of the scheduled publications means that the server did not keep up.
const KEPT_UP_SHARE: f64 = 0.95;

/// The names of all measurements.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    WORKLOADS.iter().map(|workload| workload.name)
}

/// The programs of a comparison, by what they are measured as.
struct Programs {
    wardcast: Program,
    centrifugo: Option<Program>,
    /// For two nodes.
    redis: Option<Program>,
}

impl Programs {
    /// Finds the programs and asks for their versions.
    fn find(args: &CompareArgs) -> Result<Self> {
        let this = std::env::current_exe().context("finding this program")?;
        let wardcast = Program::find(&this.with_file_name("wardcast"), "wardcast", "--version");
        let wardcast = wardcast.context("the hub beside this program (cargo build --release builds it)")?;
        let centrifugo = args.centrifugo.as_deref().map(|path| {
            let found = Program::find(path, CENTRIFUGO, "version");
            found.context(format_args!("--centrifugo {}", path.display()))
        });
        let redis = Program::find(Path::new("redis-server"), "Redis server", "--version");
        Ok(Self { wardcast, centrifugo: centrifugo.transpose()?, redis: redis.ok() })
    }

    /// The program of a contender; the bare loop is this program itself.
    fn of(&self, contender: Contender) -> Option<&Program> {
        match contender {
            Contender::BareLoop => None,
            Contender::Wardcast => Some(&self.wardcast),
            Contender::Centrifugo => self.centrifugo.as_ref(),
        }
    }

    /// The contenders of a measurement.
    fn contenders(&self, workload: &Workload) -> Vec<Contender> {
        let takes_part = |contender: &Contender| match contender {
            Contender::BareLoop => workload.bare_loop,
            contender => self.of(*contender).is_some(),
        };
        Contender::ALL.into_iter().filter(takes_part).collect()
    }
}

/// Runs `compare`.
pub(crate) fn run(args: &CompareArgs, terminal: &Terminal) -> Result<Comparison> {
    let programs = Programs::find(args)?;
    let mut comparison = Comparison::new(args, &programs, clock::unix_seconds());
    let is_selected = |workload: &&Workload| args.only.is_empty() || args.only.iter().any(|name| name == workload.name);
    let mut selected: Vec<&'static Workload> = WORKLOADS.iter().filter(is_selected).collect();
    if programs.redis.is_none() && selected.iter().any(|workload| workload.setup == Setup::TwoNodes) {
        comparison.add_note("two nodes are not measured, because redis-server is not installed".to_owned());
        selected.retain(|workload| workload.setup != Setup::TwoNodes);
    }
    let capacity = Capacity { open_files: hard_file_limit(), available_bytes: machine::memory_bytes("MemAvailable") };
    for round in 1..=args.rounds {
        for workload in &selected {
            let connections = workload.connections(args.quick);
            let allowed = capacity.connections();
            if allowed < connections {
                comparison.add_note(format!(
                    "{}: {} instead of {} connections on every server, because {}",
                    workload.name,
                    thousands(allowed),
                    thousands(connections),
                    capacity.reason()
                ));
            }
            let turn = Turn { programs: &programs, workload, connections: connections.min(allowed), args };
            let mut contenders = programs.contenders(workload);
            if round % 2 == 0 {
                contenders.reverse();
            }
            for contender in contenders {
                let title = format!("round {round} of {}, {}, {}: ", args.rounds, workload.name, contender.name());
                let part = terminal.for_part(title);
                turn.run(contender, round, part, &mut comparison)?;
                if terminal.is_interrupted() {
                    comparison.interrupted = true;
                    return Ok(comparison);
                }
            }
        }
    }
    Ok(comparison)
}

/// One measurement in one round.
struct Turn<'a> {
    programs: &'a Programs,
    workload: &'static Workload,
    connections: u64,
    args: &'a CompareArgs,
}

impl Turn<'_> {
    /// Measures a contender. A measurement that fails is recorded as such, so that the others are not lost.
    ///
    /// # Errors
    /// The servers do not start although the contender has not been measured before, so that it never will.
    fn run(&self, contender: Contender, round: u16, terminal: Terminal, comparison: &mut Comparison) -> Result<()> {
        let what = format!("{}, {}, round {round}", contender.name(), self.workload.name);
        let redis = self.programs.redis.as_ref();
        let program = self.programs.of(contender);
        let servers =
            program.map(|program| Servers::start((contender, program), self.workload.setup, redis, &terminal));
        let servers = match servers.transpose() {
            // Ctrl-C is why they did not start.
            Err(_) if terminal.is_interrupted() => return Ok(()),
            Err(error) if comparison.has_measured(contender) => {
                comparison.failures.push(format!("{what}: {error}"));
                return Ok(());
            }
            servers => servers?,
        };
        match self.measure(servers.as_ref(), terminal) {
            Ok(report) if report.interrupted => {}
            Ok(report) => {
                comparison.add(contender, self.workload, self.connections, &report);
                for fault in faults(&report, self.workload) {
                    comparison.add_note(format!("{what}: {fault}"));
                }
            }
            Err(error) => comparison.failures.push(format!("{what}: {error}")),
        }
        Ok(())
    }

    /// Executes the command of the measurement against the servers, or as `limit`, which starts its own.
    fn measure(&self, servers: Option<&Servers>, terminal: Terminal) -> Result<Report> {
        let mut arguments = vec!["wardcast-bench".to_owned()];
        arguments.extend(self.workload.arguments(servers.is_none(), self.connections, self.args.quick));
        if let Some(servers) = servers {
            arguments.extend(servers.arguments(self.workload.is_publishing()));
        }
        // The message of a wrong command line could quote the secrets, and would be a fault of this program.
        let cli = Cli::try_parse_from(arguments).map_err(|error| BenchError(format!("{:?}", error.kind())))?;
        crate::measure(&cli.command, terminal)
    }
}

/// What went wrong in a run that did not fail: figures with such faults are not comparable as they are.
fn faults(report: &Report, workload: &Workload) -> Vec<String> {
    let counted = [
        ("deliveries_lost", "deliveries lost"),
        ("connections_closed", "connections closed by the server"),
        ("failures", "connections failed"),
        ("publications_refused", "publications refused"),
        ("unrecovered", "clients not recovered"),
        ("sequence_out_of_order", "deliveries out of order"),
        ("offset_gaps", "gaps of offsets"),
    ];
    let delayed = workload.times_connects().then_some(("listen_overflows", "connects delayed by a full listen queue"));
    let found = counted
        .into_iter()
        .chain(delayed)
        .map(|(field, what)| (report.count(field), what))
        .filter(|(count, _)| *count > 0);
    let mut faults: Vec<String> = found.map(|(count, what)| format!("{} {what}", thousands(count))).collect();
    if let (Some(wanted), Some(rate)) = (workload.rate, report.number("publications_per_second"))
        && rate < KEPT_UP_SHARE * wanted
    {
        faults.push(format!("did not keep up: {rate:.1} of {wanted} publications per second"));
    }
    faults
}
