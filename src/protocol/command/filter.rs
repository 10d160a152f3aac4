//! Tag filters as they are said: a tree, read with bounds in depth and in nodes, whatever the frame would hold. What it means
//! is somebody else's to judge.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::Fields;

/// Levels of a filter: each is read by a call of its own.
pub const FILTER_DEPTH: usize = 32;
/// Nodes and values of a filter, added up. A node takes two bytes on the wire and a hundred here.
pub const FILTER_NODES: usize = 1024;

/// A filter that has been found in a command and not looked into.
#[derive(Clone, Copy)]
pub enum UnreadFilter<'a> {
    /// In JSON.
    Json(&'a RawValue),
    /// In Protobuf.
    Protobuf(&'a [u8]),
}

/// One node of a filter, and what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterNode {
    /// `and`, `or`, `not`; empty for a comparison.
    pub op: String,
    /// The tag that is compared.
    pub key: String,
    /// How it is compared.
    pub cmp: String,
    /// With what.
    pub val: String,
    /// With which.
    pub vals: Vec<String>,
    /// What `op` combines.
    pub nodes: Vec<Self>,
}

/// No filter, or more of it than is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a filter of at most {FILTER_DEPTH} levels and {FILTER_NODES} nodes")]
pub struct BadFilter;

impl UnreadFilter<'_> {
    /// Reads it.
    ///
    /// # Errors
    /// [`BadFilter`]
    pub fn read(self) -> Result<FilterNode, BadFilter> {
        let mut left = FILTER_NODES;
        match self {
            Self::Json(raw) => json(raw, FILTER_DEPTH, &mut left),
            Self::Protobuf(bytes) => protobuf(bytes, FILTER_DEPTH, &mut left),
        }
    }
}

fn spend(left: &mut usize, nodes: usize) -> Result<(), BadFilter> {
    *left = left.checked_sub(nodes).ok_or(BadFilter)?;
    Ok(())
}

#[derive(Deserialize)]
#[serde(default)]
struct JsonNode<'a> {
    op: String,
    key: String,
    cmp: String,
    val: String,
    #[serde(borrow)]
    vals: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    nodes: Vec<&'a RawValue>,
}

impl Default for JsonNode<'_> {
    fn default() -> Self {
        let none = String::new;
        Self { op: none(), key: none(), cmp: none(), val: none(), vals: Vec::new(), nodes: Vec::new() }
    }
}

fn json(raw: &RawValue, depth: usize, left: &mut usize) -> Result<FilterNode, BadFilter> {
    let depth = depth.checked_sub(1).ok_or(BadFilter)?;
    // serde would also take an array for an object, member by member.
    if !raw.get().starts_with('{') {
        return Err(BadFilter);
    }
    let JsonNode { op, key, cmp, val, vals, nodes } = serde_json::from_str(raw.get()).map_err(|_| BadFilter)?;
    spend(left, 1 + vals.len())?;
    let vals = vals.into_iter().map(Cow::into_owned).collect();
    let nodes = nodes.into_iter().map(|node| json(node, depth, left)).collect::<Result<_, _>>()?;
    Ok(FilterNode { op, key, cmp, val, vals, nodes })
}

fn protobuf(bytes: &[u8], depth: usize, left: &mut usize) -> Result<FilterNode, BadFilter> {
    let depth = depth.checked_sub(1).ok_or(BadFilter)?;
    spend(left, 1)?;
    let mut node = FilterNode::default();
    for field in Fields(bytes) {
        let (number, value) = field.map_err(|_| BadFilter)?;
        let text = || value.text().map(Cow::into_owned).map_err(|_| BadFilter);
        match number {
            1 => node.op = text()?,
            2 => node.key = text()?,
            3 => node.cmp = text()?,
            4 => node.val = text()?,
            5 => {
                spend(left, 1)?;
                node.vals.push(text()?);
            }
            6 => node.nodes.push(protobuf(value.bytes().map_err(|_| BadFilter)?, depth, left)?),
            _ => {}
        }
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::protocol::schema;

    fn in_json(text: &str) -> Result<FilterNode, BadFilter> {
        UnreadFilter::Json(serde_json::from_str(text).unwrap()).read()
    }

    fn in_protobuf(node: &schema::FilterNode) -> Result<FilterNode, BadFilter> {
        UnreadFilter::Protobuf(&node.encode_to_vec()).read()
    }

    fn of(nodes: Vec<schema::FilterNode>) -> schema::FilterNode {
        schema::FilterNode { op: "and".to_owned(), nodes, ..Default::default() }
    }

    fn chain(levels: usize) -> (String, schema::FilterNode) {
        let text = format!("{}{}", r#"{"nodes":["#.repeat(levels - 1) + "{}", "]}".repeat(levels - 1));
        (text, (1..levels).fold(schema::FilterNode::default(), |below, _| of(vec![below])))
    }

    #[test]
    fn a_filter_is_the_same_in_both_formats() {
        let text =
            r#"{"op":"and","nodes":[{"key":"k","cmp":"in","vals":["a","\u00e9"]},{"key":"k","cmp":"eq","val":"v"}]}"#;
        let (key, cmp) = ("k".to_owned(), "in".to_owned());
        let vals = vec!["a".to_owned(), "é".to_owned()];
        let first = schema::FilterNode { key: key.clone(), cmp, vals, ..Default::default() };
        let second = schema::FilterNode { key, cmp: "eq".to_owned(), val: "v".to_owned(), ..Default::default() };
        let read = in_json(text).unwrap();
        assert_eq!(read.nodes[0].vals, ["a", "é"]);
        assert_eq!(in_protobuf(&of(vec![first, second])), Ok(read));
    }

    #[test]
    fn a_filter_has_so_many_levels_and_no_more() {
        let (text, node) = chain(FILTER_DEPTH);
        assert!(in_json(&text).is_ok() && in_protobuf(&node).is_ok());
        for levels in [FILTER_DEPTH + 1, 1000] {
            let (text, node) = chain(levels);
            assert_eq!((in_json(&text), in_protobuf(&node)), (Err(BadFilter), Err(BadFilter)), "{levels}");
        }
        assert_eq!(in_json(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))), Err(BadFilter));
    }

    #[test]
    fn ten_thousand_nodes_or_values_are_too_many() {
        let nodes = |count| vec![schema::FilterNode::default(); count];
        let vals = |count| schema::FilterNode { vals: vec![String::new(); count], ..Default::default() };
        assert!(in_protobuf(&of(nodes(FILTER_NODES - 1))).is_ok() && in_protobuf(&vals(FILTER_NODES - 1)).is_ok());
        for count in [FILTER_NODES, 10_000] {
            assert_eq!(in_protobuf(&of(nodes(count))), Err(BadFilter));
            assert_eq!(in_protobuf(&vals(count)), Err(BadFilter));
            assert_eq!(in_json(&format!(r#"{{"nodes":[{}]}}"#, vec!["{}"; count].join(","))), Err(BadFilter));
            assert_eq!(in_json(&format!(r#"{{"vals":[{}]}}"#, vec!["\"\""; count].join(","))), Err(BadFilter));
        }
    }

    #[test]
    fn what_is_no_object_is_no_filter() {
        for text in ["null", "7", "[]", r#"["and"]"#, r#"{"op":1}"#, r#"{"nodes":[7]}"#, r#"{"nodes":{}}"#] {
            assert_eq!(in_json(text), Err(BadFilter), "{text}");
        }
    }
}
