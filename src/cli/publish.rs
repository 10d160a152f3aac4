//! `pub`: publishes to a channel.

use std::{
    collections::BTreeMap,
    io::{self, BufRead},
};

use serde_json::value::RawValue;

use super::{
    CliError, CommandResult,
    api_call::for_reader,
    client::{ApiClient, Hub, HubArguments, block_on},
    configuration::ConfigInputs,
};

/// Runs `pub`: publishes the data, or with `-` each line of standard input.
pub(super) fn publish(
    inputs: &ConfigInputs,
    hub: &HubArguments,
    channel: &str,
    data: &str,
    text: bool,
) -> CommandResult {
    let first = if data == "-" { None } else { Some(publication(channel, data, text)?) };
    let hub = Hub::find(hub, inputs)?;
    block_on(async {
        let mut api = ApiClient::connect(&hub).await?;
        match first {
            Some(params) => Ok(format!("{}\n", for_reader(&api.call("publish", &params).await?))),
            None => publish_lines(&mut api, channel, text).await,
        }
    })
    .map_err(CliError::from)
}

/// Publishes each line of standard input, one after the other.
async fn publish_lines(api: &mut ApiClient, channel: &str, text: bool) -> Result<String, String> {
    let mut published = 0_u64;
    for (at, line) in io::stdin().lock().lines().enumerate() {
        let failed = |problem: String| format!("line {}: {problem}; published before it: {published}", at + 1);
        let line = line.map_err(|error| failed(error.to_string()))?;
        if line.trim().is_empty() && !text {
            continue;
        }
        let params = publication(channel, &line, text).map_err(failed)?;
        api.call("publish", &params).await.map_err(|failure| failed(failure.into()))?;
        published += 1;
    }
    Ok(format!("{{\"published\":{published}}}\n"))
}

/// Returns the body of `publish`.
fn publication(channel: &str, data: &str, text: bool) -> Result<String, String> {
    let raw = |text: &str| serde_json::value::to_raw_value(text).map_err(|error| error.to_string());
    let data = if text {
        raw(data)?
    } else {
        RawValue::from_string(data.to_owned())
            .map_err(|error| format!("the data is not JSON ({error}); add --text to publish it as a JSON string"))?
    };
    let params = BTreeMap::from([("channel", raw(channel)?), ("data", data)]);
    serde_json::to_string(&params).map_err(|error| error.to_string())
}
