//! Sessions and subscriptions that a hook has allowed for a time: before it ends, the backend is asked whether they go on. The hub has the
//! questions asked, in tasks of their own, because the session reads nothing while a command of its client waits.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{Services, Session, command::ask_hook};
use crate::{
    auth::Claims,
    channel::Channel,
    clock::{NEVER, WallTime},
    hooks::{ForwardedHeaders, HookRefusal, HookRequest, Renewal},
    hub::{
        AwaitDisconnect, CloseReason, RenewSession, RenewSubscription, SessionKey, SessionRenewal, SessionRenewer,
        SetRenewer, SubscriptionRenewal, TokenTakeover,
    },
    protocol::{Disconnect, Format},
    transport::Outbox,
};

/// Minimum time between two questions about a session or a subscription, and the shortest time that is left when one is asked.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// When the backend is asked about what expires.
#[derive(Clone, Copy)]
struct RenewalSchedule {
    /// Maximum time before the end (`auth.refresh_margin`).
    margin: Duration,
    /// Which part of the second half of the margin passes first, in 255ths: not all that expires at one time is asked about at once.
    spread: u8,
}

impl RenewalSchedule {
    /// Returns when the backend is asked about something that expires then.
    fn first(self, expires_at: WallTime, now: WallTime) -> WallTime {
        if expires_at == NEVER {
            return NEVER;
        }
        let left = expires_at.saturating_duration_since(now);
        let margin = self.margin.min(left / 2);
        now.saturating_add(left - margin + margin / 2 * u32::from(self.spread) / u32::from(u8::MAX))
    }

    /// Returns when the backend is asked again after it has not answered; [`NEVER`] if there is no time left.
    fn retry(expires_at: WallTime, now: WallTime) -> WallTime {
        let left = expires_at.saturating_duration_since(now);
        if left <= MIN_INTERVAL { NEVER } else { now.saturating_add((left / 2).max(MIN_INTERVAL)) }
    }
}

/// Asks the backend about a session, with the claims that the session has.
struct HookRenewer {
    services: Arc<Services>,
    /// A question must not keep the socket of a session that has ended.
    outbox: Weak<Outbox>,
    claims: Arc<Claims>,
    takeover: TokenTakeover,
    headers: ForwardedHeaders,
    client: Uuid,
    key: SessionKey,
    format: Format,
    schedule: RenewalSchedule,
}

impl HookRenewer {
    fn request(&self) -> HookRequest<'_> {
        HookRequest {
            user: Some(&self.claims.user),
            meta: self.claims.meta(),
            ..HookRequest::of_connection(self.client, self.format.transport(), self.format.name())
        }
    }
}

impl SessionRenewer for HookRenewer {
    fn renew_session(&self, asked: WallTime) -> bool {
        if self.claims.hook.is_none() {
            return false;
        }
        let question = ask_hook::<Renewal>(&self.services.hooks.refresh, self.request(), self.headers.clone());
        let (services, outbox, user) = (self.services.clone(), self.outbox.clone(), self.claims.user.clone());
        let (key, takeover, schedule) = (self.key, self.takeover.clone(), self.schedule);
        actix_rt::spawn(async move {
            let answer = question.await;
            let Some(outbox) = outbox.upgrade() else { return };
            let now = services.clock.now();
            let renewal = match answer {
                Ok(Renewal::Until { expires_at, info }) if expires_at > now => {
                    if outbox.expires_at() == asked && !takeover.has_happened() {
                        services.api_grants.note_refresh(&user, expires_at);
                    }
                    SessionRenewal::Extended { expires_at, info, renew_at: schedule.first(expires_at, now) }
                }
                Ok(_) => SessionRenewal::Ended(Disconnect::EXPIRED),
                Err(HookRefusal::Error(error)) if error.is_temporary() => {
                    SessionRenewal::Unanswered(RenewalSchedule::retry(asked, now))
                }
                // It ends when it was to end.
                Err(HookRefusal::Error(_)) => return,
                Err(HookRefusal::Disconnect(disconnect)) => SessionRenewal::Ended(disconnect),
            };
            services.hub.do_send(RenewSession { key, asked, takeover, renewal });
        });
        true
    }

