//! Events that the backend refuses.

use std::time::{Duration, Instant};

use serde_json::json;
use wardcast::{broker::event_outbox::event_lane, config::EventType};

use crate::{
    hook_events::{PATH, leave, start, status},
    support::{
        Stopwatch,
        backend::{Answer, Backend},
        poll_until,
    },
};

#[actix_rt::test]
async fn event_that_the_backend_always_refuses_is_dropped_alone_and_does_not_block_those_behind_it() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Disconnect], |config| {
        config.hooks.events.retry_delay = Duration::from_millis(100);
        config.hooks.events.refused_for = Duration::from_millis(300);
    })
    .await;
    backend.answer(PATH, Answer::StatusForBodiesWith("\"code\":4501".to_owned(), "422 Unprocessable Content"));
    // All of one user, so of one lane.
    for number in 0..6 {
        let mut client = hub.connect("ann").await;
        if number == 2 {
            hub.call_api("disconnect", json!({"user": "ann", "disconnect": {"code": 4501, "reason": "poison"}})).await;
            client.wait_for_close().await;
        } else {
            leave(client).await;
        }
    }
    let accepted = backend.wait_for_events(PATH, 5).await;
    assert!(accepted.iter().all(|event| event["code"] == 1000), "{accepted:?}");
    assert!(accepted.is_sorted_by_key(|event| event["time"].as_i64().unwrap()));
    let count = async |outcome: &str| hub.metric(&format!("wardcast_hook_events_total{{outcome=\"{outcome}\"}}")).await;
    poll_until("the refused event is counted", async || count("refused").await == 1.0).await;
    poll_until("nothing waits", async || hub.metric("wardcast_hook_events_waiting").await == 0.0).await;
    // It was tried for as long as it should be: a call with it came again and again.
    let calls = backend.calls(PATH);
    let tries = calls.iter().filter(|call| call.body.contains("4501")).count();
    assert!(tries >= 3, "{tries}");
}

#[actix_rt::test]
async fn event_after_one_that_was_refused_for_too_long_is_tried_for_as_long() {
    let backend = Backend::start().await;
    let refused_for = Duration::from_millis(300);
    let hub = start(&backend, &[EventType::Disconnect], |config| {
        config.hooks.events.retry_delay = Duration::from_millis(100);
        config.hooks.events.refused_for = refused_for;
    })
    .await;
    backend.answer(PATH, status("404 Not Found"));
    let refused = "wardcast_hook_events_total{outcome=\"refused\"}";
    for number in 1..=3 {
        let (client, greeting) = hub.connect_with_claims(json!({"sub": "ann", "exp": 3600})).await;
        let id = greeting["client"].as_str().unwrap();
        let begun = Instant::now();
        leave(client).await;
        poll_until("the event is dropped", async || hub.metric(refused).await == f64::from(number)).await;
        assert!(begun.elapsed() >= refused_for, "event {number}: {:?}", begun.elapsed());
        let tries = backend.calls(PATH).iter().filter(|call| call.body.contains(id)).count();
        assert!(tries >= 3, "event {number}: {tries}");
    }
}

#[actix_rt::test]
async fn refused_calls_of_a_lane_hold_up_no_other_lane() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Disconnect], |config| {
        config.hooks.events.retry_delay = Duration::from_millis(100);
    })
    .await;
    assert_ne!(event_lane("ann"), event_lane("bob"));
    // The default of hooks.failures is 10.
    for line in ["422 Unprocessable Content", "500 Internal Server Error"] {
        backend.answer(PATH, Answer::StatusForBodiesWith("\"user\":\"ann\"".to_owned(), line));
        leave(hub.connect("ann").await).await;
        backend.wait_for_calls(PATH, backend.calls(PATH).len() + 15).await;
        let (before, begun) = (backend.events(PATH).len(), Stopwatch::start());
        leave(hub.connect("bob").await).await;
        assert_eq!(backend.wait_for_events(PATH, before + 1).await[before]["user"], "bob");
        assert!(begun.elapsed() < Duration::from_secs(1), "{line}: {:?}", begun.elapsed());
    }
    backend.answer_json(PATH, json!({}));
    backend.wait_for_events(PATH, 4).await;
}

#[actix_rt::test]
async fn backend_that_refuses_for_a_while_or_asks_to_wait_gets_everything_later() {
    let backend = Backend::start().await;
    let hub = start(&backend, &[EventType::Disconnect], |config| {
        config.hooks.events.retry_delay = Duration::from_millis(100);
        config.hooks.events.refused_for = Duration::from_millis(200);
        config.hooks.failures = 1000;
    })
    .await;
    let failed = async || hub.metric("wardcast_hook_events_total{outcome=\"failed\"}").await;
    // These mean "later", however long they are answered.
    for line in ["429 Too Many Requests", "408 Request Timeout", "425 Too Early", "503 Service Unavailable"] {
        backend.answer(PATH, status(line));
        leave(hub.connect("ann").await).await;
        let before = failed().await;
        // At 100 ms each, these take longer than events that are refused are kept.
        poll_until("many more failures", async || failed().await >= before + 6.0).await;
    }
    backend.answer_json(PATH, json!({}));
    assert_eq!(backend.wait_for_events(PATH, 4).await.len(), 4);
    assert_eq!(hub.metric("wardcast_hook_events_total{outcome=\"refused\"}").await, 0.0);
}
