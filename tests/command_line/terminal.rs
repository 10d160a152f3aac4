//! The commands that talk to a running hub: `pub`, `sub`, `top` and `api`.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    LOOPBACK, SIGTERM,
    process::{Process, ProcessResult, run, wardcast},
};
use crate::support::{
    API_KEY, SECRET, mark_secret, poll_until,
    proxy::{Proxy, ProxyMode},
    tls::Certificate,
};

const HISTORY: [&str; 2] = ["--set", "channels.history_size=10"];

/// A development hub of a user with this home directory, and commands of the same user.
struct Hub {
    home: tempfile::TempDir,
    process: Process,
    address: SocketAddr,
}

impl Hub {
    fn start(flags: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let process = Process::start(wardcast(&[&LOOPBACK[..], flags].concat()).env("HOME", home.path()));
        let started = process.wait_for_log("server started");
        let address = started.split_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        process.wait_for_line(|| ());
        Self { home, process, address }
    }

    /// A command of the same user, without anything that says where the hub listens.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = wardcast(arguments);
        command.env("HOME", self.home.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> ProcessResult {
        run(&mut self.command(arguments))
    }

    /// Runs a command that has to succeed, and returns its output.
    fn output(&self, arguments: &[&str]) -> String {
        let result = self.run(arguments);
        assert_eq!((result.code, result.stderr.as_str()), (Some(0), ""), "{arguments:?}: {result:?}");
        result.stdout
    }
}

fn lines(result: &ProcessResult) -> Vec<Value> {
    assert_eq!(result.code, Some(0), "{result:?}");
    result.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn commands_find_the_development_hub_of_their_user_on_any_port() {
    let hub = Hub::start(&HISTORY);
    let published: Value = serde_json::from_str(&hub.output(&["pub", "news", r#"{"n":1}"#])).unwrap();
    assert_eq!(published["offset"], 1);
    hub.output(&["pub", "news", "--text", "two\u{202e}"]);
    let tail = hub.run(&["sub", "news", "--history", "10", "--count", "2"]);
    let printed = lines(&tail);
    assert_eq!((&printed[0]["channel"], &printed[0]["data"]), (&json!("news"), &json!({"n": 1})));
    assert_eq!((&printed[1]["data"], &printed[1]["offset"]), (&json!("two\u{202e}"), &json!(2)));
    assert!(!tail.stdout.contains('\u{202e}'), "a terminal would reverse the text: {}", tail.stdout);
    assert!(hub.output(&["health"]).contains("ready"));
    assert!(hub.output(&["top", "--once", "--interval", "200ms"]).contains("deliveries/s"));
    let info: Value = serde_json::from_str(&hub.output(&["api", "info"])).unwrap();
    assert_eq!(info["nodes"][0]["num_publications"], 2);

    // The hub of the configuration comes first, and no hub that has stopped is found.
    let elsewhere = ["api", "info", "--set", "server.bind=127.0.0.1:1"];
    hub.run(&elsewhere).assert_failed_with(&["http://127.0.0.1:1: ", "no hub listens there"]);
    hub.process.signal(SIGTERM);
    let Hub { home, process, .. } = hub;
    process.wait_for_exit();
    assert!(!home.path().join(".local/state/wardcast/running.toml").exists());
}

#[test]
fn killed_hub_is_not_found_and_a_file_of_others_is_not_trusted() {
    let mut hub = Hub::start(&[]);
    let file = hub.home.path().join(".local/state/wardcast/running.toml");
    let address = hub.address.to_string();
    assert!(std::fs::read_to_string(&file).unwrap().contains(&address));
    let mut permissions = std::fs::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&file, permissions.clone()).unwrap();
    let untrusted = hub.run(&["api", "info"]);
    assert!(!untrusted.stderr.contains(&address) && !untrusted.stdout.contains("num_clients"), "{untrusted:?}");
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&file, permissions).unwrap();
    hub.output(&["api", "info"]);
    hub.process.kill();
    let after = hub.run(&["api", "info"]);
    assert!(!after.stderr.contains(&address), "{after:?}");
}

#[actix_rt::test]
async fn sub_prints_live_publications_unseen_by_presence() {
    let hub = Hub::start(&["--set", "channels.presence=true", "--set", "channels.join_leave=true"]);
    let tail = Process::start(&mut hub.command(&["sub", "news", "#ann", "--data-only", "--count", "2"]));
    poll_until("sub has subscribed", async || {
        let channels: Value = serde_json::from_str(&hub.output(&["api", "channels"])).unwrap();
        channels["channels"].as_object().unwrap().len() == 2
    })
    .await;
    let presence: Value = serde_json::from_str(&hub.output(&["api", "presence", "channel=news"])).unwrap();
    assert_eq!(presence, json!({"presence": {}}));
    hub.output(&["pub", "news", r#"{"a": 1.50}"#]);
    hub.output(&["api", "publish", "channel=#ann", "data=2"]);
    assert_eq!(tail.wait_for_exit().stdout, "{\"a\": 1.50}\n2");
}

/// A hub closes connections that are idle for longer than 5 s.
#[test]
fn commands_go_on_after_a_pause_in_which_the_hub_has_closed_their_connection() {
    let hub = Hub::start(&[]);
    let mut publishing = hub.command(&["pub", "news", "-"]);
    publishing.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut publishing = publishing.spawn().unwrap();
    let mut lines = publishing.stdin.take().unwrap();
    lines.write_all(b"1\n").unwrap();
    assert!(hub.output(&["top", "--once", "--interval", "6s"]).contains("deliveries/s"));
    lines.write_all(b"2\n").unwrap();
    drop(lines);
    let published = publishing.wait_with_output().unwrap();
    let outcome = (published.status.success(), String::from_utf8_lossy(&published.stdout).into_owned());
    assert_eq!(outcome, (true, "{\"published\":2}\n".to_owned()), "{published:?}");
}

#[actix_rt::test]
async fn top_goes_on_after_failed_requests() {
    let hub = Hub::start(&[]);
    let link = Proxy::start(hub.address.port()).await;
    let binary = wardcast(&[]).get_program().to_str().unwrap().to_owned();
    let command = format!("{binary} top --interval 200ms --url http://127.0.0.1:{}", link.port());
    // A terminal, as `top` needs one to be live.
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--return", "--command", &command, "/dev/null"]);
    script.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", hub.home.path());
    let mut top = Process::start(&mut script);
    let prints = async |text: &str| {
        // The proxy runs on this thread.
        poll_until(&format!("top prints {text:?}"), async || {
            std::iter::from_fn(|| top.try_line()).any(|line| line.contains(text))
        })
        .await;
    };
    prints("deliveries/s").await;
    link.set(ProxyMode::Cut);
    prints("; trying again").await;
    link.set(ProxyMode::Pass);
    prints("deliveries/s").await;
    assert!(top.child.try_wait().unwrap().is_none());
}

#[test]
fn top_whose_first_request_fails_ends() {
    let failed = run(wardcast(&["top", "--url", "http://127.0.0.1:1"]).env("WARDCAST_API__KEY", API_KEY));
    failed.assert_failed_with(&["http://127.0.0.1:1: "]);
}

#[test]
fn commands_send_the_proxy_header_that_a_development_hub_expects() {
    let flags = ["--set", "server.proxy_protocol=true", "--set", "server.trusted_proxies=127.0.0.1"];
    let hub = Hub::start(&flags);
    assert!(hub.output(&[&["health"], &flags[..]].concat()).contains("ready"));
    assert!(hub.output(&[&["api", "info"], &flags[..]].concat()).contains("num_clients"));
}

/// As after the loss of power of a machine: no packet says so.
#[actix_rt::test]
async fn sub_notices_that_its_hub_has_vanished() {
    let hub = Hub::start(&["--set", "server.ping_interval=1s", "--set", "server.pong_timeout=500ms"]);
    let link = Proxy::start(hub.address.port()).await;
    let url = format!("http://127.0.0.1:{}", link.port());
    let tail = Process::start(&mut hub.command(&["sub", "news", "--url", &url]));
    poll_until("sub has subscribed", async || hub.output(&["api", "info"]).contains("\"num_subs\":1")).await;
    hub.output(&["pub", "news", "1"]);
    poll_until("sub has printed the publication", async || tail.try_line().is_some()).await;
    link.set(ProxyMode::BlackHole);
    assert!(tail.wait_for_log("connection lost").contains("(nothing received for 1"));
}

#[actix_rt::test]
async fn sub_prints_what_it_missed_while_its_connection_was_lost() {
    let hub = Hub::start(&HISTORY);
    let link = Proxy::start(hub.address.port()).await;
    let url = format!("http://127.0.0.1:{}", link.port());
    let mut tail = Process::start(&mut hub.command(&["sub", "news", "--url", &url, "--count", "3"]));
    let has_subscribed = async || hub.output(&["api", "info"]).contains("\"num_subs\":1");
    poll_until("sub has subscribed", has_subscribed).await;
    hub.output(&["pub", "news", "1"]);
    // The proxy runs on this thread.
    poll_until("sub has printed the first publication", async || tail.try_line().is_some()).await;
    link.set(ProxyMode::Cut);
    poll_until("sub has lost its connection", async || !has_subscribed().await).await;
    hub.output(&["pub", "news", "2"]);
    let note = tail.wait_for_log("connection lost");
    assert!(note.contains("reconnecting"), "{note}");
    link.set(ProxyMode::Pass);
    poll_until("sub has subscribed again", has_subscribed).await;
    hub.output(&["pub", "news", "3"]);
    poll_until("sub ends", async || tail.child.try_wait().unwrap().is_some()).await;
    let result = tail.wait_for_exit();
    assert_eq!(lines(&result).iter().map(|line| line["data"].clone()).collect::<Vec<_>>(), [json!(2), json!(3)]);
}

#[test]
fn pub_sends_each_line_of_standard_input() {
    let hub = Hub::start(&HISTORY);
    let send = |input: &str| Process::start_with_input(&mut hub.command(&["pub", "news", "-"]), input).wait_for_exit();
    let sent = send("1\n\n{\"a\":2}\n");
    assert_eq!((sent.code, sent.stdout.as_str()), (Some(0), r#"{"published":2}"#), "{sent:?}");
    send("3\nthree\n4\n").assert_failed_with(&["line 2: the data is not JSON", "--text", "published before it: 1"]);
    let history: Value = serde_json::from_str(&hub.output(&["api", "history", "channel=news", "limit=10"])).unwrap();
    let data: Vec<&Value> = history["publications"].as_array().unwrap().iter().map(|one| &one["data"]).collect();
    assert_eq!(data, [&json!(1), &json!({"a": 2}), &json!(3)]);
}

#[test]
fn pub_takes_a_negative_number() {
    let hub = Hub::start(&HISTORY);
    hub.output(&["pub", "news", "-5"]);
    assert_eq!(hub.output(&["sub", "news", "--history", "1", "--count", "1", "--data-only"]).trim(), "-5");
}

#[test]
fn sub_of_a_channel_with_binary_data_says_that_it_cannot_show_it() {
    let hub = Hub::start(&["--set", "channels.data_format=binary"]);
    hub.run(&["sub", "news"]).assert_failed_with(&["news", "data_format", "Protobuf"]);
}

#[test]
fn failures_name_what_is_wrong_and_what_to_do() {
    let hub = Hub::start(&[]);
    hub.run(&["pub", "news", "hello"]).assert_failed_with(&["the data is not JSON", "--text"]);
    hub.run(&["pub", "chat:1", "1"]).assert_failed_with(&["error 102: "]);
    hub.run(&["sub", "chat:1"]).assert_failed_with(&["3500", "does not know a namespace", "--config FILE"]);
    hub.run(&["sub", "#1", "#2"]).assert_failed_with(&["different users"]);
    hub.run(&["api", "publihs"]).assert_failed_with(&["publihs: no such method (did you mean publish?)"]);
    hub.run(&["api", "history"]).assert_failed_with(&["error 107", "channel"]);
    run(hub.command(&["api", "info"]).env("WARDCAST_API__KEY", API_KEY))
        .assert_failed_with(&["the hub has another API key", "WARDCAST_API__KEY"]);
    run(hub.command(&["sub", "news"]).env("WARDCAST_AUTH__HMAC_SECRET", SECRET))
        .assert_failed_with(&["3500", "the hub has another secret"]);
    run(&mut wardcast(&["pub", "news", "1"])).assert_failed_with(&["api.key is not set", "--config FILE"]);
    // No other machine gets the kept key; that of a documentation network would not answer.
    hub.run(&["api", "info", "--url", "http://192.0.2.1"]).assert_failed_with(&["api.key is not set"]);
    run(&mut wardcast(&["sub", "news"])).assert_failed_with(&["auth.hmac_secret is not set", "--token-file"]);
    let file = hub.home.path().join("token");
    let expired = run(wardcast(&["token", "--user", "ann", "--ttl", "1s"]).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    std::fs::write(&file, mark_secret(expired.stdout)).unwrap();
    let tail = hub.run(&["sub", "news", "--token-file", file.to_str().unwrap()]);
    assert!(tail.stderr.contains("check-token") || tail.stderr.contains("109"), "{tail:?}");
}

#[test]
fn api_key_goes_only_to_a_server_with_the_certificate_of_the_hub() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let settings = |certificate: &Certificate| {
        [
            format!("server.tls.cert={}", certificate.cert_path().display()),
            format!("server.tls.key={}", certificate.key_path().display()),
        ]
    };
    let [cert, key] = settings(&certificate);
    let hub = Hub::start(&["--set", &cert, "--set", &key]);
    let bind = format!("server.bind={}", hub.address);
    let call = |settings: &[String; 2]| {
        let [cert, key] = settings;
        hub.run(&["api", "info", "--set", &bind, "--set", cert, "--set", key])
    };
    let known = call(&settings(&certificate));
    assert!(known.code == Some(0) && known.stdout.contains("num_clients"), "{known:?}");
    call(&settings(&other)).assert_failed_with(&["another certificate than the configuration names"]);
    let url = format!("https://{}", hub.address);
    hub.run(&["api", "info", "--url", &url]).assert_failed_with(&[&url, "certificate"]);
}

#[actix_rt::test]
async fn sub_ends_when_its_rights_end() {
    let hub = Hub::start(&[]);
    let tail = Process::start(&mut hub.command(&["sub", "news", "--user", "ann"]));
    poll_until("sub has subscribed", async || hub.output(&["api", "info"]).contains("\"num_subs\":1")).await;
    hub.output(&["api", "disconnect", "user=ann"]);
    tail.wait_for_exit().assert_failed_with(&["the hub closed the connection: 3503"]);
}
