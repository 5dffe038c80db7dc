//! ClickHouse's compressed blocks, in which bodies go to it and come from it (`decompress=1`, `compress=1`).
//!
//! A block is a checksum (CityHash128 1.0.2, 16 bytes), a method byte, two lengths (compressed with this header of 9 bytes,
//! uncompressed; u32 little-endian) and data. Source: ClickHouse's CompressedReadBufferBase and its native format's documentation.

pub(crate) const CHECKSUM_BYTES: usize = 16;
pub(crate) const HEADER_BYTES: usize = 9;
pub(crate) const METHOD_NONE: u8 = 0x02;
pub(crate) const METHOD_LZ4: u8 = 0x82;
pub(crate) const METHOD_ZSTD: u8 = 0x90;

/// Makes blocks of LZ4, one after the other in the same room: new room would have to be cleared for each.
#[derive(Debug, Default)]
pub struct Encoder {
    room: Vec<u8>,
}

impl Encoder {
    /// A piece of less than 2 GiB as one block; a MiB is what ClickHouse itself writes at most.
    pub fn encode(&mut self, piece: &[u8]) -> &[u8] {
        const DATA: usize = CHECKSUM_BYTES + HEADER_BYTES;
        let most = DATA + lz4_flex::block::get_maximum_output_size(piece.len());
        if self.room.len() < most {
            self.room.resize(most, 0);
        }
        // There is room for whatever comes of it.
        let length = lz4_flex::block::compress_into(piece, &mut self.room[DATA..]).unwrap_or_default();
        let (checksum, block) = self.room[..DATA + length].split_at_mut(CHECKSUM_BYTES);
        block[0] = METHOD_LZ4;
        block[1..5].copy_from_slice(&((HEADER_BYTES + length) as u32).to_le_bytes());
        block[5..9].copy_from_slice(&(piece.len() as u32).to_le_bytes());
        checksum.copy_from_slice(&checksum_of(block));
        &self.room[..DATA + length]
    }
}

/// The two halves of the hash in ClickHouse's order.
pub(crate) fn checksum_of(block: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(block).rotate_right(64).to_le_bytes()
}
