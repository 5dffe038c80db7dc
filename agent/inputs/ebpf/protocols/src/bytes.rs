//! Fields one after the other, as far as they were copied.
//!
//! Invariant: what is not all there is `None`, never a guess, and what was read is not read again.

/// Bytes that are yet to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Most significant byte first, as the next ones.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Least significant byte first.
    pub(crate) fn i32_le(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    /// Up to a zero byte, which is read and left out.
    pub(crate) fn c_string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }
}

/// Text that may name something: UTF-8 without control characters, not empty, cut at `bytes_max`.
pub(crate) fn text(bytes: &[u8], bytes_max: usize) -> Option<Box<str>> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains(char::is_control))?;
    Some(text[..text.floor_char_boundary(bytes_max)].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_all_there_is_not_read() {
        let mut bytes = Bytes(&[1, 0, 2, 7, 0, 9]);
        assert_eq!((bytes.u8(), bytes.u16(), bytes.c_string(), bytes.u16()), (Some(1), Some(2), Some(&[7][..]), None));
        assert_eq!((bytes.c_string(), bytes.take(2), bytes.u8(), bytes.u8()), (None, None, Some(9), None));
    }

    #[test]
    fn only_text_names_something() {
        assert_eq!(text("größe".as_bytes(), 3).as_deref(), Some("gr"));
        assert_eq!((text(b"", 9), text(b"a\n", 9), text(b"\xff", 9)), (None, None, None));
    }
}
