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
    let (files, mut seen) = (key_files(&config), Seen::default());
    loop {
        tokio::time::sleep(interval).await;
        let Some(verifier) = verifier.upgrade() else { return };
        let (files, config, before) = (files.clone(), config.clone(), std::mem::take(&mut seen));
        // A network drive may take long.
        let look = tokio::task::spawn_blocking(move || {
            before.look(files.iter().map(stamp_of).collect(), || verifier.reload_keys(&config))
        });
        seen = look.await.unwrap_or_default();
    }
}

/// What the last look at the files has found. The files may have changed since the start, so the first look reads them in any case.
#[derive(Default)]
struct Seen {
    stamps: Option<Vec<Option<FileStamp>>>,
    has_failed: bool,
}

impl Seen {
    /// Reads the files if they have changed. Reads them again after an error: what failed for want of a file descriptor, say, may
    /// work now.
    fn look(self, stamps: Vec<Option<FileStamp>>, reload: impl FnOnce() -> Result<KeyChange, KeyError>) -> Self {
        let has_changed = self.stamps.as_ref() != Some(&stamps);
        let mut has_failed = false;
        if has_changed || self.has_failed {
            let reloaded = reload();
            has_failed = reloaded.is_err();
            // The same error is logged once.
            if has_changed || !has_failed {
                log_reload(&reloaded);
            }
        }
        Self { stamps: Some(stamps), has_failed }
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

/// Returns what changes with the content of a file; `None` if it cannot be found.
pub(super) fn stamp_of(file: &PathBuf) -> Option<FileStamp> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_when_they_have_changed_and_again_after_an_error() {
        let stamps = |ctime| vec![Some((1, 2, 3, ctime, 0)), None];
        let failed = || Err(KeyError { key: "k".to_owned(), problem: "too many open files".to_owned() });
        let mut seen = Seen::default();
        for (ctime, result, is_read) in [
            (1, Ok(KeyChange::default()), true),
            (1, Ok(KeyChange::default()), false),
            (2, failed(), true),
            (2, failed(), true),
            (2, Ok(KeyChange::default()), true),
            (2, Ok(KeyChange::default()), false),
        ] {
            let mut was_read = false;
            seen = seen.look(stamps(ctime), || {
                was_read = true;
                result
            });
            assert_eq!(was_read, is_read);
        }
    }
}
