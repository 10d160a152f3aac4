//! The commands `config check` and `config print`, and the errors and warnings about the configuration at start.

use std::{fs, process::Command};

use super::{
    LOOPBACK, SIGHUP,
    process::{Process, run, wardcast},
};
use crate::support::{API_KEY, KillOnDrop, SECRET, mark_secret, tls::Authority};

#[test]
fn config_check_reports_every_start_error_including_those_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let users = file("users.toml", "[[users]]\nname = \"ann\"\npassword = \"in the clear\"\n");
    let settings = file(
        "wardcast.toml",
        &format!(
            "[server]\nbnid = \"127.0.0.1:1\"\ntls.cert = \"/nowhere/cert.pem\"\ntls.key = \"/nowhere/key.pem\"\n[login]\n\
             users_file = {users:?}\n[[auth.keys]]\nid = \"a\"\nalgorithm = \"ES256\"\nfile = \"/nowhere/a.pem\"\n\
             [[auth.keys]]\nid = \"b\"\nalgorithm = \"ES256\"\nfile = \"/nowhere/b.pem\"\n"
        ),
    );
    let result = run(&mut wardcast(&["config", "check", "--config", &settings]));
    result.assert_failed_with(&[
        "5 errors",
        &format!("server.bnid (from {settings}:2): unknown key; did you mean server.bind?"),
        &format!("server.tls (from {settings}:3): /nowhere/cert.pem"),
        &format!("login.users_file (from {settings}:6): the password of user \"ann\" is not an argon2id hash"),
        "auth.keys \"a\" (/nowhere/a.pem)",
        "auth.keys \"b\" (/nowhere/b.pem)",
        "wardcast hash-password",
    ]);
    assert!(!result.stderr.contains("in the clear"), "{}", result.stderr);
    let start = run(&mut wardcast(&["--config", &settings]));
    assert_eq!(start.stderr, result.stderr, "a start must report the same errors");
    let fine = run(&mut wardcast(&["config", "check"]));
    assert_eq!((fine.code, fine.stdout.as_str()), (Some(0), "the configuration is valid for development"));
}

#[test]
fn config_check_and_start_report_faults_in_the_tls_files_of_redis() {
    let authority = Authority::new();
    let garbage = authority.root_path().with_file_name("garbage.pem");
    fs::write(&garbage, "not PEM").unwrap();
    let ca = format!("broker.redis.tls.ca={}", garbage.display());
    let settings = ["--set", "broker.type=redis", "--set", "broker.redis.url=rediss://localhost", "--set", &ca];
    let check = run(&mut wardcast(&[&["config", "check"], &settings[..]].concat()));
    check.assert_failed_with(&["broker.redis.tls.ca (from the flag --set broker.redis.tls.ca)", "no certificate"]);
    assert_eq!(run(&mut wardcast(&settings)).stderr, check.stderr, "a start must report the same errors");
    let unused = run(&mut wardcast(&["config", "check", "--set", "broker.redis.url=redis://localhost"]));
    unused.assert_failed_with(&["broker.redis.url", "set broker.type = \"redis\", or remove this key"]);
}

#[test]
fn config_print_shows_values_and_sources_and_no_secret() {
    let key = format!("api.key={API_KEY}");
    let mut command = wardcast(&["config", "print", "--set", &key, "--set", "log.level=debug"]);
    let printed = run(command.env("WARDCAST_AUTH__HMAC_SECRET", SECRET).env("WARDCAST_SERVER__BIND", "127.0.0.1:1"));
    for line in [
        "bind = \"127.0.0.1:1\"  # from the variable WARDCAST_SERVER__BIND\n",
        "hmac_secret = \"<set>\"  # from the variable WARDCAST_AUTH__HMAC_SECRET\n",
        "key = \"<set>\"  # from the flag --set api.key\n",
        "level = \"debug\"  # from the flag --set log.level",
        "allow_publish = \"user\"  # from development.toml",
    ] {
        assert!(printed.stdout.contains(line), "no {line:?} in {}", printed.stdout);
    }
    assert!(!printed.stdout.contains(SECRET) && !printed.stdout.contains(API_KEY), "{}", printed.stdout);
    run(&mut wardcast(&["config", "print", "--set", "log.level=loud"])).assert_failed_with(&["log.level", "loud"]);
    let defaults = run(&mut wardcast(&["config", "print", "--defaults", "--set", "log.level=loud"]));
    assert_eq!(defaults.stdout.trim_end(), include_str!("../../config/default.toml").trim_end());
}

#[test]
fn invalid_toml_is_reported_with_line_and_column() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "[server]\n\nbind = 127.0.0.1:8000\n").unwrap();
    let path = file.path().to_str().unwrap();
    run(&mut wardcast(&["--config", path])).assert_failed_with(&[&format!("{path}:3:")]);
}

#[test]
fn wrong_value_is_explained_in_configuration_terms() {
    let check = |setting: &str| run(&mut wardcast(&["config", "check", "--set", setting]));
    for name in ["localhost:", "8000", "127.0.0.1"] {
        check(&format!("server.bind={name}")).assert_failed_with(&[name, "like \"127.0.0.1:8000\""]);
    }
    for number in ["-3", "many", "99999999999999999999"] {
        check(&format!("limits.connections={number}")).assert_failed_with(&[number, "a whole number, not negative"]);
    }
}

