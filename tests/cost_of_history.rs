//! The cost of the memory broker's histories: publications per second in a loop, and resident bytes of each publication that
//! a history keeps, data included. `cargo run --release --example history`
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use prometheus_client::metrics::histogram::Histogram;
use wardcast::{
    broker::{
        Broker, Control, Deliver, NodeIdentity, PresenceEvent, PublishOptions, QueueFull, Retention, SurveyQuestion,
        memory::MemoryBroker,
    },
    channel::Channel,
    clock::Clock,
    config::{Config, Limits},
    emulation::SendCommandsError,
    publication::{ClientInfo, Publication},
    revocation::{ListFull, Revocation, Revocations},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long each case is measured, and how often. The best result counts: others are slowed down by other programs.
const SPAN: Duration = Duration::from_millis(500);
const SPANS: usize = 5;
const DATA: &[u8] = b"{\"text\":\"what people say to each other is about so long\"}";

/// Hubs that accept everything and do nothing.
struct DiscardingHubs(Arc<Revocations>);

impl Deliver for DiscardingHubs {
    fn deliver_publication(&self, _: Publication) -> Result<(), QueueFull> {
        Ok(())
    }

    fn deliver_presence_event(&self, _: Channel, _: PresenceEvent, _: Arc<ClientInfo>) -> Result<(), QueueFull> {
        Ok(())
    }

    fn deliver_control(&self, _: Control) -> Result<(), QueueFull> {
        Ok(())
    }

    fn deliver_commands(&self, _: &uuid::Uuid, _: Bytes) -> Result<(), SendCommandsError> {
        Ok(())
    }

    fn note_probe(&self, _: Instant, _: Histogram) {}

    fn note_lost_controls(&self) {}

    fn note_interrupted(&self, _: &[Channel]) {}

    fn note_resubscribed(&self, _: &[Channel]) {}

    fn revocations(&self) -> &Arc<Revocations> {
        &self.0
    }

    fn add_revocations(&self, _: Vec<Revocation>) -> Result<(), ListFull> {
        Ok(())
    }

    fn add_revocations_or_none(&self, _: Vec<Revocation>) -> Result<(), ListFull> {
        Ok(())
    }

    fn release_deliveries(&self) {}

    fn node(&self) -> NodeIdentity {
        NodeIdentity { uid: "node".to_owned(), name: "node".to_owned() }
    }

    fn answer_survey(&self, _: SurveyQuestion) -> BoxFuture<'static, Vec<u8>> {
        ready(Vec::new()).boxed()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Memory is measured first: memory that an earlier case had freed would be reused, and would not show.
    println!("{:<44} {:>12}", format!("kept, {} bytes of data", DATA.len()), "bytes each");
    for (count, each) in [(1_000, 1_000), (10_000, 100), (100_000, 10)] {
        println!("{:<44} {:>12.1}", format!("{count} channels with {each}"), resident_bytes_each(count, each)?);
    }
    println!("\n{:<44} {:>12}", format!("publications of {} bytes", DATA.len()), "per second");
    let keep = |size| Some(Retention { size, ttl: Duration::from_secs(300), meta_ttl: Duration::from_secs(3600) });
    for (what, retention, channels) in [
        ("without history, one channel", None, 1),
        ("history of 100, one channel", keep(100), 1),
        ("history of 100, 10,000 channels in turns", keep(100), 10_000),
    ] {
        println!("{what:<44} {:>12.0}", publications_per_second(retention, channels)?);
    }
    Ok(())
}

fn broker() -> MemoryBroker {
    let limits = Limits { history_bytes: 1 << 32, ..Config::default().limits };
    MemoryBroker::new(Arc::new(DiscardingHubs(Arc::default())), &limits, Clock::default())
}

fn channels(count: usize) -> Result<Vec<Channel>, Box<dyn Error>> {
    Ok((0..count).map(|number| Channel::new(&format!("channel{number}"))).collect::<Result<_, _>>()?)
}

fn publish(broker: &MemoryBroker, channel: &Channel, retention: Option<Retention>) -> Result<(), Box<dyn Error>> {
    let publication = Publication::new(channel.clone(), Bytes::from_static(DATA));
    let options = PublishOptions { retention, ..PublishOptions::default() };
    broker.publish(publication, options).now_or_never().ok_or("the memory broker waits")??;
    Ok(())
}

fn publications_per_second(retention: Option<Retention>, count: usize) -> Result<f64, Box<dyn Error>> {
    let (broker, channels) = (broker(), channels(count)?);
    for channel in &channels {
        broker.subscribe(channel.clone()).now_or_never().ok_or("the memory broker waits")??;
    }
    let mut best = 0.0_f64;
    for _ in 0..SPANS {
        let begin = Instant::now();
        let mut published = 0_u32;
        while begin.elapsed() < SPAN {
            for channel in channels.iter().cycle().skip(published as usize % count).take(64) {
                publish(&broker, channel, retention)?;
            }
            published += 64;
        }
        best = best.max(f64::from(published) / begin.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// The resident bytes that each publication adds, with its data and its share of the channel's own memory.
fn resident_bytes_each(count: usize, each: usize) -> Result<f64, Box<dyn Error>> {
    let (broker, channels) = (broker(), channels(count)?);
    let retention = Retention { size: each, ttl: Duration::from_secs(300), meta_ttl: Duration::from_secs(3600) };
    let before = resident_bytes()?;
    // The channels take turns, as in practice: no list grows without the others growing between.
    for _ in 0..each {
        for channel in &channels {
            publish(&broker, channel, Some(retention))?;
        }
    }
    let after = resident_bytes()?;
    std::mem::forget(broker);
    Ok((after - before) / (count * each) as f64)
}

fn resident_bytes() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}
