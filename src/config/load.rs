//! Loads the configuration: defaults < file of the environment < `--config FILE` < `WARDCAST_<SECTION>__<KEY>` < flags.
//! Each value is checked separately on top of the defaults, so that all errors are reported together, each with its
//! key, its source and a remedy.

use std::{collections::BTreeMap, io::ErrorKind, path::Path, str::FromStr};

use serde::Deserialize;
use toml::{Table, Value};

use super::{
    Config, ConfigError, ConfigErrors, KeySource,
    keys::{default_table, describe_unknown, is_secret, lookup},
    source::{Setting, parse_file, setting_from_flag, setting_from_variable},
    validate,
};

const DEVELOPMENT: &str = include_str!("../../config/development.toml");
const PRODUCTION: &str = include_str!("../../config/production.toml");

/// The key of the environment.
const ENVIRONMENT: &str = "environment";
/// The end of the source of a value that comes from an embedded file.
const BUILT_IN: &str = ", which is built in";

/// The environment. [`find_environment`] determines it before the configuration is loaded, because it selects defaults.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum Environment {
    /// Listens on loopback only, generates missing secrets, and lets users use channels outside namespaces.
    Development,
    /// Does not start without real secrets, and permits nothing that the configuration does not permit.
    Production,
}

impl FromStr for Environment {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "" | "development" => Ok(Self::Development),
            "production" => Ok(Self::Production),
            other => Err(ConfigError::new(
                "WARDCAST_ENV",
                "the environment",
                format!("{other:?} is neither \"development\" nor \"production\""),
            )),
        }
    }
}

impl TryFrom<String> for Environment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: ConfigError| error.problem)
    }
}

/// Determines the environment: `--set environment`, or else `WARDCAST_ENV`, or else the key `environment` of the file, or
/// else development. Loading the configuration reports what is wrong with file and flags.
///
/// # Errors
/// `WARDCAST_ENV` has another value.
pub fn find_environment(
    variable: &str,
    file: Option<&Path>,
    flags: &[(String, String)],
) -> Result<Environment, ConfigError> {
    let flag = flags.iter().rev().find(|(key, _)| key == ENVIRONMENT).and_then(|(_, text)| text.parse().ok());
    let in_file = || {
        let table: Table = std::fs::read_to_string(file?).ok()?.parse().ok()?;
        table.get(ENVIRONMENT)?.as_str()?.parse().ok()
    };
    match flag {
        Some(environment) => Ok(environment),
        None if !variable.is_empty() => variable.parse(),
        None => Ok(in_file().unwrap_or(Environment::Development)),
    }
}

/// The sources of a configuration.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// Selects the embedded file on top of the defaults, and the strictness of the validation.
    pub environment: Environment,
    /// `--config FILE`.
    pub file: Option<&'a Path>,
    /// The environment variables of the process. Those that do not begin with `WARDCAST_` are ignored.
    pub variables: Vec<(String, String)>,
    /// `--set key=value`, which override all other sources.
    pub flags: Vec<(String, String)>,
}

/// The result of loading all sources.
#[derive(Debug)]
pub struct LoadReport {
    /// The configuration, from the values without errors. `None` if even these do not make one.
    pub config: Option<Config>,
    /// The errors of all sources, and of the configuration as a whole.
    pub errors: Vec<ConfigError>,
    /// Where each value was set.
    pub sources: SettingSources,
    /// All values without errors.
    pub(super) table: Table,
}

/// The source of each value that is not a default.
#[derive(Debug, Default)]
pub struct SettingSources(BTreeMap<String, String>);

impl SettingSources {
    /// Returns where a key was set, or the first key of a section.
    pub fn of(&self, key: &str) -> String {
        // An entry of a list is named with its index or its id, like `auth.keys[1]` or `auth.keys "2026"`.
        let key = key.split([' ', '[']).next().unwrap_or_default();
        let is_below = |name: &str| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let source = self.0.iter().find(|(name, _)| is_below(name)).map(|(_, source)| source.clone());
        source.unwrap_or_else(|| "the defaults".to_owned())
    }

    /// Returns whether the operator has set a key, not an embedded file.
    pub fn is_set_by_operator(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|source| !source.ends_with(BUILT_IN))
    }

    /// Returns where a key was set, unless it has its default.
    pub(super) fn get(&self, path: &[String]) -> Option<&String> {
        self.0.get(&path.join("."))
    }
}

/// Loads and checks a configuration.
///
/// # Errors
/// All errors of all sources, and of the configuration as a whole.
pub fn load(sources: Sources<'_>) -> Result<Config, ConfigErrors> {
    match load_with_errors(sources) {
        LoadReport { config: Some(config), errors, .. } if errors.is_empty() => Ok(config),
        LoadReport { errors, .. } => Err(ConfigErrors(errors)),
    }
}

