//! The WebSocket handshake: checks of RFC 6455 §4.2, limits, credentials, and the response. A 101 carries its result,
//! an [`Admission`], in its extensions.

use std::{sync::Arc, time::Duration};

use actix_http::{
    ConnectionType,
    ws::{HandshakeError, verify_handshake},
};
use actix_web::{
    HttpMessage, HttpRequest, HttpResponse, ResponseError,
    http::{
        Method, Version,
        header::{
            AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION, UPGRADE,
        },
    },
    web::Data,
};
use bytes::Bytes;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    HttpContext, HttpError, StopPhase, forwarded,
    origin_policy::{OriginCheck, record_refusal as record_origin_refusal},
    ticket::redeem_ticket,
    upgrade::UpgradeMarker,
};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
    auth::{
        Admission, Claims, CommandSource, HandshakeAuth, TokenError,
        credentials::{self, Credential, CredentialError, HandshakeCredentials},
        refusal_log::{OriginRefusal, Refusal},
    },
    broker::UserPermit,
    config::RejectMode,
    connection_limit::{KeyedPermit, Permit},
    hooks::ForwardedHeaders,
    protocol::Format,
    revocation::TokenIds,
};

/// Time within which a handshake is decided on. It waits for the broker, to redeem a ticket and to count the connections of a user.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A refused handshake, or request for a stream: the response, and its reason as one word for `wardcast_handshakes_refused`.
pub(super) struct HandshakeRefusal {
    reason: &'static str,
    error: HttpError,
    /// Whether the audit log has it already, with what only that place knows.
    is_recorded: bool,
}

impl HandshakeRefusal {
    fn recorded(self) -> Self {
        Self { is_recorded: true, ..self }
    }
}

impl From<HttpError> for HandshakeRefusal {
    fn from(error: HttpError) -> Self {
        refuse("malformed", error)
    }
}

pub(super) fn refuse(reason: &'static str, error: HttpError) -> HandshakeRefusal {
    HandshakeRefusal { reason, error, is_recorded: false }
}

/// Handles GET on a WebSocket path.
pub async fn handshake(request: HttpRequest, context: Data<HttpContext>) -> HttpResponse {
    accept_handshake(&request, &context).await.unwrap_or_else(|refusal| refuse_handshake(refusal, &request, &context))
}

