//! A strict reader for the fields of a Protobuf message that copies nothing. Groups, unknown wire types and fields that are
//! longer than the message are malformed.

use std::borrow::Cow;

use super::MalformedCommand;

/// Maximum number of a field.
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// An iterator over the fields of a message, with the bytes that are left to read.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

/// The value of a field, by its wire type.
#[derive(Clone, Copy)]
pub(super) enum FieldValue<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes. No field of the schema has this type.
    Fixed,
}

impl<'a> Iterator for FieldReader<'a> {
    type Item = Result<(u32, FieldValue<'a>), MalformedCommand>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            let field = self.read_field();
            if field.is_err() {
                self.0 = &[];
            }
            field
        })
    }
}

impl<'a> FieldReader<'a> {
    fn read_field(&mut self) -> Result<(u32, FieldValue<'a>), MalformedCommand> {
        let tag = self.read_varint()?;
        let number = Some(tag >> 3).filter(|number| (1..=MAX_FIELD_NUMBER).contains(number)).ok_or(MalformedCommand)?;
        let value = match tag & 7 {
            0 => FieldValue::Varint(self.read_varint()?),
            1 => self.read_bytes(8).map(|_| FieldValue::Fixed)?,
            2 => {
                let length = self.read_varint()?;
                FieldValue::Bytes(self.read_bytes(length)?)
            }
            5 => self.read_bytes(4).map(|_| FieldValue::Fixed)?,
            _ => return Err(MalformedCommand),
        };
        Ok((u32::try_from(number).map_err(|_| MalformedCommand)?, value))
    }

    fn read_varint(&mut self) -> Result<u64, MalformedCommand> {
        let (value, length) = read_varint(self.0)?;
        self.0 = &self.0[length..];
        Ok(value)
    }

    fn read_bytes(&mut self, length: u64) -> Result<&'a [u8], MalformedCommand> {
        let length = usize::try_from(length).map_err(|_| MalformedCommand)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(MalformedCommand)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Reads the varint at the start of `bytes`. Returns the number and its length, which is at most ten bytes.
pub(in crate::protocol) fn read_varint(bytes: &[u8]) -> Result<(u64, usize), MalformedCommand> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        // Nine bytes have 63 bits; the tenth has one.
        if index == 9 && *byte > 1 {
            return Err(MalformedCommand);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(MalformedCommand)
}

impl<'a> FieldValue<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], MalformedCommand> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(MalformedCommand) }
    }

    pub(super) fn text(self) -> Result<Cow<'a, str>, MalformedCommand> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| MalformedCommand))
    }

    pub(super) fn number(self) -> Result<u64, MalformedCommand> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(MalformedCommand) }
    }

    /// Returns the value of an `int32` or `int64`. Negative numbers take all ten bytes.
    pub(super) fn signed(self) -> Result<i64, MalformedCommand> {
        self.number().map(u64::cast_signed)
    }

    pub(super) fn flag(self) -> Result<bool, MalformedCommand> {
        self.number().map(|number| number != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_longer_than_ten_bytes_or_64_bits_is_malformed() {
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read_varint(&largest), Ok((u64::MAX, 10)));
        assert_eq!(read_varint(&[0xac, 0x02, 0xff]), Ok((300, 2)));
        for bad in [&[][..], &[0x80], &[0x80; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]] {
            assert_eq!(read_varint(bad), Err(MalformedCommand), "{bad:?}");
        }
    }

    #[test]
    fn field_reader_stops_after_malformed_field() {
        let mut fields = FieldReader(&[0x0b, 8, 1]);
        assert!(fields.next().is_some_and(|field| field.is_err()) && fields.next().is_none());
    }
}
