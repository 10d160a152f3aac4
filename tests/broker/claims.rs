//! Claims of nodes: the records by which they agree on settings, while other programs replace the records, and while a server
//! hangs.

use std::time::Duration;

use tokio::task::JoinSet;
use wardcast::config::{RedisConfig, Secret};

use super::fixture::{Instance, start_broker_with, urls, wait_until};
use crate::support::{PATIENCE, poll_until, redis::RedisServer};

const LAYOUT: &str = "wardcast:layout";

/// Replaces the record of the layout as often as Redis can, each time by an older one, until the result is dropped.
async fn keep_replacing_layout(server: &RedisServer) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for writer in 1..=4_u64 {
        let mut connection = server.connection().await.unwrap();
        writers.spawn(async move {
            for round in 0.. {
                let mut replace = redis::pipe();
                for record in 0..50 {
                    let since = writer * 1_000_000_000 - round * 50 - record;
                    replace.cmd("SET").arg(LAYOUT).arg(format!("{since} version=1")).ignore();
                }
                replace.query_async::<()>(&mut connection).await.unwrap();
            }
        });
    }
    writers
}

/// Asks for the readiness until the instance is ready, or not ready because of the record of the layout.
async fn layout_verdict(instance: &Instance) -> Result<(), String> {
    let mut verdict = Ok(());
    wait_until("a verdict", async || {
        verdict = instance.broker.check_ready().await.map_err(|error| error.to_string());
        verdict.as_ref().err().is_none_or(|error| error.contains(LAYOUT))
    })
    .await;
    verdict
}

/// Of other nodes with the same setting, which are many.
#[tokio::test]
async fn node_is_ready_while_other_nodes_renew_the_same_claim_all_the_time() {
    let server = RedisServer::start().await;
    let _writers = keep_replacing_layout(&server).await;
    for _ in 0..5 {
        let instance = start_broker_with(&server.url(), |_| ());
        assert_eq!(layout_verdict(&instance).await, Ok(()));
    }
}

#[tokio::test]
async fn node_whose_claim_is_replaced_by_unsigned_records_names_the_key_of_the_bus() {
    let server = RedisServer::start().await;
    let _writers = keep_replacing_layout(&server).await;
    let mut instances = Vec::new();
    // An instance that is faster than the writers once is ready.
    poll_until("an instance that is not ready", async || {
        let instance = start_broker_with(&server.url(), |config: &mut RedisConfig| {
            config.bus_key = Secret::new("5a1f0c7e9b3d2468ace013579bdf2468");
        });
        let verdict = layout_verdict(&instance).await;
        instances.push(instance);
        verdict.is_err_and(|error| error.contains("broker.redis.bus_key") && error.contains("unsigned"))
    })
    .await;
}

#[tokio::test]
async fn server_that_hangs_does_not_delay_the_claims_on_the_others() {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    let instance = start_broker_with("", |config| {
        config.urls = urls(&servers);
        config.heartbeat_interval = Duration::from_millis(200);
        // A turn that waited for a reply would take longer than the test.
        config.timeout = PATIENCE * 2;
    });
    instance.wait_until_ready().await;
    for (hanging, other) in [(0, 1), (1, 0)] {
        servers[hanging].freeze();
        // One of these times is in the turn in which the server hangs first.
        for _ in 0..3 {
            servers[other].run::<i64>(&["DEL", "wardcast:servers"]).await;
            poll_until("the record is stored again", async || {
                servers[other].run::<i64>(&["EXISTS", "wardcast:servers"]).await == 1
            })
            .await;
        }
        servers[hanging].resume();
    }
}
