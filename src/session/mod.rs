//! One connection: an actor on the socket itself. It reads messages as a stream, decides who speaks ([`command`]), and asks
//! hub and broker. Everything it does for one client is in the order in which the client asked; what has to be waited for
//! is waited for here, and the client's next message with it.

mod command;
mod pace;
mod speaker;

use std::{rc::Rc, sync::Arc};

use actix::prelude::*;
use actix_web_actors::ws::Frame;
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use self::{
    command::{Inbox, Standing},
    pace::{Haste, Pace},
    speaker::Speaker,
};
use crate::{
    address::Address,
    auth::{Admission, Entrance, Permissions, Refusal, Verifier},
    broker::SharedBroker,
    clock::{Clock, NEVER},
    config::Config,
    hub::{Cease, Hub, Instruct, KeepAlive, Leave, Register, SessionKey, Unregister},
    metrics::Metrics,
    protocol::{Disconnect, Format, Push, Reply, frame},
    seats::{KeyedSeat, KeyedSeats, Seat},
    transport::{Backlog, Bounds, Inbound, Outbox, Refused, Socket, Violation},
};

/// What the sessions of one worker share.
pub struct Services {
    /// The hub of this thread.
    pub hub: Addr<Hub>,
    /// Takes publications.
    pub broker: SharedBroker,
    /// Judges tokens.
    pub verifier: Arc<Verifier>,
    /// Judges channels.
    pub permissions: Arc<Permissions>,
    /// Connections of each user.
    pub users: Arc<KeyedSeats<Arc<str>>>,
    /// The wall clock.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is configured.
    pub config: Arc<Config>,
    /// This instance's id, told to clients.
    pub node: Arc<str>,
}

/// The actor.
pub struct Session {
    key: SessionKey,
    client: Uuid,
    outbox: Arc<Outbox>,
    format: Format,
    /// It is kept alive by native pings, however it speaks.
    has_native_pings: bool,
    services: Rc<Services>,
    speaker: Speaker,
    /// Commands that came and are not done yet.
    inbox: Inbox,
    /// Pieces of nonsense so far.
    errors: u32,
    /// How fast it may ask, and publish.
    paces: (Pace, Pace),
    /// Some subscription has something to show to others beside its publications.
    has_subscription_info: bool,
    /// Boxed, since few connections wait and all would pay for it.
    waiting: Option<Box<(Seat, KeyedSeat<Address>)>>,
    user: Option<KeyedSeat<Arc<str>>>,
    _seats: (Seat, KeyedSeat<Address>),
}

/// Starts a session on a socket that has switched protocols. `read` is what came right behind the handshake.
pub fn start(socket: impl Socket, read: BytesMut, admission: Admission, services: Rc<Services>) {
    let bounds = Bounds::from(&*services.config);
    // An error here is a client that has gone already.
    let Ok(outbox) = Outbox::new(socket, &bounds) else { return };
    Session::create(|ctx| {
        ctx.add_stream(Inbound::new(outbox.clone(), read, bounds));
        Session {
            key: SessionKey::unique(),
            client: Uuid::new_v4(),
            outbox,
            format: admission.format,
            has_native_pings: admission.has_native_pings,
            services,
            speaker: match admission.entrance {
                Entrance::Somebody(claims) => Speaker::Plain(claims),
                Entrance::Nobody => Speaker::Nobody,
                Entrance::Rejected(refusal) => Speaker::Rejected { is_expired: refusal == Refusal::Expired },
            },
            paces: Default::default(),
            has_subscription_info: false,
            inbox: Inbox::default(),
            errors: 0,
            waiting: admission.waiting.map(Box::new),
            user: admission.user,
            _seats: (admission.seat, admission.address),
        }
    });
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let expires_at = self.speaker.claims().map_or(NEVER, |claims| claims.expires_at);
        let (outbox, format, keep_alive) = (self.outbox.clone(), self.format, self.keep_alive());
        outbox.expire_at(expires_at);
        let user = self.speaker.claims().map(|claims| claims.user.clone());
        let (client, session) = (self.client, ctx.address().recipient());
        let register = Register { key: self.key, outbox, format, keep_alive, expires_at, user, client, session };
        self.services.hub.do_send(register);
        match self.speaker {
            Speaker::Rejected { is_expired: true } => self.close(&Disconnect::EXPIRED_TOKEN),
            Speaker::Rejected { is_expired: false } => self.close(&Disconnect::INVALID_TOKEN),
            Speaker::Plain(_) | Speaker::Sdk(_) => {
                let done = self.say_hello(Standing::AsBefore);
                self.carry_on(done, ctx);
            }
            Speaker::Nobody | Speaker::Gone => {}
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.outbox.abandon();
        self.services.hub.do_send(Unregister(self.key));
    }
}

