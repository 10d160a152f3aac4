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

use super::{Failure, Shared, origin::Standing, peer, ticket::redeem, upgrade::Upgradable};
use crate::{
    address::Address,
    auth::{
        Admission, Claims, Entrance, Refusal,
        door::{self, Credential, Misuse, Offer},
    },
    config::Reject,
    protocol::Format,
    seats::{KeyedSeat, Seat},
};

/// A handshake that is not let in: what is told, and one word for the metrics.
struct Refused {
    reason: &'static str,
    failure: Failure,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { reason: "malformed", failure }
    }
}

fn refused(reason: &'static str, failure: Failure) -> Refused {
    Refused { reason, failure }
}

/// GET on a WebSocket path. A refusal ends the connection: what follows on it may be meant for a WebSocket.
pub async fn handshake(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    admit(&request, &shared).await.unwrap_or_else(|Refused { reason, failure }| {
        shared.metrics.count_refused_handshake(reason);
        let mut response = failure.error_response();
        response.head_mut().set_connection_type(ConnectionType::Close);
        response
    })
}

/// The cheap questions first; whoever is over a limit makes us verify nothing.
async fn admit(request: &HttpRequest, shared: &Shared) -> Result<HttpResponse, Refused> {
    judge_request(request)?;
    let address = Address::from(peer::address(request.head(), &shared.config.server));
    shared
        .rates
        .take(&address)
        .map_err(|wait| refused("rate", Failure::too_many("too many handshakes from this address", wait)))?;
    let standing = shared.pages.judge(request.head());
    standing.admit().map_err(|failure| foreign(standing, failure))?;
    let at_address =
        shared.addresses.take(&address).ok_or_else(|| full_address("too many connections of this address"))?;
    let seat = shared
        .connections
        .take()
        .ok_or_else(|| refused("full", Failure::full("too many connections; try again soon")))?;
    let protocols = offered_protocols(request)?;
    let offer = find_offer(request, &protocols, shared)?;
    let credential = match offer.credential {
        // Who sends a cookie and no Origin is no browser of today, or one that hides whose page it is.
        Some(Credential::Cookie(_)) if standing == Standing::NoPage => {
            let failure = Failure::foreign("the cookie counts only with the Origin that a browser sends");
            return Err(refused("origin", failure));
        }
        // The browser has added it to the request of a page that may be anybody's: whoever it is has to say so himself.
        Some(Credential::Cookie(_)) if standing != Standing::Ours => None,
        credential => credential,
    };
    let entrance = match &credential {
        None => Entrance::Nobody,
        Some(credential) => judge(credential, shared).await?,
    };
    let (user, waiting) = match &entrance {
        Entrance::Somebody(claims) => (user_seat(claims, shared)?, None),
        Entrance::Nobody | Entrance::Rejected(_) => (None, Some(waiting_seats(&address, shared)?)),
    };
    // The answer, as actix-web-actors writes it; what it lets pass has been refused above.
    let answer: Vec<&str> = offer.answer.into_iter().collect();
    let mut response = actix_web_actors::ws::handshake_with_protocols(request, &answer)
        .map_err(|_| Failure::bad_request("not a WebSocket handshake"))?;
    if let Some(answer) = offer.answer {
        // It looks for it in the first of several headers only (RFC 6455 §11.3.4 allows several).
        response.insert_header((SEC_WEBSOCKET_PROTOCOL, answer));
    }
    let mut response = response.finish();
    let format = format(request.query_string(), offer.answer);
    let has_native_pings = has_parameter(request.query_string(), &["cf_ws_frame_ping_pong=true"]);
    let admission = Admission { entrance, format, has_native_pings, seat, address: at_address, user, waiting };
    response.extensions_mut().insert(admission);
    Ok(response)
}

/// The answered subprotocol says it, or else the query.
fn format(query: &str, answer: Option<&str>) -> Format {
    match answer {
        Some(door::JSON) => Format::Json,
        Some(door::PROTOBUF) => Format::Protobuf,
        _ if has_parameter(query, &["format=protobuf", "cf_protocol=protobuf"]) => Format::Protobuf,
        _ => Format::Json,
    }
}

fn has_parameter(query: &str, wanted: &[&str]) -> bool {
    query.split('&').any(|parameter| wanted.contains(&parameter))
}

fn foreign(standing: Standing, failure: Failure) -> Refused {
    refused(if standing == Standing::Foreign { "origin" } else { "malformed" }, failure)
}

fn full_address(message: &'static str) -> Refused {
    refused("address", Failure::too_many_seats(message))
}

/// A user's seat. Who is nobody in particular has none: `limits.connections_per_address` counts them.
fn user_seat(claims: &Claims, shared: &Shared) -> Result<Option<KeyedSeat<Arc<str>>>, Refused> {
    if claims.is_anonymous() {
        return Ok(None);
    }
    let seat = shared.users.take(&claims.user);
    seat.map(Some).ok_or_else(|| refused("user", Failure::too_many_seats("too many connections of this user")))
}

fn waiting_seats(address: &Address, shared: &Shared) -> Result<(Seat, KeyedSeat<Address>), Refused> {
    let at_address = shared.waiting_addresses.take(address);
    let at_address = at_address.ok_or_else(|| full_address("too many connections of this address wait for a token"))?;
    let seat = shared.waiting.take();
    let seat = seat.ok_or_else(|| refused("full", Failure::full("too many connections wait for a token")))?;
    Ok((seat, at_address))
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

fn find_offer<'a>(request: &'a HttpRequest, protocols: &[&'a str], shared: &Shared) -> Result<Offer<'a>, Refused> {
    let all = |name| request.headers().get_all(name).map(|value| value.as_bytes()).collect::<Vec<_>>();
    let (authorization, cookies) = (all(AUTHORIZATION), all(COOKIE));
    let auth = &shared.config.auth;
    let query = request.query_string();
    let said = door::Request { query, protocols, authorization: &authorization, cookies: &cookies };
    door::find(said, &auth.doors, &auth.cookie).map_err(|misuse| match misuse {
        Misuse::Authorization => refused("token", Failure::unauthorized(misuse.to_string())),
        _ => Failure::bad_request(misuse.to_string()).into(),
    })
}

async fn judge(credential: &Credential<'_>, shared: &Shared) -> Result<Entrance, Refused> {
    let verified = match credential {
        Credential::Token(token) => shared.verifier.verify(token),
        Credential::Cookie(token) => shared.verifier.verify(token),
        // Again: it may have expired or been revoked since the ticket was given.
        Credential::Ticket(ticket) => {
            match redeem(ticket, shared).await.map_err(|failure| refused("broker", failure))? {
                Some(token) => shared.verifier.verify(&token),
                None => Err(Refusal::Invalid("no such ticket")),
            }
        }
    };
    verified.map(|claims| Entrance::Somebody(Arc::new(claims))).or_else(|refusal| {
        log::debug!("handshake: token {refusal}");
        match shared.config.auth.reject {
            Reject::Close => Ok(Entrance::Rejected(refusal)),
            Reject::Http => Err(refused("token", Failure::bad_token(refusal == Refusal::Expired))),
        }
    })
}
