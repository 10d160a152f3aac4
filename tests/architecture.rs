//! Checks the structure of the source: file sizes, which module imports which, the entries at the top of the repository.
//! The limits and the table of imports are constants below, so that a review sees every change of them. Clippy checks the
//! rest (`[lints]` in Cargo.toml, and clippy.toml): function length, `unwrap`, `todo!`, `unsafe`.

use std::{fs, path::PathBuf, process::Command};

use crate::support::repository;

/// Maximum lines of code in a file. Comments and blank lines do not count.
const MAX_FILE_LINES: usize = 400;

/// Lists the attacks and, for each of them, the tests that hold against it, as `module::test`.
const THREAT_MODEL: &str = "docs/threats.md";

/// The modules that every module may import: strict JSON, shared types, time, limits, counters, certificates, outgoing HTTP, configuration. They import only each other.
const SHARED_MODULES: [&str; 22] = [
    "text_enum",
    "json",
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
    "log_throttle",
    "certificate",
    "http_client",
    "audit",
    "revocation",
    "emulation",
    "deflate",
    "metrics",
    "config",
];

/// For each other module, what it may import beside the shared modules. A path allows everything below it.
const ALLOWED_IMPORTS: [(&str, &[&str]); 10] = [
    ("protocol", &[]),
    // A denied permission has one error code on every path. The verifier has errors of its own, and http and session translate
    // them to codes. An Admission holds the format that the connection speaks, the headers for hooks, and the close code of a refused client. The answer of the connect hook
    // becomes claims. Failed logins have one rule, for the table of an
    // instance and for the broker.
    (
        "auth",
        &[
            "protocol::Format",
            "protocol::ErrorCode",
            "protocol::WireError",
            "protocol::Disconnect",
            "hooks",
            "broker::LoginDelayRule",
            "broker::LoginFailureNames",
            "broker::LoginFailures",
            "broker::SharedLoginVerdict",
        ],
    ),
    // A hook answers with an error or a close code for the client.
    // Events wait in the broker.
    (
        "hooks",
        &[
            "protocol::ErrorCode",
            "protocol::WireError",
            "protocol::Disconnect",
            "broker::BrokerError",
            "broker::event_outbox",
        ],
    ),
    ("transport", &["protocol::frame", "protocol::FrameRule", "protocol::disconnect"]),
    // An error of a broker or of a control has one error code, for sessions and for the server API. A control names a close code
    // and a reason, which must be valid on the wire.
    ("broker", &["protocol::ErrorCode", "protocol::WireError", "protocol::ExceededLimit", "protocol::Disconnect"]),
    ("hub", &["protocol", "broker", "transport", "hooks::EventReporter"]),
    ("session", &["protocol", "auth", "hooks", "hub", "broker", "transport"]),
    // Readiness asks hubs and broker, and the broker stores tickets.
    ("http", &["auth", "hooks", "transport", "session", "protocol", "hub::Hubs", "hub::RefusedAttempt", "broker"]),
    // Exceptions, because a refused request looks the same on every path, bodies have the same limits, and a listener has one
    // role, and the admin page one session: api responds with http's HttpError, reads bodies with its RequestBody, asks for the
    // ListenerRole, finds the address of a caller as http does, and has the headers of http's streams and of its CORS.
    (
        "api",
        &[
            "auth",
            "hooks",
            "broker",
            "protocol",
            "http::HttpError",
            "http::EVENT_STREAM",
            "http::NO_BUFFERING",
            "http::cors::IDEMPOTENCY_KEY",
            "http::RequestBody",
            "http::BodyLimit",
            "http::ListenerRole",
            "http::admin",
            "http::forwarded",
            "http::request_id",
            "http::connection::CarriesApiKey",
            "http::connection::ClientCertificateName",
        ],
    ),
    // Serves files, and facts from the configuration. It does not authenticate.
    ("web", &[]),
];

