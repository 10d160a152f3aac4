//! Keys of a hub in its own process: files that SIGHUP reads again, and keys of an identity provider.

use std::path::Path;

use super::*;
use crate::support::{
    identity_provider::{Answer, IdentityProvider, KEYS, ProviderKey},
    tls::Certificate,
};

fn write_set(file: &Path, keys: &[&ProviderKey]) {
    let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
    fs::write(file, json!({"keys": keys}).to_string()).unwrap();
}

fn token_of(key: &ProviderKey, claims: Value) -> String {
    key.sign(wardcast::clock::Clock::default().now(), claims)
}

/// The address in the log of a hub that starts.
fn logged_address(hub: &Process) -> SocketAddr {
    let line = hub.wait_for_log("server started");
    line.split_once("address=").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

async fn connect_tls(address: SocketAddr, certificate: &Certificate, token: &str) -> Option<Client> {
    let path = format!("/socket?token={token}");
    let mut client = Client::connect_tls(address, &path, certificate.root()).await.ok()?;
    client.receive_connect_push().await;
    Some(client)
}

#[actix_rt::test]
async fn sighup_after_a_key_rotation_ends_old_sessions_and_accepts_new_tokens_and_the_new_certificate() {
    let (old, new, files) = (ProviderKey::ec("old"), ProviderKey::ec("new"), tempfile::tempdir().unwrap());
    let (file, mut certificate) = (files.path().join("keys.json"), Certificate::new());
    write_set(&file, &[&old]);
    let settings = [
        format!("auth.keys={}", json!([{"jwks": file}])),
        "auth.key_files_interval=0s".to_owned(),
        "auth.shared_subjects=true".to_owned(),
        format!("server.tls.cert={}", certificate.cert_path().display()),
        format!("server.tls.key={}", certificate.key_path().display()),
    ];
    let mut command = wardcast(&LOOPBACK);
    settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
    let mut hub = Process::start(command.args(["--ephemeral"]).env("WARDCAST_AUTH__HMAC_SECRET", SECRET));
    let address = logged_address(&hub);
    let [by_old, by_new] = [&old, &new].map(|key| token_of(key, json!({"sub": "ann"})));
    let mut session = connect_tls(address, &certificate, &by_old).await.unwrap();
    assert!(connect_tls(address, &certificate, &by_new).await.is_none());

    write_set(&file, &[&new]);
    certificate.renew();
    hub.signal(SIGHUP);
    assert_eq!(session.wait_for_close().await, (Some(3500), "token revoked".to_owned()));
    hub.wait_for_log("reloaded key files added=1 removed=1");
    let mut session = connect_tls(address, &certificate, &by_new).await.expect("the new key and the new certificate");
    assert!(connect_tls(address, &certificate, &by_old).await.is_none());

    // One of the two that cannot be read does not hold up the other one.
    fs::write(&file, "{\"keys\":[").unwrap();
    certificate.renew();
    hub.signal(SIGHUP);
    hub.wait_for_log("key file reload failed, keeping the old keys");
    assert!(connect_tls(address, &certificate, &by_new).await.is_some());
    write_set(&file, &[&new, &old]);
    fs::write(certificate.cert_path(), "nonsense").unwrap();
    hub.signal(SIGHUP);
    hub.wait_for_log("reloaded key files added=1 removed=0");
    assert!(connect_tls(address, &certificate, &by_old).await.is_some());
    session.subscribe_with("news", json!({})).await;
    assert!(hub.kill().contains("certificate reload failed"));
}

/// The settings of an entry for a provider.
fn entry(provider: &IdentityProvider, source: &str) -> String {
    let mut config = wardcast::config::Config::default();
    provider.trust(&mut config);
    let ca = config.auth.key_sets.ca.unwrap();
    format!("[[auth.keys]]\n{source}\nca = {ca:?}\nprivate_networks = [\"127.0.0.0/8\", \"::1\"]\n")
}

#[actix_rt::test]
async fn check_token_fetches_the_keys_of_the_tokens_provider() {
    let key = ProviderKey::ec("k");
    let mut provider = IdentityProvider::start(&[&key]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wardcast.toml");
    fs::write(&file, entry(&provider, &format!("issuer_url = {:?}", provider.issuer()))).unwrap();
    let check = async |token: &str| {
        let (file, token) = (file.display().to_string(), token.to_owned());
        let run = move || {
            let mut command = wardcast(&["check-token", "--config", &file]);
            Process::start_with_input(&mut command, &token).wait_for_exit()
        };
        actix_rt::task::spawn_blocking(run).await.unwrap()
    };
    let claims = json!({"iss": provider.issuer(), "sub": "ann"});
    let good = check(&token_of(&key, claims.clone())).await;
    assert!(good.code == Some(0) && good.stdout.contains("valid: opens connections of the user \"ann\""), "{good:?}");
    let unknown = check(&token_of(&ProviderKey::ec("other"), claims.clone())).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no key has this kid, or there is no kid and several keys"), "{unknown:?}");
    let forged = check(&token_of(&ProviderKey::ec("k"), claims.clone())).await;
    assert!(forged.code == Some(1) && forged.stderr.contains("wrong signature"), "{forged:?}");
    let foreign = check(&token_of(&key, json!({"iss": "https://other.example.com", "sub": "ann"}))).await;
    assert_eq!(foreign.code, Some(1), "{foreign:?}");
    provider.stop().await;
    let away = check(&token_of(&key, claims)).await;
    assert!(away.code == Some(1) && away.stderr.contains("cannot connect"), "{away:?}");
}

#[actix_rt::test]
async fn log_names_what_a_provider_publishes_once_and_no_secret_of_its_url() {
    let key = ProviderKey::ec("good");
    let provider = IdentityProvider::start(&[]).await;
    let secret = mark_secret("key=the-secret-of-this-url");
    let mut encryption = ProviderKey::ec("enc").jwk;
    encryption["use"] = json!("enc");
    let document = Answer::Document(json!({"keys": [key.jwk, encryption]}).to_string());
    let path = format!("{KEYS}?{secret}");
    provider.answer(&path, document);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wardcast.toml");
    let source = format!("jwks_url = {:?}\nissuer = \"one\"\nuser_prefix = \"one:\"", provider.url(&path));
    let again = format!("{source}\npurpose = \"subscription\"");
    let text =
        [&*entry(&provider, &source), &entry(&provider, &again), "[auth.key_sets]\nrefresh = \"100ms\"\n"].concat();
    fs::write(&file, text).unwrap();
    let config = file.display().to_string();
    let mut hub = Process::start(
        wardcast(&[&LOOPBACK[..], &["--config", &config, "--ephemeral"]].concat())
            .env("WARDCAST_AUTH__HMAC_SECRET", SECRET)
            .env("RUST_LOG", "trace"),
    );
    logged_address(&hub);
    poll_until("several fetches", async || provider.requests(&path) >= 8).await;
    let log = hub.kill();
    for phrase in ["skipped key of a JWK set", "ignored fetched key, another key has its issuer and kid"] {
        let lines = log.lines().filter(|line| line.contains(phrase)).count();
        // Each of the two entries skips the key for encryption; one of the two ignores the other key.
        assert_eq!(lines, if phrase.starts_with("skipped") { 2 } else { 1 }, "{phrase}: {log}");
    }
    assert!(log.contains("fetched JWK set") && !log.contains(secret), "{log}");
}
