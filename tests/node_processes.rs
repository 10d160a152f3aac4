//! Two and three processes on one Redis, of each form: clients and callers of the server API see the same channels on each of
//! them, and lose nothing when one of them dies.

use std::sync::Arc;

use futures_util::future::{LocalBoxFuture, join_all};
use serde_json::{Value, json};

use crate::{
    deltas::{DeltaReader, data},
    support::{
        Client, http,
        node::{Node, numbered, start_nodes},
        poll_until,
        redis::{PrefixedRedis, RedisForm, run_on_parts},
    },
};

const HISTORY: &[&str] =
    &["channels.history_size=1000", "limits.publications_per_second=0", "limits.commands_per_second=0"];

const PRESENCE: &[&str] = &["channels.presence=true", "channels.join_leave=true"];

/// A test of nodes on a Redis of any form.
type Behaviour = fn(PrefixedRedis) -> LocalBoxFuture<'static, ()>;

/// Makes each behaviour a test over one server, and all of them one test over each other form, which takes seconds to start.
macro_rules! every_form {
    ($($behaviour:ident)*) => {
        mod over_one_server {
            use super::{PrefixedRedis, RedisForm};

            $(#[actix_rt::test]
            async fn $behaviour() {
                super::$behaviour(PrefixedRedis::whole(RedisForm::one_server().await)).await;
            })*
        }

        /// Tests all behaviours on a form of Redis that takes seconds to start.
        async fn check_all(redis: RedisForm) {
            let behaviours: Vec<(&str, Behaviour)> =
                vec![$((stringify!($behaviour), |redis| Box::pin($behaviour(redis))),)*];
            run_on_parts(redis, behaviours).await;
        }
    };
}

every_form! {
    history_is_the_same_on_every_node_and_is_removed_on_all
    subscribers_of_all_nodes_see_one_order_of_publications_from_all_nodes
    client_of_a_killed_node_recovers_on_another_exactly_what_it_missed
    stopping_node_closes_with_3001_and_its_client_recovers_on_another
    frozen_node_delivers_everything_in_order_when_it_continues
    deltas_apply_on_another_node_live_and_after_a_recovery
    tag_filters_select_publications_of_another_node_live_and_recovered
    idempotency_keys_and_versions_hold_on_all_nodes
    excluded_client_of_another_node_receives_only_the_other_publications
    cache_mode_sends_the_newest_publication_of_any_node
    server_api_of_one_node_subscribes_and_disconnects_clients_of_others
    killed_node_disappears_from_info_and_leaves_nothing_in_redis
    presence_of_a_killed_node_ends_as_soon_as_the_others_know
    presence_of_killed_nodes_leaves_redis_within_its_time_to_live
    clients_of_a_killed_node_are_present_in_none_of_its_channels
}

#[actix_rt::test]
async fn every_behaviour_holds_over_several_servers() {
    check_all(RedisForm::several_servers().await).await;
}

#[actix_rt::test]
async fn every_behaviour_holds_with_sentinels() {
    check_all(RedisForm::sentinel().await).await;
}

#[actix_rt::test]
async fn every_behaviour_holds_over_a_cluster() {
    check_all(RedisForm::cluster().await).await;
}

/// `localhost` and `127.0.0.1` are one server, but a node cannot know that of all names: the channels would be split.
#[actix_rt::test]
async fn node_that_names_the_servers_differently_is_not_ready_while_the_others_run() {
    const HEARTBEATS: &str = "broker.redis.heartbeat_interval=500ms";
    let redis = PrefixedRedis::whole(RedisForm::several_servers().await);
    let urls = redis.form.masters().iter().map(|server| format!("redis://localhost:{}", server.port()));
    let urls = format!("broker.redis.urls={:?}", urls.collect::<Vec<_>>());
    let mut former = Node::start(&redis, &[HEARTBEATS]).await;
    let newcomer = Node::start_unready(&redis, &[HEARTBEATS, &urls]);
    for node in [&former, &newcomer] {
        node.wait_for_log("node uses other redis servers for the same channels");
    }
    let readiness = async || http::get(newcomer.address, "/health/ready").send().await;
    poll_until("the newcomer says why it is not ready", async || {
        readiness().await.body.contains("uses other redis servers than the nodes before it")
    })
    .await;
    assert_eq!(readiness().await.status, 503);
    let line = newcomer.wait_for_log("in broker.redis.urls of all nodes");
    assert!(line.contains("not ready") && line.contains("localhost:"), "{line}");
    let conflicts = async |node: &Node| node.metric("wardcast_settings_conflict{setting=\"redis_servers\"}").await;
    assert_eq!((conflicts(&former).await, conflicts(&newcomer).await), (0.0, 1.0));
    assert!(former.is_ready().await);
    former.kill();
    poll_until("the newcomer is ready", async || newcomer.is_ready().await).await;
    assert_eq!(conflicts(&newcomer).await, 0.0);
}

