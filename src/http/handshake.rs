//! The WebSocket handshake: RFC 6455 §4.2, the limits, the handshake doors, and the answer. What it decides travels as an
//! [`Admission`] in the extensions of the 101.

use std::sync::Arc;

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

use super::{
    HttpContext, HttpError, forwarded, origin_policy::OriginCheck, ticket::redeem_ticket, upgrade::UpgradeMarker,
};
use crate::{
    address::ClientAddress,
    auth::{
        Admission, Claims, HandshakeAuth, TokenError,
        credentials::{self, Credential, CredentialError, HandshakeCredentials},
    },
    config::RejectMode,
    connection_limit::{KeyedPermit, Permit},
    protocol::Format,
};

/// A handshake that is not let in: what is told, and one word for the metrics.
struct HandshakeRefusal {
    reason: &'static str,
    error: HttpError,
}

impl From<HttpError> for HandshakeRefusal {
    fn from(error: HttpError) -> Self {
        Self { reason: "malformed", error }
    }
}

fn refuse(reason: &'static str, error: HttpError) -> HandshakeRefusal {
    HandshakeRefusal { reason, error }
}

/// GET on a WebSocket path. A refusal ends the connection: what follows on it may be meant for a WebSocket.
pub async fn handshake(request: HttpRequest, context: Data<HttpContext>) -> HttpResponse {
    accept_handshake(&request, &context).await.unwrap_or_else(|HandshakeRefusal { reason, error }| {
        context.metrics.count_refused_handshake(reason);
        let mut response = error.error_response();
        response.head_mut().set_connection_type(ConnectionType::Close);
        response
    })
}

/// The cheap questions first; whoever is over a limit makes us verify nothing.
async fn accept_handshake(request: &HttpRequest, context: &HttpContext) -> Result<HttpResponse, HandshakeRefusal> {
    validate_request(request)?;
    let address = ClientAddress::from(forwarded::client_address(request.head(), &context.config.server));
    context
        .handshake_rates
        .charge(&address)
        .map_err(|wait| refuse("rate", HttpError::too_many("too many handshakes from this address", wait)))?;
    let origin_check = context.origin_policy.check(request.head());
    origin_check.require_allowed().map_err(|error| origin_refusal(origin_check, error))?;
    let address_permit = context
        .address_limit
        .acquire(&address)
        .ok_or_else(|| address_limit_refusal("too many connections of this address"))?;
    let permit = context
        .connection_limit
        .acquire()
        .ok_or_else(|| refuse("full", HttpError::at_capacity("too many connections; try again soon")))?;
    let protocols = offered_protocols(request)?;
    let credentials = find_credentials(request, &protocols, context)?;
    let credential = match credentials.credential {
        // Who sends a cookie and no Origin is no browser of today, or one that hides whose page it is.
        Some(Credential::Cookie(_)) if origin_check == OriginCheck::NoOrigin => {
            let error = HttpError::forbidden("the cookie counts only with the Origin that a browser sends");
            return Err(refuse("origin", error));
        }
        // The browser has added it to the request of a page that may be anybody's: whoever it is has to say so himself.
        Some(Credential::Cookie(_)) if origin_check != OriginCheck::Listed => None,
        credential => credential,
    };
    let auth = match &credential {
        None => HandshakeAuth::Unauthenticated,
        Some(credential) => authenticate(credential, context).await?,
    };
    let (user_permit, unauthenticated_permits) = match &auth {
        HandshakeAuth::Authenticated(claims) => (acquire_user_permit(claims, context)?, None),
        HandshakeAuth::Unauthenticated | HandshakeAuth::Rejected(_) => {
            (None, Some(acquire_unauthenticated_permits(&address, context)?))
        }
    };
    // The answer, as actix-web-actors writes it; what it lets pass has been refused above.
    let answer: Vec<&str> = credentials.subprotocol.into_iter().collect();
    let mut response = actix_web_actors::ws::handshake_with_protocols(request, &answer)
        .map_err(|_| HttpError::bad_request("not a WebSocket handshake"))?;
    if let Some(answer) = credentials.subprotocol {
        // It looks for it in the first of several headers only (RFC 6455 §11.3.4 allows several).
        response.insert_header((SEC_WEBSOCKET_PROTOCOL, answer));
    }
    let mut response = response.finish();
    let format = negotiate_format(request.query_string(), credentials.subprotocol);
    let has_native_pings = has_parameter(request.query_string(), &["cf_ws_frame_ping_pong=true"]);
    let admission =
        Admission { auth, format, has_native_pings, permit, address_permit, user_permit, unauthenticated_permits };
    response.extensions_mut().insert(admission);
    Ok(response)
}

