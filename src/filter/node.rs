//! A filter as clients write it: a node of the tree, not yet judged.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{BadFilter, MOST_DEPTH, MOST_NODES};

/// A node. Empty is the same as absent, as it is in Protobuf. Whoever reads one from elsewhere than JSON keeps to
/// [`MOST_DEPTH`] and [`MOST_NODES`] while reading: a tree that is very deep cannot even be dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
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
    pub nodes: Vec<Node>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Member {
    Op,
    Key,
    Cmp,
    Val,
    Vals,
    Nodes,
    #[serde(other)]
    Other,
}

impl Node {
    /// The tree that JSON says. Members that are not known mean nothing, `null` is absent, and one said twice is refused.
    ///
    /// # Errors
    /// [`BadFilter::Form`], [`BadFilter::TooDeep`], [`BadFilter::TooManyNodes`], as soon as they show.
    pub fn from_json(json: &str) -> Result<Self, BadFilter> {
        let mut reading = Reading { nodes: MOST_NODES, refused: BadFilter::Form };
        let mut json = serde_json::Deserializer::from_str(json);
        let node = One { reading: &mut reading, depth: MOST_DEPTH }.deserialize(&mut json);
        let node = node.and_then(|node| json.end().map(|()| node));
        node.map_err(|_| reading.refused)
    }
}

/// How it stands with a tree that is being read.
struct Reading {
    /// How many nodes may still come.
    nodes: usize,
    /// Why it is refused if it is.
    refused: BadFilter,
}

impl Reading {
    fn refuse<E: Error>(&mut self, reason: BadFilter) -> E {
        self.refused = reason;
        E::custom(reason)
    }
}

/// Reads a node that may be `depth` deep.
struct One<'a> {
    reading: &'a mut Reading,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        if self.depth == 0 {
            return Err(self.reading.refuse(BadFilter::TooDeep));
        }
        if self.reading.nodes == 0 {
            return Err(self.reading.refuse(BadFilter::TooManyNodes));
        }
        self.reading.nodes -= 1;
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Node, A::Error> {
        let (mut node, mut seen) = (Node::default(), Vec::new());
        while let Some(member) = object.next_key::<Member>()? {
            if member != Member::Other && seen.contains(&member) {
                return Err(A::Error::custom("a member twice"));
            }
            let text = |object: &mut A| object.next_value::<Option<String>>().map(Option::unwrap_or_default);
            match member {
                Member::Op => node.op = text(&mut object)?,
                Member::Key => node.key = text(&mut object)?,
                Member::Cmp => node.cmp = text(&mut object)?,
                Member::Val => node.val = text(&mut object)?,
                Member::Vals => node.vals = object.next_value::<Option<_>>()?.unwrap_or_default(),
                Member::Nodes => {
                    node.nodes = object.next_value_seed(Many { reading: self.reading, depth: self.depth - 1 })?;
                }
                Member::Other => drop(object.next_value::<IgnoredAny>()?),
            }
            if member != Member::Other {
                seen.push(member);
            }
        }
        Ok(node)
    }
}

/// Reads nodes that may be `depth` deep.
struct Many<'a> {
    reading: &'a mut Reading,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Many<'_> {
    type Value = Vec<Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Node>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Many<'_> {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of nodes")
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<Node>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Node>, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element_seed(One { reading: self.reading, depth: self.depth })? {
            nodes.push(node);
        }
        Ok(nodes)
    }
}
