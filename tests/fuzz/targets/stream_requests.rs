//! The requests of clients without a WebSocket: the commands in a query, the body of `/emulation` in both formats, and the ids of
//! events, with which a browser recovers.

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use prost::Message;
use serde_json::{Value, json};
use uuid::Uuid;
use wardcast::{
    http::{CommandsRequest, first_commands, parse_event_id},
    protocol::schema::EmulationRequest,
};

/// Once as each of them, and as the content of valid requests.
pub fn stream_requests(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check_query(text);
        check_event_id(text);
    }
    check_json(data);
    check_protobuf(data);
    check_valid_requests(data);
}

fn check_query(query: &str) {
    let has_parameter = query.split('&').any(|pair| pair.starts_with("cf_connect="));
    let found = first_commands(query);
    match &found {
        Ok(commands) => {
            assert!(std::str::from_utf8(commands).is_ok());
            assert!(commands.len() <= query.len() && (has_parameter || commands.is_empty()), "{query}");
        }
        Err(_) => assert!(has_parameter && query.contains('%'), "{query}"),
    }
    // Parameters before and behind it change nothing.
    let around = format!("a=%&xcf_connect=1&{query}&cf_connect=2");
    if has_parameter {
        assert_eq!(first_commands(&around).ok(), found.ok(), "{query}");
    }
}

fn check_event_id(text: &str) {
    let Some(position) = parse_event_id(text) else { return };
    let (epoch, offset) = text.split_once(':').expect("epoch and offset");
    assert_eq!((position.epoch.as_str(), Ok(position.offset)), (epoch, offset.parse()));
    assert!(offset.bytes().all(|byte| byte.is_ascii_digit()));
}

fn check_json(body: &[u8]) {
    let Ok(found) = CommandsRequest::parse_json(body) else { return };
    // In members that it skips, serde_json checks neither UTF-8 nor the range of numbers.
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
    assert!(body.is_object());
    assert_eq!(body.get("node").map_or("", |node| node.as_str().expect("text")), found.node);
    assert_eq!(Uuid::try_parse(body["session"].as_str().expect("text")), Ok(found.session));
    assert_eq!(body["data"].as_str().expect("text"), found.message);
}

fn check_protobuf(body: &[u8]) {
    let Ok(CommandsRequest { node, session, message }) = CommandsRequest::parse_protobuf(&body.to_vec().into()) else {
        return;
    };
    let written = EmulationRequest { node, session: session.to_string(), data: message };
    check_same(&written, CommandsRequest::parse_protobuf(&written.encode_to_vec().into()));
}

fn check_valid_requests(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let encoded = percent_encode(text.as_bytes(), NON_ALPHANUMERIC);
    let commands = first_commands(&format!("token=x&cf_connect={encoded}"));
    assert_eq!(commands.unwrap_or_else(|error| panic!("{error}")), text.as_bytes());
    let session = Uuid::from_u128(u128::MAX / 3);
    let request =
        EmulationRequest { node: text.to_string(), session: session.to_string(), data: text.to_string().into() };
    let body = json!({"other": [1], "data": text, "session": request.session, "node": text});
    check_same(&request, CommandsRequest::parse_json(body.to_string().as_bytes()));
    let request = EmulationRequest { data: Bytes::copy_from_slice(data), ..request };
    check_same(&request, CommandsRequest::parse_protobuf(&request.encode_to_vec().into()));
}

fn check_same(expected: &EmulationRequest, found: Result<CommandsRequest, wardcast::http::HttpError>) {
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    let session = found.session.to_string();
    assert_eq!((&found.node, &session, &found.message), (&expected.node, &expected.session, &expected.data));
}
