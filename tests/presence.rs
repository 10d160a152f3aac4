//! Who is in a channel: asked for, and told by joins and leaves.

use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Config};

use crate::support::{Client, TestHub, start_hub_with, wait_until};

async fn start_presence_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.presence = true;
        config.channels.allow_presence = ChannelAccess::User;
        config.channels.join_leave = true;
        change(config);
    })
    .await
}

async fn present_users(client: &mut Client) -> Vec<String> {
    let reply = client.request(json!({"id": 5, "presence": {"channel": "news"}})).await;
    let members = reply["presence"]["presence"].as_object().cloned().unwrap_or_default();
    let mut users: Vec<String> = members.values().map(|info| info["user"].as_str().unwrap().to_owned()).collect();
    users.sort();
    users
}

async fn subscribe(client: &mut Client, request: Value) -> Value {
    client.request(json!({"id": 1, "subscribe": request})).await
}

#[actix_rt::test]
async fn presence_follows_subscribe_and_every_kind_of_leave() {
    let hub = start_presence_hub(|_| ()).await;
    let mut eve = hub.connect("eve").await;
    let (mut ann, mut bob, cat) = (
        hub.connect_subscriber("ann", "news").await,
        hub.connect_subscriber("bob", "news").await,
        hub.connect_subscriber("cat", "news").await,
    );
    assert_eq!(present_users(&mut eve).await, ["ann", "bob", "cat"]);
    ann.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(present_users(&mut eve).await, ["bob", "cat"]);
    drop(cat);
    wait_until("a dropped connection is out of sight", async || {
        present_users(&mut hub.connect("fay").await).await == ["bob"]
    })
    .await;
    hub.call_api("disconnect", json!({"user": "bob"})).await;
    bob.wait_for_close().await;
    wait_until("nobody is left", async || present_users(&mut hub.connect("fay").await).await.is_empty()).await;
    hub.stop().await;
}

#[actix_rt::test]
async fn immediate_reconnect_leaves_no_stale_presence() {
    let hub = start_presence_hub(|_| ()).await;
    for _ in 0..20 {
        drop(hub.connect_subscriber("ann", "news").await);
    }
    let last = hub.connect_subscriber("ann", "news").await;
    wait_until("one is there", async || present_users(&mut hub.connect("fay").await).await == ["ann"]).await;
    drop(last);
    wait_until("none is", async || present_users(&mut hub.connect("fay").await).await.is_empty()).await;
    hub.stop().await;
}

#[actix_rt::test]
async fn joins_and_leaves_are_sent_to_subscribers_that_request_them() {
    let hub = start_presence_hub(|_| ()).await;
    let (mut ann, mut plain) = (hub.connect("ann").await, hub.connect_subscriber("cat", "news").await);
    subscribe(&mut ann, json!({"channel": "news", "join_leave": true})).await;
    // Its own, as the SDKs know it.
    let own = ann.receive().await;
    assert_eq!(own["push"]["join"]["info"]["user"], "ann", "{own}");
    let claims = json!({"sub": "bob", "exp": 60, "info": {"name": "Bob"}});
    let (mut bob, greeting) = hub.connect_with_claims(claims).await;
    bob.subscribe("news").await;
    let who = json!({"user": "bob", "client": greeting["client"], "conn_info": {"name": "Bob"}});
    assert_eq!(ann.receive().await, json!({"push": {"channel": "news", "join": {"info": who}}}));
    drop(bob);
    assert_eq!(ann.receive().await, json!({"push": {"channel": "news", "leave": {"info": who}}}));
    hub.publish("news", json!(1)).await;
    assert_eq!(plain.receive_publication().await, 1, "who has not asked hears publications only");
    assert_eq!(ann.receive_publication().await, 1);
    hub.stop().await;
}

#[actix_rt::test]
async fn forced_joins_and_leaves_are_sent_to_every_subscriber() {
    let hub = start_presence_hub(|config| config.channels.force_push_join_leave = true).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    assert_eq!(ann.receive().await["push"]["join"]["info"]["user"], "ann");
    let mut bob = hub.connect_subscriber("bob", "news").await;
    assert_eq!(ann.receive().await["push"]["join"]["info"]["user"], "bob");
    bob.receive().await;
    bob.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(ann.receive().await["push"]["leave"]["info"]["user"], "bob");
    hub.stop().await;
}

#[actix_rt::test]
async fn channel_without_join_leave_sends_none_on_request() {
    let hub = start_hub_with(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    subscribe(&mut ann, json!({"channel": "news", "join_leave": true})).await;
    let _bob = hub.connect_subscriber("bob", "news").await;
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
    hub.stop().await;
}

#[actix_rt::test]
async fn new_subscription_token_updates_presence_info() {
    let hub = start_presence_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    let token =
        |seat: u8| hub.token_with_claims(json!({"sub": "ann", "channel": "$desk", "exp": 60, "info": {"seat": seat}}));
    subscribe(&mut ann, json!({"channel": "$desk", "token": token(4)})).await;
    ann.request(json!({"id": 2, "sub_refresh": {"channel": "$desk", "token": token(5)}})).await;
    let reply = ann.request(json!({"id": 3, "presence": {"channel": "$desk"}})).await;
    let members = reply["presence"]["presence"].as_object().cloned().unwrap_or_default();
    let seats: Vec<Value> = members.values().map(|info| info["chan_info"].clone()).collect();
    assert_eq!(seats, [json!({"seat": 5})], "{reply}");
    hub.stop().await;
}
