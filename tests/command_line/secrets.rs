//! The secrets that development hubs generate: kept in a file of the user, which other users can neither read nor redirect.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{
    LOOPBACK, SIGTERM, connect_with_token,
    process::{Banner, Process, ProcessResult, run, wardcast},
};
use crate::support::{API_KEY, SECRET, http, mark_secret};

/// A user of the machine with a home directory.
struct User(tempfile::TempDir);

impl User {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join(".local/state/wardcast")
    }

    fn file(&self) -> PathBuf {
        self.directory().join("development.toml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = wardcast(arguments);
        command.env("HOME", self.0.path());
        command
    }

    /// Starts a development hub and waits for its banner.
    fn start_hub(&self, arguments: &[&str]) -> (Process, Banner) {
        let mut hub = Process::start(&mut self.command(&[&LOOPBACK[..], arguments].concat()));
        let banner = hub.banner();
        (hub, banner)
    }

    /// Tries to start a hub that must fail.
    fn refused_start(&self) -> ProcessResult {
        run(&mut self.command(&LOOPBACK))
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The API key in a banner.
fn api_key(banner: &Banner) -> &str {
    banner.text.lines().find_map(|line| line.trim().strip_prefix("API key  ")).unwrap()
}

async fn publish(banner: &Banner, key: &str) -> u16 {
    let request = http::post(banner.address, "/api/publish").header("X-API-Key", key);
    request.json(json!({"channel": "news", "data": 1})).send().await.status
}

#[actix_rt::test]
async fn token_and_check_token_work_beside_a_development_hub_and_survive_its_restart() {
    let user = User::new();
    let (hub, first) = user.start_hub(&[]);
    assert!(first.text.contains(user.file().to_str().unwrap()), "{}", first.text);
    assert_eq!((mode(&user.file()), mode(&user.directory())), (0o600, 0o700));
    let made = run(&mut user.command(&["token", "--user", "ann"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stderr.contains(user.file().to_str().unwrap()) && made.stderr.contains("--config"), "{made:?}");
    connect_with_token(first.address, &made.stdout).await;
    for token in [&made.stdout, &first.token] {
        let checked = Process::start_with_input(&mut user.command(&["check-token"]), token).wait_for_exit();
        assert!(checked.code == Some(0) && checked.stdout.contains("valid: opens connections"), "{checked:?}");
    }
    hub.signal(SIGTERM);
    assert_eq!(hub.wait_for_exit().code, Some(0));

    let (_hub, second) = user.start_hub(&[]);
    assert_eq!((&second.password, api_key(&second)), (&first.password, api_key(&first)));
    for token in [&made.stdout, &first.token] {
        connect_with_token(second.address, token).await;
    }
    assert_eq!(publish(&second, api_key(&first)).await, 200);
}

#[actix_rt::test]
async fn ephemeral_hub_neither_uses_nor_keeps_secrets() {
    let user = User::new();
    let (_hub, one) = user.start_hub(&["--ephemeral"]);
    assert!(!user.directory().exists() && one.text.contains("for this run only"), "{}", one.text);
    let (_hub, kept) = user.start_hub(&[]);
    let (_hub, two) = user.start_hub(&["serve", "--ephemeral"]);
    assert!(api_key(&one) != api_key(&two) && api_key(&two) != api_key(&kept), "the secrets must differ");
    assert_eq!([publish(&two, api_key(&two)).await, publish(&two, api_key(&kept)).await], [200, 401]);
    run(&mut user.command(&["--ephemeral", "token", "--user", "ann"])).assert_failed_with(&["wardcast --ephemeral"]);
    let mut production = user.command(&["--ephemeral"]);
    run(production.env("WARDCAST_ENV", "production").env("WARDCAST_AUTH__HMAC_SECRET", SECRET))
        .assert_failed_with(&["--ephemeral is for development"]);
}

#[test]
fn configured_secrets_take_precedence_and_production_ignores_the_file() {
    let user = User::new();
    let configured = |command: &mut Command| {
        command.env("WARDCAST_AUTH__HMAC_SECRET", SECRET).env("WARDCAST_API__KEY", API_KEY);
    };
    let mut complete = user.command(&[&LOOPBACK[..], &["--set", "login.users_file=/dev/null"]].concat());
    configured(&mut complete);
    Process::start(&mut complete).banner();
    assert!(!user.file().exists(), "no secret was missing");
    user.start_hub(&[]);
    let mut partial = user.command(&LOOPBACK);
    configured(&mut partial);
    assert_eq!(api_key(&Process::start(&mut partial).banner()), API_KEY);
    let mut made = user.command(&["token", "--user", "ann"]);
    configured(&mut made);
    assert_eq!(run(&mut made).stderr, "", "the configured secret signs");
    run(user.command(&["token", "--user", "ann"]).env("WARDCAST_ENV", "production"))
        .assert_failed_with(&["production requires"]);
}

#[test]
fn hubs_that_start_together_share_one_set_of_secrets() {
    let user = User::new();
    let mut hubs: Vec<Process> = (0..6).map(|_| Process::start(&mut user.command(&LOOPBACK))).collect();
    let banners: Vec<Banner> = hubs.iter_mut().map(Process::banner).collect();
    assert!(banners.iter().all(|banner| api_key(banner) == api_key(&banners[0])));
    let mut files: Vec<_> = fs::read_dir(user.directory()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["development.toml", "running.toml"], "a temporary file is left");
}

#[test]
fn secrets_file_that_others_can_write_read_or_redirect_stops_the_hub() {
    let user = User::new();
    let elsewhere = user.0.path().join("elsewhere");
    fs::create_dir_all(user.directory()).unwrap();
    symlink(&elsewhere, user.file()).unwrap();
    user.refused_start().assert_failed_with(&["development.toml: is a symbolic link", "--ephemeral"]);
    assert!(!elsewhere.exists(), "the target of the link was created");

    fs::remove_file(user.file()).unwrap();
    let made = Command::new("mkfifo").arg(user.file()).status().unwrap();
    assert!(made.success());
    user.refused_start().assert_failed_with(&["is not a regular file"]);

    fs::remove_file(user.file()).unwrap();
    user.start_hub(&[]);
    let kept = fs::read_to_string(user.file()).unwrap();
    kept.split('"').skip(1).step_by(2).for_each(|secret| _ = mark_secret(secret));
    fs::set_permissions(user.file(), fs::Permissions::from_mode(0o640)).unwrap();
    user.refused_start().assert_failed_with(&["is accessible by other users", "run: rm "]);
    run(&mut user.command(&["token", "--user", "ann"])).assert_failed_with(&["is accessible by other users"]);

    fs::set_permissions(user.file(), fs::Permissions::from_mode(0o600)).unwrap();
    for broken in ["", "[auth]\n", &kept.replace("hmac_secret = \"", "hmac_secret = \"short\" # ")] {
        fs::write(user.file(), broken).unwrap();
        user.refused_start().assert_failed_with(&["does not contain the secrets", "run: rm "]);
    }

    fs::write(user.file(), &kept).unwrap();
    fs::set_permissions(user.directory(), fs::Permissions::from_mode(0o770)).unwrap();
    user.refused_start().assert_failed_with(&["wardcast: is writable by other users", "chmod 700"]);

    fs::set_permissions(user.directory(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(user.directory(), &elsewhere).unwrap();
    symlink(&elsewhere, user.directory()).unwrap();
    user.refused_start().assert_failed_with(&["state/wardcast: is a symbolic link"]);
}

#[test]
fn secrets_file_of_another_user_stops_the_hub() {
    let user = User::new();
    user.start_hub(&[]);
    // Only root can give a file away.
    if chown(user.file(), Some(12_345), None).is_err() {
        return;
    }
    user.refused_start()
        .assert_failed_with(&["development.toml: belongs to the user with the id 12345", "--ephemeral"]);
    chown(user.directory(), Some(12_345), None).unwrap();
    user.refused_start().assert_failed_with(&["state/wardcast: belongs to the user with the id 12345"]);
}

#[test]
fn hub_that_cannot_keep_its_secrets_starts_with_a_warning() {
    let mut hub = Process::start(wardcast(&LOOPBACK).env("HOME", "/dev/null"));
    let banner = hub.banner();
    assert!(banner.text.contains("for this run only"), "{}", banner.text);
    assert!(hub.kill().contains("cannot keep the generated secrets"));
    let user = User::new();
    let state = user.0.path().join("state");
    // A relative path is ignored.
    for (state, used) in [(state.to_str().unwrap(), &state), ("state", &user.0.path().join(".local/state"))] {
        let mut hub = Process::start(user.command(&LOOPBACK).env("XDG_STATE_HOME", state));
        hub.banner();
        assert!(used.join("wardcast/development.toml").exists(), "{}", used.display());
    }
}
