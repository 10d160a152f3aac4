//! Commands in Protobuf, one message each. Read by hand, since what they hold is borrowed and what is odd is refused, which
//! generated code does neither of; tests hold it against the generated code of the schema.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    Command, ConnectRequest, HistoryRequest, Malformed, Method, SubscribeRequest, UnreadFilter,
    fields::{Fields, Value},
    given, only,
};

/// Reads one message, without its length.
///
/// # Errors
/// [`Malformed`]: no Protobuf, a known field of another type, no method or several, an id where none may be or none where
/// one must.
pub(in crate::protocol) fn command(message: &[u8]) -> Result<Command<'_>, Malformed> {
    if message.is_empty() {
        return Ok(Command { id: 0, token: None, method: Method::Pong });
    }
    let (mut id, mut token, mut methods) = (0, None, Vec::with_capacity(1));
    for field in Fields(message) {
        match field? {
            (1, value) => id = u32::try_from(value.number()?).map_err(|_| Malformed)?,
            (100, value) => token = Some(value.text()?),
            // However often it says so, a message has one method.
            (4..=15, _) if !methods.is_empty() => return Err(Malformed),
            (number, value) => methods.extend(method(number, value)?),
        }
    }
    only(id, token, methods)
}

fn method<'a>(number: u32, value: Value<'a>) -> Result<Option<Method<'a>>, Malformed> {
    let of = |wanted: u32| text_field(value, wanted);
    Ok(Some(match number {
        4 => Method::Connect(connect(value.bytes()?)?),
        5 => Method::Subscribe(subscribe(value.bytes()?)?),
        6 => Method::Unsubscribe { channel: of(1)? },
        7 => Method::Publish { channel: of(1)?, data: json_field(value, 2)? },
        8 => Method::Presence { channel: of(1)? },
        9 => Method::PresenceStats { channel: of(1)? },
        10 => Method::History(history(value.bytes()?)?),
        11 => fields(value)?.try_for_each(|field| field.map(drop)).map(|()| Method::Ping)?,
        12 => Method::Send { data: json_field(value, 1)? },
        13 => Method::Rpc { method: of(2)?, data: json_field(value, 1)? },
        14 => Method::Refresh { token: given(Some(of(1)?)) },
        15 => Method::SubRefresh { channel: of(1)?, token: given(Some(of(2)?)) },
        _ => return Ok(None),
    }))
}

fn fields<'a>(value: Value<'a>) -> Result<Fields<'a>, Malformed> {
    value.bytes().map(Fields)
}

/// A field of a small message, the last if there are several, as the format wants it.
fn field_of<'a>(value: Value<'a>, wanted: u32) -> Result<Option<Value<'a>>, Malformed> {
    fields(value)?.try_fold(None, |found, field| {
        let (number, value) = field?;
        Ok(if number == wanted { Some(value) } else { found })
    })
}

fn text_field<'a>(value: Value<'a>, wanted: u32) -> Result<Cow<'a, str>, Malformed> {
    field_of(value, wanted)?.map_or(Ok(Cow::Borrowed("")), Value::text)
}

fn json_field<'a>(value: Value<'a>, wanted: u32) -> Result<Option<&'a RawValue>, Malformed> {
    field_of(value, wanted)?.map_or(Ok(None), |value| value.bytes().map(json))
}

/// JSON that stands in bytes, without the white space around it.
fn json(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

fn connect(bytes: &[u8]) -> Result<ConnectRequest<'_>, Malformed> {
    let mut request = ConnectRequest::default();
    for field in Fields(bytes) {
        match field? {
            (1, value) => request.token = given(Some(value.text()?)),
            (2, value) => request.data = json(value.bytes()?),
            (3, value) => {
                let subscription = field_of(value, 2)?.map_or(Ok(&[][..]), Value::bytes)?;
                request.subs.insert(text_field(value, 1)?, subscribe(subscription)?.recovery);
            }
            (4, value) => request.name = value.text()?,
            (5, value) => request.version = value.text()?,
            (6, value) => drop(request.headers.insert(text_field(value, 1)?, text_field(value, 2)?)),
            _ => {}
        }
    }
    Ok(request)
}

fn subscribe(bytes: &[u8]) -> Result<SubscribeRequest<'_>, Malformed> {
    let mut request = SubscribeRequest::default();
    for field in Fields(bytes) {
        match field? {
            (1, value) => request.channel = value.text()?,
            (2, value) => request.token = given(Some(value.text()?)),
            (3, value) => request.recovery.is_wanted = value.flag()?,
            (6, value) => request.recovery.epoch = value.text()?,
            (7, value) => request.recovery.offset = value.number()?,
            (8, value) => request.data = json(value.bytes()?),
            (9, value) => request.is_positioned = value.flag()?,
            (10, value) => request.is_recoverable = value.flag()?,
            (11, value) => request.wants_join_leave = value.flag()?,
            (12, value) => request.delta = value.text()?,
            (13, value) => request.filter = Some(UnreadFilter::Protobuf(value.bytes()?)),
            (14, value) => request.flag = value.signed()?,
            _ => {}
        }
    }
    Ok(request)
}

fn history(bytes: &[u8]) -> Result<HistoryRequest<'_>, Malformed> {
    let mut request = HistoryRequest::default();
    for field in Fields(bytes) {
        match field? {
            (1, value) => request.channel = value.text()?,
            (7, value) => request.limit = i32::try_from(value.signed()?).map_err(|_| Malformed)?,
            (8, value) => {
                let offset = field_of(value, 1)?.map_or(Ok(0), Value::number)?;
                request.since = Some((offset, text_field(value, 2)?));
            }
            (9, value) => request.is_reverse = value.flag()?,
            _ => {}
        }
    }
    Ok(request)
}
