//! `connections` and `channel_info`: pages of connections that stay exact while connections come and go, over nodes that answer and
//! nodes that do not.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    Client, TestHub, http,
    node::start_nodes,
    redis::{PrefixedRedis, RedisForm, RedisServer},
    start_hub_on, start_hub_with,
};

/// Reads all pages; returns the client ids in their order.
async fn read_pages(hub: &TestHub, mut request: Value, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let mut clients = Vec::new();
    for number in 0.. {
        let mut page = hub.call_api("connections", request.clone()).await["result"].take();
        let listed = page["connections"].as_array().unwrap_or_else(|| panic!("{page}"));
        clients.extend(listed.iter().map(|connection| connection["client"].as_str().unwrap().to_owned()));
        between(number).await;
        match page["cursor"].take() {
            Value::Null => break,
            cursor => request["cursor"] = cursor,
        }
        assert!(number < 1000, "the pages have no end");
    }
    clients
}

async fn no_change(_: usize) {}

async fn connect_many(hub: &TestHub, user: &str, channel: &str, count: usize) -> Vec<(Client, String)> {
    let connect = |_| async {
        let mut client = Client::connect(hub.address, &hub.path_for(user)).await.unwrap();
        let id = client.receive_connect_push().await["client"].as_str().unwrap().to_owned();
        client.subscribe(channel).await;
        (client, id)
    };
    join_all((0..count).map(connect)).await
}

fn ids(clients: &[(Client, String)]) -> BTreeSet<String> {
    clients.iter().map(|(_, id)| id.clone()).collect()
}

#[actix_rt::test]
async fn connection_is_described_with_all_that_is_known_of_it() {
    let hub = start_hub_with(|config| config.server.workers = 2).await;
    let token = hub.token("ann");
    let mut sdk = Client::connect(hub.address, "/connection/websocket").await.unwrap();
    sdk.request(json!({"id": 1, "connect": {"token": token, "name": "js", "version": "5.4.0"}})).await;
    for channel in ["news", "sport", "odd \"é\u{1f980}/"] {
        sdk.subscribe(channel).await;
    }
    let page = hub.call_api("connections", json!({"user": "ann", "channels": 2})).await;
    let [connection] = &page["result"]["connections"].as_array().unwrap()[..] else { panic!("{page}") };
    for (field, value) in [
        ("user", json!("ann")),
        ("transport", json!("websocket")),
        ("format", json!("json")),
        ("address", json!("127.0.0.1")),
        ("credential", json!("connect")),
        ("name", json!("js")),
        ("version", json!("5.4.0")),
        ("num_channels", json!(3)),
    ] {
        assert_eq!(connection[field], value, "{field}: {page}");
    }
    assert_eq!(connection["channels"].as_array().unwrap().len(), 2);
    let lifetime = connection["expire_at"].as_i64().unwrap() - connection["connected_at"].as_i64().unwrap();
    assert!((3590..=3600).contains(&lifetime), "{page}");
    assert!(!page.to_string().contains(token.rsplit('.').next().unwrap()), "the signature of the token");
    let odd = hub.call_api("connections", json!({"channel": "odd \"é\u{1f980}/"})).await;
    assert_eq!(odd["result"]["connections"].as_array().unwrap().len(), 1, "{odd}");
    assert_eq!(odd["result"]["connections"][0].get("channels"), None);
}

#[actix_rt::test]
async fn credential_and_transport_name_the_way_of_each_client() {
    let hub = start_hub_with(|_| {}).await;
    let _query = hub.connect("query").await;
    let bearer = hub.bearer("header");
    let _header = hub.connect_to("/socket", &[("Authorization", &bearer)]).await;
    let mut message = hub.connect_without_token().await;
    message.send_text(&hub.token_message("message")).await;
    message.receive_connect_push().await;
    let page = hub.call_api("connections", json!({})).await;
    let listed = page["result"]["connections"].as_array().unwrap();
    assert_eq!(listed.len(), 3, "{page}");
    for connection in listed {
        assert_eq!(connection["credential"], connection["user"], "{page}");
    }
}

