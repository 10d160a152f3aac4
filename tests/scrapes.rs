//! `/metrics`, asked for far more often than any monitoring does, while traffic flows.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix_rt::task::JoinHandle;
use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

use crate::support::{
    Client, http,
    process::{Banner, Process, wardcast},
};

/// The scrapes of one kept connection: how long each took, and the number of series in its answer.
type Scrapes = Vec<(Duration, usize)>;

async fn scrape(connection: &mut TcpStream) -> (Duration, usize) {
    let start = Instant::now();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
    let response = http::receive(connection).await;
    assert_eq!(response.status, 200, "{response:?}");
    // After many requests without a key the hub ends a connection.
    if response.header("connection").is_some() {
        *connection = TcpStream::connect(connection.peer_addr().unwrap()).await.unwrap();
    }
    (start.elapsed(), response.body.lines().filter(|line| !line.starts_with('#')).count())
}

/// Scrapes every 100 ms until `stop` is set.
fn scrape_often(mut connection: TcpStream, stop: Arc<AtomicBool>) -> JoinHandle<(TcpStream, Scrapes)> {
    actix_rt::spawn(async move {
        let (mut scrapes, mut ticks) = (Vec::new(), interval(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            scrapes.push(scrape(&mut connection).await);
        }
        (connection, scrapes)
    })
}

/// Publishes every 10 ms, and returns how long each publication took to its answer and its subscriber, in order of their length.
async fn time_publications(publisher: &mut Client, subscriber: &mut Client, count: u64) -> Vec<Duration> {
    let (mut times, mut ticks) = (Vec::new(), interval(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0..count {
        ticks.tick().await;
        let start = Instant::now();
        publisher.publish("news", json!(number)).await;
        assert_eq!(subscriber.receive_publication().await, json!(number));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}

fn resident_kib(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[actix_rt::test]
async fn scrape_every_100_ms_delays_no_delivery_and_nothing_grows() {
    // With one worker, a scrape that takes long holds up everything.
    let mut hub = Process::start(&mut wardcast(&[
        "--set",
        "server.bind=127.0.0.1:0",
        "--set",
        "server.workers=1",
        "--set",
        "limits.commands_per_second=0",
        "--set",
        "limits.publications_per_second=0",
    ]));
    let Banner { address, token, .. } = hub.banner();
    let path = format!("/connection/websocket?token={token}");
    let connect = async || {
        let mut client = Client::connect(address, &path).await.unwrap();
        client.receive_connect_push().await;
        client
    };
    let crowd = join_all((0..40).map(async |number| {
        let mut client = connect().await;
        for channel in 0..25 {
            client.subscribe(&format!("channel-{number}-{channel}")).await;
        }
        client
    }));
    let _crowd = crowd.await;
    let (mut publisher, mut subscriber) = (connect().await, connect().await);
    subscriber.subscribe("news").await;

    let mut connection = TcpStream::connect(address).await.unwrap();
    // The first ones allocate what all others use.
    time_publications(&mut publisher, &mut subscriber, 20).await;
    for _ in 0..20 {
        scrape(&mut connection).await;
    }
    let before = time_publications(&mut publisher, &mut subscriber, 200).await;
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", hub.child.id())).unwrap().count();
    let (resident_before, descriptors_before) = (resident_kib(hub.child.id()), descriptors());
    let stop = Arc::new(AtomicBool::new(false));
    let scraping = scrape_often(connection, stop.clone());
    let during = time_publications(&mut publisher, &mut subscriber, 400).await;
    stop.store(true, Ordering::Relaxed);
    let (mut connection, scrapes) = scraping.await.unwrap();

    let slowest = scrapes.iter().map(|(time, _)| *time).max().unwrap();
    let [median, most] = [0.5, 0.95].map(|share| {
        let at = |times: &[Duration]| times[(times.len() as f64 * share) as usize];
        (at(&before), at(&during))
    });
    // As many as come in a minute, and no pause between them.
    let mut series: Vec<usize> = scrapes.iter().map(|(_, series)| *series).collect();
    for _ in 0..600 {
        series.push(scrape(&mut connection).await.1);
    }
    let grown = resident_kib(hub.child.id()).saturating_sub(resident_before);
    let faults = [
        (scrapes.len() < 20, format!("only {} scrapes", scrapes.len())),
        (slowest >= Duration::from_secs(1), format!("a scrape of {slowest:?}")),
        // Both times are of a machine that may have much else to do.
        (median.1 > median.0 * 3 + Duration::from_millis(10), format!("median delay before and during: {median:?}")),
        (most.1 > most.0 * 3 + Duration::from_millis(50), format!("delay of 95 % before and during: {most:?}")),
        (series.iter().any(|count| *count != series[0]), format!("series come and go: {series:?}")),
        (descriptors() != descriptors_before, format!("descriptors: {descriptors_before}, {}", descriptors())),
        (grown >= 4096, format!("memory grew by {grown} KiB")),
    ];
    let faults: Vec<&String> = faults.iter().filter(|(is_fault, _)| *is_fault).map(|(_, text)| text).collect();
    assert!(faults.is_empty(), "{faults:?}");
}
