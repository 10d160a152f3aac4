//! `[admin]`: the admin page.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::value;

/// `[admin]`: the admin page.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in config/default.toml")]
pub struct AdminConfig {
    pub enabled: bool,
    #[serde(deserialize_with = "value::optional_path")]
    pub users_file: Option<PathBuf>,
    #[serde(with = "value::duration")]
    pub session_ttl: Duration,
}
