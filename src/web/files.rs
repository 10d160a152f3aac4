//! Embedded static files, with the headers that keep pages of other origins away from them.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse, guard,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, EntityTag, Header as _, HeaderMap, HeaderName,
        HeaderValue, IfNoneMatch, REFERRER_POLICY, UPGRADE,
    },
    web,
};

/// A static file of a page.
#[derive(Clone, Copy)]
pub(super) struct File {
    /// The URL path.
    pub(super) path: &'static str,
    pub(super) media_type: &'static str,
    pub(super) text: &'static str,
}

/// Declares a [`File`]: its URL path, its media type, and its place below this folder.
macro_rules! file {
    ($path:literal, $media_type:literal, $place:literal) => {
        $crate::web::files::File { path: $path, media_type: $media_type, text: include_str!($place) }
    };
}
pub(super) use file;

/// Returns the Content-Security-Policy of a file, for the headers of the request.
pub(super) type Policy = fn(&HeaderMap) -> String;

/// The files of a page, shared by all workers.
#[derive(Clone)]
pub(super) struct StaticFiles {
    files: &'static [File],
    tags: Arc<[EntityTag]>,
    policy: Policy,
}

impl StaticFiles {
    pub(super) fn new(files: &'static [File], policy: Policy) -> Self {
        Self { files, tags: files.iter().map(|file| tag(file.text)).collect(), policy }
    }

    /// Adds the routes. They match only requests without an `Upgrade` header, so that `/` can also be a WebSocket path.
    pub(super) fn routes(&self, service: &mut web::ServiceConfig) {
        let policy = self.policy;
        for (file, tag) in self.files.iter().zip(&*self.tags) {
            let (file, tag) = (*file, tag.clone());
            let answer = move |request: HttpRequest| {
                let response = serve(&request, file, &tag, policy);
                async move { response }
            };
            let resource = web::resource(file.path).route(web::get().to(answer.clone())).route(web::head().to(answer));
            let has_upgrade = guard::fn_guard(|context| context.head().headers().contains_key(UPGRADE));
            service.service(resource.guard(guard::Not(has_upgrade)));
        }
    }
}

/// Serves a file, or 304 if the browser has it. Browsers have to revalidate it for each load (`no-cache`), so that a page never
/// runs with scripts of another version.
fn serve(request: &HttpRequest, file: File, tag: &EntityTag, policy: Policy) -> HttpResponse {
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

/// Returns a Content-Security-Policy: scripts, styles and connections of the hub's own origin only, and text never becomes markup
/// (Trusted Types). `sockets` are further sources of connections, each after a space.
pub(super) fn policy_with(sockets: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{sockets}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'"
    )
}

/// Returns the entity tag of a file: the start of its SHA-256 hash.
fn tag(text: &str) -> EntityTag {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let name: String = digest.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    EntityTag::new_strong(name)
}