/// The answered subprotocol says it, or else the query.
fn negotiate_format(query: &str, answer: Option<&str>) -> Format {
    match answer {
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
    refuse(if origin_check == OriginCheck::Denied { "origin" } else { "malformed" }, error)
}

fn address_limit_refusal(message: &'static str) -> HandshakeRefusal {
    refuse("address", HttpError::too_many_connections(message))
}

/// A user's seat. Who is nobody in particular has none: `limits.connections_per_address` counts them.
fn acquire_user_permit(
    claims: &Claims,
    context: &HttpContext,
) -> Result<Option<KeyedPermit<Arc<str>>>, HandshakeRefusal> {
    if claims.is_anonymous() {
        return Ok(None);
    }
    let permit = context.user_limit.acquire(&claims.user);
    permit.map(Some).ok_or_else(|| refuse("user", HttpError::too_many_connections("too many connections of this user")))
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

/// What must hold before anybody looks at a token.
fn validate_request(request: &HttpRequest) -> Result<(), HttpError> {
    if !request.extensions().contains::<UpgradeMarker>() {
        return Err(if request.headers().contains_key(UPGRADE) {
            HttpError::bad_request("the only upgrade here is websocket, and its handshake has no body")
        } else {
            HttpError::upgrade_required("this path speaks WebSocket; connect with a WebSocket client")
        });
    }
    if *request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err(HttpError::bad_request("a handshake is a GET, in version 1.1 of HTTP"));
    }
    let is_websocket =
        request.headers().get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Err(HttpError::bad_request("the only upgrade here is websocket"));
    }
    for header in [HOST, UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
        require_once(request, header)?;
    }
    let body = request.headers().get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if body {
        return Err(HttpError::bad_request("a handshake has no body"));
    }
    verify_handshake(request.head()).map_err(|error| match error {
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => unsupported_version(),
        other => HttpError::bad_request(other.to_string()),
    })
}

fn unsupported_version() -> HttpError {
    HttpError::upgrade_required("WebSocket version 13 is spoken here")
}

fn require_once(request: &HttpRequest, header: HeaderName) -> Result<(), HttpError> {
    match request.headers().get_all(&header).count() {
        0 if header == SEC_WEBSOCKET_VERSION => Err(unsupported_version()),
        1 => Ok(()),
        _ => Err(HttpError::bad_request(format!("{header} must be there once"))),
    }
}

/// The entries of all `Sec-WebSocket-Protocol` headers, in order.
fn offered_protocols(request: &HttpRequest) -> Result<Vec<&str>, HttpError> {
    let mut protocols = Vec::new();
    for value in request.headers().get_all(SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| HttpError::bad_request("subprotocols are ASCII"))?;
        protocols.extend(value.split(',').map(str::trim).filter(|entry| !entry.is_empty()));
    }
    Ok(protocols)
}

fn find_credentials<'a>(
    request: &'a HttpRequest,
    protocols: &[&'a str],
    context: &HttpContext,
) -> Result<HandshakeCredentials<'a>, HandshakeRefusal> {
    let all = |name| request.headers().get_all(name).map(|value| value.as_bytes()).collect::<Vec<_>>();
    let (authorization, cookies) = (all(AUTHORIZATION), all(COOKIE));
    let auth = &context.config.auth;
    let query = request.query_string();
    let sources = credentials::CredentialSources { query, protocols, authorization: &authorization, cookies: &cookies };
    credentials::find_credentials(sources, &auth.doors, &auth.cookie).map_err(|error| {
        let reason = if error == CredentialError::AuthorizationHeader { "token" } else { "malformed" };
        refuse(reason, error.into())
    })
}

async fn authenticate(credential: &Credential<'_>, context: &HttpContext) -> Result<HandshakeAuth, HandshakeRefusal> {
    let verified = match credential {
        Credential::Token(token) => context.verifier.verify(token),
        Credential::Cookie(token) => context.verifier.verify(token),
        // Again: it may have expired or been revoked since the ticket was given.
        Credential::Ticket(ticket) => {
            match redeem_ticket(ticket, context).await.map_err(|error| refuse("broker", error))? {
                Some(token) => context.verifier.verify(&token),
                None => Err(TokenError::UnknownTicket),
            }
        }
    };
    verified.map(|claims| HandshakeAuth::Authenticated(Arc::new(claims))).or_else(|refusal| {
        log::debug!("handshake: token {refusal}");
        match context.config.auth.reject {
            RejectMode::Close => Ok(HandshakeAuth::Rejected(refusal)),
            RejectMode::Http => Err(refuse("token", refusal.into())),
        }
    })
}
