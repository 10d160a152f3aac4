//! The terminal of a run: a progress line on stderr, and Ctrl-C, which ends the run early but keeps its results.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{cell::Cell, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};

/// The progress line is redrawn no more often than this, so that drawing it does not affect the measurement.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// The progress line, and whether the user wants the run to end.
#[derive(Clone)]
pub(crate) struct Terminal {
    is_enabled: bool,
    /// The beginning of each progress line.
    prefix: String,
    /// When the progress line was drawn; `None` if there is none on the screen.
    drawn_at: Cell<Option<Instant>>,
    interrupted: Arc<AtomicBool>,
}

impl Terminal {
    /// Shows progress unless `is_quiet` is set or stderr is not a terminal. From here on SIGINT (Ctrl-C) and SIGTERM end
    /// the run in good order.
    pub(crate) fn open(is_quiet: bool) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        handle_signals(interrupted.clone()).context("starting the signal thread")?;
        let is_enabled = !is_quiet && std::io::stderr().is_terminal();
        Ok(Self { is_enabled, prefix: String::new(), drawn_at: Cell::new(None), interrupted })
    }

    /// The same terminal for a run that is part of another one. Its progress lines begin with `prefix`.
    pub(crate) fn for_part(&self, prefix: String) -> Self {
        Self { prefix, ..self.clone() }
    }

    /// Returns whether the run should end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Replaces the progress line, if progress is shown and the line is old enough.
    pub(crate) fn show_progress(&self, line: impl FnOnce() -> String) {
        if self.is_enabled && self.drawn_at.get().is_none_or(|at| at.elapsed() >= REDRAW_INTERVAL) {
            self.drawn_at.set(Some(Instant::now()));
            // A terminal that is gone must not end the measurement.
            _ = write!(std::io::stderr(), "\r\x1b[K{}{}", self.prefix, line());
        }
    }

    /// Removes the progress line.
    pub(crate) fn clear_progress(&self) {
        if self.drawn_at.take().is_some() {
            _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// Waits for a server to settle, which no event announces, or until Ctrl-C.
    pub(crate) fn wait(&self, time: Duration) {
        let start = Instant::now();
        while let Some(left) = time.checked_sub(start.elapsed()).filter(|_| !self.is_interrupted()) {
            self.show_progress(|| format!("settling, {:.0} s left", left.as_secs_f64().ceil()));
            crate::clock::sleep(left.min(REDRAW_INTERVAL));
        }
    }
}

/// Starts a thread for signals. The first one ends the run in good order, the second one at once.
fn handle_signals(interrupted: Arc<AtomicBool>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(guard);
    let wait_for_signals = async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if interrupted.swap(true, Ordering::Relaxed) {
                _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || runtime.block_on(wait_for_signals)).map(drop)
}
