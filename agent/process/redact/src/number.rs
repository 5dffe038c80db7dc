//! Numbers that give somebody away: payment cards and bank accounts, proved by their check digits.
//!
//! A card number has 13 digits at least and an IBAN 15 characters, so only runs of digits, capitals, spaces and dashes that are
//! as long are looked at; they are found by looking for eight bytes without a small letter at every sixth place. Invariant: time is linear, as each byte of a run begins
//! at most one try and a try is bounded by the longest number.

use crate::kind::{Find, Kind};

const CARD_DIGITS_MIN: usize = 13;
const CARD_DIGITS_MAX: usize = 19;
const IBAN_BYTES_MAX: usize = 34;
/// The shortest run of interest.
const RUN: usize = CARD_DIGITS_MIN;

/// What a byte of a run may be; none of these: it is not of a run.
const DIGIT: u8 = 1;
const CAPITAL: u8 = 2;
const BETWEEN: u8 = 4;

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'0'..=b'9' => DIGIT,
            b'A'..=b'Z' => CAPITAL,
            b' ' | b'-' => BETWEEN,
            _ => 0,
        };
        byte += 1;
    }
    table
}

static CLASSES: [u8; 256] = classes();

fn class(byte: &u8) -> u8 {
    CLASSES[usize::from(*byte)]
}

/// Cards and IBANs.
pub(crate) fn find(bytes: &[u8], on: &impl Fn(Kind) -> bool, finds: &mut Vec<Find>) {
    let (cards, ibans) = (on(Kind::Card), on(Kind::Iban));
    let mut from = 0;
    while let Some((start, end)) = next_run(bytes, from) {
        let (digits, country) = tally(&bytes[start..end]);
        if cards && digits >= CARD_DIGITS_MIN {
            find_cards(bytes, start, end, finds);
        }
        if ibans && country {
            find_ibans(bytes, start, end, finds);
        }
        from = end;
    }
}

/// How many digits there are, and whether an IBAN may begin: two capitals and two digits.
fn tally(run: &[u8]) -> (usize, bool) {
    const BEGIN: u32 = u32::from_be_bytes([CAPITAL, CAPITAL, DIGIT, DIGIT]);
    let (mut digits, mut country, mut last) = (0, false, 0);
    for byte in run {
        let class = class(byte);
        digits += usize::from(class & DIGIT);
        last = last << 8 | u32::from(class);
        country |= last == BEGIN;
    }
    (digits, country)
}

/// Bytes looked at together, and at every which place: so a run holds a whole window wherever it begins.
const WINDOW: usize = 8;
const STRIDE: usize = RUN - WINDOW + 1;

/// The next run of [`RUN`] bytes or more.
fn next_run(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = skip(bytes, from);
    while let Some(window) = bytes.get(at..at + WINDOW) {
        let gap = match window.iter().rposition(|byte| class(byte) == 0) {
            Some(gap) => at + gap,
            None => {
                let start = at - bytes[from..at].iter().rev().take_while(|byte| class(byte) != 0).count();
                let length = bytes[at + WINDOW..].iter().position(|byte| class(byte) == 0);
                let end = length.map_or(bytes.len(), |length| at + WINDOW + length);
                if end - start >= RUN {
                    return Some((start, end));
                }
                end
            }
        };
        at = skip(bytes, gap + 1);
    }
    None
}

/// The next window without a small letter, each [`STRIDE`] bytes after the last; or the place where fewer bytes are left.
fn skip(bytes: &[u8], mut at: usize) -> usize {
    while let Some(window) = bytes.get(at..at + WINDOW).and_then(|window| window.first_chunk()) {
        let window = u64::from_le_bytes(*window);
        // Small letters have both of these bits, and nothing in a run has.
        if window & (window >> 1) & 0x2020_2020_2020_2020 == 0 {
            break;
        }
        at += STRIDE;
    }
    at
}

/// Cards among the digits of a run: in one piece, or in groups as they are printed.
fn find_cards(bytes: &[u8], start: usize, end: usize, finds: &mut Vec<Find>) {
    let mut at = start;
    while at < end {
        let length = bytes[at..end].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let whole = (CARD_DIGITS_MIN..=CARD_DIGITS_MAX).contains(&length) && is_card(&bytes[at..at + length]);
        let stop = match length {
            _ if whole => Some(at + length),
            4 => grouped_card(bytes, at, end),
            _ => None,
        };
        match stop {
            Some(stop) if stands_alone(bytes, at, stop) => {
                finds.push(Find::new(at, stop, Kind::Card));
                at = stop;
            }
            _ => at += length.max(1),
        }
    }
}

/// The end of a card number in groups, 4-4-4-4 or 4-6-5 or longer, with the same space or dash between all of them.
fn grouped_card(bytes: &[u8], start: usize, end: usize) -> Option<usize> {
    let separator = *bytes.get(start + 4)?;
    let (mut digits, mut count, mut at) = ([0; CARD_DIGITS_MAX], 0, start);
    loop {
        let length = bytes[at..end].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(2..=6).contains(&length) {
            return None;
        }
        digits.get_mut(count..count + length)?.copy_from_slice(&bytes[at..at + length]);
        (count, at) = (count + length, at + length);
        if count >= CARD_DIGITS_MIN && is_card(&digits[..count]) {
            return Some(at);
        }
        if at >= end || bytes[at] != separator || separator.is_ascii_alphanumeric() {
            return None;
        }
        at += 1;
    }
}

