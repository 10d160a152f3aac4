//! Attacks on the server API, one in each test. After each of them the hub must still respond.

use serde_json::json;
use wardcast::api::METHODS;

use super::api::post_api;
use crate::support::{
    API_KEY, PATIENCE, Stopwatch, TestHub,
    http::{self, Response},
    mark_secret, start_hub, start_hub_with,
};

/// The names of all methods.
pub fn method_names() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|method| method.name)
}

pub async fn assert_alive(hub: &TestHub) {
    hub.publish("news", json!("alive")).await;
}

/// Checks that a response is short and says nothing about the implementation.
pub fn assert_reveals_nothing(response: &Response) {
    let text = format!("{} {}", response.head, response.body).to_lowercase();
    for word in ["src/", ".rs", "panic", "stack", "backtrace", "redis", "serde", "/work", "/home", "actix"] {
        assert!(!text.contains(word), "{word}: {response:?}");
    }
    assert!(response.body.len() < 1000, "{} bytes", response.body.len());
}

#[actix_rt::test]
async fn every_method_requires_the_exact_api_key() {
    let hub = start_hub().await;
    let prefix = mark_secret(&API_KEY[..API_KEY.len() - 1]);
    for method in method_names() {
        for key in ["", " ", "wrong", prefix, &format!("{API_KEY}{API_KEY}"), &mark_secret(API_KEY.to_uppercase())] {
            let path = format!("/api/{method}");
            let refused = http::post(hub.address, &path).header("X-API-Key", key).body("{}").send().await;
            assert_eq!(
                (refused.status, refused.json()["error"]["code"].clone()),
                (401, json!(101)),
                "{method} {key:?}"
            );
            assert!(!format!("{refused:?}").contains(prefix), "{refused:?}");
        }
        let without = http::post(hub.address, &format!("/api/{method}")).body("{}").send().await;
        assert_eq!(without.status, 401, "{method}");
    }
}

#[actix_rt::test]
async fn duplicate_api_key_is_refused_in_any_headers() {
    let hub = start_hub().await;
    let apikey = format!("apikey {API_KEY}");
    for headers in [
        [("X-API-Key", API_KEY), ("X-API-Key", API_KEY)],
        [("X-API-Key", API_KEY), ("X-API-Key", "wrong")],
        [("X-API-Key", ""), ("X-API-Key", API_KEY)],
        [("X-API-Key", API_KEY), ("Authorization", &apikey)],
        [("Authorization", &apikey), ("Authorization", &apikey)],
    ] {
        let request = headers
            .iter()
            .fold(http::post(hub.address, "/api/info"), |request, (name, value)| request.header(name, value));
        assert_eq!(request.body("{}").send().await.status, 401, "{:?}", headers.map(|(name, _)| name));
    }
    let twice = format!("{API_KEY}, {API_KEY}");
    assert_eq!(http::post(hub.address, "/api/info").header("X-API-Key", &twice).body("{}").send().await.status, 401);
}

#[actix_rt::test]
async fn api_key_in_path_query_or_cookie_is_refused() {
    let hub = start_hub().await;
    let key = encoded_key();
    for path in
        [format!("/api/info?api_key={key}"), format!("/api/info?X-API-Key={key}"), format!("/api/info?key={key}")]
    {
        assert_eq!(http::post(hub.address, &path).body("{}").send().await.status, 401, "{path}");
    }
    let cookie = format!("X-API-Key={API_KEY}");
    assert_eq!(http::post(hub.address, "/api/info").header("Cookie", &cookie).body("{}").send().await.status, 401);
}

/// The API key, percent-encoded.
fn encoded_key() -> String {
    mark_secret(API_KEY.replace(' ', "%20"))
}

