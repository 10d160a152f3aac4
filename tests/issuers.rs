//! Two identity providers in one hub, over real sockets: the same `sub` names two users everywhere, and neither provider can
//! act for the users of the other.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Config, KeyConfig, Secret};

use crate::support::{Client, TestHub, mark_secret, start_hub_with};

const SECRETS: [(&str, &str); 2] =
    [("one", "the secret of the first issuer, of 32 bytes"), ("two", "the secret of the second issuer, of 32")];

/// Starts a hub for the issuers "one" and "two", each with these settings of its key.
async fn start_hub_for(settings: [&str; 2], change: impl FnOnce(&mut Config)) -> (TestHub, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    let hub = start_hub_with(|config| {
        config.auth.hmac_secret = Secret::default();
        for ((id, secret), more) in SECRETS.into_iter().zip(settings) {
            let file = files.path().join(id);
            std::fs::write(&file, mark_secret(secret)).unwrap();
            let entry = format!("id = {id:?}\nalgorithm = \"HS256\"\nfile = {file:?}\nissuer = {id:?}\n{more}");
            config.auth.keys.push(toml::from_str::<KeyConfig>(&entry).unwrap());
        }
        change(config);
    })
    .await;
    (hub, files)
}

/// Signs these claims as an issuer.
fn token(hub: &TestHub, issuer: &str, more: Value) -> String {
    let mut claims = json!({"iss": issuer, "exp": hub.clock.now().unix_seconds() + 600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let secret = SECRETS.iter().find(|(id, _)| *id == issuer).unwrap().1;
    let header = Header { kid: Some(issuer.to_owned()), ..Header::new(Algorithm::HS256) };
    mark_secret(jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap())
}

async fn connect(hub: &TestHub, issuer: &str, sub: &str) -> Client {
    hub.connect_to(&format!("/socket?token={}", token(hub, issuer, json!({"sub": sub}))), &[]).await
}

const PREFIXES: [&str; 2] = ["", "user_prefix = \"two:\""];

#[actix_rt::test]
async fn personal_channel_of_a_user_is_closed_to_the_same_sub_of_another_issuer() {
    let (hub, _files) = start_hub_for(PREFIXES, |config| {
        (config.channels.history_size, config.channels.presence) = (10, true);
        (config.channels.allow_history, config.channels.allow_presence) = (ChannelAccess::User, ChannelAccess::User);
    })
    .await;
    let (mut one, mut two) = (connect(&hub, "one", "5").await, connect(&hub, "two", "5").await);
    two.subscribe("#two:5").await;
    one.subscribe("#5").await;
    for (client, foreign) in [(&mut one, "#two:5"), (&mut two, "#5")] {
        for command in [
            json!({"id": 9, "subscribe": {"channel": foreign}}),
            json!({"id": 9, "publish": {"channel": foreign, "data": 1}}),
            json!({"id": 9, "history": {"channel": foreign}}),
            json!({"id": 9, "presence": {"channel": foreign}}),
        ] {
            assert_eq!(client.request(command.clone()).await["error"]["code"], 103, "{command}");
        }
    }
    hub.publish("#two:5", json!("for two")).await;
    hub.publish("#5", json!("for one")).await;
    assert_eq!(two.receive_publication().await, json!("for two"));
    assert_eq!(one.receive_publication().await, json!("for one"));
}

#[actix_rt::test]
async fn sub_with_the_prefix_of_another_issuer_opens_no_connection() {
    let (hub, _files) = start_hub_for(PREFIXES, |_| ()).await;
    let forged = token(&hub, "one", json!({"sub": "two:5"}));
    assert_eq!(hub.try_handshake(&format!("/socket?token={forged}"), &[]).await.status, 401);
    let mut client = hub.connect_without_token().await;
    client.send(json!({"id": 1, "connect": {"token": forged}})).await;
    assert_eq!(client.wait_for_close().await.0, Some(3500));
}

#[actix_rt::test]
async fn token_of_another_issuer_neither_refreshes_a_session_nor_opens_its_private_channel() {
    let (hub, _files) = start_hub_for(PREFIXES, |_| ()).await;
    for command in [
        json!({"id": 1, "refresh": {"token": token(&hub, "one", json!({"sub": "5"}))}}),
        json!({"id": 1, "subscribe": {"channel": "$a", "token": token(&hub, "one", json!({"sub": "5", "channel": "$a"}))}}),
    ] {
        let mut two = connect(&hub, "two", "5").await;
        two.send(command).await;
        assert_eq!(two.wait_for_close().await.0, Some(3500));
    }
    let mut two = connect(&hub, "two", "5").await;
    let forged = token(&hub, "one", json!({"sub": "two:5", "channel": "$a"}));
    assert_eq!(two.subscribe_with("$a", json!({"token": forged})).await["error"]["code"], 103);
    let own = token(&hub, "two", json!({"sub": "5", "channel": "$a"}));
    assert!(two.subscribe_with("$a", json!({"token": own})).await["subscribe"].is_object());
}

#[actix_rt::test]
async fn server_api_presence_and_connection_limit_use_the_name_with_its_prefix() {
    let (hub, _files) = start_hub_for(PREFIXES, |config| {
        config.limits.connections_per_user = 1;
        config.channels.presence = true;
        config.channels.allow_presence = ChannelAccess::Subscriber;
    })
    .await;
    let (mut one, mut two) = (connect(&hub, "one", "5").await, connect(&hub, "two", "5").await);
    for (issuer, expected) in [("one", 429), ("two", 429)] {
        let second = token(&hub, issuer, json!({"sub": "5"}));
        assert_eq!(hub.try_handshake(&format!("/socket?token={second}"), &[]).await.status, expected, "{issuer}");
    }
    one.subscribe("news").await;
    two.subscribe("news").await;
    let presence = one.request(json!({"id": 3, "presence": {"channel": "news"}})).await;
    let members = presence["presence"]["presence"].as_object().unwrap_or_else(|| panic!("{presence}"));
    let mut users: Vec<&str> = members.values().map(|info| info["user"].as_str().unwrap()).collect();
    users.sort_unstable();
    assert_eq!(users, ["5", "two:5"]);
    hub.publish("news", json!("before")).await;
    assert_eq!(hub.call_api("disconnect", json!({"user": "two:5"})).await, json!({"result": {}}));
    two.wait_for_close().await;
    assert_eq!(one.receive_publication().await, json!("before"));
    assert_eq!(one.request(json!({"id": 4, "ping": {}})).await["id"], 4, "the user of the other issuer stays");
}

#[actix_rt::test]
async fn shared_subjects_make_the_same_sub_one_user() {
    let (hub, _files) = start_hub_for(["", ""], |config| config.auth.shared_subjects = true).await;
    let mut client = connect(&hub, "one", "5").await;
    let refresh = json!({"id": 1, "refresh": {"token": token(&hub, "two", json!({"sub": "5"}))}});
    assert!(client.request(refresh).await["refresh"].is_object());
}
