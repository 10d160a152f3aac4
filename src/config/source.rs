//! Reads single values from files, variables and flags, each with its source.

use serde::Deserialize;
use toml::{
    Spanned, Value,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    ConfigError,
    keys::{self, lookup},
};

/// One value of a source.
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    pub(super) source: String,
}

/// Reads the values of a TOML document, each with its line.
pub(super) fn parse_file(text: &str, name: &str) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    let lines = LineIndex::new(text);
    let parsed = DeTable::parse(text).and_then(|document| {
        collect(document.into_inner(), &mut Vec::new(), &mut |path, start, value| {
            let source = format!("{name}:{}", lines.position(start).0);
            settings.push(Setting { path: path.to_vec(), value, source });
        })
    });
    match parsed {
        Ok(()) => Ok(settings),
        Err(error) => {
            let (line, column) = error.span().map_or((1, 1), |span| lines.position(span.start));
            Err(ConfigError::new("TOML", format!("{name}:{line}:{column}"), error.message().to_owned()))
        }
    }
}

/// Calls `found` for each value below `table`, with its path and the offset of its first byte.
fn collect(
    table: DeTable<'_>,
    path: &mut Vec<String>,
    found: &mut impl FnMut(&[String], usize, Value),
) -> Result<(), toml::de::Error> {
    for (key, value) in table {
        path.push(key.into_inner().into_owned());
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(inner) if !inner.is_empty() => collect(inner, path, found)?,
            value => {
                let start = span.start;
                found(path, start, Value::deserialize(ValueDeserializer::from(Spanned::new(span, value)))?);
            }
        }
        path.pop();
    }
    Ok(())
}

/// Where the lines of a text begin.
struct LineIndex(Vec<usize>);

impl LineIndex {
    fn new(text: &str) -> Self {
        Self([0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// Returns line and column of a byte, both starting at 1.
    fn position(&self, byte: usize) -> (usize, usize) {
        let line = self.0.partition_point(|start| *start <= byte);
        (line, 1 + byte - self.0[line - 1])
    }
}

/// With what the names of all variables begin that the hub reads.
pub const VARIABLE_PREFIX: &str = "WARDCAST_";

/// Reads a variable: `WARDCAST_SERVER__TLS__CERT` sets `server.tls.cert`. A variable without `__` is not configuration,
/// like `WARDCAST_ENV`, unless it would name a key with `__`: then it is an error.
pub(super) fn setting_from_variable(name: &str, text: &str) -> Option<Result<Setting, ConfigError>> {
    let key = name.strip_prefix(VARIABLE_PREFIX)?;
    let source = format!("the variable {name}");
    let path: Vec<String> = key.split("__").map(str::to_lowercase).collect();
    if path.len() > 1 {
        return Some(Ok(Setting { value: parse_value(&path, text), path, source }));
    }
    if key == "ENVIRONMENT" {
        return Some(Err(ConfigError::new(
            "environment",
            source,
            "cannot be set in this way; set the variable WARDCAST_ENV",
        )));
    }
    let key_path = keys::all_keys().into_iter().find(|path| path.len() > 1 && path.join("_") == key.to_lowercase())?;
    let variable = format!("{VARIABLE_PREFIX}{}", key_path.join("__").to_uppercase());
    let problem = format!("needs two underscores between section and key: {variable}");
    Some(Err(ConfigError::new(key_path.join("."), source, problem)))
}

pub(super) fn setting_from_flag(key: &str, text: &str) -> Setting {
    let path: Vec<String> = key.split('.').map(str::to_owned).collect();
    Setting { value: parse_value(&path, text), path, source: format!("the flag --set {key}") }
}

/// Parses text as the type of the key's default. Lists are JSON or separated by commas.
fn parse_value(path: &[String], text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match lookup(&keys::default_table(), path) {
        Some(Value::Integer(_)) => text.parse().map_or_else(|_| as_text(), Value::Integer),
        Some(Value::Boolean(_)) => text.parse().map_or_else(|_| as_text(), Value::Boolean),
        Some(Value::Array(_)) => Value::Array(parse_list(text)),
        _ => as_text(),
    }
}

fn parse_list(text: &str) -> Vec<Value> {
    serde_json::from_str::<Vec<Value>>(text).unwrap_or_else(|_| {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| Value::String(item.to_owned())).collect()
    })
}
