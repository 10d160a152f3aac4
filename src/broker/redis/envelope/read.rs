//! Decodes messages of the bus. Everyone who can write to Redis can send them, so everything is checked again, as if it came
//! from a client. Data is not copied: it stays a slice of the message.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::{
    super::names::MessageSource, ANSWER, AnswerPart, BusMessage, COMMANDS, CONTROL, DropReason, HEARTBEAT,
    HISTORY_REMOVED, Heartbeat, HeartbeatKind, JOIN, LAYOUT, LEAVE, MAGIC, MessageSigner, PROBE, PUBLICATION, QUESTION,
    STORED_CLIENT, STORED_PREFIX, SurveyId, VERSION,
};
use crate::{
    broker::{
        Control, MAX_QUESTION_BYTES, NodeIdentity, PresenceEvent, SurveyQuestion,
        publication_encoding::{
            HAS_CHAN_INFO, HAS_CONN_INFO, HAS_EXCLUDE, HAS_INFO, HAS_TAGS, HAS_TIME, IS_BINARY, IS_DELTA,
        },
    },
    channel::Channel,
    clock::WallTime,
    json,
    position::{Epoch, Position},
    publication::{ClientInfo, Publication},
    tags::Tags,
};

/// Maximum length of an id or a name of a node in a message. Some become part of a PUB/SUB channel's name, and lists keep them.
const MAX_NODE_TEXT_BYTES: usize = 255;
/// Maximum length of an encoded control. Everything that [`Control::validate`] accepts is shorter, even if every character is
/// escaped.
pub(super) const MAX_CONTROL_BYTES: usize = 512 * 1024;

const NOT_OURS: DropReason = DropReason("not_ours");
const TRUNCATED: DropReason = DropReason("truncated");
const MISPLACED: DropReason = DropReason("misplaced");
const NOT_TEXT: DropReason = DropReason("not_text");
pub(super) const INSTANCE: DropReason = DropReason("instance");
const NODE: DropReason = DropReason("node");

/// Decodes a message that came from `source`.
pub(in crate::broker::redis) fn decode(
    source: MessageSource,
    message: Bytes,
    signer: &MessageSigner,
) -> Result<BusMessage, DropReason> {
    if message.starts_with(&STORED_PREFIX) {
        return decode_stored(source, EnvelopeReader::new(message), signer).map(BusMessage::Publication);
    }
    let verified = signer.verify(message)?;
    let recent = signer.require_recent(&verified);
    if source == MessageSource::Control {
        recent?;
    }
    let mut reader = EnvelopeReader::new(verified.message);
    match (reader.read_kind()?, source) {
        (PUBLICATION, MessageSource::Channel(channel)) => {
            reader.decode_publication(channel).map(BusMessage::Publication)
        }
        (JOIN, MessageSource::Channel(channel)) => reader.decode_presence_event(channel, PresenceEvent::Join),
        (LEAVE, MessageSource::Channel(channel)) => reader.decode_presence_event(channel, PresenceEvent::Leave),
        (HISTORY_REMOVED, MessageSource::Channel(channel)) => {
            reader.expect_channel(&channel)?;
            reader.finish(BusMessage::HistoryRemoved(channel))
        }
        (QUESTION, MessageSource::Control) => reader.decode_question(),
        (ANSWER, MessageSource::Replies) => reader.decode_answer(),
        (COMMANDS, MessageSource::Replies) => {
            recent?;
            reader.decode_commands()
        }
        (CONTROL, MessageSource::Control) => reader.decode_control(),
        (HEARTBEAT, MessageSource::Control) => reader.decode_heartbeat(),
        (LAYOUT, MessageSource::Control) => reader.decode_layout(),
        (PROBE, MessageSource::Probe) => reader.decode_probe(),
        (PROBE, MessageSource::Replies) => reader.decode_probe().map(|_| BusMessage::ReceiverCheck),
        (
            PUBLICATION | JOIN | LEAVE | HISTORY_REMOVED | STORED_CLIENT | QUESTION | ANSWER | CONTROL | COMMANDS
            | PROBE | HEARTBEAT | LAYOUT,
            _,
        ) => Err(MISPLACED),
        _ => Err(DropReason("kind")),
    }
}

