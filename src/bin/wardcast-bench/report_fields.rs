//! Every field that this program can report, stated once: its name in JSON, its place, label and unit in the table, and its
//! meaning in `--help`.

type Text = &'static str;

/// A field of the report.
pub(crate) struct ReportField {
    /// Heading of its section in the table.
    pub(crate) section: Text,
    /// Its name in JSON, which ends with its unit. Percentiles have five names, `NAME_p50_ms` to `NAME_max_ms`.
    pub(crate) name: Text,
    /// Its name in the table.
    pub(crate) label: Text,
    /// Its unit in the table. It also says whether the field is one value, counts by reason, or percentiles.
    pub(crate) unit: Text,
    /// What name and label do not say, for `--help`.
    pub(crate) about: Text,
}

/// The unit of counts by reason.
const BY_REASON: &str = "×";
/// The unit of percentiles.
pub(crate) const MILLISECONDS: &str = "ms";

/// The percentiles: the end of the name, the heading in the table, and the quantile.
pub(crate) const PERCENTILES: [(&str, &str, f64); 5] =
    [("p50", "p50", 0.5), ("p90", "p90", 0.9), ("p99", "p99", 0.99), ("p999", "p99.9", 0.999), ("max", "max", 1.0)];

impl ReportField {
    /// The names of the field in JSON.
    pub(crate) fn json_names(&self) -> impl Iterator<Item = String> {
        let ends = if self.unit == MILLISECONDS { &PERCENTILES[..] } else { &[] };
        let single = ends.is_empty().then(|| self.name.to_owned());
        single.into_iter().chain(ends.iter().map(|(end, ..)| format!("{}_{end}_ms", self.name)))
    }
}

const fn field(section: Text, name: Text, label: Text, unit: Text, about: Text) -> ReportField {
    ReportField { section, name, label, unit, about }
}

const RUN: Text = "Run";
const CONNECTING: Text = "Connecting";
const RECOVERING: Text = "Recovering";
const PUBLISHING: Text = "Publishing";
const DELIVERING: Text = "Delivering";
const TOKEN_END: Text = "End of tokens";
const REFRESH: Text = "Refreshing";
const BESIDE: Text = "Sessions that stay, beside what happens to others";
const EVENTS: Text = "Events for the backend";
const EVERYTHING: Text = "With everything on";
const PROBE: Text = "Probe, beside the load";
const STALLED: Text = "Stalled subscribers";
const SERVER: Text = "Server";
const MACHINE: Text = "Machine";

