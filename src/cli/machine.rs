//! What the machine must have for a hub: room for open files, and a clock that is about right.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{clock::Millis, config::Config};

/// Files that a hub opens beside its connections: listener, log, Redis, what each worker waits with.
const OWN_FILES: u64 = 256;
/// The beginning of 2025. Wardcast is younger than that.
const EARLIEST_PLAUSIBLE_TIME: Millis = 1_735_689_600_000;

/// Takes the open files that the machine allows; says what is still missing.
pub(super) fn raise_open_file_limit(config: &Config) -> Option<String> {
    let wanted = (config.limits.connections as u64).saturating_add(OWN_FILES);
    let wanted = wanted.saturating_add(config.limits.http_connections as u64);
    raise_to(wanted, config.limits.connections)
}

/// Raises the limit that everybody may raise. Programs get a low one for the sake of those that use `select`.
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
        "limits.connections is {connections}, but the system lets this process open {limit} files, and each connection is \
         one; raise that limit (`ulimit -n`, LimitNOFILE= of systemd, `ulimits` of compose) or lower limits.connections"
    )
}

/// Says what comes of a clock that nobody has set.
pub(super) fn check_clock(now: Millis) -> Option<String> {
    (now < EARLIEST_PLAUSIBLE_TIME).then(|| {
        "the system's clock is before 2025: expired tokens would be taken for good ones, and new ones refused as not valid \
         yet; set the clock (timedatectl set-ntp true)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn clock_before_2025_is_a_warning() {
        assert!(check_clock(0).is_some_and(|told| told.contains("timedatectl")));
        assert!(check_clock(EARLIEST_PLAUSIBLE_TIME - 1).is_some());
        assert_eq!(check_clock(Clock::default().now()), None);
    }
}
