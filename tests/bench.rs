//! The load generator, run as a process: it counts correctly, and names the limits that it meets. The tests assert counts, but
//! no times.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use wardcast::config::AllowSubscribe;

use crate::support::{
    API_KEY, KillOnDrop, SECRET, TestHub, metric, poll_until, start_hub, start_hub_with, tls::Certificate,
};

pub fn bench(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardcast-bench"));
    command.args(arguments.split_whitespace()).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.stdin(Stdio::null());
    command
}

/// The same for this hub, with its secrets.
pub fn bench_at(hub: &TestHub, arguments: &str) -> Command {
    let mut command = bench(arguments);
    command.args(["--url", &format!("ws://{}/connection/websocket", hub.address)]);
    command.env("WARDCAST_BENCH_SECRET", SECRET).env("WARDCAST_BENCH_API_KEY", API_KEY);
    command
}

pub async fn run(mut command: Command) -> Output {
    actix_rt::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The JSON object that a run reports.
pub async fn report(mut command: Command) -> Value {
    command.arg("--json");
    let output = run(command).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that a run fails with an error message that has all of these `parts` and no secret.
pub async fn assert_fails_with(command: Command, parts: &[&str]) {
    let output = run(command).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{stderr}");
    parts.iter().for_each(|part| assert!(stderr.contains(part), "no {part:?} in {stderr}"));
    assert!([SECRET, API_KEY, "panicked"].iter().all(|never| !stderr.contains(never)), "{stderr}");
}

/// The notes that a run reports.
async fn notes_of(command: Command) -> String {
    report(command).await["notes"].to_string()
}

pub fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"))
}

fn assert_percentiles_ordered(report: &Value, name: &str) {
    let times = ["p50", "p90", "p99", "p999", "max"].map(|end| report[format!("{name}_{end}_ms")].as_f64().unwrap());
    assert!(times.is_sorted() && times[0] > 0.0, "{name}: {times:?}");
}

#[actix_rt::test]
async fn fanout_delivers_every_publication_to_every_subscriber_and_ends_the_hub_it_started() {
    let report = report(bench("fanout -n 20 --rate 50 --seconds 0.5 --warmup 0.1")).await;
    assert!(count(&report, "publications") > 0);
    assert_eq!(count(&report, "deliveries"), 20 * count(&report, "publications"));
    let faults = ["deliveries_lost", "sequence_gaps", "sequence_out_of_order", "publications_refused"];
    assert_eq!(faults.map(|name| count(&report, name)), [0; 4], "{report}");
    assert!(report["server_cpu_us_per_delivery"].as_f64().unwrap() > 0.0);
    ["delivery", "publish_answer"].iter().for_each(|name| assert_percentiles_ordered(&report, name));
    let hub = report["server_pids"].as_str().unwrap();
    assert!(!Path::new("/proc").join(hub).exists(), "the hub {hub} still runs");
}

#[actix_rt::test]
async fn subscribers_over_event_streams_receive_every_publication_too() {
    let report = report(bench("fanout -n 20 --rate 50 --seconds 0.5 --warmup 0.1 --sse")).await;
    assert!(count(&report, "publications") > 0);
    assert_eq!(count(&report, "deliveries"), 20 * count(&report, "publications"));
    assert_eq!(["deliveries_lost", "sequence_gaps"].map(|name| count(&report, name)), [0; 2], "{report}");
}

/// The rows of the probe that a hub answers.
const PROBED: [&str; 5] = ["delivery", "publish", "command", "ping", "handshake"];

#[actix_rt::test]
async fn probe_times_each_operation_beside_the_load_and_is_not_counted_with_it() {
    let run = "fanout -n 20 --rate 50 --seconds 1 --warmup 0.1 --probe";
    let report = report(bench(run)).await;
    assert_eq!(count(&report, "deliveries"), 20 * count(&report, "publications"), "{report}");
    PROBED
        .iter()
        .chain(&["echo", "timer"])
        .for_each(|name| assert_percentiles_ordered(&report, &format!("probe_{name}")));
    let timed = |name: &str| report["probe_operations"][name].as_u64().unwrap();
    assert!(timed("publish") >= 25 && timed("delivery") == timed("publish"), "one subscriber: {report}");
    let begun: u64 = ["publish", "command", "ping", "handshake", "echo"].into_iter().map(timed).sum();
    assert_eq!(timed("timer"), begun, "{report}");
    assert_eq!([&report["probe_unanswered"], &report["probe_failures"]], [&serde_json::json!({}); 2], "{report}");
}

#[actix_rt::test]
async fn probe_of_limit_times_the_machine_alone() {
    let report = report(bench("limit -n 10 --rate 50 --seconds 0.5 --warmup 0.1 --probe")).await;
    assert_eq!(count(&report, "deliveries"), 10 * count(&report, "publications"), "{report}");
    ["echo", "timer"].iter().for_each(|name| assert_percentiles_ordered(&report, &format!("probe_{name}")));
    assert_eq!(report["probe_operations"]["echo"], report["probe_operations"]["timer"], "{report}");
    assert!(PROBED.iter().all(|name| report[format!("probe_{name}_max_ms")].is_null()), "{report}");
}

#[actix_rt::test]
async fn hub_that_stalls_shows_in_every_row_that_it_answers() {
    const STALL: Duration = Duration::from_millis(400);
    // An operation may become due a period after the stall began, and the longest period is 50 ms.
    const AT_LEAST: Duration = Duration::from_millis(300);
    let hub = HubProcess::start("");
    let mut fanout = bench("fanout -n 10 --rate 100 --seconds 3 --warmup 0.1 --probe");
    fanout.args(["--url", &format!("ws://{}/connection/websocket", hub.address)]);
    fanout.env("WARDCAST_BENCH_SECRET", SECRET).env("WARDCAST_BENCH_API_KEY", API_KEY);
    let stall = async {
        // More than in the warm-up, so that the measured time has begun.
        poll_until("publications", async || metric(hub.address, "wardcast_publications_total").await > 40.0).await;
        hub.signal("-STOP");
        tokio::time::sleep(STALL).await;
        hub.signal("-CONT");
    };
    let (report, ()) = tokio::join!(report(fanout), stall);
    for name in PROBED.map(|name| format!("probe_{name}")).into_iter().chain(["delivery".to_owned()]) {
        let max = report[format!("{name}_max_ms")].as_f64().unwrap();
        assert!(max >= AT_LEAST.as_millis() as f64, "{name}: {report}");
    }
    // What was due during the stall is late, but not left out: none of a rate of 30/s and none of 50/s.
    let timed = |name: &str| report["probe_operations"][name].as_u64().unwrap();
    assert!(timed("delivery") >= 88 && timed("command") >= 147 && timed("ping") >= 147, "{report}");
    assert_eq!([&report["probe_unanswered"], &report["probe_failures"]], [&serde_json::json!({}); 2], "{report}");
}

#[actix_rt::test]
async fn probe_reports_its_sessions_that_ended_and_goes_on_with_new_ones() {
    const CLOSED: &str = "close 3503 force disconnect";
    let hub = start_hub().await;
    let fanout = bench_at(&hub, "fanout -n 40 --rate 50 --seconds 2 --warmup 0.1 --probe");
    let disconnect = async {
        poll_until("publications", async || hub.metric("wardcast_publications_total").await > 40.0).await;
        // The probe connects as some of them, and eight subscribers of the load stay.
        for user in 0..32 {
            hub.call_api("disconnect", serde_json::json!({"user": format!("bench-{user}")})).await;
        }
    };
    let (report, ()) = tokio::join!(report(fanout), disconnect);
    assert_eq!(report["connections_closed"][CLOSED], 32, "{report}");
    // The quiet subscriber, the session of commands and that of pings. A handshake may have met it, too.
    assert!(report["probe_failures"][CLOSED].as_u64().unwrap() >= 3, "{report}");
    let timed = |name: &str| report["probe_operations"][name].as_u64().unwrap();
    assert!(timed("command") >= 95 && timed("ping") >= 95 && timed("delivery") >= 55, "{report}");
    let unanswered = report["probe_unanswered"].as_object().unwrap();
    assert!(unanswered.values().map(|count| count.as_u64().unwrap()).sum::<u64>() < 50, "{report}");
}

#[actix_rt::test]
async fn server_closes_stalled_subscriber_and_delivers_to_the_others() {
    let run = "fanout -n 5 --size 8000 --rate 200 --seconds 1.5 --warmup 0.1 --stalled 1";
    let report =
        report(bench(&format!("{run} --hub-set limits.outbox_bytes=131072 --hub-set api.publication_bytes=65536")))
            .await;
    assert_eq!(count(&report, "deliveries"), 5 * count(&report, "publications"), "{report}");
    let closed = ["stalled_reset", "stalled_watched", "stalled_let_go"];
    assert_eq!(closed.map(|name| count(&report, name)), [1; 3], "{report}");
}

#[actix_rt::test]
async fn clients_and_publishers_use_tls_when_the_url_says_so() {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| certificate.configure(config)).await;
    let ca = certificate.cert_path();
    let trusts = [vec!["--insecure"], vec!["--ca", ca.to_str().unwrap()], vec![]];
    for (trust, command) in trusts.iter().zip(["fanout -n 5 --closed-loop 2 --size 3000", "publish -n 2", "publish"]) {
        let mut run = bench(&format!("{command} --seconds 0.3 --warmup 0.1"));
        run.args(["--url", &format!("wss://localhost:{}/connection/websocket", hub.address.port())]).args(trust);
        run.env("WARDCAST_BENCH_SECRET", SECRET).env("WARDCAST_BENCH_API_KEY", API_KEY);
        if trust.is_empty() {
            assert_fails_with(run, &["--insecure"]).await;
        } else {
            let report = report(run).await;
            assert!(count(&report, "publications") > 0, "{report}");
            assert_eq!(report["deliveries_lost"].as_u64().unwrap_or(0), 0, "{report}");
        }
    }
}

