//! Numbers and texts to bytes and back.
//!
//! Varints as protobuf has them, floats as their bits, texts and messages behind their length. Invariant: a reader takes no more
//! memory than the bytes that are there justify, whatever they say.

use prost::Message;

/// The bytes end early, or say what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

pub(super) type Read<T> = Result<T, Malformed>;

/// Writes.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn varint(&mut self, value: u64) {
        prost::encoding::encode_varint(value, &mut self.0);
    }

    pub(super) fn len(&mut self, value: usize) {
        self.varint(value as u64);
    }

    /// Small numbers of either sign are short.
    pub(super) fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(super) fn fixed(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn float(&mut self, value: f64) {
        self.fixed(value.to_bits());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.len(value.len());
        self.0.extend_from_slice(value);
    }

    pub(super) fn message(&mut self, value: &impl Message) {
        self.len(value.encoded_len());
        value.encode_raw(&mut self.0);
    }

    pub(super) fn list<T>(&mut self, values: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Writer, T)) {
        self.len(values.len());
        values.for_each(|value| write(self, value));
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// Reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    pub(super) fn varint(&mut self) -> Read<u64> {
        prost::encoding::decode_varint(&mut self.0).map_err(|_| Malformed)
    }

    /// A number of things that follow, each of at least one byte.
    pub(super) fn len(&mut self) -> Read<usize> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        if len <= self.0.len() { Ok(len) } else { Err(Malformed) }
    }

    /// A place in a list.
    pub(super) fn place(&mut self) -> Read<usize> {
        usize::try_from(self.varint()?).map_err(|_| Malformed)
    }

    pub(super) fn signed(&mut self) -> Read<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub(super) fn fixed(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?))
    }

    pub(super) fn float(&mut self) -> Read<f64> {
        Ok(f64::from_bits(self.fixed()?))
    }

    pub(super) fn text(&mut self) -> Read<String> {
        let len = self.len()?;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| Malformed)
    }

    pub(super) fn message<M: Message + Default>(&mut self) -> Read<M> {
        let len = self.len()?;
        M::decode(self.take(len)?).map_err(|_| Malformed)
    }

    pub(super) fn list<T>(&mut self, mut read: impl FnMut(&mut Reader<'a>) -> Read<T>) -> Read<Vec<T>> {
        let len = self.len()?;
        // Not reserved: a thing may take far more memory than its shortest form takes bytes.
        let mut values = Vec::new();
        for _ in 0..len {
            values.push(read(self)?);
        }
        Ok(values)
    }

    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Reader<'a>) -> Read<T>) -> Read<Option<T>> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed),
        }
    }
}
