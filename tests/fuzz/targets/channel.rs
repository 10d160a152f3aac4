//! Channel names, patterns and permissions: whatever a name looks like, nothing is permitted without a grant.

use wardcast::{
    auth::{Capability, ChannelRight, Claims, Grants, PermissionError, Permissions, SubscriptionClaims},
    channel::{Channel, MAX_BYTES, Pattern},
    clock::NEVER,
    config::{AllowSubscribe, ChannelAccess, ChannelOptions, Config, Namespace, OptionOverrides},
    revocation::TokenIdentity,
};

/// Lines: two bytes that choose options, a name, a pattern, a user, a second pattern.
pub fn channel(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = check_name(text);
    let mut lines = text.split('\n');
    let (choices, name, pattern, user, second) = (lines.next(), lines.next(), lines.next(), lines.next(), lines.next());
    let (Some(name), Some(pattern)) = (name, pattern) else { return };
    check_patterns(pattern, name);
    if let Some(channel) = check_name(name) {
        let choices = choices.map_or(&[][..], str::as_bytes);
        let choice = |at: usize| choices.get(at).copied().unwrap_or_default();
        let case = Case {
            permissions: permissions(choice(0)),
            user: user.unwrap_or_default(),
            patterns: patterns([pattern, second.unwrap_or_default()], choice(1)),
            allows: choice(1),
            channel,
        };
        case.check_nothing_is_permitted_without_grant();
        case.check_more_caps_permit_no_less();
        case.check_subscription_token_is_for_one_user_and_channel();
    }
}

fn check_name(name: &str) -> Option<Channel> {
    let is_plain = !name.is_empty() && name.len() <= MAX_BYTES && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let Ok(channel) = Channel::new(name) else {
        assert!(!is_plain, "{name:?} was refused");
        return None;
    };
    assert_eq!(channel.as_str(), name);
    assert!(!name.is_empty() && name.len() <= MAX_BYTES && name.trim() == name && !name.contains("  "), "{name:?}");
    let misleads = |character: char| {
        let is_override =
            matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        let is_space = character.is_whitespace() && character != ' ';
        character.is_control()
            || is_override
            || is_space
            || "*\u{61c}\u{ad}\u{34f}\u{3164}\u{fe0f}\u{feff}\u{fffd}".contains(character)
    };
    assert!(!name.chars().any(misleads), "{name:?}");
    // The parts make up the whole name.
    let users = channel.users().map(|users| format!("#{}", users.collect::<Vec<_>>().join(",")));
    let parts = [
        if channel.is_private() { "$" } else { "" },
        channel.namespace().unwrap_or_default(),
        if channel.namespace().is_some() { ":" } else { "" },
        channel.local_name(),
        users.as_deref().unwrap_or_default(),
    ];
    assert_eq!(parts.concat(), name);
    assert_eq!(channel.is_reserved(), channel.is_private() || users.is_some());
    Some(channel)
}

fn check_patterns(pattern: &str, name: &str) {
    if let Ok(exact) = Pattern::exact(pattern) {
        assert_eq!(exact.matches(name), pattern == name);
    }
    if let Ok(wildcard) = Pattern::wildcard(pattern) {
        assert_eq!(
            wildcard.matches(name),
            matches_by_definition(pattern.as_bytes(), name.as_bytes()),
            "{pattern:?} {name:?}"
        );
    }
    if let Ok(regex) = Pattern::regex(pattern) {
        assert!(pattern.len() <= 512);
        let _ = regex.matches(name);
        // An alternative of it and of a character that no name has must match the same names. Otherwise the pattern could
        // break out of its group, by closing it or by a comment.
        if let Ok(either) = Pattern::regex(&format!("\u{fffd}|{pattern}"))
            && name != "\u{fffd}"
        {
            assert_eq!(either.matches(name), regex.matches(name), "{pattern:?} {name:?}");
        }
    }
    // A name escaped as an expression matches itself and nothing longer.
    let is_special = |c: &char| r"\.+*?()|[]{}^$#&-~".contains(*c);
    let literal: String =
        name.chars().flat_map(|c| Some('\\').filter(|_| is_special(&c)).into_iter().chain([c])).collect();
    if let Ok(regex) = Pattern::regex(&literal) {
        assert!(regex.matches(name), "{name:?}");
        assert!(!regex.matches(&format!("{name}x")) && !regex.matches(&format!("x{name}")), "{name:?}");
    }
}

/// Matches a wildcard pattern by its definition: row by row, which prefixes of the name each prefix of the pattern matches.
fn matches_by_definition(pattern: &[u8], name: &[u8]) -> bool {
    let mut matched: Vec<bool> = (0..=name.len()).map(|length| length == 0).collect();
    for piece in pattern {
        let before = matched.clone();
        for length in 0..=name.len() {
            matched[length] = if *piece == b'*' {
                before[..=length].contains(&true)
            } else {
                length > 0 && before[length - 1] && name[length - 1] == *piece
            };
        }
    }
    matched[name.len()]
}

