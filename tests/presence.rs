//! Who is in a channel: asked for, and told by joins and leaves.

use serde_json::{Value, json};
use wardcast::config::{AllowRead, Config};

use crate::support::{Client, Hub, eventually, hub_with};

async fn hub_of_members(change: impl FnOnce(&mut Config)) -> Hub {
    hub_with(|config| {
        config.channels.presence = true;
        config.channels.allow_presence = AllowRead::User;
        config.channels.join_leave = true;
        change(config);
    })
    .await
}

async fn users(client: &mut Client) -> Vec<String> {
    let reply = client.ask(json!({"id": 5, "presence": {"channel": "news"}})).await;
    let members = reply["presence"]["presence"].as_object().cloned().unwrap_or_default();
    let mut users: Vec<String> = members.values().map(|info| info["user"].as_str().unwrap().to_owned()).collect();
    users.sort();
    users
}

async fn subscribe(client: &mut Client, request: Value) -> Value {
    client.ask(json!({"id": 1, "subscribe": request})).await
}

#[actix_rt::test]
async fn who_subscribes_is_there_and_who_leaves_in_whatever_way_is_not() {
    let hub = hub_of_members(|_| ()).await;
    let mut eve = hub.client("eve").await;
    let (mut ann, mut bob, cat) =
        (hub.subscriber("ann", "news").await, hub.subscriber("bob", "news").await, hub.subscriber("cat", "news").await);
    assert_eq!(users(&mut eve).await, ["ann", "bob", "cat"]);
    ann.ask(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(users(&mut eve).await, ["bob", "cat"]);
    drop(cat);
    eventually("a dropped connection is out of sight", async || users(&mut hub.client("fay").await).await == ["bob"])
        .await;
    hub.api("disconnect", json!({"user": "bob"})).await;
    bob.ended().await;
    eventually("nobody is left", async || users(&mut hub.client("fay").await).await.is_empty()).await;
    hub.stop().await;
}

#[actix_rt::test]
async fn a_client_that_reconnects_at_once_leaves_no_ghost() {
    let hub = hub_of_members(|_| ()).await;
    for _ in 0..20 {
        drop(hub.subscriber("ann", "news").await);
    }
    let last = hub.subscriber("ann", "news").await;
    eventually("one is there", async || users(&mut hub.client("fay").await).await == ["ann"]).await;
    drop(last);
    eventually("none is", async || users(&mut hub.client("fay").await).await.is_empty()).await;
    hub.stop().await;
}

#[actix_rt::test]
async fn joins_and_leaves_are_told_to_those_who_ask_for_them() {
    let hub = hub_of_members(|_| ()).await;
    let (mut ann, mut plain) = (hub.client("ann").await, hub.subscriber("cat", "news").await);
    subscribe(&mut ann, json!({"channel": "news", "join_leave": true})).await;
    // Its own, as the SDKs know it.
    let own = ann.hear().await;
    assert_eq!(own["push"]["join"]["info"]["user"], "ann", "{own}");
    let claims = json!({"sub": "bob", "exp": 60, "info": {"name": "Bob"}});
    let (mut bob, greeting) = hub.client_of(claims).await;
    bob.subscribe("news").await;
    let who = json!({"user": "bob", "client": greeting["client"], "conn_info": {"name": "Bob"}});
    assert_eq!(ann.hear().await, json!({"push": {"channel": "news", "join": {"info": who}}}));
    drop(bob);
    assert_eq!(ann.hear().await, json!({"push": {"channel": "news", "leave": {"info": who}}}));
    hub.publish("news", json!(1)).await;
    assert_eq!(plain.publication().await, 1, "who has not asked hears publications only");
    assert_eq!(ann.publication().await, 1);
    hub.stop().await;
}

#[actix_rt::test]
async fn forced_joins_and_leaves_are_told_to_everybody() {
    let hub = hub_of_members(|config| config.channels.force_push_join_leave = true).await;
    let mut ann = hub.subscriber("ann", "news").await;
    assert_eq!(ann.hear().await["push"]["join"]["info"]["user"], "ann");
    let mut bob = hub.subscriber("bob", "news").await;
    assert_eq!(ann.hear().await["push"]["join"]["info"]["user"], "bob");
    bob.hear().await;
    bob.ask(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(ann.hear().await["push"]["leave"]["info"]["user"], "bob");
    hub.stop().await;
}

#[actix_rt::test]
async fn a_channel_that_tells_of_nobody_tells_of_nobody_whoever_asks() {
    let hub = hub_with(|_| ()).await;
    let mut ann = hub.client("ann").await;
    subscribe(&mut ann, json!({"channel": "news", "join_leave": true})).await;
    let _bob = hub.subscriber("bob", "news").await;
    hub.publish("news", json!(1)).await;
    assert_eq!(ann.publication().await, 1);
    hub.stop().await;
}

#[actix_rt::test]
async fn a_newer_subscription_token_shows_its_user_differently() {
    let hub = hub_of_members(|_| ()).await;
    let mut ann = hub.client("ann").await;
    let token = |seat: u8| hub.signed(json!({"sub": "ann", "channel": "$desk", "exp": 60, "info": {"seat": seat}}));
    subscribe(&mut ann, json!({"channel": "$desk", "token": token(4)})).await;
    ann.ask(json!({"id": 2, "sub_refresh": {"channel": "$desk", "token": token(5)}})).await;
    let reply = ann.ask(json!({"id": 3, "presence": {"channel": "$desk"}})).await;
    let members = reply["presence"]["presence"].as_object().cloned().unwrap_or_default();
    let seats: Vec<Value> = members.values().map(|info| info["chan_info"].clone()).collect();
    assert_eq!(seats, [json!({"seat": 5})], "{reply}");
    hub.stop().await;
}
