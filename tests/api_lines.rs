//! `POST /api` with method and params in the body: one call or several, and a reply to each on a line of its own.

use serde_json::{Value, json};

use crate::support::{API_KEY, TestHub, http, start_hub, start_hub_with};

async fn post(hub: &TestHub, body: &str) -> http::Response {
    http::post(hub.address, "/api").header("X-API-Key", API_KEY).body(body).send().await
}

/// Posts calls and returns the lines of the answer.
async fn post_lines(hub: &TestHub, body: &str) -> Vec<Value> {
    let response = post(hub, body).await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")), "{response:?}");
    response.body.split('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
}

const PUBLISH: &str = r#"{"method":"publish","params":{"channel":"news","data":{}}}"#;

#[actix_rt::test]
async fn each_call_is_answered_by_one_line_in_order() {
    let hub = start_hub_with(|config| config.channels.history_size = 10).await;
    let mut ann = hub.connect("ann").await;
    ann.subscribe_with("news", json!({})).await;
    let one = post(&hub, PUBLISH).await;
    assert!(!one.body.contains('\n') && one.json()["result"]["offset"] == 1, "{one:?}");
    let calls = [
        PUBLISH,
        "",
        r#"{"method":"publish","params":{"channel":"a*","data":1}}"#,
        r#"  {"params":null,"method":"info","id":7,"more":[1]}"#,
        r#"{"method":"nothing","params":{}}"#,
        r#"{"method":"publish","params":{"channel":7}}"#,
        r#"{"method":"publish","params":{}}"#,
        r#"{"method":"batch","params":{"commands":[]}}"#,
        "{\"id\":18446744073709551615,\r\n\"method\":\"history\",\n\"params\":{\"channel\":\"news\"}}",
    ];
    let replies = post_lines(&hub, &(calls.join("\n") + "\n")).await;
    assert_eq!(replies.len(), 8, "{replies:?}");
    let error = |number: usize| &replies[number]["error"]["code"];
    assert_eq!(replies[0]["result"]["offset"], 2);
    assert_eq!(
        (error(1), error(3), error(4), error(5), error(6)),
        (&json!(107), &json!(104), &json!(107), &json!(107), &json!(104))
    );
    assert_eq!((&replies[2]["id"], &replies[2]["result"]["nodes"][0]["num_clients"]), (&json!(7), &json!(1)));
    assert_eq!((&replies[7]["id"], &replies[7]["result"]["offset"]), (&json!(u64::MAX), &json!(2)));
    assert!(replies.iter().all(|reply| reply.get("result").is_some() != reply.get("error").is_some()), "{replies:?}");
    for _ in 0..2 {
        assert_eq!(ann.receive_publication().await, json!({}));
    }
}

#[actix_rt::test]
async fn calls_need_no_line_break_between_them() {
    let hub = start_hub().await;
    assert_eq!(post_lines(&hub, &format!("{PUBLISH}{PUBLISH}")).await, vec![json!({"result": {}}); 2]);
}

#[actix_rt::test]
async fn body_with_a_malformed_call_is_refused_as_a_whole() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    for malformed in [
        "x",
        "[]",
        "7",
        r#"["publish",{}]"#,
        r#"[7,"publish",{}]"#,
        "{}",
        r#"{"params":{}}"#,
        r#"{"method":7}"#,
        r#"{"method":"info","id":-1}"#,
        r#"{"method":"info","id":"a"}"#,
        r#"{"method":"info","method":"info"}"#,
        r#"{"method":"info""#,
        "\u{0}",
    ] {
        let response = post(&hub, &format!("{PUBLISH}\n{malformed}")).await;
        assert_eq!((response.status, response.json()["error"]["code"].clone()), (400, json!(107)), "{malformed}");
    }
    for empty in ["", " \n\r\n "] {
        assert_eq!(post(&hub, empty).await.status, 400);
    }
    hub.publish("news", json!("first")).await;
    assert_eq!(ann.receive_publication().await, json!("first"));
}

#[actix_rt::test]
async fn calls_have_the_limits_of_a_batch() {
    let hub = start_hub_with(|config| {
        config.limits.broadcast_channels = 3;
        config.api.body_bytes = 4000;
    })
    .await;
    assert_eq!(post_lines(&hub, &PUBLISH.repeat(3)).await.len(), 3);
    let message = "limit exceeded: limits.broadcast_channels = 3";
    assert_eq!(post_lines(&hub, &PUBLISH.repeat(4)).await, [json!({"error": {"code": 106, "message": message}})]);
    assert_eq!(post(&hub, &PUBLISH.repeat(100)).await.status, 413);
}

#[actix_rt::test]
async fn replies_over_the_size_limit_are_106_but_writes_are_reported() {
    let (hub, _ann) = super::api_batch::start_hub_with_room_for_four_replies().await;
    let channels = r#"{"method":"channels"}"#.repeat(6);
    let names: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let broadcast = json!({"method": "broadcast", "params": {"channels": names, "data": 1}});
    let replies = post_lines(&hub, &format!("{channels}{broadcast}")).await;
    assert!(replies[..4].iter().all(|reply| reply["result"]["channels"].is_object()), "{replies:?}");
    let error = json!({"error": {"code": 106, "message": "limit exceeded: api.replies_bytes = 1024"}});
    assert_eq!(replies[4..6], [error.clone(), error]);
    assert_eq!(replies[6]["result"]["responses"].as_array().unwrap().len(), 50);
}

#[actix_rt::test]
async fn calls_need_the_api_key_and_post() {
    let hub = start_hub().await;
    assert_eq!(http::post(hub.address, "/api").body(PUBLISH).send().await.status, 401);
    assert_eq!(http::get(hub.address, "/api").header("X-API-Key", API_KEY).send().await.status, 405);
}
