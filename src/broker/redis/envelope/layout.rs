//! The message with which a node says on which servers it looks for channels.

use super::{BusMessage, DropReason, LAYOUT, begin_message, read::EnvelopeReader, write_field};

/// On which servers a node looks for channels.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::broker::redis) struct NodeLayout {
    /// The node's id with the random part.
    pub(in crate::broker::redis) instance: String,
    /// Differs if nodes find channels on different servers.
    pub(in crate::broker::redis) fingerprint: u64,
}

/// Encodes on which servers a node looks for channels.
pub(in crate::broker::redis) fn encode_layout(instance: &str, fingerprint: u64) -> Vec<u8> {
    let mut bytes = begin_message(LAYOUT, 16 + instance.len());
    write_field(&mut bytes, instance.as_bytes());
    bytes.extend_from_slice(&fingerprint.to_be_bytes());
    bytes
}

impl EnvelopeReader {
    pub(super) fn decode_layout(mut self) -> Result<BusMessage, DropReason> {
        let (instance, fingerprint) = (self.read_instance()?, self.read_u64()?);
        self.finish(BusMessage::Layout(NodeLayout { instance, fingerprint }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::{super::names::MessageSource, MessageSigner, decode},
        *,
    };

    #[test]
    fn layout_survives_encoding_and_forged_ones_are_dropped_with_their_reason() {
        let read = |source, message: Vec<u8>| decode(source, Bytes::from(message), &MessageSigner::without_key());
        let layout = BusMessage::Layout(NodeLayout { instance: "a.1".to_owned(), fingerprint: 7 });
        let message = encode_layout("a.1", 7);
        assert_eq!(read(MessageSource::Control, message.clone()), Ok(layout));
        for (source, message, why) in [
            (MessageSource::Control, encode_layout("", 7), "instance"),
            (MessageSource::Control, message[..14].to_vec(), "truncated"),
            (MessageSource::Control, [message.clone(), vec![0]].concat(), "trailing"),
            (MessageSource::Replies, message, "misplaced"),
        ] {
            assert_eq!(read(source, message), Err(DropReason(why)));
        }
    }
}
