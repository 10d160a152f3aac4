//! The server API and plain publishing (`/v1/channels/…/messages`) over HTTP: keys, bodies, results and errors.

use serde_json::{Value, json};
use wardcast::config::{ChannelAccess, Secret};

use crate::support::{
    API_KEY, TestHub,
    http::{self, Response},
    raw, start_hub, start_hub_with,
};

/// Calls a method with the API key and this body.
pub async fn post_api(hub: &TestHub, method: &str, body: &str) -> Response {
    http::post(hub.address, &format!("/api/{method}")).header("X-API-Key", API_KEY).body(body).send().await
}

#[actix_rt::test]
async fn api_key_is_accepted_in_two_headers_only() {
    let hub = start_hub().await;
    let publish = |name: &'static str, value: String| {
        http::post(hub.address, "/api/publish").header(name, &value).json(json!({"channel": "news", "data": 1})).send()
    };
    assert_eq!(publish("X-API-Key", API_KEY.to_owned()).await.status, 200);
    assert_eq!(publish("Authorization", format!("apikey {API_KEY}")).await.status, 200);
    for (name, value) in [
        ("X-API-Key", String::new()),
        ("X-API-Key", "wrong".to_owned()),
        ("X-API-Key", format!("{API_KEY}x")),
        ("Authorization", format!("Bearer {API_KEY}")),
        ("X-Nothing", API_KEY.to_owned()),
    ] {
        let refused = publish(name, value).await;
        assert_eq!((refused.status, refused.json()["error"]["code"].clone()), (401, json!(101)));
    }
    let duplicate = http::post(hub.address, "/api/publish").header("X-API-Key", API_KEY).header("X-API-Key", API_KEY);
    assert_eq!(duplicate.json(json!({"channel": "news", "data": 1})).send().await.status, 401);
}

#[actix_rt::test]
async fn every_api_call_is_refused_without_configured_key() {
    let hub = start_hub_with(|config| config.api.key = Secret::default()).await;
    let empty = http::post(hub.address, "/api/publish").header("X-API-Key", "").body("{}").send().await;
    assert_eq!(empty.status, 401);
}

