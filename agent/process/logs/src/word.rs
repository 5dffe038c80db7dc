//! A word of a header: what lies between two blanks, pipes or the ends of a line, and what it is made of.
//!
//! Invariant: each byte is looked at once; what a word may be is told from the kinds of its bytes, not by going over them again.

/// A word and the kinds of bytes in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    seen: u8,
}

/// Kinds of bytes, a bit each; none for those that end a word.
mod kind {
    pub(super) const UPPER: u8 = 1;
    pub(super) const LOWER: u8 = 1 << 1;
    pub(super) const DIGIT: u8 = 1 << 2;
    /// What joins the parts of a name.
    pub(super) const JOINT: u8 = 1 << 3;
    /// What else is found in the name of a place in code.
    pub(super) const CODE: u8 = 1 << 4;
    /// What else is found in a name with a process or a place behind it.
    pub(super) const TAG: u8 = 1 << 5;
    pub(super) const EQUALS: u8 = 1 << 6;
    pub(super) const OTHER: u8 = 1 << 7;

    pub(super) const ALPHANUMERIC: u8 = UPPER | LOWER | DIGIT;

    /// By byte.
    pub(super) const OF: [u8; 256] = {
        let mut of = [OTHER; 256];
        let mut byte = 0;
        while byte < 256 {
            of[byte] = match byte as u8 {
                b' ' | b'\t' | b'|' => 0,
                b'A'..=b'Z' => UPPER,
                b'a'..=b'z' => LOWER,
                b'0'..=b'9' => DIGIT,
                b'.' | b'_' | b'/' | b':' | b'-' | b'@' | b'#' => JOINT,
                b'$' | b'<' | b'>' | b'(' | b')' | b'*' => CODE,
                b'[' | b']' | b'\\' | b'!' => TAG,
                b'=' => EQUALS,
                _ => OTHER,
            };
            byte += 1;
        }
        of
    };
}

impl<'a> Word<'a> {
    /// The word that `text` begins with.
    #[inline]
    pub(crate) fn first(text: &'a str) -> Word<'a> {
        let mut seen = 0;
        let mut length = 0;
        for byte in text.as_bytes() {
            let kind = kind::OF[usize::from(*byte)];
            if kind == 0 {
                break;
            }
            seen |= kind;
            length += 1;
        }
        Word { text: &text[..length], seen }
    }

    fn only(self, kinds: u8) -> bool {
        self.seen & !kinds == 0
    }

    /// Nothing but capital letters.
    pub(crate) fn is_shouted(self) -> bool {
        self.only(kind::UPPER)
    }

    /// Nothing but digits.
    pub(crate) fn is_number(self) -> bool {
        self.only(kind::DIGIT)
    }

    /// A name as components, hosts and places in code have.
    pub(crate) fn is_identifier(self) -> bool {
        let first = self.text.as_bytes().first();
        first.is_some_and(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'/' | b'<'))
            && self.only(kind::ALPHANUMERIC | kind::JOINT | kind::CODE)
    }

    /// What stands before a colon: an identifier, perhaps with a process or a place in brackets.
    pub(crate) fn is_tag(self) -> bool {
        self.only(kind::ALPHANUMERIC | kind::JOINT | kind::CODE | kind::TAG)
    }

    /// `org.acme.Shop`, `nova.compute.manager`: three parts, or the last one a class.
    pub(crate) fn is_class(self) -> bool {
        if self.seen & kind::JOINT == 0 {
            return false;
        }
        let mut parts = 0;
        let mut is_capital = false;
        for part in self.text.as_bytes().split(|byte| *byte == b'.') {
            let Some(first) = part.first().filter(|byte| byte.is_ascii_alphabetic() || **byte == b'_') else {
                return false;
            };
            is_capital = first.is_ascii_uppercase();
            parts += 1;
        }
        parts > 2 || (parts == 2 && is_capital)
    }

    /// A word of a sentence: letters, at most the first of them a capital, and the punctuation of sentences.
    pub(crate) fn is_prose(self) -> bool {
        let last = self.text.bytes().rposition(|byte| !b".,;:!?".contains(&byte));
        let length = last.map_or(0, |last| last + 1);
        let word = if length == self.text.len() { self } else { Word::first(&self.text[..length]) };
        let is_name = word.seen & (kind::DIGIT | kind::JOINT | kind::EQUALS) != 0;
        let is_shouted = word.text.len() > 1 && word.is_shouted();
        let first = word.text.as_bytes().first();
        let is_quoted = first.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b"<-".contains(byte));
        is_quoted || !(is_name || is_shouted || word.text.len() == 1)
    }
}
