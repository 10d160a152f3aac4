//! Presence: the clients of a channel, as the `presence` command returns them and as joins and leaves announce them.

use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Config};

use crate::support::{Client, TestHub, start_hub_with};

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

/// Connects a client that receives joins and leaves, and skips its own join.
async fn connect_watcher(hub: &TestHub) -> Client {
    let mut watcher = hub.connect("eve").await;
    watcher.subscribe_with("news", json!({"join_leave": true})).await;
    wait_for_event(&mut watcher, "join", "eve").await;
    watcher
}

/// Waits until this user has joined or left the channel. A leave is sent after the client has been removed from presence.
async fn wait_for_event(watcher: &mut Client, event: &str, user: &str) {
    while watcher.receive().await["push"][event]["info"]["user"] != user {}
}

#[actix_rt::test]
async fn presence_follows_subscribe_and_every_kind_of_leave() {
    let hub = start_presence_hub(|_| ()).await;
    let (mut eve, mut fay) = (connect_watcher(&hub).await, hub.connect("fay").await);
    let (mut ann, mut bob, cat) = (
        hub.connect_subscriber("ann", "news").await,
        hub.connect_subscriber("bob", "news").await,
        hub.connect_subscriber("cat", "news").await,
    );
    assert_eq!(present_users(&mut fay).await, ["ann", "bob", "cat", "eve"]);
    ann.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(present_users(&mut fay).await, ["bob", "cat", "eve"]);
    drop(cat);
    wait_for_event(&mut eve, "leave", "cat").await;
    assert_eq!(present_users(&mut fay).await, ["bob", "eve"]);
    hub.call_api("disconnect", json!({"user": "bob"})).await;
    bob.wait_for_close().await;
    wait_for_event(&mut eve, "leave", "bob").await;
    assert_eq!(present_users(&mut fay).await, ["eve"]);
}

#[actix_rt::test]
async fn immediate_reconnect_leaves_no_stale_presence() {
    let hub = start_presence_hub(|_| ()).await;
    let (mut eve, mut fay) = (connect_watcher(&hub).await, hub.connect("fay").await);
    for _ in 0..20 {
        drop(hub.connect_subscriber("ann", "news").await);
    }
    let last = hub.connect_subscriber("ann", "news").await;
    for _ in 0..20 {
        wait_for_event(&mut eve, "leave", "ann").await;
    }
    assert_eq!(present_users(&mut fay).await, ["ann", "eve"]);
    drop(last);
    wait_for_event(&mut eve, "leave", "ann").await;
    assert_eq!(present_users(&mut fay).await, ["eve"]);
}

#[actix_rt::test]
async fn joins_and_leaves_are_sent_to_subscribers_that_request_them() {
    let hub = start_presence_hub(|_| ()).await;
    let (mut ann, mut plain) = (hub.connect("ann").await, hub.connect_subscriber("cat", "news").await);
    ann.subscribe_with("news", json!({"join_leave": true})).await;
    // A client receives its own join too, as the SDKs expect.
    let own = ann.receive().await;
    assert_eq!(own["push"]["join"]["info"]["user"], "ann", "{own}");
    let claims = json!({"sub": "bob", "exp": 60, "info": {"name": "Bob"}});
    let (mut bob, connect) = hub.connect_with_claims(claims).await;
    bob.subscribe("news").await;
    let info = json!({"user": "bob", "client": connect["client"], "conn_info": {"name": "Bob"}});
    assert_eq!(ann.receive().await, json!({"push": {"channel": "news", "join": {"info": info}}}));
    drop(bob);
    assert_eq!(ann.receive().await, json!({"push": {"channel": "news", "leave": {"info": info}}}));
    hub.publish("news", json!(1)).await;
    assert_eq!(plain.receive_publication().await, 1, "without join_leave it receives publications only");
    assert_eq!(ann.receive_publication().await, 1);
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
}

#[actix_rt::test]
async fn channel_without_join_leave_sends_none_on_request() {
    let hub = start_hub_with(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    ann.subscribe_with("news", json!({"join_leave": true})).await;
    let _bob = hub.connect_subscriber("bob", "news").await;
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.receive_publication().await, 1);
}

#[actix_rt::test]
async fn new_subscription_token_updates_presence_info() {
    let hub = start_presence_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    let token =
        |seat: u8| hub.token_with_claims(json!({"sub": "ann", "channel": "$desk", "exp": 60, "info": {"seat": seat}}));
    ann.subscribe_with("$desk", json!({"token": token(4)})).await;
    ann.request(json!({"id": 2, "sub_refresh": {"channel": "$desk", "token": token(5)}})).await;
    let reply = ann.request(json!({"id": 3, "presence": {"channel": "$desk"}})).await;
    let members = reply["presence"]["presence"].as_object().cloned().unwrap_or_default();
    let seats: Vec<Value> = members.values().map(|info| info["chan_info"].clone()).collect();
    assert_eq!(seats, [json!({"seat": 5})], "{reply}");
}
