//! Decides what a running hub does with a changed option: the table of all options, and the merge of a configuration that was
//! loaded again.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::{Config, ConfigErrors, validate};

/// The configuration in force. A reload replaces it as a whole.
#[derive(Debug)]
pub struct LiveConfig(ArcSwap<Config>);

impl LiveConfig {
    /// Begins with the configuration of the start.
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(config)))
    }

    /// Returns the configuration in force. Takes no lock. For one use: keep a [`Self::snapshot`] instead.
    pub fn current(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    /// Returns the configuration that is in force now, to be kept.
    pub fn snapshot(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Replaces the configuration.
    pub fn replace(&self, config: Arc<Config>) {
        self.0.store(config);
    }
}

/// When a changed option takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionEffect {
    /// With SIGHUP.
    Reload,
    /// With the next start of the hub.
    Restart,
}

/// An option of the configuration.
pub struct ConfigOption {
    /// Its key, as in `config/default.toml`.
    pub key: &'static str,
    /// When a change of it takes effect.
    pub effect: OptionEffect,
    differs: fn(&Config, &Config) -> bool,
    copy: fn(&mut Config, &Config),
}

/// The key of an option: its path in [`Config`], unless that differs.
macro_rules! option_key {
    ($key:literal; $($path:tt)*) => {
        $key
    };
    (; $first:ident $(. $rest:ident)*) => {
        concat!(stringify!($first) $(, ".", stringify!($rest))*)
    };
}

macro_rules! option_effect {
    (reload) => {
        OptionEffect::Reload
    };
    (restart) => {
        OptionEffect::Restart
    };
}

/// Declares all options, each with its effect and its path in [`Config`].
macro_rules! config_options {
    ($($effect:ident $first:ident $(. $rest:ident)* $(= $key:literal)?;)*) => {
        /// All options. A test compares them with the keys of `config/default.toml`.
        pub const OPTIONS: &[ConfigOption] = &[$(
            ConfigOption {
                key: option_key!($($key)?; $first $(. $rest)*),
                effect: option_effect!($effect),
                differs: |one, other| one.$first $(. $rest)* != other.$first $(. $rest)*,
                copy: |to, from| to.$first $(. $rest)* = from.$first $(. $rest)*.clone(),
            },
        )*];
    };
}

