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
        Method, StatusCode, Version,
        header::{
            CONTENT_LENGTH, HOST, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
        },
    },
    web::Data,
};

use super::{Failure, Shared, upgrade::Upgradable};
use crate::{
    address::Address,
    auth::{Admission, Claims, Entrance, Refusal, door},
};

/// GET on a WebSocket path. A refusal ends the connection: what follows on it may be meant for a WebSocket.
pub async fn handshake(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    admit(&request, &shared).unwrap_or_else(|failure| {
        shared.metrics.count_refused_handshake(reason(failure.status()));
        let mut response = failure.error_response();
        response.head_mut().set_connection_type(ConnectionType::Close);
        response
    })
}

fn admit(request: &HttpRequest, shared: &Shared) -> Result<HttpResponse, Failure> {
    judge_request(request)?;
    let seat = shared.connections.take().ok_or_else(|| Failure::full("too many connections; try again soon"))?;
    let protocols = offered_protocols(request)?;
    let offer = door::find(request.query_string(), &protocols, &shared.config.auth.doors)
        .map_err(|misuse| Failure::bad_request(misuse.to_string()))?;
    let claims = offer.token.map(|token| judge_token(&token, shared)).transpose()?;
    let address = Address::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let full = || Failure::full("too many connections wait for a token");
    let waiting = match &claims {
        Some(_) => None,
        None => {
            Some((shared.waiting.take().ok_or_else(full)?, shared.waiting_addresses.take(&address).ok_or_else(full)?))
        }
    };
    // The answer, as actix-web-actors writes it; what it lets pass has been refused above.
    let answer: Vec<&str> = offer.answer.into_iter().collect();
    let mut response = actix_web_actors::ws::handshake_with_protocols(request, &answer)
        .map_err(|_| Failure::bad_request("not a WebSocket handshake"))?
        .finish();
    let address = shared.addresses.take(&address).ok_or_else(|| Failure::full("too many connections"))?;
    let entrance = claims.map_or(Entrance::Nobody, Entrance::Somebody);
    response.extensions_mut().insert(Admission { entrance, seat, address, user: None, waiting });
    Ok(response)
}

/// What must hold before anybody looks at a token.
fn judge_request(request: &HttpRequest) -> Result<(), Failure> {
    if !request.extensions().contains::<Upgradable>() {
        return Err(if request.headers().contains_key(UPGRADE) {
            Failure::bad_request("the only upgrade here is websocket, and its handshake has no body")
        } else {
            Failure::upgrade_required("this path speaks WebSocket; connect with a WebSocket client")
        });
    }
    if *request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err(Failure::bad_request("a handshake is a GET, in version 1.1 of HTTP"));
    }
    let is_websocket =
        request.headers().get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Err(Failure::bad_request("the only upgrade here is websocket"));
    }
    for header in [HOST, UPGRADE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
        once(request, header)?;
    }
    let body = request.headers().get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if body {
        return Err(Failure::bad_request("a handshake has no body"));
    }
    verify_handshake(request.head()).map_err(|error| match error {
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => version(),
        other => Failure::bad_request(other.to_string()),
    })
}

fn version() -> Failure {
    Failure::upgrade_required("WebSocket version 13 is spoken here")
}

fn once(request: &HttpRequest, header: HeaderName) -> Result<(), Failure> {
    match request.headers().get_all(&header).count() {
        0 if header == SEC_WEBSOCKET_VERSION => Err(version()),
        1 => Ok(()),
        _ => Err(Failure::bad_request(format!("{header} must be there once"))),
    }
}

/// The entries of all `Sec-WebSocket-Protocol` headers, in order.
fn offered_protocols(request: &HttpRequest) -> Result<Vec<&str>, Failure> {
    let mut protocols = Vec::new();
    for value in request.headers().get_all(SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| Failure::bad_request("subprotocols are ASCII"))?;
        protocols.extend(value.split(',').map(str::trim).filter(|entry| !entry.is_empty()));
    }
    Ok(protocols)
}

fn judge_token(token: &str, shared: &Shared) -> Result<Arc<Claims>, Failure> {
    shared.verifier.verify(token).map(Arc::new).map_err(|refusal| {
        log::debug!("handshake: token {refusal}");
        Failure::bad_token(refusal == Refusal::Expired)
    })
}

fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "token",
        StatusCode::SERVICE_UNAVAILABLE => "full",
        _ => "malformed",
    }
}
