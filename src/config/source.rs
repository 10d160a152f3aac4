//! Single values on their way in, from files, variables and flags, each with the place that it came from.

use toml::{Table, Value, de::DeTable};

use super::{
    ConfigError,
    keys::{self, lookup},
};

/// One value on its way in.
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    pub(super) source: String,
}

/// The leaves of a TOML document, each with its line.
pub(super) fn parse_file(text: &str, name: &str) -> Result<Vec<Setting>, ConfigError> {
    let broken = |error: toml::de::Error| {
        let (line, column) = error.span().map_or((1, 1), |span| line_and_column(text, span.start));
        ConfigError::new("TOML", format!("{name}:{line}:{column}"), error.message().to_owned())
    };
    let table: Table = text.parse().map_err(broken)?;
    let spans = DeTable::parse(text).map_err(broken)?;
    let mut settings = Vec::new();
    visit_values(&table, &mut Vec::new(), &mut |path, value| {
        let line = value_start(spans.get_ref(), path).map_or(1, |start| line_and_column(text, start).0);
        settings.push(Setting { path: path.to_vec(), value: value.clone(), source: format!("{name}:{line}") });
    });
    Ok(settings)
}

/// Calls `found` with each key that has a value, and with the value.
pub(super) fn visit_values(table: &Table, path: &mut Vec<String>, found: &mut impl FnMut(&[String], &Value)) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) if !inner.is_empty() => visit_values(inner, path, found),
            value => found(path, value),
        }
        path.pop();
    }
}

/// Where the value of `path` begins, in bytes.
fn value_start(table: &DeTable<'_>, path: &[String]) -> Option<usize> {
    let (key, rest) = path.split_first()?;
    let (_, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
    match value.get_ref() {
        toml::de::DeValue::Table(inner) if !rest.is_empty() => value_start(inner, rest),
        _ => Some(value.span().start),
    }
}

/// Line and column of a byte, from 1.
fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (1 + before.iter().filter(|byte| **byte == b'\n').count(), 1 + before.len() - line_start)
}

/// `WARDCAST_SERVER__TLS__CERT` is `server.tls.cert`. A variable without `__` is not configuration (`WARDCAST_ENV`), but one
/// that would be a key if it had them is meant to be.
pub(super) fn setting_from_variable(name: &str, text: &str) -> Option<Result<Setting, ConfigError>> {
    let key = name.strip_prefix("WARDCAST_")?;
    let source = format!("the variable {name}");
    let path: Vec<String> = key.split("__").map(str::to_lowercase).collect();
    if path.len() > 1 {
        return Some(Ok(Setting { value: parse_value(&path, text), path, source }));
    }
    let meant = keys::all_keys().into_iter().find(|path| path.len() > 1 && path.join("_") == key.to_lowercase())?;
    let right = format!("WARDCAST_{}", meant.join("__").to_uppercase());
    let problem = format!("wants two underscores between section and key; write {right}");
    Some(Err(ConfigError::new(meant.join("."), source, problem)))
}

pub(super) fn setting_from_flag(key: &str, text: &str) -> Setting {
    let path: Vec<String> = key.split('.').map(str::to_owned).collect();
    Setting { value: parse_value(&path, text), path, source: format!("the flag --set {key}") }
}

/// Text has no type of its own: it takes the type that the default has. Lists are JSON or comma separated.
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