config_options! {
    restart environment;
    reload namespaces;
    restart server.bind;
    restart server.unix_mode;
    restart server.path_prefix;
    restart server.internal_bind;
    restart server.workers;
    restart server.websocket_paths;
    restart server.behind_tls;
    restart server.public_url;
    restart server.trusted_proxies;
    restart server.proxy_protocol;
    restart server.drain;
    restart server.drain_delay;
    restart server.ping_interval;
    restart server.pong_timeout;
    restart server.position_check_interval;
    restart server.compression.enabled;
    restart server.compression.min_bytes;
    restart server.compression.max_bytes;
    restart server.compression.level;
    restart server.tls.cert;
    restart server.tls.key;
    restart server.tls.ticket_keys;
    restart server.internal_tls.cert;
    restart server.internal_tls.key;
    restart server.internal_tls.client_ca;
    restart server.internal_tls.client_names;
    reload auth.hmac_secret;
    reload auth.keys;
    reload auth.issuer_url;
    reload auth.jwks_url;
    restart auth.key_files_interval;
    restart auth.typ;
    restart auth.subscription_typ;
    restart auth.issuer;
    restart auth.audience;
    restart auth.subscription_audience;
    restart auth.clients;
    restart auth.user_prefix;
    restart auth.shared_subjects;
    restart auth.required_claims;
    restart auth.max_ttl;
    restart auth.clock_skew;
    restart auth.doors;
    restart auth.cookie;
    restart auth.reject;
    restart auth.anonymous;
    restart auth.require_token_per_message;
    restart auth.ticket_ttl;
    restart auth.ticket_bind;
    restart auth.first_message_timeout;
    restart auth.refresh_margin;
    restart auth.key_sets.refresh;
    restart auth.key_sets.retry;
    restart auth.key_sets.unknown_kid_interval;
    restart auth.key_sets.timeout;
    restart auth.key_sets.stale;
    restart auth.key_sets.startup_timeout;
    restart auth.key_sets.document_bytes;
    restart auth.key_sets.keys;
    restart auth.key_sets.private_networks;
    restart auth.key_sets.ca;
    restart login.users_file;
    restart login.users_file_interval;
    restart login.demo_password;
    reload login.key;
    restart login.token_ttl;
    restart login.refresh_ttl;
    restart login.refresh_idle;
    restart login.refresh_grace;
    restart login.logins_per_user;
    restart login.cookie;
    restart login.failures;
    restart login.backoff;
    restart login.concurrency;
    reload origins.allowed;
    restart web.demo_page;
    reload api.key;
    reload api.previous_key;
    restart api.key_in_query;
    restart api.body_bytes;
    restart api.publication_bytes;
    restart api.replies_bytes;
    restart api.connections_page;
    restart api.connection_channels;
    restart admin.enabled;
    restart admin.users_file;
    restart admin.session_ttl;
    restart api.traces;
    restart api.trace_duration;
    reload channels.allow_subscribe;
    reload channels.subscribe_hook;
    reload channels.subscribe_to_personal;
    reload channels.allow_publish;
    reload channels.publish_hook;
    reload channels.channel_regex;
    reload channels.history_size;
    reload channels.history_ttl;
    reload channels.history_meta_ttl;
    reload channels.allow_history;
    reload channels.force_positioning;
    reload channels.force_recovery;
    reload channels.force_recovery_mode;
    reload channels.presence;
    reload channels.allow_presence;
    reload channels.join_leave;
    reload channels.force_push_join_leave;
    reload channels.allowed_delta_types;
    reload channels.delta_publish;
    reload channels.delivery_interval;
    reload channels.conflate;
    reload channels.conflate_by_tag;
    reload channels.data_format;
    restart hooks.waiting;
    restart hooks.response_bytes;
    restart hooks.failures;
    restart hooks.pause;
    restart hooks.ca;
    reload hooks.secret;
    reload hooks.previous_secret;
    restart hooks.connect_in_handshake;
    restart hooks.send_queue;
    restart hooks.connect.endpoint;
    restart hooks.connect.timeout;
    restart hooks.connect.concurrency;
    restart hooks.connect.headers;
    restart hooks.refresh.endpoint;
    restart hooks.refresh.timeout;
    restart hooks.refresh.concurrency;
    restart hooks.refresh.headers;
    restart hooks.subscribe.endpoint;
    restart hooks.subscribe.timeout;
    restart hooks.subscribe.concurrency;
    restart hooks.subscribe.headers;
    restart hooks.sub_refresh.endpoint;
    restart hooks.sub_refresh.timeout;
    restart hooks.sub_refresh.concurrency;
    restart hooks.sub_refresh.headers;
    restart hooks.publish.endpoint;
    restart hooks.publish.timeout;
    restart hooks.publish.concurrency;
    restart hooks.publish.headers;
    restart hooks.rpc.endpoint;
    restart hooks.rpc.timeout;
    restart hooks.rpc.concurrency;
    restart hooks.rpc.headers;
    restart hooks.send.endpoint;
    restart hooks.send.timeout;
    restart hooks.send.concurrency;
    restart hooks.send.headers;
    restart hooks.events.endpoint;
    restart hooks.events.types;
    restart hooks.events.client_address;
    restart hooks.events.timeout;
    restart hooks.events.batch;
    restart hooks.events.retry_delay;
    restart hooks.events.refused_for;
    restart hooks.events.queue;
    restart hooks.events.outbox;
    restart hooks.events.vacated_delay;
    restart broker.kind = "broker.type";
    restart broker.presence_ttl;
    restart broker.redis.url;
    restart broker.redis.urls;
    restart broker.redis.username;
    restart broker.redis.password;
    restart broker.redis.prefix;
    restart broker.redis.pool_size;
    restart broker.redis.timeout;
    restart broker.redis.probe_interval;
    restart broker.redis.heartbeat_interval;
    restart broker.redis.max_nodes;
    restart broker.redis.linger;
    restart broker.redis.message_bytes;
    restart broker.redis.bus_key;
    restart broker.redis.bus_key_accepted;
    restart broker.redis.bus_accept_unsigned;
    restart broker.redis.partitions;
    restart broker.redis.cluster.urls;
    restart broker.redis.tls.ca;
    restart broker.redis.tls.cert;
    restart broker.redis.tls.key;
    restart broker.redis.sentinel.urls;
    restart broker.redis.sentinel.master_name;
    restart broker.redis.sentinel.username;
    restart broker.redis.sentinel.password;
    restart broker.redis.sentinel.tls.ca;
    restart broker.redis.sentinel.tls.cert;
    restart broker.redis.sentinel.tls.key;
    restart limits.token_bytes;
    restart limits.message_bytes;
    reload limits.message_fragments;
    reload limits.message_age;
    reload limits.emulation_bytes;
    reload limits.publication_bytes;
    reload limits.outbox_bytes;
    reload limits.outbox_stall;
    reload limits.unsent_bytes;
    restart limits.hub_queue_bytes;
    reload limits.paced_publications;
    reload limits.paced_bytes;
    restart limits.history_bytes;
    reload limits.recovered_publications;
    reload limits.history_publications;
    reload limits.filter_nodes_per_channel;
    reload limits.filter_positions;
    restart limits.ended_sessions;
    restart limits.ended_subscriptions;
    reload limits.reply_bytes;
    restart limits.idempotency_keys;
    reload limits.broadcast_channels;
    reload limits.channels_per_session;
    reload limits.concurrent_subscribes;
    restart limits.api_grant_bytes;
    reload limits.commands_per_second;
    reload limits.publications_per_second;
    reload limits.errors;
    reload limits.connections;
    reload limits.connections_per_user;
    reload limits.connections_per_address;
    reload limits.handshakes_per_second;
    reload limits.emulation_requests_per_second;
    restart limits.http_connections;
    restart limits.http_unread_bytes;
    reload limits.waiting;
    reload limits.waiting_per_address;
    reload limits.verification_turn;
    reload limits.verification_queue;
    reload limits.verification_wait;
    reload limits.refused_token_share;
    restart limits.tickets;
    reload limits.tickets_per_second;
    restart limits.revocations;
    restart limits.logouts_per_user;
    reload log.level;
    reload log.format;
    reload log.refusals;
    reload log.refusals_interval;
    restart audit.output;
    restart audit.queue;
    restart audit.lines_per_second;
    restart audit.refusals_per_second;
}

