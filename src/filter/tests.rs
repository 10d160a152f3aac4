//! Tests of filters: each comparison, invalid filters, and laws that hold for any filter and any tags.

use proptest::{collection::btree_map, collection::vec, prelude::*};

use super::{Filter, FilterError, FilterNode, MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_VALUES};
use crate::tags::Tags;

fn stock() -> Tags {
    Tags::new([
        ("ticker", "AAPL"),
        ("source", "NASDAQ"),
        ("price", "150.25"),
        ("volume", "9007199254740993"),
        ("note", ""),
    ])
    .unwrap()
}

#[track_caller]
fn matches(json: &str) -> bool {
    Filter::from_json(json).unwrap_or_else(|bad| panic!("{json}: {bad}")).matches(&stock())
}

#[track_caller]
fn refused(json: &str) -> FilterError {
    Filter::from_json(json).map(drop).expect_err(json)
}

fn leaf(key: &str, cmp: &str, val: &str) -> FilterNode {
    FilterNode { key: key.to_owned(), cmp: cmp.to_owned(), val: val.to_owned(), ..FilterNode::default() }
}

fn branch(op: &str, nodes: impl Into<Vec<FilterNode>>) -> FilterNode {
    FilterNode { op: op.to_owned(), nodes: nodes.into(), ..FilterNode::default() }
}

