//! The options of a subscription in a token, as Centrifugo names them: `info` and `data`, each also in Base64, and `override`. A
//! member of `subs` and a subscription token have the same ones.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::TokenError;
use crate::{
    config::OptionOverrides,
    json::{JsonObject, is_too_deep, single_line},
    publication::MAX_INFO_BYTES,
};

/// The options, not yet parsed.
#[derive(Clone, Copy, Default)]
pub(super) struct RawSubscriptionOptions<'a> {
    pub(super) info: Option<&'a RawValue>,
    pub(super) b64info: Option<&'a RawValue>,
    pub(super) data: Option<&'a RawValue>,
    pub(super) b64data: Option<&'a RawValue>,
    /// `override`.
    pub(super) overrides: Option<&'a RawValue>,
    /// A filter that other servers apply to what the client receives.
    pub(super) server_tags_filter: Option<&'a RawValue>,
}

/// The options of a subscription.
pub(super) struct SubscriptionOptions {
    pub(super) info: Option<Bytes>,
    pub(super) data: Option<Bytes>,
    pub(super) overrides: OptionOverrides,
}

impl RawSubscriptionOptions<'_> {
    /// Parses and checks the options.
    ///
    /// # Errors
    /// The first option that is malformed or too long.
    pub(super) fn validate(self) -> Result<SubscriptionOptions, TokenError> {
        if self.server_tags_filter.is_some_and(|filter| filter.get() != "null") {
            // Other unknown options are ignored. Without this one the client would receive more than the issuer wants.
            return Err(TokenError::ServerTagsFilter);
        }
        Ok(SubscriptionOptions {
            info: json_claim(self.info, self.b64info, TokenError::SubscriptionInfoTooLong)?,
            data: json_claim(self.data, self.b64data, TokenError::SubscriptionInfoTooLong)?,
            overrides: self.overrides.map_or(Ok(OptionOverrides::default()), parse_overrides)?,
        })
    }
}

/// Returns the JSON of a claim that may be there as JSON and in Base64, on one line. The Base64 takes precedence unless it is
/// empty.
pub(super) fn json_claim(
    json: Option<&RawValue>,
    base64: Option<&RawValue>,
    too_long: TokenError,
) -> Result<Option<Bytes>, TokenError> {
    let encoded = base64.map(|text| serde_json::from_str::<String>(text.get())).transpose();
    let encoded = encoded.map_err(|_| TokenError::InvalidBase64)?.filter(|encoded| !encoded.is_empty());
    let line = |json: &RawValue| {
        if json.get().len() > MAX_INFO_BYTES { Err(too_long) } else { Ok(Bytes::from(single_line(json).into_owned())) }
    };
    let Some(encoded) = encoded else {
        return json.map(line).transpose();
    };
    let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| TokenError::InvalidBase64)?;
    let text = std::str::from_utf8(&decoded).ok().filter(|text| !is_too_deep(text.as_bytes()));
    let json = text.and_then(|text| serde_json::from_str::<&RawValue>(text.trim()).ok());
    line(json.ok_or(TokenError::InvalidBase64)?).map(Some)
}

/// `override`: an object of options, each with its value in an object: `{"presence":{"value":false}}`.
#[derive(Deserialize)]
pub(super) struct Overrides {
    presence: Option<JsonObject<BoolValue>>,
    join_leave: Option<JsonObject<BoolValue>>,
    force_push_join_leave: Option<JsonObject<BoolValue>>,
    /// Centrifugo 3 has the other name, as below.
    #[serde(alias = "position")]
    force_positioning: Option<JsonObject<BoolValue>>,
    #[serde(alias = "recover")]
    force_recovery: Option<JsonObject<BoolValue>>,
}

/// Encoders of Protobuf leave out a `false`.
#[derive(Deserialize)]
struct BoolValue {
    #[serde(default)]
    value: bool,
}

fn parse_overrides(raw: &RawValue) -> Result<OptionOverrides, TokenError> {
    let parsed = serde_json::from_str::<JsonObject<Overrides>>(raw.get());
    let JsonObject(overrides) = parsed.map_err(|_| TokenError::MalformedOverride)?;
    let value = |option: Option<JsonObject<BoolValue>>| option.map(|JsonObject(option)| option.value);
    Ok(OptionOverrides {
        presence: value(overrides.presence),
        join_leave: value(overrides.join_leave),
        force_push_join_leave: value(overrides.force_push_join_leave),
        force_positioning: value(overrides.force_positioning),
        force_recovery: value(overrides.force_recovery),
    })
}
