//! Fuzz targets of what reaches the store's HTTP interface before the engine does.
//!
//! Invariant held here: compressed bodies never pass their limit, and no statement panics.

use crate::http::encoding::decode;
use crate::statement::plan;

const BODY_BYTES_MAX: usize = 1 << 20;

/// A statement, data behind it included.
pub fn statement(data: &[u8]) {
    drop(plan(data));
}

/// The first byte names the encoding, the rest is the body.
pub fn body(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let encoding = ["gzip", "zstd", "lz4", "deflate"][usize::from(first % 4)];
    if let Ok(plain) = decode(encoding, rest, BODY_BYTES_MAX) {
        assert!(plain.len() <= BODY_BYTES_MAX);
    }
    if let Ok(plain) = crate::http::encoding::decode_blocks(rest, BODY_BYTES_MAX) {
        assert!(plain.len() <= BODY_BYTES_MAX);
    }
}
