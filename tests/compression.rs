//! permessage-deflate (RFC 7692): what is negotiated, that compressed and other connections receive the same, and what metrics
//! show of it.

use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};
use wardcast::{
    config::{Config, DeltaType},
    protocol::schema::{Command, PublishRequest},
};

use crate::{
    bench::{bench, count, report},
    deltas::{DeltaReader, data},
    support::{
        TestHub, allow_any_rate,
        client::tls_stream,
        deflate::{DeflateClient, EXTENSIONS, OFFER, deflate},
        raw::{BINARY, CONTINUATION, FIN, PING, RSV1, TEXT, frame, text_frame},
        start_hub, start_hub_with,
        tls::Certificate,
    },
};

const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

pub async fn start_compressing_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.server.compression.enabled = true;
        config.server.compression.min_bytes = 200;
        change(config);
    })
    .await
}

/// Data that becomes much shorter.
fn long_data(number: u64) -> Value {
    json!({"number": number, "text": "äöü the same words again and again ".repeat(20)})
}

#[actix_rt::test]
async fn compression_is_negotiated_only_if_it_is_enabled_and_offered() {
    let (on, off) = (start_compressing_hub(|_| ()).await, start_hub().await);
    let limited = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12";
    let declined = "permessage-deflate; server_max_window_bits=8";
    let both = format!("{declined}, {limited}");
    let with_window = format!("{ACCEPTED}; server_max_window_bits=12");
    for (offers, expected) in [
        (&[][..], None),
        (&[OFFER.1], Some(ACCEPTED)),
        (&[limited], Some(with_window.as_str())),
        (&[declined], None),
        (&[both.as_str()], Some(with_window.as_str())),
        (&["x-unknown; a=\"b\"", OFFER.1], Some(ACCEPTED)),
    ] {
        let headers: Vec<(&str, &str)> = offers.iter().map(|offer| (EXTENSIONS, *offer)).collect();
        for format in ["", "&format=protobuf"] {
            let client = DeflateClient::connect(&on, &format!("{}{format}", on.path_for("ann")), &headers).await;
            assert_eq!(client.accepted_extensions(), expected, "{offers:?}");
        }
        let client = DeflateClient::connect(&off, &off.path_for("ann"), &headers).await;
        assert_eq!(client.accepted_extensions(), None, "{offers:?}");
    }
    let malformed = &[(EXTENSIONS, "permessage-deflate; =")];
    let refused = on.try_handshake(&on.path_for("ann"), malformed).await;
    assert!(refused.status == 400 && refused.body.contains("Sec-WebSocket-Extensions"), "{refused:?}");
    assert_eq!(off.try_handshake(&off.path_for("ann"), malformed).await.status, 101);
}

#[actix_rt::test]
async fn subscribers_with_and_without_compression_receive_the_same_in_both_formats() {
    let hub = start_compressing_hub(|_| ()).await;
    let (json_path, protobuf_path) = (hub.path_for("ann"), format!("{}&format=protobuf", hub.path_for("ann")));
    let mut clients = Vec::new();
    for (path, headers) in [
        (&json_path, &[][..]),
        (&json_path, &[OFFER]),
        (&json_path, &[OFFER]),
        (&protobuf_path, &[]),
        (&protobuf_path, &[OFFER]),
        (&protobuf_path, &[OFFER]),
    ] {
        let mut client = DeflateClient::connect(&hub, path, headers).await;
        if *path == json_path {
            client.subscribe("news", json!({})).await;
        } else {
            client.subscribe_protobuf("news").await;
        }
        clients.push(client);
    }
    for (data, is_long) in [(json!("short"), false), (long_data(1), true), (json!(2), false), (long_data(3), true)] {
        hub.publish("news", data.clone()).await;
        let mut received = Vec::new();
        for client in &mut clients {
            received.push(client.receive().await);
        }
        assert_eq!(received[1].json()["push"]["pub"]["data"], data);
        let publication = received[4].protobuf().push.unwrap().r#pub.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&publication.data).unwrap(), data);
        for [plain, compressed, other] in [[0, 1, 2], [3, 4, 5]] {
            let [plain, compressed, other] = [plain, compressed, other].map(|index| &received[index]);
            assert_eq!((plain.is_compressed, compressed.is_compressed), (false, is_long), "{data}");
            assert_eq!(plain.message(), compressed.message());
            assert_eq!(compressed.payload, other.payload);
            assert!(!is_long || compressed.payload.len() < plain.payload.len() / 3, "{compressed:?}");
        }
    }
    assert_eq!(hub.metric("wardcast_deliveries_total").await, 24.0);
}