/// The admin page and live traces ask all nodes every few seconds, or more often.
#[actix_rt::test]
async fn questions_to_all_nodes_while_redis_is_away_write_few_log_lines() {
    let mut redis = PrefixedRedis::whole(RedisForm::one_server().await);
    let [node, _other] = start_nodes::<2>(&redis, &[]).await;
    let Some(RedisForm::OneServer(server)) = Arc::get_mut(&mut redis.form) else { unreachable!("it is one server") };
    server.kill();
    poll_until("the node is not ready", async || !node.is_ready().await).await;
    for _ in 0..20 {
        let info = node.call("info", json!({})).await;
        assert_eq!(info["unreachable"].as_array().unwrap().len(), 1, "{info}");
    }
    node.begin_stop();
    let log = node.wait_for_exit().stderr;
    for phrase in ["survey question not sent", "nodes did not answer survey"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(phrase)).collect();
        assert!((1..=3).contains(&lines.len()), "{lines:?}");
    }
}

/// Publishes the numbers one after another, on each node in turn.
async fn publish_in_turn(nodes: &[Node], numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let node = &nodes[number as usize % nodes.len()];
        node.publish("news", json!(number)).await;
    }
}

/// The offset and the number of the next publication.
async fn receive_numbered(client: &mut Client) -> (u64, u64) {
    let push = client.receive().await;
    let publication = &push["push"]["pub"];
    (publication["offset"].as_u64().unwrap_or_else(|| panic!("{push}")), publication["data"].as_u64().unwrap())
}

async fn receive_all(client: &mut Client, count: usize) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(receive_numbered(client).await);
    }
    all
}

fn same(numbers: std::ops::RangeInclusive<u64>) -> Vec<(u64, u64)> {
    numbers.map(|number| (number, number)).collect()
}

async fn history_is_the_same_on_every_node_and_is_removed_on_all(redis: PrefixedRedis) {
    let nodes = start_nodes::<3>(&redis, &["channels.history_size=10"]).await;
    publish_in_turn(&nodes, 1..=15).await;
    let mut tops = Vec::new();
    for node in &nodes {
        assert_eq!(node.read_history("news").await, same(6..=15));
        let page = json!({"channel": "news", "limit": 3, "since": {"offset": 12}, "reverse": true});
        assert_eq!(numbered(&node.call("history", page).await["publications"]), [(11, 11), (10, 10), (9, 9)]);
        let top = node.call("history", json!({"channel": "news"})).await;
        tops.push((top["offset"].clone(), top["epoch"].clone()));
    }
    assert!(tops.iter().all(|top| *top == tops[0]), "{tops:?}");
    nodes[1].call("history_remove", json!({"channel": "news"})).await;
    for node in &nodes {
        let top = node.call("history", json!({"channel": "news", "limit": -1})).await;
        assert_eq!(
            (numbered(&top["publications"]), (top["offset"].clone(), top["epoch"].clone())),
            (vec![], tops[0].clone())
        );
    }
}

async fn subscribers_of_all_nodes_see_one_order_of_publications_from_all_nodes(redis: PrefixedRedis) {
    let nodes = start_nodes::<3>(&redis, HISTORY).await;
    let mut clients = Vec::new();
    for node in &nodes {
        let mut client = node.connect("ann").await;
        client.subscribe_with("news", json!({"positioned": true})).await;
        clients.push(client);
    }
    let publish = async |node: usize| {
        for number in 0..100 {
            nodes[node].publish("news", json!(1000 * node + number)).await;
        }
    };
    futures_util::future::join3(publish(0), publish(1), publish(2)).await;
    let seen = join_all(clients.iter_mut().map(|client| receive_all(client, 300))).await;
    assert_eq!(seen[0].iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (1..=300).collect::<Vec<_>>());
    assert!(seen.iter().all(|order| *order == seen[0]));
    for node in 0..3 {
        let of_node = seen[0].iter().map(|(_, number)| *number).filter(|number| number / 1000 == node);
        assert!(of_node.is_sorted(), "publications of one caller keep their order");
    }
}

