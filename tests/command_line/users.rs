//! The login file: edited by the command `user`, read by hubs.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::json;

use super::{
    LOOPBACK, SIGHUP, connect_with_token,
    process::{Process, ProcessResult, run, wardcast},
    read_created_files,
};
use crate::support::{http, mark_secret};

/// A folder for a login file.
struct UsersFolder {
    folder: tempfile::TempDir,
}

impl UsersFolder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("users.toml")
    }

    /// The text of the file. Marks its hashes as secrets.
    fn text(&self) -> String {
        let text = fs::read_to_string(self.file()).unwrap();
        text.lines()
            .filter_map(|line| line.strip_prefix("password = "))
            .for_each(|hash| _ = mark_secret(hash.trim_matches('"')));
        text
    }

    /// Runs `user` on the file.
    fn user(&self, arguments: &[&str], password: &str) -> ProcessResult {
        let file = self.file();
        let arguments = [&["user"], arguments, &["--file", file.to_str().unwrap()]].concat();
        Process::start_with_input(&mut wardcast(&arguments), password).wait_for_exit()
    }

    /// Starts a hub with the file.
    fn start_hub(&self) -> Process {
        let users = format!("login.users_file={}", self.file().display());
        Process::start(&mut wardcast(&[&LOOPBACK[..], &["--set", &users]].concat()))
    }
}

async fn log_in(address: std::net::SocketAddr, name: &str, password: &str) -> http::Response {
    let body = json!({"username": name, "password": password});
    let response = http::post(address, "/auth/login").json(body).send().await;
    if response.status == 200 {
        mark_secret(response.json()["access_token"].as_str().unwrap());
    }
    response
}

