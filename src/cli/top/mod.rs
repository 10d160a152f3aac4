//! `top`: shows the nodes with their load, and the channels with most subscribers, live on a terminal.

mod screen;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use self::screen::Screen;
use super::{
    CliError, CommandResult,
    arguments::TopArguments,
    client::{ApiClient, Hub, block_on},
    configuration::ConfigInputs,
    escape_control, print_output,
};
use crate::broker::{NodeIdentity, NodeInfo};

/// Maximum channels of all nodes with which they are listed: the server API lists all of them at once.
const MAX_LISTED_CHANNELS: u64 = 20_000;
/// The shortest interval: asking costs the hub some work.
const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// Moves to the first line and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The state of all nodes at one time.
struct Sample {
    at: Instant,
    nodes: Vec<NodeInfo>,
    unreachable: Vec<NodeIdentity>,
    /// Subscribers by channel; `None` if there are too many channels to list them.
    channels: Option<BTreeMap<String, ChannelClients>>,
}

/// The number of subscribers of a channel.
#[derive(Deserialize)]
struct ChannelClients {
    num_clients: u64,
}

/// Runs `top`.
pub(super) fn show(inputs: &ConfigInputs, arguments: &TopArguments) -> CommandResult {
    let hub = Hub::find(&arguments.hub, inputs)?;
    let is_live = io::stdout().is_terminal() && !arguments.once;
    let interval = arguments.interval.max(MIN_INTERVAL);
    block_on(async {
        let mut api = ApiClient::connect(&hub).await?;
        let mut before = take_sample(&mut api).await?;
        let print = |text: &str| print_output(text).map_err(|error| format!("stdout: {error}"));
        loop {
            sleep(interval).await;
            match take_sample(&mut api).await {
                Ok(now) => {
                    let text = Screen::new(&before, &now).to_string();
                    if !is_live {
                        return Ok(text);
                    }
                    print(&format!("{CLEAR}{}\n\n{text}\nCtrl-C stops.\n", hub.internal))?;
                    before = now;
                }
                Err(error) if is_live => print(&format!("{}; trying again\n", escape_control(&error)))?,
                Err(error) => return Err(error),
            }
        }
    })
    .map_err(CliError::from)
}

async fn take_sample(api: &mut ApiClient) -> Result<Sample, String> {
    #[derive(Deserialize)]
    struct Info {
        nodes: Vec<NodeInfo>,
        #[serde(default)]
        unreachable: Vec<NodeIdentity>,
    }
    #[derive(Deserialize)]
    struct Channels {
        channels: BTreeMap<String, ChannelClients>,
    }
    let unexpected =
        |error: serde_json::Error| format!("this version of wardcast does not understand the hub's answer: {error}");
    let info = api.call("info", "{}").await?;
    let Info { nodes, unreachable } = serde_json::from_str(info.get()).map_err(unexpected)?;
    let at = Instant::now();
    let channels: u64 = nodes.iter().map(|node| node.num_channels).sum();
    let channels = if channels > MAX_LISTED_CHANNELS {
        None
    } else {
        let listed = api.call("channels", "{}").await?;
        Some(serde_json::from_str::<Channels>(listed.get()).map_err(unexpected)?.channels)
    };
    Ok(Sample { at, nodes, unreachable, channels })
}
