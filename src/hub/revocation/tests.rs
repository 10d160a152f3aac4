//! Tests of the sessions and subscriptions that a revocation ends or holds, in one hub.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::*;
use crate::{
    broker::{Deliver, memory::MemoryBroker},
    clock::{Clock, NEVER, WallTime},
    config::{Config, KeyRules},
    hub::{
        ExtendSubscription, Hubs, Subscribe, Subscription, SubscriptionOptions, SubscriptionTerms,
        testing::{TestSession, start_hub, start_hub_at, test_hubs, test_hubs_at},
    },
    publication::Publication,
    revocation::{IssuerScope, KeyInUse, KeyNumber, RevocationTarget, TokenIds},
    transport::{KernelSocket, Socket},
};

fn of(target: RevocationTarget) -> Revocation {
    Revocation::of_all(target, NEVER)
}

#[actix_rt::test]
async fn subscription_token_that_is_revoked_between_its_verification_and_the_hub_extends_nothing() {
    let hubs = test_hubs();
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
    let hub = start_hub(&hubs, Arc::new(broker));
    let (session, channel) = (TestSession::connect(&hub).await, Channel::new("news").unwrap());
    let source = |jti: &str| {
        let token = TokenIdentity::new(&TokenIds { jti: Some(jti.to_owned()), ..TokenIds::default() }, None);
        SubscriptionSource::SubscriptionToken(Box::new(SubscriptionTerms {
            expires_at: NEVER,
            warn_at: NEVER,
            info: None,
            token,
        }))
    };
    let subscription = Subscription::new(channel.clone(), source("1"), SubscriptionOptions::default());
    let subscribe = Subscribe { key: session.key, subscriptions: vec![subscription], reply: None };
    hub.send(subscribe).await.unwrap().unwrap();
    hubs.add_revocations(vec![of(RevocationTarget::Token("2".to_owned(), IssuerScope::Any))]).unwrap();
    hub.send(ObeyRevocations).await.unwrap();
    for (jti, extends) in [("2", false), ("3", true)] {
        let extend = ExtendSubscription { key: session.key, channel: channel.clone(), source: source(jti) };
        assert_eq!(hub.send(extend).await.unwrap(), extends, "{jti}");
    }
}

#[actix_rt::test]
async fn revocation_is_answered_when_every_session_is_closed_however_many_there_are() {
    let hubs = test_hubs();
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
    let hub = start_hub(&hubs, Arc::new(broker));
    let mut sessions = Vec::new();
    for _ in 0..300 {
        sessions.push(TestSession::connect(&hub).await);
    }
    hubs.add_revocations(vec![of(RevocationTarget::User("ann".to_owned(), IssuerScope::Any))]).unwrap();
    hub.send(ObeyRevocations).await.unwrap();
    assert!(sessions.iter().all(|session| session.outbox.is_closing()));
}

/// Subscribers whose tokens end together, by `end`, and one whose token does not: when that one receives the next publication,
/// no more of the others may be closed than the time allows. In the end all are.
async fn assert_closed_in_turns(end: impl FnOnce(&Hubs, &[TestSession]), text: &str) {
    const COUNT: usize = 500;
    let (hubs, channel) = (test_hubs(), Channel::new("news").unwrap());
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
    let hub = start_hub(&hubs, Arc::new(broker));
    let mut other = TestSession::connect_as("bob", &hub).await;
    other.subscribe(&channel, &hub).await;
    let mut sessions = Vec::new();
    for _ in 0..COUNT {
        let session = TestSession::connect(&hub).await;
        session.subscribe(&channel, &hub).await;
        sessions.push(session);
    }
    let started = Instant::now();
    end(&hubs, &sessions);
    hubs.deliver_publication(Publication::new(channel, "1".into())).unwrap();
    other.read_until("\"pub\"").await;
    let closed = sessions.iter().filter(|session| session.outbox.is_closing()).count();
    let bound = 32 + COUNT * started.elapsed().as_millis() as usize / 500 + 1;
    assert!(closed <= bound, "{closed} of {bound}");
    hub.send(ObeyRevocations).await.unwrap();
    assert!(sessions.iter().all(|session| session.outbox.is_closing()) && !other.outbox.is_closing());
    let received = sessions[COUNT - 1].read_until_close().await;
    assert!(received.ends_with(text) && !received.contains("\"pub\""), "{received}");
}