/// Returns the response to a refused handshake. It closes the connection: the next bytes on it may be WebSocket frames.
pub(super) fn refuse_handshake(
    refusal: HandshakeRefusal,
    request: &HttpRequest,
    context: &HttpContext,
) -> HttpResponse {
    let HandshakeRefusal { reason, error, is_recorded } = refusal;
    context.metrics.count_refused_handshake(reason);
    if !is_recorded {
        let address = Some(forwarded::client_address(request.head(), &context.config.server));
        let fields = AuditFields { address, path: Some(request.path()), ..AuditFields::default() };
        context.audit.record(AuditEvent::Refused, AuditFields { reason: Some(error.message()), ..fields });
    }
    let mut response = error.error_response();
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

/// Decides on a handshake.
async fn accept_handshake(request: &HttpRequest, context: &HttpContext) -> Result<HttpResponse, HandshakeRefusal> {
    if context.stop.phase() < StopPhase::Closing {
        validate_request(request)?;
    }
    let origin_check = context.origin_policy.check(request.head());
    let protocols = offered_protocols(request)?;
    let (mut admission, subprotocol) = admit(request, origin_check, &protocols, context, |_| Ok(())).await?;
    let mut response = switch_protocols(request, subprotocol)?;
    admission.format = negotiate_format(request.query_string(), subprotocol);
    admission.has_native_pings = has_parameter(request.query_string(), &["cf_ws_frame_ping_pong=true"]);
    response.extensions_mut().insert(admission);
    Ok(response)
}

/// Decides whether a client may have a session, over a WebSocket or a stream, and with which subprotocol. `check` decides on the
/// result of its authentication, and the caller sets the format.
pub(super) async fn admit<'a>(
    request: &'a HttpRequest,
    origin_check: OriginCheck,
    protocols: &[&'a str],
    context: &HttpContext,
    check: impl FnOnce(&mut HandshakeAuth) -> Result<(), HandshakeRefusal>,
) -> Result<(Admission, Option<&'a str>), HandshakeRefusal> {
    let admitted = admit_without_limit(request, origin_check, protocols, context, check);
    timeout(ADMISSION_TIMEOUT, admitted).await.unwrap_or_else(|_| {
        Err(refuse("timeout", HttpError::unavailable("the handshake took too long; try again soon")))
    })
}

/// Decides as [`admit`] does, however long it takes. Cheap checks come first, so that a client over a limit costs no signature
/// verification.
async fn admit_without_limit<'a>(
    request: &'a HttpRequest,
    origin_check: OriginCheck,
    protocols: &[&'a str],
    context: &HttpContext,
    check: impl FnOnce(&mut HandshakeAuth) -> Result<(), HandshakeRefusal>,
) -> Result<(Admission, Option<&'a str>), HandshakeRefusal> {
    if context.stop.phase() >= StopPhase::Closing {
        return Err(refuse("stopping", HttpError::stopping()));
    }
    let ip = forwarded::client_address(request.head(), &context.config.server);
    let (address, client) = (ClientAddress::from(ip), Uuid::new_v4());
    let source = AuditFields { address: Some(ip), ..AuditFields::default() };
    context
        .handshake_rates
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
    let (mut auth, ids) = authenticate_handshake(&credentials, origin_check, request, &source, context).await?;
    check(&mut auth)?;
    let (user_permit, unauthenticated_permits) = match &auth {
        HandshakeAuth::Authenticated(claims) => (acquire_user_permit(claims, &ids, &source, context).await?, None),
        HandshakeAuth::Unauthenticated | HandshakeAuth::Rejected(_) => {
            (None, Some(acquire_unauthenticated_permits(&address, context)?))
        }
    };
    let hook_headers = collect_hook_headers(request, context)?;
    if let HandshakeAuth::Authenticated(claims) = &auth {
        let source = AuditFields { client: Some(client), ..source };
        context.audit.record(AuditEvent::Connected, source.with_token(&claims.user, &ids, claims.expires_at));
    }
    let admission = Admission {
        client,
        ip,
        credential: credentials.door.filter(|_| matches!(auth, HandshakeAuth::Authenticated(_))),
        auth,
        format: Format::default(),
        commands: CommandSource::WebSocket,
        head: Bytes::new(),
        hook_headers,
        has_native_pings: false,
        permit,
        address_permit,
        user_permit,
        unauthenticated_permits,
    };
    Ok((admission, credentials.subprotocol))
}

/// Returns the headers of the handshake that hooks get.
fn collect_hook_headers(request: &HttpRequest, context: &HttpContext) -> Result<ForwardedHeaders, HttpError> {
    let values = |name: &str| request.headers().get_all(name).map(|value| value.as_bytes());
    context.hooks.collect_headers(values).map_err(|error| HttpError::bad_request(error.to_string()))
}

/// Authenticates a handshake with the credential that it carries. A cookie counts only from a listed origin.
async fn authenticate_handshake(
    credentials: &HandshakeCredentials<'_>,
    origin_check: OriginCheck,
    request: &HttpRequest,
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<(HandshakeAuth, TokenIds), HandshakeRefusal> {
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
        Some(credential) => authenticate(credential, request, source, context).await,
        None => Ok((HandshakeAuth::Unauthenticated, TokenIds::default())),
    }
}

/// Builds the response that accepts a handshake.
fn switch_protocols(request: &HttpRequest, subprotocol: Option<&str>) -> Result<HttpResponse, HandshakeRefusal> {
    // actix-web-actors writes the response; `validate_request` has refused what it would wrongly accept.
    let subprotocols: Vec<&str> = subprotocol.into_iter().collect();
    let mut response = actix_web_actors::ws::handshake_with_protocols(request, &subprotocols)
        .map_err(|_| HttpError::bad_request("not a WebSocket handshake"))?;
    if let Some(subprotocol) = subprotocol {
        // actix-web-actors only reads the first of several headers, which RFC 6455 §11.3.4 allows.
        response.insert_header((SEC_WEBSOCKET_PROTOCOL, subprotocol));
    }
    Ok(response.finish())
}

/// Returns the format that the accepted subprotocol names, or else the query.
fn negotiate_format(query: &str, subprotocol: Option<&str>) -> Format {
    match subprotocol {
        Some(credentials::JSON_SUBPROTOCOL) => Format::Json,
        Some(credentials::PROTOBUF_SUBPROTOCOL) => Format::Protobuf,
        _ if has_parameter(query, &["format=protobuf", "cf_protocol=protobuf"]) => Format::Protobuf,
        _ => Format::Json,
    }
}

fn has_parameter(query: &str, wanted: &[&str]) -> bool {
    query.split('&').any(|parameter| wanted.contains(&parameter))
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

/// Checks the form of a handshake, before its credentials are read.
fn validate_request(request: &HttpRequest) -> Result<(), HttpError> {
    if !request.extensions().contains::<UpgradeMarker>() {
        return Err(if request.headers().contains_key(UPGRADE) {
            HttpError::bad_request("the only supported upgrade is websocket, with a handshake that has no body")
        } else {
            HttpError::upgrade_required("this path only accepts WebSocket connections; connect with a WebSocket client")
        });
    }
    if *request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err(HttpError::bad_request("a WebSocket handshake must be a GET request of HTTP version 1.1"));
    }
    let is_websocket =
        request.headers().get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Err(HttpError::bad_request("the only supported upgrade is websocket"));
    }
    for header in [HOST, UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
        require_once(request, header)?;
    }
    let body = request.headers().get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if body {
        return Err(HttpError::bad_request("a WebSocket handshake must not have a body"));
    }
    verify_handshake(request.head()).map_err(|error| match error {
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => unsupported_version(),
        other => HttpError::bad_request(other.to_string()),
    })
}

