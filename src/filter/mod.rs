//! Filters: which publications of a channel a subscriber wants, by their tags. Saves bandwidth; gives no right and takes none.
//!
//! A filter is a tree: `and`, `or` and `not` over comparisons of one tag each. What is wrong with it is said when somebody
//! subscribes; afterwards it only says yes or no.

mod decimal;
mod node;

pub use node::Node;

use crate::tags::Tags;
use decimal::Decimal;

/// How deep nodes may stand in each other; a comparison alone is one.
pub const MOST_DEPTH: usize = 16;

/// How many nodes a filter may have: each may be looked at for each publication.
pub const MOST_NODES: usize = 128;

/// How many `vals` all nodes may have together.
pub const MOST_VALUES: usize = 128;

/// How long all keys and values may be together: a filter lives as long as its subscription.
pub const MOST_BYTES: usize = 8192;

/// A filter that is in order. Equal ones say the same of all publications, so subscribers can share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    rule: Rule,
    nodes: usize,
}

/// Why a filter is refused. Quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// Not the JSON that a filter is written in.
    #[error("a filter is an object with op, key, cmp, val, vals and nodes")]
    Form,
    /// Deeper than [`MOST_DEPTH`].
    #[error("a filter is at most {MOST_DEPTH} nodes deep")]
    TooDeep,
    /// More than [`MOST_NODES`].
    #[error("a filter has at most {MOST_NODES} nodes")]
    TooManyNodes,
    /// More than [`MOST_VALUES`].
    #[error("a filter has at most {MOST_VALUES} vals")]
    TooManyValues,
    /// Longer than [`MOST_BYTES`].
    #[error("keys and values of a filter have at most {MOST_BYTES} bytes together")]
    TooLong,
    /// `op` is none.
    #[error("op is and, or, not, or absent")]
    Operation,
    /// `cmp` is none.
    #[error("cmp is eq, neq, in, nin, ex, nex, sw, ew, ct, lt, lte, gt or gte")]
    Comparison,
    /// `op` and a comparison in one node.
    #[error("a node has op and nodes, or key and cmp, and not both")]
    Both,
    /// `not` of none or of many, `and` and `or` of none.
    #[error("not has one node, and and or have at least one")]
    Children,
    /// A comparison without `key`.
    #[error("a comparison has a key")]
    Key,
    /// `val` or `vals` where they do not belong, or neither where one does.
    #[error("in and nin have vals, ex and nex nothing, and the others a val")]
    Value,
    /// A numeric comparison with something else.
    #[error("the val of lt, lte, gt and gte is a decimal number")]
    Number,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Rule {
    All(Box<[Rule]>),
    Any(Box<[Rule]>),
    Not(Box<Rule>),
    Tag(Box<str>, Test),
}

/// What is asked of a tag. One that is not there equals nothing and begins with nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
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
    /// [`BadFilter`].
    pub fn new(node: Node) -> Result<Self, BadFilter> {
        let mut budget = Budget { nodes: MOST_NODES, values: MOST_VALUES, bytes: MOST_BYTES };
        let rule = budget.rule(node, MOST_DEPTH)?;
        Ok(Self { rule, nodes: MOST_NODES - budget.nodes })
    }

    /// The filter that JSON says; what is too deep or has too many nodes is not read to its end.
    ///
    /// # Errors
    /// [`BadFilter`].
    pub fn from_json(json: &str) -> Result<Self, BadFilter> {
        Node::from_json(json).and_then(Self::new)
    }

    /// How many nodes it has: at most so many are looked at for a publication.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether a publication with these tags is wanted.
    #[must_use]
    pub fn matches(&self, tags: &Tags) -> bool {
        self.rule.matches(tags)
    }
}

impl Rule {
    /// Calls itself, at most [`MOST_DEPTH`] deep.
    fn matches(&self, tags: &Tags) -> bool {
        match self {
            Self::All(rules) => rules.iter().all(|rule| rule.matches(tags)),
            Self::Any(rules) => rules.iter().any(|rule| rule.matches(tags)),
            Self::Not(rule) => !rule.matches(tags),
            Self::Tag(name, test) => test.holds(tags.get(name)),
        }
    }
}

impl Test {
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
    fn rule(&mut self, node: Node, depth: usize) -> Result<Rule, BadFilter> {
        let depth = depth.checked_sub(1).ok_or(BadFilter::TooDeep)?;
        self.nodes = self.nodes.checked_sub(1).ok_or(BadFilter::TooManyNodes)?;
        self.values = self.values.checked_sub(node.vals.len()).ok_or(BadFilter::TooManyValues)?;
        let bytes = node.key.len() + node.val.len() + node.vals.iter().map(String::len).sum::<usize>();
        self.bytes = self.bytes.checked_sub(bytes).ok_or(BadFilter::TooLong)?;
        if node.op.is_empty() {
            return comparison(node);
        }
        if bytes > 0 || !node.cmp.is_empty() || !node.vals.is_empty() {
            return Err(BadFilter::Both);
        }
        let is_one = node.nodes.len() == 1;
        let mut rules = node.nodes.into_iter().map(|node| self.rule(node, depth)).collect::<Result<Vec<_>, _>>()?;
        match (&*node.op, rules.pop()) {
            ("not", Some(rule)) if is_one => Ok(Rule::Not(rule.into())),
            ("and", Some(last)) => Ok(Rule::All(rules.into_iter().chain([last]).collect())),
            ("or", Some(last)) => Ok(Rule::Any(rules.into_iter().chain([last]).collect())),
            ("and" | "or" | "not", _) => Err(BadFilter::Children),
            _ => Err(BadFilter::Operation),
        }
    }
}

fn comparison(node: Node) -> Result<Rule, BadFilter> {
    let Node { key, cmp, val, vals, nodes, .. } = node;
    if !nodes.is_empty() {
        return Err(BadFilter::Both);
    }
    let asks_for_the_key_alone = matches!(&*cmp, "ex" | "nex");
    let has_what_it_needs = match &*cmp {
        "in" | "nin" => val.is_empty() && !vals.is_empty(),
        "ex" | "nex" => val.is_empty() && vals.is_empty(),
        _ => !val.is_empty() && vals.is_empty(),
    };
    let number = || Decimal::parse(&val).map(Decimal::into_owned).ok_or(BadFilter::Number);
    let test = match &*cmp {
        "eq" => Test::Equal(val.into()),
        "neq" => Test::NotEqual(val.into()),
        "in" => Test::In(sorted(vals)),
        "nin" => Test::NotIn(sorted(vals)),
        "ex" => Test::Exists,
        "nex" => Test::NotExists,
        "sw" => Test::StartsWith(val.into()),
        "ew" => Test::EndsWith(val.into()),
        "ct" => Test::Contains(val.into()),
        "lt" => Test::Less(number()?),
        "lte" => Test::LessOrEqual(number()?),
        "gt" => Test::Greater(number()?),
        "gte" => Test::GreaterOrEqual(number()?),
        _ => return Err(BadFilter::Comparison),
    };
    if !has_what_it_needs {
        return Err(BadFilter::Value);
    }
    // A tag's name may be empty, and it can be asked for; to compare with it is more likely a key that was forgotten.
    if key.is_empty() && !asks_for_the_key_alone {
        return Err(BadFilter::Key);
    }
    Ok(Rule::Tag(key.into(), test))
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