#[actix_rt::test]
async fn api_key_in_query_is_accepted_once_where_the_configuration_says_so() {
    let hub = start_hub_with(|config| config.api.key_in_query = true).await;
    let (key, publish) = (encoded_key(), r#"{"channel":"news","data":1}"#);
    for path in [format!("/api/publish?api_key={key}"), format!("/api/publish?a=b&api_key={key}&c")] {
        assert_eq!(http::post(hub.address, &path).body(publish).send().await.json(), json!({"result": {}}));
    }
    let message = http::post(hub.address, &format!("/v1/channels/news/messages?api_key={key}"));
    assert_eq!(message.json(json!(1)).send().await.json(), json!({"result": {}}));
    for query in [
        "api_key=".to_owned(),
        "api_key=wrong".to_owned(),
        "api_key=%".to_owned(),
        format!("api_key={key}x"),
        format!("API_KEY={key}"),
        format!("key={key}"),
        format!("api_key={key}&api_key={key}"),
        format!("api_key=wrong&api_key={key}"),
    ] {
        let refused = http::post(hub.address, &format!("/api/publish?{query}")).body(publish).send().await;
        assert_eq!(refused.status, 401, "{query}");
        assert!(!refused.body.contains(&key) && !refused.body.contains(API_KEY), "{refused:?}");
    }
    let twice = http::post(hub.address, &format!("/api/publish?api_key={key}")).header("X-API-Key", API_KEY);
    assert_eq!(twice.body(publish).send().await.status, 401);
}

#[actix_rt::test]
async fn api_key_in_query_is_refused_by_default_with_the_option_that_allows_it() {
    let hub = start_hub().await;
    let refused = http::post(hub.address, &format!("/api/info?api_key={}", encoded_key())).body("{}").send().await;
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(refused.status == 401 && message.contains("api.key_in_query"), "{message}");
}

#[actix_rt::test]
async fn json_nested_ten_thousand_levels_is_harmless() {
    let hub = start_hub().await;
    let (open, close) = ("[".repeat(10_000), "]".repeat(10_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    for method in method_names() {
        for body in [
            open.clone(),
            format!("{open}{close}"),
            objects.clone(),
            format!(r#"{{"user":{open}{close}}}"#),
            format!(
                r#"{{"channel":{open}{close},"channels":{open}{close},"commands":{open}{close},"pattern":{objects}}}"#
            ),
        ] {
            let response = post_api(&hub, method, &body).await;
            assert!([200, 400].contains(&response.status), "{method} {response:?}");
            assert_reveals_nothing(&response);
        }
    }
    let unknown = format!(r#"{{"channel":"news","data":1,"more":{objects}}}"#);
    assert_eq!(post_api(&hub, "publish", &unknown).await.json(), json!({"result": {}}));
    assert_alive(&hub).await;
}

#[actix_rt::test]
async fn body_with_a_hundred_thousand_keys_is_read_quickly() {
    let hub = start_hub().await;
    let keys = |name: &str| (0..100_000).map(|number| format!("\"{name}{number}\":1")).collect::<Vec<_>>().join(",");
    let since = Stopwatch::start();
    let body = format!(r#"{{{},"a":1}}"#, keys(""));
    assert!(body.len() < hub.config.api.body_bytes, "{}", body.len());
    for method in method_names() {
        let response = post_api(&hub, method, &body).await;
        assert_eq!(response.status, 200, "{method}");
        assert!(response.body.len() < 1000, "{method}");
    }
    let batch = format!(
        r#"{{"commands":[{{{}}}]}}"#,
        keys("").replace(":1", ":{}").split(',').take(80_000).collect::<Vec<_>>().join(",")
    );
    assert_eq!(post_api(&hub, "batch", &batch).await.json()["replies"][0]["error"]["code"], 104);
    // Comparing each key with all others takes minutes.
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    assert_alive(&hub).await;
}

#[actix_rt::test]
async fn numbers_out_of_range_are_refused() {
    let hub = start_hub().await;
    for number in ["1e400", "-1e400", "1e-400", "18446744073709551616", "1.5", "NaN", "\"1\"", "[]"] {
        let refresh = format!(r#"{{"user":"ann","expire_at":{number}}}"#);
        assert_eq!(post_api(&hub, "refresh", &refresh).await.status, 400, "{number}");
        let disconnect = format!(r#"{{"user":"ann","disconnect":{{"code":{number}}}}}"#);
        assert_eq!(post_api(&hub, "disconnect", &disconnect).await.status, 400, "{number}");
    }
    // In data such numbers are valid JSON, which is forwarded unchanged.
    let mut ann = hub.connect_subscriber("ann", "news").await;
    let sent = post_api(&hub, "publish", r#"{"channel":"news","data":[1e400,123456789012345678901234567890]}"#).await;
    assert_eq!(sent.json(), json!({"result": {}}));
    let received = ann.receive_text().await;
    assert!(received.contains(r#""data":[1e400,123456789012345678901234567890]"#), "{received}");
}

#[actix_rt::test]
async fn nul_bytes_and_invalid_unicode_are_refused_everywhere() {
    let hub = start_hub().await;
    for body in [
        &b"\0"[..],
        b"{\"channel\":\"news\",\"data\":1}\0",
        b"{\"channel\":\"news\0\",\"data\":1}",
        b"{\"channel\":\"news\",\"data\":\"\0\"}",
        b"{\"channel\":\"news\",\"data\":\"\xff\"}",
        b"{\"channel\":\"\xc0\xaf\",\"data\":1}",
        b"\xef\xbb\xbf{\"channel\":\"news\",\"data\":1}",
        b"\xff\xfe{\0}\0",
    ] {
        let request = http::post(hub.address, "/api/publish").header("X-API-Key", API_KEY).body(body);
        assert_eq!(request.send().await.status, 400, "{:?}", String::from_utf8_lossy(body));
    }
    for (method, body) in [
        ("publish", r#"{"channel":"a\u0000","data":1}"#),
        ("unsubscribe", r#"{"user":"ann","channel":"a\u0000"}"#),
        ("disconnect", r#"{"user":"a\u0000"}"#),
        ("channels", r#"{"pattern":"a\u0000"}"#),
    ] {
        let response = post_api(&hub, method, body).await;
        let is_empty = response.json()["result"]["channels"] == json!({});
        assert!(is_empty || response.json()["error"]["code"] == 107, "{method}: {response:?}");
    }
    assert_alive(&hub).await;
}

#[actix_rt::test]
async fn unknown_json_members_are_ignored() {
    let hub = start_hub().await;
    let body = json!({"channel": "news", "data": 1, "__proto__": {}, "constructor": 1, "": null, "b64other": "AA=="});
    assert_eq!(hub.call_api("publish", body).await, json!({"result": {}}));
    assert_eq!(hub.call_api("disconnect", json!({"user": "ann", "more": [1]})).await, json!({"result": {}}));
}

#[actix_rt::test]
async fn similar_method_names_are_not_found() {
    let hub = start_hub().await;
    for method in [
        "nothing",
        "PUBLISH",
        "publish/",
        "publish/x",
        "publish%00",
        "publish%2F",
        "%2e%2e%2fhealth",
        "result",
        "error",
        "",
    ] {
        let refused = post_api(&hub, method, "{}").await;
        assert_eq!((refused.status, refused.json()["error"]["code"].clone()), (404, json!(104)), "{method}");
        assert_reveals_nothing(&refused);
    }
}

#[actix_rt::test]
async fn broadcast_over_the_channel_limit_publishes_nothing() {
    let hub = start_hub().await;
    let mut ann = hub.connect_subscriber("ann", "1").await;
    let names: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    let answer = hub.call_api("broadcast", json!({"channels": names, "data": 1})).await;
    assert_eq!(answer, json!({"error": {"code": 106, "message": "limit exceeded: limits.broadcast_channels = 10000"}}));
    hub.publish("1", json!("first")).await;
    assert_eq!(ann.receive_publication().await, json!("first"));
}

#[actix_rt::test]
async fn pathological_channel_pattern_is_matched_quickly() {
    let hub = start_hub().await;
    let _ann = hub.connect_subscriber("ann", &"a".repeat(255)).await;
    let since = Stopwatch::start();
    for pattern in ["a*".repeat(100) + "b", "*".repeat(250), "*a".repeat(127) + "b", "x".repeat(100_000)] {
        let answer = hub.call_api("channels", json!({"pattern": pattern})).await;
        assert!(answer["error"]["code"] == 107 || answer["result"]["channels"].is_object(), "{answer}");
    }
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
}

#[actix_rt::test]
async fn error_responses_reveal_no_implementation_details() {
    let hub = start_hub().await;
    let long = format!(r#"{{"channels":"{}"}}"#, "x".repeat(500_000));
    for method in method_names() {
        for body in
            ["nonsense", "[]", "{", "{\"channel\":{}}", "{\"user\":[]}", "{\"commands\":{}}", "{\"channels\":7}", &long]
        {
            assert_reveals_nothing(&post_api(&hub, method, body).await);
        }
    }
    assert_reveals_nothing(
        &http::post(hub.address, "/v1/channels/%ff/messages").header("X-API-Key", API_KEY).json(json!(1)).send().await,
    );
    assert_reveals_nothing(&http::get(hub.address, "/api/../etc/passwd").send().await);
}
