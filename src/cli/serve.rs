//! `serve`: log, secrets of a development run, server, signals.

use tokio::signal::unix::{SignalKind, signal};

use super::{banner, secrets};
use crate::{
    clock::Clock,
    config::{Config, Environment},
    server::{self, Running},
};

/// Runs until a signal says stop.
pub(super) fn serve(mut config: Config, environment: Environment) -> Result<(), String> {
    env_logger::Builder::new()
        .filter_level(config.log.level)
        .parse_default_env()
        .try_init()
        .map_err(|error| error.to_string())?;
    if environment == Environment::Development {
        secrets::fill(&mut config)?;
    }
    let system = actix_rt::System::new();
    system.block_on(async move {
        let running = server::start(config.clone(), Clock::default()).await.map_err(|error| error.to_string())?;
        log::info!("wardcast {} listens on {}", env!("CARGO_PKG_VERSION"), running.address);
        if environment == Environment::Development {
            banner::print(&config, running.address)?;
        }
        wait_for_stop(&running).await.map_err(|error| error.to_string())?;
        log::info!("stopping: {} connections to close", running.connections());
        running.stop().await;
        Ok(())
    })
}

/// SIGTERM and SIGINT stop; SIGHUP reads the certificate again.
async fn wait_for_stop(running: &Running) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => match running.reload_certificate() {
                Ok(()) => log::info!("the certificate was read again"),
                Err(error) => log::error!("the certificate stays as it was: {error}"),
            },
        }
    }
}
