//! Connections that are HTTP responses without an end, for clients that cannot open a WebSocket: `/connection/sse` and
//! `/connection/http_stream`. The request carries the first commands; later ones come to `/emulation`. The same checks and limits
//! hold as for a handshake.

use actix_http::ConnectionType;
use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, Date, HeaderName, HeaderValue, PRAGMA},
    web::Data,
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::{
    HttpContext, HttpError, RequestBody,
    admission::Candidate,
    handshake::{HandshakeRefusal, refuse_handshake},
    origin_policy::OriginCheck,
};
use crate::{
    auth::{Admission, CommandSource, HandshakeAuth},
    protocol::{ErrorCode, Format},
};

/// Query parameter with the first commands, percent-encoded.
const FIRST_COMMANDS: &str = "cf_connect";
/// Content type of events.
pub const EVENT_STREAM: &str = "text/event-stream";
/// Content type of Protobuf.
const PROTOBUF: &str = "application/octet-stream";
/// nginx does not buffer a response with this header: it would collect events before it passes them on.
pub const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
/// Neither stored by a cache nor compressed by a proxy, which would hold events back.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-cache, no-store, no-transform, private");
/// By this header a browser says which page a request is for, also where it sends no Origin.
pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Handles GET on `/connection/sse`, as `EventSource` sends it.
pub(super) async fn get_event_stream(request: HttpRequest, context: Data<HttpContext>) -> HttpResponse {
    let commands = first_commands(request.query_string()).map_err(HandshakeRefusal::from);
    match commands {
        Ok(commands) => open(&request, &context, Format::EventStream, commands).await,
        Err(refusal) => refuse_handshake(refusal, &request, &context),
    }
}

/// Handles POST on `/connection/sse`.
pub(super) async fn post_event_stream(
    request: HttpRequest,
    RequestBody(commands): RequestBody,
    context: Data<HttpContext>,
) -> HttpResponse {
    open(&request, &context, Format::EventStream, commands).await
}

/// Handles POST on `/connection/http_stream`.
pub(super) async fn post_http_stream(
    request: HttpRequest,
    RequestBody(commands): RequestBody,
    context: Data<HttpContext>,
) -> HttpResponse {
    let format = if is_protobuf(&request) { Format::ProtobufStream } else { Format::JsonStream };
    open(&request, &context, format, commands).await
}

/// Returns whether the body of a request is Protobuf.
pub(super) fn is_protobuf(request: &HttpRequest) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOBUF.as_bytes()))
}

/// Opens the stream of a session whose commands come in requests.
async fn open(request: &HttpRequest, context: &HttpContext, format: Format, commands: Bytes) -> HttpResponse {
    let opened = async {
        let mut candidate = Candidate::examine(request, stream_origin(request, context), &[], context).await?;
        if matches!(candidate.auth, HandshakeAuth::Unauthenticated) && commands.is_empty() {
            let message = "send a connect command with the request: in the body, or percent-encoded as cf_connect";
            return Err(HttpError::bad_request(message).into());
        }
        candidate.format = format;
        let mut admission = candidate.admit().await?;
        let config = context.config.current();
        let limits = &config.limits;
        let sessions = context.hubs.emulated_sessions();
        admission.commands = CommandSource::Requests(sessions.open(commands, limits.emulation_bytes));
        Ok::<_, HandshakeRefusal>(admission)
    };
    opened.await.map_or_else(|refusal| refuse_handshake(refusal, request, context), respond)
}

/// Returns the response with which the stream of an admitted client begins.
pub(super) fn respond(admission: Admission) -> HttpResponse {
    let content_type = match admission.format {
        Format::ProtobufStream => PROTOBUF,
        Format::JsonStream => "application/json",
        _ => EVENT_STREAM,
    };
    let mut response = stream_head(content_type).insert_header(Date::now()).finish();
    response.head_mut().set_connection_type(ConnectionType::Close);
    response.extensions_mut().insert(admission);
    response
}

/// Returns the response to a client of events that is not admitted: these events, and no more.
pub(super) fn respond_with_events(events: String) -> HttpResponse {
    let mut response = stream_head(EVENT_STREAM).body(events);
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

fn stream_head(content_type: &'static str) -> HttpResponseBuilder {
    let mut head = HttpResponse::Ok();
    head.insert_header((CONTENT_TYPE, content_type))
        .insert_header((CACHE_CONTROL, NO_STORE))
        .insert_header((PRAGMA, "no-cache"))
        .insert_header(NO_BUFFERING);
    head
}

/// Checks the page of a request. Unlike a handshake, a GET request of the own page has no Origin; only a browser can send
/// `Sec-Fetch-Site: same-origin` for a page, and only for one of this host.
pub(super) fn stream_origin(request: &HttpRequest, context: &HttpContext) -> OriginCheck {
    match context.origin_policy.check(request.head()) {
        OriginCheck::NoOrigin if is_same_origin(request) => OriginCheck::Listed,
        check => check,
    }
}

/// Returns whether a browser says that the page of a request has the origin of the request itself.
pub(super) fn is_same_origin(request: &HttpRequest) -> bool {
    let mut sites = request.headers().get_all(SEC_FETCH_SITE);
    matches!((sites.next(), sites.next()), (Some(site), None) if site.as_bytes() == b"same-origin")
}

/// Returns the commands in a query string; nothing without the parameter. Public for fuzzing.
///
/// # Errors
/// 400: they are not UTF-8.
pub fn first_commands(query: &str) -> Result<Bytes, HttpError> {
    let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == FIRST_COMMANDS);
    // In a form, which URLSearchParams writes, a space is a plus sign.
    let value = value.map_or(String::new(), |(_, value)| value.replace('+', " "));
    let decoded = percent_decode_str(&value).decode_utf8();
    decoded.map(|text| Bytes::from(text.into_owned())).map_err(|_| {
        HttpError::new(
            actix_web::http::StatusCode::BAD_REQUEST,
            ErrorCode::BadRequest,
            "cf_connect is not percent-encoded UTF-8",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_commands_are_decoded() {
        let commands = |query| first_commands(query).ok();
        assert_eq!(commands("a=1&cf_connect=%7B%22id%22%3A1,+%22a%2Bb%22%7D"), Some(r#"{"id":1, "a+b"}"#.into()));
        for without in ["", "token=x", "cf_connect=", "xcf_connect=1"] {
            assert_eq!(commands(without), Some(Bytes::new()), "{without:?}");
        }
        assert_eq!(commands("cf_connect=%ff"), None);
    }
}
