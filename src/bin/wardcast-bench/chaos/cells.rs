//! The table of the cells: which component fails in which way, and in which deployments.

use super::fault::Fault;
use super::redis_deployment::Form;
use super::redis_deployment::Form::{Cluster, Memory, NoAof, Sentinel, Several, Single};

/// A failure of a component.
pub(crate) struct Cell {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// What fails.
    pub(super) component: &'static str,
    /// How.
    pub(super) failure: &'static str,
    /// The forms that have such a component.
    pub(super) forms: &'static [Form],
    /// What is done.
    pub(super) fault: Fault,
}

const fn cell(
    name: &'static str,
    component: &'static str,
    failure: &'static str,
    forms: &'static [Form],
    fault: Fault,
) -> Cell {
    Cell { name, component, failure, forms, fault }
}

const HUB: &str = "a hub";
const CLIENT_NETWORK: &str = "the network between clients and a hub";
const REDIS: &str = "Redis";
const SERVER: &str = "one of several Redis servers";
const REDIS_NETWORK: &str = "the network between hubs and Redis";
const MASTER: &str = "a Redis master";
const OTHERS: &str = "other Redis servers";

/// All cells.
pub(crate) const CELLS: &[Cell] = &[
    cell("hub-stop", HUB, "stopped (SIGTERM), and started again", &[Memory, Single], Fault::StopHub),
    cell(
        "hub-rolling",
        HUB,
        "all stopped and started, one after the other",
        &[Single, Several, Sentinel, Cluster],
        Fault::RollHubs,
    ),
    cell("hub-kill", HUB, "killed (SIGKILL), and started again after 1 s", &[Memory, Single], Fault::KillHub),
    cell("hub-freeze", HUB, "frozen (SIGSTOP) for 3 s", &[Single], Fault::FreezeHub),
    cell("client-cut", CLIENT_NETWORK, "all connections cut", &[Memory, Single], Fault::CutClients),
    cell("client-silent", CLIENT_NETWORK, "loses everything for 45 s", &[Single], Fault::SilenceClients),
    cell("redis-kill", REDIS, "killed (SIGKILL), and back after 3 s", &[Single, NoAof], Fault::KillRedis),
    cell("redis-freeze", REDIS, "frozen (SIGSTOP) for 3 s", &[Single], Fault::FreezeRedis),
    cell("redis-read-only", REDIS, "a replica for 3 s", &[Single], Fault::DemoteRedis),
    cell("redis-pause", REDIS, "accepts no writes for 3 s (CLIENT PAUSE)", &[Single], Fault::PauseWrites),
    cell(
        "redis-drop",
        REDIS,
        "drops all subscriptions (CLIENT KILL)",
        &[Single, Several, Sentinel, Cluster],
        Fault::DropSubscriptions,
    ),
    cell("redis-cut", REDIS_NETWORK, "all connections cut", &[Single, Several, Sentinel, Cluster], Fault::CutRedis),
    cell(
        "redis-silent",
        REDIS_NETWORK,
        "loses everything for 12 s",
        &[Single, Several, Sentinel, Cluster],
        Fault::SilenceRedis,
    ),
    cell(
        "redis-silent-one",
        REDIS_NETWORK,
        "loses everything of one hub for 12 s",
        &[Single],
        Fault::SilenceRedisOfOneHub,
    ),
    cell(
        "server-silent",
        REDIS_NETWORK,
        "loses everything of one server, a master, for 12 s",
        &[Several, Sentinel, Cluster],
        Fault::SilenceServer,
    ),
    cell("server-kill", SERVER, "killed (SIGKILL), and back after 3 s", &[Several], Fault::KillServer),
    cell("server-freeze", SERVER, "frozen (SIGSTOP) for 3 s", &[Several], Fault::FreezeServer),
    cell(
        "master-kill",
        MASTER,
        "killed (SIGKILL) for good; a replica is promoted",
        &[Sentinel, Cluster],
        Fault::KillMaster,
    ),
    cell(
        "master-freeze",
        MASTER,
        "frozen until a replica is promoted, then continued",
        &[Sentinel, Cluster],
        Fault::FreezeMaster,
    ),
    cell("master-failover", MASTER, "failover by an operator", &[Sentinel, Cluster], Fault::Failover),
    cell("slot-move", MASTER, "the slot of a channel moves to another master", &[Cluster], Fault::MoveSlot),
    cell("shard-kill", MASTER, "killed together with its replica, both back after 3 s", &[Cluster], Fault::KillShard),
    cell(
        "redis-kill-all",
        REDIS,
        "all servers killed, and back after 3 s",
        &[Several, Sentinel, Cluster],
        Fault::KillAllRedis,
    ),
    cell("replica-kill", OTHERS, "a replica is killed", &[Sentinel, Cluster], Fault::KillReplica),
    cell("sentinel-kill", OTHERS, "a Sentinel is killed", &[Sentinel], Fault::KillSentinel),
    cell("sentinel-kill-all", OTHERS, "all Sentinels are killed", &[Sentinel], Fault::KillAllSentinels),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = CELLS.iter().map(|cell| cell.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        assert!(CELLS.iter().all(|cell| !cell.forms.is_empty()));
    }
}
