//! The types that describe a method of the server API. Dispatch, documentation and tests are made from the descriptions.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde_json::value::RawValue;

use super::{ApiContext, ApiError, key::Caller};
use crate::protocol::ErrorCode;

/// A method of the server API. `docs/server-api.md` is generated from it, and `tests/api_attacks.rs` attacks each of its
/// fields.
pub struct ApiMethod {
    /// Name in the path (`/api/{name}`) and in a batch.
    pub name: &'static str,
    /// Whether calling it changes anything.
    pub access: Access,
    /// One sentence that says what it does.
    pub summary: &'static str,
    /// More to know about it; may be empty.
    pub details: &'static str,
    /// Fields of the request. Methods share some of the groups.
    pub request: &'static [&'static [Field]],
    /// Fields of the result.
    pub result: &'static [Field],
    /// Errors that it may answer with, each with the cases in which it does.
    pub errors: &'static [(ErrorCode, &'static str)],
    /// A call for the documentation, which a test makes.
    pub example: Example,
    pub(super) handler: Handler,
}

impl ApiMethod {
    /// Returns the fields of the request.
    pub fn request_fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.request.iter().flat_map(|group| group.iter())
    }
}

/// Whether a method changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads. A batch leaves out its result if all results together would be too large.
    ReadOnly,
    /// It changes something: publishes, deletes, or controls sessions. Its result must be short.
    Write,
}

/// A field of a request or of a result.
pub struct Field {
    /// Name in the JSON object.
    pub name: &'static str,
    /// Type of its value.
    pub kind: JsonType,
    /// In a request: the default; `None` if the field is required. In a result: when the field is left out; `None` if never.
    pub when_absent: Option<&'static str>,
    /// What the value means.
    pub meaning: &'static str,
}

impl Field {
    /// A field of a result that is always there.
    pub(super) const fn always(name: &'static str, kind: JsonType, meaning: &'static str) -> Self {
        Self { name, kind, when_absent: None, meaning }
    }

    /// A field of a result that may be left out.
    pub(super) const fn left_out(
        name: &'static str,
        kind: JsonType,
        when_absent: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self { name, kind, when_absent: Some(when_absent), meaning }
    }
}

/// The JSON type of a field.
#[derive(Clone, Copy)]
pub enum JsonType {
    /// Any JSON value.
    Any,
    /// `true` or `false`.
    Boolean,
    /// A number without a fraction.
    Integer,
    /// A string.
    String,
    /// An array of values of one type.
    Array(&'static Self),
    /// An object with these fields.
    Object(&'static [Field]),
    /// An object with any field names and with values of one type.
    Map(&'static Self),
}

impl JsonType {
    /// Returns its name for readers of the documentation.
    pub fn name(&self) -> String {
        match self {
            Self::Any => "any JSON".to_owned(),
            Self::Boolean => "boolean".to_owned(),
            Self::Integer => "integer".to_owned(),
            Self::String => "string".to_owned(),
            Self::Array(items) => format!("array of {}s", items.name()),
            Self::Object(_) | Self::Map(Self::Any) => "object".to_owned(),
            Self::Map(values) => format!("object of {}s", values.name()),
        }
    }
}

/// A call of a method, and the answer to it.
pub struct Example {
    /// Body of the request.
    pub request: &'static str,
    /// Body of the answer.
    pub answer: &'static str,
}

/// The result of a method as JSON, or its error.
pub(super) type ApiResult = Result<Box<RawValue>, ApiError>;

/// The code behind a method.
pub(super) enum Handler {
    /// A function that gets the body of the request. A batch may call it.
    Single(for<'a> fn(&'a Bytes, &'a ApiContext) -> LocalBoxFuture<'a, ApiResult>),
    /// The same, for what the audit log records with its caller.
    OfCaller(for<'a> fn(&'a Bytes, &'a Caller, &'a ApiContext) -> LocalBoxFuture<'a, ApiResult>),
    /// `batch` itself, which runs the others.
    Batch,
}

/// The error of all methods that use the broker.
pub(super) const BROKER_UNAVAILABLE: (ErrorCode, &str) = (ErrorCode::Internal, "the broker is unavailable");

/// The error of all methods for which the broker or other nodes do something, as of too many of them at the same time.
pub(super) const BROKER_BUSY: (ErrorCode, &str) =
    (ErrorCode::TooManyRequests, "too many requests wait for the broker or for answers of the nodes; try again later");

/// The error of all methods that name a channel.
pub(super) const UNKNOWN_NAMESPACE: (ErrorCode, &str) =
    (ErrorCode::UnknownChannel, "the namespace of `channel` is not configured");

/// The error of methods whose only parameter is a channel.
pub(super) const INVALID_CHANNEL: (ErrorCode, &str) = (ErrorCode::BadRequest, "`channel` is missing or invalid");

/// Returns the JSON name of a struct's field: of a raw identifier (`r#override`) the part after `r#`.
pub(super) const fn json_name(identifier: &'static str) -> &'static str {
    match identifier.as_bytes() {
        [b'r', b'#', ..] => identifier.split_at(2).1,
        _ => identifier,
    }
}

/// Declares the struct of a request. The doc comments of its fields are their documentation, and its constant `FIELDS`
/// describes them. Each field has its Rust type, its JSON type, and its default or `None` if it is required.
macro_rules! request_fields {
    (
        $(#[doc = $about:literal])+
        $(#[derive($derive:ident)])?
        $visibility:vis struct $name:ident $(<$lifetime:lifetime>)? {
            $(
                $(#[doc = $meaning:literal])+
                $(#[serde($($attribute:tt)+)])?
                $field:ident: $type:ty = ($kind:expr, $when_absent:expr),
            )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Deserialize $(, $derive)?)]
        $visibility struct $name $(<$lifetime>)? {
            $($(#[serde($($attribute)+)])? $visibility $field: $type,)*
        }

        impl $(<$lifetime>)? $name $(<$lifetime>)? {
            $visibility const FIELDS: &'static [Field] = &[$(Field {
                name: $crate::api::description::json_name(stringify!($field)),
                kind: $kind,
                when_absent: $when_absent,
                meaning: concat!($($meaning),+).trim_ascii(),
            },)*];
        }
    };
}
pub(super) use request_fields;
