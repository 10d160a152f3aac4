//! `POST /v1/channels/{channel}/messages`: the plain form, for people with curl and for signed-in users. The body is the
//! data: JSON as it is, or text as a string.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL},
    },
    web::{Data, Path},
};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{
    Answer, Shared, denied,
    key::{is_authorized, is_offered},
    publish, request,
};
use crate::{
    auth::{Claims, Refusal, door},
    channel::Channel,
    http::{Body, Failure},
    protocol::{self, ErrorCode},
    publication::ClientInfo,
};

/// Publishes with the API key, or with a user's token under the permissions of the socket.
pub(super) async fn post(
    request: HttpRequest,
    sender: Sender,
    channel: Path<String>,
    Body(body): Body,
    shared: Data<Shared>,
) -> Result<HttpResponse, Failure> {
    let message = publish::Message::plain(data_of(&request, &body)?);
    let key = idempotency_key(&request)?;
    let result = match sender.0 {
        Ok(None) => publish::send(&channel, message.once(key.map(Into::into)), None, &shared).await,
        // The body may have taken its time.
        Ok(Some(claims)) if claims.expires_at <= shared.clock.now() => return Err(Failure::bad_token(true)),
        Ok(Some(claims)) => {
            let (user, conn_info) = (claims.user.to_string(), claims.info);
            // Under the user's name, which has no control characters: nobody's key stands in the way of another's.
            let key = key.map(|key| format!("{user}\n{key}").into());
            let info = ClientInfo { user, client: String::new(), conn_info, chan_info: None };
            publish::send(&channel, message.once(key), Some(info), &shared).await
        }
        Err(error) => Err(error),
    };
    let mut response = Answer::new(result, &shared.metrics).respond();
    response.headers_mut().insert(CACHE_CONTROL, actix_web::http::header::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Who publishes: nobody in particular with the key, a user with a token. A good token may still lack the right. Judged
/// before the body is read.
pub(super) struct Sender(Result<Option<Claims>, ErrorCode>);

impl FromRequest for Sender {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let channel =
            Path::<String>::from_request(request, payload).into_inner().unwrap_or_else(|_| String::new().into());
        ready(match request.app_data::<Data<Shared>>() {
            Some(shared) => judge_sender(request, &channel, shared).map(Self),
            None => Err(Failure::unauthorized("nobody is known here")),
        })
    }
}

fn judge_sender(
    request: &HttpRequest,
    channel: &str,
    shared: &Shared,
) -> Result<Result<Option<Claims>, ErrorCode>, Failure> {
    if is_authorized(request) {
        return Ok(Ok(None));
    }
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let token = match (headers.next(), headers.next()) {
        (Some(value), None) if !is_offered(request) => value.to_str().ok().and_then(door::strip_bearer),
        _ => None,
    };
    let token = token
        .ok_or_else(|| Failure::unauthorized("send the API key as X-API-Key, or a token as Authorization: Bearer"))?;
    let claims = shared.verifier.verify(token).map_err(|refusal| Failure::bad_token(refusal == Refusal::Expired))?;
    Ok(Channel::new(channel)
        .map_err(|_| ErrorCode::BadRequest)
        .and_then(|channel| shared.permissions.may_publish(&claims, &channel, false).map_err(denied))
        .and_then(|()| shared.rates.take(&*claims.user).map_err(|_| ErrorCode::TooManyRequests))
        .map(|()| Some(claims)))
}

/// The key under which it is to be published once.
fn idempotency_key(request: &HttpRequest) -> Result<Option<&str>, Failure> {
    let mut keys = request.headers().get_all("idempotency-key");
    match (keys.next().map(|key| key.to_str()), keys.next()) {
        (None, _) => Ok(None),
        (Some(Ok(key)), None) if (1..=publish::KEY_BYTES).contains(&key.len()) => Ok(Some(key)),
        _ => Err(Failure::bad_request("send one Idempotency-Key of 1 to 255 ASCII characters, or none")),
    }
}

fn data_of(request: &HttpRequest, body: &Bytes) -> Result<Bytes, Failure> {
    match request.content_type() {
        "application/json" => {
            let raw: &RawValue = request::read(body)?;
            Ok(protocol::one_line(body, raw))
        }
        "text/plain" => {
            let text = std::str::from_utf8(body).map_err(|_| Failure::bad_request("text must be UTF-8"))?;
            Ok(serde_json::to_vec(text).unwrap_or_default().into())
        }
        _ => Err(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::BadRequest,
            "send application/json or text/plain",
        )),
    }
}
