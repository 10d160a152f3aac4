//! The results of a run, printed as a table for people or as one JSON object for programs, with the fields of `report_fields`.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::delivery_stats::Latencies;
use crate::report_fields::{MILLISECONDS, PERCENTILES, REPORT_FIELDS, ReportField};

/// The version of the JSON object. A change that removes something makes it 2.
const SCHEMA: u32 = 1;
/// Width of the labels of the table.
const LABEL: usize = 34;
/// Width of its numbers.
const NUMBER: usize = 14;

/// The results of a run.
pub(crate) struct Report {
    command: &'static str,
    values: HashMap<String, Value>,
    notes: Vec<String>,
    /// Whether the run ended early.
    pub(crate) interrupted: bool,
}

impl Report {
    /// A report without results.
    pub(crate) fn new(command: &'static str) -> Self {
        Self { command, values: HashMap::new(), notes: Vec::new(), interrupted: false }
    }

    /// Sets one of the fields.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        debug_assert!(json_names().any(|known| known == name), "unknown field {name}");
        self.values.insert(name.to_owned(), value.into());
    }

    /// Sets a field to a number, rounded to the digits that mean something.
    pub(crate) fn set_number(&mut self, name: &str, value: f64) {
        let factor = if value.abs() < 100.0 { 1000.0 } else { 10.0 };
        self.set(name, (value * factor).round() / factor);
    }

    /// Sets the fields for the percentiles of `latencies` (nanoseconds), in milliseconds. Without latencies they stay unset.
    pub(crate) fn set_percentiles(&mut self, name: &str, Latencies(latencies): &Latencies) {
        for (end, _, quantile) in PERCENTILES.into_iter().filter(|_| !latencies.is_empty()) {
            // The maximum is exact. A quantile is the end of its bucket, which may be larger.
            let nanos = latencies.value_at_quantile(quantile).min(latencies.max());
            self.set_number(&format!("{name}_{end}_ms"), nanos as f64 / 1e6);
        }
    }

    /// Sets a field to counts by reason.
    pub(crate) fn set_counts(&mut self, name: &str, counts: &BTreeMap<String, u64>) {
        self.set(name, Map::from_iter(counts.iter().map(|(reason, count)| (reason.clone(), (*count).into()))));
    }

    /// Adds something that the reader should know or do, unless it is there already.
    pub(crate) fn add_note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// The value of a field that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.values.get(name)?.as_f64()
    }

    /// The value of a field that is a text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_str()
    }

    /// The value of a field that is a count, or the sum of counts by reason; 0 if it was not counted.
    pub(crate) fn count(&self, name: &str) -> u64 {
        match self.values.get(name) {
            Some(Value::Object(counts)) => counts.values().filter_map(Value::as_u64).sum(),
            value => value.and_then(Value::as_u64).unwrap_or(0),
        }
    }

    /// The report as one JSON object.
    pub(crate) fn to_json(&self) -> String {
        let mut object = serde_json::json!({
            "schema": SCHEMA,
            "run": self.command,
            "version": env!("CARGO_PKG_VERSION"),
            "interrupted": self.interrupted,
            "notes": self.notes,
        });
        for name in json_names() {
            object[&name] = self.values.get(&name).cloned().unwrap_or(Value::Null);
        }
        object.to_string()
    }

    /// The report as a table.
    pub(crate) fn to_table(&self) -> String {
        let ended = if self.interrupted { ", ended early by Ctrl-C" } else { "" };
        let mut lines = vec![format!("wardcast-bench {}{ended}", self.command)];
        for fields in REPORT_FIELDS.chunk_by(|one, next| one.section == next.section) {
            let title = fields[0].section;
            let latencies: Vec<String> = fields.iter().filter_map(|field| self.percentile_line(field)).collect();
            let values: Vec<String> = fields.iter().flat_map(|field| self.value_lines(field)).collect();
            if latencies.is_empty() && values.is_empty() {
                continue;
            }
            let heads = PERCENTILES.iter().filter(|_| !latencies.is_empty()).map(|(_, head, _)| format!("{head:>10}"));
            lines.extend([String::new(), format!("{title:25}{}", heads.collect::<String>()).trim_end().to_owned()]);
            lines.extend(latencies.into_iter().chain(values));
        }
        if !self.notes.is_empty() {
            lines.push(String::new());
        }
        lines.extend(self.notes.iter().map(|note| format!("! {note}")));
        lines.join("\n")
    }

    fn value_lines(&self, field: &ReportField) -> Vec<String> {
        let line =
            |value: &str, unit: &str| format!("  {:LABEL$} {value:>NUMBER$} {unit}", field.label).trim_end().to_owned();
        match self.values.get(field.name) {
            None => Vec::new(),
            Some(Value::Object(counts)) => counts
                .iter()
                .map(|(reason, count)| line(&display(count), &format!("{} {reason}", field.unit)))
                .collect(),
            // Text that is longer than a number is aligned left.
            Some(Value::String(text)) if text.len() > NUMBER => vec![format!("  {:LABEL$} {text}", field.label)],
            Some(value) => vec![line(&display(value), field.unit)],
        }
    }

    fn percentile_line(&self, field: &ReportField) -> Option<String> {
        let values = field.json_names().map(|name| Some(format!("{:>10}", display(self.values.get(&name)?))));
        let values = values.collect::<Option<String>>().filter(|_| field.unit == MILLISECONDS)?;
        Some(format!("  {:23}{values} ms", field.label))
    }
}

