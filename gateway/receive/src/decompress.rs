//! gzip and zstd, read only as far as the limits allow.
//!
//! Invariant: output and zstd window are held by the request's share before they are allocated; output never passes
//! `decoded_bytes_max`, whatever number of members or frames it comes in.

use crate::Refusal;
use crate::allowance::{Held, NoRoom, Share};
use std::io::{ErrorKind, Read};
use zstd::zstd_safe;

/// How a message is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// From Content-Encoding or grpc-encoding.
    pub(crate) fn parse(name: &str) -> Option<Encoding> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Encoding::Identity),
            "gzip" | "x-gzip" => Some(Encoding::Gzip),
            "zstd" => Some(Encoding::Zstd),
            _ => None,
        }
    }
}

/// 8 MiB: what RFC 8878 asks every decoder to support, and no more.
const WINDOW_LOG_MAX: u32 = 23;
/// Tables and block buffers of a zstd decoder besides its window.
const ZSTD_BYTES: usize = 512 << 10;
/// State and 32 KiB window of an inflater.
const GZIP_BYTES: usize = 64 << 10;
/// The first allocation for output.
const FIRST_BYTES: usize = 16 << 10;

/// Decompress a whole message.
pub(crate) fn decompress(encoding: Encoding, wire: Vec<u8>, max: usize, share: &mut Share) -> Result<Vec<u8>, Refusal> {
    let held = wire.capacity();
    let out = match encoding {
        Encoding::Identity if wire.len() > max => return Err(too_large(max)),
        Encoding::Identity => return Ok(wire),
        Encoding::Gzip => {
            grow(share, GZIP_BYTES)?;
            let out = read(flate2::bufread::MultiGzDecoder::new(wire.as_slice()), "gzip", max, share)?;
            share.shrink(GZIP_BYTES);
            out
        }
        Encoding::Zstd => {
            let frames = Frames::of(&wire)?;
            // What goes straight to its place needs no window beside it.
            let held = ZSTD_BYTES + if frames.content.is_some() { 0 } else { frames.window };
            grow(share, held)?;
            let invalid = |error| Refusal::Invalid(format!("zstd: {error}"));
            let out = match frames.content {
                Some(size) if size > max as u64 => return Err(too_large(max)),
                Some(size) => {
                    let mut out = Vec::new();
                    share.enlarge(&mut out, size as usize).map_err(no_room)?;
                    zstd::bulk::Decompressor::new()
                        .and_then(|mut zstd| zstd.decompress_to_buffer(&wire, &mut out))
                        .map_err(invalid)?;
                    out
                }
                None => {
                    let mut decoder = zstd::Decoder::with_buffer(wire.as_slice()).map_err(invalid)?;
                    decoder.window_log_max(WINDOW_LOG_MAX).map_err(invalid)?;
                    read(decoder, "zstd", max, share)?
                }
            };
            share.shrink(held);
            out
        }
    };
    drop(wire);
    share.shrink(held);
    Ok(out)
}

fn read(mut from: impl Read, name: &str, max: usize, share: &mut Share) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    let mut filled = 0;
    loop {
        if filled == out.len() {
            // One byte past the limit tells "exactly at it" from "over it".
            let target = (filled * 2).max(FIRST_BYTES).min(max + 1);
            if target == filled {
                return Err(too_large(max));
            }
            share.enlarge(&mut out, target).map_err(no_room)?;
            out.resize(target, 0);
        }
        match from.read(&mut out[filled..]) {
            Ok(0) => {
                out.truncate(filled);
                return Ok(out);
            }
            Ok(got) => filled += got,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Refusal::Invalid(format!("{name}: {error}"))),
        }
    }
}

/// What the frames of a message say of themselves.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The largest that any of them asks for.
    window: usize,
    /// Of all together, if each says its own.
    pub(crate) content: Option<u64>,
}

impl Frames {
    /// Found without decompressing.
    pub(crate) fn of(wire: &[u8]) -> Result<Frames, Refusal> {
        let invalid = || Refusal::Invalid("zstd: not a sequence of whole frames".to_owned());
        let mut rest = wire;
        let (mut largest, mut content) = (0u64, Some(0u64));
        while !rest.is_empty() {
            let length = zstd_safe::find_frame_compressed_size(rest).map_err(|_| invalid())?;
            let (frame, others) = rest.split_at_checked(length).ok_or_else(invalid)?;
            largest = largest.max(frame_window(frame).ok_or_else(invalid)?);
            let size = zstd_safe::get_frame_content_size(frame).ok().flatten();
            content = content.zip(size).map(|(sum, size)| sum.saturating_add(size));
            rest = others;
        }
        if largest > 1 << WINDOW_LOG_MAX {
            return Err(Refusal::Invalid(format!(
                "zstd: a window of {largest} bytes; at most {} are taken",
                1 << WINDOW_LOG_MAX
            )));
        }
        Ok(Frames { window: largest as usize, content })
    }
}

/// RFC 8878, 3.1.1.1: the window of a frame, which is its content size when it is a single segment.
fn frame_window(frame: &[u8]) -> Option<u64> {
    if frame.first_chunk::<4>()? != &0xFD2F_B528u32.to_le_bytes() {
        return Some(0); // a skippable frame
    }
    let descriptor = *frame.get(4)?;
    if descriptor & 0x20 != 0 {
        return zstd_safe::get_frame_content_size(frame).ok().flatten();
    }
    let window = *frame.get(5)?;
    let base = 1u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

fn too_large(max: usize) -> Refusal {
    Refusal::TooLarge(format!("the message is larger than {max} bytes after decompression; send less at a time"))
}

/// Hold more of the budget, or say why not.
pub(crate) fn grow(held: &mut Held, bytes: usize) -> Result<(), Refusal> {
    held.grow(bytes).map_err(no_room)
}

pub(crate) fn no_room(no_room: NoRoom) -> Refusal {
    match no_room {
        NoRoom::Now(busy) => Refusal::Busy(busy),
        NoRoom::Ever => Refusal::TooLarge(
            "the message would take more memory than requests may have in all; send less at a time".to_owned(),
        ),
    }
}
