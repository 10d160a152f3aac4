//! Receives everything that Redis pushes. The driver of the subscription connection calls it, so nothing here waits:
//! publications and controls go to the hubs, which have bounded queues, and everything else into bounded queues of this module.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use redis::{PushInfo, Value};
use tokio::sync::mpsc;

use super::{
    RedisContext,
    envelope::{self, AnswerPart, BusMessage, DropReason, NodeLayout, SurveyId},
    heartbeat,
    server::RedisServer,
};
use crate::{
    broker::{Control, QueueFull, SurveyQuestion},
    emulation::SendCommandsError,
    log_throttle::LogThrottle,
    revocation::Revocation,
};

/// Dropped publications are logged at most once per interval, and so are dropped controls. Each one is counted.
const DROP_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A survey question from another instance.
pub(super) struct ReceivedQuestion {
    pub(super) id: SurveyId,
    pub(super) asker: String,
    pub(super) question: SurveyQuestion,
}

/// The receiving end of the bus.
pub(super) struct BusInbox {
    context: Arc<RedisContext>,
    questions: mpsc::Sender<ReceivedQuestion>,
    dropped_publications: LogThrottle,
    dropped_controls: LogThrottle,
}

impl BusInbox {
    /// Creates an inbox that passes survey questions to `questions`.
    pub(super) fn new(context: Arc<RedisContext>, questions: mpsc::Sender<ReceivedQuestion>) -> Arc<Self> {
        Arc::new(Self {
            context,
            questions,
            dropped_publications: LogThrottle::new(DROP_LOG_INTERVAL),
            dropped_controls: LogThrottle::new(DROP_LOG_INTERVAL),
        })
    }

    /// Handles one message of a server.
    pub(super) fn receive(&self, server: &RedisServer, push: PushInfo) {
        server.count_received();
        if let Err(reason) = self.handle_message(server, push.data) {
            self.context.refused.count(reason);
        }
    }

    fn handle_message(&self, server: &RedisServer, push: Vec<Value>) -> Result<(), DropReason> {
        let mut parts = push.into_iter();
        let (Some(Value::BulkString(name)), Some(Value::BulkString(message))) = (parts.next(), parts.next()) else {
            return Err(DropReason("push"));
        };
        if message.len() > self.context.message_bytes {
            return Err(DropReason("too_long"));
        }
        let source = self.context.names.parse(&name).ok_or(DropReason("name"))?;
        match envelope::decode(source, Bytes::from(message), &self.context.signer)? {
            BusMessage::Publication(publication) => {
                self.context.shared_reads.extend(&publication);
                self.note_delivered(self.context.deliver.deliver_publication(publication));
            }
            BusMessage::HistoryRemoved(channel) => self.context.shared_reads.forget(&[channel]),
            BusMessage::PresenceEvent { channel, event, client } => {
                self.note_delivered(self.context.deliver.deliver_presence_event(channel, event, client));
            }
            BusMessage::Question { id, asker, question } => {
                // A survey asks the own hubs without the bus.
                if asker != self.context.instance {
                    if let SurveyQuestion::Revoked(revocations) = &question {
                        self.add_revocations(revocations.clone())?;
                    }
                    let queued = self.questions.try_send(ReceivedQuestion { id, asker, question });
                    queued.map_err(|_| DropReason("too_many_questions"))?;
                }
            }
            BusMessage::Answer { id, part } => self.receive_answer(&id, part)?,
            BusMessage::Control(control) => self.deliver_control(control)?,
            BusMessage::Commands { session, message } => {
                let delivered = self.context.deliver.deliver_commands(&session, message);
                delivered.map_err(|error| match error {
                    SendCommandsError::UnknownSession => DropReason("unknown_session"),
                    SendCommandsError::Full => DropReason("no_room_for_commands"),
                })?;
            }
            BusMessage::Heartbeat(heartbeat) => heartbeat::receive(&self.context, heartbeat)?,
            BusMessage::ReceiverCheck => {}
            BusMessage::Layout(NodeLayout { instance, fingerprint }) => {
                let is_other = fingerprint != self.context.router.routes().fingerprint();
                self.context.nodes.record_layout(&instance, is_other);
            }
            BusMessage::Probe { nonce } => {
                let sent_at = server.receive_probe(nonce)?;
                self.context.deliver.note_probe(sent_at.into_std(), self.context.metrics.bus_lag_of(server.address()));
            }
        }
        Ok(())
    }

    /// Passes an answer to its survey. One that comes too late is still a sign of life.
    fn receive_answer(&self, id: &SurveyId, part: AnswerPart) -> Result<(), DropReason> {
        if !self.context.nodes.record_answer(&part.instance) {
            return Err(DropReason("stray_answer"));
        }
        self.context.surveys.add_part(id, part)
    }

    /// Adds revocations before anything that has been published after them is delivered.
    fn add_revocations(&self, revocations: Vec<Revocation>) -> Result<(), DropReason> {
        self.context.deliver.add_revocations(revocations).map_err(|error| {
            log::error!("dropped revocations from redis error={:?}", error.to_string());
            DropReason("too_many_revocations")
        })
    }

    fn deliver_control(&self, control: Control) -> Result<(), DropReason> {
        self.context.deliver.deliver_control(control).map_err(|QueueFull| {
            if let Some(count) = self.dropped_controls.count(Instant::now()) {
                log::warn!("dropped controls from redis count={count} error={:?}", QueueFull.to_string());
            }
            DropReason("no_room_for_order")
        })
    }

    /// Logs publications, joins and leaves for which the hubs have no room.
    fn note_delivered(&self, delivered: Result<(), QueueFull>) {
        if let Err(QueueFull) = delivered
            && let Some(count) = self.dropped_publications.count(Instant::now())
        {
            log::warn!("dropped publications from redis count={count} error={:?}", QueueFull.to_string());
        }
    }
}
