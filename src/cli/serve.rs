//! `serve`: sets up the log, generates the secrets of a development run, runs the server and handles signals.

use log::LevelFilter;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{VERSION, advice, banner, machine, secrets};
use crate::{
    clock::Clock,
    config::{self, Config, Environment},
    server::{self, RunningServer},
};

/// Runs a hub until SIGTERM or SIGINT.
pub(super) fn serve(mut config: Config, environment: Environment) -> Result<(), String> {
    // At "info", actix-server only logs details about its threads.
    let server_level = if config.log.level > LevelFilter::Info { config.log.level } else { LevelFilter::Warn };
    env_logger::Builder::new()
        .filter_level(config.log.level)
        .filter_module("actix_server", server_level.min(config.log.level))
        .parse_default_env()
        .try_init()
        .map_err(|error| error.to_string())?;
    let clock = Clock::default();
    config::warnings(&config).iter().for_each(|warning| log::warn!("configuration warning text={warning:?}"));
    // A development hub has few connections.
    let level = if environment == Environment::Development { log::Level::Debug } else { log::Level::Warn };
    machine::raise_open_file_limit(&config)
        .iter()
        .for_each(|warning| log::log!(level, "open file limit too low text={warning:?}"));
    machine::check_clock(clock.now()).iter().for_each(|warning| log::warn!("system clock wrong text={warning:?}"));
    if environment == Environment::Development {
        secrets::fill_missing(&mut config)?;
    }
    let system = actix_rt::System::new();
    system.block_on(async move {
        // Before the hub listens: without a handler, a signal would kill the process at once.
        let mut signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
        let running = server::start(config.clone(), clock).await.map_err(|error| advice::start_error(&error))?;
        log::info!("server started address={} version={VERSION:?}", running.address);
        if environment == Environment::Development {
            // The hub also runs without its stdout.
            if let Err(error) = banner::print(&config, running.address) {
                log::warn!("cannot print the token and the API key of this run error={error:?}");
            }
        }
        signals.wait_for_stop(&running).await;
        log::info!("server stopping connections={}", running.connections());
        running.stop().await;
        Ok(())
    })
}

/// The signals of a hub: SIGTERM and SIGINT stop it, SIGHUP reloads the certificate and the login file.
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

    async fn wait_for_stop(&mut self, running: &RunningServer) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reload(running),
            }
        }
    }
}

/// Reloads the certificate and the login file. An error in one of them does not prevent the other from reloading.
fn reload(running: &RunningServer) {
    match running.reload_certificate() {
        Ok(true) => log::info!("reloaded certificate"),
        Ok(false) => {}
        Err(error) => {
            log::error!("certificate reload failed, keeping the old one error={:?}", advice::certificate_error(&error))
        }
    }
    match running.reload_users() {
        Ok(true) => log::info!("reloaded login file"),
        Ok(false) => {}
        Err(error) => {
            log::error!("login file reload failed, keeping the old users error={:?}", advice::users_file_error(&error))
        }
    }
}