#[actix_rt::test]
async fn every_command_measures_its_own_hub_over_tls() {
    const SHORT: &str = "--seconds 0.5 --warmup 0.1";
    let certificate = Certificate::new();
    let (cert, key) = (certificate.cert_path(), certificate.key_path());
    let files = format!("--hub-set server.tls.cert={} --hub-set server.tls.key={}", cert.display(), key.display());
    for (command, name, expected) in [
        (format!("fanout -n 5 --rate 50 {SHORT} --tls --probe"), "deliveries_lost", 0),
        (format!("fanout -n 5 --rate 50 {SHORT} {files}"), "deliveries_lost", 0),
        (format!("publish -n 2 {SHORT} --over socket --subscribers 2 --tls"), "deliveries_lost", 0),
        ("connect -n 20 --tls".to_owned(), "connected", 20),
        ("idle -n 20 --settle 0.1 --tls".to_owned(), "connected", 20),
        ("recover -n 10 --missed 5 --rate 50 --seconds 0.2 --away 0.01 --tls".to_owned(), "recovered", 10),
    ] {
        let report = report(bench(&command)).await;
        assert_eq!(count(&report, name), expected, "{command}: {report}");
        assert_eq!(report["url"].as_str().and_then(|url| url.split_once(':')).map(|(scheme, _)| scheme), Some("wss"));
        assert_eq!(report["failures"].as_object().map_or(0, serde_json::Map::len), 0, "{command}: {report}");
        if command.contains("--probe") {
            PROBED.iter().for_each(|name| assert_percentiles_ordered(&report, &format!("probe_{name}")));
            assert_eq!(report["probe_failures"], serde_json::json!({}), "{report}");
        }
    }
    let not_its_own = bench("connect -n 2 --tls --token t");
    assert_fails_with(not_its_own, &["--tls"]).await;
}

