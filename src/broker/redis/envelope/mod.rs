//! The messages of the bus: encodes them, and decodes them in [`read`]. Broker, probe and survey encode, the inbox decodes.
//! There is no I/O here.
//!
//! A message is `"WC"`, the version, the kind, and the fields of its kind. A field is its length (u32, big-endian) and its
//! bytes; the last field has no length and ends with the message.

mod commands;
mod layout;
mod presence;
#[cfg(test)]
mod previous_release;
mod question;
mod read;
mod signature;

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    broker::{
        Control, NodeIdentity, PresenceEvent, SurveyQuestion,
        publication_encoding::{self as encoding, HAS_TIME, write_field},
    },
    channel::Channel,
    clock::WallTime,
    publication::{ClientInfo, Publication},
};

pub(super) use commands::encode_commands;
pub(super) use layout::{NodeLayout, encode_layout};
pub(super) use presence::{StoredClient, decode_stored_client, encode_presence_event, encode_stored_client};
pub(super) use question::encode_question;
pub(super) use read::{decode, decode_record};
pub(super) use signature::{MessageSigner, SIGNED_HEAD_BYTES};

const MAGIC: &[u8; 2] = b"WC";
/// To be raised when an old instance would misread a message. It drops and counts the messages of another version.
const VERSION: u8 = 1;

const PUBLICATION: u8 = b'p';
/// A publication that is stored in a history: a script of Redis puts its position before the message that is stored.
const STORED: u8 = b's';
const JOIN: u8 = b'j';
const LEAVE: u8 = b'l';
/// The publications of the channel's history were removed.
const HISTORY_REMOVED: u8 = b'd';
/// A record in Redis, which no message of the bus is.
const STORED_CLIENT: u8 = b'm';
const QUESTION: u8 = b'q';
/// Not `a`, which marked answers that were sent in one piece.
const ANSWER: u8 = b'r';
const CONTROL: u8 = b'o';
const PROBE: u8 = b'n';
const HEARTBEAT: u8 = b'h';
/// Follows a heartbeat. Not a field of it: an older instance would drop the heartbeat.
const LAYOUT: u8 = b'y';
/// Commands of a client for a session of one instance.
const COMMANDS: u8 = b'e';

/// The bytes with which a script begins the announcement of a stored publication. The offset (u64, big-endian), the epoch and
/// the stored message follow.
pub(super) const STORED_PREFIX: [u8; 4] = [MAGIC[0], MAGIC[1], VERSION, STORED];

/// Bytes of a part besides the instance and the answer, rounded up.
const ANSWER_OVERHEAD: usize = 64;

/// Identifies a survey among those of all instances.
pub(super) type SurveyId = [u8; 16];

/// A valid message that came over the right PUB/SUB channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BusMessage {
    /// For the local subscribers.
    Publication(Publication),
    /// For the local subscribers that receive joins and leaves.
    PresenceEvent {
        /// The channel.
        channel: Channel,
        /// Whether the client has joined or left it.
        event: PresenceEvent,
        /// The client.
        client: Arc<ClientInfo>,
    },
    /// The publications of the channel's history were removed.
    HistoryRemoved(Channel),
    /// Another instance has checked whether this one receives what is sent to it. Nothing has to be done.
    ReceiverCheck,
    /// A survey question of another instance, or of this one.
    Question {
        /// Has to be repeated in the answer.
        id: SurveyId,
        /// The instance that waits for the answer.
        asker: String,
        /// The question.
        question: SurveyQuestion,
    },
    /// A part of an answer to a survey of this instance.
    Answer {
        /// The survey.
        id: SurveyId,
        /// The part.
        part: AnswerPart,
    },
    /// For the local sessions of a user.
    Control(Control),
    /// Commands of a client for a local session.
    Commands {
        /// The session.
        session: Uuid,
        /// The commands, as the client has sent them.
        message: Bytes,
    },
    /// A sign of life of another node, or of this one.
    Heartbeat(Heartbeat),
    /// On which servers another node, or this one, looks for channels.
    Layout(NodeLayout),
    /// A probe that this instance has sent.
    Probe {
        /// The number that it was sent with.
        nonce: u64,
    },
}

