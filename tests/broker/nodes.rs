//! Which nodes are alive, and surveys of several nodes of which some do not answer.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all};
use wardcast::{
    broker::{BrokerError, NodeIdentity},
    config::RedisConfig,
};

use super::fixture::{
    ELSEWHERE, Instance, disconnect_user, redis_instance, start_broker, start_broker_with, start_pair, wait_until,
};
use crate::support::{
    PATIENCE, Stopwatch, poll_until,
    proxy::{Proxy, ProxyMode},
    redis::RedisServer,
};

/// Longer than a test runs: an answer comes before it, or not at all.
const LONG: Duration = Duration::from_secs(20);
const CHANNELS: &[u8] = b"{\"news\":1}";
const CONTROL: &str = "wardcast:control";

/// Heartbeats that are missed soon.
fn often(config: &mut RedisConfig) {
    config.heartbeat_interval = Duration::from_millis(500);
}

/// No heartbeat after the hello, but those that answer a hello.
fn never_again(config: &mut RedisConfig) {
    config.heartbeat_interval = Duration::from_secs(600);
}

/// So many instances on one Redis that know each other.
async fn start_nodes(count: usize, change: impl Fn(&mut RedisConfig)) -> (RedisServer, Vec<Instance>) {
    let server = RedisServer::start().await;
    let nodes: Vec<Instance> = (0..count).map(|_| start_broker_with(&server.url(), &change)).collect();
    for node in &nodes {
        node.wait_for_nodes(i64::try_from(count).unwrap()).await;
    }
    (server, nodes)
}

/// A heartbeat that another program sends. `kind`: h, a or g.
fn heartbeat(instance: &str, uid: &str, name: &str, kind: u8) -> Vec<u8> {
    let mut message = b"WC\x01h".to_vec();
    for field in [instance, uid, name] {
        message.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
        message.extend(field.as_bytes());
    }
    message.push(kind);
    message
}

#[tokio::test]
async fn survey_returns_the_answers_of_all_nodes() {
    let (_server, nodes) = start_nodes(3, |_| ()).await;
    for node in &nodes {
        assert_eq!(node.survey_all(LONG).await, (vec![CHANNELS.to_vec(); 3], 0));
    }
}

#[tokio::test]
async fn long_survey_answer_of_another_node_arrives_whole() {
    let (_server, first, second) = start_pair().await;
    // Longer than `broker.redis.message_bytes`, and not a multiple of the length of a part.
    let answer: Vec<u8> = (0..5_000_001_u32).map(|n| n as u8).collect();
    *second.hubs.channels.lock() = Some(answer.clone());
    let (answers, _) = first.survey_all(LONG).await;
    let lengths: Vec<usize> = answers.iter().map(Vec::len).collect();
    assert!(answers == [CHANNELS.to_vec(), answer], "{lengths:?} bytes");
    *second.hubs.channels.lock() = Some(Vec::new());
    assert_eq!(first.survey_all(LONG).await, (vec![CHANNELS.to_vec(), Vec::new()], 0));
}

#[tokio::test]
async fn survey_names_a_silent_node_and_does_not_wait_for_it_again() {
    let (_server, nodes) = start_nodes(3, |_| ()).await;
    nodes[2].hubs.is_silent.store(true, Ordering::Relaxed);
    let timeout = Duration::from_secs(2);
    let since = Instant::now();
    let result = nodes[0].survey(timeout).await.unwrap();
    let mut answered: Vec<NodeIdentity> = result.answers.into_iter().map(|answer| answer.node).collect();
    answered.sort_by(|one, other| one.uid.cmp(&other.uid));
    let mut expected = vec![nodes[0].node(), nodes[1].node()];
    expected.sort_by(|one, other| one.uid.cmp(&other.uid));
    assert_eq!((answered, result.unreachable), (expected, vec![nodes[2].node()]));
    assert!(since.elapsed() >= timeout, "it may be slow, and gets the whole time once");
    let since = Stopwatch::start();
    assert_eq!(nodes[0].survey_all(LONG).await, (vec![CHANNELS.to_vec(); 2], 1));
    println!("the second survey took {:?}", since.elapsed());
    assert!(since.elapsed() < LONG / 2, "{:?}", since.elapsed());
    nodes[2].hubs.is_silent.store(false, Ordering::Relaxed);
    // The node is still asked: its next answer ends the suspicion.
    wait_until_answered_by(&nodes[0], 3).await;
    assert_eq!(nodes[0].dropped_count("stray_answer"), 0);
}

/// Asks until so many nodes answer. On a busy machine, a suspect node may answer too late for one survey.
async fn wait_until_answered_by(instance: &Instance, count: usize) {
    wait_until(&format!("{count} answers"), async || {
        let (answers, unreachable) = instance.survey_all(LONG).await;
        answers.len() == count && unreachable == 0
    })
    .await;
}

