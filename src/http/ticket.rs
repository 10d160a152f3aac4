//! `POST /auth/ticket`: exchanges a token for a ticket, which opens one connection within `auth.ticket_ttl`. The URL of
//! a WebSocket is logged on its way, with the credentials in it; a ticket from a log is expired or already used.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header::AUTHORIZATION},
    web::Data,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Serialize;

use super::{HttpContext, HttpError, request_source::RequestSource};
use crate::{
    auth::{credentials, refusal_log::Refusal},
    broker::BrokerError,
    config::Door,
    protocol::ErrorCode,
};

/// Random bytes of a ticket: too many to guess one.
const TICKET_BYTES: usize = 32;
/// Characters of a ticket: [`TICKET_BYTES`] in base64url.
const TICKET_CHARACTERS: usize = 43;

#[derive(Serialize)]
struct TicketResponse {
    ticket: String,
    expires_in: u64,
}

/// Issues a ticket for the token in `Authorization`.
pub(super) async fn issue_ticket(
    source: RequestSource,
    request: HttpRequest,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    if !context.config.auth.doors.contains(&Door::Ticket) {
        return Err(HttpError::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotAvailable,
            "tickets are disabled: auth.doors does not list \"ticket\"",
        ));
    }
    source.origin_check.require_allowed()?;
    let values: Vec<&[u8]> = request.headers().get_all(AUTHORIZATION).map(|value| value.as_bytes()).collect();
    if values.is_empty() {
        return Err(HttpError::unauthorized("send the token as Authorization: Bearer"));
    }
    let token = credentials::bearer_token(&values).map_err(|_| HttpError::invalid_token(false))?;
    let claims = context.verifier.verify(token).inspect_err(|error| {
        context.refusals.record_from(Refusal::Token(*error), &source.fields("/auth/ticket"));
    })?;
    // Tokens without a user are limited per address; otherwise one client could use up the tickets of all of them.
    let rate_key = (&*claims.user, claims.is_anonymous().then_some(source.address));
    let charged = context.ticket_rates.charge(&rate_key);
    charged.map_err(|wait| HttpError::too_many("too many tickets for this user", wait))?;
    let mut random = [0; TICKET_BYTES];
    getrandom::fill(&mut random).map_err(|_| HttpError::internal())?;
    let ticket = BASE64_URL_SAFE_NO_PAD.encode(random);
    let left = claims.expires_at.saturating_duration_since(context.clock.now());
    let ttl = left.min(context.config.auth.ticket_ttl);
    let stored = context.broker.put_ticket(ticket.clone(), Bytes::copy_from_slice(token.as_bytes()), ttl);
    stored.await.map_err(ticket_store_unavailable)?;
    Ok(HttpResponse::Ok().json(TicketResponse { ticket, expires_in: ttl.as_secs() }))
}

/// Redeems a ticket for its token. `None`: the ticket is unknown, expired or already used.
pub(super) async fn redeem_ticket(ticket: &str, context: &HttpContext) -> Result<Option<String>, HttpError> {
    let is_ticket = ticket.len() == TICKET_CHARACTERS
        && ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !is_ticket {
        return Ok(None);
    }
    let token = context.broker.take_ticket(ticket.to_owned()).await.map_err(ticket_store_unavailable)?;
    Ok(token.and_then(|token| String::from_utf8(token.into()).ok()))
}

fn ticket_store_unavailable(error: BrokerError) -> HttpError {
    let error = error.to_string();
    log::warn!("ticket store unavailable error={error:?}");
    HttpError::unavailable("tickets are temporarily unavailable; try again soon")
}
