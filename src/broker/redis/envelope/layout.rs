//! The message with which a node says on which servers it looks for channels.

use super::{BusMessage, DropReason, LAYOUT, begin_message, read::EnvelopeReader, write_field};

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
        self.finish(BusMessage::Layout { instance, fingerprint })
    }
}