    fn renew_subscription(&self, channel: Channel, asked: WallTime) {
        let request = HookRequest { channel: Some(channel.as_str()), ..self.request() };
        let question = ask_hook::<Renewal>(&self.services.hooks.sub_refresh, request, self.headers.clone());
        let (services, outbox, format) = (self.services.clone(), self.outbox.clone(), self.format);
        let (client, key, schedule) = (self.client, self.key, self.schedule);
        actix_rt::spawn(async move {
            let answer = question.await;
            let now = services.clock.now();
            let renewal = match answer {
                Ok(Renewal::Until { expires_at, info }) if expires_at > now => {
                    SubscriptionRenewal::Terms { expires_at, info, renew_at: schedule.first(expires_at, now) }
                }
                Ok(_) => SubscriptionRenewal::Expired,
                Err(HookRefusal::Error(error)) if error.is_temporary() => {
                    let renew_at = RenewalSchedule::retry(asked, now);
                    SubscriptionRenewal::Terms { expires_at: asked, info: None, renew_at }
                }
                // It ends when it was to end.
                Err(HookRefusal::Error(_)) => return,
                Err(HookRefusal::Disconnect(disconnect)) => {
                    let Some(outbox) = outbox.upgrade() else { return };
                    CloseReason::from(&disconnect).close(&outbox, format, client, &services.clock, &services.metrics);
                    return services.hub.do_send(AwaitDisconnect(key));
                }
            };
            services.hub.do_send(RenewSubscription { key, channel, asked, renewal });
        });
    }
}

impl Session {
    fn renewal_schedule(&self) -> RenewalSchedule {
        RenewalSchedule {
            margin: self.services.config.current().auth.refresh_margin,
            spread: self.client.as_bytes()[0],
        }
    }

    /// Returns when the refresh hook is asked about the session.
    pub(super) fn renew_session_at(&self, expires_at: WallTime) -> WallTime {
        let has_hook = self.services.hooks.refresh.is_some();
        if has_hook { self.renewal_schedule().first(expires_at, self.services.clock.now()) } else { NEVER }
    }

    /// Returns when the sub_refresh hook is asked about a subscription.
    pub(super) fn renew_subscription_at(&self, expires_at: WallTime) -> WallTime {
        let has_hook = self.services.hooks.sub_refresh.is_some();
        if has_hook { self.renewal_schedule().first(expires_at, self.services.clock.now()) } else { NEVER }
    }

    /// Gives the hub what it needs to ask the backend about the session.
    pub(super) fn register_renewer(&mut self) {
        let Some(claims) = self.auth_state.claims().cloned() else { return };
        let takeover = self.takeover.get_or_insert_default().clone();
        if claims.hook.is_none() {
            takeover.note();
        }
        let renewer = HookRenewer {
            services: self.services.clone(),
            outbox: Arc::downgrade(&self.outbox),
            claims,
            takeover,
            headers: self.hook_headers.clone(),
            client: self.client,
            key: self.key,
            format: self.format,
            schedule: self.renewal_schedule(),
        };
        self.services.hub.do_send(SetRenewer { key: self.key, renewer: Arc::new(renewer) });
    }

    /// Registers the renewer of a session whose claims have changed, if it needs one.
    pub(super) fn update_renewer(&mut self) {
        let is_of_hook =
            |claims: &Arc<Claims>| claims.hook.is_some() && self.renew_session_at(claims.expires_at) != NEVER;
        if self.takeover.is_some() || self.auth_state.claims().is_some_and(is_of_hook) {
            self.register_renewer();
        }
    }

    /// Takes over the end, and perhaps the `info`, that the backend has given the session. The hub has set the end in the outbox already.
    pub(super) fn apply_renewal(&mut self, asked: WallTime, expires_at: WallTime, info: Option<Bytes>) {
        // A token, or the server API, may have given the session another end meanwhile.
        let is_asked = |claims: &&Arc<Claims>| claims.hook.is_some() && claims.expires_at == asked;
        let Some(claims) = self.auth_state.claims().filter(is_asked) else { return };
        let info = info.or_else(|| claims.info.clone());
        let claims = Claims { expires_at, info, ..Claims::clone(claims) };
        self.auth_state = self.auth_state.with_claims(claims.into());
        self.register_renewer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> WallTime {
        WallTime::from_unix_seconds(seconds)
    }

    #[test]
    fn backend_is_asked_within_the_margin_and_more_often_when_it_does_not_answer() {
        let schedule = |spread| RenewalSchedule { margin: Duration::from_secs(30), spread };
        assert_eq!(schedule(0).first(NEVER, at(0)), NEVER);
        assert_eq!((schedule(0).first(at(100), at(0)), schedule(255).first(at(100), at(0))), (at(70), at(85)));
        assert_eq!(schedule(0).first(at(20), at(0)), at(10), "in the half of a short time");
        let mut asked = vec![at(70)];
        while let Some(next) = asked.last().map(|last| RenewalSchedule::retry(at(100), *last)).filter(|at| *at < NEVER)
        {
            asked.push(next);
        }
        assert!(asked.is_sorted() && asked.len() < 10, "{asked:?}");
        assert!(asked.last().is_some_and(|last| (at(98)..at(100)).contains(last)), "{asked:?}");
    }
}
