//! Prints the configuration in force as TOML, in the order of `config/default.toml`: without secrets, and with the
//! source of each value that is not a default.

use toml::Value;
use toml_edit::{DocumentMut, Item, Table};

use super::{
    ConfigErrors, Sources,
    keys::{DEFAULTS, is_secret, lookup},
    load::{LoadReport, load_with_errors},
};

/// Printed in place of a secret.
const HIDDEN: &str = "<set>";

/// Returns the configuration that a start with these sources would use.
///
/// # Errors
/// All errors of the configuration.
pub fn print(sources: Sources<'_>) -> Result<String, ConfigErrors> {
    let report = load_with_errors(sources);
    if !report.errors.is_empty() {
        return Err(ConfigErrors(report.errors));
    }
    let mut document: DocumentMut = DEFAULTS.parse().expect("config/default.toml is valid TOML");
    render(document.as_table_mut(), &mut Vec::new(), &report);
    Ok(document.to_string())
}

/// Replaces defaults by the values in force, and adds their sources.
fn render(table: &mut Table, path: &mut Vec<String>, report: &LoadReport) {
    for (mut key, item) in table.iter_mut() {
        path.push(key.get().to_owned());
        key.leaf_decor_mut().set_prefix("");
        if let Item::Table(section) = item {
            section.decor_mut().set_prefix("\n");
            render(section, path, report);
        // A value without a source is the default, which is no secret.
        } else if let (Some(source), Some(value)) = (report.sources.get(path), lookup(&report.table, path)) {
            let shown = hide_secrets(path, value).to_string().parse::<toml_edit::Value>();
            let comment = format!("  # from {}", source.replace(char::is_control, "?"));
            *item = Item::Value(shown.expect("a TOML value is valid TOML").decorated(" ", comment));
        }
        path.pop();
    }
}

/// Returns the value, with [`HIDDEN`] in place of each secret.
fn hide_secrets(path: &[String], value: &Value) -> Value {
    let is_empty = value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty);
    if is_secret(path) && !is_empty {
        return Value::String(HIDDEN.to_owned());
    }
    let mut shown = value.clone();
    // A JWK may be a secret key.
    let keys = shown.as_array_mut().filter(|_| path.last().is_some_and(|key| key == "keys"));
    for jwk in keys.into_iter().flatten().filter_map(|key| key.get_mut("jwk")) {
        *jwk = Value::String(HIDDEN.to_owned());
    }
    shown
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
        let table: toml::Table = printed(&[], &[]).parse().unwrap();
        let sources = |environment| Sources { environment, file: None, variables: Vec::new(), flags: Vec::new() };
        assert_eq!(table, load_with_errors(sources(Environment::Development)).table);
        assert_ne!(table, load_with_errors(sources(Environment::Production)).table);
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
            &[
                ("log.level", "debug"),
                ("broker.type", "redis"),
                ("broker.redis.url", &url),
                ("api.key", secret),
                ("login.demo_password", secret),
            ],
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
        for key in ["broker.redis.urls", "broker.redis.cluster.urls", "broker.redis.sentinel.urls"] {
            let text = printed(&[], &[("broker.type", "redis"), (key, &format!("[{url:?}]"))]);
            assert!(!text.contains(secret), "{key}: {text}");
            assert!(text.contains("urls = \"<set>\"  # from the flag --set"), "{key}: {text}");
        }
    }
}