/// All fields, in the order of the table.
pub(crate) const REPORT_FIELDS: &[ReportField] = &[
    field(RUN, "url", "server", "", "where clients connect to, without the path"),
    field(RUN, "connections", "connections", "", "requested"),
    field(RUN, "channels", "channels", "", "subscribed or published to"),
    field(RUN, "size_bytes", "data of a publication", "bytes", ""),
    field(RUN, "pace", "workload", "", "publications per second, or how many are outstanding"),
    field(RUN, "publishing_connections", "publishing connections", "", ""),
    field(RUN, "publications_per_call", "publications per call", "", "of batch or broadcast"),
    field(RUN, "subscribers", "subscribers", "", "of `publish`, all channels together"),
    field(RUN, "concurrency", "concurrent handshakes", "", ""),
    field(RUN, "others", "sessions that stay", "", "of `recover`, in a channel of their own"),
    field(RUN, "revocations", "revocations", "", "of other tokens, before the run"),
    field(RUN, "seconds", "measured", "s", ""),
    field(CONNECTING, "connected", "connected", "", "connections that became live"),
    field(CONNECTING, "opening_seconds", "opening took", "s", ""),
    field(CONNECTING, "connects_per_second", "connects", "/s", ""),
    field(CONNECTING, "refused_per_second", "refused", "/s", "handshakes with forged tokens"),
    field(CONNECTING, "failures", "failed", BY_REASON, "connections that never became live, by reason"),
    field(CONNECTING, "to_101", "connect to 101", MILLISECONDS, ""),
    field(
        CONNECTING,
        "to_first_push",
        "connect to first push",
        MILLISECONDS,
        "or connect reply: the hub accepted the token",
    ),
    field(CONNECTING, "to_subscribed", "connect to subscribed", MILLISECONDS, ""),
    field(RECOVERING, "returned", "reconnected", "", "disconnected clients that became live again"),
    field(RECOVERING, "returning_seconds", "reconnecting took", "s", "until the last client received what it missed"),
    field(
        RECOVERING,
        "refused_returns",
        "refused for a while",
        BY_REASON,
        "handshakes with 429 or 503, after which the client tried again as SDKs do",
    ),
    field(RECOVERING, "recovered", "recovered", "", "received all they missed, as the hub says"),
    field(RECOVERING, "unrecovered", "not recovered", "", "did not, as the hub says"),
    field(RECOVERING, "missed_publications", "missed publications", "", "accepted while all clients were disconnected"),
    field(RECOVERING, "recovered_publications", "recovered publications", "", "in all subscribe replies"),
    field(RECOVERING, "offset_gaps", "gaps of offsets", "", "times that an offset jumped, recovered or live"),
    field(RECOVERING, "offset_out_of_order", "offsets repeated or late", "", ""),
    field(RECOVERING, "back", "reconnect to recovered", MILLISECONDS, "from the moment when all clients may reconnect"),
    field(PUBLISHING, "publications", "publications accepted", "", ""),
    field(PUBLISHING, "publications_per_second", "publications", "/s", ""),
    field(PUBLISHING, "publications_refused", "publications refused", "", "answered with an error"),
    field(PUBLISHING, "refusals", "refused", BY_REASON, "refused publications by error"),
    field(PUBLISHING, "publications_held_up", "held up by the hub", "", "due while every publishing connection waited"),
    field(PUBLISHING, "publish_answer", "publish to answer", MILLISECONDS, "from when it was due, if held up"),
    field(DELIVERING, "deliveries", "deliveries", "", ""),
    field(DELIVERING, "deliveries_per_second", "deliveries", "/s", ""),
    field(DELIVERING, "deliveries_lost", "lost", "", "accepted publications times subscribers, minus deliveries"),
    field(DELIVERING, "sequence_gaps", "gaps", "", "times that a sequence number jumped"),
    field(DELIVERING, "sequence_missed", "skipped", "", "publications that those jumps skipped"),
    field(DELIVERING, "sequence_out_of_order", "repeated or late", "", ""),
    field(DELIVERING, "received_bytes", "received", "bytes", "in the whole run"),
    field(DELIVERING, "connections_closed", "connections closed", BY_REASON, "live connections that ended, by reason"),
    field(DELIVERING, "delivery", "publish to delivery", MILLISECONDS, "to every subscriber, likewise timed"),
    field(
        TOKEN_END,
        "token_end_late",
        "late deliveries",
        "",
        "of publications sent after the token had ended: a fault",
    ),
    field(TOKEN_END, "token_end_open", "still open", "", "sessions whose tokens have ended"),
    field(TOKEN_END, "token_end_stalled_deliveries", "read by stalled ones", "", "in the end, from the kernel"),
    field(TOKEN_END, "token_end_answer", "answer to the call", "", "of `revoke`"),
    field(TOKEN_END, "token_end_answer_ms", "answered after", "ms.", "of `revoke`"),
    field(
        TOKEN_END,
        "token_end_last_byte",
        "last delivery",
        MILLISECONDS,
        "from expiry, or from the call; 0 if before it",
    ),
    field(TOKEN_END, "token_end_close", "close", MILLISECONDS, "from expiry, or from the call"),
    field(REFRESH, "refreshed", "refreshed", "", "refresh commands that succeeded"),
    field(REFRESH, "refresh_answer", "refresh to answer", MILLISECONDS, "from when it was due"),
    field(BESIDE, "beside_before", "before", MILLISECONDS, "publish to delivery, before it began"),
    field(BESIDE, "beside_during", "during", MILLISECONDS, "likewise, until it ended"),
    field(BESIDE, "beside_closed", "closed", BY_REASON, "of these sessions, by reason"),
    field(EVENTS, "events_backend_down_seconds", "backend down", "s", "one hub is killed after half of it"),
    field(EVENTS, "events_sessions", "sessions", "", "that begun and ended meanwhile, and shortly before and after"),
    field(EVENTS, "events_told", "told", "", "different events that the backend has accepted"),
    field(EVENTS, "events_doubled", "told again", "", "with the same id"),
    field(EVENTS, "events_ended_twice", "ends with a second id", "", ""),
    field(EVENTS, "events_of_lost_node", "ends of the killed hub", "", "told by another one"),
    field(EVENTS, "events_unheard", "sessions never heard of", "", "begun within 1 s before their hub was killed"),
    field(EVENTS, "events_not_told", "ends not told", "", "a fault"),
    field(EVENTS, "events_out_of_order", "out of order", "", "events of a user after one that happened later: a fault"),
    field(EVENTS, "events_waiting", "waiting at the end", "", "in the outbox, when the backend comes back"),
    field(EVENTS, "events_bytes_each", "memory of an event", "bytes", "in the outbox, by MEMORY USAGE of Redis"),
    field(EVENTS, "events_told_after_seconds", "last event after", "s", "from the return of the backend"),
    field(EVENTS, "events_measured", "events measured", "", "for their cost, from the return of the backend on"),
    field(EVENTS, "events_hub_cpu_us", "hub CPU per event", "µs", "to read it from the outbox, send and remove it"),
    field(EVENTS, "events_redis_cpu_us", "Redis CPU per event", "µs", "likewise"),
    field(EVERYTHING, "hook_calls", "calls of the backend", "", "hooks and batches of events"),
    field(EVERYTHING, "scrapes", "readings of /metrics", "", "one per second"),
    field(EVERYTHING, "scrape", "time of one", MILLISECONDS, "from the request to the whole response"),
    field(PROBE, "probe_delivery", "quiet channel", MILLISECONDS, "publish to delivery, to its one subscriber"),
    field(PROBE, "probe_publish", "REST publish", MILLISECONDS, "the answer to the same publications"),
    field(PROBE, "probe_command", "command's reply", MILLISECONDS, "of a ping command, on a session of its own"),
    field(PROBE, "probe_ping", "ping", MILLISECONDS, "of the WebSocket, to its pong"),
    field(PROBE, "probe_handshake", "handshake", MILLISECONDS, "connect, TLS if any, 101, first push"),
    field(
        PROBE,
        "probe_echo",
        "echo without the hub",
        MILLISECONDS,
        "from another thread: what the machine adds to all",
    ),
    field(PROBE, "probe_timer", "the probe's own delay", MILLISECONDS, "how late it began what was due, part of all"),
    field(PROBE, "probe_operations", "timed", BY_REASON, "operations that were measured, by row"),
    field(PROBE, "probe_unanswered", "unanswered", BY_REASON, "of these, timed until the probe gave up, by row"),
    field(PROBE, "probe_failures", "failed", BY_REASON, "operations and connections of the probe, not timed"),
    field(STALLED, "stalled_reset", "received a reset", "", ""),
    field(STALLED, "stalled_reset_last_seconds", "last reset after", "s", ""),
    field(STALLED, "stalled_watched", "watched", "", "whose server side is in this machine's socket table"),
    field(STALLED, "stalled_let_go", "closed by the server", "", "of the watched ones"),
    field(STALLED, "stalled_let_go_first_seconds", "first closed after", "s", ""),
    field(STALLED, "stalled_let_go_last_seconds", "last closed after", "s", ""),
    field(STALLED, "stalled_server_rss_max_kib", "server's largest memory", "KiB", "resident"),
    field(SERVER, "server_cpu_us_per_connect", "CPU per connect", "µs", ""),
    field(SERVER, "server_cpu_us_per_return", "CPU per reconnected client", "µs", "with the deliveries meanwhile"),
    field(SERVER, "server_cpu_us_per_publication", "CPU per publication", "µs", ""),
    field(SERVER, "server_cpu_us_per_delivery", "CPU per delivery", "µs", ""),
    field(SERVER, "server_cpu_user_us_per_delivery", "  of it in user mode", "µs", ""),
    field(SERVER, "server_cpu_system_us_per_delivery", "  of it in the kernel", "µs", ""),
    field(SERVER, "server_cores_busy", "busy cores", "", ""),
    field(SERVER, "server_cores_busy_idle", "busy cores when idle", "", "with idle connections"),
    field(SERVER, "server_cpu_idle_ms_per_second", "CPU when idle", "ms/s", "with idle connections"),
    field(SERVER, "settled_seconds", "memory read after", "s", ""),
    field(SERVER, "server_rss_before_kib", "memory before", "KiB", "resident, without connections"),
    field(SERVER, "server_rss_idle_kib", "memory with connections", "KiB", "resident, with idle connections"),
    field(SERVER, "server_rss_per_connection_kib", "memory per connection", "KiB", ""),
    field(SERVER, "server_rss_after_kib", "memory after", "KiB", "resident, after the forged tokens"),
    field(SERVER, "server_rss_max_kib", "largest memory", "KiB", "resident, while it was measured"),
    field(SERVER, "server_pids", "processes", "", "whose CPU and memory these are"),
    field(MACHINE, "client_cpu_us_per_delivery", "this program's CPU per delivery", "µs", ""),
    field(MACHINE, "client_cores_busy", "cores busy with this program", "", ""),
    field(MACHINE, "others_cores_busy", "cores busy with other programs", "", "all but server and this program"),
    field(MACHINE, "load_average_at_start", "load average at start", "", "of one minute"),
    field(MACHINE, "listen_overflows", "listen queue overflows", "", "of this machine, during the run"),
    field(MACHINE, "cores", "cores", "", ""),
    field(MACHINE, "processor", "processor", "", ""),
    field(MACHINE, "kernel", "kernel", "", ""),
];

