//! Decides whether a client may have a session, over a WebSocket or a stream: limits, origin, credentials, and the hooks that are
//! asked before there is a session. Cheap checks come first, so that a client over a limit costs neither a signature verification
//! nor a call of the backend.

use std::{
    borrow::Cow,
    net::IpAddr,
    time::{Duration, Instant},
};

use actix_web::HttpRequest;
use bytes::Bytes;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    HttpContext, HttpError, StopPhase, admin,
    authentication::{Authentication, Handshake, authenticate_handshake, find_credentials, reject_token},
    forwarded,
    handshake::{HandshakeRefusal, refuse},
    login_tokens::refresh_cookie,
    origin_policy::{OriginCheck, record_refusal as record_origin_refusal},
    request_id::id_of,
    stream::SEC_FETCH_SITE,
    ticket::UnusedTicket,
};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
    auth::{
        Admission, Claims, CommandSource, ConnectGrant, HandshakeAuth, TokenError, ask_connect_hook, credentials,
        refusal_log::{OriginRefusal, Refusal},
    },
    broker::UserPermit,
    channel::Channel,
    config::Door,
    connection_limit::{KeyedPermit, Permit},
    hooks::{ForwardedHeaders, HookRefusal, HookRequest, SubscribeApproval},
    hub::RefusedAttempt,
    protocol::Format,
    revocation::TokenIds,
};

/// Time within which a client is decided on. It waits for the turn of its verification, and for the broker, to read and use up a
/// ticket and to count the connections of a user. The hooks that are asked have timeouts of their own.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that may become a session: it is within the limits, its page may connect, and its credential, if it has sent one, is
/// verified.
pub(super) struct Candidate<'a> {
    context: &'a HttpContext,
    client: Uuid,
    ip: IpAddr,
    /// The id of its request.
    request_id: Option<&'a str>,
    door: Option<Door>,
    /// What is left of [`ADMISSION_TIMEOUT`].
    time_left: Duration,
    /// The way in which the client has sent the token with which it is authenticated.
    credential: Option<Door>,
    /// The ticket with which it is authenticated, until that is used up.
    ticket: Option<UnusedTicket>,
    permit: Permit,
    address_permit: KeyedPermit<ClientAddress>,
    user_permit: Option<UserPermit>,
    unauthenticated_permits: Option<(Permit, KeyedPermit<ClientAddress>)>,
    hook_headers: ForwardedHeaders,
    ids: TokenIds,
    connect_data: Option<Bytes>,
    /// The format of the connection.
    pub(super) format: Format,
    /// The result of its authentication.
    pub(super) auth: HandshakeAuth,
    /// The subprotocol with which the handshake is answered.
    pub(super) subprotocol: Option<&'a str>,
}

