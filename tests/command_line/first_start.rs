//! The first start in production: `init` generates a configuration, and a hub on which no channel is open says so.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    LOOPBACK, connect_with_token, printed_login,
    process::{Process, ProcessResult, run, wardcast},
    read_created_files,
};
use crate::support::{SECRET, http, mark_secret};

/// The lines of `wardcast.toml` that are examples in comments, without the comment signs.
fn commented_examples(text: &str) -> String {
    let examples = text.lines().filter_map(|line| line.strip_prefix("# "));
    let is_toml =
        |line: &&str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    examples.filter(is_toml).map(|line| format!("{line}\n")).collect()
}

/// The two lines below the warning that no channel is open.
fn lines_below_warning(text: &str) -> String {
    let lines = text.lines().skip_while(|line| !line.contains("no channel is open")).skip(1).take(2);
    lines.map(|line| format!("{}\n", line.trim())).collect()
}

fn production(arguments: &[&str]) -> std::process::Command {
    let mut command = wardcast(arguments);
    command.env("WARDCAST_ENV", "production").env("WARDCAST_AUTH__HMAC_SECRET", SECRET);
    command
}

/// Starts a production hub with a file, logs in with the credentials, and subscribes to `news`.
async fn subscribe_to_news(settings: &str, credentials: &Value) -> Value {
    let mut command = wardcast(&[&["--config", settings], &LOOPBACK[..]].concat());
    let hub = Process::start(command.env("WARDCAST_ENV", "production"));
    let line = hub.wait_for_log("server started");
    let address = line.split_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let response = http::post(address, "/auth/login").json(credentials.clone()).send().await;
    let mut client = connect_with_token(address, mark_secret(response.json()["access_token"].as_str().unwrap())).await;
    client.request(json!({"id": 1, "subscribe": {"channel": "news"}})).await
}

#[actix_rt::test]
async fn start_after_init_warns_that_no_channel_is_open_with_lines_that_open_one() {
    let home = tempfile::tempdir().unwrap();
    let init = run(wardcast(&["init", "--dir", "prod"]).current_dir(home.path()));
    let dir = home.path().join("prod");
    let settings = dir.join("wardcast.toml").to_str().unwrap().to_owned();
    let [text, _] = read_created_files(dir.to_str().unwrap());
    assert!(init.stdout.contains(&format!("WARDCAST_ENV=production wardcast --config {settings}")), "{init:?}");
    let check = || run(wardcast(&["config", "check", "--config", &settings]).env("WARDCAST_ENV", "production"));
    let warned = check();
    assert!(warned.code == Some(0) && warned.stdout.contains("warning: no channel is open"), "{warned:?}");
    let credentials = printed_login(&init);
    let refused = subscribe_to_news(&settings, &credentials).await;
    assert_eq!(refused["error"]["code"], 103, "{refused}");

    let lines = lines_below_warning(&warned.stdout);
    let mut hub =
        Process::start(wardcast(&[&["--config", &settings], &LOOPBACK[..]].concat()).env("WARDCAST_ENV", "production"));
    hub.wait_for_log("server started");
    let log = hub.kill();
    assert!(log.contains("WARN") && lines_below_warning(&log) == lines, "{log}");
    fs::write(&settings, format!("{text}\n{lines}")).unwrap();
    assert_eq!(check().stdout, "the configuration is valid for production");
    let subscribed = subscribe_to_news(&settings, &credentials).await;
    assert!(subscribed["subscribe"].is_object(), "{subscribed}");
}

#[test]
fn examples_in_the_file_of_init_are_valid_without_their_comment_signs() {
    let home = tempfile::tempdir().unwrap();
    run(&mut wardcast(&["init", "--dir", home.path().to_str().unwrap()]));
    let [text, _] = read_created_files(home.path().to_str().unwrap());
    let examples = commented_examples(&text);
    let sections: Vec<&str> = examples.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(sections.len(), 4, "{examples}");
    let file = home.path().join("all.toml");
    fs::write(&file, format!("{text}\n{examples}")).unwrap();
    let mut check = production(&["config", "check", "--config", file.to_str().unwrap()]);
    // Everything is valid but the certificate, which the operator has to provide.
    let result = run(&mut check);
    result.assert_failed_with(&["1 error:", "server.tls (from", "/etc/wardcast/tls/fullchain.pem"]);
}

#[test]
fn start_line_of_init_is_printed_again_and_quoted_for_the_shell() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("it's mine");
    let init = || run(&mut wardcast(&["init", "--dir", dir.to_str().unwrap()]));
    let line = |result: &ProcessResult| {
        let lines = result.stdout.lines().find_map(|line| line.split_once("wardcast --config ").map(|(_, path)| path));
        lines.unwrap().to_owned()
    };
    let (first, second) = (init(), init());
    printed_login(&first);
    read_created_files(dir.to_str().unwrap());
    assert_eq!(line(&first), line(&second));
    let script = format!("printf %s {}", line(&first));
    let unquoted = run(std::process::Command::new("sh").args(["-c", &script])).stdout;
    assert_eq!(Path::new(&unquoted), dir.join("wardcast.toml"));
}

#[test]
fn no_warning_where_channels_are_open_or_the_operator_has_decided() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.toml");
    let user = |name: &str, grants: &[&str]| {
        let arguments = [&["user", "add", name, "--file", users.to_str().unwrap()], grants].concat();
        assert_eq!(Process::start_with_input(&mut wardcast(&arguments), "right horse\n").wait_for_exit().code, Some(0));
    };
    let warns = |text: &str| {
        let file = folder.path().join("wardcast.toml");
        fs::write(&file, text).unwrap();
        let result = run(&mut production(&["config", "check", "--config", file.to_str().unwrap()]));
        assert_eq!(result.code, Some(0), "{result:?}");
        result.stdout.contains("no channel is open")
    };
    user("ann", &[]);
    let login = format!("[login]\nusers_file = {:?}\n", users.to_str().unwrap());
    for closed in ["", "[channels]\nallow_publish = \"user\"\n", "[[namespaces]]\nname = \"chat\"\n", &login] {
        assert!(warns(closed), "{closed}");
    }
    user("bob", &["--channel", "news"]);
    for open in [
        "[channels]\nallow_subscribe = \"user\"\n",
        "[channels]\nallow_subscribe = \"anonymous\"\n",
        "[[namespaces]]\nname = \"chat\"\nallow_subscribe = \"user\"\n",
        "[channels]\nallow_subscribe = \"none\"\n",
        &login,
    ] {
        assert!(!warns(open), "{open}");
    }
    let development = run(&mut wardcast(&["config", "check"]));
    assert_eq!(development.stdout, "the configuration is valid for development");
}
