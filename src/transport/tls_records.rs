//! The TLS records of one connection. Pure: the caller passes the bytes that it has read from the connection, and sends the
//! bytes that it is given. Between records this holds no buffer, only the state of rustls: so an idle connection costs no
//! memory for what it may receive or send next.

use std::io::IoSlice;

use bytes::BytesMut;
use rustls::{
    Error, HandshakeKind,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, WriteTraffic},
};
use rustls_pki_types::CertificateDer;

/// Maximum bytes that are kept of an incomplete record, or of a handshake message in several records: the longest record
/// of TLS 1.2 (RFC 5246 §6.2.3). No record of TLS 1.3 and no handshake of a client without a certificate is longer.
const MAX_PARTIAL_BYTES: usize = 5 + 16 * 1024 + 2048;
/// Maximum bytes that are encrypted at once. So much is held for a peer that does not read, beyond what the outbox holds.
pub(super) const MAX_WRITE_BYTES: usize = 32 * 1024;
/// More than header, tag, padding and explicit nonce of one record take.
const RECORD_OVERHEAD_BYTES: usize = 64;
const MAX_RECORD_BYTES: usize = 16 * 1024;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// The peer broke a rule of TLS. An alert is queued.
    #[error("{0}")]
    Peer(#[from] Error),
    /// A handshake message is longer than any real one.
    #[error("incomplete record or handshake message above {MAX_PARTIAL_BYTES} bytes")]
    TooLong,
    /// The connection has failed or is closed, or its keys may encrypt nothing more.
    #[error("nothing more can be encrypted")]
    Closed,
}

/// The TLS state of one connection.
pub(super) struct TlsRecords {
    tls: UnbufferedServerConnection,
    /// The start of a record, or of a handshake message. rustls wants to see it again with what follows.
    partial: Vec<u8>,
    has_peer_closed: bool,
    /// Whether the peer has broken a rule. rustls must see nothing more of it: it would queue a second fatal alert.
    has_failed: bool,
}

impl TlsRecords {
    /// Creates the state of a connection before its handshake.
    pub(super) fn new(tls: UnbufferedServerConnection) -> Self {
        Self { tls, partial: Vec::new(), has_peer_closed: false, has_failed: false }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// How the handshake was done; `None` before it.
    pub(super) fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.tls.handshake_kind()
    }