async fn client_of_a_killed_node_recovers_on_another_exactly_what_it_missed(redis: PrefixedRedis) {
    let mut nodes = start_nodes::<3>(&redis, HISTORY).await;
    let mut ann = nodes[0].connect("ann").await;
    let reply = ann.subscribe_with("news", json!({"recoverable": true})).await;
    let epoch = reply["subscribe"]["epoch"].clone();
    publish_in_turn(&nodes, 1..=7).await;
    assert_eq!(receive_all(&mut ann, 7).await, same(1..=7));
    nodes[0].kill();
    assert_eq!(ann.wait_for_close().await.0, None);
    publish_in_turn(&nodes[1..], 8..=30).await;
    // From its position, from an older one and from the newest one, on either of the living nodes.
    for (node, offset) in [(1, 7), (2, 0), (2, 30)] {
        let mut ann = nodes[node].connect("ann").await;
        let members = json!({"recover": true, "recoverable": true, "offset": offset, "epoch": epoch});
        let reply = ann.subscribe_with("news", members).await["subscribe"].take();
        assert_eq!(
            (&reply["recovered"], numbered(&reply["publications"])),
            (&json!(true), same(offset + 1..=30)),
            "{reply}"
        );
        let next = nodes[1].publish_with(json!({"channel": "news", "data": 31, "skip_history": true})).await;
        assert_eq!(next, json!({}));
        assert_eq!(ann.receive_publication().await, 31, "live again");
    }
}

async fn stopping_node_closes_with_3001_and_its_client_recovers_on_another(redis: PrefixedRedis) {
    let [one, two] = start_nodes(&redis, HISTORY).await;
    let mut ann = one.connect("ann").await;
    let reply = ann.subscribe_with("news", json!({"recoverable": true})).await;
    one.begin_stop();
    // Some of them arrive before the node closes its connections, and some do not.
    for number in 1..=50 {
        two.publish("news", json!(number)).await;
    }
    let mut seen = Vec::new();
    let code = loop {
        match ann.next().await {
            Ok(text) => seen.push(serde_json::from_str::<Value>(&text).unwrap()["push"]["pub"].take()),
            Err(closed) => break closed.code,
        }
    };
    assert_eq!(code, Some(3001));
    let mut seen = numbered(&Value::Array(seen));
    let mut ann = two.connect("ann").await;
    let members = json!({"recover": true, "offset": seen.len(), "epoch": reply["subscribe"]["epoch"]});
    let reply = ann.subscribe_with("news", members).await["subscribe"].take();
    assert_eq!(reply["recovered"], true, "{reply}");
    println!("{} of 50 arrived before the close", seen.len());
    seen.extend(numbered(&reply["publications"]));
    assert_eq!(seen, same(1..=50));
    assert_eq!(one.wait_for_exit().code, Some(0));
}

async fn frozen_node_delivers_everything_in_order_when_it_continues(redis: PrefixedRedis) {
    let nodes = start_nodes::<2>(&redis, &[HISTORY, &["server.ping_interval=60s"]].concat()).await;
    let mut ann = nodes[0].connect("ann").await;
    ann.subscribe_with("news", json!({"positioned": true})).await;
    nodes[0].freeze();
    publish_in_turn(&nodes[1..], 1..=500).await;
    nodes[0].resume();
    assert_eq!(receive_all(&mut ann, 500).await, same(1..=500));
}

async fn deltas_apply_on_another_node_live_and_after_a_recovery(redis: PrefixedRedis) {
    let settings = [HISTORY, &["channels.allowed_delta_types=[\"fossil\"]", "channels.delta_publish=true"]].concat();
    let nodes = start_nodes::<2>(&redis, &settings).await;
    let publish = async |number: u64| nodes[number as usize % 2].publish("news", data(number)).await;
    let (mut ann, mut reader) = (nodes[0].connect("ann").await, DeltaReader::default());
    let reply = ann.subscribe_with("news", json!({"delta": "fossil", "recoverable": true})).await;
    for number in 1..=6 {
        publish(number).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
    }
    assert_eq!(reader.deltas, 5);
    drop(ann);
    for number in 7..=10 {
        publish(number).await;
    }
    let (mut ann, mut reader) = (nodes[1].connect("ann").await, DeltaReader::default());
    let members = json!({"delta": "fossil", "recover": true, "offset": 6, "epoch": reply["subscribe"]["epoch"]});
    let result = ann.subscribe_with("news", members).await["subscribe"].take();
    let missed: Vec<Value> = result["publications"].as_array().unwrap().iter().map(|one| reader.read(one)).collect();
    assert_eq!(missed, [7, 8, 9, 10].map(data));
    // The first live one may be whole.
    for number in [11, 12] {
        publish(number).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
    }
    assert!(reader.deltas >= 4, "{}", reader.deltas);
}

