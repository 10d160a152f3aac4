//! The log on stderr: its levels, and its two formats.

mod line;

use std::{io::Write, sync::OnceLock};

use arc_swap::ArcSwap;
use log::{LevelFilter, Log, Metadata, Record};

use crate::config::{LogConfig, LogFormat};

/// The log of this process, whose level and format can change.
static LOG: OnceLock<ReloadableLog> = OnceLock::new();

struct ReloadableLog(ArcSwap<env_logger::Logger>);

impl Log for ReloadableLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.load().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.0.load().log(record);
    }

    fn flush(&self) {
        self.0.load().flush();
    }
}

/// Starts the log.
///
/// # Errors
/// If this process has one already.
pub(super) fn start(config: &LogConfig) -> Result<(), String> {
    let logger = create_logger(config);
    let level = logger.filter();
    let log = LOG.get_or_init(|| ReloadableLog(ArcSwap::from_pointee(logger)));
    log::set_logger(log).map_err(|error| error.to_string())?;
    log::set_max_level(level);
    Ok(())
}

/// Changes level and format of the log, if it was started.
pub(super) fn reload(config: &LogConfig) {
    if let Some(log) = LOG.get() {
        let logger = create_logger(config);
        let level = logger.filter();
        log.0.store(logger.into());
        log::set_max_level(level);
    }
}

fn create_logger(config: &LogConfig) -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    // At "info", actix-server only logs details about its threads.
    let server_level = if config.level > LevelFilter::Info { config.level } else { LevelFilter::Warn };
    builder
        .filter_level(config.level)
        .filter_module("actix_server", server_level.min(config.level))
        .parse_default_env();
    if config.format == LogFormat::Json {
        builder.format(|out, record| {
            let time = out.timestamp_millis();
            writeln!(out, "{}", line::to_json(&time, record.level(), record.target(), &record.args().to_string()))
        });
    }
    builder.build()
}
