//! The outbox by itself, on a real socket: its limit, its order, its ends, and the token's time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use wardcast::{
    clock::{Clock, Millis},
    transport::{Backlog, Bounds, Flushed, Outbox, Pushed, Refused},
};

use crate::support::{PATIENCE, eventually};

const LIMIT: usize = 100_000;

struct Pair {
    outbox: Arc<Outbox>,
    peer: TcpStream,
    clock: Clock,
}

async fn pair() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    let bounds = Bounds {
        message_bytes: 1,
        message_fragments: 1,
        outbox_bytes: LIMIT,
        unsent_bytes: 16 * 1024,
        unacknowledged: Duration::from_secs(30),
    };
    Pair { outbox: Outbox::new(ours, &bounds).unwrap(), peer, clock: Clock::default() }
}

impl Pair {
    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn push(&self, bytes: usize) -> Result<Pushed, Refused> {
        self.outbox.push(self.now(), vec![b'x'; bytes].into())
    }

    fn flush(&self) -> Result<Flushed, Refused> {
        self.outbox.flush(&self.clock, self.now())
    }

    /// Writes until the socket takes no more; how many bytes were taken in all.
    fn fill(&self) -> usize {
        let mut taken = 0;
        loop {
            self.push(LIMIT / 4).unwrap();
            taken += LIMIT / 4;
            if self.flush() == Ok(Flushed::Later) {
                return taken;
            }
        }
    }

    /// Everything the peer gets until the connection ends.
    async fn rest(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        // A reset is an end, too.
        let _ = timeout(PATIENCE, self.peer.read_to_end(&mut read)).await.expect("an end");
        read
    }
}

#[actix_rt::test]
async fn frames_arrive_in_order_however_many_wait() {
    let mut pair = pair().await;
    let expected: Vec<u8> = (0..500_u32).flat_map(u32::to_be_bytes).collect();
    for number in 0..500_u32 {
        let pushed = pair.outbox.push(pair.now(), Bytes::copy_from_slice(&number.to_be_bytes()));
        assert_eq!(pushed, Ok(if number == 0 { Pushed::First } else { Pushed::Behind }));
    }
    assert_eq!(pair.flush(), Ok(Flushed::All));
    let mut read = vec![0; expected.len()];
    pair.peer.read_exact(&mut read).await.unwrap();
    assert_eq!(read, expected);
    assert_eq!(pair.push(1), Ok(Pushed::First), "and it is empty again");
}

#[actix_rt::test]
async fn more_than_the_limit_is_slow_and_the_socket_is_asked_before_that_is_said() {
    let pair = pair().await;
    // Nobody has flushed: the socket has room, and the push itself makes use of it.
    for _ in 0..8 {
        pair.push(LIMIT / 5).unwrap();
    }
    pair.flush().unwrap();
    let pair = self::pair().await;
    pair.fill();
    let refused = (0..100).find_map(|_| pair.push(LIMIT / 10).err());
    assert_eq!(refused, Some(Refused::Slow));
}

#[actix_rt::test]
async fn what_waits_is_written_when_the_peer_reads_on() {
    let mut pair = pair().await;
    let taken = pair.fill();
    let mut read = vec![0; taken];
    timeout(PATIENCE, pair.peer.read_exact(&mut read)).await.expect("all of it").unwrap();
    eventually("the outbox is empty", async || pair.push(1) == Ok(Pushed::First)).await;
}

#[actix_rt::test]
async fn after_its_time_nothing_is_taken_and_nothing_that_waits_is_written() {
    let mut pair = pair().await;
    pair.outbox.expire_at(pair.now() + 60_000);
    pair.push(10).unwrap();
    pair.clock.advance(Duration::from_secs(60));
    assert_eq!(pair.push(10), Err(Refused::Expired));
    assert_eq!(pair.flush(), Err(Refused::Expired));
    pair.outbox.close([Bytes::from_static(b"bye")], Backlog::Drop, &pair.clock);
    assert_eq!(pair.rest().await, b"bye");
}

#[actix_rt::test]
async fn a_blocked_outbox_writes_nothing_more_after_its_time_even_when_the_peer_reads_on() {
    let mut pair = pair().await;
    pair.outbox.expire_at(pair.now() + 60_000);
    let taken = pair.fill();
    pair.clock.advance(Duration::from_secs(60));
    let read = pair.rest().await;
    assert!(read.len() < taken, "{} of {taken} arrived", read.len());
}

#[actix_rt::test]
async fn a_close_that_drops_what_waits_says_nothing_into_the_middle_of_a_frame() {
    let mut pair = pair().await;
    pair.fill();
    pair.outbox.close([Bytes::from_static(b"bye")], Backlog::Drop, &pair.clock);
    assert!(pair.outbox.is_closing());
    let read = pair.rest().await;
    assert!(read.iter().all(|byte| *byte == b'x'), "it is cut instead");
}

#[actix_rt::test]
async fn a_close_that_sends_what_waits_ends_with_the_farewell() {
    let mut pair = pair().await;
    let taken = pair.fill();
    pair.outbox.close([Bytes::from_static(b"bye")], Backlog::Send, &pair.clock);
    assert_eq!(pair.push(1), Err(Refused::Closing));
    let read = pair.rest().await;
    assert_eq!((read.len(), &read[taken..]), (taken + 3, &b"bye"[..]));
}

#[actix_rt::test]
async fn a_closing_outbox_writes_nothing_more_after_its_time_either() {
    let mut pair = pair().await;
    pair.outbox.expire_at(pair.now() + 60_000);
    let taken = pair.fill();
    pair.outbox.close([Bytes::from_static(b"bye")], Backlog::Send, &pair.clock);
    pair.clock.advance(Duration::from_secs(60));
    assert!(pair.rest().await.len() < taken);
}

#[actix_rt::test]
async fn what_waits_for_a_peer_that_nobody_reads_from_any_more_is_dropped() {
    let mut pair = pair().await;
    let taken = pair.fill();
    pair.outbox.abandon();
    assert!(pair.rest().await.len() < taken);

    let mut pair = self::pair().await;
    pair.outbox.close([Bytes::from_static(b"bye")], Backlog::Send, &pair.clock);
    pair.outbox.abandon();
    assert_eq!(pair.rest().await, b"bye", "but not what is with the kernel");
}

#[actix_rt::test]
async fn many_small_frames_are_counted_with_what_they_cost() {
    let pair = pair().await;
    pair.fill();
    let taken = (0..LIMIT).take_while(|_| pair.push(2).is_ok()).count();
    assert!(taken < LIMIT / 90, "{taken} frames of two bytes in {LIMIT} bytes");
}

#[actix_rt::test]
async fn what_waits_for_a_stalled_peer_is_given_back_when_its_time_is_over() {
    struct Kept(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Kept {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let pair = pair().await;
    pair.outbox.expire_at(pair.now() + 60_000);
    pair.fill();
    let alive = Arc::new(AtomicUsize::new(0));
    let frame = || {
        alive.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Kept(vec![0; LIMIT / 20], alive.clone()))
    };
    while pair.outbox.push(pair.now(), frame()).is_ok() {}
    assert!(alive.load(Ordering::Relaxed) > 5, "some wait");
    pair.clock.advance(Duration::from_secs(60));
    pair.outbox.close([Bytes::from_static(b"bye")], Backlog::Drop, &pair.clock);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "nothing is kept for who does not read");
}
