//! A log line as one JSON object. Every line is a fixed phrase followed by `key=value` pairs, with text quoted as Rust's `Debug`
//! does it, so a line is parsed here instead of being built twice.

use serde_json::{Map, Value};

/// Returns a line: `{"time":…,"level":"info","target":…,"message":phrase, key: value…}`. What follows the pairs belongs to the
/// message. A key that the line has already gets a `_` behind it.
pub(super) fn to_json(time: &impl std::fmt::Display, level: log::Level, target: &str, text: &str) -> Value {
    let (phrase, fields, rest) = split(text);
    let message = if rest.is_empty() { phrase.to_owned() } else { format!("{phrase} {rest}") };
    let mut line = Map::new();
    line.insert("time".to_owned(), time.to_string().into());
    line.insert("level".to_owned(), level.as_str().to_ascii_lowercase().into());
    line.insert("target".to_owned(), target.into());
    line.insert("message".to_owned(), message.into());
    for (key, value) in fields {
        let mut key = key.to_owned();
        while line.contains_key(&key) {
            key.push('_');
        }
        line.insert(key, value);
    }
    Value::Object(line)
}

/// Splits a line into its phrase, its fields, and what follows them.
fn split(text: &str) -> (&str, Vec<(&str, Value)>, &str) {
    let starts = std::iter::once(0).chain(text.match_indices(' ').map(|(space, _)| space + 1));
    let Some((start, _)) = starts.map(|at| (at, &text[at..])).find(|(_, rest)| read_key(rest).is_some()) else {
        return (text, Vec::new(), "");
    };
    let (mut fields, mut rest) = (Vec::new(), &text[start..]);
    while let Some((key, after)) = read_key(rest) {
        let (value, after) = read_value(after);
        fields.push((key, value));
        rest = after.trim_start_matches(' ');
    }
    (text[..start].trim_end(), fields, rest)
}

/// Reads `key=`: lower-case letters, digits and `_`.
fn read_key(text: &str) -> Option<(&str, &str)> {
    let (key, after) = text.split_once('=')?;
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (!key.is_empty() && key.bytes().all(is_name)).then_some((key, after))
}

/// Reads a quoted text, or up to the next space: a number, a boolean or a word.
fn read_value(text: &str) -> (Value, &str) {
    if let Some((value, rest)) = text.strip_prefix('"').and_then(read_quoted) {
        return (value.into(), rest);
    }
    let (word, rest) = text.split_at(text.find([' ', '\n']).unwrap_or(text.len()));
    let value = match word {
        "true" => true.into(),
        "false" => false.into(),
        _ => word.parse::<i64>().map_or_else(|_| word.into(), Value::from),
    };
    (value, rest)
}

/// Reads the rest of a text that `Debug` has quoted.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.chars());
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let (code, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                    chars = rest.chars();
                    char::from_u32(u32::from_str_radix(code, 16).ok()?)?
                }
                other => other,
            }),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn line(text: &str) -> Value {
        let mut line = to_json(&"now", log::Level::Warn, "wardcast::hub", text);
        let object = line.as_object_mut().unwrap();
        assert_eq!(object.remove("time"), Some(json!("now")));
        assert_eq!(object.remove("level"), Some(json!("warn")));
        assert_eq!(object.remove("target"), Some(json!("wardcast::hub")));
        line
    }

    #[test]
    fn phrase_and_fields_are_members() {
        assert_eq!(
            line(r#"session closed client=3f2 code=3005 reason="connection expired" is_plain=true left=-1"#),
            json!({"message": "session closed", "client": "3f2", "code": 3005, "reason": "connection expired", "is_plain": true, "left": -1})
        );
        assert_eq!(line("server stopping"), json!({"message": "server stopping"}));
        assert_eq!(line("count=5"), json!({"message": "", "count": 5}));
    }

    #[test]
    fn text_behind_the_fields_belongs_to_the_message() {
        assert_eq!(
            line("skipped key place=\"a b\" it has no kid"),
            json!({"message": "skipped key it has no kid", "place": "a b"})
        );
        assert_eq!(
            line("configuration warning text=\"x\"\nline"),
            json!({"message": "configuration warning \nline", "text": "x"})
        );
    }

    #[test]
    fn no_field_replaces_another_or_what_every_line_has() {
        assert_eq!(
            line(r#"odd message="forged" level="error" level=2"#),
            json!({"message": "odd", "message_": "forged", "level_": "error", "level__": 2})
        );
    }

    #[test]
    fn incomplete_quotes_are_words() {
        assert_eq!(line("odd text=\"no end"), json!({"message": "odd end", "text": "\"no"}));
        assert_eq!(line(r#"odd text="\u{d800}""#), json!({"message": "odd", "text": r#""\u{d800}""#}));
        assert_eq!(line("1 + 1 =2 A=3"), json!({"message": "1 + 1 =2 A=3"}));
    }

    proptest! {
        #[test]
        fn quoted_text_is_read_unchanged_and_adds_no_field(text in any::<String>(), number in any::<i64>()) {
            prop_assert_eq!(
                line(&format!("phrase text={text:?} number={number}")),
                json!({"message": "phrase", "text": text, "number": number})
            );
        }

        #[test]
        fn any_text_is_one_line(text in any::<String>()) {
            prop_assert!(!line(&text).to_string().contains('\n'));
        }
    }
}
