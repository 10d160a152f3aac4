//! `publish` and `broadcast`: the same data to one channel, or to many.

use actix_web::{HttpResponse, web::Data};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Answer, Nothing, Shared, denied, failed, key::Authorized};
use crate::{
    channel::Channel,
    http::{Body, Failure},
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

/// `null` is data; only what is not there is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Serialize)]
struct Responses {
    responses: Vec<Answer<Nothing>>,
}

/// `POST /api/publish`
pub(super) async fn publish(_: Authorized, Body(body): Body, shared: Data<Shared>) -> Result<HttpResponse, Failure> {
    let request: Publish<'_> = read_object(&body)?;
    let result = match data_of(&body, request.data) {
        Ok(data) => send(&request.channel, data, None, &shared).await,
        Err(error) => Err(error),
    };
    Ok(Answer::new(result, &shared.metrics).respond())
}

/// `POST /api/broadcast`: an answer per channel, in their order.
pub(super) async fn broadcast(_: Authorized, Body(body): Body, shared: Data<Shared>) -> Result<HttpResponse, Failure> {
    let request: Broadcast<'_> = read_object(&body)?;
    let result = match data_of(&body, request.data) {
        Err(error) => Err(error),
        Ok(_) if request.channels.is_empty() => Err(ErrorCode::BadRequest),
        Ok(_) if request.channels.len() > shared.config.limits.broadcast_channels => Err(ErrorCode::LimitExceeded),
        Ok(data) => {
            let sent = request.channels.iter().map(|channel| send(channel, data.clone(), None, &shared));
            let responses =
                join_all(sent).await.into_iter().map(|result| Answer::new(result, &shared.metrics)).collect();
            Ok(Responses { responses })
        }
    };
    Ok(Answer::new(result, &shared.metrics).respond())
}

/// Reads a request. serde would also take an array for an object, member by member.
fn read_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    if body.trim_ascii_start().first() == Some(&b'{') {
        read(body)
    } else {
        Err(Failure::bad_request("the body must be a JSON object"))
    }
}

/// Reads JSON. What is not of its shape is 400.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body is not what it should be: {error}")))
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
    let published = shared.broker.publish(Publication { channel, data, info }).await;
    published.map(|()| Nothing {}).map_err(|error| {
        log::debug!("publish: {error}");
        failed(&error)
    })
}

fn data_of(body: &Bytes, data: Option<&RawValue>) -> Result<Bytes, ErrorCode> {
    data.map(|data| protocol::one_line(body, data)).ok_or(ErrorCode::BadRequest)
}

/// Reads a request of which every member may be left out, and so the body, too.
pub(super) fn read_optional<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Failure> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { read_object(body) }
}
