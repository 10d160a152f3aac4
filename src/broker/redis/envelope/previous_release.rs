//! The bytes of every form of message, as the previous release sends and reads them. While a deployment is rolled from one
//! release to the next, both share a bus: this release has to read these bytes, and to send the same.
//!
//! A test that fails here means that two releases do not understand each other. A new form gets a kind or a flag of its own, and
//! a line here; if an existing one has to change, [`VERSION`](super::VERSION) is raised.

use std::collections::BTreeSet;

use super::{super::names::MessageSource, *};
use crate::{
    broker::{ControlAction, Inspection},
    clock::Clock,
    config::{Config, RedisConfig, Secret},
    position::{Epoch, Position},
    revocation::{IssuerScope, Revocation, RevocationTarget},
    tags::Tags,
};

/// An id whose bytes can be read: `7777777777777777`.
const ID: [u8; 16] = [0x37; 16];

fn channel() -> Channel {
    Channel::new("news").unwrap()
}

fn news() -> MessageSource {
    MessageSource::Channel(channel())
}

fn ann() -> Arc<ClientInfo> {
    let raw = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    Arc::new(ClientInfo { user: "ann".to_owned(), client: "c".to_owned(), conn_info: raw("1"), chan_info: raw("2") })
}

fn publication(data: &'static [u8]) -> Publication {
    Publication::new(channel(), Bytes::from_static(data))
}

fn stored() -> Publication {
    let position = Position { offset: 7, epoch: Epoch::parse("abcdefgh").unwrap() };
    Publication { position: Some(position), time: WallTime::from_unix_millis(0x3738), ..publication(b"[1]") }
}

fn presence(event: PresenceEvent) -> BusMessage {
    BusMessage::PresenceEvent { channel: channel(), event, client: ann() }
}

fn question(question: SurveyQuestion) -> BusMessage {
    BusMessage::Question { id: ID, asker: "a.1".to_owned(), question }
}

fn heartbeat(kind: HeartbeatKind) -> BusMessage {
    let node = NodeIdentity { uid: "a".to_owned(), name: "host".to_owned() };
    BusMessage::Heartbeat(Heartbeat { instance: "a.1".to_owned(), node, kind })
}

fn disconnect() -> BusMessage {
    let action = ControlAction::Disconnect { code: 3503, reason: "go".to_owned() };
    BusMessage::Control(Control { user: "ann".to_owned(), client: Some("c".to_owned()), whitelist: vec![], action })
}

/// Over which kind of PUB/SUB channel a message comes, its bytes, and what they mean.
type Form = (MessageSource, Vec<u8>, BusMessage);

/// Every form whose meaning is in the order of its fields.
fn forms() -> Vec<Form> {
    channel_forms().into_iter().chain(control_forms()).chain(instance_forms()).collect()
}

/// What comes over the channel of a channel.
fn channel_forms() -> Vec<Form> {
    let id = Some(Uuid::from_bytes(ID));
    let tags = Tags::new([("a", "b")]).unwrap();
    let whole = Publication { info: Some(ann()), tags, exclude: id, ..publication(b"[1]") };
    let delta = Publication { use_delta: true, ..publication(b"[1]") };
    let binary = Publication { is_binary: true, ..publication(b"\0\xff") };
    let client = b"\0\0\0\x03ann\0\0\0\x01c\0\0\0\x011\0\0\0\x012".as_slice();
    let head = b"WC\x01s\0\0\0\0\0\0\0\x07abcdefgh".as_slice();
    let forms = [
        ([b"WC\x01p\0\0\0\x04news\0[1]".as_slice(), b"", b""], BusMessage::Publication(publication(b"[1]"))),
        (
            [b"WC\x01p\0\0\0\x04news\x2f".as_slice(), client, b"\0\0\0\x09{\"a\":\"b\"}7777777777777777[1]"],
            BusMessage::Publication(whole),
        ),
        ([b"WC\x01p\0\0\0\x04news\x10[1]".as_slice(), b"", b""], BusMessage::Publication(delta)),
        ([b"WC\x01p\0\0\0\x04news\x80\0\xff".as_slice(), b"", b""], BusMessage::Publication(binary)),
        ([head, b"WC\x01p\0\0\0\x04news\x40", b"\0\0\0\0\0\0\x378[1]"], BusMessage::Publication(stored())),
        ([b"WC\x01j\0\0\0\x04news".as_slice(), b"\x06", client], presence(PresenceEvent::Join)),
        ([b"WC\x01l\0\0\0\x04news".as_slice(), b"\x06", client], presence(PresenceEvent::Leave)),
        ([b"WC\x01d\0\0\0\x04news".as_slice(), b"", b""], BusMessage::HistoryRemoved(channel())),
    ];
    forms.into_iter().map(|(parts, message)| (news(), parts.concat(), message)).collect()
}

