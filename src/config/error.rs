//! Errors of a configuration. All of them are collected and reported together, each with its key, its source and a
//! remedy.

use std::fmt;

/// One error of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, like `server.bind`.
    pub key: String,
    /// Where its value was set: file and line, variable, or flag.
    pub source: String,
    /// What is wrong, and how to fix it.
    pub problem: String,
}

impl ConfigError {
    /// An error of `key`, whose value was set in `source`.
    pub fn new(key: impl Into<String>, source: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), source: source.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {}): {}", self.key, self.source, self.problem)
    }
}

/// All errors of a configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} error{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}
