//! The pages of the hub: embedded static files. The demo page also has `/demo/hub.json`, which describes the hub to it; it is an
//! ordinary client: it sends its token in one of the ways of `auth.doors`, and this module never sees a token. The admin page calls the
//! server API with a session, which this module does not see either.

mod admin;
mod facts;
mod files;

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, X_CONTENT_TYPE_OPTIONS},
    web,
};
use bytes::Bytes;

pub use self::admin::AdminPage;
use self::files::{File, StaticFiles, file, policy_with};
use crate::config::Config;

/// All files of the page. It loads nothing else, and nothing from other hosts.
const FILES: &[File] = &[
    file!("/", "text/html; charset=utf-8", "page/index.html"),
    file!("/demo/style.css", "text/css; charset=utf-8", "page/style.css"),
    file!("/demo/parts.css", "text/css; charset=utf-8", "page/parts.css"),
    file!("/demo/icon.svg", "image/svg+xml", "page/icon.svg"),
    file!("/demo/app.js", "text/javascript; charset=utf-8", "page/app.js"),
    file!("/demo/state.js", "text/javascript; charset=utf-8", "page/state.js"),
    file!("/demo/identity.js", "text/javascript; charset=utf-8", "page/identity.js"),
    file!("/demo/renewal.js", "text/javascript; charset=utf-8", "page/renewal.js"),
    file!("/demo/connection.js", "text/javascript; charset=utf-8", "page/connection.js"),
    file!("/demo/channels.js", "text/javascript; charset=utf-8", "page/channels.js"),
    file!("/demo/channel_advice.js", "text/javascript; charset=utf-8", "page/channel_advice.js"),
    file!("/demo/subscription.js", "text/javascript; charset=utf-8", "page/subscription.js"),
    file!("/demo/subscription_list.js", "text/javascript; charset=utf-8", "page/subscription_list.js"),
    file!("/demo/view.js", "text/javascript; charset=utf-8", "page/view.js"),
    file!("/demo/dom.js", "text/javascript; charset=utf-8", "page/dom.js"),
    file!("/demo/choices.js", "text/javascript; charset=utf-8", "page/choices.js"),
    file!("/demo/token_ways.js", "text/javascript; charset=utf-8", "page/token_ways.js"),
    file!("/demo/hub.js", "text/javascript; charset=utf-8", "page/hub.js"),
    file!("/demo/client.js", "text/javascript; charset=utf-8", "page/client.js"),
    file!("/demo/token.js", "text/javascript; charset=utf-8", "page/token.js"),
    file!("/demo/storage.js", "text/javascript; charset=utf-8", "page/storage.js"),
    file!("/demo/log.js", "text/javascript; charset=utf-8", "page/log.js"),
    file!("/demo/json.js", "text/javascript; charset=utf-8", "page/json.js"),
    file!("/demo/code.js", "text/javascript; charset=utf-8", "page/code.js"),
    file!("/demo/advice.js", "text/javascript; charset=utf-8", "page/advice.js"),
];

/// Maximum length of a Host header: the longest host name (RFC 1035 §2.3.4) and a port.
const HOST_BYTES: usize = 260;

/// The page and the facts about this hub; shared by all workers.
#[derive(Clone)]
pub struct Page {
    facts: Bytes,
    files: StaticFiles,
}

impl Page {
    /// Creates the page of a hub. `has_login`: whether `POST /auth/login` has users.
    pub fn new(config: &Config, has_login: bool) -> Self {
        Self { facts: facts::json(config, has_login), files: StaticFiles::new(FILES, policy) }
    }

    /// Adds the routes.
    pub fn routes(&self, service: &mut web::ServiceConfig) {
        self.files.routes(service);
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

/// Returns the Content-Security-Policy. For some browsers `'self'` does not include WebSockets of the same origin, so the policy also
/// names the host, if its name is safe to copy into a header.
fn policy(headers: &HeaderMap) -> String {
    let sockets = host(headers).map(|host| format!(" ws://{host} wss://{host}"));
    policy_with(&sockets.unwrap_or_default())
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
