//! The reference of the server API that the hub itself serves: an OpenAPI document and a page. Both are made from the
//! [table of methods](super::METHODS), which says all that a schema says; a derive on the types of requests and results would
//! say it a second time. They hold no secrets, so no key is needed.

mod markup;
mod openapi;
mod page;

use std::sync::OnceLock;

use actix_web::{
    HttpResponse,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    web::{self, ServiceConfig},
};

/// Nothing but the style sheet is loaded, and nothing runs.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Adds the routes below `/v1` of the reference.
pub(super) fn reference_routes(service: &mut ServiceConfig) {
    service
        .service(web::resource("/openapi.json").route(web::get().to(get_document)))
        .service(web::resource("/reference").route(web::get().to(get_page)))
        .service(web::resource("/reference.css").route(web::get().to(get_style)));
}

async fn get_document() -> HttpResponse {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    serve("application/json", DOCUMENT.get_or_init(|| format!("{:#}\n", openapi::document())))
}

async fn get_page() -> HttpResponse {
    static PAGE: OnceLock<String> = OnceLock::new();
    serve("text/html; charset=utf-8", PAGE.get_or_init(page::html))
}

async fn get_style() -> HttpResponse {
    serve("text/css; charset=utf-8", include_str!("style.css"))
}

fn serve(media_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, media_type))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .body(text)
}
