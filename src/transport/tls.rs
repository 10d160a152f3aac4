//! TLS over a TCP connection. Records are read into, and encrypted into, buffers that all connections of a thread share; a
//! connection has a buffer of its own only while a record is incomplete, or while the peer does not read.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix_rt::net::{ActixStream, Ready};
use bytes::{Buf, BytesMut};
use rustls::{HandshakeKind, ServerConfig, server::UnbufferedServerConnection};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    AcceptedConnection, KernelSocket, Socket,
    tls_records::{TlsError, TlsRecords},
};

/// Maximum bytes of one read, together with an incomplete record before them.
const READ_BUFFER_BYTES: usize = 32 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER_BYTES]);
    static WRITE_BUFFER: RefCell<WriteBuffer> = RefCell::default();
}

/// What a write needs for the moment.
#[derive(Default)]
struct WriteBuffer {
    /// Frames for one record.
    joined: Vec<u8>,
    records: BytesMut,
}

/// A TLS connection after its handshake.
pub struct TlsSocket {
    connection: AcceptedConnection,
    records: TlsRecords,
    /// Decrypted bytes that did not fit into the buffer of the reader.
    plaintext: BytesMut,
    /// Records that the kernel has not accepted yet.
    outgoing: BytesMut,
    has_sent_close: bool,
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl TlsSocket {
    /// Does the handshake. Has no timeout.
    ///
    /// # Errors
    /// The connection ended, or its client does not speak TLS, or nothing that `config` permits.
    pub async fn accept(connection: AcceptedConnection, config: Arc<ServerConfig>) -> io::Result<Self> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let (plaintext, outgoing) = (BytesMut::new(), BytesMut::new());
        let mut socket = Self { connection, records: TlsRecords::new(tls), plaintext, outgoing, has_sent_close: false };
        std::future::poll_fn(|cx| socket.poll_handshake(cx)).await?;
        Ok(socket)
    }

    /// The TCP connection with the address of its client.
    pub fn connection(&self) -> &AcceptedConnection {
        &self.connection
    }

    /// Returns whether the handshake resumed an earlier session of the client.
    pub fn is_resumed(&self) -> bool {
        self.records.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.records.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(cx, None))?;
        }
    }

    /// Reads once from the connection and handles the records. Decrypted bytes go into `buffer`, and what does not fit into
    /// `plaintext`.
    fn poll_receive(&mut self, cx: &mut Context<'_>, mut buffer: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<()>> {
        let is_idle = self.outgoing.is_empty();
        let Self { connection, records, plaintext, outgoing, .. } = self;
        let received = READ_BUFFER.with_borrow_mut(|read_buffer| {
            let partial = records.copy_partial(read_buffer);
            let mut read = ReadBuf::new(read_buffer);
            read.set_filled(partial);
            ready!(Pin::new(connection).poll_read(cx, &mut read))?;
            if read.filled().len() == partial {
                // Without the announcement of TLS that all has been sent.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let received = records.receive(read.filled_mut(), outgoing, |bytes| {
                let mut rest = bytes;
                if let Some(buffer) = &mut buffer {
                    let fits = rest.len().min(buffer.remaining());
                    buffer.put_slice(&rest[..fits]);
                    rest = &rest[fits..];
                }
                plaintext.extend_from_slice(rest);
            });
            Poll::Ready(received.map_err(io::Error::from))
        });
        // Alerts leave at once if they can: after an error nothing else would send them. Without a waker, since that of the
        // task that writes must stay registered. What waited before is left to that task: it may no longer be sent, because
        // the token has ended.
        while is_idle
            && !self.outgoing.is_empty()
            && let Ok(sent @ 1..) = self.connection.kernel_socket().try_write(&self.outgoing)
        {
            self.remove_sent(sent);
        }
        received
    }

    /// Sends the records that wait. Ready when the kernel has accepted all of them.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.connection).poll_write(cx, &self.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.remove_sent(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn remove_sent(&mut self, sent: usize) {
        self.outgoing.advance(sent);
        if self.outgoing.is_empty() {
            self.outgoing = BytesMut::new();
        }
    }
}