#[actix_rt::test]
async fn certificate_made_for_a_run_is_removed_as_soon_as_the_hub_has_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bench("idle -n 3 --settle 600 --tls");
    command.env("TMPDIR", folder.path()).stdout(Stdio::null());
    let run = KillOnDrop(command.spawn().unwrap());
    let files = || fs::read_dir(folder.path()).unwrap().count();
    poll_until("the certificate", async || files() == 1).await;
    poll_until("its end", async || files() == 0).await;
    assert!(Path::new(&format!("/proc/{}", run.0.id())).exists());
}

#[actix_rt::test]
async fn closed_loop_and_limit_lose_no_deliveries() {
    for command in [
        "fanout -n 10 --closed-loop 4",
        "limit -n 10 --rate 50",
        "limit -n 10 --closed-loop 4",
        "limit -n 10 --closed-loop 4 --size 3000 --tls",
    ] {
        let report = report(bench(&format!("{command} --seconds 0.3 --warmup 0.1"))).await;
        assert!(count(&report, "publications") > 0, "{command}");
        assert_eq!(count(&report, "deliveries"), 10 * count(&report, "publications"), "{command}");
    }
}

#[actix_rt::test]
async fn reconnecting_clients_recover_every_publication_once_and_in_order() {
    let run = "recover -n 40 --missed 20 --rate 200 --seconds 0.3 --away 0.01";
    for more in ["--threads 2", "--returning 3 --size 3000"] {
        let report = report(bench(&format!("{run} {more}"))).await;
        assert_eq!([count(&report, "returned"), count(&report, "recovered")], [40; 2], "{more}: {report}");
        assert_eq!(count(&report, "missed_publications"), 20, "{more}: {report}");
        assert!(count(&report, "recovered_publications") >= 20 * 40, "{more}: {report}");
        let faults = ["unrecovered", "deliveries_lost", "offset_gaps", "offset_out_of_order", "sequence_gaps"];
        assert_eq!(faults.map(|name| count(&report, name)), [0; 5], "{more}: {report}");
        assert_eq!(count(&report, "sequence_out_of_order"), 0, "{more}: {report}");
        ["back", "to_101", "to_subscribed"].iter().for_each(|name| assert_percentiles_ordered(&report, name));
    }
}