/// Loads and checks a configuration, for a caller that checks more and adds its own errors.
pub fn load_with_errors(sources: Sources<'_>) -> LoadReport {
    let environment = sources.environment;
    let (settings, mut errors) = read_settings(sources);
    let (mut table, mut setting_sources) = (default_table(), SettingSources::default());
    for Setting { path, value, source } in settings {
        match check_setting(&path, &value) {
            Ok(()) => {
                set_value(&mut table, &path, value);
                setting_sources.0.insert(path.join("."), source);
            }
            Err(problem) => errors.push(ConfigError::new(path.join("."), source, problem)),
        }
    }
    let config = match Config::deserialize(Value::Table(table.clone())) {
        Ok(mut config) => {
            config.environment = environment;
            config.auth.add_provider();
            let unused = validate::unused_redis_keys(&config, &table);
            let found = validate::validate(&config, environment).into_iter().chain(unused);
            errors.extend(found.map(|error| ConfigError { source: setting_sources.of(&error.key), ..error }));
            Some(config)
        }
        Err(error) => {
            errors.push(ConfigError::new("", "all sources together", in_terms_of_configuration(&error)));
            None
        }
    };
    LoadReport { config, errors, sources: setting_sources, table }
}

/// Reads the values of all sources, in the order in which they override each other.
fn read_settings(sources: Sources<'_>) -> (Vec<Setting>, Vec<ConfigError>) {
    let mut errors = Vec::new();
    let (defaults, name) = match sources.environment {
        Environment::Development => (DEVELOPMENT, "development.toml"),
        Environment::Production => (PRODUCTION, "production.toml"),
    };
    let name = format!("{name}{BUILT_IN}");
    let mut settings = parse_file(defaults, &name).unwrap_or_default();
    // The user does not have this file, so its line numbers would not help.
    settings.iter_mut().for_each(|setting| setting.source.clone_from(&name));
    if let Some(path) = sources.file {
        let name = path.display().to_string();
        let unreadable = |error: std::io::Error| {
            let remedy = match error.kind() {
                ErrorKind::PermissionDenied => "run as its owner, or give it to the hub's user: chown USER FILE",
                _ => "name a TOML file that this user can read",
            };
            let problem = format!("cannot be read: {error}; {remedy}");
            ConfigError::new("--config", &name, problem)
        };
        match std::fs::read_to_string(path).map_err(unreadable).and_then(|text| parse_file(&text, &name)) {
            Ok(read) => settings.extend(read),
            Err(error) => errors.push(error),
        }
    }
    for variable in sources.variables.iter().filter_map(|(name, text)| setting_from_variable(name, text)) {
        match variable {
            Ok(setting) => settings.push(setting),
            Err(error) => errors.push(error),
        }
    }
    settings.extend(sources.flags.iter().map(|(key, text)| setting_from_flag(key, text)));
    (settings, errors)
}

/// Returns the defaults as a configuration. They are embedded, and a test checks that they parse.
pub(super) fn default_config() -> Config {
    Config::deserialize(Value::Table(default_table())).expect("config/default.toml has every key")
}

/// Returns the embedded `[channels]`, with which each namespace starts.
pub(super) fn default_channel_options() -> Table {
    match default_table().remove("channels") {
        Some(Value::Table(channels)) => channels,
        _ => Table::new(),
    }
}

pub(super) fn set_value(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            if let Value::Table(inner) = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new())) {
                set_value(inner, rest, value);
            }
        }
    }
}

/// Returns the message of serde without its terms for Rust types.
fn in_terms_of_configuration(error: &toml::de::Error) -> String {
    let terms = [
        ("unknown variant", "unknown value"),
        ("unknown field", "unknown key"),
        ("a sequence", "a list"),
        ("a boolean", "true or false"),
    ];
    terms.iter().fold(error.message().to_owned(), |text, (rust, plain)| text.replace(rust, plain))
}

