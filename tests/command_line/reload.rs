//! SIGHUP after a change of the configuration file.

use super::*;
use crate::support::{identity_provider::ProviderKey, raw};

#[actix_rt::test]
async fn sighup_applies_the_configuration_file_and_a_faulty_one_is_refused_whole() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let write = |text: &str| fs::write(&path, format!("[server]\nbind = \"127.0.0.1:0\"\n{text}")).unwrap();
    const CHAT: &str = "[[namespaces]]\nname = \"chat\"\nallow_subscribe = \"user\"\n";
    const NEWS: &str = "[[namespaces]]\nname = \"news\"\nallow_subscribe = \"user\"\n";
    write(CHAT);
    let mut hub = Process::start(&mut wardcast(&["--config", &path, "--ephemeral"]));
    let banner = hub.banner();
    let mut client = connect_with_token(banner.address, &banner.token).await;
    client.subscribe("chat:1").await;

    // The secrets that the hub has generated are no change.
    write(&format!("workers = 7\n[limits]\nchannels_per_session = 9\n[log]\nlevel = \"debug\"\n{CHAT}{NEWS}"));
    hub.signal(SIGHUP);
    let line = hub.wait_for_log("changed options require a restart");
    assert!(line.ends_with("options=\"server.workers\""), "{line}");
    let line = hub.wait_for_log("reloaded configuration");
    assert!(line.ends_with("options=\"namespaces,limits.channels_per_session,log.level\""), "{line}");
    client.subscribe("news:1").await;
    // A line of the new level, which the start did not have. A further reload begins when the one before it has set the level.
    hub.signal(SIGHUP);
    hub.wait_for_log("changed options require a restart");
    let mut refused = Client::connect(banner.address, "/connection/websocket").await.unwrap();
    refused.send_text("nonsense").await;
    refused.wait_for_close().await;
    hub.wait_for_log("session closed");

    // Each of these is refused whole: "chat" stays.
    for (text, field) in [
        (format!("[limits]\nconnections = 0\n{NEWS}"), "limits.connections"),
        ("[[namespaces]]\nname = \"new\"\nallow_subscribe = \"everybody\"\n".to_owned(), "namespaces"),
        ("[origins]\nallowed = [\"no origin\"]\n".to_owned(), "origins.allowed"),
        ("[log]\nlevel = \"loud\"\n".to_owned(), "log.level"),
        ("nonsense".to_owned(), "TOML"),
    ] {
        write(&text);
        hub.signal(SIGHUP);
        let line = hub.wait_for_log("configuration reload failed, keeping the old one");
        assert!(line.contains(field) && line.contains("wardcast config check"), "{line}");
    }
    fs::remove_file(&path).unwrap();
    hub.signal(SIGHUP);
    let line = hub.wait_for_log("configuration reload failed, keeping the old one");
    assert!(line.contains("--config"), "{line}");
    client.subscribe("chat:2").await;

    write(&format!("[log]\nlevel = \"error\"\n{NEWS}"));
    hub.signal(SIGHUP);
    let push = client.receive().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2000, "{push}");
    let log = hub.kill();
    assert!(!log.contains(&banner.token) && !log.contains(&banner.password), "{log}");
}

