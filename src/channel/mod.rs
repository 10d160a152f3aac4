//! Channel names. Clients subscribe to channels, and publications are published to channels.

mod invisible;
mod pattern;

use std::{borrow::Borrow, fmt, sync::Arc};

pub use invisible::is_invisible;
pub use pattern::{Pattern, PatternError};

/// Maximum length of a name, in bytes of UTF-8.
pub const MAX_BYTES: usize = 255;

/// A valid channel name. Clones share the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a text is not a channel name. Both are error 107 to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelNameError {
    /// Empty, or longer than [`MAX_BYTES`].
    #[error("a channel name must have 1 to {MAX_BYTES} bytes")]
    Length,
    /// A character that misleads readers of logs and pages, or a space at an end or next to another one.
    #[error(
        "a channel name must have no control or other invisible characters, no '*', and no leading, trailing or double spaces"
    )]
    ForbiddenCharacter,
}

impl Channel {
    /// Creates a channel from its name.
    ///
    /// # Errors
    /// [`ChannelNameError`], which is error 107 on the wire.
    pub fn new(name: &str) -> Result<Self, ChannelNameError> {
        if name.is_empty() || name.len() > MAX_BYTES {
            return Err(ChannelNameError::Length);
        }
        let spaces = name.starts_with(' ') || name.ends_with(' ') || name.contains("  ");
        if spaces || name.chars().any(is_forbidden) {
            return Err(ChannelNameError::ForbiddenCharacter);
        }
        Ok(Self(name.into()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the namespace: the part before the first `:`, if there is one. A leading `$` is not part of it. A `:` after `#`
    /// belongs to the name of a user.
    pub fn namespace(&self) -> Option<&str> {
        self.without_prefix_and_users().split_once(':').map(|(namespace, _)| namespace)
    }

    /// Returns the name within its namespace, without `$` and users. `channel_regex` has to match it.
    pub fn local_name(&self) -> &str {
        let bare = self.without_prefix_and_users();
        bare.split_once(':').map_or(bare, |(_, local)| local)
    }

    /// Returns whether the name begins with `$`. Subscribing to it requires a subscription token.
    pub fn is_private(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Returns the users that the channel is limited to: the part after the first `#`, separated by commas.
    pub fn users(&self) -> Option<impl Iterator<Item = &str>> {
        self.0.split_once('#').map(|(_, users)| users.split(','))
    }

    /// Returns whether the name has a special meaning: `$…` requires a subscription token, `…#…` is limited to users.
    pub fn is_reserved(&self) -> bool {
        self.is_private() || self.0.contains('#')
    }

    fn without_prefix_and_users(&self) -> &str {
        let name = self.0.strip_prefix('$').unwrap_or(&self.0);
        name.split_once('#').map_or(name, |(before, _)| before)
    }
}

/// Returns whether a character may not be in a name: invisible characters, `*` (a wildcard in grants), and U+FFFD, which replaces
/// broken encodings, so that different names would become equal.
fn is_forbidden(character: char) -> bool {
    matches!(character, '*' | '\u{fffd}') || is_invisible(character)
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_splits_into_namespace_local_name_and_users() {
        for (name, namespace, local, users) in [
            ("news", None, "news", None),
            ("chat:room", Some("chat"), "room", None),
            ("chat:a:b", Some("chat"), "a:b", None),
            ("$chat:room", Some("chat"), "room", None),
            ("$secret", None, "secret", None),
            ("$$a:b", Some("$a"), "b", None),
            (":a", Some(""), "a", None),
            ("#42", None, "", Some(vec!["42"])),
            ("dialog#42,43", None, "dialog", Some(vec!["42", "43"])),
            ("chat:dialog#42", Some("chat"), "dialog", Some(vec!["42"])),
            ("dialog#idp:42", None, "dialog", Some(vec!["idp:42"])),
            ("a#b#c", None, "a", Some(vec!["b#c"])),
        ] {
            let channel = Channel::new(name).unwrap();
            assert_eq!((channel.namespace(), channel.local_name()), (namespace, local), "{name}");
            assert_eq!(channel.users().map(Iterator::collect::<Vec<_>>), users, "{name}");
        }
    }

    proptest! {
        #[test]
        fn accepted_names_follow_the_rules_and_no_name_panics(name in ".{0,300}", odd in "[ -~\u{80}-\u{9f}\u{2000}-\u{2070}]{1,12}") {
            for name in [name, odd] {
                let Ok(channel) = Channel::new(&name) else { continue };
                prop_assert_eq!(channel.as_str(), &name);
                prop_assert!(!name.is_empty() && name.len() <= MAX_BYTES);
                prop_assert!(!name.contains("  ") && name.trim() == name);
                let misleads = |character: char| character.is_control() || ['*', '\u{202e}', '\u{2028}', '\u{feff}'].contains(&character);
                prop_assert!(!name.chars().any(misleads));
                let _ = (channel.namespace(), channel.local_name(), channel.users().map(Iterator::count));
            }
        }
    }

    #[test]
    fn names_in_any_script_are_accepted() {
        for name in ["news", "chat:room 1", "новости", "日本", "a.b-c_d/e,f=g", &"x".repeat(255)] {
            assert_eq!(Channel::new(name).unwrap().as_str(), name);
        }
        assert_eq!(Channel::new("chat:room:1").unwrap().namespace(), Some("chat"));
    }

    #[test]
    fn misleading_names_are_refused() {
        for name in [
            "",
            &"x".repeat(256),
            " a",
            "a ",
            "a  b",
            "a\nb",
            "a\0",
            "a*",
            "a\u{202e}b",
            "a\u{2028}b",
            "\u{feff}a",
            "new\u{ad}s",
            "new\u{34f}s",
            "n\u{200b}ews",
            "news\u{fe0f}",
            "news\u{e0061}",
            "chat:\u{115f}",
            "dialog#4\u{3164}2",
            "$\u{2800}",
            "\u{fffd}",
        ] {
            assert!(Channel::new(name).is_err(), "{name:?}");
        }
    }
}
