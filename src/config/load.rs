//! Loading: defaults < environment's file < `--config FILE` < `WARDCAST_<SECTION>__<KEY>` < flags. Every value is tried
//! by itself on top of the defaults, so that all faults are told at once, each with its key, its place and a remedy.

use std::{fmt, path::Path, str::FromStr};

use serde::Deserialize;
use toml::{Table, Value, de::DeTable};

use super::{Config, validate};

const DEFAULTS: &str = include_str!("../../config/default.toml");
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
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        match text {
            "" | "development" => Ok(Self::Development),
            "production" => Ok(Self::Production),
            other => Err(Fault::new(
                "WARDCAST_ENV",
                "the environment",
                format!("{other:?} is neither \"development\" nor \"production\""),
            )),
        }
    }
}

/// Where values come from.
#[derive(Debug)]
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
    pub(super) fn new(key: impl Into<String>, place: impl Into<String>, problem: impl Into<String>) -> Self {
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

/// One value on its way in.
struct Setting {
    path: Vec<String>,
    value: Value,
    place: String,
}

/// Reads, merges and checks.
///
/// # Errors
/// All faults of all sources, and of the whole.
pub fn load(sources: Sources<'_>) -> Result<Config, Faults> {
    let mut faults = Vec::new();
    let mut merged = defaults();
    let environment = match sources.environment {
        Environment::Development => DEVELOPMENT,
        Environment::Production => PRODUCTION,
    };
    let mut settings = read_file(environment, "the environment's embedded file").unwrap_or_default();
    if let Some(path) = sources.file {
        let name = path.display().to_string();
        let read = std::fs::read_to_string(path)
            .map_err(|error| Fault::new("--config", &name, format!("cannot be read: {error}")))
            .and_then(|text| read_file(&text, &name));
        match read {
            Ok(read) => settings.extend(read),
            Err(fault) => faults.push(fault),
        }
    }
    settings.extend(sources.variables.iter().filter_map(|(name, text)| from_variable(name, text)));
    settings.extend(sources.flags.iter().map(|(key, text)| from_flag(key, text)));
    for setting in settings {
        match try_alone(&setting) {
            Ok(()) => set(&mut merged, &setting.path, setting.value),
            Err(problem) => faults.push(Fault::new(setting.path.join("."), setting.place, problem)),
        }
    }
    match Config::deserialize(Value::Table(merged)) {
        Ok(config) => {
            faults.extend(validate::validate(&config, sources.environment));
            if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
        }
        Err(error) => {
            faults.push(Fault::new("", "all sources together", error.message()));
            Err(Faults(faults))
        }
    }
}

/// The defaults alone. They are part of the program: a test proves that they parse.
pub(super) fn embedded() -> Config {
    Config::deserialize(Value::Table(defaults())).expect("config/default.toml has every key")
}

/// The embedded `[channels]`, from which every namespace starts.
pub(super) fn default_channels() -> Table {
    match defaults().remove("channels") {
        Some(Value::Table(channels)) => channels,
        _ => Table::new(),
    }
}

fn defaults() -> Table {
    DEFAULTS.parse().expect("config/default.toml is TOML")
}

/// The leaves of a TOML document, each with its line.
fn read_file(text: &str, name: &str) -> Result<Vec<Setting>, Fault> {
    let broken = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        Fault::new("TOML", format!("{name}:{line}"), error.message().to_owned())
    };
    let table: Table = text.parse().map_err(broken)?;
    let spans = DeTable::parse(text).map_err(broken)?;
    let mut settings = Vec::new();
    leaves(&table, &mut Vec::new(), &mut |path, value| {
        let line = start_of(spans.get_ref(), path).map_or(1, |start| line_of(text, start));
        settings.push(Setting { path: path.to_vec(), value: value.clone(), place: format!("{name}:{line}") });
    });
    Ok(settings)
}

fn leaves(table: &Table, path: &mut Vec<String>, found: &mut impl FnMut(&[String], &Value)) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) if !inner.is_empty() => leaves(inner, path, found),
            value => found(path, value),
        }
        path.pop();
    }
}

