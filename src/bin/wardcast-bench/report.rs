//! What a run found, printed as a table for people or as one JSON object for programs, with the figures of `fields`.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use crate::fields::{FIELDS, Field, Kind, PERCENTILES, Section};

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
    pub(crate) fn row(&mut self, name: &str, value: impl Into<Value>) {
        debug_assert!(FIELDS.iter().any(|field| field.name == name), "{name} is no field");
        self.values.insert(name.to_owned(), value.into());
    }

    /// Sets a figure, rounded to what can be believed of it.
    pub(crate) fn number(&mut self, name: &str, value: f64) {
        self.row(name, rounded(value));
    }

    /// Sets the percentiles of `latencies` (nanoseconds), in milliseconds.
    pub(crate) fn percentiles(&mut self, name: &str, latencies: &Histogram<u64>) {
        debug_assert!(FIELDS.iter().any(|field| field.name == name && field.kind == Kind::Times), "{name}");
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
    pub(crate) fn reasons(&mut self, name: &str, reasons: &BTreeMap<String, u64>) {
        let map: Map<String, Value> = reasons.iter().map(|(reason, count)| (reason.clone(), (*count).into())).collect();
        self.row(name, map);
    }

    /// Adds what its reader should know, or do.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Takes the figures and notes of another.
    pub(crate) fn adopt(&mut self, other: Self) {
        self.values.extend(other.values);
        other.notes.into_iter().for_each(|note| self.note(note));
    }

    /// The report as one JSON object.
    pub(crate) fn json(&self) -> String {
        let mut map = Map::new();
        map.insert("schema".to_owned(), SCHEMA.into());
        map.insert("run".to_owned(), self.command.into());
        map.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
        map.insert("interrupted".to_owned(), self.interrupted.into());
        map.insert("notes".to_owned(), self.notes.clone().into());
        for field in FIELDS {
            for name in names(field) {
                let value = self.values.get(&name).cloned().unwrap_or(Value::Null);
                map.insert(name, value);
            }
        }
        Value::Object(map).to_string()
    }

    /// The report as a table.
    pub(crate) fn table(&self) -> String {
        let ended = if self.interrupted { ", ended early by Ctrl-C" } else { "" };
        let mut lines = vec![format!("wardcast-bench {}{ended}", self.command)];
        for part in FIELDS.chunk_by(|one, next| one.section == next.section) {
            let values = part.iter().filter(|field| field.kind != Kind::Times).flat_map(|field| self.lines_of(field));
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

    fn lines_of(&self, field: &Field) -> Vec<String> {
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

    fn line_of_times(&self, field: &Field) -> Option<String> {
        self.values.get(names(field).first()?)?.as_f64().filter(|_| field.kind == Kind::Times)?;
        let values = names(field)
            .iter()
            .map(|name| self.values.get(name).map_or(String::new(), shown))
            .fold(String::new(), |line, value| line + &format!("{value:>10}"));
        Some(format!("  {:23}{values} ms", field.label))
    }
}

/// The names of a figure in JSON.
fn names(field: &Field) -> Vec<String> {
    match field.kind {
        Kind::Times => PERCENTILES.iter().map(|(end, ..)| format!("{}_{end}_ms", field.name)).collect(),
        Kind::Value | Kind::Reasons => vec![field.name.to_owned()],
    }
}

fn title(section: Section, has_times: bool) -> String {
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
    use crate::tally::latencies;

    fn report() -> Report {
        let mut report = Report::new("fanout");
        report.row("connections", 5000);
        report.row("deliveries", 12_345_678);
        report.number("server_cpu_us_per_delivery", 7.123456);
        report.number("deliveries_per_second", 98_765.43);
        report.reasons("connections_closed", &BTreeMap::from([("close 3008 slow".to_owned(), 1234)]));
        report.reasons("failures", &BTreeMap::new());
        let mut latency = latencies();
        (1..=1000).for_each(|millis| latency.record(millis * 1_000_000).unwrap());
        report.percentiles("delivery", &latency);
        report.percentiles("publish_answer", &latencies());
        report.note("raise limits.outbox_bytes");
        report.note("raise limits.outbox_bytes");
        report
    }

    #[test]
    fn json_has_every_figure_and_null_for_what_was_not_measured() {
        let json: Value = report().json().parse().unwrap();
        assert_eq!((&json["schema"], &json["run"], &json["interrupted"]), (&1.into(), &"fanout".into(), &false.into()));
        assert_eq!(json["server_cpu_us_per_delivery"], 7.123);
        assert_eq!(json["connections_closed"]["close 3008 slow"], 1234);
        assert_eq!(json["failures"], serde_json::json!({}));
        assert_eq!(json["notes"], serde_json::json!(["raise limits.outbox_bytes"]));
        assert_eq!(json["publish_answer_p50_ms"], Value::Null);
        let named = FIELDS.iter().flat_map(names).filter(|name| json.get(name).is_some()).count();
        assert_eq!(json.as_object().unwrap().len(), named + 5);
    }

    #[test]
    fn percentiles_are_true_to_three_digits_and_the_maximum_exact() {
        let json: Value = report().json().parse().unwrap();
        let (mut latency, close) = (latencies(), |name: &str, millis: f64| {
            let told = json[format!("delivery_{name}_ms")].as_f64().unwrap();
            assert!((told / millis - 1.0).abs() < 0.002, "{name}: {told}");
        });
        for (name, millis) in [("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p999", 999.0), ("max", 1000.0)] {
            close(name, millis);
        }
        latency.record(1_234_567).unwrap();
        let mut report = Report::new("fanout");
        report.percentiles("delivery", &latency);
        let json: Value = report.json().parse().unwrap();
        assert_eq!(json["delivery_p50_ms"], json["delivery_max_ms"], "no percentile is above the maximum");
    }

    #[test]
    fn the_table_is_aligned_and_its_thousands_are_apart() {
        let table = report().table();
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
    fn numbers_keep_the_digits_that_mean_something() {
        let numbers =
            [(0.1234567, "0.123"), (12.345, "12.35"), (123.45, "123.5"), (1234.5, "1,234"), (1e6, "1,000,000")];
        for (number, text) in numbers {
            assert_eq!(decimal(number), text);
        }
        assert_eq!(["1", "123", "1234", "-123456"].map(thousands), ["1", "123", "1,234", "-123,456"]);
    }
}
