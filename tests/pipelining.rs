//! Commands sent at once whose replies together exceed the outbox: a client that reads, however slowly, gets all of them; one
//! that does not read is closed (3008). Meanwhile the connection expires, closes and receives as always.

use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use wardcast::{
    config::{ChannelAccess, Config, DeltaType},
    protocol::schema::{Command, SubscribeRequest},
};

use crate::support::{
    Client, TestHub, allow_any_rate,
    client::{Stream, tls_over},
    ping_often, poll_until,
    protobuf::ProtobufClient,
    slow_link::{SlowLink, connect_with_small_buffer},
    start_hub_with,
    tls::Certificate,
};

const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];
const MISSED: u64 = 8;
const OUTBOX_BYTES: usize = 1 << 20;
/// The missed publications of a channel are nearly half an outbox, and those of all channels nearly two.
const DATA_BYTES: usize = 60_000;
/// A rate at which the hub fills the outbox long before the client has read it.
const BYTES_PER_SECOND: usize = 4_000_000;

async fn start_history_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.history_size = 100;
        config.channels.allow_history = ChannelAccess::User;
        config.channels.allowed_delta_types = vec![DeltaType::Fossil];
        (config.limits.outbox_bytes, config.api.publication_bytes) = (OUTBOX_BYTES, OUTBOX_BYTES / 2);
        allow_any_rate(config);
        change(config);
    })
    .await
}

/// Data without a part that is in the data of another number, so that a delta is as long as the data.
fn data(number: u64) -> String {
    let mut state = number;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 59) as u8 % 26)
    };
    (0..DATA_BYTES).map(letter).collect()
}

/// Publishes what the clients have missed in each channel; returns the epochs.
async fn publish_missed(hub: &TestHub, channels: &[&str]) -> Vec<String> {
    let mut epochs = Vec::new();
    for channel in channels {
        for number in 1..MISSED {
            hub.publish(channel, json!(data(number))).await;
        }
        let request = json!({"channel": channel, "data": data(MISSED), "delta": true});
        epochs.push(hub.publish_with(request).await["epoch"].as_str().unwrap().to_owned());
    }
    epochs
}

/// A plain client over a stream of the test.
async fn connect_over(hub: &TestHub, stream: impl Stream + 'static) -> Client {
    let url = format!("ws://{}{}", hub.address, hub.path_for("ann"));
    let mut client = Client::connect_over(Box::new(stream), &url, &[]).await.unwrap();
    client.receive_connect_push().await;
    client
}

async fn connect_slowly(hub: &TestHub) -> Client {
    connect_over(hub, SlowLink::connect(hub.address, BYTES_PER_SECOND).await).await
}

fn recover(id: usize, channel: &str, epoch: &str) -> Value {
    json!({"id": id, "subscribe": {"channel": channel, "recover": true, "epoch": epoch, "offset": 0}})
}

/// Commands that recover all channels, with the ids 1 to 4.
fn recoveries(epochs: &[String], members: &Value) -> Vec<String> {
    let command = |(id, (channel, epoch)): (usize, (&&str, &String))| {
        let mut command = recover(id, channel, epoch);
        command["subscribe"].as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        command.to_string()
    };
    (1..).zip(CHANNELS.iter().zip(epochs)).map(command).collect()
}

/// The offsets of the publications in a result.
fn offsets(result: &Value) -> Vec<u64> {
    let publications = result["publications"].as_array().map(Vec::as_slice).unwrap_or_default();
    publications.iter().map(|publication| publication["offset"].as_u64().unwrap()).collect()
}

#[track_caller]
fn assert_recovered(result: &Value, channel: &str) {
    assert_eq!(result["recovered"], true, "{channel}: not recovered");
    assert_eq!(offsets(result), (1..=MISSED).collect::<Vec<_>>(), "{channel}");
}

/// Receives the replies of [`recoveries`].
async fn receive_recovered(client: &mut Client) {
    for (id, channel) in (1..).zip(CHANNELS) {
        let reply = client.receive().await;
        assert_eq!(reply["id"], id, "in the order of the commands");
        assert_recovered(&reply["subscribe"], channel);
    }
}

