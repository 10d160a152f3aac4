//! The keys that there are, by `config/default.toml`: which of them are secrets, and which one was meant.

use toml::{Table, Value};

use super::source::leaves;

/// `config/default.toml`.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Keys whose values are printed nowhere; of the URL, because it may carry a password. A test holds the list against the
/// types.
const SECRETS: [&str; 5] = ["auth.hmac_secret", "api.key", "login.key", "login.demo_password", "broker.redis.url"];

/// How alike two names must be, from 0 to 1, for one to be meant by the other: "bnid" and "bind" are 0.93.
const ALIKE: f64 = 0.75;
/// What a key of another section must be more alike.
const MISPLACED: f64 = 0.15;

pub(super) fn defaults() -> Table {
    DEFAULTS.parse().expect("config/default.toml is TOML")
}

/// The path of every key.
pub(super) fn all() -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    leaves(&defaults(), &mut Vec::new(), &mut |path, _| paths.push(path.to_vec()));
    paths
}

/// Whether the value of this key is a secret.
pub(super) fn is_secret(path: &[String]) -> bool {
    SECRETS.contains(&path.join(".").as_str())
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
pub(super) fn unknown(path: &[String]) -> String {
    let defaults = defaults();
    let mut section = &defaults;
    for key in path {
        match section.get(key) {
            Some(Value::Table(inner)) => section = inner,
            _ => break,
        }
    }
    let known: Vec<&str> = section.keys().map(String::as_str).collect();
    let meant = meant(path).map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
    format!("is not a key of Wardcast; {meant}known here: {}", known.join(", "))
}

/// The key that is most like this one. The same name in another section is next to certain, then comes a neighbour of which
/// it is a part or that is a part of it, then what is spelt alike.
fn meant(path: &[String]) -> Option<String> {
    let (name, section) = path.split_last()?;
    let keys = all();
    let likeness = |key: &[String]| {
        let (own_name, own_section) = key.split_last()?;
        let is_part = own_name.contains(name.as_str()) || name.contains(own_name.as_str());
        let is_neighbour = own_section == section;
        Some(match (own_name == name, is_neighbour) {
            (true, _) => 3.0 + strsim::jaro(&section.join("."), &own_section.join(".")),
            (false, true) if is_part => 2.0 + strsim::jaro(name, own_name),
            // Of neighbours the names alone count: with the section all of them would be alike.
            (false, true) => strsim::jaro(name, own_name),
            (false, false) => strsim::jaro(&path.join("."), &key.join(".")) - MISPLACED,
        })
    };
    let judged = keys.iter().filter_map(|key| Some((likeness(key)?, key)));
    let best = judged.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(likeness, _)| *likeness >= ALIKE).map(|(_, key)| key.join("."))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::{Config, load::set};

    #[test]
    fn a_misspelt_key_is_told_from_one_that_is_none() {
        let meant = |key: &str| meant(&key.split('.').map(str::to_owned).collect::<Vec<_>>());
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
    fn every_key_whose_type_is_a_secret_is_in_the_list_and_no_other() {
        for path in all() {
            let mut table = defaults();
            set(&mut table, &path, Value::String("redis-marker".to_owned()));
            let read = Config::deserialize(Value::Table(table));
            let is_hidden = read.is_ok_and(|config| !format!("{config:?}").contains("redis-marker"));
            assert_eq!(is_hidden, is_secret(&path), "{}", path.join("."));
        }
    }
}
