//! `GET /v1/channels/{channel}/events`: the publications of one channel as events, for `EventSource`. The client sends no
//! commands. When it reconnects, the browser sends the id of the last event, and the client receives what it has missed.
//!
//! A browser closes an `EventSource` for good when the status is not 200. So a refusal that will pass, of a limit, an outage or a hub
//! that is stopping, is a stream that says when to reconnect, and ends.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{ACCEPT, HeaderName},
    web::{Data, Path},
};
use percent_encoding::percent_decode_str;

use super::{
    HttpContext, HttpError,
    admission::Candidate,
    handshake::{HandshakeRefusal, record_refusal, refuse, refuse_handshake},
    stream::{EVENT_STREAM, respond, respond_with_events, stream_origin},
};
use crate::{
    auth::{Admission, ChannelRequest, Claims, CommandSource, HandshakeAuth, RequestedPosition},
    channel::Channel,
    config::AnonymousAccess,
    hooks::SubscribeApproval,
    position::{Epoch, Position},
    protocol::{BinaryChannel, Format, WireError},
};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Query parameter with the id of the last event, for the first request of a page.
const LAST_EVENT_ID_PARAMETER: &str = "last_event_id";
/// Shortest time after the end of a stream after which a browser reconnects.
const MIN_RECONNECTION: Duration = Duration::from_millis(500);
/// How much longer others wait, so that the clients of a node that stops, or refuses many, do not all reconnect at the same moment.
const RECONNECTION_SPREAD: Duration = Duration::from_secs(2);

/// Opens the stream of a channel's publications.
pub(super) async fn get_events(
    request: HttpRequest,
    channel: Path<String>,
    context: Data<HttpContext>,
) -> HttpResponse {
    match open(&request, &channel, &context).await {
        Ok(admission) => respond(admission),
        Err(refusal) => refuse_events(refusal, &request, &context),
    }
}

/// Returns the response to a refused request. For a client that reads nothing but events, a refusal that will pass is a stream that
/// ends at once, and the client reconnects after `Retry-After` or a little later.
fn refuse_events(refusal: HandshakeRefusal, request: &HttpRequest, context: &HttpContext) -> HttpResponse {
    match refusal.retry_after().filter(|_| accepts_only_events(request)) {
        None => refuse_handshake(refusal, request, context),
        Some(wait) => {
            let error = record_refusal(refusal, request, context);
            // For people who look at the response. A message of the backend may have lines, which would be fields and events.
            let comment = error.message().split(['\r', '\n']).next().unwrap_or_default();
            // Without randomness they reconnect together.
            let mut random = [0; 2];
            let _ = getrandom::fill(&mut random);
            respond_with_events(format!(": {comment}\n{}", reconnection_time(wait, random)))
        }
    }
}

/// Returns whether a request says that its client reads events, and nothing else, as `EventSource` and its replacements do. Other
/// clients get the status.
fn accepts_only_events(request: &HttpRequest) -> bool {
    let mut accepted = request.headers().get_all(ACCEPT).map(|value| value.as_bytes());
    matches!((accepted.next(), accepted.next()), (Some(only), None) if only.eq_ignore_ascii_case(EVENT_STREAM.as_bytes()))
}

async fn open(request: &HttpRequest, channel: &str, context: &HttpContext) -> Result<Admission, HandshakeRefusal> {
    let channel = Channel::new(channel).map_err(|error| HttpError::of_wire_error(&WireError::from(error)))?;
    if context.permissions.channel_options(&channel).is_ok_and(|options| options.has_binary_data()) {
        return Err(refuse("permission", HttpError::of_wire_error(&BinaryChannel.into())));
    }
    let mut candidate = Candidate::examine(request, stream_origin(request, context), &[], context).await?;
    candidate.format = Format::ChannelEvents;
    let approval = match check_permission(&mut candidate, &channel, context).await {
        Ok(approval) => approval,
        Err(refusal) => return Err(candidate.refuse(refusal).await),
    };
    let mut admission = candidate.admit().await?;
    let since = requested_position(request);
    let random = [admission.client.as_bytes()[0], admission.client.as_bytes()[1]];
    admission.head = reconnection_time(MIN_RECONNECTION, random).into();
    admission.commands = CommandSource::None(Box::new(ChannelRequest { channel, approval, since }));
    Ok(admission)
}