/// A part of one instance's answer. The parts in their order make up the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AnswerPart {
    /// The instance that answers.
    pub(super) instance: String,
    /// Counted from 0.
    pub(super) number: u32,
    /// No part follows.
    pub(super) is_last: bool,
    /// Bytes of the answer.
    pub(super) bytes: Bytes,
}

/// A sign of life of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heartbeat {
    /// The node's id with the random part.
    pub(super) instance: String,
    /// Which node it is.
    pub(super) node: NodeIdentity,
    /// What it says.
    pub(super) kind: HeartbeatKind,
}

/// What a node says in a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeartbeatKind {
    /// It can receive now, and wants to know the other nodes.
    Hello,
    /// It is still alive.
    Alive,
    /// It stops.
    Goodbye,
}

/// Why a message of the bus was dropped. The text is the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DropReason(pub(super) &'static str);

/// Encodes a publication without its position, which a history gives it. This is also what the history stores.
pub(super) fn encode_publication(publication: &Publication) -> Vec<u8> {
    // Cannot fail: the tags are an object of strings.
    let tags = (!publication.tags.is_empty()).then(|| serde_json::to_vec(&publication.tags).unwrap_or_default());
    let mut bytes = begin_message(PUBLICATION, publication.cost_bytes());
    write_field(&mut bytes, publication.channel.as_str().as_bytes());
    // Publications without a history have no time.
    let time = Some(publication.time).filter(|time| *time != WallTime::default());
    bytes.push(encoding::flags(publication) | time.map_or(0, |_| HAS_TIME));
    time.iter().for_each(|time| bytes.extend_from_slice(&time.unix_millis().to_be_bytes()));
    encoding::write(&mut bytes, publication, tags.as_deref());
    bytes
}

/// Encodes that the publications of a channel's history were removed.
pub(super) fn encode_history_removed(channel: &Channel) -> Vec<u8> {
    let mut bytes = begin_message(HISTORY_REMOVED, 8 + channel.as_str().len());
    write_field(&mut bytes, channel.as_str().as_bytes());
    bytes
}

/// Encodes an answer as messages of at most `max_bytes`, or with one byte of the answer each if `max_bytes` is too small.
pub(super) fn encode_answer(
    id: &SurveyId,
    instance: &str,
    answer: &[u8],
    max_bytes: usize,
) -> impl Iterator<Item = Vec<u8>> {
    let room = max_bytes.saturating_sub(ANSWER_OVERHEAD + instance.len()).max(1);
    // An empty answer has one part, too.
    let count = answer.len().div_ceil(room).max(1);
    (0..count).map(move |number| {
        let bytes = &answer[number * room..answer.len().min((number + 1) * room)];
        let mut message = begin_message(ANSWER, ANSWER_OVERHEAD + instance.len() + bytes.len());
        message.extend_from_slice(id);
        write_field(&mut message, instance.as_bytes());
        // Never saturates: the size of an answer has a limit far below.
        message.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
        message.push(u8::from(number + 1 == count));
        message.extend_from_slice(bytes);
        message
    })
}

/// Encodes a control.
pub(super) fn encode_control(control: &Control) -> Vec<u8> {
    let mut bytes = begin_message(CONTROL, 256);
    // Cannot fail: a control has only strings and numbers.
    bytes.extend(serde_json::to_vec(control).unwrap_or_default());
    bytes
}

/// Encodes a heartbeat.
pub(super) fn encode_heartbeat(instance: &str, node: &NodeIdentity, kind: HeartbeatKind) -> Vec<u8> {
    let mut bytes = begin_message(HEARTBEAT, 16 + instance.len() + node.uid.len() + node.name.len());
    for field in [instance, &node.uid, &node.name] {
        write_field(&mut bytes, field.as_bytes());
    }
    bytes.push(match kind {
        HeartbeatKind::Hello => b'h',
        HeartbeatKind::Alive => b'a',
        HeartbeatKind::Goodbye => b'g',
    });
    bytes
}

