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
