//! Decides when watched files are read again: when they have changed, and after an error. The files are polled: notifications
//! of the kernel do not tell of changes on network drives, and of those in mounted secrets only with care, since these are
//! swapped as links.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

/// The attributes of a file that change with its content: device, inode, size, and the time of the last change.
pub(super) type FileStamp = (u64, u64, u64, i64, i64);

/// Returns what changes with the content of a file; `None` if it cannot be found.
pub(super) fn stamp_of(file: &PathBuf) -> Option<FileStamp> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}

/// The stamps of the files at the last look. The files may have changed since the start, so the first look reads them in any case.
#[derive(Default)]
pub(super) struct SeenFiles {
    stamps: Option<Vec<Option<FileStamp>>>,
    has_failed: bool,
}

/// Files that were read again.
pub(super) struct Reload<T, E> {
    pub(super) result: Result<T, E>,
    /// By the first look: most likely nothing has changed since the start.
    pub(super) is_first: bool,
    /// Not for an error that was logged before.
    pub(super) is_news: bool,
}

impl SeenFiles {
    /// Reads the files if they have changed. Reads them again after an error: what failed for want of a file descriptor, say, may
    /// work now.
    pub(super) fn look<T, E>(
        self,
        stamps: Vec<Option<FileStamp>>,
        reload: impl FnOnce() -> Result<T, E>,
    ) -> (Self, Option<Reload<T, E>>) {
        let has_changed = self.stamps.as_ref() != Some(&stamps);
        let is_first = self.stamps.is_none();
        let reload = (has_changed || self.has_failed).then(|| {
            let result = reload();
            let is_news = has_changed || result.is_ok();
            Reload { result, is_first, is_news }
        });
        let has_failed = reload.as_ref().is_some_and(|reload| reload.result.is_err());
        (Self { stamps: Some(stamps), has_failed }, reload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_when_they_have_changed_and_again_after_an_error() {
        let stamps = |ctime| vec![Some((1, 2, 3, ctime, 0)), None];
        let mut seen = SeenFiles::default();
        for (ctime, result, is_read, is_news) in [
            (1, Ok(()), true, true),
            (1, Ok(()), false, false),
            (2, Err(()), true, true),
            (2, Err(()), true, false),
            (2, Ok(()), true, true),
            (2, Ok(()), false, false),
        ] {
            let is_first = seen.stamps.is_none();
            let (next, reload) = seen.look(stamps(ctime), || result);
            seen = next;
            assert_eq!(reload.is_some(), is_read);
            assert!(reload.is_none_or(|reload| reload.is_news == is_news && reload.is_first == is_first));
        }
    }
}
