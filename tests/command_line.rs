//! The command line, as operators and containers use it: the built binary in its own process.

mod audit;
mod configuration;
mod first_start;
mod health;
mod help;
mod keys;
mod nodes;
mod refusals;
mod reload;
mod secrets;
mod signals;
mod terminal;
mod tokens;
mod users;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{
    API_KEY, Client, KillOnDrop, SECRET, Stopwatch, http, mark_secret, metric, poll_until, process,
    process::{Banner, Process, ProcessResult, handles_signal, run, wardcast},
    raw,
};

const SIGHUP: u32 = 1;
const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;
const LOOPBACK: [&str; 2] = ["--set", "server.bind=127.0.0.1:0"];
/// The same for a hub in production, which has an internal listener by default.
const PRODUCTION_LOOPBACK: [&str; 4] =
    ["--set", "server.bind=127.0.0.1:0", "--set", "server.internal_bind=127.0.0.1:0"];

async fn connect_with_token(address: SocketAddr, token: &str) -> Client {
    let mut client = Client::connect(address, &format!("/connection/websocket?token={token}")).await.unwrap();
    client.receive_connect_push().await;
    client
}

/// The body of the login request that `init` has printed.
fn printed_login(init: &ProcessResult) -> Value {
    let body = init.stdout.lines().find_map(|line| line.trim().strip_prefix("curl ")?.split_once("-d '")).unwrap().1;
    let credentials: Value = body.trim_end_matches('\'').parse().unwrap();
    mark_secret(credentials["password"].as_str().unwrap());
    credentials
}

/// The texts of the settings and of the login file that `init` has created. Marks their secrets.
fn read_created_files(dir: &str) -> [String; 2] {
    let texts = ["wardcast.toml", "users.toml"].map(|name| fs::read_to_string(format!("{dir}/{name}")).unwrap());
    for line in texts.iter().flat_map(|text| text.lines()) {
        if let Some(("hmac_secret" | "key" | "password", value)) = line.split_once(" = ") {
            mark_secret(value.trim_matches('"'));
        }
    }
    texts
}

#[actix_rt::test]
async fn banner_prints_login_url_and_curl_line_that_work_unchanged() {
    let mut hub = Process::start(&mut wardcast(&LOOPBACK));
    let banner = hub.banner();
    assert_ne!(banner.address.port(), 0);
    assert!(banner.text.contains(&format!("http://{}/api/publish", banner.address)), "{}", banner.text);
    let login = json!({"username": "demo", "password": &banner.password});
    let response = http::post(banner.address, "/auth/login").json(login).send().await;
    assert_eq!(response.status, 200, "{response:?}");
    connect_with_token(banner.address, mark_secret(response.json()["access_token"].as_str().unwrap())).await;
    let quoted =
        |start: &str, end: char| banner.text.split_once(start).unwrap().1.split(end).next().unwrap().to_owned();
    let path = quoted("new WebSocket(location.origin.replace(\"http\", \"ws\") + \"", '"');
    let mut client = Client::connect(banner.address, &path).await.unwrap();
    client.receive().await;
    client.send_text(&quoted("ws.send('", '\'')).await;
    assert!(client.receive().await["subscribe"].is_object());
    let curl = Command::new("sh").args(["-c", &banner.curl]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&curl.stdout), r#"{"result":{}}"#, "{curl:?}");
    assert_eq!(client.receive_publication().await, json!({"hello": "world"}));
    let stderr = hub.kill();
    assert!(
        !stderr.contains(&banner.token) && !stderr.contains(&banner.password) && stderr.contains("server started"),
        "{stderr}"
    );
}

