//! `revoke`, `expiry`, `refresh` and `forged`: something happens to tokens while publications arrive. Counted is what their
//! sessions receive; timed are the deliveries to sessions that stay.
//!
//! A publication that was sent after the end of a token and arrives is a fault of the hub. One that was sent before may still be
//! on its way: the hub has passed it to the kernel in time, and this program reads it later.

mod beside;
mod expiry;
mod forged;
mod options;
mod publisher;
mod refresh;
mod revoke;
mod sessions;
mod staying;

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

pub(crate) use self::beside::SessionsBeside;
pub(crate) use self::options::{ExpiryArgs, ForgedArgs, RefreshArgs, RevokeArgs};
use self::options::{PublishingArgs, TokenEndArgs};
pub(crate) use self::{expiry::run as expiry, forged::run as forged, refresh::run as refresh, revoke::run as revoke};
use crate::args::{ApiArgs, HubArgs};
use crate::error::{Context, Result, fail};
use crate::publication_stamp::check_size;
use crate::{hub_under_test::HubUnderTest, process::raise_file_limit, run::Run};

/// The channel of the sessions of these commands.
const CHANNEL: &str = "bench";
/// Settings of a hub that is started for the run: one user has all sessions.
const SETTINGS: &[&str] = &["limits.connections_per_user=1000000"];
/// How long sessions may take to end.
const MAX_END: Duration = Duration::from_secs(20);
/// Seconds that connecting may take, and how many connections add another one.
const OPENING: u64 = 5;
const CONNECTIONS_PER_SECOND: u64 = 1000;
const SECOND: u64 = 1_000_000_000;

/// What `revoke` and `expiry` have in common: starts the hubs.
fn open<'a>(args: &'a TokenEndArgs, run: &mut Run) -> Result<HubUnderTest<'a>> {
    let PublishingArgs { size, rate, nodes, .. } = args.publishing;
    open_hubs((&args.hub, &args.api), run, SETTINGS, nodes, (args.connections + args.others, (size, rate)))
}

/// Starts hubs for this many sessions and publications of this size and rate.
fn open_hubs<'a>(
    (hub, api): (&'a HubArgs, &ApiArgs),
    run: &mut Run,
    settings: &[&str],
    nodes: u16,
    (sessions, (size, rate)): (u32, (usize, f64)),
) -> Result<HubUnderTest<'a>> {
    check_size(size)?;
    raise_file_limit(sessions as usize)?;
    let hub = HubUnderTest::select_nodes(run, hub, Some(api), settings, nodes.into())?;
    run.report.set("connections", sessions);
    run.report.set("size_bytes", size);
    run.report.set("pace", format!("{rate} /s"));
    Ok(hub)
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).context("starting a thread")
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| fail("a thread has panicked"))
}
