//! Finds what is wrong with a message that is not a command: its id, if it has one, and the field. The parsers stop at the
//! first fault without describing it, because only plain sessions get the description.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    MethodName,
    fields::{FieldReader, FieldValue},
    json, protobuf,
};

/// Maximum members and fields that are looked at. No command has as many.
const MAX_MEMBERS: usize = 64;

/// Maximum characters of an unknown member's name that are repeated to the client.
const MAX_NAME_CHARS: usize = 32;

/// The fault of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The id of the command; 0 if none could be read.
    pub id: u32,
    /// The fault, with the field.
    pub detail: Cow<'static, str>,
}

impl Diagnosis {
    /// A fault in a message that has no id.
    pub const fn without_id(detail: &'static str) -> Self {
        Self { id: 0, detail: Cow::Borrowed(detail) }
    }
}

type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// Finds the fault in a line that is not a command.
pub(in crate::protocol) fn diagnose_json(line: &str) -> Diagnosis {
    let mut members = Members::new();
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let read = deserializer.deserialize_map(MemberVisitor(&mut members)).and_then(|()| deserializer.end());
    let mut ids = members.iter().filter(|(name, _)| name == "id").map(|(_, id)| id.get().parse());
    let id = match (ids.next(), ids.next()) {
        (Some(Ok(id)), None) => id,
        _ => 0,
    };
    let detail = match read {
        Ok(()) => describe_members(id, &members),
        Err(_) if !crate::json::is_object(line.as_bytes()) => "not a JSON object".into(),
        Err(error) => format!("not JSON at column {}", error.column()).into(),
    };
    Diagnosis { id, detail }
}

/// Collects the members of an object, as far as they can be read.
struct MemberVisitor<'m, 'a>(&'m mut Members<'a>);

impl<'de> Visitor<'de> for MemberVisitor<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<BorrowedText<'de>>()? {
            let value = map.next_value()?;
            if self.0.len() < MAX_MEMBERS || name.0 == "id" {
                self.0.push((name.0, value));
            }
        }
        Ok(())
    }
}

/// Text that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

