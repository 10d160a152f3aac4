//! The measurements. Each is a command of this program, and its figures are fields of that command's report.

/// How the servers of a measurement are set up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    /// One node without history.
    OneNode,
    /// One node with a history that holds more than any client misses.
    History,
    /// Two nodes on one Redis: publications go to the first one, and all subscribers are on the second.
    TwoNodes,
}

/// A figure: a field of the report.
pub(super) struct Figure {
    /// The name of the field.
    pub(super) field: &'static str,
    /// Whether more is better. Of times and costs, less is.
    pub(super) more_is_better: bool,
}

/// The measurement.
pub(super) struct Workload {
    /// Its name for `--only`.
    pub(super) name: &'static str,
    /// What it measures, in words; `{n}` is the number of connections.
    pub(super) title: &'static str,
    pub(super) setup: Setup,
    /// The command and its options, but for the number of connections and the time.
    command: &'static str,
    /// The option for the number of connections.
    count_option: &'static str,
    /// The number of connections, and the same with `--quick`.
    connections: [u64; 2],
    /// Options that say how long it takes, and the same with `--quick`.
    time: [&'static str; 2],
    /// The publications per second that the command schedules, if it does.
    pub(super) rate: Option<f64>,
    /// Whether the bare loop can do it.
    pub(super) bare_loop: bool,
    pub(super) figures: &'static [Figure],
}

impl Workload {
    /// How many connections it has, if the machine allows them.
    pub(super) fn connections(&self, is_quick: bool) -> u64 {
        self.connections[usize::from(is_quick)]
    }

    /// The command line, without the options that name the servers.
    pub(super) fn arguments(&self, is_bare_loop: bool, connections: u64, is_quick: bool) -> Vec<String> {
        let mut arguments: Vec<String> = self.command.split(' ').map(str::to_owned).collect();
        if is_bare_loop {
            "limit".clone_into(&mut arguments[0]);
        }
        arguments.extend([self.count_option.to_owned(), connections.to_string()]);
        arguments.extend(self.rate.into_iter().flat_map(|rate| ["--rate".to_owned(), rate.to_string()]));
        arguments.extend(self.time[usize::from(is_quick)].split(' ').map(str::to_owned));
        arguments
    }

    /// Whether its figures are of the time in which clients connect.
    pub(super) fn times_connects(&self) -> bool {
        self.figures.iter().any(|figure| ["connects_per_second", "returning_seconds"].contains(&figure.field))
    }

