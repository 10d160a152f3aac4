//! `POST /auth/ticket`: a token for a ticket, which opens one connection, soon. A browser has to put what it opens a
//! WebSocket with into a URL, and URLs stand in logs: a ticket that is read there is worthless.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header::AUTHORIZATION},
    web::Data,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{HttpContext, HttpError, request_source::RequestSource};
use crate::{auth::credentials, clock::millis, config::Door, protocol::ErrorCode};

/// Random bytes of a ticket; nobody guesses one while it lives.
const TICKET_BYTES: usize = 32;
/// The same in base64url.
const TICKET_CHARACTERS: usize = 43;

/// What is answered later; the error is for the log, in the operator's words.
type Answer<T> = BoxFuture<'static, Result<T, String>>;

/// Where tickets are kept until they are used, for all instances.
#[derive(Clone)]
pub struct TicketAccess {
    /// Keeps a token under a ticket's id for so long.
    pub put: Arc<dyn Fn(String, Bytes, Duration) -> Answer<()> + Send + Sync>,
    /// Gives the token to whoever asks first.
    pub take: Arc<dyn Fn(String) -> Answer<Option<Bytes>> + Send + Sync>,
}

#[derive(Serialize)]
struct TicketResponse {
    ticket: String,
    expires_in: u64,
}

/// A ticket for the token in `Authorization`.
pub(super) async fn issue_ticket(
    source: RequestSource,
    request: HttpRequest,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    if !context.config.auth.doors.contains(&Door::Ticket) {
        return Err(HttpError::new(StatusCode::NOT_FOUND, ErrorCode::NotAvailable, "there are no tickets here"));
    }
    source.origin_check.require_allowed()?;
    let values: Vec<&[u8]> = request.headers().get_all(AUTHORIZATION).map(|value| value.as_bytes()).collect();
    if values.is_empty() {
        return Err(HttpError::unauthorized("a ticket is given for a token in Authorization: Bearer"));
    }
    let token = credentials::bearer_token(&values).map_err(|_| HttpError::invalid_token(false))?;
    let claims = context.verifier.verify(token)?;
    // Sessions without a user are told apart by where they come from, or one would take the tickets of all.
    let whose = (&*claims.user, claims.is_anonymous().then_some(source.address));
    let charged = context.ticket_rates.charge(&whose);
    charged.map_err(|wait| HttpError::too_many("too many tickets for this user", wait))?;
    let mut random = [0; TICKET_BYTES];
    getrandom::fill(&mut random).map_err(|_| HttpError::internal())?;
    let ticket = BASE64_URL_SAFE_NO_PAD.encode(random);
    let left = claims.expires_at.saturating_sub(context.clock.now());
    let ttl = Duration::from_millis(left.clamp(0, millis(context.config.auth.ticket_ttl)).unsigned_abs());
    (context.tickets.put)(ticket.clone(), Bytes::copy_from_slice(token.as_bytes()), ttl).await.map_err(unavailable)?;
    Ok(HttpResponse::Ok().json(TicketResponse { ticket, expires_in: ttl.as_secs() }))
}

/// The token that a ticket stands for; `None` when there is none, or not any more.
pub(super) async fn redeem_ticket(ticket: &str, context: &HttpContext) -> Result<Option<String>, HttpError> {
    let is_ticket = ticket.len() == TICKET_CHARACTERS
        && ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !is_ticket {
        return Ok(None);
    }
    let token = (context.tickets.take)(ticket.to_owned()).await.map_err(unavailable)?;
    Ok(token.and_then(|token| String::from_utf8(token.into()).ok()))
}

fn unavailable(problem: String) -> HttpError {
    log::warn!("tickets: {problem}");
    HttpError::unavailable("tickets cannot be kept at the moment; try again soon")
}