#[test]
fn every_comparison_follows_the_protocol_documentation() {
    for (filter, expected) in [
        (r#"{"key":"ticker","cmp":"eq","val":"AAPL"}"#, true),
        (r#"{"key":"ticker","cmp":"eq","val":"aapl"}"#, false),
        (r#"{"key":"source","cmp":"neq","val":"TEST"}"#, true),
        (r#"{"key":"source","cmp":"neq","val":"NASDAQ"}"#, false),
        (r#"{"key":"source","cmp":"in","vals":["NYSE","NASDAQ"]}"#, true),
        (r#"{"key":"source","cmp":"in","vals":["NYSE"]}"#, false),
        (r#"{"key":"source","cmp":"nin","vals":["NYSE","NASDAQ"]}"#, false),
        (r#"{"key":"source","cmp":"nin","vals":["NYSE"]}"#, true),
        (r#"{"key":"note","cmp":"in","vals":["a",""]}"#, true),
        (r#"{"key":"note","cmp":"ex"}"#, true),
        (r#"{"key":"note","cmp":"nex"}"#, false),
        (r#"{"key":"ticker","cmp":"sw","val":"AA"}"#, true),
        (r#"{"key":"ticker","cmp":"sw","val":"PL"}"#, false),
        (r#"{"key":"source","cmp":"ew","val":"DAQ"}"#, true),
        (r#"{"key":"source","cmp":"ew","val":"NAS"}"#, false),
        (r#"{"key":"source","cmp":"ct","val":"SDA"}"#, true),
        (r#"{"key":"source","cmp":"ct","val":"SAD"}"#, false),
        (r#"{"key":"price","cmp":"gt","val":"100"}"#, true),
        (r#"{"key":"price","cmp":"gt","val":"150.250"}"#, false),
        (r#"{"key":"price","cmp":"gte","val":"150.250"}"#, true),
        (r#"{"key":"price","cmp":"lt","val":"1000"}"#, true),
        (r#"{"key":"price","cmp":"lt","val":"150.25"}"#, false),
        (r#"{"key":"price","cmp":"lte","val":"+0150.25"}"#, true),
        (r#"{"op":"and","nodes":[{"key":"price","cmp":"ex"},{"key":"ticker","cmp":"eq","val":"MSFT"}]}"#, false),
        (r#"{"op":"or","nodes":[{"key":"price","cmp":"nex"},{"key":"ticker","cmp":"eq","val":"AAPL"}]}"#, true),
        (r#"{"op":"not","nodes":[{"key":"source","cmp":"eq","val":"NYSE"}]}"#, true),
        // The form of an SDK that writes every member.
        (r#"{"op":"","key":"price","cmp":"ex","val":"","vals":[],"nodes":null,"later":{"a":[1]}}"#, true),
    ] {
        assert_eq!(matches(filter), expected, "{filter}");
    }
}

#[test]
fn a_missing_tag_equals_nothing_and_is_not_a_number() {
    for (cmp, expected) in [("eq", false), ("neq", true), ("sw", false), ("ew", false), ("ct", false)] {
        assert_eq!(Filter::new(leaf("none", cmp, "1")).unwrap().matches(&stock()), expected, "{cmp}");
    }
    for cmp in ["lt", "lte", "gt", "gte"] {
        assert!(!Filter::new(leaf("none", cmp, "0")).unwrap().matches(&stock()), "{cmp}");
        assert!(!Filter::new(leaf("ticker", cmp, "0")).unwrap().matches(&stock()), "{cmp} of text that is no number");
        assert!(!Filter::new(leaf("note", cmp, "0")).unwrap().matches(&stock()), "{cmp} of an empty tag");
    }
    // A missing tag does not equal the empty value either.
    assert!(!matches(r#"{"key":"none","cmp":"in","vals":[""]}"#));
    assert!(matches(r#"{"key":"none","cmp":"nin","vals":[""]}"#));
    assert!(matches(r#"{"key":"none","cmp":"nex"}"#) && !matches(r#"{"key":"none","cmp":"ex"}"#));
}

#[test]
fn numbers_beyond_double_precision_are_compared_exactly() {
    let at = |tag: &str, cmp: &str, val: &str| {
        Filter::new(leaf("n", cmp, val)).unwrap().matches(&Tags::new([("n", tag)]).unwrap())
    };
    // As doubles, 2^53 and the next integer are equal, and so are 0.1 and the exact value of the double 0.1.
    assert!(at("9007199254740993", "gt", "9007199254740992"));
    assert!(!at("9007199254740993", "lte", "9007199254740992"));
    assert!(at("0.1", "lt", "0.1000000000000000055511151231257827"));
    let long = "9".repeat(4000);
    assert!(at(&long, "gt", "1") && at("1", "lt", &long) && at(&format!("-{long}"), "lt", "-1"));
    let ascending = ["-10", "-9.5", "-1", "-0.01", "0", "0.009", "0.01", "0.1", "1", "1.5", "9", "10", "100.001"];
    for (low, high) in
        ascending.iter().enumerate().flat_map(|(at, low)| ascending[at + 1..].iter().map(move |high| (low, high)))
    {
        assert!(
            at(low, "lt", high) && at(low, "lte", high) && !at(low, "gt", high) && !at(low, "gte", high),
            "{low} {high}"
        );
        assert!(
            at(high, "gt", low) && at(high, "gte", low) && !at(high, "lt", low) && !at(high, "lte", low),
            "{high} {low}"
        );
    }
    for same in ["0", "-0", "+0", "00", "0.0", "-000.000"] {
        assert!(
            at(same, "gte", "0") && at(same, "lte", "-0.0") && !at(same, "lt", "0") && !at("0", "gt", same),
            "{same}"
        );
    }
    for none in ["", "-", "+", ".", "1.", ".5", "1e3", "0x1", "1_0", " 1", "1 ", "--1", "1.2.3", "١", "NaN", "Infinity"]
    {
        assert!(!at(none, "gt", "-999") && !at(none, "lt", "999"), "{none:?}");
    }
}

#[test]
fn comparison_with_a_value_that_is_no_number_matches_nothing() {
    for val in ["much", "1e3", "0x1", "1.2.3", "NaN", " 1"] {
        for cmp in ["lt", "lte", "gt", "gte"] {
            let filter = Filter::new(leaf("price", cmp, val)).unwrap();
            for tag in ["0", "-5", "much", ""] {
                assert!(!filter.matches(&Tags::new([("price", tag)]).unwrap()), "{tag:?} {cmp} {val:?}");
            }
        }
    }
    assert!(matches(r#"{"op":"not","nodes":[{"key":"price","cmp":"gt","val":"much"}]}"#));
    assert_eq!(refused(r#"{"key":"a","cmp":"gt"}"#), FilterError::WrongValues);
}

#[test]
fn invalid_filters_are_refused_with_the_reason() {
    use FilterError::{
        Malformed, MissingKey, NodeCount, OperationAndComparison, UnknownComparison, UnknownOperation, WrongValues,
    };
    for (filter, reason) in [
        ("", Malformed),
        ("null", Malformed),
        ("[]", Malformed),
        (r#"["and"]"#, Malformed),
        (r#"{"key":"a","cmp":"ex"} {}"#, Malformed),
        (r#"{"key":1,"cmp":"ex"}"#, Malformed),
        (r#"{"key":"a","cmp":"in","vals":"b"}"#, Malformed),
        (r#"{"key":"a","cmp":"in","vals":[null]}"#, Malformed),
        (r#"{"op":"not","nodes":{"key":"a","cmp":"ex"}}"#, Malformed),
        (r#"{"op":"not","nodes":[null]}"#, Malformed),
        (r#"{"key":"a","cmp":"ex","k\u0065y":"b"}"#, Malformed),
        ("{}", UnknownComparison),
        (r#"{"key":"a","val":"b"}"#, UnknownComparison),
        (r#"{"key":"a","cmp":"regex","val":".*"}"#, UnknownComparison),
        (r#"{"key":"a","cmp":"EQ","val":"b"}"#, UnknownComparison),
        (r#"{"op":"xor","nodes":[{"key":"a","cmp":"ex"}]}"#, UnknownOperation),
        (r#"{"op":"and"}"#, NodeCount),
        (r#"{"op":"or","nodes":[]}"#, NodeCount),
        (r#"{"op":"not","nodes":[]}"#, NodeCount),
        (r#"{"op":"not","nodes":[{"key":"a","cmp":"ex"},{"key":"b","cmp":"ex"}]}"#, NodeCount),
        (r#"{"key":"a","cmp":"ex","nodes":[{"key":"a","cmp":"ex"}]}"#, OperationAndComparison),
        (r#"{"op":"not","cmp":"ex","nodes":[{"key":"a","cmp":"ex"}]}"#, OperationAndComparison),
        (r#"{"op":"not","key":"a","nodes":[{"key":"a","cmp":"ex"}]}"#, OperationAndComparison),
        (r#"{"op":"not","vals":[""],"nodes":[{"key":"a","cmp":"ex"}]}"#, OperationAndComparison),
        (r#"{"cmp":"eq","val":"b"}"#, MissingKey),
        (r#"{"key":"a","cmp":"eq"}"#, WrongValues),
        (r#"{"key":"a","cmp":"eq","val":"b","vals":["c"]}"#, WrongValues),
        (r#"{"key":"a","cmp":"in"}"#, WrongValues),
        (r#"{"key":"a","cmp":"in","vals":[]}"#, WrongValues),
        (r#"{"key":"a","cmp":"nin","val":"b","vals":["c"]}"#, WrongValues),
        (r#"{"key":"a","cmp":"ex","val":"b"}"#, WrongValues),
        (r#"{"key":"a","cmp":"nex","vals":["b"]}"#, WrongValues),
    ] {
        assert_eq!(refused(filter), reason, "{filter}");
    }
}

#[test]
fn a_filter_a_thousand_levels_deep_is_refused_before_its_end_is_read() {
    let open = r#"{"op":"not","nodes":["#;
    let deep = |depth: usize, end: &str| format!("{}{}{end}", open.repeat(depth - 1), r#"{"key":"price","cmp":"ex"}"#);
    let closed = |depth: usize| deep(depth, &"]}".repeat(depth - 1));
    assert_eq!(matches(&closed(MAX_DEPTH)), MAX_DEPTH % 2 == 1);
    assert_eq!(refused(&closed(MAX_DEPTH + 1)), FilterError::TooDeep);
    // The rest is not JSON: reading stops before it.
    assert_eq!(refused(&deep(1000, "...")), FilterError::TooDeep);
    let tree = (1..1000).fold(leaf("price", "ex", ""), |node, _| branch("not", [node]));
    assert_eq!(Filter::new(tree), Err(FilterError::TooDeep));
    // Ignored members may have any depth: they are skipped without recursion.
    let ignored = format!(r#"{{"key":"price","cmp":"ex","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches(&ignored));
}

#[test]
fn a_filter_of_ten_thousand_nodes_is_refused_before_its_end_is_read() {
    let one = r#"{"key":"price","cmp":"ex"}"#;
    let wide =
        |nodes: usize, end: &str| format!(r#"{{"op":"and","nodes":[{}{one}{end}"#, format!("{one},").repeat(nodes - 2));
    assert!(matches(&wide(MAX_NODES, "]}")));
    assert_eq!(refused(&wide(MAX_NODES + 1, "]}")), FilterError::TooManyNodes);
    assert_eq!(refused(&wide(10_000, "...")), FilterError::TooManyNodes);
    assert_eq!(Filter::new(branch("or", vec![leaf("a", "ex", ""); MAX_NODES])), Err(FilterError::TooManyNodes));
}

#[test]
fn a_filter_with_too_many_or_too_long_values_is_refused() {
    let among =
        |values: usize| FilterNode { vals: (0..values).map(|at| at.to_string()).collect(), ..leaf("a", "in", "") };
    assert!(Filter::new(among(MAX_VALUES)).is_ok());
    assert_eq!(Filter::new(among(MAX_VALUES + 1)), Err(FilterError::TooManyValues));
    let halves = branch("or", vec![among(MAX_VALUES / 2 + 1); 2]);
    assert_eq!(Filter::new(halves), Err(FilterError::TooManyValues));
    let long = "x".repeat(MAX_BYTES - 1);
    assert!(Filter::new(leaf("a", "eq", &long)).is_ok());
    assert_eq!(Filter::new(leaf("ab", "eq", &long)), Err(FilterError::TooLong));
    assert_eq!(Filter::new(branch("or", vec![leaf("a", "eq", &long); 2])), Err(FilterError::TooLong));
}

#[test]
fn equivalent_filters_are_equal() {
    let same = |a: &str, b: &str| assert_eq!(Filter::from_json(a), Filter::from_json(b));
    same(r#"{"key":"a","cmp":"in","vals":["b","c","b"]}"#, r#"{"vals":["c","b"],"cmp":"in","key":"\u0061"}"#);
    same(r#"{"key":"a","cmp":"gt","val":"01.50"}"#, r#"{"key":"a","cmp":"gt","val":"1.5"}"#);
    assert_ne!(Filter::new(leaf("a", "eq", "1.0")), Filter::new(leaf("a", "eq", "1")));
}

/// Generates valid comparisons of few names and values, so that many of them match.
fn any_leaf() -> impl Strategy<Value = FilterNode> {
    let text = prop::sample::select(vec!["a", "b", "ab", "1", "-1.5", "10"]);
    let with_value = prop::sample::select(vec!["eq", "neq", "sw", "ew", "ct"]);
    prop_oneof![
        ("[ab]", with_value, text.clone()).prop_map(|(key, cmp, val)| leaf(&key, cmp, val)),
        ("[ab]", prop::sample::select(vec!["lt", "lte", "gt", "gte"]), "-?[0-9]{1,2}(\\.[0-9])?")
            .prop_map(|(key, cmp, val)| leaf(&key, cmp, &val)),
        ("[ab]", prop::sample::select(vec!["ex", "nex"])).prop_map(|(key, cmp)| leaf(&key, cmp, "")),
        ("[ab]", prop::sample::select(vec!["in", "nin"]), vec(text.prop_map(str::to_owned), 1..4))
            .prop_map(|(key, cmp, vals)| FilterNode { vals, ..leaf(&key, cmp, "") }),
    ]
}

fn any_node() -> impl Strategy<Value = FilterNode> {
    any_leaf().prop_recursive(4, 24, 4, |node| {
        prop_oneof![
            vec(node.clone(), 1..4).prop_map(|nodes| branch("and", nodes)),
            vec(node.clone(), 1..4).prop_map(|nodes| branch("or", nodes)),
            node.prop_map(|node| branch("not", [node])),
        ]
    })
}

fn any_tags() -> impl Strategy<Value = Tags> {
    btree_map("[abc]", "a|b|ab|1|-1\\.5|10|-?[0-9]{1,2}", 0..3).prop_map(|tags| Tags::new(tags).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn filters_obey_de_morgans_laws(nodes in vec(any_node(), 1..4), tags in any_tags()) {
        let says = |node: FilterNode| Filter::new(node).unwrap().matches(&tags);
        let nots: Vec<FilterNode> = nodes.iter().map(|node| branch("not", [node.clone()])).collect();
        prop_assert_eq!(says(branch("not", [branch("and", nodes.clone())])), says(branch("or", nots.clone())));
        prop_assert_eq!(says(branch("not", [branch("or", nodes.clone())])), says(branch("and", nots)));
        let each: Vec<bool> = nodes.iter().cloned().map(says).collect();
        prop_assert_eq!(says(branch("and", nodes.clone())), !each.contains(&false));
        prop_assert_eq!(says(branch("or", nodes)), each.contains(&true));
    }

    #[test]
    fn no_text_panics_the_filter_parser(text in "[\\[\\]{}:,\"a-z \\\\]{0,60}") {
        let _ = Filter::from_json(&text).map(|filter| filter.matches(&stock()));
    }
}
