//! Positions at which subscriptions start, in Redis: many channels are read together.

use futures_util::future::join_all;
use wardcast::{
    broker::{BrokerError, HistoryRequest},
    position::Position,
};

use super::fixture::{Instance, KEEP_FIVE, channel, start_ready_broker};
use crate::support::redis::RedisServer;

/// Reads the positions of channels at the same time.
async fn read_tops(instance: &Instance, names: &[String]) -> Vec<Result<Position, BrokerError>> {
    let read = |name: &String| instance.broker.read_history(channel(name), HistoryRequest::default(), KEEP_FIVE);
    let pages = join_all(names.iter().map(read)).await;
    pages.into_iter().map(|page| page.map(|page| page.top)).collect()
}

#[tokio::test]
async fn positions_of_many_channels_take_few_calls_are_created_once_and_fail_alone() {
    let server = RedisServer::start().await;
    let instance = start_ready_broker(&server.url()).await;
    let other = start_ready_broker(&server.url()).await;
    let names: Vec<String> = (0..500).map(|number| format!("c{number}")).collect();
    instance.store("c7", "1").await;
    server.run::<()>(&["SADD", "wardcast:m:{c8}", "member"]).await;
    server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    let (here, there) = tokio::join!(read_tops(&instance, &names), read_tops(&other, &names));
    assert!(here == there, "the nodes disagree");
    let statistics: String = server.run(&["INFO", "commandstats"]).await;
    let calls = statistics.split_once("cmdstat_evalsha:calls=").unwrap().1.split_once(',').unwrap().0;
    assert!(calls.parse::<usize>().unwrap() <= 2 * names.len() / 8, "{statistics}");
    for (number, top) in here.iter().enumerate() {
        match (number, top) {
            (7, Ok(position)) => assert_eq!(position.offset, 1),
            (8, Err(error)) => assert!(error.to_string().contains("WRONGTYPE"), "{error}"),
            (_, Ok(position)) => assert_eq!(position.offset, 0),
            (_, Err(error)) => panic!("c{number}: {error}"),
        }
    }
    let position = *here[9].as_ref().unwrap();
    assert_eq!(instance.store("c9", "1").await, Position { offset: 1, ..position });
    assert_eq!(read_tops(&instance, &names[9..10]).await, [Ok(Position { offset: 1, ..position })]);
}
