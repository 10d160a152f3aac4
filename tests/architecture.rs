//! The plan of the house, kept: sizes, who imports whom, what lies at the top. Read from the sources, so that a change of
//! plan is a change here, seen in review.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
};

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 60;

/// What every room may import: nouns without behaviour, time, counters, configuration.
const SHARED_MODULES: [&str; 13] = [
    "channel",
    "publication",
    "position",
    "tags",
    "filter",
    "delta",
    "address",
    "origin",
    "clock",
    "connection_limit",
    "rate_limit",
    "metrics",
    "config",
];

/// Room → what it may import from other rooms beside the nouns; a path allows all that is below it. Nouns import nouns.
const ALLOWED_IMPORTS: [(&str, &[&str]); 9] = [
    ("protocol", &[]),
    // A HandshakeAuth says in which format the connection speaks, and a denied permission has one error code on every path.
    // The verifier refuses tokens in its own words: http and session translate them differently.
    ("auth", &["protocol::Format", "protocol::ErrorCode"]),
    ("transport", &["protocol::frame"]),
    // An error of a broker or of a control has one error code, for sessions and for the server API.
    ("broker", &["protocol::ErrorCode"]),
    ("hub", &["protocol", "broker", "transport"]),
    ("session", &["protocol", "auth", "hub", "broker", "transport"]),
    ("http", &["auth", "transport", "session", "protocol"]),
    // Two exceptions: a refused request looks the same on every path, and bodies have the same bounds, so api answers with
    // http's HttpError and reads its RequestBody.
    ("api", &["auth", "hub", "broker", "protocol", "http::HttpError", "http::RequestBody"]),
    // A visitor like any other: it knows what is configured, and nothing of who comes.
    ("web", &[]),
];

/// Composition root and front: they know everybody.
const TOP_MODULES: [&str; 2] = ["server", "cli"];

/// What may lie at the top of the repository; less is fine, more is not.
const TOP_LEVEL_ENTRIES: &str = ".ci .dockerignore .gitignore ARCHITECTURE.md CHANGELOG.md Cargo.lock Cargo.toml Dockerfile LICENSE \
                   README.md THREATS.md clippy.toml config docker-compose.yml rustfmt.toml src tests";

const REQUIRED_CRATES: [&str; 8] =
    ["actix", "actix-web", "actix-web-actors", "jsonwebtoken", "serde", "redis", "deadpool-redis", "env_logger"];

#[test]
fn no_file_has_more_than_400_lines_of_code() {
    // Comments and blank lines do not count: a file must not lose its explanations to stay below the limit.
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let sources = sources("src").into_iter().chain(sources("tests"));
    let sources = sources.map(|source| (source.text.lines().filter(is_code).count(), source));
    let long = sources.filter(|(lines, _)| *lines > MAX_FILE_LINES);
    assert_none(long.map(|(lines, source)| format!("{}: {lines} lines", source.name)));
}

#[test]
fn no_function_is_longer_than_60_lines() {
    let sources = sources("src").into_iter().chain(sources("tests"));
    assert_none(sources.flat_map(|source| {
        let long = functions(&source.code).into_iter().map(|span| (source.line(span.start), source.line(span.end)));
        let long = long.filter(|(first, last)| last - first + 1 > MAX_FUNCTION_LINES);
        long.map(|(first, last)| format!("{}:{first}: {} lines", source.name, last - first + 1)).collect::<Vec<_>>()
    }));
}

