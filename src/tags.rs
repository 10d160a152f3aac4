//! A publication's tags: a few short texts by name, which subscribers filter by.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};

/// How many tags a publication may have: filters look at each, for every class of subscribers.
pub const MAX_TAGS: usize = 32;

/// How long its tags may be, names and values together: history keeps them, and every subscriber gets them.
pub const MAX_BYTES: usize = 4096;

/// Tags, sorted by name. Cloning shares them; none take no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(
    /// For each tag the lengths of its name and its value, then both. A length is two characters of seven bits each, which
    /// keeps the whole a text.
    Option<Arc<str>>,
);

/// Why tags are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    /// More than [`MAX_TAGS`].
    #[error("a publication has at most {MAX_TAGS} tags")]
    TooMany,
    /// Longer than [`MAX_BYTES`].
    #[error("tags have at most {MAX_BYTES} bytes together")]
    TooLong,
    /// Two have the same name: which of them counts?
    #[error("two tags have the same name")]
    DuplicateName,
}

impl Tags {
    /// Tags of pairs of name and value.
    ///
    /// # Errors
    /// [`TagsError`]; then no more pairs are taken.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, TagsError> {
        let mut builder = TagsBuilder::default();
        for (name, value) in pairs {
            builder.add(name.as_ref(), value.as_ref())?;
        }
        Ok(builder.build())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of the tag that is called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// All of them by name, as name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.packed();
        std::iter::from_fn(move || {
            let lengths = rest.as_bytes().first_chunk::<4>()?.map(usize::from);
            let (name, value) = (lengths[0] << 7 | lengths[1], lengths[2] << 7 | lengths[3]);
            let tag = (rest.get(4..4 + name)?, rest.get(4 + name..4 + name + value)?);
            rest = &rest[4 + name + value..];
            Some(tag)
        })
    }

    /// The whole as it is kept, for whoever keeps it elsewhere.
    pub(crate) fn packed(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// What was [`packed`](Self::packed).
    pub(crate) fn from_packed(packed: &str) -> Self {
        Self(Some(packed).filter(|packed| !packed.is_empty()).map(Arc::from))
    }

    /// Bytes that they take, for whoever counts memory.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        // Two counters stand before the text.
        self.0.as_ref().map_or(0, |text| 2 * size_of::<usize>() + text.len())
    }
}

/// Tags while they come.
#[derive(Default)]
struct TagsBuilder {
    by_name: BTreeMap<Box<str>, Box<str>>,
    bytes: usize,
}

impl TagsBuilder {
    fn add(&mut self, name: &str, value: &str) -> Result<(), TagsError> {
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(value.len());
        if self.bytes > MAX_BYTES {
            return Err(TagsError::TooLong);
        }
        if self.by_name.len() == MAX_TAGS && !self.by_name.contains_key(name) {
            return Err(TagsError::TooMany);
        }
        match self.by_name.insert(name.into(), value.into()) {
            Some(_) => Err(TagsError::DuplicateName),
            None => Ok(()),
        }
    }

    fn build(self) -> Tags {
        let mut text = String::with_capacity(self.bytes + 4 * self.by_name.len());
        for (name, value) in &self.by_name {
            for length in [name.len(), value.len()] {
                text.extend([length >> 7, length & 127].map(|half| char::from(half as u8)));
            }
            text.push_str(name);
            text.push_str(value);
        }
        Tags(Some(text).filter(|text| !text.is_empty()).map(Arc::from))
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// An object of texts, nothing else; the first that is too much ends the reading.
impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TagsVisitor;

        impl<'de> Visitor<'de> for TagsVisitor {
            type Value = Tags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Tags, A::Error> {
                let mut builder = TagsBuilder::default();
                while let Some((name, value)) = object.next_entry::<String, String>()? {
                    builder.add(&name, &value).map_err(A::Error::custom)?;
                }
                Ok(builder.build())
            }
        }

        deserializer.deserialize_map(TagsVisitor)
    }
}

#[cfg(test)]
mod tests;
