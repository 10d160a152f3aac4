//! A run: the code that all commands share, from opening clients to reporting what was measured.

use std::{sync::Arc, time::Duration};

use mio::{Poll, Waker};

use crate::clients::{ClientOptions, Clients};
use crate::delivery_stats::{ClientResults, SharedState};
use crate::error::{BenchError, Context, Result, fail};
use crate::load_driver::{CLIENTS_TOKEN, Load, LoadDriver};
use crate::machine::{self, MachineCounters};
use crate::report::{Report, thousands};
use crate::{process::resident_bytes, remedies, terminal::Terminal};

/// How long allocators and the kernel get to settle before memory is read.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(1);
/// The run.
pub(crate) struct Run {
    /// Shows progress and ends the run early.
    pub(crate) terminal: Terminal,
    /// Collects the results.
    pub(crate) report: Report,
    /// The processes of the server, as far as they are known.
    pub(crate) pids: Vec<u32>,
    /// Waits for events of publishers.
    pub(crate) poll: Poll,
    /// Wakes `poll` when receiving threads have news.
    pub(crate) waker: Arc<Waker>,
    counters_at_start: MachineCounters,
}

impl Run {
    /// Begins a run.
    pub(crate) fn open(command: &'static str, terminal: Terminal) -> Result<Self> {
        let poll = Poll::new().context("epoll")?;
        let waker = Arc::new(Waker::new(poll.registry(), CLIENTS_TOKEN).context("epoll")?);
        let mut report = Report::new(command);
        machine::report_machine(&mut report);
        Ok(Self { terminal, report, pids: Vec::new(), poll, waker, counters_at_start: MachineCounters::read() })
    }

    /// Ends the run and returns its report.
    pub(crate) fn finish(mut self) -> Report {
        self.report.interrupted = self.terminal.is_interrupted();
        let overflows = MachineCounters::read().listen_overflows_since(self.counters_at_start);
        self.report.set("listen_overflows", overflows);
        if overflows > 0 {
            self.report.add_note(format!(
                "listen queues of this machine were full {} times, and each connection that met this was delayed by a second: \
                 lower --concurrency, or raise net.core.somaxconn with sysctl",
                thousands(overflows)
            ));
        }
        self.report
    }

    /// Opens clients, lets the server settle, and reports its memory per connection.
    pub(crate) fn open_clients(&mut self, options: ClientOptions) -> Result<Clients> {
        let before = resident_bytes(&self.pids)?;
        let clients = Clients::open(options, self)?;
        if clients.options.connections > 0 {
            self.terminal.wait(SETTLE_TIME);
        }
        self.report_memory(before, clients.shared.opened.get())?;
        Ok(clients)
    }

    /// Reports the server's memory before and with idle connections.
    pub(crate) fn report_memory(&mut self, before: u64, connections: u64) -> Result<()> {
        if self.pids.is_empty() || connections == 0 {
            return Ok(());
        }
        let [before, idle] = [before, resident_bytes(&self.pids)?].map(|bytes| bytes as f64 / 1024.0);
        self.report.set_number("server_rss_before_kib", before);
        self.report.set_number("server_rss_idle_kib", idle);
        self.report.set_number("server_rss_per_connection_kib", (idle - before) / connections as f64);
        Ok(())
    }

    /// Publishes to clients as `phases` says, closes them, and reports what they received. Returns the result of `phases`
    /// and the final state of the clients.
    pub(crate) fn drive<T>(
        &mut self,
        clients: Clients,
        load: Load,
        phases: impl FnOnce(&mut LoadDriver<'_>) -> Result<T>,
    ) -> Result<(T, Arc<SharedState>)> {
        self.report.set("size_bytes", load.size);
        self.report.set("pace", load.workload.describe());
        let mut driver = LoadDriver::new(self, &clients, load);
        let result = phases(&mut driver);
        // The server of `limit` ends with its publisher, and must not end before its clients.
        let load = driver.into_load();
        let has_clients = clients.options.connections > 0;
        let shared = clients.close()?;
        drop(load);
        let results = shared.results.lock();
        // If the run failed, the reasons why connections ended may say why.
        let value = match result {
            Err(BenchError(error)) if !results.closed.is_empty() => {
                let ended: Vec<String> =
                    results.closed.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
                return fail(format!("{error}; connections ended: {}", ended.join(", ")));
            }
            result => result?,
        };
        if has_clients {
            self.report.set_percentiles("delivery", &results.delivery);
            self.report.set("sequence_gaps", shared.sequence_gaps.get());
            self.report.set("sequence_missed", shared.sequence_missed.get());
            self.report.set("sequence_out_of_order", shared.sequence_out_of_order.get());
            self.report.set("received_bytes", shared.received_bytes.get());
            self.report_ends(&results);
        }
        drop(results);
        Ok((value, shared))
    }

    /// Reports connections that failed or ended, and what to do about it.
    pub(crate) fn report_ends(&mut self, results: &ClientResults) {
        for (name, reasons) in [("failures", &results.failed), ("connections_closed", &results.closed)] {
            self.report.set_counts(name, reasons);
            remedies::add_notes(&mut self.report, reasons);
        }
    }
}
