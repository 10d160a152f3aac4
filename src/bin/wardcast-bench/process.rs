//! Processes, read from /proc: their processor time in nanoseconds, memory, open files and sockets; and the file limit of
//! this one.

use std::{collections::HashMap, fs, path::PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{BenchError, Context, Result, fail};
use crate::machine::read_file;

/// Length of a tick of /proc/PID/stat: USER_HZ is 100 on every Linux that programs see.
const TICK_NANOS: u64 = 10_000_000;
/// Open files of this program that are not connections: standard streams, epoll, wakers and the like.
const OTHER_FILES: usize = 40;
/// Open files that a hub keeps back at its limit: it needs them to accept and refuse.
const RESERVED_FILES: u64 = 4;
/// The state of a listening socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// The processor time of some processes up to now.
#[derive(Default)]
pub(crate) struct CpuTime {
    /// Nanoseconds by process and thread. Threads come and go, so they are compared one by one.
    threads: HashMap<(u32, u32), u64>,
    user_ticks: u64,
    system_ticks: u64,
}

/// The processor time between two readings, in nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct CpuUsage {
    /// All of it, as the scheduler counts it. The time of threads that ended meanwhile is missing.
    pub(crate) total: u64,
    /// The part in user mode, in the proportion of the coarser /proc/PID/stat.
    pub(crate) user: u64,
    /// The part in the kernel, likewise.
    pub(crate) system: u64,
}

impl CpuTime {
    /// Reads the processor time of `pids`.
    pub(crate) fn read(pids: &[u32]) -> Result<Self> {
        let mut time = Self::default();
        for &pid in pids {
            let tasks = format!("/proc/{pid}/task");
            for entry in fs::read_dir(&tasks).context(format_args!("reading {tasks} (is --pid right?)"))?.flatten() {
                let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // A thread may end between listing and reading.
                let text = read_file(entry.path().join("schedstat"));
                let nanos = text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
                time.threads.insert((pid, thread), nanos);
            }
            let stat = read_file(format!("/proc/{pid}/stat"));
            // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
            let mut ticks = || fields.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            time.user_ticks += ticks();
            time.system_ticks += ticks();
        }
        Ok(time)
    }

    /// The processor time since `before`.
    pub(crate) fn since(&self, before: &Self) -> CpuUsage {
        let previous = |thread| before.threads.get(thread).copied().unwrap_or(0);
        let total = self.threads.iter().map(|(thread, nanos)| nanos.saturating_sub(previous(thread))).sum();
        let user = self.user_ticks.saturating_sub(before.user_ticks) * TICK_NANOS;
        let system = self.system_ticks.saturating_sub(before.system_ticks) * TICK_NANOS;
        let share = |part: u64| (total as f64 * part as f64 / (user + system).max(1) as f64) as u64;
        CpuUsage { total, user: share(user), system: share(system) }
    }
}

/// The resident memory of all `pids` together, in bytes.
pub(crate) fn resident_bytes(pids: &[u32]) -> Result<u64> {
    let resident = |pid: &u32| {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).context(format_args!("reading {path} (is --pid right?)"))?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
        Ok(1024 * kib.ok_or_else(|| BenchError(format!("{path} has no VmRSS")))?)
    };
    pids.iter().map(resident).sum()
}

/// Raises this process' soft limit of open files to the hard limit.
///
/// # Errors
/// The hard limit is too low for this many sockets.
pub(crate) fn raise_file_limit(sockets: usize) -> Result<()> {
    let needed = (sockets + OTHER_FILES) as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Some(hard) = maximum.filter(|hard| *hard < needed) {
        return fail(format!(
            "{sockets} sockets need {needed} open files, and `ulimit -Hn` is {hard} here: run `ulimit -n {needed}` first (as \
             root, or raise nofile in /etc/security/limits.conf), and the same for the hub; or use fewer connections"
        ));
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("raising `ulimit -n`")
}

/// The hard limit of open files, to which this program raises the limit of its own and of the servers that it starts.
pub(crate) fn hard_file_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Says which of `pids` has reached its limit of open files and what to do, if one has.
pub(crate) fn file_limit_reached(pids: &[u32]) -> Option<String> {
    pids.iter().find_map(|pid| {
        let (open, limit) = open_files(*pid).filter(|(open, limit)| open + RESERVED_FILES >= *limit)?;
        Some(format!("the hub (process {pid}) has {open} of {limit} files open: start it with a higher `ulimit -n`"))
    })
}

/// How many files a process has open, and its limit; `None` if the process is another user's.
fn open_files(pid: u32) -> Option<(u64, u64)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    Some((open, line.split_whitespace().next()?.parse().unwrap_or(u64::MAX)))
}

/// A line of a table of TCP sockets.
struct TcpSocket {
    local_port: u16,
    remote_port: u16,
    is_listening: bool,
    /// 0 if the socket's process has closed it but TCP has not.
    inode: u64,
}

fn tcp_sockets(path: &str) -> Vec<TcpSocket> {
    // Columns: sl local_address rem_address st … inode.
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |column: usize| u16::from_str_radix(fields.get(column)?.rsplit(':').next()?, 16).ok();
        let (is_listening, inode) = (*fields.get(3)? == LISTENING, fields.get(9)?.parse().ok()?);
        Some(TcpSocket { local_port: port(1)?, remote_port: port(2)?, is_listening, inode })
    };
    read_file(path).lines().skip(1).filter_map(socket).collect()
}

/// The process that listens at a local port, if it can be seen: one of this user's, or for root any.
pub(crate) fn listening_process(port: u16) -> Option<u32> {
    let sockets = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(tcp_sockets);
    let listening = sockets.filter(|socket| socket.is_listening && socket.local_port == port);
    let links: Vec<PathBuf> = listening.map(|socket| format!("socket:[{}]", socket.inode).into()).collect();
    let holds_one = |pid: &u32| {
        let mut files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|link| links.contains(&link)))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(holds_one)
}

/// Those of the clients' `ports` whose server side no process holds any more. A client that does not read cannot see this
/// itself: the end of the stream is behind data that it never reads.
pub(crate) fn ports_closed_by_server(ports: &[u16]) -> Vec<u16> {
    // The table is read twice: sockets that come and go meanwhile can hide a line from one reading.
    let sockets = ["/proc/net/tcp"; 2].into_iter().flat_map(tcp_sockets);
    let held: Vec<u16> = sockets.filter(|socket| socket.inode != 0).map(|socket| socket.remote_port).collect();
    ports.iter().copied().filter(|port| !held.contains(port)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn socket_closed_by_its_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = [client.local_addr().unwrap().port()];
        let (server, _) = listener.accept().unwrap();
        assert!(ports_closed_by_server(&port).is_empty());
        drop(server);
        // Until a child that another test is starting runs its own program, it holds all files that are open here.
        let end = Instant::now() + Duration::from_secs(5);
        while ports_closed_by_server(&port) != port {
            assert!(Instant::now() < end, "the closed socket is not found");
            std::thread::yield_now();
        }
    }

    #[test]
    fn listening_process_is_found_by_its_port() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        assert_eq!(listening_process(port), Some(std::process::id()));
        let (open, limit) = open_files(std::process::id()).unwrap();
        assert!(open > 3 && limit > open);
        drop(server);
        assert_eq!(listening_process(port), None);
    }
}
