//! The commands of the load generator that cut many clients, and that turn everything on. The tests assert counts, but no times.

use serde_json::json;

use crate::{
    bench::{assert_fails_with, bench, bench_at, count, report},
    support::start_hub,
};

/// What a client may have missed or received twice.
const FAULTS: [&str; 5] =
    ["unrecovered", "deliveries_lost", "offset_gaps", "offset_out_of_order", "sequence_out_of_order"];

#[actix_rt::test]
async fn recover_with_es256_times_the_deliveries_to_sessions_that_stay() {
    let run = "recover -n 40 --missed 20 --rate 200 --seconds 0.3 --away 0.3 --algorithm es256";
    let report = report(bench(&format!("{run} --others 5 --others-rate 200"))).await;
    assert_eq!(["returned", "recovered", "others"].map(|name| count(&report, name)), [40, 40, 5], "{report}");
    assert_eq!(FAULTS.map(|name| count(&report, name)), [0; 5], "{report}");
    assert_eq!([&report["beside_closed"], &report["failures"]], [&json!({}); 2], "{report}");
    for time in ["beside_before_p99_ms", "beside_during_p99_ms"] {
        assert!(report[time].as_f64().unwrap() > 0.0, "{time}: {report}");
    }
    let hub = start_hub().await;
    let not_its_own = bench_at(&hub, "recover -n 2 --algorithm es256");
    assert_fails_with(not_its_own, &["--algorithm es256", "started for the run"]).await;
}

#[actix_rt::test]
async fn clients_that_a_storm_refuses_come_back_and_are_counted() {
    let narrow = "--hub-set server.workers=1 --hub-set limits.verification_turn=1us --hub-set limits.verification_queue=2 \
                  --hub-set limits.verification_wait=10ms";
    // One after the other they are accepted; then all come at once. On a busy machine the last one comes after seconds, and with more
    // publications it would have missed more than `limits.recovered_publications`.
    let run = "recover -n 100 --concurrency 1 --missed 5 --rate 5 --seconds 0.5 --away 0.01 --algorithm es256";
    let report = report(bench(&format!("{run} {narrow}"))).await;
    assert_eq!(["returned", "recovered"].map(|name| count(&report, name)), [100, 100], "{report}");
    assert_eq!((FAULTS.map(|name| count(&report, name)), &report["failures"]), ([0; 5], &json!({})), "{report}");
    let refused = report["refused_returns"].as_object().unwrap();
    assert!(!refused.is_empty() && refused.keys().all(|reason| reason.contains("HTTP/1.1 503")), "{report}");
}

#[actix_rt::test]
async fn fanout_with_everything_on_asks_the_backend_and_reads_the_metrics() {
    let report = report(bench("fanout -n 20 --rate 50 --seconds 2 --warmup 0.1 --everything")).await;
    assert_eq!(count(&report, "deliveries"), 20 * count(&report, "publications"), "{report}");
    // A call for each subscription, and at least one with events.
    assert!(count(&report, "hook_calls") > 20 && count(&report, "scrapes") >= 1, "{report}");
    assert!(report["scrape_p50_ms"].as_f64().unwrap() > 0.0, "{report}");
    let hub = start_hub().await;
    let not_its_own = bench_at(&hub, "fanout -n 2 --everything");
    assert_fails_with(not_its_own, &["--everything", "started for the run"]).await;
}