#[test]
fn all_configuration_errors_are_reported_at_once_with_key_and_source() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "[server]\nbind = \"127.0.0.1:0\"\nspeed = 1\n\n[limits]\nconnections = \"many\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let mut command = wardcast(&["--config", path, "--set", "log.colour=red", "--set", "server.drain=soon"]);
    let result = run(command.env("WARDCAST_AUTH__SECRET", "x").env("WARDCAST_SERVER__WORKERS", "all"));
    result.assert_failed_with(&[
        "6 errors",
        &format!("server.speed (from {path}:3)"),
        &format!("limits.connections (from {path}:6)"),
        "auth.secret (from the variable WARDCAST_AUTH__SECRET)",
        "server.workers (from the variable WARDCAST_SERVER__WORKERS)",
        "log.colour (from the flag --set log.colour)",
        "server.drain (from the flag --set server.drain)",
    ]);
    assert!(result.stderr.contains("valid keys here: ") && result.stderr.contains("hmac_secret"), "{}", result.stderr);
}

#[test]
fn missing_file_and_unknown_environment_are_named() {
    run(&mut wardcast(&["--config", "/nowhere/wardcast.toml"])).assert_failed_with(&["/nowhere/wardcast.toml"]);
    run(wardcast(&LOOPBACK).env("WARDCAST_ENV", "staging")).assert_failed_with(&[
        "WARDCAST_ENV",
        "staging",
        "production",
    ]);
}

#[test]
fn production_does_not_start_without_strong_secret() {
    let production = |secret: &str| {
        let mut command = wardcast(&LOOPBACK);
        command.env("WARDCAST_ENV", "production").env("WARDCAST_AUTH__HMAC_SECRET", secret);
        run(&mut command)
    };
    production("").assert_failed_with(&["auth.hmac_secret", "openssl rand -hex 32"]);
    let short = production("only-a-few-bytes");
    short.assert_failed_with(&["auth.hmac_secret", "openssl rand -hex 32"]);
    assert!(!short.stderr.contains("only-a-few-bytes"), "a secret is not quoted: {}", short.stderr);
}

#[test]
fn one_secret_in_several_roles_is_an_error_in_production() {
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).unwrap();
    write("secret.txt", &format!("{SECRET}\n"));
    let path = |name: &str| files.path().join(name).display().to_string();
    let check = |environment: &str, settings: &str| {
        write("hub.toml", settings);
        run(wardcast(&["--config", &path("hub.toml"), "config", "check"]).env("WARDCAST_ENV", environment))
    };
    let own = format!("hmac_secret = {SECRET:?}");
    let key = |id: &str, more: &str| {
        format!("[[auth.keys]]\nid = {id:?}\nalgorithm = \"HS256\"\nfile = {:?}\n{more}\n", path("secret.txt"))
    };
    let jwk = format!("{{\"kty\":\"oct\",\"k\":{:?}}}", base64_url(SECRET));
    for (settings, names) in [
        (format!("[auth]\n{own}\n[api]\nkey = {SECRET:?}"), ["api.key", "auth.hmac_secret"]),
        (format!("[auth]\n{own}\n[login]\nkey = {SECRET:?}"), ["login.key", "auth.hmac_secret"]),
        (format!("[api]\nkey = {SECRET:?}\n{}", key("a", "")), ["api.key", "auth.keys \"a\""]),
        (
            format!("{}{}", key("a", "issuer = \"a\""), key("b", "issuer = \"b\"\nuser_prefix = \"b:\"")),
            ["auth.keys \"a\"", "auth.keys \"b\""],
        ),
        (
            format!(
                "[auth]\n{own}\n[[auth.keys]]\nid = \"j\"\nalgorithm = \"HS256\"\njwk = '{jwk}'\nissuer = \"j\"\nuser_prefix = \"j:\""
            ),
            ["auth.hmac_secret", "auth.keys \"j\""],
        ),
        (format!("[auth]\n{own}\n{}", key("a", "purpose = \"subscription\"")), ["auth.hmac_secret", "auth.keys \"a\""]),
    ] {
        let refused = check("production", &settings);
        refused.assert_failed_with(&[names[0], names[1], "is the same secret as", "openssl rand -hex 32"]);
        assert!(!refused.stderr.contains(SECRET), "{}", refused.stderr);
        assert_eq!(check("development", &settings).code, Some(0));
    }
    let twice = format!("[auth]\n{own}\n{}", key("a", ""));
    assert_eq!(check("production", &twice).code, Some(0), "one role: the tokens of one backend, with and without kid");
}

