//! Watches the files of `auth.keys`, and reads them again when one has changed. The files are polled: notifications of the kernel do
//! not tell of changes on network drives, and of those in mounted secrets only with care, since these are swapped as links.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    auth::{KeyChange, KeyError, Verifier},
    config::{Config, KeySource},
};

/// What changes with the content of a file: device, inode, size, and the time of the last change.
pub(super) type FileStamp = (u64, u64, u64, i64, i64);

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
    // The files may have changed since the start, so the first look reads them in any case.
    let (files, mut seen, mut has_failed) = (key_files(&config), None, false);
    loop {
        tokio::time::sleep(interval).await;
        let Some(verifier) = verifier.upgrade() else { return };
        let (files, config, before) = (files.clone(), config.clone(), seen.clone());
        // A network drive may take long.
        let look = tokio::task::spawn_blocking(move || {
            let stamps: Vec<Option<FileStamp>> = files.iter().map(stamp_of).collect();
            let has_changed = before.as_ref() != Some(&stamps);
            // What failed for want of a file descriptor, say, may work now.
            if !has_changed && !has_failed {
                return (stamps, false);
            }
            let reloaded = verifier.reload_keys(&config);
            if has_changed || reloaded.is_ok() {
                log_reload(&reloaded);
            }
            (stamps, reloaded.is_err())
        });
        (seen, has_failed) = match look.await {
            Ok((stamps, has_failed)) => (Some(stamps), has_failed),
            Err(_) => (None, false),
        };
    }
}

/// Logs what a reload of the key files has changed.
pub(super) fn log_reload(reloaded: &Result<KeyChange, KeyError>) {
    match reloaded {
        Ok(KeyChange { added: 0, retired: 0 }) => {}
        Ok(KeyChange { added, retired }) => log::info!("reloaded key files added={added} removed={retired}"),
        Err(error) => log::error!("key file reload failed, keeping the old keys error={:?}", error.to_string()),
    }
}

/// Returns what changes with the content of a file; `None` if it cannot be found.
pub(super) fn stamp_of(file: &PathBuf) -> Option<FileStamp> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}