#[actix_rt::test]
async fn pages_list_each_connection_once_while_others_come_and_go() {
    let hub = start_hub_with(|config| config.server.workers = 3).await;
    let stay = connect_many(&hub, "ann", "news", 40).await;
    let (mut leave, mut come) = (connect_many(&hub, "ann", "news", 20).await, Vec::new());
    for request in [json!({"limit": 7}), json!({"limit": 7, "user": "ann"}), json!({"limit": 7, "channel": "news"})] {
        let listed = read_pages(&hub, request.clone(), async |_| {
            leave.pop();
            come.extend(connect_many(&hub, "ann", "news", 1).await);
        })
        .await;
        let unique: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(unique.len(), listed.len(), "{request}: a connection is listed twice");
        assert!(unique.is_superset(&ids(&stay)), "{request}: a connection is missing");
    }
    let none = read_pages(&hub, json!({"user": "bob"}), no_change).await;
    assert!(none.is_empty() && read_pages(&hub, json!({"channel": "other"}), no_change).await.is_empty());
}

#[actix_rt::test]
async fn pages_have_at_most_the_configured_size_and_end_with_the_last_connection() {
    let hub = start_hub_with(|config| {
        config.server.workers = 2;
        config.api.connections_page = 10;
        config.api.connection_channels = 1;
    })
    .await;
    let clients = connect_many(&hub, "ann", "news", 30).await;
    let page = hub.call_api("connections", json!({"limit": 1_000_000, "channels": 1_000_000})).await;
    assert_eq!(page["result"]["connections"].as_array().unwrap().len(), 10);
    assert_eq!(page["result"]["connections"][0]["channels"], json!(["news"]));
    for limit in [1, 3, 10, 1_000_000] {
        let listed = read_pages(&hub, json!({"limit": limit}), no_change).await;
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), ids(&clients), "{limit}");
    }
    for (request, field) in [
        (json!({"limit": 0}), "limit"),
        (json!({"limit": -1}), "limit"),
        (json!({"channels": -1}), "channels"),
        (json!({"cursor": "forged"}), "cursor"),
        (json!({"cursor": "A".repeat(100_000)}), "cursor"),
        (json!({"user": "x".repeat(256)}), "user"),
        (json!({"channel": "a*"}), "channel"),
    ] {
        let refused = hub.call_api("connections", request.clone()).await;
        let message = refused["error"]["message"].as_str().unwrap_or_default();
        assert!(refused["error"]["code"] == 107 && message.contains(field), "{request}: {refused}");
        assert!(message.len() < 200, "{message}");
    }
}

#[actix_rt::test]
async fn connections_and_channel_info_join_the_answers_of_all_nodes() {
    let redis = RedisServer::start().await;
    let start = async || {
        start_hub_on(&redis, |config| {
            config.server.workers = 2;
            config.channels.history_size = 3;
        })
        .await
    };
    let (one, two) = (start().await, start().await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    let mut clients = connect_many_positioned(&one, "ann", 3).await;
    clients.extend(connect_many_positioned(&two, "bob", 4).await);
    for number in 0..5 {
        one.publish("news", json!(number)).await;
    }
    let listed = read_pages(&one, json!({"channel": "news", "limit": 2}), no_change).await;
    assert_eq!(listed.len(), 7);
    assert_eq!(listed, read_pages(&two, json!({"channel": "news", "limit": 5}), no_change).await);
    crate::support::poll_until("both nodes have received everything", async || {
        let info = one.call_api("channel_info", json!({"channel": "news"})).await;
        let info = &info["result"];
        let nodes = info["nodes"].as_array().unwrap();
        let counts: BTreeSet<(u64, u64)> = nodes
            .iter()
            .map(|node| (node["num_clients"].as_u64().unwrap(), node["num_users"].as_u64().unwrap()))
            .collect();
        assert_eq!((&info["num_clients"], counts), (&json!(7), BTreeSet::from([(3, 1), (4, 1)])), "{info}");
        let history = &info["history"];
        assert_eq!(
            (&history["offset"], &history["num_publications"], &history["oldest_offset"]),
            (&json!(5), &json!(3), &json!(3))
        );
        assert_eq!((&info["options"]["history_size"], &info["hooks"]), (&json!(3), &json!([])));
        nodes.iter().all(|node| node["position"]["offset"] == 5)
    })
    .await;
}

async fn connect_many_positioned(hub: &TestHub, user: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = hub.connect(user).await;
        client.subscribe_with("news", json!({"positioned": true})).await;
        clients.push(client);
    }
    clients
}

