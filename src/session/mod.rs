//! One connection, a WebSocket or an HTTP response that does not end: an actor on the socket itself. It reads messages as a stream, knows who the client is ([`auth_state`],
//! [`claims`]), and handles its commands ([`command`]) with hub and broker. It does so in the order in which the client sent
//! them: while one waits for an answer, the session waits, and the client's next message with it. Subscribe commands that
//! follow each other wait together.

mod auth_state;
mod claims;
mod command;
mod rate_limiter;
mod renewal;
mod send_queue;

use std::{collections::VecDeque, net::IpAddr, rc::Rc, sync::Arc};

use actix::prelude::*;
use actix_web_actors::ws::Frame;
use bytes::{Bytes, BytesMut};
use uuid::Uuid;

pub use self::command::CommandCounters;
use self::{
    auth_state::AuthState,
    claims::ClaimsChange,
    command::{CommandBuffer, SubscribeGroup},
    rate_limiter::{RateLimiter, RateVerdict},
    send_queue::SendQueue,
};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields, AuditLog},
    auth::{
        Admission, ChannelRequest, CommandSource, HandshakeAuth, Permissions, VerificationQueue, Verifier,
        refusal_log::RefusalLog,
    },
    broker::{SharedBroker, UserLimit, UserPermit},
    clock::{Clock, MonotonicTime, NEVER},
    config::{Door, LiveConfig},
    connection_limit::{KeyedPermit, Permit},
    hooks::{ForwardedHeaders, HookRequest, Hooks, events::ReportedSession},
    hub::{
        ApiGrants, AwaitDisconnect, CONNECTION_LOST, CloseReason, ForceUnsubscribe, Hub, KeepAlive, RefusedAttempts,
        Register, ServerApiSubscription, SessionControl, SessionDetails, SessionKey, TokenTakeover, Unregister,
        record_close,
    },
    metrics::Metrics,
    protocol::{Diagnosis, Disconnect, Format, MethodName, Push, Reply, frame},
    transport::{
        ClosePolicy, Inbound, InboundEvent, Outbox, PushError, Socket, StreamInbound, TransportLimits, Violation,
    },
};

/// What all sessions of one worker share.
pub struct Services {
    /// The hub of this thread.
    pub hub: Addr<Hub>,
    /// The broker, for publications, history and presence.
    pub broker: SharedBroker,
    /// Verifies tokens.
    pub verifier: Arc<Verifier>,
    /// When this worker verifies tokens of clients that connect.
    pub verifications: Arc<VerificationQueue>,
    /// Logs refused tokens.
    pub refusals: Arc<RefusalLog>,
    /// The audit log.
    pub audit: Arc<AuditLog>,
    /// Knows the options of channels, and checks what claims allow there.
    pub permissions: Arc<Permissions>,
    /// Backend hooks.
    pub hooks: Arc<Hooks>,
    /// The connections of each user (`limits.connections_per_user`).
    pub user_limit: Arc<UserLimit>,
    /// The clients that were refused last.
    pub refused_attempts: Arc<RefusedAttempts>,
    /// What the server API has subscribed users to.
    pub api_grants: Arc<ApiGrants>,
    /// The clocks.
    pub clock: Clock,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The counters of commands, by method and result.
    pub command_counters: CommandCounters,
    /// The configuration.
    pub config: Arc<LiveConfig>,
    /// The id of this instance, which clients get when they connect.
    pub node: Arc<str>,
}

/// How many controls of the server API may wait for a session, for each channel of `limits.channels_per_session`: one that
/// subscribes it, and one that unsubscribes it.
const CONTROLS_PER_CHANNEL: usize = 2;

/// What a session has whose connection is an HTTP response.
#[derive(Default)]
struct StreamSession {
    /// With this secret the client's requests speak for the session. `None`: the client sends no commands.
    id: Option<Uuid>,
    /// The channel that the session receives, until it has begun.
    channel: Option<Box<ChannelRequest>>,
}

