//! Tag filters as they stand in commands: found there, and read when somebody asks, with the bounds of [`crate::filter`] in
//! depth and in nodes, whatever the frame would hold.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::fields::Fields;
use crate::filter::{BadFilter, Filter, MOST_DEPTH, MOST_NODES, MOST_VALUES, Node};

/// A filter that has been found in a command and not looked into.
#[derive(Clone, Copy)]
pub enum UnreadFilter<'a> {
    /// In JSON.
    Json(&'a RawValue),
    /// In Protobuf.
    Protobuf(&'a [u8]),
}

impl UnreadFilter<'_> {
    /// Reads and judges it.
    ///
    /// # Errors
    /// [`BadFilter`]
    pub fn read(self) -> Result<Filter, BadFilter> {
        match self {
            Self::Json(raw) => Filter::from_json(raw.get()),
            Self::Protobuf(bytes) => {
                let mut reading = Reading { nodes: MOST_NODES, values: MOST_VALUES };
                Filter::new(reading.node(bytes, MOST_DEPTH)?)
            }
        }
    }
}

/// What may still come.
struct Reading {
    nodes: usize,
    values: usize,
}

impl Reading {
    /// A node that may be `depth` deep.
    fn node(&mut self, bytes: &[u8], depth: usize) -> Result<Node, BadFilter> {
        let depth = depth.checked_sub(1).ok_or(BadFilter::TooDeep)?;
        self.nodes = self.nodes.checked_sub(1).ok_or(BadFilter::TooManyNodes)?;
        let mut node = Node::default();
        for field in Fields(bytes) {
            let (number, value) = field.map_err(|_| BadFilter::Form)?;
            let text = || value.text().map(Cow::into_owned).map_err(|_| BadFilter::Form);
            match number {
                1 => node.op = text()?,
                2 => node.key = text()?,
                3 => node.cmp = text()?,
                4 => node.val = text()?,
                5 => {
                    self.values = self.values.checked_sub(1).ok_or(BadFilter::TooManyValues)?;
                    node.vals.push(text()?);
                }
                6 => node.nodes.push(self.node(value.bytes().map_err(|_| BadFilter::Form)?, depth)?),
                _ => {}
            }
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::protocol::schema::FilterNode;

    fn in_json(text: &str) -> Result<Filter, BadFilter> {
        UnreadFilter::Json(serde_json::from_str(text).unwrap()).read()
    }

    fn in_protobuf(node: &FilterNode) -> Result<Filter, BadFilter> {
        UnreadFilter::Protobuf(&node.encode_to_vec()).read()
    }

    fn of(op: &str, nodes: Vec<FilterNode>) -> FilterNode {
        FilterNode { op: op.to_owned(), nodes, ..Default::default() }
    }

    fn leaf(cmp: &str, val: &str, vals: &[&str]) -> FilterNode {
        let vals = vals.iter().map(|val| (*val).to_owned()).collect();
        FilterNode { key: "k".to_owned(), cmp: cmp.to_owned(), val: val.to_owned(), vals, ..Default::default() }
    }

    fn chain(levels: usize) -> (String, FilterNode) {
        let text = format!(
            "{}{}{}",
            r#"{"op":"not","nodes":["#.repeat(levels - 1),
            r#"{"key":"k","cmp":"ex"}"#,
            "]}".repeat(levels - 1)
        );
        (text, (1..levels).fold(leaf("ex", "", &[]), |below, _| of("not", vec![below])))
    }

    #[test]
    fn a_filter_is_the_same_in_both_formats() {
        let text =
            r#"{"op":"and","nodes":[{"key":"k","cmp":"in","vals":["a","\u00e9"]},{"key":"k","cmp":"eq","val":"v"}]}"#;
        let read = in_json(text);
        assert!(read.is_ok(), "{read:?}");
        assert_eq!(in_protobuf(&of("and", vec![leaf("in", "", &["a", "é"]), leaf("eq", "v", &[])])), read);
    }

    #[test]
    fn a_filter_has_so_many_levels_and_no_more() {
        let (text, node) = chain(MOST_DEPTH);
        assert!(in_json(&text).is_ok() && in_protobuf(&node).is_ok());
        for levels in [MOST_DEPTH + 1, 1000] {
            let (text, node) = chain(levels);
            let too_deep = Err(BadFilter::TooDeep);
            assert_eq!((in_json(&text), in_protobuf(&node)), (too_deep.clone(), too_deep), "{levels}");
        }
        assert_eq!(in_json(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))), Err(BadFilter::Form));
    }

    #[test]
    fn ten_thousand_nodes_or_values_are_too_many() {
        let many = |count| of("or", vec![leaf("ex", "", &[]); count]);
        let vals = |count| leaf("in", "", &vec!["v"; count]);
        assert!(in_protobuf(&many(MOST_NODES - 1)).is_ok() && in_protobuf(&vals(MOST_VALUES)).is_ok());
        for count in [MOST_NODES, 10_000] {
            assert_eq!(in_protobuf(&many(count)), Err(BadFilter::TooManyNodes));
        }
        for count in [MOST_VALUES + 1, 10_000] {
            assert_eq!(in_protobuf(&vals(count)), Err(BadFilter::TooManyValues));
        }
    }

    #[test]
    fn bytes_that_are_no_node_are_no_filter() {
        for bytes in [&b"\x0a\xff"[..], b"\x32\x7f", b"\x0b", b"\x12\x01\xff"] {
            assert_eq!(UnreadFilter::Protobuf(bytes).read(), Err(BadFilter::Form), "{bytes:?}");
        }
    }
}