#[actix_rt::test]
async fn failed_recoveries_are_counted_and_a_note_names_the_limit() {
    let run = "recover -n 3 --missed 20 --rate 50 --seconds 0.2 --away 0.01";
    let report = report(bench(&format!("{run} --hub-set limits.recovered_publications=10"))).await;
    assert_eq!((count(&report, "recovered"), count(&report, "unrecovered")), (0, 3), "{report}");
    assert!(report["notes"].to_string().contains("limits.recovered_publications"), "{report}");
    assert!(count(&report, "sequence_missed") + count(&report, "deliveries_lost") >= 60, "{report}");
    assert_fails_with(bench(&format!("{run} --hub-set channels.history_size=0")), &["channels.history_size"]).await;
}

#[actix_rt::test]
async fn every_publish_method_reaches_every_subscriber() {
    for options in
        ["", "--batch 7 --channels 2", "--broadcast --channels 3", "--over socket --channels 2", "--rate 100"]
    {
        let arguments = format!("publish -n 2 --subscribers 2 --seconds 0.3 --warmup 0.1 {options}");
        let report = report(bench(&arguments)).await;
        let publications = count(&report, "publications");
        assert!(publications > 0 && publications.is_multiple_of(count(&report, "publications_per_call")), "{report}");
        assert_eq!(count(&report, "deliveries"), 2 * publications, "{options}: {report}");
        assert_eq!(
            count(&report, "deliveries_lost") + count(&report, "publications_refused"),
            0,
            "{options}: {report}"
        );
        assert_percentiles_ordered(&report, "publish_answer");
    }
}

