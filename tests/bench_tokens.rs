//! The commands of the load generator that end, refresh and forge tokens. The tests assert counts, but no times.

use serde_json::{Value, json};

use crate::{
    bench::{assert_fails_with, bench, bench_at, count, report},
    support::start_hub,
};

fn assert_nothing_closed(report: &Value, name: &str) {
    assert_eq!(report[name], json!({}), "{report}");
}

#[actix_rt::test]
async fn revoke_counts_the_closed_sessions_and_times_those_that_stay() {
    let report = report(bench("revoke -n 40 --stalled 0 --others 5 --rate 40 --margin 1")).await;
    assert_eq!(report["token_end_answer"], r#"{"result":{}}"#, "{report}");
    assert_eq!(report["connections_closed"], json!({"close 3500 token revoked": 40}), "{report}");
    assert_eq!(["token_end_late", "token_end_open"].map(|name| count(&report, name)), [0; 2], "{report}");
    assert_nothing_closed(&report, "beside_closed");
    assert!(report["beside_before_p50_ms"].as_f64().unwrap() > 0.0, "{report}");
    assert!(count(&report, "deliveries") >= 40, "{report}");
}

#[actix_rt::test]
async fn expiry_counts_the_closed_sessions() {
    let report = report(bench("expiry -n 30 --stalled 0 --spread 1 --others 5 --rate 40 --margin 0.3")).await;
    assert_eq!(report["connections_closed"], json!({"close 3005 connection expired": 30}), "{report}");
    assert_eq!(["token_end_late", "token_end_open"].map(|name| count(&report, name)), [0; 2], "{report}");
    assert_nothing_closed(&report, "beside_closed");
}

#[actix_rt::test]
async fn refresh_counts_refreshes_and_no_session_ends_with_its_first_token() {
    let report = report(bench("refresh -n 20 --spread 1 --rate 40 --margin 0.2")).await;
    assert_eq!((count(&report, "refreshed"), count(&report, "sequence_missed")), (20, 0), "{report}");
    assert_nothing_closed(&report, "beside_closed");
    assert_eq!(count(&report, "deliveries"), 20 * count(&report, "publications"), "{report}");
    assert!(report["refresh_answer_p50_ms"].as_f64().unwrap() > 0.0, "{report}");
}

#[actix_rt::test]
async fn forged_tokens_of_either_algorithm_are_refused_for_their_signature() {
    for options in ["--algorithm hs256 --source-addresses 20", "--algorithm es256"] {
        let report = report(bench(&format!("forged -n 400 --others 5 --rate 200 --margin 0.2 {options}"))).await;
        let refused = report["failures"].as_object().unwrap();
        let is_401 = |reason: &String| reason.contains("HTTP/1.1 401") && reason.contains("invalid token");
        // On a busy machine some may wait for longer than `limits.verification_wait`.
        let is_expected = |reason: &String| is_401(reason) || reason.contains("HTTP/1.1 503");
        assert!(
            refused.keys().any(is_401)
                && refused.keys().all(is_expected)
                && refused.values().filter_map(Value::as_u64).sum::<u64>() == 400,
            "{report}"
        );
        assert_eq!(count(&report, "connected"), 0, "{report}");
        assert_nothing_closed(&report, "beside_closed");
        assert!(report["beside_during_p50_ms"].is_number() && report["server_rss_after_kib"].is_number(), "{report}");
    }
}

#[actix_rt::test]
async fn revocations_before_a_run_are_in_the_list_of_the_hub() {
    let hub = start_hub().await;
    let connect = report(bench_at(&hub, "connect -n 5 --revocations 1500")).await;
    assert_eq!((count(&connect, "connected"), count(&connect, "revocations")), (5, 1500), "{connect}");
    assert_eq!(hub.metric("wardcast_revocations").await, 1500.0);
    let too_many = bench("connect -n 5 --revocations 30 --hub-set limits.revocations=20");
    assert_fails_with(too_many, &["limits.revocations"]).await;
}
