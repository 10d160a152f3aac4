//! Asks the backend's connect hook who a client without a token is. The answer becomes claims, which are checked like those of
//! a token.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::sleep;

use super::{
    Claims, Permissions,
    claims::HookClaims,
    grants::{GrantContext, RawGrants},
};
use crate::{
    clock::{Clock, WallTime},
    config::{AnonymousAccess, Config},
    hooks::{ConnectApproval, ForwardedHeaders, Hook, HookRefusal, HookRequest},
    protocol::Disconnect,
    publication::is_valid_user,
    revocation::TokenIdentity,
};

/// What the audit log says of a client that the hook has let in (`by`).
pub const CONNECT_HOOK: &str = "connect_hook";

/// The session that the hook has approved for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectGrant {
    /// The claims of its session.
    pub claims: Arc<Claims>,
    /// Raw JSON for the client, in the reply to `connect`.
    pub data: Option<Bytes>,
}

/// Asks the hook who a client is. Nothing is sent before the future is polled.
///
/// # Errors
/// The error or the close that the backend wants. A temporary error if it does not answer as it should, with a result that grants
/// something that no token could among them. Closes for a session that has expired, or whose user has been revoked since.
pub fn ask_connect_hook(
    hook: Arc<Hook>,
    request: &HookRequest<'_>,
    headers: ForwardedHeaders,
    permissions: Arc<Permissions>,
    config: Arc<Config>,
    clock: Clock,
) -> impl Future<Output = Result<ConnectGrant, HookRefusal>> + use<> {
    let body = request.encode();
    async move {
        // A revocation from now on means the session, whenever the backend has decided.
        let ask = async |asked_at: WallTime| {
            let check = |approval| grant(approval, asked_at, &permissions, &config);
            hook.clone().ask_and_check(body.clone(), headers.clone(), check).await
        };
        let is_revoked = |claims: &Claims, token: &TokenIdentity| permissions.is_revoked(&claims.user, token);
        let asked_at = clock.now();
        let mut granted = ask(asked_at).await?;
        // Revocations mean whole seconds. A backend that lets the user in again in the second of one is asked once more in the next.
        let next_second = WallTime::from_unix_seconds(asked_at.unix_seconds() + 1);
        let in_next_second = TokenIdentity { issued_at: next_second, ..granted.claims.token };
        if is_revoked(&granted.claims, &granted.claims.token) && !is_revoked(&granted.claims, &in_next_second) {
            sleep(next_second.saturating_duration_since(clock.now())).await;
            granted = ask(clock.now().max(next_second)).await?;
        }
        let claims = &granted.claims;
        if claims.expires_at <= clock.now() {
            return Err(HookRefusal::Disconnect(Disconnect::EXPIRED));
        }
        if is_revoked(claims, &claims.token) {
            return Err(HookRefusal::Disconnect(Disconnect::REVOKED_TOKEN));
        }
        Ok(granted)
    }
}

/// Checks an answer.
///
/// # Errors
/// What is wrong with it.
fn grant(
    approval: ConnectApproval,
    asked_at: WallTime,
    permissions: &Permissions,
    config: &Config,
) -> Result<ConnectGrant, String> {
    let user = approval.user.ok_or("result.user is missing; it is \"\" for an anonymous session")?;
    if user.is_empty() && config.auth.anonymous == AnonymousAccess::Never {
        return Err("result.user is empty, but auth.anonymous is \"never\"".to_owned());
    }
    if !user.is_empty() && !is_valid_user(&user) {
        return Err("result.user is too long or has control characters".to_owned());
    }
    let raw = RawGrants {
        channels: approval.channels.as_deref(),
        subs: approval.subs.as_deref(),
        caps: approval.caps.as_deref(),
    };
    let context =
        GrantContext { permissions, max_subscriptions: config.limits.channels_per_session, user: &user, now: asked_at };
    let grants = raw.validate(context).map_err(|error| format!("result: {error}"))?;
    let claims = Claims {
        user: user.into(),
        expires_at: approval.expires_at,
        token: TokenIdentity { issued_at: asked_at, ..TokenIdentity::default() },
        info: approval.info,
        grants,
        hook: Some(Box::new(HookClaims { meta: approval.meta })),
    };
    Ok(ConnectGrant { claims: claims.into(), data: approval.data })
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::{channel::Channel, clock::NEVER};

    fn approval(user: Option<&str>) -> ConnectApproval {
        ConnectApproval {
            user: user.map(str::to_owned),
            expires_at: NEVER,
            info: None,
            data: None,
            meta: None,
            channels: None,
            subs: None,
            caps: None,
        }
    }

    fn check(approval: ConnectApproval, anonymous: AnonymousAccess) -> Result<ConnectGrant, String> {
        let mut config = Config::default();
        config.auth.anonymous = anonymous;
        let permissions = Permissions::new(&config.channels, &config.namespaces);
        grant(approval, WallTime::from_unix_seconds(50), &permissions, &config)
    }

    #[test]
    fn session_needs_a_user_that_the_backend_has_named() {
        let ann = check(approval(Some("ann")), AnonymousAccess::Never).unwrap();
        assert_eq!((&*ann.claims.user, ann.claims.token.issued_at), ("ann", WallTime::from_unix_seconds(50)));
        assert!(ann.claims.hook.is_some() && ann.claims.grants.is_none());
        assert!(check(approval(Some("")), AnonymousAccess::Token).unwrap().claims.is_anonymous());
        for (user, anonymous) in [
            (None, AnonymousAccess::Always),
            (Some(""), AnonymousAccess::Never),
            (Some("a\nb"), AnonymousAccess::Never),
            (Some(&*"x".repeat(10_000)), AnonymousAccess::Never),
        ] {
            let error = check(approval(user), anonymous).unwrap_err();
            assert!(error.starts_with("result.user "), "{error}");
        }
    }

    #[test]
    fn grants_are_checked_as_those_of_a_token() {
        let raw = |value| to_raw_value(&value).ok();
        let caps = json!([{"channels": ["news"], "allow": ["pub"]}]);
        let granted = ConnectApproval {
            channels: raw(json!(["news"])),
            subs: raw(json!({"#ann": {"info": 1}})),
            caps: raw(caps),
            ..approval(Some("ann"))
        };
        let claims = check(granted, AnonymousAccess::Never).unwrap().claims;
        let grants = claims.grants.as_ref().unwrap();
        let channels: Vec<&Channel> = grants.subscriptions.iter().map(|granted| &granted.channel).collect();
        assert_eq!(channels, [&Channel::new("news").unwrap(), &Channel::new("#ann").unwrap()]);
        assert!(grants.caps[0].publish);
        for channels in [json!(["#bob"]), json!(["a*"]), json!(["nowhere:1"]), json!("news"), json!(["a", "a"])] {
            let foreign = ConnectApproval { channels: raw(channels.clone()), ..approval(Some("ann")) };
            assert!(check(foreign, AnonymousAccess::Never).is_err(), "{channels}");
        }
    }
}
