//! Fields of a Protobuf message, read strictly and without a copy: what is longer than the message, groups, and wire types
//! that there are not end the reading.

use std::borrow::Cow;

use super::Malformed;

/// The largest number of a field.
const LAST_FIELD: u64 = (1 << 29) - 1;

/// The fields that are still to be read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

/// What a field holds, by its wire type.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes, which nothing that is known here has.
    Fixed,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            let field = self.field();
            if field.is_err() {
                self.0 = &[];
            }
            field
        })
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let number = Some(tag >> 3).filter(|number| (1..=LAST_FIELD).contains(number)).ok_or(Malformed)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed),
        };
        Ok((u32::try_from(number).map_err(|_| Malformed)?, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let (value, length) = varint(self.0)?;
        self.0 = &self.0[length..];
        Ok(value)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// The number that `bytes` begin with, and how many of them it takes: at most ten.
pub(in crate::protocol) fn varint(bytes: &[u8]) -> Result<(u64, usize), Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        // Nine times seven bits, and one.
        if index == 9 && *byte > 1 {
            return Err(Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(Malformed)
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed) }
    }

    pub(super) fn text(self) -> Result<Cow<'a, str>, Malformed> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Malformed))
    }

    pub(super) fn number(self) -> Result<u64, Malformed> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(Malformed) }
    }

    /// Of the kinds `int32` and `int64`: less than nothing takes all ten bytes.
    pub(super) fn signed(self) -> Result<i64, Malformed> {
        self.number().map(u64::cast_signed)
    }

    pub(super) fn flag(self) -> Result<bool, Malformed> {
        self.number().map(|number| number != 0)
    }
}
