//! A filter as clients write it: a node of the tree, not yet judged.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{FilterError, MAX_DEPTH, MAX_NODES};

/// A node. Empty is the same as absent, as it is in Protobuf. Whoever reads one from elsewhere than JSON keeps to
/// [`MAX_DEPTH`] and [`MAX_NODES`] while reading: a tree that is very deep cannot even be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterNode {
    /// `and`, `or`, `not`; empty in a comparison.
    pub op: String,
    /// The tag that is compared.
    pub key: String,
    /// How it is compared.
    pub cmp: String,
    /// With what.
    pub val: String,
    /// With what, for `in` and `nin`.
    pub vals: Vec<String>,
    /// What `op` is applied to.
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
    /// The tree that JSON says. Members that are not known mean nothing, `null` is absent, and one said twice is refused.
    ///
    /// # Errors
    /// [`FilterError::Malformed`], [`FilterError::TooDeep`], [`FilterError::TooManyNodes`], as soon as they show.
    pub fn from_json(json: &str) -> Result<Self, FilterError> {
        let mut reader = NodeReader { nodes: MAX_NODES, refused: FilterError::Malformed };
        let mut json = serde_json::Deserializer::from_str(json);
        let node = NodeSeed { reader: &mut reader, depth: MAX_DEPTH }.deserialize(&mut json);
        let node = node.and_then(|node| json.end().map(|()| node));
        node.map_err(|_| reader.refused)
    }
}

/// How it stands with a tree that is being read.
struct NodeReader {
    /// How many nodes may still come.
    nodes: usize,
    /// Why it is refused if it is.
    refused: FilterError,
}

impl NodeReader {
    fn refuse<E: Error>(&mut self, reason: FilterError) -> E {
        self.refused = reason;
        E::custom(reason)
    }
}

/// Reads a node that may be `depth` deep.
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
                return Err(A::Error::custom("a member twice"));
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

/// Reads nodes that may be `depth` deep.
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