/// Where the value of `path` begins, in bytes.
fn start_of(table: &DeTable<'_>, path: &[String]) -> Option<usize> {
    let (key, rest) = path.split_first()?;
    let (_, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
    match value.get_ref() {
        toml::de::DeValue::Table(inner) if !rest.is_empty() => start_of(inner, rest),
        _ => Some(value.span().start),
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    1 + text.as_bytes().iter().take(byte).filter(|byte| **byte == b'\n').count()
}

/// `WARDCAST_SERVER__TLS__CERT` is `server.tls.cert`. A variable without `__` is not configuration (`WARDCAST_ENV`).
fn from_variable(name: &str, text: &str) -> Option<Setting> {
    let key = name.strip_prefix("WARDCAST_")?;
    let path: Vec<String> = key.split("__").map(str::to_lowercase).collect();
    (path.len() > 1).then(|| Setting { value: read_text(&path, text), path, place: format!("the variable {name}") })
}

fn from_flag(key: &str, text: &str) -> Setting {
    let path: Vec<String> = key.split('.').map(str::to_owned).collect();
    Setting { value: read_text(&path, text), path, place: format!("the flag --set {key}") }
}

/// Text has no type of its own: it takes the type that the default has. Lists are JSON or comma separated.
fn read_text(path: &[String], text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match lookup(&defaults(), path) {
        Some(Value::Integer(_)) => text.parse().map_or_else(|_| as_text(), Value::Integer),
        Some(Value::Boolean(_)) => text.parse().map_or_else(|_| as_text(), Value::Boolean),
        Some(Value::Array(_)) => Value::Array(read_list(text)),
        _ => as_text(),
    }
}

fn read_list(text: &str) -> Vec<Value> {
    serde_json::from_str::<Vec<Value>>(text).unwrap_or_else(|_| {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| Value::String(item.to_owned())).collect()
    })
}

fn lookup<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (key, rest) = path.split_first()?;
    match table.get(key)? {
        Value::Table(inner) if !rest.is_empty() => lookup(inner, rest),
        value if rest.is_empty() => Some(value),
        _ => None,
    }
}

fn set(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            if let Value::Table(inner) = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new())) {
                set(inner, rest, value);
            }
        }
    }
}

/// Judges one setting on top of the defaults.
fn try_alone(setting: &Setting) -> Result<(), String> {
    let mut table = defaults();
    match lookup(&table, &setting.path) {
        None => return Err(unknown(&table, &setting.path)),
        Some(Value::Table(_)) => return Err("is a section, not a value".to_owned()),
        Some(_) => set(&mut table, &setting.path, setting.value.clone()),
    }
    // serde quotes what it found; a secret of the wrong type must not be quoted.
    let key = setting.path.last().map(String::as_str);
    match Config::deserialize(Value::Table(table)) {
        Ok(_) => Ok(()),
        Err(_) if matches!(key, Some("key" | "hmac_secret" | "url")) => Err("must be text in quotes".to_owned()),
        // A secret under a wrong name or of a wrong type would be quoted, too.
        Err(error) if key == Some("keys") && !error.message().starts_with("unknown field") => {
            Err("each of the keys has id, algorithm, and one of file, jwk and jwks; not_after, issuer and purpose may \
                 be there; all of them are text"
                .to_owned())
        }
        Err(error) => Err(error.message().to_owned()),
    }
}

/// Names the keys that stand where the unknown one was looked for.
fn unknown(table: &Table, path: &[String]) -> String {
    let mut section = table;
    for key in path {
        match section.get(key) {
            Some(Value::Table(inner)) => section = inner,
            _ => break,
        }
    }
    let known: Vec<&str> = section.keys().map(String::as_str).collect();
    format!("is not a key of Wardcast; known here: {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(variables: &[(&str, &str)]) -> Sources<'static> {
        let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Sources { environment: Environment::Development, file: None, variables, flags: Vec::new() }
    }

    #[test]
    fn the_embedded_files_have_every_key_and_only_known_ones() {
        let config = Config::default();
        assert_eq!(config.limits.outbox_bytes, 1 << 20);
        for text in [DEVELOPMENT, PRODUCTION] {
            for setting in read_file(text, "embedded").unwrap() {
                try_alone(&setting).unwrap();
            }
        }
    }

    #[test]
    fn variables_take_the_type_of_the_default() {
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
    fn all_faults_are_told_at_once_with_key_place_and_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[server]\nworkers = \"many\"\n\n[limits]\nspeed = 1\n[api]\nkey = 12345\n").unwrap();
        let faults = load(Sources {
            file: Some(file.path()),
            ..sources(&[("WARDCAST_SERVER__BIND", "here"), ("WARDCAST_LOG__LEVEL", "loud")])
        })
        .unwrap_err();
        let text = faults.to_string();
        assert_eq!(faults.0.len(), 5, "{text}");
        assert!(text.contains("server.workers") && text.contains(":2)"), "{text}");
        assert!(
            text.contains("limits.speed") && text.contains("known here: ") && text.contains("message_bytes"),
            "{text}"
        );
        assert!(text.contains("WARDCAST_SERVER__BIND") && text.contains("WARDCAST_LOG__LEVEL"), "{text}");
        assert!(!text.contains("12345"), "a secret must not be quoted: {text}");
    }

    #[test]
    fn a_broken_file_is_told_with_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[server]\nbind = \n").unwrap();
        let faults = load(Sources { file: Some(file.path()), ..sources(&[]) }).unwrap_err();
        assert!(faults.to_string().contains(":2)"), "{faults}");
    }
}
