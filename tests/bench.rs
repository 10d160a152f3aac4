//! The load generator as a process of its own: it counts right, and names the limit that it met. No figure is asserted.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use wardcast::config::AllowSubscribe;

use crate::support::{API_KEY, Hub, SECRET, eventually, hub, hub_with};

fn bench(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardcast-bench"));
    command.args(arguments.split_whitespace()).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.stdin(Stdio::null());
    command
}

/// The same against a hub, with its secrets.
fn bench_at(hub: &Hub, arguments: &str) -> Command {
    let mut command = bench(arguments);
    command.args(["--url", &format!("ws://{}/connection/websocket", hub.address)]);
    command.env("WARDCAST_BENCH_SECRET", SECRET).env("WARDCAST_BENCH_API_KEY", API_KEY);
    command
}

async fn run(mut command: Command) -> Output {
    actix_rt::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The object that it reports.
async fn report(mut command: Command) -> Value {
    command.arg("--json");
    let output = run(command).await;
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// It did not work, and said so in a way that has all of these.
async fn fails_with(command: Command, told: &[&str]) {
    let output = run(command).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{stderr}");
    told.iter().for_each(|part| assert!(stderr.contains(part), "no {part:?} in {stderr}"));
    assert!([SECRET, API_KEY, "panicked"].iter().all(|never| !stderr.contains(never)), "{stderr}");
}

/// What its notes say.
async fn notes(command: Command) -> String {
    report(command).await["notes"].to_string()
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"))
}

fn ordered(report: &Value, name: &str) {
    let times = ["p50", "p90", "p99", "p999", "max"].map(|end| report[format!("{name}_{end}_ms")].as_f64().unwrap());
    assert!(times.is_sorted() && times[0] > 0.0, "{name}: {times:?}");
}

#[actix_rt::test]
async fn a_fanout_on_a_hub_of_its_own_delivers_everything_to_everybody_and_leaves_no_hub_behind() {
    let report = report(bench("fanout -n 20 --rate 50 --seconds 0.5 --warmup 0.1")).await;
    assert!(count(&report, "publications") > 0);
    assert_eq!(count(&report, "deliveries"), 20 * count(&report, "publications"));
    let faults = ["deliveries_lost", "sequence_gaps", "sequence_out_of_order", "publications_refused"];
    assert_eq!(faults.map(|name| count(&report, name)), [0; 4], "{report}");
    assert!(report["server_cpu_us_per_delivery"].as_f64().unwrap() > 0.0);
    ["delivery", "publish_answer"].iter().for_each(|name| ordered(&report, name));
    let hub = report["server_pids"].as_str().unwrap();
    assert!(!Path::new("/proc").join(hub).exists(), "the hub {hub} lives on");
}

#[actix_rt::test]
async fn a_closed_loop_and_the_bare_writer_lose_nothing_either() {
    for command in ["fanout -n 10 --closed-loop 4", "limit -n 10 --rate 50", "limit -n 10 --closed-loop 4"] {
        let report = report(bench(&format!("{command} --seconds 0.3 --warmup 0.1"))).await;
        assert!(count(&report, "publications") > 0, "{command}");
        assert_eq!(count(&report, "deliveries"), 10 * count(&report, "publications"), "{command}");
    }
}

#[actix_rt::test]
async fn who_is_cut_and_comes_back_while_others_publish_gets_everything_once_and_in_order() {
    let run = "recover -n 40 --missed 20 --rate 200 --seconds 0.3 --away 0.01";
    for more in ["--threads 2", "--returning 3 --size 3000"] {
        let report = report(bench(&format!("{run} {more}"))).await;
        assert_eq!([count(&report, "returned"), count(&report, "recovered")], [40; 2], "{more}: {report}");
        assert_eq!(count(&report, "missed_publications"), 20, "{more}: {report}");
        assert!(count(&report, "recovered_publications") >= 20 * 40, "{more}: {report}");
        let faults = ["unrecovered", "deliveries_lost", "offset_gaps", "offset_out_of_order", "sequence_gaps"];
        assert_eq!(faults.map(|name| count(&report, name)), [0; 5], "{more}: {report}");
        assert_eq!(count(&report, "sequence_out_of_order"), 0, "{more}: {report}");
        ["back", "to_101", "to_subscribed"].iter().for_each(|name| ordered(&report, name));
    }
}

#[actix_rt::test]
async fn who_cannot_recover_is_counted_and_told_what_to_raise() {
    let run = "recover -n 3 --missed 20 --rate 50 --seconds 0.2 --away 0.01";
    let report = report(bench(&format!("{run} --hub-set limits.recovered_publications=10"))).await;
    assert_eq!((count(&report, "recovered"), count(&report, "unrecovered")), (0, 3), "{report}");
    assert!(report["notes"].to_string().contains("limits.recovered_publications"), "{report}");
    assert!(count(&report, "sequence_missed") + count(&report, "deliveries_lost") >= 60, "{report}");
    fails_with(bench(&format!("{run} --hub-set channels.history_size=0")), &["channels.history_size"]).await;
}

#[actix_rt::test]
async fn every_way_to_publish_reaches_every_subscriber() {
    for way in ["", "--batch 7 --channels 2", "--broadcast --channels 3", "--over socket --channels 2", "--rate 100"] {
        let arguments = format!("publish -n 2 --subscribers 2 --seconds 0.3 --warmup 0.1 {way}");
        let report = report(bench(&arguments)).await;
        let publications = count(&report, "publications");
        assert!(publications > 0 && publications.is_multiple_of(count(&report, "publications_per_call")), "{report}");
        assert_eq!(count(&report, "deliveries"), 2 * publications, "{way}: {report}");
        assert_eq!(count(&report, "deliveries_lost") + count(&report, "publications_refused"), 0, "{way}: {report}");
        ordered(&report, "publish_answer");
    }
}

#[actix_rt::test]
async fn crowds_are_counted_and_their_hub_is_found_by_its_port() {
    let hub = hub().await;
    let connect = report(bench_at(&hub, "connect -n 30")).await;
    assert_eq!((count(&connect, "connected"), &connect["failures"]), (30, &serde_json::json!({})));
    ordered(&connect, "to_first_push");
    let idle = report(bench_at(&hub, "idle -n 30 --channels 3 --settle 0.1 --source-addresses 3")).await;
    assert_eq!((count(&idle, "connected"), idle["interrupted"].as_bool()), (30, Some(false)));
    let me = std::process::id().to_string();
    assert_eq!([&connect, &idle].map(|report| report["server_pids"].as_str()), [Some(me.as_str()); 2]);
    assert_eq!(connect.as_object().unwrap().len(), idle.as_object().unwrap().len(), "one schema for all commands");
}

#[actix_rt::test]
async fn who_is_refused_at_the_handshake_is_told_the_limit_to_raise() {
    let few = hub_with(|config| config.limits.connections = 5).await;
    assert!(notes(bench_at(&few, "connect -n 9")).await.contains("raise limits.connections "));
    let slow = hub_with(|config| config.limits.handshakes_per_second = 1).await;
    assert!(notes(bench_at(&slow, "connect -n 9")).await.contains("limits.handshakes_per_second"));
    let address = hub_with(|config| config.limits.connections_per_address = 5).await;
    assert!(notes(bench_at(&address, "connect -n 9")).await.contains("limits.connections_per_address"));
    let user = hub_with(|config| config.limits.connections_per_user = 5).await;
    let mut one_user = bench("connect -n 9");
    one_user.args(["--token", &user.token("ann"), "--url", &format!("ws://{}/socket", user.address)]);
    assert!(notes(one_user).await.contains("limits.connections_per_user"));
}

#[actix_rt::test]
async fn who_may_not_publish_or_subscribe_is_told_the_key_or_the_limit() {
    const SHORT: &str = "-n 2 --seconds 0.3 --warmup 0.1";
    let small = hub_with(|config| config.limits.publication_bytes = 64).await;
    fails_with(bench_at(&small, &format!("publish {SHORT}")), &["106", "limits.publication_bytes"]).await;
    let bodies = hub_with(|config| config.api.body_bytes = 4096).await;
    fails_with(bench_at(&bodies, &format!("publish {SHORT} --batch 100")), &["413", "api.body_bytes"]).await;
    let closed = hub_with(|config| config.channels.allow_subscribe = AllowSubscribe::None).await;
    fails_with(bench_at(&closed, &format!("fanout {SHORT}")), &["103", "channels.allow_subscribe=user"]).await;
    let paced = hub_with(|config| config.limits.publications_per_second = 5).await;
    let told = run(bench_at(&paced, &format!("publish {SHORT} --over socket"))).await;
    let told = String::from_utf8([told.stdout, told.stderr].concat()).unwrap();
    assert!(told.contains("limits.publications_per_second"), "{told}");
}

#[actix_rt::test]
async fn secrets_that_are_missing_or_wrong_are_told_by_their_variables() {
    let hub = hub().await;
    let both = ["WARDCAST_BENCH_SECRET", "WARDCAST_BENCH_API_KEY", "WARDCAST_AUTH__HMAC_SECRET"];
    fails_with(bench(&format!("fanout --url ws://{}/socket", hub.address)), &both).await;
    let mut token = bench_at(&hub, "connect -n 2");
    token.env("WARDCAST_BENCH_SECRET", "not the hub's, but as long as one has to be");
    assert!(notes(token).await.contains("WARDCAST_BENCH_SECRET"));
    let mut key = bench_at(&hub, "publish -n 2 --seconds 0.3");
    key.env("WARDCAST_BENCH_API_KEY", "not the hub's, but as long as one has to be");
    fails_with(key, &["401", "WARDCAST_BENCH_API_KEY"]).await;
}

#[actix_rt::test]
async fn what_the_system_refuses_is_told_with_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut nobody = bench("idle -n 2");
    nobody.args(["--url", &format!("ws://{free}/socket"), "--token", "t"]);
    fails_with(nobody, &["refused", "is a hub running"]).await;

    fails_with(limited("-n 100", "connect -n 500"), &["ulimit -n 540", "100"]).await;
}

#[actix_rt::test]
async fn a_soft_limit_of_open_files_is_raised_here_and_for_a_hub_of_its_own() {
    let report = report(limited("-Sn 100", "connect -n 200")).await;
    assert_eq!(count(&report, "connected"), 200);
}

#[actix_rt::test]
async fn a_hub_that_may_not_open_more_files_is_told_from_one_that_is_slow() {
    let hub = format!("ulimit -n 60; exec {} --set server.bind=127.0.0.1:0", env!("CARGO_BIN_EXE_wardcast"));
    let mut command = Command::new("sh");
    command.args(["-c", &hub]).env_clear().env("WARDCAST_AUTH__HMAC_SECRET", SECRET);
    let mut hub = Killed(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut banner = BufReader::new(hub.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = banner.find_map(|line| Some(line.split_once("ws://")?.1.split('/').next()?.to_owned())).unwrap();
    let mut connect = bench("connect -n 200");
    connect.args(["--url", &format!("ws://{address}/socket")]).env("WARDCAST_BENCH_SECRET", SECRET);
    let pid = hub.0.id().to_string();
    fails_with(connect, &[&pid, "of 60 files open", "ulimit -n"]).await;
}

#[actix_rt::test]
async fn a_run_that_is_killed_takes_its_hub_with_it() {
    let mut command = bench("idle -n 3 --settle 600");
    let mut run = Killed(command.stdout(Stdio::null()).spawn().unwrap());
    let children = format!("/proc/{0}/task/{0}/children", run.0.id());
    let child = || fs::read_to_string(&children).unwrap().trim().to_owned();
    let is_hub = |child: String| {
        let program = fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
        program == Path::new(env!("CARGO_BIN_EXE_wardcast"))
    };
    eventually("a hub", async || is_hub(child())).await;
    let hub = child();
    run.0.kill().unwrap();
    let status = || fs::read_to_string(format!("/proc/{hub}/status")).unwrap_or_default();
    eventually("the hub is gone", async || status().is_empty() || status().contains("State:\tZ")).await;
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A run of its own under `ulimit`.
fn limited(limit: &str, arguments: &str) -> Command {
    let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_wardcast-bench")]).args(arguments.split(' ')).env_clear();
    command
}

#[actix_rt::test]
async fn an_interrupt_ends_a_run_with_the_report_of_what_was_measured() {
    let hub = hub().await;
    let mut command = bench_at(&hub, "fanout -n 5 --rate 100 --seconds 600 --warmup 0.1 --json");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("publications", async || hub.metric("wardcast_publications_total").await > 40.0).await;
    let interrupt = Command::new("kill").args(["-2", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let output = actix_rt::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(count(&report, "publications") > 0);
    assert_eq!(count(&report, "deliveries"), 5 * count(&report, "publications"));
}
