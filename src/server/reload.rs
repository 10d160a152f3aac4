//! Applies a configuration that was loaded again to the running server.

use std::sync::Arc;

use super::{RunningServer, api, rates};
use crate::{
    audit::{AuditEvent, AuditFields},
    auth::{KeyChange, KeyError, LoginKeys, Verifier, users::Users},
    config::{Config, ConfigChange, ConfigError, ConfigErrors, Environment, Limits, UserPrefixes},
    http::HttpContext,
};

impl RunningServer {
    /// Applies the options of `loaded` that can be reloaded ([`crate::config::OPTIONS`]) to all that is asked from now on, ends the
    /// sessions of keys that are removed, and has the others end the subscriptions that the rules of channels do not allow any more.
    /// Logs the names of the options that
    /// have changed, and of those that need a restart. Returns the configuration in force.
    ///
    /// # Errors
    /// A key cannot be used, the options that need a restart do not fit together with the changed ones, or these do not allow a user
    /// of the users files. Nothing has changed then.
    pub fn reload_config(&self, loaded: &Config) -> Result<Arc<Config>, ConfigErrors> {
        let http = self.http();
        let in_force = http.config.snapshot();
        let merged = ConfigChange::between(&in_force, loaded);
        // Keys first: reading them may fail, and nothing after that can.
        let prepared = merged.and_then(|change| {
            check_shared_secrets(&change)?;
            self.check_users_files(&change)?;
            self.replace_keys(&change)?;
            Ok(change)
        });
        let change = prepared.inspect_err(|errors| self.record_refused_config(&errors.to_string()))?;
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
        http.hooks.replace_secrets(&new.hooks);
        http.admin_sessions.iter().for_each(|sessions| sessions.replace_keys(&new.api));
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

    /// Checks that the changed options allow the users of the users files: otherwise the next reload of a file would fail, long
    /// after the change that is at fault.
    fn check_users_files(&self, change: &ConfigChange) -> Result<(), ConfigErrors> {
        let options = change.options_for_users();
        if options.is_empty() {
            return Ok(());
        }
        let of_admins = self.admin_users();
        let files = [("login.users_file", self.http().login_users.as_ref()), ("admin.users_file", of_admins)];
        let check = |(key, users): (&str, Option<&Arc<Users>>)| {
            let error = users?.check_allowed_by(&change.merged).err()?;
            let problem = format!(
                "the changed options ({}), with those that only a restart changes, do not allow a user of the file that is in \
                 use: {error}; change these options or the file",
                options.join(", ")
            );
            Some(ConfigError::new(key, "the reloaded configuration", problem))
        };
        let errors: Vec<ConfigError> = files.into_iter().filter_map(check).collect();
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }

    /// Returns the users of the admin page.
    pub(super) fn admin_users(&self) -> Option<&Arc<Users>> {
        self.http().admin_sessions.as_ref().and_then(|sessions| sessions.users())
    }

    /// Replaces the keys of tokens, if they have changed.
    fn replace_keys(&self, change: &ConfigChange) -> Result<(), ConfigErrors> {
        if !change.changes_keys() {
            return Ok(());
        }
        let (http, new) = (self.http(), &change.merged);
        let replaced = http.verifier.replace_keys(new).map_err(|bad| ConfigErrors(vec![config_error(bad)]))?;
        // After the keys: the login signs nothing that the verifier would not accept.
        http.login_keys.store(Arc::new(LoginKeys::new(new, http.clock.clone())));
        let prefixes = UserPrefixes::new(&new.auth);
        http.login_users.iter().chain(self.admin_users()).for_each(|users| users.set_user_prefixes(&prefixes));
        let KeyChange { added, other_ends, removed, .. } = replaced;
        log::info!("reloaded keys added={added} removed={removed} other_not_after={other_ends}");
        Ok(())
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
        let users = login_users.iter().chain(self.admin_users());
        users.for_each(|users| users.set_channels_per_session(new.channels_per_session));
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

/// Checks that no changed secret has two uses, as at the start of a production hub.
fn check_shared_secrets(change: &ConfigChange) -> Result<(), ConfigErrors> {
    if change.merged.environment != Environment::Production || !change.changes_exclusive_secrets() {
        return Ok(());
    }
    // Of options that need a restart, the values of the start count.
    let shared: Vec<ConfigError> = Verifier::shared_secrets(&change.merged).into_iter().map(config_error).collect();
    if shared.is_empty() { Ok(()) } else { Err(ConfigErrors(shared)) }
}

fn config_error(error: KeyError) -> ConfigError {
    ConfigError::new(error.key, "the reloaded configuration", error.problem)
}