#[actix_rt::test]
async fn channel_info_creates_no_history_and_describes_names_with_a_meaning() {
    let hub = start_hub_with(|config| {
        config.channels.history_size = 3;
        config.channels.publish_hook = false;
    })
    .await;
    for _ in 0..2 {
        let info = hub.call_api("channel_info", json!({"channel": "$talk#ann,bob"})).await["result"].take();
        assert_eq!(info["history"], json!({"num_publications": 0}), "{info}");
        assert_eq!((&info["users"], &info["requires_token"]), (&json!(["ann", "bob"]), &json!(true)));
        assert_eq!((&info["nodes"], &info["num_clients"]), (&json!([]), &json!(0)));
    }
}

#[actix_rt::test]
async fn frozen_node_is_named_and_the_others_are_listed() {
    let redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let [one, two] = start_nodes(&redis, &[]).await;
    let (_ann, _bob) = (one.connect_subscriber("ann", "news").await, two.connect_subscriber("bob", "news").await);
    let all = one.call("connections", json!({})).await;
    assert_eq!(all["connections"].as_array().unwrap().len(), 2);
    two.freeze();
    for (method, request) in [("connections", json!({})), ("channel_info", json!({"channel": "news"}))] {
        let answer = one.call(method, request).await;
        assert_eq!(answer["unreachable"].as_array().map(Vec::len), Some(1), "{method}: {answer}");
        let listed = answer["connections"].as_array().or_else(|| answer["nodes"].as_array()).unwrap();
        assert_eq!(listed.len(), 1, "{method}: {answer}");
    }
    two.resume();
}

#[actix_rt::test]
async fn user_with_10_000_connections_is_read_in_short_pages() {
    let hub = start_hub_with(|config| {
        // The clients do not read while the others connect.
        config.server.ping_interval = std::time::Duration::from_secs(3600);
        config.limits.connections_per_user = 0;
        config.limits.connections_per_address = 0;
        config.limits.handshakes_per_second = 0;
    })
    .await;
    // Fewer than 10,000 where the tests, which run beside each other, may not open so many files.
    let possible = rustix_file_limit().saturating_sub(4000) / 2;
    let count = possible.min(10_000) as usize;
    let mut clients = Vec::new();
    while clients.len() < count {
        clients.extend(join_all((0..100).map(|_| hub.connect("ann"))).await);
    }
    let listed = read_pages(&hub, json!({"user": "ann", "limit": 1000}), no_change).await;
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), clients.len());
    let request = http::post(hub.address, "/api/connections").header("X-API-Key", crate::support::API_KEY);
    let page = request.body(r#"{"user":"ann","limit":1000}"#).send().await;
    assert!(page.body.len() < 1 << 20, "{} bytes", page.body.len());
    let explained = hub.call_api("explain", json!({"user": "ann", "channel": "news"})).await;
    let sessions = explained["result"]["sessions"].as_array().unwrap().len();
    assert_eq!((sessions, &explained["result"]["has_more"]), (100, &json!(true)));
}

fn rustix_file_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}
