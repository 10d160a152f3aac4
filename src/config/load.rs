//! Loading: defaults < environment's file < `--config FILE` < `WARDCAST_<SECTION>__<KEY>` < flags. Every value is tried
//! by itself on top of the defaults, so that all faults are told at once, each with its key, its place and a remedy.

use std::{collections::BTreeMap, path::Path, str::FromStr};

use serde::Deserialize;
use toml::{Table, Value};

use super::{
    Config, ConfigError, ConfigErrors,
    keys::{default_table, describe_unknown, is_secret, lookup},
    source::{Setting, parse_file, setting_from_flag, setting_from_variable},
    validate,
};

const DEVELOPMENT: &str = include_str!("../../config/development.toml");
const PRODUCTION: &str = include_str!("../../config/production.toml");

/// `WARDCAST_ENV`, read before and outside the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// Loopback only; secrets that are not set are made for the run; signed-in users may use plain channels.
    Development,
    /// Refuses to start without real secrets and allows nothing that the configuration does not.
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

/// Where values come from.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// Chooses the embedded file on top of the defaults, and how strict validation is.
    pub environment: Environment,
    /// `--config FILE`.
    pub file: Option<&'a Path>,
    /// The process's environment; what does not begin with `WARDCAST_` is passed over.
    pub variables: Vec<(String, String)>,
    /// `--set key=value`, last and strongest.
    pub flags: Vec<(String, String)>,
}

/// All sources, merged.
pub(super) struct MergedSettings {
    pub(super) table: Table,
    /// Where each value comes from that is not a default.
    pub(super) setting_sources: BTreeMap<Vec<String>, String>,
    pub(super) errors: Vec<ConfigError>,
}

/// What comes of all sources.
#[derive(Debug)]
pub struct LoadReport {
    /// What is good of them.
    pub config: Option<Config>,
    /// What is not.
    pub errors: Vec<ConfigError>,
    /// Where the values were set.
    pub setting_sources: SettingSources,
}

/// Where each value comes from that is no default.
#[derive(Debug)]
pub struct SettingSources(BTreeMap<String, String>);

impl SettingSources {
    /// Where a key was set, or the first of a section's keys.
    pub fn of(&self, key: &str) -> String {
        // An entry of a list is called by its index or its id: `auth.keys[1]`, `auth.keys "2026"`.
        let key = key.split([' ', '[']).next().unwrap_or_default();
        let is_below = |name: &str| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let source = self.0.iter().find(|(name, _)| is_below(name)).map(|(_, source)| source.clone());
        source.unwrap_or_else(|| "the defaults".to_owned())
    }
}

/// Reads, merges and checks.
///
/// # Errors
/// All faults of all sources, and of the whole.
pub fn load(sources: Sources<'_>) -> Result<Config, ConfigErrors> {
    match load_with_errors(sources) {
        LoadReport { config: Some(config), errors, .. } if errors.is_empty() => Ok(config),
        LoadReport { errors, .. } => Err(ConfigErrors(errors)),
    }
}

/// The same for whoever wants to tell more faults than these.
pub fn load_with_errors(sources: Sources<'_>) -> LoadReport {
    let environment = sources.environment;
    let MergedSettings { table, setting_sources, mut errors } = merge(sources);
    let setting_sources =
        SettingSources(setting_sources.into_iter().map(|(path, source)| (path.join("."), source)).collect());
    let config = match Config::deserialize(Value::Table(table)) {
        Ok(config) => {
            let found = validate::validate(&config, environment).into_iter();
            errors.extend(found.map(|error| ConfigError { source: setting_sources.of(&error.key), ..error }));
            Some(config)
        }
        Err(error) => {
            errors.push(ConfigError::new("", "all sources together", error.message()));
            None
        }
    };
    LoadReport { config, errors, setting_sources }
}

/// What is good of all sources, later ones over earlier ones.
pub(super) fn merge(sources: Sources<'_>) -> MergedSettings {
    let mut errors = Vec::new();
    let environment = match sources.environment {
        Environment::Development => (DEVELOPMENT, "development.toml, which is built in"),
        Environment::Production => (PRODUCTION, "production.toml, which is built in"),
    };
    let mut settings = parse_file(environment.0, environment.1).unwrap_or_default();
    // A line of a file that nobody has at hand helps nobody.
    settings.iter_mut().for_each(|setting| setting.source = environment.1.to_owned());
    if let Some(path) = sources.file {
        let name = path.display().to_string();
        let read = std::fs::read_to_string(path)
            .map_err(|error| {
                ConfigError::new(
                    "--config",
                    &name,
                    format!("cannot be read: {error}; name a TOML file that this user can read"),
                )
            })
            .and_then(|text| parse_file(&text, &name));
        match read {
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
    let (mut table, mut setting_sources) = (default_table(), BTreeMap::new());
    for Setting { path, value, source } in settings {
        match check_setting(&path, &value) {
            Ok(()) => {
                set_value(&mut table, &path, value);
                setting_sources.insert(path, source);
            }
            Err(problem) => errors.push(ConfigError::new(path.join("."), source, problem)),
        }
    }
    MergedSettings { table, setting_sources, errors }
}

/// The defaults alone. They are part of the program: a test proves that they parse.
pub(super) fn default_config() -> Config {
    Config::deserialize(Value::Table(default_table())).expect("config/default.toml has every key")
}

/// The embedded `[channels]`, from which every namespace starts.
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

/// Judges one setting on top of the defaults.
fn check_setting(path: &[String], value: &Value) -> Result<(), String> {
    let mut table = default_table();
    let is_number = match lookup(&table, path) {
        None => return Err(describe_unknown(path)),
        Some(Value::Table(_)) => return Err("is a section, not a value".to_owned()),
        Some(default) => default.is_integer(),
    };
    set_value(&mut table, path, value.clone());
    // serde quotes what it found; a secret of the wrong type must not be quoted.
    let is_keys = path.last().is_some_and(|key| key == "keys");
    match Config::deserialize(Value::Table(table)) {
        Ok(_) => Ok(()),
        Err(_) if is_secret(path) => Err("must be text in quotes".to_owned()),
        // serde says it in Rust's words.
        Err(_) if is_number => {
            Err(format!("{value} is not a number that fits here: whole, not negative, without quotes"))
        }
        // A secret under a wrong name or of a wrong type would be quoted, too.
        Err(error) if is_keys && !error.message().starts_with("unknown field") => {
            Err("each of the keys has id, algorithm, and one of file, jwk and jwks; not_after, issuer and purpose may \
                 be there; all of them are text"
                .to_owned())
        }
        Err(error) => Err(error.message().to_owned()),
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
        assert_eq!(config.limits.outbox_bytes, 1 << 20);
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
            text.contains("limits.speed") && text.contains("known here: ") && text.contains("message_bytes"),
            "{text}"
        );
        assert!(text.contains("WARDCAST_SERVER__BIND") && text.contains("WARDCAST_LOG__LEVEL"), "{text}");
        assert!(!text.contains("12345"), "a secret must not be quoted: {text}");
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
