//! Applies a reloaded configuration: the limits at once, and the rules of channels to the subscriptions that exist, by having each
//! session check its own, a few at a time.

use std::{sync::Arc, time::Instant};

use actix::prelude::*;

use super::{
    Hub, HubLimits, SessionControl, SessionKey,
    fanout::MAX_RUN,
    paced_queue::{PacedQueue, continue_after_others},
    pacing::{PaceLimits, Paces},
};
use crate::{broker::Retention, config::Config};

/// Applies a reloaded configuration. Sent to all hubs of the instance.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub(super) struct ApplyConfig {
    pub(super) config: Arc<Config>,
    /// Whether the rules of channels have changed, so that subscriptions have to be checked.
    pub(super) has_new_rules: bool,
}

/// The sessions that have not been told yet that the rules of channels have changed.
#[derive(Default)]
pub(super) struct RulesChecks {
    waiting: PacedQueue<SessionKey>,
    /// Sessions whose mailbox was full. They are told at the next tick.
    postponed: Vec<SessionKey>,
    is_running: bool,
}

impl Hub {
    /// Tells the sessions whose mailbox was full.
    pub(super) fn tell_postponed_of_rules(&mut self, ctx: &mut <Self as Actor>::Context) {
        if !self.rules_checks.postponed.is_empty() {
            let postponed = std::mem::take(&mut self.rules_checks.postponed);
            postponed.into_iter().for_each(|key| self.rules_checks.waiting.add(key));
            self.tell_of_rules(ctx);
        }
    }

    /// Sets how channels keep their publications. Otherwise the next comparison would trim their histories to the former size.
    fn set_retentions(&mut self, config: &Config) {
        for (channel, state) in self.registry.channel_states_mut() {
            let options = match channel.namespace() {
                None => Some(&config.channels),
                Some(name) => config.namespaces.iter().find(|other| other.name == name).map(|found| &found.channels),
            };
            if state.retention.is_some()
                && let Some(retention) = options.and_then(Retention::from_options)
            {
                state.retention = Some(retention);
            }
        }
    }

    fn tell_of_rules(&mut self, ctx: &mut <Self as Actor>::Context) {
        if !self.rules_checks.is_running {
            self.tell_next_of_rules(ctx);
        }
    }

    /// Tells sessions for at most [`MAX_RUN`]; if some are left, continues after the other tasks of the thread.
    fn tell_next_of_rules(&mut self, ctx: &mut <Self as Actor>::Context) {
        let mut now = Instant::now();
        let deadline = now + MAX_RUN;
        while now < deadline
            && let Some(key) = self.rules_checks.waiting.take_due(now)
        {
            let told = self.registry.session(key).map(|session| session.controls.try_send(SessionControl::CheckRules));
            if let Some(Err(SendError::Full(_))) = told {
                self.rules_checks.postponed.push(key);
            }
            now = Instant::now();
        }
        self.rules_checks.is_running = !self.rules_checks.waiting.is_empty();
        if self.rules_checks.is_running {
            continue_after_others(ctx, self.rules_checks.waiting.is_due(now), Self::tell_next_of_rules);
        }
    }
}

impl Handler<ApplyConfig> for Hub {
    type Result = ();

    fn handle(&mut self, ApplyConfig { config, has_new_rules }: ApplyConfig, ctx: &mut Self::Context) {
        self.limits = HubLimits::from(&config.limits);
        self.liveness.set_limits(&config.limits);
        self.fanout.set_pace_limits(PaceLimits::from(&config.limits));
        // A channel that has subscribers keeps its pace.
        self.paces = Paces::new(&config);
        if has_new_rules {
            self.set_retentions(&config);
            // Those that wait from an earlier reload are among them.
            self.rules_checks.postponed.clear();
            self.rules_checks.waiting = self.registry.keys().collect();
            self.tell_of_rules(ctx);
        }
    }
}