/// What comes to all instances.
fn control_forms() -> Vec<Form> {
    let user = RevocationTarget::User("ann".to_owned(), IssuerScope::Any);
    let revoked = vec![Revocation::of_all(user, WallTime::from_unix_millis(5))];
    let layout = NodeLayout { instance: "a.1".to_owned(), fingerprint: 0x3738 };
    let inspection = SurveyQuestion::Inspect(Inspection::Channel("news".to_owned()));
    let ask = b"WC\x01q7777777777777777\0\0\0\x03a.1".as_slice();
    let beat = b"WC\x01h\0\0\0\x03a.1\0\0\0\x01a\0\0\0\x04host".as_slice();
    let control = br#"o{"user":"ann","client":"c","whitelist":[],"order":{"disconnect":{"code":3503,"reason":"go"}}}"#;
    let forms = [
        ([ask, b"c"], question(SurveyQuestion::Channels)),
        ([ask, b"i"], question(SurveyQuestion::Info)),
        ([ask, br#"x{"channel":"news"}"#], question(inspection)),
        ([ask, br#"r[{"target":"u:ann","expires_at":5}]"#], question(SurveyQuestion::Revoked(revoked))),
        ([b"WC\x01".as_slice(), control], disconnect()),
        ([beat, b"h"], heartbeat(HeartbeatKind::Hello)),
        ([beat, b"a"], heartbeat(HeartbeatKind::Alive)),
        ([beat, b"g"], heartbeat(HeartbeatKind::Goodbye)),
        ([b"WC\x01y\0\0\0\x03a.1".as_slice(), b"\0\0\0\0\0\0\x378"], BusMessage::Layout(layout)),
    ];
    forms.into_iter().map(|(parts, message)| (MessageSource::Control, parts.concat(), message)).collect()
}

/// What comes to one instance.
fn instance_forms() -> Vec<Form> {
    let part = AnswerPart { instance: "a.1".to_owned(), number: 0, is_last: true, bytes: Bytes::from_static(b"{}") };
    let commands = BusMessage::Commands { session: Uuid::from_bytes(ID), message: Bytes::from_static(b"{}") };
    let (replies, probe) = (MessageSource::Replies, MessageSource::Probe);
    vec![
        (
            replies.clone(),
            b"WC\x01r7777777777777777\0\0\0\x03a.1\0\0\0\0\x01{}".to_vec(),
            BusMessage::Answer { id: ID, part },
        ),
        (replies.clone(), b"WC\x01e7777777777777777{}".to_vec(), commands),
        (replies, b"WC\x01n\0\0\0\0\0\0\0\0".to_vec(), BusMessage::ReceiverCheck),
        (probe, b"WC\x01n\0\0\0\0\0\0\x378".to_vec(), BusMessage::Probe { nonce: 0x3738 }),
    ]
}

/// The JSON of controls and of questions, whose fields have names.
const JSON_FORMS: [&str; 9] = [
    r#"o{"user":"ann","client":null,"whitelist":["a"],"order":{"unsubscribe":{"channel":"news"}}}"#,
    r#"o{"user":"ann","client":null,"whitelist":[],"order":{"refresh":{"expires_at":5,"info":"1"}}}"#,
    r#"o{"user":"ann","client":null,"whitelist":[],"order":{"subscribe":{"channel":"news","info":"1","data":"2","since":{"offset":7,"epoch":"abcdefgh"},"expires_at":5}}}"#,
    r#"o{"user":"ann","client":null,"whitelist":[],"order":{"subscribe":{"channel":"news","info":null,"data":null,"since":null,"expires_at":null,"override":{"presence":true,"join_leave":null,"force_push_join_leave":null,"force_positioning":null,"force_recovery":null}}}}"#,
    r#"q7777777777777777....a.1x{"connections":{"user":"ann","channel":null,"after":{"node":"a","local":[1,2]},"limit":3,"channels":4}}"#,
    r#"q7777777777777777....a.1x{"explain":{"user":"ann","client":null,"channel":"news","publication":null}}"#,
    r#"q7777777777777777....a.1x{"trace":{"id":"t","target":{"user":"ann"},"received":{"a":1}}}"#,
    r#"q7777777777777777....a.1r[{"target":"n:ann","issued_before":4,"expires_at":5}]"#,
    r#"q7777777777777777....a.1r[{"target":"j:1","expires_at":5},{"target":"s:1","expires_at":5}]"#,
];

/// Encodes a message as this release sends it. There is a line for each form, so none can be forgotten.
fn encode(message: &BusMessage) -> Vec<u8> {
    match message {
        BusMessage::Publication(publication) => {
            let record = encode_publication(publication);
            let Some(Position { offset, epoch }) = publication.position else { return record };
            // As publish.lua does.
            [&STORED_PREFIX, offset.to_be_bytes().as_slice(), epoch.as_str().as_bytes(), &record].concat()
        }
        BusMessage::PresenceEvent { channel, event, client } => encode_presence_event(channel, *event, client),
        BusMessage::HistoryRemoved(channel) => encode_history_removed(channel),
        BusMessage::ReceiverCheck => encode_probe(0),
        BusMessage::Question { id, asker, question } => encode_question(id, asker, question),
        BusMessage::Answer { id, part } => encode_answer(id, &part.instance, &part.bytes, 256).next().unwrap(),
        BusMessage::Control(control) => encode_control(control),
        BusMessage::Commands { session, message } => encode_commands(session, message),
        BusMessage::Heartbeat(Heartbeat { instance, node, kind }) => encode_heartbeat(instance, node, *kind),
        BusMessage::Layout(NodeLayout { instance, fingerprint }) => encode_layout(instance, *fingerprint),
        BusMessage::Probe { nonce } => encode_probe(*nonce),
    }
}

fn unsigned() -> MessageSigner {
    MessageSigner::without_key()
}

fn signer(key: &str) -> MessageSigner {
    MessageSigner::new(&RedisConfig { bus_key: Secret::new(key), ..Config::default().broker.redis }, Clock::default())
}

#[test]
fn every_form_is_read_and_sent_as_by_the_previous_release() {
    for (source, bytes, message) in forms() {
        let text = bytes.escape_ascii().to_string();
        assert_eq!(encode(&message).escape_ascii().to_string(), text, "{message:?}");
        assert_eq!(decode(source, bytes.into(), &unsigned()), Ok(message), "{text}");
    }
    for json in JSON_FORMS {
        let bytes = [b"WC\x01".as_slice(), json.replace("....", "\0\0\0\x03").as_bytes()].concat();
        let message = decode(MessageSource::Control, bytes.clone().into(), &unsigned())
            .unwrap_or_else(|why| panic!("{json}: {why:?}"));
        assert_eq!(encode(&message).escape_ascii().to_string(), bytes.escape_ascii().to_string());
    }
}

#[test]
fn every_kind_of_message_has_a_form() {
    let kinds: BTreeSet<u8> = forms().iter().map(|(_, bytes, _)| bytes[3]).collect();
    let expected = [
        PUBLICATION,
        STORED,
        JOIN,
        LEAVE,
        HISTORY_REMOVED,
        QUESTION,
        ANSWER,
        CONTROL,
        PROBE,
        HEARTBEAT,
        LAYOUT,
        COMMANDS,
    ];
    assert_eq!(kinds, expected.into());
}

#[test]
fn records_in_redis_have_the_bytes_of_the_previous_release() {
    let record = b"WC\x01m\0\0\0\x04news\0\0\0\x03a.1\x06\0\0\0\x03ann\0\0\0\x01c\0\0\0\x011\0\0\0\x012";
    assert_eq!(encode_stored_client(&channel(), "a.1", &ann()), record);
    let client = StoredClient { instance: "a.1".to_owned(), client: ann() };
    assert_eq!(decode_stored_client(&channel(), Bytes::from_static(record), &unsigned()), Ok(client));
    let record = b"WC\x01p\0\0\0\x04news\x40\0\0\0\0\0\0\x378[1]";
    let publication = Publication { position: None, ..stored() };
    assert_eq!(encode_publication(&publication), record);
    assert_eq!(decode_record(channel(), Bytes::from_static(record), &unsigned()), Ok(publication));
}

/// A message before which a script puts its position is signed behind it.
fn signed_part(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(if bytes.starts_with(&STORED_PREFIX) { STORED_PREFIX.len() + 8 + Epoch::BYTES } else { 0 })
}

#[test]
fn every_form_is_dropped_unless_it_is_signed_with_the_key() {
    let (ours, theirs) = (signer("5a1f0c7e9b3d2468ace013579bdf2468"), signer("c0ffee1234567890abcdef0987654321"));
    for (source, bytes, message) in forms() {
        let (position, content) = signed_part(&bytes);
        let send = |content: Vec<u8>| Bytes::from([position, &content].concat());
        let read = |sent: Bytes| decode(source.clone(), sent, &ours);
        assert_eq!(read(send(content.to_vec())), Err(DropReason("unsigned")), "{message:?}");
        assert_eq!(read(send(theirs.sign(content.to_vec()))), Err(DropReason("forged")), "{message:?}");
        let mut changed = ours.sign(content.to_vec());
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(read(send(changed)), Err(DropReason("forged")), "{message:?}");
        assert_eq!(read(send(ours.sign(content.to_vec()))), Ok(message));
    }
}

/// The signature itself, with the key and the prefix of the previous release.
#[test]
fn signature_has_the_bytes_of_the_previous_release() {
    let signer = signer("5a1f0c7e9b3d2468ace013579bdf2468");
    let mut signed = b"WC\x01S".to_vec();
    signed.extend_from_slice(&SIGNATURE);
    signed.extend_from_slice(&1_700_000_000_000_i64.to_be_bytes());
    signed.extend_from_slice(b"WC\x01p\0\0\0\x04news\0[1]");
    assert_eq!(decode(news(), signed.into(), &signer), Ok(BusMessage::Publication(publication(b"[1]"))));
}

/// HMAC-SHA256 of the time and the message by the derived key, computed with another library.
const SIGNATURE: [u8; 32] = [
    0x07, 0xf8, 0x15, 0x18, 0x6d, 0x1d, 0xe0, 0x7f, 0xb0, 0x52, 0x0c, 0x9d, 0xfd, 0x1e, 0xce, 0x61, 0xa5, 0x82, 0xba,
    0xba, 0xbb, 0x0d, 0x27, 0x38, 0x26, 0xdb, 0xdd, 0x2c, 0xd0, 0x8f, 0x3d, 0x42,
];
