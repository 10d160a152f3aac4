//! `[channels]` and `[[namespaces]]`: the options of channels, and what clients may do in them without a grant in their
//! token.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{load, value};
use crate::channel::Pattern;

/// The options of channels: `[channels]` for channels without a namespace, and the same keys in each of
/// `[[namespaces]]`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct ChannelOptions {
    pub allow_subscribe: AllowSubscribe,
    pub subscribe_hook: bool,
    pub subscribe_to_personal: bool,
    pub allow_publish: ChannelAccess,
    pub publish_hook: bool,
    #[serde(deserialize_with = "value::optional_pattern", serialize_with = "value::write_pattern")]
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
    pub delta_publish: bool,
    #[serde(with = "value::duration")]
    pub delivery_interval: Duration,
    pub conflate: bool,
    pub conflate_by_tag: String,
    pub data_format: DataFormat,
}

impl ChannelOptions {
    /// Returns whether publications are kept in a history, and so have positions.
    pub fn has_history(&self) -> bool {
        self.history_size > 0
    }

    /// Returns whether the data of publications is any bytes, and not JSON.
    pub fn has_binary_data(&self) -> bool {
        self.data_format == DataFormat::Binary
    }
}

/// `override` of one subscription: options that it has instead of those of its channel. `None`: as the channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionOverrides {
    /// Whether the subscriber is in the presence of a channel that has one.
    pub presence: Option<bool>,
    /// Whether others receive its join and leave.
    pub join_leave: Option<bool>,
    /// Whether it receives joins and leaves without asking for them.
    pub force_push_join_leave: Option<bool>,
    /// Whether it has a position without asking for it, in a channel with a history.
    pub force_positioning: Option<bool>,
    /// Whether it can recover without asking for it, in a channel with a history.
    pub force_recovery: Option<bool>,
}

impl OptionOverrides {
    /// Returns whether all options are as the channel's.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An entry of `[[namespaces]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// The part of its channel names before `:`.
    pub name: String,
    /// Its options. Those that it does not set have the defaults of `config/default.toml`.
    pub channels: ChannelOptions,
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut options = toml::Table::deserialize(deserializer)?;
        let name = match options.remove("name") {
            Some(toml::Value::String(name)) => name,
            _ => return Err(D::Error::custom("a namespace must have a name, as text")),
        };
        let mut merged = load::default_channel_options();
        merged.extend(options);
        let channels = ChannelOptions::deserialize(toml::Value::Table(merged))
            .map_err(|error| D::Error::custom(format!("namespace {name:?}: {}", error.message())))?;
        Ok(Self { name, channels })
    }
}

/// Which clients may subscribe.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AllowSubscribe {
    /// Only clients with a grant: in their token, or in a channel name that lists their user.
    None,
    /// Clients with a user.
    User,
    /// All clients, also those without a user.
    Anonymous,
}

/// Which clients may publish, read the history or read presence.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ChannelAccess {
    /// Only clients whose token grants it.
    None,
    /// Clients that are subscribed to the channel.
    Subscriber,
    /// Clients with a user.
    User,
    /// All clients, also those without a user.
    Anonymous,
}

/// Which publications a client recovers.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryMode {
    /// All publications since the position of the client.
    Stream,
    /// The newest publication.
    Cache,
}

/// The format of the data of a channel's publications.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// JSON.
    #[default]
    Json,
    /// Any bytes.
    Binary,
}

/// A format of deltas.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DeltaType {
    /// The delta format of Fossil.
    Fossil,
}
