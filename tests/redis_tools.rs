//! The servers and the proxy that the tests of Redis use do what they promise.

use std::time::{Duration, Instant};

use redis::RedisResult;

use crate::support::{
    mark_secret, poll_until,
    proxy::{Proxy, ProxyMode},
    redis::{ClusterOptions, RedisCluster, RedisServer, SentinelOptions, SentinelTrio, start_sentinel},
    tls::Authority,
};

#[tokio::test]
async fn durable_server_keeps_every_acknowledged_write_when_it_is_killed() {
    let (mut durable, mut other) = (RedisServer::start_durable().await, RedisServer::start().await);
    for server in [&mut durable, &mut other] {
        for number in 0..200 {
            server.run::<()>(&["INCRBY", "sum", &number.to_string()]).await;
        }
        server.kill();
        server.restart().await;
    }
    assert_eq!(durable.run::<Option<u32>>(&["GET", "sum"]).await, Some(19_900));
    assert_eq!(other.run::<Option<u32>>(&["GET", "sum"]).await, None);
}

#[tokio::test]
async fn sentinels_follow_a_failover_and_the_death_of_the_master() {
    let mut trio = SentinelTrio::start().await;
    assert_eq!(trio.master().await, 0);
    assert_eq!(trio.addresses()[2], format!("127.0.0.1:{}", trio.sentinels[2].port()));
    let liar = start_sentinel(&trio.servers[1]).await;
    let named: (String, u16) = liar.run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelTrio::MASTER]).await;
    assert_eq!(named.1, trio.servers[1].port());
    let since = Instant::now();
    assert_eq!(trio.fail_over().await, 1);
    assert_eq!(trio.master().await, 1, "for most sentinels");
    println!("failover after {:?}", since.elapsed());
    // Sentinel closes the connections of a server that it makes a replica, this test's as well.
    poll_until("the old master is a replica", async || trio.servers[0].is_replicating().await).await;
    let since = Instant::now();
    trio.servers[1].kill();
    assert_eq!(trio.wait_for_new_master(1).await, 0);
    println!("new master {:?} after the death", since.elapsed());
}

#[tokio::test]
async fn sentinels_and_servers_use_passwords_and_tls() {
    let authority = Authority::new();
    let options = SentinelOptions {
        password: Some(mark_secret("password of the sentinels")),
        server_password: Some(mark_secret("password of the servers")),
        tls: Some(&authority),
        ..SentinelOptions::default()
    };
    let trio = SentinelTrio::start_with(&options).await;
    for (server, port) in
        [(&trio.sentinels[0], trio.servers[0].tls_port()), (&trio.sentinels[2], trio.servers[0].tls_port())]
    {
        let named: (String, u16) = server.run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelTrio::MASTER]).await;
        assert_eq!(named, ("127.0.0.1".to_owned(), port));
    }
    let refused: RedisResult<()> = async {
        let mut connection = redis::Client::open(trio.sentinels[0].url())?.get_multiplexed_async_connection().await?;
        redis::cmd("SENTINEL").arg("MASTERS").query_async(&mut connection).await
    }
    .await;
    assert_eq!(refused.unwrap_err().code(), Some("NOAUTH"));
}

#[tokio::test]
async fn cluster_fails_over_moves_slots_and_changes_roles() {
    let mut cluster = RedisCluster::start().await;
    let slot = cluster.slot_of("{news}").await;
    let first = cluster.master_of(slot).await.unwrap();
    cluster.nodes[first].run::<()>(&["SET", "{news}", "1"]).await;
    let since = Instant::now();
    assert_eq!(cluster.fail_over(first).await, first + 3);
    println!("failover after {:?}", since.elapsed());
    cluster.nodes[first + 3].run::<()>(&["SET", "{news}", "2"]).await;
    let since = Instant::now();
    cluster.nodes[first + 3].kill();
    assert_eq!(cluster.wait_for_new_master(first + 3).await, first);
    println!("new master {:?} after the death", since.elapsed());
    cluster.nodes[first + 3].restart().await;
    let to = (first + 1) % 3;
    let all = ClusterOptions::default().slots[first].clone();
    let since = Instant::now();
    cluster.move_slots(all, to).await;
    println!("{} slots moved in {:?}", 16_384 / 3, since.elapsed());
    assert_eq!(cluster.master_of(slot).await, Some(to));
    // Nodes on a busy machine now and then take the cluster for down.
    cluster.wait_until_ok().await;
    poll_until("the moved key", async || {
        cluster.nodes[to].try_run::<String>(&["GET", "{news}"]).await.is_ok_and(|value| value == "2")
    })
    .await;
    cluster.replicate(first, to).await;
    cluster.wait_until_ok().await;
}

