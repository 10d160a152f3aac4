//! Personal channels (`subscribe_to_personal`): each user is subscribed to `#user` at connect, and recovers there.

use serde_json::{Value, json};
use wardcast::{
    config::{AnonymousAccess, Config},
    protocol::schema::{Command, ConnectRequest},
};

use crate::support::{TestHub, protobuf::ProtobufClient, start_hub_with};

async fn start_personal_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.subscribe_to_personal = true;
        change(config);
    })
    .await
}

fn keep_history(config: &mut Config) {
    config.channels.history_size = 10;
}

#[actix_rt::test]
async fn every_user_is_subscribed_to_its_own_channel_in_plain_and_sdk_sessions() {
    let hub = start_personal_hub(|_| ()).await;
    let (mut plain, connect) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    assert_eq!(connect["subs"], json!({"#ann": {}}));
    let mut by_text = hub.connect_without_token().await;
    by_text.send_text(&hub.token_message("ann")).await;
    assert_eq!(by_text.receive_connect_push().await["subs"], json!({"#ann": {}}));
    let mut sdk = hub.connect_without_token().await;
    let reply = sdk.request(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    assert_eq!(reply["connect"]["subs"], json!({"#ann": {}}));
    let mut bob = hub.connect("bob").await;
    hub.publish("#ann", json!(1)).await;
    hub.publish("#bob", json!(2)).await;
    for client in [&mut plain, &mut by_text, &mut sdk] {
        assert_eq!(client.receive_publication().await, 1);
    }
    assert_eq!(bob.receive_publication().await, 2);
    let second = plain.subscribe_with("#ann", json!({})).await;
    assert_eq!(second["error"]["code"], 105, "{second}");
}

#[actix_rt::test]
async fn protobuf_session_is_subscribed_to_its_own_channel() {
    let hub = start_personal_hub(keep_history).await;
    let headers = &[("Sec-WebSocket-Protocol", "centrifuge-protobuf")];
    let mut client = ProtobufClient::connect(hub.address, "/connection/websocket", headers).await.unwrap();
    let connect = Some(ConnectRequest { token: hub.token("ann"), ..Default::default() });
    let reply = client.request(Command { id: 1, connect, ..Default::default() }).await;
    let result = reply.connect.expect("a result").subs.remove(0).result.expect("a subscription");
    assert!(result.recoverable && result.positioned && !result.epoch.is_empty(), "{result:?}");
    hub.publish("#ann", json!(1)).await;
    assert_eq!(client.receive_publication().await, "1");
}

#[actix_rt::test]
async fn client_recovers_what_its_user_missed_where_there_is_a_history() {
    let hub = start_personal_hub(keep_history).await;
    let mut sdk = hub.connect_without_token().await;
    let reply = sdk.request(json!({"id": 1, "connect": {"token": hub.token("ann")}})).await;
    let result = &reply["connect"]["subs"]["#ann"];
    assert_eq!((&result["recoverable"], &result["positioned"]), (&json!(true), &json!(true)), "{reply}");
    let position = json!({"recover": true, "epoch": result["epoch"], "offset": result["offset"].as_u64().unwrap_or(0)});
    drop(sdk);
    hub.publish("#ann", json!(1)).await;
    hub.publish("#ann", json!(2)).await;
    let mut sdk = hub.connect_without_token().await;
    let connect = json!({"token": hub.token("ann"), "subs": {"#ann": position}});
    let result = sdk.request(json!({"id": 1, "connect": connect})).await["connect"]["subs"]["#ann"].take();
    assert_eq!(result["recovered"], true, "{result}");
    let data: Vec<&Value> = result["publications"].as_array().unwrap().iter().map(|missed| &missed["data"]).collect();
    assert_eq!(data, [1, 2]);
}

#[actix_rt::test]
async fn personal_subscription_stays_on_refresh_whatever_the_token_names() {
    let hub = start_personal_hub(|_| ()).await;
    let with_data = json!({"sub": "ann", "exp": 60, "subs": {"#ann": {"data": "hi"}}});
    let (mut ann, connect) = hub.connect_with_claims(with_data).await;
    assert_eq!(connect["subs"], json!({"#ann": {"data": "hi"}}), "the token's options count");
    for claims in [json!({"sub": "ann", "exp": 120}), json!({"sub": "ann", "exp": 180, "channels": ["#ann"]})] {
        let token = hub.token_with_claims(claims);
        let reply = ann.request(json!({"id": 1, "refresh": {"token": token}})).await;
        assert!(reply["refresh"].is_object(), "no push comes first: {reply}");
        hub.publish("#ann", json!(1)).await;
        assert_eq!(ann.receive_publication().await, 1);
    }
}

#[actix_rt::test]
async fn anonymous_sessions_and_names_that_a_channel_cannot_limit_have_no_personal_channel() {
    let hub = start_personal_hub(|config| config.auth.anonymous = AnonymousAccess::Always).await;
    for user in ["", "ann,bob", "a*"] {
        let (_client, connect) = hub.connect_with_claims(json!({"sub": user, "exp": 60})).await;
        assert!(connect["subs"].is_null(), "{user:?}: {connect}");
    }
    let mut sdk = hub.connect_without_token().await;
    let reply = sdk.request(json!({"id": 1, "connect": {}})).await;
    assert!(reply["connect"]["client"].is_string() && reply["connect"]["subs"].is_null(), "{reply}");
}

#[actix_rt::test]
async fn namespace_has_personal_channels_of_its_own() {
    let hub = start_hub_with(|config| {
        let namespace = "name = \"inbox\"\nsubscribe_to_personal = true\nhistory_size = 10";
        config.namespaces = vec![toml::from_str(namespace).unwrap()];
    })
    .await;
    let (mut ann, connect) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    assert_eq!(connect["subs"].as_object().unwrap().keys().collect::<Vec<_>>(), ["inbox:#ann"]);
    assert_eq!(connect["subs"]["inbox:#ann"]["recoverable"], true, "{connect}");
    hub.publish("inbox:#ann", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
}
