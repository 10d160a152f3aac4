//! Parsers for single values of the configuration: secrets, durations, and `""` for values that are not set.

use std::{fmt, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

use crate::{channel::Pattern, clock::WallTime};

/// Text that is never printed: not by `Debug`, not in an error, not in a log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, for the code that needs the secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether the secret is not set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "[redacted]" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A duration like `"8s"`, `"500ms"` or `"24h"`.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a duration as milliseconds.
    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("{text:?} is not a duration like \"8s\" or \"500ms\": {error}")))
    }
}

/// Parses a text; `""` means not set.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(|text| Some(text).filter(|text| !text.is_empty()))
}

/// Parses a path; `""` means not set.
pub(super) fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    optional_text(deserializer).map(|text| text.map(PathBuf::from))
}

/// Parses the mode of a file in octal digits, like `"0660"`.
pub(super) fn file_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777 && !text.starts_with('+'));
    mode.ok_or_else(|| D::Error::custom(format!("{text:?} is not a file mode in octal digits, like \"0660\"")))
}

/// Parses an address or a network. An error quotes the text, which is not a secret.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from).ok();
    address
        .or_else(|| text.parse().ok())
        .ok_or_else(|| format!("{text:?} is neither an address like \"10.0.0.1\" nor a network like \"10.0.0.0/8\""))
}

/// Parses addresses and networks.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| parse_network(text).map_err(D::Error::custom)).collect()
}

/// The same where a missing value has a meaning of its own.
pub(super) fn optional_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    networks(deserializer).map(Some)
}

/// Parses a regular expression for a whole name; `""` means not set.
pub(super) fn optional_pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pattern>, D::Error> {
    optional_text(deserializer)?.map(|text| Pattern::regex(&text).map_err(D::Error::custom)).transpose()
}

/// Writes a regular expression, or `""` where it is not set.
pub(super) fn write_pattern<S: Serializer>(pattern: &Option<Pattern>, serializer: S) -> Result<S::Ok, S::Error> {
    match pattern {
        Some(pattern) => serializer.collect_str(pattern),
        None => serializer.serialize_str(""),
    }
}

/// Parses a time in the format of RFC 3339, as text or as a TOML datetime; `""` means not set.
pub(super) fn optional_instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WallTime>, D::Error> {
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text,
        toml::Value::Datetime(instant) => instant.to_string(),
        _ => return Err(D::Error::custom("is not a time like \"2027-01-01T00:00:00Z\"")),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let time = WallTime::parse_rfc3339(&text);
    time.map(Some).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time like \"2027-01-01T00:00:00Z\"")))
}
