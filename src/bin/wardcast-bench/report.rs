//! What a run found: rows in a fixed order, printed as an aligned table or as one JSON object with the same names.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

/// Rows of names (with their unit as last word) and values.
#[derive(Debug)]
pub(crate) struct Report {
    title: &'static str,
    rows: Vec<(String, Value)>,
}

impl Report {
    /// A report without rows.
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, name: &str, value: impl Into<Value>) {
        self.rows.push((name.to_owned(), value.into()));
    }

    /// Adds a row with a number rounded to what can be believed of it.
    pub(crate) fn number(&mut self, name: &str, value: f64) {
        let decimals = if value.abs() < 100.0 { 1000.0 } else { 10.0 };
        self.row(name, (value * decimals).round() / decimals);
    }

    /// Adds the percentiles of `latencies` (nanoseconds), in milliseconds.
    pub(crate) fn percentiles(&mut self, name: &str, latencies: &Histogram<u64>) {
        if latencies.is_empty() {
            return;
        }
        let millis = |nanos: u64| nanos as f64 / 1e6;
        for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            self.number(&format!("{name}_{label}_ms"), millis(latencies.value_at_quantile(quantile)));
        }
        self.number(&format!("{name}_max_ms"), millis(latencies.max()));
    }

    /// Adds counts by reason.
    pub(crate) fn reasons(&mut self, name: &str, reasons: &BTreeMap<String, u64>) {
        let map: Map<String, Value> = reasons.iter().map(|(reason, count)| (reason.clone(), (*count).into())).collect();
        self.row(name, map);
    }

    /// The report as text: JSON, or a table.
    pub(crate) fn render(&self, json: bool) -> String {
        if json {
            let mut map = Map::new();
            map.insert("run".to_owned(), self.title.into());
            map.extend(self.rows.iter().cloned());
            return Value::Object(map).to_string();
        }
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = self.title.to_owned();
        for (name, value) in &self.rows {
            match value {
                Value::Object(reasons) if reasons.is_empty() => text += &format!("\n  {name:width$}  {:>12}", 0),
                Value::Object(reasons) => {
                    text += &format!("\n  {name}");
                    for (reason, count) in reasons {
                        text += &format!("\n  {:width$}  {:>12}  {reason}", "", count.to_string());
                    }
                }
                Value::String(words) => text += &format!("\n  {name:width$}  {words:>12}"),
                other => text += &format!("\n  {name:width$}  {:>12}", other.to_string()),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_json_say_the_same() {
        let mut report = Report::new("fanout");
        report.row("connections", 5);
        report.number("cpu_us", 10.123456);
        report.reasons("closes", &BTreeMap::from([("close 3008 slow".to_owned(), 2)]));
        let json: Value = serde_json::from_str(&report.render(true)).unwrap();
        assert_eq!(json["cpu_us"], 10.123);
        assert_eq!(json["closes"]["close 3008 slow"], 2);
        let table = report.render(false);
        assert_eq!(table.lines().count(), 5, "{table}");
        assert!(table.contains("10.123") && table.contains("close 3008 slow"), "{table}");
    }
}
