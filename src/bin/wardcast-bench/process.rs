//! What a process costs, read from /proc: processor time in nanoseconds, resident memory, and this process' own limits.

use std::collections::HashMap;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{BenchError, IoContext, Result};

/// Length of a tick in /proc/PID/stat: USER_HZ is 100 on every Linux that programs see.
const TICK_NANOS: u64 = 10_000_000;

/// Processor time of some processes up to now.
#[derive(Debug, Default)]
pub(crate) struct CpuTime {
    /// By process and thread, in nanoseconds: threads come and go, so they are compared one by one.
    threads: HashMap<(u32, u32), u64>,
    user_ticks: u64,
    system_ticks: u64,
}

/// Processor time between two readings, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuUsage {
    /// On the processor, from the scheduler's own books. What a thread that ended meanwhile had used is not in it.
    pub(crate) total: u64,
    /// Of that in user mode, in the share that the coarser /proc/PID/stat gives it.
    pub(crate) user: u64,
    /// And in the kernel.
    pub(crate) system: u64,
}

impl CpuTime {
    /// Reads the books of `pids`.
    pub(crate) fn read(pids: &[u32]) -> Result<Self> {
        let mut time = Self::default();
        for &pid in pids {
            let tasks = format!("/proc/{pid}/task");
            for entry in fs::read_dir(&tasks).context(|| format!("reading {tasks} (is --pid right?)"))?.flatten() {
                let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // A thread may end between the listing and the reading.
                let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
                let nanos = text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
                time.threads.insert((pid, thread), nanos);
            }
            let stat =
                fs::read_to_string(format!("/proc/{pid}/stat")).context(|| format!("reading /proc/{pid}/stat"))?;
            // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            time.user_ticks += ticks(11);
            time.system_ticks += ticks(12);
        }
        Ok(time)
    }

    /// What was spent since `before`.
    pub(crate) fn since(&self, before: &Self) -> CpuUsage {
        let had = |thread| before.threads.get(thread).copied().unwrap_or(0);
        let total = self.threads.iter().map(|(thread, nanos)| nanos.saturating_sub(had(thread))).sum();
        let user = self.user_ticks.saturating_sub(before.user_ticks) * TICK_NANOS;
        let system = self.system_ticks.saturating_sub(before.system_ticks) * TICK_NANOS;
        let ticked = (user + system).max(1) as f64;
        let share = |part: u64| (total as f64 * part as f64 / ticked) as u64;
        CpuUsage { total, user: share(user), system: share(system) }
    }
}

/// Resident memory of all `pids` together, in bytes.
pub(crate) fn resident_bytes(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| status_kib(*pid, "VmRSS:").map(|kib| kib * 1024)).sum()
}

fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(|| format!("reading {path} (is --pid right?)"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| BenchError::Usage(format!("{path} has no {field}")))
}

/// Makes room for `sockets`: raises this process' own limit of open files as far as it may, and fails when that is not enough.
pub(crate) fn raise_file_limit(sockets: usize) -> Result<()> {
    /// Standard streams, epoll, wakers and the like.
    const OTHERS: usize = 40;
    let needed = (sockets + OTHERS) as u64;
    let limit = getrlimit(Resource::Nofile);
    // None is no limit.
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    if needed <= soft {
        return Ok(());
    }
    if needed <= hard {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum });
        return raised.map_err(std::io::Error::from).context(|| format!("raising `ulimit -n` to {needed}"));
    }
    Err(BenchError::Usage(format!(
        "{sockets} sockets need {needed} open files, and `ulimit -Hn` is {hard} here: run `ulimit -n {needed}` first (as \
         root, or raise nofile in /etc/security/limits.conf), and for the hub likewise; or connect fewer"
    )))
}

/// Raises this process' own limit of open files to the most that it may be.
pub(crate) fn raise_file_limit_to_maximum() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    raised.map_err(std::io::Error::from).context(|| "raising `ulimit -n`")
}

/// Which of `pids` has no room for more connections, in a sentence that tells what to do.
pub(crate) fn file_limit_reached(pids: &[u32]) -> Option<String> {
    /// It cannot use the last ones: it needs them to accept and refuse.
    const RESERVE: u64 = 4;
    pids.iter().find_map(|pid| {
        let (open, most) = open_files(*pid).filter(|(open, most)| open + RESERVE >= *most)?;
        Some(format!("the hub (process {pid}) has {open} of {most} files open: start it with a higher `ulimit -n`"))
    })
}

/// How many files a process has open, and may have; none where that is another user's business.
fn open_files(pid: u32) -> Option<(u64, u64)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    Some((open, line.split_whitespace().next()?.parse().unwrap_or(u64::MAX)))
}

/// The process that listens at a local port, if it may be seen: one of this user's, or any for root.
pub(crate) fn listening_process(port: u16) -> Option<u32> {
    /// LISTEN in the column `st`.
    const LISTENS: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets = tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let at = u16::from_str_radix(fields.get(1)?.rsplit(':').next()?, 16).ok()?;
        (at == port && *fields.get(3)? == LISTENS).then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    });
    let sockets: Vec<String> = sockets.collect();
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(holds)
}

/// Those of the clients' `ports` whose server side no process holds any more. A client that does not read cannot see it
/// itself: the end stands behind data it never takes.
pub(crate) fn ports_closed_by_server(ports: &[u16]) -> Vec<u16> {
    // Columns: sl local_address rem_address st … inode. An orphan, closed by its process but not by TCP, has inode 0.
    // Read twice: sockets that come and go meanwhile can hide a line of the table from one reading.
    let tables = [(); 2].map(|()| fs::read_to_string("/proc/net/tcp").unwrap_or_default());
    let held: std::collections::HashSet<u16> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = u16::from_str_radix(fields.get(2)?.rsplit(':').next()?, 16).ok()?;
            (*fields.get(9)? != "0").then_some(port)
        })
        .collect();
    ports.iter().copied().filter(|port| !held.contains(port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_of_this_process_are_read() {
        let me = [std::process::id()];
        let before = CpuTime::read(&me).unwrap();
        let mut sum = 0u64;
        for number in 0..20_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
        assert!(CpuTime::read(&me).unwrap().since(&before).total > 0);
        assert!(resident_bytes(&me).unwrap() > 100_000);
        assert!(resident_bytes(&[0]).is_err());
    }

    #[test]
    fn socket_closed_by_its_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = [client.local_addr().unwrap().port()];
        let (server, _) = listener.accept().unwrap();
        assert!(ports_closed_by_server(&port).is_empty());
        drop(server);
        // A child of another test that is just being born holds all that is open here until it runs a program of its own.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while ports_closed_by_server(&port) != port {
            assert!(std::time::Instant::now() < end, "it is not let go");
            std::thread::yield_now();
        }
    }

    #[test]
    fn too_many_sockets_are_refused_with_the_needed_ulimit() {
        let error = raise_file_limit(1_000_000_000).unwrap_err().to_string();
        assert!(error.contains("ulimit -n 1000000040"), "{error}");
        assert!(raise_file_limit(10).is_ok());
    }

    #[test]
    fn listening_process_is_found_by_its_port() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        assert_eq!(listening_process(port), Some(std::process::id()));
        let (open, most) = open_files(std::process::id()).unwrap();
        assert!(open > 3 && most > open);
        drop(server);
        assert_eq!(listening_process(port), None);
    }
}
