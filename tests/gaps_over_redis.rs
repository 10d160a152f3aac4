//! What a Redis that fails does to histories: hubs on the same Redis fill the gap, or tell their clients that they cannot.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{
    Client, TestHub, allow_any_rate,
    redis::{PrefixedRedis, RedisForm, RedisServer, test_on_every_form},
    start_hub_over,
};

test_on_every_form! {
    redis_that_comes_back_empty_is_told_to_positioned_subscribers_of_all_hubs
    failover_that_loses_acknowledged_writes_voids_all_positions
    other_publications_at_known_offsets_void_all_positions
    publications_made_while_the_subscriptions_are_cut_are_filled_from_the_history
    clients_that_reconnect_at_once_to_two_nodes_cost_one_read_each_while_publications_arrive
}

async fn start_hub(redis: &PrefixedRedis) -> TestHub {
    start_hub_with(redis, 1, Duration::from_secs(2)).await
}

async fn start_hub_with(redis: &PrefixedRedis, workers: usize, probe_interval: Duration) -> TestHub {
    start_hub_over(redis, |config| {
        config.server.workers = workers;
        // Clients that do not read for a while, because the test publishes, do not answer pings.
        config.server.ping_interval = Duration::from_secs(600);
        // The check of the storage at each interval reads a part of a stream, which one of the tests counts.
        config.broker.redis.probe_interval = probe_interval;
        (config.channels.history_size, config.channels.history_ttl) = (1000, Duration::from_secs(60));
        config.channels.force_recovery = true;
        allow_any_rate(config);
    })
    .await
}

async fn start_two_hubs(redis: &PrefixedRedis) -> (TestHub, TestHub) {
    let (one, two) = (start_hub(redis).await, start_hub(redis).await);
    one.wait_for_nodes(2).await;
    two.wait_for_nodes(2).await;
    (one, two)
}

/// A client that relies on its position in a channel; and the reply to its subscribe.
async fn positioned(hub: &TestHub, channel: &str) -> (Client, Value) {
    let mut client = hub.connect("ann").await;
    let reply = client.subscribe_with(channel, json!({"positioned": true})).await["subscribe"].take();
    assert_eq!(reply["positioned"], true, "{reply}");
    (client, reply)
}

/// Receives publications up to the one with this data; returns the data of all. Their offsets follow each other.
pub(crate) async fn receive_up_to(client: &mut Client, last: &Value) -> Vec<Value> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let push = client.receive().await;
        let publication = &push["push"]["pub"];
        let offset = publication["offset"].as_u64().unwrap_or_else(|| panic!("not a publication: {push}"));
        assert!(before.is_none_or(|before| before + 1 == offset), "{before:?} before {push}");
        before = Some(offset);
        all.push(publication["data"].clone());
        if publication["data"] == *last {
            return all;
        }
    }
}

async fn try_publish(hub: &TestHub, channel: &str, data: &Value) -> bool {
    hub.call_api("publish", json!({"channel": channel, "data": data})).await["error"].is_null()
}

pub(crate) async fn expect_told(client: &mut Client) {
    let push = client.receive().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
}

/// The client subscribes again from a position, and hears that what it missed cannot be recovered.
pub(crate) async fn expect_no_recovery(client: &mut Client, epoch: &Value, offset: u64) {
    let since = json!({"recover": true, "epoch": epoch, "offset": offset});
    let reply = client.subscribe_with("news", since).await["subscribe"].take();
    assert_eq!((&reply["was_recovering"], &reply["recovered"]), (&json!(true), &Value::Null), "{reply}");
    assert_ne!(reply["epoch"], *epoch, "{reply}");
}

#[actix_rt::test]
async fn redis_that_is_killed_and_keeps_its_data_loses_and_repeats_nothing() {
    kill_and_restart(PrefixedRedis::whole(RedisForm::OneServer(RedisServer::start_durable().await))).await;
}

#[actix_rt::test]
async fn several_servers_that_are_killed_and_keep_their_data_lose_and_repeat_nothing() {
    kill_and_restart(PrefixedRedis::whole(RedisForm::several_durable_servers().await)).await;
}

