//! Tests of the audit log: its lines, what a flood or a slow disk costs, and its file.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::config::Config;

const NODE: &str = "a-node";

struct TestLog {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
    log: Arc<AuditLog>,
}

impl TestLog {
    fn start(change: impl FnOnce(&mut AuditConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default().audit;
        config.output = Some(folder.path().join("audit.log").display().to_string());
        change(&mut config);
        let metrics = Arc::new(Metrics::default());
        let log = AuditLog::start(&config, NODE.into(), Clock::default(), metrics.clone()).unwrap();
        Self { folder, metrics, log }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    async fn lines(&self) -> Vec<Value> {
        self.log.flush(Duration::from_secs(20)).await;
        read_lines(&self.path())
    }

    fn count(&self, outcome: &str) -> u64 {
        let text = self.metrics.encode().unwrap();
        let name = format!("wardcast_audit_lines_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    }
}

fn read_lines(path: &std::path::Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_address(last: u8) -> AuditFields<'static> {
    AuditFields { address: Some(std::net::Ipv4Addr::new(192, 0, 2, last).into()), ..AuditFields::default() }
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

#[actix_rt::test]
async fn each_line_is_an_object_with_time_node_event_and_the_fields_that_are_set() {
    let log = TestLog::start(|_| ());
    let fields = AuditFields { user: Some("ann\n\"x\""), jti: Some("1"), code: Some(100), ..of_address(1) };
    log.log.record(AuditEvent::ApiCall, fields);
    let lines = log.lines().await;
    assert_eq!(events(&lines), ["started", "api_call"]);
    let time = lines[1]["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    let expected = json!({"time": time, "node": NODE, "event": "api_call", "address": "192.0.2.1", "user": "ann\n\"x\"", "jti": "1", "code": 100});
    assert_eq!(lines[1], expected);
    assert_eq!((log.count("written"), log.count("lost")), (2, 0));
}

#[actix_rt::test]
async fn lines_leave_the_queue_when_the_writer_takes_them_or_has_no_room() {
    let log = TestLog::start(|audit| audit.queue = 2);
    for _ in 0..500 {
        log.log.record(AuditEvent::ApiCall, of_address(1));
    }
    log.lines().await;
    assert!(log.count("lost") > 0);
    assert_eq!(log.log.queue_depth(), Some(QueueDepth::of_entries(Queue::AuditLines, 0, 2)));
    assert_eq!(AuditLog::disabled().queue_depth(), None);
}

#[actix_rt::test]
async fn texts_that_clients_choose_are_cut() {
    let log = TestLog::start(|_| ());
    let long = "é".repeat(1000);
    log.log.record(AuditEvent::Connected, AuditFields { sid: Some(&long), ..AuditFields::default() });
    assert_eq!(log.lines().await[1]["sid"], "é".repeat(127));
}

#[actix_rt::test]
async fn flood_of_refusals_leaves_room_for_other_addresses_and_events_and_is_counted() {
    let log = TestLog::start(|config| (config.lines_per_second, config.refusals_per_second) = (1, 50));
    for _ in 0..500 {
        log.log.record(AuditEvent::Refused, of_address(1));
    }
    log.log.record(AuditEvent::Refused, of_address(2));
    log.log.record(AuditEvent::Connected, of_address(1));
    let lines = log.lines().await;
    let of = |event: &str, last: u8| {
        let address = format!("192.0.2.{last}");
        lines.iter().filter(|line| line["event"] == event && line["address"] == address.as_str()).count()
    };
    assert!((2..10).contains(&of("refused", 1)), "{lines:?}");
    assert_eq!((of("refused", 2), of("connected", 1)), (1, 1));
    let left_out: u64 = lines
        .iter()
        .filter(|line| line["event"] == "lines_suppressed")
        .map(|line| line["count"].as_u64().unwrap())
        .sum();
    assert_eq!(left_out as usize + of("refused", 1), 500);
    assert_eq!(log.count("suppressed"), left_out);
}

/// With `auth.anonymous = "always"` anyone can connect again and again.
#[actix_rt::test]
async fn flood_of_connections_without_a_user_leaves_room_for_other_addresses_and_users() {
    let log = TestLog::start(|config| (config.lines_per_second, config.refusals_per_second) = (1, 2));
    let of_user = AuditFields { user: Some("ann"), ..of_address(1) };
    for _ in 0..500 {
        log.log.record(AuditEvent::Connected, of_address(1));
        log.log.record(AuditEvent::Disconnected, of_address(1));
    }
    for _ in 0..10 {
        log.log.record(AuditEvent::Connected, of_user);
    }
    log.log.record(AuditEvent::Connected, of_address(2));
    log.log.record(AuditEvent::Refused, of_address(1));
    let lines = log.lines().await;
    let of = |event: &str, last: u8, user: &str| {
        let address = format!("192.0.2.{last}");
        let is_meant = |line: &&serde_json::Value| {
            line["event"] == event
                && line["address"] == address.as_str()
                && line["user"].as_str().unwrap_or_default() == user
        };
        lines.iter().filter(is_meant).count()
    };
    for event in ["connected", "disconnected"] {
        assert!((2..10).contains(&of(event, 1, "")), "{event} {lines:?}");
    }
    assert_eq!((of("connected", 1, "ann"), of("connected", 2, ""), of("refused", 1, "")), (10, 1, 1));
    assert!(log.count("suppressed") > 900);
}

#[actix_rt::test]
async fn flood_of_refusals_from_many_addresses_is_limited_together() {
    let log = TestLog::start(|config| (config.lines_per_second, config.refusals_per_second) = (5, 10));
    for address in 0..=255 {
        log.log.record(AuditEvent::Refused, of_address(address));
    }
    let lines = log.lines().await;
    let refused = events(&lines).iter().filter(|event| **event == "refused").count();
    assert!((20..30).contains(&refused), "{refused}");
}

#[actix_rt::test]
async fn refreshes_of_one_session_are_limited_and_those_of_another_are_not() {
    let log = TestLog::start(|config| config.lines_per_second = 1);
    let of_client = |number| AuditFields { client: Some(uuid::Uuid::from_u128(number)), ..of_address(1) };
    for _ in 0..200 {
        log.log.record(AuditEvent::Refreshed, of_client(1));
    }
    log.log.record(AuditEvent::Refreshed, of_client(2));
    let lines = log.lines().await;
    let of = |number: u128| {
        let client = uuid::Uuid::from_u128(number).to_string();
        lines.iter().filter(|line| line["client"] == client.as_str()).count()
    };
    assert!((2..10).contains(&of(1)) && of(2) == 1, "{lines:?}");
}

/// A pipe without a reader stands for a disk that does not answer.
#[actix_rt::test]
async fn full_queue_never_blocks_and_the_lines_that_it_lost_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Opened for both directions, so that it does not wait for a writer.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let log = TestLog::start(|config| {
        config.output = Some(pipe.display().to_string());
        config.queue = 8;
    });
    let user = "x".repeat(255);
    let recorded = 2000;
    for _ in 0..recorded {
        log.log.record(AuditEvent::Connected, AuditFields { user: Some(&user), ..AuditFields::default() });
    }
    assert!(log.count("lost") > 0);
    // The losses are reported in one line or, if some were reported before the others, in several.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        io::BufRead::lines(io::BufReader::new(reader)).try_for_each(|line| sender.send(line.unwrap()))
    });
    let (mut written, mut reported) = (0, 0);
    while written + reported < recorded {
        let line: Value = serde_json::from_str(&receiver.recv_timeout(Duration::from_secs(20)).unwrap()).unwrap();
        match line["event"].as_str().unwrap() {
            "connected" => written += 1,
            "lines_lost" => reported += line["count"].as_u64().unwrap(),
            event => assert_eq!(event, "started"),
        }
    }
    assert_eq!((written + reported, reported), (recorded, log.count("lost")));
}

/// Whatever the disk does meanwhile: the pipe is not read until all lines are recorded.
#[actix_rt::test]
async fn burst_that_fits_into_the_queue_loses_no_line_and_waits_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let recorded = 5000;
    let log = TestLog::start(|config| (config.output, config.queue) = (Some(pipe.display().to_string()), recorded));
    let user = "x".repeat(255);
    for client in 1..recorded as u128 {
        let client = Some(uuid::Uuid::from_u128(client));
        log.log.record(AuditEvent::Disconnected, AuditFields { client, user: Some(&user), ..AuditFields::default() });
    }
    assert_eq!((log.count("lost"), log.count("suppressed")), (0, 0));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        io::BufRead::lines(io::BufReader::new(reader)).try_for_each(|line| sender.send(line.unwrap()))
    });
    for client in 0..recorded as u128 {
        let line: Value = serde_json::from_str(&receiver.recv_timeout(Duration::from_secs(20)).unwrap()).unwrap();
        match client {
            0 => assert_eq!(line["event"], "started"),
            _ => assert_eq!(line["client"], uuid::Uuid::from_u128(client).to_string(), "in order"),
        }
    }
}

