//! `GET /v1/trace`: what happens to a user, a connection or a channel on all nodes, live, as server-sent events. The answer is a
//! stream that ends by itself. It polls the nodes only while its client reads, and a node forgets a trace that is not polled.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS},
    web::{Data, Query},
};
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::{ApiContext, key::Authorized, request::check_user};
use crate::{
    broker::{BrokerError, Inspection, NodeTrace, SurveyQuestion, TraceEvent, TraceQuery, TraceTarget, TracedEvent},
    channel::Channel,
    http::{EVENT_STREAM, HttpError, NO_BUFFERING},
    protocol::{ErrorCode, WireError},
};

/// How often the nodes are asked.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long the nodes have to answer.
const DEADLINE: Duration = Duration::from_millis(1000);
/// A comment is sent after so long without an event, so that proxies keep the response open, and a client that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A node that has not answered for this long is forgotten. The node has forgotten the trace earlier.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// The live traces that this node serves.
pub struct LiveTraces {
    /// `api.traces`.
    permits: Arc<Semaphore>,
    /// The id of this run of the instance.
    node_id: String,
}

impl LiveTraces {
    /// Creates the limit of the traces that the node with this id serves at the same time.
    pub fn new(limit: usize, node_id: &str) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))), node_id: node_id.to_owned() }
    }
}

/// The query of a request. Exactly one of the fields is set.
#[derive(Deserialize)]
struct TraceRequest {
    user: Option<String>,
    client: Option<String>,
    channel: Option<String>,
}

/// A trace, from one question to the next.
struct Trace {
    api: Data<ApiContext>,
    /// The request, whose credentials must stay valid.
    request: HttpRequest,
    is_of_admin_page: bool,
    query: TraceQuery,
    /// When each node has answered last. A node that is silent for long is forgotten, so that the query does not grow.
    answered_at: HashMap<String, Instant>,
    /// `None`: after more time than a clock can count.
    ends_at: Option<Instant>,
    sent_at: Instant,
    /// The response has begun.
    has_begun: bool,
    has_ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// Answers `GET /v1/trace`.
pub(super) async fn get_trace(
    Authorized { caller }: Authorized,
    request: HttpRequest,
    api: Data<ApiContext>,
) -> Result<HttpResponse, HttpError> {
    let target = parse_target(request.query_string())?;
    let permit = api.live_traces.permits.clone().try_acquire_owned();
    let permit =
        permit.map_err(|_| HttpError::at_capacity("too many traces (api.traces); try again when one has ended"))?;
    let query = TraceQuery { id: uuid::Uuid::new_v4().to_string(), target, received: BTreeMap::new() };
    let now = Instant::now();
    let ends_at = now.checked_add(api.config.current().api.trace_duration);
    let trace = Trace {
        api,
        request,
        is_of_admin_page: caller.admin_session().is_some(),
        query,
        answered_at: HashMap::new(),
        ends_at,
        sent_at: now,
        has_begun: false,
        has_ended: false,
        _permit: permit,
    };
    let stream = unfold(trace, |mut trace| async move {
        let frames = trace.next_frames().await?;
        Some((Ok::<_, Infallible>(frames), trace))
    });
    let mut response = HttpResponse::Ok();
    response.content_type(EVENT_STREAM).insert_header((CACHE_CONTROL, "no-store"));
    response.insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    response.insert_header(NO_BUFFERING);
    Ok(response.streaming(stream))
}

/// Reads what is to be traced.
fn parse_target(query: &str) -> Result<TraceTarget, HttpError> {
    let refuse = |error: WireError| HttpError::bad_request(error.message().to_owned());
    let request = Query::<TraceRequest>::from_query(query);
    let request =
        request.map_err(|_| HttpError::bad_request("the query is not valid; user, client or channel is required"))?;
    match request.into_inner() {
        TraceRequest { user: Some(user), client: None, channel: None } => {
            check_user(&user).map_err(refuse)?;
            Ok(TraceTarget::User(user))
        }
        TraceRequest { user: None, client: Some(client), channel: None } => match uuid::Uuid::parse_str(&client) {
            Ok(client) => Ok(TraceTarget::Client(client.to_string())),
            Err(_) => Err(HttpError::bad_request("client is not the id of a connection")),
        },
        TraceRequest { user: None, client: None, channel: Some(channel) } => {
            let channel =
                Channel::new(&channel).map_err(|error| HttpError::bad_request(format!("channel: {error}")))?;
            Ok(TraceTarget::Channel(channel.as_str().to_owned()))
        }
        _ => Err(HttpError::bad_request("exactly one of user, client and channel is required")),
    }
}

impl Trace {
    /// Returns what is sent next, as soon as there is something; `None`: the response has ended.
    async fn next_frames(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        loop {
            if self.has_begun {
                sleep(POLL_INTERVAL).await;
            }
            let mut frames = self.poll_nodes().await;
            if !std::mem::replace(&mut self.has_begun, true) {
                // The nodes note events from now on.
                frames.insert_str(0, ": the trace has begun\n\n");
            }
            if self.ends_at.is_some_and(|end| Instant::now() >= end) && !self.has_ended {
                self.end(&mut frames, "api.trace_duration is over");
            }
            if !Authorized::is_authorized(&self.request) {
                let reason =
                    if self.is_of_admin_page { "the admin session has ended" } else { "the API key was removed" };
                self.end(&mut frames, reason);
            }
            if frames.is_empty() && self.sent_at.elapsed() >= KEEP_ALIVE {
                frames.push_str(":\n\n");
            }
            if !frames.is_empty() {
                self.sent_at = Instant::now();
                return Some(frames.into());
            }
        }
    }

