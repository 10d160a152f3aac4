//! Decides whether a client may have a session, over a WebSocket or a stream: limits, origin, credentials, and the hooks that are
//! asked before there is a session. Cheap checks come first, so that a client over a limit costs neither a signature verification
//! nor a call of the backend.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest,
    http::header::{AUTHORIZATION, COOKIE},
};
use bytes::Bytes;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    HttpContext, HttpError, StopPhase, admin, forwarded,
    handshake::{HandshakeRefusal, refuse},
    login_tokens::refresh_cookie,
    origin_policy::{OriginCheck, record_refusal as record_origin_refusal},
    request_id::id_of,
    stream::SEC_FETCH_SITE,
    ticket::redeem_ticket,
};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
    auth::{
        Admission, CONNECT_HOOK, Claims, CommandSource, ConnectGrant, HandshakeAuth, TokenError, ask_connect_hook,
        credentials::{self, Credential, CredentialError, HandshakeCredentials},
        refusal_log::{OriginRefusal, Refusal},
    },
    broker::UserPermit,
    channel::Channel,
    config::{Door, RejectMode},
    connection_limit::{KeyedPermit, Permit},
    hooks::{ForwardedHeaders, HookRefusal, HookRequest, SubscribeApproval},
    hub::RefusedAttempt,
    protocol::{Disconnect, Format},
    revocation::TokenIds,
};

