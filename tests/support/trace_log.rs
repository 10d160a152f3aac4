//! Records at trace level what everything that the suite starts has logged, the audit log of its hubs, and every secret that it
//! used. `tests/log.sh` searches the logs for the secrets after the suite.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    sync::{LazyLock, Mutex},
};

struct LogFiles {
    log: Mutex<File>,
    secrets: Mutex<File>,
}

static FILES: LazyLock<LogFiles> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    let open = |name: &str| {
        let options = OpenOptions::new().create(true).write(true).truncate(true).open(folder.join(name));
        Mutex::new(options.unwrap())
    };
    drop(open("audit.log"));
    LogFiles { log: open("trace.log"), secrets: open("secrets") }
});

/// The audit log of all hubs in this process.
pub fn audit_path() -> std::path::PathBuf {
    LazyLock::force(&FILES);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit.log")
}

struct TraceLogger;

impl log::Log for TraceLogger {
    /// Leaves out the client of the tests (tungstenite), which logs what it sends.
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        !metadata.target().contains("tungstenite")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self::record(&format!("{} {}: {}", record.level(), record.target(), record.args()));
            super::events::notify_of_log(record);
        }
    }

    fn flush(&self) {}
}

/// Starts logging in this process. Every helper that starts a part of Wardcast calls this first.
pub fn start() {
    static STARTED: LazyLock<()> = LazyLock::new(|| {
        log::set_logger(&TraceLogger).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        for secret in [super::SECRET, super::API_KEY] {
            mark_secret(secret);
        }
    });
    LazyLock::force(&STARTED);
}

/// Adds lines that another process has logged.
pub fn record(lines: &str) {
    writeln!(FILES.log.lock().unwrap(), "{lines}").unwrap();
}

/// Marks a token, a password or a key as a secret, which must be in no log; returns it.
pub fn mark_secret<T: AsRef<str>>(text: T) -> T {
    // The file has one secret a line. A shorter text would be found in the log by chance.
    let is_distinctive = text.as_ref().len() >= 8 && !text.as_ref().contains('\n');
    if is_distinctive {
        writeln!(FILES.secrets.lock().unwrap(), "{}", text.as_ref()).unwrap();
    }
    text
}
