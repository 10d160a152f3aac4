//! Tests of tags: they are read exactly as written, or refused.

use std::collections::BTreeMap;

use proptest::{collection::btree_map, prelude::*};

use super::{MAX_BYTES, MAX_TAGS, Tags, TagsError};

fn read(json: &str) -> Option<Tags> {
    serde_json::from_str(json).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tags_round_trip_through_json(pairs in btree_map("\\PC{0,9}", "[\\PC\n\"\\\\]{0,300}", 0..4)) {
        let tags = Tags::new(&pairs).unwrap();
        prop_assert_eq!(tags.iter().collect::<Vec<_>>(), pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
        for (name, value) in &pairs {
            prop_assert_eq!(tags.get(name), Some(value.as_str()));
        }
        prop_assert_eq!(tags.get("a name that is never generated"), None);
        prop_assert_eq!(tags.is_empty(), pairs.is_empty());
        let json = serde_json::to_string(&tags).unwrap();
        prop_assert_eq!(serde_json::from_str::<BTreeMap<String, String>>(&json).unwrap(), pairs);
        prop_assert_eq!(read(&json), Some(tags));
    }
}

#[test]
fn tags_are_unordered_and_empty_tags_use_no_memory() {
    let tags = read(r#"{"price":"150.25","ticker":"AAPL"}"#).unwrap();
    assert_eq!(Some(&tags), read(r#" { "ticker" : "AA\u0050L", "price":"150.25"} "#).as_ref());
    // Two reference counts, four bytes for each tag, and the text.
    assert_eq!(tags.cost_bytes(), 16 + 2 * 4 + "price150.25tickerAAPL".len());
    assert_eq!((read("{}"), Tags::default().cost_bytes()), (Some(Tags::default()), 0));
}

#[test]
fn tags_are_an_object_of_strings() {
    for json in [
        "",
        "null",
        "[]",
        "\"a\"",
        "{\"a\":1}",
        "{\"a\":null}",
        "{\"a\":{}}",
        "{\"a\":[\"b\"]}",
        "[[\"a\",\"b\"]]",
        "{a:\"b\"}",
    ] {
        assert_eq!(read(json), None, "{json}");
    }
}

#[test]
fn a_duplicate_tag_name_is_refused() {
    assert_eq!(read(r#"{"a":"1","b":"2","\u0061":"1"}"#), None);
    assert_eq!(Tags::new([("a", "1"), ("a", "1")]), Err(TagsError::DuplicateName));
}

#[test]
fn too_many_tags_are_refused_before_reading_the_rest() {
    let names: Vec<String> = (0..MAX_TAGS).map(|at| at.to_string()).collect();
    assert_eq!(Tags::new(names.iter().map(|name| (name, ""))).map(|tags| tags.iter().count()), Ok(MAX_TAGS));
    let endless = (0..).map(|at| (at.to_string(), ""));
    assert_eq!(Tags::new(endless), Err(TagsError::TooMany));
}

#[test]
fn tags_that_are_too_long_are_refused() {
    let longest = "x".repeat(MAX_BYTES - 4);
    let tags = Tags::new([("long", &longest)]).unwrap();
    assert_eq!(tags.get("long"), Some(longest.as_str()));
    assert_eq!(Tags::new([(&longest, "long")]).unwrap().get(&longest), Some("long"));
    assert_eq!(Tags::new([("longer", &longest)]), Err(TagsError::TooLong));
    assert_eq!(read(&format!(r#"{{"longer":"{longest}"}}"#)), None);
}