#[actix_rt::test]
async fn deltas_and_replies_are_compressed() {
    let hub = start_compressing_hub(|config| {
        config.channels.allowed_delta_types = vec![DeltaType::Fossil];
        config.channels.history_size = 10;
    })
    .await;
    let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
    ann.subscribe("news", json!({"delta": "fossil"})).await;
    let mut reader = DeltaReader::default();
    for number in 1..=3 {
        hub.publish_with(json!({"channel": "news", "data": data(number), "delta": true})).await;
        let received = ann.receive().await;
        assert_eq!(reader.read(&received.json()["push"]["pub"]), data(number));
        assert_eq!(received.is_compressed, number == 1, "a delta is short: {received:?}");
    }
    assert_eq!(reader.deltas, 2);
    // The reply has all of them.
    let mut bob = DeflateClient::connect(&hub, &hub.path_for("bob"), &[OFFER]).await;
    let recover = json!({"channel": "news", "recoverable": true, "recover": true, "offset": 0});
    bob.send(&text_frame(&json!({"id": 1, "subscribe": recover}).to_string())).await;
    let reply = bob.receive().await;
    assert!(reply.is_compressed && reply.payload.len() < reply.message().len() / 2, "{reply:?}");
    assert_eq!(reply.json()["subscribe"]["publications"].as_array().unwrap().len(), 3, "{reply:?}");
}

/// The server API announces a subscription and its missed publications together, in a frame each.
#[actix_rt::test]
async fn subscription_of_the_server_api_is_compressed_frame_by_frame() {
    let hub = start_compressing_hub(|config| config.channels.history_size = 10).await;
    for number in 1..=3 {
        hub.publish("news", long_data(number)).await;
    }
    let mut json = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
    let path = format!("{}&format=protobuf", hub.path_for("ann"));
    let mut protobuf = DeflateClient::connect(&hub, &path, &[OFFER]).await;
    let request = json!({"user": "ann", "channel": "news", "recover_since": {"offset": 0}});
    assert_eq!(hub.call_api("subscribe", request).await, json!({"result": {}}));
    assert!(json.receive().await.json()["push"]["subscribe"].is_object());
    assert!(protobuf.receive().await.protobuf().push.unwrap().subscribe.is_some());
    for number in 1..=3 {
        let received = json.receive().await;
        assert!(received.is_compressed, "{received:?}");
        assert_eq!(received.json()["push"]["pub"]["data"], long_data(number));
        let publication = protobuf.receive().await.protobuf().push.unwrap().r#pub.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&publication.data).unwrap(), long_data(number));
    }
}

#[actix_rt::test]
async fn message_over_the_maximum_is_sent_as_it_is() {
    let hub = start_compressing_hub(|config| config.server.compression.max_bytes = 1000).await;
    let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
    ann.subscribe("news", json!({})).await;
    for (length, is_compressed) in [(900, true), (1000, false)] {
        hub.publish("news", json!("x".repeat(length))).await;
        assert_eq!(ann.receive().await.is_compressed, is_compressed, "{length}");
    }
}

