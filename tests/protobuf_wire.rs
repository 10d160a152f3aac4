//! The Protobuf protocol, byte for byte: `golden/protobuf.hex` has a named frame of each kind of reply and push, as the
//! server writes it, with its WebSocket header. The comment above each frame is the same value in JSON. A change of this
//! file is a change for every client.

use std::{collections::BTreeMap, fs, sync::Arc};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;
use wardcast::{
    channel::Channel,
    clock::WallTime,
    position::{Epoch, Position},
    protocol::{
        ConnectResult, ErrorCode, Expiry, Format, HistoryResult, PresenceStats, PublicationPush, Push, PushData,
        RefreshResult, Reply, SubscribeResult, UnsubscribeCode, schema,
    },
    publication::{ClientInfo, Publication},
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/protobuf.hex");

/// Receives the name of a value and its frames in JSON and in Protobuf.
type Sink<'s> = &'s mut dyn FnMut(&str, [Bytes; 2]);

fn in_both_formats(write: impl Fn(Format) -> Bytes) -> [Bytes; 2] {
    [write(Format::Json), write(Format::Protobuf)]
}

fn news() -> Channel {
    Channel::new("news").unwrap()
}

fn ann() -> Arc<ClientInfo> {
    Arc::new(ClientInfo {
        user: "ann".to_owned(),
        client: Uuid::nil().to_string(),
        conn_info: Some(r#"{"name":"Ann"}"#.into()),
        chan_info: Some("7".into()),
    })
}

fn position() -> Position {
    Position { offset: u64::MAX, epoch: Epoch::parse("abcdefgh").unwrap() }
}

fn publication() -> Publication {
    Publication {
        info: Some(ann()),
        position: Some(position()),
        tags: wardcast::tags::Tags::new([("b", "2"), ("a", "1")]).unwrap(),
        time: WallTime::from_unix_seconds(1_700_000_000),
        ..Publication::new(news(), r#"{"é":1}"#.into())
    }
}

fn results(sink: Sink<'_>) {
    let (publication, data) = (publication(), Bytes::from_static(b"{}"));
    let bare = Publication::new(news(), "null".into());
    let subscribed = SubscribeResult {
        expiry: Expiry::after(60),
        is_recoverable: true,
        is_positioned: true,
        position: Some(position()),
        publications: vec![(&bare).into(), PublicationPush { publication: &publication, content: PushData::Full }],
        is_recovered: true,
        was_recovering: true,
        data: Some(&data),
        has_delta: true,
    };
    let plain = SubscribeResult::default();
    let connected = ConnectResult {
        client: "c",
        version: "wardcast 0",
        expiry: Expiry::after(3600),
        data: Some(&data),
        subs: BTreeMap::from([("news", SubscribeResult { data: Some(&data), ..Default::default() })]),
        ping: 25,
        pong: true,
        session: "s",
        node: "n",
    };
    let history = HistoryResult { publications: vec![(&publication).into()], position: position() };
    let refreshed = RefreshResult { client: "c", version: "wardcast 0", expiry: Expiry::NEVER };
    let stats = PresenceStats { num_clients: 300, num_users: 2 };
    let replies = [
        ("connect", Reply::Connect(&connected)),
        ("subscribe", Reply::Subscribe(&plain)),
        ("subscribe with all there is", Reply::Subscribe(&subscribed)),
        ("unsubscribe", Reply::Unsubscribe),
        ("publish", Reply::Publish),
        ("presence", Reply::Presence(&[ann()])),
        ("presence_stats", Reply::PresenceStats(stats)),
        ("history", Reply::History(&history)),
        ("ping", Reply::Ping),
        ("refresh", Reply::Refresh(&refreshed)),
        ("sub_refresh", Reply::SubRefresh(Expiry::after(1))),
        ("an error", Reply::Error(&ErrorCode::TooManyRequests.into())),
    ];
    for (name, reply) in &replies {
        sink(&format!("reply {name}"), in_both_formats(|format| format.encode_reply(300, reply)));
    }
    sink(
        "reply an error without id",
        in_both_formats(|format| format.encode_reply(0, &Reply::Error(&ErrorCode::BadRequest.into()))),
    );
    let pushes =
        [("connect", Push::Connect(&connected)), ("subscribe", Push::Subscribe(&publication.channel, &subscribed))];
    pushes
        .iter()
        .for_each(|(name, push)| sink(&format!("push {name}"), in_both_formats(|format| format.encode_push(push))));
}

fn pushes(sink: Sink<'_>) {
    let (news, ann, publication) = (news(), ann(), publication());
    let bare = Publication::new(news.clone(), "null".into());
    let delta = PublicationPush { publication: &publication, content: PushData::Delta(b"9\n9@0,\"") };
    let pushes = [
        ("publication of data alone", Push::Publication((&bare).into())),
        ("publication", Push::Publication((&publication).into())),
        ("publication with a delta", Push::Publication(delta)),
        ("join", Push::Join(&news, &ann)),
        ("leave", Push::Leave(&news, &ann)),
        ("unsubscribe", Push::Unsubscribe(&news, UnsubscribeCode::InsufficientState)),
        ("refresh", Push::Refresh(Expiry::after(60))),
    ];
    pushes
        .iter()
        .for_each(|(name, push)| sink(&format!("push {name}"), in_both_formats(|format| format.encode_push(push))));
    sink("ping", in_both_formats(Format::encode_ping));
}

/// The payload of an unmasked frame.
fn payload(frame: &[u8]) -> &[u8] {
    match frame[1] {
        126 => &frame[4..],
        127 => &frame[10..],
        _ => &frame[2..],
    }
}

#[test]
fn every_protobuf_reply_and_push_matches_golden_bytes() {
    let mut written = String::new();
    let mut sink = |name: &str, [json, protobuf]: [Bytes; 2]| {
        let hex: String = protobuf.iter().map(|byte| format!("{byte:02x}")).collect();
        written += &format!("# {}\n{name}: {hex}\n", std::str::from_utf8(payload(&json)).unwrap());
    };
    results(&mut sink);
    pushes(&mut sink);
    if fs::read_to_string(GOLDEN).ok().as_ref() != Some(&written) {
        let actual = concat!(env!("CARGO_TARGET_TMPDIR"), "/protobuf.hex");
        fs::write(actual, &written).unwrap();
        panic!("the frames differ from {GOLDEN}; the actual ones are in {actual}");
    }
}

/// Compares each field that both formats have. The Protobuf frame is read with the generated code.
#[test]
fn json_and_protobuf_forms_carry_same_content() {
    let mut sink = |name: &str, [json, protobuf]: [Bytes; 2]| {
        let json: serde_json::Value = serde_json::from_slice(payload(&json)).unwrap();
        let read = schema::Reply::decode_length_delimited(payload(&protobuf)).unwrap();
        assert_eq!(json["id"].as_u64().unwrap_or(0), u64::from(read.id), "{name}");
        let push = read.push.unwrap_or_default();
        assert_eq!(json["push"]["channel"].as_str().unwrap_or(""), push.channel, "{name}");
        let published = [(&json["push"]["pub"], push.r#pub.as_ref())];
        let recovered = read.subscribe.iter().flat_map(|result| &result.publications);
        let kept = read.history.iter().flat_map(|result| &result.publications);
        let lists = [&json["subscribe"]["publications"], &json["history"]["publications"]];
        let listed = lists.into_iter().filter_map(|list| list.as_array()).flatten();
        for (json, read) in published.into_iter().chain(listed.zip(recovered.chain(kept).map(Some))) {
            let Some(read) = read else { continue };
            assert_eq!(json["offset"].as_u64().unwrap_or(0), read.offset, "{name}");
            assert_eq!(json["time"].as_i64().unwrap_or(0), read.time, "{name}");
            assert_eq!(json["delta"].as_bool().unwrap_or(false), read.delta, "{name}");
            assert_eq!(json["tags"].as_object().map_or(0, |tags| tags.len()), read.tags.len(), "{name}");
            let user = read.info.as_ref().map(|info| info.user.as_str());
            assert_eq!(json["info"]["user"].as_str(), user, "{name}");
            // In JSON the data is a value, or a string of JSON for subscribers with deltas.
            let is_value = serde_json::from_slice(&read.data).is_ok_and(|data: serde_json::Value| json["data"] == data);
            assert!(is_value || json["data"].as_str().map(str::as_bytes) == Some(&read.data), "{name}");
        }
    };
    results(&mut sink);
    pushes(&mut sink);
}