/// Encodes a text as a JWK has it.
fn base64_url(text: &str) -> String {
    base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, text)
}

#[test]
fn non_loopback_address_requires_tls_in_production_and_is_refused_in_development() {
    let listen = |environment: &str| {
        let mut command = wardcast(&["--set", "server.bind=0.0.0.0:0"]);
        run(command.env("WARDCAST_ENV", environment).env("WARDCAST_AUTH__HMAC_SECRET", SECRET))
    };
    listen("production").assert_failed_with(&["server.bind", "server.tls.cert", "server.behind_tls"]);
    listen("development").assert_failed_with(&["server.bind", "loopback", "WARDCAST_ENV=production"]);
}

#[actix_rt::test]
async fn command_line_flags_enable_history_and_presence() {
    let settings = [
        "channels.history_size=10",
        "channels.history_ttl=5m",
        "channels.presence=true",
        "channels.allow_history=user",
        "channels.allow_presence=user",
    ];
    let mut command = wardcast(&LOOPBACK);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut hub = Process::start(&mut command);
    let banner = hub.banner();
    let mut client = connect_with_token(banner.address, &banner.token).await;
    assert_eq!(client.request(json!({"id": 1, "publish": {"channel": "news", "data": 7}})).await["error"], Value::Null);
    let history = client.request(json!({"id": 2, "history": {"channel": "news", "limit": 10}})).await;
    assert_eq!(history["history"]["publications"][0]["data"], 7, "{history}");
    client.subscribe("news").await;
    let presence = client.request(json!({"id": 3, "presence": {"channel": "news"}})).await;
    assert_eq!(presence["presence"]["presence"].as_object().map(|members| members.len()), Some(1), "{presence}");
    hub.kill();
}

#[actix_rt::test]
async fn second_hub_on_same_port_fails_naming_the_address_and_first_keeps_running() {
    let mut first = Process::start(&mut wardcast(&LOOPBACK));
    let banner = first.banner();
    let bind = format!("server.bind={}", banner.address);
    let second = run(&mut wardcast(&["--set", &bind]));
    second.assert_failed_with(&[
        "cannot listen on",
        &banner.address.to_string(),
        "another process listens there",
        "--set server.bind=",
    ]);
    assert_eq!(second.stderr.lines().filter(|line| line.starts_with("wardcast: ")).count(), 1, "{}", second.stderr);
    connect_with_token(banner.address, &banner.token).await;
}

