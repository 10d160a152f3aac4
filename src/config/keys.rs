//! The keys that there are, by `config/default.toml`: which of them are secrets, and which one was meant.

use toml::{Table, Value};

use super::source::visit_values;

/// `config/default.toml`.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Keys whose values are printed nowhere; of the URL, because it may carry a password. A test holds the list against the
/// types.
const SECRET_KEYS: [&str; 5] = ["auth.hmac_secret", "api.key", "login.key", "login.demo_password", "broker.redis.url"];

/// How alike two names must be, from 0 to 1, for one to be meant by the other: "bnid" and "bind" are 0.93.
const MIN_SIMILARITY: f64 = 0.75;
/// What a key of another section must be more alike.
const OTHER_SECTION_PENALTY: f64 = 0.15;

pub(super) fn default_table() -> Table {
    DEFAULTS.parse().expect("config/default.toml is TOML")
}

/// The path of every key.
pub(super) fn all_keys() -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    visit_values(&default_table(), &mut Vec::new(), &mut |path, _| paths.push(path.to_vec()));
    paths
}

/// Whether the value of this key is a secret.
pub(super) fn is_secret(path: &[String]) -> bool {
    SECRET_KEYS.contains(&path.join(".").as_str())
}

/// The value at `path`.
pub(super) fn lookup<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (key, rest) = path.split_first()?;
    match table.get(key)? {
        Value::Table(inner) if !rest.is_empty() => lookup(inner, rest),
        value if rest.is_empty() => Some(value),
        _ => None,
    }
}

/// What is wrong with a key that is none: which one was meant, if that can be told, and those that stand where it was
/// looked for.
pub(super) fn describe_unknown(path: &[String]) -> String {
    let defaults = default_table();
    let mut section = &defaults;
    for key in path {
        match section.get(key) {
            Some(Value::Table(inner)) => section = inner,
            _ => break,
        }
    }
    let known: Vec<&str> = section.keys().map(String::as_str).collect();
    let meant = suggest(path).map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
    format!("is not a key of Wardcast; {meant}known here: {}", known.join(", "))
}

/// The key that is most like this one. The same name in another section is next to certain, then comes a neighbour of which
/// it is a part or that is a part of it, then what is spelt alike.
fn suggest(path: &[String]) -> Option<String> {
    let (name, section) = path.split_last()?;
    let keys = all_keys();
    let similarity = |key: &[String]| {
        let (own_name, own_section) = key.split_last()?;
        let is_part = own_name.contains(name.as_str()) || name.contains(own_name.as_str());
        let is_neighbour = own_section == section;
        Some(match (own_name == name, is_neighbour) {
            (true, _) => 3.0 + strsim::jaro(&section.join("."), &own_section.join(".")),
            (false, true) if is_part => 2.0 + strsim::jaro(name, own_name),
            // Of neighbours the names alone count: with the section all of them would be alike.
            (false, true) => strsim::jaro(name, own_name),
            (false, false) => strsim::jaro(&path.join("."), &key.join(".")) - OTHER_SECTION_PENALTY,
        })
    };
    let judged = keys.iter().filter_map(|key| Some((similarity(key)?, key)));
    let best = judged.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(similarity, _)| *similarity >= MIN_SIMILARITY).map(|(_, key)| key.join("."))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::{Config, load::set_value};

    #[test]
    fn misspelt_key_gets_a_suggestion_and_an_unrelated_key_none() {
        let meant = |key: &str| suggest(&key.split('.').map(str::to_owned).collect::<Vec<_>>());
        for (written, right) in [
            ("server.bnid", "server.bind"),
            ("auth.secret", "auth.hmac_secret"),
            ("server.hmac_secret", "auth.hmac_secret"),
            ("limits.max_connections", "limits.connections"),
            ("sever.bind", "server.bind"),
            ("bind", "server.bind"),
            ("server.tls.certificate", "server.tls.cert"),
        ] {
            assert_eq!(meant(written).as_deref(), Some(right), "{written}");
        }
        assert_eq!(meant("log.zebra"), None);
        assert_eq!(meant("zebra"), None);
    }

    #[test]
    fn secret_keys_lists_exactly_the_keys_of_type_secret() {
        for path in all_keys() {
            let mut table = default_table();
            set_value(&mut table, &path, Value::String("redis-marker".to_owned()));
            let read = Config::deserialize(Value::Table(table));
            let is_hidden = read.is_ok_and(|config| !format!("{config:?}").contains("redis-marker"));
            assert_eq!(is_hidden, is_secret(&path), "{}", path.join("."));
        }
    }
}