/// Checks that the client may subscribe to the channel, for which the subscribe hook may be asked. Without a token the connect hook
/// says who it is; without a hook it subscribes as an anonymous user, where that is allowed.
async fn check_permission(
    candidate: &mut Candidate<'_>,
    channel: &Channel,
    context: &HttpContext,
) -> Result<Option<SubscribeApproval>, HandshakeRefusal> {
    candidate.ask_connect_hook().await?;
    match &candidate.auth {
        HandshakeAuth::Unauthenticated if context.config.current().auth.anonymous == AnonymousAccess::Always => {
            candidate.auth = HandshakeAuth::Authenticated(Claims::anonymous().into());
        }
        HandshakeAuth::Unauthenticated => {
            let message = "send a token: in the query, as a ticket, in the cookie, or as Authorization: Bearer";
            return Err(refuse("token", HttpError::unauthorized(message)));
        }
        HandshakeAuth::Authenticated(_) | HandshakeAuth::Rejected(_) => {}
    }
    let HandshakeAuth::Authenticated(claims) = &candidate.auth else { return Ok(None) };
    if context.permissions.asks_subscribe_hook(claims, channel) {
        return candidate.ask_subscribe_hook(channel).await;
    }
    let allowed = context.permissions.may_subscribe(claims, channel, None);
    allowed.map(|()| None).map_err(|error| refuse("permission", HttpError::of_wire_error(&WireError::from(error))))
}

/// Returns the field with which a browser learns how long it waits after the end of the stream before it reconnects: at least this time,
/// and up to [`RECONNECTION_SPREAD`] longer.
fn reconnection_time(at_least: Duration, random: [u8; 2]) -> String {
    let longer = RECONNECTION_SPREAD * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX);
    format!("retry: {}\n\n", (at_least + longer).as_millis())
}

/// Returns the position after which the client wants to receive: the header, which a browser sends when it reconnects, or else
/// the parameter. Text that is no id of an event is a position that the hub does not know, so that the client learns that it
/// may have missed something.
fn requested_position(request: &HttpRequest) -> Option<RequestedPosition> {
    let parameter = request.query_string().split('&').filter_map(|pair| pair.split_once('='));
    let parameter = parameter.filter(|(name, _)| *name == LAST_EVENT_ID_PARAMETER).map(|(_, value)| value).next();
    let text = match request.headers().get(LAST_EVENT_ID) {
        Some(header) => header.to_str().unwrap_or("?").to_owned(),
        None => percent_decode_str(parameter?).decode_utf8_lossy().into_owned(),
    };
    (!text.is_empty()).then(|| parse_event_id(&text).map_or(RequestedPosition::Unknown, RequestedPosition::Known))
}

/// Parses `EPOCH:OFFSET`. Public for fuzzing.
pub fn parse_event_id(text: &str) -> Option<Position> {
    let (epoch, offset) = text.split_once(':')?;
    let is_number = offset.bytes().all(|byte| byte.is_ascii_digit());
    Some(Position { epoch: Epoch::parse(epoch)?, offset: offset.parse().ok().filter(|_| is_number)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_events_are_positions() {
        let position = parse_event_id("abcdefgh:18446744073709551615").unwrap();
        assert_eq!((position.epoch.as_str(), position.offset), ("abcdefgh", u64::MAX));
        let long = format!("abcdefgh:{}", "1".repeat(10_000));
        for forged in
            ["", ":", "1", "abcdefgh", "abcdefgh:", "abcdefgh:-1", "abcdefgh:+1", "abc:1", "abcdefgh:1:2", &long]
        {
            assert_eq!(parse_event_id(forged), None, "{forged:?}");
        }
    }
}
