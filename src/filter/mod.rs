//! Filters: a subscriber receives only the publications whose tags match its filter. A filter saves bandwidth; it is not a
//! permission.
//!
//! A filter is a tree of `and`, `or` and `not` over comparisons of one tag each. Errors in it are reported to the client when it
//! subscribes; after that a filter either matches or does not.

mod decimal;
mod node;

pub use node::FilterNode;

use std::cmp::Ordering;

use self::decimal::Decimal;
use crate::tags::Tags;

/// Maximum depth of the tree. A single comparison has depth 1.
pub const MAX_DEPTH: usize = 16;

/// Maximum number of nodes. Each of them may be evaluated for each publication.
pub const MAX_NODES: usize = 128;

/// Maximum number of `vals` of all nodes together.
pub const MAX_VALUES: usize = 128;

/// Maximum length of all keys and values together. A filter is stored as long as its subscription.
pub const MAX_BYTES: usize = 8192;

/// A valid filter. Equal filters match the same publications, so subscribers can share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    expression: Expression,
    nodes: usize,
}

/// Why a filter is refused. Quotes none of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not JSON of this form.
    #[error("a filter must be an object with op, key, cmp, val, vals and nodes")]
    Malformed,
    /// Deeper than [`MAX_DEPTH`].
    #[error("a filter must be at most {MAX_DEPTH} nodes deep")]
    TooDeep,
    /// More than [`MAX_NODES`].
    #[error("a filter may have at most {MAX_NODES} nodes")]
    TooManyNodes,
    /// More than [`MAX_VALUES`].
    #[error("a filter may have at most {MAX_VALUES} vals")]
    TooManyValues,
    /// Longer than [`MAX_BYTES`].
    #[error("keys and values of a filter may have at most {MAX_BYTES} bytes together")]
    TooLong,
    /// `op` is not an operation.
    #[error("op must be and, or, not, or absent")]
    UnknownOperation,
    /// `cmp` is not a comparison.
    #[error("cmp must be eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt or gte")]
    UnknownComparison,
    /// An operation and a comparison in one node.
    #[error("a node must have either op and nodes, or key and cmp")]
    OperationAndComparison,
    /// `not` without exactly one node, or `and` or `or` without any.
    #[error("op not must have exactly one node, op and and op or at least one")]
    NodeCount,
    /// A comparison without `key`.
    #[error("a comparison must have a key")]
    MissingKey,
    /// `val` or `vals` with a comparison that has none, or the one that it needs is missing.
    #[error("in and nin need vals, ex and nex must have neither val nor vals, and the other comparisons need a val")]
    WrongValues,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Expression {
    All(Box<[Expression]>),
    Any(Box<[Expression]>),
    Not(Box<Expression>),
    Tag(Box<str>, TagCheck),
}

/// A comparison of one tag. A missing tag equals no value, begins with none, and is not a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TagCheck {
    Exists,
    Equals(Box<str>),
    /// Equals one of these values, which are sorted.
    In(Box<[Box<str>]>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    /// Is a number in one of these orders to the value. `None`: the value is not a number, so no tag is.
    Compares(&'static [Ordering], Option<Decimal<Box<str>>>),
}

impl Filter {
    /// Compiles a filter from its tree.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn new(node: FilterNode) -> Result<Self, FilterError> {
        let mut budget = Budget { nodes: MAX_NODES, values: MAX_VALUES, bytes: MAX_BYTES };
        let expression = budget.compile(node, MAX_DEPTH)?;
        Ok(Self { expression, nodes: MAX_NODES - budget.nodes })
    }

    /// Parses a filter from JSON. Reading stops where the tree becomes too deep or has too many nodes.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn from_json(json: &str) -> Result<Self, FilterError> {
        FilterNode::from_json(json).and_then(Self::new)
    }

    /// Returns the number of nodes: at most this many are evaluated for a publication.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Returns whether a publication with these tags matches.
    #[must_use]
    pub fn matches(&self, tags: &Tags) -> bool {
        self.expression.matches(tags)
    }
}

impl Expression {
    /// Recursion is bounded by [`MAX_DEPTH`].
    fn matches(&self, tags: &Tags) -> bool {
        match self {
            Self::All(expressions) => expressions.iter().all(|expression| expression.matches(tags)),
            Self::Any(expressions) => expressions.iter().any(|expression| expression.matches(tags)),
            Self::Not(expression) => !expression.matches(tags),
            Self::Tag(name, check) => check.holds(tags.get(name)),
        }
    }
}

