//! What travels over the bus, as bytes and (in [`read`]) back; pure. Broker, probe and survey encode, the inbox decodes.
//!
//! `"WC"`, version, kind, then the fields of the kind; a field is its length (u32, big-endian) and its bytes, the last one
//! is what is left.

mod read;

use bytes::Bytes;

use crate::{
    broker::{
        Control, Question,
        parts::{self, field},
    },
    publication::Publication,
};

pub(super) use read::decode;

const MAGIC: &[u8; 2] = b"WC";
/// Raised when an old instance would misread a message; it drops the new ones and counts them.
const VERSION: u8 = 1;

const PUBLICATION: u8 = b'p';
const QUESTION: u8 = b'q';
/// Not `a`: those were answers in one piece.
const ANSWER: u8 = b'r';
const CONTROL: u8 = b'o';
const PROBE: u8 = b'n';

/// What an answer's part carries beside the instance and the answer.
const ANSWER_HEAD: usize = 64;

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
        /// Part of the answer.
        part: Part,
    },
    /// For the local sessions of a user.
    Control(Control),
    /// We hear ourselves.
    Probe {
        /// What we said.
        nonce: u64,
    },
}

/// A part of one instance's answer; together, in their order, they are the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Who answers.
    pub(super) instance: Bytes,
    /// Counted from 0.
    pub(super) number: u32,
    /// Nothing follows.
    pub(super) is_last: bool,
    /// Bytes of the answer.
    pub(super) bytes: Bytes,
}

/// Why something on the bus is not taken; the text is the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) &'static str);

/// A publication as bytes. Positions do not travel: histories over Redis are none yet.
pub(super) fn publication(publication: &Publication) -> Vec<u8> {
    // An object of strings: nothing in it can fail to be written.
    let tags = (!publication.tags.is_empty()).then(|| serde_json::to_vec(&publication.tags).unwrap_or_default());
    let mut bytes = head(PUBLICATION, publication.cost_bytes());
    field(&mut bytes, publication.channel.as_str().as_bytes());
    bytes.push(parts::flags(publication));
    parts::write(&mut bytes, publication, tags.as_deref());
    bytes
}

/// A question as bytes.
pub(super) fn question(id: &SurveyId, asker: &str, question: Question) -> Vec<u8> {
    let mut bytes = head(QUESTION, 64 + asker.len());
    bytes.extend_from_slice(id);
    field(&mut bytes, asker.as_bytes());
    bytes.push(match question {
        Question::Channels => b'c',
        Question::Info => b'i',
    });
    bytes
}

/// An answer as messages of at most `most` bytes, if that is room for anything.
pub(super) fn answer(id: &SurveyId, instance: &str, answer: &[u8], most: usize) -> impl Iterator<Item = Vec<u8>> {
    let room = most.saturating_sub(ANSWER_HEAD + instance.len()).max(1);
    // Nothing is an answer too: one part.
    let count = answer.len().div_ceil(room).max(1);
    (0..count).map(move |number| {
        let bytes = &answer[number * room..answer.len().min((number + 1) * room)];
        let mut message = head(ANSWER, ANSWER_HEAD + instance.len() + bytes.len());
        message.extend_from_slice(id);
        field(&mut message, instance.as_bytes());
        // Never cut: an answer is bounded far below.
        message.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
        message.push(u8::from(number + 1 == count));
        message.extend_from_slice(bytes);
        message
    })
}