/// What a replica does that takes the place of a killed master is in `cluster_faults`.
async fn kill_and_restart(mut redis: PrefixedRedis) {
    const CHANNELS: usize = 4;
    let (one, two) = start_two_hubs(&redis).await;
    let name = |number: usize| format!("news{number}");
    let mut clients = Vec::new();
    for number in 0..CHANNELS {
        for hub in [&one, &two] {
            clients.push((number, positioned(hub, &name(number)).await.0));
        }
    }
    let mut accepted: Vec<Vec<Value>> = vec![Vec::new(); CHANNELS];
    let begin = Instant::now();
    let (mut is_killed, mut is_restarted) = (false, false);
    // About 200 publications per second, for 4 s.
    for round in 0..800 {
        sleep((begin + Duration::from_millis(5 * round)).saturating_duration_since(Instant::now())).await;
        if round >= 200 && !is_killed {
            redis.servers_without_replicas().unwrap().iter_mut().for_each(RedisServer::kill);
            is_killed = true;
        }
        if round >= 400 && !is_restarted {
            join_all(redis.servers_without_replicas().unwrap().iter_mut().map(RedisServer::restart)).await;
            is_restarted = true;
        }
        let (number, data) = (round as usize % CHANNELS, json!(round));
        let hub = if round % 8 < 4 { &one } else { &two };
        if try_publish(hub, &name(number), &data).await {
            accepted[number].push(data);
        }
    }
    let last = json!("last");
    for (number, accepted) in accepted.iter_mut().enumerate() {
        while !try_publish(&one, &name(number), &last).await {
            sleep(Duration::from_millis(50)).await;
        }
        accepted.push(last.clone());
    }
    for (number, client) in &mut clients {
        let received = receive_up_to(client, &last).await;
        let mut rest = received.iter();
        let is_received = |data: &Value| rest.any(|received| received == data);
        assert!(accepted[*number].iter().all(is_received), "{received:?} lacks some of {:?}", accepted[*number]);
        let distinct: std::collections::HashSet<String> = received.iter().map(Value::to_string).collect();
        assert_eq!(distinct.len(), received.len(), "no repetition: {received:?}");
    }
}

async fn redis_that_comes_back_empty_is_told_to_positioned_subscribers_of_all_hubs(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_hubs(redis).await;
    let mut clients = [positioned(&one, "news").await, positioned(&two, "news").await];
    for data in [1, 2] {
        one.publish("news", json!(data)).await;
    }
    for (client, _) in &mut clients {
        receive_up_to(client, &json!(2)).await;
    }
    redis.lose_everything().await;
    for (client, reply) in &mut clients {
        expect_told(client).await;
        expect_no_recovery(client, &reply["epoch"], 2).await;
    }
    while !try_publish(&two, "news", &json!(3)).await {
        sleep(Duration::from_millis(50)).await;
    }
    for (client, _) in &mut clients {
        assert_eq!(receive_up_to(client, &json!(3)).await, [3]);
    }
}

/// A key, and what Redis has stored there.
pub(crate) type Dump = (String, Vec<u8>);

/// The keys of the history of "news", as Redis stores them.
pub(crate) async fn dump(redis: &PrefixedRedis) -> Vec<Dump> {
    let mut dumps = Vec::new();
    for key in redis.keys("[sm]:*news*").await {
        let bytes = redis.master_with(&key).await.run(&["DUMP", &key]).await;
        dumps.push((key, bytes));
    }
    assert_eq!(dumps.len(), 2, "{dumps:?}");
    dumps
}

/// Puts a history back to what it was, as a failover to a replica does that lacks the last writes.
pub(crate) async fn lose_writes(redis: &PrefixedRedis, dumps: &[Dump]) {
    for (key, bytes) in dumps {
        let mut connection = redis.master_with(key).await.connection().await.unwrap();
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(60_000).arg(bytes.as_slice()).arg("REPLACE");
        restore.query_async::<()>(&mut connection).await.unwrap();
    }
}

/// Positioned clients of both hubs that have received three publications, and what Redis had stored after the first one.
async fn receive_three(redis: &PrefixedRedis, one: &TestHub, two: &TestHub) -> ([(Client, Value); 2], Vec<Dump>) {
    let mut clients = [positioned(one, "news").await, positioned(two, "news").await];
    one.publish("news", json!(1)).await;
    let before = dump(redis).await;
    for data in [2, 3] {
        one.publish("news", json!(data)).await;
    }
    for (client, _) in &mut clients {
        receive_up_to(client, &json!(3)).await;
    }
    (clients, before)
}