#[test]
fn demo_password_is_refused_in_production_and_together_with_users_file() {
    let demo = format!("login.demo_password={}", mark_secret("right horse"));
    let mut command = wardcast(&["config", "check", "--set", &demo]);
    let result = run(command.env("WARDCAST_ENV", "production").env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    result.assert_failed_with(&["login.demo_password (from the flag --set login.demo_password)", "wardcast user add"]);
    assert!(!result.stderr.contains("right horse"), "{}", result.stderr);
    let result =
        run(&mut wardcast(&["config", "check", "--set", &demo, "--set", "login.users_file=/nowhere/users.toml"]));
    result.assert_failed_with(&["remove one of them", "/nowhere/users.toml", "wardcast user add NAME --file"]);
}

#[test]
fn address_of_another_machine_is_refused_with_a_working_suggestion() {
    let mut command = wardcast(&["--set", "server.bind=192.0.2.1:8000", "--set", "server.behind_tls=true"]);
    let result = run(command.env("WARDCAST_ENV", "production").env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    result.assert_failed_with(&["192.0.2.1:8000", "does not have that address", "--set server.bind=127.0.0.1:8000"]);
}

#[test]
fn open_file_limit_is_raised_or_a_warning_is_logged() {
    let start_under = |limits: &str, settings: &str| {
        let mut hub = start_under(limits, settings);
        (soft_open_file_limit(&hub), hub.kill())
    };
    let few = "--set limits.connections=100 --set limits.http_connections=10";
    let (soft, log) = start_under("ulimit -Sn 128; ulimit -Hn 2048", few);
    assert!(soft == "366" && !log.contains("open"), "{soft}: {log}");
    let (soft, log) = start_under("ulimit -Sn 128; ulimit -Hn 256", &format!("{few} --set log.level=debug"));
    assert!(soft == "256" && log.contains("limits.connections is 100") && log.contains("ulimit -n"), "{log}");
}

#[test]
fn reload_with_more_connections_raises_the_open_file_limit_or_a_warning_is_logged() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |connections: usize| {
        let text = format!("[limits]\nconnections = {connections}\nhttp_connections = 10\n[log]\nlevel = \"debug\"\n");
        fs::write(file.path(), text).unwrap();
    };
    write(100);
    let mut hub =
        start_under("ulimit -Sn 128; ulimit -Hn 2048", &format!("--ephemeral --config {}", file.path().display()));
    assert_eq!(soft_open_file_limit(&hub), "366");
    write(200);
    hub.signal(SIGHUP);
    hub.wait_for_log("reloaded configuration");
    write(3000);
    hub.signal(SIGHUP);
    let line = hub.wait_for_log("open file limit too low");
    assert!(line.contains("limits.connections is 3000") && line.contains("2048 files"), "{line}");
    assert_eq!(soft_open_file_limit(&hub), "2048");
    write(200);
    hub.signal(SIGHUP);
    let log = hub.kill();
    assert_eq!(log.matches("open file limit too low").count(), 1, "{log}");
}

/// Starts a hub in a shell that has set limits.
fn start_under(limits: &str, settings: &str) -> Process {
    let binary = env!("CARGO_BIN_EXE_wardcast");
    let script = format!("{limits}; exec {binary} --set server.bind=127.0.0.1:0 {settings}");
    let mut hub = Process::start(Command::new("sh").args(["-c", &script]).env_clear());
    hub.banner();
    hub
}

fn soft_open_file_limit(hub: &Process) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", hub.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

#[test]
fn version_help_and_completions_work_and_mistyped_command_exits_2_with_suggestion() {
    let version = run(&mut wardcast(&["--version"])).stdout;
    let commit = version.strip_prefix(&format!("wardcast {} (", env!("CARGO_PKG_VERSION"))).unwrap();
    assert!(commit.ends_with(')') && commit.len() > 7, "{version}");
    let help = run(&mut wardcast(&["--help"])).stdout;
    assert!(help.contains("Examples:") && help.contains("WARDCAST_ENV") && help.contains("check-token"), "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&mut wardcast(&["completions", shell])).stdout.contains("check-token"), "{shell}");
    }
    let mistyped = run(&mut wardcast(&["chek-token"]));
    assert!(mistyped.code == Some(2) && mistyped.stderr.contains("'check-token'"), "{mistyped:?}");
}

#[test]
fn closed_stdout_is_no_error_and_full_disk_is() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = wardcast(&["config", "print", "--defaults"]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = wardcast(&["config", "print"]).stdout(full).output().unwrap();
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("stdout: "));
}

#[test]
fn hub_runs_when_its_banner_is_not_read() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut hub = KillOnDrop(wardcast(&LOOPBACK).stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap());
    let mut log = std::io::BufRead::lines(std::io::BufReader::new(hub.0.stderr.take().unwrap()));
    assert!(log.any(|line| line.unwrap().contains("cannot print the token")));
    assert!(hub.0.try_wait().unwrap().is_none(), "the hub has exited");
}
