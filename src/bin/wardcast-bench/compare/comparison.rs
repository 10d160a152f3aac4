//! The result of `compare`: medians and ranges over the rounds, printed as a table, as Markdown or as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::args::CompareArgs;
use crate::report::{Report, decimal, thousands};
use crate::report_fields::find_label;
use crate::{clock, machine};

use super::contender::{Contender, SETTINGS, TWO_NODES, WITH_HISTORY, WITHOUT_HISTORY};
use super::{Programs, workloads::Figure, workloads::Workload};

/// The version of the JSON object. A change that removes something makes it 2.
const SCHEMA: u32 = 1;
/// Bytes of a mebibyte.
const MIB: u64 = 1024 * 1024;
/// Width of the labels of the table.
const LABEL: usize = 36;
/// Width of its numbers.
const NUMBER: usize = 26;

/// One figure of all contenders.
struct Row {
    workload: &'static Workload,
    figure: &'static Figure,
    connections: u64,
    /// The values of the rounds.
    values: BTreeMap<Contender, Vec<f64>>,
}

/// Median and range of the rounds.
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

/// The comparison.
pub(crate) struct Comparison {
    /// When it began, in seconds since 1970.
    date: u64,
    rounds: u16,
    is_quick: bool,
    /// By contender, and of Redis.
    versions: Vec<(&'static str, String)>,
    contenders: Vec<Contender>,
    rows: Vec<Row>,
    /// The report of any run, for the machine.
    machine: Report,
    others_cores_busy_max: f64,
    notes: Vec<String>,
    /// Measurements that failed.
    pub(crate) failures: Vec<String>,
    /// Whether Ctrl-C ended it early.
    pub(crate) interrupted: bool,
}

impl Comparison {
    /// A comparison without rows.
    pub(super) fn new(args: &CompareArgs, programs: &Programs, date: u64) -> Self {
        let takes_part = |contender: &Contender| match contender {
            Contender::BareLoop => true,
            contender => programs.of(*contender).is_some(),
        };
        let mut versions = vec![("Wardcast", programs.wardcast.version.clone())];
        versions.extend(programs.centrifugo.iter().map(|program| ("Centrifugo", program.version.clone())));
        versions.extend(programs.redis.iter().map(|program| ("Redis", program.version.clone())));
        let mut machine = Report::new("compare");
        machine::report_machine(&mut machine);
        Self {
            date,
            rounds: args.rounds,
            is_quick: args.quick,
            versions,
            contenders: Contender::ALL.into_iter().filter(takes_part).collect(),
            rows: Vec::new(),
            machine,
            others_cores_busy_max: 0.0,
            notes: Vec::new(),
            failures: Vec::new(),
            interrupted: false,
        }
    }

    /// Adds the figures of one run.
    pub(super) fn add(&mut self, contender: Contender, workload: &'static Workload, connections: u64, report: &Report) {
        for figure in workload.figures {
            let is_same = |row: &Row| row.workload.name == workload.name && row.figure.field == figure.field;
            let index = self.rows.iter().position(is_same).unwrap_or_else(|| {
                self.rows.push(Row { workload, figure, connections, values: BTreeMap::new() });
                self.rows.len() - 1
            });
            if let Some(value) = report.number(figure.field) {
                self.rows[index].values.entry(contender).or_default().push(value);
            }
        }
        let others = report.number("others_cores_busy").unwrap_or(0.0);
        self.others_cores_busy_max = self.others_cores_busy_max.max(others);
    }

    /// Returns whether there is any figure of a contender.
    pub(super) fn has_measured(&self, contender: Contender) -> bool {
        self.rows.iter().any(|row| row.values.contains_key(&contender))
    }

    /// Adds something that makes figures less comparable, unless it is there already.
    pub(super) fn add_note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The comparison as one JSON object.
    pub(crate) fn to_json(&self) -> String {
        let version = |name| self.versions.iter().find(|(of, _)| *of == name).map(|(_, version)| version);
        let machine = |name| self.machine.text(name);
        let rows = self.rows.iter().map(|row| {
            let mut object = json!({
                "measurement": row.workload.name,
                "title": row.title(),
                "field": row.figure.field,
                "label": row.label(),
                "unit": row.unit(),
                "more_is_better": row.figure.more_is_better,
                "connections": row.connections,
            });
            for contender in Contender::ALL {
                object[contender.json_name()] = row.summary(contender).map_or(Value::Null, |summary| {
                    let Summary { median, min, max } = summary;
                    json!({"median": median, "min": min, "max": max, "rounds": row.values[&contender]})
                });
            }
            object
        });
        let rows: Vec<Value> = rows.collect();
        let (wardcast, centrifugo, redis) = (version("Wardcast"), version("Centrifugo"), version("Redis"));
        json!({
            "schema": SCHEMA,
            "run": "compare",
            "version": env!("CARGO_PKG_VERSION"),
            "interrupted": self.interrupted,
            "date": self.date_text(),
            "rounds": self.rounds,
            "quick": self.is_quick,
            "versions": {"wardcast": wardcast, "centrifugo": centrifugo, "redis": redis},
            "machine": {
                "cores": machine::cores(),
                "processor": machine("processor"),
                "kernel": machine("kernel"),
                "memory_mib": machine::memory_bytes("MemTotal") / MIB,
            },
            "others_cores_busy_max": self.others_cores_busy_max,
            "notes": self.notes,
            "failures": self.failures,
            "rows": rows,
        })
        .to_string()
    }