/// The label and the unit of a field by its name in JSON, or `None` if there is no such field.
pub(crate) fn find_label(json_name: &str) -> Option<(String, &'static str)> {
    REPORT_FIELDS.iter().find_map(|field| {
        let index = field.json_names().position(|name| name == json_name)?;
        let percentile = (field.unit == MILLISECONDS).then(|| format!(", {}", PERCENTILES[index].1));
        Some((format!("{}{}", field.label, percentile.unwrap_or_default()), field.unit))
    })
}

/// The fields of the JSON object of `compare`.
const COMPARISON_FIELDS: &[(Text, Text)] = &[
    ("schema, run, version", "1, \"compare\", of wardcast-bench"),
    ("interrupted", "whether Ctrl-C ended the comparison early"),
    ("date, rounds, quick", "when it began (UTC), and --rounds and --quick"),
    ("versions", "of wardcast, centrifugo and redis, null if it took no part"),
    ("machine", "cores, processor, kernel and memory_mib"),
    ("others_cores_busy_max", "the most cores that other programs kept busy during one measurement"),
    ("notes", "what makes figures less comparable, such as lost deliveries"),
    ("failures", "measurements that failed, with their errors; the exit code is then 1"),
    ("rows", "one object per figure, with the following fields"),
    ("  measurement, title", "the name for --only, and what it is in words"),
    ("  field, label, unit", "the field of the list above that it is, with its label and unit"),
    ("  more_is_better", "whether a larger number is better"),
    ("  connections", "how many there were"),
    ("  bare_loop, wardcast, centrifugo", "{median, min, max, rounds}, or null if it was not measured"),
];

