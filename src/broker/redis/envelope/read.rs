//! Messages on their way in. Whoever can write to Redis can write them, so that everything is checked again, as if it came
//! from a client. Data is not copied: the pieces are slices of the message.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::{
    super::key::Source, ANSWER, CONTROL, MAGIC, Message, PROBE, PUBLICATION, Part, QUESTION, Refused, SurveyId, VERSION,
};
use crate::{
    broker::{
        Control, Question,
        parts::{HAS_CHAN_INFO, HAS_CONN_INFO, HAS_EXCLUDE, HAS_INFO, HAS_TAGS, IS_DELTA},
    },
    channel::Channel,
    publication::{ClientInfo, Publication},
    tags::Tags,
};

/// Longest id of an instance that is taken from the bus: it becomes part of a channel name.
const INSTANCE_BYTES: usize = 255;
/// Longest order that is read: what [`Control::check`] lets pass, with everything in it escaped, is below.
pub(super) const CONTROL_BYTES: usize = 512 * 1024;

const NOT_OURS: Refused = Refused("not_ours");
const TRUNCATED: Refused = Refused("truncated");
const NOT_TEXT: Refused = Refused("not_text");

/// Reads a message that came from `source`.
pub(in crate::broker::redis) fn decode(source: Source, message: Bytes) -> Result<Message, Refused> {
    let mut rest = Rest(message);
    if rest.take(MAGIC.len()).as_deref() != Ok(MAGIC) {
        return Err(NOT_OURS);
    }
    if rest.byte()? != VERSION {
        return Err(Refused("version"));
    }
    match (rest.byte()?, source) {
        (PUBLICATION, Source::Channel(channel)) => rest.publication(channel).map(Message::Publication),
        (QUESTION, Source::Control) => rest.question(),
        (ANSWER, Source::Replies) => rest.answer(),
        (CONTROL, Source::Control) => rest.control(),
        (PROBE, Source::Probe) => rest.probe(),
        (PUBLICATION | QUESTION | ANSWER | CONTROL | PROBE, _) => Err(Refused("misplaced")),
        _ => Err(Refused("kind")),
    }
}

/// What is left of a message.
struct Rest(Bytes);

impl Rest {
    fn take(&mut self, length: usize) -> Result<Bytes, Refused> {
        if self.0.len() < length { Err(TRUNCATED) } else { Ok(self.0.split_to(length)) }
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        self.0.try_get_u8().map_err(|_| TRUNCATED)
    }

    fn field(&mut self) -> Result<Bytes, Refused> {
        let length = self.0.try_get_u32().map_err(|_| TRUNCATED)?;
        self.take(usize::try_from(length).map_err(|_| TRUNCATED)?)
    }

    fn text(&mut self) -> Result<String, Refused> {
        let field = self.field()?;
        std::str::from_utf8(&field).map(str::to_owned).map_err(|_| NOT_TEXT)
    }

    fn id(&mut self) -> Result<SurveyId, Refused> {
        let mut id = SurveyId::default();
        self.0.try_copy_to_slice(&mut id).map_err(|_| TRUNCATED)?;
        Ok(id)
    }

    fn end<T>(self, value: T) -> Result<T, Refused> {
        if self.0.is_empty() { Ok(value) } else { Err(Refused("trailing")) }
    }

    fn publication(mut self, channel: Channel) -> Result<Publication, Refused> {
        if self.field()? != channel.as_str() {
            return Err(Refused("other_channel"));
        }
        let flags = self.byte()?;
        let has = |flag| flags & flag != 0;
        let known = HAS_INFO | HAS_CONN_INFO | HAS_CHAN_INFO | HAS_TAGS | IS_DELTA | HAS_EXCLUDE;
        if has(!known) || (has(HAS_CONN_INFO | HAS_CHAN_INFO) && !has(HAS_INFO)) {
            return Err(Refused("flags"));
        }
        let info = has(HAS_INFO).then(|| self.info(has(HAS_CONN_INFO), has(HAS_CHAN_INFO))).transpose()?;
        let tags = if has(HAS_TAGS) { self.tags()? } else { Tags::default() };
        let exclude = has(HAS_EXCLUDE).then(|| self.id().map(Uuid::from_bytes)).transpose()?;
        let plain = Publication::new(channel, json(self.0)?);
        Ok(Publication { info, tags, exclude, is_delta: has(IS_DELTA), ..plain })
    }

    fn info(&mut self, has_conn_info: bool, has_chan_info: bool) -> Result<Arc<ClientInfo>, Refused> {
        let (user, client) = (self.text()?, self.text()?);
        let mut raw = |is_there: bool| is_there.then(|| self.field().and_then(json)).transpose();
        let (conn_info, chan_info) = (raw(has_conn_info)?, raw(has_chan_info)?);
        Ok(Arc::new(ClientInfo { user, client, conn_info, chan_info }))
    }

    fn tags(&mut self) -> Result<Tags, Refused> {
        serde_json::from_slice(&self.field()?).map_err(|_| Refused("tags"))
    }

    fn question(mut self) -> Result<Message, Refused> {
        let (id, asker) = (self.id()?, self.text()?);
        if asker.is_empty() || asker.len() > INSTANCE_BYTES {
            return Err(Refused("instance"));
        }
        let question = match self.byte()? {
            b'c' => Question::Channels,
            b'i' => Question::Info,
            _ => return Err(Refused("question")),
        };
        self.end(Message::Question { id, asker, question })
    }

    fn answer(mut self) -> Result<Message, Refused> {
        let (id, instance) = (self.id()?, self.field()?);
        if instance.is_empty() || instance.len() > INSTANCE_BYTES {
            return Err(Refused("instance"));
        }
        // Copied: it is kept as long as the survey waits, and would keep the message.
        let instance = Bytes::copy_from_slice(&instance);
        let number = self.0.try_get_u32().map_err(|_| TRUNCATED)?;
        let is_last = match self.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Refused("flags")),
        };
        Ok(Message::Answer { id, part: Part { instance, number, is_last, bytes: self.0 } })
    }

    fn control(self) -> Result<Message, Refused> {
        if self.0.len() > CONTROL_BYTES {
            return Err(Refused("too_long"));
        }
        let control: Control = serde_json::from_slice(&self.0).map_err(|_| Refused("order"))?;
        control.check().map_err(|_| Refused("order"))?;
        Ok(Message::Control(control))
    }

    fn probe(mut self) -> Result<Message, Refused> {
        let nonce = self.0.try_get_u64().map_err(|_| TRUNCATED)?;
        self.end(Message::Probe { nonce })
    }
}

/// Raw JSON as a [`Publication`] holds it. It goes into replies as it is: a line break in it would begin a new one.
fn json(raw: Bytes) -> Result<Bytes, Refused> {
    // serde_json skips over strings without looking whether they are UTF-8.
    let text = std::str::from_utf8(&raw).map_err(|_| NOT_TEXT)?;
    if text.contains(['\r', '\n']) || serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Err(Refused("not_json"));
    }
    Ok(raw)
}