/// Time within which a client is decided on. It waits for the turn of its verification, and for the broker, to redeem a ticket and to
/// count the connections of a user. The hooks that are asked have timeouts of their own.
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
    permit: Permit,
    address_permit: KeyedPermit<ClientAddress>,
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
        let (auth, ids) = authenticate_handshake(&credentials, origin_check, handshake).await?;
        Ok(Self {
            context,
            client,
            ip,
            request_id: id_of(request.head()),
            door: credentials.door,
            time_left: ADMISSION_TIMEOUT,
            credential: credentials.door.filter(|_| matches!(auth, HandshakeAuth::Authenticated(_))),
            permit,
            address_permit,
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

    /// Asks the subscribe hook about the channel of a client that sends no commands.
    pub(super) async fn ask_subscribe_hook(
        &self,
        channel: &Channel,
        claims: &Claims,
    ) -> Result<SubscribeApproval, HandshakeRefusal> {
        let hook = self.context.hooks.subscribe.clone().ok_or_else(|| refuse("hook", HttpError::internal()))?;
        let (channel, meta) = (Some(channel.as_str()), claims.meta());
        let request = HookRequest { user: Some(&claims.user), channel, meta, ..self.hook_request() };
        let asked = hook.ask(request.encode(), self.hook_headers.clone()).await;
        asked.map_err(|refusal| match refusal {
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

    /// Lets the client in. It counts for its user, or as unauthenticated.
    pub(super) async fn admit(self) -> Result<Admission, HandshakeRefusal> {
        timeout(self.time_left, self.admit_without_limit()).await.unwrap_or_else(|_| Err(timeout_refusal()))
    }

    async fn admit_without_limit(self) -> Result<Admission, HandshakeRefusal> {
        let Self { context, client, ip, auth, ids, .. } = self;
        let (address, door, request) = (Some(ip), self.door, self.request_id);
        let source = AuditFields { address, door, request, ..AuditFields::default() };
        let (user_permit, unauthenticated_permits) = match &auth {
            HandshakeAuth::Authenticated(claims) => {
                (acquire_user_permit(client, claims, &ids, &source, context).await?, None)
            }
            HandshakeAuth::Unauthenticated | HandshakeAuth::Rejected(_) => {
                let acquired = self.unauthenticated_permits;
                (None, Some(acquired.map_or_else(|| acquire_unauthenticated_permits(&ip.into(), context), Ok)?))
            }
        };
        if let HandshakeAuth::Authenticated(claims) = &auth {
            let by = claims.hook.as_ref().map(|_| CONNECT_HOOK);
            let source = AuditFields { client: Some(client), by, ..source };
            context.audit.record(AuditEvent::Connected, source.with_token(&claims.user, &ids, claims.expires_at));
        }
        Ok(Admission {
            client,
            ip,
            request_id: request.map(Box::from),
            auth,
            credential: self.credential,
            format: self.format,
            commands: CommandSource::WebSocket,
            head: Bytes::new(),
            connect_data: self.connect_data,
            hook_headers: self.hook_headers,
            has_native_pings: false,
            permit: self.permit,
            address_permit: self.address_permit,
            user_permit,
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
    let own_cookies: Vec<&str> = admin::COOKIE_NAMES.into_iter().chain([refresh_cookie.as_str()]).collect();
    let values = |name: &str| {
        let (is_forwarded, has_cookies, own_cookies) = (is_forwarded(name), name == "cookie", &own_cookies);
        let sent = request.headers().get_all(name).filter(move |_| is_forwarded).map(|value| value.as_bytes());
        sent.filter_map(move |value| match has_cookies {
            true => credentials::without_cookies(value, own_cookies),
            false => Some(Cow::Borrowed(value)),
        })
    };
    let collected = context.hooks.collect_headers(values);
    collected.map_err(|error| HttpError::bad_request(error.to_string()).into())
}

/// What is known of a handshake whose credential is checked.
#[derive(Clone, Copy)]
struct Handshake<'a> {
    client: Uuid,
    request: &'a HttpRequest,
    source: &'a AuditFields<'a>,
    context: &'a HttpContext,
}

/// Authenticates a handshake with the credential that it carries. A cookie counts only from a listed origin.
async fn authenticate_handshake(
    credentials: &HandshakeCredentials<'_>,
    origin_check: OriginCheck,
    handshake: Handshake<'_>,
) -> Result<(HandshakeAuth, TokenIds), HandshakeRefusal> {
    let Handshake { request, context, .. } = handshake;
    match &credentials.credential {
        // Without an Origin it is no current browser, or one that hides which page it is for.
        Some(Credential::Cookie(_)) if origin_check == OriginCheck::NoOrigin => {
            let refusal = OriginRefusal::CookieWithoutOrigin;
            record_origin_refusal(context, refusal, request.head());
            Err(refuse("origin", HttpError::forbidden(refusal.to_string())).recorded())
        }
        // The browser sends the cookie for any page: without a listed origin the client must send a token explicitly.
        Some(Credential::Cookie(_)) if origin_check != OriginCheck::Listed => {
            record_origin_refusal(context, OriginRefusal::CookieOfUnlistedOrigin, request.head());
            Ok((HandshakeAuth::Unauthenticated, TokenIds::default()))
        }
        Some(credential) => authenticate(credential, handshake).await,
        None => Ok((HandshakeAuth::Unauthenticated, TokenIds::default())),
    }
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

fn find_credentials<'a>(
    request: &'a HttpRequest,
    protocols: &[&'a str],
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<HandshakeCredentials<'a>, HandshakeRefusal> {
    let all = |name| request.headers().get_all(name).map(|value| value.as_bytes()).collect::<Vec<_>>();
    let (authorization, cookies) = (all(AUTHORIZATION), all(COOKIE));
    let config = context.config.current();
    let auth = &config.auth;
    let query = request.query_string();
    let sources = credentials::CredentialSources { query, protocols, authorization: &authorization, cookies: &cookies };
    let found = credentials::find_credentials(sources, &auth.doors, &auth.cookie).map_err(|error| {
        context.refusals.record_from(Refusal::Credentials(error), source);
        let reason = if error == CredentialError::AuthorizationHeader { "token" } else { "malformed" };
        refuse(reason, error.into()).recorded()
    })?;
    if found.credential.is_none()
        && let Some(door) = credentials::disabled_door(sources, &auth.doors, &auth.cookie)
    {
        context.refusals.record_from(Refusal::DisabledDoor(door), source);
    }
    Ok(found)
}

async fn authenticate(
    credential: &Credential<'_>,
    handshake: Handshake<'_>,
) -> Result<(HandshakeAuth, TokenIds), HandshakeRefusal> {
    let Handshake { request, source, context, .. } = handshake;
    let verified = match credential {
        Credential::Token(token) => verify(token, handshake).await?,
        Credential::Cookie(token) => verify(token, handshake).await?,
        // The token is verified again: it may have expired or been revoked since the ticket was issued.
        Credential::Ticket(ticket) => {
            match redeem_ticket(ticket, request, context).await.map_err(|error| refuse("broker", error))? {
                Some(token) => {
                    let verified = verify(&token, handshake).await?;
                    let fields = match &verified {
                        Ok((claims, ids)) => source.with_token(&claims.user, ids, claims.expires_at),
                        Err(_) => *source,
                    };
                    context.audit.record(AuditEvent::TicketUsed, fields);
                    verified
                }
                None => Err(TokenError::UnknownTicket),
            }
        }
    };
    let authenticated = verified.map(|(claims, ids)| (HandshakeAuth::Authenticated(Arc::new(claims)), ids));
    authenticated.or_else(|refusal| {
        context.refusals.record_from(Refusal::Token(refusal), source);
        match context.config.current().auth.reject {
            _ if refusal.is_temporary() => Err(refuse("keys", refusal.into()).recorded()),
            RejectMode::Close if refusal.needs_new_token() => {
                Ok((HandshakeAuth::Rejected(Disconnect::EXPIRED_TOKEN), TokenIds::default()))
            }
            RejectMode::Close => Ok((HandshakeAuth::Rejected(Disconnect::INVALID_TOKEN), TokenIds::default())),
            RejectMode::Http => Err(refuse("token", refusal.into()).recorded()),
        }
    })
}

/// Verifies a token when it is the client's turn. Reads its ids only for an audit log, and the user of a refused token only for
/// explanations. Both cost time, so they are part of the turn.
async fn verify(
    token: &str,
    handshake: Handshake<'_>,
) -> Result<Result<(Claims, TokenIds), TokenError>, HandshakeRefusal> {
    let Handshake { client, request, context, .. } = handshake;
    let address = forwarded::client_address(request.head(), &context.config.current().server);
    let HttpContext { verifier, audit, clock, hubs, .. } = context;
    let verified = context.verifications.verify(address.into(), || {
        let verified = match audit.is_enabled() {
            true => verifier.verify_with_ids(token),
            false => verifier.verify(token).map(|claims| (claims, TokenIds::default())),
        };
        if let Err(error) = &verified
            && hubs.refused_attempts().is_enabled()
            && let Some(user) = verifier.user_of_refused(token)
        {
            let (at, is_signed, reason) = (clock.now(), error.is_of_signed_token(), error.to_string().into());
            hubs.refused_attempts().note(RefusedAttempt { at, client, user, is_signed, code: None, reason });
        }
        verified
    });
    verified.await.map_err(|overloaded| refuse("overload", overloaded.into()))
}