/// The options that name keys of tokens.
const KEY_OPTIONS: [&str; 5] = ["auth.hmac_secret", "auth.keys", "auth.issuer_url", "auth.jwks_url", "login.key"];

/// A configuration that was loaded again, merged with the one in force.
#[derive(Debug)]
pub struct ConfigChange {
    /// The options of the new one that can be reloaded, with those of the old one that cannot.
    pub merged: Config,
    /// The keys of the reloaded options that have other values now.
    pub changed: Vec<&'static str>,
    /// The keys of the options that have other values only after a restart.
    pub needs_restart: Vec<&'static str>,
}

impl ConfigChange {
    /// Merges the options of `loaded` that can be reloaded into the configuration in force.
    ///
    /// # Errors
    /// The options that need a restart do not fit together with the changed ones.
    pub fn between(in_force: &Config, loaded: &Config) -> Result<Self, ConfigErrors> {
        let (mut merged, mut changed, mut needs_restart) = (in_force.clone(), Vec::new(), Vec::new());
        for option in OPTIONS.iter().filter(|option| (option.differs)(in_force, loaded)) {
            match option.effect {
                OptionEffect::Reload => {
                    (option.copy)(&mut merged, loaded);
                    changed.push(option.key);
                }
                OptionEffect::Restart => needs_restart.push(option.key),
            }
        }
        let errors =
            if needs_restart.is_empty() { Vec::new() } else { validate::validate(&merged, merged.environment) };
        if errors.is_empty() { Ok(Self { merged, changed, needs_restart }) } else { Err(ConfigErrors(errors)) }
    }

