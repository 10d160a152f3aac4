//! `wardcast-bench compare`, run as a process. In place of Centrifugo it is given scripts: one that starts a hub with the same
//! interface, and some that fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::bench::{assert_fails_with, bench, bench_with_ulimit, count, report, run};
use crate::support::{KillOnDrop, poll_until};

const WARDCAST: &str = env!("CARGO_BIN_EXE_wardcast");
/// What a peer does when it is not asked for its version: it becomes a hub with Centrifugo's settings.
const HUB: &str = "export WARDCAST_ENV=development WARDCAST_API__KEY=$CENTRIFUGO_HTTP_API_KEY
export WARDCAST_AUTH__HMAC_SECRET=$CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY
export WARDCAST_SERVER__BIND=$CENTRIFUGO_HTTP_SERVER_ADDRESS:$CENTRIFUGO_HTTP_SERVER_PORT
export WARDCAST_CHANNELS__HISTORY_SIZE=$CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE
export WARDCAST_CHANNELS__HISTORY_TTL=${CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL:-1s}
exec";

/// A program in a folder of its own.
struct Peer {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Peer {
    /// A script that prints `version` when it is asked for it, and otherwise does what `script` says.
    fn new(version: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("centrifugo");
        let text = format!("#!/bin/sh\nif [ \"$1\" = version ]; then echo '{version}'; exit; fi\n{script}\n");
        // Another process writes it: a file that any process has open for writing cannot be executed, and a child that another
        // test starts meanwhile has all files open that are open here.
        let write = "printf '%s' \"$1\" > \"$0\" && chmod 700 \"$0\"";
        let written = Command::new("sh").args(["-c", write]).arg(&path).arg(text).status().unwrap();
        assert!(written.success());
        Self { _folder: folder, path }
    }

