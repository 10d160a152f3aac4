//! Signals to a hub that is stopping.

use serde_json::json;

use super::{LOOPBACK, SIGHUP, SIGINT, SIGTERM, connect_with_token};
use crate::support::{
    http, poll_until,
    process::{Banner, Process, wardcast},
};

/// The line about a signal that changes nothing.
const IGNORED: &str = "signal ignored, the hub is stopping";

#[actix_rt::test]
async fn sigterm_again_and_other_signals_do_not_cut_a_stop_short() {
    let drain = ["--set", "server.drain=20s", "--set", "server.drain_delay=3s"];
    let mut hub = Process::start(&mut wardcast(&[&LOOPBACK[..], &drain].concat()));
    let Banner { address, token, .. } = hub.banner();
    let mut ann = connect_with_token(address, &token).await;
    let mut bob = connect_with_token(address, &token).await;
    ann.subscribe("news").await;
    hub.signal(SIGTERM);
    let is_draining = async || http::get(address, "/health/ready").send().await.status == 503;
    poll_until("the hub is draining", is_draining).await;
    for (number, signal) in [SIGTERM, SIGINT, SIGHUP, SIGTERM].into_iter().enumerate() {
        hub.signal(signal);
        // Each is seen before the next one: the kernel keeps only one of a kind.
        hub.wait_for_log(IGNORED);
        bob.publish("news", json!(number)).await;
        assert_eq!(ann.receive_publication().await, json!(number), "it serves as before");
    }
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.wait_for_close().await, (Some(3001), "shutdown".to_owned()));
    }
    // Now the listener is closed, and the sessions are.
    hub.signal(SIGTERM);
    let result = hub.wait_for_exit();
    assert_eq!(result.code, Some(0), "{result:?}");
    assert_eq!(result.stderr.matches("server stopping").count(), 1, "{}", result.stderr);
    for signal in ["signal=SIGTERM", "signal=SIGINT", "signal=SIGHUP"] {
        assert!(result.stderr.lines().any(|line| line.contains(IGNORED) && line.contains(signal)), "{}", result.stderr);
    }
    assert!(!result.stderr.contains("reload"), "{}", result.stderr);
}
