//! The person in front of a run: told how far it is, on a terminal, and able to end it with Ctrl-C and keep what it found.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::error::{BenchError, IoContext, Result};

/// A line of progress is replaced no faster than it can be read, so that showing it costs nothing that is measured.
const INTERVAL: Duration = Duration::from_millis(200);

/// Progress on stderr, and Ctrl-C.
#[derive(Debug)]
pub(crate) struct Terminal {
    is_enabled: bool,
    /// When the line on the screen was written; none when there is none.
    drawn_at: Cell<Option<Instant>>,
    interrupted: Arc<AtomicBool>,
}

impl Terminal {
    /// Shows progress unless `quiet`, or nobody looks; from here on Ctrl-C ends the run in order.
    pub(crate) fn open(quiet: bool) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        handle_signals(interrupted.clone())?;
        let is_enabled = !quiet && std::io::stderr().is_terminal();
        Ok(Self { is_enabled, drawn_at: Cell::new(None), interrupted })
    }

    /// Whether the run should end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Whether there is somebody who reads, and the line is old enough to be replaced.
    pub(crate) fn should_redraw(&self) -> bool {
        self.is_enabled && self.drawn_at.get().is_none_or(|at| at.elapsed() >= INTERVAL)
    }

    /// Replaces the line of progress, if there is somebody to read it.
    pub(crate) fn show_progress(&self, line: impl FnOnce() -> String) {
        if self.should_redraw() {
            self.drawn_at.set(Some(Instant::now()));
            // A terminal that is gone stops no measurement.
            _ = write!(std::io::stderr(), "\r\x1b[K{}", line());
        }
    }

    /// Takes the line of progress away.
    pub(crate) fn clear_progress(&self) {
        if self.drawn_at.take().is_some() {
            _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    /// Waits for a server to come to rest, for which there is no event, or until Ctrl-C.
    pub(crate) fn wait(&self, time: Duration) {
        let start = Instant::now();
        while let Some(left) = time.checked_sub(start.elapsed()).filter(|_| !self.is_interrupted()) {
            self.show_progress(|| format!("settling, {:.0} s left", left.as_secs_f64().ceil()));
            crate::run_clock::sleep(left.min(INTERVAL));
        }
    }
}

/// A thread that hears signals. The first ends the run in order, the second at once.
fn handle_signals(interrupted: Arc<AtomicBool>) -> Result<()> {
    let (ready, is_ready) = mpsc::channel();
    let wait_for_signals = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            _ = ready.send(());
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if interrupted.swap(true, Ordering::Relaxed) {
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
                }
            }
        })
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread
        .spawn(move || -> std::io::Result<()> { wait_for_signals() })
        .context(|| "starting the thread that hears signals")?;
    is_ready.recv().map_err(|_| BenchError::ThreadPanicked)
}
