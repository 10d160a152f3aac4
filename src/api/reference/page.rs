//! The reference of the server API as an HTML page without scripts, in the order of the table.

use std::fmt::Write;

use super::markup::{escape, to_html};
use crate::{
    api::{
        METHODS,
        description::{Access, ApiMethod, Field, JsonType},
    },
    broker::Cause,
    protocol,
};

/// Returns the page.
pub(super) fn html() -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Wardcast server API</title>\n\
         <link rel=\"stylesheet\" href=\"reference.css\">\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the methods</a>\n\
         <header><h1>Server API</h1><p>{}</p>\n<p>Call a method with <code>POST /api/METHOD</code>, a JSON object, and the API \
         key in the header <code>X-API-Key</code>. A call that is well-formed is answered with status 200, whether it succeeds or \
         not: check whether the body has <code>result</code> or <code>error</code>. The same as a document for tools: \
         <a href=\"openapi.json\">OpenAPI 3.1</a>.</p></header>\n<nav aria-label=\"Methods\"><ul>\n",
        escape(protocol::VERSION)
    );
    for ApiMethod { name, summary, .. } in METHODS {
        push(&mut html, format_args!("<li><a href=\"#{name}\"><code>{name}</code></a> {}</li>\n", to_html(summary)));
    }
    html.push_str(
        "<li><a href=\"#causes\">Causes</a> What <code>explain</code> names.</li>\n</ul></nav>\n<main id=\"main\">\n",
    );
    METHODS.iter().for_each(|method| push_method(&mut html, method));
    html.push_str("<section aria-labelledby=\"causes\"><h2 id=\"causes\">Causes</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Causes\"><table><thead><tr><th scope=\"col\">cause</th><th scope=\"col\">what it means</th></tr></thead><tbody>\n");
    for cause in Cause::ALL {
        let name = serde_json::to_value(cause).unwrap_or_default();
        let (name, text) = (escape(name.as_str().unwrap_or_default()), to_html(cause.text()));
        push(&mut html, format_args!("<tr><th scope=\"row\"><code>{name}</code></th><td>{text}</td></tr>\n"));
    }
    html.push_str("</tbody></table></div></section>\n</main>\n</body>\n</html>\n");
    html
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = html.write_fmt(text);
}

fn push_method(html: &mut String, method: &ApiMethod) {
    let ApiMethod { name, summary, details, .. } = method;
    let access = if method.access == Access::ReadOnly { "reads" } else { "writes" };
    push(
        html,
        format_args!(
            "<section aria-labelledby=\"{name}\"><h2 id=\"{name}\"><code>{name}</code> <span class=\"access\">{access}</span></h2>\n\
             <p>{} {}</p>\n",
            to_html(summary),
            to_html(details)
        ),
    );
    let request: Vec<&Field> = method.request_fields().collect();
    push_fields(html, name, "Request", "default", "required", &request);
    push_fields(html, name, "Result", "left out", "never", &method.result.iter().collect::<Vec<_>>());
    push(html, format_args!("<h3>Errors of {name}</h3>\n<ul>\n"));
    for (code, when) in method.errors {
        push(html, format_args!("<li><b>{} {code}</b>: {}</li>\n", code.code(), to_html(when)));
    }
    let (request, answer) = (escape(method.example.request), escape(method.example.answer));
    push(
        html,
        format_args!(
            "</ul>\n<h3>Example of {name}</h3>\n<pre tabindex=\"0\">POST /api/{name}\n\n{request}</pre>\n\
             <pre tabindex=\"0\">{answer}</pre></section>\n"
        ),
    );
}

fn push_fields(html: &mut String, method: &str, what: &str, absent: &str, present: &str, fields: &[&Field]) {
    if fields.is_empty() {
        return push(html, format_args!("<p>{what}: an object without fields.</p>\n"));
    }
    push(
        html,
        format_args!(
            "<h3>{what} of {method}</h3>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{what} of {method}\">\
             <table><thead><tr><th scope=\"col\">field</th><th scope=\"col\">type</th><th scope=\"col\">{absent}</th>\
             <th scope=\"col\">meaning</th></tr></thead><tbody>\n"
        ),
    );
    fields.iter().for_each(|field| push_field(html, "", field, present));
    html.push_str("</tbody></table></div>\n");
}

/// Adds a field, and the fields in it.
fn push_field(html: &mut String, prefix: &str, field: &Field, present: &str) {
    let path = format!("{prefix}{}", field.name);
    let (type_name, nested) = (field.kind.name(), nested(&field.kind));
    let (absent, meaning) = (to_html(field.when_absent.unwrap_or(present)), to_html(field.meaning));
    push(
        html,
        format_args!(
            "<tr><th scope=\"row\"><code>{}</code></th><td>{type_name}</td><td>{absent}</td><td>{meaning}</td></tr>\n",
            escape(&path)
        ),
    );
    if let Some((suffix, fields)) = nested {
        fields.iter().for_each(|field| push_field(html, &format!("{path}{suffix}."), field, present));
    }
}

/// Returns the fields in values of a type, and how they are reached.
fn nested(kind: &JsonType) -> Option<(&'static str, &'static [Field])> {
    match kind {
        JsonType::Object(fields) => Some(("", fields)),
        JsonType::Array(JsonType::Object(fields)) => Some(("[]", fields)),
        JsonType::Map(JsonType::Object(fields)) => Some((".*", fields)),
        _ => None,
    }
}
