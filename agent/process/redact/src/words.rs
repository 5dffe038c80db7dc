//! The words that announce a secret or that keys begin with, found in one vectorised pass (Teddy), and what to look at then.
//!
//! Invariant: after a word the search goes on behind it, or behind what was found or ruled out there, never before.

use crate::kind::{Find, Kind};
use crate::{address, assignment, command, private_key, token};
use aho_corasick::packed::{Config, MatchKind, Searcher};
use aho_corasick::{AhoCorasick, Span};

/// What a word points at.
#[derive(Clone, Copy, Debug)]
enum Cue {
    /// The end of a name, after which a value may be assigned.
    Name,
    /// `Bearer` and a token.
    Bearer,
    /// The beginning of a JSON web token.
    Jwt,
    /// The beginning of a vendor's key: which, by its place in [`token::KEYS`].
    Key(usize),
    /// The beginning of a block in PEM.
    Pem,
    /// A program that takes a password in a flag of one letter.
    Command,
    /// `IDENTIFIED BY` and a password in quotes.
    Identified,
    /// An `@` in a query string.
    EscapedAt,
}

/// Words in the cases in which they are written. The first letter is left off where that saves a spelling.
const CUES: [(&str, Cue); 44] = [
    ("pass", Cue::Name),
    ("Pass", Cue::Name),
    ("PASS", Cue::Name),
    ("pwd", Cue::Name),
    ("Pwd", Cue::Name),
    ("PWD", Cue::Name),
    ("ecret", Cue::Name),
    ("ECRET", Cue::Name),
    ("oken", Cue::Name),
    ("OKEN", Cue::Name),
    ("redential", Cue::Name),
    ("REDENTIAL", Cue::Name),
    ("uthorization", Cue::Name),
    ("UTHORIZATION", Cue::Name),
    ("ookie", Cue::Name),
    ("OOKIE", Cue::Name),
    ("ignature", Cue::Name),
    ("IGNATURE", Cue::Name),
    ("essid", Cue::Name),
    ("ESSID", Cue::Name),
    ("essionid", Cue::Name),
    ("ESSIONID", Cue::Name),
    ("key", Cue::Name),
    ("Key", Cue::Name),
    ("KEY", Cue::Name),
    ("jwt", Cue::Name),
    ("JWT", Cue::Name),
    ("cvv", Cue::Name),
    ("CVV", Cue::Name),
    ("cvc", Cue::Name),
    ("CVC", Cue::Name),
    ("sig=", Cue::Name),
    ("earer", Cue::Bearer),
    ("EARER", Cue::Bearer),
    ("eyJ", Cue::Jwt),
    (private_key::BEGIN, Cue::Pem),
    ("mysql", Cue::Command),
    ("mariadb", Cue::Command),
    ("redis-cli", Cue::Command),
    ("curl ", Cue::Command),
    ("DENTIFIED BY", Cue::Identified),
    ("dentified by", Cue::Identified),
    ("%40", Cue::EscapedAt),
    ("sshpass", Cue::Command),
];

/// Shorter than the shortest text with a secret, `pwd=x`.
const TEXT_BYTES_MIN: usize = 5;
/// Below this every secret needs one of a few characters: keys are longer, and so are numbers.
const SHORT: usize = 13;

/// Rules out most texts that are short or plain words, such as keys and values of attributes, by a look at each byte.
pub(crate) fn may_hold_secret(bytes: &[u8]) -> bool {
    // Two loops without branches, which the compiler turns into vector instructions.
    if bytes.len() < SHORT {
        let tells = |byte: &u8| matches!(byte, b'=' | b':' | b'@' | b'-' | b'>' | b'%' | b'\'');
        return bytes.len() >= TEXT_BYTES_MIN && bytes.iter().fold(false, |tells_one, byte| tells_one | tells(byte));
    }
    // A key without a digit or a capital is none.
    let plain = |byte: &u8| byte.is_ascii_lowercase() | matches!(byte, b'.' | b'_' | b'/');
    bytes.len() > 64 || !bytes.iter().fold(true, |all_plain, byte| all_plain & plain(byte))
}

/// Finds words.
#[derive(Debug)]
pub(crate) struct Words {
    cues: Vec<Cue>,
    searcher: Option<Searcher>,
    /// For processors without the vector instructions of the former.
    automaton: Option<AhoCorasick>,
}

impl Words {
    pub(crate) fn new() -> Words {
        let keys = token::KEYS.iter().enumerate().map(|(place, key)| (key.prefix, Cue::Key(place)));
        // Of words that begin at one place the longer counts: it comes first.
        let mut words: Vec<(&str, Cue)> = keys.chain(CUES).collect();
        words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
        let texts: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let searcher = Config::new()
            .match_kind(MatchKind::LeftmostFirst)
            .heuristic_pattern_limits(false)
            .builder()
            .extend(&texts)
            .build();
        let automaton = match searcher {
            Some(_) => None,
            None => AhoCorasick::builder().match_kind(aho_corasick::MatchKind::LeftmostFirst).build(&texts).ok(),
        };
        Words { cues: words.iter().map(|(_, cue)| *cue).collect(), searcher, automaton }
    }

    /// The next word: its cue, where it begins and ends.
    fn next(&self, bytes: &[u8], from: usize) -> Option<(Cue, usize, usize)> {
        let found = match (&self.searcher, &self.automaton) {
            (Some(searcher), _) => searcher.find_in(bytes, Span::from(from..bytes.len()))?,
            (None, Some(automaton)) => automaton.find(aho_corasick::Input::new(bytes).range(from..))?,
            (None, None) => return None,
        };
        Some((*self.cues.get(found.pattern().as_usize())?, found.start(), found.end()))
    }

    /// What the words in a text point at.
    pub(crate) fn find(&self, text: &str, on: &impl Fn(Kind) -> bool, finds: &mut Vec<Find>) {
        let bytes = text.as_bytes();
        let mut from = 0;
        let mut access_key = false;
        while let Some((cue, start, end)) = self.next(bytes, from) {
            from = end;
            let found = match cue {
                Cue::Name => {
                    let end = end - usize::from(bytes[end - 1] == b'=');
                    let (found, name_end) = assignment::find(bytes, start, end);
                    from = from.max(name_end);
                    found
                }
                Cue::Bearer => token::bearer(bytes, end).or_else(|| {
                    let (found, name_end) = assignment::find(bytes, start, end);
                    from = from.max(name_end);
                    found
                }),
                Cue::Jwt => token::jwt(bytes, start),
                Cue::Key(place) => {
                    let Some(shape) = token::KEYS.get(place) else { continue };
                    let (key, read) = token::key(bytes, start, shape);
                    from = from.max(read);
                    access_key |= key.is_some() && token::is_access_key_id(&bytes[start..]);
                    key
                }
                Cue::Pem => private_key::find(bytes, start),
                Cue::Command => command::find(bytes, start),
                Cue::Identified => assignment::quoted_after(bytes, end),
                Cue::EscapedAt => address::email(bytes, start, end),
            };
            if let Some(found) = found.filter(|found| matches!(found.what, crate::kind::What::Kind(kind) if on(kind))) {
                from = from.max(found.end);
                finds.push(found);
            }
        }
        if access_key && on(Kind::Key) {
            token::secret_access_keys(bytes, finds);
        }
    }
}
