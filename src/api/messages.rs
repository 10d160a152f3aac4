//! Plain publishing, `POST /v1/channels/{channel}/messages`: for curl and for users with a token. The body is the data: JSON as
//! it is, or text, which becomes a JSON string; or any bytes, in channels with binary data.

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL, COOKIE},
    },
    web::{Data, Path},
};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    ApiContext, ApiError, ApiResponse, body_limit,
    key::{check_key, has_key},
    publish, request,
};
use crate::{
    audit::AuditFields,
    auth::{ChannelRight, Claims, credentials, refusal_log::Refusal},
    channel::Channel,
    config::Config,
    hooks::{HookRefusal, HookRequest, PublishApproval},
    http::{BodyLimit, HttpError, RequestBody, cors::IDEMPOTENCY_KEY, forwarded, request_id::id_of},
    protocol::{self, ErrorCode, ExceededLimit, WireError},
    publication::{ClientInfo, MAX_IDEMPOTENCY_KEY_BYTES},
};

/// Answers `POST /v1/channels/{channel}/messages`. The request carries the API key, or the token of a user, who needs the same
/// permission as over a WebSocket.
pub(super) async fn post_message(
    request: HttpRequest,
    message: MessageRequest,
    channel: Path<String>,
    api: Data<ApiContext>,
) -> Result<HttpResponse, HttpError> {
    let result = publish_message(&request, message, &channel, &api).await;
    api.call_counters.count_publish(result.is_ok());
    let result = match result {
        Ok(result) => Ok(result),
        Err(ApiError::Failed(error)) => Err(error),
        Err(ApiError::Http(error)) => return Err(error),
    };
    let mut response = ApiResponse::new(result, &api.metrics).respond();
    response.headers_mut().insert(CACHE_CONTROL, actix_web::http::header::HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn publish_message(
    request: &HttpRequest,
    MessageRequest { sender, body }: MessageRequest,
    channel: &str,
    api: &ApiContext,
) -> Result<publish::PublishResult, ApiError> {
    // First: how the data of a channel is sent says what its namespace has, and a sender who may not publish there must not learn it.
    let sender = sender?;
    let publication = read_publication(request, body, has_binary_data(channel, api))?;
    let key = read_idempotency_key(request)?;
    let Some(claims) = sender else {
        let publication = publication.with_idempotency_key(key.map(Into::into));
        return Ok(publish::publish_to_channel(channel, publication, None, api).await?);
    };
    if claims.expires_at <= api.clock.now() {
        // The token has expired while the body arrived.
        return Err(HttpError::invalid_token(true).into());
    }
    let publication = ask_publish_hook(request, channel, publication, &claims, api).await?;
    if api.permissions.is_revoked(&claims.user, &claims.token) || claims.expires_at <= api.clock.now() {
        // The token has expired or was revoked while the backend answered.
        return Err(HttpError::invalid_token(true).into());
    }
    api.permissions.may(ChannelRight::Publish, &claims, &Channel::new(channel)?, false)?;
    let (user, conn_info) = (claims.user.to_string(), claims.info);
    // The keys of each user are separate: a user name has no control characters, so it ends at the line break.
    let key = key.map(|key| format!("{user}\n{key}").into());
    let info = ClientInfo { user, client: String::new(), conn_info, chan_info: None };
    Ok(publish::publish_to_channel(channel, publication.with_idempotency_key(key), Some(info), api).await?)
}

/// Asks the publish hook about a user's publication, if its channel has one. Returns what to publish. A close that the hook wants
/// is error 103: there is no connection.
async fn ask_publish_hook(
    request: &HttpRequest,
    channel: &str,
    publication: publish::PendingPublication,
    claims: &Claims,
    api: &ApiContext,
) -> Result<publish::PendingPublication, WireError> {
    if !api.permissions.asks_publish_hook(&Channel::new(channel)?) {
        return Ok(publication);
    }
    ExceededLimit::check(
        "limits.publication_bytes",
        api.config.current().limits.publication_bytes,
        publication.data().len(),
    )?;
    let hook = api.hooks.publish.clone().ok_or(ErrorCode::Internal)?;
    // `Authorization` is the user's token, and cookies come from pages of any origin.
    let values = |name: &str| {
        let is_forwarded = ![AUTHORIZATION.as_str(), COOKIE.as_str()].contains(&name);
        request.headers().get_all(name).filter(move |_| is_forwarded).map(|value| value.as_bytes())
    };
    let headers = api.hooks.collect_headers(values).map_err(|error| ErrorCode::BadRequest.with_detail(error))?;
    let body = HookRequest {
        user: Some(&claims.user),
        channel: Some(channel),
        // There is no connection.
        ..HookRequest::of_connection(Uuid::nil(), "http", "json").with_data(publication.data(), publication.is_binary())
    };
    let approval: PublishApproval = hook.ask(body.encode(), headers).await.map_err(|refusal| match refusal {
        HookRefusal::Error(error) => error,
        HookRefusal::Disconnect(_) => ErrorCode::PermissionDenied.into(),
    })?;
    Ok(publication.approved(approval)?)
}

/// The sender and the body of a message.
pub(super) struct MessageRequest {
    /// `None` with the API key, or the claims of a user's token. The error is that of a valid token whose user may not publish
    /// there, or publishes too fast.
    sender: Result<Option<Claims>, WireError>,
    body: Bytes,
}

impl FromRequest for MessageRequest {
    type Error = HttpError;
    type Future = LocalBoxFuture<'static, Result<Self, HttpError>>;

    /// Reads nothing of the body before the sender is known, on whom the limit of the body depends.
    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let channel =
            Path::<String>::from_request(request, payload).into_inner().unwrap_or_else(|_| String::new().into());
        let (request, mut payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let Some(api) = request.app_data::<Data<ApiContext>>() else {
                return Err(HttpError::unauthorized("authentication required"));
            };
            let sender = authenticate_sender(&request, &channel, api).await?;
            let RequestBody(body) = RequestBody::from_request(&request, &mut payload).await?;
            Ok(Self { sender, body })
        })
    }
}