fn json_names() -> impl Iterator<Item = String> {
    REPORT_FIELDS.iter().flat_map(ReportField::json_names)
}

/// A value for people: with separated thousands, and no more decimals than mean something.
fn display(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (None, Some(value)) => decimal(value),
            _ => thousands(number),
        },
        other => other.to_string(),
    }
}

/// A number with as many decimals as its size leaves room for.
pub(crate) fn decimal(value: f64) -> String {
    let decimals = match value.abs() {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    thousands(whole) + rest
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: impl ToString) -> String {
    let digits = number.to_string();
    let (sign, digits) = digits.split_at(usize::from(digits.starts_with('-')));
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("fanout");
        report.set("connections", 5000);
        report.set("deliveries", 12_345_678);
        report.set_number("server_cpu_us_per_delivery", 7.123456);
        report.set_number("deliveries_per_second", 98_765.43);
        report.set_counts("connections_closed", &BTreeMap::from([("close 3008 slow".to_owned(), 1234)]));
        report.set_counts("failures", &BTreeMap::new());
        let mut latency = Latencies::default();
        (1..=1000).for_each(|millis| latency.record(0, millis * 1_000_000));
        report.set_percentiles("delivery", &latency);
        report.set_percentiles("publish_answer", &Latencies::default());
        report.add_note("raise limits.outbox_bytes");
        report.add_note("raise limits.outbox_bytes");
        report
    }

    fn json(report: &Report) -> Value {
        report.to_json().parse().unwrap()
    }

    #[test]
    fn json_has_every_field_and_null_for_unmeasured_ones() {
        let json = json(&report());
        assert_eq!((&json["schema"], &json["run"], &json["interrupted"]), (&1.into(), &"fanout".into(), &false.into()));
        assert_eq!(json["server_cpu_us_per_delivery"], 7.123);
        assert_eq!(json["connections_closed"]["close 3008 slow"], 1234);
        assert_eq!(json["failures"], serde_json::json!({}));
        assert_eq!(json["notes"], serde_json::json!(["raise limits.outbox_bytes"]));
        assert_eq!(json["publish_answer_p50_ms"], Value::Null);
        let fields = json_names().filter(|name| json.get(name).is_some()).count();
        assert_eq!(json.as_object().unwrap().len(), fields + 5);
    }

    #[test]
    fn percentiles_are_accurate_to_three_digits_and_the_maximum_is_exact() {
        let long = json(&report());
        for (name, millis) in [("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p999", 999.0), ("max", 1000.0)] {
            let reported = long[format!("delivery_{name}_ms")].as_f64().unwrap();
            assert!((reported / millis - 1.0).abs() < 0.002, "{name}: {reported}");
        }
        let (mut latency, mut report) = (Latencies::default(), Report::new("fanout"));
        latency.record(0, 1_234_567);
        report.set_percentiles("delivery", &latency);
        let json = json(&report);
        assert_eq!(json["delivery_p50_ms"], json["delivery_max_ms"], "no percentile is above the maximum");
    }

    #[test]
    fn table_is_aligned_with_thousands_separators() {
        let table = report().to_table();
        let line =
            |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{table}"));
        assert!(line("  deliveries").contains("12,345,678"), "{table}");
        assert!(line("  connections closed").ends_with("1,234 × close 3008 slow"), "{table}");
        assert!(line("Delivering").ends_with("p99.9       max"), "{table}");
        let end = |start: &str, text: &str| line(start).find(text).unwrap() + text.len();
        assert_eq!(end("  connections  ", "5,000"), end("  deliveries", "12,345,678"), "{table}");
        assert_eq!(end("  CPU per delivery", "7.123"), end("  connections  ", "5,000"), "{table}");
        assert!(!table.contains("failed"), "what did not happen has no line: {table}");
        assert_eq!(end("Delivering", "p50"), line("  publish to delivery").find("500").unwrap() + 5, "{table}");
        assert!(!table.contains("publish to answer") && table.ends_with("! raise limits.outbox_bytes"), "{table}");
    }

    #[test]
    fn numbers_keep_their_significant_digits() {
        let numbers =
            [(0.1234567, "0.123"), (12.345, "12.35"), (123.45, "123.5"), (1234.5, "1,234"), (1e6, "1,000,000")];
        assert!(numbers.iter().all(|(number, text)| decimal(*number) == *text));
        assert_eq!(["1", "123", "1234", "-123456"].map(thousands), ["1", "123", "1,234", "-123,456"]);
    }
}
