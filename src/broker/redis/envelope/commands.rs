//! Commands of a client for a session of one instance: the id of the session, and the message as the client has sent it.

use uuid::Uuid;

use super::{BusMessage, COMMANDS, DropReason, begin_message, read::EnvelopeReader};

/// Encodes commands.
pub(in crate::broker::redis) fn encode_commands(session: &Uuid, message: &[u8]) -> Vec<u8> {
    let mut bytes = begin_message(COMMANDS, 32 + message.len());
    bytes.extend_from_slice(session.as_bytes());
    bytes.extend_from_slice(message);
    bytes
}

impl EnvelopeReader {
    pub(super) fn decode_commands(mut self) -> Result<BusMessage, DropReason> {
        let session = Uuid::from_bytes(self.read_id()?);
        Ok(BusMessage::Commands { session, message: self.into_rest() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::{super::names::MessageSource, MessageSigner, decode},
        *,
    };

    fn decode_from(source: MessageSource, message: &[u8]) -> Result<BusMessage, DropReason> {
        decode(source, Bytes::copy_from_slice(message), &MessageSigner::without_key())
    }

    #[test]
    fn commands_are_for_one_instance_only() {
        let (session, message) = (Uuid::from_u128(7), Bytes::from_static(b"{}"));
        let encoded = encode_commands(&session, &message);
        assert_eq!(decode_from(MessageSource::Control, &encoded), Err(DropReason("misplaced")));
        assert_eq!(decode_from(MessageSource::Replies, &encoded[..10]), Err(DropReason("truncated")));
        assert_eq!(decode_from(MessageSource::Replies, &encoded), Ok(BusMessage::Commands { session, message }));
    }
}
