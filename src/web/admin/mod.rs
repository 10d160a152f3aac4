//! The admin page: embedded static files, for anyone who can reach the listener. What they show comes from the server API.

use actix_web::{
    HttpResponse,
    http::header::{HeaderMap, LOCATION},
    web,
};

use super::files::{File, StaticFiles, file, policy_with};

/// All files of the page. It loads nothing else, and nothing from other hosts.
const FILES: &[File] = &[
    file!("/admin", "text/html; charset=utf-8", "index.html"),
    file!("/admin/base.css", "text/css; charset=utf-8", "../page/style.css"),
    file!("/admin/admin.css", "text/css; charset=utf-8", "admin.css"),
    file!("/admin/icon.svg", "image/svg+xml", "../page/icon.svg"),
    file!("/admin/dom.js", "text/javascript; charset=utf-8", "../page/dom.js"),
    file!("/admin/json.js", "text/javascript; charset=utf-8", "../page/json.js"),
    file!("/admin/app.js", "text/javascript; charset=utf-8", "app.js"),
    file!("/admin/api.js", "text/javascript; charset=utf-8", "api.js"),
    file!("/admin/text.js", "text/javascript; charset=utf-8", "text.js"),
    file!("/admin/parts.js", "text/javascript; charset=utf-8", "parts.js"),
    file!("/admin/chart.js", "text/javascript; charset=utf-8", "chart.js"),
    file!("/admin/nodes.js", "text/javascript; charset=utf-8", "nodes.js"),
    file!("/admin/channels.js", "text/javascript; charset=utf-8", "channels.js"),
    file!("/admin/channel.js", "text/javascript; charset=utf-8", "channel.js"),
    file!("/admin/sessions.js", "text/javascript; charset=utf-8", "sessions.js"),
    file!("/admin/explain.js", "text/javascript; charset=utf-8", "explain.js"),
    file!("/admin/trace.js", "text/javascript; charset=utf-8", "trace.js"),
];

/// The page, shared by all workers.
#[derive(Clone)]
pub struct AdminPage(StaticFiles);

impl Default for AdminPage {
    fn default() -> Self {
        Self::new()
    }
}

impl AdminPage {
    /// Creates the page.
    pub fn new() -> Self {
        Self(StaticFiles::new(FILES, |_: &HeaderMap| policy_with("")))
    }

    /// Adds the routes.
    pub fn routes(&self, service: &mut web::ServiceConfig) {
        self.0.routes(service);
        // The addresses in the page are relative to `/admin`.
        let redirect = || async { HttpResponse::PermanentRedirect().insert_header((LOCATION, "../admin")).finish() };
        service.service(web::resource("/admin/").route(web::get().to(redirect)));
    }
}