fn unsupported_version() -> HttpError {
    HttpError::upgrade_required("the only supported WebSocket version is 13")
}

fn require_once(request: &HttpRequest, header: HeaderName) -> Result<(), HttpError> {
    match request.headers().get_all(&header).count() {
        0 if header == SEC_WEBSOCKET_VERSION => Err(unsupported_version()),
        1 => Ok(()),
        _ => Err(HttpError::bad_request(format!("the header {header} must be sent exactly once"))),
    }
}

/// Returns the entries of all `Sec-WebSocket-Protocol` headers, in order.
fn offered_protocols(request: &HttpRequest) -> Result<Vec<&str>, HttpError> {
    let mut protocols = Vec::new();
    for value in request.headers().get_all(SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| HttpError::bad_request("Sec-WebSocket-Protocol must be ASCII"))?;
        protocols.extend(value.split(',').map(str::trim).filter(|entry| !entry.is_empty()));
    }
    Ok(protocols)
}

fn find_credentials<'a>(
    request: &'a HttpRequest,
    protocols: &[&'a str],
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<HandshakeCredentials<'a>, HandshakeRefusal> {
    let all = |name| request.headers().get_all(name).map(|value| value.as_bytes()).collect::<Vec<_>>();
    let (authorization, cookies) = (all(AUTHORIZATION), all(COOKIE));
    let auth = &context.config.auth;
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
    request: &HttpRequest,
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<(HandshakeAuth, TokenIds), HandshakeRefusal> {
    let verified = match credential {
        Credential::Token(token) => verify(token, request, context).await?,
        Credential::Cookie(token) => verify(token, request, context).await?,
        // The token is verified again: it may have expired or been revoked since the ticket was issued.
        Credential::Ticket(ticket) => {
            match redeem_ticket(ticket, request, context).await.map_err(|error| refuse("broker", error))? {
                Some(token) => {
                    let verified = verify(&token, request, context).await?;
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
        match context.config.auth.reject {
            _ if refusal.is_temporary() => Err(refuse("keys", refusal.into()).recorded()),
            RejectMode::Close => Ok((HandshakeAuth::Rejected(refusal), TokenIds::default())),
            RejectMode::Http => Err(refuse("token", refusal.into()).recorded()),
        }
    })
}

/// Verifies a token when it is the client's turn. Gathers its ids only for an audit log.
async fn verify(
    token: &str,
    request: &HttpRequest,
    context: &HttpContext,
) -> Result<Result<(Claims, TokenIds), TokenError>, HandshakeRefusal> {
    let address = forwarded::client_address(request.head(), &context.config.server);
    let verified = context.verifications.verify(address.into(), || {
        if context.audit.is_enabled() {
            context.verifier.verify_with_ids(token)
        } else {
            context.verifier.verify(token).map(|claims| (claims, TokenIds::default()))
        }
    });
    verified.await.map_err(|overloaded| refuse("overload", overloaded.into()))
}
