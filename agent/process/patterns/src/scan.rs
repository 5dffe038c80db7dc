//! From a message to its tokens, in one pass and without allocation.
//!
//! Words end at spaces and at punctuation, and punctuation is a token of its own; what varies by its looks ([`crate::shape`]) is
//! a wildcard from the start. Rules that concern several tokens are applied while they are written: lists of wildcards, units
//! and dates become one wildcard, so that lines with lists of other lengths have one pattern. Invariant: tokens are in order, do not
//! overlap, and all text between them is space; at most [`TOKENS_MAX`] of them.

use crate::shape::{self, class};
use xxhash_rust::xxh3::xxh3_64;

/// A message's tokens, so that a set of them fits a `u128`; what comes after is one wildcard.
pub(crate) const TOKENS_MAX: usize = 128;

/// Bytes looked at; what comes after is one wildcard. A log line is rarely as long, and offsets stay within `u16`.
pub(crate) const BYTES_MAX: usize = 4096;

/// Bytes looked ahead for the end of a quoted or bracketed value.
const VALUE_BYTES_MAX: usize = 128;

/// Groups of hexadecimal digits between colons; fewer may be a time of day.
const ADDRESS_GROUPS_MIN: usize = 4;

/// Separators in a row between two wildcards; more is no list.
const SEPARATORS_MAX: usize = 2;

const WILDCARD_HASH: u32 = 0x5bd1_e995;
const SPACED_HASH: u32 = 0x9e37_79b9;

/// A word, a punctuation mark or a wildcard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    /// Of the text, or of nothing for a wildcard; and of whether a space comes before.
    pub(crate) hash: u32,
    pub(crate) start: u16,
    pub(crate) end: u16,
    flags: u8,
}

impl Token {
    const WILDCARD: u8 = 1;
    /// Begins with a letter, a digit or `_`.
    const WORD: u8 = 1 << 1;
    const SPACED: u8 = 1 << 2;
    /// Stands right after `=`.
    const VALUE: u8 = 1 << 3;
    /// Stands right after a word such as "user".
    const ROLE: u8 = 1 << 4;
    /// Everything from here on.
    const REST: u8 = 1 << 5;

    pub(crate) fn is_wildcard(self) -> bool {
        self.flags & Token::WILDCARD != 0
    }

    /// A word that is the same in each message of the pattern.
    pub(crate) fn is_constant_word(self) -> bool {
        self.flags & (Token::WORD | Token::WILDCARD) == Token::WORD
    }

    pub(crate) fn is_value(self) -> bool {
        self.flags & Token::VALUE != 0
    }

    pub(crate) fn is_after_role(self) -> bool {
        self.flags & Token::ROLE != 0
    }

    pub(crate) fn is_spaced(self) -> bool {
        self.flags & Token::SPACED != 0
    }

    /// Whether other text may stand here in another message of the pattern.
    pub(crate) fn may_vary(self) -> bool {
        self.flags & (Token::WORD | Token::WILDCARD | Token::VALUE) != 0
    }

    /// The same place, as a wildcard.
    pub(crate) fn varied(self) -> Token {
        Token { hash: wildcard_hash(self.flags), flags: self.flags | Token::WILDCARD, ..self }
    }

    /// The same token in another text.
    pub(crate) fn at(self, start: usize, end: usize) -> Token {
        Token { start: start as u16, end: end as u16, flags: self.flags & !Token::REST, ..self }
    }

    /// The text of this token in the message that it was read from.
    pub(crate) fn text(self, message: &str) -> &str {
        let end = if self.flags & Token::REST != 0 { message.len() } else { usize::from(self.end) };
        message.get(usize::from(self.start)..end).unwrap_or_default()
    }