#[test]
fn module_imports_only_allowed_modules() {
    let rooms: Vec<&str> =
        ALLOWED_IMPORTS.iter().map(|(room, _)| *room).chain(SHARED_MODULES).chain(TOP_MODULES).collect();
    assert_none(sources("src").iter().filter(|source| !source.is_bench()).flat_map(|source| {
        let own = source.modules().first().cloned().unwrap_or_default();
        let below = ALLOWED_IMPORTS.iter().find(|(room, _)| *room == own).map_or(&[][..], |(_, below)| below);
        let may = |path: &str| {
            let room = path.split("::").next().unwrap();
            let is_below = below.iter().any(|below| path == *below || path.starts_with(&format!("{below}::")));
            room == own || SHARED_MODULES.contains(&room) || is_below
        };
        assert!(own.is_empty() || rooms.contains(&own.as_str()), "{}: a room without a line in ROOMS", source.name);
        let free = own.is_empty() || TOP_MODULES.contains(&own.as_str());
        let outside = source.imports().into_iter().filter(|(_, path)| !free && !may(path));
        outside.map(|(at, path)| format!("{}:{}: {path}", source.name, source.line(at))).collect::<Vec<_>>()
    }));
}

#[test]
fn bench_imports_protocol_and_shared_modules_only() {
    assert_none(sources("src").iter().filter(|source| source.is_bench()).flat_map(|source| {
        let paths = words(&source.code, "wardcast::").into_iter().flat_map(|at| paths_at(&source.code, at + 10));
        let outside = paths.filter(|path| !["protocol", "channel", "publication", "delta"].contains(&first(path)));
        outside.map(|path| format!("{}: wardcast::{path}", source.name)).collect::<Vec<_>>()
    }));
}

#[test]
fn top_level_has_only_the_listed_entries() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut entries: Vec<&str> = listed.lines().map(|path| path.split('/').next().unwrap()).collect();
    entries.dedup();
    assert!(entries.contains(&"src"), "{entries:?}");
    assert_none(entries.into_iter().filter(|entry| !TOP_LEVEL_ENTRIES.split(' ').any(|agreed| agreed == *entry)));
}

#[test]
fn required_crates_are_dependencies_and_used() {
    let manifest = manifest();
    let code: String = sources("src").into_iter().map(|source| source.code).collect();
    assert_none(REQUIRED_CRATES.into_iter().flat_map(|name| {
        let is_listed = manifest["dependencies"].get(name).is_some();
        let is_used = !words(&code, &format!("{}::", name.replace('-', "_"))).is_empty();
        [(is_listed, "is no dependency"), (is_used, "is not used in src")]
            .into_iter()
            .filter(|(holds, _)| !holds)
            .map(move |(_, problem)| format!("{name} {problem}"))
    }));
}

#[test]
fn every_test_named_in_the_threat_model_exists() {
    let threats = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/THREATS.md")).unwrap();
    let named: Vec<&str> = threats.split('`').skip(1).step_by(2).filter(|code| code.contains("::")).collect();
    assert!(named.len() > 30, "{named:?}");
    let code: String = sources("src").into_iter().chain(sources("tests")).map(|source| source.code).collect();
    let is_there = |name: &str| !words(&code, &format!("fn {}(", name.rsplit("::").next().unwrap())).is_empty();
    assert_none(named.into_iter().filter(|name| *name != "module::name" && !is_there(name)));
}

