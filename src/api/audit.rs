//! Writes calls of the server API to the audit log.

use serde::Deserialize;
use uuid::Uuid;

use super::{
    ApiContext, ApiError,
    description::{Access, ApiMethod, ApiResult},
    key::Caller,
};
use crate::{
    audit::{AuditEvent, AuditFields},
    protocol::ErrorCode,
};

/// Whom a request concerns. Fields of a wrong type have none: the method refuses them.
#[derive(Default, Deserialize)]
struct CallSubject {
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    channel: Option<String>,
    issuer: Option<String>,
    uid: Option<String>,
    jti: Option<String>,
    sid: Option<String>,
}

/// Records a call of a method, unless it changes nothing, has commands that are recorded one by one, or publishes. What an admin
/// publishes is recorded: an admin is a person, not a backend.
pub(super) fn record_call(method: &ApiMethod, body: &[u8], result: &ApiResult, caller: &Caller, api: &ApiContext) {
    let publishes = ["publish", "broadcast"].contains(&method.name);
    let is_recorded =
        method.access == Access::Write && method.name != "batch" && (!publishes || caller.admin_session().is_some());
    if !is_recorded || !api.audit.is_enabled() {
        return;
    }
    let subject: CallSubject = serde_json::from_slice(body).unwrap_or_default();
    let client = subject.client.or(subject.session);
    let jti = subject.jti.or(subject.uid);
    let fields = AuditFields {
        method: Some(method.name),
        user: subject.user.as_deref(),
        client: client.and_then(|client| Uuid::parse_str(&client).ok()),
        channel: subject.channel.as_deref(),
        issuer: subject.issuer.as_deref(),
        jti: jti.as_deref(),
        sid: subject.sid.as_deref(),
        code: match result {
            Ok(_) => None,
            Err(ApiError::Failed(error)) => Some(error.code()),
            Err(ApiError::Http(_)) => Some(ErrorCode::BadRequest.code()),
        },
        ..caller.fields()
    };
    api.audit.record(AuditEvent::ApiCall, fields);
}