/// Not a part of something longer: of a word or name, a hexadecimal or decimal number, a telephone number.
fn stands_alone(bytes: &[u8], start: usize, end: usize) -> bool {
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let before = start.checked_sub(1).and_then(|at| bytes.get(at));
    let free = match before {
        Some(b'.') => !digit(start.checked_sub(2)),
        // blk_-4111111111111111 is negative.
        Some(b'-') => start.checked_sub(2).and_then(|at| bytes.get(at)).is_none_or(|byte| *byte != b'_'),
        Some(byte) => !byte.is_ascii_alphanumeric() && !matches!(byte, b'+' | b'_') && byte.is_ascii(),
        None => true,
    };
    free && match bytes.get(end) {
        Some(b'.') => !digit(Some(end + 1)),
        Some(byte) => !byte.is_ascii_alphanumeric() && byte.is_ascii(),
        None => true,
    }
}

/// Length and first digits of a scheme (ISO/IEC 7812 and the schemes' own tables), and Luhn's check digit.
fn is_card(digits: &[u8]) -> bool {
    let first =
        |count: usize| digits[..count].iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    let (two, three, four, six) = (first(2), first(3), first(4), first(6));
    let length = digits.len();
    let known = match two {
        40..=49 => matches!(length, 13 | 16 | 19),                // Visa
        51..=55 => length == 16,                                  // Mastercard
        22..=27 if (2221..=2720).contains(&four) => length == 16, // Mastercard
        22 => (2200..=2204).contains(&four) && length >= 16,      // Mir
        34 | 37 => length == 15,                                  // American Express
        30 => matches!(three, 300..=305 | 309) && matches!(length, 14 | 16..=19), // Diners Club
        36 | 38 | 39 => matches!(length, 14 | 16..=19),           // Diners Club
        35 => (3528..=3589).contains(&four) && length >= 16,      // JCB
        60 | 64 | 65 => (four == 6011 || three >= 644 || two == 60) && length >= 16, // Discover, RuPay
        62 | 81 | 82 => length >= 16,                             // UnionPay, RuPay
        50 if (506_099..=506_198).contains(&six) || three == 508 => length >= 16, // Verve, RuPay
        50 | 56..=58 | 63 | 67 => matches!(four, 5018 | 5020 | 5038 | 5612 | 5893 | 6304 | 6759 | 6761..=6763), // Maestro
        97 => four == 9792 && length == 16,                                                                     // Troy
        _ => false,
    };
    known && luhn(digits)
}

/// Luhn's formula (ISO/IEC 7812-1, annex B).
fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(digit - b'0')) {
            (0, digit) => digit,
            (_, digit) => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Length by country (SWIFT's IBAN registry, release 99).
const IBAN_LENGTHS: [(&[u8; 2], u8); 89] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];

fn find_ibans(bytes: &[u8], start: usize, end: usize, finds: &mut Vec<Find>) {
    let begins = |four: &[u8]| matches!(four, [a, b, c, d] if class(c) & class(d) & DIGIT != 0 && class(a) & class(b) & CAPITAL != 0);
    let mut at = start;
    while let Some(next) = bytes[at..end].windows(4).position(begins) {
        at += next;
        match iban(bytes, at, end) {
            Some(stop) if stands_alone(bytes, at, stop) => {
                finds.push(Find::new(at, stop, Kind::Iban));
                at = stop;
            }
            _ => at += 1,
        }
    }
}

/// The end of the IBAN that begins here with two capitals, in one piece or in groups of four with a space between them.
fn iban(bytes: &[u8], start: usize, end: usize) -> Option<usize> {
    let begin: &[u8; 2] = bytes[start..end].first_chunk()?;
    let country = IBAN_LENGTHS.binary_search_by_key(&begin, |(country, _)| country).ok()?;
    let length = usize::from(IBAN_LENGTHS[country].1);
    let (mut text, mut count, mut at) = ([0; IBAN_BYTES_MAX], 0, start);
    let spaced = bytes.get(start + 4) == Some(&b' ');
    while count < length {
        if spaced && count > 0 && count % 4 == 0 && at < end && bytes[at] == b' ' {
            at += 1;
        }
        let byte = *bytes[..end].get(at).filter(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())?;
        text[count] = byte;
        (count, at) = (count + 1, at + 1);
    }
    (remainder_97(&text[..length]) == 1).then_some(at)
}

/// ISO 7064 MOD 97-10 of an IBAN: the first four characters go to the end, letters count 10 to 35.
fn remainder_97(iban: &[u8]) -> u32 {
    let (head, tail) = iban.split_at(4);
    tail.iter().chain(head).fold(0, |remainder, byte| match byte {
        b'0'..=b'9' => (remainder * 10 + u32::from(byte - b'0')) % 97,
        _ => (remainder * 100 + u32::from(byte - b'A') + 10) % 97,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::for_many_texts;

    #[test]
    fn the_runs_of_a_text_are_found_as_if_each_byte_was_looked_at() {
        for_many_texts(|text| {
            let mut runs = Vec::new();
            let mut from = 0;
            while let Some((start, end)) = next_run(text.as_bytes(), from) {
                runs.push(&text[start..end]);
                from = end;
            }
            let pieces = text.split(|letter: char| !u8::try_from(letter).is_ok_and(|byte| class(&byte) != 0));
            assert_eq!(runs, pieces.filter(|piece| piece.len() >= RUN).collect::<Vec<_>>(), "{text}");
        });
    }

    #[test]
    fn the_shortest_run_is_found_wherever_it_begins() {
        for before in 0..=2 * WINDOW {
            let text = ["a".repeat(before), "1".repeat(RUN), "a".repeat(WINDOW)].concat();
            assert_eq!(next_run(text.as_bytes(), 0), Some((before, before + RUN)), "{text}");
        }
    }
}