/// Decodes the announcement of a stored publication. A script of Redis has added the position, so only the rest is signed.
fn decode_stored(
    source: MessageSource,
    mut reader: EnvelopeReader,
    signer: &MessageSigner,
) -> Result<Publication, DropReason> {
    let MessageSource::Channel(channel) = source else { return Err(MISPLACED) };
    reader.read_bytes(STORED_PREFIX.len())?;
    let offset = reader.read_u64()?;
    let epoch = reader.read_bytes(Epoch::BYTES)?;
    let epoch = std::str::from_utf8(&epoch).ok().and_then(Epoch::parse).ok_or(DropReason("epoch"))?;
    let publication = decode_record(channel, reader.0, signer)?;
    Ok(Publication { position: Some(Position { offset, epoch }), ..publication })
}

/// Decodes a publication that a history of `channel` has stored. It has no position.
pub(in crate::broker::redis) fn decode_record(
    channel: Channel,
    record: Bytes,
    signer: &MessageSigner,
) -> Result<Publication, DropReason> {
    let mut reader = EnvelopeReader::new(signer.verify(record)?.message);
    match reader.read_kind()? {
        PUBLICATION => reader.decode_publication(channel),
        _ => Err(DropReason("kind")),
    }
}

/// The rest of a message that has not been read yet.
pub(super) struct EnvelopeReader(Bytes);

impl EnvelopeReader {
    pub(super) fn new(message: Bytes) -> Self {
        Self(message)
    }

    /// Reads the channel that a message repeats, so that a message of one channel is not taken for one of another.
    pub(super) fn expect_channel(&mut self, channel: &Channel) -> Result<(), DropReason> {
        if self.read_field()? == channel.as_str() { Ok(()) } else { Err(DropReason("other_channel")) }
    }

    fn read_bytes(&mut self, length: usize) -> Result<Bytes, DropReason> {
        if self.0.len() < length { Err(TRUNCATED) } else { Ok(self.0.split_to(length)) }
    }

    pub(super) fn read_byte(&mut self) -> Result<u8, DropReason> {
        self.0.try_get_u8().map_err(|_| TRUNCATED)
    }

    fn read_field(&mut self) -> Result<Bytes, DropReason> {
        let length = self.0.try_get_u32().map_err(|_| TRUNCATED)?;
        self.read_bytes(usize::try_from(length).map_err(|_| TRUNCATED)?)
    }

    fn read_text(&mut self) -> Result<String, DropReason> {
        let field = self.read_field()?;
        std::str::from_utf8(&field).map(str::to_owned).map_err(|_| NOT_TEXT)
    }

    /// Reads an id or a name of a node, which may be in a log line.
    pub(super) fn read_node_text(&mut self, invalid: DropReason) -> Result<String, DropReason> {
        let text = self.read_text()?;
        let is_valid = (1..=MAX_NODE_TEXT_BYTES).contains(&text.len()) && !text.contains(char::is_control);
        if is_valid { Ok(text) } else { Err(invalid) }
    }

    /// Reads the id of a node with its random part.
    pub(super) fn read_instance(&mut self) -> Result<String, DropReason> {
        self.read_node_text(INSTANCE)
    }

    pub(super) fn read_u64(&mut self) -> Result<u64, DropReason> {
        self.0.try_get_u64().map_err(|_| TRUNCATED)
    }

    /// Returns what has not been read.
    pub(super) fn into_rest(self) -> Bytes {
        self.0
    }

