//! The result of `chaos`: one row for each cell, printed as a table, as Markdown or as JSON.

use serde_json::{Value, json};

use crate::args::ChaosArgs;
use crate::error::{BenchError, Result};
use crate::report::Report;
use crate::{clock, machine};

use super::cells::Cell;
use super::deployment::{HUB_SETTINGS, Programs};
use super::findings::{Findings, Losses};
use super::redis_deployment::{DEAD_AFTER, Form};
use super::subscriber::{MAX_BACKOFF, MIN_BACKOFF};

/// The version of the JSON object. A change that removes something makes it 2.
const SCHEMA: u32 = 1;

/// The table.
pub(crate) struct ChaosTable {
    /// When it began, in seconds since 1970.
    date: u64,
    rate: f64,
    subscribers: u16,
    versions: String,
    machine: Report,
    rows: Vec<Row>,
    /// Whether Ctrl-C ended it early.
    pub(crate) interrupted: bool,
}

struct Row {
    cell: &'static Cell,
    form: Form,
    /// Or why the cell could not be measured.
    findings: Result<Findings>,
}

impl ChaosTable {
    /// A table without rows.
    pub(super) fn new(args: &ChaosArgs, programs: &Programs) -> Self {
        let redis = programs.redis.as_ref().map(|redis| format!(", Redis {}", redis.version));
        let versions = format!("Wardcast {}{}", programs.wardcast.version, redis.unwrap_or_default());
        let mut machine = Report::new("chaos");
        machine::report_machine(&mut machine);
        let (rate, subscribers) = (args.rate, args.subscribers);
        Self { date: clock::unix_seconds(), rate, subscribers, versions, machine, rows: Vec::new(), interrupted: false }
    }

    /// Adds what a cell has shown.
    pub(super) fn add(&mut self, cell: &'static Cell, form: Form, findings: Result<Findings>) {
        self.rows.push(Row { cell, form, findings });
    }

    /// Returns whether nothing was measured.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns whether a cell could not be measured, or has shown what must not be.
    pub(crate) fn has_failed(&self) -> bool {
        self.rows.iter().any(|row| row.findings.as_ref().map_or(true, Findings::has_failed))
    }

    /// The table for terminals.
    pub(crate) fn to_text(&self) -> String {
        let ended = if self.interrupted { ", ended early by Ctrl-C" } else { "" };
        let mut lines = vec![format!("wardcast-bench chaos{ended}"), self.circumstances()];
        for row in &self.rows {
            let Row { cell, form, .. } = row;
            lines.extend([
                String::new(),
                format!("{}: {}, {}; {}", cell.name, cell.component, cell.failure, form.describe()),
            ]);
            match &row.findings {
                Ok(findings) => lines.extend([
                    format!("  clients    {}", findings.what_clients_see()),
                    format!("  how long   {}", findings.how_long()),
                    format!("  ready      {}", findings.readiness.describe()),
                    format!("  lost       {}", findings.what_is_lost()),
                ]),
                Err(BenchError(error)) => lines.push(format!("  failed     {error}")),
            }
            let has_failed = row.findings.as_ref().is_ok_and(Findings::has_failed);
            lines.extend(has_failed.then(|| "  ! this must not happen".to_owned()));
        }
        lines.join("\n")
    }

    /// The table as Markdown.
    pub(crate) fn to_markdown(&self) -> String {
        let mut lines = vec![
            self.circumstances(),
            String::new(),
            "| what fails | how | deployment | what clients see | how long | `/health/ready` | what is lost |"
                .to_owned(),
            "|---|---|---|---|---|---|---|".to_owned(),
        ];
        lines.extend(self.rows.iter().map(|row| {
            let outcome = match &row.findings {
                Ok(findings) => [
                    findings.what_clients_see(),
                    findings.how_long(),
                    findings.readiness.describe(),
                    findings.what_is_lost(),
                ]
                .join(" | "),
                Err(BenchError(error)) => format!("not measured: {error} | | |"),
            };
            let Row { cell, form, .. } = row;
            format!("| {} | {} (`{}`) | {} | {outcome} |", cell.component, cell.failure, cell.name, form.describe())
        }));
        lines.join("\n")
    }

    /// The table as one JSON object.
    pub(crate) fn to_json(&self) -> String {
        let losses = |losses: Losses| {
            let Losses { accepted, lost, told, doubled, arrived_though_refused } = losses;
            json!({"accepted": accepted, "lost": lost, "missed_and_told": told, "doubled": doubled,
                "arrived_though_refused": arrived_though_refused})
        };
        let rows = self.rows.iter().map(|row| {
            let mut object = json!({"cell": row.cell.name, "form": row.form.describe(), "component": row.cell.component,
                "failure": row.cell.failure, "error": Value::Null});
            match &row.findings {
                Err(BenchError(error)) => object["error"] = error.as_str().into(),
                Ok(findings) => {
                    object["findings"] = json!({
                        "has_failed": findings.has_failed(),
                        "settled_after_seconds": findings.settled_after.map(|time| time.as_secs_f64()),
                        "subscribers": findings.subscribers,
                        "disconnected": findings.disconnected,
                        "ends": findings.ends,
                        "told": findings.told,
                        "recovered": findings.recovered,
                        "new_epochs": findings.new_epochs,
                        "too_old": findings.too_old,
                        "publications": findings.publications,
                        "refused": findings.refused,
                        "publish_outage_seconds": findings.publish_outage.as_secs_f64(),
                        "silence_seconds": findings.silence.as_secs_f64(),
                        "offset_faults": findings.offset_faults,
                        "readiness": findings.readiness.to_json(),
                        "recovering": losses(findings.recovering),
                        "plain": losses(findings.plain),
                    });
                }
            }
            object
        });
        json!({
            "schema": SCHEMA,
            "run": "chaos",
            "version": env!("CARGO_PKG_VERSION"),
            "interrupted": self.interrupted,
            "date": clock::format_utc(self.date),
            "rate": self.rate,
            "subscribers": self.subscribers,
            "hub_settings": HUB_SETTINGS,
            "rows": rows.collect::<Vec<Value>>(),
        })
        .to_string()
    }

    /// When, what, where, and under which load.
    fn circumstances(&self) -> String {
        format!(
            "{}: {} on {} cores ({}). {} publications/s to {} channels through all hubs in \
             turn; {} subscribers, half of which recover, with a backoff of {:.1} to {:.0} s. Sentinels and \
             nodes of a Cluster take a silent server for dead after {} s. Hub settings: {}.",
            clock::format_utc(self.date),
            self.versions,
            machine::cores(),
            self.machine.text("processor").unwrap_or_default(),
            self.rate,
            super::CHANNELS,
            self.subscribers,
            MIN_BACKOFF.as_secs_f64(),
            MAX_BACKOFF.as_secs_f64(),
            DEAD_AFTER.as_secs(),
            HUB_SETTINGS.join(", "),
        )
    }
}