#[actix_rt::test]
async fn limit_of_a_reply_counts_its_bytes_before_compression() {
    let hub = start_compressing_hub(|config| {
        config.limits.reply_bytes = 16_384;
        (config.limits.publication_bytes, config.api.publication_bytes) = (4096, 4096);
        config.channels.history_size = 100;
    })
    .await;
    // Not by its data, but by its tags a publication is long.
    let tags: Value =
        (0..8).map(|number| (format!("tag{number}"), json!("x".repeat(100)))).collect::<serde_json::Map<_, _>>().into();
    for number in 0..40 {
        hub.publish_with(json!({"channel": "news", "data": number, "tags": tags})).await;
    }
    for (headers, since, recovered) in [(&[][..], 0, None), (&[OFFER], 0, None), (&[OFFER], 30, Some(true))] {
        let mut client = DeflateClient::connect(&hub, &hub.path_for("ann"), headers).await;
        let recover = json!({"channel": "news", "recoverable": true, "recover": true, "offset": since});
        client.send(&text_frame(&json!({"id": 1, "subscribe": recover}).to_string())).await;
        let reply = client.receive().await.json();
        assert_eq!(reply["subscribe"]["recovered"].as_bool(), recovered, "{reply}");
        assert_eq!(reply["subscribe"]["was_recovering"], true, "{reply}");
    }
}

#[actix_rt::test]
async fn batches_of_a_paced_channel_are_compressed_message_by_message() {
    let hub = start_compressing_hub(|config| {
        config.channels.delivery_interval = Duration::from_millis(500);
        allow_any_rate(config);
    })
    .await;
    let (mut ann, mut bob) =
        (DeflateClient::connect_subscriber(&hub, "news").await, hub.connect_subscriber("bob", "news").await);
    for number in 1..=5 {
        let data = if number == 3 { json!(3) } else { long_data(number) };
        hub.publish("news", data).await;
    }
    for number in 1..=5 {
        let received = ann.receive().await;
        let data = received.json()["push"]["pub"]["data"].take();
        assert_eq!(received.is_compressed, number != 3, "{received:?}");
        assert_eq!(data, if number == 3 { json!(3) } else { long_data(number) });
        assert_eq!(bob.receive_publication().await, data);
    }
}

#[actix_rt::test]
async fn batches_with_deltas_are_the_same_with_and_without_compression() {
    for min_bytes in [0, 200] {
        let hub = start_compressing_hub(|config| {
            config.channels.delivery_interval = Duration::from_millis(500);
            config.channels.allowed_delta_types = vec![DeltaType::Fossil];
            config.channels.delta_publish = true;
            config.server.compression.min_bytes = min_bytes;
            allow_any_rate(config);
        })
        .await;
        let mut clients = Vec::new();
        for (headers, members) in [
            (&[][..], json!({"delta": "fossil"})),
            (&[OFFER], json!({"delta": "fossil"})),
            (&[OFFER], json!({"delta": "fossil"})),
            (&[OFFER], json!({})),
        ] {
            let mut client = DeflateClient::connect(&hub, &hub.path_for("ann"), headers).await;
            client.subscribe("news", members).await;
            clients.push(client);
        }
        let mut readers: Vec<DeltaReader> = Vec::new();
        readers.resize_with(3, DeltaReader::default);
        for number in 1..=6 {
            hub.publish("news", data(number)).await;
        }
        for number in 1..=6 {
            let mut received = Vec::new();
            for client in &mut clients {
                received.push(client.receive().await);
            }
            for (reader, frame) in readers.iter_mut().zip(&received) {
                assert_eq!(reader.read(&frame.json()["push"]["pub"]), data(number));
            }
            assert_eq!(received[3].json()["push"]["pub"]["data"], data(number));
            assert_eq!(received[0].message(), received[1].message());
            assert_eq!(received[1], received[2]);
            let is_compressed = [&received[0], &received[1], &received[3]].map(|frame| frame.is_compressed);
            // The deltas are shorter than 200 bytes, and so short that compression does not make all of them shorter.
            if min_bytes == 200 {
                assert_eq!(is_compressed, [false, number == 1, true]);
            }
        }
        assert_eq!(readers.iter().map(|reader| reader.deltas).collect::<Vec<_>>(), [5; 3]);
    }
}