impl TagCheck {
    fn holds(&self, tag: Option<&str>) -> bool {
        let Some(tag) = tag else { return false };
        match self {
            Self::Exists => true,
            Self::Equals(value) => *tag == **value,
            Self::In(values) => values.binary_search_by(|value| (**value).cmp(tag)).is_ok(),
            Self::StartsWith(value) => tag.starts_with(&**value),
            Self::EndsWith(value) => tag.ends_with(&**value),
            Self::Contains(value) => tag.contains(&**value),
            Self::Compares(orders, Some(value)) => {
                Decimal::parse(tag).is_some_and(|number| orders.contains(&number.compare(value)))
            }
            Self::Compares(_, None) => false,
        }
    }
}

/// What remains of the limits of a filter.
struct Budget {
    nodes: usize,
    values: usize,
    bytes: usize,
}

impl Budget {
    fn compile(&mut self, node: FilterNode, depth: usize) -> Result<Expression, FilterError> {
        let depth = depth.checked_sub(1).ok_or(FilterError::TooDeep)?;
        self.nodes = self.nodes.checked_sub(1).ok_or(FilterError::TooManyNodes)?;
        self.values = self.values.checked_sub(node.vals.len()).ok_or(FilterError::TooManyValues)?;
        let bytes = node.key.len() + node.val.len() + node.vals.iter().map(String::len).sum::<usize>();
        self.bytes = self.bytes.checked_sub(bytes).ok_or(FilterError::TooLong)?;
        if node.op.is_empty() {
            return compile_comparison(node);
        }
        if bytes > 0 || !node.cmp.is_empty() || !node.vals.is_empty() {
            return Err(FilterError::OperationAndComparison);
        }
        let is_single = node.nodes.len() == 1;
        let mut expressions =
            node.nodes.into_iter().map(|node| self.compile(node, depth)).collect::<Result<Vec<_>, _>>()?;
        match (&*node.op, expressions.pop()) {
            ("not", Some(expression)) if is_single => Ok(Expression::Not(expression.into())),
            ("and", Some(last)) => Ok(Expression::All(expressions.into_iter().chain([last]).collect())),
            ("or", Some(last)) => Ok(Expression::Any(expressions.into_iter().chain([last]).collect())),
            ("and" | "or" | "not", _) => Err(FilterError::NodeCount),
            _ => Err(FilterError::UnknownOperation),
        }
    }
}

fn compile_comparison(node: FilterNode) -> Result<Expression, FilterError> {
    let FilterNode { key, cmp, val, vals, nodes, .. } = node;
    if !nodes.is_empty() {
        return Err(FilterError::OperationAndComparison);
    }
    let needs_no_value = matches!(&*cmp, "ex" | "nex");
    let has_right_values = match &*cmp {
        "in" | "nin" => val.is_empty() && !vals.is_empty(),
        "ex" | "nex" => val.is_empty() && vals.is_empty(),
        _ => !val.is_empty() && vals.is_empty(),
    };
    let compares = |orders| TagCheck::Compares(orders, Decimal::parse(&val).map(Decimal::into_owned));
    let check = match &*cmp {
        "ex" | "nex" => TagCheck::Exists,
        "eq" | "neq" => TagCheck::Equals(val.into()),
        "in" | "nin" => TagCheck::In(sorted(vals)),
        "sw" => TagCheck::StartsWith(val.into()),
        "ew" => TagCheck::EndsWith(val.into()),
        "ct" => TagCheck::Contains(val.into()),
        "lt" => compares(&[Ordering::Less]),
        "lte" => compares(&[Ordering::Less, Ordering::Equal]),
        "gt" => compares(&[Ordering::Greater]),
        "gte" => compares(&[Ordering::Greater, Ordering::Equal]),
        _ => return Err(FilterError::UnknownComparison),
    };
    if !has_right_values {
        return Err(FilterError::WrongValues);
    }
    // A tag may have an empty name, and ex and nex may test for it. In other comparisons an empty key was probably forgotten.
    if key.is_empty() && !needs_no_value {
        return Err(FilterError::MissingKey);
    }
    let expression = Expression::Tag(key.into(), check);
    let is_negated = matches!(&*cmp, "nex" | "neq" | "nin");
    Ok(if is_negated { Expression::Not(expression.into()) } else { expression })
}

/// Sorts the values and removes duplicates, so that equivalent filters are equal.
fn sorted(values: Vec<String>) -> Box<[Box<str>]> {
    let mut values: Vec<Box<str>> = values.into_iter().map(Into::into).collect();
    values.sort_unstable();
    values.dedup();
    values.into()
}

#[cfg(test)]
mod tests;