/// The fields of the JSON object of `chaos`.
const CHAOS_FIELDS: &[(Text, Text)] = &[
    ("schema, run, version", "1, \"chaos\", of wardcast-bench"),
    ("interrupted, date", "whether Ctrl-C ended it early, and when it began (UTC)"),
    ("rate, subscribers, hub_settings", "--rate, -n, and what the hubs were started with beside the defaults"),
    ("rows", "one object per cell, with the following fields"),
    ("  cell, form, component, failure", "the name for --only, and what it is in words"),
    ("  error", "why the cell could not be measured, or null"),
    ("  findings", "what it has shown: an object with the following fields"),
    ("    has_failed", "whether something happened that must not; the exit code is then 1"),
    (
        "    settled_after_seconds",
        "from the end of the failure until all subscribers received new publications, or null",
    ),
    ("    subscribers, disconnected", "how many there were, and how many lost their connection"),
    (
        "    ends, told",
        "counts by reason: ends of connections; ends of subscriptions, and errors to subscribe commands",
    ),
    ("    recovered, new_epochs, too_old", "recoveries that succeeded, and that failed, by reason"),
    ("    publications, refused", "how many there were, and those that were not accepted, by reason"),
    ("    publish_outage_seconds", "the longest time without an accepted publication"),
    ("    silence_seconds", "the longest time in which a subscriber received nothing"),
    ("    offset_faults", "publications at recovering subscribers whose offset was not the next one"),
    (
        "    readiness",
        "answers of {hubs} to /health/ready: {not_ready, no_answer}, each {hubs, after_seconds, longest_seconds} or null",
    ),
    (
        "    recovering, plain",
        "sums over these subscribers: {accepted, lost, missed_and_told, doubled, arrived_though_refused}",
    ),
];