#[actix_rt::test]
async fn metrics_count_each_compressed_message_once_and_its_bytes_in_both_forms() {
    // The connect pushes are shorter.
    let hub = start_compressing_hub(|config| config.server.compression.min_bytes = 500).await;
    let mut subscribers = Vec::new();
    for _ in 0..3 {
        subscribers.push(DeflateClient::connect_subscriber(&hub, "news").await);
    }
    let mut plain = hub.connect_subscriber("bob", "news").await;
    let messages = async |direction: &str, outcome: &str| {
        let labels = format!("{{direction=\"{direction}\",outcome=\"{outcome}\"}}");
        hub.metric(&format!("wardcast_compression_messages_total{labels}")).await as usize
    };
    let bytes = async |direction: &str, form: &str| {
        let labels = format!("{{direction=\"{direction}\",form=\"{form}\"}}");
        hub.metric(&format!("wardcast_compression_bytes_total{labels}")).await as usize
    };
    assert_eq!([messages("sent", "compressed").await, messages("received", "inflated").await], [0; 2]);
    let (mut plain_bytes, mut compressed_bytes) = (0, 0);
    for number in 1..=4 {
        hub.publish("news", long_data(number)).await;
        for (index, subscriber) in subscribers.iter_mut().enumerate() {
            let frame = subscriber.receive().await;
            assert!(frame.is_compressed);
            if index == 0 {
                plain_bytes += frame.message().len();
                compressed_bytes += frame.payload.len();
            }
        }
        assert_eq!(plain.receive_publication().await, long_data(number));
    }
    assert_eq!(messages("sent", "compressed").await, 4, "each once for three subscribers");
    assert_eq!([bytes("sent", "plain").await, bytes("sent", "compressed").await], [plain_bytes, compressed_bytes]);
    // What is shorter than the minimum is not tried.
    hub.publish("news", json!(1)).await;
    let ann = &mut subscribers[0];
    assert_eq!(ann.receive_publication().await, 1);
    assert_eq!([messages("sent", "compressed").await, messages("sent", "not_shorter").await], [4, 0]);
    let command = json!({"id": 2, "publish": {"channel": "other", "data": long_data(5)}}).to_string();
    let compressed = deflate(command.as_bytes());
    ann.send(&frame(FIN | TEXT | RSV1, &compressed)).await;
    assert_eq!(ann.receive().await.json()["id"], 2);
    assert_eq!(messages("received", "inflated").await, 1);
    assert_eq!(
        [bytes("received", "plain").await, bytes("received", "compressed").await],
        [command.len(), compressed.len()]
    );
    ann.send(&frame(FIN | TEXT | RSV1, b"no deflate")).await;
    assert_eq!(ann.wait_for_close().await, Some(1002));
    assert_eq!([messages("received", "inflated").await, messages("received", "refused").await], [1, 1]);
}

#[actix_rt::test]
async fn compressed_commands_are_executed_whole_or_in_fragments() {
    let hub = start_compressing_hub(|_| ()).await;
    let mut subscriber = hub.connect_subscriber("bob", "news").await;
    let mut ann = DeflateClient::connect(&hub, &hub.path_for("ann"), &[OFFER]).await;
    let publish =
        |number: u64| json!({"id": number, "publish": {"channel": "news", "data": long_data(number)}}).to_string();
    let compressed = deflate(publish(1).as_bytes());
    assert!(compressed.len() > 40);
    ann.send(&frame(FIN | TEXT | RSV1, &compressed)).await;
    // The first fragment says that all are compressed, and control frames may come between them.
    let compressed = deflate(publish(2).as_bytes());
    let pieces = [
        frame(TEXT | RSV1, &compressed[..10]),
        frame(FIN | PING, b"amid"),
        frame(CONTINUATION, b""),
        frame(FIN | CONTINUATION, &compressed[10..]),
    ];
    ann.send(&pieces.concat()).await;
    // A negotiated connection may send messages that are not compressed.
    ann.send(&text_frame(&publish(3))).await;
    for number in 1..=3 {
        assert_eq!(subscriber.receive_publication().await, long_data(number));
    }
    let path = format!("{}&format=protobuf", hub.path_for("cat"));
    let mut cat = DeflateClient::connect(&hub, &path, &[OFFER]).await;
    let data = long_data(4).to_string().into();
    let publish = Some(PublishRequest { channel: "news".to_owned(), data, ..Default::default() });
    let command = Command { id: 1, publish, ..Default::default() }.encode_length_delimited_to_vec();
    cat.send(&frame(FIN | BINARY | RSV1, &deflate(&command))).await;
    assert_eq!(subscriber.receive_publication().await, long_data(4));
}

