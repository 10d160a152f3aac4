//! Every figure this program can report, once: its name in JSON, its place and label in the table, its unit, what it means.

use std::fmt::Write as _;

/// Where a figure stands in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportSection {
    /// What was asked for.
    Run,
    /// Connecting.
    Connecting,
    /// Coming back.
    Reconnecting,
    /// Publications and their answers.
    Publishing,
    /// Deliveries.
    Delivering,
    /// Subscribers that do not read.
    Stalled,
    /// What it cost the server.
    Server,
    /// This program and the machine.
    Machine,
}

impl ReportSection {
    /// The heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Run => "Run",
            Self::Connecting => "Connecting",
            Self::Reconnecting => "Coming back",
            Self::Publishing => "Publishing",
            Self::Delivering => "Delivering",
            Self::Stalled => "Stalled subscribers",
            Self::Server => "Server",
            Self::Machine => "Machine",
        }
    }
}

/// What a figure looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldKind {
    /// One value.
    Value,
    /// Counts by reason.
    Counts,
    /// Five values, `NAME_p50_ms` to `NAME_max_ms`.
    Percentiles,
}

/// A figure.
#[derive(Debug)]
pub(crate) struct ReportField {
    /// Its name in JSON; the unit is its last word.
    pub(crate) name: &'static str,
    /// Where it stands.
    pub(crate) section: ReportSection,
    /// What it looks like.
    pub(crate) kind: FieldKind,
    /// Its name in the table.
    pub(crate) label: &'static str,
    /// Its unit in the table.
    pub(crate) unit: &'static str,
    /// What it means, for `--help`.
    pub(crate) about: &'static str,
}

/// The percentiles of every time: what ends the name, the heading in the table, and the share that was at most so slow.
pub(crate) const PERCENTILES: [(&str, &str, f64); 5] =
    [("p50", "p50", 0.5), ("p90", "p90", 0.9), ("p99", "p99", 0.99), ("p999", "p99.9", 0.999), ("max", "max", 1.0)];

const fn value(
    section: ReportSection,
    name: &'static str,
    label: &'static str,
    unit: &'static str,
    about: &'static str,
) -> ReportField {
    ReportField { name, section, kind: FieldKind::Value, label, unit, about }
}

const fn reasons(section: ReportSection, name: &'static str, label: &'static str, about: &'static str) -> ReportField {
    ReportField { name, section, kind: FieldKind::Counts, label, unit: "", about }
}

const fn times(section: ReportSection, name: &'static str, label: &'static str, about: &'static str) -> ReportField {
    ReportField { name, section, kind: FieldKind::Percentiles, label, unit: "ms", about }
}

use ReportSection::{Connecting, Delivering, Machine, Publishing, Reconnecting, Run, Server, Stalled};

