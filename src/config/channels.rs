//! `[channels]` and `[[namespaces]]`: what clients may do with channels that nobody granted to them by name.

use serde::{Deserialize, Deserializer, de::Error};

use super::{load, value};
use crate::channel::Pattern;

/// `[channels]`: what holds for plain channels, and in the same form for those of a namespace.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct Channels {
    pub allow_subscribe: AllowSubscribe,
    pub allow_publish: AllowPublish,
    #[serde(deserialize_with = "value::regex")]
    pub channel_regex: Option<Pattern>,
}

/// One of `[[namespaces]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// What stands before the `:` of its channels.
    pub name: String,
    /// Its options; those that are not set are as in the embedded `[channels]`.
    pub channels: Channels,
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut options = toml::Table::deserialize(deserializer)?;
        let name = match options.remove("name") {
            Some(toml::Value::String(name)) => name,
            _ => return Err(D::Error::custom("a namespace has a name, as text")),
        };
        let mut merged = load::default_channels();
        merged.extend(options);
        let channels = Channels::deserialize(toml::Value::Table(merged))
            .map_err(|error| D::Error::custom(format!("namespace {name:?}: {}", error.message())))?;
        Ok(Self { name, channels })
    }
}

/// Who may subscribe.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AllowSubscribe {
    /// Nobody without a grant of their own.
    None,
    /// Whoever is a user.
    User,
    /// Also sessions without a user.
    Anonymous,
}

/// Who may publish without the API key.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AllowPublish {
    /// Nobody without a grant of their own.
    None,
    /// Whoever is subscribed to the channel at the moment.
    Subscriber,
    /// Whoever is a user.
    User,
    /// Also sessions without a user.
    Anonymous,
}
