//! Receives everything that Redis pushes. The driver of the subscription connection calls it, so nothing here waits:
//! publications and controls go to the hubs, which have bounded queues, and everything else into bounded queues of this module.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{PushInfo, Value};
use tokio::sync::mpsc;

use super::{
    RedisContext,
    envelope::{self, AnswerPart, BusMessage, DropReason, SurveyId},
    heartbeat,
    server::RedisServer,
};
use crate::broker::{Control, QueueFull, SurveyQuestion};

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
    dropped_publications: DropLog,
    dropped_controls: DropLog,
}

/// Messages dropped since the last log line about them.
#[derive(Default)]
struct DropLog {
    state: Mutex<(u64, Option<Instant>)>,
}

impl DropLog {
    /// Counts a dropped message. Returns how many to log now, unless the last log line was just written.
    fn count(&self, now: Instant) -> Option<u64> {
        let (count, last_logged) = &mut *self.state.lock();
        *count += 1;
        if last_logged.is_some_and(|last| now.duration_since(last) < DROP_LOG_INTERVAL) {
            return None;
        }
        *last_logged = Some(now);
        Some(std::mem::take(count))
    }
}

impl BusInbox {
    /// Creates an inbox that passes survey questions to `questions`.
    pub(super) fn new(context: Arc<RedisContext>, questions: mpsc::Sender<ReceivedQuestion>) -> Arc<Self> {
        Arc::new(Self {
            context,
            questions,
            dropped_publications: DropLog::default(),
            dropped_controls: DropLog::default(),
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
                self.note_delivered(self.context.deliver.deliver_publication(publication));
            }
            BusMessage::PresenceEvent { channel, event, client } => {
                self.note_delivered(self.context.deliver.deliver_presence_event(channel, event, client));
            }
            BusMessage::Question { id, asker, question } => {
                // A survey asks the own hubs without the bus.
                if asker != self.context.instance {
                    let queued = self.questions.try_send(ReceivedQuestion { id, asker, question });
                    queued.map_err(|_| DropReason("too_many_questions"))?;
                }
            }
            BusMessage::Answer { id, part } => self.receive_answer(&id, part)?,
            BusMessage::Control(control) => self.deliver_control(control)?,
            BusMessage::Heartbeat(heartbeat) => heartbeat::receive(&self.context, heartbeat)?,
            BusMessage::Probe { nonce } => server.receive_probe(nonce)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_dropped_messages_is_logged_once_per_second_with_its_number() {
        let (dropped, start) = (DropLog::default(), Instant::now());
        let logged = |millis| dropped.count(start + Duration::from_millis(millis));
        let lines: Vec<_> = (0..3000).filter_map(|millis| logged(millis).map(|count| (millis, count))).collect();
        assert_eq!(lines, [(0, 1), (1000, 1000), (2000, 1000)]);
    }
}
