//! Key files that change while the hub runs.

use std::{
    fs::File,
    io::Write,
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use wardcast::{
    auth::{Permissions, Verifier},
    clock::Clock,
    config::{Config, KeyConfig, Secret},
};

use crate::support::{TestHub, identity_provider::ProviderKey, poll_until, start_hub_with};

/// Starts a hub with the keys in a JWK set file.
async fn start_hub_of(file: &Path, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.auth.hmac_secret = Secret::default();
        config.auth.key_files_interval = Duration::from_millis(50);
        config.auth.keys.push(toml::from_str::<KeyConfig>(&format!("jwks = {file:?}")).unwrap());
        change(config);
    })
    .await
}

fn write_set(file: &Path, keys: &[&ProviderKey]) {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk.clone()).collect();
    std::fs::write(file, json!({"keys": keys}).to_string()).unwrap();
}

fn token_path(hub: &TestHub, key: &ProviderKey, user: &str) -> String {
    format!("/socket?token={}", key.sign(hub.clock.now(), json!({"sub": user})))
}

async fn is_accepted(hub: &TestHub, key: &ProviderKey) -> bool {
    hub.try_handshake(&token_path(hub, key, "ann"), &[]).await.status == 101
}

#[actix_rt::test]
async fn changed_key_file_replaces_the_keys_without_a_signal() {
    let (old, new, files) = (ProviderKey::ec("old"), ProviderKey::ec("new"), tempfile::tempdir().unwrap());
    let file = files.path().join("keys.json");
    write_set(&file, &[&old]);
    let hub = start_hub_of(&file, |_| ()).await;
    assert!(is_accepted(&hub, &old).await && !is_accepted(&hub, &new).await);
    write_set(&file, &[&old, &new]);
    poll_until("the new key", async || is_accepted(&hub, &new).await).await;
    assert!(is_accepted(&hub, &old).await);
    write_set(&file, &[&new]);
    poll_until("the old key is removed", async || !is_accepted(&hub, &old).await).await;
    assert!(is_accepted(&hub, &new).await);
}

#[actix_rt::test]
async fn key_that_leaves_its_file_ends_its_sessions_and_the_subscriptions_of_its_tokens() {
    let (one, two, files) = (ProviderKey::ec("one"), ProviderKey::ec("two"), tempfile::tempdir().unwrap());
    let file = files.path().join("keys.json");
    write_set(&file, &[&one, &two]);
    let hub = start_hub_of(&file, |config| config.auth.key_files_interval = Duration::ZERO).await;
    let mut client = hub.connect_to(&token_path(&hub, &one, "ann"), &[]).await;
    let mut other = hub.connect_to(&token_path(&hub, &two, "bob"), &[]).await;
    client.subscribe("news").await;
    let token = two.sign(hub.clock.now(), json!({"sub": "ann", "channel": "$secret"}));
    client.subscribe_with("$secret", json!({"token": token})).await;

    write_set(&file, &[&one]);
    hub.running().reload_keys().unwrap();
    assert_eq!(other.wait_for_close().await.0, Some(3500));
    let push = client.receive().await;
    assert_eq!(
        (&push["push"]["channel"], &push["push"]["unsubscribe"]["code"]),
        (&json!("$secret"), &json!(2000)),
        "{push}"
    );
    client.publish("news", json!(1)).await;
    assert_eq!(client.receive_publication().await, json!(1));

    write_set(&file, &[&two]);
    hub.running().reload_keys().unwrap();
    assert_eq!(client.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn key_file_that_is_swapped_as_a_link_is_read_again() {
    let (old, new, files) = (ProviderKey::ec("k"), ProviderKey::ec("k"), tempfile::tempdir().unwrap());
    let path = |name: &str| files.path().join(name);
    for (folder, key) in [("1", &old), ("2", &new)] {
        std::fs::create_dir(path(folder)).unwrap();
        write_set(&path(folder).join("keys.json"), &[key]);
    }
    std::os::unix::fs::symlink("1", path("current")).unwrap();
    let hub = start_hub_of(&path("current").join("keys.json"), |_| ()).await;
    assert!(is_accepted(&hub, &old).await);
    std::os::unix::fs::symlink("2", path("next")).unwrap();
    std::fs::rename(path("next"), path("current")).unwrap();
    poll_until("the other key", async || is_accepted(&hub, &new).await).await;
    assert!(!is_accepted(&hub, &old).await);
}

#[actix_rt::test]
async fn broken_or_missing_key_file_keeps_the_old_keys() {
    let (old, new, files) = (ProviderKey::ec("old"), ProviderKey::ec("new"), tempfile::tempdir().unwrap());
    let file = files.path().join("keys.json");
    write_set(&file, &[&old]);
    let hub = start_hub_of(&file, |config| config.auth.key_files_interval = Duration::ZERO).await;
    for content in ["", "{\"keys\":[]}", "{\"keys\":[{"] {
        std::fs::write(&file, content).unwrap();
        assert!(hub.running().reload_keys().is_err(), "{content}");
        assert!(is_accepted(&hub, &old).await, "{content}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(hub.running().reload_keys().is_err());
    assert!(is_accepted(&hub, &old).await);
    write_set(&file, &[&new]);
    assert!(!is_accepted(&hub, &new).await, "only SIGHUP reads the files");
    assert!(hub.running().reload_keys().unwrap());
    assert!(is_accepted(&hub, &new).await && !is_accepted(&hub, &old).await);
}

/// SIGHUP comes while the watcher reads a file that answers slowly.
#[test]
fn reload_that_began_first_does_not_replace_the_keys_of_a_later_one() {
    let (old, new, files) = (ProviderKey::ec("old"), ProviderKey::ec("new"), tempfile::tempdir().unwrap());
    let path = |name: &str| files.path().join(name);
    write_set(&path("keys.json"), &[&old]);
    let mut config = Config::default();
    config.auth.keys.push(toml::from_str(&format!("jwks = {:?}", path("keys.json"))).unwrap());
    let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
    let verifier = Arc::new(Verifier::new(&config, permissions, Clock::default()).unwrap());
    let reload = || {
        let (verifier, (done, end)) = (verifier.clone(), mpsc::channel());
        thread::spawn(move || done.send(verifier.reload_key_files().is_ok()));
        end
    };
    let replace_file = |name: &str| std::fs::rename(path(name), path("keys.json")).unwrap();

    assert!(Command::new("mkfifo").arg(path("slow")).status().unwrap().success());
    replace_file("slow");
    let first = reload();
    // Opened once the first reload has begun to read.
    let mut slow = File::create(path("keys.json")).unwrap();
    write_set(&path("next"), &[&new]);
    replace_file("next");
    let second = reload();
    // It waits for the first one. If it did not, it would end at once.
    assert!(second.recv_timeout(Duration::from_millis(300)).is_err());
    slow.write_all(json!({"keys": [old.jwk]}).to_string().as_bytes()).unwrap();
    drop(slow);
    assert!(first.recv().unwrap() && second.recv().unwrap());
    let token = |key: &ProviderKey| key.sign(Clock::default().now(), json!({"sub": "ann"}));
    assert!(verifier.verify(&token(&new)).is_ok() && verifier.verify(&token(&old)).is_err());
}
