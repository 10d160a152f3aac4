//! The methods by name, for a call of one and for many in a batch.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::StatusCode,
    web::{Data, Path},
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Answer, Fault, Shared, batch, channels, info, key::Authorized, memory, publish, sessions};
use crate::{
    http::{Body, Failure},
    protocol::ErrorCode,
};

/// What can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Publish,
    Broadcast,
    History,
    HistoryRemove,
    Presence,
    PresenceStats,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Refresh,
    Channels,
    Info,
}

impl Method {
    const ALL: [(&'static str, Self); 12] = [
        ("publish", Self::Publish),
        ("broadcast", Self::Broadcast),
        ("history", Self::History),
        ("history_remove", Self::HistoryRemove),
        ("presence", Self::Presence),
        ("presence_stats", Self::PresenceStats),
        ("subscribe", Self::Subscribe),
        ("unsubscribe", Self::Unsubscribe),
        ("disconnect", Self::Disconnect),
        ("refresh", Self::Refresh),
        ("channels", Self::Channels),
        ("info", Self::Info),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find_map(|(known, method)| (*known == name).then_some(*method))
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find_map(|(name, method)| (*method == self).then_some(*name)).unwrap_or_default()
    }

    /// Whether nothing is different after it. The results of the others are short: at most a few dozen bytes a channel that
    /// is named.
    pub(super) fn only_reads(self) -> bool {
        matches!(self, Self::History | Self::Presence | Self::PresenceStats | Self::Channels | Self::Info)
    }

    /// Does it; the result as JSON.
    pub(super) async fn call(self, body: &Bytes, shared: &Shared) -> Result<Box<RawValue>, Fault> {
        match self {
            Self::Publish => publish::publish(body, shared).await.and_then(written),
            Self::Broadcast => publish::broadcast(body, shared).await.and_then(written),
            Self::History => memory::history(body, shared).await,
            Self::HistoryRemove => memory::history_remove(body, shared).await.and_then(written),
            Self::Presence => memory::presence(body, shared).await,
            Self::PresenceStats => memory::presence_stats(body, shared).await.and_then(written),
            Self::Subscribe => sessions::subscribe(body, shared).await.and_then(written),
            Self::Unsubscribe => sessions::unsubscribe(body, shared).await.and_then(written),
            Self::Disconnect => sessions::disconnect(body, shared).await.and_then(written),
            Self::Refresh => sessions::refresh(body, shared).await.and_then(written),
            Self::Channels => channels::channels(body, shared).await.and_then(written),
            Self::Info => info::info(body, shared).await.and_then(written),
        }
    }
}

fn written(result: impl Serialize) -> Result<Box<RawValue>, Fault> {
    to_raw_value(&result).map_err(|_| Fault::Refused(ErrorCode::Internal))
}

/// What a path names, judged before a body is read.
pub(super) enum Called {
    One(Method),
    Batch,
}

impl FromRequest for Called {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let name = Path::<String>::from_request(request, payload).into_inner().map(Path::into_inner);
        let called = match name.as_deref().unwrap_or_default() {
            "batch" => Some(Self::Batch),
            name => Method::named(name).map(Self::One),
        };
        ready(called.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, ErrorCode::MethodNotFound, "nothing here")))
    }
}

/// `POST /api/{method}`
pub(super) async fn post(
    _: Authorized,
    called: Called,
    Body(body): Body,
    shared: Data<Shared>,
) -> Result<HttpResponse, Failure> {
    let result = match called {
        Called::One(method) => method.call(&body, &shared).await,
        Called::Batch => match batch::batch(&body, &shared).await {
            // What a batch answers stands alone, without a `result` around it.
            Ok(replies) => return Ok(HttpResponse::Ok().json(replies)),
            Err(fault) => Err(fault),
        },
    };
    match result {
        Ok(result) => Ok(Answer::new(Ok(result), &shared.metrics).respond()),
        Err(Fault::Refused(error)) => Ok(Answer::<Box<RawValue>>::new(Err(error), &shared.metrics).respond()),
        Err(Fault::Malformed(failure)) => Err(failure),
    }
}