    /// Whether the command publishes through the server API.
    pub(super) fn is_publishing(&self) -> bool {
        !self.command.starts_with("connect") && !self.command.starts_with("idle")
    }
}

const fn less(field: &'static str) -> Figure {
    Figure { field, more_is_better: false }
}

const fn more(field: &'static str) -> Figure {
    Figure { field, more_is_better: true }
}

const PUBLISHING_TIME: [&str; 2] = ["--warmup 1 --seconds 5", "--warmup 0.1 --seconds 0.3"];
const FANOUT_FIGURES: &[Figure] =
    &[less("delivery_p50_ms"), less("delivery_p99_ms"), less("delivery_max_ms"), less("server_cpu_us_per_delivery")];

/// A fan-out at a fixed rate.
const fn fanout(name: &'static str, title: &'static str, rate: f64) -> Workload {
    Workload {
        name,
        title,
        setup: Setup::OneNode,
        command: "fanout",
        count_option: "-n",
        connections: [5000, 20],
        time: PUBLISHING_TIME,
        rate: Some(rate),
        bare_loop: true,
        figures: FANOUT_FIGURES,
    }
}

/// All measurements, in the order of the table.
pub(super) const WORKLOADS: &[Workload] = &[
    fanout("fanout-10", "Fan-out to {n} subscribers, 10 publications/s", 10.0),
    fanout("fanout-30", "Fan-out to {n} subscribers, 30 publications/s", 30.0),
    fanout("fanout-60", "Fan-out to {n} subscribers, 60 publications/s", 60.0),
    Workload {
        name: "fanout-closed-loop",
        title: "Fan-out to {n} subscribers, as fast as possible with 16 publications outstanding",
        setup: Setup::OneNode,
        command: "fanout --closed-loop 16",
        count_option: "-n",
        connections: [5000, 20],
        time: PUBLISHING_TIME,
        rate: None,
        bare_loop: true,
        figures: &[more("deliveries_per_second"), less("delivery_p99_ms"), less("server_cpu_us_per_delivery")],
    },
    Workload {
        name: "publish",
        title: "Publishing over REST without subscribers, {n} connections with one request at a time",
        setup: Setup::OneNode,
        command: "publish",
        count_option: "-n",
        connections: [16, 4],
        time: PUBLISHING_TIME,
        rate: None,
        bare_loop: false,
        figures: &[
            more("publications_per_second"),
            less("publish_answer_p99_ms"),
            less("server_cpu_us_per_publication"),
        ],
    },
    Workload {
        name: "connect",
        title: "{n} connects with a JWT and one subscription each, 128 at a time",
        setup: Setup::OneNode,
        command: "connect --channel bench",
        count_option: "-n",
        connections: [10_000, 20],
        time: ["--concurrency 128", "--concurrency 4"],
        rate: None,
        bare_loop: false,
        figures: &[more("connects_per_second"), less("to_subscribed_p99_ms"), less("server_cpu_us_per_connect")],
    },
    Workload {
        name: "idle",
        title: "{n} idle connections with one subscription each, over two rounds of pings",
        setup: Setup::OneNode,
        command: "idle",
        count_option: "-n",
        connections: [15_000, 20],
        // Twice the interval of pings.
        time: ["--settle 50", "--settle 0.2"],
        rate: None,
        bare_loop: false,
        figures: &[
            less("server_rss_before_kib"),
            less("server_rss_per_connection_kib"),
            less("server_cpu_idle_ms_per_second"),
        ],
    },
    Workload {
        name: "idle-few",
        title: "{n} idle connections: a server that is hardly used",
        setup: Setup::OneNode,
        command: "idle",
        count_option: "-n",
        connections: [10, 10],
        time: ["--settle 10", "--settle 0.2"],
        rate: None,
        bare_loop: false,
        figures: &[less("server_cpu_idle_ms_per_second")],
    },
    Workload {
        name: "channels",
        title: "{n} channels with one subscriber each, publishing to all of them in turns",
        setup: Setup::OneNode,
        command: "publish --subscribers 1",
        count_option: "--channels",
        connections: [10_000, 20],
        time: PUBLISHING_TIME,
        rate: None,
        bare_loop: false,
        figures: &[
            less("server_rss_per_connection_kib"),
            more("publications_per_second"),
            less("delivery_p99_ms"),
            less("server_cpu_us_per_publication"),
        ],
    },
    Workload {
        name: "two-nodes",
        title: "Two nodes on one Redis: 50 publications/s on one, {n} subscribers on the other",
        setup: Setup::TwoNodes,
        command: "fanout",
        count_option: "-n",
        connections: [100, 10],
        time: PUBLISHING_TIME,
        rate: Some(50.0),
        bare_loop: false,
        figures: FANOUT_FIGURES,
    },
    Workload {
        name: "recovery",
        title: "{n} clients disconnected at once, which reconnect at once and recover 50 publications each",
        setup: Setup::History,
        command: "recover --missed 50",
        count_option: "-n",
        connections: [10_000, 20],
        time: ["--seconds 1 --away 1", "--seconds 0.2 --away 0.01"],
        rate: None,
        bare_loop: false,
        figures: &[
            less("returning_seconds"),
            less("back_p50_ms"),
            less("server_cpu_us_per_return"),
            less("server_rss_max_kib"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;
    use crate::report_fields::find_label;

    use super::*;

    #[test]
    fn every_measurement_is_a_command_of_this_program_and_its_figures_are_fields() {
        for workload in WORKLOADS {
            for (is_bare_loop, is_quick) in [(false, false), (false, true), (true, false)] {
                if is_bare_loop && !workload.bare_loop {
                    continue;
                }
                let arguments = workload.arguments(is_bare_loop, 10, is_quick);
                let parsed = Cli::try_parse_from(["wardcast-bench".to_owned()].into_iter().chain(arguments));
                assert!(parsed.is_ok(), "{}: {}", workload.name, parsed.err().unwrap());
            }
            for figure in workload.figures {
                assert!(find_label(figure.field).is_some(), "{}", figure.field);
            }
        }
    }
}
