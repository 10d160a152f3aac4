//! The first start in production: `init` generates a configuration, and a hub on which no channel is open says so.

use std::{fs, path::Path};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use super::{
    PRODUCTION_LOOPBACK, connect_with_token, printed_login,
    process::{Process, ProcessResult, run, wardcast},
    read_created_files,
};
use crate::support::{API_KEY, Client, SECRET, client::tls_stream, http, mark_secret};

/// What `config check` prints, before it names the listeners.
const VALID: &str = "the configuration is valid for production";

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

#[actix_rt::test]
async fn production_serves_the_server_api_on_another_address_unless_told_otherwise() {
    let address_of = |line: &str| line.split_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let start = |arguments: &[&str]| {
        let mut command = production(arguments);
        Process::start(command.env("WARDCAST_API__KEY", API_KEY))
    };
    let publish = async |address| {
        let call = http::post(address, "/api/publish").header("X-API-Key", API_KEY);
        call.json(json!({"channel": "news", "data": 1})).send().await
    };
    let two = start(&PRODUCTION_LOOPBACK);
    let public = address_of(&two.wait_for_log("server started"));
    let internal = address_of(&two.wait_for_log("served on the internal listener only"));
    let refused = publish(public).await;
    assert!(refused.status == 404 && refused.body.contains("server.internal_bind"), "{refused:?}");
    assert_eq!((publish(internal).await.status, http::get(public, "/metrics").send().await.status), (200, 404));
    let one = start(&["--set", "server.bind=127.0.0.1:0", "--set", "server.internal_bind="]);
    let public = address_of(&one.wait_for_log("server started"));
    assert_eq!((publish(public).await.status, http::get(public, "/metrics").send().await.status), (200, 200));
    let default = run(&mut production(&["config", "print"])).stdout;
    assert!(default.contains("internal_bind = \"127.0.0.1:8001\""), "{default}");
}

/// Starts a production hub with a file, logs in with the credentials, and subscribes to `news`.
async fn subscribe_to_news(settings: &str, credentials: &Value) -> Value {
    let hub = Process::start(&mut wardcast(&[&["--config", settings], &PRODUCTION_LOOPBACK[..]].concat()));
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
    assert!(init.stdout.contains(&format!("    wardcast --config {settings}")), "{init:?}");
    let check = || run(&mut wardcast(&["config", "check", "--config", &settings]));
    let warned = check();
    assert!(warned.code == Some(0) && warned.stdout.contains("warning: no channel is open"), "{warned:?}");
    let credentials = printed_login(&init);
    let refused = subscribe_to_news(&settings, &credentials).await;
    assert_eq!(refused["error"]["code"], 103, "{refused}");

    let lines = lines_below_warning(&warned.stdout);
    let mut hub = Process::start(&mut wardcast(&[&["--config", &settings], &PRODUCTION_LOOPBACK[..]].concat()));
    hub.wait_for_log("server started");
    let log = hub.kill();
    assert!(log.contains("WARN") && lines_below_warning(&log) == lines, "{log}");
    fs::write(&settings, format!("{text}\n{lines}")).unwrap();
    assert_eq!(check().stdout, VALID.to_owned() + "; clients connect to 127.0.0.1:8000, backends to 127.0.0.1:8001");
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
    assert_eq!(sections.len(), 5, "{examples}");
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
        "[channels]\nsubscribe_to_personal = true\n",
        &login,
    ] {
        assert!(!warns(open), "{open}");
    }
    let development = run(&mut wardcast(&["config", "check"]));
    assert_eq!(development.stdout, "the configuration is valid for development");
}

#[test]
fn environment_is_that_of_flag_variable_or_file_in_this_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wardcast.toml");
    fs::write(&file, "environment = \"production\"\n[channels]\nallow_subscribe = \"user\"\n").unwrap();
    let check = |arguments: &[&str], variable: &str| {
        let mut command = wardcast(&[&["config", "check"], arguments].concat());
        run(command.env("WARDCAST_ENV", variable).env("WARDCAST_AUTH__HMAC_SECRET", SECRET))
    };
    let with_file = ["--config", file.to_str().unwrap()];
    for (arguments, variable, environment) in [
        (&[][..], "", "development"),
        (&with_file, "", "production"),
        (&with_file, "development", "development"),
        (&["--set", "environment=production", "--set", "channels.allow_subscribe=user"], "development", "production"),
    ] {
        let result = check(arguments, variable);
        let valid = format!("the configuration is valid for {environment}");
        assert!(result.stdout.starts_with(&valid), "{result:?}");
    }
    check(&["--set", "environment=staging"], "").assert_failed_with(&["--set environment", "\"staging\" is neither"]);
    run(wardcast(&["config", "check"]).env("WARDCAST_ENVIRONMENT", "production"))
        .assert_failed_with(&["the variable WARDCAST_ENVIRONMENT", "WARDCAST_ENV"]);
}

