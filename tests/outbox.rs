//! The outbox alone, on a real socket: its limit, the order of frames, the ways to close it, and expiry.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use wardcast::{
    clock::{Clock, WallTime},
    config::Config,
    metrics::Metrics,
    revocation::Revocations,
    transport::{ClosePolicy, FlushOutcome, KernelSocket, Outbox, PushError, Socket, TransportLimits, WriteGate},
};

use crate::support::PATIENCE;

const LIMIT: usize = 100_000;

struct OutboxAndPeer {
    outbox: Arc<Outbox>,
    peer: TcpStream,
    clock: Clock,
}

async fn outbox_and_peer() -> OutboxAndPeer {
    outbox_on(|socket| socket).await
}

async fn outbox_on<S: Socket>(wrap: impl FnOnce(TcpStream) -> S) -> OutboxAndPeer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let limits = TransportLimits {
        message_bytes: 1,
        message_fragments: 1,
        outbox_bytes: LIMIT,
        unsent_bytes: 16 * 1024,
        unacknowledged_timeout: Duration::from_secs(30),
    };
    OutboxAndPeer { outbox: Outbox::new(wrap(server), &limits).unwrap(), peer, clock: Clock::default() }
}

impl OutboxAndPeer {
    fn now(&self) -> WallTime {
        self.clock.now()
    }

    /// The time that many seconds from now.
    fn time_in(&self, seconds: u64) -> WallTime {
        self.now().saturating_add(Duration::from_secs(seconds))
    }

    fn push(&self, bytes: usize) -> Result<(), PushError> {
        self.outbox.push(self.now(), vec![b'x'; bytes].into())
    }

    fn flush(&self) -> Result<FlushOutcome, PushError> {
        self.outbox.flush(&self.clock, self.now())
    }

    /// Pushes and flushes until the socket accepts no more; returns how many bytes the outbox has accepted.
    fn fill(&self) -> usize {
        let mut accepted = 0;
        loop {
            self.push(LIMIT / 4).unwrap();
            accepted += LIMIT / 4;
            if self.flush() == Ok(FlushOutcome::Pending) {
                return accepted;
            }
        }
    }

    /// Reads everything that the peer receives until the connection ends.
    async fn read_until_close(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        // A reset ends the connection too.
        let _ = timeout(PATIENCE, self.peer.read_to_end(&mut read)).await.expect("an end");
        read
    }
}

#[actix_rt::test]
async fn queued_frames_arrive_in_order() {
    let mut pair = outbox_and_peer().await;
    let expected: Vec<u8> = (0..500_u32).flat_map(u32::to_be_bytes).collect();
    for number in 0..500_u32 {
        let pushed = pair.outbox.push(pair.now(), Bytes::copy_from_slice(&number.to_be_bytes()));
        assert_eq!(pushed, Ok(()));
    }
    assert_eq!(pair.flush(), Ok(FlushOutcome::Done));
    let mut read = vec![0; expected.len()];
    pair.peer.read_exact(&mut read).await.unwrap();
    assert_eq!(read, expected);
}

#[actix_rt::test]
async fn push_over_the_limit_tries_the_socket_before_reporting_slow() {
    let pair = outbox_and_peer().await;
    // Without a flush the socket has room, and the push itself writes to it.
    for _ in 0..8 {
        pair.push(LIMIT / 5).unwrap();
    }
    pair.flush().unwrap();
    let pair = self::outbox_and_peer().await;
    pair.fill();
    let refused = (0..100).find_map(|_| pair.push(LIMIT / 10).err());
    assert_eq!(refused, Some(PushError::Slow));
}

#[actix_rt::test]
async fn queued_frames_are_written_when_peer_resumes_reading() {
    let mut pair = outbox_and_peer().await;
    let accepted = pair.fill();
    let mut read = vec![0; accepted];
    timeout(PATIENCE, pair.peer.read_exact(&mut read)).await.expect("all of it").unwrap();
    // The write task ran on this thread, and has emptied the outbox in the poll that wrote the last byte.
    assert!(pair.outbox.stalled_since().is_none());
}

