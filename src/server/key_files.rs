//! Watches the files of `auth.keys`, and reads them again when one has changed.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use super::seen_files::{SeenFiles, stamp_of};
use crate::{
    auth::{KeyChange, KeyError},
    config::{Config, KeySource},
    http::HttpContext,
};

/// Returns the files of `auth.keys`.
pub(super) fn key_files(config: &Config) -> Vec<PathBuf> {
    let sources = config.auth.keys.iter().filter_map(|key| key.source());
    let files = sources.filter_map(|source| match source {
        KeySource::File(path) | KeySource::SetFile(path) => Some(path.to_owned()),
        KeySource::Jwk(_) | KeySource::SetUrl(_) | KeySource::Issuer(_) => None,
    });
    files.collect()
}

/// Starts a task that looks for changes every `auth.key_files_interval`. It ends with the server.
pub(super) fn watch(context: &Arc<HttpContext>) {
    let interval = context.config.current().auth.key_files_interval;
    if !interval.is_zero() {
        actix_rt::spawn(watch_files(Arc::downgrade(context), interval));
    }
}

async fn watch_files(context: Weak<HttpContext>, interval: Duration) {
    let mut seen = SeenFiles::default();
    loop {
        tokio::time::sleep(interval).await;
        let Some(context) = context.upgrade() else { return };
        // A reload of the configuration may name others.
        let files = key_files(&context.config.current());
        if files.is_empty() {
            continue;
        }
        let (verifier, before) = (context.verifier.clone(), std::mem::take(&mut seen));
        drop(context);
        // A network drive may take long.
        let look = tokio::task::spawn_blocking(move || {
            before.look(files.iter().map(stamp_of).collect(), || verifier.reload_key_files())
        });
        let (after, reload) = look.await.unwrap_or_default();
        seen = after;
        if let Some(reload) = reload.filter(|reload| reload.is_news) {
            log_reload(&reload.result);
        }
    }
}

/// Logs what a reload of the key files has changed.
pub(super) fn log_reload(reloaded: &Result<KeyChange, KeyError>) {
    match reloaded {
        Ok(KeyChange { added: 0, removed: 0, .. }) => {}
        Ok(KeyChange { added, removed, .. }) => log::info!("reloaded key files added={added} removed={removed}"),
        Err(error) => log::error!("key file reload failed, keeping the old keys error={:?}", error.to_string()),
    }
}
