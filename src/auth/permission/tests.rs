//! Tests of permissions: options of the namespace, capabilities of the token, reserved names.

use proptest::prelude::*;

use super::*;
use crate::{
    auth::Grants,
    clock::NEVER,
    config::{Config, OptionOverrides},
};

fn channel(name: &str) -> Channel {
    Channel::new(name).expect("a channel name")
}

/// Returns the default `[channels]`, and a namespace `chat` with these options.
fn permissions(chat: &str) -> Permissions {
    let config = Config::default();
    let chat = toml::from_str(&format!("name = \"chat\"\n{chat}")).expect("a namespace");
    Permissions::new(&config.channels, &[chat])
}

fn user(name: &str) -> Claims {
    Claims { user: name.into(), ..Claims::anonymous() }
}

fn with_caps(name: &str, patterns: &[Pattern]) -> Claims {
    let cap = Capability { channels: patterns.to_vec(), subscribe: true, publish: true, presence: true, history: true };
    let grants = Grants { caps: vec![cap], subscriptions: Vec::new() };
    Claims { grants: Some(Box::new(grants)), ..user(name) }
}

fn exact(name: &str) -> Pattern {
    Pattern::exact(name).expect("a pattern")
}

fn wildcard(pattern: &str) -> Pattern {
    Pattern::wildcard(pattern).expect("a pattern")
}

fn regex(expression: &str) -> Pattern {
    Pattern::regex(expression).expect("a pattern")
}

fn token(user: &str, name: &str) -> SubscriptionClaims {
    SubscriptionClaims {
        token: crate::revocation::TokenIdentity::default(),
        user: user.into(),
        channel: channel(name),
        info: None,
        data: None,
        expires_at: NEVER,
        overrides: OptionOverrides::default(),
    }
}

fn subscribes(permissions: &Permissions, claims: &Claims, name: &str) -> Result<(), PermissionError> {
    permissions.may_subscribe(claims, &channel(name), None)
}

fn publishes(
    permissions: &Permissions,
    claims: &Claims,
    name: &str,
    is_subscribed: bool,
) -> Result<(), PermissionError> {
    permissions.may(ChannelRight::Publish, claims, &channel(name), is_subscribed)
}

const NO: Result<(), PermissionError> = Err(PermissionError::NotGranted);
const YES: Result<(), PermissionError> = Ok(());

#[test]
fn an_unconfigured_namespace_is_unknown_despite_any_grant() {
    let permissions = permissions("allow_subscribe = \"user\"\nallow_publish = \"user\"");
    let ann = with_caps("ann", &[exact("room:1"), wildcard("*")]);
    for name in ["room:1", "$room:1", ":1", "CHAT:1", "chat :1", "chat\u{ff1a}1:x", "room:1#ann"] {
        assert_eq!(subscribes(&permissions, &ann, name), Err(PermissionError::UnknownNamespace), "{name}");
        assert_eq!(publishes(&permissions, &ann, name, true), Err(PermissionError::UnknownNamespace), "{name}");
        assert!(!permissions.depends_on_subscription(ChannelRight::Publish, &channel("room:1")));
    }
    assert_eq!(subscribes(&permissions, &ann, "chat:1"), YES);
}

#[test]
fn a_name_that_does_not_match_channel_regex_is_reported_as_invalid() {
    let permissions = permissions("channel_regex = \"[a-z]+\"\nallow_subscribe = \"user\"");
    let ann = user("ann");
    assert_eq!(subscribes(&permissions, &ann, "chat:room"), YES);
    assert_eq!(subscribes(&permissions, &ann, "chat:room#ann"), YES, "only the part before the users has to match");
    assert_eq!(permissions.may_subscribe(&ann, &channel("$chat:room"), Some(&token("ann", "$chat:room"))), YES);
    for name in ["chat:room1", "chat:Room", "chat:", "chat:a:b", "$chat:1", "chat:1#ann", "chat:r\u{ff4f}om"] {
        assert_eq!(subscribes(&permissions, &ann, name), Err(PermissionError::InvalidName), "{name}");
    }
}

#[test]
fn channel_regex_also_applies_to_channels_without_a_namespace() {
    let config = Config::default();
    let channels = ChannelOptions {
        channel_regex: Some(regex("[a-z]{2,8}")),
        allow_subscribe: AllowSubscribe::User,
        ..config.channels
    };
    let permissions = Permissions::new(&channels, &[]);
    assert_eq!(subscribes(&permissions, &user("ann"), "news"), YES);
    assert_eq!(subscribes(&permissions, &user("ann"), "dialog#ann,bob"), YES);
    assert_eq!(subscribes(&permissions, &user("ann"), "n"), Err(PermissionError::InvalidName));
    assert_eq!(subscribes(&permissions, &user("ann"), "news1"), Err(PermissionError::InvalidName));
}