/// All of them, in the order of the table.
pub(crate) const REPORT_FIELDS: &[ReportField] = &[
    value(Run, "connections", "connections", "", "asked for"),
    value(Run, "channels", "channels", "", "subscribed or published to"),
    value(Run, "size_bytes", "data of a publication", "bytes", ""),
    value(Run, "pace", "pace", "", "publications a second, or how many are under way"),
    value(Run, "publishing_connections", "publishing connections", "", ""),
    value(Run, "publications_per_call", "publications in a call", "", "of batch or broadcast"),
    value(Run, "subscribers", "subscribers", "", "of `publish`, all channels together"),
    value(Run, "concurrency", "handshakes in flight", "", ""),
    value(Run, "seconds", "measured", "s", ""),
    value(Connecting, "connected", "connected", "", "connections that came to stand"),
    value(Connecting, "opening_seconds", "opening took", "s", ""),
    value(Connecting, "connects_per_second", "connects", "/s", ""),
    reasons(Connecting, "failures", "failed", "connections that never stood, by reason"),
    times(Connecting, "to_101", "connect to 101", ""),
    times(Connecting, "to_first_push", "connect to first push", "the greeting, which proves the token"),
    times(Connecting, "to_subscribed", "connect to subscribed", ""),
    value(Reconnecting, "returned", "back", "", "clients that were cut and came to stand again"),
    value(Reconnecting, "returning_seconds", "all back after", "s", "from the call until the last had what it missed"),
    value(Reconnecting, "recovered", "recovered", "", "of those, told that they have got all that they missed"),
    value(Reconnecting, "unrecovered", "not recovered", "", "told that they have not"),
    value(Reconnecting, "missed_publications", "published meanwhile", "", "while nobody was there"),
    value(Reconnecting, "recovered_publications", "publications recovered", "", "of all clients, with their replies"),
    value(Reconnecting, "offset_gaps", "gaps of offsets", "", "times an offset jumped, recovered or live"),
    value(Reconnecting, "offset_out_of_order", "offsets twice or out of order", "", ""),
    times(Reconnecting, "back", "call to recovered", "what was missed is there; all are called at the same time"),
    value(Publishing, "publications", "publications taken", "", ""),
    value(Publishing, "publications_per_second", "publications", "/s", ""),
    value(Publishing, "publications_refused", "publications refused", "", "answered with an error"),
    reasons(Publishing, "refusals", "refused", "publications by the error they met"),
    value(Publishing, "publications_held_up", "held up by the hub", "", "were due and waited for a free connection"),
    times(Publishing, "publish_answer", "publish to answer", "with a rate, from when it was due if the hub held it up"),
    value(Delivering, "deliveries", "deliveries", "", ""),
    value(Delivering, "deliveries_per_second", "deliveries", "/s", ""),
    value(Delivering, "deliveries_lost", "lost", "", "publications taken times subscribers, less deliveries"),
    value(Delivering, "sequence_gaps", "gaps", "", "times a sequence number jumped"),
    value(Delivering, "sequence_missed", "skipped", "", "publications skipped by those jumps"),
    value(Delivering, "sequence_out_of_order", "twice or out of order", "", ""),
    value(Delivering, "received_bytes", "received", "bytes", "over the whole run"),
    reasons(Delivering, "connections_closed", "connections closed", "connections that stood and ended, by reason"),
    times(Delivering, "delivery", "publish to delivery", "the same, for every subscriber"),
    value(Stalled, "stalled_reset", "told of their end", "", "got a reset"),
    value(Stalled, "stalled_reset_last_seconds", "last told after", "s", ""),
    value(Stalled, "stalled_watched", "watched", "", "whose server side is in this machine's socket table"),
    value(Stalled, "stalled_let_go", "let go", "", "of those, closed by the server"),
    value(Stalled, "stalled_let_go_first_seconds", "first let go after", "s", ""),
    value(Stalled, "stalled_let_go_last_seconds", "last let go after", "s", ""),
    value(Stalled, "stalled_server_rss_max_kib", "server's memory, at most", "KiB", ""),
    value(Server, "server_cpu_us_per_connect", "CPU per connect", "µs", ""),
    value(
        Server,
        "server_cpu_us_per_return",
        "CPU per client that came back",
        "µs",
        "live deliveries meanwhile included",
    ),
    value(Server, "server_cpu_us_per_publication", "CPU per publication", "µs", ""),
    value(Server, "server_cpu_us_per_delivery", "CPU per delivery", "µs", ""),
    value(Server, "server_cpu_user_us_per_delivery", "  of it in user mode", "µs", ""),
    value(Server, "server_cpu_system_us_per_delivery", "  of it in the kernel", "µs", ""),
    value(Server, "server_cores_busy", "cores busy", "", ""),
    value(Server, "server_cores_busy_idle", "cores busy, idle", "", "while nothing happens"),
    value(Server, "settled_seconds", "memory read after", "s", ""),
    value(Server, "server_rss_before_kib", "memory before", "KiB", "resident"),
    value(Server, "server_rss_idle_kib", "memory with connections", "KiB", "resident"),
    value(Server, "server_rss_per_connection_kib", "memory per connection", "KiB", ""),
    value(Server, "server_rss_max_kib", "memory at most", "KiB", "while it was measured"),
    value(Server, "server_pids", "processes", "", "whose CPU and memory these are"),
    value(Machine, "client_cpu_us_per_delivery", "this program's CPU per delivery", "µs", ""),
    value(Machine, "client_cores_busy", "cores busy with this program", "", ""),
    value(Machine, "others_cores_busy", "cores busy with others", "", "all but server and this program"),
    value(Machine, "load_average_at_start", "load average at start", "", "of one minute"),
    value(Machine, "listen_overflows", "listen queue overflows", "", "of this machine, during the run"),
    value(Machine, "cores", "cores", "", ""),
    value(Machine, "processor", "processor", "", ""),
    value(Machine, "kernel", "kernel", "", ""),
];

/// The list for `--help`.
pub(crate) fn help() -> String {
    let mut text =
        String::from("The object of --json is one for all commands; what a command does not measure is null:\n");
    for (name, about) in [
        ("schema", "1"),
        ("run", "the command"),
        ("version", "of wardcast-bench"),
        ("interrupted", "Ctrl-C ended it early"),
        ("notes", "what was met, and which limit to raise"),
    ] {
        _ = writeln!(text, "  {name:39} {about}");
    }
    for field in REPORT_FIELDS {
        let name = match field.kind {
            FieldKind::Percentiles => format!("{}_{{p50,p90,p99,p999,max}}_ms", field.name),
            FieldKind::Value | FieldKind::Counts => field.name.to_owned(),
        };
        let about = [field.label.trim(), field.about].join(if field.about.is_empty() { "" } else { ": " });
        _ = writeln!(text, "  {name:39} {about}");
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_name_is_unique_and_in_the_help() {
        let help = help();
        for (number, field) in REPORT_FIELDS.iter().enumerate() {
            assert!(
                REPORT_FIELDS[..number].iter().all(|other| other.name != field.name),
                "{} is there twice",
                field.name
            );
            assert!(help.contains(field.name));
        }
    }
}
