//! The faults: what each does to a deployment, and how it is mended.

use std::time::Duration;

use redis::Value;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::error::Result;

use super::deployment::{Deployment, RedisNetworks};

/// How long a broken server or network stays so.
const OUTAGE: Duration = Duration::from_secs(3);
/// How long a killed hub is away.
const HUB_OUTAGE: Duration = Duration::from_secs(1);
/// How long a network between hubs and Redis loses everything: longer than hubs take to notice it.
const SILENCE: Duration = Duration::from_secs(12);
/// The same between clients and a hub, who notice it by the absence of pings: 25 s and 10 s.
const CLIENT_SILENCE: Duration = Duration::from_secs(45);
/// The channel whose master is broken.
pub(super) const FIRST_CHANNEL: &str = "chaos-0";

/// A fault. See the table of cells for what each one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    StopHub,
    RollHubs,
    KillHub,
    FreezeHub,
    CutClients,
    SilenceClients,
    KillRedis,
    FreezeRedis,
    DemoteRedis,
    PauseWrites,
    DropSubscriptions,
    CutRedis,
    SilenceRedis,
    SilenceRedisOfOneHub,
    SilenceServer,
    KillServer,
    FreezeServer,
    KillMaster,
    FreezeMaster,
    Failover,
    MoveSlot,
    KillShard,
    KillAllRedis,
    KillReplica,
    KillSentinel,
    KillAllSentinels,
}

impl Fault {
    /// Breaks the deployment and mends it.
    pub(super) async fn inject(self, deployment: &mut Deployment) -> Result<()> {
        match self {
            Self::StopHub | Self::RollHubs | Self::KillHub | Self::FreezeHub => self.inject_into_hubs(deployment).await,
            Self::CutClients
            | Self::SilenceClients
            | Self::CutRedis
            | Self::SilenceRedis
            | Self::SilenceRedisOfOneHub
            | Self::SilenceServer => self.inject_into_network(deployment).await,
            Self::KillRedis
            | Self::FreezeRedis
            | Self::DemoteRedis
            | Self::PauseWrites
            | Self::DropSubscriptions
            | Self::KillAllRedis => self.inject_into_redis(deployment).await,
            Self::KillServer
            | Self::FreezeServer
            | Self::KillMaster
            | Self::FreezeMaster
            | Self::Failover
            | Self::MoveSlot
            | Self::KillShard => self.inject_into_master(deployment).await,
            Self::KillReplica | Self::KillSentinel | Self::KillAllSentinels => {
                self.inject_into_others(deployment).await
            }
        }
    }

    async fn inject_into_hubs(self, deployment: &mut Deployment) -> Result<()> {
        let affected = if self == Self::RollHubs { deployment.hubs.len() } else { 1 };
        for hub in &mut deployment.hubs[..affected] {
            match self {
                Self::KillHub => {
                    hub.server.kill();
                    sleep(HUB_OUTAGE).await;
                    hub.start_again().await?;
                }
                Self::FreezeHub => {
                    hub.server.signal(Signal::STOP)?;
                    sleep(OUTAGE).await;
                    hub.server.signal(Signal::CONT)?;
                }
                _ => {
                    hub.server.stop().await?;
                    hub.start_again().await?;
                }
            }
        }
        Ok(())
    }

    async fn inject_into_network(self, deployment: &mut Deployment) -> Result<()> {
        let (is_silent, time) = match self {
            Self::SilenceClients => (true, CLIENT_SILENCE),
            Self::SilenceRedis | Self::SilenceRedisOfOneHub | Self::SilenceServer => (true, SILENCE),
            _ => (false, Duration::ZERO),
        };
        let networks: Vec<_> = match self {
            Self::CutClients | Self::SilenceClients => vec![&deployment.hubs[0].client_network],
            Self::SilenceRedisOfOneHub => deployment.redis_networks(RedisNetworks::FirstHub),
            Self::SilenceServer => {
                let (server, _) = deployment.redis()?.master_of_channel(FIRST_CHANNEL).await?;
                deployment.redis_networks(RedisNetworks::Server(server))
            }
            _ => deployment.redis_networks(RedisNetworks::All),
        };
        for network in &networks {
            if is_silent {
                network.set_silent(true);
            } else {
                network.cut();
            }
        }
        sleep(time).await;
        networks.iter().for_each(|network| network.set_silent(false));
        Ok(())
    }

    async fn inject_into_redis(self, deployment: &mut Deployment) -> Result<()> {
        let servers = &mut deployment.redis()?.servers;
        match self {
            Self::KillRedis | Self::KillAllRedis => {
                servers.iter_mut().for_each(|redis| redis.server.kill());
                sleep(OUTAGE).await;
                for redis in servers.iter_mut() {
                    redis.server.start_again()?;
                }
                for redis in servers.iter_mut() {
                    redis.wait_until_ready().await?;
                }
            }
            Self::FreezeRedis => {
                servers[0].server.signal(Signal::STOP)?;
                sleep(OUTAGE).await;
                servers[0].server.signal(Signal::CONT)?;
            }
            Self::DemoteRedis => {
                // Nothing listens at this port.
                servers[0].run::<Value>(&["REPLICAOF", "127.0.0.1", "1"]).await?;
                sleep(OUTAGE).await;
                servers[0].run::<Value>(&["REPLICAOF", "NO", "ONE"]).await?;
            }
            Self::PauseWrites => {
                let time = OUTAGE.as_millis().to_string();
                servers[0].run::<Value>(&["CLIENT", "PAUSE", &time, "WRITE"]).await?;
                sleep(OUTAGE).await;
            }
            _ => {
                for redis in servers.iter() {
                    redis.run::<Value>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
                }
            }
        }
        Ok(())
    }

    async fn inject_into_master(self, deployment: &mut Deployment) -> Result<()> {
        let redis = deployment.redis()?;
        let (master, name) = redis.master_of_channel(FIRST_CHANNEL).await?;
        match self {
            Self::KillServer => {
                redis.servers[master].server.kill();
                sleep(OUTAGE).await;
                redis.servers[master].start_again().await?;
            }
            Self::FreezeServer => {
                redis.servers[master].server.signal(Signal::STOP)?;
                sleep(OUTAGE).await;
                redis.servers[master].server.signal(Signal::CONT)?;
            }
            Self::KillMaster => {
                redis.servers[master].server.kill();
                redis.wait_for_new_master(master).await?;
            }
            Self::FreezeMaster => {
                redis.servers[master].server.signal(Signal::STOP)?;
                redis.wait_for_new_master(master).await?;
                redis.servers[master].server.signal(Signal::CONT)?;
            }
            Self::Failover => redis.fail_over(master).await?,
            Self::MoveSlot => redis.move_slot_of(master, &name).await?,
            _ => {
                let both = [master, redis.replica_of(master)?];
                both.iter().for_each(|index| redis.servers[*index].server.kill());
                sleep(OUTAGE).await;
                for index in both {
                    redis.servers[index].start_again().await?;
                }
            }
        }
        Ok(())
    }

    async fn inject_into_others(self, deployment: &mut Deployment) -> Result<()> {
        let redis = deployment.redis()?;
        match self {
            Self::KillReplica => {
                let (master, _) = redis.master_of_channel(FIRST_CHANNEL).await?;
                let replica = redis.replica_of(master)?;
                redis.servers[replica].server.kill();
            }
            Self::KillSentinel => redis.sentinels[0].server.kill(),
            _ => redis.sentinels.iter_mut().for_each(|sentinel| sentinel.server.kill()),
        }
        sleep(OUTAGE).await;
        Ok(())
    }
}
