//! Checks the credential of a handshake, or of a request for a stream: finds it in the request, and verifies its token.

use std::sync::Arc;

use actix_web::{
    HttpRequest,
    http::header::{AUTHORIZATION, COOKIE},
};
use uuid::Uuid;

use super::{
    HttpContext, HttpError, forwarded,
    handshake::{HandshakeRefusal, refuse},
    origin_policy::{OriginCheck, record_refusal as record_origin_refusal},
    ticket::{UnusedTicket, read_ticket},
};
use crate::{
    audit::AuditFields,
    auth::{
        Claims, HandshakeAuth, TokenError,
        credentials::{self, Credential, CredentialError, HandshakeCredentials},
        refusal_log::{OriginRefusal, Refusal},
    },
    config::RejectMode,
    hub::RefusedAttempt,
    protocol::Disconnect,
    revocation::TokenIds,
};

/// What is known of a handshake whose credential is checked.
#[derive(Clone, Copy)]
pub(super) struct Handshake<'a> {
    pub(super) client: Uuid,
    pub(super) request: &'a HttpRequest,
    pub(super) source: &'a AuditFields<'a>,
    pub(super) context: &'a HttpContext,
}

/// The result of checking the credential of a handshake.
pub(super) struct Authentication {
    pub(super) auth: HandshakeAuth,
    pub(super) ids: TokenIds,
    /// The ticket whose token authenticates the handshake.
    pub(super) ticket: Option<UnusedTicket>,
}

impl From<HandshakeAuth> for Authentication {
    fn from(auth: HandshakeAuth) -> Self {
        Self { auth, ids: TokenIds::default(), ticket: None }
    }
}

/// Authenticates a handshake with the credential that it carries. A cookie counts only from a listed origin.
pub(super) async fn authenticate_handshake(
    credentials: &HandshakeCredentials<'_>,
    origin_check: OriginCheck,
    handshake: Handshake<'_>,
) -> Result<Authentication, HandshakeRefusal> {
    let Handshake { request, context, .. } = handshake;
    match &credentials.credential {
        // Without an Origin it is no current browser, or one that hides which page it is for.
        Some(Credential::Cookie(_)) if origin_check == OriginCheck::NoOrigin => {
            let refusal = OriginRefusal::CookieWithoutOrigin;
            record_origin_refusal(context, refusal, request.head());
            Err(refuse("origin", HttpError::forbidden(refusal.to_string())).recorded())
        }
        // The browser sends the cookie for any page: without a listed origin the client must send a token explicitly.
        Some(Credential::Cookie(_)) if origin_check != OriginCheck::Listed => {
            record_origin_refusal(context, OriginRefusal::CookieOfUnlistedOrigin, request.head());
            Ok(HandshakeAuth::Unauthenticated.into())
        }
        Some(credential) => authenticate(credential, handshake).await,
        None => Ok(HandshakeAuth::Unauthenticated.into()),
    }
}

/// Returns the credential of a request, which has at most one.
pub(super) fn find_credentials<'a>(
    request: &'a HttpRequest,
    protocols: &[&'a str],
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<HandshakeCredentials<'a>, HandshakeRefusal> {
    let all = |name| request.headers().get_all(name).map(|value| value.as_bytes()).collect::<Vec<_>>();
    let (authorization, cookies) = (all(AUTHORIZATION), all(COOKIE));
    let config = context.config.current();
    let auth = &config.auth;
    let query = request.query_string();
    let sources = credentials::CredentialSources { query, protocols, authorization: &authorization, cookies: &cookies };
    let found = credentials::find_credentials(sources, &auth.doors, &auth.cookie).map_err(|error| {
        context.refusals.record_from(Refusal::Credentials(error), source);
        let reason = if error == CredentialError::AuthorizationHeader { "token" } else { "malformed" };
        refuse(reason, error.into()).recorded()
    })?;
    if found.credential.is_none()
        && let Some(door) = credentials::disabled_door(sources, &auth.doors, &auth.cookie)
    {
        context.refusals.record_from(Refusal::DisabledDoor(door), source);
    }
    Ok(found)
}

async fn authenticate(
    credential: &Credential<'_>,
    handshake: Handshake<'_>,
) -> Result<Authentication, HandshakeRefusal> {
    let Handshake { request, source, context, .. } = handshake;
    let unavailable = |error| refuse("broker", error);
    let (verified, ticket) = match credential {
        Credential::Token(token) => (verify(token, handshake).await?, None),
        Credential::Cookie(token) => (verify(token, handshake).await?, None),
        // The token is verified again: it may have expired or been revoked since the ticket was issued.
        Credential::Ticket(ticket) => {
            match read_ticket(ticket, request, source, context).await.map_err(unavailable)? {
                Some((ticket, token)) => (verify(&token, handshake).await?, Some(ticket)),
                None => (Err(TokenError::UnknownTicket), None),
            }
        }
    };
    match verified {
        Ok((claims, ids)) => Ok(Authentication { auth: HandshakeAuth::Authenticated(Arc::new(claims)), ids, ticket }),
        Err(refusal) => {
            if let Some(ticket) = ticket.filter(|_| !refusal.is_temporary()) {
                ticket.use_up(None, context).await.map_err(unavailable)?;
            }
            Ok(reject_token(refusal, source, context)?.into())
        }
    }
}

/// Refuses a handshake because of its token, or has its connection accepted and closed (`auth.reject`).
pub(super) fn reject_token(
    refusal: TokenError,
    source: &AuditFields<'_>,
    context: &HttpContext,
) -> Result<HandshakeAuth, HandshakeRefusal> {
    context.refusals.record_from(Refusal::Token(refusal), source);
    match context.config.current().auth.reject {
        _ if refusal == TokenError::RevocationsPending => Err(refuse("broker", refusal.into()).recorded()),
        _ if refusal.is_temporary() => Err(refuse("keys", refusal.into()).recorded()),
        RejectMode::Close if refusal.needs_new_token() => Ok(HandshakeAuth::Rejected(Disconnect::EXPIRED_TOKEN)),
        RejectMode::Close => Ok(HandshakeAuth::Rejected(Disconnect::INVALID_TOKEN)),
        RejectMode::Http => Err(refuse("token", refusal.into()).recorded()),
    }
}

/// Verifies a token when it is the client's turn. Reads its ids only for an audit log, and the user of a refused token only for
/// explanations. Both cost time, so they are part of the turn.
async fn verify(
    token: &str,
    handshake: Handshake<'_>,
) -> Result<Result<(Claims, TokenIds), TokenError>, HandshakeRefusal> {
    let Handshake { client, request, context, .. } = handshake;
    let address = forwarded::client_address(request.head(), &context.config.current().server);
    let HttpContext { verifier, audit, clock, hubs, .. } = context;
    let verified = context.verifications.verify(address.into(), || {
        let verified = match audit.is_enabled() {
            true => verifier.verify_with_ids(token),
            false => verifier.verify(token).map(|claims| (claims, TokenIds::default())),
        };
        if let Err(error) = &verified
            && hubs.refused_attempts().is_enabled()
            && let Some(user) = verifier.user_of_refused(token)
        {
            let (at, is_signed, reason) = (clock.now(), error.is_of_signed_token(), error.to_string().into());
            hubs.refused_attempts().note(RefusedAttempt { at, client, user, is_signed, code: None, reason });
        }
        verified
    });
    verified.await.map_err(|overloaded| refuse("overload", overloaded.into()))
}
