//! What travels over the bus, as bytes and back; pure. Publisher and survey encode, the inbox decodes. Whoever can write
//! to Redis can write here, so that everything is checked again on the way in, as if it came from a client.
//!
//! `"WC"`, version, kind, then the fields of the kind; a field is its length (u32, big-endian) and its bytes, the last one
//! is what is left. Decoding copies no data: the pieces are slices of the message.

use bytes::{Buf, Bytes};
use serde::de::IgnoredAny;

use super::key::Source;
use crate::{
    broker::Question,
    channel::Channel,
    publication::{ClientInfo, Publication},
};

const MAGIC: &[u8; 2] = b"WC";
/// Raised when an old instance would misread a message; it drops the new ones and counts them.
const VERSION: u8 = 1;

const PUBLICATION: u8 = b'p';
const QUESTION: u8 = b'q';
const ANSWER: u8 = b'a';
const PROBE: u8 = b'n';

const HAS_INFO: u8 = 1;
const HAS_CONN_INFO: u8 = 2;
const HAS_CHAN_INFO: u8 = 4;

/// Longest id of an instance that is taken from the bus: it becomes part of a channel name.
const INSTANCE_BYTES: usize = 255;

/// One survey, among all of all instances.
pub(super) type SurveyId = [u8; 16];

/// A message that is ours and came where it belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// For the local subscribers.
    Publication(Publication),
    /// Another instance, or this one, asks.
    Question {
        /// To be put into the answer.
        id: SurveyId,
        /// Who waits for it.
        asker: String,
        /// What is asked.
        question: Question,
    },
    /// To a question of ours.
    Answer {
        /// Which one.
        id: SurveyId,
        /// Who answers.
        instance: Bytes,
        /// The answer itself.
        answer: Bytes,
    },
    /// We hear ourselves.
    Probe {
        /// What we said.
        nonce: u64,
    },
}

/// Why something on the bus is not taken; the text is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) &'static str);

const NOT_OURS: Refused = Refused("not_ours");
const TRUNCATED: Refused = Refused("truncated");
const NOT_TEXT: Refused = Refused("not_text");

/// A publication as bytes.
pub(super) fn publication(publication: &Publication) -> Vec<u8> {
    let mut bytes = head(PUBLICATION, publication.cost_bytes());
    field(&mut bytes, publication.channel.as_str().as_bytes());
    match &publication.info {
        None => bytes.push(0),
        Some(info) => {
            let has_conn_info = if info.conn_info.is_some() { HAS_CONN_INFO } else { 0 };
            let has_chan_info = if info.chan_info.is_some() { HAS_CHAN_INFO } else { 0 };
            bytes.push(HAS_INFO | has_conn_info | has_chan_info);
            field(&mut bytes, info.user.as_bytes());
            field(&mut bytes, info.client.as_bytes());
            info.conn_info.iter().chain(&info.chan_info).for_each(|raw| field(&mut bytes, raw));
        }
    }
    bytes.extend_from_slice(&publication.data);
    bytes
}

/// A question as bytes.
pub(super) fn question(id: &SurveyId, asker: &str, question: Question) -> Vec<u8> {
    let mut bytes = head(QUESTION, 64 + asker.len());
    bytes.extend_from_slice(id);
    field(&mut bytes, asker.as_bytes());
    bytes.push(match question {
        Question::Channels => b'c',
    });
    bytes
}

/// An answer as bytes.
pub(super) fn answer(id: &SurveyId, instance: &str, answer: &[u8]) -> Vec<u8> {
    let mut bytes = head(ANSWER, 64 + instance.len() + answer.len());
    bytes.extend_from_slice(id);
    field(&mut bytes, instance.as_bytes());
    bytes.extend_from_slice(answer);
    bytes
}

/// A probe as bytes.
pub(super) fn probe(nonce: u64) -> Vec<u8> {
    let mut bytes = head(PROBE, 16);
    bytes.extend_from_slice(&nonce.to_be_bytes());
    bytes
}

fn head(kind: u8, capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(capacity);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes
}

fn field(bytes: &mut Vec<u8>, value: &[u8]) {
    // Never cut: the publisher refuses what is longer than broker.redis.message_bytes, which is far below 4 GiB.
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
}

