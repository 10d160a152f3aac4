//! docs/server-api.md: its reference is generated from the methods, and its examples are run against a real hub.

use std::{fmt::Write, fs, process::Command};

use serde_json::Value;
use wardcast::{
    api::{Access, ApiMethod, Field, JsonType, METHODS},
    broker::{Cause, TraceEventKind},
    config::Config,
    protocol::ErrorCode,
};

use crate::support::{API_KEY, TestHub, generated::assert_section_generated, repository, start_hub_with};

const PAGE: &str = "docs/server-api.md";

/// Fields whose values differ from run to run. Of them only the type is compared.
const VARYING_FIELDS: [&str; 17] = [
    "request",
    "epoch",
    "time",
    "uid",
    "name",
    "version",
    "uptime",
    "client",
    "num_publications",
    "num_deliveries",
    "cpu_ms",
    "memory_bytes",
    "connected_at",
    "subscribed_at",
    "expire_at",
    "oldest_time",
    "newest_time",
];

#[test]
fn server_api_reference_is_generated_from_the_methods() {
    assert_section_generated(PAGE, "methods", &reference());
}

#[test]
fn causes_are_generated_from_their_table() {
    let mut text = "| cause | what it means |\n|---|---|\n".to_owned();
    for cause in Cause::ALL {
        writeln!(text, "| `{}` | {} |", serde_json::to_value(cause).unwrap().as_str().unwrap(), cause.text()).unwrap();
    }
    assert_section_generated(PAGE, "causes", &text);
}

#[test]
fn trace_events_are_generated_from_their_table() {
    let mut text = "| event | what has happened |\n|---|---|\n".to_owned();
    for kind in TraceEventKind::ALL {
        writeln!(text, "| `{}` | {} |", serde_json::to_value(kind).unwrap().as_str().unwrap(), kind.text()).unwrap();
    }
    assert_section_generated(PAGE, "trace events", &text);
}

#[test]
fn descriptions_of_api_methods_are_complete() {
    for method in METHODS {
        let name = method.name;
        assert!(method.summary.ends_with('.'), "{name}: the summary must be a sentence");
        assert!(!method.errors.is_empty(), "{name}: the errors are missing");
        for (error, when) in method.errors {
            let count = method.errors.iter().filter(|(other, _)| other == error).count();
            assert!(count == 1 && !when.is_empty(), "{name}: describe {error} once, with all its cases");
        }
        let can = |code: ErrorCode| method.errors.iter().any(|(error, _)| *error == code);
        assert!(
            !can(ErrorCode::Internal) || can(ErrorCode::TooManyRequests),
            "{name}: a full queue of the broker is missing"
        );
        for (path, field) in method.request.iter().flat_map(|group| flatten(group)).chain(flatten(method.result)) {
            assert!(!field.meaning.is_empty(), "{name}: the field {path} has no meaning");
        }
        let request: Value = serde_json::from_str(method.example.request).unwrap();
        for (key, value) in request.as_object().unwrap() {
            let field = method.request_fields().find(|field| field.name == key);
            let field = field.unwrap_or_else(|| panic!("{name}: {key} of the example is not a field of the request"));
            assert_type(&format!("{name}: request.{key}"), value, &field.kind);
        }
        for field in method.request_fields().filter(|field| field.when_absent.is_none()) {
            assert!(request.get(field.name).is_some(), "{name}: the example lacks the required field {}", field.name);
        }
        let answer: Value = serde_json::from_str(method.example.answer).unwrap();
        let result = if method.name == "batch" { &answer } else { &answer["result"] };
        assert_type(&format!("{name}: result"), result, &JsonType::Object(method.result));
    }
}

#[test]
fn readme_names_every_method() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let missing = METHODS.iter().map(|method| method.name).filter(|name| !readme.contains(&format!("`{name}`")));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new(), "not in README.md");
}

