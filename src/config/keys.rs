//! The keys of `config/default.toml`: which ones are secrets, and suggestions for unknown keys.

use toml::{Table, Value};

use super::source::parse_file;

/// The text of `config/default.toml`.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Keys whose values are never printed. The URL is one because it may contain a password. A test compares the list with
/// the types.
const SECRET_KEYS: [&str; 15] = [
    "auth.hmac_secret",
    "api.key",
    "api.previous_key",
    "hooks.secret",
    "hooks.previous_secret",
    "login.key",
    "login.demo_password",
    "broker.redis.url",
    "broker.redis.urls",
    "broker.redis.cluster.urls",
    "broker.redis.password",
    "broker.redis.sentinel.urls",
    "broker.redis.sentinel.password",
    "broker.redis.bus_key",
    "broker.redis.bus_key_accepted",
];

/// Minimum similarity of two names, from 0 to 1, for a suggestion: "bnid" and "bind" have 0.93.
const MIN_SIMILARITY: f64 = 0.75;
/// How much more similar a key of another section must be.
const OTHER_SECTION_PENALTY: f64 = 0.15;

pub(super) fn default_table() -> Table {
    DEFAULTS.parse().expect("config/default.toml is valid TOML")
}

/// Returns the path of every key.
pub(super) fn all_keys() -> Vec<Vec<String>> {
    let settings = parse_file(DEFAULTS, "default.toml").expect("config/default.toml is valid TOML");
    settings.into_iter().map(|setting| setting.path).collect()
}

/// Returns whether the value of a key is a secret.
pub(super) fn is_secret(path: &[String]) -> bool {
    SECRET_KEYS.contains(&path.join(".").as_str())
}

/// Returns the value at `path`.
pub(super) fn lookup<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (key, rest) = path.split_first()?;
    match table.get(key)? {
        Value::Table(inner) if !rest.is_empty() => lookup(inner, rest),
        value if rest.is_empty() => Some(value),
        _ => None,
    }
}

/// Describes the error of an unknown key: with a suggestion, if one is similar enough, and the keys of its section.
pub(super) fn describe_unknown(path: &[String]) -> String {
    let defaults = default_table();
    let mut section = &defaults;
    for key in path {
        match section.get(key) {
            Some(Value::Table(inner)) => section = inner,
            _ => break,
        }
    }
    let valid: Vec<&str> = section.keys().map(String::as_str).collect();
    let suggestion = suggest(path).map(|key| format!("did you mean {key}? ")).unwrap_or_default();
    format!("unknown key; {suggestion}valid keys here: {}", valid.join(", "))
}

/// Returns the most similar key. The same name in another section wins, then a key of the same section that contains
/// this name or is contained in it, then a similar spelling.
fn suggest(path: &[String]) -> Option<String> {
    let (name, section) = path.split_last()?;
    let keys = all_keys();
    let similarity = |key: &[String]| {
        let (own_name, own_section) = key.split_last()?;
        let is_part = own_name.contains(name.as_str()) || name.contains(own_name.as_str());
        let is_same_section = own_section == section;
        Some(match (own_name == name, is_same_section) {
            (true, _) => 3.0 + strsim::jaro(&section.join("."), &own_section.join(".")),
            (false, true) if is_part => 2.0 + strsim::jaro(name, own_name),
            // Within a section only the names are compared: with the section, all of its keys would be similar.
            (false, true) => strsim::jaro(name, own_name),
            (false, false) => strsim::jaro(&path.join("."), &key.join(".")) - OTHER_SECTION_PENALTY,
        })
    };
    let rated = keys.iter().filter_map(|key| Some((similarity(key)?, key)));
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(similarity, _)| *similarity >= MIN_SIMILARITY).map(|(_, key)| key.join("."))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::{Config, load::set_value};

    #[test]
    fn misspelt_key_gets_a_suggestion_and_an_unrelated_key_none() {
        let suggestion = |key: &str| suggest(&key.split('.').map(str::to_owned).collect::<Vec<_>>());
        for (written, right) in [
            ("server.bnid", "server.bind"),
            ("auth.secret", "hooks.secret"),
            ("auth.hmacsecret", "auth.hmac_secret"),
            ("server.hmac_secret", "auth.hmac_secret"),
            ("limits.max_connections", "limits.connections"),
            ("sever.bind", "server.bind"),
            ("bind", "server.bind"),
            ("server.tls.certificate", "server.tls.cert"),
        ] {
            assert_eq!(suggestion(written).as_deref(), Some(right), "{written}");
        }
        assert_eq!(suggestion("log.zebra"), None);
        assert_eq!(suggestion("zebra"), None);
    }

    #[test]
    fn secret_keys_lists_exactly_the_keys_of_type_secret() {
        for path in all_keys() {
            let mut table = default_table();
            let marker = Value::String("redis-marker".to_owned());
            let is_list = lookup(&table, &path).is_some_and(Value::is_array);
            set_value(&mut table, &path, if is_list { Value::Array(vec![marker]) } else { marker });
            let read = Config::deserialize(Value::Table(table));
            let is_hidden = read.is_ok_and(|config| !format!("{config:?}").contains("redis-marker"));
            assert_eq!(is_hidden, is_secret(&path), "{}", path.join("."));
        }
    }
}
