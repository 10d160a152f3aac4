//! Channels with `delivery_interval` and `conflate`: what waits is sent together, and no subscriber loses more than it should.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use wardcast::config::{Config, DeltaType};

use crate::{
    deltas::{DeltaReader, data},
    support::{Client, TestHub, allow_any_rate, start_hub_with},
};

/// Longer than a test takes to publish, so that everything after the first publication waits.
const LONG: Duration = Duration::from_secs(1);

async fn start_paced_hub(interval: Duration, change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.delivery_interval = interval;
        config.channels.history_size = 1000;
        allow_any_rate(config);
        change(config);
    })
    .await
}

async fn start_conflating_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_paced_hub(LONG, |config| {
        config.channels.conflate = true;
        change(config);
    })
    .await
}

async fn publish_numbers(hub: &TestHub, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        hub.publish("news", json!(number)).await;
    }
}

/// Publishes numbers with tags in one call, so that all but the first wait together.
async fn publish_tagged(hub: &TestHub, publications: &[(u64, Value)]) {
    for (number, tags) in publications {
        hub.publish_with(json!({"channel": "news", "data": number, "tags": tags})).await;
    }
}

async fn receive_numbers(client: &mut Client, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(client.receive_publication().await.as_u64().unwrap());
    }
    numbers
}

fn city(name: &str) -> Value {
    json!({"city": name})
}

#[actix_rt::test]
async fn first_publication_is_sent_at_once_and_those_within_the_interval_together_after_it() {
    let hub = start_paced_hub(LONG, |_| ()).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let start = Instant::now();
    publish_numbers(&hub, 1..=5).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [1]);
    let first = start.elapsed();
    assert_eq!(receive_numbers(&mut ann, 1).await, [2]);
    let second = start.elapsed();
    assert_eq!(receive_numbers(&mut ann, 3).await, [3, 4, 5]);
    assert!(first < LONG && second >= LONG, "{first:?} {second:?}");
    assert_eq!(hub.metric("wardcast_deliveries_total").await, 5.0);
}

#[actix_rt::test]
async fn channel_without_the_option_is_not_delayed_by_one_with_it() {
    let hub = start_hub_with(|config| {
        let mut channels = config.channels.clone();
        channels.delivery_interval = LONG;
        config.namespaces.push(wardcast::config::Namespace { name: "slow".to_owned(), channels });
    })
    .await;
    let mut ann = hub.connect_subscriber("ann", "slow:a").await;
    let mut bob = hub.connect_subscriber("bob", "news").await;
    let start = Instant::now();
    for number in 1..=3 {
        hub.publish("slow:a", json!(number)).await;
        hub.publish("news", json!(number)).await;
    }
    assert_eq!(receive_numbers(&mut bob, 3).await, [1, 2, 3]);
    assert!(start.elapsed() < LONG);
    assert_eq!(receive_numbers(&mut ann, 3).await, [1, 2, 3]);
    assert!(start.elapsed() >= LONG);
}

#[actix_rt::test]
async fn conflation_sends_the_newest_and_its_offset_and_recovery_has_all() {
    let hub = start_conflating_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    let reply = ann.subscribe_with("news", json!({"recoverable": true})).await;
    let epoch = reply["subscribe"]["epoch"].clone();
    publish_numbers(&hub, 1..=6).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [1]);
    let push = ann.receive().await;
    assert_eq!((&push["push"]["pub"]["data"], &push["push"]["pub"]["offset"]), (&json!(6), &json!(6)), "{push}");
    // What conflation left out is no gap, neither now nor for a client that comes back.
    publish_numbers(&hub, 7..=7).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [7]);
    for (offset, missed) in [(7, vec![]), (6, vec![7]), (3, vec![4, 5, 6, 7])] {
        let mut back = hub.connect("ann").await;
        let reply = back.subscribe_with("news", json!({"recover": true, "epoch": epoch, "offset": offset})).await;
        let publications = reply["subscribe"]["publications"].as_array().cloned().unwrap_or_default();
        let numbers: Vec<u64> = publications.iter().map(|publication| publication["data"].as_u64().unwrap()).collect();
        assert_eq!((numbers, &reply["subscribe"]["recovered"]), (missed, &json!(true)), "{reply}");
    }
    let history = hub.call_api("history", json!({"channel": "news", "limit": 100})).await;
    assert_eq!(history["result"]["publications"].as_array().unwrap().len(), 7);
    let request = json!({"user": "ann", "channel": "news", "offset": 4, "epoch": epoch});
    let explained = hub.call_api("explain", request).await;
    assert_eq!(explained["result"]["cause"], "conflated", "{explained}");
}

#[actix_rt::test]
async fn conflation_by_tag_sends_the_newest_of_each_value_and_all_without_the_tag() {
    let hub = start_conflating_hub(|config| "city".clone_into(&mut config.channels.conflate_by_tag)).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let publications = [
        (1, city("bern")),
        (2, city("bern")),
        (3, json!({})),
        (4, city("rome")),
        (5, city("bern")),
        (6, json!({"other": "bern"})),
        (7, city("rome")),
    ];
    publish_tagged(&hub, &publications).await;
    assert_eq!(receive_numbers(&mut ann, 5).await, [1, 3, 5, 6, 7]);
}

