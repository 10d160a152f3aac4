//! The examples of every `--help`: pasted into a shell as they are printed on a terminal of 80 columns, they work.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use super::{
    process::{Banner, Process, wardcast},
    read_created_files,
};
use crate::support::mark_secret;

const COMMANDS: [&[&str]; 13] = [
    &[],
    &["serve"],
    &["token"],
    &["check-token"],
    &["init"],
    &["user"],
    &["hash-password"],
    &["config"],
    &["health"],
    &["api"],
    &["pub"],
    &["sub"],
    &["top"],
];

/// The examples of a help text: lines indented by four spaces. A line that ends in a backslash continues.
fn examples(help: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let after = help.split_once("Example").map_or("", |(_, after)| after);
    // Lines indented by two spaces explain the examples.
    let lines = after.lines().skip(1).take_while(|line| line.starts_with("  "));
    for line in lines.filter_map(|line| line.strip_prefix("    ")) {
        match found.last_mut().filter(|last| last.ends_with('\\')) {
            Some(last) => *last += &format!("\n{line}"),
            None => found.push(line.to_owned()),
        }
    }
    found
}

/// Whether a command runs a hub: it has no subcommand.
fn runs_hub(command: &str) -> bool {
    let mut words = command.split_whitespace();
    if !words.any(|word| word == "wardcast") {
        return false;
    }
    while let Some(word) = words.next() {
        match word {
            "--config" | "--set" => drop(words.next()),
            word if word.starts_with("--") => {}
            _ => return false,
        }
    }
    true
}

/// A shell of a user with the binary in its path.
fn shell(home: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(home).env_clear().env("HOME", home);
    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", home.display()));
    command
}

/// Runs an example of `sub`, and publishes until it has printed something.
fn sub_prints_a_publication(home: &Path, mut example: Command) {
    let tail = Process::start(&mut example);
    let printed = tail.wait_for_line(|| {
        let published = Process::start(&mut shell(home, "wardcast pub news 1")).wait_for_exit();
        assert_eq!(published.code, Some(0), "{published:?}");
    });
    assert!(printed.contains('1'), "{printed}");
}

#[test]
fn examples_of_every_help_work_when_pasted() {
    let home = tempfile::tempdir().unwrap();
    symlink(env!("CARGO_BIN_EXE_wardcast"), home.path().join("wardcast")).unwrap();
    let mut running: Option<(Process, Banner)> = None;
    let mut count = 0;
    for command in COMMANDS {
        let mut help = wardcast(&[command, &["--help"]].concat());
        let help = Process::start(help.env("COLUMNS", "80")).wait_for_exit().stdout;
        for example in examples(&help) {
            assert!(
                ["wardcast", "eval", "seq"].iter().any(|start| example.starts_with(start)),
                "not a command: {example}"
            );
            count += 1;
            if runs_hub(&example) {
                // On any free port, and in the place of the shell, so that it ends with the test.
                let script = example.replace(":9000", ":0").replacen("wardcast", "exec wardcast", 1);
                let mut hub = Process::start(shell(home.path(), &script).env("WARDCAST_SERVER__BIND", "127.0.0.1:0"));
                hub.wait_for_log("server started");
                if running.is_none() {
                    let banner = hub.banner();
                    running = Some((hub, banner));
                }
                continue;
            }
            let address = running.as_ref().unwrap().1.address;
            let script = example.replace("127.0.0.1:8000", &address.to_string());
            let mut shell = shell(home.path(), &script);
            // `health` has to ask the hub that runs, `config check` is not about it.
            if example.starts_with("wardcast health") {
                shell.env("WARDCAST_SERVER__BIND", address.to_string());
            }
            if example.starts_with("wardcast sub") {
                sub_prints_a_publication(home.path(), shell);
                continue;
            }
            let input = if example.contains("wardcast user add") { "correct horse\n" } else { "" };
            let result = Process::start_with_input(&mut shell, input).wait_for_exit();
            if example.contains("wardcast token") {
                result.stdout.lines().for_each(|token| _ = mark_secret(token));
            }
            assert_eq!(result.code, Some(0), "{example}: {}", result.stderr);
        }
    }
    mark_secret(fs::read_to_string(home.path().join("token.txt")).unwrap().trim());
    read_created_files(home.path().join("hub").to_str().unwrap());
    assert!(count >= 16, "{count} examples");
}
