//! The configuration of this process: loaded, checked together with the files that it names, and printed. Only this
//! module reads its environment variables `WARDCAST_*`.

use std::{path::PathBuf, sync::Arc};

use super::{
    CliError, CommandResult, advice,
    client::{DevelopmentHubFile, RunningHub},
    print_error_line, secrets,
    secrets_file::SecretsFile,
    state_directory::StateDirectory,
};
use crate::{
    audit::AuditLog,
    auth::{KeyError, Permissions, Verifier, users::Users},
    broker::redis::{RedisBroker, RedisConfigError},
    config::{
        self, BrokerKind, Config, ConfigError, ConfigErrors, Environment, LoadReport, SettingSources, Sources,
        VARIABLE_PREFIX,
    },
    server::{self, ServerStartError},
};

/// The sources of the configuration of this process.
pub(super) struct ConfigInputs {
    pub(super) environment: Environment,
    /// Where development hubs of this user keep their secrets.
    pub(super) secrets_file: Option<SecretsFile>,
    /// Where the development hub of this user says where it listens.
    pub(super) hub_file: Option<DevelopmentHubFile>,
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl ConfigInputs {
    pub(super) fn from_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Result<Self, CliError> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
            .collect();
        let variable = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let named = || variable("WARDCAST_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = file.or_else(named);
        let environment =
            config::find_environment(&variable("WARDCAST_ENV").unwrap_or_default(), file.as_deref(), &flags);
        let environment = environment.map_err(|error| ConfigErrors(vec![error]).to_string())?;
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let state = StateDirectory::of_user(path("XDG_STATE_HOME"), path("HOME"));
        let (secrets_file, hub_file) = (state.clone().map(SecretsFile::new), state.map(DevelopmentHubFile::new));
        Ok(Self { environment, secrets_file, hub_file, file, variables, flags })
    }

    fn sources(&self) -> Sources<'_> {
        let (variables, flags) = (self.variables.clone(), self.flags.clone());
        Sources { environment: self.environment, file: self.file.as_deref(), variables, flags }
    }

    /// Loads the configuration. Does not check the files that it names.
    pub(super) fn load(&self) -> Result<Config, String> {
        config::load(self.sources()).map_err(|errors| errors.to_string())
    }

    /// Loads the configuration for a command that signs or verifies tokens. In development, a secret that is not set is
    /// replaced by the secret that development hubs have stored for this user. A message on stderr says so, because a hub with
    /// another secret refuses the tokens.
    pub(super) fn load_with_kept_secrets(&self) -> Result<Config, String> {
        let mut config = self.load()?;
        if !secrets::has_signing_secret(&config)
            && let Some(file) = self.fill_with_kept_secrets(&mut config)?
            && secrets::has_signing_secret(&config)
        {
            print_error_line(&format!(
                "using the secrets of this user's development hubs ({}); for another hub add --config FILE",
                file.path().display()
            ));
        }
        Ok(config)
    }

    /// Loads the configuration for a command that talks to a running hub. Also returns the development hub that runs, unless the configuration says where the hub listens.
    pub(super) fn load_for_client(&self) -> Result<(Config, Option<RunningHub>), String> {
        let LoadReport { config, errors, sources, .. } = config::load_with_errors(self.sources());
        let Some(config) = config.filter(|_| errors.is_empty()) else { return Err(ConfigErrors(errors).to_string()) };
        let is_set = |key: &&str| sources.is_set_by_operator(key);
        let names_hub = ["server.bind", "server.internal_bind"].iter().any(is_set);
        let file = self.hub_file.as_ref().filter(|_| self.is_development() && !names_hub);
        Ok((config, file.and_then(DevelopmentHubFile::read)))
    }

    fn is_development(&self) -> bool {
        self.environment == Environment::Development
    }

    /// In development, sets the secrets that are not set to those of the file, which it returns if it exists.
    pub(super) fn fill_with_kept_secrets(&self, config: &mut Config) -> Result<Option<&SecretsFile>, String> {
        let Some(file) = self.secrets_file.as_ref().filter(|_| self.is_development()) else { return Ok(None) };
        let kept = file.read().map_err(|error| error.to_string())?;
        if let Some(kept) = &kept {
            secrets::fill_missing(config, kept);
        }
        Ok(kept.map(|_| file))
    }

