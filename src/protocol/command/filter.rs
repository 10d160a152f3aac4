//! Tag filters in commands. A filter is parsed only on request, and within the limits of [`crate::filter`] on depth, nodes and
//! values.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::fields::FieldReader;
use crate::filter::{Filter, FilterError, FilterNode, MAX_DEPTH, MAX_NODES, MAX_VALUES};

/// A filter of a command that is not parsed yet.
#[derive(Clone, Copy)]
pub enum RawFilter<'a> {
    /// In JSON.
    Json(&'a RawValue),
    /// In Protobuf.
    Protobuf(&'a [u8]),
}

impl RawFilter<'_> {
    /// Parses and validates the filter.
    ///
    /// # Errors
    /// [`FilterError`]
    pub fn read(self) -> Result<Filter, FilterError> {
        match self {
            Self::Json(raw) => Filter::from_json(raw.get()),
            Self::Protobuf(bytes) => {
                let mut reader = FilterReader { remaining_nodes: MAX_NODES, remaining_values: MAX_VALUES };
                Filter::new(reader.read_node(bytes, MAX_DEPTH)?)
            }
        }
    }
}

/// A parser with the nodes and values that are left of the limits.
struct FilterReader {
    remaining_nodes: usize,
    remaining_values: usize,
}

impl FilterReader {
    /// Parses a node that may contain `depth` levels, itself included.
    fn read_node(&mut self, bytes: &[u8], depth: usize) -> Result<FilterNode, FilterError> {
        let depth = depth.checked_sub(1).ok_or(FilterError::TooDeep)?;
        self.remaining_nodes = self.remaining_nodes.checked_sub(1).ok_or(FilterError::TooManyNodes)?;
        let mut node = FilterNode::default();
        for field in FieldReader(bytes) {
            let (number, value) = field.map_err(|_| FilterError::Malformed)?;
            let text = || value.text().map(Cow::into_owned).map_err(|_| FilterError::Malformed);
            match number {
                1 => node.op = text()?,
                2 => node.key = text()?,
                3 => node.cmp = text()?,
                4 => node.val = text()?,
                5 => {
                    self.remaining_values = self.remaining_values.checked_sub(1).ok_or(FilterError::TooManyValues)?;
                    node.vals.push(text()?);
                }
                6 => node.nodes.push(self.read_node(value.bytes().map_err(|_| FilterError::Malformed)?, depth)?),
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
    use crate::protocol::schema;

    fn read_json(text: &str) -> Result<Filter, FilterError> {
        RawFilter::Json(serde_json::from_str(text).unwrap()).read()
    }

    fn read_protobuf(node: &schema::FilterNode) -> Result<Filter, FilterError> {
        RawFilter::Protobuf(&node.encode_to_vec()).read()
    }

    fn of(op: &str, nodes: Vec<schema::FilterNode>) -> schema::FilterNode {
        schema::FilterNode { op: op.to_owned(), nodes, ..Default::default() }
    }

    fn leaf(cmp: &str, val: &str, vals: &[&str]) -> schema::FilterNode {
        let vals = vals.iter().map(|val| (*val).to_owned()).collect();
        schema::FilterNode { key: "k".to_owned(), cmp: cmp.to_owned(), val: val.to_owned(), vals, ..Default::default() }
    }

    fn chain(levels: usize) -> (String, schema::FilterNode) {
        let text = format!(
            "{}{}{}",
            r#"{"op":"not","nodes":["#.repeat(levels - 1),
            r#"{"key":"k","cmp":"ex"}"#,
            "]}".repeat(levels - 1)
        );
        (text, (1..levels).fold(leaf("ex", "", &[]), |below, _| of("not", vec![below])))
    }

    #[test]
    fn filter_is_equal_in_json_and_protobuf() {
        let text =
            r#"{"op":"and","nodes":[{"key":"k","cmp":"in","vals":["a","\u00e9"]},{"key":"k","cmp":"eq","val":"v"}]}"#;
        let read = read_json(text);
        assert!(read.is_ok(), "{read:?}");
        assert_eq!(read_protobuf(&of("and", vec![leaf("in", "", &["a", "é"]), leaf("eq", "v", &[])])), read);
    }

    #[test]
    fn filter_deeper_than_max_depth_is_too_deep() {
        let (text, node) = chain(MAX_DEPTH);
        assert!(read_json(&text).is_ok() && read_protobuf(&node).is_ok());
        for levels in [MAX_DEPTH + 1, 1000] {
            let (text, node) = chain(levels);
            let too_deep = Err(FilterError::TooDeep);
            assert_eq!((read_json(&text), read_protobuf(&node)), (too_deep.clone(), too_deep), "{levels}");
        }
        assert_eq!(read_json(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))), Err(FilterError::Malformed));
    }

    #[test]
    fn filter_over_max_nodes_or_values_is_rejected() {
        let many = |count| of("or", vec![leaf("ex", "", &[]); count]);
        let vals = |count| leaf("in", "", &vec!["v"; count]);
        assert!(read_protobuf(&many(MAX_NODES - 1)).is_ok() && read_protobuf(&vals(MAX_VALUES)).is_ok());
        for count in [MAX_NODES, 10_000] {
            assert_eq!(read_protobuf(&many(count)), Err(FilterError::TooManyNodes));
        }
        for count in [MAX_VALUES + 1, 10_000] {
            assert_eq!(read_protobuf(&vals(count)), Err(FilterError::TooManyValues));
        }
    }

    #[test]
    fn bytes_that_are_not_a_filter_node_are_rejected() {
        for bytes in [&b"\x0a\xff"[..], b"\x32\x7f", b"\x0b", b"\x12\x01\xff"] {
            assert_eq!(RawFilter::Protobuf(bytes).read(), Err(FilterError::Malformed), "{bytes:?}");
        }
    }
}
