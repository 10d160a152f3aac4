//! Pages in docs/ that tests generate from the code and its data.

use std::fs;

use super::repository;

/// Checks that the page `path`, below the repository, is exactly `text`. With `UPDATE_DOCS=1` in the environment, writes the
/// page instead.
#[track_caller]
pub fn assert_generated(path: &str, text: &str) {
    let file = repository().join(path);
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

/// The same for the part of a page between the lines `<!-- generated: NAME -->` and `<!-- end of generated: NAME -->`.
#[track_caller]
pub fn assert_section_generated(path: &str, name: &str, text: &str) {
    let page = fs::read_to_string(repository().join(path)).unwrap();
    let (start, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end of generated: {name} -->\n"));
    let is_marked = page.matches(&start).count() == 1 && page.matches(&end).count() == 1;
    assert!(is_marked, "{path} must contain the lines {start:?} and {end:?} once");
    let (before, rest) = page.split_once(&start).unwrap();
    let (_, after) = rest.split_once(&end).expect("the end follows the start");
    assert_generated(path, &format!("{before}{start}\n{text}\n{end}{after}"));
}
