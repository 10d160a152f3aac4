//! One connection: an actor on the socket itself. It reads messages as a stream, decides who speaks ([`command`]), and asks
//! hub and broker. Everything it does for one client is in the order in which the client asked; what has to be waited for
//! is waited for here, and the client's next message with it.

mod auth_state;
mod command;
mod rate_limiter;

use std::{rc::Rc, sync::Arc};

use actix::prelude::*;
use actix_web_actors::ws::Frame;
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use self::{
    auth_state::AuthState,
    command::{ClaimsChange, CommandBuffer},
    rate_limiter::{RateLimiter, RateVerdict},
};
use crate::{
    address::ClientAddress,
    auth::{Admission, HandshakeAuth, Permissions, TokenError, Verifier},
    broker::SharedBroker,
    clock::{Clock, NEVER},
    config::Config,
    connection_limit::{KeyedLimit, KeyedPermit, Permit},
    hub::{BeginClose, ForceUnsubscribe, Hub, KeepAlive, Register, SessionControl, SessionKey, Unregister},
    metrics::Metrics,
    protocol::{Disconnect, Format, Push, Reply, frame},
    transport::{Backlog, Inbound, Outbox, PushError, Socket, TransportLimits, Violation},
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
    pub user_limit: Arc<KeyedLimit<Arc<str>>>,
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
    auth_state: AuthState,
    /// Commands that came and are not done yet.
    commands: CommandBuffer,
    /// Pieces of nonsense so far.
    protocol_errors: u32,
    /// How fast it may ask, and publish.
    command_rate: RateLimiter,
    publication_rate: RateLimiter,
    /// Some subscription has something to show to others beside its publications.
    has_subscription_info: bool,
    /// Boxed, since few connections wait and all would pay for it.
    unauthenticated_permits: Option<Box<(Permit, KeyedPermit<ClientAddress>)>>,
    user_permit: Option<KeyedPermit<Arc<str>>>,
    /// Released last: when a connection is no longer counted, it holds no other permit either.
    _permits: (KeyedPermit<ClientAddress>, Permit),
}

/// Starts a session on a socket that has switched protocols. `read` is what came right behind the handshake.
pub fn start(socket: impl Socket, read: BytesMut, admission: Admission, services: Rc<Services>) {
    let bounds = TransportLimits::from(&*services.config);
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
            auth_state: match admission.auth {
                HandshakeAuth::Authenticated(claims) => AuthState::Plain(claims),
                HandshakeAuth::Unauthenticated => AuthState::Unauthenticated,
                HandshakeAuth::Rejected(refusal) => AuthState::Rejected { is_expired: refusal == TokenError::Expired },
            },
            command_rate: RateLimiter::default(),
            publication_rate: RateLimiter::default(),
            has_subscription_info: false,
            commands: CommandBuffer::default(),
            protocol_errors: 0,
            unauthenticated_permits: admission.unauthenticated_permits.map(Box::new),
            user_permit: admission.user_permit,
            _permits: (admission.address_permit, admission.permit),
        }
    });
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let expires_at = self.auth_state.claims().map_or(NEVER, |claims| claims.expires_at);
        let (outbox, format, keep_alive) = (self.outbox.clone(), self.format, self.keep_alive());
        outbox.set_expiry(expires_at);
        let user = self.auth_state.claims().map(|claims| claims.user.clone());
        let (client, controls) = (self.client, ctx.address().recipient());
        let register = Register { key: self.key, outbox, format, keep_alive, expires_at, user, client, controls };
        self.services.hub.do_send(register);
        match self.auth_state {
            AuthState::Rejected { is_expired: true } => self.close(&Disconnect::EXPIRED_TOKEN),
            AuthState::Rejected { is_expired: false } => self.close(&Disconnect::INVALID_TOKEN),
            AuthState::Plain(_) | AuthState::Sdk(_) => {
                let done = self.send_connect_push(ClaimsChange::Unchanged);
                self.finish_then_continue(done, ctx);
            }
            AuthState::Unauthenticated | AuthState::Closing => {}
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.outbox.abort_if_waiting();
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
                self.commands.fill(message);
                self.process_commands(ctx);
            }
            Ok(Frame::Binary(message)) if self.format == Format::Protobuf => {
                self.commands.fill(message);
                self.process_commands(ctx);
            }
            Ok(Frame::Text(_) | Frame::Binary(_) | Frame::Continuation(_))
                if self.charge_command() == RateVerdict::Flooding =>
            {
                self.close(&Disconnect::TOO_MANY_REQUESTS);
            }
            Ok(Frame::Text(_) | Frame::Binary(_) | Frame::Continuation(_)) => {
                self.protocol_error(&Disconnect::INAPPROPRIATE_PROTOCOL);
                self.flush();
            }
            // Who does not read what it asked for is not answered: only the latest ping needs a pong (RFC 6455 §5.5.3).
            Ok(Frame::Ping(_)) if self.outbox.is_blocked() => {}
            Ok(Frame::Ping(_)) if self.charge_command() == RateVerdict::Flooding => {
                self.close(&Disconnect::TOO_MANY_REQUESTS)
            }
            Ok(Frame::Ping(payload)) => {
                self.send(frame::encode_pong(&payload));
                self.flush();
            }
            Ok(Frame::Pong(_)) => self.outbox.note_pong(),
            Ok(Frame::Close(reason)) => {
                let code = reason.map(|reason| reason.code.into());
                self.close_with([frame::encode_close(code, "")], Backlog::Send);
            }
            Err(violation) => {
                self.services.metrics.count_close(violation.code());
                log::debug!("client {}: {violation}, closed {}", self.client, violation.code());
                self.close_with([frame::encode_close(Some(violation.code()), &violation.to_string())], Backlog::Send);
            }
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<SessionControl> for Session {
    type Result = ();

    fn handle(&mut self, instruct: SessionControl, ctx: &mut Self::Context) {
        match instruct {
            SessionControl::Refresh { expires_at, info } => {
                self.apply_refresh(expires_at, info);
                self.flush();
            }
            SessionControl::Subscribe(given) => {
                let done = self.add_server_side_subscription(*given);
                self.finish_then_continue(done, ctx);
            }
            SessionControl::Unsubscribe(channel) => {
                self.services.hub.do_send(ForceUnsubscribe { key: self.key, channel })
            }
        }
    }
}

