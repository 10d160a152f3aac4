//! A deployment of a cell: the Redis of its form, the hubs, and the networks between them and before them.

use std::net::SocketAddr;

use crate::child_process::free_port;
use crate::error::{BenchError, Result};
use crate::hub_under_test::random_secret;
use crate::program::Program;

use super::proxy::Proxy;
use super::readiness::check_ready;
use super::redis_deployment::{Form, RedisDeployment};
use super::servers::{RunFolder, Server, ServerCommand, server_folder};

/// The hubs of a form with Redis, unless the run wants more.
const HUBS: usize = 2;
/// Settings of the hubs: a history that is long enough for every cell. All others are the defaults.
pub(super) const HUB_SETTINGS: [&str; 5] = [
    "log.level=warn",
    "channels.allow_subscribe=user",
    "channels.history_size=10000",
    "channels.history_ttl=5m",
    "limits.recovered_publications=10000",
];

/// The programs that are started.
pub(super) struct Programs {
    /// The hub.
    pub(super) wardcast: Program,
    /// Redis, if it is installed.
    pub(super) redis: Option<Program>,
}

/// What distinguishes a deployment from the others of its form.
#[derive(Clone, Copy)]
pub(super) struct Setup<'a> {
    /// How many hubs there are in forms with Redis.
    pub(super) hubs: usize,
    /// Settings of the hubs beside [`HUB_SETTINGS`].
    pub(super) settings: &'a [String],
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { hubs: HUBS, settings: &[] }
    }
}

/// The deployment. Its processes end with this value.
pub(super) struct Deployment {
    /// The hubs.
    pub(super) hubs: Vec<Hub>,
    /// Redis; `None` on the memory broker.
    redis: Option<RedisDeployment>,
    /// The secret of tokens.
    pub(super) secret: String,
    /// The key of the server API.
    pub(super) api_key: String,
    /// Removed at the end.
    folder: RunFolder,
}

/// Some of the networks between hubs and Redis.
#[derive(Clone, Copy)]
pub(super) enum RedisNetworks {
    All,
    FirstHub,
    /// By the index of the server.
    Server(usize),
}

/// A hub and its networks.
pub(super) struct Hub {
    /// The process.
    pub(super) server: Server,
    /// The network between clients and the hub.
    pub(super) client_network: Proxy,
    /// The networks between the hub and each of the Redis servers, unless all hubs share them: where there are several
    /// servers, all hubs must know each by the same address.
    pub(super) redis_networks: Vec<Proxy>,
}

impl Deployment {
    /// Starts a deployment and waits until all hubs are ready.
    pub(super) async fn start(form: Form, programs: &Programs, setup: Setup<'_>) -> Result<Self> {
        let folder = RunFolder::create()?;
        let redis = RedisDeployment::start(form, programs.redis.as_ref(), &folder).await?;
        let (secret, api_key) = (random_secret(), random_secret());
        let mut deployment = Self { hubs: Vec::new(), redis, secret, api_key, folder };
        let count = if form == Form::Memory { 1 } else { setup.hubs };
        for number in 1..=count {
            let hub = deployment.start_hub(form, number, &programs.wardcast, setup.settings).await?;
            deployment.hubs.push(hub);
        }
        for hub in &mut deployment.hubs {
            hub.wait_until_ready().await?;
        }
        Ok(deployment)
    }

    async fn start_hub(&self, form: Form, number: usize, program: &Program, more_settings: &[String]) -> Result<Hub> {
        let name = format!("hub-{number}");
        let mut redis_networks = Vec::new();
        for redis in self.redis.iter().flat_map(|redis| &redis.servers).filter(|redis| redis.network.is_none()) {
            redis_networks.push(Proxy::start(redis.server.address()).await?);
        }
        let redis_settings = self.redis.iter().flat_map(|redis| redis.hub_settings(form, &redis_networks));
        let port = free_port()?;
        let settings = HUB_SETTINGS.map(str::to_owned).into_iter().chain([format!("server.bind=127.0.0.1:{port}")]);
        let settings = settings.chain(more_settings.iter().cloned());
        let command = ServerCommand {
            program: program.path.clone(),
            arguments: settings.chain(redis_settings).flat_map(|setting| ["--set".to_owned(), setting]).collect(),
            variables: vec![
                ("WARDCAST_ENV", "development".to_owned()),
                ("WARDCAST_AUTH__HMAC_SECRET", self.secret.clone()),
                ("WARDCAST_API__KEY", self.api_key.clone()),
            ],
            folder: server_folder(&self.folder.0, &name)?,
        };
        let server = Server::start(name, port, command)?;
        let client_network = Proxy::start(server.address()).await?;
        Ok(Hub { server, client_network, redis_networks })
    }

    /// Redis.
    pub(super) fn redis(&mut self) -> Result<&mut RedisDeployment> {
        self.redis.as_mut().ok_or_else(|| BenchError("this form has no Redis".to_owned()))
    }

    /// The networks between hubs and Redis: all, or those of the first hub, or those to one server.
    pub(super) fn redis_networks(&self, of: RedisNetworks) -> Vec<&Proxy> {
        let own = |hubs: usize| self.hubs[..hubs].iter().flat_map(|hub| &hub.redis_networks);
        match of {
            RedisNetworks::All => {
                let shared = self.redis.iter().flat_map(RedisDeployment::shared_networks);
                shared.chain(own(self.hubs.len())).collect()
            }
            RedisNetworks::FirstHub => own(1).collect(),
            RedisNetworks::Server(index) => {
                let shared = self.redis.iter().filter_map(|redis| redis.servers[index].network.as_ref());
                shared.chain(self.hubs.iter().filter_map(|hub| hub.redis_networks.get(index))).collect()
            }
        }
    }

    /// Where clients connect to.
    pub(super) fn client_addresses(&self) -> Vec<SocketAddr> {
        self.hubs.iter().map(|hub| hub.client_network.address).collect()
    }

    /// Where publishers connect to.
    pub(super) fn hub_addresses(&self) -> Vec<SocketAddr> {
        self.hubs.iter().map(|hub| hub.server.address()).collect()
    }
}

impl Hub {
    /// Waits until the hub says that it is ready.
    pub(super) async fn wait_until_ready(&mut self) -> Result<()> {
        let address = self.server.address();
        self.server.wait_until(async || check_ready(address).await).await
    }

    /// Starts the hub again, and waits until it is ready.
    pub(super) async fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_until_ready().await
    }
}
