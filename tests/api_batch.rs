//! The API method `batch`: many commands in one call, and a reply to each in the same order.

use serde_json::{Value, json};

use crate::support::{Client, TestHub, start_hub, start_hub_with};

#[actix_rt::test]
async fn batch_replies_in_the_order_of_its_commands() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    for parallel in [json!(true), json!(false), json!(null)] {
        let answer = hub
            .call_api(
                "batch",
                json!({"parallel": parallel, "commands": [
                    {"publish": {"channel": "news", "data": {"n": 1}}},
                    {"publish": {"channel": "a*", "data": 1}},
                    {"broadcast": {"channels": ["a", "chat:1"], "data": 1}},
                    {"disconnect": {"user": "unknown"}},
                    {"channels": {"pattern": "n*"}},
                    {"publish": {"channel": 7}},
                    {"info": {}},
                ]}),
            )
            .await;
        let unknown = json!({"error": {"code": 102, "message": "unknown channel"}});
        assert_eq!(answer["replies"][0], json!({"publish": {}}));
        let invalid = &answer["replies"][1]["error"];
        assert_eq!(invalid["code"], 107);
        assert!(invalid["message"].as_str().unwrap().starts_with("bad request: channel: "), "{invalid}");
        assert_eq!(answer["replies"][2], json!({"broadcast": {"responses": [{"result": {}}, unknown]}}));
        assert_eq!(answer["replies"][3], json!({"disconnect": {}}));
        assert_eq!(answer["replies"][4], json!({"channels": {"channels": {"news": {"num_clients": 1}}}}));
        let malformed = answer["replies"][5]["error"]["message"].as_str().unwrap();
        assert!(malformed.starts_with("bad request: invalid request body: invalid type"), "{malformed}");
        assert_eq!(answer["replies"][6]["info"]["nodes"][0]["num_clients"], 1);
        assert_eq!((answer["replies"].as_array().unwrap().len(), answer.as_object().unwrap().len()), (7, 1));
        assert_eq!(ann.receive_publication().await, json!({"n": 1}));
    }
    assert_eq!(hub.call_api("batch", json!({"commands": []})).await, json!({"replies": []}));
    assert_eq!(hub.call_api("batch", json!({})).await["error"]["code"], 107);
}

#[actix_rt::test]
async fn batch_publishes_in_the_order_of_its_commands() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let commands: Vec<Value> = (0..500).map(|n| json!({"publish": {"channel": "news", "data": n}})).collect();
    let answer = hub.call_api("batch", json!({"commands": commands})).await;
    assert_eq!(answer["replies"].as_array().unwrap().len(), 500);
    for number in 0..500 {
        assert_eq!(ann.receive_publication().await, json!(number));
    }
}

#[actix_rt::test]
async fn batch_command_without_exactly_one_known_method_is_104() {
    let hub = start_hub().await;
    let publish = json!({"channel": "news", "data": 1});
    let commands = json!([
        {},
        [],
        7,
        null,
        "publish",
        {"nothing": {}},
        {"PUBLISH": publish},
        {"publish": publish, "info": {}},
        ["publish", publish],
    ]);
    let answer = hub.call_api("batch", json!({"commands": commands})).await;
    for (command, reply) in commands.as_array().unwrap().iter().zip(answer["replies"].as_array().unwrap()) {
        assert_eq!(reply, &json!({"error": {"code": 104, "message": "method not found"}}), "{command}");
    }
    let twice = r#"{"commands":[{"info":{},"info":{}}]}"#;
    assert_eq!(super::api::post_api(&hub, "batch", twice).await.json()["replies"][0]["error"]["code"], 104);
}

#[actix_rt::test]
async fn nested_batch_is_104() {
    let hub = start_hub().await;
    let mut batch = json!({"commands": [{"info": {}}]});
    for _ in 0..20 {
        batch = json!({"commands": [{"batch": batch}]});
    }
    let answer = hub.call_api("batch", batch).await;
    assert_eq!(answer["replies"][0]["error"]["code"], 104);
}

#[actix_rt::test]
async fn batch_over_the_command_limit_executes_nothing() {
    let hub = start_hub_with(|config| config.limits.broadcast_channels = 3).await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let many = |count: usize| json!({"commands": vec![json!({"publish": {"channel": "news", "data": 1}}); count]});
    assert_eq!(hub.call_api("batch", many(4)).await["error"]["code"], 106);
    let commands = format!(r#"{{"commands":[{}7]}}"#, "7,".repeat(100_000));
    assert_eq!(super::api::post_api(&hub, "batch", &commands).await.json()["error"]["code"], 106);
    assert_eq!(hub.call_api("batch", many(3)).await["replies"].as_array().unwrap().len(), 3);
    hub.publish("news", json!("after")).await;
    for expected in [json!(1), json!(1), json!(1), json!("after")] {
        assert_eq!(ann.receive_publication().await, expected);
    }
}

/// Starts a hub on which the replies of one request have room for four results of `channels`, and a subscriber, whose channel
/// has a long name.
pub async fn start_hub_with_room_for_four_replies() -> (TestHub, Client) {
    let hub = start_hub_with(|config| config.api.replies_bytes = 1024).await;
    let ann = hub.connect_subscriber("ann", &"x".repeat(200)).await;
    (hub, ann)
}

#[actix_rt::test]
async fn batch_replies_over_the_size_limit_are_106() {
    let (hub, _ann) = start_hub_with_room_for_four_replies().await;
    for parallel in [true, false] {
        let commands = vec![json!({"channels": {}}); 40];
        let answer = hub.call_api("batch", json!({"parallel": parallel, "commands": commands})).await;
        let replies = answer["replies"].as_array().unwrap();
        assert!(replies[..4].iter().all(|reply| reply["channels"].is_object()), "{replies:?}");
        let error = json!({"error": {"code": 106, "message": "limit exceeded: api.replies_bytes = 1024"}});
        assert_eq!(replies[4..], vec![error; 36], "parallel: {parallel}");
    }
}

#[actix_rt::test]
async fn batch_always_reports_writes_even_when_reads_exceed_the_size_limit() {
    let (hub, _ann) = start_hub_with_room_for_four_replies().await;
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let broadcast = json!({"broadcast": {"channels": names, "data": 1}});
    let commands = [vec![json!({"channels": {}}); 5], vec![broadcast; 5], vec![json!({"channels": {}})]].concat();
    let answer = hub.call_api("batch", json!({"parallel": true, "commands": commands})).await;
    let replies = answer["replies"].as_array().unwrap();
    assert_eq!((&replies[4]["error"]["code"], &replies[10]["error"]["code"]), (&json!(106), &json!(106)));
    assert!(replies[5..10].iter().all(|reply| reply["broadcast"]["responses"].is_array()), "{replies:?}");
}
