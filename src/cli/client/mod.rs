//! How a client on this machine reaches the hub, for the commands that talk to a running hub: its address, the TLS and the
//! PROXY header that it expects, its server API and its WebSockets.

mod api;
mod development_hub;
mod endpoint;
mod http;
mod server_identity;
mod websocket;

use std::{future::Future, path::PathBuf, time::Duration};

pub(super) use self::{
    api::ApiClient,
    development_hub::{DevelopmentHubFile, RunningHub},
    endpoint::{Endpoint, url_of},
    http::{HttpClient, HttpResponse},
    server_identity::ServerIdentity,
    websocket::{Received, WebSocketClient},
};
use super::configuration::ConfigInputs;
use crate::config::{Config, Secret};

/// Which hub a command talks to. The doc comments are texts of `--help`.
#[derive(clap::Args)]
pub(super) struct HubArguments {
    /// Base URL of the hub; default: the hub of the configuration, or the development hub that this user has started last
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// With an https URL: trust the certificate authorities of this PEM file instead of the system's
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) ca: Option<PathBuf>,
}

/// The hub that a command talks to.
pub(super) struct Hub {
    /// Its configuration, as far as this command knows it, with the secrets that development hubs of this user have kept.
    pub(super) config: Config,
    /// Where clients connect.
    pub(super) public: Endpoint,
    /// Where the server API is.
    pub(super) internal: Endpoint,
}

impl Hub {
    /// Finds the hub of these arguments: that of `--url`, or that of the configuration, or the development hub that runs.
    ///
    /// # Errors
    /// An invalid configuration or URL, or no address to connect to.
    pub(super) fn find(arguments: &HubArguments, inputs: &ConfigInputs) -> Result<Self, String> {
        let (mut config, running) = inputs.load_for_client()?;
        if let Some(url) = &arguments.url {
            let endpoint = Endpoint::from_url(url, ServerIdentity::SignedBy(arguments.ca.clone()))?;
            // No other machine gets the secrets of development hubs.
            if endpoint.is_loopback() {
                inputs.fill_with_kept_secrets(&mut config)?;
            }
            return Ok(Self { config, public: endpoint.clone(), internal: endpoint });
        }
        inputs.fill_with_kept_secrets(&mut config)?;
        Ok(match running {
            Some(running) => {
                let public = running.public_endpoint(&config)?;
                let internal = if running.api_url == running.url {
                    public.clone()
                } else {
                    Endpoint::from_url(&running.api_url, ServerIdentity::Any)?
                };
                Self { public, internal, config }
            }
            None => Self {
                public: Endpoint::of_public_listener(&config)?,
                internal: Endpoint::of_api_listener(&config)?,
                config,
            },
        })
    }

    /// Returns the API key.
    ///
    /// # Errors
    /// If the configuration has none.
    pub(super) fn api_key(&self) -> Result<&Secret, String> {
        let key = &self.config.api.key;
        if key.is_empty() { Err(NO_API_KEY.to_owned()) } else { Ok(key) }
    }
}

const NO_API_KEY: &str = "api.key is not set, and this user has run no development hub that kept its secrets; give this command the \
    configuration of the hub (--config FILE), or its API key in WARDCAST_API__KEY";

/// Runs a future on this thread.
///
/// # Errors
/// That of the future, or of the system if it provides no event queue.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the system provides no event queue: {error}"))?;
    let result = runtime.block_on(future);
    // A name that is still being resolved must not hold up the exit.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}
