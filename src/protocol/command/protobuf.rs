//! Commands in Protobuf, one message each. The parser is written by hand: generated code neither borrows from the frame nor
//! refuses unusual messages. Tests compare it with the generated code.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    Command, CommandMethod, ConnectCommand, HistoryCommand, MalformedCommand, PublishData, RawFilter, SubscribeCommand,
    fields::{FieldReader, FieldValue},
    non_empty, single_method,
};

/// Parses one message, without its length.
///
/// # Errors
/// [`MalformedCommand`] if the bytes are not Protobuf, a known field has another type, there is no method or several, or an
/// id that the method needs is missing.
pub(in crate::protocol) fn parse(message: &[u8]) -> Result<Command<'_>, MalformedCommand> {
    if message.is_empty() {
        return Ok(Command { id: 0, token: None, method: CommandMethod::Pong });
    }
    let (mut id, mut token, mut methods) = (0, None, Vec::with_capacity(1));
    for field in FieldReader(message) {
        match field? {
            (1, value) => id = u32::try_from(value.number()?).map_err(|_| MalformedCommand)?,
            (100, value) => token = Some(value.text()?),
            // A second method is refused, even if it is the same.
            (4..=15, _) if !methods.is_empty() => return Err(MalformedCommand),
            (number, value) => methods.extend(parse_method(number, value)?),
        }
    }
    single_method(id, token, methods)
}

/// Returns whether the bytes are the parameters of a method.
pub(super) fn is_method(number: u32, parameters: &[u8]) -> bool {
    parse_method(number, FieldValue::Bytes(parameters)).is_ok()
}

fn parse_method<'a>(number: u32, value: FieldValue<'a>) -> Result<Option<CommandMethod<'a>>, MalformedCommand> {
    let of = |wanted: u32| text_field(value, wanted);
    Ok(Some(match number {
        4 => CommandMethod::Connect(parse_connect(value.bytes()?)?),
        5 => CommandMethod::Subscribe(parse_subscribe(value.bytes()?)?).with_type(type_field(value, 15)?),
        6 => CommandMethod::Unsubscribe { channel: of(1)? },
        7 => {
            let data = find_field(value, 2)?.map(FieldValue::bytes).transpose()?.map(PublishData::Bytes);
            CommandMethod::Publish { channel: of(1)?, data }.with_type(type_field(value, 3)?)
        }
        8 => CommandMethod::Presence { channel: of(1)? },
        9 => CommandMethod::PresenceStats { channel: of(1)? },
        10 => CommandMethod::History(parse_history(value.bytes()?)?),
        11 => fields(value)?.try_for_each(|field| field.map(drop)).map(|()| CommandMethod::Ping)?,
        12 => CommandMethod::Send { data: json_field(value, 1)?.filter(is_not_null) },
        13 => CommandMethod::Rpc { method: of(2)?, data: json_field(value, 1)?.filter(is_not_null) },
        14 => CommandMethod::Refresh { token: non_empty(Some(of(1)?)) },
        15 => CommandMethod::SubRefresh { channel: of(1)?, token: non_empty(Some(of(2)?)) }
            .with_type(type_field(value, 3)?),
        _ => return Ok(None),
    }))
}

fn fields<'a>(value: FieldValue<'a>) -> Result<FieldReader<'a>, MalformedCommand> {
    value.bytes().map(FieldReader)
}

/// Returns the field of a small message. Of several with one number the last counts, as in all of Protobuf.
fn find_field<'a>(value: FieldValue<'a>, wanted: u32) -> Result<Option<FieldValue<'a>>, MalformedCommand> {
    fields(value)?.try_fold(None, |found, field| {
        let (number, value) = field?;
        Ok(if number == wanted { Some(value) } else { found })
    })
}

fn text_field<'a>(value: FieldValue<'a>, wanted: u32) -> Result<Cow<'a, str>, MalformedCommand> {
    find_field(value, wanted)?.map_or(Ok(Cow::Borrowed("")), FieldValue::text)
}

/// Returns an `int32` that is 0 if it is left out.
fn type_field(value: FieldValue<'_>, wanted: u32) -> Result<i32, MalformedCommand> {
    let kind = find_field(value, wanted)?.map_or(Ok(0), FieldValue::signed)?;
    i32::try_from(kind).map_err(|_| MalformedCommand)
}

fn json_field<'a>(value: FieldValue<'a>, wanted: u32) -> Result<Option<&'a RawValue>, MalformedCommand> {
    find_field(value, wanted)?.map_or(Ok(None), |value| value.bytes().map(parse_raw_json))
}

/// Returns the JSON in bytes, without the white space around it. `None` if they are not JSON.
pub(super) fn parse_raw_json(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// Returns whether the JSON is not `null`, which leaves out an optional field, as in JSON commands.
fn is_not_null(raw: &&RawValue) -> bool {
    raw.get() != "null"
}

fn parse_connect(bytes: &[u8]) -> Result<ConnectCommand<'_>, MalformedCommand> {
    let mut request = ConnectCommand::default();
    for field in FieldReader(bytes) {
        match field? {
            (1, value) => request.token = non_empty(Some(value.text()?)),
            (2, value) => request.data = parse_raw_json(value.bytes()?).filter(is_not_null),
            (3, value) => {
                let subscription = find_field(value, 2)?.map_or(Ok(&[][..]), FieldValue::bytes)?;
                request.subs.insert(text_field(value, 1)?, parse_subscribe(subscription)?.recovery);
            }
            (4, value) => request.name = value.text()?,
            (5, value) => request.version = value.text()?,
            _ => {}
        }
    }
    Ok(request)
}

fn parse_subscribe(bytes: &[u8]) -> Result<SubscribeCommand<'_>, MalformedCommand> {
    let mut request = SubscribeCommand::default();
    for field in FieldReader(bytes) {
        match field? {
            (1, value) => request.channel = value.text()?,
            (2, value) => request.token = non_empty(Some(value.text()?)),
            (3, value) => request.recovery.wants_recovery = value.flag()?,
            (6, value) => request.recovery.epoch = value.text()?,
            (7, value) => request.recovery.offset = value.number()?,
            (8, value) => request.data = parse_raw_json(value.bytes()?).filter(is_not_null),
            (9, value) => request.is_positioned = value.flag()?,
            (10, value) => request.is_recoverable = value.flag()?,
            (11, value) => request.wants_join_leave = value.flag()?,
            (12, value) => request.delta = value.text()?,
            (13, value) => request.filter = Some(RawFilter::Protobuf(value.bytes()?)),
            (14, value) => request.flag = value.signed()?,
            _ => {}
        }
    }
    Ok(request)
}

fn parse_history(bytes: &[u8]) -> Result<HistoryCommand<'_>, MalformedCommand> {
    let mut request = HistoryCommand::default();
    for field in FieldReader(bytes) {
        match field? {
            (1, value) => request.channel = value.text()?,
            (7, value) => request.limit = i32::try_from(value.signed()?).map_err(|_| MalformedCommand)?,
            (8, value) => {
                let offset = find_field(value, 1)?.map_or(Ok(0), FieldValue::number)?;
                request.since = Some((offset, text_field(value, 2)?));
            }
            (9, value) => request.is_reverse = value.flag()?,
            _ => {}
        }
    }
    Ok(request)
}
