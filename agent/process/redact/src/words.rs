//! The words that announce a secret or that keys begin with, and what to look at then.
//!
//! Each word is known by four of its bytes, whatever their case. Four bytes hold three in a row at an even place, wherever they
//! begin: so every second place of a text is looked at, and a table says, for one multiplication and one load, whether the three
//! bytes there may be of a word; only then the words themselves are looked up. Invariant: after a word the search goes on behind
//! its first byte, or behind what was found there, and what was ruled out there is not read for the same question again.

use crate::kind::{Find, Kind};
use crate::{assignment, command, private_key, token};

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
}

/// Four bytes of each word in small letters: those whose threes are rarest in other words.
const CUES: [(&str, Cue); 18] = [
    ("pass", Cue::Name(4)),
    ("ecre", Cue::Name(4)), // secret
    ("toke", Cue::Name(4)), // token
    ("eden", Cue::Name(4)), // credential
    ("riza", Cue::Name(4)), // authorization
    ("okie", Cue::Name(4)), // cookie
    ("gnat", Cue::Name(4)), // signature
    ("ssid", Cue::Name(4)), // PHPSESSID
    ("onid", Cue::Name(4)), // JSESSIONID
    ("sig=", Cue::Name(3)),
    ("bear", Cue::Bearer),
    ("-beg", Cue::Pem),
    ("mysq", Cue::Command(0)),
    ("iadb", Cue::Command(3)), // mariadb
    ("sshp", Cue::Command(0)),
    ("curl", Cue::Command(0)),
    ("is-c", Cue::Command(3)), // redis-cli
    ("tifi", Cue::Identified),
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

/// What a byte tells, as bits: it may be of a number; it may be an address's `@`; it is needed for a short secret; for any.
const DIGIT: u8 = 1;
const AT: u8 = 2;
const SHORT_TELLS: u8 = 4;
const TELLS: u8 = 8;

const fn tells() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let assigns = matches!(b, b'=' | b':' | b'@' | b'-' | b'>' | b'%' | b'\'');
        let of_key = b.is_ascii_digit() || b.is_ascii_uppercase();
        if assigns || b == b'"' {
            table[byte] |= SHORT_TELLS;
        }
        if assigns || of_key || matches!(b, b'"' | b'`' | b' ') {
            table[byte] |= TELLS;
        }
        if b.is_ascii_digit() {
            table[byte] |= DIGIT;
        }
        if matches!(b, b'@' | b'%') {
            table[byte] |= AT;
        }
        byte += 1;
    }
    table
}

static TELLING: [u8; 256] = tells();

/// What a text may hold, by a look at each byte if it is short, as keys and values of attributes are.
pub(crate) struct May {
    pub(crate) hold_word: bool,
    pub(crate) hold_address: bool,
    pub(crate) hold_number: bool,
}

pub(crate) fn may(bytes: &[u8]) -> May {
    if bytes.len() > PLAIN {
        return May { hold_word: true, hold_address: true, hold_number: true };
    }
    let told = bytes.iter().fold(0, |told, byte| told | TELLING[usize::from(*byte)]);
    let any = match bytes.len() {
        ..TEXT_BYTES_MIN => false,
        // Keys and numbers are longer.
        TEXT_BYTES_MIN..SHORT => told & SHORT_TELLS != 0,
        // What is assigned needs a sign, a key a digit or a capital, and a word after `bearer` a blank.
        _ => told & TELLS != 0,
    };
    May { hold_word: any, hold_address: any && told & AT != 0, hold_number: any && told & DIGIT != 0 }
}

/// Bits of a place in the table: 350 threes and 250 words in 16,384 places, so that of other bytes 2 in 100 meet one.
const PLACE_BITS: u32 = 14;
/// 2^32 over the golden ratio, odd: multiplied by it, words that differ in a bit differ in the upper bits (Fibonacci hashing).
const FACTOR: u32 = 0x9E37_79B1;
/// Bytes loaded at once; of them three threes are looked at, at even places.
const EIGHT: usize = 8;
const STRIDE: usize = 6;
/// In the table: four bytes of a word are here, three are.
const FOUR: u8 = 1;
const THREE: u8 = 2;