    /// Loads the configuration, and checks it and the files that it names as a start would. Reports all errors
    /// together. Also returns warnings; lines to paste follow a warning on lines of their own.
    pub(super) fn load_checked(&self) -> Result<(Config, Vec<String>), String> {
        let LoadReport { config, mut errors, sources, .. } = config::load_with_errors(self.sources());
        let files = config.as_ref().map(|config| check_files(config, &errors, &sources)).unwrap_or_default();
        errors.extend(files.errors);
        let shared_secrets = config.as_ref().map(Verifier::shared_secrets).unwrap_or_default();
        if self.environment == Environment::Production {
            let error = |error: &KeyError| ConfigError::new(&error.key, sources.of(&error.key), &error.problem);
            errors.extend(shared_secrets.iter().map(error));
        }
        let Some(config) = config.filter(|_| errors.is_empty()) else {
            return Err(ConfigErrors(errors).to_string());
        };
        let mut warnings = config::warnings(&config);
        warnings.extend(shared_secrets.iter().map(KeyError::to_string));
        // Development has open channels. An operator who has written "none" knows that tokens have to grant channels.
        if self.environment == Environment::Production
            && !sources.is_set_by_operator("channels.allow_subscribe")
            && !config::opens_channels(&config)
            && !files.users_have_channels
        {
            warnings.push(config::NO_OPEN_CHANNEL.to_owned());
        }
        Ok((config, warnings))
    }
}

/// What the files say that the configuration names.
#[derive(Default)]
struct FileReport {
    errors: Vec<ConfigError>,
    /// Whether the login file grants channels to a user.
    users_have_channels: bool,
}

/// Checks the files and addresses that the configuration names. Skips keys that already have an error.
fn check_files(config: &Config, known: &[ConfigError], sources: &SettingSources) -> FileReport {
    let is_known = |key: &str| known.iter().any(|error| error.key.starts_with(key));
    let (mut errors, mut users_have_channels) = (Vec::new(), false);
    let mut add = |key: &str, problem: String| errors.push(ConfigError::new(key, sources.of(key), problem));
    if !["auth.keys", "auth.hmac_secret", "login.key"].into_iter().any(is_known) {
        Verifier::key_errors(config).into_iter().for_each(|error| add(&error.key, error.problem));
    }
    for error in server::certificate_errors(&config.server) {
        if let ServerStartError::Tls { section, error } = error {
            add(section, advice::certificate_error(&error));
        }
    }
    if let Err(bad) = AuditLog::check(&config.audit) {
        add("audit.output", advice::audit_error(&bad));
    }
    if let Some(path) = &config.login.users_file {
        let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
        match Users::read(path, config, permissions) {
            Ok(users) => users_have_channels = users.grant_channels(),
            Err(bad) => add("login.users_file", advice::users_file_error(&bad)),
        }
    }
    if let Some(path) = &config.admin.users_file {
        let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
        if let Err(bad) = Users::read(path, config, permissions) {
            add("admin.users_file", advice::users_file_error(&bad));
        }
    }
    if config.broker.kind == BrokerKind::Redis
        && !is_known("broker.redis")
        && let Err(RedisConfigError { key, problem }) = RedisBroker::check_config(&config.broker.redis)
    {
        add(key, problem);
    }
    FileReport { errors, users_have_channels }
}

/// `config check`.
pub(super) fn check(inputs: &ConfigInputs) -> CommandResult {
    let (config, warnings) = inputs.load_checked()?;
    let warnings = warnings.into_iter().map(|warning| format!("warning: {}\n", warning.replace('\n', "\n    ")));
    let environment = match inputs.environment {
        Environment::Development => "development",
        Environment::Production => "production",
    };
    let listeners = match &config.server.internal_bind {
        None => String::new(),
        Some(internal) => format!("; clients connect to {}, backends to {internal}", config.server.bind),
    };
    Ok(format!("{}the configuration is valid for {environment}{listeners}\n", warnings.collect::<String>()))
}

/// `config print`. The defaults are printed even if the configuration has errors.
pub(super) fn print(inputs: Result<ConfigInputs, CliError>, defaults: bool) -> CommandResult {
    if defaults {
        return Ok(config::DEFAULTS.to_owned());
    }
    let inputs = inputs?;
    let values = config::print(inputs.sources()).map_err(|errors| errors.to_string())?;
    let about = match inputs.environment {
        Environment::Development => {
            "# The configuration in force, in development. A hub generates the secrets that are not set."
        }
        Environment::Production => "# The configuration in force, in production.",
    };
    let hidden = "# \"<set>\" hides a secret. A value without \"from\" is the default.";
    Ok(format!("{about}\n{hidden}\n\n{values}"))
}
