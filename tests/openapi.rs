//! The reference that the hub serves of its API: the OpenAPI document, and the page.

use serde_json::Value;
use wardcast::api::METHODS;

use crate::support::{TestHub, http, start_hub, start_hub_with};

async fn document(hub: &TestHub) -> Value {
    let response = http::get(hub.address, "/v1/openapi.json").send().await;
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// All references in a part of the document.
fn references(part: &Value) -> Vec<String> {
    match part {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[actix_rt::test]
async fn openapi_document_describes_every_method_and_field_and_needs_no_key() {
    let hub = start_hub().await;
    let document = document(&hub).await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    for method in METHODS {
        let operation = &document["paths"][format!("/api/{}", method.name)]["post"];
        assert_eq!(operation["operationId"], method.name);
        let request = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let pointer = request.as_str().unwrap().trim_start_matches('#');
        let schema = document.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
        for field in method.request_fields() {
            let property = &schema["properties"][field.name];
            assert!(property["description"].as_str().unwrap().starts_with(field.meaning), "{}", field.name);
            let required =
                schema["required"].as_array().is_some_and(|names| names.iter().any(|name| name == field.name));
            assert_eq!(required, field.when_absent.is_none(), "{}.{}", method.name, field.name);
        }
    }
    let references = references(&document);
    assert!(references.len() > 2 * METHODS.len());
    for reference in references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
}

#[actix_rt::test]
async fn reference_page_has_every_method_and_loads_nothing_from_other_hosts() {
    let hub = start_hub().await;
    let page = http::get(hub.address, "/v1/reference").send().await;
    assert_eq!(page.status, 200);
    for method in METHODS {
        let heading = format!("<h2 id=\"{}\">", method.name);
        assert!(page.body.contains(&heading) && page.body.contains(&format!("href=\"#{}\"", method.name)), "{heading}");
    }
    for loaded in ["<script", "src=", "url(", "@import", "style=", "onclick"] {
        assert!(!page.body.contains(loaded), "{loaded}");
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{policy}");
    let links = page.body.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    for link in links.filter(|link| !link.starts_with('#')) {
        let target = http::get(hub.address, &format!("/v1/{link}")).send().await;
        assert_eq!(target.status, 200, "{link}");
    }
    let ids: Vec<&str> = page.body.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let missing: Vec<_> = ids.iter().filter(|id| !page.body.contains(&format!("id=\"{id}\""))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[actix_rt::test]
async fn reference_is_only_where_the_api_is() {
    let hub = start_hub_with(|config| config.server.internal_bind = Some(([127, 0, 0, 1], 0).into())).await;
    for path in ["/v1/openapi.json", "/v1/reference", "/v1/reference.css"] {
        assert_eq!(http::get(hub.address, path).send().await.status, 404, "{path}");
        let internal = hub.internal_address();
        assert_eq!(http::get(internal, path).send().await.status, 200, "{path}");
    }
}
