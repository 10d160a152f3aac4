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

use super::{
    ApiContext, ApiError, ApiResponse, batch, channel_state, channels, info, key::ValidApiKey, publish, sessions,
};
use crate::{
    http::{HttpError, RequestBody},
    protocol::ErrorCode,
};

/// What can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiMethod {
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

impl ApiMethod {
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

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find_map(|(known, method)| (*known == name).then_some(*method))
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find_map(|(name, method)| (*method == self).then_some(*name)).unwrap_or_default()
    }

    /// Whether nothing is different after it. The results of the others are short: at most a few dozen bytes a channel that
    /// is named.
    pub(super) fn is_read_only(self) -> bool {
        matches!(self, Self::History | Self::Presence | Self::PresenceStats | Self::Channels | Self::Info)
    }

    /// Does it; the result as JSON.
    pub(super) async fn call(self, body: &Bytes, api: &ApiContext) -> Result<Box<RawValue>, ApiError> {
        match self {
            Self::Publish => publish::publish(body, api).await.and_then(to_json),
            Self::Broadcast => publish::broadcast(body, api).await.and_then(to_json),
            Self::History => channel_state::history(body, api).await,
            Self::HistoryRemove => channel_state::history_remove(body, api).await.and_then(to_json),
            Self::Presence => channel_state::presence(body, api).await,
            Self::PresenceStats => channel_state::presence_stats(body, api).await.and_then(to_json),
            Self::Subscribe => sessions::subscribe(body, api).await.and_then(to_json),
            Self::Unsubscribe => sessions::unsubscribe(body, api).await.and_then(to_json),
            Self::Disconnect => sessions::disconnect(body, api).await.and_then(to_json),
            Self::Refresh => sessions::refresh(body, api).await.and_then(to_json),
            Self::Channels => channels::channels(body, api).await.and_then(to_json),
            Self::Info => info::info(body, api).await.and_then(to_json),
        }
    }
}

fn to_json(result: impl Serialize) -> Result<Box<RawValue>, ApiError> {
    to_raw_value(&result).map_err(|_| ApiError::Code(ErrorCode::Internal))
}

/// What a path names, judged before a body is read.
pub(super) enum RequestedMethod {
    One(ApiMethod),
    Batch,
}

impl FromRequest for RequestedMethod {
    type Error = HttpError;
    type Future = Ready<Result<Self, HttpError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let name = Path::<String>::from_request(request, payload).into_inner().map(Path::into_inner);
        let called = match name.as_deref().unwrap_or_default() {
            "batch" => Some(Self::Batch),
            name => ApiMethod::from_name(name).map(Self::One),
        };
        ready(called.ok_or_else(|| HttpError::new(StatusCode::NOT_FOUND, ErrorCode::MethodNotFound, "nothing here")))
    }
}

/// `POST /api/{method}`
pub(super) async fn post_method(
    _: ValidApiKey,
    called: RequestedMethod,
    RequestBody(body): RequestBody,
    api: Data<ApiContext>,
) -> Result<HttpResponse, HttpError> {
    let result = match called {
        RequestedMethod::One(method) => method.call(&body, &api).await,
        RequestedMethod::Batch => match batch::batch(&body, &api).await {
            // What a batch answers stands alone, without a `result` around it.
            Ok(replies) => return Ok(HttpResponse::Ok().json(replies)),
            Err(fault) => Err(fault),
        },
    };
    match result {
        Ok(result) => Ok(ApiResponse::new(Ok(result), &api.metrics).respond()),
        Err(ApiError::Code(error)) => Ok(ApiResponse::<Box<RawValue>>::new(Err(error), &api.metrics).respond()),
        Err(ApiError::Http(failure)) => Err(failure),
    }
}