/// Encodes a probe.
pub(super) fn encode_probe(nonce: u64) -> Vec<u8> {
    let mut bytes = begin_message(PROBE, 16);
    bytes.extend_from_slice(&nonce.to_be_bytes());
    bytes
}

fn begin_message(kind: u8, capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(capacity);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::names::MessageSource, encoding::HAS_TAGS, read::MAX_CONTROL_BYTES, *};
    use crate::{
        broker::ControlAction,
        channel::Channel,
        position::{Epoch, Position},
        publication::ClientInfo,
        tags::Tags,
    };

    fn sample(data: &str, conn_info: Option<&str>) -> Publication {
        let conn_info = conn_info.map(|raw| Bytes::copy_from_slice(raw.as_bytes()));
        let chan_info = conn_info.clone();
        let info = ClientInfo { user: "ann".to_owned(), client: String::new(), conn_info, chan_info };
        let data = Bytes::copy_from_slice(data.as_bytes());
        Publication { info: Some(info.into()), ..Publication::new(Channel::new("news").unwrap(), data) }
    }

    fn decode(source: MessageSource, message: Bytes) -> Result<BusMessage, DropReason> {
        super::decode(source, message, &MessageSigner::without_key())
    }

    fn news() -> MessageSource {
        MessageSource::Channel(Channel::new("news").unwrap())
    }

    fn sample_node(uid: &str, name: &str) -> NodeIdentity {
        NodeIdentity { uid: uid.to_owned(), name: name.to_owned() }
    }

    fn sample_control(channel: &str) -> Control {
        let action = ControlAction::Unsubscribe { channel: channel.to_owned() };
        Control { user: "ann".to_owned(), client: None, whitelist: Vec::new(), action }
    }

    /// What publish.lua sends.
    fn announce(publication: &Publication, epoch: &str) -> Vec<u8> {
        [&STORED_PREFIX, 7_u64.to_be_bytes().as_slice(), epoch.as_bytes(), &encode_publication(publication)].concat()
    }

    fn reason(source: MessageSource, message: Vec<u8>) -> &'static str {
        decode(source, message.into()).unwrap_err().0
    }

    #[test]
    fn messages_survive_encoding_and_decoding() {
        let anonymous = Publication { info: None, ..sample("1", None) };
        let tagged = Publication { tags: Tags::new([("é", "1")]).unwrap(), use_delta: true, ..anonymous.clone() };
        let excluding = Publication { exclude: Some(uuid::Uuid::from_u128(7)), ..sample("2", Some("1")) };
        let whole = Publication { tags: tagged.tags.clone(), use_delta: true, ..excluding.clone() };
        let plain = [sample("{\"a\":[1]}", Some("{\"name\":\"Ann\"}")), sample("\"é\"", None), anonymous];
        for sent in plain.into_iter().chain([tagged, excluding, whole]) {
            assert_eq!(decode(news(), encode_publication(&sent).into()), Ok(BusMessage::Publication(sent)));
        }
        let position = Position { offset: 7, epoch: Epoch::parse("abcdefgh").unwrap() };
        let stored = Publication { time: WallTime::from_unix_millis(-1), ..sample("3", None) };
        let received = Publication { position: Some(position), ..stored.clone() };
        assert_eq!(decode(news(), announce(&stored, "abcdefgh").into()), Ok(BusMessage::Publication(received)));
        let record =
            decode_record(stored.channel.clone(), encode_publication(&stored).into(), &MessageSigner::without_key());
        assert_eq!(record, Ok(stored));
        let (id, asker) = ([7; 16], "a".to_owned());
        let received = BusMessage::Question { id, asker, question: SurveyQuestion::Channels };
        assert_eq!(
            decode(MessageSource::Control, encode_question(&id, "a", &SurveyQuestion::Channels).into()),
            Ok(received)
        );
        let sent = sample_control("unsubscribe");
        assert_eq!(decode(MessageSource::Control, encode_control(&sent).into()), Ok(BusMessage::Control(sent)));
        for kind in [HeartbeatKind::Hello, HeartbeatKind::Alive, HeartbeatKind::Goodbye] {
            let heartbeat = Heartbeat { instance: "a.1".to_owned(), node: sample_node("a", "é 1"), kind };
            let encoded = encode_heartbeat(&heartbeat.instance, &heartbeat.node, kind);
            assert_eq!(decode(MessageSource::Control, encoded.into()), Ok(BusMessage::Heartbeat(heartbeat)));
        }
        assert_eq!(decode(MessageSource::Probe, encode_probe(42).into()), Ok(BusMessage::Probe { nonce: 42 }));
    }

    #[test]
    fn answer_is_split_into_as_many_parts_as_it_needs() {
        let id = [7; 16];
        for (length, parts) in [(0, 1), (1, 1), (100, 1), (101, 2), (1000, 10)] {
            let answer: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let (mut joined, mut numbers) = (Vec::new(), 0);
            for message in encode_answer(&id, "b", &answer, ANSWER_OVERHEAD + 1 + 100) {
                assert!(message.len() <= ANSWER_OVERHEAD + 1 + 100);
                let Ok(BusMessage::Answer { id: [7, ..], part }) = decode(MessageSource::Replies, message.into())
                else {
                    panic!("a valid message")
                };
                assert_eq!((part.number, part.instance.as_str()), (numbers, "b"));
                numbers += 1;
                assert_eq!(part.is_last, numbers == parts);
                joined.extend(part.bytes);
            }
            assert_eq!((numbers, joined), (parts, answer));
        }
    }

    #[test]
    fn decoded_data_is_a_slice_of_the_message() {
        let message = Bytes::from(encode_publication(&sample("[1,2,3]", None)));
        let Ok(BusMessage::Publication(decoded)) = decode(news(), message.clone()) else { panic!("a valid message") };
        assert!(message.as_ptr_range().contains(&decoded.data.as_ptr()));
    }

    #[test]
    fn forged_publications_are_dropped_with_their_reason() {
        for data in ["", "{", "1 2", "[1,\n2]", "\"\r\"", "nope"] {
            assert_eq!(reason(news(), encode_publication(&sample(data, None))), "not_json", "{data:?}");
        }
        assert_eq!(reason(news(), encode_publication(&sample("1", Some("{")))), "not_json");
        let many = format!("{{{}}}", (0..33).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(","));
        for tags in ["", "{", "[]", "7", "{\"a\":1}", "{\"a\":null}", "{\"a\":\"1\",\"\\u0061\":\"2\"}", &many] {
            let mut forged = begin_message(PUBLICATION, 0);
            write_field(&mut forged, b"news");
            forged.push(HAS_TAGS);
            write_field(&mut forged, tags.as_bytes());
            forged.push(b'1');
            assert_eq!(reason(news(), forged), "tags", "{tags}");
        }
        let mut not_text = encode_publication(&sample("\"?\"", None));
        let question_mark = not_text.len() - 2;
        not_text[question_mark] = 0xff;
        let other = || MessageSource::Channel(Channel::new("other").unwrap());
        for (source, message, why) in [
            (news(), b"WC\x01p\0\0\0\x04news\x20".to_vec(), "truncated"),
            (news(), b"WC\x01p\0\0\0\x04news\x021".to_vec(), "flags"),
            (news(), b"WC\x01p\0\0\0\x04news\x40\0\0\0".to_vec(), "truncated"),
            (news(), announce(&sample("1", None), "abcdefgh")[..21].to_vec(), "not_ours"),
            (news(), announce(&sample("1", None), "abcde gh"), "epoch"),
            (news(), announce(&sample("{", None), "abcdefgh"), "not_json"),
            (news(), [&announce(&sample("1", None), "abcdefgh")[..20], &encode_probe(1)].concat(), "kind"),
            (other(), announce(&sample("1", None), "abcdefgh"), "other_channel"),
            (MessageSource::Control, announce(&sample("1", None), "abcdefgh"), "misplaced"),
            (news(), b"WC\x01pgarbage".to_vec(), "truncated"),
            (news(), b"hello".to_vec(), "not_ours"),
            (news(), Vec::new(), "not_ours"),
            (news(), b"WC\x02p".to_vec(), "version"),
            (news(), b"WC\x01?".to_vec(), "kind"),
            (news(), encode_probe(1), "misplaced"),
            (news(), not_text, "not_text"),
            (other(), encode_publication(&sample("1", None)), "other_channel"),
            (MessageSource::Control, encode_publication(&sample("1", None)), "misplaced"),
            (MessageSource::Control, encode_question(&[0; 16], "", &SurveyQuestion::Channels), "instance"),
            (MessageSource::Probe, [encode_probe(1), vec![0]].concat(), "trailing"),
        ] {
            assert_eq!(reason(source, message), why);
        }
    }

    #[test]
    fn forged_controls_are_dropped_with_their_reason() {
        let forged = |json: &str| [begin_message(CONTROL, 0), json.as_bytes().to_vec()].concat();
        let long =
            format!("{}{}", " ".repeat(MAX_CONTROL_BYTES), serde_json::to_string(&sample_control("news")).unwrap());
        for (message, why) in [
            (forged(""), "order"),
            (forged("{}"), "order"),
            (forged(&"[".repeat(100_000)), "order"),
            (encode_control(&sample_control("a*")), "order"),
            (encode_control(&Control { user: String::new(), ..sample_control("news") }), "order"),
            (forged(&long), "too_long"),
        ] {
            assert_eq!(reason(MessageSource::Control, message), why);
        }
        for (from, to) in
            [("\"user\"", "\"more\":1,\"user\""), ("unsubscribe", "obey"), ("\"news\"", "7"), ("}}", "}},")]
        {
            let json = serde_json::to_string(&sample_control("news")).unwrap();
            assert_ne!(json, json.replace(from, to));
            assert_eq!(reason(MessageSource::Control, forged(&json.replace(from, to))), "order", "{to}");
        }
        assert_eq!(reason(MessageSource::Replies, encode_control(&sample_control("news"))), "misplaced");
    }

    #[test]
    fn forged_heartbeats_are_dropped_with_their_reason() {
        let alive = |instance: &str, uid: &str, name: &str| {
            encode_heartbeat(instance, &sample_node(uid, name), HeartbeatKind::Alive)
        };
        let mut unknown_kind = alive("a.1", "a", "host");
        *unknown_kind.last_mut().unwrap() = b'?';
        let (longest, too_long) = ("x".repeat(255), "x".repeat(256));
        assert!(decode(MessageSource::Control, alive(&longest, &longest, &longest).into()).is_ok());
        for (source, message, why) in [
            (MessageSource::Control, alive("", "a", "host"), "instance"),
            (MessageSource::Control, alive(&too_long, "a", "host"), "instance"),
            (MessageSource::Control, alive("a\n1", "a", "host"), "instance"),
            (MessageSource::Control, alive("a.1", "", "host"), "node"),
            (MessageSource::Control, alive("a.1", "a", &too_long), "node"),
            (MessageSource::Control, alive("a.1", "a", "\u{1b}[2J"), "node"),
            (MessageSource::Control, unknown_kind, "flags"),
            (MessageSource::Control, [alive("a.1", "a", "host"), vec![0]].concat(), "trailing"),
            (MessageSource::Control, begin_message(HEARTBEAT, 0), "truncated"),
            (MessageSource::Replies, alive("a.1", "a", "host"), "misplaced"),
            (news(), alive("a.1", "a", "host"), "misplaced"),
        ] {
            assert_eq!(reason(source, message), why);
        }
    }

    #[test]
    fn deeply_nested_json_is_decoded() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(decode(news(), encode_publication(&sample(&deep, None)).into()).is_ok());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(kind in 0..11_usize, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let kind = [
                PUBLICATION, STORED, JOIN, LEAVE, STORED_CLIENT, QUESTION, ANSWER, CONTROL, PROBE, HEARTBEAT, LAYOUT,
            ][kind];
            for source in [news(), MessageSource::Control, MessageSource::Replies, MessageSource::Probe] {
                let _ = decode(source, [MAGIC.as_slice(), &[VERSION, kind], &body].concat().into());
            }
        }
    }
}