#[tokio::test]
async fn cluster_behind_proxies_names_only_their_addresses() {
    let options = ClusterOptions { has_proxies: true, ..ClusterOptions::default() };
    let cluster = RedisCluster::start_with(&options).await;
    let slots: String = cluster.nodes[0].run(&["CLUSTER", "NODES"]).await;
    assert!(cluster.addresses().iter().all(|address| slots.contains(&format!("{address}@"))), "{slots}");
    assert!(cluster.nodes.iter().all(|node| !slots.contains(&format!(":{}@", node.port()))), "{slots}");
}

#[tokio::test]
async fn cluster_without_all_slots_is_down() {
    let options = ClusterOptions { slots: [0..=5460, 5461..=10_922, 10_923..=12_000], ..ClusterOptions::default() };
    let cluster = RedisCluster::start_with(&options).await;
    let info: String = cluster.nodes[0].run(&["CLUSTER", "INFO"]).await;
    assert!(info.contains("cluster_state:fail") && info.contains("cluster_slots_assigned:12001"), "{info}");
}

/// Sends a PING and returns whether it is answered within this time.
async fn answers(connection: &mut redis::aio::MultiplexedConnection, within: Duration) -> bool {
    let ping = redis::cmd("PING");
    matches!(tokio::time::timeout(within, ping.query_async::<String>(connection)).await, Ok(Ok(_)))
}

#[tokio::test]
async fn proxy_delays_silences_and_cuts_connections() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let client = redis::Client::open(proxy.url()).unwrap();
    let connect = async || client.get_multiplexed_async_connection().await;
    let (long, short) = (Duration::from_secs(10), Duration::from_millis(150));
    let mut connection = connect().await.unwrap();
    proxy.set(ProxyMode::Delay(Duration::from_millis(60)));
    let since = Instant::now();
    assert!(answers(&mut connection, long).await && since.elapsed() >= Duration::from_millis(120));
    for silent in [ProxyMode::BlackHole, ProxyMode::HalfOpen] {
        proxy.set(ProxyMode::Pass);
        let mut connection = connect().await.unwrap();
        assert!(answers(&mut connection, long).await);
        proxy.set(silent);
        let before: u64 = calls_of_ping(&server).await;
        assert!(!answers(&mut connection, short).await);
        let is_heard = calls_of_ping(&server).await > before;
        assert_eq!(is_heard, silent == ProxyMode::HalfOpen);
        proxy.set(ProxyMode::Pass);
        let before = calls_of_ping(&server).await;
        assert!(!answers(&mut connection, short).await, "it stays silent");
        let is_heard = calls_of_ping(&server).await > before;
        assert_eq!(is_heard, silent == ProxyMode::HalfOpen, "it stays silent");
    }
    let mut connection = connect().await.unwrap();
    proxy.set(ProxyMode::Cut);
    assert!(!answers(&mut connection, long).await);
    assert!(connect().await.is_err());
    proxy.set(ProxyMode::Pass);
    assert!(answers(&mut connect().await.unwrap(), long).await);
}

async fn calls_of_ping(server: &RedisServer) -> u64 {
    let stats: String = server.run(&["INFO", "commandstats"]).await;
    let ping = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    ping.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}