/// The actor of one connection.
pub struct Session {
    key: SessionKey,
    client: Uuid,
    address: IpAddr,
    /// The id of its HTTP request, as long as lines of a log may need it.
    request_id: Option<Box<str>>,
    started_at: MonotonicTime,
    /// The way in which the client has sent a token with its handshake.
    credential: Option<Door>,
    outbox: Arc<Outbox>,
    format: Format,
    /// The headers of the handshake that hooks get.
    hook_headers: ForwardedHeaders,
    /// Native pings keep the connection alive, even of an SDK session.
    has_native_pings: bool,
    /// `None`: a WebSocket. Boxed: most connections are, and all would pay for the memory.
    stream: Option<Box<StreamSession>>,
    services: Arc<Services>,
    auth_state: AuthState,
    /// Raw JSON of the connect hook for the connect push. Boxed: few sessions have any, and all would pay for the memory.
    connect_data: Option<Box<Bytes>>,
    /// The commands that are not handled yet.
    commands: CommandBuffer,
    /// Subscribe commands that are carried out together, as soon as there are no more of them. Boxed: most sessions have none.
    subscribe_group: Option<Box<SubscribeGroup>>,
    /// Subscriptions of the server API with recovery, which wait until the client has read its replies.
    #[expect(clippy::box_collection, reason = "few sessions have any, and all would pay for the memory")]
    recovering_subscriptions: Option<Box<VecDeque<ServerApiSubscription>>>,
    /// `send` commands for the backend. Most sessions send none.
    send_queue: Option<Rc<SendQueue>>,
    /// The method of the command that is being handled, until it is counted.
    handled_method: Option<MethodName>,
    /// Messages so far that were no commands.
    protocol_errors: u32,
    command_rate: RateLimiter,
    publication_rate: RateLimiter,
    /// A subscription has an `info`, which other clients see beside its publications.
    has_subscription_info: bool,
    /// Exists if the hub has a renewer of the session.
    takeover: Option<TokenTakeover>,
    /// Count the connection among the unauthenticated ones. Boxed: few connections are, and all would pay for the memory.
    unauthenticated_permits: Option<Box<(Permit, KeyedPermit<ClientAddress>)>>,
    user_permit: Option<UserPermit>,
    /// Released last: when a connection is no longer counted, it holds no other permit either.
    _permits: (KeyedPermit<ClientAddress>, Permit),
}

/// Starts a session on a socket that has switched protocols, or carries a response that does not end. `read` is what the client
/// sent right after its handshake.
pub fn start(socket: impl Socket, read: BytesMut, mut admission: Admission, services: Arc<Services>) {
    let limits = TransportLimits::from(&**services.config.current());
    // This fails if the client has disconnected already.
    let Ok(outbox) = Outbox::new(socket, &limits) else { return };
    if !admission.head.is_empty() && outbox.push(services.clock.now(), std::mem::take(&mut admission.head)).is_err() {
        return;
    }
    // Not before: what is recorded as let in has a session, whose end is recorded, too.
    admission.record(&services.audit);
    Session::create(|ctx| {
        ctx.set_mailbox_capacity(CONTROLS_PER_CHANNEL * services.config.current().limits.channels_per_session);
        let stream = match std::mem::replace(&mut admission.commands, CommandSource::WebSocket) {
            CommandSource::WebSocket => {
                ctx.add_stream(Inbound::new(outbox.clone(), read, limits, admission.format.is_compressed()));
                None
            }
            CommandSource::Requests(commands) => {
                let id = Some(commands.session_id());
                ctx.add_stream(StreamInbound::new(outbox.clone(), Some(commands), admission.format.is_json()));
                Some(StreamSession { id, channel: None })
            }
            CommandSource::None(channel) => {
                ctx.add_stream(StreamInbound::new(outbox.clone(), None, true));
                Some(StreamSession { id: None, channel: Some(channel) })
            }
        };
        Session::new(admission, outbox, stream, services)
    });
}

