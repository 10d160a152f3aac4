//! Commands in JSON: a line is one command with one meaning, or invalid, and the data that it publishes cannot break out of
//! the push that carries it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use wardcast::{
    channel::Channel,
    protocol::{Command, CommandMethod, Format, MalformedCommand, Push, to_single_line},
    publication::{ClientInfo, Publication},
};

const METHODS: [&str; 12] = [
    "connect",
    "subscribe",
    "unsubscribe",
    "publish",
    "send",
    "ping",
    "presence",
    "presence_stats",
    "history",
    "rpc",
    "refresh",
    "sub_refresh",
];

fn read(line: &str) -> Result<Command<'_>, MalformedCommand> {
    Format::Json.parse_command(line.as_bytes())
}

/// A text frame with a command in each line.
pub fn command(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.split('\n') {
        let found = read(line);
        let meaning = meaning(line);
        assert_eq!(self::meaning(&format!(" {line}\r\t")), meaning, "white space must not change the meaning");
        if let Ok(found) = &found {
            compare_with_other_reader(line, found);
            check_unknown_member_is_ignored(line, &meaning);
        }
        if let Ok(Command { method: CommandMethod::Publish { channel, data: Some(data) }, .. }) = found {
            let json = data.as_json().expect("data of a JSON command is JSON");
            check_data_stays_inside_push(line, &channel, json);
        }
        // Over REST, data may have line breaks.
        if let Ok(raw) = serde_json::from_str::<&RawValue>(text) {
            check_data_stays_inside_push(text, "news", raw);
        }
    }
}

/// The content of the command of a line as text.
fn meaning(line: &str) -> String {
    let Ok(Command { id, token, method }) = read(line) else { return "none".to_owned() };
    let method = super::method_text::describe(&method);
    format!("{id} {token:?} {method}")
}

fn compare_with_other_reader(line: &str, found: &Command<'_>) {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(line).expect("an object");
    let id = members.get("id").map_or(0, |id| id.get().parse::<u32>().expect("an id"));
    assert_eq!(found.id, id);
    let is_there = |name: &&&str| members.get(**name).is_some_and(|raw| raw.get() != "null");
    let named: Vec<&str> = METHODS.iter().filter(is_there).copied().collect();
    let expected: &[&str] = match found.method {
        CommandMethod::Pong => &[],
        CommandMethod::Connect(_) => &["connect"],
        CommandMethod::Subscribe(_) => &["subscribe"],
        CommandMethod::Unsubscribe { .. } => &["unsubscribe"],
        CommandMethod::Publish { .. } => &["publish"],
        CommandMethod::Refresh { .. } => &["refresh"],
        CommandMethod::SubRefresh { .. } => &["sub_refresh"],
        CommandMethod::Ping => &["ping"],
        CommandMethod::Send { .. } => &["send"],
        CommandMethod::Presence { .. } => &["presence"],
        CommandMethod::PresenceStats { .. } => &["presence_stats"],
        CommandMethod::History(_) => &["history"],
        CommandMethod::Rpc { .. } => &["rpc"],
        CommandMethod::OtherType => {
            assert!(matches!(named[..], ["subscribe" | "publish" | "sub_refresh"]), "{line}");
            &named
        }
    };
    assert_eq!(named, expected, "{line}");
    assert!(id > 0 || matches!(found.method, CommandMethod::Pong | CommandMethod::Send { .. }), "no id: {line}");
    assert!(found.token.as_deref().is_none_or(|token| !token.is_empty()));
}

/// An unknown member must be ignored, so that the protocol can grow.
fn check_unknown_member_is_ignored(line: &str, before: &str) {
    let line = line.trim();
    if line != "{}" {
        let grown = format!(r#"{{"unheard_of":[{{}},"}}"],{}"#, &line[1..]);
        assert_eq!(meaning(&grown), before);
    }
}

fn check_data_stays_inside_push(whole: &str, channel: &str, raw: &RawValue) {
    let Ok(channel) = Channel::new(channel) else { return };
    let whole = Bytes::copy_from_slice(whole.as_bytes());
    // `to_single_line` expects the data as a part of the message.
    let text = std::str::from_utf8(&whole).expect("UTF-8");
    let inside: &str = &text[text.find(raw.get()).expect("a part")..][..raw.get().len()];
    let inside: &RawValue = serde_json::from_str(inside).expect("JSON");
    let data = to_single_line(&whole, inside);
    assert_eq!(String::from_utf8_lossy(&data), raw.get().replace(['\n', '\r'], " "));
    let info =
        ClientInfo { user: text.to_owned(), client: String::new(), conn_info: Some(data.clone()), chan_info: None };
    let publication = Publication { info: Some(info.into()), ..Publication::new(channel.clone(), data.clone()) };
    let frame = Format::Json.encode_push(&Push::Publication((&publication).into()));
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let push = &frame[header..];
    assert!(!push.contains(&b'\n') && !push.contains(&b'\r'), "a push of two lines");
    let push: BTreeMap<String, BTreeMap<String, &RawValue>> = serde_json::from_slice(push).expect("a push");
    assert!(push.len() == 1 && push["push"].len() == 2, "{push:?}");
    let name: String = serde_json::from_str(push["push"]["channel"].get()).expect("a name");
    assert_eq!(name, channel.as_str());
    let publication: BTreeMap<String, &RawValue> =
        serde_json::from_str(push["push"]["pub"].get()).expect("a publication");
    assert!(publication.len() == 2 && publication["data"].get().as_bytes() == data, "{publication:?}");
    let info: BTreeMap<String, &RawValue> = serde_json::from_str(publication["info"].get()).expect("an info");
    let user: String = serde_json::from_str(info["user"].get()).expect("a user");
    assert_eq!(user, text);
    assert_eq!(info["conn_info"].get().as_bytes(), data);
}
