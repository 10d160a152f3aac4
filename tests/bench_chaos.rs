//! `wardcast-bench chaos`, run as a process: it breaks what it says, and counts what clients lose.

use serde_json::{Value, json};

use crate::bench::{assert_fails_with, bench, count, report, run};

/// The findings of the only cell of a run, which may have failed.
async fn findings_of(arguments: &str) -> Value {
    let report = report(bench(&format!("chaos -n 12 {arguments}"))).await;
    let [row] = &report["rows"].as_array().unwrap()[..] else { panic!("one row: {report}") };
    assert_eq!(row["error"], json!(null), "{row}");
    let findings = row["findings"].clone();
    assert!(findings["recovering"]["accepted"].as_u64().unwrap() > 0, "{findings}");
    assert!(findings["settled_after_seconds"].is_number() && findings["has_failed"] == false, "{findings}");
    findings
}

#[actix_rt::test]
async fn subscribers_whose_connections_are_cut_recover_or_lose_what_was_published_meanwhile() {
    let findings = findings_of("--form memory --only client-cut").await;
    assert_eq!((&findings["disconnected"], &findings["recovered"]), (&json!(12), &json!(6)), "{findings}");
    assert_eq!(findings["ends"], json!({"connection lost": 12}), "{findings}");
    let losses = |kind: &str| ["lost", "doubled"].map(|what| findings[kind][what].as_u64().unwrap());
    assert_eq!(losses("recovering"), [0, 0], "{findings}");
    assert!(losses("plain")[0] > 0, "{findings}");
    assert_eq!(findings["readiness"], json!({"hubs": 1, "not_ready": null, "no_answer": null}), "{findings}");
}

#[actix_rt::test]
async fn history_that_ends_with_its_hub_is_reported_as_missed_and_told() {
    let findings = findings_of("--form memory --only hub-kill").await;
    assert_eq!((&findings["disconnected"], &findings["new_epochs"]), (&json!(12), &json!(6)), "{findings}");
    assert!(findings["recovering"]["missed_and_told"].as_u64().unwrap() > 0, "{findings}");
    assert!(findings["refused"]["connection refused"].as_u64().unwrap() > 0, "{findings}");
    assert!(findings["publish_outage_seconds"].as_f64().unwrap() >= 1.0, "{findings}");
    let no_answer = &findings["readiness"]["no_answer"];
    assert_eq!(no_answer["hubs"], 1, "{findings}");
    assert!(no_answer["longest_seconds"].as_f64().unwrap() >= 1.0, "{findings}");
}

#[actix_rt::test]
async fn killed_redis_costs_publishers_errors_and_recovering_subscribers_nothing() {
    let findings = findings_of("--form single --only redis-kill").await;
    assert_eq!([&findings["disconnected"], &findings["new_epochs"]], [0, 0], "{findings}");
    assert!(findings["refused"]["error 100"].as_u64().unwrap() > 0, "{findings}");
    assert!(findings["publish_outage_seconds"].as_f64().unwrap() >= 3.0, "{findings}");
    let not_ready = &findings["readiness"]["not_ready"];
    assert_eq!(not_ready["hubs"], 2, "{findings}");
    assert!(not_ready["longest_seconds"].as_f64().unwrap() >= 2.5, "{findings}");
    assert_eq!(
        ["lost", "doubled", "missed_and_told"].map(|what| &findings["recovering"][what]),
        [0, 0, 0],
        "{findings}"
    );
}

#[actix_rt::test]
async fn cut_network_to_a_cluster_loses_nothing_and_shows_in_readiness() {
    let findings = findings_of("--form cluster --only redis-cut").await;
    assert_eq!([&findings["disconnected"], &findings["recovering"]["lost"]], [0, 0], "{findings}");
    assert!(findings["readiness"]["not_ready"]["hubs"].as_u64() > Some(0), "{findings}");
}

#[actix_rt::test]
async fn table_has_a_row_for_each_cell_in_markdown_and_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bench("chaos -n 12 --form memory --only client-cut --markdown");
    command.env("TMPDIR", folder.path());
    let output = run(command).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let row = text.lines().last().unwrap();
    let start =
        "| the network between clients and a hub | all connections cut (`client-cut`) | one hub, memory broker |";
    assert!(output.status.success() && row.starts_with(start), "{text}");
    assert_eq!(row.matches(" | ").count(), 6, "{row}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "files are left");
}

#[actix_rt::test]
async fn backend_that_was_down_is_told_every_end_in_order_also_of_the_killed_hub() {
    let report = report(bench("events --hubs 2 -n 20 --backend-down 4 --events 40")).await;
    let counts = ["not_told", "out_of_order"].map(|what| count(&report, &format!("events_{what}")));
    assert_eq!(counts, [0, 0], "{report}");
    // 20 users, each of whom begins a session every 1.5 s for 10 s.
    let sessions = count(&report, "events_sessions");
    let told = count(&report, "events_told") - count(&report, "events_ended_twice");
    assert!(
        sessions > 60 && told <= 2 * sessions && told + 2 * count(&report, "events_unheard") >= 2 * sessions,
        "{report}"
    );
    for name in
        ["events_of_lost_node", "events_waiting", "events_bytes_each", "events_told_after_seconds", "events_hub_cpu_us"]
    {
        assert!(report[name].as_f64().unwrap() > 0.0, "{name} in {report}");
    }
}

#[actix_rt::test]
async fn events_without_redis_are_refused() {
    assert_fails_with(bench("events --form memory"), &["one hub", "choose a form with Redis"]).await;
}

#[actix_rt::test]
async fn failure_that_a_form_does_not_have_is_refused() {
    assert_fails_with(bench("chaos --form memory --only slot-move"), &["no cell", "does not exist in that form"]).await;
}
