//! Filters: which publications of a channel a subscriber wants, by their tags. Saves bandwidth; gives no right and takes none.
//!
//! A filter is a tree: `and`, `or` and `not` over comparisons of one tag each. What is wrong with it is said when somebody
//! subscribes; afterwards it only says yes or no.

mod decimal;
mod node;

pub use node::FilterNode;

use crate::tags::Tags;
use decimal::Decimal;

/// How deep nodes may stand in each other; a comparison alone is one.
pub const MAX_DEPTH: usize = 16;

/// How many nodes a filter may have: each may be looked at for each publication.
pub const MAX_NODES: usize = 128;

/// How many `vals` all nodes may have together.
pub const MAX_VALUES: usize = 128;

/// How long all keys and values may be together: a filter lives as long as its subscription.
pub const MAX_BYTES: usize = 8192;

/// A filter that is in order. Equal ones say the same of all publications, so subscribers can share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    expression: Expression,
    nodes: usize,
}

/// Why a filter is refused. Quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not the JSON that a filter is written in.
    #[error("a filter is an object with op, key, cmp, val, vals and nodes")]
    Malformed,
    /// Deeper than [`MAX_DEPTH`].
    #[error("a filter is at most {MAX_DEPTH} nodes deep")]
    TooDeep,
    /// More than [`MAX_NODES`].
    #[error("a filter has at most {MAX_NODES} nodes")]
    TooManyNodes,
    /// More than [`MAX_VALUES`].
    #[error("a filter has at most {MAX_VALUES} vals")]
    TooManyValues,
    /// Longer than [`MAX_BYTES`].
    #[error("keys and values of a filter have at most {MAX_BYTES} bytes together")]
    TooLong,
    /// `op` is none.
    #[error("op is and, or, not, or absent")]
    UnknownOperation,
    /// `cmp` is none.
    #[error("cmp is eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt or gte")]
    UnknownComparison,
    /// `op` and a comparison in one node.
    #[error("a node has op and nodes, or key and cmp, and not both")]
    OperationAndComparison,
    /// `not` of none or of many, `and` and `or` of none.
    #[error("not has one node, and and or have at least one")]
    NodeCount,
    /// A comparison without `key`.
    #[error("a comparison has a key")]
    MissingKey,
    /// `val` or `vals` where they do not belong, or neither where one does.
    #[error("in and nin have vals, ex and nex nothing, and the others a val")]
    WrongValues,
    /// A numeric comparison with something else.
    #[error("the val of lt, lte, gt and gte is a decimal number")]
    NotANumber,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Expression {
    All(Box<[Expression]>),
    Any(Box<[Expression]>),
    Not(Box<Expression>),
    Tag(Box<str>, TagCheck),
}

/// What is asked of a tag. One that is not there equals nothing and begins with nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TagCheck {
    Equal(Box<str>),
    NotEqual(Box<str>),
    /// Sorted.
    In(Box<[Box<str>]>),
    /// Sorted.
    NotIn(Box<[Box<str>]>),
    Exists,
    NotExists,
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    Less(Decimal<Box<str>>),
    LessOrEqual(Decimal<Box<str>>),
    Greater(Decimal<Box<str>>),
    GreaterOrEqual(Decimal<Box<str>>),
}

impl Filter {
    /// The filter that a tree says.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn new(node: FilterNode) -> Result<Self, FilterError> {
        let mut budget = Budget { nodes: MAX_NODES, values: MAX_VALUES, bytes: MAX_BYTES };
        let expression = budget.compile(node, MAX_DEPTH)?;
        Ok(Self { expression, nodes: MAX_NODES - budget.nodes })
    }

    /// The filter that JSON says; what is too deep or has too many nodes is not read to its end.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn from_json(json: &str) -> Result<Self, FilterError> {
        FilterNode::from_json(json).and_then(Self::new)
    }

    /// How many nodes it has: at most so many are looked at for a publication.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether a publication with these tags is wanted.
    #[must_use]
    pub fn matches(&self, tags: &Tags) -> bool {
        self.expression.matches(tags)
    }
}

impl Expression {
    /// Calls itself, at most [`MAX_DEPTH`] deep.
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
        let is_in =
            |values: &[Box<str>]| tag.is_some_and(|tag| values.binary_search_by(|value| (**value).cmp(tag)).is_ok());
        // A tag that is no number is neither less nor greater.
        let number = || tag.and_then(Decimal::parse);
        match self {
            Self::Equal(value) => tag == Some(value),
            Self::NotEqual(value) => tag != Some(value),
            Self::In(values) => is_in(values),
            Self::NotIn(values) => !is_in(values),
            Self::Exists => tag.is_some(),
            Self::NotExists => tag.is_none(),
            Self::StartsWith(value) => tag.is_some_and(|tag| tag.starts_with(&**value)),
            Self::EndsWith(value) => tag.is_some_and(|tag| tag.ends_with(&**value)),
            Self::Contains(value) => tag.is_some_and(|tag| tag.contains(&**value)),
            Self::Less(value) => number().is_some_and(|number| number.compare(value).is_lt()),
            Self::LessOrEqual(value) => number().is_some_and(|number| number.compare(value).is_le()),
            Self::Greater(value) => number().is_some_and(|number| number.compare(value).is_gt()),
            Self::GreaterOrEqual(value) => number().is_some_and(|number| number.compare(value).is_ge()),
        }
    }
}

/// What a filter may still have.
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
    let number = || Decimal::parse(&val).map(Decimal::into_owned).ok_or(FilterError::NotANumber);
    let check = match &*cmp {
        "eq" => TagCheck::Equal(val.into()),
        "neq" => TagCheck::NotEqual(val.into()),
        "in" => TagCheck::In(sorted(vals)),
        "nin" => TagCheck::NotIn(sorted(vals)),
        "ex" => TagCheck::Exists,
        "nex" => TagCheck::NotExists,
        "sw" => TagCheck::StartsWith(val.into()),
        "ew" => TagCheck::EndsWith(val.into()),
        "ct" => TagCheck::Contains(val.into()),
        "lt" => TagCheck::Less(number()?),
        "lte" => TagCheck::LessOrEqual(number()?),
        "gt" => TagCheck::Greater(number()?),
        "gte" => TagCheck::GreaterOrEqual(number()?),
        _ => return Err(FilterError::UnknownComparison),
    };
    if !has_right_values {
        return Err(FilterError::WrongValues);
    }
    // A tag's name may be empty, and it can be asked for; to compare with it is more likely a key that was forgotten.
    if key.is_empty() && !needs_no_value {
        return Err(FilterError::MissingKey);
    }
    Ok(Expression::Tag(key.into(), check))
}

/// In one order and each once, so that filters that say the same are equal.
fn sorted(values: Vec<String>) -> Box<[Box<str>]> {
    let mut values: Vec<Box<str>> = values.into_iter().map(Into::into).collect();
    values.sort_unstable();
    values.dedup();
    values.into()
}

#[cfg(test)]
mod tests;
