//! Attacks on what a token grants: channels, subs, caps.

use super::*;
use crate::{
    auth::{Capability, ServerSideSubscription},
    channel::Pattern,
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
        expires_at: in_seconds(30) * 1000,
    };
    assert_eq!(subscriptions.last(), Some(&last));
    assert_eq!(grants_of(json!({"subs": {"a": {"expire_at": in_seconds(-1)}}})), None, "over already");
    assert_eq!(grants_of(json!({"channels": [], "subs": {}, "caps": []})), None);
    assert_eq!(grants_of(json!({"channels": null, "subs": null, "caps": null})), None);
}

#[test]
fn a_token_for_a_forbidden_channel_is_refused() {
    for name in
        ["", "a*", "a\nb", "room:1", ":x", "chat:UP", "chat:", "dialog#bob", "#", "#,", &"x".repeat(256), "a\u{202e}b"]
    {
        assert!(is_refused(json!({"channels": [name]})), "{name:?}");
        assert!(is_refused(json!({"subs": {name: {}}})), "{name:?}");
    }
    let open = |config: &mut Config| config.auth.anonymous = AnonymousAccess::Token;
    assert!(claims_with(payload(json!({"sub": "", "channels": ["x#,"]})), open).is_err(), "nobody is no member");
}

#[test]
fn malformed_channels_or_subs_refuse_the_token() {
    for more in [
        json!({"channels": "news"}),
        json!({"channels": {"news": {}}}),
        json!({"channels": [1]}),
        json!({"channels": [["news"]]}),
        json!({"channels": [null]}),
        json!({"channels": true}),
        json!({"subs": ["news"]}),
        json!({"subs": {"news": 1}}),
        json!({"subs": {"news": null}}),
        json!({"subs": {"news": {"expire_at": "soon"}}}),
        json!({"subs": {"news": {"info": "x".repeat(4096)}}}),
        json!({"subs": {"news": {"data": "x".repeat(4096)}}}),
    ] {
        assert!(is_refused(more.clone()), "{more}");
    }
}

#[test]
fn a_duplicate_channel_refuses_the_token() {
    assert!(is_refused(json!({"channels": ["news", "news"]})));
    assert!(is_refused(json!({"channels": ["news"], "subs": {"news": {}}})));
    assert!(claims_of_text(r#"{"sub":"ann","exp":1800000060,"subs":{"a":{},"\u0061":{}}}"#, |_| ()).is_err());
}

#[test]
fn a_million_channels_are_refused_while_being_read() {
    let names = |count: usize| (0..count).map(|index| format!("c{index}")).collect::<Vec<_>>();
    assert_eq!(grants_of(json!({"channels": names(128)})).expect("grants").subscriptions.len(), 128);
    let refusal = Err(TokenError::Invalid("more subscriptions than limits.channels_per_session"));
    assert_eq!(claims_of(payload(json!({"channels": names(129)}))), refusal);
    assert_eq!(claims_of(payload(json!({"channels": names(128), "subs": {"a": {}}}))), refusal);
    // Behind the limit nothing is read: the name that is none would be the reason otherwise.
    let many = [names(128), vec!["x".to_owned(), "no*name".to_owned()], names(1_000_000)].concat();
    assert_eq!(claims_of(payload(json!({"channels": many}))), refusal);
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
        json!([{"channels": ["x".repeat(256)], "allow": ["sub"]}]),
    ] {
        assert!(is_refused(json!({"caps": caps})), "{caps}");
    }
    assert!(
        claims_of_text(r#"{"sub":"a","exp":1800000060,"caps":[{"channels":[],"channels":["x"],"allow":[]}]}"#, |_| ())
            .is_err()
    );
}

#[test]
fn rules_patterns_and_regular_expressions_are_limited() {
    let rule = |channels: usize, kind: &str| json!({"channels": vec!["a"; channels], "match": kind, "allow": ["sub"]});
    assert!(!is_refused(json!({"caps": vec![rule(4, "exact"); 32]})));
    assert!(is_refused(json!({"caps": vec![rule(0, "exact"); 33]})));
    assert!(is_refused(json!({"caps": vec![rule(0, "exact"); 100_000]})));
    assert!(is_refused(json!({"caps": [rule(129, "exact")]})));
    assert!(is_refused(json!({"caps": vec![rule(65, "exact"), rule(64, "wildcard")]})));
    assert!(!is_refused(json!({"caps": vec![rule(4, "regex"); 2]})));
    assert!(is_refused(json!({"caps": [rule(4, "regex"), rule(5, "regex")]})));
}

#[test]
fn an_oversized_or_broken_regular_expression_is_refused() {
    for expression in ["((((a{99}){99}){99}){99})", "(", "a)|(b", &"(a|".repeat(300), &"x".repeat(600)] {
        assert!(
            is_refused(json!({"caps": [{"channels": [expression], "match": "regex", "allow": ["sub"]}]})),
            "{expression:.40}"
        );
    }
    let nested = json!({"caps": [{"channels": ["(a*)*(a*)*(a*)*b"], "match": "regex", "allow": ["sub"]}]});
    let grants = grants_of(nested).expect("grants");
    assert!(!grants.caps[0].channels[0].matches(&"a".repeat(255)), "in no more than linear time");
}
