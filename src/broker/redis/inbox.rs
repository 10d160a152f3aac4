//! Where everything that Redis pushes arrives. Called by the driver of the subscription connection, so that nothing here
//! waits: publications and orders go straight to the hubs, which have bounded queues of their own, and the rest is handed
//! on over bounded queues.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use super::{
    envelope::{self, BusMessage, DropReason, SurveyId},
    names::RedisNames,
    probe::SubscriptionProbe,
    survey::SurveyRegistry,
};
use crate::{
    broker::{Control, Deliver, QueueFull, SurveyQuestion},
    metrics::Metrics,
    publication::Publication,
};

/// How often dropped deliveries are logged; each is counted.
const DROP_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A question of another instance, or of this one.
pub(super) struct ReceivedQuestion {
    pub(super) id: SurveyId,
    pub(super) asker: String,
    pub(super) question: SurveyQuestion,
}

/// The receiving end of the bus.
pub(super) struct BusInbox {
    pub(super) names: Arc<RedisNames>,
    pub(super) message_bytes: usize,
    pub(super) deliver: Arc<dyn Deliver>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) probe: Arc<SubscriptionProbe>,
    pub(super) surveys: Arc<SurveyRegistry>,
    pub(super) questions: mpsc::Sender<ReceivedQuestion>,
    /// Messages that came, ours or not: a connection that receives is not deaf.
    pub(super) received: Arc<AtomicU64>,
    pub(super) dropped: Mutex<DropLog>,
}

/// Deliveries without room since the last word about them.
#[derive(Default)]
pub(super) struct DropLog {
    count: u64,
    last_logged: Option<Instant>,
}

impl BusInbox {
    /// Takes one push. Confirmations of our own commands are none of its business.
    pub(super) fn receive(&self, push: PushInfo) {
        if push.kind != PushKind::Message {
            return;
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        if let Err(DropReason(reason)) = self.handle_message(push.data) {
            self.metrics.count_refused_bus_message(reason);
            log::debug!("dropped a message on the bus: {reason}");
        }
    }

    fn handle_message(&self, push: Vec<Value>) -> Result<(), DropReason> {
        let mut parts = push.into_iter();
        let (Some(Value::BulkString(name)), Some(Value::BulkString(message))) = (parts.next(), parts.next()) else {
            return Err(DropReason("push"));
        };
        if message.len() > self.message_bytes {
            return Err(DropReason("too_long"));
        }
        let source = self.names.parse(&name).ok_or(DropReason("name"))?;
        match envelope::decode(source, Bytes::from(message))? {
            BusMessage::Publication(publication) => self.deliver_publication(publication),
            BusMessage::Question { id, asker, question } => {
                self.questions
                    .try_send(ReceivedQuestion { id, asker, question })
                    .map_err(|_| DropReason("too_many_questions"))?;
            }
            BusMessage::Answer { id, part } => self.surveys.add_part(&id, part)?,
            BusMessage::Control(control) => self.deliver_control(control)?,
            BusMessage::Probe { nonce } => self.probe.receive(nonce)?,
        }
        Ok(())
    }

    fn deliver_control(&self, control: Control) -> Result<(), DropReason> {
        self.deliver.deliver_control(control).map_err(|QueueFull| {
            log::warn!("an order to sessions was not taken: a hub has no room for it");
            DropReason("no_room_for_order")
        })
    }

    fn deliver_publication(&self, publication: Publication) {
        if let Err(QueueFull) = self.deliver.deliver_publication(publication) {
            let mut dropped = self.dropped.lock();
            dropped.count += 1;
            if dropped.last_logged.is_none_or(|last| last.elapsed() >= DROP_LOG_INTERVAL) {
                log::warn!("dropped {} publications from redis: a hub has no room for them", dropped.count);
                *dropped = DropLog { count: 0, last_logged: Some(Instant::now()) };
            }
        }
    }
}
