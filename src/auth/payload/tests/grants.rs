//! Attacks on the grants of a token: `channels`, `subs` and `caps`.

use super::*;
use crate::{
    auth::{Capability, ServerSideSubscription, grants::CAPS_FORM},
    channel::{Pattern, PatternError},
    config::OptionOverrides,
};

#[test]
fn channels_and_subs_become_subscriptions() {
    let grants = grants_of(json!({
        "channels": ["news", "chat:1", "#ann", "$secret"],
        "subs": {"a": {}, "b": {"info": {"x": 1}, "data": [2], "expire_at": in_seconds(30), "other": true}},
    }));
    let subscriptions = grants.expect("grants").subscriptions;
    let names: Vec<&str> = subscriptions.iter().map(|one| one.channel.as_str()).collect();
    assert_eq!(names, ["news", "chat:1", "#ann", "$secret", "a", "b"]);
    let last = ServerSideSubscription {
        channel: Channel::new("b").expect("a name"),
        info: Some(r#"{"x":1}"#.into()),
        data: Some("[2]".into()),
        expires_at: date_in(30),
        overrides: OptionOverrides::default(),
    };
    assert_eq!(subscriptions.last(), Some(&last));
    assert_eq!(grants_of(json!({"subs": {"a": {"expire_at": in_seconds(-1)}}})), None, "expired");
    assert_eq!(grants_of(json!({"channels": [], "subs": {}, "caps": []})), None);
    assert_eq!(grants_of(json!({"channels": null, "subs": null, "caps": null})), None);
}

/// The member `news` of `subs` with these options.
fn subscription_with(options: Value) -> Result<ServerSideSubscription, TokenError> {
    let claims = claims_of(payload(json!({"subs": {"news": options}})))?;
    Ok(claims.grants.expect("grants").subscriptions.remove(0))
}

#[test]
fn base64_of_info_and_data_is_decoded_and_takes_precedence_unless_it_is_empty() {
    let text = |bytes: Option<bytes::Bytes>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).expect("UTF-8"));
    for (options, info, data) in [
        (json!({"b64info": "eyJhIjoxfQ==", "b64data": "WzFd"}), Some(r#"{"a":1}"#), Some("[1]")),
        (json!({"b64info": "eyJhIjoxfQ==", "info": {"b": 2}, "data": 5}), Some(r#"{"a":1}"#), Some("5")),
        (json!({"b64info": "", "info": {"b": 2}, "b64data": null}), Some(r#"{"b":2}"#), None),
        (json!({"b64data": "ewogfQo="}), None, Some("{  }")),
    ] {
        let subscription = subscription_with(options.clone()).expect("a subscription");
        assert_eq!((text(subscription.info).as_deref(), text(subscription.data).as_deref()), (info, data), "{options}");
        let mut claims = options;
        claims["channel"] = json!("news");
        let claims = subscription_claims(&payload(claims)).expect("claims");
        assert_eq!((text(claims.info).as_deref(), text(claims.data).as_deref()), (info, data));
    }
    let claims = claims_of(payload(json!({"b64info": "eyJhIjoxfQ==", "info": 1}))).expect("claims");
    assert_eq!(text(claims.info).as_deref(), Some(r#"{"a":1}"#));
}

#[test]
fn base64_of_anything_but_json_refuses_the_token() {
    let deep =
        base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{}{}", "[".repeat(33), "]".repeat(33)));
    for encoded in [json!("***"), json!("e30"), json!("e30_"), json!("AP8="), json!("aGVsbG8="), json!(5), json!(deep)]
    {
        for member in ["b64info", "b64data"] {
            let error = subscription_with(json!({member: encoded})).expect_err("a refusal");
            assert_eq!(error, TokenError::InvalidBase64, "{member} {encoded}");
            let claims = subscription_claims(&payload(json!({"channel": "news", member: encoded})));
            assert_eq!(claims, Err(TokenError::InvalidBase64), "{member} {encoded}");
        }
        assert_eq!(error_of(json!({"b64info": encoded})), TokenError::InvalidBase64, "{encoded}");
    }
    let long = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("\"{}\"", "x".repeat(4095)));
    let error = subscription_with(json!({"b64data": long})).expect_err("a refusal");
    assert_eq!(error, TokenError::SubscriptionInfoTooLong);
}

#[test]
fn overrides_are_read_and_unknown_ones_are_ignored() {
    let value = |value: bool| json!({"value": value});
    let all = json!({
        "presence": value(false), "join_leave": value(true), "force_push_join_leave": {}, "force_positioning": null,
        "force_recovery": value(true), "map_mode": 5,
    });
    let expected = OptionOverrides {
        presence: Some(false),
        join_leave: Some(true),
        force_push_join_leave: Some(false),
        force_positioning: None,
        force_recovery: Some(true),
    };
    assert_eq!(subscription_with(json!({"override": all})).expect("a subscription").overrides, expected);
    let claims = subscription_claims(&payload(json!({"channel": "news", "override": all}))).expect("claims");
    assert_eq!(claims.overrides, expected);
    let none = subscription_with(json!({"override": null})).expect("a subscription").overrides;
    assert_eq!(none, OptionOverrides::default());
    for wrong in [
        json!([]),
        json!(true),
        json!({"presence": true}),
        json!({"presence": [true]}),
        json!({"presence": value_of("x")}),
    ] {
        let error = subscription_with(json!({"override": wrong})).expect_err("a refusal");
        assert_eq!(error, TokenError::MalformedOverride, "{wrong}");
        let claims = subscription_claims(&payload(json!({"channel": "news", "override": wrong})));
        assert_eq!(claims, Err(TokenError::MalformedOverride), "{wrong}");
    }
}

fn value_of(text: &str) -> Value {
    json!({"value": text})
}

#[test]
fn connection_token_of_another_system_may_have_data_and_override_of_any_kind() {
    for claims in [json!({"data": [1], "override": true, "b64data": {}}), json!({"data": "x", "override": [1]})] {
        assert!(claims_of(payload(claims.clone())).is_ok(), "{claims}");
    }
}

#[test]
fn a_token_for_a_forbidden_channel_is_refused() {
    let invalid = ["", "a*", "a\nb", "a\u{202e}b", &"x".repeat(256)];
    let forbidden = ["room:1", ":x", "chat:UP", "chat:", "dialog#bob", "#", "#,"];
    for name in invalid.iter().chain(&forbidden) {
        for error in [error_of(json!({"channels": [name]})), error_of(json!({"subs": {*name: {}}}))] {
            let is_expected = match error {
                TokenError::InvalidChannelName(_) => invalid.contains(name),
                TokenError::ForbiddenChannel => forbidden.contains(name),
                _ => false,
            };
            assert!(is_expected, "{name:?}: {error}");
        }
    }
    let anonymous = |config: &mut Config| config.auth.anonymous = AnonymousAccess::Token;
    let claims = claims_with(payload(json!({"sub": "", "channels": ["x#,"]})), anonymous);
    assert_eq!(claims, Err(TokenError::ForbiddenChannel), "a session without a user is no member");
}

#[test]
fn malformed_channels_or_subs_refuse_the_token() {
    for channels in [json!("news"), json!({"news": {}}), json!([1]), json!([["news"]]), json!([null]), json!(true)] {
        assert_eq!(error_of(json!({"channels": channels})), TokenError::MalformedChannels, "{channels}");
    }
    for subs in [json!(["news"]), json!({"news": 1}), json!({"news": null}), json!({"news": {"expire_at": "soon"}})] {
        assert_eq!(error_of(json!({"subs": subs})), TokenError::MalformedSubs, "{subs}");
    }
    for member in ["info", "data"] {
        let subs = json!({"news": {member: "x".repeat(4096)}});
        assert_eq!(error_of(json!({"subs": subs})), TokenError::SubscriptionInfoTooLong, "{member}");
    }
}

#[test]
fn filter_that_would_restrict_a_subscription_refuses_the_token() {
    let filtered = json!({"subs": {"news": {"server_tags_filter": {"key": "role", "cmp": "eq", "val": "admin"}}}});
    assert_eq!(error_of(filtered), TokenError::ServerTagsFilter);
    assert!(subscription_with(json!({"server_tags_filter": null})).is_ok());
}

#[test]
fn a_duplicate_channel_refuses_the_token() {
    assert_eq!(error_of(json!({"channels": ["news", "news"]})), TokenError::DuplicateSubscription);
    assert_eq!(error_of(json!({"channels": ["news"], "subs": {"news": {}}})), TokenError::DuplicateSubscription);
    let text = r#"{"sub":"ann","exp":1800000060,"subs":{"a":{},"\u0061":{}}}"#;
    assert_eq!(error_of_text(text), TokenError::DuplicateSubscription);
}

#[test]
fn more_channels_than_a_session_may_have_are_refused_before_they_are_checked() {
    let names = |count: usize| (0..count).map(|index| format!("c{index}")).collect::<Vec<_>>();
    assert_eq!(grants_of(json!({"channels": names(128)})).expect("grants").subscriptions.len(), 128);
    assert_eq!(error_of(json!({"channels": names(129)})), TokenError::TooManySubscriptions);
    assert_eq!(error_of(json!({"channels": names(128), "subs": {"a": {}}})), TokenError::TooManySubscriptions);
    assert_eq!(error_of(json!({"channels": names(1_000_000)})), TokenError::TooManySubscriptions);
    let with_invalid_name = [vec!["no*name".to_owned()], names(128)].concat();
    assert_eq!(error_of(json!({"channels": with_invalid_name})), TokenError::TooManySubscriptions);
}

#[test]
fn caps_become_capabilities() {
    let grants = grants_of(json!({"caps": [
        {"channels": ["news", "chat:*"], "allow": ["sub", "pub"]},
        {"channels": ["chat:*"], "match": "wildcard", "allow": ["prs", "prs"]},
        {"channels": ["n[0-9]+"], "match": "regex", "allow": ["hst"]},
        {"channels": [], "match": "exact", "allow": []},
    ]}));
    let caps = grants.expect("grants").caps;
    let rule = |channels: Vec<Pattern>, [subscribe, publish, presence, history]: [bool; 4]| Capability {
        channels,
        subscribe,
        publish,
        presence,
        history,
    };
    let exact = |name: &str| Pattern::exact(name).expect("a pattern");
    assert_eq!(caps[0], rule(vec![exact("news"), exact("chat:*")], [true, true, false, false]));
    assert_eq!(caps[1], rule(vec![Pattern::wildcard("chat:*").expect("one")], [false, false, true, false]));
    assert_eq!(caps[2], rule(vec![Pattern::regex("n[0-9]+").expect("one")], [false, false, false, true]));
    assert_eq!(caps[3], rule(Vec::new(), [false; 4]));
}

#[test]
fn the_form_in_the_remedy_names_every_match_and_every_right() {
    let form = CAPS_FORM.strip_prefix("a rule is ").expect("a rule").replace('…', "\"a\"");
    for kind in ["exact", "wildcard", "regex"] {
        let rule: Value = form.replace("exact|wildcard|regex", kind).parse().expect("JSON");
        let caps = grants_of(json!({"caps": [rule]})).expect("grants").caps;
        assert!(caps[0].subscribe && caps[0].publish && caps[0].presence && caps[0].history, "{kind}");
    }
}

#[test]
fn malformed_caps_refuse_the_token() {
    for caps in [
        json!({"channels": ["a"], "allow": ["sub"]}),
        json!(["a"]),
        json!([{"channels": ["a"], "allow": ["sub", "admin"]}]),
        json!([{"channels": ["a"], "allow": ["SUB"]}]),
        json!([{"channels": ["a"], "allow": "sub"}]),
        json!([{"channels": ["a"], "allow": [null]}]),
        json!([{"channels": ["a"]}]),
        json!([{"allow": ["sub"]}]),
        json!([{"channels": "a", "allow": ["sub"]}]),
        json!([{"channels": ["a"], "match": "prefix", "allow": ["sub"]}]),
        json!([{"channels": ["a"], "match": null, "allow": ["sub"]}]),
        json!([{"channels": ["a*"], "match": "wildcard", "allow": ["sub"], "except": ["ab"]}]),
    ] {
        assert_eq!(error_of(json!({"caps": caps})), TokenError::MalformedCaps, "{caps}");
    }
    let twice = r#"{"sub":"a","exp":1800000060,"caps":[{"channels":[],"channels":["x"],"allow":[]}]}"#;
    assert_eq!(error_of_text(twice), TokenError::MalformedCaps);
}

#[test]
fn rules_patterns_and_regular_expressions_are_limited() {
    let rule = |channels: usize, kind: &str| json!({"channels": vec!["a"; channels], "match": kind, "allow": ["sub"]});
    for caps in [json!(vec![rule(4, "exact"); 32]), json!(vec![rule(4, "regex"); 2])] {
        assert!(claims_of(payload(json!({"caps": caps}))).is_ok(), "{caps}");
    }
    for caps in [
        json!(vec![rule(0, "exact"); 33]),
        json!(vec![rule(0, "exact"); 100_000]),
        json!([rule(129, "exact")]),
        json!(vec![rule(65, "exact"), rule(64, "wildcard")]),
        json!([rule(4, "regex"), rule(5, "regex")]),
    ] {
        assert_eq!(error_of(json!({"caps": caps})), TokenError::TooManyPatterns);
    }
}

#[test]
fn an_oversized_or_broken_pattern_is_refused() {
    let caps = |pattern: &str, kind: &str| json!({"caps": [{"channels": [pattern], "match": kind, "allow": ["sub"]}]});
    assert_eq!(error_of(caps(&"x".repeat(256), "exact")), TokenError::InvalidPattern(PatternError::TooLong));
    for expression in ["((((a{99}){99}){99}){99})", "(", "a)|(b", &"(a|".repeat(300), &"x".repeat(600)] {
        let error = error_of(caps(expression, "regex"));
        assert!(matches!(error, TokenError::InvalidPattern(_)), "{expression:.40}: {error}");
    }
    let grants = grants_of(caps("(a*)*(a*)*(a*)*b", "regex")).expect("grants");
    assert!(!grants.caps[0].channels[0].matches(&"a".repeat(255)), "in linear time");
}