fn describe_members(id: u32, members: &Members<'_>) -> Cow<'static, str> {
    if let Some(name) = find_repetition(members) {
        return format!("{} occurs twice", shorten(name)).into();
    }
    let is_method = |name: &str| MethodName::of_commands().any(|method| method.as_str() == name);
    let mut named = members.iter().filter(|(name, value)| is_method(name) && value.get() != "null");
    let (method, params) = match (named.next(), named.next()) {
        (None, _) => return describe_lack_of_method(members),
        (Some((one, _)), Some((other, _))) => return format!("both {one} and {other}").into(),
        (Some((method, params)), None) => (method, params.get()),
    };
    if members.iter().any(|(name, token)| name == "token" && !json::is_member(name, token)) {
        return "token has the wrong type".into();
    }
    if id == 0 {
        return "id is not a number from 1 to 4294967295".into();
    }
    let mut fields = Members::new();
    let mut deserializer = serde_json::Deserializer::from_str(params);
    if deserializer.deserialize_map(MemberVisitor(&mut fields)).is_err() {
        return format!("{method} is not an object").into();
    }
    if let Some((name, _)) = fields.iter().find(|(name, value)| !json::is_parameter(method, name, value)) {
        return format!("{method}.{} has the wrong type", shorten(name)).into();
    }
    match find_repetition(&fields) {
        Some(name) => format!("{method}.{} occurs twice", shorten(name)).into(),
        None => format!("{method} is invalid").into(),
    }
}

fn describe_lack_of_method(members: &Members<'_>) -> Cow<'static, str> {
    let unknown = members.iter().map(|(name, _)| name).find(|name| !matches!(&***name, "id" | "token"));
    match unknown {
        Some(name) => format!("unknown method {:?}", shorten(name)).into(),
        None => "no method".into(),
    }
}

fn find_repetition<'m>(members: &'m Members<'_>) -> Option<&'m str> {
    let mut names = members.iter().map(|(name, _)| &**name).enumerate();
    names.find(|(index, name)| members[..*index].iter().any(|(before, _)| before == name)).map(|(_, name)| name)
}

fn shorten(name: &str) -> &str {
    name.char_indices().nth(MAX_NAME_CHARS).map_or(name, |(end, _)| &name[..end])
}

/// Finds the fault in a Protobuf message that is not a command.
pub(in crate::protocol) fn diagnose_protobuf(message: &[u8]) -> Diagnosis {
    let (mut id, mut methods, mut fault) = (0, Vec::new(), None);
    for field in FieldReader(message) {
        match field {
            Ok((1, value)) => match value.number().map(u32::try_from) {
                Ok(Ok(number)) => id = number,
                _ => fault = Some("id is not a number from 1 to 4294967295".into()),
            },
            Ok((100, value)) if value.text().is_err() => fault = Some("token is not text".into()),
            Ok((number, value)) => methods.extend(method_name(number).map(|name| (number, name, value))),
            Err(_) => fault = Some("not a Protobuf message".into()),
        }
    }
    let detail = fault.unwrap_or_else(|| match methods[..] {
        [] => "no method".into(),
        [(number, name, FieldValue::Bytes(bytes))] => describe_fields(number, name, bytes, id),
        [(_, name, _)] => format!("{name} is not a message").into(),
        [(_, one, _), (_, other, _), ..] => format!("both {one} and {other}").into(),
    });
    Diagnosis { id, detail }
}

fn method_name(number: u32) -> Option<&'static str> {
    MethodName::of_commands().nth(usize::try_from(number.checked_sub(4)?).ok()?).map(MethodName::as_str)
}

fn describe_fields(method: u32, name: &str, message: &[u8], id: u32) -> Cow<'static, str> {
    let mut rest = message;
    for _ in 0..MAX_MEMBERS {
        let mut fields = FieldReader(rest);
        let number = match fields.next() {
            None => break,
            Some(Err(_)) => return format!("{name} is not a Protobuf message").into(),
            Some(Ok((number, _))) => number,
        };
        let (field, after) = rest.split_at(rest.len() - fields.0.len());
        if !protobuf::is_method(method, field) {
            return format!("field {number} of {name} has the wrong type").into();
        }
        rest = after;
    }
    if id == 0 { "id is missing".into() } else { format!("{name} is invalid").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnosis_of_json_keeps_the_id_and_names_the_field() {
        let long = format!(r#"{{"id":7,"{}":1}}"#, "x".repeat(100));
        let unknown = format!("unknown method {:?}", "x".repeat(MAX_NAME_CHARS));
        for (line, id, detail) in [
            ("hello", 0, "not a JSON object"),
            ("", 0, "not a JSON object"),
            ("[1]", 0, "not a JSON object"),
            (r#"{"id":3,"publish":{"channel":"news""#, 3, "not JSON at column 35"),
            (r#"{"id":3,"ping":{}} x"#, 3, "not JSON at column 20"),
            (r#"{"id":4,"foo":{}}"#, 4, r#"unknown method "foo""#),
            (&long, 7, &unknown),
            (r#"{"id":4}"#, 4, "no method"),
            (r#"{"id":4,"ping":null}"#, 4, r#"unknown method "ping""#),
            (r#"{"ping":{}}"#, 0, "id is not a number from 1 to 4294967295"),
            (r#"{"id":"1","ping":{}}"#, 0, "id is not a number from 1 to 4294967295"),
            (r#"{"id":4294967296,"ping":{}}"#, 0, "id is not a number from 1 to 4294967295"),
            (r#"{"id":5,"ping":{},"rpc":{}}"#, 5, "both ping and rpc"),
            (r#"{"id":5,"id":6,"ping":{}}"#, 0, "id occurs twice"),
            (r#"{"id":5,"token":1,"ping":{}}"#, 5, "token has the wrong type"),
            (r#"{"id":6,"subscribe":{"channel":5}}"#, 6, "subscribe.channel has the wrong type"),
            (r#"{"subscribe":{"offset":-1,"channel":"a"},"id":6}"#, 6, "subscribe.offset has the wrong type"),
            (r#"{"id":6,"subscribe":5}"#, 6, "subscribe is not an object"),
            (r#"{"id":6,"publish":{"data":1,"data":2}}"#, 6, "publish.data occurs twice"),
            (r#"{"id":6,"connect":{"subs":{"a":{"recover":1}}}}"#, 6, "connect.subs has the wrong type"),
            (r#"{"id":6,"refresh":{"token":"\ud800"}}"#, 6, "refresh.token has the wrong type"),
        ] {
            assert!(json::parse(line).is_err(), "{line}");
            assert_eq!(diagnose_json(line), Diagnosis { id, detail: detail.to_owned().into() }, "{line}");
        }
    }

    #[test]
    fn diagnosis_looks_at_64_members_and_still_finds_the_id() {
        let many: String = (0..10_000).map(|number| format!(r#""k{number}":{{}},"#)).collect();
        let line = format!(r#"{{{many}"ping":5,"id":9,"subscribe":{{}}}}"#);
        let detail = r#"unknown method "k0""#.into();
        assert_eq!(diagnose_json(&line), Diagnosis { id: 9, detail });
    }

    #[test]
    fn diagnosis_of_protobuf_keeps_the_id_and_names_the_field() {
        for (message, id, detail) in [
            (&[8, 7][..], 7, "no method"),
            (&[8, 7, 0x58, 1], 7, "ping is not a message"),
            (&[8, 7, 0x5a, 0, 0x72, 0], 7, "both ping and refresh"),
            (&[8, 7, 0x5a, 0, 0x9b, 1], 7, "not a Protobuf message"),
            (&[8, 7, 0x2a, 3, 10, 1, 0xff], 7, "field 1 of subscribe has the wrong type"),
            (&[8, 7, 0x2a, 5, 10, 1, b'a', 24, 0x80], 7, "subscribe is not a Protobuf message"),
            (&[0x5a, 0], 0, "id is missing"),
            (&[8, 0x80, 0x80, 0x80, 0x80, 0x10, 0x5a, 0], 0, "id is not a number from 1 to 4294967295"),
        ] {
            assert!(protobuf::parse(message).is_err(), "{message:?}");
            assert_eq!(diagnose_protobuf(message), Diagnosis { id, detail: detail.into() }, "{message:?}");
        }
    }
}
