//! Tags of a publication: a few short strings with names. The filters of subscribers compare them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};

/// Maximum number of tags of a publication. A filter may look at each of them for every subscriber group.
pub const MAX_TAGS: usize = 32;

/// Maximum length of all names and values together. The history stores them, and every subscriber receives them.
pub const MAX_BYTES: usize = 4096;

/// Tags, sorted by name. Clones share their memory; empty tags take none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(
    /// For each tag the lengths of its name and its value, then name and value. A length is two characters of seven bits each, so
    /// that the whole is valid text.
    Option<Arc<str>>,
);

/// Why tags are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    /// More than [`MAX_TAGS`].
    #[error("a publication may have at most {MAX_TAGS} tags")]
    TooMany,
    /// Longer than [`MAX_BYTES`].
    #[error("tags may have at most {MAX_BYTES} bytes together")]
    TooLong,
    /// Two tags have the same name, so it is unclear which one counts.
    #[error("two tags must not have the same name")]
    DuplicateName,
}

impl Tags {
    /// Creates tags from pairs of name and value.
    ///
    /// # Errors
    /// [`TagsError`], without reading the remaining pairs.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, TagsError> {
        let mut builder = TagsBuilder::default();
        for (name, value) in pairs {
            builder.add(name.as_ref(), value.as_ref())?;
        }
        Ok(builder.build())
    }

    /// Returns whether there are no tags.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the value of the tag `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// Iterates over pairs of name and value, sorted by name.
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

    /// Returns the tags in their packed form, for storage. See [`Self::from_packed`].
    pub(crate) fn packed(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Restores tags from their packed form, which must come from [`Self::packed`].
    pub(crate) fn from_packed(packed: &str) -> Self {
        Self(Some(packed).filter(|packed| !packed.is_empty()).map(Arc::from))
    }

    /// Returns the bytes of memory that the tags take.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        // The two reference counts of `Arc` precede the text.
        self.0.as_ref().map_or(0, |text| 2 * size_of::<usize>() + text.len())
    }
}

/// Tags that are being read.
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

/// Deserializes an object of strings. Reading ends at the first tag that exceeds a limit.
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
