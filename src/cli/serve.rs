//! `serve`: sets up the log, completes the secrets of a development run, runs the server and handles signals.

use std::{convert::Infallible, path::PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    VERSION, advice,
    banner::{self, GeneratedSecrets},
    client::{DevelopmentHubFile, url_of},
    configuration::ConfigInputs,
    logging, machine,
    missing_secrets::MissingSecrets,
    service_manager::ServiceManager,
};
use crate::{
    clock::Clock,
    config::{Config, Environment},
    server::{self, ListenAddress, PassedSockets, RunningServer},
};

/// Runs a hub until SIGTERM or SIGINT; later signals change nothing. `ephemeral`: a development hub does not use the secrets of earlier runs, and does
/// not keep its own.
pub(super) fn serve(inputs: &ConfigInputs, ephemeral: bool) -> Result<(), String> {
    let environment = inputs.environment;
    let (mut config, warnings) = inputs.load_checked()?;
    if ephemeral && environment == Environment::Production {
        return Err("--ephemeral is for development: in production no secret is generated; remove it".to_owned());
    }
    logging::start(&config.log)?;
    let clock = Clock::default();
    warnings.iter().for_each(|warning| log_warning(warning));
    raise_open_file_limit(&config, environment);
    machine::check_clock(clock.now()).iter().for_each(|warning| log::warn!("system clock wrong text={warning:?}"));
    let mut missing_secrets = (environment == Environment::Development)
        .then(|| MissingSecrets::new(inputs.secrets_file.as_ref().filter(|_| !ephemeral)));
    let generated = match &mut missing_secrets {
        Some(missing) => missing.complete(&mut config)?,
        None => GeneratedSecrets::None,
    };
    // Before the first thread, because it removes variables.
    let names = std::env::var_os("LISTEN_FDNAMES");
    let passed = PassedSockets::from_environment(names.as_deref()).map_err(|error| error.to_string())?;
    let service_manager = ServiceManager::new(std::env::var_os("NOTIFY_SOCKET"));
    let system = actix_rt::System::new();
    system.block_on(async move {
        // Before the hub listens: without a handler, a signal would kill the process at once.
        let mut signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
        let running = server::start_with_sockets(config.clone(), clock, passed).await;
        let running = running.map_err(|error| advice::start_error(&error))?;
        for address in running.addresses() {
            log::info!("server started address={address} version={VERSION:?}");
        }
        for address in running.internal_addresses() {
            log::info!("server API served on the internal listener only address={address}");
        }
        let hub_file = inputs.hub_file.as_ref().filter(|_| environment == Environment::Development && !ephemeral);
        hub_file.iter().for_each(|file| announce(file, &config, &running));
        service_manager.ready();
        if environment == Environment::Development {
            // The hub also runs without its stdout.
            if let Err(error) = banner::print(&config, &running, &generated) {
                log::warn!("cannot print the token and the API key error={error:?}");
            }
        }
        signals.wait_for_stop(&running, inputs, missing_secrets).await;
        service_manager.stopping();
        log::info!("server stopping connections={}", running.connections());
        // A hub that is gone is recognised as such, too.
        hub_file.iter().for_each(|file| _ = file.remove());
        tokio::select! {
            () = running.stop() => Ok(()),
            never = signals.report_all() => match never {},
        }
    })
}

/// Writes where the hub listens, for the commands that talk to it.
fn announce(file: &DevelopmentHubFile, config: &Config, running: &RunningServer) {
    let url = |tls: &Option<PathBuf>, addresses: &[ListenAddress]| {
        addresses.first().map(|address| url_of(address, tls.is_some(), &config.server.path_prefix))
    };
    let Some(public) = url(&config.server.tls.cert, &running.addresses()) else { return };
    let internal = url(&config.server.internal_tls.cert, &running.internal_addresses());
    if let Err(error) = file.add(public.clone(), internal.unwrap_or(public)) {
        log::warn!("cannot tell commands where the hub listens error={:?}", error.to_string());
    }
}