#[actix_rt::test]
async fn connect_and_idle_count_connections_and_find_the_hub_process_by_its_port() {
    let hub = start_hub().await;
    let connect = report(bench_at(&hub, "connect -n 30")).await;
    assert_eq!((count(&connect, "connected"), &connect["failures"]), (30, &serde_json::json!({})));
    assert_percentiles_ordered(&connect, "to_first_push");
    let idle = report(bench_at(&hub, "idle -n 30 --channels 3 --settle 0.1 --source-addresses 3")).await;
    assert_eq!((count(&idle, "connected"), idle["interrupted"].as_bool()), (30, Some(false)));
    let me = std::process::id().to_string();
    assert_eq!([&connect, &idle].map(|report| report["server_pids"].as_str()), [Some(me.as_str()); 2]);
    assert_eq!(connect.as_object().unwrap().len(), idle.as_object().unwrap().len(), "one schema for all commands");
}

#[actix_rt::test]
async fn notes_name_the_limit_that_refused_a_handshake() {
    let few = start_hub_with(|config| config.limits.connections = 5).await;
    assert!(notes_of(bench_at(&few, "connect -n 9")).await.contains("raise limits.connections "));
    let slow = start_hub_with(|config| config.limits.handshakes_per_second = 1).await;
    assert!(notes_of(bench_at(&slow, "connect -n 9")).await.contains("limits.handshakes_per_second"));
    let address = start_hub_with(|config| config.limits.connections_per_address = 5).await;
    assert!(notes_of(bench_at(&address, "connect -n 9")).await.contains("limits.connections_per_address"));
    let user = start_hub_with(|config| config.limits.connections_per_user = 5).await;
    let mut one_user = bench("connect -n 9");
    one_user.args(["--token", &user.token("ann"), "--url", &format!("ws://{}/socket", user.address)]);
    assert!(notes_of(one_user).await.contains("limits.connections_per_user"));
}

#[actix_rt::test]
async fn errors_name_the_limit_or_option_that_refused_publish_or_subscribe() {
    const SHORT: &str = "-n 2 --seconds 0.3 --warmup 0.1";
    let small = start_hub_with(|config| config.api.publication_bytes = 64).await;
    assert_fails_with(bench_at(&small, &format!("publish {SHORT}")), &["106", "api.publication_bytes"]).await;
    let bodies = start_hub_with(|config| config.api.body_bytes = 4096).await;
    assert_fails_with(bench_at(&bodies, &format!("publish {SHORT} --batch 100")), &["413", "api.body_bytes"]).await;
    let closed = start_hub_with(|config| config.channels.allow_subscribe = AllowSubscribe::None).await;
    assert_fails_with(bench_at(&closed, &format!("fanout {SHORT}")), &["103", "channels.allow_subscribe=user"]).await;
    let paced = start_hub_with(|config| config.limits.publications_per_second = 5).await;
    // Whether the run fails or reports refusals depends on when the limit is reached.
    let output = run(bench_at(&paced, &format!("publish {SHORT} --over socket"))).await;
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("limits.publications_per_second"), "{text}");
}

#[actix_rt::test]
async fn missing_or_wrong_secrets_are_reported_with_their_variables() {
    let hub = start_hub().await;
    let both = ["WARDCAST_BENCH_SECRET", "WARDCAST_BENCH_API_KEY", "WARDCAST_AUTH__HMAC_SECRET"];
    assert_fails_with(bench(&format!("fanout --url ws://{}/socket", hub.address)), &both).await;
    let mut token = bench_at(&hub, "connect -n 2");
    token.env("WARDCAST_BENCH_SECRET", "a wrong secret that is as long as one must be");
    assert!(notes_of(token).await.contains("WARDCAST_BENCH_SECRET"));
    let mut key = bench_at(&hub, "publish -n 2 --seconds 0.3");
    key.env("WARDCAST_BENCH_API_KEY", "a wrong secret that is as long as one must be");
    assert_fails_with(key, &["401", "WARDCAST_BENCH_API_KEY"]).await;
}

#[actix_rt::test]
async fn connection_refused_and_too_few_files_are_reported_with_a_remedy() {
    // Bound but not listening: no other test can get the port meanwhile.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let free = socket.local_addr().unwrap().as_socket().unwrap();
    let mut refused = bench("idle -n 2");
    refused.args(["--url", &format!("ws://{free}/socket"), "--token", "t"]);
    assert_fails_with(refused, &["refused", "is a hub running"]).await;

    assert_fails_with(bench_with_ulimit("-n 100", "connect -n 500"), &["ulimit -n 540", "100"]).await;
}

