//! Fields of Kafka's messages, as far as they were copied, in the form of old versions or in the compact one.
//!
//! Format: Kafka Protocol Guide, "Protocol Primitive Types", and KIP-482 for the compact form. Invariant: no input panics.

use crate::bytes::Bytes;

/// Elements of an array, and tagged fields, that are looked at.
const ELEMENTS_MAX: usize = 4_096;

/// Fields that are yet to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    pub(super) rest: Bytes<'a>,
    pub(super) is_flexible: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn i16(&mut self) -> Option<i16> {
        self.rest.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.rest.array().map(i32::from_be_bytes)
    }

    pub(super) fn id(&mut self) -> Option<[u8; 16]> {
        self.rest.array()
    }

    pub(super) fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest.take(bytes).map(|_| ())
    }

    /// Empty if it is null.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let bytes = if self.is_flexible { self.compact_length()? } else { usize::try_from(self.i16()?).unwrap_or(0) };
        self.rest.take(bytes)
    }

    /// How many elements follow; none if it is null.
    pub(super) fn array(&mut self) -> Option<usize> {
        let count = if self.is_flexible { self.compact_length()? } else { usize::try_from(self.i32()?).unwrap_or(0) };
        (count <= ELEMENTS_MAX).then_some(count)
    }

    /// How many bytes follow; none if it is null.
    pub(super) fn length(&mut self) -> Option<usize> {
        if self.is_flexible { self.compact_length() } else { Some(usize::try_from(self.i32()?).unwrap_or(0)) }
    }

    /// Fields that only some versions know.
    pub(super) fn tags(&mut self) -> Option<()> {
        if self.is_flexible {
            let count = self.number()?;
            for _ in 0..(count as usize).min(ELEMENTS_MAX) {
                self.number()?;
                let bytes = self.number()?;
                self.skip(bytes as usize)?;
            }
        }
        Some(())
    }

    /// One more than the length; 0 is null.
    fn compact_length(&mut self) -> Option<usize> {
        self.number().map(|length| (length as usize).saturating_sub(1))
    }

    /// Seven bits a byte, the least significant first.
    fn number(&mut self) -> Option<u32> {
        let mut number = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.rest.u8()?;
            number |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let mut old = Fields { rest: Bytes(b"\0\x03abc\xff\xff\0\0\0\x02\xff\xff\xff\xff"), is_flexible: false };
        let mut compact = Fields { rest: Bytes(b"\x04abc\0\x03\0"), is_flexible: true };
        for fields in [&mut old, &mut compact] {
            assert_eq!((fields.string(), fields.string()), (Some(&b"abc"[..]), Some(&b""[..])));
            assert_eq!((fields.array(), fields.length(), fields.rest.0.len()), (Some(2), Some(0), 0));
        }
    }

    #[test]
    fn tagged_fields_are_stepped_over() {
        let mut fields = Fields { rest: Bytes(b"\x02\x00\x01x\x81\x01\x02yz\x07"), is_flexible: true };
        assert_eq!((fields.tags(), fields.rest.u8()), (Some(()), Some(7)));
        let mut old = Fields { rest: Bytes(b"\x02"), is_flexible: false };
        assert_eq!((old.tags(), old.rest.u8()), (Some(()), Some(2)));
        let mut endless = Fields { rest: Bytes(b"\xff\xff\xff\xff\xff\x01"), is_flexible: true };
        assert_eq!(endless.tags(), None);
    }
}