#[actix_rt::test]
async fn reading_pauses_for_replies_above_the_low_water_mark_and_not_for_publications() {
    let pair = outbox_and_peer().await;
    pair.fill();
    while pair.push(LIMIT / 10).is_ok() {}
    assert!(!pair.outbox.pause_reading(), "publications fill the outbox");

    let mut pair = self::outbox_and_peer().await;
    let mut accepted = pair.fill();
    // The rest of the frames that filled the socket may be below the mark.
    accepted += LIMIT / 4;
    pair.outbox.push_reply(pair.now(), vec![b'x'; LIMIT / 4].into()).unwrap();
    assert!(pair.outbox.pause_reading());
    let mut read = vec![0; accepted];
    timeout(PATIENCE, pair.peer.read_exact(&mut read)).await.expect("all of it").unwrap();
    assert!(!pair.outbox.must_drain());
}

#[actix_rt::test]
async fn outbox_is_stalled_while_the_peer_reads_nothing() {
    let mut pair = outbox_and_peer().await;
    assert_eq!(pair.outbox.stalled_since(), None);
    let accepted = pair.fill();
    let full_since = pair.outbox.stalled_since().expect("a full socket");
    pair.push(LIMIT / 4).unwrap();
    pair.flush().unwrap();
    assert_eq!(pair.outbox.stalled_since(), Some(full_since), "a push is no progress");
    let mut read = vec![0; 1000];
    for _ in 0..(accepted + LIMIT / 4) / read.len() {
        timeout(PATIENCE, pair.peer.read_exact(&mut read)).await.expect("bytes in time").unwrap();
    }
    assert!(pair.outbox.stalled_since().is_none_or(|since| since > full_since), "bytes have left");
}

#[actix_rt::test]
async fn expired_outbox_accepts_and_writes_nothing() {
    let mut pair = outbox_and_peer().await;
    pair.outbox.set_expiry(pair.time_in(60));
    pair.push(10).unwrap();
    pair.clock.advance(Duration::from_secs(60));
    assert_eq!(pair.push(10), Err(PushError::Expired));
    assert_eq!(pair.flush(), Err(PushError::Expired));
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::DropBacklog, &pair.clock);
    assert_eq!(pair.read_until_close().await, b"bye");
}

#[actix_rt::test]
async fn blocked_outbox_writes_nothing_after_expiry_when_peer_resumes_reading() {
    let mut pair = outbox_and_peer().await;
    pair.outbox.set_expiry(pair.time_in(60));
    let accepted = pair.fill();
    pair.clock.advance(Duration::from_secs(60));
    let read = pair.read_until_close().await;
    assert!(read.len() < accepted, "{} of {accepted} arrived", read.len());
}

#[actix_rt::test]
async fn close_that_drops_backlog_writes_nothing_into_a_partial_frame() {
    let mut pair = outbox_and_peer().await;
    pair.fill();
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::DropBacklog, &pair.clock);
    assert!(pair.outbox.is_closing());
    let read = pair.read_until_close().await;
    assert!(read.iter().all(|byte| *byte == b'x'), "the close frame came behind a partial frame");
}

#[actix_rt::test]
async fn close_that_drains_backlog_ends_with_the_close_frame() {
    let mut pair = outbox_and_peer().await;
    let accepted = pair.fill();
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::SendBacklog, &pair.clock);
    assert_eq!(pair.push(1), Err(PushError::Closing));
    let read = pair.read_until_close().await;
    assert_eq!((read.len(), &read[accepted..]), (accepted + 3, &b"bye"[..]));
}

#[actix_rt::test]
async fn closing_outbox_writes_nothing_after_expiry() {
    let mut pair = outbox_and_peer().await;
    pair.outbox.set_expiry(pair.time_in(60));
    let accepted = pair.fill();
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::SendBacklog, &pair.clock);
    pair.clock.advance(Duration::from_secs(60));
    assert!(pair.read_until_close().await.len() < accepted);
}