/// Each section of the page gets a hub of its own, with ann in the channel "news".
#[actix_rt::test]
async fn every_curl_example_answers_as_documented() {
    let page = fs::read_to_string(repository().join(PAGE)).unwrap();
    let mut count = 0;
    for section in page.split("\n## ").skip(1) {
        let examples = examples(section);
        if examples.is_empty() {
            continue;
        }
        let hub = start_hub_with(enable_history_and_presence).await;
        let _ann = hub.connect_subscriber("ann", "news").await;
        for Example { script, answers } in examples {
            let output = run_script(&hub, &script).await;
            let actual: Vec<Value> = parse_all(&output);
            assert_eq!(actual.len(), answers.len(), "{script}\nanswered\n{output}");
            for (actual, documented) in actual.iter().zip(&answers) {
                assert_same("answer", actual, documented, &script);
            }
            count += 1;
        }
    }
    let methods_without = METHODS.iter().filter(|method| !page.contains(&format!("/api/{} ", method.name)));
    assert_eq!(methods_without.map(|method| method.name).collect::<Vec<_>>(), Vec::<&str>::new(), "without an example");
    assert!(count >= METHODS.len(), "{count} examples");
}

fn enable_history_and_presence(config: &mut Config) {
    config.channels.history_size = 100;
    config.channels.presence = true;
}

/// The reference: a table of the methods, and a section for each.
fn reference() -> String {
    let mut text = "| method | access | what it does |\n|---|---|---|\n".to_owned();
    for ApiMethod { name, access, summary, .. } in METHODS {
        writeln!(text, "| [`{name}`](#{name}) | {} | {summary} |", access_name(*access)).unwrap();
    }
    METHODS.iter().for_each(|method| write_method(&mut text, method));
    text.trim_end().to_owned() + "\n"
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "reads",
        Access::Write => "writes",
    }
}

fn write_method(text: &mut String, method: &ApiMethod) {
    write!(text, "\n### {}\n\n{} {}", method.name, method.summary, method.details).unwrap();
    *text = text.trim_end().to_owned() + "\n";
    let request: Vec<_> = method.request.iter().flat_map(|group| flatten(group)).collect();
    if request.is_empty() {
        text.push_str("\nThe request has no fields.\n");
    } else {
        text.push_str("\n| field of the request | type | default | meaning |\n|---|---|---|---|\n");
        for (path, field) in request {
            let default = field.when_absent.unwrap_or("required");
            writeln!(text, "| `{path}` | {} | {default} | {} |", field.kind.name(), field.meaning).unwrap();
        }
    }
    if method.result.is_empty() {
        text.push_str("\nThe result is an empty object.\n");
    } else {
        text.push_str("\n| field of the result | type | left out | meaning |\n|---|---|---|---|\n");
        for (path, field) in flatten(method.result) {
            let left_out = field.when_absent.unwrap_or("never");
            writeln!(text, "| `{path}` | {} | {left_out} | {} |", field.kind.name(), field.meaning).unwrap();
        }
    }
    text.push_str("\n| error | when |\n|---|---|\n");
    for (error, when) in method.errors {
        writeln!(text, "| {} {error} | {when} |", error.code()).unwrap();
    }
    let (name, request, answer) = (method.name, method.example.request, method.example.answer);
    let header = "-H \"X-API-Key: $KEY\"";
    write!(text, "\n```sh\ncurl https://hub.example.com/api/{name} {header} \\\n     -d '{request}'\n```\n").unwrap();
    write!(text, "\n```json\n{answer}\n```\n").unwrap();
}

/// The fields and those of the objects in them, each with its path.
fn flatten(fields: &'static [Field]) -> Vec<(String, &'static Field)> {
    fn inner(kind: &JsonType, path: String) -> Vec<(String, &'static Field)> {
        match kind {
            JsonType::Object(fields) => {
                flatten(fields).into_iter().map(|(inner, field)| (format!("{path}.{inner}"), field)).collect()
            }
            JsonType::Array(kind) => inner(kind, path + "[]"),
            JsonType::Map(kind) => inner(kind, path + ".*"),
            JsonType::Any | JsonType::Boolean | JsonType::Integer | JsonType::String => Vec::new(),
        }
    }
    let with_inner = |field: &'static Field| {
        [(field.name.to_owned(), field)].into_iter().chain(inner(&field.kind, field.name.to_owned()))
    };
    fields.iter().flat_map(with_inner).collect()
}

