//! `serve`: log, secrets of a development run, server, signals.

use log::LevelFilter;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{VERSION, advice, banner, machine, secrets};
use crate::{
    clock::Clock,
    config::{self, Config, Environment},
    server::{self, RunningServer},
};

/// Runs until a signal says stop.
pub(super) fn serve(mut config: Config, environment: Environment) -> Result<(), String> {
    // What the server says of its threads at "info" is for whoever works on it.
    let of_threads = if config.log.level > LevelFilter::Info { config.log.level } else { LevelFilter::Warn };
    env_logger::Builder::new()
        .filter_level(config.log.level)
        .filter_module("actix_server", of_threads.min(config.log.level))
        .parse_default_env()
        .try_init()
        .map_err(|error| error.to_string())?;
    let clock = Clock::default();
    config::warnings(&config).iter().for_each(|warning| log::warn!("{warning}"));
    // Who tries things out has few connections, and no use for advice on many.
    let level = if environment == Environment::Development { log::Level::Debug } else { log::Level::Warn };
    machine::raise_open_file_limit(&config).iter().for_each(|warning| log::log!(level, "{warning}"));
    machine::check_clock(clock.now()).iter().for_each(|warning| log::warn!("{warning}"));
    if environment == Environment::Development {
        secrets::fill_missing(&mut config)?;
    }
    let system = actix_rt::System::new();
    system.block_on(async move {
        // Before anybody can know that we listen: a signal without a handler would be the end.
        let mut signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
        let running = server::start(config.clone(), clock).await.map_err(|error| advice::start_error(&error))?;
        log::info!("wardcast {VERSION} listens on {}", running.address);
        if environment == Environment::Development {
            // A hub whose output nobody reads is still a hub.
            if let Err(error) = banner::print(&config, running.address) {
                log::warn!("the token and the API key of this run could not be printed: {error}");
            }
        }
        signals.wait_for_stop(&running).await;
        log::info!("stopping: {} connections to close", running.connections());
        running.stop().await;
        Ok(())
    })
}

/// SIGTERM and SIGINT stop; SIGHUP reads the certificate and the login file again.
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

/// Each by itself: a fault of the one does not keep the other from changing.
fn reload(running: &RunningServer) {
    match running.reload_certificate() {
        Ok(true) => log::info!("the certificate was read again"),
        Ok(false) => {}
        Err(bad) => log::error!("the certificate stays as it was: {}", advice::certificate_error(&bad)),
    }
    match running.reload_users() {
        Ok(true) => log::info!("the login file was read again"),
        Ok(false) => {}
        Err(bad) => log::error!("the users stay as they were: {}", advice::users_file_error(&bad)),
    }
}
