//! Lists the header members, claims and options of a token that the hub ignores. One that it does not know is often misspelt,
//! or belongs to another server.

use serde_json::Value;

use super::{grants::SubscriptionEntry, payload::Payload, subscription_options::Overrides, verifier::HEADER_MEMBERS};
use crate::{config::TokenKind, json::member_names};

/// Claims that have a meaning in subscription tokens only.
const SUBSCRIPTION_CLAIMS: [&str; 5] = ["channel", "data", "b64data", "override", "server_tags_filter"];

/// Returns the names of the members that the hub ignores in a token of this kind, with their place: `header.x`, `email`,
/// `subs.news.x`, `subs.news.override.x`.
pub fn ignored_members(header: &Value, claims: &Value, kind: TokenKind) -> Vec<String> {
    let mut ignored = unknown("header.", header, &HEADER_MEMBERS);
    let is_known = |claim: &&str| kind == TokenKind::Subscription || !SUBSCRIPTION_CLAIMS.contains(claim);
    let known: Vec<&str> = member_names::<Payload<'_>>().iter().copied().filter(is_known).collect();
    ignored.extend(unknown("", claims, &known));
    let overrides = |place: &str, options: &Value| {
        let options = options.get("override").unwrap_or(&Value::Null);
        unknown(&format!("{place}override."), options, member_names::<Overrides>())
    };
    if kind == TokenKind::Subscription {
        ignored.extend(overrides("", claims));
    }
    for (channel, options) in claims.get("subs").and_then(Value::as_object).into_iter().flatten() {
        let place = format!("subs.{channel}.");
        ignored.extend(unknown(&place, options, member_names::<SubscriptionEntry<'_>>()));
        ignored.extend(overrides(&place, options));
    }
    ignored
}

fn unknown(place: &str, object: &Value, known: &[&str]) -> Vec<String> {
    let names = object.as_object().into_iter().flat_map(serde_json::Map::keys);
    names.filter(|name| !known.contains(&name.as_str())).map(|name| format!("{place}{name}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_members_are_named_with_their_place() {
        let header = json!({"alg": "HS256", "kid": "a", "typ": "JWT", "x5t": "abc"});
        let options = json!({
            "info": 1, "b64info": "MQ==", "data": 1, "b64data": "MQ==", "expire_at": 1, "recover": true,
            "override": {"presence": {"value": true}, "history": {"value": true}}
        });
        let claims = json!({
            "sub": "ann", "exp": 1, "nbf": 1, "iat": 1, "jti": "1", "iss": "me", "aud": "hub", "expire_at": 1, "info": 1,
            "b64info": "MQ==", "channels": [], "caps": [], "email": "ann@example.com", "data": 1, "subs": {"news": options}
        });
        let mut ignored = ignored_members(&header, &claims, TokenKind::Connection);
        ignored.sort_unstable();
        assert_eq!(ignored, ["data", "email", "header.x5t", "subs.news.override.history", "subs.news.recover"]);
    }

    #[test]
    fn claims_of_a_subscription_token_are_known_in_one() {
        let claims = json!({"sub": "ann", "channel": "news", "data": 1, "b64data": "MQ==", "override": {"x": {}}});
        assert_eq!(ignored_members(&json!({}), &claims, TokenKind::Subscription), ["override.x"]);
        assert!(ignored_members(&Value::Null, &json!("text"), TokenKind::Connection).is_empty());
    }
}
