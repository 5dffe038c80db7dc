//! A frozen batch as it lies in the buffer: an OTLP export request, compressed, with a word on how.
//!
//! Invariant: what [`Frozen::parse`] accepts was made by [`freeze`] of this version or an earlier one.

use crate::config::MESSAGE_BYTES_MAX;
use crate::pack::Packer;
use bytes::Bytes;
use ollystack_buffer::Entry;
use ollystack_record::{Class, Signal};
use std::io::{self, Write};

/// What the first byte of a description says.
pub(crate) const VERSION: u8 = 1;

/// How a message is compressed, by its number in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Encoding {
    Identity = 0,
    Zstd = 1,
    /// Never stored: what an endpoint without zstd gets.
    Gzip = 2,
}

impl Encoding {
    /// As in `grpc-encoding`.
    pub(crate) fn name(self) -> &'static str {
        ["identity", "zstd", "gzip"][self as usize]
    }
}

/// What the buffer's entry says, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub(crate) signal: Signal,
    pub(crate) records: u64,
    pub(crate) encoding: Encoding,
    pub(crate) plain_bytes: usize,
    pub(crate) payload: Bytes,
}

/// Make an entry of an encoded export request.
pub(crate) fn freeze(packer: &mut Packer, signal: Signal, class: Class, records: u64, plain: Vec<u8>) -> Entry {
    let plain_bytes = plain.len();
    let (encoding, payload) = match packer.pack(signal, &plain) {
        Ok(compressed) => (Encoding::Zstd, compressed),
        Err(error) => {
            tracing::warn!(%error, "zstd failed; a batch is stored as it is");
            (Encoding::Identity, plain)
        }
    };
    let mut meta = vec![VERSION, encoding as u8];
    meta.extend_from_slice(&(plain_bytes as u32).to_le_bytes());
    Entry {
        class: class as u8,
        signal: signal as u8,
        records: u32::try_from(records).unwrap_or(u32::MAX),
        meta: meta.into(),
        payload: payload.into(),
    }
}

/// Bytes of the message before compression, by an entry's description.
pub(crate) fn plain_bytes(meta: &[u8]) -> Option<usize> {
    let [version, _, length @ ..] = <[u8; 6]>::try_from(meta).ok()?;
    let plain_bytes = u32::from_le_bytes(length) as usize;
    (version == VERSION && plain_bytes <= 2 * MESSAGE_BYTES_MAX).then_some(plain_bytes)
}

/// Why an entry is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It is of this later version, which may understand it.
    Newer { version: u8 },
    /// It is none of ours.
    Malformed,
}

impl Frozen {
    /// Understand an entry. What follows the version is for that version to know.
    pub(crate) fn parse(entry: Entry) -> Result<Frozen, Unknown> {
        match entry.meta.first() {
            Some(&version) if version > VERSION => Err(Unknown::Newer { version }),
            _ => Frozen::of_this_version(entry).ok_or(Unknown::Malformed),
        }
    }

    fn of_this_version(entry: Entry) -> Option<Frozen> {
        let plain_bytes = plain_bytes(&entry.meta)?;
        let encoding = match *entry.meta.get(1)? {
            0 => Encoding::Identity,
            1 => Encoding::Zstd,
            _ => return None,
        };
        let signal = Signal::from_u8(entry.signal)?;
        Some(Frozen { signal, records: u64::from(entry.records), encoding, plain_bytes, payload: entry.payload })
    }

    /// The same message in another encoding.
    pub(crate) fn encoded(&self, encoding: Encoding) -> io::Result<Bytes> {
        if encoding == self.encoding {
            return Ok(self.payload.clone());
        }
        let plain = match self.encoding {
            Encoding::Zstd => zstd::bulk::decompress(&self.payload, self.plain_bytes)?.into(),
            Encoding::Identity | Encoding::Gzip => self.payload.clone(),
        };
        match encoding {
            Encoding::Identity => Ok(plain),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&plain)?;
                Ok(encoder.finish()?.into())
            }
            Encoding::Zstd => {
                let mut out = Vec::new();
                zstd::Encoder::new(&mut out, 0)?.auto_finish().write_all(&plain)?;
                Ok(out.into())
            }
        }
    }
}