#[test]
fn commands_beside_a_public_production_hub_need_only_its_file() {
    let home = tempfile::tempdir().unwrap();
    run(&mut wardcast(&["init", "--dir", home.path().to_str().unwrap()]));
    let [text, _] = read_created_files(home.path().to_str().unwrap());
    let file = home.path().join("wardcast.toml");
    fs::write(&file, format!("{text}\n[server]\nbind = \"0.0.0.0:443\"\nbehind_tls = true\n")).unwrap();
    let with_file =
        |arguments: &[&str]| run(&mut wardcast(&[arguments, &["--config", file.to_str().unwrap()]].concat()));
    assert_eq!(with_file(&["user", "list"]).stdout, "demo");
    let made = with_file(&["token", "--user", "demo"]);
    let mut check = wardcast(&["check-token", "--config", file.to_str().unwrap()]);
    let checked = Process::start_with_input(&mut check, &made.stdout).wait_for_exit();
    assert!(checked.code == Some(0) && checked.stdout.contains("in production"), "{checked:?}");
}

/// The blocks of the section "The first hub in production" in this language.
fn documented(language: &str) -> Vec<String> {
    let page = include_str!("../../docs/deploying.md");
    let section = page.split_once("## The first hub in production\n").unwrap().1.split_once("\n## ").unwrap().0;
    let start = format!("```{language}\n");
    section.split(&start).skip(1).map(|block| block.split_once("```").unwrap().0.to_owned()).collect()
}

/// Plays docs/deploying.md as this user, in a temporary folder, on a free port and with a certificate for localhost.
#[actix_rt::test]
async fn first_hub_in_production_works_as_documented() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("wardcast").to_str().unwrap().to_owned();
    fs::create_dir_all(format!("{folder}/tls")).unwrap();
    let [port, internal_port] = [0, 1]
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .map(|free| free.local_addr().unwrap().port());
    let binary = env!("CARGO_BIN_EXE_wardcast");
    let adapt = |text: &str| {
        let text = text.replace("sudo -u wardcast wardcast", binary).replace("sudo -u wardcast ", "");
        let text = text
            .replace("/etc/wardcast", &folder)
            .replace("https://hub.example.com", &format!("https://localhost:{port}"));
        text.replace("0.0.0.0:443", &format!("127.0.0.1:{port}"))
            .replace("127.0.0.1:8001", &format!("127.0.0.1:{internal_port}"))
    };
    let shell = |script: &str| {
        let mut command = std::process::Command::new("sh");
        run(command.args(["-c", &adapt(script)]).env_clear().env("PATH", "/usr/bin:/bin"))
    };
    let scripts = documented("sh");
    let [_root, init, _certbot, openssl, check, health] = scripts.as_slice() else { panic!("six blocks: {scripts:?}") };
    let init = shell(init);
    let [text, _] = read_created_files(&folder);
    let made = shell(openssl);
    assert_eq!(made.code, Some(0), "{made:?}");
    let [settings] = documented("toml").try_into().unwrap();
    fs::write(format!("{folder}/wardcast.toml"), format!("{text}\n{}", adapt(&settings))).unwrap();
    let listeners = format!("; clients connect to 127.0.0.1:{port}, backends to 127.0.0.1:{internal_port}");
    assert_eq!(shell(check).stdout, VALID.to_owned() + &listeners);
    let unit = include_str!("../../config/systemd/wardcast.service");
    let unit = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    let start = adapt(&format!("exec {}", unit.unwrap().replacen("wardcast", binary, 1)));
    let hub = Process::start(std::process::Command::new("sh").args(["-c", &start]).env_clear());
    hub.wait_for_log("server started");
    assert!(shell(health).stdout.contains("ready"));

    let curl = |path: &str| {
        let line = init.stdout.lines().find(|line| line.contains(path)).unwrap();
        let line = line.replacen("curl", &format!("curl -s --cacert {folder}/tls/fullchain.pem"), 1);
        shell(&format!("{line} -H 'Origin: https://app.example.com'")).stdout
    };
    printed_login(&init);
    let login: Value = curl("/auth/login").parse().unwrap();
    let token = mark_secret(login["access_token"].as_str().unwrap());
    let certificate = CertificateDer::from_pem_file(format!("{folder}/tls/fullchain.pem")).unwrap();
    let address = ([127, 0, 0, 1], port).into();
    let stream = Box::new(tls_stream(address, certificate).await.unwrap());
    let url = format!("wss://localhost:{port}/connection/websocket?token={token}");
    let mut page = Client::connect_over(stream, &url, &[("Origin", "https://app.example.com")]).await.unwrap();
    page.receive_connect_push().await;
    let subscribe = documented("js")[0].split_once("ws.send('").unwrap().1.split_once('\'').unwrap().0.to_owned();
    page.send_text(&subscribe).await;
    assert!(page.receive().await["subscribe"].is_object());
    assert_eq!(curl("/api/publish"), r#"{"result":{}}"#);
    assert_eq!(page.receive_publication().await, json!({"hello": "world"}));
}