    /// Returns whether the keys of tokens have changed.
    pub fn changes_keys(&self) -> bool {
        self.changed.iter().any(|key| KEY_OPTIONS.contains(key))
    }

    /// Returns whether a secret has changed that must have only one use.
    pub fn changes_exclusive_secrets(&self) -> bool {
        self.changes_keys() || self.changes_section("api")
    }

    /// Returns whether an option of this section has changed, or one of these sections below it.
    pub fn changes_section(&self, section: &str) -> bool {
        self.changed.iter().any(|key| is_in_section(key, section))
    }

    /// Returns the keys of the changed options that decide which users a users file may have, and what it may grant them.
    pub fn options_for_users(&self) -> Vec<&'static str> {
        let sections = ["auth", "channels", "namespaces", "limits.channels_per_session"];
        let decides = |key: &&&str| sections.iter().any(|section| is_in_section(key, section));
        self.changed.iter().filter(decides).copied().collect()
    }
}

/// Returns whether an option is this one, or in this section or one below it.
fn is_in_section(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::all_keys;

    #[test]
    fn every_key_is_in_the_table_of_options_once() {
        let mut keys: Vec<String> = all_keys().into_iter().map(|path| path.join(".")).collect();
        let mut listed: Vec<&str> = OPTIONS.iter().map(|option| option.key).collect();
        keys.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, keys);
    }

    #[test]
    fn merge_takes_what_can_be_reloaded_and_names_the_rest() {
        let in_force = Config::default();
        let mut loaded = in_force.clone();
        loaded.limits.connections = 7;
        loaded.server.workers = 9;
        loaded.broker.presence_ttl *= 2;
        let change = ConfigChange::between(&in_force, &loaded).expect("a valid mixture");
        assert_eq!(change.changed, ["limits.connections"]);
        assert_eq!(change.needs_restart, ["server.workers", "broker.presence_ttl"]);
        assert_eq!((change.merged.limits.connections, change.merged.server.workers), (7, in_force.server.workers));
        assert!(change.changes_section("limits") && !change.changes_section("limit"));
        let none = ConfigChange::between(&in_force, &in_force).expect("no change");
        assert!(none.changed.is_empty() && none.needs_restart.is_empty());
    }

    #[test]
    fn options_that_name_keys_can_be_reloaded() {
        let effect = |key| OPTIONS.iter().find(|option| option.key == key).map(|option| option.effect);
        for key in KEY_OPTIONS {
            assert_eq!(effect(key), Some(OptionEffect::Reload), "{key}");
        }
    }

    #[test]
    fn merge_that_would_be_an_invalid_configuration_is_refused_and_names_the_key() {
        let mut in_force = Config::default();
        (in_force.api.publication_bytes, in_force.limits.outbox_bytes) = (2 << 20, 8 << 20);
        let mut loaded = in_force.clone();
        // Valid by itself. But the hub would go on with the larger publications.
        (loaded.api.publication_bytes, loaded.limits.outbox_bytes) = (1 << 16, 1 << 20);
        assert!(validate::validate(&loaded, loaded.environment).is_empty());
        let error = ConfigChange::between(&in_force, &loaded).unwrap_err();
        assert!(error.to_string().contains("api.publication_bytes"), "{error}");
    }
}
