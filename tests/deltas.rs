//! Deltas: a client that applies them gets the data that was published, live and recovered, whenever it subscribes.

use serde_json::{Value, json};
use wardcast::config::{Config, DeltaType};

use crate::support::{Client, TestHub, http, start_hub_with};

/// Data whose delta to the data of another number is shorter than itself.
pub fn data(number: u64) -> Value {
    json!({"number": number, "text": "äöü the same words in all of them, so that a delta is short ".repeat(5)})
}

/// Applies deltas as SDKs do: to the bytes of the data that it received before.
#[derive(Default)]
pub struct DeltaReader {
    base: Vec<u8>,
    pub deltas: usize,
}

impl DeltaReader {
    pub fn read(&mut self, publication: &Value) -> Value {
        let text = publication["data"].as_str().unwrap_or_else(|| panic!("data must be a string: {publication}"));
        self.base = if publication["delta"] == true {
            self.deltas += 1;
            wardcast::delta::decode(&self.base, text.as_bytes(), 1 << 20).unwrap()
        } else {
            text.as_bytes().to_vec()
        };
        serde_json::from_slice(&self.base).unwrap()
    }

    pub async fn receive(&mut self, client: &mut Client) -> Value {
        let push = client.receive().await;
        self.read(&push["push"]["pub"])
    }
}

async fn start_delta_hub(change: impl FnOnce(&mut Config)) -> TestHub {
    start_hub_with(|config| {
        config.channels.allowed_delta_types = vec![DeltaType::Fossil];
        config.channels.history_size = 10;
        change(config);
    })
    .await
}

/// Publishes the data of this number for subscribers with deltas.
async fn publish_delta(hub: &TestHub, number: u64) {
    hub.publish_with(json!({"channel": "news", "data": data(number), "delta": true})).await;
}

/// Subscribes with deltas; returns the result.
async fn subscribe_with_delta(client: &mut Client) -> Value {
    client.subscribe_with("news", json!({"delta": "fossil"})).await["subscribe"].take()
}

#[actix_rt::test]
async fn first_publication_is_whole_and_next_ones_are_deltas() {
    let hub = start_delta_hub(|_| ()).await;
    let (mut ann, mut plain) = (hub.connect("ann").await, hub.connect_subscriber("cat", "news").await);
    let (mut late, mut reader, mut late_reader) =
        (hub.connect("bob").await, DeltaReader::default(), DeltaReader::default());
    assert_eq!(subscribe_with_delta(&mut ann).await["delta"], true);
    for number in 1..=3 {
        publish_delta(&hub, number).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
        assert_eq!(plain.receive_publication().await, data(number));
    }
    assert_eq!(reader.deltas, 2);
    // A client that subscribes later receives a whole publication first, while the other continues with deltas.
    subscribe_with_delta(&mut late).await;
    for number in 4..=5 {
        publish_delta(&hub, number).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
        assert_eq!(late_reader.receive(&mut late).await, data(number));
    }
    assert_eq!((reader.deltas, late_reader.deltas), (4, 1));
    // A publication without `delta` is sent whole, and is the base of the next delta.
    hub.publish("news", data(6)).await;
    assert_eq!((reader.receive(&mut ann).await, reader.deltas), (data(6), 4));
    publish_delta(&hub, 7).await;
    assert_eq!((reader.receive(&mut ann).await, reader.deltas), (data(7), 5));
}

#[actix_rt::test]
async fn excluded_client_receives_next_publication_whole() {
    let hub = start_delta_hub(|_| ()).await;
    let mut bob = hub.connect("bob").await;
    let (mut ann, connect) = hub.connect_with_claims(json!({"sub": "ann", "exp": 60})).await;
    let (mut reader, mut other_reader) = (DeltaReader::default(), DeltaReader::default());
    subscribe_with_delta(&mut ann).await;
    subscribe_with_delta(&mut bob).await;
    publish_delta(&hub, 1).await;
    hub.publish_with(json!({"channel": "news", "data": data(2), "delta": true, "exclude": connect["client"]})).await;
    publish_delta(&hub, 3).await;
    publish_delta(&hub, 4).await;
    for number in [1, 3, 4] {
        assert_eq!(reader.receive(&mut ann).await, data(number));
    }
    for number in 1..=4 {
        assert_eq!(other_reader.receive(&mut bob).await, data(number));
    }
    assert_eq!((reader.deltas, other_reader.deltas), (1, 3));
}

#[actix_rt::test]
async fn recovered_publications_are_deltas_too() {
    let hub = start_delta_hub(|_| ()).await;
    let (mut ann, mut reader) = (hub.connect("ann").await, DeltaReader::default());
    for number in 1..=4 {
        publish_delta(&hub, number).await;
    }
    let members = json!({"delta": "fossil", "recover": true, "offset": 1});
    let result = ann.subscribe_with("news", members).await["subscribe"].take();
    assert_eq!((&result["recovered"], &result["delta"]), (&json!(true), &json!(true)), "{result}");
    let publications = result["publications"].as_array().unwrap();
    let missed: Vec<Value> = publications.iter().map(|publication| reader.read(publication)).collect();
    assert_eq!(missed, [data(2), data(3), data(4)]);
    assert_eq!(reader.deltas, 2);
    for number in 5..=6 {
        publish_delta(&hub, number).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
    }
}

#[actix_rt::test]
async fn every_publication_of_a_channel_with_delta_publish_is_a_delta_whoever_publishes_it() {
    let hub = start_delta_hub(|config| config.channels.delta_publish = true).await;
    let (mut ann, mut bob, mut plain) =
        (hub.connect("ann").await, hub.connect("bob").await, hub.connect_subscriber("cat", "news").await);
    let mut reader = DeltaReader::default();
    subscribe_with_delta(&mut ann).await;
    bob.publish("news", data(1)).await;
    bob.publish("news", data(2)).await;
    hub.publish("news", data(3)).await;
    hub.publish_with(json!({"channel": "news", "data": data(4), "delta": false})).await;
    let response = http::post(hub.address, "/v1/channels/news/messages")
        .header("Authorization", &hub.bearer("bob"))
        .header("Content-Type", "application/json")
        .body(data(5).to_string())
        .send()
        .await;
    assert_eq!(response.status, 200, "{response:?}");
    for number in 1..=5 {
        assert_eq!(reader.receive(&mut ann).await, data(number));
        assert_eq!(plain.receive_publication().await, data(number), "a client without deltas gets it whole");
    }
    assert_eq!(reader.deltas, 4, "all but the first");
    let (mut late, mut late_reader) = (hub.connect("dan").await, DeltaReader::default());
    let result = late.subscribe_with("news", json!({"delta": "fossil", "recover": true})).await["subscribe"].take();
    for (publication, number) in result["publications"].as_array().unwrap().iter().zip(1..) {
        assert_eq!(late_reader.read(publication), data(number));
    }
    assert_eq!(late_reader.deltas, 4, "{result}");
}

#[actix_rt::test]
async fn disallowed_delta_type_is_ignored_and_absent_from_reply() {
    let hub = start_delta_hub(|config| config.channels.allowed_delta_types = Vec::new()).await;
    for kind in ["fossil", "zip"] {
        let mut ann = hub.connect("ann").await;
        let reply = ann.subscribe_with("news", json!({"delta": kind})).await;
        assert_eq!(reply, json!({"id": 1, "subscribe": {}}));
        publish_delta(&hub, 1).await;
        assert_eq!(ann.receive_publication().await, data(1));
    }
}
