//! `publish` and `broadcast`: the same data to one channel, or to many.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Answer, Fault, Nothing, Shared, denied, failed,
    request::{present, read_object},
};
use crate::{
    broker::PublishOptions,
    channel::Channel,
    protocol::{self, ErrorCode},
    publication::{ClientInfo, Publication},
};

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(default)]
    channel: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(default)]
    channels: Vec<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// What came of a broadcast.
#[derive(Serialize)]
pub(super) struct Responses {
    responses: Vec<Answer<Nothing>>,
}

/// One publication.
pub(super) async fn publish(body: &Bytes, shared: &Shared) -> Result<Nothing, Fault> {
    let request: Publish<'_> = read_object(body)?;
    let data = data_of(body, request.data)?;
    Ok(send(&request.channel, data, None, shared).await?)
}

/// The same to many; an answer per channel, in their order.
pub(super) async fn broadcast(body: &Bytes, shared: &Shared) -> Result<Responses, Fault> {
    let request: Broadcast<'_> = read_object(body)?;
    let data = data_of(body, request.data)?;
    if request.channels.is_empty() {
        return Err(ErrorCode::BadRequest.into());
    }
    if request.channels.len() > shared.config.limits.broadcast_channels {
        return Err(ErrorCode::LimitExceeded.into());
    }
    let sent = request.channels.iter().map(|channel| send(channel, data.clone(), None, shared));
    let responses = join_all(sent).await.into_iter().map(|result| Answer::new(result, &shared.metrics)).collect();
    Ok(Responses { responses })
}

/// Publishes for the API, which may publish to every channel of this configuration.
pub(super) async fn send(
    channel: &str,
    data: Bytes,
    info: Option<ClientInfo>,
    shared: &Shared,
) -> Result<Nothing, ErrorCode> {
    let channel = Channel::new(channel).map_err(|_| ErrorCode::BadRequest)?;
    shared.permissions.known(&channel).map_err(denied)?;
    if data.len() > shared.config.limits.publication_bytes {
        return Err(ErrorCode::LimitExceeded);
    }
    shared.metrics.publications.inc();
    let published = shared
        .broker
        .publish(Publication { info: info.map(Arc::new), ..Publication::new(channel, data) }, PublishOptions::default())
        .await;
    published.map(|_| Nothing {}).map_err(|error| {
        log::debug!("publish: {error}");
        failed(&error)
    })
}

fn data_of(body: &Bytes, data: Option<&RawValue>) -> Result<Bytes, ErrorCode> {
    data.map(|data| protocol::one_line(body, data)).ok_or(ErrorCode::BadRequest)
}
