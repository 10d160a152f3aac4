//! Every shard of a Redis Cluster, with every fault that it can have, under publications to all channels: no channel is deaf for longer
//! than two probe intervals after the Cluster works again, and no positioned subscriber misses anything without being told.
//!
//! The Cluster needs about two seconds to replace a master, and this test waits for that six times.

use std::{cell::RefCell, collections::HashMap, ops::RangeInclusive, rc::Rc, sync::LazyLock, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep};
use wardcast::config::{BrokerKind, Secret};

use crate::support::{
    Client, PATIENCE, Stopwatch, TestHub, allow_any_rate, poll_until,
    redis::{ClusterOptions, RedisCluster},
    start_hub_with,
};

const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Measures the silence. A fault is followed in a dozen steps by hubs, six servers and this test, and a busy machine delays each.
static CLOCK: LazyLock<Stopwatch> = LazyLock::new(Stopwatch::start);
/// So many channels that each master has some.
const CHANNELS: usize = 12;
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// The slots of each shard. A few of them move, and all of them before their master becomes a replica.
const SHARDS: [RangeInclusive<u16>; 3] = [0..=5460, 5461..=10_922, 10_923..=16_383];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Move,
    FailOver,
    Kill,
    Freeze,
    Replicate,
}

/// A channel, as its publisher and a subscriber see it.
#[derive(Default)]
struct ChannelLog {
    /// The numbers that were published, with their acceptance.
    accepted: Vec<u64>,
    next: u64,
    /// With the time of [`CLOCK`].
    received: Vec<(u64, Duration)>,
    /// The position of the subscriber.
    epoch: String,
    offset: u64,
    /// Publications up to this one may be missing: the subscriber knows that it could not recover.
    told_up_to: u64,
}

type Logs = Rc<RefCell<HashMap<String, ChannelLog>>>;

async fn start_hub(cluster: &RedisCluster) -> TestHub {
    let node = Secret::new(format!("redis://{}", cluster.addresses()[0]));
    let hub = start_hub_with(|config| {
        config.server.workers = 1;
        config.broker.kind = BrokerKind::Redis;
        config.broker.redis.cluster.urls = vec![node];
        config.broker.redis.probe_interval = PROBE_INTERVAL;
        (config.channels.history_size, config.channels.history_ttl) = (1000, Duration::from_secs(60));
        config.channels.force_recovery = true;
        allow_any_rate(config);
    })
    .await;
    hub.wait_for_broker(true).await;
    hub
}

fn channel(number: usize) -> String {
    format!("chat{number}")
}

/// Subscribes to all channels with positions. When the hub ends a subscription with 2500, the client subscribes to the channel
/// again from the position of its last publication, like an SDK.
async fn subscribe(mut client: Client, logs: Logs) {
    for number in 0..CHANNELS {
        client.send(json!({"id": number + 1, "subscribe": {"channel": channel(number), "positioned": true}})).await;
    }
    loop {
        let message = client.receive().await;
        let push = &message["push"];
        if let Some(id) = message["id"].as_u64() {
            let name = channel(id as usize - 1);
            if message["error"].is_object() {
                assert_eq!(message["error"]["code"], 100, "{message}");
                client.send(resubscribe(id, &logs, &name)).await;
            } else {
                note_subscribed(&mut logs.borrow_mut(), name, &message["subscribe"]);
            }
        } else if push["pub"].is_object() {
            let mut logs = logs.borrow_mut();
            note_received(logs.get_mut(push["channel"].as_str().unwrap()).unwrap(), &push["pub"]);
        } else {
            assert_eq!(push["unsubscribe"]["code"], 2500, "{message}");
            let name = push["channel"].as_str().unwrap();
            let number = (0..CHANNELS).find(|number| channel(*number) == name).unwrap();
            client.send(resubscribe(number as u64 + 1, &logs, name)).await;
        }
    }
}

fn resubscribe(id: u64, logs: &Logs, name: &str) -> Value {
    let logs = logs.borrow();
    match logs.get(name) {
        Some(ChannelLog { epoch, offset, .. }) => {
            json!({"id": id, "subscribe": {"channel": name, "recover": true, "epoch": epoch, "offset": offset}})
        }
        None => json!({"id": id, "subscribe": {"channel": name}}),
    }
}

