//! `POST /auth/backchannel-logout`: an identity provider says that a user has logged out there (OpenID Connect Back-Channel Logout
//! 1.0 §2.5 to §2.8). The tokens of that session, or of that user, are revoked, which closes their sockets on all nodes.

use std::{
    borrow::Cow,
    future::{Ready, ready},
    net::IpAddr,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError, dev::Payload, http::StatusCode, web::Data,
};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{HttpContext, HttpError, RequestBody, forwarded, request_id::id_of};
use crate::{
    address::ClientAddress,
    audit::{AuditEvent, AuditFields},
    auth::{LogoutToken, TokenError, credentials, refusal_log::Refusal},
    broker::{BrokerError, RevokeError, revoke_everywhere},
    connection_limit::{KeyedPermit, Permit},
};

const PATH: &str = "/auth/backchannel-logout";
/// The field of the form.
const FIELD: &str = "logout_token";
/// Maximum bytes of the form beside the token: its name, and fields that are ignored.
pub(super) const MAX_OTHER_FORM_BYTES: usize = 1024;

/// The address of a request that is within `limits.handshakes_per_second`. Only refused tokens are charged to it: when a provider ends
/// thousands of sessions at once, none of these logouts may be lost.
pub(super) struct ProviderAddress(IpAddr);

impl FromRequest for ProviderAddress {
    type Error = LogoutError;
    type Future = Ready<Result<Self, LogoutError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(context) = request.app_data::<Data<HttpContext>>() else {
            return ready(Err(HttpError::internal().into()));
        };
        let address = forwarded::client_address(request.head(), &context.config.current().server);
        ready(context.handshake_rates.load().check(&ClientAddress::from(address)).map(|()| Self(address)).map_err(
            |wait| {
                context.metrics.count_backchannel_logout("limited");
                HttpError::too_many("too many refused logout tokens from this address", wait).into()
            },
        ))
    }
}

/// Handles a logout. The body is read after the address is checked. A provider that does not wait for the answer ends no logout that has
/// begun.
pub(super) async fn log_out(
    ProviderAddress(address): ProviderAddress,
    request: HttpRequest,
    body: Result<RequestBody, HttpError>,
    context: Data<HttpContext>,
) -> Result<HttpResponse, LogoutError> {
    let token = find_token(&request, &body?.0).map(Cow::into_owned);
    let id = id_of(request.head()).map(str::to_owned);
    let logout = actix_rt::spawn(async move {
        let source =
            AuditFields { address: Some(address), path: Some(PATH), request: id.as_deref(), ..AuditFields::default() };
        obey(token.as_deref(), address, &source, &context).await
    });
    // An error means that the task has panicked.
    logout.await.map_err(|_| HttpError::internal())?.map_err(LogoutError::from)
}