#[actix_rt::test]
async fn conflation_keeps_what_only_filtered_or_excluded_subscribers_would_miss() {
    let hub = start_conflating_hub(|_| ()).await;
    let mut ann = hub.connect("ann").await;
    let filter = json!({"key": "city", "cmp": "eq", "val": "bern"});
    let reply = ann.subscribe_with("news", json!({"tf": filter, "recoverable": true})).await;
    let epoch = reply["subscribe"]["epoch"].clone();
    let (mut bob, connect) = hub.connect_with_claims(json!({"sub": "bob", "exp": 60})).await;
    bob.subscribe_with("news", json!({})).await;
    let mut cat = hub.connect_subscriber("cat", "news").await;
    publish_tagged(&hub, &[(1, city("bern")), (2, city("bern")), (3, city("bern")), (4, city("rome"))]).await;
    let excluding = json!({"channel": "news", "data": 5, "tags": city("rome"), "exclude": connect["client"]});
    hub.publish_with(excluding).await;
    assert_eq!(receive_numbers(&mut ann, 2).await, [1, 3], "the newest that matches");
    assert_eq!(receive_numbers(&mut bob, 2).await, [1, 4], "the newest that does not exclude it");
    assert_eq!(receive_numbers(&mut cat, 2).await, [1, 5]);
    // The filter has compared what conflation left out: the client has missed nothing after its offset.
    let mut back = hub.connect("ann").await;
    let members = json!({"tf": filter, "recover": true, "epoch": epoch, "offset": 3});
    let reply = back.subscribe_with("news", members).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["publications"]), (&json!(true), &Value::Null));
}

#[actix_rt::test]
async fn deltas_are_correct_with_and_without_conflation() {
    for conflate in [false, true] {
        let hub = start_paced_hub(LONG, |config| {
            config.channels.conflate = conflate;
            config.channels.allowed_delta_types = vec![DeltaType::Fossil];
            config.channels.delta_publish = true;
        })
        .await;
        let (mut ann, mut reader) = (hub.connect("ann").await, DeltaReader::default());
        ann.subscribe_with("news", json!({"delta": "fossil"})).await;
        let (mut bob, connect) = hub.connect_with_claims(json!({"sub": "bob", "exp": 60})).await;
        let mut bob_reader = DeltaReader::default();
        bob.subscribe_with("news", json!({"delta": "fossil"})).await;
        for number in 1..=4 {
            hub.publish("news", data(number)).await;
        }
        let excluding = json!({"channel": "news", "data": data(5), "exclude": connect["client"]});
        hub.publish_with(excluding).await;
        let (ann_gets, bob_gets): (&[u64], &[u64]) =
            if conflate { (&[1, 5], &[1, 4]) } else { (&[1, 2, 3, 4, 5], &[1, 2, 3, 4]) };
        for number in ann_gets {
            assert_eq!(reader.receive(&mut ann).await, data(*number));
        }
        for number in bob_gets {
            assert_eq!(bob_reader.receive(&mut bob).await, data(*number));
        }
        assert_eq!((reader.deltas, bob_reader.deltas), (ann_gets.len() - 1, bob_gets.len() - 1));
        // A client that subscribes now, and the one that was excluded, have no base.
        let (mut cat, mut cat_reader) = (hub.connect("cat").await, DeltaReader::default());
        cat.subscribe_with("news", json!({"delta": "fossil"})).await;
        hub.publish("news", data(6)).await;
        for (client, reader) in [(&mut ann, &mut reader), (&mut bob, &mut bob_reader), (&mut cat, &mut cat_reader)] {
            assert_eq!(reader.receive(client).await, data(6));
        }
        assert_eq!((reader.deltas, bob_reader.deltas, cat_reader.deltas), (ann_gets.len(), bob_gets.len() - 1, 0));
    }
}

#[actix_rt::test]
async fn joins_and_leaves_are_sent_in_their_order_whatever_is_conflated() {
    let hub = start_conflating_hub(|config| {
        config.channels.join_leave = true;
        config.channels.force_push_join_leave = true;
    })
    .await;
    let mut ann = hub.connect("ann").await;
    ann.subscribe_with("news", json!({})).await;
    // Her own join is the first delivery.
    assert!(ann.receive().await["push"]["join"].is_object());
    publish_numbers(&hub, 1..=1).await;
    let mut bob = hub.connect("bob").await;
    bob.subscribe_with("news", json!({})).await;
    publish_numbers(&hub, 2..=2).await;
    drop(bob);
    hub.wait_for_connections(1).await;
    let mut seen = Vec::new();
    while !seen.contains(&"leave") {
        let push = ann.receive().await["push"].take();
        seen.extend(["join", "leave", "pub"].into_iter().filter(|kind| push.get(*kind).is_some()));
    }
    assert_eq!(seen, ["join", "pub", "leave"]);
}

