//! Differences: what a client makes of them is what was published, live and recovered, whoever comes when.

use serde_json::{Value, json};
use wardcast::config::{Config, DeltaType};

use crate::support::{Client, TestHub, start_hub_with};

/// Longer than a difference to the next of its kind.
fn data(number: u64) -> Value {
    json!({"number": number, "text": "äöü the same words in all of them, so that a difference is short ".repeat(5)})
}

/// Reads as SDKs do: a difference is to the data before, which is what was received, byte for byte.
#[derive(Default)]
struct DeltaReader {
    before: Vec<u8>,
    deltas: usize,
}

impl DeltaReader {
    fn read(&mut self, publication: &Value) -> Value {
        let text = publication["data"].as_str().unwrap_or_else(|| panic!("a string: {publication}"));
        self.before = if publication["delta"] == true {
            self.deltas += 1;
            wardcast::delta::decode(&self.before, text.as_bytes(), 1 << 20).unwrap()
        } else {
            text.as_bytes().to_vec()
        };
        serde_json::from_slice(&self.before).unwrap()
    }

    async fn receive(&mut self, client: &mut Client) -> Value {
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

async fn publish(hub: &TestHub, number: u64, options: Value) {
    let mut request = json!({"channel": "news", "data": data(number)});
    request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let answer = hub.call_api("publish", request).await;
    assert!(answer["result"].is_object(), "{answer}");
}

async fn subscribe(client: &mut Client, options: Value) -> Value {
    let mut request = json!({"channel": "news", "delta": "fossil"});
    request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    client.request(json!({"id": 1, "subscribe": request})).await["subscribe"].take()
}

#[actix_rt::test]
async fn first_publication_is_whole_and_next_ones_are_deltas() {
    let hub = start_delta_hub(|_| ()).await;
    let (mut ann, mut plain) = (hub.connect("ann").await, hub.connect_subscriber("cat", "news").await);
    let (mut late, mut reader, mut behind) = (hub.connect("bob").await, DeltaReader::default(), DeltaReader::default());
    assert_eq!(subscribe(&mut ann, json!({})).await["delta"], true);
    for number in 1..=3 {
        publish(&hub, number, json!({"delta": true})).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
        assert_eq!(plain.receive_publication().await, data(number));
    }
    assert_eq!(reader.deltas, 2);
    // Who comes later begins with a whole one, while the others go on.
    subscribe(&mut late, json!({})).await;
    for number in 4..=5 {
        publish(&hub, number, json!({"delta": true})).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
        assert_eq!(behind.receive(&mut late).await, data(number));
    }
    assert_eq!((reader.deltas, behind.deltas), (4, 1));
    // One that was not meant to be a difference is none, and the next is one to it.
    publish(&hub, 6, json!({})).await;
    assert_eq!((reader.receive(&mut ann).await, reader.deltas), (data(6), 4));
    publish(&hub, 7, json!({"delta": true})).await;
    assert_eq!((reader.receive(&mut ann).await, reader.deltas), (data(7), 5));
    hub.stop().await;
}

#[actix_rt::test]
async fn excluded_client_receives_next_publication_whole() {
    let hub = start_delta_hub(|_| ()).await;
    let (mut bob, mut reader) = (hub.connect("bob").await, DeltaReader::default());
    let claims = json!({"sub": "ann", "exp": 60});
    let (mut ann, greeting) = hub.connect_with_claims(claims).await;
    let mut others = DeltaReader::default();
    subscribe(&mut ann, json!({})).await;
    subscribe(&mut bob, json!({})).await;
    publish(&hub, 1, json!({"delta": true})).await;
    publish(&hub, 2, json!({"delta": true, "exclude": greeting["client"]})).await;
    publish(&hub, 3, json!({"delta": true})).await;
    publish(&hub, 4, json!({"delta": true})).await;
    for number in [1, 3, 4] {
        assert_eq!(reader.receive(&mut ann).await, data(number));
    }
    for number in 1..=4 {
        assert_eq!(others.receive(&mut bob).await, data(number));
    }
    assert_eq!((reader.deltas, others.deltas), (1, 3));
    hub.stop().await;
}

#[actix_rt::test]
async fn recovered_publications_are_deltas_too() {
    let hub = start_delta_hub(|_| ()).await;
    let (mut ann, mut reader) = (hub.connect("ann").await, DeltaReader::default());
    for number in 1..=4 {
        publish(&hub, number, json!({"delta": true})).await;
    }
    let result = subscribe(&mut ann, json!({"recover": true, "offset": 1})).await;
    assert_eq!((&result["recovered"], &result["delta"]), (&json!(true), &json!(true)), "{result}");
    let missed: Vec<Value> = result["publications"].as_array().unwrap().iter().map(|of| reader.read(of)).collect();
    assert_eq!(missed, [data(2), data(3), data(4)]);
    assert_eq!(reader.deltas, 2);
    for number in 5..=6 {
        publish(&hub, number, json!({"delta": true})).await;
        assert_eq!(reader.receive(&mut ann).await, data(number));
    }
    hub.stop().await;
}

#[actix_rt::test]
async fn disallowed_delta_type_is_ignored_and_absent_from_reply() {
    let hub = start_delta_hub(|config| config.channels.allowed_delta_types = Vec::new()).await;
    for kind in ["fossil", "zip"] {
        let mut ann = hub.connect("ann").await;
        let result = subscribe(&mut ann, json!({"delta": kind})).await;
        assert_eq!(result["delta"], Value::Null, "{result}");
        publish(&hub, 1, json!({"delta": true})).await;
        assert_eq!(ann.receive_publication().await, data(1));
    }
    hub.stop().await;
}
