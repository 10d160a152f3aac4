//! The audit log of a real process: its file is opened again at SIGHUP, and it can be part of the output.

use std::fs;

use super::{
    LOOPBACK, SIGHUP,
    process::{Process, run, wardcast},
};
use crate::support::poll_until;

#[actix_rt::test]
async fn sighup_opens_the_audit_log_again_after_it_was_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, renamed) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
    let output = format!("audit.output={}", file.display());
    let mut hub = Process::start(&mut wardcast(&[&LOOPBACK[..], &["--ephemeral", "--set", &output]].concat()));
    hub.banner();
    fs::rename(&file, &renamed).unwrap();
    hub.signal(SIGHUP);
    poll_until("the file is opened again", async || file.exists()).await;
    assert!(fs::read_to_string(renamed).unwrap().contains("\"event\":\"started\""));
    hub.kill();
}

#[test]
fn check_names_an_audit_log_that_cannot_be_written() {
    let checked = run(&mut wardcast(&["config", "check", "--set", "audit.output=/absent/folder/audit.log"]));
    assert!(checked.code != Some(0) && checked.stderr.contains("audit.output"), "{checked:?}");
    assert!(checked.stderr.contains("/absent/folder/audit.log"), "{checked:?}");
}

#[test]
fn check_names_both_listeners() {
    let checked = run(&mut wardcast(&["config", "check", "--set", "server.internal_bind=127.0.0.1:8001"]));
    assert!(checked.stdout.contains("clients connect to 127.0.0.1:8000, backends to 127.0.0.1:8001"), "{checked:?}");
    let same = run(&mut wardcast(&["config", "check", "--set", "server.internal_bind=127.0.0.1:8000"]));
    assert!(same.code != Some(0) && same.stderr.contains("server.internal_bind"), "{same:?}");
}