impl Actor for Session {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.apply_token_expiry();
        self.report_begin();
        self.flush();
        let (outbox, format, keep_alive) = (self.outbox.clone(), self.format, self.keep_alive());
        let warn_at = self.warn_at();
        let owner = self.auth_state.claims().map(|claims| (claims.user.clone(), claims.token));
        let (client, controls) = (self.client, ctx.address().recipient());
        let details = Box::new(SessionDetails {
            address: self.address,
            connected_at: self.services.clock.now(),
            credential: self.credential,
            software: None,
        });
        let register =
            Register { key: self.key, outbox, format, keep_alive, warn_at, owner, client, details, controls };
        self.services.hub.do_send(register);
        self.update_renewer();
        // Between its verification and now: the hub closes the session only after the frames that have come with its handshake.
        if self.is_revoked() {
            return self.close(CloseReason::REVOKED);
        }
        match self.auth_state.clone() {
            AuthState::Rejected(disconnect) => self.close(&*disconnect),
            AuthState::Plain(_) | AuthState::Sdk(_) => {
                let outcome = match self.take_requested_channel() {
                    Some(request) => self.subscribe_to_requested_channel(*request),
                    None => {
                        let data = self.connect_data.take().map(|data| *data);
                        self.send_connect_push(ClaimsChange::Unchanged, data)
                    }
                };
                self.finish_then_continue(outcome, ctx);
            }
            AuthState::Unauthenticated | AuthState::NeedsNewToken | AuthState::NotApproved => {}
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.outbox.abort_if_waiting();
        self.services.hub.do_send(Unregister(self.key));
    }
}

/// Also runs when the worker ends before its sessions do.
impl Drop for Session {
    fn drop(&mut self) {
        self.report_end();
        let audit = &self.services.audit;
        let Some(claims) = self.auth_state.claims().filter(|_| audit.is_enabled()) else { return };
        let cause = self.outbox.close_cause();
        let fields = AuditFields {
            user: Some(&*claims.user).filter(|user| !user.is_empty()),
            code: cause.as_ref().and_then(|cause| cause.code).map(u32::from),
            reason: Some(cause.as_ref().map_or(CONNECTION_LOST, |cause| &cause.reason)),
            seconds: Some(self.services.clock.monotonic_now().saturating_duration_since(self.started_at)),
            ..self.audit_fields()
        };
        audit.record(AuditEvent::Disconnected, fields);
    }
}