#[actix_rt::test]
async fn soft_file_limit_is_raised_for_bench_and_for_the_hub_it_starts() {
    let report = report(bench_with_ulimit("-Sn 100", "connect -n 200")).await;
    assert_eq!(count(&report, "connected"), 200);
}

#[actix_rt::test]
async fn hub_at_its_file_limit_is_reported_as_such() {
    let hub = HubProcess::start("ulimit -n 60; ");
    let mut connect = bench("connect -n 200");
    connect.args(["--url", &format!("ws://{}/socket", hub.address)]).env("WARDCAST_BENCH_SECRET", SECRET);
    assert_fails_with(connect, &[&hub.pid(), "of 60 files open", "ulimit -n"]).await;
}

#[actix_rt::test]
async fn killed_run_ends_the_hub_it_started() {
    let mut command = bench("idle -n 3 --settle 600");
    let mut run = KillOnDrop(command.stdout(Stdio::null()).spawn().unwrap());
    let children = format!("/proc/{0}/task/{0}/children", run.0.id());
    let child = || fs::read_to_string(&children).unwrap().trim().to_owned();
    let is_hub = |child: String| {
        let program = fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
        program == Path::new(env!("CARGO_BIN_EXE_wardcast"))
    };
    poll_until("the hub to start", async || is_hub(child())).await;
    let hub = child();
    run.0.kill().unwrap();
    let status = || fs::read_to_string(format!("/proc/{hub}/status")).unwrap_or_default();
    poll_until("the hub to end", async || status().is_empty() || status().contains("State:\tZ")).await;
}

/// As by a build that ends while a long run goes on.
#[actix_rt::test]
async fn run_whose_program_is_replaced_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("wardcast-bench");
    fs::copy(env!("CARGO_BIN_EXE_wardcast-bench"), &program).unwrap();
    let script = "exec 9<\"$0\"; rm \"$0\"; exec /proc/self/fd/9 \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&program).args(["limit", "-n", "10", "--rate", "50", "--seconds", "0.1"]);
    let report = report(command).await;
    assert_eq!(count(&report, "connections"), 10, "{report}");
    assert!(!program.exists());
}

/// A hub that is a process of its own, with the secrets of the tests.
struct HubProcess {
    child: KillOnDrop,
    address: SocketAddr,
}

impl HubProcess {
    /// Starts the hub from a shell that has executed `setup`.
    fn start(setup: &str) -> Self {
        let hub = format!("{setup}exec {} --set server.bind=127.0.0.1:0", env!("CARGO_BIN_EXE_wardcast"));
        let mut command = Command::new("sh");
        command.args(["-c", &hub]).env_clear().stdout(Stdio::piped()).stderr(Stdio::null());
        command.env("WARDCAST_AUTH__HMAC_SECRET", SECRET).env("WARDCAST_API__KEY", API_KEY);
        let mut child = KillOnDrop(command.spawn().unwrap());
        let mut banner = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = banner.find_map(|line| line.split_once("ws://")?.1.split('/').next()?.parse().ok()).unwrap();
        Self { child, address }
    }

    fn pid(&self) -> String {
        self.child.0.id().to_string()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid()]).status().unwrap().success());
    }
}

/// A run under `ulimit`.
pub fn bench_with_ulimit(limit: &str, arguments: &str) -> Command {
    let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_wardcast-bench")]).args(arguments.split(' ')).env_clear();
    command
}

#[actix_rt::test]
async fn interrupt_ends_the_run_with_a_report_of_what_was_measured() {
    let hub = start_hub().await;
    let mut command = bench_at(&hub, "fanout -n 5 --rate 100 --seconds 600 --warmup 0.1 --json");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    poll_until("publications", async || hub.metric("wardcast_publications_total").await > 40.0).await;
    let interrupt = Command::new("kill").args(["-2", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let output = actix_rt::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(count(&report, "publications") > 0);
    assert_eq!(count(&report, "deliveries"), 5 * count(&report, "publications"));
}