async fn tag_filters_select_publications_of_another_node_live_and_recovered(redis: PrefixedRedis) {
    let nodes = start_nodes::<2>(&redis, HISTORY).await;
    let publish = async |number: u64| {
        let tags = json!({"city": if number.is_multiple_of(3) { "bern" } else { "rome" }});
        nodes[number as usize % 2].publish_with(json!({"channel": "news", "data": number, "tags": tags})).await;
    };
    let bern = json!({"key": "city", "cmp": "eq", "val": "bern"});
    let mut ann = nodes[0].connect("ann").await;
    ann.subscribe_with("news", json!({"tf": bern, "recoverable": true})).await;
    for number in 1..=9 {
        publish(number).await;
    }
    assert_eq!(receive_all(&mut ann, 3).await, [(3, 3), (6, 6), (9, 9)]);
    let mut bob = nodes[1].connect("bob").await;
    let reply = bob.subscribe_with("news", json!({"tf": bern, "recover": true, "offset": 2})).await["subscribe"].take();
    assert_eq!((&reply["recovered"], numbered(&reply["publications"])), (&json!(true), vec![(3, 3), (6, 6), (9, 9)]));
}

async fn idempotency_keys_and_versions_hold_on_all_nodes(redis: PrefixedRedis) {
    let nodes = start_nodes::<3>(&redis, HISTORY).await;
    let mut ann = nodes[2].connect("ann").await;
    ann.subscribe_with("news", json!({"positioned": true})).await;
    let once = json!({"channel": "news", "data": 1, "idempotency_key": "key {1}"});
    let results = join_all((0..12).map(|call| nodes[call % 3].publish_with(once.clone()))).await;
    assert!(results.iter().all(|result| *result == results[0] && result["offset"] == 1), "{results:?}");
    for (node, version, data) in [(0, 5, 2), (1, 5, 90), (2, 4, 91), (1, 6, 3)] {
        nodes[node].publish_with(json!({"channel": "news", "data": data, "version": version})).await;
    }
    assert_eq!(receive_all(&mut ann, 3).await, same(1..=3));
    assert_eq!(nodes[0].read_history("news").await, same(1..=3));
}

async fn excluded_client_of_another_node_receives_only_the_other_publications(redis: PrefixedRedis) {
    let nodes = start_nodes::<2>(&redis, HISTORY).await;
    let (mut ann, connect) = nodes[0].connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    let mut bob = nodes[0].connect("bob").await;
    for client in [&mut ann, &mut bob] {
        client.subscribe_with("news", json!({"positioned": true})).await;
    }
    nodes[1].publish_with(json!({"channel": "news", "data": 1, "exclude": connect["client"]})).await;
    nodes[1].publish("news", json!(2)).await;
    assert_eq!(receive_numbered(&mut ann).await, (2, 2));
    assert_eq!(receive_all(&mut bob, 2).await, same(1..=2));
}

async fn cache_mode_sends_the_newest_publication_of_any_node(redis: PrefixedRedis) {
    let cache = ["channels.force_recovery=true", "channels.force_recovery_mode=cache"];
    let nodes = start_nodes::<2>(&redis, &[HISTORY, &cache].concat()).await;
    publish_in_turn(&nodes, 1..=9).await;
    for node in &nodes {
        let mut ann = node.connect("ann").await;
        let reply = ann.subscribe_with("news", json!({"recover": true})).await["subscribe"].take();
        assert_eq!((&reply["recovered"], numbered(&reply["publications"])), (&json!(true), same(9..=9)), "{reply}");
    }
}

