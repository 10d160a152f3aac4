//! The routes outside of `server.path_prefix`, if there is one: health checks at the root, and the prefix itself.

use actix_web::{
    HttpRequest, HttpResponse, guard,
    http::header::{CACHE_CONTROL, LOCATION, UPGRADE},
    web,
};

use super::{HttpContext, ListenerRole, handshake, health_routes};

/// Adds health checks at the root, for those that ask the hub directly and not through a load balancer, and the prefix without a slash
/// at its end. That is the WebSocket path `/` for handshakes, and leads to the page otherwise.
pub fn routes_beside(context: &HttpContext, role: ListenerRole, service: &mut web::ServiceConfig) {
    health_routes(service);
    let server = &context.config.current().server;
    if !role.serves_clients() {
        return;
    }
    let mut prefix = web::resource(server.path_prefix.as_str());
    if server.websocket_paths.iter().any(|path| path == "/") {
        let has_upgrade = guard::fn_guard(|context| context.head().headers().contains_key(UPGRADE));
        prefix = prefix.route(web::get().guard(has_upgrade).to(handshake::handshake));
    }
    service.service(prefix.route(web::get().to(add_slash)));
}

/// Redirects from the prefix itself to the page below it: addresses in the page are relative to that. The location is relative,
/// because a load balancer may have changed scheme and host.
async fn add_slash(request: HttpRequest) -> HttpResponse {
    let last = request.path().rsplit('/').next().unwrap_or_default();
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    HttpResponse::PermanentRedirect()
        .insert_header((LOCATION, format!("{last}/{query}")))
        .insert_header((CACHE_CONTROL, "no-store"))
        .finish()
}