/// Checks one value on top of the defaults.
fn check_setting(path: &[String], value: &Value) -> Result<(), String> {
    let mut table = default_table();
    let (is_number, is_list) = match lookup(&table, path) {
        None => return Err(describe_unknown(path)),
        Some(Value::Table(_)) => return Err("is a section, not a key".to_owned()),
        Some(default) => (default.is_integer(), default.is_array()),
    };
    set_value(&mut table, path, value.clone());
    let is_keys = path.last().is_some_and(|key| key == "keys");
    match Config::deserialize(Value::Table(table)) {
        Ok(_) => Ok(()),
        // The error of serde would quote the secret.
        Err(_) if is_secret(path) && is_list => Err("must be a list of texts in quotes".to_owned()),
        Err(_) if is_secret(path) => Err("must be text in quotes".to_owned()),
        // The error of serde would name Rust types.
        Err(_) if is_number => {
            Err(format!("{value} is not valid here; it must be a whole number, not negative, without quotes"))
        }
        // The error of serde would quote a secret of a wrong type. Its error for a wrong name quotes only the name.
        Err(error) if is_keys && !error.message().starts_with("unknown field") => Err(format!(
            "each key must have one of {}, the first two with id and algorithm, and may have not_after, issuer, \
                 user_prefix, audience, subscription_audience, clients, typ, subscription_typ and \
                 purpose, and with a URL private_networks and ca; all of them are text, but clients and private_networks are \
                 lists of texts",
            KeySource::SETTINGS
        )),
        Err(error) => Err(in_terms_of_configuration(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(variables: &[(&str, &str)]) -> Sources<'static> {
        let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Sources { environment: Environment::Development, file: None, variables, flags: Vec::new() }
    }

    #[test]
    fn embedded_files_set_every_key_and_only_known_keys() {
        let config = Config::default();
        assert_eq!(config.limits.outbox_bytes, 4 << 20);
        for text in [DEVELOPMENT, PRODUCTION] {
            for setting in parse_file(text, "embedded").unwrap() {
                check_setting(&setting.path, &setting.value).unwrap();
            }
        }
    }

    #[test]
    fn variable_is_parsed_as_the_type_of_the_default() {
        let config = load(sources(&[
            ("WARDCAST_SERVER__WORKERS", "3"),
            ("WARDCAST_SERVER__WEBSOCKET_PATHS", "/a, /b"),
            ("WARDCAST_AUTH__DOORS", r#"["query"]"#),
            ("WARDCAST_LIMITS__MESSAGE_AGE", "1m"),
            ("WARDCAST_ENV", "development"),
        ]))
        .unwrap();
        assert_eq!(config.server.workers, 3);
        assert_eq!(config.server.websocket_paths, ["/a", "/b"]);
        assert_eq!(config.auth.doors, [super::super::Door::Query]);
        assert_eq!(config.limits.message_age, std::time::Duration::from_secs(60));
    }

    #[test]
    fn all_errors_are_reported_together_with_key_source_and_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[server]\nworkers = \"many\"\n\n[limits]\nspeed = 1\n[api]\nkey = 12345\n").unwrap();
        let errors = load(Sources {
            file: Some(file.path()),
            ..sources(&[("WARDCAST_SERVER__BIND", "here"), ("WARDCAST_LOG__LEVEL", "loud")])
        })
        .unwrap_err();
        let text = errors.to_string();
        assert_eq!(errors.0.len(), 5, "{text}");
        assert!(text.contains("server.workers") && text.contains(":2)"), "{text}");
        assert!(
            text.contains("limits.speed") && text.contains("valid keys here: ") && text.contains("message_bytes"),
            "{text}"
        );
        assert!(text.contains("WARDCAST_SERVER__BIND") && text.contains("WARDCAST_LOG__LEVEL"), "{text}");
        assert!(!text.contains("12345"), "a secret must not be quoted: {text}");
    }

    #[test]
    fn redis_settings_without_the_redis_broker_are_errors_that_name_key_and_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[broker.redis]\npool_size = 9\ntls.ca = \"ca.pem\"\n").unwrap();
        let variables = [("WARDCAST_BROKER__REDIS__URL", "redis://redis:6379")];
        let errors = load(Sources { file: Some(file.path()), ..sources(&variables) }).unwrap_err();
        let text = errors.to_string();
        assert_eq!(errors.0.len(), 3, "{text}");
        for part in ["broker.redis.pool_size (", ":2)", "broker.redis.tls.ca (", "set broker.type = \"redis\""] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(text.contains("broker.redis.url (from the variable WARDCAST_BROKER__REDIS__URL)"), "{text}");
        assert!(!text.contains("redis://redis"), "{text}");
        std::fs::write(&file, crate::config::DEFAULTS).unwrap();
        load(Sources { file: Some(file.path()), ..sources(&[]) }).expect("all defaults, written out");
        let redis = [("WARDCAST_BROKER__TYPE", "redis"), variables[0]];
        load(sources(&redis)).expect("the redis broker");
    }

    #[test]
    fn broken_file_is_reported_with_line_and_column() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[server]\nbind = \n").unwrap();
        let errors = load(Sources { file: Some(file.path()), ..sources(&[]) }).unwrap_err();
        assert!(errors.to_string().contains(":2:8)"), "{errors}");
    }

    #[test]
    fn variable_with_one_underscore_too_few_is_an_error() {
        let errors = load(sources(&[("WARDCAST_SERVER_BIND", "127.0.0.1:0"), ("WARDCAST_PORT", "1")])).unwrap_err();
        assert_eq!(errors.0.len(), 1, "{errors}");
        assert!(errors.to_string().contains("WARDCAST_SERVER__BIND"), "{errors}");
    }
}
