//! The command `health`: asks a hub as its configuration says.

use std::net::{SocketAddr, TcpListener};

use super::{
    LOOPBACK, PRODUCTION_LOOPBACK,
    process::{Process, ProcessResult, run, wardcast},
};
use crate::support::{SECRET, tls::Certificate};

/// A production hub on loopback with these settings, and the settings.
struct Hub {
    _process: Process,
    address: SocketAddr,
    settings: Vec<String>,
}

fn flags<'a>(settings: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    settings.into_iter().flat_map(|setting| ["--set", setting]).collect()
}

impl Hub {
    fn start(settings: &[String]) -> Self {
        let mut command = wardcast(&[&PRODUCTION_LOOPBACK[..], &flags(settings)].concat());
        command.env("WARDCAST_ENV", "production").env("WARDCAST_AUTH__HMAC_SECRET", SECRET);
        let process = Process::start(&mut command);
        let line = process.wait_for_log("server started");
        let address = line.split_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        Self { _process: process, address, settings: settings.to_vec() }
    }

    /// Runs `health` with the settings of the hub, except that it listens on this host.
    fn health_at(&self, host: &str) -> ProcessResult {
        let bind = format!("server.bind={host}:{}", self.address.port());
        let mut command = wardcast(&[&["health"], &flags(self.settings.iter().chain([&bind]))[..]].concat());
        run(command.env("WARDCAST_ENV", "production").env("WARDCAST_AUTH__HMAC_SECRET", SECRET))
    }
}

#[track_caller]
fn assert_ready(result: &ProcessResult) {
    assert!(result.code == Some(0) && result.stdout.contains(r#""status":"ready""#), "{result:?}");
}

#[test]
fn health_of_a_url_exits_0_for_ready_hub_and_1_otherwise() {
    let mut hub = Process::start(&mut wardcast(&LOOPBACK));
    let address = hub.banner().address;
    let ask = |url: &str| run(&mut wardcast(&["health", "--url", url]));
    assert_ready(&ask(&format!("http://{address}/health/ready")));
    ask(&format!("http://{address}/nothing")).assert_failed_with(&["404"]);
    ask("ftp://localhost/").assert_failed_with(&["http://"]);
    hub.kill();
    ask(&format!("http://{address}/health/ready")).assert_failed_with(&[&address.to_string()]);
}

#[test]
fn health_follows_the_configured_address_and_its_wildcards() {
    let hub = Hub::start(&["server.behind_tls=true".to_owned()]);
    for host in ["127.0.0.1", "0.0.0.0", "[::]"] {
        assert_ready(&hub.health_at(host));
    }
    hub.health_at("127.0.0.2").assert_failed_with(&["http://127.0.0.2:", "no hub listens there"]);
    let mut unknown_port = wardcast(&[&["health"], &LOOPBACK[..]].concat());
    run(&mut unknown_port).assert_failed_with(&["server.bind has the port 0", "--url"]);
    let mut invalid = wardcast(&["health", "--set", "server.bind=localhost"]);
    run(&mut invalid).assert_failed_with(&["server.bind (from the flag --set server.bind)"]);
}

#[test]
fn health_follows_tls_and_the_proxy_header() {
    let certificate = Certificate::new();
    let tls = [
        format!("server.tls.cert={}", certificate.cert_path().display()),
        format!("server.tls.key={}", certificate.key_path().display()),
    ];
    let proxy = ["server.proxy_protocol=true".to_owned(), "server.trusted_proxies=127.0.0.1".to_owned()];
    for settings in [tls.to_vec(), proxy.to_vec(), [tls.clone(), proxy].concat()] {
        let hub = Hub::start(&settings);
        assert_ready(&hub.health_at("127.0.0.1"));
    }
    let hub = Hub::start(&tls);
    assert_ready(&hub.health_at("0.0.0.0"));
    let ask =
        |scheme: &str| run(&mut wardcast(&["health", "--url", &format!("{scheme}://{}/health/live", hub.address)]));
    assert!(ask("https").stdout.contains("live"));
    ask("http").assert_failed_with(&["not HTTP; does the hub listen for https?"]);
}

#[test]
fn health_fails_in_time_when_the_hub_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = format!("server.bind={}", silent.local_addr().unwrap());
    run(&mut wardcast(&["health", "--set", &bind])).assert_failed_with(&["no response within 4 s"]);
}

#[test]
fn unready_hub_logs_its_reason_once_however_often_it_is_asked() {
    // Nothing listens there.
    let mut hub = Process::start(&mut wardcast(
        &[&LOOPBACK[..], &["--set", "broker.type=redis", "--set", "broker.redis.url=redis://127.0.0.1:1"]].concat(),
    ));
    let address = hub.banner().address;
    for _ in 0..3 {
        let asked = run(&mut wardcast(&["health", "--url", &format!("http://{address}/health/ready")]));
        asked.assert_failed_with(&["503"]);
    }
    let log = hub.kill();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("not ready")).collect();
    assert!(lines.len() == 1 && lines[0].contains("not ready part=broker error=\"broker not ready: "), "{lines:?}");
}
