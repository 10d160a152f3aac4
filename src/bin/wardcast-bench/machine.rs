//! Describes the machine of a run and how busy it is, since a busy machine distorts the figures of the hub.

use std::fs;

use crate::report::Report;

/// Units of /proc/stat per second: USER_HZ is 100 on every Linux that programs see.
const TICKS_PER_SECOND: f64 = 100.0;
/// A load average per core above which a run's figures need care.
const BUSY_LOAD: f64 = 0.5;

/// A share of the machine whose use by others affects the figures.
pub(crate) const OTHERS_SHARE_NOTED: f64 = 0.15;

/// Counters of the whole machine at one moment.
#[derive(Clone, Copy)]
pub(crate) struct MachineCounters {
    busy_ticks: u64,
    listen_overflows: u64,
}

impl MachineCounters {
    /// Reads the counters.
    pub(crate) fn read() -> Self {
        let listen_overflows = tcp_counter(&read_file("/proc/net/netstat"), "ListenOverflows").unwrap_or(0);
        Self { busy_ticks: busy_ticks(&read_file("/proc/stat")), listen_overflows }
    }

    /// Seconds that all processors together were busy since `before`.
    pub(crate) fn busy_seconds_since(self, before: Self) -> f64 {
        self.busy_ticks.saturating_sub(before.busy_ticks) as f64 / TICKS_PER_SECOND
    }

    /// Connections that met a full listen queue since `before`. TCP tries them again after a second.
    pub(crate) fn listen_overflows_since(self, before: Self) -> u64 {
        self.listen_overflows.saturating_sub(before.listen_overflows)
    }
}

/// How many processors this program may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Reports what the machine is and how busy it is before a run.
pub(crate) fn report_machine(report: &mut Report) {
    report.set("cores", cores());
    report.set("kernel", format!("Linux {}", read_file("/proc/sys/kernel/osrelease").trim()));
    let processors = read_file("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    if let Some((_, model)) = model {
        report.set("processor", model.trim());
    }
    let Some(load) = read_file("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()) else {
        return;
    };
    report.set_number("load_average_at_start", load);
    if load > cores() as f64 * BUSY_LOAD {
        report.add_note(format!(
            "the machine was busy before the run began (load average {load} on {} cores): compare with care",
            cores()
        ));
    }
}

/// An amount of memory by its name in /proc/meminfo, in bytes; the largest number if it is unknown.
pub(crate) fn memory_bytes(name: &str) -> u64 {
    let memory = read_file("/proc/meminfo");
    let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(u64::MAX, |kib| kib * 1024)
}

/// The text of a file of /proc, or nothing.
pub(crate) fn read_file(path: impl AsRef<std::path::Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn busy_ticks(stat: &str) -> u64 {
    // cpu user nice system idle iowait irq softirq steal; the time of guests is in user already.
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|column| ticks.get(*column)).sum()
}

/// A counter of /proc/net/netstat, which has a line of names and then a line of values.
fn tcp_counter(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    names.split(' ').zip(values.split(' ')).find(|(found, _)| *found == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_counters_are_read_from_the_right_columns() {
        assert_eq!(busy_ticks("cpu  1 2 4 800 1600 8 16 3200 0 0\ncpu0 9 9"), 31);
        let netstat = "TcpExt: A ListenOverflows B\nTcpExt: 1 23 4\nIpExt: X\nIpExt: 5";
        assert_eq!([netstat, ""].map(|netstat| tcp_counter(netstat, "ListenOverflows")), [Some(23), None]);
        assert!(MachineCounters::read().busy_ticks > 0);
        assert!(memory_bytes("MemTotal") > memory_bytes("MemAvailable") && memory_bytes("NoSuch") == u64::MAX);
    }
}