#[actix_rt::test]
async fn api_validates_request_bodies() {
    let hub = start_hub_with(|config| {
        config.api.publication_bytes = 100;
        config.api.body_bytes = 2_000;
    })
    .await;
    for (body, status) in
        [("", 400), ("nonsense", 400), ("[]", 400), ("[\"news\",1]", 400), ("{\"channel\":7}", 400), ("\u{0}", 400)]
    {
        assert_eq!(post_api(&hub, "publish", body).await.status, status, "{body}");
    }
    for (body, code) in [
        (r#"{"channel":"news"}"#, 107),
        (r#"{"data":1}"#, 107),
        (r#"{"channel":"a*","data":1}"#, 107),
        (r#"{"channel":"chat:1","data":1}"#, 102),
        (&format!(r#"{{"channel":"news","data":"{}"}}"#, "x".repeat(200)), 106),
    ] {
        let response = post_api(&hub, "publish", body).await;
        assert_eq!((response.status, response.json()["error"]["code"].clone()), (200, json!(code)), "{body:.60}");
    }
    let long = format!(r#"{{"channel":"news","data":"{}"}}"#, "x".repeat(3_000));
    assert_eq!(post_api(&hub, "publish", &long).await.status, 413);
    let wrong_method = http::get(hub.address, "/api/publish").send().await;
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (405, Some("POST")));
    let nothing = post_api(&hub, "nothing", "{}").await;
    assert_eq!((nothing.status, nothing.json()["error"]["code"].clone()), (404, json!(104)));
    let without_key = http::post(hub.address, "/api/nothing").send().await;
    assert_eq!(without_key.status, 401, "without the key it is secret which methods exist");
}

#[actix_rt::test]
async fn broadcast_reports_each_channel_and_reaches_all_valid_ones() {
    let hub = start_hub_with(|config| config.limits.broadcast_channels = 3).await;
    let (mut ann, mut bob) = (hub.connect_subscriber("ann", "a").await, hub.connect_subscriber("bob", "b").await);
    let answer = hub.call_api("broadcast", json!({"channels": ["a", "chat:1", "b"], "data": {"n": 1}})).await;
    let responses = answer["result"]["responses"].as_array().unwrap().clone();
    assert_eq!((&responses[0], &responses[2]), (&json!({"result": {}}), &json!({"result": {}})));
    assert_eq!(responses[1]["error"]["code"], 102);
    assert_eq!((ann.receive_publication().await, bob.receive_publication().await), (json!({"n": 1}), json!({"n": 1})));
    assert_eq!(
        hub.call_api("broadcast", json!({"channels": ["a", "b", "c", "d"], "data": 1})).await["error"]["code"],
        106
    );
    assert_eq!(hub.call_api("broadcast", json!({"channels": [], "data": 1})).await["error"]["code"], 107);
}

#[actix_rt::test]
async fn channels_are_listed_by_pattern() {
    let hub = start_hub().await;
    let _clients = [
        hub.connect_subscriber("a", "news").await,
        hub.connect_subscriber("b", "news").await,
        hub.connect_subscriber("c", "old").await,
    ];
    let names = |answer: Value| answer["result"]["channels"].clone();
    assert_eq!(names(hub.call_api("channels", json!({"pattern": "n*s"})).await), json!({"news": {"num_clients": 2}}));
    assert_eq!(names(hub.call_api("channels", json!({"pattern": "x*"})).await), json!({}));
    assert_eq!(post_api(&hub, "channels", "").await.json()["result"]["channels"].as_object().unwrap().len(), 2);
}

#[actix_rt::test]
async fn info_describes_the_node() {
    let hub = start_hub().await;
    let _clients = [hub.connect_subscriber("ann", "news").await, hub.connect_subscriber("bob", "news").await];
    let mut cat = hub.connect_subscriber("cat", "old").await;
    cat.subscribe("news").await;
    let _nobody = hub.connect_without_token().await;
    for body in ["", "{}"] {
        let answer = post_api(&hub, "info", body).await.json();
        let node = &answer["result"]["nodes"][0];
        assert_eq!(answer["result"]["nodes"].as_array().unwrap().len(), 1);
        assert_eq!((&node["num_clients"], &node["num_subs"], &node["num_channels"]), (&json!(3), &json!(4), &json!(2)));
        assert!(node["uid"].as_str().unwrap().len() > 30 && !node["name"].as_str().unwrap().is_empty(), "{node}");
        assert_eq!(node["version"], wardcast::protocol::VERSION);
        assert!(node["uptime"].as_u64().unwrap() < 60 && node["num_users"].is_u64(), "{node}");
    }
}

/// A request that publishes to a channel without the form of the API.
fn plain_publish_request(hub: &TestHub, channel: &str) -> http::Request {
    http::post(hub.address, &format!("/v1/channels/{channel}/messages"))
}

#[actix_rt::test]
async fn plain_publish_accepts_json_and_text_with_api_key() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "old news/1").await;
    let sent = plain_publish_request(&hub, "old%20news%2F1")
        .header("X-API-Key", API_KEY)
        .json(json!({"n": [1, 2]}))
        .send()
        .await;
    assert_eq!((sent.status, sent.json()), (200, json!({"result": {}})));
    assert_eq!(ann.receive_publication().await, json!({"n": [1, 2]}));
    let text = plain_publish_request(&hub, "old%20news%2F1")
        .header("X-API-Key", API_KEY)
        .header("Content-Type", "text/plain; charset=utf-8");
    assert_eq!(text.body("line \"one\"\nline two").send().await.status, 200);
    assert_eq!(ann.receive_publication().await, json!("line \"one\"\nline two"));
}

#[actix_rt::test]
async fn plain_publish_with_user_token_checks_same_permissions_as_socket() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let bearer = |token: String| {
        plain_publish_request(&hub, "news").header("Authorization", &format!("Bearer {token}")).json(json!(1)).send()
    };
    assert_eq!(bearer(hub.token("bob")).await.json(), json!({"result": {}}));
    assert_eq!(ann.receive().await["push"]["pub"]["info"], json!({"user": "bob"}));
    for (token, code) in [(hub.forged_token("bob"), 101), (hub.expired_token("bob"), 109)] {
        let refused = bearer(token).await;
        assert_eq!((refused.status, refused.json()["error"]["code"].clone()), (401, json!(code)));
    }
    let denied = plain_publish_request(&hub, "%24secret").header("Authorization", &hub.bearer("bob"));
    assert_eq!(denied.json(json!(1)).send().await.json()["error"]["code"], 103);

    let strict = start_hub_with(|config| config.channels.allow_publish = ChannelAccess::None).await;
    let refused = plain_publish_request(&strict, "news").header("Authorization", &strict.bearer("bob")).json(json!(1));
    assert_eq!(refused.send().await.json()["error"]["code"], 103);
}

#[actix_rt::test]
async fn plain_publish_refuses_wrong_credentials_and_content() {
    let hub = start_hub().await;
    assert_eq!(plain_publish_request(&hub, "news").json(json!(1)).send().await.status, 401);
    let basic = plain_publish_request(&hub, "news").header("Authorization", "Basic YTpi").json(json!(1));
    assert_eq!(basic.send().await.status, 401);
    let twice = plain_publish_request(&hub, "news")
        .header("Authorization", &hub.bearer("bob"))
        .header("Authorization", &hub.bearer("bob"));
    assert_eq!(twice.json(json!(1)).send().await.status, 401);
    let form = plain_publish_request(&hub, "news")
        .header("X-API-Key", API_KEY)
        .header("Content-Type", "application/x-www-form-urlencoded");
    assert_eq!(form.body("a=b").send().await.status, 415);
    let broken =
        plain_publish_request(&hub, "news").header("X-API-Key", API_KEY).header("Content-Type", "application/json");
    assert_eq!(broken.body("{").send().await.status, 400);
    let latin = plain_publish_request(&hub, "news").header("X-API-Key", API_KEY).header("Content-Type", "text/plain");
    assert_eq!(latin.body(vec![0xe9]).send().await.status, 400);
}

#[actix_rt::test]
async fn unauthenticated_request_is_refused_before_its_body_is_read() {
    let hub = start_hub().await;
    for path in ["/v1/channels/news/messages", "/api/publish", "/api/broadcast"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n",
            hub.address
        );
        assert_eq!(http::exchange(hub.address, head.as_bytes()).await.status, 401, "{path}");
    }
}

#[actix_rt::test]
async fn http_connection_is_closed_after_200_requests_and_none_behind_them_is_answered() {
    let hub = start_hub().await;
    let request = format!("GET /health/live HTTP/1.1\r\nHost: {}\r\n\r\n", hub.address);
    let responses = raw::exchange_until_close(hub.address, request.repeat(1000).as_bytes()).await;
    assert_eq!(responses.matches("HTTP/1.1 200").count(), 200);
    assert_eq!(responses.matches("connection: close").count(), 1);
}

#[actix_rt::test]
async fn temporary_errors_of_rest_have_retry_after() {
    let hub = start_hub_with(|config| config.limits.publications_per_second = 1).await;
    let publish = async || {
        let request = http::post(hub.address, "/v1/channels/news/messages").header("Authorization", &hub.bearer("ann"));
        request.json(json!(1)).send().await
    };
    let first = publish().await;
    assert_eq!((first.json()["error"].is_null(), first.header("retry-after")), (true, None), "{first:?}");
    let mut last = first;
    while last.json()["error"].is_null() {
        last = publish().await;
    }
    assert_eq!((last.status, &last.json()["error"]["code"]), (200, &json!(111)), "{last:?}");
    assert_eq!(last.header("retry-after"), Some("1"), "{last:?}");
    let denied = post_api(&hub, "publish", r#"{"channel":"unknown:1","data":1}"#).await;
    assert_eq!((denied.json()["error"]["code"].as_u64(), denied.header("retry-after")), (Some(102), None));
}