/// Receives the replies of [`recoveries`], then a live publication of each channel.
async fn receive_recoveries(hub: &TestHub, client: &mut Client) {
    receive_recovered(client).await;
    for channel in CHANNELS {
        hub.publish(channel, json!("live")).await;
        let push = client.receive().await;
        assert_eq!((&push["push"]["channel"], &push["push"]["pub"]["offset"]), (&json!(channel), &json!(MISSED + 1)));
    }
    assert!(hub.running().metrics.reading_pauses.get() > 0, "the replies were read faster than they were queued");
    assert_eq!(hub.running().metrics.closes_with_code(3008), 0);
}

/// Waits until the hub has stopped reading the client.
async fn wait_for_pause(hub: &TestHub) {
    poll_until("the reading is paused", async || hub.running().metrics.reading_pauses.get() > 0).await;
}

/// A client that has asked for all histories at once and has not read the replies: the hub does not read it either. Returns
/// the number of replies.
async fn connect_paused(hub: &TestHub) -> (Client, usize) {
    publish_missed(hub, &CHANNELS).await;
    let mut client = connect_over(hub, connect_with_small_buffer(hub.address).await).await;
    client.subscribe("live").await;
    let history = |id| json!({"id": id, "history": {"channel": "a", "limit": 8}}).to_string();
    client.send_text(&(1..=6).map(history).collect::<Vec<_>>().join("\n")).await;
    wait_for_pause(hub).await;
    (client, 6)
}

#[actix_rt::test]
async fn recoveries_in_one_frame_all_succeed_for_client_that_reads_slowly() {
    let hub = start_history_hub(|_| ()).await;
    let epochs = publish_missed(&hub, &CHANNELS).await;
    let mut client = connect_slowly(&hub).await;
    client.send_text(&recoveries(&epochs, &json!({})).join("\n")).await;
    receive_recoveries(&hub, &mut client).await;
}

/// The commands that are put back were counted when they were taken first.
#[actix_rt::test]
async fn recoveries_of_client_that_reads_slowly_count_once_for_the_rate_limit() {
    let hub = start_history_hub(|config| config.limits.commands_per_second = 2).await;
    let mut commands = recoveries(&publish_missed(&hub, &CHANNELS).await, &json!({}));
    let mut client = connect_slowly(&hub).await;
    commands.push(json!({"id": 5, "subscribe": {"channel": "e"}}).to_string());
    client.send_text(&commands.join("\n")).await;
    receive_recovered(&mut client).await;
    assert_eq!(client.receive().await["error"]["code"], 111);
}

#[actix_rt::test]
async fn subscriptions_that_wait_until_their_client_reads_are_not_present() {
    let hub = start_history_hub(|config| config.channels.presence = true).await;
    let commands = recoveries(&publish_missed(&hub, &CHANNELS).await, &json!({}));
    let mut client = connect_over(&hub, connect_with_small_buffer(hub.address).await).await;
    client.send_text(&commands.join("\n")).await;
    wait_for_pause(&hub).await;
    for (channel, clients) in [("a", 1), ("d", 0)] {
        let stats = hub.call_api("presence_stats", json!({"channel": channel})).await;
        assert_eq!(stats["result"]["num_clients"], clients, "{channel}: {stats}");
    }
}

#[actix_rt::test]
async fn recoveries_with_deltas_in_a_frame_each_all_succeed_for_client_that_reads_slowly() {
    let hub = start_history_hub(|_| ()).await;
    let epochs = publish_missed(&hub, &CHANNELS).await;
    let mut client = connect_slowly(&hub).await;
    for command in recoveries(&epochs, &json!({"delta": "fossil"})) {
        client.send_text(&command).await;
    }
    receive_recoveries(&hub, &mut client).await;
}

