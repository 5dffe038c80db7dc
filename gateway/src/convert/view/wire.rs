//! Protobuf's wire format as a view: fields of a message one after another, pointing into the request's bytes.
//!
//! What it takes prost takes too and understands in the same way; what it does not, the long way has the last word on.
//! <https://protobuf.dev/programming-guides/encoding/>. Invariant: nothing is read beyond the message, whatever a length says.

use super::Unusual;

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(in crate::convert) enum Content<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message that are still to come.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::convert) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(in crate::convert) fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    /// Number and content of the next field; none at the end.
    #[inline(always)]
    pub(in crate::convert) fn next(&mut self) -> Result<Option<(u32, Content<'a>)>, Unusual> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?).map_err(|_| Unusual)?;
        let content = match tag & 7 {
            0 => Content::Varint(self.varint()?),
            1 => Content::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Unusual)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Unusual)?;
                self.rest = rest;
                Content::Bytes(bytes)
            }
            5 => Content::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Unusual),
        };
        match tag >> 3 {
            0 => Err(Unusual),
            number => Ok(Some((number, content))),
        }
    }

    /// What is still to come, as it stands in the message.
    #[cfg(feature = "kafka")]
    pub(in crate::convert) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next message of those that are repeated in field `number`; none at the end. Others are skipped.
    #[inline(always)]
    pub(in crate::convert) fn next_of(&mut self, number: u32) -> Result<Option<&'a [u8]>, Unusual> {
        while let Some((found, content)) = self.next()? {
            if found == number {
                return content.bytes().map(Some);
            }
        }
        Ok(None)
    }

    /// The next of packed varints; none at the end.
    #[inline(always)]
    pub(super) fn next_varint(&mut self) -> Result<Option<u64>, Unusual> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unusual> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(Unusual)?;
        self.rest = rest;
        Ok(*array)
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Unusual> {
        match self.rest.split_first() {
            Some((byte, rest)) if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Unusual> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                // Of the tenth byte one bit is left.
                if at == 9 && *byte > 1 {
                    return Err(Unusual);
                }
                self.rest = self.rest.get(at + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(Unusual)
    }
}

impl<'a> Content<'a> {
    /// An integer of any width but the fixed ones, a boolean or an enum.
    #[inline(always)]
    pub(super) fn varint(self) -> Result<u64, Unusual> {
        match self {
            Content::Varint(value) => Ok(value),
            _ => Err(Unusual),
        }
    }

    #[inline(always)]
    pub(super) fn fixed64(self) -> Result<u64, Unusual> {
        match self {
            Content::Fixed64(value) => Ok(value),
            _ => Err(Unusual),
        }
    }

    #[inline(always)]
    pub(super) fn fixed32(self) -> Result<u32, Unusual> {
        match self {
            Content::Fixed32(value) => Ok(value),
            _ => Err(Unusual),
        }
    }

    /// A message, or bytes.
    #[inline(always)]
    pub(super) fn bytes(self) -> Result<&'a [u8], Unusual> {
        match self {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(Unusual),
        }
    }

    /// Bytes that are valid UTF-8.
    #[inline(always)]
    pub(super) fn text(self) -> Result<&'a [u8], Unusual> {
        let text = self.bytes()?;
        if is_short_ascii(text) || std::str::from_utf8(text).is_ok() { Ok(text) } else { Err(Unusual) }
    }

    /// A message that is there once: prost merges those that are there again.
    #[inline(always)]
    pub(super) fn once(self, message: &mut Option<&'a [u8]>) -> Result<(), Unusual> {
        match message.replace(self.bytes()?) {
            None => Ok(()),
            Some(_) => Err(Unusual),
        }
    }
}

/// Whether it is ASCII of at most 32 bytes, as most texts are: for so few a look at whole words, which may overlap, is done before a check byte
/// by byte has begun.
#[inline(always)]
fn is_short_ascii(text: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word =
        |at: usize| text.get(at..).and_then(|rest| rest.first_chunk()).map_or(HIGH, |word| u64::from_le_bytes(*word));
    let length = text.len();
    let all = match length {
        0..=7 => return text.iter().fold(0, |all, byte| all | byte) < 0x80,
        8..=16 => word(0) | word(length - 8),
        17..=32 => word(0) | word(8) | word(length - 16) | word(length - 8),
        _ => HIGH,
    };
    all & HIGH == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junk_is_not_taken() {
        let table: [&[u8]; 8] = [
            &[0x0a],
            &[0x0a, 5, 1],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0xff; 11],
            &[0x02, 0],
            &[0x0b],
            &[0x09, 1, 2, 3],
            &[0x80, 0x80, 0x80, 0x80, 0x10, 0],
        ];
        for bytes in table {
            assert_eq!(Fields::of(bytes).next().unwrap_err(), Unusual, "{bytes:?}");
        }
    }

    #[test]
    fn a_field_is_what_its_tag_says() {
        let mut fields = Fields::of(&[0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 0, 0, 0]);
        assert_eq!(fields.next().unwrap().unwrap().1.varint().unwrap(), 150);
        assert_eq!(fields.next().unwrap().unwrap().1.text().unwrap(), b"hi");
        let (number, last) = fields.next().unwrap().unwrap();
        assert_eq!((number, last.fixed32().unwrap(), last.fixed64()), (3, 1, Err(Unusual)));
        assert!(fields.next().unwrap().is_none());
    }

    #[test]
    fn what_is_there_twice_is_not_taken() {
        let mut message = None;
        assert_eq!(Content::Bytes(b"a").once(&mut message), Ok(()));
        assert_eq!((Content::Bytes(b"b").once(&mut message), message), (Err(Unusual), Some(&b"b"[..])));
    }

    #[test]
    fn text_is_utf8_wherever_it_is_not_ascii() {
        for length in 0..70 {
            let ascii = vec![b'a'; length];
            assert_eq!(Content::Bytes(&ascii).text(), Ok(&ascii[..]));
            for at in 0..length {
                let mut text = ascii.clone();
                text[at] = 0xc3;
                assert_eq!(Content::Bytes(&text).text(), Err(Unusual), "{length} {at}");
                if let Some(second) = text.get_mut(at + 1) {
                    *second = 0xa9;
                    assert_eq!(Content::Bytes(&text).text(), Ok(&text[..]), "{length} {at}");
                }
            }
        }
    }
}
