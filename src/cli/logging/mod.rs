//! The log on stderr: its levels, and its two formats.

mod line;

use std::io::Write;

use log::LevelFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts the log.
///
/// # Errors
/// If this process has one already.
pub(super) fn start(config: &LogConfig) -> Result<(), String> {
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
    builder.try_init().map_err(|error| error.to_string())
}