/// Checks a value against its type, with all fields of the objects in it.
#[track_caller]
fn assert_type(path: &str, value: &Value, kind: &JsonType) {
    let is_right = match kind {
        JsonType::Any => true,
        JsonType::Boolean => value.is_boolean(),
        JsonType::Integer => value.is_i64() || value.is_u64(),
        JsonType::String => value.is_string(),
        JsonType::Array(inner) => {
            let values = value.as_array().into_iter().flatten();
            values.for_each(|value| assert_type(&format!("{path}[]"), value, inner));
            value.is_array()
        }
        JsonType::Map(inner) => {
            let values = value.as_object().into_iter().flat_map(|object| object.values());
            values.for_each(|value| assert_type(&format!("{path}.*"), value, inner));
            value.is_object()
        }
        JsonType::Object(fields) => {
            for (key, value) in value.as_object().into_iter().flatten() {
                // A name in braces stands for any name.
                let field = fields.iter().find(|field| field.name == key);
                let field = field.or_else(|| fields.iter().find(|field| field.name.starts_with('{')));
                let field = field.unwrap_or_else(|| panic!("{path}: {key} is not described"));
                assert_type(&format!("{path}.{key}"), value, &field.kind);
            }
            let required = fields.iter().filter(|field| field.when_absent.is_none()).map(|field| field.name);
            let missing: Vec<&str> = required.filter(|name| value.get(name).is_none()).collect();
            assert!(missing.is_empty(), "{path} lacks {missing:?}");
            value.is_object()
        }
    };
    assert!(is_right, "{path} is not of type {}: {value}", kind.name());
}

/// A shell script of the page, and the answers that the next block shows.
struct Example {
    script: String,
    answers: Vec<Value>,
}

fn examples(section: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    for (index, block) in section.split("\n```").enumerate().filter(|(index, _)| index % 2 == 1) {
        match block.split_once('\n').unwrap() {
            ("sh", script) => found.push(Example { script: script.to_owned(), answers: Vec::new() }),
            ("json", answers) => {
                let example = found.last_mut().filter(|example| example.answers.is_empty());
                example.unwrap_or_else(|| panic!("block {index}: answers without a call")).answers = parse_all(answers);
            }
            (language, _) => panic!("a block in {language:?}"),
        }
    }
    found
}

fn parse_all(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn run_script(hub: &TestHub, script: &str) -> String {
    let script = script.replace("https://hub.example.com", &format!("http://{}", hub.address));
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &script]);
    shell.env("KEY", API_KEY).env("TOKEN", hub.token("ann")).env("NO_PROXY", "*");
    let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Compares an answer with the documented one. Client ids and the varying fields may have other values.
#[track_caller]
fn assert_same(path: &str, actual: &Value, documented: &Value, script: &str) {
    let is_id = |text: &str| text.len() == 36 && text.matches('-').count() == 4;
    match (actual, documented) {
        (Value::Object(actual), Value::Object(documented)) => {
            let known = |key: &String| if is_id(key) { "{id}".to_owned() } else { key.clone() };
            let (is, must): (Vec<_>, Vec<_>) =
                (actual.keys().map(known).collect(), documented.keys().map(known).collect());
            assert_eq!(is, must, "{path}, of\n{script}");
            for ((key, actual), documented) in actual.iter().zip(documented.values()) {
                if VARYING_FIELDS.contains(&key.as_str()) && !actual.is_object() {
                    let is_same_type = std::mem::discriminant(actual) == std::mem::discriminant(documented);
                    assert!(is_same_type, "{path}.{key}: {actual}, of\n{script}");
                } else {
                    assert_same(&format!("{path}.{key}"), actual, documented, script);
                }
            }
        }
        (Value::Array(actual), Value::Array(documented)) => {
            assert_eq!(actual.len(), documented.len(), "{path}, of\n{script}");
            for (actual, documented) in actual.iter().zip(documented) {
                assert_same(&format!("{path}[]"), actual, documented, script);
            }
        }
        (actual, documented) => assert_eq!(actual, documented, "{path}, of\n{script}"),
    }
}
