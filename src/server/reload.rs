//! Applies a configuration that was loaded again to the running server.

use std::sync::Arc;

use super::{RunningServer, api, rates};
use crate::{
    audit::{AuditEvent, AuditFields},
    config::{Config, ConfigChange, ConfigErrors, Limits},
    http::HttpContext,
};

impl RunningServer {
    /// Applies the options of `loaded` that can be reloaded ([`crate::config::OPTIONS`]) to all that is asked from now on, and has
    /// the sessions end the subscriptions that the rules of channels do not allow any more. Logs the names of the options that
    /// have changed, and of those that need a restart. Returns the configuration in force.
    ///
    /// # Errors
    /// The options that need a restart do not fit together with the changed ones. Nothing has changed then.
    pub fn reload_config(&self, loaded: &Config) -> Result<Arc<Config>, ConfigErrors> {
        let http = self.http();
        let in_force = http.config.snapshot();
        let change = match ConfigChange::between(&in_force, loaded) {
            Ok(change) => change,
            Err(errors) => {
                self.record_refused_config(&errors.to_string());
                return Err(errors);
            }
        };
        if !change.needs_restart.is_empty() {
            log::warn!("changed options require a restart options={:?}", change.needs_restart.join(","));
        }
        if change.changed.is_empty() {
            return Ok(in_force);
        }
        let has_new_rules = ["channels", "namespaces"].iter().any(|section| change.changes_section(section));
        let options = change.changed.join(",");
        let new = Arc::new(change.merged);
        http.config.replace(new.clone());
        if has_new_rules {
            http.permissions.replace_rules(&new.channels, &new.namespaces);
        }
        if in_force.origins != new.origins {
            http.origin_policy.replace_allowed(&new.origins);
        }
        if in_force.limits != new.limits {
            self.set_limits(&in_force.limits, &new.limits);
        }
        // After the rules: a session that subscribes meanwhile is checked by them, or told of them.
        http.hubs.apply_config(&new, has_new_rules);
        log::info!("reloaded configuration options={options:?}");
        let changed = AuditFields { options: Some(&options), ..AuditFields::default() };
        http.audit.record(AuditEvent::ConfigReloaded, changed);
        Ok(new)
    }

    /// Records in the audit log that a configuration was refused. `problem` has no secrets.
    pub fn record_refused_config(&self, problem: &str) {
        let refused = AuditFields { reason: Some(problem), ..AuditFields::default() };
        self.http().audit.record(AuditEvent::ConfigReloaded, refused);
    }

    /// Sets the limits that have a state. All others are read from the configuration where they are used.
    fn set_limits(&self, old: &Limits, new: &Limits) {
        let HttpContext {
            connection_limit,
            address_limit,
            unauthenticated_limit,
            unauthenticated_address_limit,
            user_limit,
            verifications,
            verifier,
            login_users,
            hubs,
            broker,
            ..
        } = self.http();
        connection_limit.set_limit(new.connections);
        address_limit.set_limit(new.connections_per_address);
        unauthenticated_limit.set_limit(new.waiting);
        unauthenticated_address_limit.set_limit(new.waiting_per_address);
        user_limit.set_limit(new.connections_per_user);
        verifications.set_limits(new);
        verifier.set_max_subscriptions(new.channels_per_session);
        login_users.iter().for_each(|users| users.set_channels_per_session(new.channels_per_session));
        hubs.api_grants().set_max_per_user(new.channels_per_session);
        let http = self.http();
        // A limiter with another rate begins anew: its buckets are empty.
        for (limiter, old, new) in [
            (&http.handshake_rates, old.handshakes_per_second, new.handshakes_per_second),
            (&http.emulation_rates, old.emulation_requests_per_second, new.emulation_requests_per_second),
            (&http.ticket_rates, old.tickets_per_second, new.tickets_per_second),
        ] {
            if old != new {
                limiter.store(Arc::new(rates(new)));
            }
        }
        if old.publications_per_second != new.publications_per_second {
            self.components.api.rates.store(api::UserRates::new(new.publications_per_second, &**broker));
        }
    }
}