impl StreamHandler<Result<InboundEvent, Violation>> for Session {
    fn handle(&mut self, item: Result<InboundEvent, Violation>, ctx: &mut Self::Context) {
        if let Err(ended) = self.check_token() {
            return self.handle_push_error(ended);
        }
        match item {
            Ok(InboundEvent::Frame(frame)) => self.handle_frame(frame, ctx),
            Ok(InboundEvent::Drained) => self.process_commands(ctx),
            Err(violation) => {
                let (code, reason) = (violation.code(), violation.to_string());
                record_close(self.client, code, &reason, &self.services.metrics);
                self.outbox.note_close_cause(code, &reason);
                self.send_close_frame(self.format.encode_close(code, &reason));
            }
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<SessionControl> for Session {
    type Result = ();

    fn handle(&mut self, control: SessionControl, ctx: &mut Self::Context) {
        match control {
            SessionControl::Refresh { expires_at, info } => {
                self.apply_refresh(expires_at, info);
                self.flush();
            }
            SessionControl::CheckRules => {
                if let Some(claims) = self.auth_state.claims().cloned() {
                    self.end_forbidden_subscriptions(claims);
                }
            }
            SessionControl::WarnOfExpiry(expires_at) => {
                self.warn_of_expiry(expires_at);
                self.flush();
            }
            SessionControl::ApplyRenewal { asked, expires_at, info } => self.apply_renewal(asked, expires_at, info),
            SessionControl::WarnOfSubscriptionExpiry { channel, expires_at } => {
                self.warn_of_subscription_expiry(&channel, expires_at);
                self.flush();
            }
            // It has one channel, and its client would not know the publications of another one apart.
            SessionControl::Subscribe(_) if self.format == Format::ChannelEvents => {}
            SessionControl::Subscribe(subscription) if subscription.since.is_some() => {
                self.queue_recovering_subscription(*subscription);
                self.process_commands(ctx);
            }
            SessionControl::Subscribe(subscription) => {
                let outcome = self.add_server_side_subscription(*subscription);
                self.finish_then_continue(outcome, ctx);
            }
            SessionControl::Unsubscribe(channel) => {
                if let Some(waiting) = &mut self.recovering_subscriptions {
                    waiting.retain(|subscription| subscription.channel != channel);
                }
                self.services.hub.do_send(ForceUnsubscribe { key: self.key, channel })
            }
        }
    }
}

impl Session {
    fn new(admission: Admission, outbox: Arc<Outbox>, stream: Option<StreamSession>, services: Arc<Services>) -> Self {
        // Refusals are on stderr, too. A client that is authenticated has few, and many clients cost memory.
        let is_logged = services.audit.is_enabled() || !matches!(admission.auth, HandshakeAuth::Authenticated(_));
        Self {
            key: SessionKey::unique(),
            client: admission.client,
            address: admission.ip,
            request_id: admission.request_id.filter(|_| is_logged),
            credential: admission.credential,
            started_at: services.clock.monotonic_now(),
            outbox,
            format: admission.format,
            hook_headers: admission.hook_headers,
            has_native_pings: admission.has_native_pings,
            stream: stream.map(Box::new),
            services,
            auth_state: match admission.auth {
                HandshakeAuth::Authenticated(claims) => AuthState::Plain(claims),
                HandshakeAuth::Unauthenticated => AuthState::Unauthenticated,
                HandshakeAuth::Rejected(disconnect) => AuthState::Rejected(Box::new(disconnect)),
            },
            connect_data: admission.connect_data.map(Box::new),
            command_rate: RateLimiter::default(),
            publication_rate: RateLimiter::default(),
            has_subscription_info: false,
            takeover: None,
            commands: CommandBuffer::default(),
            subscribe_group: None,
            recovering_subscriptions: None,
            send_queue: None,
            handled_method: None,
            protocol_errors: 0,
            unauthenticated_permits: admission.unauthenticated_permits.map(Box::new),
            user_permit: admission.user_permit,
            _permits: (admission.address_permit, admission.permit),
        }
    }

    /// Reports the session to the backend once it is authenticated.
    fn report_begin(&self) {
        let (Some(events), Some(claims)) = (&self.services.hooks.events, self.auth_state.claims()) else { return };
        let HookRequest { transport, protocol, .. } = self.hook_request();
        let (client, user, address) = (self.client, &claims.user, self.address);
        events.session_opened(&ReportedSession { client, user, transport, protocol, address });
    }

    /// Reports the end of the session to the backend, if it has reported its begin.
    fn report_end(&self) {
        if let Some(events) = &self.services.hooks.events {
            let cause = self.outbox.close_cause();
            let reason = cause.as_ref().map_or(CONNECTION_LOST, |cause| &cause.reason);
            events.session_ended(self.client, cause.as_ref().and_then(|cause| cause.code), reason);
        }
    }

    /// Returns the id that the client gets of its session. For a stream it is a secret; other clients know the id of a
    /// connection, for instance by presence.
    fn session_id(&self) -> Uuid {
        self.stream.as_ref().and_then(|stream| stream.id).unwrap_or(self.client)
    }

    fn take_requested_channel(&mut self) -> Option<Box<ChannelRequest>> {
        self.stream.as_mut().and_then(|stream| stream.channel.take())
    }

    fn handle_frame(&mut self, frame: Frame, ctx: &mut Context<Self>) {
        match frame {
            Frame::Text(message) if self.format.is_json() => {
                self.commands.fill(message);
                self.process_commands(ctx);
            }
            Frame::Binary(message) if !self.format.is_json() => {
                self.commands.fill(message);
                self.process_commands(ctx);
            }
            Frame::Text(_) | Frame::Binary(_) | Frame::Continuation(_)
                if self.charge_command() == RateVerdict::Flooding =>
            {
                self.close(&Disconnect::TOO_MANY_REQUESTS);
            }
            Frame::Text(_) | Frame::Binary(_) | Frame::Continuation(_) => {
                let format = self.format;
                self.protocol_error(&Disconnect::INAPPROPRIATE_PROTOCOL, || {
                    Diagnosis::without_id(if format.is_json() {
                        "binary message on a JSON connection"
                    } else {
                        "text on a Protobuf connection"
                    })
                });
                self.flush();
            }
            Frame::Ping(payload) => self.answer_ping(frame::encode_pong(&payload)),
            Frame::Pong(_) => self.outbox.note_pong(),
            Frame::Close(reason) => {
                let code = reason.map(|reason| reason.code.into());
                self.outbox.note_close_by_client(code);
                self.send_close_frame(frame::encode_close(code, ""));
            }
        }
    }

    fn answer_ping(&mut self, pong: Bytes) {
        if self.outbox.defer_pong(&pong) {
            return;
        }
        if self.charge_command() == RateVerdict::Flooding {
            return self.close(&Disconnect::TOO_MANY_REQUESTS);
        }
        // A control frame is never compressed (RFC 7692 §5).
        self.queue(pong);
        self.flush();
    }

    /// Counts a command, or a frame of the client that is treated as one.
    fn charge_command(&mut self) -> RateVerdict {
        self.command_rate.charge(self.services.config.current().limits.commands_per_second)
    }

    /// Tells the outbox when the token expires. Session and hub ask the outbox for it.
    fn apply_token_expiry(&self) {
        self.outbox.set_expiry(self.auth_state.claims().map_or(NEVER, |claims| claims.expires_at));
    }

    /// Checks that the token has neither expired nor been revoked. Nothing that the client sends later is handled.
    fn check_token(&self) -> Result<(), PushError> {
        self.outbox.check_token(self.services.clock.now())
    }

    /// Queues a frame of messages for the client, compressed if that was negotiated.
    fn send(&mut self, frame: Bytes) {
        self.queue(self.format.compress(frame));
    }

    fn queue(&mut self, frame: Bytes) {
        if let Err(error) = self.outbox.push_reply(self.services.clock.now(), frame) {
            self.handle_push_error(error);
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
            // A client answers no comment.
            KeepAlive::NativePing if !self.format.is_websocket() => KeepAlive::OneWay,
            keep_alive => keep_alive,
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.outbox.flush(&self.services.clock, self.services.clock.now()) {
            self.handle_push_error(error);
        }
    }

    fn handle_push_error(&mut self, error: PushError) {
        if let Some(reason) = CloseReason::from_push_error(error) {
            self.close(reason);
        }
    }

    /// Closes the connection for a reason of the server.
    fn close<'a>(&mut self, reason: impl Into<CloseReason<'a>>) {
        let Services { clock, metrics, .. } = &*self.services;
        reason.into().close(&self.outbox, self.format, self.client, clock, metrics);
        self.enter_closing();
    }

    /// Closes the connection with a close frame of the WebSocket protocol itself.
    fn send_close_frame(&mut self, frame: Bytes) {
        self.outbox.close(frame, ClosePolicy::SendBacklog, &self.services.clock);
        self.enter_closing();
    }

    /// Drops the client's commands, and has the hub end the subscriptions and abort the connection if its peer does not leave.
    fn enter_closing(&mut self) {
        self.commands = CommandBuffer::default();
        self.subscribe_group = None;
        self.recovering_subscriptions = None;
        self.unauthenticated_permits = None;
        self.services.hub.do_send(AwaitDisconnect(self.key));
    }
}
