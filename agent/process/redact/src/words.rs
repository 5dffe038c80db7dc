//! The words that announce a secret or that keys begin with, and what to look at then.
//!
//! Each word is known by four of its bytes, whatever their case. For each run of four bytes of a text a table says whether it may
//! be one of a word, which costs one multiplication and one load; only then it is searched among the words. Invariant: after a
//! word the search goes on behind it, or behind what was found or ruled out there, never before.

use crate::kind::{Find, Kind, What};
use crate::{address, assignment, command, private_key, token};

/// What a word points at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cue {
    /// A part of a name, after which a value may be assigned; and how many of the four bytes are the name's.
    Name(usize),
    /// `Bearer` and a token.
    Bearer,
    /// The beginning of a JSON web token.
    Jwt,
    /// The beginning of a vendor's key: which, by its place in [`token::KEYS`].
    Key(usize),
    /// The beginning of a block in PEM.
    Pem,
    /// A program that takes a password in a flag of one letter; and how far before the four bytes it begins.
    Command(usize),
    /// `IDENTIFIED BY` and a password in quotes.
    Identified,
    /// An `@` in a query string.
    EscapedAt,
}

/// Four bytes of each word, the rarest ones, in small letters.
const CUES: [(&str, Cue); 18] = [
    ("pass", Cue::Name(4)),
    ("cret", Cue::Name(4)), // secret
    ("oken", Cue::Name(4)), // token
    ("eden", Cue::Name(4)), // credential
    ("riza", Cue::Name(4)), // authorization
    ("okie", Cue::Name(4)), // cookie
    ("gnat", Cue::Name(4)), // signature
    ("ssid", Cue::Name(4)), // PHPSESSID
    ("onid", Cue::Name(4)), // JSESSIONID
    ("sig=", Cue::Name(3)),
    ("arer", Cue::Bearer),
    ("-beg", Cue::Pem),
    ("mysq", Cue::Command(0)),
    ("mari", Cue::Command(0)),
    ("sshp", Cue::Command(0)),
    ("curl", Cue::Command(0)),
    ("-cli", Cue::Command(5)), // redis-cli
    ("ntif", Cue::Identified),
];

/// Names too short to be known by four bytes, known by what may follow them.
const SHORT_NAMES: [&str; 5] = ["key", "pwd", "jwt", "cvv", "cvc"];
const AFTER_NAMES: &str = "=:\"'` ]\\%>2";
const ALPHANUMERIC: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// Shorter than the shortest text with a secret, `pwd=x`.
const TEXT_BYTES_MIN: usize = 5;
/// Below this every secret needs one of a few characters: keys are longer, and so are numbers.
const SHORT: usize = 13;
/// Keys and values of attributes are shorter than this, mostly.
const PLAIN: usize = 64;

/// Rules out most texts that are short or plain words, such as keys and values of attributes, by a look at each byte.
pub(crate) fn may_hold_secret(bytes: &[u8]) -> bool {
    // Two loops without branches, which the compiler turns into vector instructions.
    if bytes.len() < SHORT {
        let tells = |byte: &u8| matches!(byte, b'=' | b':' | b'@' | b'-' | b'>' | b'%' | b'\'');
        return bytes.len() >= TEXT_BYTES_MIN && bytes.iter().fold(false, |tells_one, byte| tells_one | tells(byte));
    }
    // A key without a digit or a capital is none.
    let plain = |byte: &u8| byte.is_ascii_lowercase() | matches!(byte, b'.' | b'_' | b'/');
    bytes.len() > PLAIN || !bytes.iter().fold(true, |all_plain, byte| all_plain & plain(byte))
}

/// Bits of a place in the table: 300 words in 16,384 places, so that of other runs of four bytes 2 in 100 meet one.
const PLACE_BITS: u32 = 14;
/// 2^32 over the golden ratio, odd: multiplied by it, words that differ in a bit differ in the upper bits (Fibonacci hashing).
const FACTOR: u32 = 0x9E37_79B1;

/// Finds words.
pub(crate) struct Words {
    /// Sorted by their four bytes.
    words: Vec<(u32, Cue)>,
    /// By place: whether there is a word.
    table: Box<[bool; 1 << PLACE_BITS]>,
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("words", &self.words.len()).finish_non_exhaustive()
    }
}

/// Four bytes with letters made small; `_` and a few others change, too, and always alike.
fn folded(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes) | 0x2020_2020
}