#[actix_rt::test]
async fn what_waits_above_the_limit_is_sent_early() {
    let hub = start_conflating_hub(|config| config.limits.paced_publications = 3).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let start = Instant::now();
    publish_numbers(&hub, 1..=4).await;
    assert_eq!(receive_numbers(&mut ann, 2).await, [1, 4]);
    assert!(start.elapsed() < LONG);
    publish_numbers(&hub, 5..=5).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [5]);
    assert!(start.elapsed() >= LONG, "the interval goes on");
}

/// Otherwise a batch may be larger than every outbox that begins after the reload, again and again.
#[actix_rt::test]
async fn batches_fit_into_outboxes_that_a_reload_has_made_smaller() {
    const OUTBOX: usize = 1 << 18;
    let hub = start_paced_hub(LONG, |config| {
        config.limits.outbox_bytes = 8 * OUTBOX;
        config.limits.paced_bytes = 2 * OUTBOX;
        config.channels.history_size = 0;
    })
    .await;
    let mut config = hub.config.clone();
    config.limits.outbox_bytes = OUTBOX;
    hub.running().reload_config(&config).unwrap();
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let data = "x".repeat(OUTBOX / 16);
    let publish = async {
        for number in 1..=24 {
            hub.publish("news", json!([number, data])).await;
        }
    };
    let receive = async {
        for number in 1..=24 {
            assert_eq!(ann.receive_publication().await[0], json!(number));
        }
    };
    futures_util::future::join(publish, receive).await;
    // The same limit for more publications at once.
    config.limits.paced_publications = 3;
    hub.running().reload_config(&config).unwrap();
    let start = Instant::now();
    publish_numbers(&hub, 25..=32).await;
    // Two batches of three. One that was sent alone, after a quiet interval, may have come before them.
    assert_eq!(receive_numbers(&mut ann, 6).await, (25..=30).collect::<Vec<_>>());
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[actix_rt::test]
async fn unsubscribed_client_gets_nothing_that_waited_and_recovers_it_once() {
    let hub = start_paced_hub(LONG, |_| ()).await;
    let mut ann = hub.connect("ann").await;
    let reply = ann.subscribe_with("news", json!({"recoverable": true})).await;
    let epoch = reply["subscribe"]["epoch"].clone();
    publish_numbers(&hub, 1..=2).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [1]);
    let reply = ann.request(json!({"id": 2, "unsubscribe": {"channel": "news"}})).await;
    assert_eq!(reply["id"], 2, "{reply}");
    let reply = ann.subscribe_with("news", json!({"recover": true, "epoch": epoch, "offset": 1})).await;
    assert_eq!(reply["subscribe"]["publications"].as_array().unwrap().len(), 1, "{reply}");
    publish_numbers(&hub, 3..=3).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [3]);
}

#[actix_rt::test]
async fn revoked_session_gets_nothing_that_waited() {
    let hub = start_paced_hub(LONG, |_| ()).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    publish_numbers(&hub, 1..=2).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [1]);
    let answer = hub.call_api("invalidate_user_tokens", json!({"user": "ann"})).await;
    assert_eq!(answer, json!({"result": {}}));
    assert_eq!(ann.next().await.map_err(|closed| closed.code), Err(Some(3500)));
}

#[actix_rt::test]
async fn expired_session_gets_nothing_that_waited() {
    let hub = start_paced_hub(LONG, |_| ()).await;
    let (mut ann, _) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    ann.subscribe("news").await;
    publish_numbers(&hub, 1..=2).await;
    assert_eq!(receive_numbers(&mut ann, 1).await, [1]);
    hub.clock.advance(Duration::from_secs(61));
    let closed = loop {
        match ann.next().await {
            Ok(text) => assert!(!text.contains("\"pub\""), "{text}"),
            Err(closed) => break closed.code,
        }
    };
    assert_eq!(closed, Some(3005));
}

/// Clients come and go on all workers while numbers are published; each gets all of them, once and in order.
#[actix_rt::test]
async fn reconnecting_clients_of_a_paced_channel_miss_and_repeat_nothing() {
    const LAST: u64 = 300;
    let hub = start_paced_hub(Duration::from_millis(7), |config| {
        config.channels.force_positioning = true;
        config.limits.recovered_publications = 1000;
    })
    .await;
    let publish = publish_numbers(&hub, 1..=LAST);
    let clients = (0..8_usize).map(|number| {
        let hub = &hub;
        async move {
            let (mut received, mut epoch, mut turn) = (0, Value::from(""), number);
            while received < LAST {
                let mut client = hub.connect("ann").await;
                let members = json!({"recover": true, "epoch": epoch, "offset": received});
                let reply = client.subscribe_with("news", members).await["subscribe"].take();
                if let Some(first) = reply["epoch"].as_str() {
                    epoch = first.into();
                }
                for publication in reply["publications"].as_array().into_iter().flatten() {
                    assert_eq!(publication["offset"], received + 1, "{reply}");
                    received += 1;
                }
                turn = (turn * 7 + 3) % 23;
                for _ in 0..turn {
                    if received == LAST {
                        break;
                    }
                    let push = client.receive().await;
                    assert_eq!(push["push"]["pub"]["offset"], received + 1, "{push}");
                    received += 1;
                }
            }
        }
    });
    futures_util::future::join(publish, join_all(clients)).await;
}
