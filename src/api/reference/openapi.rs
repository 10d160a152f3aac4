//! The server API as an OpenAPI 3.1 document, whose schemas are those of JSON Schema 2020-12.

use serde_json::{Map, Value, json};

use crate::{
    api::{
        METHODS,
        description::{Access, ApiMethod, Field, JsonType},
    },
    protocol,
};

/// Returns the document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> =
        METHODS.iter().map(|method| (format!("/api/{}", method.name), json!({"post": operation(method)}))).collect();
    paths.insert("/v1/channels/{channel}/messages".to_owned(), json!({"post": plain_publishing()}));
    paths.insert("/v1/trace".to_owned(), json!({"get": live_trace()}));
    let mut schemas: Map<String, Value> = METHODS.iter().flat_map(schemas_of).collect();
    schemas.insert("Error".to_owned(), error_schema());
    let version = protocol::VERSION.rsplit(' ').next().unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Wardcast server API",
            "version": version,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "Called by backends and operators. A call that is well-formed is answered with status 200, whether it \
                succeeds or not: check whether the body has `result` or `error`.",
        },
        // Relative to the address of this document.
        "servers": [{"url": "..", "description": "This hub."}],
        "security": [{"key": []}, {"authorization": []}],
        "tags": [
            {"name": "read", "description": "Methods that only read."},
            {"name": "write", "description": "Methods that change something."},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "BadRequest": error_response("The body is not a JSON object, or a field has the wrong type."),
                "Unauthorized": error_response("The API key is missing, wrong, or sent twice."),
                "TooLarge": error_response("The body is longer than `api.body_bytes`."),
                "Forbidden": error_response("The token does not allow it, or may not be sent from this origin."),
                "NotFound": error_response("There is no such path."),
            },
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`api.key`."},
                "authorization": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`apikey KEY`, with the value of `api.key`.",
                },
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The token of a user."},
            },
        },
    })
}

fn operation(method: &ApiMethod) -> Value {
    let result = reference(&schema_name(method, "Result"));
    // The answer of a batch is not wrapped in `result`.
    let answer = if method.name == "batch" { result } else { object([("result", result)]) };
    let errors: String =
        method.errors.iter().map(|(code, when)| format!("\n- {} {code}: {when}", code.code())).collect();
    let description = format!("{} {}\n\nErrors, with status 200:\n{errors}", method.summary, method.details);
    json!({
        "operationId": method.name,
        "summary": method.summary,
        "description": description,
        "tags": [if method.access == Access::ReadOnly { "read" } else { "write" }],
        "requestBody": {
            "required": method.request_fields().any(|field| field.when_absent.is_none()),
            "content": {"application/json": {
                "schema": reference(&schema_name(method, "Request")),
                "example": example(method.example.request),
            }},
        },
        "responses": {
            "200": {
                "description": "The result, or the error.",
                "content": {"application/json": {
                    "schema": {"anyOf": [answer, object([("error", reference("Error"))])]},
                    "example": example(method.example.answer),
                }},
            },
            "400": {"$ref": "#/components/responses/BadRequest"},
            "401": {"$ref": "#/components/responses/Unauthorized"},
            "413": {"$ref": "#/components/responses/TooLarge"},
        },
    })
}

/// Plain publishing has no entry in the table: its body is the data.
fn plain_publishing() -> Value {
    let result = reference("PublishResult");
    json!({
        "operationId": "publish_message",
        "summary": "Publishes the body to a channel.",
        "description": "The body is the data: JSON, or with `text/plain` a text, which becomes a JSON string. In channels with \
            `data_format = \"binary\"` it is any bytes, with `application/octet-stream`. A user may publish with a token, under \
            the permissions and limits of its connections.",
        "tags": ["write"],
        "security": [{"key": []}, {"authorization": []}, {"token": []}],
        "parameters": [
            {"name": "channel", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1, "maxLength": 255},
             "description": "Name of the channel, percent-encoded."},
            {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"},
             "description": "The channel accepts one publication under a key within five minutes."},
        ],
        "requestBody": {
            "required": true,
            "content": {
                "application/json": {"schema": {}},
                "text/plain": {"schema": {"type": "string"}},
                "application/octet-stream": {},
            },
        },
        "responses": {
            "200": {
                "description": "The result, or the error.",
                "content": {"application/json": {
                    "schema": {"anyOf": [object([("result", result)]), object([("error", reference("Error"))])]},
                }},
            },
            "400": {"$ref": "#/components/responses/BadRequest"},
            "401": {"$ref": "#/components/responses/Unauthorized"},
            "403": {"$ref": "#/components/responses/Forbidden"},
            "404": {"$ref": "#/components/responses/NotFound"},
            "413": {"$ref": "#/components/responses/TooLarge"},
            "415": error_response("The media type is not one of those of the channel."),
        },
    })
}