async fn server_api_of_one_node_subscribes_and_disconnects_clients_of_others(redis: PrefixedRedis) {
    let nodes = start_nodes::<3>(&redis, HISTORY).await;
    publish_in_turn(&nodes, 1..=4).await;
    let epoch = nodes[0].call("history", json!({"channel": "news"})).await["epoch"].clone();
    let mut clients = vec![nodes[1].connect("ann").await, nodes[2].connect("ann").await];
    let since = json!({"offset": 2, "epoch": epoch});
    nodes[0].call("subscribe", json!({"user": "ann", "channel": "news", "recover_since": since})).await;
    for client in &mut clients {
        let push = client.receive().await;
        assert_eq!(push["push"]["channel"], "news", "{push}");
        assert_eq!(receive_all(client, 2).await, same(3..=4));
    }
    let channels = json!({"channels": {"news": {"num_clients": 2}}});
    assert_eq!(nodes[0].call("channels", json!({})).await, channels);
    nodes[0].call("disconnect", json!({"user": "ann"})).await;
    for client in &mut clients {
        assert_eq!(client.wait_for_close().await.0, Some(3503));
    }
}

async fn killed_node_disappears_from_info_and_leaves_nothing_in_redis(redis: PrefixedRedis) {
    let mut nodes = start_nodes::<3>(&redis, &["broker.redis.heartbeat_interval=500ms"]).await;
    let (_ann, _bob) =
        (nodes[0].connect_subscriber("ann", "news").await, nodes[1].connect_subscriber("bob", "news").await);
    nodes[0].kill();
    for node in &nodes[1..] {
        node.wait_for_nodes(2).await;
        let info = node.call("info", json!({})).await;
        assert_eq!((info["nodes"].as_array().unwrap().len(), &info["unreachable"]), (2, &Value::Null), "{info}");
        assert_eq!(node.call("channels", json!({})).await, json!({"channels": {"news": {"num_clients": 1}}}));
    }
    let subscribed = async || redis.subscribed_channels("replies:*").await.len();
    poll_until("only the living nodes are subscribed", async || subscribed().await == 2).await;
}

async fn presence_of_a_killed_node_ends_as_soon_as_the_others_know(redis: PrefixedRedis) {
    // Longer than the test takes.
    let settings = [PRESENCE, &["broker.redis.heartbeat_interval=500ms", "broker.presence_ttl=120s"]].concat();
    let mut nodes = start_nodes::<2>(&redis, &settings).await;
    let mut eve = nodes[1].connect("eve").await;
    eve.subscribe_with("news", json!({"join_leave": true})).await;
    assert_eq!(eve.receive().await["push"]["join"]["info"]["user"], "eve");
    let _ann = nodes[0].connect_subscriber("ann", "news").await;
    assert_eq!(eve.receive().await["push"]["join"]["info"]["user"], "ann");
    assert_eq!(nodes[1].present_users("news").await, ["ann", "eve"]);
    nodes[0].kill();
    poll_until("ann is gone", async || nodes[1].present_users("news").await == ["eve"]).await;
    nodes[1].wait_for_nodes(1).await;
}

async fn presence_of_killed_nodes_leaves_redis_within_its_time_to_live(redis: PrefixedRedis) {
    let mut nodes = start_nodes::<2>(&redis, &[PRESENCE, &["broker.presence_ttl=2s"]].concat()).await;
    let clients = join_all(nodes.iter().map(|node| node.connect_subscriber("ann", "news"))).await;
    let kept = async || redis.keys("[pe]:*").await;
    assert!(!kept().await.is_empty());
    nodes.iter_mut().for_each(Node::kill);
    poll_until("nothing of presence is left", async || kept().await.is_empty()).await;
    drop(clients);
}

async fn clients_of_a_killed_node_are_present_in_none_of_its_channels(redis: PrefixedRedis) {
    // So many that each server has some.
    const CHANNELS: usize = 12;
    let settings = [PRESENCE, &["broker.redis.heartbeat_interval=500ms", "broker.presence_ttl=120s"]].concat();
    let mut nodes = start_nodes::<2>(&redis, &settings).await;
    let names: Vec<String> = (0..CHANNELS).map(|number| format!("room-{number}")).collect();
    let mut clients = Vec::new();
    for name in &names {
        clients.push(nodes[0].connect_subscriber("ann", name).await);
        clients.push(nodes[1].connect_subscriber("bob", name).await);
        for node in &nodes {
            assert_eq!(node.present_users(name).await, ["ann", "bob"]);
        }
    }
    nodes[0].kill();
    for name in &names {
        poll_until("ann is gone", async || nodes[1].present_users(name).await == ["bob"]).await;
    }
    drop(clients);
    for name in &names {
        poll_until("nobody is present", async || nodes[1].present_users(name).await.is_empty()).await;
    }
}
