//! `serve`: log, secrets of a development run, server, signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{banner, secrets};
use crate::{
    clock::Clock,
    config::{self, Config, Environment},
    server::{self, Running},
};

/// Runs until a signal says stop.
pub(super) fn serve(mut config: Config, environment: Environment) -> Result<(), String> {
    env_logger::Builder::new()
        .filter_level(config.log.level)
        .parse_default_env()
        .try_init()
        .map_err(|error| error.to_string())?;
    for warning in config::warnings(&config) {
        log::warn!("{warning}");
    }
    if environment == Environment::Development {
        secrets::fill(&mut config)?;
    }
    let system = actix_rt::System::new();
    system.block_on(async move {
        // Before anybody can know that we listen: a signal without a handler would be the end.
        let mut signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
        let running = server::start(config.clone(), Clock::default()).await.map_err(|error| error.to_string())?;
        log::info!("wardcast {} listens on {}", env!("CARGO_PKG_VERSION"), running.address);
        if environment == Environment::Development {
            banner::print(&config, running.address)?;
        }
        signals.wait_for_stop(&running).await;
        log::info!("stopping: {} connections to close", running.connections());
        running.stop().await;
        Ok(())
    })
}

/// SIGTERM and SIGINT stop; SIGHUP reads the certificate again.
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

    async fn wait_for_stop(&mut self, running: &Running) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => match running.reload_certificate() {
                    Ok(()) => log::info!("the certificate was read again"),
                    Err(error) => log::error!("the certificate stays as it was: {error}"),
                },
            }
        }
    }
}
