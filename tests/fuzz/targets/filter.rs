//! Filters and tags: they stay within their limits, and match like a simpler evaluation of the same JSON.

use std::collections::BTreeMap;

use serde_json::Value;
use wardcast::{
    filter::{Filter, FilterError, MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_VALUES},
    tags::{self, Tags},
};

type TextMap = BTreeMap<String, String>;

/// The first line holds tags, every other a filter.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let tags = tags(lines.next().unwrap_or_default());
    for line in lines {
        let filter = Filter::from_json(line);
        let Ok(filter) = filter else { continue };
        // serde_json also refuses ignored members that are too deep, and numbers out of range.
        let Ok(tree) = serde_json::from_str::<Value>(line) else { continue };
        let (nodes, depth, values, bytes) = size(&tree);
        assert!(nodes <= MAX_NODES && depth <= MAX_DEPTH && values <= MAX_VALUES && bytes <= MAX_BYTES);
        let texts = tags.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(filter.matches(&tags), evaluate(&tree, &texts), "{line}");
        assert_eq!(Filter::from_json(&tree.to_string()).as_ref(), Ok(&filter), "the order of members must not matter");
        match Filter::from_json(&format!(r#"{{"op":"not","nodes":[{line}]}}"#)) {
            Ok(not) => assert_eq!(not.matches(&tags), !filter.matches(&tags), "{line}"),
            Err(reason) => {
                assert!([FilterError::TooDeep, FilterError::TooManyNodes].contains(&reason), "{line}: {reason}")
            }
        }
    }
}

/// Reads tags and checks them.
fn tags(line: &str) -> Tags {
    let read = serde_json::from_str::<Tags>(line);
    let texts = serde_json::from_str::<TextMap>(line);
    let Ok(read) = read else {
        let fits = |texts: &TextMap| texts.len() <= tags::MAX_TAGS && line.len() <= tags::MAX_BYTES;
        assert!(!texts.is_ok_and(|texts| fits(&texts) && Tags::new(&texts).is_err()));
        return Tags::default();
    };
    let texts = texts.expect("tags are texts");
    assert!(texts.len() <= tags::MAX_TAGS);
    assert!(texts.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= tags::MAX_BYTES);
    assert!(read.iter().eq(texts.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
    assert_eq!(Tags::new(&texts).as_ref(), Ok(&read));
    read
}

fn list<'a>(node: &'a Value, member: &str) -> &'a [Value] {
    node[member].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(node: &'a Value, member: &str) -> &'a str {
    node[member].as_str().unwrap_or_default()
}

/// The number of nodes, the depth, the number of `vals` and the bytes of a tree.
fn size(node: &Value) -> (usize, usize, usize, usize) {
    let vals = list(node, "vals");
    let own = text(node, "key").len() + text(node, "val").len();
    let bytes = own + vals.iter().filter_map(Value::as_str).map(str::len).sum::<usize>();
    list(node, "nodes")
        .iter()
        .map(size)
        .fold((1, 1, vals.len(), bytes), |all, one| (all.0 + one.0, all.1.max(one.1 + 1), all.2 + one.2, all.3 + one.3))
}

fn evaluate(node: &Value, tags: &TextMap) -> bool {
    let mut nodes = list(node, "nodes").iter().map(|node| evaluate(node, tags));
    let (val, tag) = (text(node, "val"), tags.get(text(node, "key")).map(String::as_str));
    let compared = tag
        .filter(|tag| is_number(tag) && is_number(val))
        .map(|tag| sortable_digits(tag, val).cmp(&sortable_digits(val, tag)));
    match (text(node, "op"), text(node, "cmp")) {
        ("and", _) => nodes.all(|is_match| is_match),
        ("or", _) => nodes.any(|is_match| is_match),
        ("not", _) => !nodes.all(|is_match| is_match),
        (_, "eq") => tag == Some(val),
        (_, "neq") => tag != Some(val),
        (_, "in") => list(node, "vals").iter().any(|val| val.as_str() == tag),
        (_, "nin") => !list(node, "vals").iter().any(|val| val.as_str() == tag),
        (_, "ex") => tag.is_some(),
        (_, "nex") => tag.is_none(),
        (_, "sw") => tag.is_some_and(|tag| tag.starts_with(val)),
        (_, "ew") => tag.is_some_and(|tag| tag.ends_with(val)),
        (_, "ct") => tag.is_some_and(|tag| tag.contains(val)),
        (_, "lt") => compared.is_some_and(|ordering| ordering.is_lt()),
        (_, "lte") => compared.is_some_and(|ordering| ordering.is_le()),
        (_, "gt") => compared.is_some_and(|ordering| ordering.is_gt()),
        (_, "gte") => compared.is_some_and(|ordering| ordering.is_ge()),
        (op, cmp) => panic!("accepted as a filter: {op} {cmp}"),
    }
}

fn is_number(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = text.split('.');
    parts.clone().count() <= 2 && parts.all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()))
}

/// The digits of a number, padded with zeros to the length of `other` before and after the point, and negated if the number
/// is negative. Two numbers compare like these lists.
fn sortable_digits(number: &str, other: &str) -> Vec<i8> {
    let parts = |number: &str| {
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        (whole.trim_start_matches(['+', '-']).to_owned(), fraction.to_owned())
    };
    let ((whole, fraction), (other_whole, other_fraction)) = (parts(number), parts(other));
    let (before, behind) = (whole.len().max(other_whole.len()), fraction.len().max(other_fraction.len()));
    let sign = if number.starts_with('-') { -1 } else { 1 };
    let digits = format!("{whole:0>before$}{fraction:0<behind$}");
    digits.bytes().map(|digit| sign * (digit - b'0') as i8).collect()
}
