//! `api`: calls a method of the server API. The types of the fields, from the table of methods, say how an argument is read.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
};

use serde_json::{Value, value::RawValue};

use super::{
    CommandResult,
    client::{ApiClient, Hub, HubArguments, block_on},
    configuration::ConfigInputs,
    escape_invisible,
};
use crate::api::{ApiMethod, Field, JsonType, METHODS};

/// Minimum similarity of a name that is suggested for a misspelt one.
const SIMILAR: f64 = 0.7;

/// Runs `api`. Without a method, lists all.
pub(super) fn call(
    inputs: &ConfigInputs,
    hub: &HubArguments,
    method: Option<&str>,
    arguments: &[String],
) -> CommandResult {
    let Some(name) = method else { return Ok(list_methods()) };
    let method = METHODS.iter().find(|method| method.name == name).ok_or_else(|| {
        let names = METHODS.iter().map(|method| method.name);
        format!("{name}: no such method{}; `wardcast api` lists all", suggestion(name, names))
    })?;
    let params = params(method, arguments)?;
    let hub = Hub::find(hub, inputs)?;
    let result = block_on(async { Ok(ApiClient::connect(&hub).await?.call(name, &params).await?) })?;
    Ok(format!("{}\n", for_reader(&result)))
}

fn list_methods() -> String {
    let line = |method: &ApiMethod| {
        let fields: Vec<String> = method
            .request_fields()
            .map(|field| if field.when_absent.is_some() { format!("[{}]", field.name) } else { field.name.to_owned() })
            .collect();
        format!("{:<24}{}\n{:<24}  {}\n", method.name, method.summary, "", fields.join(" "))
    };
    METHODS.iter().map(line).collect()
}

/// Returns the JSON indented for a terminal, and unchanged for a program.
pub(super) fn for_reader(result: &RawValue) -> String {
    if io::stdout().is_terminal() { for_terminal(result) } else { result.get().to_owned() }
}

/// Returns the JSON indented. Characters that a terminal executes or hides are escaped: users and publications have any text.
fn for_terminal(result: &RawValue) -> String {
    let indented = serde_json::from_str::<Value>(result.get()).and_then(|value| serde_json::to_string_pretty(&value));
    // The line breaks of the indentation are not escaped.
    indented.map_or_else(
        |_| escape_invisible(result.get()),
        |text| text.split('\n').map(escape_invisible).collect::<Vec<_>>().join("\n"),
    )
}

/// Returns the body of a call: the only argument, if that is a JSON object, or the fields `name=value`.
fn params(method: &ApiMethod, arguments: &[String]) -> Result<String, String> {
    if let [body] = arguments
        && body.trim_start().starts_with('{')
    {
        let parsed = serde_json::from_str::<BTreeMap<String, &RawValue>>(body);
        return parsed.map(|_| body.clone()).map_err(|error| format!("the body is not a JSON object: {error}"));
    }
    let mut params: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
    for argument in arguments {
        let (name, text) = argument
            .split_once('=')
            .ok_or_else(|| format!("{argument}: must be FIELD=VALUE, or one JSON object for the whole body"))?;
        let field = method.request_fields().find(|field| field.name == name).ok_or_else(|| {
            let fields: Vec<&str> = method.request_fields().map(|field| field.name).collect();
            let suggested = suggestion(name, fields.iter().copied());
            format!("{name}: {} has no such field{suggested}; it has {}", method.name, fields.join(", "))
        })?;
        if params.insert(field.name, value(field, text)?).is_some() {
            return Err(format!("{name} is there twice; for several values write a JSON array"));
        }
    }
    serde_json::to_string(&params).map_err(|error| error.to_string())
}

/// Returns the value of a field: text as it is for strings, JSON for everything else. One text makes an array of one.
fn value(field: &Field, text: &str) -> Result<Box<RawValue>, String> {
    let name = field.name;
    let string = |text: &str| serde_json::value::to_raw_value(text).map_err(|error| error.to_string());
    let json = || RawValue::from_string(text.to_owned());
    match field.kind {
        JsonType::String => string(text),
        JsonType::Array(JsonType::String) if !text.trim_start().starts_with('[') => {
            serde_json::value::to_raw_value(&[text]).map_err(|error| error.to_string())
        }
        JsonType::Any => json().map_err(|error| format!("{name} is not JSON ({error}); for text: {name}='\"{text}\"'")),
        _ => json().map_err(|error| format!("{name} must be JSON: {error}")),
    }
}

/// Returns a phrase with the most similar name, or nothing.
fn suggestion<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let scored = names.map(|name| (strsim::jaro_winkler(wrong, name), name)).filter(|(score, _)| *score >= SIMILAR);
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, name)| format!(" (did you mean {name}?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(method: &str, arguments: &[&str]) -> Result<String, String> {
        let method = METHODS.iter().find(|known| known.name == method).unwrap();
        params(method, &arguments.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn types_of_the_fields_decide_how_arguments_are_read() {
        for (method, arguments, expected) in [
            ("publish", &["channel=42", r#"data={"a":1}"#][..], r#"{"channel":"42","data":{"a":1}}"#),
            ("publish", &["channel=a=b", "data=1.50"], r#"{"channel":"a=b","data":1.50}"#),
            ("broadcast", &["channels=news", "data=null"], r#"{"channels":["news"],"data":null}"#),
            ("broadcast", &[r#"channels=["a","b"]"#, "data=1"], r#"{"channels":["a","b"],"data":1}"#),
            ("history", &["channel=a", "limit=10", "reverse=true"], r#"{"channel":"a","limit":10,"reverse":true}"#),
            ("info", &[], "{}"),
            ("publish", &[r#"{"channel":"x","data":[1, 2]}"#], r#"{"channel":"x","data":[1, 2]}"#),
        ] {
            assert_eq!(body(method, arguments).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn terminal_gets_escaped_what_it_would_execute_or_hide() {
        let result = RawValue::from_string("{\"user\":\"\u{9b}2J\u{202e}ann é\"}".to_owned()).unwrap();
        assert_eq!(for_terminal(&result), "{\n  \"user\": \"\\u009b2J\\u202eann é\"\n}");
    }

    #[test]
    fn faults_of_arguments_name_the_field_and_the_remedy() {
        for (method, arguments, parts) in [
            ("publish", &["channel"][..], &["channel: must be FIELD=VALUE"][..]),
            ("publish", &["chanel=a"], &["chanel: publish has no such field", "did you mean channel?"]),
            ("publish", &["data=hello"], &["data is not JSON", r#"data='"hello"'"#]),
            ("publish", &["channel=a", "channel=b"], &["channel is there twice"]),
            ("history", &["limit=ten"], &["limit must be JSON"]),
            ("publish", &["{"], &["the body is not a JSON object"]),
        ] {
            let error = body(method, arguments).unwrap_err();
            parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in {error}"));
        }
    }
}