#[actix_rt::test]
async fn publication_does_not_close_all_revoked_subscribers_at_once() {
    let revoke = |hubs: &Hubs, _: &[TestSession]| {
        let ann = of(RevocationTarget::User("ann".to_owned(), IssuerScope::Any));
        hubs.add_revocations(vec![ann]).unwrap();
    };
    assert_closed_in_turns(revoke, "token revoked").await;
}

#[actix_rt::test]
async fn publication_does_not_close_all_expired_subscribers_at_once() {
    let expire = |_: &Hubs, sessions: &[TestSession]| {
        sessions.iter().for_each(|session| session.outbox.set_expiry(WallTime::from_unix_seconds(1)));
    };
    assert_closed_in_turns(expire, "connection expired").await;
}

/// More than are kept as changes, so that the hub checks every session.
#[actix_rt::test]
async fn thousands_of_revocations_at_once_are_all_obeyed() {
    let hubs = test_hubs();
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
    let hub = start_hub(&hubs, Arc::new(broker));
    let sessions = [TestSession::connect(&hub).await, TestSession::connect(&hub).await];
    let user = |name: &str| of(RevocationTarget::User(name.to_owned(), IssuerScope::Any));
    let many = (0..5000).map(|number| of(RevocationTarget::Token(number.to_string(), IssuerScope::Any)));
    hubs.add_revocations([user("bob"), user("ann")].into_iter().chain(many).collect()).unwrap();
    hub.send(ObeyRevocations).await.unwrap();
    for mut session in sessions {
        assert!(session.outbox.is_closing());
        assert!(session.read_until_close().await.ends_with("token revoked"));
    }
    let mut late = TestSession::connect(&hub).await;
    assert!(late.read_until_close().await.ends_with("token revoked"), "verified before, registered after");
}

/// Leaves more sessions to check than a run of the hub can.
#[derive(Message)]
#[rtype(result = "()")]
struct LeaveSessionsToCheck(SessionKey);

impl Handler<LeaveSessionsToCheck> for Hub {
    type Result = ();

    fn handle(&mut self, LeaveSessionsToCheck(key): LeaveSessionsToCheck, _: &mut Self::Context) {
        self.revoked.to_check = std::iter::repeat_n(key, 1_000_000).collect();
    }
}

/// Checks all sessions, as many ticks and calls of the server API may.
#[derive(Message)]
#[rtype(result = "()")]
struct CheckSessions;

impl Handler<CheckSessions> for Hub {
    type Result = ();

    fn handle(&mut self, _: CheckSessions, _: &mut Self::Context) {
        assert!(!self.revoked.to_check.is_empty(), "the fan-out was not held up");
        self.revoked.to_check.truncate(1);
        assert!(self.obey_revocations());
    }
}

#[actix_rt::test]
async fn fan_out_goes_on_if_something_else_checks_the_last_session() {
    let hubs = test_hubs();
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
    let hub = start_hub(&hubs, Arc::new(broker));
    let (mut session, channel) = (TestSession::connect(&hub).await, Channel::new("news").unwrap());
    session.subscribe(&channel, &hub).await;
    // All before the hub continues the checks in a task of its own.
    hub.do_send(LeaveSessionsToCheck(session.key));
    hubs.deliver_publication(Publication::new(channel, "1".into())).unwrap();
    hub.do_send(CheckSessions);
    session.read_until("\"pub\"").await;
}

/// What a tick at this time does.
#[derive(Message)]
#[rtype(result = "()")]
struct EndLongHold(Instant);

impl Handler<EndLongHold> for Hub {
    type Result = ();

    fn handle(&mut self, EndLongHold(now): EndLongHold, ctx: &mut Self::Context) {
        self.end_long_hold(now);
        self.run_revocations(ctx);
    }
}

