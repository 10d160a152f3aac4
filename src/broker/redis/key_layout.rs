//! The layout of keys: the rule by which keys and PUB/SUB channels belong to a channel. Nodes of two layouts do not hear each
//! other, not even their heartbeats, because the name of the control channel is part of the layout. So the layout is a record
//! in Redis, under a name that all layouts have in common, and every node claims it as often as it sends heartbeats. The layout
//! that has been in use for longest holds: a node that is started with another one is not ready until no node of the former one
//! is left, and those that were there before stay ready.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::{RedisContext, scripts};
use crate::broker::BrokerError;

/// To be raised when a release looks for a key or a PUB/SUB channel under another name than its predecessor.
const VERSION: u32 = 1;
/// A record that is not claimed for so many heartbeat intervals ends.
const UNCLAIMED_INTERVALS: u32 = 3;

/// The layout of this node, and what it knows of that of the others.
pub(super) struct KeyLayout {
    own: String,
    record_ttl: Duration,
    state: Mutex<ClaimState>,
}

#[derive(Default)]
struct ClaimState {
    /// Since when the layout of this node is in use, as Redis has answered: milliseconds since 1970.
    since: Option<String>,
    /// The layout that holds. `None`: Redis has answered no claim yet.
    holding: Option<String>,
}

impl KeyLayout {
    /// Creates the layout of an installation: `partitions` of a Cluster, `None` of other forms.
    pub(super) fn new(partitions: Option<usize>, heartbeat_interval: Duration) -> Self {
        let own = match partitions {
            Some(partitions) => format!("version={VERSION} partitions={partitions}"),
            None => format!("version={VERSION}"),
        };
        Self { own, record_ttl: heartbeat_interval * UNCLAIMED_INTERVALS, state: Mutex::default() }
    }

    /// Notes which layout holds, and logs a change.
    fn record(&self, holding: String, since: String) {
        let mut state = self.state.lock();
        let is_own = holding == self.own;
        match &state.holding {
            Some(before) if *before == holding => {}
            None if is_own => {}
            Some(_) if is_own => log::info!("layout of keys in redis is that of this node again layout={holding:?}"),
            _ => log::error!("nodes use another layout of keys in redis layout={holding:?} own={:?}", self.own),
        }
        *state = ClaimState { since: Some(since), holding: Some(holding) };
    }

    /// Returns whether Redis has answered a claim.
    fn is_known(&self) -> bool {
        self.state.lock().holding.is_some()
    }

    /// # Errors
    /// [`BrokerError::NotReady`]: the layout of other nodes holds.
    fn check_holding(&self) -> Result<(), BrokerError> {
        match &self.state.lock().holding {
            Some(holding) if *holding != self.own => Err(BrokerError::NotReady {
                problem: "uses another layout of keys than the nodes before it",
                detail: format!(
                    "the nodes that were started before use the layout {holding:?} of keys in redis, this one {:?}; set the same \
                     broker.redis.partitions on all nodes, and run releases of one layout, or stop the others first",
                    self.own
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// Claims the layout of this node, at each heartbeat interval, forever.
pub(super) async fn keep_claimed(context: Arc<RedisContext>) {
    let mut claims = interval(context.heartbeat_interval);
    claims.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        claims.tick().await;
        if let Err(error) = claim(&context).await {
            log::debug!("layout of keys not claimed error={:?}", error.to_string());
        }
    }
}

/// Claims the layout of this node.
///
/// # Errors
/// Redis does not answer. What was known before still counts.
async fn claim(context: &RedisContext) -> Result<(), BrokerError> {
    let layout = &context.key_layout;
    let key = context.names.layout_key();
    let mut call = scripts::CLAIM_LAYOUT.call(&[&key]);
    let since = layout.state.lock().since.clone().unwrap_or_default();
    call.arg(&layout.own).arg(since).arg(u64::try_from(layout.record_ttl.as_millis()).unwrap_or(u64::MAX));
    let reply = context.server_of_name(&key)?.query::<(String, String)>(&call, context.timeout).await;
    let (holding, since) = reply.map_err(|error| BrokerError::Unavailable(format!("layout of keys: {error}")))?;
    layout.record(holding, since);
    Ok(())
}

/// Checks that no other layout than that of this node holds.
///
/// # Errors
/// [`BrokerError::NotReady`]: another one does, or it is not known yet, because Redis has never answered.
pub(super) async fn check(context: &RedisContext) -> Result<(), BrokerError> {
    if !context.key_layout.is_known() {
        claim(context).await.map_err(|error| BrokerError::NotReady {
            problem: "does not know the layout of keys",
            detail: error.to_string(),
        })?;
    }
    context.key_layout.check_holding()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_differ_by_version_and_partitions_only() {
        let own = |partitions| KeyLayout::new(partitions, Duration::from_secs(5)).own;
        assert_eq!(own(None), "version=1");
        assert_eq!(own(Some(1024)), "version=1 partitions=1024");
    }

    #[test]
    fn node_is_ready_only_while_its_own_layout_holds() {
        let layout = KeyLayout::new(Some(512), Duration::from_secs(5));
        assert!(!layout.is_known());
        for (holding, is_ready) in
            [("version=1 partitions=1024", false), ("version=1 partitions=512", true), ("x", false)]
        {
            layout.record(holding.to_owned(), "1".to_owned());
            assert!(layout.is_known());
            let checked = layout.check_holding();
            assert_eq!(checked.is_ok(), is_ready, "{checked:?}");
            assert!(is_ready || checked.unwrap_err().to_string().contains(holding));
        }
    }
}
