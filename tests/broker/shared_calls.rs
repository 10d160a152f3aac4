//! Publications that are stored by one call of the script.

use futures_util::future::join_all;
use wardcast::broker::{BrokerError, PublishOptions, PublishReceipt};

use super::{fixture::KEEP_FIVE, redis_history::start};

#[tokio::test]
async fn publication_that_is_refused_fails_alone_among_those_of_its_call() {
    let (server, instance) = start().await;
    let names: Vec<String> = (0..60).map(|number| format!("c{number}")).collect();
    let broken = ["wardcast:s:{c0}", "wardcast:m:{c20}", "wardcast:i:{c40}{key}", "wardcast:s:{c59}"];
    for key in broken {
        server.run::<()>(&["SADD", key, "member"]).await;
    }
    for name in &names {
        instance.subscribe(name).await;
    }
    for (round, idempotency_key) in [(1, Some("key".into())), (2, None)] {
        let options = PublishOptions { retention: Some(KEEP_FIVE), idempotency_key, version: None };
        let calls: Vec<_> = names.iter().map(|name| instance.publish_with(name, "1", options.clone())).collect();
        for (number, receipt) in join_all(calls).await.into_iter().enumerate() {
            match (number, receipt) {
                (0 | 20 | 59, receipt) | (40, receipt @ Err(_)) => {
                    assert!(receipt.unwrap_err().to_string().contains("WRONGTYPE"), "{number}");
                }
                (40, receipt) => assert_eq!((round, receipt.unwrap().position.unwrap().offset), (2, 1)),
                (_, receipt) => assert_eq!(receipt.unwrap().position.unwrap().offset, round, "{number}"),
            }
        }
    }
    instance.wait_for_publications(56 + 57).await;
    assert_eq!(instance.broker.check_ready().await, Ok(()));
    assert!([0, 20, 59].iter().all(|number| instance.data_received(&names[*number]).is_empty()));
}

#[tokio::test]
async fn publications_that_wait_share_calls_of_the_script() {
    let (server, instance) = start().await;
    server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    server.freeze();
    let options = PublishOptions { retention: Some(KEEP_FIVE), ..PublishOptions::default() };
    let calls = (0..1_000).map(|number| instance.publish_with(&format!("c{}", number % 700), "1", options.clone()));
    let calls: Vec<_> = calls.collect();
    server.resume();
    let receipts = join_all(calls).await;
    let is_second =
        |receipt: &&Result<PublishReceipt, BrokerError>| receipt.as_ref().unwrap().position.unwrap().offset == 2;
    assert_eq!(receipts.iter().filter(is_second).count(), 300);
    let statistics: String = server.run(&["INFO", "commandstats"]).await;
    let count_calls = |command: &str| {
        let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse::<usize>().unwrap())
    };
    assert_eq!((count_calls("publish") >= 1_000, count_calls("pexpire")), (true, 1_400), "{statistics}");
    assert!(count_calls("evalsha") <= 40, "{statistics}");
}
