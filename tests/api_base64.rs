//! `b64data` and `b64info` of the server API: JSON in Base64.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::{start_hub, start_hub_with};

fn encode(text: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(text)
}

#[actix_rt::test]
async fn b64data_is_published_as_the_json_that_it_encodes() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    for (data, delivered) in
        [(r#"{"a":[1,"é"]}"#, json!({"a": [1, "é"]})), (" [1,\n2] ", json!([1, 2])), ("null", json!(null))]
    {
        hub.publish_with(json!({"channel": "news", "b64data": encode(data)})).await;
        assert_eq!(ann.receive_publication().await, delivered);
    }
    // Base64 takes precedence, unless it is empty.
    hub.publish_with(json!({"channel": "news", "data": 1, "b64data": encode("2")})).await;
    hub.publish_with(json!({"channel": "news", "data": 3, "b64data": ""})).await;
    hub.publish_with(json!({"channel": "news", "data": 4, "b64data": null})).await;
    let answer = hub.call_api("broadcast", json!({"channels": ["news", "a"], "b64data": encode("5")})).await;
    assert_eq!(answer["result"]["responses"].as_array().unwrap().len(), 2);
    for expected in 2..=5 {
        assert_eq!(ann.receive_publication().await, expected);
    }
}

#[actix_rt::test]
async fn base64_that_is_no_json_is_107_and_says_so() {
    let hub = start_hub().await;
    let error = json!({"error": {"code": 107, "message": "bad request: b64data and b64info must be JSON in Base64"}});
    for bad in ["!!", "e30", "e30= ", &encode("x"), &encode("1 2"), &encode([0xff, 0x22]), &encode([b'"', 0xff, b'"'])]
    {
        for (method, field) in
            [("publish", "b64data"), ("broadcast", "b64data"), ("subscribe", "b64data"), ("subscribe", "b64info")]
        {
            let mut request = json!({"channel": "news", "channels": ["news"], "user": "ann"});
            request[field] = json!(bad);
            let answer = hub.call_api(method, request).await;
            // What is Base64 may be right for another channel of a broadcast.
            let found = answer.pointer("/result/responses/0").unwrap_or(&answer);
            assert_eq!(*found, error, "{method} {field} {bad}");
        }
    }
    assert_eq!(
        hub.call_api("publish", json!({"channel": "news"})).await["error"],
        json!({"code": 107, "message": "bad request: data is missing"})
    );
}

#[actix_rt::test]
async fn api_subscription_takes_data_and_info_in_base64() {
    let hub = start_hub_with(|config| config.channels.presence = true).await;
    let mut ann = hub.connect("ann").await;
    let request = json!({"user": "ann", "channel": "news", "b64data": encode(r#"{"d":1}"#), "b64info": encode("[2]")});
    assert_eq!(hub.call_api("subscribe", request).await, json!({"result": {}}));
    assert_eq!(ann.receive().await["push"]["subscribe"]["data"], json!({"d": 1}));
    let presence = hub.call_api("presence", json!({"channel": "news"})).await["result"]["presence"].clone();
    let infos: Vec<&Value> = presence.as_object().unwrap().values().map(|client| &client["chan_info"]).collect();
    assert_eq!(infos, [&json!([2])]);
}
