//! The hubs of this instance, one per worker: where the broker delivers to, and the door for whoever is not a session.

use std::{collections::HashMap, sync::Arc};

use actix::Addr;
use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, FutureExt, join_all};

use super::{
    AreYouThere, CountChannels, Hub, Shutdown,
    fanout::{Delivery, Drain, Queue},
};
use crate::{
    broker::{Deliver, NoRoom, Question},
    metrics::Metrics,
    publication::Publication,
};

/// All hubs, as they have started.
pub struct Hubs {
    started: ArcSwap<Vec<(Queue, Addr<Hub>)>>,
    metrics: Arc<Metrics>,
}

impl Hubs {
    /// None yet; each worker starts its own.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { started: ArcSwap::default(), metrics })
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

impl Deliver for Hubs {
    fn deliver(&self, publication: Publication) -> Result<(), NoRoom> {
        let started = self.started.load();
        let delivery = Delivery::new(publication);
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

    fn answer(&self, question: Question) -> BoxFuture<'static, Vec<u8>> {
        let started = self.started.load_full();
        match question {
            Question::Channels => async move {
                let counts = join_all(started.iter().map(|(_, hub)| hub.send(CountChannels))).await;
                let mut sum: HashMap<String, usize> = HashMap::new();
                for (channel, count) in counts.into_iter().flatten().flatten() {
                    *sum.entry(channel.as_str().to_owned()).or_default() += count;
                }
                serde_json::to_vec(&sum).unwrap_or_default()
            }
            .boxed(),
        }
    }
}