    pub(super) fn read_id(&mut self) -> Result<SurveyId, DropReason> {
        let mut id = SurveyId::default();
        self.0.try_copy_to_slice(&mut id).map_err(|_| TRUNCATED)?;
        Ok(id)
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, DropReason> {
        if self.0.is_empty() { Ok(value) } else { Err(DropReason("trailing")) }
    }

    /// Reads what every message begins with.
    pub(super) fn read_kind(&mut self) -> Result<u8, DropReason> {
        if self.read_bytes(MAGIC.len()).as_deref() != Ok(MAGIC) {
            return Err(NOT_OURS);
        }
        if self.read_byte()? != VERSION {
            return Err(DropReason("version"));
        }
        self.read_byte()
    }

    fn decode_publication(mut self, channel: Channel) -> Result<Publication, DropReason> {
        self.expect_channel(&channel)?;
        let flags = self.read_byte()?;
        let has = |flag| flags & flag != 0;
        if has(HAS_CONN_INFO | HAS_CHAN_INFO) && !has(HAS_INFO) {
            return Err(DropReason("flags"));
        }
        let time = if has(HAS_TIME) { self.read_time()? } else { WallTime::default() };
        let info = has(HAS_INFO).then(|| self.read_info(has(HAS_CONN_INFO), has(HAS_CHAN_INFO))).transpose()?;
        let tags = if has(HAS_TAGS) { self.read_tags()? } else { Tags::default() };
        let exclude = has(HAS_EXCLUDE).then(|| self.read_id().map(Uuid::from_bytes)).transpose()?;
        let is_binary = has(IS_BINARY);
        let plain = Publication::new(channel, if is_binary { self.0 } else { validate_json(self.0)? });
        Ok(Publication { is_binary, info, tags, exclude, time, use_delta: has(IS_DELTA), ..plain })
    }

    pub(super) fn read_info(
        &mut self,
        has_conn_info: bool,
        has_chan_info: bool,
    ) -> Result<Arc<ClientInfo>, DropReason> {
        let (user, client) = (self.read_text()?, self.read_text()?);
        let mut raw = |is_there: bool| is_there.then(|| self.read_field().and_then(validate_json)).transpose();
        let (conn_info, chan_info) = (raw(has_conn_info)?, raw(has_chan_info)?);
        Ok(Arc::new(ClientInfo { user, client, conn_info, chan_info }))
    }

    fn read_time(&mut self) -> Result<WallTime, DropReason> {
        self.0.try_get_i64().map(WallTime::from_unix_millis).map_err(|_| TRUNCATED)
    }

    fn read_tags(&mut self) -> Result<Tags, DropReason> {
        serde_json::from_slice(&self.read_field()?).map_err(|_| DropReason("tags"))
    }

    fn decode_question(mut self) -> Result<BusMessage, DropReason> {
        let (id, asker) = (self.read_id()?, self.read_node_text(INSTANCE)?);
        let question = match self.read_byte()? {
            b'c' => SurveyQuestion::Channels,
            b'i' => SurveyQuestion::Info,
            b'x' if self.0.len() > MAX_QUESTION_BYTES => return Err(DropReason("too_long")),
            b'x' => {
                let inspection = serde_json::from_slice(&self.0).map_err(|_| DropReason("inspection"))?;
                self.0.clear();
                SurveyQuestion::Inspect(inspection)
            }
            b'r' => {
                let revocations = serde_json::from_slice(&self.0).map_err(|_| DropReason("revocations"))?;
                self.0.clear();
                SurveyQuestion::Revoked(revocations)
            }
            _ => return Err(DropReason("question")),
        };
        self.finish(BusMessage::Question { id, asker, question })
    }

    fn decode_answer(mut self) -> Result<BusMessage, DropReason> {
        let (id, instance) = (self.read_id()?, self.read_node_text(INSTANCE)?);
        let number = self.0.try_get_u32().map_err(|_| TRUNCATED)?;
        let is_last = match self.read_byte()? {
            0 => false,
            1 => true,
            _ => return Err(DropReason("flags")),
        };
        Ok(BusMessage::Answer { id, part: AnswerPart { instance, number, is_last, bytes: self.0 } })
    }

    fn decode_control(self) -> Result<BusMessage, DropReason> {
        if self.0.len() > MAX_CONTROL_BYTES {
            return Err(DropReason("too_long"));
        }
        let control: Control = serde_json::from_slice(&self.0).map_err(|_| DropReason("order"))?;
        control.validate().map_err(|_| DropReason("order"))?;
        Ok(BusMessage::Control(control))
    }

    fn decode_heartbeat(mut self) -> Result<BusMessage, DropReason> {
        let instance = self.read_node_text(INSTANCE)?;
        let node = NodeIdentity { uid: self.read_node_text(NODE)?, name: self.read_node_text(NODE)? };
        let kind = match self.read_byte()? {
            b'h' => HeartbeatKind::Hello,
            b'a' => HeartbeatKind::Alive,
            b'g' => HeartbeatKind::Goodbye,
            _ => return Err(DropReason("flags")),
        };
        self.finish(BusMessage::Heartbeat(Heartbeat { instance, node, kind }))
    }

    fn decode_probe(mut self) -> Result<BusMessage, DropReason> {
        let nonce = self.read_u64()?;
        self.finish(BusMessage::Probe { nonce })
    }
}

/// Checks raw JSON for a [`Publication`]. It is copied into replies unchanged, where a line break would begin a new reply.
fn validate_json(raw: Bytes) -> Result<Bytes, DropReason> {
    // serde_json skips strings without checking that they are UTF-8.
    let text = std::str::from_utf8(&raw).map_err(|_| NOT_TEXT)?;
    if raw.iter().any(json::is_line_break) || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Err(DropReason("not_json"));
    }
    Ok(raw)
}