    fn compare(&self, arguments: &str) -> Command {
        let mut command = bench(&format!("compare --quick {arguments}"));
        command.arg("--centrifugo").arg(&self.path);
        command
    }
}

fn hub_as_peer() -> Peer {
    Peer::new("Centrifugo v6.0.0 (a hub)", &format!("{HUB} {WARDCAST}"))
}

/// The rows of a comparison.
fn rows(report: &Value) -> &[Value] {
    report["rows"].as_array().unwrap()
}

/// Asserts that a server has this many rounds in a row, whose median is within their range.
fn assert_measured(row: &Value, server: &str, rounds: usize) {
    let [median, min, max] = ["median", "min", "max"].map(|name| row[server][name].as_f64().unwrap());
    assert!(0.0 <= min && min <= median && median <= max, "{server}: {row}");
    assert_eq!(row[server]["rounds"].as_array().unwrap().len(), rounds, "{server}: {row}");
}

#[actix_rt::test]
async fn comparison_without_peer_has_every_row_of_bare_loop_and_wardcast() {
    let report = report(bench("compare --quick --rounds 1")).await;
    assert_eq!((&report["failures"], count(&report, "rounds")), (&serde_json::json!([]), 1), "{report}");
    assert!(report["versions"]["wardcast"].is_string() && report["versions"]["centrifugo"].is_null(), "{report}");
    assert!(report["date"].as_str().is_some_and(|date| date.ends_with('Z')), "{report}");
    for row in rows(&report) {
        assert_measured(row, "wardcast", 1);
        assert!(row["centrifugo"].is_null() && row["unit"].is_string(), "{row}");
        let name = row["measurement"].as_str().unwrap();
        let has_bare_loop = name.starts_with("fanout");
        assert_eq!(!row["bare_loop"].is_null(), has_bare_loop, "{row}");
    }
    let fields = |measurement: &str| {
        let rows = rows(&report).iter().filter(|row| row["measurement"] == measurement);
        rows.map(|row| row["field"].as_str().unwrap()).collect::<Vec<_>>()
    };
    let fanout = ["delivery_p50_ms", "delivery_p99_ms", "delivery_max_ms", "server_cpu_us_per_delivery"];
    ["fanout-10", "fanout-30", "fanout-60", "two-nodes"].iter().for_each(|name| assert_eq!(fields(name), fanout));
    assert!(fields("fanout-closed-loop").contains(&"deliveries_per_second"));
    assert!(fields("publish").contains(&"publications_per_second"));
    assert!(fields("connect").contains(&"connects_per_second"));
    assert!(fields("idle").contains(&"server_rss_per_connection_kib"));
    assert!(fields("idle").contains(&"server_cpu_idle_ms_per_second"));
    assert!(fields("channels").contains(&"server_rss_per_connection_kib"));
    assert!(fields("recovery").contains(&"returning_seconds"));
}

#[actix_rt::test]
async fn peer_is_measured_by_the_same_commands_in_every_round() {
    let peer = hub_as_peer();
    let report = report(peer.compare("--rounds 2 --only fanout-30 connect recovery")).await;
    assert_eq!(report["versions"]["centrifugo"], "6.0.0");
    assert_eq!(report["failures"], serde_json::json!([]), "{report}");
    assert_eq!(rows(&report).len(), 4 + 3 + 4, "only what was selected: {report}");
    for row in rows(&report) {
        assert_measured(row, "wardcast", 2);
        assert_measured(row, "centrifugo", 2);
    }
}

#[actix_rt::test]
async fn markdown_has_a_table_of_all_servers_and_the_settings() {
    let peer = hub_as_peer();
    let output = run(peer.compare("--rounds 1 --only fanout-10 --markdown")).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for part in [
        "Centrifugo 6.0.0",
        "| | bare loop | Wardcast | Centrifugo | better |",
        "| **Fan-out to 20 subscribers, 10 publications/s** (`fanout-10`) |",
        "| `channels.presence=false` | `CHANNEL_WITHOUT_NAMESPACE_PRESENCE=false` |",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let cells = |line: &str| line.matches('|').count();
    let row = text.lines().find(|line| line.starts_with("| CPU per delivery, µs |")).unwrap();
    assert_eq!(cells(row), cells("| | bare loop | Wardcast | Centrifugo | better |"), "{text}");
}

#[actix_rt::test]
async fn wrong_peer_is_refused_before_anything_is_measured() {
    let compare = |path: &str| bench(&format!("compare --quick --centrifugo {path}"));
    tokio::join!(
        assert_fails_with(compare("/no/such/program"), &["--centrifugo /no/such/program", "No such file"]),
        assert_fails_with(compare("/bin/echo"), &["--centrifugo /bin/echo", "is not Centrifugo"]),
        assert_fails_with(compare("/"), &["--centrifugo /", "Permission denied"]),
    );
}

#[actix_rt::test]
async fn peer_that_ends_or_never_answers_ends_the_comparison_with_its_output() {
    let only = "--rounds 1 --only connect";
    let ended = Peer::new("Centrifugo v6.0.0", "echo 'the configuration is wrong'; exit 1");
    let silent = Peer::new("Centrifugo v6.0.0", "echo 'here I am'; exec sleep 600");
    let refusing = Peer::new("Centrifugo v6.0.0", &format!("unset CENTRIFUGO_HTTP_API_KEY\n{HUB} {WARDCAST}"));
    // Two of them wait for the time that a server has to start.
    tokio::join!(
        assert_fails_with(ended.compare(only), &["Centrifugo ended", "the configuration is wrong"]),
        assert_fails_with(silent.compare(only), &["Centrifugo did not answer within 10 s", "here I am"]),
        assert_fails_with(refusing.compare(only), &["Centrifugo was not ready after 10 s", "401"]),
    );
}

#[actix_rt::test]
async fn failed_measurement_is_reported_beside_the_others_with_exit_code_1() {
    // Its clients may not subscribe.
    let without_subscribing = format!("{HUB} {WARDCAST} --set channels.allow_subscribe=none");
    let peer = Peer::new("Centrifugo v6.0.0", &without_subscribing);
    let mut command = peer.compare("--rounds 1 --only connect fanout-30 --json");
    let output = actix_rt::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report["notes"].to_string().contains("Centrifugo, connect, round 1: 20 connections failed"), "{report}");
    let failures = report["failures"].to_string();
    assert!(failures.contains("Centrifugo, fanout-30, round 1: ") && failures.contains("103"), "{report}");
    let fanout = rows(&report).iter().find(|row| row["measurement"] == "fanout-30").unwrap();
    assert_measured(fanout, "wardcast", 1);
    assert!(fanout["centrifugo"].is_null(), "{report}");
}

#[actix_rt::test]
async fn low_file_limit_lowers_the_connections_of_every_server_and_is_noted() {
    let report = report(bench_with_ulimit("-n 310", "compare --quick --rounds 1 --only idle fanout-10")).await;
    assert!(rows(&report).iter().all(|row| count(row, "connections") == 10), "{report}");
    assert!(report["notes"].to_string().contains("10 instead of 20 connections on every server"), "{report}");
    assert!(report["notes"].to_string().contains("`ulimit -Hn` is 310"), "{report}");
}

#[actix_rt::test]
async fn interrupt_ends_the_comparison_and_every_server_that_it_started() {
    let peer = hub_as_peer();
    let mut command = peer.compare("--rounds 99 --only two-nodes --json");
    let mut comparison = KillOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
    let id = comparison.0.id();
    let children = move || {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // Redis and two nodes.
    poll_until("three servers", async || children().len() == 3).await;
    let servers = children();
    let interrupt = Command::new("kill").args(["-2", &id.to_string()]).status().unwrap();
    assert!(interrupt.success());
    let status = actix_rt::task::spawn_blocking(move || (comparison.0.wait().unwrap(), comparison)).await.unwrap().0;
    assert_eq!(status.code(), Some(130));
    assert!(servers.iter().all(|server| !Path::new("/proc").join(server).exists()), "{servers:?}");
}