impl StreamHandler<Result<Frame, Violation>> for Session {
    fn handle(&mut self, item: Result<Frame, Violation>, ctx: &mut Self::Context) {
        if self.has_expired() {
            return self.close(&Disconnect::EXPIRED);
        }
        match item {
            Ok(Frame::Text(message)) if self.format == Format::Json => {
                self.inbox.take(message);
                self.proceed(ctx);
            }
            Ok(Frame::Binary(message)) if self.format == Format::Protobuf => {
                self.inbox.take(message);
                self.proceed(ctx);
            }
            Ok(Frame::Text(_) | Frame::Binary(_) | Frame::Continuation(_)) if self.hurry() == Haste::Flood => {
                self.close(&Disconnect::TOO_MANY_REQUESTS);
            }
            Ok(Frame::Text(_) | Frame::Binary(_) | Frame::Continuation(_)) => {
                self.nonsense(&Disconnect::INAPPROPRIATE_PROTOCOL);
                self.flush();
            }
            // Who does not read what it asked for is not answered: only the latest ping needs a pong (RFC 6455 §5.5.3).
            Ok(Frame::Ping(_)) if self.outbox.is_full() => {}
            Ok(Frame::Ping(_)) if self.hurry() == Haste::Flood => self.close(&Disconnect::TOO_MANY_REQUESTS),
            Ok(Frame::Ping(payload)) => {
                self.send(frame::pong(&payload));
                self.flush();
            }
            Ok(Frame::Pong(_)) => self.outbox.note_answer(),
            Ok(Frame::Close(reason)) => {
                let code = reason.map(|reason| reason.code.into());
                self.leave([frame::close(code, "")], Backlog::Send);
            }
            Err(violation) => {
                self.services.metrics.count_close(violation.code());
                log::debug!("client {}: {violation}, closed {}", self.client, violation.code());
                self.leave([frame::close(Some(violation.code()), &violation.to_string())], Backlog::Send);
            }
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Instruct> for Session {
    type Result = ();

    fn handle(&mut self, instruct: Instruct, ctx: &mut Self::Context) {
        match instruct {
            Instruct::Renew { expires_at, info } => {
                self.renew(expires_at, info);
                self.flush();
            }
            Instruct::Receive(given) => {
                let done = self.receive(*given);
                self.carry_on(done, ctx);
            }
            Instruct::Cease(channel) => self.services.hub.do_send(Cease { key: self.key, channel }),
        }
    }
}

impl Session {
    /// One more thing that the client asks for.
    fn hurry(&mut self) -> Haste {
        self.paces.0.take(self.services.config.limits.commands_per_second)
    }

    /// Whether the token's time is over: nothing the client says counts any more.
    fn has_expired(&self) -> bool {
        self.speaker.claims().is_some_and(|claims| self.services.clock.now() >= claims.expires_at)
    }

    /// Queues a frame for the client.
    fn send(&mut self, frame: Bytes) {
        match self.outbox.push(self.services.clock.now(), frame) {
            Ok(_) | Err(Refused::Closing) => {}
            Err(Refused::Expired) => self.close(&Disconnect::EXPIRED),
            Err(Refused::Slow) => self.close(&Disconnect::SLOW),
        }
    }

    fn reply(&mut self, id: u32, reply: &Reply<'_>) {
        self.send(self.format.reply(id, reply));
    }

    fn push(&mut self, push: &Push<'_>) {
        self.send(self.format.push(push));
    }

    fn keep_alive(&self) -> KeepAlive {
        match self.speaker.keep_alive() {
            KeepAlive::EmptyReply if self.has_native_pings => KeepAlive::Native,
            keep_alive => keep_alive,
        }
    }

    fn flush(&mut self) {
        if self.outbox.flush(&self.services.clock, self.services.clock.now()) == Err(Refused::Expired) {
            self.close(&Disconnect::EXPIRED);
        }
    }

    /// Closes the connection for a reason of ours, and says why.
    fn close(&mut self, disconnect: &Disconnect) {
        if self.speaker.is_gone() || self.outbox.is_closing() {
            return self.silence();
        }
        self.services.metrics.count_close(disconnect.code());
        log::debug!("client {}: closed {} ({})", self.client, disconnect.code(), disconnect.reason());
        if *disconnect == Disconnect::SLOW {
            // It does not read, so it cannot be told.
            self.outbox.cut();
            return self.silence();
        }
        // What waits was queued before the token's time was over, but it must not leave after.
        let backlog = if *disconnect == Disconnect::EXPIRED { Backlog::Drop } else { Backlog::Send };
        self.leave(self.format.farewell(disconnect), backlog);
    }

    fn leave(&mut self, last: impl IntoIterator<Item = Bytes>, backlog: Backlog) {
        self.outbox.close(last, backlog, &self.services.clock);
        self.silence();
    }

    /// Nothing more is taken from the client; the hub cuts the connection if it does not go.
    fn silence(&mut self) {
        self.speaker = Speaker::Gone;
        self.inbox = Inbox::default();
        self.waiting = None;
        self.services.hub.do_send(Leave(self.key));
    }
}
