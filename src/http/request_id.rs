//! The id of each HTTP request. It is in the response, in the audit log, in lines about refusals, and in calls of hooks that
//! list the header. A trusted proxy may choose it, so that one id leads through the logs of proxy, hub and backend; from
//! anybody else it would be text of a stranger in the logs.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use actix_http::RequestHead;
use actix_web::{
    dev::ServiceRequest,
    http::header::{HeaderName, HeaderValue},
    web::Data,
};

use super::{HttpContext, forwarded::comes_from_trusted_proxy};

/// The header, in requests and responses.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of an id that a proxy chooses. A longer one is replaced.
const MAX_ID_BYTES: usize = 64;

/// Gives a request its id: that of a trusted proxy if it is valid, or else a new one. From then on it is the only
/// `X-Request-Id` of the request.
pub(super) fn assign(request: &mut ServiceRequest) -> HeaderValue {
    let id = chosen_by_proxy(request).unwrap_or_else(create);
    request.headers_mut().insert(X_REQUEST_ID, id.clone());
    id
}

/// Returns the id of a request.
pub fn id_of(head: &RequestHead) -> Option<&str> {
    head.headers.get(X_REQUEST_ID)?.to_str().ok()
}

fn chosen_by_proxy(request: &ServiceRequest) -> Option<HeaderValue> {
    let mut ids = request.headers().get_all(X_REQUEST_ID);
    let (Some(id), None) = (ids.next(), ids.next()) else { return None };
    let context = request.app_data::<Data<HttpContext>>()?;
    let is_trusted = comes_from_trusted_proxy(request.head(), &context.config.current().server);
    (is_trusted && is_valid(id.as_bytes())).then(|| id.clone())
}

/// Letters, digits, `.`, `_` and `-`: nothing that a log, a header or a shell would take for something else.
fn is_valid(id: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(is_allowed)
}

/// Returns an id that no other request has: random for the process, and a keyed hash of the number of the
/// request, so that a client cannot tell how many requests there are.
fn create() -> HeaderValue {
    static PROCESS: LazyLock<(u64, RandomState)> =
        LazyLock::new(|| (getrandom::u64().unwrap_or_default(), RandomState::new()));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, key) = &*PROCESS;
    let id = format!("{process:016x}-{:016x}", key.hash_one(NEXT.fetch_add(1, Ordering::Relaxed)));
    HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_words_without_control_characters() {
        for good in ["a", "7f3c-1.2_x", &"x".repeat(64)] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a=b", "\u{e9}", "a\tb", "<b>", &"x".repeat(65)] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
        let (one, other) = (create(), create());
        assert!(one != other && is_valid(one.as_bytes()) && is_valid(other.as_bytes()));
    }
}