#[actix_rt::test]
async fn subscriber_over_tls_receives_compressed_publications() {
    let certificate = Certificate::new();
    let hub = start_compressing_hub(|config| certificate.configure(config)).await;
    let stream = tls_stream(hub.address, certificate.root()).await.unwrap();
    let mut ann = DeflateClient::connect_over(Box::new(stream), &hub, &hub.path_for("ann"), &[OFFER]).await;
    ann.receive().await;
    ann.subscribe("news", json!({})).await;
    let publish = json!({"id": 2, "publish": {"channel": "news", "data": long_data(1)}}).to_string();
    ann.send(&frame(FIN | TEXT | RSV1, &deflate(publish.as_bytes()))).await;
    let mut publication = ann.receive().await;
    if publication.json()["id"] == 2 {
        publication = ann.receive().await;
    }
    assert!(publication.is_compressed);
    assert_eq!(publication.json()["push"]["pub"]["data"], long_data(1));
}

#[actix_rt::test]
async fn outbox_counts_compressed_bytes_and_still_closes_a_client_that_does_not_read() {
    let hub = start_compressing_hub(|config| config.limits.outbox_bytes = 200_000).await;
    let mut compressed = DeflateClient::connect_subscriber(&hub, "news").await;
    let mut plain = hub.connect_raw("bob").await;
    plain.subscribe("news").await;
    let data = json!("x".repeat(30_000));
    let mut sent = 0;
    while hub.metric("wardcast_closed_total{code=\"3008\"}").await == 0.0 {
        hub.publish("news", data.clone()).await;
        sent += 1;
        assert!(sent < 1000, "30 MB were accepted for a client that does not read");
    }
    // It was the one without compression.
    for _ in 0..sent {
        assert_eq!(compressed.receive_publication().await, data);
    }
    // What hardly becomes shorter fills the outbox of the other one, too.
    let mut random = vec![0; 20_000];
    let mut sent = 0;
    while hub.metric("wardcast_closed_total{code=\"3008\"}").await == 1.0 {
        getrandom::fill(&mut random).unwrap();
        let text: String = random.iter().map(|byte| char::from(b'0' + byte % 64)).collect();
        hub.publish("news", json!(text)).await;
        sent += 1;
        assert!(sent < 1000, "15 MB were accepted for a client that does not read");
    }
    drop((plain, compressed));
    hub.wait_for_connections(0).await;
}

#[actix_rt::test]
async fn fanout_with_compression_counts_the_same_and_receives_fewer_bytes() {
    let mut received = Vec::new();
    for option in ["", "--deflate"] {
        let run = format!("fanout -n 10 --rate 50 --size 2000 --seconds 0.5 --warmup 0.1 {option}");
        let report = report(bench(&format!("{run} --hub-set server.compression.enabled=true"))).await;
        assert_eq!(count(&report, "deliveries"), 10 * count(&report, "publications"), "{report}");
        assert_eq!(["deliveries_lost", "sequence_gaps"].map(|name| count(&report, name)), [0; 2], "{report}");
        received.push(count(&report, "received_bytes") / count(&report, "deliveries"));
    }
    assert!(received[0] > 2000 && received[1] < 1000, "bytes per delivery: {received:?}");
}