fn note_subscribed(logs: &mut HashMap<String, ChannelLog>, name: String, reply: &Value) {
    let log = logs.entry(name).or_default();
    for publication in reply["publications"].as_array().into_iter().flatten() {
        note_received(log, publication);
    }
    if reply["was_recovering"] == true && reply["recovered"] != true {
        log.told_up_to = log.next;
    }
    log.epoch = reply["epoch"].as_str().unwrap_or_else(|| panic!("no position: {reply}")).to_owned();
    log.offset = reply["offset"].as_u64().unwrap_or(0);
}

fn note_received(log: &mut ChannelLog, publication: &Value) {
    log.offset = publication["offset"].as_u64().unwrap();
    log.received.push((publication["data"].as_u64().unwrap(), CLOCK.elapsed()));
}

/// Publishes numbers to a channel, one after the other, whatever the answers are.
async fn publish(hub: Rc<TestHub>, name: String, logs: Logs) {
    let mut ticks = interval(PUBLISH_INTERVAL);
    loop {
        ticks.tick().await;
        let number = {
            let mut logs = logs.borrow_mut();
            let log = logs.get_mut(&name).unwrap();
            log.next += 1;
            log.next
        };
        let response = hub.call_api("publish", json!({"channel": name, "data": number})).await;
        if response["error"].is_null() {
            logs.borrow_mut().get_mut(&name).unwrap().accepted.push(number);
        }
    }
}

