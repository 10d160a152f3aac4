//! What a run found, printed as a table for people or as one JSON object for programs, with the figures of `fields`.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use crate::report_fields::{FieldKind, PERCENTILES, REPORT_FIELDS, ReportField, ReportSection};

/// The shape of the JSON object; a change that takes something away makes it 2.
const SCHEMA: u32 = 1;
/// Where the numbers of the table end.
const LABEL: usize = 34;
/// Room of a number.
const NUMBER: usize = 14;

/// The figures of one run.
#[derive(Debug)]
pub(crate) struct Report {
    command: &'static str,
    values: HashMap<String, Value>,
    notes: Vec<String>,
    /// Whether the run was ended before its time.
    pub(crate) interrupted: bool,
}

impl Report {
    /// A report without figures.
    pub(crate) fn new(command: &'static str) -> Self {
        Self { command, values: HashMap::new(), notes: Vec::new(), interrupted: false }
    }

    /// Sets a figure, one of `fields`.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        debug_assert!(REPORT_FIELDS.iter().any(|field| field.name == name), "{name} is no field");
        self.values.insert(name.to_owned(), value.into());
    }

    /// Sets a figure, rounded to what can be believed of it.
    pub(crate) fn set_number(&mut self, name: &str, value: f64) {
        self.set(name, rounded(value));
    }

    /// Sets the percentiles of `latencies` (nanoseconds), in milliseconds.
    pub(crate) fn set_percentiles(&mut self, name: &str, latencies: &Histogram<u64>) {
        debug_assert!(
            REPORT_FIELDS.iter().any(|field| field.name == name && field.kind == FieldKind::Percentiles),
            "{name}"
        );
        if latencies.is_empty() {
            return;
        }
        for (end, _, quantile) in PERCENTILES {
            // What is exact is the maximum; a quantile is the end of its bucket, which may lie beyond.
            let nanos = latencies.value_at_quantile(quantile).min(latencies.max());
            self.values.insert(format!("{name}_{end}_ms"), rounded(nanos as f64 / 1e6).into());
        }
    }

    /// Sets counts by reason.
    pub(crate) fn set_counts(&mut self, name: &str, reasons: &BTreeMap<String, u64>) {
        let map: Map<String, Value> = reasons.iter().map(|(reason, count)| (reason.clone(), (*count).into())).collect();
        self.set(name, map);
    }

    /// Adds what its reader should know, or do.
    pub(crate) fn add_note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Takes the figures and notes of another.
    pub(crate) fn merge(&mut self, other: Self) {
        self.values.extend(other.values);
        other.notes.into_iter().for_each(|note| self.add_note(note));
    }

    /// The report as one JSON object.
    pub(crate) fn to_json(&self) -> String {
        let mut map = Map::new();
        map.insert("schema".to_owned(), SCHEMA.into());
        map.insert("run".to_owned(), self.command.into());
        map.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        map.insert("interrupted".to_owned(), self.interrupted.into());
        map.insert("notes".to_owned(), self.notes.clone().into());
        for field in REPORT_FIELDS {
            for name in names(field) {
                let value = self.values.get(&name).cloned().unwrap_or(Value::Null);
                map.insert(name, value);
            }
        }
        Value::Object(map).to_string()
    }

    /// The report as a table.
    pub(crate) fn to_table(&self) -> String {
        let closed = if self.interrupted { ", ended early by Ctrl-C" } else { "" };
        let mut lines = vec![format!("wardcast-bench {}{closed}", self.command)];
        for part in REPORT_FIELDS.chunk_by(|one, next| one.section == next.section) {
            let values =
                part.iter().filter(|field| field.kind != FieldKind::Percentiles).flat_map(|field| self.lines_of(field));
            let values: Vec<String> = values.collect();
            let times: Vec<String> = part.iter().filter_map(|field| self.line_of_times(field)).collect();
            if values.is_empty() && times.is_empty() {
                continue;
            }
            lines.extend([String::new(), title(part[0].section, !times.is_empty())]);
            lines.extend(times);
            lines.extend(values);
        }
        if !self.notes.is_empty() {
            lines.push(String::new());
        }
        lines.extend(self.notes.iter().map(|note| format!("! {note}")));
        lines.join("\n")
    }

    fn lines_of(&self, field: &ReportField) -> Vec<String> {
        let line = |label: &str, value: &str, unit: &str| {
            format!("  {label:LABEL$} {value:>NUMBER$} {unit}").trim_end().to_owned()
        };
        match self.values.get(field.name) {
            None => Vec::new(),
            Some(Value::Object(reasons)) => {
                let count = |value: &Value| shown(value);
                reasons.iter().map(|(reason, value)| line(field.label, &count(value), &format!("× {reason}"))).collect()
            }
            // Words stand where numbers begin, not where they end.
            Some(Value::String(words)) if words.len() > NUMBER => vec![format!("  {:LABEL$} {words}", field.label)],
            Some(value) => vec![line(field.label, &shown(value), field.unit)],
        }
    }

    fn line_of_times(&self, field: &ReportField) -> Option<String> {
        self.values.get(names(field).first()?)?.as_f64().filter(|_| field.kind == FieldKind::Percentiles)?;
        let values = names(field)
            .iter()
            .map(|name| self.values.get(name).map_or(String::new(), shown))
            .fold(String::new(), |line, value| line + &format!("{value:>10}"));
        Some(format!("  {:23}{values} ms", field.label))
    }
}

