//! Attacks on each field of each server API method. They are made from the descriptions of the methods, so a new method or
//! field is attacked without a change here.

use serde_json::{Value, json};
use wardcast::{
    api::{ApiMethod, JsonType, METHODS},
    config::Config,
};

use super::{api::post_api, api_attacks::assert_reveals_nothing};
use crate::support::{TestHub, http::Response, start_hub_with};

fn enable_history_and_presence(config: &mut Config) {
    config.channels.history_size = 10;
    config.channels.presence = true;
}

/// The example of a method with the value of one field replaced by this JSON text.
fn request_with(method: &ApiMethod, field: &str, value: &str) -> String {
    let example: Value = serde_json::from_str(method.example.request).unwrap();
    let others = example.as_object().unwrap().iter().filter(|(key, _)| *key != field);
    let others = others.map(|(key, value)| format!(",{}:{value}", json!(key)));
    format!("{{{}:{value}{}}}", json!(field), others.collect::<String>())
}

fn is_bad_request(response: &Response) -> bool {
    response.json()["error"]["code"] == 107 && [200, 400].contains(&response.status)
}

#[actix_rt::test]
async fn every_example_succeeds() {
    let hub = start_hub_with(enable_history_and_presence).await;
    for method in METHODS {
        let response = post_api(&hub, method.name, method.example.request).await;
        assert!(response.status == 200 && response.json().get("error").is_none(), "{}: {response:?}", method.name);
    }
}

#[actix_rt::test]
async fn field_of_wrong_type_is_refused() {
    let hub = start_hub_with(enable_history_and_presence).await;
    for method in METHODS {
        for field in method.request_fields() {
            let wrong: &[&str] = match field.kind {
                JsonType::Any => continue,
                JsonType::Boolean => &["0", "\"true\"", "[]", "{}"],
                JsonType::Integer => {
                    &["\"1\"", "1.5", "1e400", "-1e400", "1e-400", "18446744073709551616", "NaN", "[]", "{}"]
                }
                JsonType::String => &["7", "true", "[]", "{}", "\"\\ud800\"", "\"\\x\""],
                JsonType::Array(_) => &["7", "true", "\"x\"", "{}"],
                JsonType::Object(_) | JsonType::Map(_) => &["7", "true", "\"x\"", "[]"],
            };
            for value in wrong {
                let body = request_with(method, field.name, value);
                let response = post_api(&hub, method.name, &body).await;
                assert!(is_bad_request(&response), "{}: {body}: {response:?}", method.name);
                assert_reveals_nothing(&response);
            }
        }
    }
    assert_eq!(post_api(&hub, "info", "").await.status, 200);
}

#[actix_rt::test]
async fn doubled_field_is_refused() {
    let hub = start_hub_with(enable_history_and_presence).await;
    for method in METHODS {
        let example: Value = serde_json::from_str(method.example.request).unwrap();
        for field in method.request_fields() {
            let value = &example[field.name];
            let once = request_with(method, field.name, &value.to_string());
            let twice = format!("{{{}:{value},{}", json!(field.name), &once[1..]);
            let response = post_api(&hub, method.name, &twice).await;
            assert_eq!(response.status, 400, "{}: {twice}: {response:?}", method.name);
        }
    }
}

#[actix_rt::test]
async fn any_field_value_gets_an_answer_that_the_method_describes() {
    let hub = start_hub_with(enable_history_and_presence).await;
    let (long, deep) = (format!("{:?}", "x".repeat(100_000)), format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)));
    let values = [
        "null",
        "0",
        "-1",
        "1",
        "-9223372036854775808",
        "9223372036854775807",
        "18446744073709551615",
        "true",
        "\"\"",
        "\" \"",
        "\"a\\u0000\"",
        "\"a\\nb\"",
        "\"*\"",
        "\"unknown:1\"",
        "\"$a\"",
        "[]",
        "[null]",
        "[\"\"]",
        "{}",
        "{\"a\":null}",
        "{\"offset\":18446744073709551615,\"epoch\":\"x\"}",
        "{\"code\":1000,\"reason\":\"{}\"}",
        &long,
        &deep,
    ];
    for method in METHODS {
        for field in method.request_fields() {
            for value in values {
                let body = request_with(method, field.name, value);
                assert_answer_is_described(&hub, method, &body).await;
            }
        }
        assert_answer_is_described(&hub, method, "{}").await;
    }
    assert_eq!(post_api(&hub, "info", "").await.status, 200);
}

async fn assert_answer_is_described(hub: &TestHub, method: &ApiMethod, body: &str) {
    let response = post_api(hub, method.name, body).await;
    let code = response.json()["error"]["code"].as_u64();
    let is_described = |code| method.errors.iter().any(|(error, _)| u64::from(error.code()) == code);
    let is_expected = match response.status {
        200 => code.is_none_or(is_described),
        400 => code == Some(107),
        _ => false,
    };
    assert!(is_expected, "{} answers {body:.300} with {response:?}; add the error to its description", method.name);
    assert_reveals_nothing(&response);
}