    /// Asks the nodes for their events.
    async fn poll_nodes(&mut self) -> String {
        let question = SurveyQuestion::Inspect(Inspection::Trace(self.query.clone()));
        let mut frames = String::new();
        let answers = match self.api.broker.survey(question, DEADLINE).await {
            Ok(result) => result.answers,
            // Too many surveys: the next question brings the events.
            Err(BrokerError::Busy) => return frames,
            Err(error) => {
                log::warn!("could not trace error={:?}", error.to_string());
                self.end(&mut frames, ErrorCode::Internal.text());
                return frames;
            }
        };
        let mut events = Vec::new();
        let now = Instant::now();
        for answer in answers {
            self.answered_at.insert(answer.node.uid.clone(), now);
            let Ok(trace) = serde_json::from_slice::<NodeTrace>(&answer.answer) else { continue };
            if trace.dropped > 0 {
                write_event(&mut frames, "dropped", &serde_json::json!({"events": trace.dropped, "node": answer.node}));
            }
            if trace.is_refused {
                self.end(&mut frames, "a node has too many traces");
            }
            if trace.is_stopping && answer.node.uid == self.api.live_traces.node_id {
                self.end(&mut frames, "the node stops");
            }
            if let Some((last, _)) = trace.events.last() {
                self.query.received.insert(answer.node.uid.clone(), *last);
            }
            let node = answer.node;
            events.extend(trace.events.into_iter().map(|(_, event)| TracedEvent { event, node: node.clone() }));
        }
        self.answered_at.retain(|_, at| now.duration_since(*at) < MAX_SILENCE);
        self.query.received.retain(|node, _| self.answered_at.contains_key(node));
        // Those of one node stay in their order.
        events.sort_by_key(|TracedEvent { event: TraceEvent { time, .. }, .. }| *time);
        events.iter().for_each(|event| write_event(&mut frames, "message", event));
        frames
    }

    /// Sends why the trace ends, as the last event.
    fn end(&mut self, frames: &mut String, reason: &str) {
        if !std::mem::replace(&mut self.has_ended, true) {
            write_event(frames, "end", &serde_json::json!({"reason": reason}));
        }
    }
}

/// Writes a server-sent event. JSON has no line breaks.
fn write_event(frames: &mut String, name: &str, data: &impl serde::Serialize) {
    let Ok(json) = serde_json::to_string(data) else { return };
    if name != "message" {
        frames.push_str("event: ");
        frames.push_str(name);
        frames.push('\n');
    }
    frames.push_str("data: ");
    frames.push_str(&json);
    frames.push_str("\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_target_is_accepted() {
        assert_eq!(parse_target("user=a%20b").ok(), Some(TraceTarget::User("a b".to_owned())));
        assert_eq!(
            parse_target("channel=%24x%23a%2Cb&api_key=k").ok(),
            Some(TraceTarget::Channel("$x#a,b".to_owned()))
        );
        for query in ["", "user=a&channel=b", "client=x", "channel=a*", "user=", "user=%00", "users=a", "user=a&user=b"]
        {
            assert!(parse_target(query).is_err(), "{query}");
        }
    }
}