/// Logs a warning, and below it the lines to paste.
fn log_warning(warning: &str) {
    match warning.split_once('\n') {
        None => log::warn!("configuration warning text={warning:?}"),
        Some((text, lines)) => log::warn!("configuration warning text={text:?}\n{lines}"),
    }
}

/// The signals of a hub: SIGTERM and SIGINT stop it, SIGHUP reloads the configuration and the files that it names, and opens the
/// audit log again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// `missing_secrets`: of a development hub.
    async fn wait_for_stop(
        &mut self,
        running: &RunningServer,
        inputs: &ConfigInputs,
        mut missing_secrets: Option<MissingSecrets<'_>>,
    ) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    // First: the login file may grant channels of a namespace that is new.
                    reload_config(running, inputs, missing_secrets.as_mut());
                    reload_files(running);
                }
            }
        }
    }

    /// Logs the signals of a hub that is stopping. They do not end it earlier: process managers send SIGTERM again, or beside the
    /// SIGINT of a terminal, and each client would lose the rest of its time.
    async fn report_all(&mut self) -> Infallible {
        loop {
            let signal = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hang_up.recv() => "SIGHUP",
            };
            log::warn!(
                "signal ignored, the hub is stopping signal={signal} remedy=\"wait for server.drain, or end it with SIGKILL\""
            );
        }
    }
}

/// Raises the limit of open files for the configured connections, or logs that the machine does not permit it.
fn raise_open_file_limit(config: &Config, environment: Environment) {
    // A development hub has few connections.
    let level = if environment == Environment::Development { log::Level::Debug } else { log::Level::Warn };
    machine::raise_open_file_limit(config)
        .iter()
        .for_each(|warning| log::log!(level, "open file limit too low text={warning:?}"));
}

/// Reloads the certificate, the keys and the files of users, and opens the audit log again. An error in one of them does not prevent the others from reloading.
fn reload_files(running: &RunningServer) {
    for (section, reloaded) in
        [("server.tls", running.reload_certificate()), ("server.internal_tls", running.reload_internal_certificate())]
    {
        match reloaded {
            Ok(true) => log::info!("reloaded certificate section={section}"),
            Ok(false) => {}
            Err(error) => log::error!(
                "certificate reload failed, keeping the old one section={section} error={:?}",
                advice::certificate_error(&error)
            ),
        }
    }
    running.reopen_audit_log();
    // The server logs what has changed, and errors: it reloads changed files by itself, too.
    let _ = running.reload_keys();
    for (file, reloaded) in [("login", running.reload_users()), ("admin", running.reload_admins())] {
        match reloaded {
            Ok(true) => log::info!("reloaded {file} file"),
            Ok(false) => {}
            Err(error) => log::error!(
                "{file} file reload failed, keeping the old users error={:?}",
                advice::users_file_error(&error)
            ),
        }
    }
}

/// Reads the configuration from its sources again, and applies what can change while the hub runs. A configuration with an error is
/// refused as a whole. `missing_secrets`: of a development hub.
fn reload_config(running: &RunningServer, inputs: &ConfigInputs, missing_secrets: Option<&mut MissingSecrets<'_>>) {
    let refused = |error: &str| {
        log::error!(
            "configuration reload failed, keeping the old one error={error:?} remedy=\"wardcast config check shows the same\""
        );
    };
    let (mut loaded, warnings) = match inputs.load_checked() {
        Ok(loaded) => loaded,
        Err(error) => {
            running.record_refused_config(&error);
            return refused(&error);
        }
    };
    if let Some(Err(error)) = missing_secrets.map(|missing| missing.complete(&mut loaded)) {
        running.record_refused_config(&error);
        return refused(&error);
    }
    match running.reload_config(&loaded) {
        Ok(in_force) => {
            logging::reload(&in_force.log);
            raise_open_file_limit(&in_force, inputs.environment);
            warnings.iter().for_each(|warning| log_warning(warning));
        }
        Err(errors) => refused(&errors.to_string()),
    }
}