/// The low bits choose the options of channels without a namespace, the high bits those of the namespace `chat`.
fn permissions(choices: u8) -> Permissions {
    let options = |bits: u8| ChannelOptions {
        allow_subscribe: [AllowSubscribe::None, AllowSubscribe::User, AllowSubscribe::Anonymous]
            [usize::from(bits & 3) % 3],
        allow_publish: [ChannelAccess::None, ChannelAccess::Subscriber, ChannelAccess::User, ChannelAccess::Anonymous]
            [usize::from(bits >> 2 & 3)],
        ..Config::default().channels
    };
    Permissions::new(&options(choices), &[Namespace { name: "chat".to_owned(), channels: options(choices >> 4) }])
}

fn patterns(texts: [&str; 2], choices: u8) -> Vec<Pattern> {
    let pattern = |(at, text): (usize, &str)| match choices >> (2 * at) & 3 {
        0 => None,
        1 => Pattern::exact(text).ok(),
        2 => Pattern::wildcard(text).ok(),
        _ => Pattern::regex(text).ok(),
    };
    texts.into_iter().enumerate().filter_map(pattern).collect()
}

struct Case<'a> {
    permissions: Permissions,
    user: &'a str,
    patterns: Vec<Pattern>,
    allows: u8,
    channel: Channel,
}

type Permitted = [Result<(), PermissionError>; 3];

impl Case<'_> {
    /// Whether a client with these patterns may subscribe, publish, and publish as a subscriber.
    fn permitted(&self, patterns: &[Pattern], token: Option<&SubscriptionClaims>) -> Permitted {
        let (subscribe, publish) = (self.allows & 16 != 0, self.allows & 32 != 0);
        let cap = Capability { channels: patterns.to_vec(), subscribe, publish, presence: true, history: true };
        let grants = Some(Box::new(Grants { caps: vec![cap], ..Grants::default() }));
        let claims = Claims { user: self.user.into(), grants, ..Claims::anonymous() };
        [
            self.permissions.may_subscribe(&claims, &self.channel, token),
            self.permissions.may(ChannelRight::Publish, &claims, &self.channel, false),
            self.permissions.may(ChannelRight::Publish, &claims, &self.channel, true),
        ]
    }

    fn check_nothing_is_permitted_without_grant(&self) {
        let (channel, permitted) = (&self.channel, self.permitted(&self.patterns, None));
        let is_named = channel.users().is_some_and(|mut users| users.any(|user| user == self.user && !user.is_empty()));
        if channel.namespace().is_some_and(|namespace| namespace != "chat") {
            assert_eq!(permitted, [Err(PermissionError::UnknownNamespace); 3], "{channel}");
        } else if channel.users().is_some() && !is_named {
            assert_eq!(permitted, [Err(PermissionError::NotGranted); 3], "{channel} is not for {:?}", self.user);
        }
        if channel.is_reserved() {
            // Only a cap with the exact name applies.
            let whole = |pattern: &&Pattern| matches!(pattern, Pattern::Exact(name) if **name == *channel.as_str());
            let exact: Vec<Pattern> = self.patterns.iter().filter(whole).cloned().collect();
            assert_eq!(permitted, self.permitted(&exact, None), "{channel}");
        }
        if channel.is_private() {
            let [subscribe, publish, _] = self.permitted(&[], None);
            assert!(subscribe.is_err() && publish.is_err(), "{channel} is private");
        }
        let matches = self.patterns.iter().any(|pattern| pattern.matches(channel.as_str()));
        if !matches {
            assert_eq!(permitted, self.permitted(&[], None), "{channel}");
        } else if !channel.is_reserved() && permitted[0] != Err(PermissionError::UnknownNamespace) {
            let (subscribe, publish) = (self.allows & 16 != 0, self.allows & 32 != 0);
            assert!(!subscribe || permitted[0].is_ok(), "{channel}");
            assert!(!publish || (permitted[1].is_ok() && permitted[2].is_ok()), "{channel}");
        }
    }

    fn check_more_caps_permit_no_less(&self) {
        let (few, all) =
            (self.permitted(&self.patterns[..self.patterns.len() / 2], None), self.permitted(&self.patterns, None));
        for (few, all) in few.into_iter().zip(all) {
            assert!(few.is_err() || all.is_ok(), "{}", self.channel);
        }
        assert!(all[1].is_err() || all[2].is_ok(), "a subscriber may do no less: {}", self.channel);
    }

    fn check_subscription_token_is_for_one_user_and_channel(&self) {
        let token = |user: &str, channel: Channel| SubscriptionClaims {
            token: TokenIdentity::default(),
            user: user.into(),
            channel,
            info: None,
            data: None,
            expires_at: NEVER,
            overrides: OptionOverrides::default(),
        };
        let of_another = token(&format!("{}x", self.user), self.channel.clone());
        assert!(self.permitted(&self.patterns, Some(&of_another))[0].is_err());
        if let Ok(elsewhere) = Channel::new(&format!("{}x", self.channel)) {
            assert!(self.permitted(&self.patterns, Some(&token(self.user, elsewhere)))[0].is_err());
        }
        let [without, ..] = self.permitted(&[], None);
        let [with, ..] = self.permitted(&[], Some(&token(self.user, self.channel.clone())));
        assert!(with.is_ok() || with == without, "{}", self.channel);
        if self.channel.users().is_none() && without != Err(PermissionError::UnknownNamespace) {
            assert!(with.is_ok(), "{}", self.channel);
        }
    }
}