#[actix_rt::test]
async fn recoveries_over_tls_all_succeed_for_client_that_reads_slowly() {
    let certificate = Certificate::new();
    let hub = start_hub_with(|config| {
        certificate.configure(config);
        config.channels.history_size = 100;
    })
    .await;
    let mut publisher = Client::connect_tls(hub.address, &hub.path_for("bob"), certificate.root()).await.unwrap();
    publisher.receive_connect_push().await;
    for channel in CHANNELS {
        for number in 1..=MISSED {
            publisher.publish(channel, json!(data(number))).await;
        }
    }
    let link = SlowLink::connect(hub.address, BYTES_PER_SECOND).await;
    let mut client = connect_over(&hub, tls_over(link, certificate.root()).await.unwrap()).await;
    client.send_text(&recoveries(&vec![String::new(); 4], &json!({})).join("\n")).await;
    receive_recovered(&mut client).await;
    assert!(hub.running().metrics.reading_pauses.get() > 0);
}

#[actix_rt::test]
async fn recoveries_in_protobuf_all_succeed_for_client_that_reads_slowly() {
    let hub = start_history_hub(|_| ()).await;
    publish_missed(&hub, &CHANNELS).await;
    let url = format!("ws://{}{}&format=protobuf", hub.address, hub.path_for("ann"));
    let link = SlowLink::connect(hub.address, BYTES_PER_SECOND).await;
    let mut client = ProtobufClient::new(Client::connect_over(Box::new(link), &url, &[]).await.unwrap());
    assert!(client.receive().await.push.is_some(), "a connect push");
    let command = |(id, channel): (u32, &str)| {
        let subscribe = SubscribeRequest { channel: channel.to_owned(), recover: true, ..Default::default() };
        Command { id, subscribe: Some(subscribe), ..Default::default() }.encode_length_delimited_to_vec()
    };
    let commands: Vec<u8> = (1..).zip(CHANNELS).flat_map(command).collect();
    client.send_bytes(commands).await;
    for id in 1..=4 {
        let reply = client.receive().await;
        let result = reply.subscribe.expect("a result");
        assert_eq!((reply.id, result.recovered, result.publications.len()), (id, true, MISSED as usize));
    }
    assert!(hub.running().metrics.reading_pauses.get() > 0);
}

#[actix_rt::test]
async fn large_replies_to_any_commands_do_not_close_client_that_reads_slowly() {
    let hub = start_history_hub(|config| {
        config.channels.presence = true;
        config.channels.allow_presence = ChannelAccess::User;
    })
    .await;
    publish_missed(&hub, &["a"]).await;
    let crowd = futures_util::future::join_all((0..12).map(|number| {
        let claims = json!({"sub": format!("user {number}"), "exp": 600, "info": "x".repeat(3000), "channels": ["a"]});
        hub.connect_with_claims(claims)
    }))
    .await;
    let mut client = connect_slowly(&hub).await;
    for id in 1..=60 {
        let command = match id % 3 {
            0 => json!({"id": id, "history": {"channel": "a", "limit": 8}}),
            1 => json!({"id": id, "presence": {"channel": "a"}}),
            _ => json!({"id": id, "ping": {}}),
        };
        client.send(command).await;
    }
    for id in 1..=60 {
        let reply = client.receive().await;
        assert_eq!(reply["id"], id, "{reply}");
        match id % 3 {
            0 => assert_eq!(offsets(&reply["history"]).len(), MISSED as usize),
            1 => assert_eq!(reply["presence"]["presence"].as_object().unwrap().len(), crowd.len()),
            _ => assert!(reply["ping"].is_object()),
        }
    }
    assert!(hub.running().metrics.reading_pauses.get() > 0);
}

#[actix_rt::test]
async fn live_publications_do_not_close_client_that_reads_its_recoveries_steadily() {
    let hub = start_history_hub(|_| ()).await;
    let epochs = publish_missed(&hub, &CHANNELS).await;
    let mut client = connect_slowly(&hub).await;
    client.subscribe("live").await;
    client.send_text(&recoveries(&epochs, &json!({})).join("\n")).await;
    let (mut recovered, mut live) = (0, 0);
    // A live publication for each quarter of a recovery.
    let mut publisher = hub.connect("bob").await;
    while recovered < CHANNELS.len() {
        publisher.publish("live", json!("x".repeat(60_000))).await;
        live += 1;
        for _ in 0..2 {
            let message = client.receive().await;
            if message["id"].is_u64() {
                assert_recovered(&message["subscribe"], CHANNELS[recovered]);
                recovered += 1;
            } else {
                live -= 1;
            }
            if live == 0 {
                break;
            }
        }
    }
    assert_eq!(hub.running().metrics.closes_with_code(3008), 0);
}