#[tokio::test]
async fn own_hubs_that_do_not_answer_are_named_beside_the_answers_of_others() {
    let (_server, first, second) = start_pair().await;
    first.hubs.is_silent.store(true, Ordering::Relaxed);
    // On a busy machine the other may answer too late.
    poll_until("the other node answers", async || {
        let result = first.survey(Duration::from_millis(500)).await;
        result.is_ok_and(|result| {
            let answered: Vec<NodeIdentity> = result.answers.into_iter().map(|answer| answer.node).collect();
            answered == [second.node()] && result.unreachable == [first.node()]
        })
    })
    .await;
    second.hubs.is_silent.store(true, Ordering::Relaxed);
    assert_eq!(first.survey(Duration::from_millis(500)).await, Err(BrokerError::NoAnswer));
}

#[tokio::test]
async fn node_that_vanishes_is_listed_until_three_heartbeats_are_missing() {
    let (_server, mut nodes) = start_nodes(3, often).await;
    drop(nodes.pop());
    let since = Instant::now();
    // On a busy machine the other living one may answer too late.
    assert!((1..=2).contains(&nodes[0].survey_all(Duration::from_millis(300)).await.1));
    for node in &nodes {
        node.wait_for_nodes(2).await;
    }
    println!("lost after {:?}", since.elapsed());
    assert!(since.elapsed() > Duration::from_millis(900), "after the third missing heartbeat");
    assert_eq!(nodes[0].survey_all(LONG).await, (vec![CHANNELS.to_vec(); 2], 0));
}

#[tokio::test]
async fn node_that_has_announced_its_stop_is_gone_at_once() {
    let (_server, nodes) = start_nodes(3, |_| ()).await;
    nodes[2].broker.announce_stop().await.unwrap();
    for node in &nodes[..2] {
        node.wait_for_nodes(2).await;
        assert_eq!(node.survey_all(LONG).await, (vec![CHANNELS.to_vec(); 2], 0));
    }
    assert_eq!(nodes[2].survey_all(LONG).await, (vec![CHANNELS.to_vec(); 3], 0), "it may still ask");
}

#[tokio::test]
async fn newcomer_knows_all_nodes_before_their_next_heartbeat() {
    let (server, mut nodes) = start_nodes(2, never_again).await;
    nodes.push(start_broker_with(&server.url(), never_again));
    for node in &nodes {
        node.wait_for_nodes(3).await;
        assert_eq!(node.survey_all(LONG).await, (vec![CHANNELS.to_vec(); 3], 0));
    }
}

#[tokio::test]
async fn forged_goodbye_hides_a_node_for_a_moment_only() {
    let (server, nodes) = start_nodes(2, never_again).await;
    let forge_goodbyes = async || {
        let own: Vec<String> = server.run(&["PUBSUB", "CHANNELS", "wardcast:replies:*"]).await;
        for replies in &own {
            let instance = replies.strip_prefix("wardcast:replies:").unwrap();
            server.publish(CONTROL, &heartbeat(instance, "node", "host", b'g')).await;
        }
    };
    // At the first time, heartbeats that answer the hellos may still be on their way.
    for time in 1..=3 {
        forge_goodbyes().await;
        for node in &nodes {
            wait_until("the goodbye is refused", async || node.dropped_count("goodbye") == time).await;
            node.wait_for_nodes(2).await;
        }
    }
    // What a node has said itself stays.
    nodes[1].broker.announce_stop().await.unwrap();
    forge_goodbyes().await;
    nodes[0].wait_for_nodes(1).await;
    server.publish(CONTROL, b"the end").await;
    wait_until("everything has arrived", async || nodes[1].dropped_count("not_ours") == 1).await;
    assert_eq!(nodes[1].dropped_count("goodbye"), 3);
}