impl<'a> Candidate<'a> {
    /// Checks a request. The caller sets the format.
    pub(super) async fn examine(
        request: &'a HttpRequest,
        origin_check: OriginCheck,
        protocols: &[&'a str],
        context: &'a HttpContext,
    ) -> Result<Self, HandshakeRefusal> {
        let started = Instant::now();
        let examined = Self::examine_without_limit(request, origin_check, protocols, context);
        let candidate = timeout(ADMISSION_TIMEOUT, examined).await.unwrap_or_else(|_| Err(timeout_refusal()))?;
        Ok(Self { time_left: ADMISSION_TIMEOUT.saturating_sub(started.elapsed()), ..candidate })
    }

    /// Checks as [`Self::examine`] does, however long it takes.
    async fn examine_without_limit(
        request: &'a HttpRequest,
        origin_check: OriginCheck,
        protocols: &[&'a str],
        context: &'a HttpContext,
    ) -> Result<Self, HandshakeRefusal> {
        if context.stop.phase() >= StopPhase::Closing {
            return Err(refuse("stopping", HttpError::stopping()));
        }
        let ip = forwarded::client_address(request.head(), &context.config.current().server);
        let (address, client) = (ClientAddress::from(ip), Uuid::new_v4());
        let source = AuditFields { address: Some(ip), request: id_of(request.head()), ..AuditFields::default() };
        context
            .handshake_rates
            .load()
            .charge(&address)
            .map_err(|wait| refuse("rate", HttpError::too_many("too many handshakes from this address", wait)))?;
        if let Some(refusal) = origin_check.refusal() {
            record_origin_refusal(context, refusal, request.head());
        }
        origin_check.require_allowed().map_err(|error| origin_refusal(origin_check, error))?;
        let address_permit = context
            .address_limit
            .acquire(&address)
            .ok_or_else(|| address_limit_refusal("too many connections of this address"))?;
        let permit = context
            .connection_limit
            .acquire()
            .ok_or_else(|| refuse("full", HttpError::at_capacity("too many connections; try again soon")))?;
        let credentials = find_credentials(request, protocols, &source, context)?;
        let source = AuditFields { door: credentials.door, ..source };
        let hook_headers = collect_hook_headers(request, origin_check, context)?;
        let handshake = Handshake { client, request, source: &source, context };
        let Authentication { auth, ids, ticket } =
            authenticate_handshake(&credentials, origin_check, handshake).await?;
        Ok(Self {
            context,
            client,
            ip,
            request_id: id_of(request.head()),
            door: credentials.door,
            time_left: ADMISSION_TIMEOUT,
            credential: credentials.door.filter(|_| matches!(auth, HandshakeAuth::Authenticated(_))),
            ticket,
            permit,
            address_permit,
            user_permit: None,
            unauthenticated_permits: None,
            hook_headers,
            ids,
            connect_data: None,
            format: Format::default(),
            auth,
            subprotocol: credentials.subprotocol,
        })
    }

    /// Asks the connect hook who a client without a token is, if there is one. Meanwhile the connection counts as unauthenticated.
    pub(super) async fn ask_connect_hook(&mut self) -> Result<(), HandshakeRefusal> {
        let context = self.context;
        let (Some(hook), HandshakeAuth::Unauthenticated) = (&context.hooks.connect, &self.auth) else { return Ok(()) };
        self.unauthenticated_permits = Some(acquire_unauthenticated_permits(&self.ip.into(), context)?);
        let (permissions, config, clock) =
            (context.permissions.clone(), context.config.snapshot(), context.clock.clone());
        let (request, headers) = (self.hook_request(), self.hook_headers.clone());
        match ask_connect_hook(hook.clone(), &request, headers, permissions, config, clock).await {
            Ok(ConnectGrant { claims, data }) => {
                (self.auth, self.connect_data) = (HandshakeAuth::Authenticated(claims), data);
                Ok(())
            }
            Err(HookRefusal::Disconnect(disconnect)) => {
                self.record_hook_refusal(u32::from(disconnect.code()));
                self.auth = HandshakeAuth::Rejected(disconnect);
                Ok(())
            }
            Err(HookRefusal::Error(error)) => {
                self.record_hook_refusal(error.code());
                Err(refuse("hook", HttpError::of_hook_error(&error)).recorded())
            }
        }
    }

    /// Asks the subscribe hook about the channel of a client that sends no commands, after it is counted for its user. Its ticket stays unused
    /// until then: with the same ticket the client can try again after a hook that is temporarily unavailable. Returns `None` for a client that is not authenticated.
    pub(super) async fn ask_subscribe_hook(
        &mut self,
        channel: &Channel,
    ) -> Result<Option<SubscribeApproval>, HandshakeRefusal> {
        let counted = timeout(self.time_left, self.count_for_user()).await;
        counted.unwrap_or_else(|_| Err(timeout_refusal()))?;
        let HandshakeAuth::Authenticated(claims) = &self.auth else { return Ok(None) };
        let hook = self.context.hooks.subscribe.clone().ok_or_else(|| refuse("hook", HttpError::internal()))?;
        let (channel, meta) = (Some(channel.as_str()), claims.meta());
        let request = HookRequest { user: Some(&claims.user), channel, meta, ..self.hook_request() };
        let asked = hook.ask(request.encode(), self.hook_headers.clone()).await;
        asked.map(Some).map_err(|refusal| match refusal {
            HookRefusal::Error(error) => refuse("hook", HttpError::of_hook_error(&error)),
            HookRefusal::Disconnect(disconnect) => refuse("hook", HttpError::forbidden(disconnect.reason().to_owned())),
        })
    }

    fn hook_request(&self) -> HookRequest<'static> {
        HookRequest::of_connection(self.client, self.format.transport(), self.format.name())
    }

    fn record_hook_refusal(&self, code: u32) {
        let (address, client, request) = (Some(self.ip), Some(self.client), self.request_id);
        let source = AuditFields { address, client, request, ..AuditFields::default() };
        self.context.refusals.record_from(Refusal::ConnectHook(code), &source);
    }

    /// Counts an authenticated client for its user, and then uses up its ticket, so that a client over the limit of its user can try
    /// again with it. The token of a ticket that another handshake has used up meanwhile is refused. Does nothing the second time.
    async fn use_credential(&mut self) -> Result<(), HandshakeRefusal> {
        timeout(self.time_left, self.use_credential_without_limit()).await.unwrap_or_else(|_| Err(timeout_refusal()))
    }

    /// Counts an authenticated client for its user. Does nothing the second time.
    async fn count_for_user(&mut self) -> Result<(), HandshakeRefusal> {
        if let HandshakeAuth::Authenticated(claims) = &self.auth
            && self.user_permit.is_none()
        {
            let permit = acquire_user_permit(self.client, claims, &self.ids, &self.source(), self.context).await?;
            self.user_permit = permit;
        }
        Ok(())
    }

    async fn use_credential_without_limit(&mut self) -> Result<(), HandshakeRefusal> {
        self.count_for_user().await?;
        if !matches!(self.auth, HandshakeAuth::Authenticated(_)) {
            return Ok(());
        }
        if !self.use_ticket().await? {
            self.auth = reject_token(TokenError::UnknownTicket, &self.source(), self.context)?;
            (self.credential, self.user_permit) = (None, None);
        }
        Ok(())
    }

    /// Uses up the ticket of the client, if it has one. Returns `false` if another handshake has used it up meanwhile.
    async fn use_ticket(&mut self) -> Result<bool, HandshakeRefusal> {
        let Some(ticket) = self.ticket.take() else { return Ok(true) };
        let owner = match &self.auth {
            HandshakeAuth::Authenticated(claims) => Some((claims.clone(), self.ids.clone())),
            HandshakeAuth::Unauthenticated | HandshakeAuth::Rejected(_) => None,
        };
        ticket.use_up(owner, self.context).await.map_err(|error| refuse("broker", error))
    }

    /// Returns a refusal of this client after its authentication. Uses up its ticket, unless the refusal is temporary.
    pub(super) async fn refuse(mut self, refusal: impl Into<HandshakeRefusal>) -> HandshakeRefusal {
        let refusal = refusal.into();
        if refusal.retry_after().is_some() {
            return refusal;
        }
        match timeout(self.time_left, self.use_ticket()).await {
            Ok(Ok(_)) => refusal,
            Ok(Err(unavailable)) => unavailable,
            Err(_) => timeout_refusal(),
        }
    }

    /// Returns the fields that each line of the audit log about this client has.
    fn source(&self) -> AuditFields<'a> {
        let (address, door, request) = (Some(self.ip), self.door, self.request_id);
        AuditFields { address, door, request, ..AuditFields::default() }
    }

