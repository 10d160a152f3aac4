//! `POST /auth/ticket`: exchanges a token for a ticket, which opens one connection within `auth.ticket_ttl`. The URL of
//! a WebSocket is logged on its way, with the credentials in it; a ticket from a log is expired or used, unless its handshake was refused for a while.

use std::{net::IpAddr, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{AUTHORIZATION, ORIGIN},
    },
    web::Data,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Serialize;

use super::{HttpContext, HttpError, forwarded, request_source::RequestSource, stream::is_same_origin};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
    auth::{Claims, credentials, refusal_log::Refusal},
    broker::BrokerError,
    config::{Door, TicketBinding},
    protocol::ErrorCode,
    revocation::TokenIds,
};

const PATH: &str = "/auth/ticket";
/// Random bytes of a ticket: too many to guess one.
const TICKET_BYTES: usize = 32;
/// Characters of a ticket: [`TICKET_BYTES`] in base64url.
const TICKET_CHARACTERS: usize = (TICKET_BYTES * 4).div_ceil(3);

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
        context.refusals.record_from(Refusal::Token(*error), &source.fields(PATH));
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
    let stored = format!("{token}{}", ticket_binding(&request, origin_of(&request), &context));
    let stored = context.broker.put_ticket(ticket.clone(), Bytes::from(stored), ttl);
    stored.await.map_err(ticket_store_unavailable)?;
    let fields = AuditFields { user: Some(&*claims.user), ..source.fields(PATH) };
    context.audit.record(AuditEvent::TicketIssued, fields);
    Ok(HttpResponse::Ok().json(TicketResponse { ticket, expires_in: ttl.as_secs() }))
}

/// Returns what is stored behind the token of a ticket: what the connection must have in common with the request for the ticket
/// (`auth.ticket_bind`). No token has a line break, and neither an address nor a header.
fn ticket_binding(request: &HttpRequest, origin: &str, context: &HttpContext) -> String {
    let config = context.config.current();
    let bind = &config.auth.ticket_bind;
    let mut binding = String::new();
    if bind.contains(&TicketBinding::Address) {
        let address = forwarded::client_address(request.head(), &context.config.current().server);
        binding += &format!("\na{}", ClientAddress::from(address));
    }
    if bind.contains(&TicketBinding::Origin) {
        binding += &format!("{BOUND_ORIGIN}{origin}");
    }
    binding
}

/// Begins the origin of a binding, which is its last part.
const BOUND_ORIGIN: &str = "\no";

/// Returns the page of a request; empty without one, or if its header is not ASCII, which browsers never send.
fn origin_of(request: &HttpRequest) -> &str {
    request.headers().get(ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default()
}

/// Returns whether a request has in common with that for a ticket what the binding says. A page sends its origin with the request for the
/// ticket, but an `EventSource` of the hub's own page sends none.
fn fits_binding(binding: &str, request: &HttpRequest, context: &HttpContext) -> bool {
    let origin = match binding.rsplit_once(BOUND_ORIGIN) {
        Some((_, bound))
            if !request.headers().contains_key(ORIGIN)
                && is_same_origin(request)
                && context.origin_policy.is_of_own_page(bound, request.head()) =>
        {
            bound
        }
        _ => origin_of(request),
    };
    binding == ticket_binding(request, origin, context)
}

/// A ticket whose token is known. It can open a connection until [`Self::use_up`]; dropped, it is good for another attempt.
pub(super) struct UnusedTicket {
    id: String,
    address: Option<IpAddr>,
    door: Option<Door>,
    request: Option<String>,
}

impl UnusedTicket {
    /// Uses the ticket up, also if the client disconnects or the handshake times out meanwhile, and records the use in the audit log.
    /// `owner` is the owner of its token, once that is verified. Returns `false` if the ticket has expired, or another handshake has
    /// used it up: of several handshakes with one ticket, one gets `true`.
    ///
    /// # Errors
    /// 503: the broker has failed, and may have used the ticket up or not.
    pub(super) async fn use_up(
        self,
        owner: Option<(Arc<Claims>, TokenIds)>,
        context: &HttpContext,
    ) -> Result<bool, HttpError> {
        let Self { id, address, door, request } = self;
        let (taken, audit) = (context.broker.take_ticket(id), context.audit.clone());
        // A task of its own: the broker may use the ticket up after the handshake has ended, and the audit log has each use.
        let used = actix_rt::spawn(async move {
            let is_used = taken.await.map_err(ticket_store_unavailable)?.is_some();
            if is_used {
                let fields = AuditFields { address, door, request: request.as_deref(), ..AuditFields::default() };
                let fields = match &owner {
                    Some((claims, ids)) => fields.with_token(&claims.user, ids, claims.expires_at),
                    None => fields,
                };
                audit.record(AuditEvent::TicketUsed, fields);
            }
            Ok(is_used)
        });
        used.await.unwrap_or_else(|_| Err(HttpError::internal()))
    }
}

/// Reads the token of a ticket, which stays unused. `None`: the ticket is unknown, expired, used up, or bound to another address or
/// page, which uses it up.
///
/// # Errors
/// 503: the broker has failed.
pub(super) async fn read_ticket(
    ticket: &str,
    request: &HttpRequest,
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<Option<(UnusedTicket, String)>, HttpError> {
    let is_ticket = ticket.len() == TICKET_CHARACTERS
        && ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !is_ticket {
        return Ok(None);
    }
    let stored = context.broker.read_ticket(ticket.to_owned()).await.map_err(ticket_store_unavailable)?;
    let Some(stored) = stored.and_then(|stored| String::from_utf8(stored.into()).ok()) else { return Ok(None) };
    let (address, door, request_id) = (source.address, source.door, source.request.map(str::to_owned));
    let unused = UnusedTicket { id: ticket.to_owned(), address, door, request: request_id };
    let (token, binding) = stored.split_at(stored.find('\n').unwrap_or(stored.len()));
    if !fits_binding(binding, request, context) {
        unused.use_up(None, context).await?;
        return Ok(None);
    }
    Ok(Some((unused, token.to_owned())))
}

fn ticket_store_unavailable(error: BrokerError) -> HttpError {
    let error = error.to_string();
    log::warn!("ticket store unavailable error={error:?}");
    HttpError::unavailable("tickets are temporarily unavailable; try again soon")
}