/// A live trace has no entry in the table: its answer is a stream.
fn live_trace() -> Value {
    let target = |name: &str, what: &str| {
        let description = format!("{what} Exactly one of the parameters is required.");
        json!({"name": name, "in": "query", "schema": {"type": "string"}, "description": description})
    };
    json!({
        "operationId": "trace",
        "summary": "Sends what happens to a user, a connection or a channel, live, as server-sent events.",
        "tags": ["read"],
        "parameters": [
            target("user", "The user."),
            target("client", "The id of the connection."),
            target("channel", "The channel."),
        ],
        "responses": {
            "200": {
                "description": "The events, until `api.trace_duration` is over.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            "400": {"$ref": "#/components/responses/BadRequest"},
            "401": {"$ref": "#/components/responses/Unauthorized"},
            "503": error_response("The instance serves `api.traces` traces already."),
        },
    })
}

fn schemas_of(method: &'static ApiMethod) -> [(String, Value); 2] {
    [
        (schema_name(method, "Request"), fields_schema(method.request_fields(), "Default")),
        (schema_name(method, "Result"), fields_schema(method.result.iter(), "Left out")),
    ]
}

/// Returns the schema of an object. `when_absent` begins the sentence about a field that may be missing.
fn fields_schema<'a>(fields: impl Iterator<Item = &'a Field>, when_absent: &str) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in fields {
        let mut schema = type_schema(&field.kind, when_absent);
        let description = match field.when_absent {
            Some(condition) => format!("{} {when_absent}: {condition}.", field.meaning),
            None => field.meaning.to_owned(),
        };
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".to_owned(), json!(description));
        }
        if field.when_absent.is_none() {
            required.push(field.name);
        }
        properties.insert(field.name.to_owned(), schema);
    }
    // A field in braces stands for any name.
    let any_name = properties.keys().find(|name| name.starts_with('{')).cloned();
    let additional = any_name.and_then(|name| properties.remove(&name));
    let mut schema = json!({"type": "object", "properties": properties});
    if let Some(additional) = additional {
        schema["additionalProperties"] = additional;
        required.retain(|name| !name.starts_with('{'));
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn type_schema(kind: &JsonType, when_absent: &str) -> Value {
    match kind {
        JsonType::Any => json!({}),
        JsonType::Boolean => json!({"type": "boolean"}),
        JsonType::Integer => json!({"type": "integer"}),
        JsonType::String => json!({"type": "string"}),
        JsonType::Array(items) => json!({"type": "array", "items": type_schema(items, when_absent)}),
        JsonType::Object(fields) => fields_schema(fields.iter(), when_absent),
        JsonType::Map(values) => json!({"type": "object", "additionalProperties": type_schema(values, when_absent)}),
    }
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "code": {"type": "integer", "description": "Its code."},
            "message": {"type": "string", "description": "Its text, for people."},
            "temporary": {"type": "boolean", "description": "Whether the same call may succeed later. Left out: false."},
        },
        "required": ["code", "message"],
    })
}

fn error_response(description: &str) -> Value {
    let request = json!({"type": "string", "description": "The id of the request, as in the header `X-Request-Id`."});
    let schema = object([("error", reference("Error")), ("request", request)]);
    json!({"description": description, "content": {"application/json": {"schema": schema}}})
}

/// Returns the schema of an object with this one field.
fn object<const COUNT: usize>(fields: [(&str, Value); COUNT]) -> Value {
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Returns the name of a schema, like `HistoryRemoveRequest`.
fn schema_name(method: &ApiMethod, suffix: &str) -> String {
    let words = method.name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
    words.collect::<String>() + suffix
}

/// Reads an example of the table, which a test has checked.
fn example(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
