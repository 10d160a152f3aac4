//! README.md and docs/ say what is true: links lead somewhere, examples are played or loaded by the real thing, and what is
//! listed is complete.

use std::{
    collections::BTreeSet,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wardcast::{
    api::METHODS,
    config::{self, BrokerKind, Environment, OPTIONS, Secret, Sources},
    metrics::{Metrics, Queue},
};

use crate::support::{
    Client, client::tls_stream, http, poll_until, redis::RedisServer, repository, start_hub_with, stream::read_until,
    tls::Certificate,
};

/// README.md and the pages of docs/, each with its path below the repository.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![PathBuf::from("README.md")];
    let entries = fs::read_dir(repository().join("docs")).unwrap();
    paths.extend(entries.map(|entry| Path::new("docs").join(entry.unwrap().file_name())));
    // The programs of docs/examples are no pages.
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let read = |path: PathBuf| (fs::read_to_string(repository().join(&path)).unwrap(), path);
    paths.into_iter().map(read).map(|(text, path)| (path, text)).collect()
}

/// The fenced code blocks of a page in this language, without the indentation of the list that they may be part of.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(usize, Option<String>)> = None;
    for line in page.lines() {
        let indentation = line.len() - line.trim_start().len();
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => open = Some((indentation, (info == language).then(String::new))),
            (Some(_), Some(_)) => found.extend(open.take().and_then(|(_, block)| block)),
            (Some((indentation, Some(block))), None) => {
                block.push_str(line.get(*indentation..).unwrap_or_default());
                block.push('\n');
            }
            _ => {}
        }
    }
    assert!(open.is_none(), "a code block without an end");
    found
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let headings = page.lines().filter(|line| {
        is_code ^= line.trim_start().starts_with("```");
        !is_code && line.starts_with('#')
    });
    let kept = |character: &char| character.is_alphanumeric() || ['-', '_', ' '].contains(character);
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        text.chars().filter(kept).map(|character| if character == ' ' { '-' } else { character }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for (path, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let is_good = match fs::read_to_string(repository().join(linked)) {
                Ok(page) => anchor.is_empty() || anchors(&page).contains(anchor),
                Err(_) => false,
            };
            if !is_good {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// The lines are played against a hub by `wire.rs`.
#[test]
fn protocol_examples_are_lines_of_the_golden_conversations() {
    let files = fs::read_dir(repository().join("tests/golden")).unwrap();
    let golden: String = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap() + "\n").collect();
    let golden: BTreeSet<&str> = golden.lines().collect();
    let page = fs::read_to_string(repository().join("docs/client-protocol.md")).unwrap();
    let examples = blocks(&page, "golden");
    assert!(examples.len() > 8, "{} examples", examples.len());
    let foreign: Vec<&str> =
        examples.iter().flat_map(|block| block.lines()).filter(|line| !golden.contains(line)).collect();
    assert!(foreign.is_empty(), "not in tests/golden:\n{}", foreign.join("\n"));
}

#[test]
fn configuration_examples_load() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (path, text) in pages() {
        for example in blocks(&text, "toml") {
            let file = folder.path().join("example.toml");
            // What stands for a secret or for a file of the reader's is made good; everything else is as the page has it.
            fs::write(&file, example.replace('…', "0123456789abcdef0123456789abcdef")).unwrap();
            // A provider is the only issuer, unless the page has more.
            let has_provider = ["issuer_url = ", "jwks_url = "].iter().any(|key| example.contains(key));
            let names = ["AUTH__HMAC_SECRET", "API__KEY"].into_iter().skip(usize::from(has_provider));
            let variables = names.map(|name| (format!("WARDCAST_{name}"), hex_secret(name))).collect();
            let environment = Environment::Production;
            let sources = Sources { environment, file: Some(&file), variables, flags: Vec::new() };
            let loaded = config::load(sources);
            assert!(loaded.is_ok(), "{}: {}\n{example}", path.display(), loaded.unwrap_err());
            count += 1;
        }
    }
    assert!(count > 6, "{count} examples");
}

/// A secret of 32 bytes, another one for each name.
fn hex_secret(name: &str) -> String {
    name.bytes().cycle().take(32).enumerate().map(|(index, byte)| format!("{:02x}", byte ^ index as u8)).collect()
}

#[test]
fn deploying_lists_exactly_the_metrics_that_exist() {
    let existing: BTreeSet<String> = Metrics::EXPOSED.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    let page = fs::read_to_string(repository().join("docs/deploying.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `wardcast_"));
    let listed: BTreeSet<String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            format!("wardcast_{} {}", cells[0].split(['`', '{']).next().unwrap(), cells[1])
        })
        .collect();
    assert_eq!(listed, existing);
    // As they are exposed.
    let text = Metrics::default().encode().unwrap();
    let exposed: Vec<&str> = text.lines().filter(|line| line.starts_with("wardcast_")).collect();
    assert!(
        exposed.len() > 10
            && exposed
                .iter()
                .all(|line| { Metrics::EXPOSED.iter().any(|(name, _)| line.split([' ', '{']).next() == Some(*name)) }),
        "{text}"
    );
}