/// Finds words.
pub(crate) struct Words {
    /// Sorted by their four bytes.
    words: Vec<(u32, Cue)>,
    /// By place: [`FOUR`] and [`THREE`].
    table: Box<[u8; 1 << PLACE_BITS]>,
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
        for (place, shape) in token::KEYS.iter().enumerate() {
            match shape.prefix.len() {
                3 => each(shape.prefix, ALPHANUMERIC, Box::new(|text| add(text, Cue::Key(place)))),
                _ => add(shape.prefix, Cue::Key(place)),
            }
        }
        words.sort_by_key(|(four, _)| *four);
        words.dedup_by_key(|(four, _)| *four);
        let mut table = Box::new([0; 1 << PLACE_BITS]);
        for (four, _) in &words {
            table[place(*four)] |= FOUR;
            table[place_of_three(*four)] |= THREE;
            table[place_of_three(*four >> 8)] |= THREE;
        }
        Words { words, table }
    }

    /// The next word: its cue, and where its four bytes begin.
    fn next(&self, bytes: &[u8], from: usize) -> Option<(Cue, usize)> {
        let mut at = self.skip(bytes, from);
        while at + EIGHT <= bytes.len() {
            // A word that was met at its second byte began before.
            if let Some(word) = self.first(bytes, at.saturating_sub(1).max(from), at + STRIDE - 1) {
                return Some(word);
            }
            at = self.skip(bytes, at + STRIDE);
        }
        self.first(bytes, at.saturating_sub(1).max(from), bytes.len())
    }

    /// The next place, each [`STRIDE`] bytes after the last, where three of the eight bytes may be of a word; or where fewer are left.
    fn skip(&self, bytes: &[u8], mut at: usize) -> usize {
        while let Some(eight) = bytes.get(at..at + EIGHT).and_then(|eight| eight.first_chunk()) {
            let eight = u64::from_le_bytes(*eight) | 0x2020_2020_2020_2020;
            let three = |offset: u32| self.table[place_of_three((eight >> (8 * offset)) as u32)];
            if (three(0) | three(2) | three(4)) & THREE != 0 {
                break;
            }
            at += STRIDE;
        }
        at
    }

    /// The first word that begins in `from..to`.
    fn first(&self, bytes: &[u8], from: usize, to: usize) -> Option<(Cue, usize)> {
        let fours = bytes.get(from..bytes.len().min(to + 3))?.windows(4).map(|four| four.first_chunk());
        fours.enumerate().find_map(|(place, four)| Some((self.word(folded(*four?))?, from + place)))
    }

    fn word(&self, four: u32) -> Option<Cue> {
        if self.table[place(four)] & FOUR == 0 {
            return None;
        }
        let word = self.words.binary_search_by_key(&four, |(word, _)| *word).ok()?;
        Some(self.words[word].1)
    }

    /// What the words in a text point at.
    pub(crate) fn find(&self, text: &str, on: &impl Fn(Kind) -> bool, finds: &mut Vec<Find>) {
        let bytes = text.as_bytes();
        let (mut from, mut named_to) = (0, 0);
        let mut access_key = false;
        let mut ruled_out = token::RuledOut::default();
        while let Some((cue, at)) = self.next(bytes, from) {
            from = at + 1;
            // Several words in one name are asked about once.
            let mut assigned = |length| {
                if at < named_to {
                    return None;
                }
                let (found, name_end) = assignment::find(bytes, at, at + length, on);
                named_to = name_end;
                found
            };
            // What is off is not looked for: the search could not go on behind it.
            let found = match cue {
                Cue::Name(length) => assigned(length),
                Cue::Bearer if on(Kind::Token) => token::bearer(bytes, at).or_else(|| assigned(4)),
                Cue::Jwt if on(Kind::Token) => token::jwt(bytes, at, &mut ruled_out),
                Cue::Key(place) if on(Kind::Key) => {
                    let key = token::KEYS.get(place).and_then(|shape| token::key(bytes, at, shape, &mut ruled_out));
                    access_key |= key.is_some() && token::is_access_key_id(&bytes[at..]);
                    key
                }
                Cue::Pem if on(Kind::PrivateKey) => private_key::find(bytes, at),
                Cue::Command(before) if on(Kind::Password) => {
                    at.checked_sub(before).and_then(|start| command::find(bytes, start))
                }
                Cue::Identified if on(Kind::Password) => assignment::identified_by(bytes, at),
                _ => None,
            };
            if let Some(found) = found {
                from = from.max(found.end);
                finds.push(found);
            }
        }
        if access_key {
            token::secret_access_keys(bytes, finds);
        }
    }
}

fn place(four: u32) -> usize {
    (four.wrapping_mul(FACTOR) >> (u32::BITS - PLACE_BITS)) as usize
}

/// Of the first three of four bytes: multiplied so, the fourth is shifted out.
fn place_of_three(four: u32) -> usize {
    (four.wrapping_mul(FACTOR << 8) >> (u32::BITS - PLACE_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::for_many_texts;

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

    #[test]
    fn the_first_word_from_any_place_on_is_found_as_if_each_place_was_looked_at() {
        let words = Words::new();
        for_many_texts(|text| {
            let bytes = text.as_bytes();
            let at = |at: usize| {
                let four = folded(*bytes.get(at..)?.first_chunk()?);
                words.words.iter().find(|(word, _)| *word == four).map(|(_, cue)| (*cue, at))
            };
            for from in 0..bytes.len() {
                assert_eq!(words.next(bytes, from), (from..bytes.len()).find_map(at), "from {from} in {text}");
            }
        });
    }
}
