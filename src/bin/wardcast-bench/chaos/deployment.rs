//! A deployment of a cell: the Redis of its form, the hubs, and the networks between them and before them.

use std::net::SocketAddr;

use crate::child_process::free_port;
use crate::error::{BenchError, Context, Result};
use crate::hub_under_test::random_secret;
use crate::program::Program;

use super::proxy::Proxy;
use super::redis_deployment::{Form, RedisDeployment};
use super::servers::{RunFolder, Server, ServerCommand, server_folder};

/// The hubs of a form with Redis.
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

/// A hub and its networks.
pub(super) struct Hub {
    /// The process.
    pub(super) server: Server,
    /// The network between clients and the hub.
    pub(super) client_network: Proxy,
    /// The network between the hub and a single Redis.
    pub(super) redis_network: Option<Proxy>,
}

impl Deployment {
    /// Starts a deployment and waits until all hubs are ready.
    pub(super) async fn start(form: Form, programs: &Programs) -> Result<Self> {
        let folder = RunFolder::create()?;
        let redis = RedisDeployment::start(form, programs.redis.as_ref(), &folder).await?;
        let (secret, api_key) = (random_secret(), random_secret());
        let mut deployment = Self { hubs: Vec::new(), redis, secret, api_key, folder };
        let count = if form == Form::Memory { 1 } else { HUBS };
        for number in 1..=count {
            let hub = deployment.start_hub(form, number, &programs.wardcast).await?;
            deployment.hubs.push(hub);
        }
        for hub in &mut deployment.hubs {
            hub.wait_until_ready().await?;
        }
        Ok(deployment)
    }

    async fn start_hub(&self, form: Form, number: usize, program: &Program) -> Result<Hub> {
        let name = format!("hub-{number}");
        let redis_network = match (form, &self.redis) {
            (Form::Single | Form::NoAof, Some(redis)) => Some(Proxy::start(redis.servers[0].server.address()).await?),
            _ => None,
        };
        let url = redis_network.as_ref().map(|network| format!("redis://{}", network.address));
        let redis_settings = self.redis.iter().flat_map(|redis| redis.hub_settings(form, url.clone()));
        let port = free_port()?;
        let settings = HUB_SETTINGS.map(str::to_owned).into_iter().chain([format!("server.bind=127.0.0.1:{port}")]);
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
        Ok(Hub { server, client_network, redis_network })
    }

    /// Redis.
    pub(super) fn redis(&mut self) -> Result<&mut RedisDeployment> {
        self.redis.as_mut().ok_or_else(|| BenchError("this form has no Redis".to_owned()))
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

/// Checks that a hub answers 200 to the question whether it is ready.
async fn check_ready(address: SocketAddr) -> Result<()> {
    const WHAT: &str = "asking for /health/ready";
    let request = "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = super::publisher::exchange(address, request.as_bytes()).await.context(WHAT)?;
    super::publisher::check_status(&answer).context(WHAT).map(drop)
}
