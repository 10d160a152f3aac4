//! Survey questions. Their answers are JSON, which the envelope does not look into.

use serde::Serialize;

use super::{QUESTION, SurveyId, begin_message, write_field};
use crate::broker::SurveyQuestion;

/// Encodes a survey question.
pub(in crate::broker::redis) fn encode_question(id: &SurveyId, asker: &str, question: &SurveyQuestion) -> Vec<u8> {
    let mut bytes = begin_message(QUESTION, 64 + asker.len());
    bytes.extend_from_slice(id);
    write_field(&mut bytes, asker.as_bytes());
    match question {
        SurveyQuestion::Channels => bytes.push(b'c'),
        SurveyQuestion::Info => bytes.push(b'i'),
        SurveyQuestion::Inspect(inspection) => write_json(&mut bytes, b'x', inspection),
        SurveyQuestion::Revoked(revocations) => write_json(&mut bytes, b'r', revocations),
    }
    bytes
}

fn write_json(bytes: &mut Vec<u8>, kind: u8, content: &impl Serialize) {
    bytes.push(kind);
    // Cannot fail: inspections and revocations have only strings and numbers.
    bytes.extend(serde_json::to_vec(content).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::{super::names::MessageSource, BusMessage, DropReason, MessageSigner, decode},
        *,
    };
    use crate::broker::{ChannelsQuery, ConnectionsQuery, Inspection};

    fn decode_question(message: Vec<u8>) -> Result<SurveyQuestion, DropReason> {
        match decode(MessageSource::Control, Bytes::from(message), &MessageSigner::without_key())? {
            BusMessage::Question { question, .. } => Ok(question),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn inspections_survive_encoding_and_too_long_or_unknown_ones_are_dropped() {
        let inspect = |user: String| {
            let query = ConnectionsQuery { user: Some(user), limit: 1, ..ConnectionsQuery::default() };
            SurveyQuestion::Inspect(Inspection::Connections(query))
        };
        let question = inspect("ann".to_owned());
        assert_eq!(decode_question(encode_question(&[7; 16], "a", &question)), Ok(question.clone()));
        let query = ChannelsQuery { pattern: "n*".to_owned(), after: String::new(), limit: 50 };
        let channels = SurveyQuestion::Inspect(Inspection::Channels(query));
        assert_eq!(decode_question(encode_question(&[7; 16], "a", &channels)), Ok(channels.clone()));
        let long = encode_question(&[7; 16], "a", &inspect("x".repeat(20_000)));
        assert_eq!(decode_question(long), Err(DropReason("too_long")));
        let mut unknown = encode_question(&[7; 16], "a", &SurveyQuestion::Info);
        unknown.pop();
        unknown.extend_from_slice(b"x{\"later\":{}}");
        assert_eq!(decode_question(unknown), Err(DropReason("inspection")));
    }
}