    /// This token's share of a signature: the sum over all positions tells sequences apart, and one position can be exchanged.
    #[inline]
    pub(crate) fn share(self, position: usize) -> u64 {
        let mixed = (u64::from(self.hash) | (position as u64 + 1) << 32).wrapping_mul(0x9fb2_1c65_1e98_df25);
        (mixed ^ mixed >> 29).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

fn wildcard_hash(flags: u8) -> u32 {
    WILDCARD_HASH ^ spaced_hash(flags)
}

fn spaced_hash(flags: u8) -> u32 {
    if flags & Token::SPACED != 0 { SPACED_HASH } else { 0 }
}

/// The hash of a sequence of tokens.
#[inline]
pub(crate) fn signature(tokens: &[Token]) -> u64 {
    tokens.iter().enumerate().fold(0, |sum, (position, token)| token.share(position).wrapping_add(sum))
}

/// Replace `tokens` by those of `message`.
pub(crate) fn scan(message: &str, tokens: &mut Vec<Token>) {
    tokens.clear();
    let bytes = &message.as_bytes()[..message.floor_char_boundary(BYTES_MAX)];
    let mut scanner = Scanner { bytes, tokens };
    let mut at = 0;
    while at < bytes.len() && scanner.tokens.len() < TOKENS_MAX - 2 {
        at = scanner.step(at);
    }
    if at < bytes.len() || bytes.len() < message.len() {
        scanner.wildcard(at, bytes.len(), Token::REST);
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    tokens: &'a mut Vec<Token>,
}

impl Scanner<'_> {
    /// Read what begins at `at`; returns where it ends.
    #[inline]
    fn step(&mut self, at: usize) -> usize {
        let seen = self.class(at);
        if seen & class::SPACE != 0 {
            return at + 1;
        }
        if at > 0
            && self.bytes[at - 1] == b'='
            && let Some(end) = self.value(at)
        {
            return end;
        }
        if seen & class::MARK != 0 {
            return self.mark(at);
        }
        if self.bytes[at] == b'/' {
            let end = self.path_end(at);
            self.wildcard(at, end, 0);
            return end;
        }
        self.word(at)
    }

    /// The class of the byte at `at`; past the end it is space.
    #[inline]
    fn class(&self, at: usize) -> u8 {
        self.bytes.get(at).map_or(class::SPACE, |&byte| class::OF[usize::from(byte)])
    }

    fn mark(&mut self, at: usize) -> usize {
        let byte = self.bytes[at];
        // "host ()" as "host (x)": brackets after a wildcard hold one more, even if it is empty.
        if matches!(byte, b')' | b']' | b'}')
            && let [.., before, open] = self.tokens[..]
            && before.is_wildcard()
            && usize::from(open.end) == at
            && matches!(self.bytes[usize::from(open.start)], b'(' | b'[' | b'{')
        {
            self.push(at, at, wildcard_hash(0), Token::WILDCARD);
        }
        let spaced = self.spaced(at);
        self.push(at, at + 1, u32::from(byte).wrapping_mul(0x85eb_ca6b) ^ spaced_hash(spaced), spaced);
        at + 1
    }

    fn word(&mut self, at: usize) -> usize {
        let (mut end, mut seen) = self.run(at);
        loop {
            let next = self.bytes.get(end + 1).copied();
            match self.bytes.get(end) {
                // "scheme://..." and "C:\...", which vary as digits do.
                Some(b':') if next == Some(b'/') && self.bytes.get(end + 2) == Some(&b'/') => {
                    end = self.path_end(end);
                    seen |= class::DIGIT;
                }
                Some(b':') if next == Some(b'\\') && end == at + 1 => {
                    end = self.path_end(end);
                    seen |= class::DIGIT;
                }
                Some(b':') if let Some(address_end) = self.address_end(at, end) => {
                    end = address_end;
                    seen |= class::DIGIT;
                }
                // "a,b,c" is one value, but "a,b=c" and "a,b: c" are two.
                Some(b',') if self.class(end + 1) & (class::SPACE | class::MARK) == 0 => {
                    let (next_end, next_seen) = self.run(end + 1);
                    let after = self.bytes[next_end..].iter().find(|byte| **byte != b' ');
                    if matches!(after, Some(b'=' | b':')) {
                        break;
                    }
                    (end, seen) = (next_end, seen | next_seen);
                    continue;
                }
                _ => {}
            }
            break;
        }
        let end = self.without_stops(at, end);
        if end == at {
            // Nothing but full stops.
            let end = self.run(at).0;
            self.constant(at, end, 0);
            return end;
        }
        let word = &self.bytes[at..end];
        if shape::is_variable(word, seen) {
            self.wildcard(at, end, 0);
        } else if let Some(last) = self.tokens.last_mut()
            && last.is_wildcard()
            && last.end > 0
            && self.bytes[usize::from(last.end) - 1].is_ascii_digit()
            && (shape::is_unit(word) || shape::is_calendar(word))
        {
            last.end = end as u16;
        } else {
            self.constant(at, end, 0);
        }
        end
    }

    /// Read the value that follows `=`, if there is one: quoted, bracketed, or up to what ends values.
    fn value(&mut self, at: usize) -> Option<usize> {
        let quote = self.bytes[at];
        let ahead = &self.bytes[at..self.bytes.len().min(at + VALUE_BYTES_MAX)];
        if matches!(quote, b'"' | b'\'') {
            let end = at + 2 + ahead[1..].iter().position(|&byte| byte == quote)?;
            let seen = self.bytes[at + 1..end - 1].iter().fold(0, |seen, &byte| seen | class::OF[usize::from(byte)]);
            let text = &self.bytes[at + 1..end - 1];
            if !text.is_empty() && shape::is_variable(text, seen) {
                self.wildcard(at, end, Token::VALUE);
            } else {
                self.constant(at, end, Token::VALUE);
            }
            return Some(end);
        }
        if quote == b'/' {
            let end = self.path_end(at);
            self.wildcard(at, end, Token::VALUE);
            return Some(end);
        }
        let (mut end, mut seen) = (at, 0);
        while let Some(&byte) = self.bytes.get(end)
            && (class::OF[usize::from(byte)] & (class::SPACE | class::MARK) == 0 || byte == b':')
        {
            if self.bytes[end..].starts_with(b"://") {
                end = self.path_end(end);
                seen |= class::DIGIT;
                break;
            }
            seen |= class::OF[usize::from(byte)];
            end += 1;
        }
        if end == at {
            return None;
        }
        if let Some((length, inside)) = balanced(&self.bytes[end..self.bytes.len().min(end + VALUE_BYTES_MAX)]) {
            (end, seen) = (end + length, seen | inside);
        }
        end = self.without_stops(at, end);
        let word = self.bytes.get(at..end).filter(|word| !word.is_empty())?;
        if shape::is_variable(word, seen) || shape::is_null(word) {
            self.wildcard(at, end, Token::VALUE);
        } else {
            self.constant(at, end, Token::VALUE);
        }
        Some(end)
    }

    /// Where the run of word bytes that begins at `at` ends, and what is in it.
    #[inline]
    fn run(&self, at: usize) -> (usize, u8) {
        let mut seen = 0;
        for (offset, &byte) in self.bytes[at..].iter().enumerate() {
            let class = class::OF[usize::from(byte)];
            if class & (class::SPACE | class::MARK) != 0 {
                return (at + offset, seen);
            }
            seen |= class;
        }
        (self.bytes.len(), seen)
    }

    /// Where the hardware or IPv6 address that begins at `at` ends, if it is one; `end` is that of its first group.
    fn address_end(&self, at: usize, end: usize) -> Option<usize> {
        let is_group =
            |start: usize, end: usize| end - start <= 4 && self.bytes[start..end].iter().all(u8::is_ascii_hexdigit);
        let (mut end, mut groups) = (end, usize::from(is_group(at, end)));
        while groups > 0 && self.bytes.get(end) == Some(&b':') {
            let next = self.run(end + 1).0;
            if !is_group(end + 1, next) || next == end + 1 && self.bytes.get(next) != Some(&b':') {
                break;
            }
            (end, groups) = (next, groups + 1);
        }
        (groups >= ADDRESS_GROUPS_MIN).then_some(end)
    }

    /// Where a path or a URL ends: `=`, `:`, `?` and `&` may be part of it, but not its last byte.
    fn path_end(&self, at: usize) -> usize {
        let ends = |byte: &u8| class::OF[usize::from(*byte)] & class::ENDS_PATH != 0;
        let end = self.bytes[at..].iter().position(ends).map_or(self.bytes.len(), |length| at + length);
        let text = &self.bytes[at..end];
        let kept = text.iter().rposition(|byte| !matches!(byte, b':' | b'=' | b'.')).map_or(1, |last| last + 1);
        at + kept
    }

    /// `end` without the full stops and colons before it: they end the sentence, not the word.
    fn without_stops(&self, at: usize, end: usize) -> usize {
        self.bytes[at..end].iter().rposition(|byte| !matches!(byte, b'.' | b':')).map_or(at, |last| at + last + 1)
    }

    fn spaced(&self, at: usize) -> u8 {
        if at > 0 && self.class(at - 1) & class::SPACE != 0 { Token::SPACED } else { 0 }
    }

    #[inline]
    fn constant(&mut self, start: usize, end: usize, flags: u8) {
        let first = self.bytes[start];
        let is_word = first.is_ascii_alphanumeric() || first == b'_' || !first.is_ascii();
        let word = if is_word { Token::WORD } else { 0 };
        let spaced = self.spaced(start);
        let hash = xxh3_64(&self.bytes[start..end]) as u32 ^ spaced_hash(spaced);
        self.push(start, end, hash, flags | word | spaced);
    }

    fn wildcard(&mut self, mut start: usize, end: usize, flags: u8) {
        // The weekday and the month before a number are part of the date.
        while let Some(last) = self.tokens.last()
            && last.is_constant_word()
            && shape::is_calendar(&self.bytes[usize::from(last.start)..usize::from(last.end)])
        {
            start = usize::from(last.start);
            self.tokens.pop();
        }
        let is_separator = |token: &Token| {
            token.end == token.start + 1 && self.class(usize::from(token.start)) & class::SEPARATOR != 0
        };
        let separators = self.tokens.iter().rev().take(SEPARATORS_MAX).take_while(|token| is_separator(token)).count();
        let before = self.tokens.len() - separators;
        if let Some(last) = before.checked_sub(1)
            && self.tokens[last].is_wildcard()
        {
            self.tokens.truncate(before);
            self.tokens[last].end = end as u16;
            self.tokens[last].flags |= flags;
            return;
        }
        let flags = flags | Token::WILDCARD | self.spaced(start);
        self.push(start, end, wildcard_hash(flags), flags);
    }

    #[inline]
    fn push(&mut self, start: usize, end: usize, hash: u32, flags: u8) {
        let after_role = self.tokens.last().is_some_and(|last| {
            last.is_constant_word() && shape::is_role(&self.bytes[usize::from(last.start)..usize::from(last.end)])
        });
        let role = if after_role { Token::ROLE } else { 0 };
        self.tokens.push(Token { hash, start: start as u16, end: end as u16, flags: flags | role });
    }
}

/// The length of the brackets that `bytes` begins with, and the classes of what is in them; none when they do not close, or when
/// there are keys, values or quotes in them, which are structure and not a value.
fn balanced(bytes: &[u8]) -> Option<(usize, u8)> {
    let (mut depth, mut seen) = (0_usize, 0);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            b'=' | b'"' | b'\'' => return None,
            _ => seen |= class::OF[usize::from(byte)] & !(class::SPACE | class::MARK),
        }
        if depth == 0 {
            return (at > 0).then_some((at + 1, seen));
        }
    }
    None
}
