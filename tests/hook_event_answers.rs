//! What the events endpoint should not answer: redirects, far too much, and garbage. No event is lost, sent to another place, or
//! accepted twice.

use std::time::Duration;

use serde_json::json;
use wardcast::config::EventType;

use crate::{
    hook_events::{PATH, leave, start},
    support::{
        TestHub,
        backend::{Answer, Backend},
        poll_until,
    },
};

const ELSEWHERE: &str = "/elsewhere";
const TEN_MIB: usize = 10 << 20;

async fn start_patient(backend: &Backend) -> TestHub {
    start(backend, &[EventType::Disconnect], |config| {
        config.hooks.events.retry_delay = Duration::from_millis(50);
        config.hooks.events.refused_for = Duration::from_millis(100);
        // The breaker would hold up the test.
        config.hooks.failures = 100_000;
    })
    .await
}

async fn events(hub: &TestHub, outcome: &str) -> f64 {
    hub.metric(&format!("wardcast_hook_events_total{{outcome=\"{outcome}\"}}")).await
}

fn response(head: &str, body: &[u8]) -> Answer {
    Answer::Raw([format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat())
}

/// Has the backend give an answer that does not accept the event, several times. It is kept, and accepted once when the backend works.
async fn check_not_accepted(backend: &Backend, hub: &TestHub, what: &str, bad: Answer) {
    let (accepted, calls, failed) =
        (backend.events(PATH).len(), backend.calls(PATH).len(), events(hub, "failed").await);
    backend.answer(PATH, bad);
    leave(hub.connect("ann").await).await;
    backend.wait_for_calls(PATH, calls + 5).await;
    poll_until(&format!("{what} has failed"), async || events(hub, "failed").await >= failed + 4.0).await;
    backend.answer_json(PATH, json!({}));
    let told = backend.wait_for_events(PATH, accepted + 1).await;
    assert_eq!((told.len(), &told[accepted]["user"]), (accepted + 1, &json!("ann")), "{what}: {told:?}");
    poll_until("nothing waits", async || hub.metric("wardcast_hook_events_waiting").await == 0.0).await;
}

#[actix_rt::test]
async fn redirect_is_not_followed_and_the_event_is_sent_again_to_the_endpoint() {
    let backend = Backend::start().await;
    let hub = start_patient(&backend).await;
    backend.answer_json(ELSEWHERE, json!({}));
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"] {
        for location in [ELSEWHERE.to_owned(), backend.url(ELSEWHERE), "http://169.254.169.254/latest".to_owned()] {
            let answer = response(&format!("{status}\r\nlocation: {location}"), b"moved");
            check_not_accepted(&backend, &hub, status, answer).await;
        }
    }
    assert!(backend.calls(ELSEWHERE).is_empty());
    assert_eq!(events(&hub, "refused").await, 0.0, "nothing is dropped");
}

#[actix_rt::test]
async fn garbage_is_no_acceptance_and_the_event_is_sent_again() {
    let backend = Backend::start().await;
    let hub = start_patient(&backend).await;
    let endless_head = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"x-more: again and again\r\n".repeat(10_000)].concat();
    for (what, answer) in [
        ("another protocol", Answer::Raw(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec())),
        ("bytes", Answer::Raw(vec![0xff; 1000])),
        ("nothing", Answer::Raw(Vec::new())),
        ("half a head", Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec())),
        ("a head without end", Answer::Raw(endless_head)),
        ("malformed chunks", Answer::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz".to_vec())),
        ("an error of 10 MiB", response("500 Oops", &vec![b'x'; TEN_MIB])),
    ] {
        check_not_accepted(&backend, &hub, what, answer).await;
    }
    assert_eq!(events(&hub, "refused").await, 0.0, "nothing is dropped");
    // One user, one lane, one call at a time; beside it only connections whose end the backend has not seen yet.
    assert!(backend.peak_connections() <= 8, "{}", backend.peak_connections());
}

/// The backend has nothing to say to an event, so the status is enough, and its body is not read to the end.
#[actix_rt::test]
async fn success_with_10_mib_or_garbage_accepts_the_event_once() {
    let backend = Backend::start().await;
    let hub = start_patient(&backend).await;
    for (number, body) in [vec![b'x'; TEN_MIB], vec![0xff; 1000], b"<html>".to_vec(), Vec::new()].iter().enumerate() {
        let (calls, connections) = (backend.calls(PATH).len(), backend.connections());
        backend.answer(PATH, response("200 OK", body));
        leave(hub.connect("ann").await).await;
        poll_until("it is accepted", async || events(&hub, "sent").await == (number + 1) as f64).await;
        poll_until("nothing waits", async || hub.metric("wardcast_hook_events_waiting").await == 0.0).await;
        assert_eq!(backend.calls(PATH).len(), calls + 1, "once");
        assert_eq!(backend.connections(), connections + 1);
    }
    assert_eq!((events(&hub, "failed").await, events(&hub, "refused").await), (0.0, 0.0));
}
