//! The hubs of this instance, one per worker: where the broker delivers to, and the door for whoever is not a session.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use actix::Addr;
use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::sync::Semaphore;

use super::{
    AreYouThere, CountAll, CountChannels, Hub, Shutdown,
    control::{Carried, Carry},
    delivery::Delivery,
    fanout::{Drain, Queue},
};
use crate::{
    broker::{Control, Deliver, Movement, NoRoom, Node, Question},
    channel::Channel,
    metrics::Metrics,
    protocol,
    publication::{ClientInfo, Publication},
};

/// Orders that may wait for the hubs: over it they are refused, or a flood of them would be memory.
const ORDERS: usize = 1024;

/// All hubs, as they have started.
pub struct Hubs {
    started: ArcSwap<Vec<(Queue, Addr<Hub>)>>,
    metrics: Arc<Metrics>,
    /// The id of this instance, of this run.
    node: Arc<str>,
    since: Instant,
    /// Places for orders that not every hub has carried out yet.
    orders: Arc<Semaphore>,
}

impl Hubs {
    /// None yet; each worker starts its own. `node` is the id of this instance.
    pub fn new(metrics: Arc<Metrics>, node: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            started: ArcSwap::default(),
            metrics,
            node,
            since: Instant::now(),
            orders: Arc::new(Semaphore::new(ORDERS)),
        })
    }

    pub(super) fn add(&self, queue: Queue, hub: Addr<Hub>) {
        self.started.rcu(|started| started.iter().cloned().chain([(queue.clone(), hub.clone())]).collect::<Vec<_>>());
    }

    /// Whether every hub answers. A panic in an actor that is not a session kills it in silence.
    pub async fn answer_all(&self) -> bool {
        let started = self.started.load_full();
        let answers = join_all(started.iter().map(|(_, hub)| hub.send(AreYouThere))).await;
        !answers.is_empty() && answers.iter().all(Result::is_ok)
    }

    /// Tells every hub that the instance stops.
    pub fn shut_down(&self, shutdown: Shutdown) {
        self.started.load().iter().for_each(|(_, hub)| hub.do_send(shutdown));
    }
}

impl Hubs {
    /// To every hub, or to none.
    fn hand_out(&self, delivery: Arc<Delivery>) -> Result<(), NoRoom> {
        let started = self.started.load();
        for (index, (queue, _)) in started.iter().enumerate() {
            if queue.reserve(delivery.cost_bytes()).is_err() {
                started[..index].iter().for_each(|(queue, _)| queue.give_back(delivery.cost_bytes()));
                self.metrics.deliveries_dropped.inc();
                return Err(NoRoom);
            }
        }
        for (queue, hub) in started.iter() {
            if queue.put(delivery.clone()) {
                hub.do_send(Drain);
            }
        }
        Ok(())
    }
}

impl Deliver for Hubs {
    fn deliver(&self, publication: Publication) -> Result<(), NoRoom> {
        self.hand_out(Delivery::new(publication))
    }

    fn announce(&self, channel: Channel, movement: Movement, who: Arc<ClientInfo>) -> Result<(), NoRoom> {
        self.hand_out(Delivery::movement(channel, movement, who))
    }

    fn control(&self, control: Control) -> Result<(), NoRoom> {
        let place = self.orders.clone().try_acquire_owned().map_err(|_| NoRoom)?;
        let order = Arc::new(Carried { control, _place: place });
        self.started.load().iter().for_each(|(_, hub)| hub.do_send(Carry(order.clone())));
        Ok(())
    }

    fn answer(&self, question: Question) -> BoxFuture<'static, Vec<u8>> {
        let hubs: Vec<Addr<Hub>> = self.started.load().iter().map(|(_, hub)| hub.clone()).collect();
        match question {
            Question::Channels => channels(hubs).boxed(),
            Question::Info => {
                let (node, since) = (self.node.clone(), self.since);
                async move { info(hubs, &node, since).await }.boxed()
            }
        }
    }
}

async fn channels(hubs: Vec<Addr<Hub>>) -> Vec<u8> {
    let counts = join_all(hubs.iter().map(|hub| hub.send(CountChannels))).await;
    let mut sum: HashMap<String, usize> = HashMap::new();
    for (channel, count) in counts.into_iter().flatten().flatten() {
        *sum.entry(channel.as_str().to_owned()).or_default() += count;
    }
    serde_json::to_vec(&sum).unwrap_or_default()
}

async fn info(hubs: Vec<Addr<Hub>>, node: &str, since: Instant) -> Vec<u8> {
    let counts = join_all(hubs.iter().map(|hub| hub.send(CountAll))).await;
    let (mut clients, mut subs, mut users, mut channels) = (0, 0, HashSet::new(), HashSet::new());
    for counts in counts.into_iter().flatten() {
        clients += counts.clients as u64;
        subs += counts.subs as u64;
        users.extend(counts.users);
        channels.extend(counts.channels);
    }
    let node = Node {
        uid: node.to_owned(),
        name: host_name().unwrap_or_else(|| node.to_owned()),
        version: protocol::VERSION.to_owned(),
        num_clients: clients,
        num_users: users.len() as u64,
        num_subs: subs,
        num_channels: channels.len() as u64,
        uptime: since.elapsed().as_secs(),
    };
    serde_json::to_vec(&node).unwrap_or_default()
}

/// The machine's name, or the container's, where the kernel tells it; it may change.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