#[actix_rt::test]
async fn backlog_is_dropped_when_the_session_stops_reading() {
    let mut pair = outbox_and_peer().await;
    let accepted = pair.fill();
    pair.outbox.abort_if_waiting();
    assert!(pair.read_until_close().await.len() < accepted);

    let mut pair = self::outbox_and_peer().await;
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::SendBacklog, &pair.clock);
    pair.outbox.abort_if_waiting();
    assert_eq!(pair.read_until_close().await, b"bye", "the kernel has the whole backlog already");
}

#[actix_rt::test]
async fn small_frames_are_counted_with_their_overhead() {
    let pair = outbox_and_peer().await;
    pair.fill();
    let accepted = (0..LIMIT).take_while(|_| pair.push(2).is_ok()).count();
    assert!(accepted < LIMIT / 90, "{accepted} frames of two bytes in {LIMIT} bytes");
}

#[actix_rt::test]
async fn backlog_of_stalled_peer_is_freed_at_expiry() {
    struct CountedBytes(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for CountedBytes {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for CountedBytes {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let pair = outbox_and_peer().await;
    pair.outbox.set_expiry(pair.time_in(60));
    pair.fill();
    let alive = Arc::new(AtomicUsize::new(0));
    let frame = || {
        alive.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(CountedBytes(vec![0; LIMIT / 20], alive.clone()))
    };
    while pair.outbox.push(pair.now(), frame()).is_ok() {}
    assert!(alive.load(Ordering::Relaxed) > 5, "the outbox holds frames");
    pair.clock.advance(Duration::from_secs(60));
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::DropBacklog, &pair.clock);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "the outbox still holds frames");
}

/// A socket that buffers as TLS does when the kernel takes nothing: writes succeed, but no flush ends.
struct BufferingSocket {
    tcp: TcpStream,
    /// Bytes that it still accepts.
    free_bytes: usize,
    /// Bytes that it holds of those that it has accepted. The kernel has the others.
    held_bytes: usize,
    /// Maximum of `held_bytes`.
    buffer_bytes: usize,
}

impl BufferingSocket {
    fn new(tcp: TcpStream, free_bytes: usize, buffer_bytes: usize) -> Self {
        Self { tcp, free_bytes, held_bytes: 0, buffer_bytes }
    }
}

impl AsyncRead for BufferingSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BufferingSocket {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len().min(self.free_bytes);
        self.free_bytes -= taken;
        self.held_bytes = (self.held_bytes + taken).min(self.buffer_bytes);
        if taken == 0 { Poll::Pending } else { Poll::Ready(Ok(taken)) }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Socket for BufferingSocket {
    fn kernel_socket(&self) -> KernelSocket<'_> {
        KernelSocket::Tcp(&self.tcp)
    }

    fn buffered_bytes(&self) -> usize {
        self.held_bytes
    }
}

#[actix_rt::test]
async fn bytes_buffered_by_tls_count_against_the_limit() {
    let pair = outbox_on(|tcp| BufferingSocket::new(tcp, LIMIT * 6 / 10, usize::MAX)).await;
    pair.push(LIMIT * 6 / 10).unwrap();
    assert_eq!(pair.flush(), Ok(FlushOutcome::Pending));
    assert_eq!(pair.push(LIMIT * 3 / 10), Ok(()));
    assert_eq!(pair.push(LIMIT * 3 / 10), Err(PushError::Slow));
}

#[actix_rt::test]
async fn bytes_that_tls_has_passed_to_the_kernel_no_longer_count() {
    let pair = outbox_on(|tcp| BufferingSocket::new(tcp, usize::MAX, LIMIT / 20)).await;
    for _ in 0..20 {
        pair.push(LIMIT * 3 / 10).unwrap();
        pair.flush().unwrap();
    }
}

#[actix_rt::test]
async fn close_that_drops_backlog_aborts_while_tls_buffers_a_part_of_it() {
    let mut pair = outbox_on(|tcp| BufferingSocket::new(tcp, usize::MAX, usize::MAX)).await;
    // The second push finds no room, and so writes the first frame into the buffer of TLS.
    pair.push(LIMIT * 6 / 10).unwrap();
    pair.push(LIMIT / 2).unwrap_err();
    assert!(pair.outbox.stalled_since().is_none(), "no task waits for the socket");
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::DropBacklog, &pair.clock);
    assert!(pair.outbox.abort_at().is_some());
    assert_eq!(pair.push(1), Err(PushError::Closing));
    assert_eq!(pair.read_until_close().await, b"");
}