/// The names of a figure in JSON.
fn names(field: &ReportField) -> Vec<String> {
    match field.kind {
        FieldKind::Percentiles => PERCENTILES.iter().map(|(end, ..)| format!("{}_{end}_ms", field.name)).collect(),
        FieldKind::Value | FieldKind::Counts => vec![field.name.to_owned()],
    }
}

fn title(section: ReportSection, has_times: bool) -> String {
    let heads = PERCENTILES.iter().fold(String::new(), |line, (_, head, _)| line + &format!("{head:>10}"));
    format!("{:25}{}", section.title(), if has_times { &heads } else { "" }).trim_end().to_owned()
}

fn rounded(value: f64) -> f64 {
    let decimals = if value.abs() < 100.0 { 1000.0 } else { 10.0 };
    (value * decimals).round() / decimals
}

/// A value as people read it: thousands apart, and no more decimals than mean something.
fn shown(value: &Value) -> String {
    match value {
        Value::String(words) => words.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => thousands(&whole.to_string()),
            (None, Some(value)) => decimal(value),
            (None, None) => number.to_string(),
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
pub(crate) fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.split_at(usize::from(digits.starts_with('-')));
    let mut text = sign.to_owned();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery_stats::latencies;

    fn report() -> Report {
        let mut report = Report::new("fanout");
        report.set("connections", 5000);
        report.set("deliveries", 12_345_678);
        report.set_number("server_cpu_us_per_delivery", 7.123456);
        report.set_number("deliveries_per_second", 98_765.43);
        report.set_counts("connections_closed", &BTreeMap::from([("close 3008 slow".to_owned(), 1234)]));
        report.set_counts("failures", &BTreeMap::new());
        let mut latency = latencies();
        (1..=1000).for_each(|millis| latency.record(millis * 1_000_000).unwrap());
        report.set_percentiles("delivery", &latency);
        report.set_percentiles("publish_answer", &latencies());
        report.add_note("raise limits.outbox_bytes");
        report.add_note("raise limits.outbox_bytes");
        report
    }

    #[test]
    fn json_has_every_field_and_null_for_unmeasured_ones() {
        let json: Value = report().to_json().parse().unwrap();
        assert_eq!((&json["schema"], &json["run"], &json["interrupted"]), (&1.into(), &"fanout".into(), &false.into()));
        assert_eq!(json["server_cpu_us_per_delivery"], 7.123);
        assert_eq!(json["connections_closed"]["close 3008 slow"], 1234);
        assert_eq!(json["failures"], serde_json::json!({}));
        assert_eq!(json["notes"], serde_json::json!(["raise limits.outbox_bytes"]));
        assert_eq!(json["publish_answer_p50_ms"], Value::Null);
        let named = REPORT_FIELDS.iter().flat_map(names).filter(|name| json.get(name).is_some()).count();
        assert_eq!(json.as_object().unwrap().len(), named + 5);
    }

    #[test]
    fn percentiles_are_accurate_to_three_digits_and_the_maximum_is_exact() {
        let json: Value = report().to_json().parse().unwrap();
        let (mut latency, close) = (latencies(), |name: &str, millis: f64| {
            let told = json[format!("delivery_{name}_ms")].as_f64().unwrap();
            assert!((told / millis - 1.0).abs() < 0.002, "{name}: {told}");
        });
        for (name, millis) in [("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p999", 999.0), ("max", 1000.0)] {
            close(name, millis);
        }
        latency.record(1_234_567).unwrap();
        let mut report = Report::new("fanout");
        report.set_percentiles("delivery", &latency);
        let json: Value = report.to_json().parse().unwrap();
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
        assert!(!table.contains("failed"), "nothing is said of what did not happen: {table}");
        assert_eq!(end("Delivering", "p50"), line("  publish to delivery").find("500").unwrap() + 5, "{table}");
        assert!(!table.contains("publish to answer") && table.ends_with("! raise limits.outbox_bytes"), "{table}");
    }

    #[test]
    fn numbers_keep_their_significant_digits() {
        let numbers =
            [(0.1234567, "0.123"), (12.345, "12.35"), (123.45, "123.5"), (1234.5, "1,234"), (1e6, "1,000,000")];
        for (number, text) in numbers {
            assert_eq!(decimal(number), text);
        }
        assert_eq!(["1", "123", "1234", "-123456"].map(thousands), ["1", "123", "1,234", "-123,456"]);
    }
}