/// The modules that start and connect all others. They may import everything.
const TOP_MODULES: [&str; 2] = ["server", "cli"];

/// What wardcast-bench may import from the library.
const BENCH_IMPORTS: [&str; 6] =
    ["protocol", "channel", "publication", "delta", "deflate", "certificate::KnownCertificate"];

/// The entries that may exist at the top of the repository.
const TOP_LEVEL_ENTRIES: [&str; 17] = [
    ".ci",
    ".dockerignore",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "config",
    "docker-compose.yml",
    "docs",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];

/// The crates that the project was asked to use.
const REQUIRED_CRATES: [&str; 8] =
    ["actix", "actix-web", "actix-web-actors", "jsonwebtoken", "serde", "redis", "deadpool-redis", "env_logger"];

#[test]
fn no_file_has_more_than_400_lines_of_code() {
    let sources = sources("src").into_iter().chain(sources("tests"));
    let sizes = sources.map(|source| (source.code.lines().filter(|line| !line.trim().is_empty()).count(), source.path));
    assert_none(
        sizes.filter(|(lines, _)| *lines > MAX_FILE_LINES).map(|(lines, path)| format!("{path}: {lines} lines")),
    );
}

#[test]
fn module_imports_only_allowed_modules() {
    assert_none(sources("src").iter().filter(|source| !source.is_bench()).flat_map(|source| {
        let module = source.modules().first().copied().unwrap_or_default();
        let allowed = ALLOWED_IMPORTS.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed);
        let may_import_all = module.is_empty() || TOP_MODULES.contains(&module);
        let is_listed = may_import_all || allowed.is_some() || SHARED_MODULES.contains(&module);
        assert!(is_listed, "{}: the module {module:?} is not in ALLOWED_IMPORTS", source.path);
        let is_allowed = |path: &str| {
            let imported = path.split("::").next().unwrap_or_default();
            may_import_all
                || imported == module
                || SHARED_MODULES.contains(&imported)
                || allowed.unwrap_or_default().iter().any(|allowed| is_at_or_below(path, allowed))
        };
        let forbidden = source.imports().into_iter().filter(|(_, path)| !is_allowed(path));
        forbidden.map(|(line, path)| format!("{}:{line}: {path}", source.path)).collect::<Vec<_>>()
    }));
}

#[test]
fn bench_imports_protocol_and_shared_modules_only() {
    assert_none(sources("src").iter().filter(|source| source.is_bench()).flat_map(|source| {
        let paths = word_positions(&source.code, "wardcast::")
            .into_iter()
            .flat_map(|at| use_tree_paths(&source.code[at + "wardcast::".len()..]));
        let forbidden = paths.filter(|path| !BENCH_IMPORTS.iter().any(|allowed| is_at_or_below(path, allowed)));
        forbidden.map(|path| format!("{}: wardcast::{path}", source.path)).collect::<Vec<_>>()
    }));
}

#[test]
fn top_level_has_only_the_listed_entries() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(repository()).output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut entries: Vec<&str> = listed.lines().map(|path| path.split('/').next().unwrap()).collect();
    entries.dedup();
    assert!(entries.contains(&"src"), "{entries:?}");
    assert_none(entries.into_iter().filter(|entry| !TOP_LEVEL_ENTRIES.contains(entry)));
}

#[test]
fn required_crates_are_dependencies_and_used() {
    let manifest = manifest();
    let code: String = sources("src").into_iter().map(|source| source.code).collect();
    assert_none(REQUIRED_CRATES.into_iter().flat_map(|name| {
        let is_listed = manifest["dependencies"].get(name).is_some();
        let is_used = !word_positions(&code, &format!("{}::", name.replace('-', "_"))).is_empty();
        [(is_listed, "is not a dependency"), (is_used, "is not used in src")]
            .into_iter()
            .filter(|(holds, _)| !holds)
            .map(move |(_, problem)| format!("{name} {problem}"))
    }));
}

