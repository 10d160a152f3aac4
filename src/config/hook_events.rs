//! `[hooks.events]`: what the hub tells the operator's backend about sessions, subscriptions and channels.

use std::time::Duration;

use serde::Deserialize;

use super::{HookEndpoint, hooks::optional_endpoint, value};
use crate::text_enum::text_enum;

/// `[hooks.events]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct EventsConfig {
    #[serde(deserialize_with = "optional_endpoint")]
    pub endpoint: Option<HookEndpoint>,
    pub types: Vec<EventType>,
    pub client_address: bool,
    #[serde(with = "value::duration")]
    pub timeout: Duration,
    pub batch: usize,
    #[serde(with = "value::duration")]
    pub retry_delay: Duration,
    #[serde(with = "value::duration")]
    pub refused_for: Duration,
    pub queue: usize,
    pub outbox: usize,
    #[serde(with = "value::duration")]
    pub vacated_delay: Duration,
}

text_enum! {
    /// The type of an event.
    #[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
    #[serde(rename_all = "lowercase")]
    pub enum EventType {
        /// Returns the name, as in the configuration and in events.
        fn name;
        /// A client has authenticated.
        Connect = "connect";
        /// A session of an authenticated client has ended.
        Disconnect = "disconnect";
        /// A subscription has begun.
        Subscribe = "subscribe";
        /// A subscription has ended, and its session goes on.
        Unsubscribe = "unsubscribe";
        /// A channel has a subscriber, and had none.
        Occupied = "occupied";
        /// A channel has no subscriber any more.
        Vacated = "vacated";
    }
}
