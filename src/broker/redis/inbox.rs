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
    envelope::{self, Message, Refused, SurveyId},
    key::Keys,
    probe::Probe,
    survey::Surveys,
};
use crate::{
    broker::{Control, Deliver, NoRoom, Question},
    metrics::Metrics,
    publication::Publication,
};

/// How often dropped deliveries are logged; each is counted.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// A question of another instance, or of this one.
pub(super) struct Asked {
    pub(super) id: SurveyId,
    pub(super) asker: String,
    pub(super) question: Question,
}

/// The receiving end of the bus.
pub(super) struct Inbox {
    pub(super) keys: Arc<Keys>,
    pub(super) message_bytes: usize,
    pub(super) deliver: Arc<dyn Deliver>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) probe: Arc<Probe>,
    pub(super) surveys: Arc<Surveys>,
    pub(super) asked: mpsc::Sender<Asked>,
    /// Messages that came, ours or not: a connection that receives is not deaf.
    pub(super) received: Arc<AtomicU64>,
    pub(super) dropped: Mutex<Dropped>,
}

/// Deliveries without room since the last word about them.
#[derive(Default)]
pub(super) struct Dropped {
    count: u64,
    last_word: Option<Instant>,
}

impl Inbox {
    /// Takes one push. Confirmations of our own commands are none of its business.
    pub(super) fn take(&self, push: PushInfo) {
        if push.kind != PushKind::Message {
            return;
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        if let Err(Refused(reason)) = self.open(push.data) {
            self.metrics.count_refused_on_bus(reason);
            log::debug!("dropped a message on the bus: {reason}");
        }
    }

    fn open(&self, push: Vec<Value>) -> Result<(), Refused> {
        let mut parts = push.into_iter();
        let (Some(Value::BulkString(name)), Some(Value::BulkString(message))) = (parts.next(), parts.next()) else {
            return Err(Refused("push"));
        };
        if message.len() > self.message_bytes {
            return Err(Refused("too_long"));
        }
        let source = self.keys.source(&name).ok_or(Refused("name"))?;
        match envelope::decode(source, Bytes::from(message))? {
            Message::Publication(publication) => self.deliver(publication),
            Message::Question { id, asker, question } => {
                self.asked.try_send(Asked { id, asker, question }).map_err(|_| Refused("too_many_questions"))?;
            }
            Message::Answer { id, part } => self.surveys.take(&id, part)?,
            Message::Control(control) => self.order(control)?,
            Message::Probe { nonce } => self.probe.hear(nonce)?,
        }
        Ok(())
    }

    fn order(&self, control: Control) -> Result<(), Refused> {
        self.deliver.control(control).map_err(|NoRoom| {
            log::warn!("an order to sessions was not taken: a hub has no room for it");
            Refused("no_room_for_order")
        })
    }

    fn deliver(&self, publication: Publication) {
        if let Err(NoRoom) = self.deliver.deliver(publication) {
            let mut dropped = self.dropped.lock();
            dropped.count += 1;
            if dropped.last_word.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
                log::warn!("dropped {} publications from redis: a hub has no room for them", dropped.count);
                *dropped = Dropped { count: 0, last_word: Some(Instant::now()) };
            }
        }
    }
}
