//! The thread that writes the audit log: lines in batches, and once a second how many were lost or suppressed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{AuditEvent, AuditFields, LineEncoder, QueueState};
use crate::metrics::Metrics;

/// Maximum bytes that are written at once.
const BATCH_BYTES: usize = 64 * 1024;
/// Minimum time between two reports of lost or suppressed lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// An entry of the queue.
pub(super) enum Message {
    /// A line, with its line break.
    Line(Vec<u8>),
    /// Look at the [`QueueState`].
    Wake,
    /// Tell when everything before it is written.
    Flush(oneshot::Sender<()>),
}

impl Output {
    /// Reads `audit.output`.
    pub(super) fn from_setting(setting: &str) -> Self {
        match setting {
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Stdout => "stdout".into(),
            Self::Stderr => "stderr".into(),
            Self::File(path) => path.clone(),
        }
    }

    /// Opens the output. A file is created for its owner only, and appended to.
    pub(super) fn open(&self) -> io::Result<File> {
        Ok(match self {
            Self::Stdout => io::stdout().as_fd().try_clone_to_owned()?.into(),
            Self::Stderr => io::stderr().as_fd().try_clone_to_owned()?.into(),
            Self::File(path) => OpenOptions::new().append(true).create(true).mode(0o600).open(path)?,
        })
    }

    /// Checks that the output can be opened, or a file created. Creates none: it could get the wrong owner.
    pub(super) fn check(&self) -> io::Result<()> {
        match self {
            Self::File(path) if !path.exists() => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let is_directory = parent.unwrap_or(Path::new(".")).metadata()?.is_dir();
                if is_directory { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
            }
            _ => self.open().map(drop),
        }
    }
}