impl Drop for TlsSocket {
    /// Answers the peer's announcement that it sends nothing more, if nothing else has.
    fn drop(&mut self) {
        let may_answer = self.records.has_peer_closed() && !self.has_sent_close && self.outgoing.is_empty();
        if may_answer && self.records.close(&mut self.outgoing).is_ok() {
            let _ = self.connection.kernel_socket().try_write(&self.outgoing);
        }
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buffer.filled().len();
        while this.plaintext.is_empty() && !this.records.has_peer_closed() && buffer.remaining() > 0 {
            ready!(this.poll_receive(cx, Some(&mut *buffer)))?;
            if buffer.filled().len() > filled {
                return Poll::Ready(Ok(()));
            }
        }
        let count = this.plaintext.len().min(buffer.remaining());
        buffer.put_slice(&this.plaintext.split_to(count));
        if this.plaintext.is_empty() {
            this.plaintext = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// Encrypts only when everything before has been sent, so that a connection never holds more than one write.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        WRITE_BUFFER.with_borrow_mut(|WriteBuffer { joined, records }| {
            records.clear();
            let taken = this.records.encrypt(slices, joined, records)?;
            let mut sent = 0;
            while sent < records.len() {
                match Pin::new(&mut this.connection).poll_write(cx, &records[sent..])? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(count) => sent += count,
                    Poll::Pending => {
                        this.outgoing.extend_from_slice(&records[sent..]);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_sent_close {
            this.has_sent_close = true;
            this.records.close(&mut this.outgoing)?;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.connection).poll_shutdown(cx)
    }
}

impl ActixStream for TlsSocket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.connection, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.connection, cx)
    }
}

impl Socket for TlsSocket {
    fn kernel_socket(&self) -> KernelSocket<'_> {
        self.connection.kernel_socket()
    }

    fn buffered_bytes(&self) -> usize {
        self.outgoing.len()
    }

    fn client_certificates(&self) -> &[CertificateDer<'static>] {
        self.records.client_certificates()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{
        FutureExt,
        future::{join, try_join},
    };
    use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
    use rustls_pki_types::PrivateKeyDer;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::transport::tls_records::MAX_WRITE_BYTES;

    type Client = tokio_rustls::client::TlsStream<TcpStream>;

    async fn connected() -> (Client, TlsSocket) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (made.cert.der().clone(), PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let server =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![cert.clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let accepted = TlsSocket::accept(AcceptedConnection::new(accepted, Some(peer)), Arc::new(server));
        let (client, server) = join(connector.connect("localhost".try_into().unwrap(), tcp), accepted).await;
        (client.unwrap(), server.unwrap())
    }

    fn owned_bytes(socket: &TlsSocket) -> usize {
        socket.plaintext.capacity() + socket.outgoing.capacity() + socket.records.partial_capacity()
    }

    #[actix_rt::test]
    async fn idle_connection_owns_no_buffer() {
        let (mut client, mut server) = connected().await;
        for bytes in [1, 100, 20_000] {
            let (mut there, mut back) = (vec![1; bytes], vec![2; bytes]);
            try_join(client.write_all(&there.clone()), server.read_exact(&mut there)).await.unwrap();
            try_join(server.write_all(&back.clone()), client.read_exact(&mut back)).await.unwrap();
            assert_eq!((owned_bytes(&server), there, back), (0, vec![1; bytes], vec![2; bytes]));
        }
        // The state of rustls and the connection: one allocation of the size class of 1,280 bytes.
        assert!(size_of::<TlsSocket>() <= 1280, "{}", size_of::<TlsSocket>());
    }

    #[actix_rt::test]
    async fn small_reads_get_large_records_in_parts() {
        let (mut client, mut server) = connected().await;
        let sent: Vec<u8> = (0..10_000_u32).map(|number| number as u8).collect();
        client.write_all(&sent).await.unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 7];
        while received.len() < sent.len() {
            let count = server.read(&mut buffer).await.unwrap();
            received.extend_from_slice(&buffer[..count]);
        }
        assert_eq!((received == sent, owned_bytes(&server)), (true, 0));
    }

    #[actix_rt::test]
    async fn peer_that_does_not_read_is_held_one_write_which_counts_as_buffered() {
        let (mut client, mut server) = connected().await;
        let data = vec![3; 60_000];
        let mut sent = 0;
        // Ends when the kernel accepts nothing more.
        while let Some(written) = server.write(&data).now_or_never() {
            sent += written.unwrap();
        }
        let held = server.buffered_bytes();
        assert!((1..=MAX_WRITE_BYTES + 100).contains(&held), "{held}");
        // Reading sends nothing of it: only the owner knows whether it may still be sent.
        let mut received = vec![0; sent];
        client.read_exact(&mut received[..sent / 2]).await.unwrap();
        client.write_all(b"?").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        assert_eq!(server.buffered_bytes(), held);
        try_join(server.flush(), client.read_exact(&mut received[sent / 2..])).await.unwrap();
        assert_eq!((owned_bytes(&server), received.iter().all(|byte| *byte == 3)), (0, true));
    }
}