async fn obey(
    token: Option<&str>,
    address: IpAddr,
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<HttpResponse, HttpError> {
    let verified = match token {
        Some(token) => verify(token, address, context).await,
        None => Err(Refused::Form),
    };
    let token = verified.map_err(|refused| {
        if matches!(refused, Refused::Overloaded) {
            context.metrics.count_backchannel_logout("limited");
            return HttpError::from(refused);
        }
        let address = ClientAddress::from(address);
        let _ = context.handshake_rates.load().charge(&address);
        let is_pending = matches!(refused, Refused::Token(error) if error.is_temporary());
        context.metrics.count_backchannel_logout(if is_pending { "pending" } else { "refused" });
        if let Refused::Token(error) = refused {
            context.refusals.record_from(Refusal::LogoutToken(error), source);
        }
        HttpError::from(refused)
    })?;
    let fields = AuditFields {
        issuer: Some(&token.issuer),
        user: token.user.as_deref(),
        jti: Some(&token.jti),
        sid: token.sid.as_deref(),
        ..*source
    };
    context.audit.record(AuditEvent::BackChannelLogout, fields);
    let audit = (&*context.audit, AuditFields { by: Some("back_channel_logout"), ..*source });
    let revocations = token.revocations(&context.revocations);
    if let Err(error) = revoke_everywhere(&*context.broker, revocations, audit, &context.metrics).await {
        let is_in_force = matches!(error, RevokeError::Unconfirmed(_));
        context.metrics.count_backchannel_logout(if is_in_force { "unconfirmed" } else { "failed" });
        return Err(unavailable(&error));
    }
    // Only now: after an error the provider may send the same token again. If this fails, a repetition revokes what is revoked already.
    let _ = revoke_everywhere(&*context.broker, vec![token.spent()], audit, &context.metrics).await;
    context.metrics.count_backchannel_logout("obeyed");
    log::info!("obeyed back-channel logout issuer={:?} one_session={}", token.issuer, token.sid.is_some());
    Ok(HttpResponse::Ok().finish())
}

/// Why a request is refused.
#[derive(Clone, Copy)]
enum Refused {
    Form,
    Token(TokenError),
    /// It was not verified.
    Overloaded,
}

impl From<Refused> for HttpError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Form => {
                Self::bad_request("the body must be application/x-www-form-urlencoded with one logout_token")
            }
            Refused::Overloaded => Self::overloaded(),
            Refused::Token(error) if error.is_temporary() => Self::from(error),
            Refused::Token(TokenError::UsedLogoutToken) => Self::bad_request("the logout token was used before"),
            Refused::Token(_) => Self::bad_request("invalid logout token; the log of the hub says why"),
        }
    }
}

fn find_token<'a>(request: &HttpRequest, body: &'a [u8]) -> Option<Cow<'a, str>> {
    let is_form = request.content_type().eq_ignore_ascii_case("application/x-www-form-urlencoded");
    credentials::form_value(body, FIELD).filter(|_| is_form)
}

/// Verifies a logout token. If its key is about to be fetched, waits for it: hardly any provider repeats a logout that was answered
/// 503. One that waits counts as an unauthenticated connection.
async fn verify(token: &str, address: IpAddr, context: &HttpContext) -> Result<LogoutToken, Refused> {
    let deadline = Instant::now() + context.config.current().auth.key_sets.timeout;
    let mut permits = None;
    loop {
        // Before the token is verified: a fetch that ends meanwhile is not missed.
        let fetched = context.verifier.key_sets().fetched();
        let verified = context.verifications.verify(address.into(), || context.verifier.verify_logout(token));
        let Ok(verified) = verified.await else { return Err(Refused::Overloaded) };
        if !matches!(verified, Err(error) if error.is_temporary()) {
            return verified.map_err(Refused::Token);
        }
        permits = permits.or_else(|| waiting_permits(&ClientAddress::from(address), context));
        if permits.is_none() || timeout_at(deadline, fetched).await.is_err() {
            return verified.map_err(Refused::Token);
        }
    }
}

fn waiting_permits(address: &ClientAddress, context: &HttpContext) -> Option<(Permit, KeyedPermit<ClientAddress>)> {
    let address_permit = context.unauthenticated_address_limit.acquire(address)?;
    Some((context.unauthenticated_limit.acquire()?, address_permit))
}

fn unavailable(error: &RevokeError) -> HttpError {
    HttpError::unavailable(match error {
        RevokeError::Broker(BrokerError::RevocationsFull(_)) => "nothing is revoked: limits.revocations is reached",
        RevokeError::Broker(_) => "the tokens are revoked on this instance only, until the broker is available again",
        RevokeError::Unconfirmed(_) => "the tokens are revoked, but some instances have not confirmed it yet",
    })
}

/// An error whose body has the form of the specification (§2.8), which is that of OAuth (RFC 6749 §5.2).
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct LogoutError(#[from] HttpError);

#[derive(Serialize)]
struct LogoutErrorBody<'a> {
    error: &'static str,
    error_description: &'a str,
}

impl ResponseError for LogoutError {
    fn status_code(&self) -> StatusCode {
        self.0.status()
    }

    fn error_response(&self) -> HttpResponse {
        let error = match self.0.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "temporarily_unavailable",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request",
        };
        self.0.respond_with(LogoutErrorBody { error, error_description: self.0.message() })
    }
}
