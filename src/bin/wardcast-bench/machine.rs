//! The machine of a run: what it is, and who else uses it, since a figure from a busy machine is not the hub's.

use std::fs;

use crate::report::Report;

/// Processors' time, as /proc/stat has it: USER_HZ is 100 on every Linux that programs see.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters of the whole machine at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineCounters {
    busy_ticks: u64,
    overflows: u64,
}

impl MachineCounters {
    /// Reads them.
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let netstat = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
        Self { busy_ticks: busy_ticks(&stat), overflows: tcp_ext(&netstat, "ListenOverflows").unwrap_or(0) }
    }

    /// Seconds that all processors together were busy since `before`.
    pub(crate) fn busy_seconds_since(self, before: Self) -> f64 {
        self.busy_ticks.saturating_sub(before.busy_ticks) as f64 / TICKS_PER_SECOND
    }

    /// Connections that found a listener's queue full since `before`; they are tried again after a second.
    pub(crate) fn overflows_since(self, before: Self) -> u64 {
        self.overflows.saturating_sub(before.overflows)
    }
}

/// How many processors this program may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Reports what the machine is and how busy it is before a run.
pub(crate) fn report_machine(report: &mut Report) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    report.set("cores", cores());
    report.set("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()));
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    if let Some((_, model)) = model {
        report.set("processor", model.trim());
    }
    if let Some(load) = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok()) {
        report.set_number("load_average_at_start", load);
        if load > cores() as f64 * 0.5 {
            report.add_note(format!(
                "the machine was busy before the run began (load average {load} on {} cores): compare with care",
                cores()
            ));
        }
    }
}

fn busy_ticks(stat: &str) -> u64 {
    // cpu user nice system idle iowait irq softirq steal; guests are in user already.
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|place| ticks.get(*place)).sum()
}

/// A counter of /proc/net/netstat, whose lines come in pairs of names and values.
fn tcp_ext(netstat: &str, name: &str) -> Option<u64> {
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
        assert_eq!(
            tcp_ext("TcpExt: A ListenOverflows B\nTcpExt: 1 23 4\nIpExt: X\nIpExt: 5", "ListenOverflows"),
            Some(23)
        );
        assert_eq!(tcp_ext("", "ListenOverflows"), None);
        assert!(MachineCounters::read().busy_ticks > 0);
    }
}
