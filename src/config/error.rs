//! ConfigErrors of a configuration, each said so that it can be mended, and all of them at once.

use std::fmt;

/// One thing that is wrong, said so that it can be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, as in `server.bind`.
    pub key: String,
    /// Where it was set: file and line, variable, flag.
    pub source: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// What is wrong with `key`, which was set at `place`.
    pub fn new(key: impl Into<String>, source: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), source: source.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {}): {}", self.key, self.source, self.problem)
    }
}

/// Everything that is wrong with the configuration, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} fault{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}
