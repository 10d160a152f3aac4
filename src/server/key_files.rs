//! Watches the files of `auth.keys`, and reads them again when one has changed.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use super::seen_files::{SeenFiles, stamp_of};
use crate::{
    auth::{KeyChange, KeyError, Verifier},
    config::{Config, KeySource},
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

/// Starts a task that looks for changes every `auth.key_files_interval`. It ends with the last other reference to the verifier.
pub(super) fn watch(verifier: &Arc<Verifier>, config: &Arc<Config>) {
    let interval = config.auth.key_files_interval;
    if !interval.is_zero() && !key_files(config).is_empty() {
        actix_rt::spawn(watch_files(Arc::downgrade(verifier), config.clone(), interval));
    }
}

async fn watch_files(verifier: Weak<Verifier>, config: Arc<Config>, interval: Duration) {
    let (files, mut seen) = (key_files(&config), SeenFiles::default());
    loop {
        tokio::time::sleep(interval).await;
        let Some(verifier) = verifier.upgrade() else { return };
        let (files, config, before) = (files.clone(), config.clone(), std::mem::take(&mut seen));
        // A network drive may take long.
        let look = tokio::task::spawn_blocking(move || {
            before.look(files.iter().map(stamp_of).collect(), || verifier.reload_keys(&config))
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