/// The writer.
pub(super) struct Writer {
    output: Output,
    file: File,
    messages: Receiver<Message>,
    state: Arc<QueueState>,
    encoder: LineEncoder,
    metrics: Arc<Metrics>,
    /// Lines that are written together.
    batch: Vec<u8>,
    lines: u64,
    /// The last lines of the batch, if they are reports of lost or suppressed lines: what each reports.
    reports: Vec<(AuditEvent, u64)>,
    /// The last write failed; logged once.
    has_failed: bool,
    /// The last write ended within a line.
    needs_line_break: bool,
    last_report: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        output: Output,
        file: File,
        messages: Receiver<Message>,
        state: Arc<QueueState>,
        encoder: LineEncoder,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (batch, lines, reports, has_failed, needs_line_break, last_report) = Default::default();
        Self {
            output,
            file,
            messages,
            state,
            encoder,
            metrics,
            batch,
            lines,
            reports,
            has_failed,
            needs_line_break,
            last_report,
        }
    }

    /// Starts the thread. It ends with the last sender of messages.
    pub(super) fn spawn(self) -> io::Result<()> {
        thread::Builder::new().name("audit".to_owned()).spawn(move || self.run()).map(drop)
    }

    fn run(mut self) {
        while let Some(first) = self.next_message() {
            let mut flushed = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => {
                        self.state.queued.fetch_sub(1, Ordering::Relaxed);
                        self.add(&line);
                    }
                    Message::Wake => {}
                    Message::Flush(sender) => flushed.push(sender),
                }
                next = if self.batch.len() < BATCH_BYTES { self.messages.try_recv().ok() } else { None };
            }
            if self.state.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            self.report(!flushed.is_empty());
            self.write();
            for sender in flushed {
                // Fails if the caller has stopped waiting.
                let _ = sender.send(());
            }
        }
    }

    /// Waits for a message; while a report is due later, at most until then. `None`: there are no senders any more.
    fn next_message(&mut self) -> Option<Message> {
        let is_pending = |counter: &AtomicU64| counter.load(Ordering::Acquire) > 0;
        let has_report = is_pending(&self.state.lost) || is_pending(&self.state.suppressed);
        if !has_report {
            return self.messages.recv().ok();
        }
        match self.messages.recv_timeout(self.time_until_report()) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => Some(Message::Wake),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn time_until_report(&self) -> Duration {
        self.last_report.map_or(Duration::ZERO, |last| REPORT_INTERVAL.saturating_sub(last.elapsed()))
    }

    /// Adds lines that say how many were lost or suppressed, unless the last report was a moment ago.
    fn report(&mut self, at_once: bool) {
        if !at_once && !self.time_until_report().is_zero() {
            return;
        }
        for event in [AuditEvent::LinesLost, AuditEvent::LinesSuppressed] {
            let count = self.state.counter_of(event).swap(0, Ordering::AcqRel);
            let fields = AuditFields { count: Some(count), ..AuditFields::default() };
            if let Some(line) = self.encoder.encode(event, &fields).ok().filter(|_| count > 0) {
                self.add(&line);
                self.reports.push((event, count));
                self.last_report = Some(Instant::now());
            }
        }
    }

    fn add(&mut self, line: &[u8]) {
        self.batch.extend_from_slice(line);
        self.lines += 1;
    }

    /// Writes the batch. What could not be written is lost.
    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let prefix = usize::from(self.needs_line_break);
        if self.needs_line_break {
            self.batch.insert(0, b'\n');
        }
        let mut written = 0;
        let result = loop {
            match self.file.write(&self.batch[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if written == self.batch.len() {
                break Ok(());
            }
        };
        if written > 0 {
            self.needs_line_break = self.batch[written - 1] != b'\n';
        }
        // The line break in front ends no line of this batch.
        let mut lost = self.batch[written.max(prefix)..].iter().filter(|byte| **byte == b'\n').count() as u64;
        self.metrics.count_audit_lines("written", self.lines.saturating_sub(lost));
        match result {
            Ok(()) if self.has_failed => log::info!("audit log written again output={:?}", self.output.path()),
            Err(error) if !self.has_failed => self.log_failure("cannot write audit log", &error),
            _ => {}
        }
        self.has_failed = lost > 0;
        // What could not be reported is reported later.
        while let Some((event, count)) = self.reports.pop().filter(|_| lost > 0) {
            self.state.counter_of(event).fetch_add(count, Ordering::AcqRel);
            lost -= 1;
        }
        self.reports.clear();
        self.metrics.count_audit_lines("lost", lost);
        self.state.lost.fetch_add(lost, Ordering::AcqRel);
        self.batch.clear();
        self.batch.shrink_to(BATCH_BYTES);
        self.lines = 0;
    }

    /// Opens the file again. If that fails, the old one is used further, wherever it was moved to.
    fn reopen(&mut self) {
        match self.output.open() {
            Ok(file) => {
                self.file = file;
                self.needs_line_break = false;
                log::info!("reopened audit log output={:?}", self.output.path());
            }
            Err(error) => self.log_failure("cannot reopen audit log, keeping the old file", &error),
        }
    }

    fn log_failure(&self, phrase: &str, error: &io::Error) {
        log::error!("{phrase} output={:?} error={:?}", self.output.path(), error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};

    use super::*;
    use crate::clock::Clock;

    /// A writer to a pipe that has room for 64 KiB and refuses the rest, as a disk does that becomes full.
    fn start() -> (Writer, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let encoder = LineEncoder { node: "a-node".into(), clock: Clock::default() };
        let (_, messages) = std::sync::mpsc::sync_channel(1);
        (Writer::new(Output::Stderr, file, messages, Arc::default(), encoder, Arc::default()), reader)
    }

    #[test]
    fn suppressed_lines_are_reported_once_an_interval_and_when_the_log_is_flushed() {
        let (mut writer, _reader) = start();
        let mut report = |at_once| {
            writer.state.suppressed.fetch_add(1, Ordering::AcqRel);
            writer.report(at_once);
            writer.lines
        };
        assert_eq!([report(false), report(false), report(false), report(true)], [1, 1, 1, 2]);
        let text = String::from_utf8_lossy(&writer.batch);
        assert!(text.contains("\"count\":1") && text.contains("\"count\":3"), "{text}");
    }

    #[test]
    fn line_that_a_full_disk_has_cut_is_ended_before_the_next_one_and_each_lost_line_is_counted_once() {
        let (mut writer, mut reader) = start();
        let lost = |writer: &Writer| writer.state.lost.load(Ordering::Acquire);
        let line = |length: usize| [vec![b'x'; length - 1], vec![b'\n']].concat();
        writer.add(&line(60 * 1024));
        writer.write();
        assert_eq!(lost(&writer), 0);
        // There is room for one of these and a part of the next one.
        (0..3).for_each(|_| writer.add(&line(3000)));
        writer.write();
        assert_eq!(lost(&writer), 2);
        writer.add(&line(10));
        writer.write();
        assert_eq!(lost(&writer), 3);
        let mut written = vec![0; 64 * 1024];
        reader.read_exact(&mut written).unwrap();
        writer.add(&line(10));
        writer.write();
        drop(writer);
        reader.read_to_end(&mut written).unwrap();
        let lengths: Vec<usize> = written.split(|byte| *byte == b'\n').map(|line| line.len() + 1).collect();
        assert_eq!(lengths, [60 * 1024, 3000, 64 * 1024 - 60 * 1024 - 3000 + 1, 10, 1]);
    }
}