    /// The comparison as a table for terminals.
    pub(crate) fn to_table(&self) -> String {
        let ended = if self.interrupted { ", ended early by Ctrl-C" } else { "" };
        let mut lines = vec![format!("wardcast-bench compare{ended}"), self.circumstances()];
        let heads = self.contenders.iter().map(|contender| format!("{:>NUMBER$}", contender.name()));
        lines.push(format!("{:LABEL$}{}  better", "", heads.collect::<String>()));
        for rows in self.rows.chunk_by(|one, next| one.workload.name == next.workload.name) {
            lines.extend([String::new(), format!("{} ({})", rows[0].title(), rows[0].workload.name)]);
            for row in rows {
                let cells = self.contenders.iter().map(|contender| format!("{:>NUMBER$}", row.cell(*contender)));
                let label = format!("  {}", row.label_with_unit());
                lines.push(format!("{label:LABEL$}{}  {}", cells.collect::<String>(), row.better()));
            }
        }
        let remarks = self.remarks();
        lines.extend((!remarks.is_empty()).then(String::new));
        lines.extend(remarks.iter().map(|remark| format!("! {remark}")));
        lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
    }

    /// The comparison as Markdown, with the settings of both servers.
    pub(crate) fn to_markdown(&self) -> String {
        let mut lines = vec![self.circumstances(), String::new()];
        let heads = self.contenders.iter().map(|contender| format!(" {} |", contender.name()));
        lines.push(format!("| |{} better |", heads.collect::<String>()));
        lines.push(format!("|---|{}---|", "---:|".repeat(self.contenders.len())));
        let empty = " |".repeat(self.contenders.len() + 1);
        for rows in self.rows.chunk_by(|one, next| one.workload.name == next.workload.name) {
            lines.push(format!("| **{}** (`{}`) |{empty}", rows[0].title(), rows[0].workload.name));
            for row in rows {
                let cells = self.contenders.iter().map(|contender| format!(" {} |", row.cell(*contender)));
                lines.push(format!("| {} |{} {} |", row.label_with_unit(), cells.collect::<String>(), row.better()));
            }
        }
        let remarks = self.remarks();
        if !remarks.is_empty() {
            lines.extend([String::new(), "What was noted during the runs:".to_owned(), String::new()]);
        }
        lines.extend(remarks.iter().map(|remark| format!("- {remark}")));
        if self.contenders.contains(&Contender::Centrifugo) {
            lines.extend(settings_in_markdown());
        }
        lines.join("\n")
    }

    /// When, what, where, and what the cells are.
    fn circumstances(&self) -> String {
        let versions: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let machine = |name| self.machine.text(name).unwrap_or_default();
        let quick = if self.is_quick { " Made with --quick: these are no figures to compare." } else { "" };
        format!(
            "{}: {} on {} cores ({}), {} MiB of memory, {}. Medians of {} {}, with the lowest and the highest.{quick}",
            self.date_text(),
            versions.join(", "),
            machine::cores(),
            machine("processor"),
            thousands(machine::memory_bytes("MemTotal") / MIB),
            machine("kernel"),
            self.rounds,
            if self.rounds == 1 { "round" } else { "rounds" },
        )
    }

    fn date_text(&self) -> String {
        clock::format_utc(self.date)
    }

    /// Failures and notes, and how busy the machine was otherwise.
    fn remarks(&self) -> Vec<String> {
        let failures = self.failures.iter().map(|failure| format!("failed: {failure}"));
        let mut remarks: Vec<String> = failures.chain(self.notes.iter().cloned()).collect();
        if self.others_cores_busy_max > machine::OTHERS_SHARE_NOTED * machine::cores() as f64 {
            remarks.push(format!(
                "other programs used up to {} of the machine's {} cores during a measurement",
                decimal(self.others_cores_busy_max),
                machine::cores()
            ));
        }
        remarks
    }
}

impl Row {
    fn title(&self) -> String {
        self.workload.title.replace("{n}", &thousands(self.connections))
    }

