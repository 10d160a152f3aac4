//! Presence: joins and leaves on the bus, and the record of a present client that is stored in Redis. Each is the channel, the
//! optional parts that follow, and the description of the client.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    BusMessage, DropReason, JOIN, LEAVE, MessageSigner, STORED_CLIENT, begin_message,
    encoding::{self, HAS_CHAN_INFO, HAS_CONN_INFO, write_field},
    read::{EnvelopeReader, INSTANCE},
};
use crate::{broker::PresenceEvent, channel::Channel, publication::ClientInfo};

/// Bytes of a message besides the channel, the instance and the client, rounded up.
const OVERHEAD: usize = 32;

/// A client that is present in a channel, as Redis stores it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::broker::redis) struct StoredClient {
    /// The instance that has stored it.
    pub(in crate::broker::redis) instance: String,
    /// The client.
    pub(in crate::broker::redis) client: Arc<ClientInfo>,
}

/// Encodes a join or leave.
pub(in crate::broker::redis) fn encode_presence_event(
    channel: &Channel,
    event: PresenceEvent,
    client: &ClientInfo,
) -> Vec<u8> {
    let kind = match event {
        PresenceEvent::Join => JOIN,
        PresenceEvent::Leave => LEAVE,
    };
    let mut bytes = begin_message(kind, OVERHEAD + channel.as_str().len() + encoding::info_length(client));
    write_field(&mut bytes, channel.as_str().as_bytes());
    write_client(&mut bytes, client);
    bytes
}

/// Encodes the record of a client that this instance has stored as present.
pub(in crate::broker::redis) fn encode_stored_client(
    channel: &Channel,
    instance: &str,
    client: &ClientInfo,
) -> Vec<u8> {
    let names = channel.as_str().len() + instance.len();
    let mut bytes = begin_message(STORED_CLIENT, OVERHEAD + names + encoding::info_length(client));
    write_field(&mut bytes, channel.as_str().as_bytes());
    write_field(&mut bytes, instance.as_bytes());
    write_client(&mut bytes, client);
    bytes
}

fn write_client(into: &mut Vec<u8>, client: &ClientInfo) {
    into.push(encoding::info_flags(client));
    encoding::write_info(into, client);
}

/// Decodes the record of a client that is present in `channel`.
pub(in crate::broker::redis) fn decode_stored_client(
    channel: &Channel,
    record: Bytes,
    signer: &MessageSigner,
) -> Result<StoredClient, DropReason> {
    let mut reader = EnvelopeReader::new(signer.verify(record)?.message);
    if reader.read_kind()? != STORED_CLIENT {
        return Err(DropReason("kind"));
    }
    reader.expect_channel(channel)?;
    let instance = reader.read_node_text(INSTANCE)?;
    let client = reader.read_client()?;
    reader.finish(StoredClient { instance, client })
}

impl EnvelopeReader {
    pub(super) fn decode_presence_event(
        mut self,
        channel: Channel,
        event: PresenceEvent,
    ) -> Result<BusMessage, DropReason> {
        self.expect_channel(&channel)?;
        let client = self.read_client()?;
        self.finish(BusMessage::PresenceEvent { channel, event, client })
    }

    fn read_client(&mut self) -> Result<Arc<ClientInfo>, DropReason> {
        let flags = self.read_byte()?;
        let has = |flag| flags & flag != 0;
        if has(!(HAS_CONN_INFO | HAS_CHAN_INFO)) {
            return Err(DropReason("flags"));
        }
        self.read_info(has(HAS_CONN_INFO), has(HAS_CHAN_INFO))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::decode, *};
    use crate::broker::redis::names::MessageSource;

    fn channel(name: &str) -> Channel {
        Channel::new(name).unwrap()
    }

    fn client(conn_info: Option<&'static str>, chan_info: Option<&'static str>) -> ClientInfo {
        let raw = |raw: Option<&'static str>| raw.map(|raw| Bytes::from_static(raw.as_bytes()));
        ClientInfo {
            user: "é".to_owned(),
            client: "c".to_owned(),
            conn_info: raw(conn_info),
            chan_info: raw(chan_info),
        }
    }

    #[test]
    fn joins_leaves_and_records_survive_encoding_and_decoding() {
        let (news, unsigned) = (channel("{news} 1"), MessageSigner::without_key());
        for client in [client(None, None), client(Some("1"), None), client(None, Some("{\"a\":[]}"))] {
            for event in [PresenceEvent::Join, PresenceEvent::Leave] {
                let message = encode_presence_event(&news, event, &client);
                let received =
                    BusMessage::PresenceEvent { channel: news.clone(), event, client: Arc::new(client.clone()) };
                assert_eq!(decode(MessageSource::Channel(news.clone()), message.into(), &unsigned), Ok(received));
            }
            let record = encode_stored_client(&news, "a.1", &client);
            let stored = StoredClient { instance: "a.1".to_owned(), client: Arc::new(client) };
            assert_eq!(decode_stored_client(&news, record.into(), &unsigned), Ok(stored));
        }
    }

    #[test]
    fn forged_joins_and_records_are_dropped_with_their_reason() {
        let (news, unsigned) = (channel("news"), MessageSigner::without_key());
        let join = |client: &ClientInfo| encode_presence_event(&news, PresenceEvent::Join, client);
        let record = |instance: &str| encode_stored_client(&news, instance, &client(None, None));
        for (message, why) in [
            (join(&client(Some("{"), None)), "not_json"),
            (join(&client(None, Some("1\n"))), "not_json"),
            ([join(&client(None, None)), vec![0]].concat(), "trailing"),
            (b"WC\x01j\0\0\0\x04news\x01".to_vec(), "flags"),
            (b"WC\x01l\0\0\0\x04news".to_vec(), "truncated"),
            (encode_presence_event(&channel("other"), PresenceEvent::Join, &client(None, None)), "other_channel"),
            (record("a.1"), "misplaced"),
        ] {
            assert_eq!(decode(MessageSource::Channel(news.clone()), message.into(), &unsigned), Err(DropReason(why)));
        }
        for source in [MessageSource::Control, MessageSource::Replies, MessageSource::Probe] {
            assert_eq!(decode(source, join(&client(None, None)).into(), &unsigned), Err(DropReason("misplaced")));
        }
        for (record, why) in [
            (record(""), "instance"),
            (join(&client(None, None)), "kind"),
            (b"WC\x02m".to_vec(), "version"),
            (b"hello".to_vec(), "not_ours"),
            (Vec::new(), "not_ours"),
            ([record("a.1"), vec![0]].concat(), "trailing"),
            (encode_stored_client(&channel("other"), "a.1", &client(None, None)), "other_channel"),
        ] {
            assert_eq!(decode_stored_client(&news, record.into(), &unsigned), Err(DropReason(why)));
        }
    }
}