impl Session {
    /// One more thing that the client asks for.
    fn charge_command(&mut self) -> RateVerdict {
        self.command_rate.charge(self.services.config.limits.commands_per_second)
    }

    /// Whether the token's time is over: nothing the client says counts any more.
    fn has_expired(&self) -> bool {
        self.auth_state.claims().is_some_and(|claims| self.services.clock.now() >= claims.expires_at)
    }

    /// Queues a frame for the client.
    fn send(&mut self, frame: Bytes) {
        match self.outbox.push(self.services.clock.now(), frame) {
            Ok(_) | Err(PushError::Closing) => {}
            Err(PushError::Expired) => self.close(&Disconnect::EXPIRED),
            Err(PushError::Slow) => self.close(&Disconnect::SLOW),
        }
    }

    fn reply(&mut self, id: u32, reply: &Reply<'_>) {
        self.send(self.format.encode_reply(id, reply));
    }

    fn push(&mut self, push: &Push<'_>) {
        self.send(self.format.encode_push(push));
    }

    fn keep_alive(&self) -> KeepAlive {
        match self.auth_state.keep_alive() {
            KeepAlive::ProtocolPing if self.has_native_pings => KeepAlive::NativePing,
            keep_alive => keep_alive,
        }
    }

    fn flush(&mut self) {
        if self.outbox.flush(&self.services.clock, self.services.clock.now()) == Err(PushError::Expired) {
            self.close(&Disconnect::EXPIRED);
        }
    }

    /// Closes the connection for a reason of ours, and says why.
    fn close(&mut self, disconnect: &Disconnect) {
        if self.auth_state.is_closing() || self.outbox.is_closing() {
            return self.enter_closing();
        }
        self.services.metrics.count_close(disconnect.code());
        log::debug!("client {}: closed {} ({})", self.client, disconnect.code(), disconnect.reason());
        if *disconnect == Disconnect::SLOW {
            // It does not read, so it cannot be told.
            self.outbox.abort();
            return self.enter_closing();
        }
        // What waits was queued before the token's time was over, but it must not leave after.
        let backlog = if *disconnect == Disconnect::EXPIRED { Backlog::Drop } else { Backlog::Send };
        self.close_with(self.format.close_frames(disconnect), backlog);
    }

    fn close_with(&mut self, last: impl IntoIterator<Item = Bytes>, backlog: Backlog) {
        self.outbox.close(last, backlog, &self.services.clock);
        self.enter_closing();
    }

    /// Nothing more is taken from the client; the hub cuts the connection if it does not go.
    fn enter_closing(&mut self) {
        self.auth_state = AuthState::Closing;
        self.commands = CommandBuffer::default();
        self.unauthenticated_permits = None;
        self.services.hub.do_send(BeginClose(self.key));
    }
}