impl Words {
    pub(crate) fn new() -> Words {
        let mut words: Vec<(u32, Cue)> = Vec::new();
        let mut add = |text: &str, cue| {
            if let Some(four) = text.as_bytes().first_chunk() {
                words.push((folded(*four), cue));
            }
        };
        CUES.into_iter().for_each(|(text, cue)| add(text, cue));
        let each = |start: &str, last: &str, mut add: Box<dyn FnMut(&str) + '_>| {
            last.chars().for_each(|last| add(&format!("{start}{last}")));
        };
        for name in SHORT_NAMES {
            each(name, AFTER_NAMES, Box::new(|text| add(text, Cue::Name(3))));
        }
        each("eyJ", ALPHANUMERIC, Box::new(|text| add(text, Cue::Jwt)));
        each("%40", ALPHANUMERIC, Box::new(|text| add(text, Cue::EscapedAt)));
        for (place, shape) in token::KEYS.iter().enumerate() {
            match shape.prefix.len() {
                3 => each(shape.prefix, ALPHANUMERIC, Box::new(|text| add(text, Cue::Key(place)))),
                _ => add(shape.prefix, Cue::Key(place)),
            }
        }
        words.sort_by_key(|(four, _)| *four);
        words.dedup_by_key(|(four, _)| *four);
        let mut table = Box::new([false; 1 << PLACE_BITS]);
        words.iter().for_each(|(four, _)| table[place(*four)] = true);
        Words { words, table }
    }

    /// The next word: its cue, and where its four bytes begin.
    fn next(&self, bytes: &[u8], mut from: usize) -> Option<(Cue, usize)> {
        loop {
            let at = self.candidate(bytes, from)?;
            let four = folded(*bytes[at..].first_chunk()?);
            if let Ok(word) = self.words.binary_search_by_key(&four, |(word, _)| *word) {
                return Some((self.words[word].1, at));
            }
            from = at + 1;
        }
    }

    /// Where four bytes begin that may be a word's.
    fn candidate(&self, bytes: &[u8], mut from: usize) -> Option<usize> {
        let may_be = |four: u32| self.table[place(four)];
        // Four at a time out of one load, and one branch for all of them.
        while let Some(eight) = bytes.get(from..).and_then(|rest| rest.first_chunk()) {
            let eight = u64::from_le_bytes(*eight) | 0x2020_2020_2020_2020;
            let at = |offset: u32| may_be((eight >> (8 * offset)) as u32);
            if at(0) | at(1) | at(2) | at(3) {
                return (0..4).find(|offset| at(*offset)).map(|offset| from + offset as usize);
            }
            from += 4;
        }
        let may_be = |four: &[u8]| four.first_chunk().is_some_and(|four| may_be(folded(*four)));
        Some(from + bytes.get(from..)?.windows(4).position(may_be)?)
    }

    /// What the words in a text point at.
    pub(crate) fn find(&self, text: &str, on: &impl Fn(Kind) -> bool, finds: &mut Vec<Find>) {
        let bytes = text.as_bytes();
        let mut from = 0;
        let mut access_key = false;
        while let Some((cue, at)) = self.next(bytes, from) {
            from = at + 1;
            let assigned = |from: &mut usize, end| {
                let (found, name_end) = assignment::find(bytes, at, end);
                *from = name_end.max(*from);
                found
            };
            let found = match cue {
                Cue::Name(length) => assigned(&mut from, at + length),
                Cue::Bearer => token::bearer(bytes, at + 4).or_else(|| assigned(&mut from, at + 4)),
                Cue::Jwt => token::jwt(bytes, at),
                Cue::Key(place) => {
                    let Some(shape) = token::KEYS.get(place) else { continue };
                    let (key, read) = token::key(bytes, at, shape);
                    from = from.max(read);
                    access_key |= key.is_some() && token::is_access_key_id(&bytes[at..]);
                    key
                }
                Cue::Pem => private_key::find(bytes, at),
                Cue::Command(before) => at.checked_sub(before).and_then(|start| command::find(bytes, start)),
                Cue::Identified => assignment::identified_by(bytes, at),
                Cue::EscapedAt => address::email(bytes, at, at + 3),
            };
            if let Some(found) = found.filter(|found| matches!(found.what, What::Kind(kind) if on(kind))) {
                from = from.max(found.end);
                finds.push(found);
            }
        }
        if access_key && on(Kind::Key) {
            token::secret_access_keys(bytes, finds);
        }
    }
}

fn place(four: u32) -> usize {
    (four.wrapping_mul(FACTOR) >> (u32::BITS - PLACE_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_found_in_any_case() {
        let words = Words::new();
        for (four, cue) in &words.words {
            let text = [b"..".as_slice(), &four.to_le_bytes().map(|byte| byte.to_ascii_uppercase()), b".."].concat();
            assert_eq!(words.next(&text, 0), Some((*cue, 2)), "{four:x}");
        }
    }

    #[test]
    fn no_two_words_are_known_by_the_same_bytes() {
        let cue = |text: &str| Words::new().next(text.as_bytes(), 0).map(|(cue, _)| cue);
        for (place, shape) in token::KEYS.iter().enumerate() {
            let same = |other: &&token::Shape| other.prefix.as_bytes().get(..4) == shape.prefix.as_bytes().get(..4);
            let first = token::KEYS.iter().find(same).map(|shape| shape.prefix);
            assert_eq!(cue(&format!("{}a", shape.prefix)), Some(Cue::Key(place)), "{} and {first:?}", shape.prefix);
        }
    }
}
