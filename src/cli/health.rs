//! `health`: checks whether a hub is ready, for health checks in container images without curl. Without a URL it asks the hub
//! of the configuration, as that hub listens: on its address, with or without TLS, with or without a PROXY header.

use std::time::Duration;

use hyper::StatusCode;

use super::{
    CliError, CommandResult,
    client::{Endpoint, HttpClient, HttpResponse, ServerIdentity, block_on},
    configuration::ConfigInputs,
};
use crate::http::health::READY_PATH;

/// Maximum time for connecting, and for the response.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum response that is read.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Runs `health`, for a URL or else for the hub of the configuration.
pub(super) fn check(inputs: Result<ConfigInputs, CliError>, url: Option<&str>) -> CommandResult {
    let (endpoint, path) = match url {
        // The request contains no secret, and the response is trusted no further than the exit code.
        Some(url) => (Endpoint::from_url(url, ServerIdentity::Any)?, ""),
        None => match inputs?.load_for_client()? {
            (config, Some(running)) => (running.public_endpoint(&config)?, READY_PATH),
            (config, None) => (Endpoint::of_public_listener(&config)?, READY_PATH),
        },
    };
    let HttpResponse { status, body } =
        block_on(async { HttpClient::connect(&endpoint, TIMEOUT).await?.get(path, MAX_RESPONSE_BYTES).await })?;
    let body = String::from_utf8_lossy(&body);
    match status {
        StatusCode::OK => Ok(format!("{body}\n")),
        _ => Err(format!("{endpoint}{path}: {status} {body}").into()),
    }
}
