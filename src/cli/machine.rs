//! Requirements of a hub on its machine: enough open files, and a plausible clock.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{clock::WallTime, config::Config};

/// Files that a hub opens besides its connections: listener, log, Redis, and the event queue of each worker.
const OWN_FILES: u64 = 256;
/// The beginning of 2025, before the first version of Wardcast.
const EARLIEST_PLAUSIBLE_TIME: WallTime = WallTime::from_unix_seconds(1_735_689_600);

/// Raises the limit of open files for the configured connections. Returns a warning if the machine does not permit
/// enough.
pub(super) fn raise_open_file_limit(config: &Config) -> Option<String> {
    let wanted = (config.limits.connections as u64).saturating_add(OWN_FILES);
    let wanted = wanted.saturating_add(config.limits.http_connections as u64);
    raise_to(wanted, config.limits.connections)
}

/// Raises the soft limit, which is low by default for programs that use `select`.
fn raise_to(wanted: u64, connections: usize) -> Option<String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let within = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= wanted);
    if is_enough(current) {
        return None;
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(within), maximum });
    let limit = if raised.is_ok() { Some(within) } else { current };
    let limit = limit.filter(|limit| *limit < wanted)?;
    Some(open_files_warning(limit, connections))
}

fn open_files_warning(limit: u64, connections: usize) -> String {
    format!(
        "limits.connections is {connections}, but this process may only open {limit} files, and each connection needs one; \
         raise the limit of open files (`ulimit -n`, LimitNOFILE= of systemd, `ulimits` of compose) or lower \
         limits.connections"
    )
}

/// Returns a warning if the clock is not set.
pub(super) fn check_clock(now: WallTime) -> Option<String> {
    (now < EARLIEST_PLAUSIBLE_TIME).then(|| {
        "the system clock is before 2025, so the hub accepts expired tokens, and refuses new ones as not valid yet; set the \
         clock (timedatectl set-ntp true)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn clock_before_2025_is_a_warning() {
        assert!(check_clock(WallTime::default()).is_some_and(|warning| warning.contains("timedatectl")));
        assert!(check_clock(WallTime::from_unix_millis(EARLIEST_PLAUSIBLE_TIME.unix_millis() - 1)).is_some());
        assert_eq!(check_clock(Clock::default().now()), None);
    }
}