async fn failover_that_loses_acknowledged_writes_voids_all_positions(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_hubs(redis).await;
    let (mut clients, before) = receive_three(redis, &one, &two).await;
    lose_writes(redis, &before).await;
    redis.cut_subscriptions().await;
    for (client, reply) in &mut clients {
        expect_told(client).await;
        expect_no_recovery(client, &reply["epoch"], 3).await;
    }
}

async fn other_publications_at_known_offsets_void_all_positions(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_hubs(redis).await;
    let (mut clients, before) = receive_three(redis, &one, &two).await;
    // A publication carries its time in milliseconds, by which it is distinguished from the lost one.
    sleep(Duration::from_millis(5)).await;
    lose_writes(redis, &before).await;
    for data in ["other 2", "other 3", "other 4"] {
        one.publish("news", json!(data)).await;
    }
    for (client, reply) in &mut clients {
        expect_told(client).await;
        expect_no_recovery(client, &reply["epoch"], 3).await;
    }
}

async fn publications_made_while_the_subscriptions_are_cut_are_filled_from_the_history(redis: &mut PrefixedRedis) {
    let (one, two) = start_two_hubs(redis).await;
    let (mut client, _) = positioned(&two, "news").await;
    one.publish("news", json!(1)).await;
    receive_up_to(&mut client, &json!(1)).await;
    // The hub is not subscribed while its connection is being replaced, and publishing goes on.
    for round in 0..20 {
        redis.cut_subscriptions().await;
        for part in 0..5 {
            one.publish("news", json!(format!("{round} {part}"))).await;
        }
    }
    let received = receive_up_to(&mut client, &json!("19 4")).await;
    assert_eq!(received.len(), 100);
}

async fn clients_that_reconnect_at_once_to_two_nodes_cost_one_read_each_while_publications_arrive(
    redis: &mut PrefixedRedis,
) {
    const CLIENTS: usize = 200;
    const MISSED: usize = 50;
    const LIVE: usize = 10;
    let start = async || start_hub_with(redis, 2, Duration::from_secs(60)).await;
    let hubs = [start().await, start().await];
    let (first, reply) = positioned(&hubs[0], "news").await;
    drop(first);
    for number in 0..MISSED {
        hubs[0].publish("news", json!(number)).await;
    }
    let clients = join_all((0..CLIENTS).map(|number| hubs[number % 2].connect("ann"))).await;
    // The checks of the storage of each server, also those of hubs before, read one part of a stream in each direction.
    let stream_reads = async || redis.calls("xrange").await.saturating_sub(redis.calls("xrevrange").await);
    let before = stream_reads().await;
    let since = json!({"channel": "news", "recover": true, "positioned": true, "epoch": reply["epoch"], "offset": 0});
    let publish_live = async {
        for number in 0..LIVE {
            hubs[number % 2].publish("news", json!(MISSED + number)).await;
        }
    };
    let recover = |mut client: Client, delay: usize| {
        let since = since.clone();
        async move {
            // They come in waves, each after another publication.
            sleep(Duration::from_millis(10 * (delay % LIVE) as u64)).await;
            let reply = client.request(json!({"id": 2, "subscribe": since})).await["subscribe"].take();
            assert_eq!(reply["recovered"], true, "{reply}");
            let publications = reply["publications"].as_array().unwrap().iter();
            let mut data: Vec<u64> = publications.map(|publication| publication["data"].as_u64().unwrap()).collect();
            while data.len() < MISSED + LIVE {
                data.push(client.receive_publication().await.as_u64().unwrap());
            }
            assert_eq!(data, (0..(MISSED + LIVE) as u64).collect::<Vec<_>>());
        }
    };
    let begun = Instant::now();
    let recovered = join_all(clients.into_iter().enumerate().map(|(number, client)| recover(client, number)));
    tokio::join!(recovered, publish_live);
    let reads = stream_reads().await - before;
    // A page is shared for five seconds. It costs a look at the oldest publication, and two parts; publishing trims once, and a
    // check of the storage may come between the two numbers.
    let pages = 1 + begun.elapsed().as_secs() / 5;
    assert!(reads <= 2 * 3 * pages + 2, "{reads} reads of the stream for {CLIENTS} clients on two nodes");
}
