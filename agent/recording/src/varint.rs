//! Numbers of few bytes: LEB128 as in protobuf, and zigzag for those that may be negative.
//!
//! Invariant: what `put` wrote, `take` of the same kind reads back; `take` returns None rather than read past the end.

/// Append an unsigned number.
pub(crate) fn put(out: &mut Vec<u8>, number: u64) {
    prost::encoding::encode_varint(number, out);
}

/// Append a difference `to - from`, wrapping.
pub(crate) fn put_difference(out: &mut Vec<u8>, from: u64, to: u64) {
    let difference = to.wrapping_sub(from) as i64;
    put(out, ((difference << 1) ^ (difference >> 63)) as u64);
}

/// The unsigned number in front.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

/// What the difference in front leads to from `from`.
pub(crate) fn take_difference(bytes: &mut &[u8], from: u64) -> Option<u64> {
    let zigzag = take(bytes)?;
    let difference = (zigzag >> 1) ^ 0_u64.wrapping_sub(zigzag & 1);
    Some(from.wrapping_add(difference))
}

/// Append bytes with their length in front.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes in front that have their length before them.
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(bytes)?).ok()?;
    bytes.split_off(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_taken_and_nothing_beyond_the_end() {
        let numbers = [0, 1, 127, 128, u64::MAX, i64::MIN as u64];
        let mut bytes = Vec::new();
        for pair in numbers.windows(2) {
            put(&mut bytes, pair[0]);
            put_difference(&mut bytes, pair[0], pair[1]);
            put_bytes(&mut bytes, b"text");
        }
        let mut rest = &bytes[..];
        for pair in numbers.windows(2) {
            assert_eq!(take(&mut rest), Some(pair[0]));
            assert_eq!(take_difference(&mut rest, pair[0]), Some(pair[1]));
            assert_eq!(take_bytes(&mut rest), Some(&b"text"[..]));
        }
        assert_eq!(take(&mut rest), None);
        assert_eq!(take_bytes(&mut &[5, 1, 2][..]), None, "five bytes are announced, two are there");
    }
}
