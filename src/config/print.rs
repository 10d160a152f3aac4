//! The effective configuration as TOML, for people: in the order of `config/default.toml`, secrets left out, and with each
//! value that is no default the place that it came from.

use std::fmt::Write;

use toml::{Table, Value};

use super::{
    ConfigErrors, Sources,
    keys::{DEFAULTS, default_table, is_secret, lookup},
    load::{MergedSettings, load_with_errors, merge},
};

/// Stands for a secret that is set.
const HIDDEN: &str = "\"<set>\"";

/// Writes what a start with these sources would go by.
///
/// # Errors
/// All faults, if there is no such start.
pub fn print(sources: Sources<'_>) -> Result<String, ConfigErrors> {
    let errors = load_with_errors(sources.clone()).errors;
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    Ok(render(&merge(sources)))
}

fn render(merged: &MergedSettings) -> String {
    let (mut text, mut section) = (String::new(), Vec::new());
    for line in DEFAULTS.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.split('.').map(str::to_owned).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n[{name}]");
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let path: Vec<String> = section.iter().cloned().chain([key.to_owned()]).collect();
            let Some(value) = lookup(&merged.table, &path) else { continue };
            let _ = write!(text, "{key} = {}", render_value(&path, value));
            let _ = match merged.setting_sources.get(&path) {
                Some(source) => writeln!(text, "  # from {}", source.replace(char::is_control, "?")),
                None => writeln!(text),
            };
        }
    }
    text
}

/// The value, unless it is a secret.
fn render_value(path: &[String], value: &Value) -> String {
    let is_default = lookup(&default_table(), path) == Some(value);
    if is_secret(path) && !is_default && value.as_str() != Some("") {
        return HIDDEN.to_owned();
    }
    match value {
        // A JWK may be a secret key.
        Value::Array(entries) if path.last().is_some_and(|key| key == "keys") => {
            let entries = entries.iter().cloned().map(|mut entry| {
                let jwk = entry.as_table_mut().and_then(|entry: &mut Table| entry.get_mut("jwk"));
                jwk.into_iter().for_each(|jwk| *jwk = Value::String("<set>".to_owned()));
                entry
            });
            Value::Array(entries.collect()).to_string()
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn printed(variables: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(one, two)| ((*one).into(), (*two).into())).collect();
        let (variables, flags) = (owned(variables), owned(flags));
        print(Sources { environment: Environment::Development, file: None, variables, flags }).unwrap()
    }

    #[test]
    fn every_key_is_printed_and_the_output_parses_to_the_same_values() {
        let table: Table = printed(&[], &[]).parse().unwrap();
        let sources = |environment| Sources { environment, file: None, variables: Vec::new(), flags: Vec::new() };
        assert_eq!(table, merge(sources(Environment::Development)).table);
        assert_ne!(table, merge(sources(Environment::Production)).table);
    }

    #[test]
    fn changed_value_is_printed_with_its_source_and_a_secret_never() {
        let secret = "0123456789abcdef0123456789abcdef";
        let jwk = format!(r#"[{{"id":"a","algorithm":"HS256","jwk":"{{\"kty\":\"oct\",\"k\":\"{secret}\"}}"}}]"#);
        let url = format!("redis://:{secret}@redis");
        let text = printed(
            &[
                ("WARDCAST_AUTH__HMAC_SECRET", secret),
                ("WARDCAST_SERVER__BIND", "127.0.0.1:1"),
                ("WARDCAST_AUTH__KEYS", &jwk),
            ],
            &[("log.level", "debug"), ("broker.redis.url", &url), ("api.key", secret), ("login.demo_password", secret)],
        );
        for line in [
            "hmac_secret = \"<set>\"  # from the variable WARDCAST_AUTH__HMAC_SECRET\n",
            "bind = \"127.0.0.1:1\"  # from the variable WARDCAST_SERVER__BIND\n",
            "level = \"debug\"  # from the flag --set log.level\n",
            "workers = 0\n",
            "jwk = \"<set>\"",
        ] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }
        assert!(!text.contains(secret), "{text}");
    }
}
