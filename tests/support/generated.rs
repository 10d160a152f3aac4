//! Pages in docs/ that tests generate from the code and its data.

use std::{fs, path::Path};

/// Checks that the page `path`, below the repository, is exactly `text`. With `UPDATE_DOCS=1` in the environment, writes the
/// page instead.
#[track_caller]
pub fn assert_generated(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(&file, text).unwrap();
    }
    let current = fs::read_to_string(&file).unwrap_or_default();
    let difference =
        (1..).zip(current.lines().chain([""]).zip(text.lines().chain([""]))).find(|(_, (is, must))| is != must);
    assert!(
        current == text,
        "{path} is out of date (line, is, must be: {difference:?}); regenerate it: UPDATE_DOCS=1 cargo test --test wardcast"
    );
}
