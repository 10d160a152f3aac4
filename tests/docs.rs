//! README.md and docs/ say what is true: links lead somewhere, examples are played or loaded by the real thing, and what is
//! listed is complete.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;
use wardcast::{
    config::{self, BrokerKind, Environment, Secret, Sources},
    metrics::Metrics,
};

use crate::support::{http, redis::RedisServer, start_hub_with, wait_until};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and the pages of docs/, each with its path below the repository.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![PathBuf::from("README.md")];
    let entries = fs::read_dir(repository().join("docs")).unwrap();
    paths.extend(entries.map(|entry| Path::new("docs").join(entry.unwrap().file_name())));
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
            let secrets = ["AUTH__HMAC_SECRET", "API__KEY"].map(|name| (format!("WARDCAST_{name}"), hex_secret(name)));
            let environment = Environment::Production;
            let sources = Sources { environment, file: Some(&file), variables: secrets.to_vec(), flags: Vec::new() };
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
    let metrics = Metrics::default();
    // A family without a sample is not encoded.
    metrics.count_close(3001);
    metrics.count_error(100);
    metrics.count_refused_handshake("rate");
    metrics.count_refused_bus_message("version");
    let text = metrics.encode().unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let existing: BTreeSet<String> =
        types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect();
    let page = fs::read_to_string(repository().join("docs/deploying.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `wardcast_"));
    let listed: BTreeSet<String> =
        rows.map(|row| format!("wardcast_{}", row.split(['`', '{']).next().unwrap())).collect();
    assert_eq!(listed, existing);
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
        });
        let hub = hub.await;
        let is_ready = async || http::get(hub.address, "/health/ready").send().await.status == 200;
        wait_until("the hub is ready", is_ready).await;
        hub
    };
    let (one, two) = (start().await, start().await);
    let mut ann = two.connect_subscriber("ann", "news").await;
    one.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
    let channels = one.call_api("channels", json!({})).await;
    assert_eq!(channels["result"]["channels"]["news"]["num_clients"], 1, "{channels}");
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