#[test]
fn unsafe_code_is_forbidden() {
    assert_eq!(manifest()["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    // Forbidden cannot be allowed again; so this is for whoever would take the lint away together with it.
    let has_unsafe = |source: &Source| ["unsafe ", "unsafe{"].iter().any(|word| !words(&source.code, word).is_empty());
    assert_none(sources("src").into_iter().filter(has_unsafe).map(|source| source.name));
}

#[test]
fn every_file_begins_with_a_module_comment() {
    assert_none(sources("src").iter().filter(|source| !source.text.starts_with("//! ")).map(|source| &source.name));
}

#[test]
fn no_todo_and_no_unwrap_outside_tests() {
    let is_test = |source: &&Source| source.name.ends_with("/tests.rs");
    assert_none(sources("src").iter().filter(|source| !is_test(source)).flat_map(|source| {
        let code = without_tests(&source.code);
        let found = ["todo!", "unimplemented!", ".unwrap()"].map(|banned| (banned, code.match_indices(banned)));
        let found = found.into_iter().flat_map(|(banned, at)| at.map(move |(at, _)| (banned, at)));
        found.map(|(banned, at)| format!("{}:{}: {banned}", source.name, source.line(at))).collect::<Vec<_>>()
    }));
}

#[test]
fn scanner_blanks_comments_and_literals() {
    let text =
        "fn a<'x>() -> [u8; 2] { \"}\"; r#\"fn \"}\"#; '{'; /* { /* } */ fn */ b\"\\\"{\" }\nfn b();\nfn c() {\n}";
    let code = code_of(text);
    assert_eq!(code.len(), text.len());
    let spans: Vec<&str> = functions(&code).into_iter().map(|span| &text[span]).collect();
    assert!(spans.len() == 2 && spans[0].starts_with("fn a") && spans[0].ends_with('}'), "{spans:?}");
    assert_eq!(spans[1], "fn c() {\n}");
    let tree =
        code_of("use crate::{\n    auth::{Claims, credentials::{self, X}},\n    connection_limit::Permit as S,\n};");
    assert_eq!(
        paths_at(&tree, 11),
        ["auth::Claims", "auth::credentials::self", "auth::credentials::X", "connection_limit::Permit"]
    );
    let test = without_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n  .unwrap()\n}\n.unwrap()");
    assert_eq!(test.matches(".unwrap()").count(), 1);
}

/// One `.rs` file.
struct Source {
    /// Its path below the repository.
    name: String,
    text: String,
    /// The text with comments, strings and characters blanked, byte for byte as long.
    code: String,
}

impl Source {
    fn line(&self, at: usize) -> usize {
        1 + self.text[..at].matches('\n').count()
    }

    fn is_bench(&self) -> bool {
        self.name.starts_with("src/bin/")
    }

    /// Its module path below the crate: `src/broker/redis/mod.rs` is broker, redis; `lib.rs`, `main.rs` and the build
    /// script are none.
    fn modules(&self) -> Vec<String> {
        let path = self.name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').filter(|part| !["lib", "main", "build"].contains(part)).map(str::to_owned).collect()
    }

    /// What it names below the crate's root, through `crate::` or enough `super::`, each with its place.
    fn imports(&self) -> Vec<(usize, String)> {
        let from_crate = words(&self.code, "crate::").into_iter().map(|at| (at, at + 7));
        let chains = words(&self.code, "super::").into_iter().filter(|at| !self.code[..*at].ends_with("::"));
        let from_super = chains.filter_map(|at| {
            let rest = self.code[at..].trim_start_matches("super::");
            let up = (self.code.len() - at - rest.len()) / 7;
            (up >= self.modules().len() + inline_modules(&self.code, at)).then(|| (at, self.code.len() - rest.len()))
        });
        let starts = from_crate.chain(from_super);
        starts.flat_map(|(at, start)| paths_at(&self.code, start).into_iter().map(move |path| (at, path))).collect()
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut found) = (vec![root.join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { name, code: code_of(&text), text });
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

fn manifest() -> toml::Table {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap().parse().unwrap()
}

/// All offenders in one message.
#[track_caller]
fn assert_none(offenders: impl IntoIterator<Item = impl ToString>) {
    let offenders: Vec<String> = offenders.into_iter().map(|offender| offender.to_string()).collect();
    assert!(offenders.is_empty(), "{} offenders:\n  {}", offenders.len(), offenders.join("\n  "));
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Where `word` stands and is not the end of a longer one.
fn words(code: &str, word: &str) -> Vec<usize> {
    let places = code.match_indices(word).map(|(at, _)| at);
    places.filter(|at| !code[..*at].ends_with(is_word)).collect()
}

/// The paths of the use tree that begins at `start`.
fn paths_at(code: &str, start: usize) -> Vec<String> {
    let (mut prefix, mut open) = (String::new(), Vec::new());
    let mut paths = Vec::new();
    let mut rest = &code[start..];
    loop {
        let name = &rest[..rest.find(|c| !is_word(c) && c != ':').unwrap_or(rest.len())];
        rest = rest[name.len()..].trim_start();
        let path = format!("{prefix}{}", name.trim_end_matches("::"));
        if let Some(inside) = rest.strip_prefix('{').filter(|_| name.is_empty() || name.ends_with("::")) {
            open.push(prefix.clone());
            prefix.push_str(name);
            rest = inside.trim_start();
            continue;
        }
        if !name.is_empty() {
            paths.push(path);
        }
        // Past `as X`, to what ends this entry.
        while !open.is_empty() && !rest.starts_with([',', '}']) {
            rest = &rest[rest.find([',', '}']).unwrap()..];
        }
        while let Some(after) = rest.strip_prefix('}').filter(|_| !open.is_empty()) {
            prefix = open.pop().unwrap();
            rest = after.trim_start();
        }
        if open.is_empty() {
            return paths;
        }
        rest = rest.trim_start_matches(',').trim_start();
    }
}

/// How many `mod x { … }` are open at `at`.
fn inline_modules(code: &str, at: usize) -> usize {
    let mods = words(code, "mod ").into_iter().filter(|start| *start < at);
    mods.filter(|start| body(code, *start).is_some_and(|body| body.contains(&at))).count()
}

/// The functions that have a body, each from its `fn` to its closing brace.
fn functions(code: &str) -> Vec<Range<usize>> {
    words(code, "fn ").into_iter().filter_map(|start| Some(start..body(code, start)?.end)).collect()
}

/// The braces that belong to the item at `start`; an item that ends in `;` has none.
fn body(code: &str, start: usize) -> Option<Range<usize>> {
    let (mut depth, mut open) = (0, None);
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match (byte, open) {
            (b'(' | b'[', None) => depth += 1,
            (b')' | b']', None) => depth -= 1,
            (b';', None) if depth == 0 => return None,
            (b'{', None) if depth == 0 => (depth, open) = (1, Some(at)),
            (b'{', Some(_)) => depth += 1,
            (b'}', Some(first)) if depth == 1 => return Some(first..at + 1),
            (b'}', Some(_)) => depth -= 1,
            _ => {}
        }
    }
    None
}

fn without_tests(code: &str) -> String {
    let mut code = code.to_owned();
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = body(&code, start + "#[cfg(test)]".len()).map_or(start + 2, |body| body.end);
        code.replace_range(start..end, &blank(&code[start..end]));
    }
    code
}

fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Blanks what is not code.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let end = at + literal(&text[at..], text[..at].ends_with(is_word));
        if end > at {
            code.push_str(&blank(&text[at..end]));
            at = end;
        } else {
            let character = text[at..].chars().next().unwrap();
            code.push(character);
            at += character.len_utf8();
        }
    }
    code
}

/// How long the comment, string or character is that `text` begins with; 0 when it begins with code.
fn literal(text: &str, is_inside_word: bool) -> usize {
    let until = |from: usize, end: &str| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return comment(text);
    }
    let prefix = text.find(|c| !"bcr".contains(c)).filter(|prefix| *prefix <= 2 && !is_inside_word).unwrap_or(0);
    let hashes = text[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    if text[..prefix].ends_with('r') && text[prefix + hashes..].starts_with('"') {
        return until(prefix + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
    }
    let rest = &text[prefix..];
    let is_character = rest.starts_with("'\\") || (rest.starts_with('\'') && rest.chars().nth(2) == Some('\''));
    match rest.chars().next() {
        Some('"') => prefix + quoted(rest, '"'),
        Some('\'') if is_character => prefix + quoted(rest, '\''),
        _ => 0,
    }
}

fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, character)| {
        let is_end = *character == quote && !is_escaped;
        is_escaped = *character == '\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Block comments nest.
fn comment(text: &str) -> usize {
    let mut depth = 0;
    for at in 0..text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => depth -= 1,
            _ => {}
        }
    }
    text.len()
}
