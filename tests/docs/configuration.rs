//! docs/configuration.md is generated from the files in config/.

use std::fmt::Write;

use toml_edit::{DocumentMut, Item, Table};
use wardcast::config::{OPTIONS, OptionEffect};

use crate::support::generated::assert_generated;

const INTRODUCTION: &str = r#"# Configuration

<!-- Generated from config/*.toml. To change it, edit those files and run: UPDATE_DOCS=1 cargo test --test wardcast -->

All keys of Wardcast, with their defaults. Later sources override earlier ones:

1. the defaults below
2. the defaults of the environment: `WARDCAST_ENV=development` or `WARDCAST_ENV=production`; without the variable, the file's key
   `environment`, or else development
3. the TOML file of `--config FILE` or `WARDCAST_CONFIG=FILE`
4. environment variables: `WARDCAST_<SECTION>__<KEY>`, with two underscores between section and key
5. `--set KEY=VALUE`, like `--set server.bind=127.0.0.1:9000`

A key that does not exist is an error. `""` means not set. Durations are written like `"500ms"`, `"8s"` or `"24h"`. In variables
and `--set`, text has no quotes, and lists are separated by commas or written as JSON.

The column *change* says when a changed value takes effect: `SIGHUP` (`systemctl reload wardcast`), or a `restart`. SIGHUP reads all
sources again and applies the options of the first kind; those of the second are named in the log. A configuration with an error is
refused as a whole. [Deploying](deploying.md#reloading) says what reloaded options mean for open sessions.

`wardcast config check` reports all errors of a configuration at once. `wardcast config print` prints the values in force, with
the source of each.
"#;

#[test]
fn configuration_page_is_generated_from_the_default_files() {
    let files = [
        include_str!("../../config/default.toml"),
        include_str!("../../config/development.toml"),
        include_str!("../../config/production.toml"),
    ];
    let [defaults, development, production] = files.map(|file| file.parse::<DocumentMut>().unwrap());
    let page = Page { environments: [("development", development), ("production", production)] };
    let mut text = INTRODUCTION.to_owned();
    page.write_section(&mut text, &[], &defaults);
    assert_generated("docs/configuration.md", &text);
}

/// The defaults of the environments, which override those in default.toml.
struct Page {
    environments: [(&'static str, DocumentMut); 2],
}

impl Page {
    /// Writes the keys of a section, then its subsections.
    fn write_section(&self, text: &mut String, section: &[&str], table: &Table) {
        let is_section = |item: &Item| item.is_table();
        let mut examples = String::new();
        if table.iter().any(|(_, item)| !is_section(item)) {
            let name = if section.is_empty() { "Top level".to_owned() } else { format!("`[{}]`", section.join(".")) };
            write!(text, "\n## {name}\n\n| key | default | variable | change | meaning |\n|---|---|---|---|---|\n")
                .unwrap();
        }
        for (key, item) in table.iter().filter(|(_, item)| !is_section(item)) {
            let comment = table.key(key).unwrap().leaf_decor().prefix().and_then(|prefix| prefix.as_str()).unwrap();
            let (meaning, example) = split_comment(comment);
            assert!(!meaning.is_empty(), "{key} has no comment in config/default.toml");
            let path: Vec<&str> = section.iter().copied().chain([key]).collect();
            let default = self.default_of(&path, item);
            let variable = match path.as_slice() {
                ["environment"] => "`WARDCAST_ENV`".to_owned(),
                [_] => String::new(),
                _ => format!("`WARDCAST_{}`", path.join("__").to_uppercase()),
            };
            let change = match OPTIONS.iter().find(|option| option.key == path.join(".")).unwrap().effect {
                OptionEffect::Reload => "`SIGHUP`",
                OptionEffect::Restart => "restart",
            };
            writeln!(text, "| `{key}` | {default} | {variable} | {change} | {} |", escape_markdown(&meaning)).unwrap();
            if !example.is_empty() {
                write!(examples, "\n```toml\n{example}```\n").unwrap();
            }
        }
        text.push_str(&examples);
        for (key, item) in table {
            if let Item::Table(inner) = item {
                let path: Vec<&str> = section.iter().copied().chain([key]).collect();
                self.write_section(text, &path, inner);
            }
        }
    }

    /// The default of a key, and those of the environments that have another one.
    fn default_of(&self, path: &[&str], item: &Item) -> String {
        let shown = |item: &Item| format!("`{}`", item.to_string().trim());
        let mut text = shown(item);
        for (name, document) in &self.environments {
            let inner = path.iter().try_fold(document.as_item(), |item, key| item.get(key));
            if let Some(other) = inner.filter(|other| shown(other) != shown(item)) {
                write!(text, "; in {name} {}", shown(other)).unwrap();
            }
        }
        text
    }
}

fn escape_markdown(text: &str) -> String {
    text.trim_end_matches(" Example:").replace('|', "\\|").replace('*', "\\*").replace('<', "\\<")
}

/// The prose of a comment as one line, and its indented lines as an example.
fn split_comment(comment: &str) -> (String, String) {
    // Text before an empty line is about the file, not about the key.
    let own = comment.rsplit("\n\n").next().unwrap();
    let lines: Vec<&str> = own.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let (example, prose): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.starts_with("   "));
    let example = example.iter().map(|line| format!("{}\n", &line[3..])).collect();
    (prose.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "), example)
}
