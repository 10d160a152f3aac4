//! A filter as clients write it: a tree of nodes, not yet checked.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{FilterError, MAX_DEPTH, MAX_NODES};

/// A node. An empty field is the same as an absent one, as in Protobuf. A parser for another format than JSON has to enforce
/// [`MAX_DEPTH`] and [`MAX_NODES`] while it reads: dropping a very deep tree would overflow the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterNode {
    /// `and`, `or` or `not`; empty in a comparison.
    pub op: String,
    /// The name of the tag to compare.
    pub key: String,
    /// The comparison.
    pub cmp: String,
    /// The value to compare with.
    pub val: String,
    /// The values to compare with, for `in` and `nin`.
    pub vals: Vec<String>,
    /// The operands of `op`.
    pub nodes: Vec<FilterNode>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NodeField {
    Op,
    Key,
    Cmp,
    Val,
    Vals,
    Nodes,
    #[serde(other)]
    Other,
}

impl FilterNode {
    /// Parses a tree from JSON. Unknown members are ignored, `null` means absent, and a duplicate member is refused.
    ///
    /// # Errors
    /// [`FilterError::Malformed`], [`FilterError::TooDeep`] or [`FilterError::TooManyNodes`], without reading the rest.
    pub fn from_json(json: &str) -> Result<Self, FilterError> {
        let mut reader = NodeReader { nodes: MAX_NODES, error: FilterError::Malformed };
        let mut json = serde_json::Deserializer::from_str(json);
        let node = NodeSeed { reader: &mut reader, depth: MAX_DEPTH }.deserialize(&mut json);
        let node = node.and_then(|node| json.end().map(|()| node));
        node.map_err(|_| reader.error)
    }
}

/// The state while a tree is being read.
struct NodeReader {
    /// How many more nodes are allowed.
    nodes: usize,
    /// The error to report if reading fails: the deserializer's own error cannot carry it.
    error: FilterError,
}

impl NodeReader {
    fn refuse<E: Error>(&mut self, reason: FilterError) -> E {
        self.error = reason;
        E::custom(reason)
    }
}

/// Reads a node of at most `depth` levels.
struct NodeSeed<'a> {
    reader: &'a mut NodeReader,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = FilterNode;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FilterNode, D::Error> {
        if self.depth == 0 {
            return Err(self.reader.refuse(FilterError::TooDeep));
        }
        if self.reader.nodes == 0 {
            return Err(self.reader.refuse(FilterError::TooManyNodes));
        }
        self.reader.nodes -= 1;
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = FilterNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<FilterNode, A::Error> {
        let (mut node, mut seen) = (FilterNode::default(), Vec::new());
        while let Some(member) = object.next_key::<NodeField>()? {
            if member != NodeField::Other && seen.contains(&member) {
                return Err(A::Error::custom("duplicate member"));
            }
            let text = |object: &mut A| object.next_value::<Option<String>>().map(Option::unwrap_or_default);
            match member {
                NodeField::Op => node.op = text(&mut object)?,
                NodeField::Key => node.key = text(&mut object)?,
                NodeField::Cmp => node.cmp = text(&mut object)?,
                NodeField::Val => node.val = text(&mut object)?,
                NodeField::Vals => node.vals = object.next_value::<Option<_>>()?.unwrap_or_default(),
                NodeField::Nodes => {
                    node.nodes = object.next_value_seed(NodeListSeed { reader: self.reader, depth: self.depth - 1 })?;
                }
                NodeField::Other => drop(object.next_value::<IgnoredAny>()?),
            }
            if member != NodeField::Other {
                seen.push(member);
            }
        }
        Ok(node)
    }
}

/// Reads a list of nodes of at most `depth` levels.
struct NodeListSeed<'a> {
    reader: &'a mut NodeReader,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for NodeListSeed<'_> {
    type Value = Vec<FilterNode>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<FilterNode>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeListSeed<'_> {
    type Value = Vec<FilterNode>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of nodes")
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<FilterNode>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<FilterNode>, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element_seed(NodeSeed { reader: self.reader, depth: self.depth })? {
            nodes.push(node);
        }
        Ok(nodes)
    }
}