/// Reads a message that came from `source`.
pub(super) fn decode(source: Source, message: Bytes) -> Result<Message, Refused> {
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
        (PROBE, Source::Probe) => rest.probe(),
        (PUBLICATION | QUESTION | ANSWER | PROBE, _) => Err(Refused("misplaced")),
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
        let info = match flags {
            0 => None,
            _ if flags & !(HAS_INFO | HAS_CONN_INFO | HAS_CHAN_INFO) != 0 || flags & HAS_INFO == 0 => {
                return Err(Refused("flags"));
            }
            _ => {
                let (user, client) = (self.text()?, self.text()?);
                let mut raw = |flag| (flags & flag != 0).then(|| self.field().and_then(json)).transpose();
                let (conn_info, chan_info) = (raw(HAS_CONN_INFO)?, raw(HAS_CHAN_INFO)?);
                Some(ClientInfo { user, client, conn_info, chan_info })
            }
        };
        Ok(Publication { channel, data: json(self.0)?, info })
    }

    fn question(mut self) -> Result<Message, Refused> {
        let (id, asker) = (self.id()?, self.text()?);
        if asker.is_empty() || asker.len() > INSTANCE_BYTES {
            return Err(Refused("instance"));
        }
        let question = match self.byte()? {
            b'c' => Question::Channels,
            _ => return Err(Refused("question")),
        };
        self.end(Message::Question { id, asker, question })
    }

    fn answer(mut self) -> Result<Message, Refused> {
        let (id, instance) = (self.id()?, self.field()?);
        if instance.is_empty() || instance.len() > INSTANCE_BYTES {
            return Err(Refused("instance"));
        }
        Ok(Message::Answer { id, instance, answer: self.0 })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(data: &str, conn_info: Option<&str>) -> Publication {
        let conn_info = conn_info.map(|raw| Bytes::copy_from_slice(raw.as_bytes()));
        let chan_info = conn_info.clone();
        let info = ClientInfo { user: "ann".to_owned(), client: String::new(), conn_info, chan_info };
        let data = Bytes::copy_from_slice(data.as_bytes());
        Publication { channel: Channel::new("news").unwrap(), data, info: Some(info) }
    }

    fn news() -> Source {
        Source::Channel(Channel::new("news").unwrap())
    }

    fn reason(source: Source, message: Vec<u8>) -> &'static str {
        decode(source, message.into()).unwrap_err().0
    }

    #[test]
    fn what_is_sent_arrives() {
        let anonymous = Publication { info: None, ..sample("1", None) };
        for sent in [sample("{\"a\":[1]}", Some("{\"name\":\"Ann\"}")), sample("\"é\"", None), anonymous] {
            assert_eq!(decode(news(), publication(&sent).into()), Ok(Message::Publication(sent)));
        }
        let (id, asker) = ([7; 16], "a".to_owned());
        let asked = Message::Question { id, asker, question: Question::Channels };
        assert_eq!(decode(Source::Control, question(&id, "a", Question::Channels).into()), Ok(asked));
        let answered = Message::Answer { id, instance: "b".into(), answer: "{}".into() };
        assert_eq!(decode(Source::Replies, answer(&id, "b", b"{}").into()), Ok(answered));
        assert_eq!(decode(Source::Probe, probe(42).into()), Ok(Message::Probe { nonce: 42 }));
    }

    #[test]
    fn data_is_a_slice_of_the_message() {
        let message = Bytes::from(publication(&sample("[1,2,3]", None)));
        let Ok(Message::Publication(taken)) = decode(news(), message.clone()) else { panic!("not taken") };
        assert!(message.as_ptr_range().contains(&taken.data.as_ptr()));
    }

    #[test]
    fn forged_publications_are_told_apart() {
        for (data, why) in [
            ("", "not_json"),
            ("{", "not_json"),
            ("1 2", "not_json"),
            ("[1,\n2]", "not_json"),
            ("\"\r\"", "not_json"),
            ("nope", "not_json"),
        ] {
            assert_eq!(reason(news(), publication(&sample(data, None))), why, "{data:?}");
        }
        assert_eq!(reason(news(), publication(&sample("1", Some("{")))), "not_json");
        assert_eq!(reason(news(), b"WC\x01pgarbage".to_vec()), "truncated");
        assert_eq!(reason(news(), b"hello".to_vec()), "not_ours");
        assert_eq!(reason(news(), Vec::new()), "not_ours");
        assert_eq!(reason(news(), b"WC\x02p".to_vec()), "version");
        assert_eq!(reason(news(), b"WC\x01?".to_vec()), "kind");
        assert_eq!(reason(news(), probe(1)), "misplaced");
        assert_eq!(reason(Source::Control, publication(&sample("1", None))), "misplaced");
        let other = Source::Channel(Channel::new("other").unwrap());
        assert_eq!(reason(other, publication(&sample("1", None))), "other_channel");
        let mut not_text = publication(&sample("\"?\"", None));
        let question_mark = not_text.len() - 2;
        not_text[question_mark] = 0xff;
        assert_eq!(reason(news(), not_text), "not_text");
        assert_eq!(reason(Source::Probe, [probe(1), vec![0]].concat()), "trailing");
        assert_eq!(reason(Source::Control, question(&[0; 16], "", Question::Channels)), "instance");
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(decode(news(), publication(&sample(&deep, None)).into()).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0..4_usize, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let kind = [PUBLICATION, QUESTION, ANSWER, PROBE][kind];
            for source in [news(), Source::Control, Source::Replies, Source::Probe] {
                let _ = decode(source, [MAGIC.as_slice(), &[VERSION, kind], &body].concat().into());
            }
        }
    }
}