#[actix_rt::test]
async fn api_subscriptions_with_recovery_all_succeed_for_client_that_reads_slowly() {
    let hub = start_history_hub(|_| ()).await;
    publish_missed(&hub, &CHANNELS).await;
    let mut client = connect_over(&hub, connect_with_small_buffer(hub.address).await).await;
    for channel in CHANNELS {
        let request = json!({"user": "ann", "channel": channel, "recover_since": {"offset": 0}});
        hub.call_api("subscribe", request).await;
    }
    wait_for_pause(&hub).await;
    // The last one has not begun, and is withdrawn.
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "d"})).await;
    hub.wait_until_controls_are_applied("ann", "e").await;
    for channel in ["a", "e", "b", "c"] {
        let (push, missed) = (client.receive().await, if channel == "e" { 0 } else { MISSED });
        let is_recovered = push["push"]["subscribe"]["recovered"].as_bool().unwrap_or(false);
        assert_eq!((&push["push"]["channel"], is_recovered), (&json!(channel), missed > 0));
        for offset in 1..=missed {
            let push = client.receive().await;
            assert_eq!((&push["push"]["channel"], &push["push"]["pub"]["offset"]), (&json!(channel), &json!(offset)));
        }
    }
    assert_eq!(client.request(json!({"id": 1, "ping": {}})).await["id"], 1);
    hub.wait_for_channels(&[("a", 1), ("b", 1), ("c", 1), ("e", 1)]).await;
}

#[actix_rt::test]
async fn client_that_does_not_read_its_replies_is_closed_with_3008_and_others_continue() {
    let hub = start_history_hub(|config| config.limits.outbox_stall = Duration::from_millis(500)).await;
    let mut other = hub.connect_subscriber("bob", "news").await;
    let (client, _) = connect_paused(&hub).await;
    poll_until("a close with 3008", async || hub.running().metrics.closes_with_code(3008) == 1).await;
    hub.wait_for_connections(1).await;
    drop(client);
    hub.publish("news", json!(1)).await;
    assert_eq!(other.receive_publication().await, 1);
}

#[actix_rt::test]
async fn client_that_reads_slowly_is_not_closed_for_a_pong_that_waits_behind_its_commands() {
    let hub = start_history_hub(ping_often).await;
    publish_missed(&hub, &["a"]).await;
    // Each reply takes longer than a ping and its pong may take.
    let link = SlowLink::connect(hub.address, 600_000).await;
    let mut client = connect_over(&hub, link).await;
    for id in 1..=4 {
        client.send(json!({"id": id, "history": {"channel": "a", "limit": 8}})).await;
    }
    for id in 1..=4 {
        assert_eq!(client.receive().await["id"], id);
    }
    assert!(hub.running().metrics.reading_pauses.get() > 0);
}

#[actix_rt::test]
async fn client_may_rest_from_reading_for_longer_than_a_ping_and_its_pong_take() {
    let hub = start_history_hub(ping_often).await;
    let (mut client, replies) = connect_paused(&hub).await;
    // Twice what `ping_often` leaves for a ping and its pong, and less than `limits.outbox_stall`.
    actix_rt::time::sleep(Duration::from_secs(3)).await;
    for id in 1..=replies {
        assert_eq!(client.receive().await["id"], id);
    }
}

#[actix_rt::test]
async fn paused_session_expires_on_time() {
    let hub = start_history_hub(|_| ()).await;
    let (mut client, _) = connect_paused(&hub).await;
    hub.clock.advance(Duration::from_secs(3601));
    hub.wait_for_connections(0).await;
    while client.next().await.is_ok() {}
    assert_eq!(hub.running().metrics.closes_with_code(3005), 1);
}

