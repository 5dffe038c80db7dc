//! Compressed bodies: HTTP's Content-Encoding and ClickHouse's own blocks, both bounded while they are read.
//!
//! Invariant: no more than `max` bytes come out, whatever a length field claims.

use crate::blocks::{CHECKSUM_BYTES, Encoder, HEADER_BYTES, METHOD_LZ4, METHOD_NONE, METHOD_ZSTD, checksum_of};
use crate::error::Refusal;
use std::io::Read;

/// 271, CANNOT_DECOMPRESS.
const CANNOT_DECOMPRESS: i32 = 271;
/// 40, CHECKSUM_DOESNT_MATCH.
const CHECKSUM_DOESNT_MATCH: i32 = 40;
/// 89, UNKNOWN_COMPRESSION_METHOD.
const UNKNOWN_COMPRESSION_METHOD: i32 = 89;

/// What ClickHouse writes at most before it begins another block.
const BLOCK_BYTES: usize = 1 << 20;
/// Window of 8 MiB, what the zstd command line needs at its default levels; more is a memory bomb.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// The refusal of a body that is too large: 307, TOO_MANY_BYTES.
pub(crate) fn too_large(max: usize) -> Refusal {
    Refusal::new(307, format!("the body is larger than {max} bytes; send less at once or raise --body-bytes"))
}

/// Undo a Content-Encoding.
pub(crate) fn decode(encoding: &str, body: &[u8], max: usize) -> Result<Vec<u8>, Refusal> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => read(flate2::bufread::MultiGzDecoder::new(body), encoding, max),
        "deflate" => read(flate2::bufread::ZlibDecoder::new(body), encoding, max),
        "lz4" => read(lz4_flex::frame::FrameDecoder::new(body), encoding, max),
        "zstd" => {
            let mut decoder = zstd::Decoder::with_buffer(body).map_err(|error| broken(encoding, &error))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| broken(encoding, &error))?;
            read(decoder, encoding, max)
        }
        other => Err(Refusal::new(
            UNKNOWN_COMPRESSION_METHOD,
            format!("Unknown HTTP content encoding method: {other}; known are gzip, deflate, lz4, zstd"),
        )),
    }
}

fn read(from: impl Read, encoding: &str, max: usize) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    from.take(max as u64 + 1).read_to_end(&mut body).map_err(|error| broken(encoding, &error))?;
    if body.len() > max { Err(too_large(max)) } else { Ok(body) }
}

fn broken(encoding: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(CANNOT_DECOMPRESS, format!("Cannot decompress the body ({encoding}): {error}"))
}

/// Apply a Content-Encoding; none for one that is not known.
pub(crate) fn encode(encoding: &str, body: &[u8]) -> Option<Vec<u8>> {
    // Reading memory and writing memory cannot fail; a failure means: send it plain.
    match encoding {
        "gzip" => {
            let mut out = Vec::new();
            flate2::bufread::GzEncoder::new(body, flate2::Compression::fast()).read_to_end(&mut out).ok()?;
            Some(out)
        }
        "zstd" => zstd::bulk::compress(body, 1).ok(),
        "lz4" => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            std::io::Write::write_all(&mut encoder, body).ok()?;
            encoder.finish().ok()
        }
        _ => None,
    }
}

/// Undo ClickHouse's blocks (`decompress=1`).
pub(crate) fn decode_blocks(mut body: &[u8], max: usize) -> Result<Vec<u8>, Refusal> {
    let cut = || Refusal::new(CANNOT_DECOMPRESS, "Cannot decompress the body: it ends within a block");
    let mut decoded = Vec::new();
    while !body.is_empty() {
        let (checksum, rest) = body.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(cut)?;
        let header = rest.first_chunk::<HEADER_BYTES>().ok_or_else(cut)?;
        let [method, a, b, c, d, e, f, g, h] = *header;
        let compressed = u32::from_le_bytes([a, b, c, d]) as usize;
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        if compressed < HEADER_BYTES || compressed > rest.len() {
            return Err(cut());
        }
        let (block, next) = rest.split_at(compressed);
        if checksum_of(block) != *checksum {
            return Err(Refusal::new(CHECKSUM_DOESNT_MATCH, "Checksum doesn't match: corrupted data in the body"));
        }
        let start = decoded.len();
        let end = start.checked_add(length).filter(|end| *end <= max).ok_or_else(|| too_large(max))?;
        decoded.resize(end, 0);
        let data = &block[HEADER_BYTES..];
        let into = &mut decoded[start..];
        let written = match method {
            METHOD_NONE if data.len() == length => {
                into.copy_from_slice(data);
                Some(length)
            }
            METHOD_LZ4 => lz4_flex::block::decompress_into(data, into).ok(),
            METHOD_ZSTD => zstd::bulk::decompress_to_buffer(data, into).ok(),
            METHOD_NONE => None,
            other => {
                let message =
                    format!("Unknown compression method 0x{other:02x}; known are 0x02, 0x82 (LZ4), 0x90 (ZSTD)");
                return Err(Refusal::new(UNKNOWN_COMPRESSION_METHOD, message));
            }
        };
        if written != Some(length) {
            return Err(Refusal::new(CANNOT_DECOMPRESS, "Cannot decompress the body: a block is damaged"));
        }
        body = next;
    }
    Ok(decoded)
}

/// As ClickHouse's blocks (`compress=1`).
pub(crate) fn encode_blocks(body: &[u8]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), Vec::with_capacity(body.len() / 2));
    for piece in body.chunks(BLOCK_BYTES) {
        out.extend_from_slice(encoder.encode(piece));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8 << 20;

    fn text() -> Vec<u8> {
        (0..400_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    #[test]
    fn every_encoding_gives_back_what_went_in() {
        for encoding in ["gzip", "zstd", "lz4"] {
            assert!(decode(encoding, &encode(encoding, &text()).unwrap(), MAX).unwrap() == text(), "{encoding}");
        }
        assert!(decode_blocks(&encode_blocks(&text()), MAX).unwrap() == text());
        assert_eq!(decode_blocks(b"", MAX).unwrap(), b"");
    }

    #[test]
    fn what_comes_out_is_bounded() {
        let zeros = vec![0; MAX];
        for encoding in ["gzip", "zstd", "lz4"] {
            let small = encode(encoding, &zeros).unwrap();
            assert!(small.len() < MAX / 100);
            assert_eq!(decode(encoding, &small, MAX - 1).unwrap_err().code, 307, "{encoding}");
        }
        assert_eq!(decode_blocks(&encode_blocks(&zeros), MAX - 1).unwrap_err().code, 307);
    }

    #[test]
    fn a_block_that_claims_four_gigabytes_is_refused_before_they_are_taken() {
        let mut block = vec![METHOD_LZ4];
        block.extend_from_slice(&10u32.to_le_bytes());
        block.extend_from_slice(&u32::MAX.to_le_bytes());
        block.push(0);
        let body = [&checksum_of(&block)[..], &block].concat();
        assert_eq!(decode_blocks(&body, MAX).unwrap_err().code, 307);
    }

    #[test]
    fn no_flip_and_no_cut_passes() {
        let body = encode_blocks(b"some data that is some data that is some data");
        for at in 0..body.len() {
            let mut flipped = body.clone();
            flipped[at] ^= 0x40;
            assert!(decode_blocks(&flipped, MAX).is_err(), "flip at {at}");
            assert!(at == 0 || decode_blocks(&body[..at], MAX).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_unknown_encoding_is_named() {
        assert!(decode("br", b"", MAX).unwrap_err().message.contains("br"));
    }
}