#[actix_rt::test]
async fn aborting_close_sends_neither_backlog_nor_close_frame() {
    let mut pair = outbox_and_peer().await;
    pair.push(10).unwrap();
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::Abort, &pair.clock);
    assert!(pair.outbox.is_closing());
    assert_eq!(pair.read_until_close().await, b"");
}

#[actix_rt::test]
async fn close_keeps_its_deadline_and_its_expiry() {
    let pair = outbox_and_peer().await;
    assert_eq!(pair.outbox.abort_at(), None);
    pair.outbox.set_expiry(pair.time_in(60));
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::DropBacklog, &pair.clock);
    let deadline = pair.outbox.abort_at().expect("a deadline");
    let expiry = pair.outbox.expires_at();
    pair.outbox.set_expiry(WallTime::default());
    pair.outbox.close(Bytes::new(), ClosePolicy::Abort, &pair.clock);
    pair.outbox.abort();
    assert_eq!((pair.outbox.abort_at(), pair.outbox.expires_at()), (Some(deadline), expiry));
    assert_eq!(pair.outbox.check_token(pair.time_in(120)), Ok(()), "only an open connection expires");
}

#[actix_rt::test]
async fn revoked_outbox_stays_revoked_when_a_refresh_sets_a_later_expiry() {
    let pair = outbox_and_peer().await;
    pair.push(10).unwrap();
    assert!(pair.outbox.revoke() && !pair.outbox.revoke(), "revoked once");
    pair.outbox.set_expiry(pair.time_in(3600));
    assert_eq!(pair.push(10), Err(PushError::Revoked));
    assert_eq!(pair.flush(), Err(PushError::Revoked));
    assert_eq!(pair.outbox.check_token(pair.now()), Err(PushError::Revoked));
}

/// The connection is closing for another reason, and its client has begun to read again.
#[actix_rt::test]
async fn backlog_of_a_closing_connection_is_dropped_when_its_token_is_revoked() {
    let mut pair = outbox_and_peer().await;
    let accepted = pair.fill();
    pair.outbox.close(Bytes::from_static(b"bye"), ClosePolicy::SendBacklog, &pair.clock);
    assert!(!pair.outbox.revoke(), "it is closing already");
    let received = pair.read_until_close().await.len();
    assert!(received < accepted, "{received} of {accepted} bytes");
}

/// As after a freeze: the session may handle its client's close frame before the hub has loaded the revocations.
#[actix_rt::test]
async fn close_sends_no_publication_while_the_hub_may_lack_revocations() {
    let mut connection = outbox_and_peer().await;
    let clock = connection.clock.clone();
    let revocations = Revocations::new(&Config::default(), clock.clone(), Arc::new(Metrics::default()));
    let _gate = WriteGate::install(revocations.clone(), clock.now());
    revocations.hold();
    connection.outbox.push_publication(clock.now(), "publication".into()).unwrap();
    connection.outbox.close("close".into(), ClosePolicy::SendBacklog, &clock);
    connection.outbox.revoke();
    let mut received = Vec::new();
    let _ = timeout(PATIENCE, connection.peer.read_to_end(&mut received)).await.expect("an end");
    assert_eq!(received, b"");
    let mut other = outbox_and_peer().await;
    other.outbox.push_publication(clock.now(), "publication".into()).unwrap();
    other.outbox.close("close".into(), ClosePolicy::DropBacklog, &clock);
    timeout(PATIENCE, other.peer.read_to_end(&mut received)).await.expect("an end").unwrap();
    assert_eq!(received, b"close", "without the publication it need not wait");
}