    /// Lets the client in. It counts for its user, or as unauthenticated.
    pub(super) async fn admit(mut self) -> Result<Admission, HandshakeRefusal> {
        self.use_credential().await?;
        let Self { context, client, ip, auth, .. } = self;
        let unauthenticated_permits = match &auth {
            HandshakeAuth::Authenticated(_) => None,
            HandshakeAuth::Unauthenticated | HandshakeAuth::Rejected(_) => {
                let acquired = self.unauthenticated_permits;
                Some(acquired.map_or_else(|| acquire_unauthenticated_permits(&ip.into(), context), Ok)?)
            }
        };
        Ok(Admission {
            client,
            ip,
            request_id: self.request_id.map(Box::from),
            auth,
            ids: self.ids,
            credential: self.credential,
            format: self.format,
            commands: CommandSource::WebSocket,
            head: Bytes::new(),
            connect_data: self.connect_data,
            hook_headers: self.hook_headers,
            has_native_pings: false,
            permit: self.permit,
            address_permit: self.address_permit,
            user_permit: self.user_permit,
            unauthenticated_permits,
        })
    }
}

fn timeout_refusal() -> HandshakeRefusal {
    refuse("timeout", HttpError::unavailable("the handshake took too long; try again soon"))
}

/// Returns the headers of the handshake that hooks get. The browser sends cookies for any page, and passwords that it remembers as
/// `Authorization`: without a listed origin a backend that believes them would serve a page of someone else. Without an origin it
/// is no current browser, unless it says for which page the request is; other clients choose their `Authorization` themselves.
fn collect_hook_headers(
    request: &HttpRequest,
    origin_check: OriginCheck,
    context: &HttpContext,
) -> Result<ForwardedHeaders, HandshakeRefusal> {
    let is_own_client = origin_check == OriginCheck::NoOrigin && !request.headers().contains_key(SEC_FETCH_SITE);
    let is_forwarded = |name: &str| match name {
        _ if origin_check == OriginCheck::Listed => true,
        "cookie" => false,
        "authorization" => is_own_client,
        _ => true,
    };
    let is_withheld = |name: &String| !is_forwarded(name) && request.headers().contains_key(name.as_str());
    if context.hooks.forwarded_headers().iter().any(is_withheld) {
        record_origin_refusal(context, OriginRefusal::ForwardedOfUnlistedOrigin, request.head());
    }
    if context.hooks.forwarded_headers().is_empty() {
        return Ok(ForwardedHeaders::default());
    }
    // The backend does not need the credentials that the hub issues, and with the session of an admin it could act as that admin.
    let refresh_cookie = refresh_cookie(&context.config.current().auth.cookie);
    let is_own = |name: &[u8]| name == refresh_cookie.as_bytes() || admin::is_session_cookie(name);
    let values = |name: &str| {
        let (is_forwarded, has_cookies, is_own) = (is_forwarded(name), name == "cookie", &is_own);
        let sent = request.headers().get_all(name).filter(move |_| is_forwarded).map(|value| value.as_bytes());
        sent.filter_map(move |value| match has_cookies {
            true => credentials::without_cookies(value, is_own),
            false => Some(Cow::Borrowed(value)),
        })
    };
    let collected = context.hooks.collect_headers(values);
    collected.map_err(|error| HttpError::bad_request(error.to_string()).into())
}