#[tokio::test]
async fn node_says_hello_at_once_when_its_subscriptions_have_reconnected() {
    let (server, nodes) = start_nodes(2, never_again).await;
    let subscribers: String = server.run(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    let mut listener = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    listener.subscribe(CONTROL).await.unwrap();
    for subscriber in subscribers.lines() {
        let id = subscriber.split([' ', '=']).nth(1).unwrap();
        server.run::<usize>(&["CLIENT", "KILL", "ID", id]).await;
    }
    let mut messages = listener.on_message();
    for _ in &nodes {
        loop {
            let message = tokio::time::timeout(PATIENCE, messages.next()).await.unwrap().unwrap();
            let bytes = message.get_payload_bytes();
            if bytes.starts_with(b"WC\x01h") && bytes.ends_with(b"h") {
                break;
            }
        }
    }
}

/// The caller has to repeat it: the sessions of the node go on.
#[tokio::test]
async fn control_that_a_node_does_not_receive_fails_until_the_node_may_have_been_killed() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let start = |url: String| start_broker_with(&url, |config| config.heartbeat_interval = Duration::from_secs(1));
    let (first, mut second) = (start(server.url()), start(proxy.url()));
    first.wait_for_nodes(2).await;
    second.wait_until_ready().await;
    let since = Stopwatch::start();
    poll_until("silent nodes would be known", async || since.elapsed() > Duration::from_secs(4)).await;
    let subscribers = async || server.run::<Vec<String>>(&["PUBSUB", "NUMSUB", CONTROL]).await[1].clone();
    let send = || first.broker.send_control(disconnect_user("ann"));
    for is_killed in [false, true] {
        send().await.unwrap();
        if is_killed {
            second = start_broker(ELSEWHERE, "wardcast");
        } else {
            proxy.set(ProxyMode::Cut);
        }
        poll_until("it receives nothing", async || subscribers().await == "1").await;
        let error = send().await.unwrap_err();
        assert!(
            matches!(&error, BrokerError::Unavailable(detail) if detail.contains("not every live node")),
            "{error}"
        );
        assert_eq!(first.metrics.nodes.get(), 2, "its heartbeats are not missed yet");
        send().await.expect("it has not been heard since");
        if !is_killed {
            proxy.set(ProxyMode::Pass);
            let before = second.controls().len();
            second.wait_until_ready().await;
            poll_until("it receives controls again", async || send().await.is_ok() && second.controls().len() > before)
                .await;
        }
    }
}

#[tokio::test]
async fn without_redis_a_survey_answers_for_its_own_node_at_once_and_names_the_others() {
    let (mut server, nodes) = start_nodes(2, often).await;
    server.kill();
    nodes[0].wait_for_outage("receives no publications").await;
    let results = join_all((0..10).map(|_| nodes[0].survey_all(LONG))).await;
    assert!(results.iter().all(|result| *result == (vec![CHANNELS.to_vec()], 1)), "{results:?}");
    server.restart().await;
    nodes[0].wait_until_ready().await;
    nodes[1].wait_until_ready().await;
    wait_until_answered_by(&nodes[0], 2).await;
}

#[tokio::test]
async fn frozen_redis_delays_a_survey_by_its_timeout_at_most() {
    let (server, first, _second) = start_pair().await;
    server.freeze();
    assert_eq!(first.survey_all(Duration::from_secs(1)).await, (vec![CHANNELS.to_vec()], 1));
    server.resume();
}

#[tokio::test]
async fn forged_heartbeats_are_bounded_and_do_not_displace_nodes() {
    let server = RedisServer::start().await;
    let few = |config: &mut RedisConfig| config.max_nodes = 10;
    let (first, second) = (start_broker_with(&server.url(), few), start_broker_with(&server.url(), few));
    first.wait_for_nodes(2).await;
    second.wait_for_nodes(2).await;
    for number in 0..100 {
        let forged = heartbeat(&format!("forged.{number}"), "forged", "nowhere", b'h');
        assert_eq!(server.publish(CONTROL, &forged).await, 2);
    }
    wait_until("those above the limit are counted", async || first.dropped_count("too_many_nodes") == 91).await;
    assert_eq!(first.metrics.nodes.get(), 11);
    let result = first.survey(Duration::from_secs(1)).await.unwrap();
    assert_eq!((result.answers.len(), result.unreachable.len()), (2, 9));
    assert!(result.unreachable.iter().all(|node| node.uid == "forged"));
    assert_eq!(second.survey_all(Duration::from_secs(1)).await, (vec![CHANNELS.to_vec(); 2], 9));
    for (message, reason) in [
        (heartbeat("", "a", "b", b'a'), "instance"),
        (heartbeat("a", "a\nb", "b", b'a'), "node"),
        (heartbeat("a", "a", &"x".repeat(256), b'a'), "node"),
        (heartbeat("a", "a", "b", b'!'), "flags"),
    ] {
        let before = first.dropped_count(reason);
        server.publish(CONTROL, &message).await;
        wait_until(&format!("{reason} is counted"), async || first.dropped_count(reason) == before + 1).await;
    }
}

#[tokio::test]
async fn concurrent_surveys_are_bounded() {
    let instance = redis_instance().await;
    instance.hubs.is_silent.store(true, Ordering::Relaxed);
    let answers = join_all((0..40).map(|_| instance.survey(Duration::from_secs(2)))).await;
    assert_eq!(answers.iter().filter(|answer| **answer == Err(BrokerError::Busy)).count(), 24);
}

#[tokio::test]
async fn node_that_has_never_reached_redis_answers_for_itself() {
    let server = RedisServer::start_stopped().await;
    let instance = start_broker_with(&server.url(), |_| ());
    assert_eq!(instance.survey_all(LONG).await, (vec![CHANNELS.to_vec()], 0));
}
