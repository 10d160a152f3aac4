//! Patterns of channel names: in grants of tokens, in namespaces, and in requests to the server API. A pattern matches whole
//! names, and the time for matching is bounded. Pure.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

use super::{MAX_BYTES, is_invisible};

/// Maximum length of a regular expression.
const MAX_REGEX_BYTES: usize = 512;
/// Maximum size of a compiled regular expression. It limits the cost of `((a{99}){99}){99}`, and with it the time to match.
const MAX_COMPILED_BYTES: usize = 32 * 1024;

/// A pattern that channel names are compared with.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Matches exactly this name.
    Exact(Box<str>),
    /// `*` matches any text, every other character itself.
    Wildcard(Box<str>),
    /// A regular expression that has to match the whole name.
    Regex(Box<Regex>),
}

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than a name or a regular expression may be.
    #[error("it is longer than {MAX_BYTES} bytes, or {MAX_REGEX_BYTES} for a regular expression")]
    TooLong,
    /// An invisible character, which no channel name has: the pattern would seem to match names that it does not match.
    #[error("it has a control character or another invisible character")]
    InvisibleCharacter,
    /// Not a regular expression, or too large when compiled.
    #[error("it is not a valid regular expression, or too large")]
    InvalidRegex,
}

impl Pattern {
    /// Creates a pattern that matches exactly this name.
    ///
    /// # Errors
    /// [`PatternError::TooLong`], [`PatternError::InvisibleCharacter`].
    pub fn exact(name: &str) -> Result<Self, PatternError> {
        checked_text(name, MAX_BYTES).map(Self::Exact)
    }

    /// Creates a pattern in which `*` matches any text.
    ///
    /// # Errors
    /// [`PatternError::TooLong`], [`PatternError::InvisibleCharacter`].
    pub fn wildcard(pattern: &str) -> Result<Self, PatternError> {
        checked_text(pattern, MAX_BYTES).map(Self::Wildcard)
    }

    /// Creates a pattern from a regular expression that has to match the whole name.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn regex(expression: &str) -> Result<Self, PatternError> {
        let expression = checked_text(expression, MAX_REGEX_BYTES)?;
        let compile = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build();
        // Alone first: the group below would turn "a)|(b", which is not a regular expression, into one.
        compile(&expression).map_err(|_| PatternError::InvalidRegex)?;
        let whole = compile(&format!("^(?:{expression})$")).map_err(|_| PatternError::InvalidRegex)?;
        Ok(Self::Regex(Box::new(whole)))
    }

    /// Returns whether the pattern matches `name`.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Wildcard(pattern) => wildcard_matches(pattern, name),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

fn checked_text(text: &str, bytes: usize) -> Result<Box<str>, PatternError> {
    if text.len() > bytes {
        return Err(PatternError::TooLong);
    }
    if text.chars().any(is_invisible) { Err(PatternError::InvisibleCharacter) } else { Ok(text.into()) }
}

/// For each star the rest of the name is searched at most once, and both are short.
fn wildcard_matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = pattern.contains('*').then(|| parts.next_back()).flatten() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) | (Self::Wildcard(one), Self::Wildcard(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) | Self::Wildcard(text) => f.write_str(text),
            Self::Regex(regex) => f.write_str(regex.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_text() {
        for (pattern, name, expected) in [
            ("news", "news", true),
            ("news", "news2", false),
            ("*", "", true),
            ("*", "anything", true),
            ("news*", "news", true),
            ("*news", "old news", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("aa*aa", "aaa", false),
            ("*b*", "abc", true),
        ] {
            assert_eq!(Pattern::wildcard(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_regular_expression_matches_whole_names_only() {
        let matches = |pattern: &str, name: &str| Pattern::regex(pattern).unwrap().matches(name);
        assert!(matches("room:[0-9]+", "room:10"));
        for name in ["room:10x", "xroom:10", "room:", "ROOM:1"] {
            assert!(!matches("room:[0-9]+", name), "{name}");
        }
        assert!(!matches("a|b", "ab") && matches("a|b", "b"));
    }

    #[test]
    fn regular_expressions_that_are_unbalanced_or_too_large_are_refused() {
        for expression in ["a)|(b", "(", "(?x)a #", "((((a{100}){100}){100}){100}){100}", &"a".repeat(600)] {
            assert!(Pattern::regex(expression).is_err(), "{expression:.40}");
        }
        assert_eq!(Pattern::exact(&"a".repeat(256)), Err(PatternError::TooLong));
    }

    #[test]
    fn patterns_with_invisible_characters_are_refused() {
        for text in ["new\u{ad}s", "news\u{200b}", "a\tb", "\u{feff}", "#4\u{fe0f}2"] {
            for pattern in [Pattern::exact(text), Pattern::wildcard(text), Pattern::regex(text)] {
                assert_eq!(pattern, Err(PatternError::InvisibleCharacter), "{text:?}");
            }
        }
        assert!(Pattern::wildcard("chat: *").is_ok() && Pattern::regex("комната:[0-9]+").is_ok());
    }
}