    fn label(&self) -> String {
        find_label(self.figure.field).map(|(label, _)| label).unwrap_or_default()
    }

    fn unit(&self) -> &'static str {
        find_label(self.figure.field).map_or("", |(_, unit)| unit)
    }

    fn label_with_unit(&self) -> String {
        format!("{}, {}", self.label(), self.unit())
    }

    fn summary(&self, contender: Contender) -> Option<Summary> {
        let mut values = self.values.get(&contender)?.clone();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Summary { median, min, max })
    }

    /// Median and range, or nothing where there is no figure.
    fn cell(&self, contender: Contender) -> String {
        match self.summary(contender) {
            None => String::new(),
            Some(Summary { median, min, max }) if min == max => decimal(median),
            Some(Summary { median, min, max }) => format!("{} ({}–{})", decimal(median), decimal(min), decimal(max)),
        }
    }

    /// Which of the two servers is better and by which factor, unless their ranges overlap.
    fn better(&self) -> String {
        let (Some(wardcast), Some(centrifugo)) =
            (self.summary(Contender::Wardcast), self.summary(Contender::Centrifugo))
        else {
            return String::new();
        };
        if wardcast.min <= centrifugo.max && centrifugo.min <= wardcast.max {
            return "ranges overlap".to_owned();
        }
        let is_more = wardcast.median > centrifugo.median;
        let winner = if is_more == self.figure.more_is_better { Contender::Wardcast } else { Contender::Centrifugo };
        let (more, less) = (wardcast.median.max(centrifugo.median), wardcast.median.min(centrifugo.median));
        // Without a factor where the lesser figure is rounded to nothing.
        let factor = if less > 0.0 { format!(" {:.1} ×", more / less) } else { String::new() };
        format!("{}{factor}", winner.name())
    }
}

/// The settings that both servers were started with, and why.
fn settings_in_markdown() -> Vec<String> {
    let mut lines = vec![String::new(), "Settings; all others are the defaults:".to_owned(), String::new()];
    lines.extend(["| Wardcast | Centrifugo (`CENTRIFUGO_…`) | why |", "|---|---|---|"].map(str::to_owned));
    let code = |text: &str| if text.is_empty() { "–".to_owned() } else { format!("`{text}`") };
    for (when, settings) in [
        ("", SETTINGS),
        ("without history: ", WITHOUT_HISTORY),
        ("`recovery`: ", WITH_HISTORY),
        ("`two-nodes`: ", TWO_NODES),
    ] {
        let row = |setting: &super::contender::Setting| {
            format!("| {} | {} | {when}{} |", code(setting.wardcast), code(setting.centrifugo), setting.reason)
        };
        lines.extend(settings.iter().map(row));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::workloads::WORKLOADS;
    use super::*;

    fn row(figure: usize, wardcast: &[f64], centrifugo: &[f64]) -> Row {
        let workload = WORKLOADS.iter().find(|workload| workload.name == "publish").unwrap();
        let values = [(Contender::Wardcast, wardcast.to_vec()), (Contender::Centrifugo, centrifugo.to_vec())];
        Row { workload, figure: &workload.figures[figure], connections: 16, values: values.into() }
    }

    #[test]
    fn cells_have_medians_and_ranges() {
        let row = row(0, &[3.0, 1.0, 2.0], &[4.0, 1.0]);
        assert_eq!(row.cell(Contender::Wardcast), "2.000 (1.000–3.000)");
        assert_eq!(row.cell(Contender::Centrifugo), "2.500 (1.000–4.000)");
        assert_eq!(row.cell(Contender::BareLoop), "");
    }

    #[test]
    fn better_server_is_named_whichever_it_is_and_only_if_the_ranges_do_not_overlap() {
        let per_second = |wardcast: &[f64], centrifugo: &[f64]| row(0, wardcast, centrifugo).better();
        assert_eq!(per_second(&[30.0, 40.0], &[10.0, 25.0]), "Wardcast 2.0 ×");
        assert_eq!(per_second(&[10.0, 25.0], &[30.0, 40.0]), "Centrifugo 2.0 ×");
        assert_eq!(per_second(&[10.0, 31.0], &[30.0, 40.0]), "ranges overlap");
        let milliseconds = |wardcast: &[f64], centrifugo: &[f64]| row(1, wardcast, centrifugo).better();
        assert_eq!(milliseconds(&[1.0], &[3.0]), "Wardcast 3.0 ×");
        assert_eq!(milliseconds(&[3.0], &[1.0]), "Centrifugo 3.0 ×");
        assert_eq!(milliseconds(&[0.0], &[1.0]), "Wardcast");
        assert_eq!(milliseconds(&[], &[1.0]), "");
    }
}