#[test]
fn deploying_describes_each_queue_that_metrics_name() {
    let page = fs::read_to_string(repository().join("docs/deploying.md")).unwrap();
    let (_, section) = page.split_once("#### Queues").unwrap();
    let rows = section.lines().take_while(|line| !line.starts_with("A scrape")).filter(|line| line.starts_with("| `"));
    let listed: Vec<(&str, Option<usize>)> = rows
        .map(|row| {
            // A limit that no option sets is a number in parentheses.
            let limit: Option<String> = row.split('(').skip(1).find_map(|text| {
                let digits: String = text.split([')', ';']).next()?.replace(',', "");
                digits.parse::<usize>().is_ok().then_some(digits)
            });
            (row.split('`').nth(1).unwrap(), limit.map(|limit| limit.parse().unwrap()))
        })
        .collect();
    assert_eq!(listed, Queue::ALL.map(|queue| (queue.name(), queue.fixed_limit())));
}

#[test]
fn dashboard_alert_rules_and_configuration_name_metrics_that_exist() {
    for (file, least) in [("config/grafana.json", 20), ("config/alerts.yml", 10), ("config/default.toml", 4)] {
        let text = fs::read_to_string(repository().join(file)).unwrap();
        let is_name = |character: char| character.is_ascii_lowercase() || character == '_';
        let used: BTreeSet<&str> = text
            .match_indices("wardcast_")
            .map(|(start, _)| text[start..].split(|character| !is_name(character)).next().unwrap())
            // A cookie.
            .filter(|name| *name != "wardcast_token")
            .collect();
        for name in &used {
            let exists = Metrics::EXPOSED.iter().any(|(existing, kind)| match *kind {
                "histogram" => name.strip_suffix("_bucket") == Some(existing),
                _ => existing == name,
            });
            assert!(exists, "{file} uses {name}");
        }
        assert!(used.len() >= least, "{file}: {used:?}");
    }
    let dashboard = fs::read_to_string(repository().join("config/grafana.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
}

#[test]
fn alert_rules_name_methods_options_and_metrics_that_exist() {
    let rules = fs::read_to_string(repository().join("config/alerts.yml")).unwrap();
    let descriptions = rules.lines().filter_map(|line| line.trim().strip_prefix("description: "));
    let names: BTreeSet<&str> = descriptions
        .flat_map(|text| text.split(|character: char| !(character.is_ascii_alphanumeric() || "_.".contains(character))))
        .map(|word| word.trim_matches('.'))
        .filter(|word| word.contains('_') && word.chars().all(|character| !character.is_ascii_uppercase()))
        .collect();
    for name in &names {
        let is_method = METHODS.iter().any(|method| method.name == *name);
        let is_option = OPTIONS.iter().any(|option| option.key == *name);
        let is_metric = Metrics::EXPOSED.iter().any(|(metric, _)| metric == name);
        assert!(is_method || is_option || is_metric, "config/alerts.yml names {name}");
    }
    assert!(names.contains("invalidate_user_tokens") && names.contains("limits.hub_queue_bytes"), "{names:?}");
}

/// systemd refuses to start a socket unit while its service runs.
#[test]
fn switch_to_passed_sockets_stops_the_service_before_it_starts_the_socket() {
    let page = fs::read_to_string(repository().join("docs/deploying.md")).unwrap();
    let shell = blocks(&page, "sh").into_iter().find(|block| block.contains("enable --now wardcast.socket")).unwrap();
    let steps: Vec<&str> = shell.trim().split(" && ").collect();
    assert_eq!(
        steps,
        ["stop wardcast", "enable --now wardcast.socket", "start wardcast"]
            .map(|step| format!("sudo systemctl {step}"))
    );
}

#[actix_rt::test]
async fn the_minimal_redis_rights_suffice_for_everything_two_hubs_do() {
    let page = fs::read_to_string(repository().join("docs/deploying.md")).unwrap();
    let rights = blocks(&page, "redis-acl");
    let [rights] = rights.as_slice() else { panic!("one block of rights: {rights:?}") };
    let rules: Vec<&str> = rights.split_whitespace().skip(1).collect();
    let redis = RedisServer::start().await;
    let _: String = redis.run(&[&["ACL", "SETUSER"], rules.as_slice()].concat()).await;
    let url = format!("redis://wardcast:change-me@127.0.0.1:{}", redis.port());
    let start = || async {
        let hub = start_hub_with(|config| {
            config.broker.kind = BrokerKind::Redis;
            config.broker.redis.url = Secret::new(url.clone());
            config.channels.history_size = 1;
        });
        let hub = hub.await;
        let is_ready = async || http::get(hub.address, "/health/ready").send().await.status == 200;
        poll_until("the hub is ready", is_ready).await;
        hub
    };
    let (one, two) = (start().await, start().await);
    let mut ann = two.connect_subscriber("ann", "news").await;
    one.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
    let channels = one.call_api("channels", json!({})).await;
    assert_eq!(channels["result"]["channels"]["news"]["num_clients"], 1, "{channels}");
    for skip_history in [true, false, false] {
        let publication = json!({"channel": "news", "data": 2, "idempotency_key": skip_history.to_string(),
            "skip_history": skip_history, "version": u8::from(!skip_history)});
        assert!(one.call_api("publish", publication).await["error"].is_null());
    }
    for reverse in [false, true] {
        let history = two.call_api("history", json!({"channel": "news", "limit": 9, "reverse": reverse})).await;
        assert_eq!(history["result"]["publications"][0]["data"], 2, "{history}");
    }
    assert!(one.call_api("history_remove", json!({"channel": "news"})).await["error"].is_null());
    let bearer = format!("Bearer {}", one.token("bob"));
    let ticket = http::post(one.address, "/auth/ticket").header("Authorization", &bearer).send().await.json();
    let path = format!("/connection/websocket?ticket={}", ticket["ticket"].as_str().unwrap());
    let mut bob = two.connect_to(&path, &[]).await;
    assert_eq!(bob.request(json!({"id": 1, "ping": {}})).await, json!({"id": 1, "ping": {}}));
    ann.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    one.stop().await;
    two.stop().await;
    let denied: Vec<Vec<redis::Value>> = redis.run(&["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:?}");
}

/// A real nginx with the configuration of docs/deploying.md: only its port, its paths and the hub's address are replaced.
#[actix_rt::test]
async fn nginx_as_documented_passes_web_sockets_on_and_hides_the_server_api() {
    let page = fs::read_to_string(repository().join("docs/deploying.md")).unwrap();
    let configurations = blocks(&page, "nginx");
    let [configuration] = configurations.as_slice() else { panic!("one configuration: {configurations:?}") };
    let hub = start_hub_with(|config| {
        config.server.behind_tls = true;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let (certificate, folder) = (Certificate::new(), tempfile::tempdir().unwrap());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut text = configuration.clone();
    for (documented, used) in [
        ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
        ("/etc/nginx/tls/fullchain.pem", certificate.cert_path().display().to_string()),
        ("/etc/nginx/tls/privkey.pem", certificate.key_path().display().to_string()),
        ("/var/log/nginx/wardcast.log", path("access.log")),
        ("server 10.0.0.7:8000;", format!("server {};", hub.address)),
        ("server 10.0.0.8:8000;", String::new()),
    ] {
        assert!(text.contains(documented), "{documented}");
        text = text.replace(documented, &used);
    }
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.map(|kind| format!("{kind}_temp_path {};\n", path(kind))).concat();
    let frame = format!(
        "daemon off;\npid {};\nerror_log {};\nevents {{}}\nhttp {{\n{temporary}{text}}}\n",
        path("nginx.pid"),
        path("error.log")
    );
    fs::write(path("nginx.conf"), frame).unwrap();
    let nginx = Command::new("nginx").args(["-p", &path(""), "-c", &path("nginx.conf")]).spawn();
    let nginx = Nginx(nginx.expect("nginx is installed: tests/run does it"));
    let address = ([127, 0, 0, 1], port).into();
    poll_until("nginx listens", async || TcpStream::connect(address).is_ok()).await;

    let token = hub.token("ann");
    let path_of_ann = format!("/connection/websocket?token={token}");
    let mut ann = Client::connect_tls(address, &path_of_ann, certificate.root()).await.unwrap();
    ann.receive_connect_push().await;
    ann.subscribe("news").await;
    hub.publish("news", json!("through nginx")).await;
    assert_eq!(ann.receive_publication().await, "through nginx");
    // A stream arrives event by event, with a token longer than what nginx accepts by default.
    let token = hub.token_with_claims(json!({"sub": "ann", "exp": 600, "more": "x".repeat(12_000)}));
    let mut stream = tls_stream(address, certificate.root()).await.unwrap();
    let request = format!(
        "GET /v1/channels/news/events HTTP/1.1\r\nHost: hub.example.com\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "event: subscribe").await;
    hub.publish("news", json!("streamed")).await;
    read_until(&mut stream, r#""streamed""#).await;
    drop(stream);
    for (path, status) in [("/api/info", "404"), ("/metrics", "404"), ("/health/ready", "404"), ("/nothing", "404")] {
        let mut stream = tls_stream(address, certificate.root()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: hub.example.com\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        let _ = stream.read_to_string(&mut response).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {response}");
    }
    drop(ann);
    poll_until("nginx logs the request", async || {
        fs::read_to_string(path("access.log")).unwrap_or_default().contains("/connection/websocket")
    })
    .await;
    let logged = fs::read_to_string(path("access.log")).unwrap();
    assert!(!logged.contains("token="), "{logged}");
    drop(nginx);
}

/// Ended with the test, its workers too.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
