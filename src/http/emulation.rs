//! `POST /emulation`: commands of a client whose connection is an HTTP response. They may arrive at any node; the request names
//! the node and the session, as the connect reply did.

use std::borrow::Cow;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{CACHE_CONTROL, HeaderValue},
    },
    web::Data,
};
use bytes::Bytes;
use prost::Message;
use serde::Deserialize;
use uuid::Uuid;

use super::{HttpContext, HttpError, RequestBody, forwarded, origin_policy, stream::is_protobuf};
use crate::{
    address::ClientAddress,
    emulation::SendCommandsError,
    json,
    protocol::{ErrorCode, ExceededLimit, schema},
};

/// Maximum bytes of a body besides the message.
pub(super) const MAX_OTHER_BODY_BYTES: usize = 1024;

/// The body of a request in JSON. Other members are ignored.
#[derive(Deserialize)]
struct JsonRequest<'a> {
    #[serde(borrow, default)]
    node: Cow<'a, str>,
    #[serde(borrow)]
    session: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// Commands for a session of a node. Public for fuzzing.
pub struct CommandsRequest {
    /// The id of the node; empty: the one that gets the request.
    pub node: String,
    /// The secret id of the session.
    pub session: Uuid,
    /// What would be the payload of a frame.
    pub message: Bytes,
}

impl CommandsRequest {
    /// Parses a JSON object.
    ///
    /// # Errors
    /// 400: what is wrong with the body.
    pub fn parse_json(body: &[u8]) -> Result<Self, HttpError> {
        if !json::is_object(body) {
            return Err(HttpError::bad_request("invalid request body: not a JSON object"));
        }
        let parsed: JsonRequest<'_> = serde_json::from_slice(body)
            .map_err(|error| HttpError::bad_request(format!("invalid request body: {error}")))?;
        let message = Bytes::from(parsed.data.into_owned());
        Ok(Self { node: parsed.node.into_owned(), session: parse_session(&parsed.session)?, message })
    }

    /// Parses an `EmulationRequest`.
    ///
    /// # Errors
    /// 400: what is wrong with the body.
    pub fn parse_protobuf(body: &Bytes) -> Result<Self, HttpError> {
        let parsed = schema::EmulationRequest::decode(body.clone())
            .map_err(|_| HttpError::bad_request("invalid request body: not an EmulationRequest"))?;
        Ok(Self { node: parsed.node, session: parse_session(&parsed.session)?, message: parsed.data })
    }
}

/// Queues the commands in the body. Answers 204 when they are queued, or on their way to another node: the replies come over the
/// stream of the session.
pub(super) async fn post_commands(
    request: HttpRequest,
    RequestBody(body): RequestBody,
    context: Data<HttpContext>,
) -> Result<HttpResponse, HttpError> {
    let address = ClientAddress::from(forwarded::client_address(request.head(), &context.config.current().server));
    let charged = context.emulation_rates.load().charge(&address);
    charged.map_err(|wait| {
        context.metrics.count_emulation_request("rate");
        HttpError::too_many("too many requests with commands from this address", wait)
    })?;
    let origin_check = context.origin_policy.check(request.head());
    if let Some(refusal) = origin_check.refusal() {
        origin_policy::record_refusal(&context, refusal, request.head());
    }
    origin_check.require_allowed()?;
    let parsed =
        if is_protobuf(&request) { CommandsRequest::parse_protobuf(&body) } else { CommandsRequest::parse_json(&body) };
    let commands = parsed.inspect_err(|_| context.metrics.count_emulation_request("malformed"))?;
    ExceededLimit::check("limits.message_bytes", context.config.current().limits.message_bytes, commands.message.len())
        .map_err(|limit| HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::LimitExceeded, limit.to_string()))?;
    send(commands, &context).await?;
    let mut response = HttpResponse::NoContent().finish();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Queues commands at the node that has the session.
async fn send(commands: CommandsRequest, context: &HttpContext) -> Result<(), HttpError> {
    let CommandsRequest { node, session, message } = commands;
    let unknown = || {
        let message = SendCommandsError::UnknownSession.to_string();
        HttpError::new(StatusCode::NOT_FOUND, ErrorCode::NotAvailable, message)
    };
    let (outcome, result) = match context.hubs.emulated_sessions().send(&session, message.clone()) {
        Ok(()) => ("queued", Ok(())),
        Err(SendCommandsError::Full) => {
            let error = "too many commands of this session wait; limits.emulation_bytes";
            ("full", Err(HttpError::too_many(error, RETRY_AFTER)))
        }
        Err(SendCommandsError::UnknownSession) if node.is_empty() || *node == *context.hubs.node_id() => {
            ("unknown", Err(unknown()))
        }
        Err(SendCommandsError::UnknownSession) => match context.broker.send_commands(&node, session, message).await {
            Ok(true) => ("forwarded", Ok(())),
            Ok(false) => ("unknown", Err(unknown())),
            Err(error) => {
                log::debug!("failed to forward commands error={:?}", error.to_string());
                ("failed", Err(HttpError::unavailable("the node of the session cannot be reached; try again soon")))
            }
        },
    };
    context.metrics.count_emulation_request(outcome);
    result
}

fn parse_session(text: &str) -> Result<Uuid, HttpError> {
    Uuid::try_parse(text).map_err(|_| HttpError::bad_request("session is not the id of a session"))
}

/// Time after which the queue of a session has room again, unless it waits for its broker.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
