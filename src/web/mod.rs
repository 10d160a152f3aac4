//! The demo page: embedded static files, and `/demo/hub.json`, which describes the hub to them. The page is an ordinary client:
//! it sends its token in one of the ways of `auth.doors`, and this module never sees a token.

mod facts;

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, guard,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, EntityTag, HOST, Header as _, HeaderMap,
        HeaderName, HeaderValue, IfNoneMatch, REFERRER_POLICY, UPGRADE, X_CONTENT_TYPE_OPTIONS,
    },
    web,
};
use bytes::Bytes;

use crate::config::Config;

/// A static file of the page.
#[derive(Clone, Copy)]
struct File {
    /// The URL path.
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! file {
    ($path:literal, $media_type:literal, $name:literal) => {
        File { path: $path, media_type: $media_type, text: include_str!(concat!("page/", $name)) }
    };
}

/// All files of the page. It loads nothing else, and nothing from other hosts.
const FILES: &[File] = &[
    file!("/", "text/html; charset=utf-8", "index.html"),
    file!("/demo/style.css", "text/css; charset=utf-8", "style.css"),
    file!("/demo/parts.css", "text/css; charset=utf-8", "parts.css"),
    file!("/demo/icon.svg", "image/svg+xml", "icon.svg"),
    file!("/demo/app.js", "text/javascript; charset=utf-8", "app.js"),
    file!("/demo/state.js", "text/javascript; charset=utf-8", "state.js"),
    file!("/demo/identity.js", "text/javascript; charset=utf-8", "identity.js"),
    file!("/demo/renewal.js", "text/javascript; charset=utf-8", "renewal.js"),
    file!("/demo/connection.js", "text/javascript; charset=utf-8", "connection.js"),
    file!("/demo/channels.js", "text/javascript; charset=utf-8", "channels.js"),
    file!("/demo/channel_advice.js", "text/javascript; charset=utf-8", "channel_advice.js"),
    file!("/demo/subscription.js", "text/javascript; charset=utf-8", "subscription.js"),
    file!("/demo/subscription_list.js", "text/javascript; charset=utf-8", "subscription_list.js"),
    file!("/demo/view.js", "text/javascript; charset=utf-8", "view.js"),
    file!("/demo/dom.js", "text/javascript; charset=utf-8", "dom.js"),
    file!("/demo/choices.js", "text/javascript; charset=utf-8", "choices.js"),
    file!("/demo/token_ways.js", "text/javascript; charset=utf-8", "token_ways.js"),
    file!("/demo/hub.js", "text/javascript; charset=utf-8", "hub.js"),
    file!("/demo/client.js", "text/javascript; charset=utf-8", "client.js"),
    file!("/demo/token.js", "text/javascript; charset=utf-8", "token.js"),
    file!("/demo/storage.js", "text/javascript; charset=utf-8", "storage.js"),
    file!("/demo/log.js", "text/javascript; charset=utf-8", "log.js"),
    file!("/demo/code.js", "text/javascript; charset=utf-8", "code.js"),
    file!("/demo/advice.js", "text/javascript; charset=utf-8", "advice.js"),
];

/// Maximum length of a Host header: the longest host name (RFC 1035 §2.3.4) and a port.
const HOST_BYTES: usize = 260;

/// The page and the facts about this hub; shared by all workers.
#[derive(Clone)]
pub struct Page {
    facts: Bytes,
    tags: Arc<[EntityTag]>,
}

impl Page {
    /// Creates the page of a hub. `has_login`: whether `POST /auth/login` has users.
    pub fn new(config: &Config, has_login: bool) -> Self {
        Self { facts: facts::json(config, has_login), tags: FILES.iter().map(|file| tag(file.text)).collect() }
    }

    /// Adds the routes. Those of files match only requests without an `Upgrade` header, so that `/` can also be a WebSocket path.
    pub fn routes(&self, service: &mut web::ServiceConfig) {
        for (file, tag) in FILES.iter().zip(&*self.tags) {
            let (file, tag) = (*file, tag.clone());
            let answer = move |request: HttpRequest| {
                let response = serve(&request, file, &tag);
                async move { response }
            };
            let resource = web::resource(file.path).route(web::get().to(answer.clone())).route(web::head().to(answer));
            let has_upgrade = guard::fn_guard(|context| context.head().headers().contains_key(UPGRADE));
            service.service(resource.guard(guard::Not(has_upgrade)));
        }
        let facts = self.facts.clone();
        let serve_facts = move || {
            let mut response = HttpResponse::Ok();
            response.insert_header((CONTENT_TYPE, "application/json")).insert_header((CACHE_CONTROL, "no-store"));
            let response = response.insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff")).body(facts.clone());
            async move { response }
        };
        let resource = web::resource("/demo/hub.json")
            .route(web::get().to(serve_facts.clone()))
            .route(web::head().to(serve_facts));
        service.service(resource);
    }
}

/// Serves a file, or 304 if the browser has it. Browsers have to revalidate it for each load (`no-cache`), so that a page never
/// runs with scripts of another version.
fn serve(request: &HttpRequest, file: File, tag: &EntityTag) -> HttpResponse {
    let is_unchanged = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Items(known)) => known.iter().any(|known| known.weak_eq(tag)),
        // `*` is meant for requests that create a resource (RFC 9110 §13.1.2).
        Ok(IfNoneMatch::Any) | Err(_) => false,
    };
    let mut response = if is_unchanged { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    for (name, value) in HEADERS {
        response.insert_header((HeaderName::from_static(name), HeaderValue::from_static(value)));
    }
    response
        .insert_header((CONTENT_SECURITY_POLICY, policy(request.headers())))
        .insert_header((ETAG, tag.to_string()))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-cache"));
    if is_unchanged {
        return response.finish();
    }
    response.insert_header((CONTENT_TYPE, file.media_type)).body(file.text)
}

/// No other origin may frame the page, keep a reference to its window, or load its files; the page may use no device features.
const HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

/// Returns the Content-Security-Policy: scripts, styles and connections of the hub's own origin only, and text never becomes
/// markup (Trusted Types). For some browsers `'self'` does not include WebSockets of the same origin, so the policy also names
/// the host, if its name is safe to copy into a header.
fn policy(headers: &HeaderMap) -> String {
    let sockets = match host(headers) {
        Some(host) => format!(" ws://{host} wss://{host}"),
        None => String::new(),
    };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'"
    )
}

/// Returns the Host header if there is exactly one and it contains only the characters of a name, an address and a port: any
/// other character could extend the policy.
fn host(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(HOST);
    let host = values.next()?.to_str().ok()?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    let is_valid = values.next().is_none() && (1..=HOST_BYTES).contains(&host.len()) && host.bytes().all(is_host);
    is_valid.then_some(host)
}

/// Returns the entity tag of a file: the start of its SHA-256 hash.
fn tag(text: &str) -> EntityTag {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let name: String = digest.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    EntityTag::new_strong(name)
}
