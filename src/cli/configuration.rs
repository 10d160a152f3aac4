//! The configuration of this process: read, checked together with the files that it names, and printed. This is the one place
//! that reads the process's environment.

use std::{path::PathBuf, sync::Arc};

use super::{Failure, Outcome, advice};
use crate::{
    auth::{Permissions, Verifier, login::Users},
    broker::redis::{self, RedisBroker},
    config::{self, BrokerKind, Config, Environment, Fault, Faults, Judged, Places, Sources},
    server,
};

/// Where the configuration comes from.
pub(super) struct Inputs {
    pub(super) environment: Environment,
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl Inputs {
    pub(super) fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Result<Self, Failure> {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("WARDCAST_"))
            .collect();
        let variable = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let environment = variable("WARDCAST_ENV").unwrap_or_default().parse();
        let environment = environment.map_err(|fault| Faults(vec![fault]).to_string())?;
        let named = || variable("WARDCAST_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self { environment, file: file.or_else(named), variables, flags })
    }

    fn sources(&self) -> Sources<'_> {
        let (variables, flags) = (self.variables.clone(), self.flags.clone());
        Sources { environment: self.environment, file: self.file.as_deref(), variables, flags }
    }

    /// The configuration by itself.
    pub(super) fn loaded(&self) -> Result<Config, String> {
        config::load(self.sources()).map_err(|faults| faults.to_string())
    }

    /// The configuration, if a hub would start with it: all faults at once, also those of the files that it names.
    pub(super) fn checked(&self) -> Result<Config, String> {
        let Judged { config, mut faults, places } = config::judge(self.sources());
        faults.extend(config.iter().flat_map(|config| file_faults(config, &faults, &places)).collect::<Vec<_>>());
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(Faults(faults).to_string()),
        }
    }
}

/// What is wrong with the files and addresses that the configuration names. What has a fault already is passed over.
fn file_faults(config: &Config, known: &[Fault], places: &Places) -> Vec<Fault> {
    let is_known = |key: &str| known.iter().any(|fault| fault.key.starts_with(key));
    let mut faults = Vec::new();
    let mut add = |key: &str, problem: String| faults.push(Fault::new(key, places.of(key), problem));
    if !["auth.keys", "auth.hmac_secret", "login.key"].into_iter().any(is_known) {
        Verifier::faults(config).into_iter().for_each(|bad| add(&bad.key, bad.problem));
    }
    if let Err(bad) = server::judge_certificate(&config.server.tls) {
        add("server.tls", advice::certificate(&bad));
    }
    if let Some(path) = &config.login.users_file {
        let permissions = Arc::new(Permissions::new(&config.channels, &config.namespaces));
        if let Err(bad) = Users::read(path, permissions, config.limits.channels_per_session) {
            add("login.users_file", advice::users(&bad));
        }
    }
    if config.broker.kind == BrokerKind::Redis
        && !is_known("broker.redis.url")
        && let Err(redis::StartError::Url(problem)) = RedisBroker::judge(&config.broker.redis)
    {
        let form = "redis://[user:password@]host:port, with what is special in a password percent-encoded";
        add("broker.redis.url", format!("cannot be used: {problem}; it is written {form}"));
    }
    faults
}

/// `config check`.
pub(super) fn check(inputs: &Inputs) -> Outcome {
    let config = inputs.checked()?;
    let warnings = config::warnings(&config).into_iter().map(|warning| format!("warning: {warning}\n"));
    let environment = match inputs.environment {
        Environment::Development => "development",
        Environment::Production => "production",
    };
    Ok(format!("{}the configuration is fine, for {environment}\n", warnings.collect::<String>()))
}

/// `config print`; the defaults are there whatever is wrong with the rest.
pub(super) fn print(inputs: Result<Inputs, Failure>, defaults: bool) -> Outcome {
    if defaults {
        return Ok(config::DEFAULTS.to_owned());
    }
    let inputs = inputs?;
    let values = config::print(inputs.sources()).map_err(|faults| faults.to_string())?;
    let about = match inputs.environment {
        Environment::Development => {
            "# In force in development (WARDCAST_ENV). Secrets that are not set are made anew for each run."
        }
        Environment::Production => "# In force in production (WARDCAST_ENV).",
    };
    let hidden = "# \"<set>\" stands for a secret; a value without \"from\" is the default.";
    Ok(format!("{about}\n{hidden}\n\n{values}"))
}