fn origin_refusal(origin_check: OriginCheck, error: HttpError) -> HandshakeRefusal {
    refuse(if origin_check == OriginCheck::Denied { "origin" } else { "malformed" }, error).recorded()
}

fn address_limit_refusal(message: &'static str) -> HandshakeRefusal {
    refuse("address", HttpError::too_many_connections(message))
}

/// Acquires a permit of `limits.connections_per_user`, which the other instances may refuse. Sessions without a user need none; they are limited by
/// `limits.connections_per_address`.
async fn acquire_user_permit(
    client: Uuid,
    claims: &Claims,
    ids: &TokenIds,
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<Option<UserPermit>, HandshakeRefusal> {
    if claims.is_anonymous() {
        return Ok(None);
    }
    let permit = match context.user_limit.acquire(&claims.user) {
        Some((permit, verdict)) => verdict.is_allowed().await.then_some(permit),
        None => None,
    };
    permit.map(Some).ok_or_else(|| {
        let message = "too many connections of this user";
        let (at, user, reason) = (context.clock.now(), Box::from(&*claims.user), message.into());
        let attempt = RefusedAttempt { at, client, user, is_signed: true, code: None, reason };
        context.hubs.refused_attempts().note(attempt);
        let fields = AuditFields { reason: Some(message), ..*source };
        context.audit.record(AuditEvent::Refused, fields.with_token(&claims.user, ids, claims.expires_at));
        refuse("user", HttpError::too_many_connections(message)).recorded()
    })
}

fn acquire_unauthenticated_permits(
    address: &ClientAddress,
    context: &HttpContext,
) -> Result<(Permit, KeyedPermit<ClientAddress>), HandshakeRefusal> {
    let address_permit = context.unauthenticated_address_limit.acquire(address);
    let address_permit =
        address_permit.ok_or_else(|| address_limit_refusal("too many connections of this address wait for a token"))?;
    let permit = context.unauthenticated_limit.acquire();
    let permit =
        permit.ok_or_else(|| refuse("full", HttpError::at_capacity("too many connections wait for a token")))?;
    Ok((permit, address_permit))
}
