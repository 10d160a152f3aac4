//! Sessions and subscriptions that a hook has allowed for a time: before it ends, the backend is asked whether they go on. The questions
//! are asked beside the commands of the client, which do not wait for them.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;

use super::Session;
use crate::{
    auth::Claims,
    channel::Channel,
    clock::{NEVER, WallTime},
    hooks::{HookRefusal, HookRequest, Renewal},
    hub::{AwaitDisconnect, CloseReason, RenewSubscription, SubscriptionRenewal},
    protocol::Disconnect,
};

/// Minimum time between two questions about a session or a subscription, and the shortest time that is left when one is asked.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The answer of the refresh hook.
#[derive(Message)]
#[rtype(result = "()")]
struct SessionRenewal {
    /// When the session expired that the backend was asked about.
    asked: WallTime,
    answer: Result<Renewal, HookRefusal>,
}

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

    /// Asks the refresh hook about the session, if the connect hook has allowed it. Otherwise warns the client that its token expires.
    pub(super) fn renew_or_warn(&mut self, expires_at: WallTime, ctx: &mut Context<Self>) {
        let Some(claims) = self.auth_state.claims().filter(|claims| claims.hook.is_some()).cloned() else {
            return self.warn_of_expiry(expires_at);
        };
        let (asked, session) = (claims.expires_at, ctx.address());
        let question = self.ask_hook::<Renewal>(&self.services.hooks.refresh, self.hook_request_of(&claims));
        actix_rt::spawn(async move {
            let answer = question.await;
            // Nothing is left to do for a session that has ended.
            session.do_send(SessionRenewal { asked, answer });
        });
    }

    /// Gives the session another end, and perhaps other `info`.
    fn extend(&mut self, claims: &Claims, expires_at: WallTime, info: Option<Bytes>) {
        let info = info.or_else(|| claims.info.clone());
        self.services.api_grants.note_refresh(&claims.user, expires_at);
        let claims = Claims { expires_at, info, ..claims.clone() };
        self.set_auth_state(self.auth_state.with_claims(claims.into()));
    }

    /// Asks the sub_refresh hook about a subscription.
    pub(super) fn renew_subscription(&self, channel: Channel, asked: WallTime) {
        let Some(claims) = self.auth_state.claims() else { return };
        let request = HookRequest { channel: Some(channel.as_str()), ..self.hook_request_of(claims) };
        let question = self.ask_hook::<Renewal>(&self.services.hooks.sub_refresh, request);
        let (services, outbox, format) = (self.services.clone(), self.outbox.clone(), self.format);
        let (client, key, schedule) = (self.client, self.key, self.renewal_schedule());
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
                    CloseReason::from(&disconnect).close(&outbox, format, client, &services.clock, &services.metrics);
                    return services.hub.do_send(AwaitDisconnect(key));
                }
            };
            services.hub.do_send(RenewSubscription { key, channel, asked, renewal });
        });
    }
}

impl Handler<SessionRenewal> for Session {
    type Result = ();

    fn handle(&mut self, SessionRenewal { asked, answer }: SessionRenewal, _: &mut Self::Context) {
        // A token, or the server API, may have given the session another end meanwhile.
        let is_asked = |claims: &&Arc<Claims>| claims.hook.is_some() && claims.expires_at == asked;
        let Some(claims) = self.auth_state.claims().filter(is_asked).cloned() else { return };
        if self.outbox.is_closing() {
            return;
        }
        let now = self.services.clock.now();
        match answer {
            Ok(Renewal::Until { expires_at, info }) if expires_at > now => self.extend(&claims, expires_at, info),
            Ok(_) => self.close(&Disconnect::EXPIRED),
            Err(HookRefusal::Error(error)) if error.is_temporary() => {
                self.update_hub(&claims, RenewalSchedule::retry(asked, now));
            }
            // It ends when it was to end.
            Err(HookRefusal::Error(_)) => {}
            Err(HookRefusal::Disconnect(disconnect)) => self.close(&disconnect),
        }
        self.flush();
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
