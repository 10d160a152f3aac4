//! `[channels]` and `[[namespaces]]`: what clients may do with channels that nobody granted to them by name.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{load, value};
use crate::channel::Pattern;

/// `[channels]`: what holds for plain channels, and in the same form for those of a namespace.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct ChannelOptions {
    pub allow_subscribe: AllowSubscribe,
    pub allow_publish: ChannelAccess,
    #[serde(deserialize_with = "value::optional_pattern")]
    pub channel_regex: Option<Pattern>,
    pub history_size: usize,
    #[serde(with = "value::duration")]
    pub history_ttl: Duration,
    #[serde(with = "value::duration")]
    pub history_meta_ttl: Duration,
    pub allow_history: ChannelAccess,
    pub force_positioning: bool,
    pub force_recovery: bool,
    pub force_recovery_mode: RecoveryMode,
    pub presence: bool,
    pub allow_presence: ChannelAccess,
    pub join_leave: bool,
    pub force_push_join_leave: bool,
    pub allowed_delta_types: Vec<DeltaType>,
}

impl ChannelOptions {
    /// Whether publications are kept, and so have positions.
    pub fn has_history(&self) -> bool {
        self.history_size > 0
    }
}

/// One of `[[namespaces]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// What stands before the `:` of its channels.
    pub name: String,
    /// Its options; those that are not set are as in the embedded `[channels]`.
    pub channels: ChannelOptions,
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut options = toml::Table::deserialize(deserializer)?;
        let name = match options.remove("name") {
            Some(toml::Value::String(name)) => name,
            _ => return Err(D::Error::custom("a namespace has a name, as text")),
        };
        let mut merged = load::default_channel_options();
        merged.extend(options);
        let channels = ChannelOptions::deserialize(toml::Value::Table(merged))
            .map_err(|error| D::Error::custom(format!("namespace {name:?}: {}", error.message())))?;
        Ok(Self { name, channels })
    }
}

/// Who may subscribe.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AllowSubscribe {
    /// Nobody without a grant of their own.
    None,
    /// Whoever is a user.
    User,
    /// Also sessions without a user.
    Anonymous,
}

/// Who may publish with a token, read the history, or read presence.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ChannelAccess {
    /// Only sessions whose token grants it.
    None,
    /// Sessions that are subscribed to the channel.
    Subscriber,
    /// Sessions of a user.
    User,
    /// All sessions, also those without a user.
    Anonymous,
}

/// What is recovered.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryMode {
    /// Everything since the client's position.
    Stream,
    /// The newest publication.
    Cache,
}

/// How differences are written.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DeltaType {
    /// Fossil's delta format.
    Fossil,
}