#[test]
fn every_test_named_in_the_threat_model_exists() {
    let threats = fs::read_to_string(repository().join(THREAT_MODEL)).unwrap();
    let named: Vec<&str> = threats.split('`').skip(1).step_by(2).filter(|code| code.contains("::")).collect();
    assert!(named.len() > 30, "{named:?}");
    let sources: Vec<Source> = sources("src").into_iter().chain(sources("tests")).collect();
    let exists = |name: &str| {
        let (module, test) = name.rsplit_once("::").unwrap();
        // `tests` is the inline module of any source file.
        let is_in_module = |source: &&Source| module == "tests" || source.modules().contains(&module);
        sources.iter().filter(is_in_module).any(|source| source.code.contains(&format!("fn {test}(")))
    };
    assert_none(named.into_iter().filter(|name| *name != "module::name" && !exists(name)));
}

#[test]
fn every_module_named_in_the_mutation_script_exists() {
    let script = fs::read_to_string(repository().join("tests/mutants")).unwrap();
    let named: Vec<&str> = script.split('"').filter_map(|text| text.strip_suffix("::")).collect();
    assert!(named.len() > 100, "{named:?}");
    let sources: Vec<Source> = sources("src").into_iter().chain(sources("tests")).collect();
    let exists = |name: &&str| sources.iter().any(|source| source.modules().contains(name));
    assert_none(named.into_iter().filter(|name| !exists(name)));
}

#[test]
fn only_the_clock_modules_read_the_wall_clock() {
    // Everything else gets a `WallTime`, which nothing that has a length can be measured with by mistake.
    let names_it = |source: &Source| ["SystemTime", "UNIX_EPOCH"].iter().any(|name| source.code.contains(name));
    let with_it: Vec<String> = sources("src").into_iter().filter(names_it).map(|source| source.path).collect();
    assert_eq!(with_it, ["src/clock.rs", "src/bin/wardcast-bench/clock.rs"]);
    // Clippy refuses it in the tests, too. This fails if the lint is removed.
    assert!(fs::read_to_string(repository().join("clippy.toml")).unwrap().contains("std::time::SystemTime::now"));
}

#[test]
fn unsafe_code_is_forbidden() {
    // The lint refuses `unsafe`, and `forbid` cannot be overridden in the source. This fails if the lint is removed.
    assert_eq!(manifest()["lints"]["rust"]["unsafe_code"].as_str(), Some("forbid"));
    let has_unsafe = |source: &Source| ["unsafe ", "unsafe{"].iter().any(|word| source.code.contains(word));
    assert_none(sources("src").into_iter().filter(has_unsafe).map(|source| source.path));
}

#[test]
fn every_file_begins_with_a_module_comment() {
    assert_none(sources("src").iter().filter(|source| !source.text.starts_with("//! ")).map(|source| &source.path));
}

#[test]
fn imports_are_found_in_use_trees_and_paths() {
    let imports = |path: &str, text: &str| {
        let source = Source::new(path.to_owned(), text.to_owned());
        source.imports().into_iter().map(|(line, path)| format!("{line} {path}")).collect::<Vec<_>>()
    };
    let tree = "// use crate::no;\nuse crate::{\n    auth::{Claims, key::{self, X}},\n    clock::Clock as C,\n};\n";
    let expected = ["2 auth::Claims", "2 auth::key::self", "2 auth::key::X", "2 clock::Clock"];
    assert_eq!(imports("src/hub/mod.rs", tree), expected);
    let paths = "fn f() {\n    super::super::auth::f(crate::clock::now()); // crate::no\n    super::g();\n}\n";
    assert_eq!(imports("src/hub/wheel.rs", paths), ["2 clock::now", "2 auth::f"]);
    let tests = "use super::no;\nmod tests {\n    use super::no;\n    use super::super::clock;\n}\n";
    assert_eq!(imports("src/hub.rs", tests), ["1 no", "4 clock"]);
}

