//! Claims: the settings in which all nodes of an installation have to agree, because nodes that differ in them lose each other's
//! messages, and do not even hear each other's heartbeats:
//!
//! - the *layout of keys*, by which the names of keys and PUB/SUB channels are built. Its record has a name that all layouts
//!   share, and is on the server of that name.
//! - the *servers* over which the channels are spread. Their record is on every server, so that nodes whose lists have one server
//!   in common meet there.
//!
//! Every node claims its values as often as it sends heartbeats. The value that has been in use for longest holds: a node that is
//! started with another one is not ready until no node of the former one is left, and those that were there before stay ready.

mod claim;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use self::claim::Claim;
use super::{RedisContext, placement::Placement, server::RedisServer};
use crate::{broker::BrokerError, metrics::Metrics};

/// To be raised when a release looks for a key or a PUB/SUB channel under another name than its predecessor.
const LAYOUT_VERSION: u32 = 1;
/// A record that is not claimed for so many heartbeat intervals ends.
const UNCLAIMED_INTERVALS: u32 = 3;

/// What this node claims.
pub(super) struct SettingClaims {
    layout: Claim,
    /// `None`: a Cluster, which says itself where channels are.
    servers: Option<Claim>,
    /// The servers of this node, for the log.
    addresses: String,
    metrics: Arc<Metrics>,
}

/// A claim, its record, and the servers that have one.
struct PlacedClaim<'a> {
    claim: &'a Claim,
    key: String,
    servers: Vec<Arc<RedisServer>>,
}

impl SettingClaims {
    /// Creates the claims of a Cluster with so many partitions.
    pub(super) fn of_cluster(partitions: usize, heartbeat_interval: Duration, metrics: Arc<Metrics>) -> Self {
        let value = format!("{LAYOUT_VERSION} partitions={partitions}");
        let layout = Claim::new("version", &value, heartbeat_interval * UNCLAIMED_INTERVALS);
        Self { layout, servers: None, addresses: String::new(), metrics }
    }

    /// Creates the claims of a node that uses independent servers at these addresses.
    pub(super) fn of_servers<'a>(
        addresses: impl IntoIterator<Item = &'a str>,
        heartbeat_interval: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let record_ttl = heartbeat_interval * UNCLAIMED_INTERVALS;
        let addresses: Vec<&str> = addresses.into_iter().collect();
        let fingerprint = Placement::new(addresses.iter().copied()).fingerprint();
        let list = format!("{} fingerprint={fingerprint:016x}", addresses.len());
        Self {
            layout: Claim::new("version", &LAYOUT_VERSION.to_string(), record_ttl),
            servers: Some(Claim::new("servers", &list, record_ttl)),
            addresses: addresses.join(", "),
            metrics,
        }
    }

    /// Returns the claims with the servers on which they are made.
    ///
    /// # Errors
    /// No server has the record of the layout at the moment.
    fn placed(&self, context: &RedisContext) -> Result<Vec<PlacedClaim<'_>>, BrokerError> {
        let key = context.names.layout_key();
        let servers = vec![context.server_of_name(&key)?];
        let layout = PlacedClaim { claim: &self.layout, key, servers };
        let servers = self.servers.as_ref().map(|claim| PlacedClaim {
            claim,
            key: context.names.servers_key(),
            servers: context.router.routes().servers().to_vec(),
        });
        Ok([layout].into_iter().chain(servers).collect())
    }

    /// # Errors
    /// [`BrokerError::NotReady`]: the value of other nodes holds.
    fn check_conflicts(&self) -> Result<(), BrokerError> {
        if let Some((_, holding)) = self.layout.conflict() {
            return Err(BrokerError::NotReady {
                problem: "uses another layout of keys than the nodes before it",
                detail: format!(
                    "the nodes that were started before use the layout {holding:?} of keys in redis, this one {:?}; set the same \
                     broker.redis.partitions on all nodes, and run releases of one layout, or stop the others first",
                    self.layout.own()
                ),
            });
        }
        let Some((claim, (server, holding))) = self.servers.as_ref().and_then(|claim| Some((claim, claim.conflict()?)))
        else {
            return Ok(());
        };
        Err(BrokerError::NotReady {
            problem: "uses other redis servers than the nodes before it",
            detail: format!(
                "the nodes that were started before spread the channels over other redis servers than this one, which uses {}: \
                 {holding:?} at {server} is not {:?}; name the same servers, by the same hosts, in broker.redis.urls of all nodes, \
                 or stop the others first",
                self.addresses,
                claim.own()
            ),
        })
    }

    /// Shows the state of the claims in the metrics.
    fn show(&self) {
        for (setting, claim) in [("key_layout", Some(&self.layout)), ("redis_servers", self.servers.as_ref())] {
            if let Some(claim) = claim {
                self.metrics.set_settings_conflict(setting, claim.conflict().is_some());
            }
        }
    }
}

/// Renews the claims, at each heartbeat interval, forever.
pub(super) async fn keep_claimed(context: Arc<RedisContext>) {
    let mut turns = interval(context.heartbeat_interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if let Err(error) = renew(&context, |_, _| true).await {
            log::debug!("claims not renewed error={:?}", error.to_string());
        }
    }
}

/// Renews the claims on those servers for which `is_due` returns true.
///
/// # Errors
/// One of these servers does not answer. What was known before still counts.
async fn renew(context: &RedisContext, is_due: impl Fn(&Claim, &RedisServer) -> bool) -> Result<(), BrokerError> {
    let placed = context.claims.placed(context)?;
    let mut renewals = Vec::new();
    for PlacedClaim { claim, key, servers } in &placed {
        claim.keep_only(|address| servers.iter().any(|server| server.address() == address));
        let due = servers.iter().filter(|server| is_due(claim, server));
        renewals.extend(due.map(|server| claim.renew(context, server, key)));
    }
    let results = join_all(renewals).await;
    context.claims.show();
    results.into_iter().collect()
}

/// Checks that the values of this node hold.
///
/// # Errors
/// [`BrokerError::NotReady`]: other ones do, or it is not known yet, because a Redis has never answered.
pub(super) async fn check(context: &RedisContext) -> Result<(), BrokerError> {
    let renewed = renew(context, |claim, server| !claim.is_known_at(server)).await;
    // What is known of the other servers is worth more to the operator.
    context.claims.check_conflicts()?;
    renewed.map_err(|error| BrokerError::NotReady {
        problem: "does not know the settings of the other nodes",
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn of_servers(addresses: &[&str]) -> SettingClaims {
        SettingClaims::of_servers(addresses.iter().copied(), INTERVAL, Arc::default())
    }

    #[test]
    fn layouts_differ_by_version_and_partitions_only() {
        assert_eq!(of_servers(&["a:1"]).layout.own(), "version=1");
        assert_eq!(SettingClaims::of_cluster(1024, INTERVAL, Arc::default()).layout.own(), "version=1 partitions=1024");
    }

    #[test]
    fn lists_of_the_same_servers_are_the_same_claim() {
        let own = |addresses: &[&str]| of_servers(addresses).servers.unwrap().own().to_owned();
        let usual = own(&["a:1", "b:1"]);
        assert!(usual.starts_with("servers=2 fingerprint="), "{usual}");
        assert_eq!(own(&["B.:1", "a:1"]), usual);
        // One server has all channels, whatever it is called.
        assert_eq!(own(&["localhost:1"]), own(&["127.0.0.1:1"]));
        for other in [["a:1", "c:1"].as_slice(), &["a:1"], &["a:1", "b:1", "c:1"]] {
            assert_ne!(own(other), usual);
        }
    }
}