/// The list of fields for `--help`.
pub(crate) fn help() -> String {
    let line = |name: &str, about: String| format!("\n  {name:39} {about}");
    let mut text =
        "--json prints one object with the same fields for all commands; unmeasured ones are null:".to_owned();
    for (name, about) in [
        ("schema", "1"),
        ("run", "the command"),
        ("version", "of wardcast-bench"),
        ("interrupted", "whether Ctrl-C ended the run early"),
        ("notes", "what the run met, and which limit to raise"),
    ] {
        text += &line(name, about.to_owned());
    }
    for ReportField { name, label, unit, about, .. } in REPORT_FIELDS {
        let ends = if *unit == MILLISECONDS { "_{p50,p90,p99,p999,max}_ms" } else { "" };
        let about = [label.trim(), about].join(if about.is_empty() { "" } else { ": " });
        text += &line(&format!("{name}{ends}"), about);
    }
    text += "\n\ncompare --json prints another object:";
    text.extend(COMPARISON_FIELDS.iter().map(|(name, about)| line(name, (*about).to_owned())));
    text += "\n\nchaos --json prints another object:";
    text.extend(CHAOS_FIELDS.iter().map(|(name, about)| line(name, (*about).to_owned())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_name_is_unique_and_in_the_help() {
        let help = help();
        for (index, field) in REPORT_FIELDS.iter().enumerate() {
            assert!(
                REPORT_FIELDS[..index].iter().all(|other| other.name != field.name),
                "{} is there twice",
                field.name
            );
            assert!(help.contains(field.name));
        }
    }

    #[test]
    fn no_two_rows_of_the_table_look_the_same() {
        for (index, field) in REPORT_FIELDS.iter().enumerate() {
            let row = |field: &ReportField| (field.section, field.label, field.unit);
            assert!(REPORT_FIELDS[..index].iter().all(|other| row(other) != row(field)), "{:?}", row(field));
        }
    }
}
