//! `POST /auth/ticket`: exchanges a token for a ticket, which opens one connection within `auth.ticket_ttl`. The URL of
//! a WebSocket is logged on its way, with the credentials in it; a ticket from a log is expired or already used.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{AUTHORIZATION, HeaderValue, ORIGIN},
    },
    web::Data,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Serialize;

use super::{HttpContext, HttpError, forwarded, request_source::RequestSource};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
    auth::{credentials, refusal_log::Refusal},
    broker::BrokerError,
    config::{Door, TicketBinding},
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
    if !context.config.current().auth.doors.contains(&Door::Ticket) {
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
    let verified = context.verifications.verify(source.address, || context.verifier.verify(token)).await?;
    let claims = verified.inspect_err(|error| {
        context.refusals.record_from(Refusal::Token(*error), &source.fields("/auth/ticket"));
    })?;
    // Tokens without a user are limited per address; otherwise one client could use up the tickets of all of them.
    let rate_key = (&*claims.user, claims.is_anonymous().then_some(source.address));
    let charged = context.ticket_rates.load().charge(&rate_key);
    charged.map_err(|wait| HttpError::too_many("too many tickets for this user", wait))?;
    let mut random = [0; TICKET_BYTES];
    getrandom::fill(&mut random).map_err(|_| HttpError::internal())?;
    let ticket = BASE64_URL_SAFE_NO_PAD.encode(random);
    let left = claims.expires_at.saturating_duration_since(context.clock.now());
    let ttl = left.min(context.config.current().auth.ticket_ttl);
    let stored = format!("{token}{}", ticket_binding(&request, &context));
    let stored = context.broker.put_ticket(ticket.clone(), Bytes::from(stored), ttl);
    stored.await.map_err(ticket_store_unavailable)?;
    let fields = AuditFields { user: Some(&*claims.user), ..source.fields("/auth/ticket") };
    context.audit.record(AuditEvent::TicketIssued, fields);
    Ok(HttpResponse::Ok().json(TicketResponse { ticket, expires_in: ttl.as_secs() }))
}

/// Returns what is stored behind the token of a ticket: what the connection must have in common with the request for the ticket
/// (`auth.ticket_bind`). No token has a line break, and neither an address nor a header.
fn ticket_binding(request: &HttpRequest, context: &HttpContext) -> String {
    let config = context.config.current();
    let bind = &config.auth.ticket_bind;
    let mut binding = String::new();
    if bind.contains(&TicketBinding::Address) {
        let address = forwarded::client_address(request.head(), &context.config.current().server);
        binding += &format!("\na{}", ClientAddress::from(address));
    }
    if bind.contains(&TicketBinding::Origin) {
        let origin = request.headers().get(ORIGIN).map_or(b"" as &[u8], HeaderValue::as_bytes);
        binding += &format!("\no{}", String::from_utf8_lossy(origin));
    }
    binding
}

/// Redeems a ticket for its token. `None`: the ticket is unknown, expired, already used, or bound to something else; it is used up
/// then, too.
pub(super) async fn redeem_ticket(
    ticket: &str,
    request: &HttpRequest,
    context: &HttpContext,
) -> Result<Option<String>, HttpError> {
    let is_ticket = ticket.len() == TICKET_CHARACTERS
        && ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !is_ticket {
        return Ok(None);
    }
    let token = context.broker.take_ticket(ticket.to_owned()).await.map_err(ticket_store_unavailable)?;
    let stored = token.and_then(|token| String::from_utf8(token.into()).ok());
    let Some(stored) = stored else { return Ok(None) };
    let (token, binding) = stored.split_at(stored.find('\n').unwrap_or(stored.len()));
    Ok((binding == ticket_binding(request, context)).then(|| token.to_owned()))
}

fn ticket_store_unavailable(error: BrokerError) -> HttpError {
    let error = error.to_string();
    log::warn!("ticket store unavailable error={error:?}");
    HttpError::unavailable("tickets are temporarily unavailable; try again soon")
}