    /// The certificate of the client and those of its issuers, if it was asked for one.
    pub(super) fn client_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
    }

    /// Returns whether the peer has announced that it sends nothing more (close_notify).
    pub(super) fn has_peer_closed(&self) -> bool {
        self.has_peer_closed
    }

    /// Copies what is kept of an incomplete record to the start of `buffer`. Returns its length. What is read next has to
    /// follow it.
    pub(super) fn copy_partial(&self, buffer: &mut [u8]) -> usize {
        buffer[..self.partial.len()].copy_from_slice(&self.partial);
        self.partial.len()
    }

    /// Memory that is kept for an incomplete record.
    #[cfg(test)]
    pub(super) fn partial_capacity(&self) -> usize {
        self.partial.capacity()
    }

    /// Handles the records in `incoming`, which begins with what [`TlsRecords::copy_partial`] has copied. Passes decrypted
    /// bytes to `received`, and appends to `outgoing` what has to be sent: messages of the handshake, and alerts.
    pub(super) fn receive(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut BytesMut,
        mut received: impl FnMut(&[u8]),
    ) -> Result<(), TlsError> {
        if self.has_failed {
            return Err(TlsError::Closed);
        }
        let mut processed = 0;
        loop {
            let is_idle = {
                let status = self.tls.process_tls_records(&mut incoming[processed..]);
                processed += status.discard;
                match status.state {
                    Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                        while let Some(record) = traffic.next_record() {
                            let record = record?;
                            processed += record.discard;
                            received(record.payload);
                        }
                        Ok(false)
                    }
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        encode(&mut data, outgoing);
                        Ok(false)
                    }
                    Ok(ConnectionState::TransmitTlsData(data)) => {
                        data.done();
                        Ok(false)
                    }
                    Ok(ConnectionState::PeerClosed) => {
                        self.has_peer_closed = true;
                        Ok(false)
                    }
                    Ok(_) => Ok(true),
                    Err(error) => Err(error),
                }
            };
            match is_idle {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    self.fail(outgoing);
                    return Err(error.into());
                }
            }
        }
        let rest = &incoming[processed..];
        self.partial = if self.has_peer_closed { Vec::new() } else { rest.to_vec() };
        if self.partial.len() > MAX_PARTIAL_BYTES {
            self.fail(outgoing);
            return Err(TlsError::TooLong);
        }
        Ok(())
    }

    /// Encrypts the first bytes of `slices`, at most [`MAX_WRITE_BYTES`], and appends the records to `outgoing`. `joined` is a
    /// buffer of the caller. Returns how many bytes it has taken.
    pub(super) fn encrypt(
        &mut self,
        slices: &[IoSlice<'_>],
        joined: &mut Vec<u8>,
        outgoing: &mut BytesMut,
    ) -> Result<usize, TlsError> {
        let plaintext = match slices {
            [one] => &one[..one.len().min(MAX_WRITE_BYTES)],
            // One record for many small frames: each record costs 22 bytes and a run of the cipher.
            many => {
                join(many, joined);
                &joined[..]
            }
        };
        let records = plaintext.len().div_ceil(MAX_RECORD_BYTES).max(1);
        let room = plaintext.len() + records * RECORD_OVERHEAD_BYTES;
        self.write(outgoing, room, |traffic, room| traffic.encrypt(plaintext, room))?;
        Ok(plaintext.len())
    }

    /// Appends the announcement that nothing more is sent (close_notify) to `outgoing`.
    pub(super) fn close(&mut self, outgoing: &mut BytesMut) -> Result<(), TlsError> {
        self.write(outgoing, RECORD_OVERHEAD_BYTES, |traffic, room| traffic.queue_close_notify(room))
    }

    /// Appends what `write` writes. Calls it again if it asks for more room than `room` bytes: a key update may come first.
    fn write(
        &mut self,
        outgoing: &mut BytesMut,
        room: usize,
        mut write: impl FnMut(
            &mut WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsError> {
        while !self.has_failed {
            // With the incomplete record, because rustls may have seen a part of it. It never gets a whole one here: those
            // have been received.
            match self.tls.process_tls_records(&mut self.partial).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let start = outgoing.len();
                    let mut room = room;
                    let written = loop {
                        outgoing.resize(start + room, 0);
                        match write(&mut traffic, &mut outgoing[start..]) {
                            Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                                room = size.required_size;
                            }
                            written => break written,
                        }
                    };
                    outgoing.truncate(start + written.as_ref().copied().unwrap_or(0));
                    return written.map(drop).map_err(|_| TlsError::Closed);
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.has_peer_closed = true,
                _ => break,
            }
        }
        Err(TlsError::Closed)
    }

    /// Ends the connection. Appends the alert that rustls has queued.
    fn fail(&mut self, outgoing: &mut BytesMut) {
        (self.has_failed, self.partial) = (true, Vec::new());
        while self.tls.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) = self.tls.process_tls_records(&mut []).state
        {
            encode(&mut data, outgoing);
        }
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, outgoing: &mut BytesMut) {
    let start = outgoing.len();
    // Without room it says how much it needs.
    while let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut outgoing[start..]) {
        outgoing.resize(start + size.required_size, 0);
    }
}

fn join(slices: &[IoSlice<'_>], joined: &mut Vec<u8>) {
    joined.clear();
    for slice in slices {
        joined.extend_from_slice(&slice[..slice.len().min(MAX_WRITE_BYTES - joined.len())]);
    }
}
