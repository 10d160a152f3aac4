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

use super::{Failure, Shared, visitor::Visitor};
use crate::{
    auth::{Refusal, door},
    clock::millis,
    config::Door,
    protocol::ErrorCode,
};

/// Random bytes of a ticket; nobody guesses one while it lives.
const TICKET_BYTES: usize = 32;
/// The same in base64url.
const TICKET_CHARACTERS: usize = 43;

/// What is answered later; the error is for the log, in the operator's words.
type Answer<T> = BoxFuture<'static, Result<T, String>>;

/// Where tickets are kept until they are used, for all instances.
#[derive(Clone)]
pub struct Tickets {
    /// Keeps a token under a ticket's id for so long.
    pub put: Arc<dyn Fn(String, Bytes, Duration) -> Answer<()> + Send + Sync>,
    /// Gives the token to whoever asks first.
    pub take: Arc<dyn Fn(String) -> Answer<Option<Bytes>> + Send + Sync>,
}

#[derive(Serialize)]
struct Issued {
    ticket: String,
    expires_in: u64,
}

/// A ticket for the token in `Authorization`.
pub(super) async fn issue(
    visitor: Visitor,
    request: HttpRequest,
    shared: Data<Shared>,
) -> Result<HttpResponse, Failure> {
    if !shared.config.auth.doors.contains(&Door::Ticket) {
        return Err(Failure::new(StatusCode::NOT_FOUND, ErrorCode::NotAvailable, "there are no tickets here"));
    }
    visitor.standing.admit()?;
    let values: Vec<&[u8]> = request.headers().get_all(AUTHORIZATION).map(|value| value.as_bytes()).collect();
    if values.is_empty() {
        return Err(Failure::unauthorized("a ticket is given for a token in Authorization: Bearer"));
    }
    let token = door::in_authorization(&values).map_err(|_| Failure::bad_token(false))?;
    let claims = shared.verifier.verify(token).map_err(|refusal| Failure::bad_token(refusal == Refusal::Expired))?;
    // Sessions without a user are told apart by where they come from, or one would take the tickets of all.
    let whose = (&*claims.user, claims.is_anonymous().then_some(visitor.address));
    let counted = shared.ticket_rates.take(&whose);
    counted.map_err(|wait| Failure::too_many("too many tickets for this user", wait))?;
    let mut random = [0; TICKET_BYTES];
    getrandom::fill(&mut random).map_err(|_| Failure::internal())?;
    let ticket = BASE64_URL_SAFE_NO_PAD.encode(random);
    let left = claims.expires_at.saturating_sub(shared.clock.now());
    let ttl = Duration::from_millis(left.clamp(0, millis(shared.config.auth.ticket_ttl)).unsigned_abs());
    (shared.tickets.put)(ticket.clone(), Bytes::copy_from_slice(token.as_bytes()), ttl).await.map_err(unavailable)?;
    Ok(HttpResponse::Ok().json(Issued { ticket, expires_in: ttl.as_secs() }))
}

/// The token that a ticket stands for; `None` when there is none, or not any more.
pub(super) async fn redeem(ticket: &str, shared: &Shared) -> Result<Option<String>, Failure> {
    let is_ticket = ticket.len() == TICKET_CHARACTERS
        && ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !is_ticket {
        return Ok(None);
    }
    let token = (shared.tickets.take)(ticket.to_owned()).await.map_err(unavailable)?;
    Ok(token.and_then(|token| String::from_utf8(token.into()).ok()))
}

fn unavailable(problem: String) -> Failure {
    log::warn!("tickets: {problem}");
    Failure::unavailable("tickets cannot be kept at the moment; try again soon")
}