#[test]
fn an_ungranted_channel_is_indistinguishable_from_a_missing_one() {
    let permissions = permissions("");
    for name in ["chat:exists", "chat:never-heard-of", "news", "$chat:x", "dialog#bob"] {
        assert_eq!(subscribes(&permissions, &user("ann"), name), NO, "{name}");
        assert_eq!(publishes(&permissions, &user("ann"), name, false), NO, "{name}");
    }
}

#[test]
fn personal_channels_belong_to_exactly_one_user() {
    let names = |chat: &str, is_without_namespace: bool, user: &str| {
        let chat = toml::from_str(&format!("name = \"chat\"\n{chat}")).expect("a namespace");
        let channels = ChannelOptions { subscribe_to_personal: is_without_namespace, ..Config::default().channels };
        let permissions = Permissions::new(&channels, &[chat]);
        permissions.personal_channels(user).map(|channel| channel.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("", true, "42"), ["#42"]);
    assert_eq!(names("subscribe_to_personal = true", true, "idp:42"), ["#idp:42", "chat:#idp:42"]);
    assert_eq!(names("subscribe_to_personal = true\nchannel_regex = \"[a-z]+\"", false, "a#b"), ["chat:#a#b"]);
    for user in ["", "42,43", ",", "4*", "two  spaces", &"x".repeat(255)] {
        assert_eq!(names("subscribe_to_personal = true", true, user), Vec::<String>::new(), "{user:?}");
    }
    assert_eq!(names("", false, "42"), Vec::<String>::new());
}

#[test]
fn namespace_options_allow_users_or_everyone() {
    let (ann, anonymous) = (user("ann"), Claims::anonymous());
    for (option, user_may, anonymous_may) in [("none", NO, NO), ("user", YES, NO), ("anonymous", YES, YES)] {
        let permissions = permissions(&format!("allow_subscribe = \"{option}\"\nallow_publish = \"{option}\""));
        assert_eq!(subscribes(&permissions, &ann, "chat:1"), user_may, "{option}");
        assert_eq!(subscribes(&permissions, &anonymous, "chat:1"), anonymous_may, "{option}");
        assert_eq!(publishes(&permissions, &ann, "chat:1", false), user_may, "{option}");
        assert_eq!(publishes(&permissions, &anonymous, "chat:1", false), anonymous_may, "{option}");
        assert!(!permissions.depends_on_subscription(ChannelRight::Publish, &channel("chat:1")));
    }
    let permissions = permissions("allow_publish = \"subscriber\"");
    assert!(permissions.depends_on_subscription(ChannelRight::Publish, &channel("chat:1")));
    assert_eq!(publishes(&permissions, &anonymous, "chat:1", true), YES);
    assert_eq!(publishes(&permissions, &ann, "chat:1", false), NO);
}

#[test]
fn an_exact_grant_covers_only_that_channel() {
    let permissions = permissions("");
    let ann = with_caps("ann", &[exact("chat:1"), exact("room")]);
    assert_eq!(subscribes(&permissions, &ann, "chat:1"), YES);
    for name in [
        "chat:10",
        "chat:1:x",
        "chat:1%00",
        "chat:\u{ff11}",
        "chat:1 x",
        "chat:01",
        "roo",
        "room1",
        "ROOM",
        "\u{ff52}oom",
    ] {
        assert_eq!(subscribes(&permissions, &ann, name), NO, "{name}");
        assert_eq!(publishes(&permissions, &ann, name, true), NO, "{name}");
    }
    assert_eq!(subscribes(&permissions, &ann, "CHAT:1"), Err(PermissionError::UnknownNamespace));
}

#[test]
fn permissions_are_the_union_of_capabilities_and_namespace_options() {
    let permissions = permissions("allow_subscribe = \"user\"");
    let mut ann = with_caps("ann", &[wildcard("chat:*"), regex("n[0-9]")]);
    assert_eq!(publishes(&permissions, &ann, "chat:1", false), YES);
    assert_eq!(publishes(&permissions, &ann, "n1", false), YES);
    assert_eq!(subscribes(&permissions, &ann, "n10"), NO);
    let grants = ann.grants.as_mut().expect("grants");
    (grants.caps[0].publish, grants.caps[0].subscribe) = (false, false);
    assert_eq!(publishes(&permissions, &ann, "chat:1", false), NO, "a right that the rule does not name");
    assert_eq!(subscribes(&permissions, &ann, "n1"), NO);
    assert_eq!(subscribes(&permissions, &ann, "chat:1"), YES, "the namespace still allows it");
}

#[test]
fn a_user_limited_channel_is_closed_to_all_other_users() {
    let permissions = permissions("allow_subscribe = \"anonymous\"\nallow_publish = \"anonymous\"");
    let members = ["dialog#ann,bob", "#ann", "chat:dialog#bob,ann", "#idp:7", "chat:x#a#b"];
    for (name, member) in members.iter().zip(["ann", "ann", "ann", "idp:7", "a#b"]) {
        assert_eq!(subscribes(&permissions, &user(member), name), YES, "{name}");
    }
    for outsider in ["eve", "an", "annn", "ann,bob", "ANN", "", "dialog", "bob,ann", "7", "a"] {
        for name in members {
            let claims = with_caps(outsider, &[exact(name), wildcard("*"), regex(".*")]);
            let good = token(outsider, name);
            assert_eq!(subscribes(&permissions, &claims, name), NO, "{outsider} {name}");
            assert_eq!(permissions.may_subscribe(&claims, &channel(name), Some(&good)), NO, "{outsider} {name}");
            assert_eq!(publishes(&permissions, &claims, name, true), NO, "{outsider} {name}");
        }
    }
    for name in ["x#", "x#,", "x#ann,"] {
        assert_eq!(
            subscribes(&permissions, &Claims::anonymous(), name),
            NO,
            "a session without a user is not a member of {name}"
        );
        assert_eq!(publishes(&permissions, &Claims::anonymous(), name, true), NO, "{name}");
    }
}

#[test]
fn a_member_publishes_only_where_publishing_is_allowed() {
    let permissions = permissions("allow_publish = \"user\"");
    assert_eq!(publishes(&permissions, &user("ann"), "chat:dialog#ann", false), YES);
    assert_eq!(publishes(&permissions, &user("ann"), "dialog#ann", false), NO);
    assert_eq!(publishes(&permissions, &with_caps("ann", &[exact("dialog#ann")]), "dialog#ann", false), YES);
    assert_eq!(publishes(&permissions, &with_caps("ann", &[wildcard("dialog*")]), "dialog#ann", false), NO);
}

#[test]
fn a_private_channel_requires_a_subscription_token() {
    let permissions = permissions("allow_subscribe = \"anonymous\"");
    let ann = user("ann");
    for name in ["$chat:1", "$secret"] {
        assert_eq!(subscribes(&permissions, &ann, name), NO, "{name}");
        let with = |token: &SubscriptionClaims| permissions.may_subscribe(&ann, &channel(name), Some(token));
        assert_eq!(with(&token("ann", name)), YES);
        assert_eq!(with(&token("bob", name)), NO, "a token of another user");
        assert_eq!(with(&token("ann", "$chat:10")), NO, "a token for another channel");
        for patterns in [[wildcard("*")], [wildcard("$*")], [wildcard(name)], [regex(".*")], [exact(&name[1..])]] {
            assert_eq!(subscribes(&permissions, &with_caps("ann", &patterns), name), NO, "{patterns:?}");
        }
        assert_eq!(subscribes(&permissions, &with_caps("ann", &[exact(name)]), name), YES, "its whole name");
    }
}

#[test]
fn a_private_user_limited_channel_requires_membership_and_a_token() {
    let permissions = permissions("");
    let name = "$dialog#ann";
    assert_eq!(subscribes(&permissions, &user("ann"), name), NO);
    assert_eq!(permissions.may_subscribe(&user("ann"), &channel(name), Some(&token("ann", name))), YES);
    assert_eq!(permissions.may_subscribe(&user("bob"), &channel(name), Some(&token("bob", name))), NO);
}

#[test]
fn only_subscribers_publish_to_a_private_channel() {
    let ann = user("ann");
    for option in ["subscriber", "user", "anonymous"] {
        let permissions = permissions(&format!("allow_publish = \"{option}\""));
        assert!(permissions.depends_on_subscription(ChannelRight::Publish, &channel("$chat:1")));
        assert_eq!(publishes(&permissions, &ann, "$chat:1", true), YES, "{option}");
        assert_eq!(publishes(&permissions, &ann, "$chat:1", false), NO, "{option}");
    }
    let permissions = permissions("allow_publish = \"none\"");
    assert_eq!(publishes(&permissions, &ann, "$chat:1", true), NO);
    assert_eq!(publishes(&permissions, &with_caps("ann", &[exact("$chat:1")]), "$chat:1", false), YES);
    assert_eq!(publishes(&permissions, &with_caps("ann", &[wildcard("$chat:*")]), "$chat:1", true), NO);
}

#[test]
fn a_subscription_token_grants_any_known_channel_and_a_wrong_one_denies_even_open_ones() {
    let closed = permissions("");
    let with = |permissions: &Permissions, name: &str, token: SubscriptionClaims| {
        permissions.may_subscribe(&user("ann"), &channel(name), Some(&token))
    };
    assert_eq!(with(&closed, "chat:1", token("ann", "chat:1")), YES);
    assert_eq!(with(&closed, "dialog#ann,bob", token("ann", "dialog#ann,bob")), YES);
    assert_eq!(with(&closed, "room:1", token("ann", "room:1")), Err(PermissionError::UnknownNamespace));
    let open = permissions("allow_subscribe = \"user\"");
    assert_eq!(with(&open, "chat:1", token("ann", "chat:2")), NO, "even if the channel needs no token");
    assert_eq!(with(&open, "chat:1", token("", "chat:1")), NO);
}

proptest! {
    #[test]
    fn a_pattern_never_grants_a_reserved_channel(
        pattern in r"[$#a-c*:,]{0,12}",
        expression in r"[$#a-c.*?|()\[\]]{0,12}",
        name in r"(\$[a-c:]{1,6}|[a-c:]{0,4}#[a-c,]{0,4})",
    ) {
        let mut config = Config::default();
        config.channels.allow_subscribe = AllowSubscribe::None;
        let namespaces: Vec<Namespace> = ["a", "b", "c", "ab"].iter().map(|name| {
            Namespace { name: (*name).to_owned(), channels: config.channels.clone() }
        }).collect();
        let permissions = Permissions::new(&config.channels, &namespaces);
        // Random patterns rarely match. The name with stars around it does, and so do the patterns that match everything.
        let mut patterns = vec![wildcard(&pattern), wildcard("*"), wildcard(&format!("*{name}*")), regex(".*")];
        patterns.extend(Pattern::regex(&expression));
        let claims = with_caps("someone", &patterns);
        let channel = channel(&name);
        prop_assert!(permissions.may_subscribe(&claims, &channel, None).is_err());
        prop_assert!(permissions.may(ChannelRight::Publish, &claims, &channel, true).is_err());
    }

    #[test]
    fn permission_checks_never_panic(name in "\\PC{1,60}", user_name in "\\PC{0,20}", pattern in "\\PC{0,60}") {
        let Ok(channel) = Channel::new(&name) else { return Ok(()) };
        let permissions = permissions("allow_subscribe = \"user\"\nchannel_regex = \"[^x]*\"");
        let patterns: Vec<Pattern> =
            [Pattern::exact(&pattern), Pattern::wildcard(&pattern), Pattern::regex(&pattern)].into_iter().flatten().collect();
        let claims = with_caps(&user_name, &patterns);
        let _ = permissions.may_subscribe(&claims, &channel, Some(&token(&user_name, &name)));
        let _ = permissions.may(ChannelRight::Publish, &claims, &channel, false);
        let _ = permissions.depends_on_subscription(ChannelRight::Publish, &channel);
    }
}

#[test]
fn history_and_presence_follow_namespace_options_and_capabilities() {
    let ann = user("ann");
    for (allowed, by_subscriber, by_user, by_anonymous) in
        [("none", NO, NO, NO), ("subscriber", YES, NO, NO), ("user", YES, YES, NO), ("anonymous", YES, YES, YES)]
    {
        let permissions = permissions(&format!("allow_history = \"{allowed}\"\nallow_presence = \"{allowed}\""));
        let read = |claims: &Claims, name: &str, is_subscribed: bool| {
            let channel = channel(name);
            let history = permissions.may(ChannelRight::History, claims, &channel, is_subscribed);
            assert_eq!(permissions.may(ChannelRight::Presence, claims, &channel, is_subscribed), history, "{allowed}");
            history
        };
        assert_eq!(read(&ann, "chat:1", true), by_subscriber, "{allowed}");
        assert_eq!(read(&ann, "chat:1", false), by_user, "{allowed}");
        assert_eq!(read(&Claims::anonymous(), "chat:1", false), by_anonymous, "{allowed}");
        assert_eq!(read(&ann, "$chat:1", false), NO, "a private channel is closed to sessions that are not subscribed");
        assert_eq!(read(&ann, "$chat:1", true), by_subscriber, "{allowed}");
        assert_eq!(read(&ann, "chat:1#bob", true), NO, "{allowed}");
        assert_eq!(read(&with_caps("ann", &[exact("chat:1")]), "chat:1", false), YES, "{allowed}");
        assert_eq!(read(&with_caps("ann", &[wildcard("*")]), "$chat:1", false), NO, "{allowed}");
        let wants = permissions.depends_on_subscription(ChannelRight::History, &channel("chat:1"));
        assert_eq!(
            (wants, permissions.depends_on_subscription(ChannelRight::Presence, &channel("chat:1"))),
            (allowed == "subscriber", wants)
        );
        assert!(permissions.depends_on_subscription(ChannelRight::History, &channel("$chat:1")));
    }
}

#[test]
fn a_history_capability_does_not_grant_presence() {
    let permissions = permissions("");
    let only = |presence| {
        let cap = Capability {
            channels: vec![exact("chat:1")],
            subscribe: true,
            publish: true,
            presence,
            history: !presence,
        };
        let grants = Grants { caps: vec![cap], subscriptions: Vec::new() };
        Claims { grants: Some(Box::new(grants)), ..user("ann") }
    };
    let read = |claims: &Claims| {
        let channel = channel("chat:1");
        let history = permissions.may(ChannelRight::History, claims, &channel, true);
        (history, permissions.may(ChannelRight::Presence, claims, &channel, true))
    };
    assert_eq!((read(&only(false)), read(&only(true))), ((YES, NO), (NO, YES)));
}

#[test]
fn what_is_revoked_in_a_channel_allows_no_subscribing_and_nothing_else_there() {
    use crate::{
        clock::WallTime,
        revocation::{Revocation, RevocationTarget, Revocations, TokenIdentity},
    };
    let at = WallTime::from_unix_seconds;
    let revocations = std::sync::Arc::new(Revocations::default());
    let target = RevocationTarget::Channel("ann".to_owned(), channel("chat:news"));
    revocations.add([Revocation { issued_before: at(50), ..Revocation::of_all(target, NEVER) }]).unwrap();
    let permissions = permissions("allow_subscribe = \"user\"\nallow_publish = \"user\"").without_revoked(revocations);
    let issued = |seconds| TokenIdentity { issued_at: at(seconds), ..TokenIdentity::default() };
    let ann = |seconds| Claims { token: issued(seconds), ..with_caps("ann", &[]) };
    let bob = Claims { token: issued(49), ..with_caps("bob", &[]) };
    assert_eq!(subscribes(&permissions, &ann(49), "chat:news"), NO);
    assert_eq!(publishes(&permissions, &ann(49), "chat:news", false), NO);
    assert_eq!(subscribes(&permissions, &ann(50), "chat:news"), YES);
    assert_eq!(
        (subscribes(&permissions, &ann(49), "chat:other"), subscribes(&permissions, &bob, "chat:news")),
        (YES, YES)
    );
    // A subscription token stands for itself, newer or older than that of the connection.
    let with_token = |connection, subscription| {
        let token = SubscriptionClaims { token: issued(subscription), ..token("ann", "chat:news") };
        permissions.may_subscribe(&ann(connection), &channel("chat:news"), Some(&token))
    };
    assert_eq!((with_token(49, 50), with_token(50, 49)), (YES, NO));
}

#[test]
fn hook_decides_only_where_neither_name_nor_revocation_excludes() {
    use crate::{
        clock::WallTime,
        revocation::{Revocation, RevocationTarget, Revocations, TokenIdentity},
    };

    let at = WallTime::from_unix_seconds;
    let revocations = std::sync::Arc::new(Revocations::default());
    let target = RevocationTarget::Channel("ann".to_owned(), channel("chat:revoked"));
    revocations.add([Revocation { issued_before: at(50), ..Revocation::of_all(target, NEVER) }]).unwrap();
    let options = "allow_subscribe = \"anonymous\"\nsubscribe_hook = true\npublish_hook = true";
    let permissions = permissions(options).without_revoked(revocations);
    let issued = TokenIdentity { issued_at: at(49), ..TokenIdentity::default() };
    let ann = Claims { token: issued, ..with_caps("ann", &[exact("chat:granted")]) };
    for (name, is_asked, subscribed, published) in [
        ("chat:room", true, NO, YES),
        ("chat:granted", false, YES, YES),
        ("chat:revoked", false, NO, NO),
        ("chat:#ann", false, YES, YES),
        ("chat:#bob", false, NO, NO),
        ("$chat:room", false, NO, NO),
        ("news", false, NO, NO),
    ] {
        assert_eq!(permissions.asks_subscribe_hook(&ann, &channel(name)), is_asked, "{name}");
        assert_eq!(subscribes(&permissions, &ann, name), subscribed, "{name}");
        assert_eq!(publishes(&permissions, &ann, name, false), published, "{name}");
    }
}