#[actix_rt::test]
async fn added_user_can_log_in_and_gets_the_granted_channels() {
    let home = UsersFolder::new();
    let added = home.user(&["add", "ann", "--channel", "news", "--info", r#"{"name":"Ann"}"#], "right horse\n");
    assert_eq!((added.code, added.stderr.as_str()), (Some(0), ""), "{added:?}");
    home.text();
    assert_eq!(fs::metadata(home.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let mut hub = home.start_hub();
    let banner = hub.banner();
    assert!(banner.text.contains("users.toml") && !banner.text.contains("user demo"), "{}", banner.text);
    let response = log_in(banner.address, "ann", "right horse").await;
    connect_with_token(banner.address, response.json()["access_token"].as_str().unwrap()).await;
    assert_eq!(log_in(banner.address, "demo", "right horse").await.status, 401);
}

#[actix_rt::test]
async fn sighup_reloads_users_file_and_invalid_file_keeps_old_users() {
    let home = UsersFolder::new();
    home.user(&["add", "ann"], "right horse\n");
    let mut hub = home.start_hub();
    let address = hub.banner().address;
    assert_eq!(log_in(address, "bob", "wrong horse").await.status, 401);
    home.user(&["add", "bob"], "wrong horse\n");
    home.user(&["remove", "ann"], "");
    home.text();
    hub.signal(SIGHUP);
    hub.wait_for_log("reloaded login file");
    assert_eq!(log_in(address, "bob", "wrong horse").await.status, 200);
    assert_eq!(log_in(address, "ann", "right horse").await.status, 401);

    fs::write(home.file(), "[[users]]\nname = \"eve\"\npassword = \"in the clear\"\n").unwrap();
    hub.signal(SIGHUP);
    hub.wait_for_log("login file reload failed");
    assert_eq!(log_in(address, "bob", "wrong horse").await.status, 200);
    let stderr = hub.kill();
    assert!(stderr.contains("hash-password"), "the log must say what to do: {stderr}");
}

#[test]
fn edits_keep_comments_and_formatting_of_users_file() {
    let home = UsersFolder::new();
    home.user(&["add", "ann"], "right horse\n");
    let text = home.text();
    fs::write(home.file(), format!("# ours\n\n{text}caps = [{{ channels = [\"a\"], allow = [\"pub\"] }}] # hers\n"))
        .unwrap();
    fs::set_permissions(home.file(), fs::Permissions::from_mode(0o640)).unwrap();
    for (arguments, password) in
        [(&["add", "bob"][..], "right bike\n"), (&["passwd", "ann"], "left horse\n"), (&["remove", "bob"], "")]
    {
        let changed = home.user(arguments, password);
        assert!(changed.code == Some(0) && changed.stdout.contains("SIGHUP"), "{changed:?}");
    }
    let after = home.text();
    assert!(after.starts_with("# ours\n") && after.contains("# hers") && !after.contains("bob"), "{after}");
    assert_ne!(after, text);
    assert_eq!(fs::metadata(home.file()).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(home.user(&["list"], "").stdout, "ann  caps");
    assert_eq!(fs::read_dir(home.folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn concurrent_edits_of_users_file_are_all_kept() {
    let home = UsersFolder::new();
    let file = home.file();
    let add = |name| {
        Process::start_with_input(
            &mut wardcast(&["user", "add", name, "--file", file.to_str().unwrap()]),
            "right horse\n",
        )
    };
    for ended in ["a", "b", "c", "d"].map(add).map(Process::wait_for_exit) {
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    home.text();
    let listed = home.user(&["list"], "").stdout;
    assert_eq!(listed.lines().count(), 4, "{listed}");
}

#[test]
fn invalid_edit_leaves_users_file_unchanged() {
    let home = UsersFolder::new();
    home.user(&["add", "ann"], "right horse\n");
    let text = home.text();
    home.user(&["add", "ann"], "right horse\n").assert_failed_with(&["\"ann\" already exists", "wardcast user passwd"]);
    home.user(&["add", ""], "right horse\n").assert_failed_with(&["1 to 255 bytes"]);
    home.user(&["add", "bob", "--channel", "chat:1"], "right horse\n")
        .assert_failed_with(&["nothing was changed", "namespace"]);
    home.user(&["add", "bob", "--info", "null"], "right horse\n").assert_failed_with(&["--info", "null"]);
    home.user(&["add", "bob"], "\n").assert_failed_with(&["a password must have 1 to 1024 bytes"]);
    home.user(&["add", "bob"], &format!("{}\n", "x".repeat(1025)))
        .assert_failed_with(&["a password must have 1 to 1024 bytes"]);
    home.user(&["remove", "bob"], "").assert_failed_with(&["no user \"bob\"", "wardcast user list"]);
    home.user(&["passwd", "bob"], "right horse\n").assert_failed_with(&["no user \"bob\""]);
    assert_eq!(home.text(), text);
    run(&mut wardcast(&["user", "list"])).assert_failed_with(&["login.users_file is not set", "--file"]);
    fs::write(home.file(), "password = hunter22\n").unwrap();
    let broken = home.user(&["add", "bob"], "right horse\n");
    broken.assert_failed_with(&["line 1 is not valid TOML"]);
    assert!(!broken.stderr.contains("hunter22"), "{broken:?}");
}

#[actix_rt::test]
async fn init_keeps_existing_users() {
    let home = UsersFolder::new();
    home.user(&["add", "ann"], "right horse\n");
    let before = home.text();
    let dir = home.folder.path().to_str().unwrap();
    let made = run(&mut wardcast(&["init", "--dir", dir]));
    read_created_files(dir);
    assert!(made.code == Some(0) && made.stdout.contains("wardcast user passwd NAME --file"), "{made:?}");
    assert!(!made.stdout.contains("Log in as"), "no user was added: {made:?}");
    assert_eq!(home.text(), before);
    let mut hub = home.start_hub();
    assert_eq!(log_in(hub.banner().address, "ann", "right horse").await.status, 200);
}

#[test]
fn init_refuses_invalid_user_name_and_quotes_valid_name_for_the_shell() {
    let home = UsersFolder::new();
    let dir = home.folder.path().join("hub");
    let init = |user: &str| run(&mut wardcast(&["init", "--dir", dir.to_str().unwrap(), "--user", user]));
    for bad in ["", "red\u{1b}[31m"] {
        init(bad).assert_failed_with(&["1 to 255 bytes"]);
        assert!(!dir.exists(), "no file was created");
    }
    let made = init("o'brien");
    read_created_files(dir.to_str().unwrap());
    let line = made.stdout.lines().find(|line| line.contains("/auth/login")).unwrap();
    let script = line.trim().replacen("curl ", "printf '%s\\n' ", 1);
    let printed = run(std::process::Command::new("sh").args(["-c", &script]));
    let body: serde_json::Value = printed.stdout.lines().last().unwrap().parse().unwrap();
    mark_secret(body["password"].as_str().unwrap());
    assert_eq!(body["username"], "o'brien");
}

#[test]
fn control_characters_from_files_are_escaped_on_the_terminal() {
    let home = UsersFolder::new();
    fs::write(home.file(), "[[users]]\nname = \"red\\u001b[31m\\u202e\"\npassword = \"x\"\n").unwrap();
    let list = home.user(&["list"], "");
    assert_eq!(list.stdout.trim_end(), r"red\u{1b}[31m\u{202e}");
    let settings = home.folder.path().join("wardcast.toml");
    fs::write(&settings, "\"red\\u001b[31m\" = 1\n").unwrap();
    let result = run(&mut wardcast(&["config", "check", "--config", settings.to_str().unwrap()]));
    result.assert_failed_with(&[r"red\u{1b}[31m (from ", "unknown key"]);
}