#[actix_rt::test]
async fn sighup_replaces_the_keys_of_a_hub_and_a_faulty_one_is_named_and_changes_nothing() {
    let (old, new) = (ProviderKey::ec("old"), ProviderKey::ec("new"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let write = |keys: &[&ProviderKey], more: &str| {
        let keys: String = keys.iter().map(|key| format!("[[auth.keys]]\njwk = '{}'\n", key.jwk)).collect();
        fs::write(&path, format!("[server]\nbind = \"127.0.0.1:0\"\n{keys}{more}")).unwrap();
    };
    write(&[&old], "");
    let mut hub = Process::start(&mut wardcast(&["--config", &path, "--ephemeral"]));
    let address = hub.banner().address;
    let token = |key: &ProviderKey| key.sign(wardcast::clock::Clock::default().now(), json!({"sub": "ann"}));
    let mut session = connect_with_token(address, &token(&old)).await;

    write(&[&new], "[[auth.keys]]\nid = \"gone\"\nalgorithm = \"ES256\"\nfile = \"/nonexistent.pem\"\n");
    hub.signal(SIGHUP);
    let line = hub.wait_for_log("configuration reload failed, keeping the old one");
    assert!(line.contains("auth.keys") && line.contains("/nonexistent.pem"), "{line}");
    session.request(json!({"id": 1, "ping": {}})).await;

    write(&[&new], "");
    hub.signal(SIGHUP);
    assert_eq!(session.wait_for_close().await, (Some(3500), "token revoked".to_owned()));
    let line = hub.wait_for_log("reloaded keys");
    assert!(line.ends_with("added=1 removed=1 other_not_after=0"), "{line}");
    let line = hub.wait_for_log("reloaded configuration");
    assert!(line.ends_with("options=\"auth.keys\""), "{line}");
    connect_with_token(address, &token(&new)).await;
    hub.kill();
}

#[actix_rt::test]
async fn secret_that_a_reload_removes_verifies_nothing_although_development_replaces_it() {
    let removed = mark_secret("a secret of the file, 32 bytes or more");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let write = |text: &str| fs::write(&path, format!("[server]\nbind = \"127.0.0.1:0\"\n{text}")).unwrap();
    write(&format!("[auth]\nhmac_secret = {removed:?}\n"));
    let mut hub = Process::start(&mut wardcast(&["--config", &path, "--ephemeral"]));
    let address = hub.banner().address;
    let claims = json!({"sub": "ann", "exp": wardcast::clock::Clock::default().now().unix_seconds() + 600});
    let key = jsonwebtoken::EncodingKey::from_secret(removed.as_bytes());
    let sign = |kid: Option<&str>| {
        let header = jsonwebtoken::Header { kid: kid.map(str::to_owned), ..jsonwebtoken::Header::default() };
        mark_secret(jsonwebtoken::encode(&header, &claims, &key).unwrap())
    };
    let mut session = connect_with_token(address, &sign(None)).await;

    write("");
    hub.signal(SIGHUP);
    let line = hub.wait_for_log("reloaded configuration");
    assert!(line.ends_with("options=\"auth.hmac_secret\""), "{line}");
    assert_eq!(session.wait_for_close().await, (Some(3500), "token revoked".to_owned()));

    // It does not become that of the login either.
    write(&format!("[[auth.keys]]\njwk = '{}'\n", ProviderKey::ec("k").jwk));
    hub.signal(SIGHUP);
    hub.wait_for_log("reloaded configuration");
    for kid in [None, Some("login")] {
        let path = format!("/connection/websocket?token={}", sign(kid));
        let handshake = raw::handshake_with(address, &path, &[]);
        assert_eq!(http::exchange(address, handshake.as_bytes()).await.status, 401, "{kid:?}");
    }
    hub.kill();
}

#[actix_rt::test]
async fn sighup_changes_the_api_key_and_the_secret_of_hooks() {
    let (old, new) = (
        mark_secret("the old API key, which has 32 bytes or more"),
        mark_secret("the new API key, which has 32 bytes or more"),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let write = |text: &str| fs::write(&path, format!("[server]\nbind = \"127.0.0.1:0\"\n{text}")).unwrap();
    write(&format!("[api]\nkey = {old:?}\n"));
    let mut hub = Process::start(&mut wardcast(&["--config", &path, "--ephemeral"]));
    let address = hub.banner().address;
    let status =
        async |key: &str| http::post(address, "/api/info").header("X-API-Key", key).json(json!({})).send().await.status;
    write(&format!("[api]\nkey = {new:?}\nprevious_key = {old:?}\n[hooks]\nsecret = {old:?}\n"));
    hub.signal(SIGHUP);
    let line = hub.wait_for_log("reloaded configuration");
    assert!(line.ends_with("options=\"api.key,api.previous_key,hooks.secret\""), "{line}");
    assert_eq!((status(old).await, status(new).await), (200, 200));
    for (text, field) in [
        (format!("[api]\nkey = {new:?}\nprevious_key = \"short\"\n"), "api.previous_key"),
        (format!("[hooks]\nprevious_secret = {old:?}\n"), "hooks.previous_secret"),
    ] {
        write(&text);
        hub.signal(SIGHUP);
        let line = hub.wait_for_log("configuration reload failed, keeping the old one");
        assert!(line.contains(field), "{line}");
    }
    write(&format!("[api]\nkey = {new:?}\n"));
    hub.signal(SIGHUP);
    let line = hub.wait_for_log("reloaded configuration");
    assert!(line.ends_with("options=\"api.previous_key,hooks.secret\""), "{line}");
    assert_eq!((status(old).await, status(new).await), (401, 200));
    let log = hub.kill();
    assert!(!log.contains(old) && !log.contains(new), "{log}");
}
