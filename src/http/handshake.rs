//! The WebSocket handshake: checks of RFC 6455 §4.2, and the response. A 101 carries the result of the [`Candidate`], an
//! [`Admission`](crate::auth::Admission), in its extensions.

use std::time::Duration;

use actix_http::{
    ConnectionType,
    ws::{HandshakeError, verify_handshake},
};
use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    http::{
        Method, Version,
        header::{
            CONTENT_LENGTH, HOST, HeaderName, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION, UPGRADE,
        },
    },
    web::Data,
};

use super::{
    HttpContext, HttpError, StopPhase, admission::Candidate, forwarded, request_id::id_of, upgrade::UpgradeMarker,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::credentials,
    deflate::{self, DeflateOptions},
    protocol::Format,
};

/// A refused handshake, or request for a stream: the response, and its reason as one word for `wardcast_handshakes_refused`.
pub(super) struct HandshakeRefusal {
    reason: &'static str,
    error: HttpError,
    /// Whether the audit log has it already, with what only that place knows.
    is_recorded: bool,
}

impl HandshakeRefusal {
    pub(super) fn recorded(self) -> Self {
        Self { is_recorded: true, ..self }
    }

    /// The time after which the client may try again. `None`: it is not refused for a while only.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.error.retry_after()
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
    let mut response = HttpResponse::from_error(record_refusal(refusal, request, context));
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

/// Counts a refused handshake, or request for a stream, and records it in the audit log. Returns the error for the client.
pub(super) fn record_refusal(refusal: HandshakeRefusal, request: &HttpRequest, context: &HttpContext) -> HttpError {
    let HandshakeRefusal { reason, error, is_recorded } = refusal;
    context.metrics.count_refused_handshake(reason);
    if !is_recorded {
        let address = Some(forwarded::client_address(request.head(), &context.config.current().server));
        let fields = AuditFields {
            address,
            path: Some(request.path()),
            request: id_of(request.head()),
            ..AuditFields::default()
        };
        context.audit.record(AuditEvent::Refused, AuditFields { reason: Some(error.message()), ..fields });
    }
    error
}

/// Decides on a handshake.
async fn accept_handshake(request: &HttpRequest, context: &HttpContext) -> Result<HttpResponse, HandshakeRefusal> {
    if context.stop.phase() < StopPhase::Closing {
        validate_request(request)?;
    }
    let origin_check = context.origin_policy.check(request.head());
    let protocols = offered_protocols(request)?;
    let mut candidate = Candidate::examine(request, origin_check, &protocols, context).await?;
    let compression = match negotiate_compression(request, context) {
        Ok(compression) => compression,
        Err(error) => return Err(candidate.refuse(error).await),
    };
    let subprotocol = candidate.subprotocol;
    candidate.format = negotiate_format(request.query_string(), subprotocol);
    if let Some((options, _)) = &compression {
        candidate.format = candidate.format.with_compression(*options);
    }
    if context.hooks.asks_in_handshake {
        candidate.ask_connect_hook().await?;
    }
    let mut admission = candidate.admit().await?;
    let extensions = compression.map(|(_, extensions)| extensions);
    let mut response = switch_protocols(request, subprotocol, extensions.as_deref())?;
    admission.has_native_pings = has_parameter(request.query_string(), &["cf_ws_frame_ping_pong=true"]);
    response.extensions_mut().insert(admission);
    Ok(response)
}

/// Builds the response that accepts a handshake.
fn switch_protocols(
    request: &HttpRequest,
    subprotocol: Option<&str>,
    extensions: Option<&str>,
) -> Result<HttpResponse, HandshakeRefusal> {
    // actix-web-actors writes the response; `validate_request` has refused what it would wrongly accept.
    let subprotocols: Vec<&str> = subprotocol.into_iter().collect();
    let mut response = actix_web_actors::ws::handshake_with_protocols(request, &subprotocols)
        .map_err(|_| HttpError::bad_request("not a WebSocket handshake"))?;
    if let Some(subprotocol) = subprotocol {
        // actix-web-actors only reads the first of several headers, which RFC 6455 §11.3.4 allows.
        response.insert_header((SEC_WEBSOCKET_PROTOCOL, subprotocol));
    }
    if let Some(extensions) = extensions {
        response.insert_header((SEC_WEBSOCKET_EXTENSIONS, extensions));
    }
    Ok(response.finish())
}

/// Returns how messages are compressed, and the header that says so; `None` if compression is off, or the client offers none that the
/// hub accepts. While it is off, the header is not read.
fn negotiate_compression(
    request: &HttpRequest,
    context: &HttpContext,
) -> Result<Option<(DeflateOptions, String)>, HttpError> {
    let Some(options) = DeflateOptions::from_config(&context.config.current().server.compression) else {
        return Ok(None);
    };
    let headers = request.headers().get_all(SEC_WEBSOCKET_EXTENSIONS).map(|header| header.as_bytes());
    let accepted = deflate::negotiate(headers).map_err(|error| HttpError::bad_request(error.to_string()))?;
    Ok(accepted.map(|extensions| (options, extensions)))
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
