//! `POST /api`: calls in the body, each `{"method":…,"params":…}`, and a reply to each on a line of its own. This is how older
//! clients of the API call its methods, one or many with one request. They are carried out one after the other, within the
//! limits of a batch.

use actix_web::{HttpResponse, http::header::ContentType, web::Data};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    ApiContext, ApiResponse,
    batch::{BatchResults, call_method, check_command_count},
    key::Authorized,
    request::{parse_object, parse_values},
};
use crate::http::{HttpError, RequestBody};

/// A call of a method, as an object in the body.
#[derive(Deserialize)]
struct MethodCall<'a> {
    /// Returned in the reply.
    id: Option<u64>,
    method: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// The reply to a call: `{"result":{…}}` or `{"error":{…}}`, after the `id` of the call, if it has one.
#[derive(Serialize)]
struct MethodReply {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(flatten)]
    response: ApiResponse<Box<RawValue>>,
}

/// Answers `POST /api`. A body that is malformed somewhere is refused as a whole; of a well-formed one every call is answered.
pub(super) async fn post_calls(
    Authorized { caller }: Authorized,
    RequestBody(body): RequestBody,
    api: Data<ApiContext>,
) -> Result<HttpResponse, HttpError> {
    let calls = parse_values(&body)?;
    if calls.is_empty() {
        return Err(HttpError::bad_request(r#"the request body must have calls like {"method":"info","params":{}}"#));
    }
    if let Err(limit) = check_command_count(calls.len(), &api) {
        return Ok(ApiResponse::<()>::new(Err(limit.into()), &api.metrics).respond());
    }
    let calls: Vec<MethodCall<'_>> =
        calls.into_iter().map(|call| parse_object(call.get().as_bytes())).collect::<Result<_, _>>()?;
    let (mut lines, mut results) = (Vec::new(), BatchResults::new(&api));
    for MethodCall { id, method, params } in calls {
        let params = params.map_or("{}", RawValue::get);
        let result = call_method(&method, params, &caller, &api).await;
        let result = result.and_then(|(method, result)| results.admit(method, result));
        let reply = MethodReply { id, response: ApiResponse::new(result, &api.metrics) };
        if !lines.is_empty() {
            lines.push(b'\n');
        }
        serde_json::to_writer(&mut lines, &reply).map_err(|_| HttpError::internal())?;
    }
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(lines))
}