async fn authenticate_sender(
    request: &HttpRequest,
    channel: &str,
    api: &ApiContext,
) -> Result<Result<Option<Claims>, WireError>, HttpError> {
    if check_key(request) {
        return Ok(Ok(None));
    }
    user_body_limit(&api.config.current()).apply_to_request(request);
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let token = match (headers.next(), headers.next()) {
        (Some(value), None) if !has_key(request) => value.to_str().ok().and_then(credentials::strip_bearer),
        _ => None,
    };
    let token = token.ok_or_else(|| {
        HttpError::unauthorized(
            "send a token as Authorization: Bearer, or on the listener of the server API the key as X-API-Key",
        )
    })?;
    let address = forwarded::client_address(request.head(), &api.config.current().server);
    let verified = api.verifications.verify(address.into(), || api.verifier.verify(token)).await?;
    let claims = verified.inspect_err(|error| {
        let source = AuditFields {
            address: Some(address),
            path: Some("/v1/channels"),
            request: id_of(request.head()),
            ..AuditFields::default()
        };
        api.refusals.record_from(Refusal::Token(*error), &source);
    })?;
    Ok(Channel::new(channel)
        .map_err(WireError::from)
        .and_then(|channel| Ok(api.permissions.may(ChannelRight::Publish, &claims, &channel, false)?))
        .and_then(|()| api.rates.load_full().charge(&claims.user).map_err(|_| ErrorCode::TooManyRequests.into()))
        .map(|()| Some(claims)))
}

/// Returns the limit of a user's body. Data is never shorter than the body, but for the spaces and line breaks around it.
fn user_body_limit(config: &Config) -> BodyLimit {
    let bytes = config.limits.publication_bytes.saturating_add(1024);
    let of_user = BodyLimit { name: "limits.publication_bytes + 1024", bytes };
    let of_route = body_limit(config);
    if of_user.bytes < of_route.bytes { of_user } else { of_route }
}

/// Reads the header `Idempotency-Key`.
fn read_idempotency_key(request: &HttpRequest) -> Result<Option<&str>, HttpError> {
    let mut keys = request.headers().get_all(IDEMPOTENCY_KEY);
    match (keys.next().map(|key| key.to_str()), keys.next()) {
        (None, _) => Ok(None),
        (Some(Ok(key)), None) if (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()) => Ok(Some(key)),
        _ => Err(HttpError::bad_request("send one Idempotency-Key of 1 to 255 ASCII characters, or none")),
    }
}

/// Returns whether the channel has binary data. One that cannot exist has none: its error follows.
fn has_binary_data(channel: &str, api: &ApiContext) -> bool {
    let options = Channel::new(channel).ok().and_then(|channel| api.permissions.channel_options(&channel).ok());
    options.is_some_and(|options| options.has_binary_data())
}

/// Reads the data of the publication, by the content type of the body.
fn read_publication(
    request: &HttpRequest,
    body: Bytes,
    has_binary_data: bool,
) -> Result<publish::PendingPublication, HttpError> {
    let unsupported = |message| HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::BadRequest, message);
    match (request.content_type(), has_binary_data) {
        ("application/octet-stream", true) if body.is_empty() => {
            Err(HttpError::bad_request("the request body is empty"))
        }
        ("application/octet-stream", true) => Ok(publish::PendingPublication::of_bytes(body)),
        (_, true) => Err(unsupported("the channel has binary data (data_format): send application/octet-stream")),
        ("application/json", false) => {
            let raw: &RawValue = request::parse_json(&body)?;
            Ok(publish::PendingPublication::of_json(protocol::to_single_line(&body, raw)))
        }
        ("text/plain", false) => {
            let text =
                std::str::from_utf8(&body).map_err(|_| HttpError::bad_request("the request body is not UTF-8"))?;
            Ok(publish::PendingPublication::of_json(serde_json::to_vec(text).unwrap_or_default().into()))
        }
        (_, false) => Err(unsupported("send application/json or text/plain")),
    }
}