#[actix_rt::test]
async fn sessions_are_closed_if_the_list_of_revocations_is_missing_for_too_long() {
    let hubs = test_hubs();
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
    let hub = start_hub(&hubs, Arc::new(broker));
    let mut session = TestSession::connect(&hub).await;
    let start = Instant::now();
    let tick = async |after: Duration| hub.send(EndLongHold(start + after)).await.unwrap();
    tick(Duration::ZERO).await;
    tick(MAX_HOLD).await;
    assert!(!session.outbox.is_closing(), "nothing is held");
    for hold in [2, 3] {
        hubs.revocations().hold();
        tick(MAX_HOLD * hold).await;
        hubs.revocations().release();
        tick(MAX_HOLD * hold + MAX_HOLD / 2).await;
    }
    hubs.revocations().hold();
    tick(MAX_HOLD * 4).await;
    assert!(!session.outbox.is_closing(), "held several times, and shortly");
    tick(MAX_HOLD * 5).await;
    assert!(session.read_until_close().await.ends_with("internal server error"));
}

/// Gives a session a token of this key.
#[derive(Message)]
#[rtype(result = "()")]
struct SetKey(SessionKey, KeyNumber);

impl Handler<SetKey> for Hub {
    type Result = ();

    fn handle(&mut self, SetKey(key, number): SetKey, ctx: &mut Self::Context) {
        let token = TokenIdentity { key: Some(number), ..TokenIdentity::default() };
        self.set_owner(key, "ann".into(), token, ctx);
    }
}

/// As after a freeze of the process, when the hub may deliver before its first tick.
#[actix_rt::test]
async fn key_that_has_ended_gets_nothing_that_is_delivered_before_the_next_tick() {
    let (clock, channel) = (Clock::default(), Channel::new("news").unwrap());
    let hubs = test_hubs_at(&clock);
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, Clock::default());
    let hub = start_hub(&hubs, Arc::new(broker));
    let (mut ended, mut other) = (TestSession::connect(&hub).await, TestSession::connect_as("bob", &hub).await);
    let number = KeyNumber::unique();
    let ends = clock.now().saturating_add(Duration::from_secs(3600));
    hubs.revocations().add_keys([KeyInUse { number, rules: KeyRules::default(), ends }]);
    hub.send(SetKey(ended.key, number)).await.unwrap();
    for session in [&ended, &other] {
        session.subscribe(&channel, &hub).await;
    }
    hubs.deliver_publication(Publication::new(channel.clone(), "1".into())).unwrap();
    ended.read_until("\"pub\"").await;
    other.read_until("\"pub\"").await;
    // The hub has no turn between these two.
    clock.advance(Duration::from_secs(3600));
    hubs.deliver_publication(Publication::new(channel, "2".into())).unwrap();
    other.read_until("\"pub\"").await;
    let received = ended.read_until_close().await;
    assert!(received.ends_with("token revoked") && !received.contains("\"pub\""), "{received}");
}

/// A socket behind whose writes the process is frozen: the clock is ahead then.
struct FreezingSocket {
    socket: TcpStream,
    clock: Clock,
}

impl Socket for FreezingSocket {
    fn kernel_socket(&self) -> KernelSocket<'_> {
        self.socket.kernel_socket()
    }

    fn buffered_bytes(&self) -> usize {
        0
    }
}

impl AsyncRead for FreezingSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for FreezingSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.clock.step_forward(Duration::from_secs(10));
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[actix_rt::test]
async fn process_that_is_frozen_between_two_writes_sends_nothing_to_the_session_whose_token_has_expired_meanwhile() {
    let clock = Clock::default();
    let hubs = test_hubs_at(&clock);
    let broker = MemoryBroker::new(hubs.clone(), &Config::default().limits, clock.clone());
    let (hub, channel) = (start_hub_at(&clock, &hubs, Arc::new(broker)), Channel::new("news").unwrap());
    let mut sessions = Vec::new();
    for user in ["ann", "bob"] {
        let wrap = |socket| FreezingSocket { socket, clock: clock.clone() };
        let session = TestSession::connect_over(user, &hub, wrap).await;
        session.subscribe(&channel, &hub).await;
        session.outbox.set_expiry(clock.now().saturating_add(Duration::from_secs(5)));
        sessions.push(session);
    }
    hubs.deliver_publication(Publication::new(channel, "1".into())).unwrap();
    let mut received = 0;
    for session in &mut sessions {
        received += usize::from(session.read_until_close().await.contains("\"pub\""));
    }
    assert_eq!(received, 1, "the other one's token has expired");
}