/// One `.rs` file.
struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
    /// The text without comments, line by line as long.
    code: String,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        // A comment behind code has a space before it, unlike the `//` of a URL.
        let code = text.lines().map(|line| {
            let is_comment = line.trim_start().starts_with("//");
            if is_comment { "" } else { line.split_once(" // ").map_or(line, |(code, _)| code) }
        });
        let code = code.collect::<Vec<_>>().join("\n");
        Self { path, text, code }
    }

    fn is_bench(&self) -> bool {
        self.path.starts_with("src/bin/")
    }

    /// Its module path in the crate: `src/broker/redis/mod.rs` is broker, redis. `lib.rs`, `main.rs` and the build script
    /// are the root and have an empty one.
    fn modules(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').skip(1).filter(|part| !["lib", "main", "build"].contains(part)).collect()
    }

    /// Every path that it names through `crate::`, or through enough `super::` to reach the root, with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let from_crate = word_positions(&self.code, "crate::").into_iter().map(|at| (at, at + "crate::".len()));
        let supers = word_positions(&self.code, "super::");
        let chains = supers.into_iter().filter(|at| !self.code[..*at].ends_with("::"));
        let from_super = chains.filter_map(|at| {
            let rest = self.code[at..].trim_start_matches("super::");
            let levels = (self.code.len() - at - rest.len()) / "super::".len();
            // Tests come last in a file, and are its only inline module.
            let is_in_tests = self.code[..at].contains("mod tests {");
            let depth = self.modules().len() + usize::from(is_in_tests);
            (levels >= depth).then(|| (at, self.code.len() - rest.len()))
        });
        let starts = from_crate.chain(from_super);
        let paths =
            starts.flat_map(|(at, start)| use_tree_paths(&self.code[start..]).into_iter().map(move |path| (at, path)));
        paths.map(|(at, path)| (1 + self.code[..at].matches('\n').count(), path)).collect()
    }
}

/// Reads all Rust files below a folder.
fn sources(folder: &str) -> Vec<Source> {
    let (mut folders, mut found) = (vec![repository().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(repository()).unwrap().display().to_string();
                found.push(Source::new(name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

fn manifest() -> toml::Table {
    fs::read_to_string(repository().join("Cargo.toml")).unwrap().parse().unwrap()
}

/// Fails with all offenders in one message.
#[track_caller]
fn assert_none(offenders: impl IntoIterator<Item = impl ToString>) {
    let offenders: Vec<String> = offenders.into_iter().map(|offender| offender.to_string()).collect();
    assert!(offenders.is_empty(), "{} offenders:\n  {}", offenders.len(), offenders.join("\n  "));
}

fn is_at_or_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The positions of `word` where it is not the end of a longer word.
fn word_positions(code: &str, word: &str) -> Vec<usize> {
    let positions = code.match_indices(word).map(|(at, _)| at);
    positions.filter(|at| !code[..*at].ends_with(is_word)).collect()
}

/// The paths of the use tree that `code` begins with; one path if it is not a tree.
fn use_tree_paths(code: &str) -> Vec<String> {
    let (mut prefix, mut open) = (String::new(), Vec::new());
    let mut paths = Vec::new();
    let mut rest = code;
    loop {
        let name = &rest[..rest.find(|c| !is_word(c) && c != ':').unwrap_or(rest.len())];
        rest = rest[name.len()..].trim_start();
        if let Some(inside) = rest.strip_prefix('{').filter(|_| name.is_empty() || name.ends_with("::")) {
            open.push(prefix.clone());
            prefix.push_str(name);
            rest = inside.trim_start();
            continue;
        }
        if !name.is_empty() {
            paths.push(format!("{prefix}{}", name.trim_end_matches("::")));
        }
        // Skips `as X`, to the end of this entry.
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