#[actix_rt::test]
async fn paused_session_is_disconnected_by_the_api() {
    let hub = start_history_hub(|_| ()).await;
    let (mut client, _) = connect_paused(&hub).await;
    hub.call_api("disconnect", json!({"user": "ann"})).await;
    assert_eq!(client.wait_for_close().await, (Some(3503), "force disconnect".to_owned()));
}

#[actix_rt::test]
async fn paused_session_follows_controls_and_receives_publications() {
    let hub = start_history_hub(|_| ()).await;
    let (mut client, replies) = connect_paused(&hub).await;
    let expire_at = hub.clock.now().unix_seconds() + 7200;
    hub.call_api("refresh", json!({"user": "ann", "expire_at": expire_at})).await;
    hub.call_api("subscribe", json!({"user": "ann", "channel": "added"})).await;
    hub.wait_for_channels(&[("live", 1), ("added", 1)]).await;
    hub.publish("added", json!("first")).await;
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "live"})).await;
    hub.wait_for_channels(&[("added", 1)]).await;
    // The old token would have expired.
    hub.clock.advance(Duration::from_secs(3700));
    let (mut replied, mut pushed) = (0, Vec::new());
    while replied < replies {
        let message = client.receive().await;
        replied += usize::from(message["id"].is_u64());
        pushed.extend(message["push"].as_object().into_iter().flat_map(|push| push.keys()).cloned());
    }
    pushed.retain(|key| key != "channel");
    assert_eq!(pushed, ["refresh", "subscribe", "pub", "unsubscribe"]);
}

#[actix_rt::test]
async fn api_unsubscribe_of_a_live_channel_withdraws_its_recovery_that_waits() {
    let hub = start_history_hub(|_| ()).await;
    let (mut client, replies) = connect_paused(&hub).await;
    hub.call_api("subscribe", json!({"user": "ann", "channel": "live", "recover_since": {"offset": 0}})).await;
    hub.call_api("unsubscribe", json!({"user": "ann", "channel": "live"})).await;
    hub.wait_for_channels(&[]).await;
    let (mut replied, mut pushed) = (0, Vec::new());
    while replied < replies {
        let message = client.receive().await;
        replied += usize::from(message["id"].is_u64());
        pushed.extend(message["push"].as_object().into_iter().flat_map(|push| push.keys()).cloned());
    }
    let ping = json!({"id": 7, "ping": {}});
    assert_eq!(client.request(ping.clone()).await, ping, "no subscribe push");
    pushed.retain(|key| key != "channel");
    assert_eq!(pushed, ["unsubscribe"]);
    hub.wait_for_channels(&[]).await;
}

#[actix_rt::test]
async fn close_frame_behind_commands_is_answered_when_their_replies_are_read() {
    let hub = start_history_hub(|_| ()).await;
    let (mut client, replies) = connect_paused(&hub).await;
    client.send_message(Message::Close(None)).await;
    let mut received = 0;
    while client.next().await.is_ok() {
        received += 1;
    }
    assert_eq!(received, replies);
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn paused_client_that_vanishes_is_forgotten() {
    let hub = start_history_hub(|_| ()).await;
    let (client, _) = connect_paused(&hub).await;
    drop(client);
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn publications_alone_do_not_hold_up_the_command_that_ends_them() {
    let hub = start_history_hub(|_| ()).await;
    let mut client = connect_over(&hub, connect_with_small_buffer(hub.address).await).await;
    client.subscribe("live").await;
    // More than the kernel accepts and than the low-water mark.
    while hub.metric("wardcast_sockets_full_total").await == 0.0 {
        hub.publish("live", json!("x".repeat(60_000))).await;
    }
    for _ in 0..8 {
        hub.publish("live", json!("x".repeat(60_000))).await;
    }
    client.send(json!({"id": 2, "unsubscribe": {"channel": "live"}})).await;
    hub.wait_for_channels(&[]).await;
}
