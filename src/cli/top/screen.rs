//! Formats what `top` shows: tables made from two samples. Pure.

use std::{fmt, time::Duration};

use super::Sample;
use crate::{broker::NodeInfo, cli::escape_control, clock::format_duration};

/// Number of channels that are shown.
const SHOWN_CHANNELS: usize = 15;

/// The tables of one interval.
pub(super) struct Screen<'a> {
    before: &'a Sample,
    now: &'a Sample,
}

impl<'a> Screen<'a> {
    pub(super) fn new(before: &'a Sample, now: &'a Sample) -> Self {
        Self { before, now }
    }

    /// Returns what a counter of a node has grown by per second; `None` if the node has started since.
    fn rate(&self, node: &NodeInfo, counter: impl Fn(&NodeInfo) -> u64) -> Option<f64> {
        let before = self.before.nodes.iter().find(|before| before.node.uid == node.node.uid)?;
        let seconds = self.now.at.duration_since(self.before.at).as_secs_f64();
        let growth = counter(node).checked_sub(counter(before))?;
        Some(growth as f64 / seconds)
    }

    fn row(&self, node: &NodeInfo) -> Vec<String> {
        let rate = |counter: fn(&NodeInfo) -> u64| {
            self.rate(node, counter).map_or_else(|| "–".to_owned(), |rate| grouped(rate.round() as u64))
        };
        // Milliseconds of processor time per second, of one core.
        let cpu = self.rate(node, |node| node.cpu_ms).map(|rate| format!("{:.1} %", rate / 10.0));
        vec![
            node.node.name.clone(),
            grouped(node.num_clients),
            grouped(node.num_users),
            grouped(node.num_subs),
            grouped(node.num_channels),
            rate(|node| node.num_publications),
            rate(|node| node.num_deliveries),
            cpu.unwrap_or_else(|| "–".to_owned()),
            format!("{} MiB", node.memory_bytes >> 20),
            format_duration(Duration::from_secs(node.uptime)),
            node.version.clone(),
        ]
    }
}

impl fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = [
            "node",
            "clients",
            "users",
            "subs",
            "channels",
            "publications/s",
            "deliveries/s",
            "cpu",
            "memory",
            "uptime",
            "version",
        ];
        let nodes = self.now.nodes.iter().map(|node| self.row(node)).collect();
        write!(f, "{}", Table { heads: heads.map(str::to_owned).to_vec(), rows: nodes })?;
        for node in &self.now.unreachable {
            writeln!(f, "{} does not answer", escape_control(&node.name))?;
        }
        let Some(channels) = &self.now.channels else {
            return writeln!(f, "\ntoo many channels to list them");
        };
        let mut sorted: Vec<_> = channels.iter().map(|(name, channel)| (channel.num_clients, name)).collect();
        sorted.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
        let rows = sorted.iter().take(SHOWN_CHANNELS).map(|(clients, name)| vec![(*name).clone(), grouped(*clients)]);
        write!(f, "\n{}", Table { heads: vec!["channel".to_owned(), "subscribers".to_owned()], rows: rows.collect() })?;
        match sorted.len().saturating_sub(SHOWN_CHANNELS) {
            0 => Ok(()),
            more => writeln!(f, "and {} more", grouped(more as u64)),
        }
    }
}

/// Cells in columns: the first aligned to the left, all others to the right.
struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<Vec<String>> = std::iter::once(&self.heads)
            .chain(&self.rows)
            .map(|line| line.iter().map(|cell| escape_control(cell)).collect())
            .collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                match column {
                    0 => write!(f, "{cell:<width$}", width = width(0))?,
                    _ => write!(f, "  {cell:>width$}", width = width(column))?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Returns a number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::time::Instant;

    use super::*;
    use crate::{broker::NodeIdentity, cli::top::ChannelClients};

    fn node(uid: &str, publications: u64, cpu_ms: u64) -> NodeInfo {
        NodeInfo {
            node: NodeIdentity { uid: uid.to_owned(), name: format!("hub-{uid}") },
            version: "wardcast 0.1.0".to_owned(),
            num_clients: 15_000,
            num_users: 3,
            num_subs: 4,
            num_channels: 5,
            uptime: 60,
            num_publications: publications,
            num_deliveries: publications * 10,
            cpu_ms,
            memory_bytes: 64 << 20,
        }
    }

    fn sample(at: Instant, nodes: Vec<NodeInfo>, channels: Option<&[(&str, u64)]>) -> Sample {
        let channels = channels.map(|channels| {
            let entry = |&(name, num_clients): &(&str, u64)| (name.to_owned(), ChannelClients { num_clients });
            channels.iter().map(entry).collect::<BTreeMap<_, _>>()
        });
        Sample { at, nodes, unreachable: Vec::new(), channels }
    }

    #[test]
    fn rates_are_per_second_and_only_for_nodes_that_are_in_both_samples() {
        let start = Instant::now();
        let before = sample(start, vec![node("a", 100, 500)], None);
        let now = sample(start + Duration::from_secs(2), vec![node("a", 5_100, 1_500), node("b", 7, 7)], None);
        let text = Screen::new(&before, &now).to_string();
        let cells = |name: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
        };
        assert_eq!(cells("hub-a")[1..9], ["15,000", "3", "4", "5", "2,500", "25,000", "50.0 %", "64 MiB"]);
        assert_eq!(cells("hub-b")[5..8], ["–", "–", "–"]);
        assert!(text.contains("too many channels"), "{text}");
    }

    #[test]
    fn channels_with_most_subscribers_come_first() {
        let start = Instant::now();
        let names: Vec<String> = (0..20).map(|number| format!("c{number:02}")).collect();
        let mut channels: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        channels.extend([("busy", 1_234_567), ("b\u{202e}", 9)]);
        let (before, now) = (sample(start, Vec::new(), None), sample(start, Vec::new(), Some(&channels)));
        let text = Screen::new(&before, &now).to_string();
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("channel")).skip(1).collect();
        assert!(lines[0].starts_with("busy") && lines[0].ends_with("1,234,567"), "{text}");
        assert!(lines[1].starts_with("b\\u{202e}"), "{text}");
        assert!(lines[2].starts_with("c00") && lines[15] == "and 7 more", "{text}");
    }
}
