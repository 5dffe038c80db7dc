//! The words and numbers of /proc: bytes in, fields out, nothing copied.
//!
//! Invariant: no function here fails on odd text; what is not a number is `None`, and the caller says what it was reading.

/// The words of a line.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// The lines of a text, without their ends; empty ones are left out.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// An unsigned decimal number and nothing else.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// A decimal fraction such as a load average.
pub(crate) fn fraction(word: &[u8]) -> Option<f64> {
    std::str::from_utf8(word).ok()?.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The next `N` words as numbers; a word that is missing or no number is `None` for all.
pub(crate) fn numbers<'a, const N: usize>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<[u64; N]> {
    let mut values = [0; N];
    for value in &mut values {
        *value = number(words.next()?)?;
    }
    Some(values)
}

/// `key value` or `key: value` lines: the number after `key`.
pub(crate) fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    lines(text).filter_map(|line| {
        let mut words = words(line);
        let key = words.next()?;
        Some((key.strip_suffix(b":").unwrap_or(key), number(words.next()?)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_that_fit_are_numbers() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for odd in ["", "-1", "1.5", "0x1", "18446744073709551616", "1 "] {
            assert_eq!(number(odd.as_bytes()), None, "{odd:?}");
        }
    }

    #[test]
    fn fractions_that_no_kernel_means_are_refused() {
        assert_eq!(fraction(b"0.42"), Some(0.42));
        for odd in ["nan", "inf", "", "\u{fffd}"] {
            assert_eq!(fraction(odd.as_bytes()), None, "{odd:?}");
        }
    }

    #[test]
    fn pairs_skip_what_has_no_number() {
        let text = b"a 1\nb: 2 kB\nc\nd x\n\n";
        assert_eq!(pairs(text).collect::<Vec<_>>(), vec![(&b"a"[..], 1), (&b"b"[..], 2)]);
    }
}
