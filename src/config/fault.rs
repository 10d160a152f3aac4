//! Faults of a configuration, each said so that it can be mended, and all of them at once.

use std::fmt;

/// One thing that is wrong, said so that it can be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key, as in `server.bind`.
    pub key: String,
    /// Where it was set: file and line, variable, flag.
    pub place: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Fault {
    /// What is wrong with `key`, which was set at `place`.
    pub fn new(key: impl Into<String>, place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), place: place.into(), problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {}): {}", self.key, self.place, self.problem)
    }
}

/// Everything that is wrong with the configuration, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} fault{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}