#[test]
fn duration_is_in_seconds_with_three_decimals() {
    let fields = AuditFields { seconds: Some(Duration::from_micros(61_234_567)), ..AuditFields::default() };
    let encoder = LineEncoder { node: NODE.into(), clock: Clock::default() };
    let line: Value = serde_json::from_slice(&encoder.encode(AuditEvent::Disconnected, &fields).unwrap()).unwrap();
    assert_eq!((line["seconds"].clone(), fields.to_string()), (json!(61.235), "seconds=61.235".to_owned()));
}

#[actix_rt::test]
async fn renamed_file_is_left_at_reopen_and_a_new_one_begun() {
    let log = TestLog::start(|_| ());
    log.lines().await;
    let old = log.folder.path().join("audit.log.1");
    fs::rename(log.path(), &old).unwrap();
    log.log.record(AuditEvent::LoggedIn, of_address(1));
    log.log.flush(Duration::from_secs(20)).await;
    log.log.reopen();
    log.log.record(AuditEvent::LoggedOut, of_address(1));
    assert_eq!(events(&log.lines().await), ["logged_out"]);
    assert_eq!(events(&read_lines(&old)), ["started", "logged_in"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(log.path()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[actix_rt::test]
async fn file_is_opened_again_although_nothing_is_recorded() {
    let log = TestLog::start(|_| ());
    log.lines().await;
    fs::rename(log.path(), log.folder.path().join("audit.log.1")).unwrap();
    log.log.reopen();
    let started = std::time::Instant::now();
    while !log.path().exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "not opened again");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix_rt::test]
async fn file_that_cannot_be_opened_again_is_written_further() {
    let log = TestLog::start(|_| ());
    log.lines().await;
    let moved = log.folder.path().join("moved");
    fs::rename(log.path(), &moved).unwrap();
    fs::create_dir(log.path()).unwrap();
    log.log.reopen();
    log.log.record(AuditEvent::LoggedIn, of_address(1));
    log.log.flush(Duration::from_secs(20)).await;
    assert_eq!(events(&read_lines(&moved)), ["started", "logged_in"]);
}

#[actix_rt::test]
async fn lines_that_a_full_disk_has_refused_are_counted() {
    let log = TestLog::start(|config| config.output = Some("/dev/full".to_owned()));
    for _ in 0..10 {
        log.log.record(AuditEvent::Connected, of_address(1));
        log.log.flush(Duration::from_secs(20)).await;
    }
    assert_eq!((log.count("written"), log.count("lost")), (0, 11));
    let OpenLog { state, .. } = log.log.0.as_ref().unwrap();
    assert_eq!(state.lost.load(Ordering::Acquire), 11, "they are reported when the disk has room again");
}

#[test]
fn check_finds_a_file_that_cannot_be_written_and_creates_none() {
    let folder = tempfile::tempdir().unwrap();
    let check = |output: &str| {
        let output = Some(output.to_owned());
        AuditLog::check(&AuditConfig { output, ..Config::default().audit }).is_ok()
    };
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert!(check(&path("new")) && !folder.path().join("new").exists());
    assert!(check("stdout") && check("stderr"));
    assert!(!check(&path("")) && !check(&path("absent/new")));
}

#[test]
fn disabled_log_records_nothing() {
    let log = AuditLog::disabled();
    log.record(AuditEvent::Connected, AuditFields::default());
    log.reopen();
    assert!(!log.is_enabled());
}