/// The longest time without a publication of a channel after `since`, when all have received one that was sent after it. While the
/// Cluster is down, which a busy machine is enough for, nothing can be delivered: the time begins again.
async fn longest_silence(cluster: &RedisCluster, logs: &Logs, mut since: Duration) -> Duration {
    let first: HashMap<String, u64> = logs.borrow().iter().map(|(name, log)| (name.clone(), log.next)).collect();
    let deaf = || -> Vec<String> {
        let logs = logs.borrow();
        let deaf =
            logs.iter().filter(|(name, log)| log.received.last().is_none_or(|(number, _)| *number <= first[*name]));
        let describe = |(name, log): (&String, &ChannelLog)| {
            let received = log.received.last().map(|(number, at)| (*number, CLOCK.elapsed().saturating_sub(*at)));
            format!("{name}: sent {}, accepted {:?}, received {received:?}", log.next, log.accepted.last())
        };
        deaf.map(describe).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    while !deaf().is_empty() {
        assert!(Instant::now() < deadline, "channels stay deaf: {:#?}", deaf());
        sleep(PUBLISH_INTERVAL).await;
        if !cluster.is_ok().await {
            since = CLOCK.elapsed();
        }
    }
    let logs = logs.borrow();
    let silence = logs.values().map(|log| {
        let times = log.received.iter().map(|(_, at)| *at).filter(|at| *at > since);
        let times: Vec<_> = std::iter::once(since).chain(times).collect();
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap()
    });
    silence.max().unwrap()
}

async fn slots_of_channels(cluster: &RedisCluster) -> Vec<u16> {
    let mut slots = Vec::new();
    for master in &cluster.nodes[..SHARDS.len()] {
        for name in master.run::<Vec<String>>(&["PUBSUB", "SHARDCHANNELS", "wardcast:c:*"]).await {
            slots.push(cluster.slot_of(&name).await);
        }
    }
    slots
}

async fn master_of_shard(cluster: &RedisCluster, shard: usize) -> usize {
    cluster.master_of(*SHARDS[shard].start()).await.unwrap()
}

impl Fault {
    /// Breaks a shard, and waits until the Cluster works again. Returns since when no channel may be deaf.
    async fn inject(self, cluster: &mut RedisCluster, shard: usize, slots: &[u16], hubs: [&TestHub; 2]) -> Duration {
        let begun = CLOCK.elapsed();
        let master = master_of_shard(cluster, shard).await;
        let next = master_of_shard(cluster, (shard + 1) % SHARDS.len()).await;
        match self {
            Self::Move => {
                for slot in slots {
                    cluster.move_slots(*slot..=*slot, next).await;
                }
                begun
            }
            Self::FailOver => {
                cluster.fail_over(master).await;
                begun
            }
            Self::Kill => {
                cluster.nodes[master].kill();
                join_all(hubs.map(|hub| hub.wait_for_broker(false))).await;
                cluster.wait_for_new_master(master).await;
                CLOCK.elapsed()
            }
            Self::Freeze => {
                cluster.nodes[master].freeze();
                cluster.wait_for_new_master(master).await;
                CLOCK.elapsed()
            }
            Self::Replicate => {
                cluster.move_slots(SHARDS[shard].clone(), next).await;
                let moved = CLOCK.elapsed();
                cluster.replicate(master, next).await;
                moved
            }
        }
    }

    /// Mends the shard for the next fault.
    async fn mend(self, cluster: &mut RedisCluster, shard: usize, slots: &[u16], master: usize) {
        match self {
            Self::Move => {
                for slot in slots {
                    cluster.move_slots(*slot..=*slot, master).await;
                }
            }
            Self::FailOver => {}
            Self::Kill => cluster.nodes[master].restart().await,
            Self::Freeze => cluster.nodes[master].resume(),
            Self::Replicate => {
                cluster.make_empty_master(master).await;
                cluster.move_slots(SHARDS[shard].clone(), master).await;
                return;
            }
        }
        let master = master_of_shard(cluster, shard).await;
        poll_until("the shard has a replica", async || cluster.has_replica(master).await).await;
    }
}

#[actix_rt::test]
async fn no_channel_is_deaf_and_no_gap_is_untold_after_any_fault_of_any_shard() {
    break_every_shard(RedisCluster::start().await, &[Fault::Move, Fault::FailOver, Fault::Kill, Fault::Freeze]).await;
}

#[actix_rt::test]
async fn no_channel_is_deaf_and_no_gap_is_untold_after_any_master_becomes_a_replica() {
    // On a busy machine a replica would take the place of a master that is moving its slots, and some would be lost for good.
    let arguments = ["--cluster-node-timeout", "60000"];
    let options = ClusterOptions { arguments: &arguments, ..ClusterOptions::default() };
    break_every_shard(RedisCluster::start_with(&options).await, &[Fault::Replicate]).await;
}

async fn break_every_shard(mut cluster: RedisCluster, faults: &[Fault]) {
    let (subscriber, publisher) = (start_hub(&cluster).await, Rc::new(start_hub(&cluster).await));
    let logs = Logs::default();
    actix_rt::spawn(subscribe(subscriber.connect("ann").await, logs.clone()));
    poll_until("all are subscribed", async || logs.borrow().len() == CHANNELS).await;
    let publishing: Vec<_> = (0..CHANNELS)
        .map(|number| actix_rt::spawn(publish(publisher.clone(), channel(number), logs.clone())))
        .collect();
    let slots = slots_of_channels(&cluster).await;
    for fault in faults {
        for (shard, shard_slots) in SHARDS.iter().enumerate() {
            let master = master_of_shard(&cluster, shard).await;
            let begun = Instant::now();
            let slots: Vec<u16> = slots.iter().copied().filter(|slot| shard_slots.contains(slot)).collect();
            assert!(!slots.is_empty());
            let since = fault.inject(&mut cluster, shard, &slots, [&subscriber, &publisher]).await;
            let silence = longest_silence(&cluster, &logs, since).await;
            println!("{fault:?} of shard {shard}: {:?}, silence {silence:?}", begun.elapsed());
            assert!(silence <= 2 * PROBE_INTERVAL, "{fault:?} of shard {shard}: {silence:?}");
            join_all([&subscriber, &*publisher].map(|hub| hub.wait_for_broker(true))).await;
            fault.mend(&mut cluster, shard, &slots, master).await;
        }
    }
    longest_silence(&cluster, &logs, CLOCK.elapsed()).await;
    publishing.iter().for_each(actix_rt::task::JoinHandle::abort);
    join_all(publishing).await;
    check_received(&logs).await;
}

/// Every accepted publication has been received once and in order, or the subscriber was told.
async fn check_received(logs: &Logs) {
    let last = |log: &ChannelLog| log.received.last().map(|(number, _)| *number);
    poll_until("the last publications arrive", async || {
        logs.borrow().values().all(|log| last(log) >= log.accepted.last().copied())
    })
    .await;
    for (name, log) in &*logs.borrow() {
        let received: Vec<u64> = log.received.iter().map(|(number, _)| *number).collect();
        assert!(received.is_sorted_by(|one, next| one < next), "{name}: {received:?}");
        let lost: Vec<_> = log.accepted.iter().filter(|number| received.binary_search(number).is_err()).collect();
        assert!(lost.iter().all(|number| **number <= log.told_up_to), "{name} has lost {lost:?}");
        println!("{name}: {} received, {} lost, told up to {}", received.len(), lost.len(), log.told_up_to);
    }
}