#[actix_rt::test]
async fn token_from_command_line_connects_to_hub_with_same_secret() {
    run(&mut wardcast(&["token", "--user", "ann"]))
        .assert_failed_with(&["auth.hmac_secret", "WARDCAST_AUTH__HMAC_SECRET"]);

    let made = run(wardcast(&["token", "--user", "ann", "--ttl", "5m"]).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    assert_eq!((made.code, made.stdout.lines().count()), (Some(0), 1), "{made:?}");
    let mut hub = Process::start(wardcast(&LOOPBACK).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    let address = hub.banner().address;
    connect_with_token(address, &made.stdout).await;

    let other = run(wardcast(&["token", "--user", "ann"]).env("WARDCAST_AUTH__HMAC_SECRET", API_KEY));
    let refused = raw::handshake(address, &format!("/socket?token={}", other.stdout));
    assert_eq!(http::exchange(address, refused.as_bytes()).await.status, 401);
}

#[test]
fn hash_password_reads_standard_input_and_prints_argon2id_hash() {
    let hash = |password: &str| Process::start_with_input(&mut wardcast(&["hash-password"]), password).wait_for_exit();
    let (one, two) = (hash("correct horse\n"), hash("correct horse\n"));
    assert!(one.stdout.starts_with("$argon2id$") && one.stdout.lines().count() == 1, "{one:?}");
    assert_ne!(one.stdout, two.stdout, "each hash must have its own salt");
    assert!(!one.stderr.contains("horse"), "{one:?}");
    hash("\n").assert_failed_with(&["password"]);
}

#[actix_rt::test]
async fn init_creates_private_files_once_and_a_hub_starts_with_them() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("hub").to_str().unwrap().to_owned();
    let init = || run(&mut wardcast(&["init", "--dir", &dir, "--user", "dora"]));
    let first = init();
    assert_eq!(first.code, Some(0), "{first:?}");
    let made = read_created_files(&dir);
    for name in ["wardcast.toml", "users.toml"] {
        let mode = fs::metadata(format!("{dir}/{name}")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = init();
    assert!(again.code == Some(0) && again.stdout.contains("is unchanged"), "{again:?}");
    assert_eq!(read_created_files(&dir), made);

    let settings = format!("{dir}/wardcast.toml");
    let mut command = wardcast(&[&LOOPBACK[..], &["--config", &settings]].concat());
    let mut hub = Process::start(command.env("WARDCAST_ENV", "development"));
    let address = hub.banner().address;
    let response = http::post(address, "/auth/login").json(printed_login(&first)).send().await;
    assert_eq!(response.status, 200, "{response:?}");
    connect_with_token(address, mark_secret(response.json()["access_token"].as_str().unwrap())).await;
}

#[actix_rt::test]
async fn sigterm_closes_every_client_with_3001_and_exits_0_within_drain_time() {
    let mut hub = Process::start(&mut wardcast(&[&LOOPBACK[..], &["--set", "server.drain=2s"]].concat()));
    let banner = hub.banner();
    let mut clients = join_all((0..20).map(|_| connect_with_token(banner.address, &banner.token))).await;
    let mut stranger = Client::connect(banner.address, "/socket").await.unwrap();
    let started = Stopwatch::start();
    hub.signal(SIGTERM);
    for client in clients.iter_mut().chain([&mut stranger]) {
        assert_eq!(client.wait_for_close().await, (Some(3001), "shutdown".to_owned()));
    }
    let result = hub.wait_for_exit();
    assert_eq!(result.code, Some(0), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn signals_are_handled_as_soon_as_the_hub_listens() {
    // A full stdout blocks the hub while it prints its banner.
    let (_reader, mut stdout) = std::io::pipe().unwrap();
    stdout.write_all(&[b' '; 1 << 16]).unwrap();
    let mut hub = KillOnDrop(wardcast(&LOOPBACK).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(hub.0.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("server started")));
    assert_eq!([SIGINT, SIGTERM, SIGHUP].map(|signal| handles_signal(hub.0.id(), signal)), [true; 3]);
}

#[test]
fn sigint_stops_hub_without_clients_immediately() {
    let mut hub = Process::start(&mut wardcast(&LOOPBACK));
    hub.banner();
    let started = Stopwatch::start();
    hub.signal(SIGINT);
    assert_eq!(hub.wait_for_exit().code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

/// As many as the descriptors of this process allow, on machines where these are few.
#[actix_rt::test]
async fn five_thousand_connections_reset_at_once_leave_no_descriptor_and_no_session() {
    let mut hub = Process::start(&mut wardcast(&LOOPBACK));
    let Banner { address, token, .. } = hub.banner();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", hub.child.id())).unwrap().count();
    connect_with_token(address, &token).await.request(json!({"id": 1, "ping": {}})).await;
    let baseline = descriptors();
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: usize = limit.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let mut crowd = Vec::new();
    for number in 0..5_000.min(limit.saturating_sub(500)) {
        crowd.push(match number % 5 {
            0 => {
                let mut raw = raw::RawClient::connect(address, &format!("/socket?token={token}")).await;
                raw.send(&raw::text_frame(r#"{"id":1,"subscribe":{"channel":"news"}}"#)).await;
                raw.stream
            }
            _ => TcpStream::connect(address).await.unwrap(),
        });
    }
    // With a linger time of zero, closing sends a reset.
    crowd.iter().for_each(|stream| stream.set_zero_linger().unwrap());
    drop(crowd);
    poll_until("the descriptors are back", async || descriptors() <= baseline + 2).await;
    poll_until("the sessions are gone", async || metric(address, "wardcast_connections").await == 0.0).await;
    assert_eq!(http::get(address, "/health/ready").send().await.status, 200);
}

#[actix_rt::test]
async fn log_in_json_has_an_object_per_line_with_the_values_of_the_line() {
    let mut hub = Process::start(&mut wardcast(&[&LOOPBACK[..], &["--set", "log.format=json"]].concat()));
    let Banner { address, .. } = hub.banner();
    let refused = raw::handshake(address, "/socket?token=a.b.c");
    assert_eq!(http::exchange(address, refused.as_bytes()).await.status, 401);
    hub.signal(SIGTERM);
    let log = hub.wait_for_exit().stderr;
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let find = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("{log}"));
    let started = find("server started");
    assert_eq!((&started["level"], &started["address"]), (&json!("info"), &json!(address.to_string())), "{started}");
    assert!(started["target"].as_str().unwrap().starts_with("wardcast::"), "{started}");
    let time = started["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    assert_eq!(find("server stopping")["connections"], 0);
    let refused = find("refused token");
    assert!(refused["door"] == "query" && refused["error"].is_string(), "{refused}");
}

#[actix_rt::test]
async fn no_secret_is_logged_at_any_level() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().to_str().unwrap();
    let init = run(&mut wardcast(&["init", "--dir", dir]));
    let settings = format!("{dir}/wardcast.toml");
    let mut command = wardcast(&[&LOOPBACK[..], &["--config", &settings, "--set", "log.level=trace"]].concat());
    let mut hub = Process::start(command.env("RUST_LOG", "trace").env("WARDCAST_ENV", "development"));
    let Banner { address, token, .. } = hub.banner();
    let made = |arguments: &[&str]| run(&mut wardcast(&[&["--config", &settings], arguments].concat())).stdout;
    let subprotocol = made(&["token", "--user", "subprotocol"]);
    let (message, command) = (made(&["token", "--user", "message"]), made(&["token", "--user", "command"]));
    let forged = run(wardcast(&["token", "--user", "eve"]).env("WARDCAST_AUTH__HMAC_SECRET", SECRET)).stdout;

    connect_with_token(address, &token).await;
    Client::connect_with(address, "/socket", &[("Sec-WebSocket-Protocol", &subprotocol)])
        .await
        .unwrap()
        .receive()
        .await;
    for (first, is_good) in [
        (format!("Authorization: Bearer {message}"), true),
        (json!({"id": 1, "connect": {"token": command}}).to_string(), true),
        (format!("Authorization: Bearer {forged}"), false),
        (json!({"id": 1, "connect": {"token": forged}}).to_string(), false),
    ] {
        let mut client = Client::connect(address, "/socket").await.unwrap();
        client.send_text(&first).await;
        assert_eq!(client.next().await.is_ok(), is_good, "{first}");
    }
    let refused = raw::handshake(address, &format!("/socket?token={forged}"));
    assert_eq!(http::exchange(address, refused.as_bytes()).await.status, 401);

    let file: toml::Table = read_created_files(dir)[0].parse().unwrap();
    let key = file["api"]["key"].as_str().unwrap();
    for (key, status) in [(key, 200), (API_KEY, 401)] {
        let request = http::post(address, "/api/publish").header("X-API-Key", key);
        assert_eq!(request.body(r#"{"channel":"news","data":1}"#).send().await.status, status);
    }
    let credentials = printed_login(&init);
    let response = http::post(address, "/auth/login").json(credentials.clone()).send().await.json();
    let wrong = json!({"username": "demo", "password": mark_secret("a wrong password")});
    assert_eq!(http::post(address, "/auth/login").json(wrong).send().await.status, 401);

    hub.signal(SIGTERM);
    let stderr = hub.wait_for_exit().stderr;
    assert!(stderr.contains("TRACE") && stderr.contains("DEBUG"), "not a log at trace: {stderr:.500}");
    let secret = file["auth"]["hmac_secret"].as_str().unwrap();
    let (password, login) =
        (credentials["password"].as_str().unwrap(), self::mark_secret(response["access_token"].as_str().unwrap()));
    for secret in
        [&token, &subprotocol, &message, &command, &forged, secret, key, API_KEY, password, login, "a wrong password"]
    {
        let line = stderr.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret:.20}… is in the log");
    }
}