/// An order as bytes.
pub(super) fn control(control: &Control) -> Vec<u8> {
    let mut bytes = head(CONTROL, 256);
    // Strings and numbers: there is nothing in it that is not JSON.
    bytes.extend(serde_json::to_vec(control).unwrap_or_default());
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::key::Source, parts::HAS_TAGS, read::CONTROL_BYTES, *};
    use crate::{broker::Order, channel::Channel, publication::ClientInfo, tags::Tags};

    fn sample(data: &str, conn_info: Option<&str>) -> Publication {
        let conn_info = conn_info.map(|raw| Bytes::copy_from_slice(raw.as_bytes()));
        let chan_info = conn_info.clone();
        let info = ClientInfo { user: "ann".to_owned(), client: String::new(), conn_info, chan_info };
        let data = Bytes::copy_from_slice(data.as_bytes());
        Publication { info: Some(info.into()), ..Publication::new(Channel::new("news").unwrap(), data) }
    }

    fn news() -> Source {
        Source::Channel(Channel::new("news").unwrap())
    }

    fn order(channel: &str) -> Control {
        let order = Order::Unsubscribe { channel: channel.to_owned() };
        Control { user: "ann".to_owned(), client: None, whitelist: Vec::new(), order }
    }

    fn reason(source: Source, message: Vec<u8>) -> &'static str {
        decode(source, message.into()).unwrap_err().0
    }

    #[test]
    fn what_is_sent_arrives() {
        let anonymous = Publication { info: None, ..sample("1", None) };
        let tagged = Publication { tags: Tags::new([("é", "1")]).unwrap(), is_delta: true, ..anonymous.clone() };
        let excluding = Publication { exclude: Some(uuid::Uuid::from_u128(7)), ..sample("2", Some("1")) };
        let whole = Publication { tags: tagged.tags.clone(), is_delta: true, ..excluding.clone() };
        let plain = [sample("{\"a\":[1]}", Some("{\"name\":\"Ann\"}")), sample("\"é\"", None), anonymous];
        for sent in plain.into_iter().chain([tagged, excluding, whole]) {
            assert_eq!(decode(news(), publication(&sent).into()), Ok(Message::Publication(sent)));
        }
        let (id, asker) = ([7; 16], "a".to_owned());
        let asked = Message::Question { id, asker, question: Question::Channels };
        assert_eq!(decode(Source::Control, question(&id, "a", Question::Channels).into()), Ok(asked));
        let ordered = order("unsubscribe");
        assert_eq!(decode(Source::Control, control(&ordered).into()), Ok(Message::Control(ordered)));
        assert_eq!(decode(Source::Probe, probe(42).into()), Ok(Message::Probe { nonce: 42 }));
    }

    #[test]
    fn an_answer_comes_in_as_many_parts_as_it_needs() {
        let id = [7; 16];
        for (length, parts) in [(0, 1), (1, 1), (100, 1), (101, 2), (1000, 10)] {
            let whole: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let (mut joined, mut numbers) = (Vec::new(), 0);
            for message in answer(&id, "b", &whole, ANSWER_HEAD + 1 + 100) {
                assert!(message.len() <= ANSWER_HEAD + 1 + 100);
                let Ok(Message::Answer { id: [7, ..], part }) = decode(Source::Replies, message.into()) else {
                    panic!("not taken")
                };
                assert_eq!((part.number, &part.instance[..]), (numbers, &b"b"[..]));
                numbers += 1;
                assert_eq!(part.is_last, numbers == parts);
                joined.extend(part.bytes);
            }
            assert_eq!((numbers, joined), (parts, whole));
        }
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
        let many = format!("{{{}}}", (0..33).map(|n| format!("\"{n}\":\"\"")).collect::<Vec<_>>().join(","));
        for tags in ["", "{", "[]", "7", "{\"a\":1}", "{\"a\":null}", "{\"a\":\"1\",\"\\u0061\":\"2\"}", &many] {
            let mut forged = head(PUBLICATION, 0);
            field(&mut forged, b"news");
            forged.push(HAS_TAGS);
            field(&mut forged, tags.as_bytes());
            forged.push(b'1');
            assert_eq!(reason(news(), forged), "tags", "{tags}");
        }
        assert_eq!(reason(news(), b"WC\x01p\0\0\0\x04news\x20".to_vec()), "truncated");
        assert_eq!(reason(news(), b"WC\x01p\0\0\0\x04news\x401".to_vec()), "flags");
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
    fn forged_orders_are_told_apart() {
        let forged = |json: &str| [head(CONTROL, 0), json.as_bytes().to_vec()].concat();
        let long = format!("{}{}", " ".repeat(CONTROL_BYTES), serde_json::to_string(&order("news")).unwrap());
        for (message, why) in [
            (forged(""), "order"),
            (forged("{}"), "order"),
            (forged(&"[".repeat(100_000)), "order"),
            (control(&order("a*")), "order"),
            (control(&Control { user: String::new(), ..order("news") }), "order"),
            (forged(&long), "too_long"),
        ] {
            assert_eq!(reason(Source::Control, message), why);
        }
        for (from, to) in
            [("\"user\"", "\"more\":1,\"user\""), ("unsubscribe", "obey"), ("\"news\"", "7"), ("}}", "}},")]
        {
            let json = serde_json::to_string(&order("news")).unwrap();
            assert_ne!(json, json.replace(from, to));
            assert_eq!(reason(Source::Control, forged(&json.replace(from, to))), "order", "{to}");
        }
        assert_eq!(reason(Source::Replies, control(&order("news"))), "misplaced");
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(decode(news(), publication(&sample(&deep, None)).into()).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0..5_usize, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let kind = [PUBLICATION, QUESTION, ANSWER, CONTROL, PROBE][kind];
            for source in [news(), Source::Control, Source::Replies, Source::Probe] {
                let _ = decode(source, [MAGIC.as_slice(), &[VERSION, kind], &body].concat().into());
            }
        }
    }
}
