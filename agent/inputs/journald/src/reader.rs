//! An entry as `journalctl --output=json` prints it, read as it comes: no more of it is held than is kept.
//!
//! Fields are strings; bytes that are no text are arrays of numbers, a field that occurs several times is an array of those
//! (systemd's "Journal JSON Format"). Invariant: what is held does not follow the length of the line, and a line reads the same
//! however it is cut into parts.

use crate::entry::{Entry, Field, Text};

/// Names of fields that are looked up are shorter.
const KEY_BYTES_MAX: usize = 64;
/// A list of lists of numbers is the deepest there is.
const DEPTH_MAX: u8 = 2;

/// Reads one line after the other.
#[derive(Debug)]
pub(crate) struct Reader {
    message_bytes_max: usize,
    entry: Entry,
    at: At,
    /// Lists that are open, and, while it is read, the one whose numbers are the value.
    depth: u8,
    bytes_depth: u8,
    /// The field that is read; none if it is not wanted.
    field: Option<Field>,
    /// Its value, or a key, as far as it is kept.
    kept: Vec<u8>,
    kept_max: usize,
    is_cut: bool,
    /// Of several values the first is there: what follows is passed over.
    is_settled: bool,
    /// The first half of a character that is escaped as two.
    surrogate: Option<u32>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Begin,
    Key,
    Colon,
    Value,
    /// A value, or the end of a list without any.
    First,
    Behind,
    End,
    Text {
        is_key: bool,
    },
    Escape {
        is_key: bool,
    },
    Hex {
        is_key: bool,
        digits: u8,
        code: u32,
    },
    Number(u32),
    /// What is left of it.
    Null(&'static [u8]),
    Junk,
}

impl Reader {
    /// Messages are cut at so many bytes.
    pub(crate) fn new(message_bytes_max: usize) -> Reader {
        Reader {
            message_bytes_max,
            entry: Entry::default(),
            at: At::Begin,
            depth: 0,
            bytes_depth: 0,
            field: None,
            kept: Vec::new(),
            kept_max: 0,
            is_cut: false,
            is_settled: false,
            surrogate: None,
        }
    }

    /// The next part of a line.
    pub(crate) fn read(&mut self, mut part: &[u8]) {
        while let Some((&byte, rest)) = part.split_first() {
            if let At::Text { is_key } = self.at {
                let run = memchr::memchr2(b'"', b'\\', part).unwrap_or(part.len());
                if run > 0 {
                    self.whole_character();
                    self.keep(&part[..run]);
                    part = &part[run..];
                    continue;
                }
                if byte == b'"' {
                    self.whole_character();
                    self.text_ends(is_key);
                } else {
                    self.at = At::Escape { is_key };
                }
            } else if self.at == At::Junk {
                return;
            } else {
                self.at = self.step(byte);
            }
            part = rest;
        }
    }

    /// The line is over; none if it was no entry.
    pub(crate) fn end(&mut self) -> Option<Entry> {
        let fresh = Reader::new(self.message_bytes_max);
        let Reader { entry, at, .. } = std::mem::replace(self, fresh);
        (at == At::End && !entry.cursor.0.is_empty()).then_some(entry)
    }

    /// What comes after this byte, outside of plain text.
    fn step(&mut self, byte: u8) -> At {
        match (self.at, byte) {
            (At::Escape { is_key }, b'u') => At::Hex { is_key, digits: 0, code: 0 },
            (At::Escape { is_key }, _) => self.escaped(byte, is_key),
            (At::Hex { is_key, digits, code }, _) => self.hex(byte, is_key, digits, code),
            (At::Number(number), b'0'..=b'9') if number <= u32::from(u8::MAX) => {
                At::Number(number * 10 + u32::from(byte - b'0'))
            }
            (At::Number(number), _) => match self.number_ends(number) {
                At::Behind => self.behind(byte),
                at => at,
            },
            (At::Null([next]), _) if *next == byte => {
                self.is_settled = true;
                At::Behind
            }
            (At::Null([next, left @ ..]), _) if *next == byte => At::Null(left),
            (At::Null(_), _) => At::Junk,
            (at, b' ' | b'\t' | b'\r') => at,
            (At::Begin, b'{') => At::Key,
            (At::Key, b'"') => {
                (self.kept_max, self.is_settled) = (KEY_BYTES_MAX, false);
                At::Text { is_key: true }
            }
            (At::Colon, b':') => At::Value,
            (At::First, b']') => self.list_ends(),
            (At::Value | At::First, _) => self.value(byte),
            (At::Behind, _) => self.behind(byte),
            _ => At::Junk,
        }
    }

    fn value(&mut self, byte: u8) -> At {
        let is_among_bytes = self.bytes_depth > 0 && self.bytes_depth == self.depth;
        match byte {
            b'0'..=b'9' if self.depth > 0 => {
                if !self.is_settled && self.bytes_depth == 0 {
                    self.bytes_depth = self.depth;
                }
                At::Number(u32::from(byte - b'0'))
            }
            _ if is_among_bytes => At::Junk,
            b'"' => At::Text { is_key: false },
            b'n' => At::Null(b"ull"),
            b'[' if self.depth < DEPTH_MAX => {
                self.depth += 1;
                At::First
            }
            _ => At::Junk,
        }
    }

    fn behind(&mut self, byte: u8) -> At {
        match byte {
            b' ' | b'\t' | b'\r' => At::Behind,
            b',' if self.depth > 0 => At::Value,
            b']' if self.depth > 0 => self.list_ends(),
            b',' | b'}' if self.depth == 0 => {
                self.field_ends();
                if byte == b',' { At::Key } else { At::End }
            }
            _ => At::Junk,
        }
    }

    fn list_ends(&mut self) -> At {
        if self.bytes_depth == self.depth {
            self.bytes_depth = 0;
        }
        self.depth -= 1;
        self.is_settled = true;
        At::Behind
    }

    fn number_ends(&mut self, number: u32) -> At {
        if self.bytes_depth == 0 {
            return At::Behind;
        }
        let Ok(byte) = u8::try_from(number) else { return At::Junk };
        self.keep(&[byte]);
        At::Behind
    }

    fn text_ends(&mut self, is_key: bool) {
        if !is_key {
            self.is_settled = true;
            self.at = At::Behind;
            return;
        }
        self.field = Field::named(&self.kept).filter(|_| !self.is_cut);
        self.kept.clear();
        self.is_cut = false;
        self.kept_max = self.field.map_or(0, |field| field.bytes_max(self.message_bytes_max));
        self.at = At::Colon;
    }

    fn field_ends(&mut self) {
        let (mut kept, is_cut) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.is_cut));
        let Some(field) = self.field.take() else { return };
        if is_cut
            && let Err(error) = std::str::from_utf8(&kept)
            && error.error_len().is_none()
        {
            // Within a character.
            kept.truncate(error.valid_up_to());
        }
        let (text, is_shortened) = text(kept, self.kept_max);
        self.entry.set(field, Text(text), is_cut || is_shortened);
    }

    fn escaped(&mut self, byte: u8, is_key: bool) -> At {
        let character = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => return At::Junk,
        };
        self.whole_character();
        self.keep(&[character]);
        At::Text { is_key }
    }

    fn hex(&mut self, byte: u8, is_key: bool, digits: u8, code: u32) -> At {
        let Some(digit) = char::from(byte).to_digit(16) else { return At::Junk };
        let code = code << 4 | digit;
        if digits < 3 {
            return At::Hex { is_key, digits: digits + 1, code };
        }
        match (self.surrogate.take(), code) {
            (Some(high), 0xDC00..=0xDFFF) => self.keep_code(0x1_0000 + ((high - 0xD800) << 10) + (code - 0xDC00)),
            (high, _) => {
                if let Some(high) = high {
                    self.keep_code(high);
                }
                match code {
                    0xD800..=0xDBFF => self.surrogate = Some(code),
                    _ => self.keep_code(code),
                }
            }
        }
        At::Text { is_key }
    }

    /// No second half follows: what was the first is no character.
    fn whole_character(&mut self) {
        if let Some(high) = self.surrogate.take() {
            self.keep_code(high);
        }
    }

    fn keep_code(&mut self, code: u32) {
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.keep(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_settled || self.is_cut {
            return;
        }
        let room = self.kept_max - self.kept.len();
        self.is_cut = bytes.len() > room;
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Bytes as text of so many at most, and whether it took more: what is no text becomes three bytes each.
fn text(bytes: Vec<u8>, bytes_max: usize) -> (String, bool) {
    let bytes = match String::from_utf8(bytes) {
        Ok(mut text) => {
            text.shrink_to_fit();
            return (text, false);
        }
        Err(error) => error.into_bytes(),
    };
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        let replaced = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        for character in chunk.valid().chars().chain(replaced) {
            if text.len() + character.len_utf8() > bytes_max {
                return (text, true);
            }
            text.push(character);
        }
    }
    (text, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>, message_bytes_max: usize) -> Option<(String, bool)> {
        let mut reader = Reader::new(message_bytes_max);
        parts.into_iter().for_each(|part| reader.read(part));
        let entry = reader.end()?;
        assert_eq!(reader.at, At::Begin, "the next line is read like the first");
        Some((entry.message.0, entry.is_cut))
    }

    #[test]
    fn a_message_is_cut_between_characters_whatever_it_is_written_as() {
        let table = [
            (r#""ääää""#, 5, "ää", true),
            (r#""\u00e4\u00e4\u00e4""#, 5, "ää", true),
            (r#""a\ud83d\ude00b""#, 6, "a😀b", false),
            (r#""a\ud83d\ude00b""#, 4, "a", true),
            (r#""\ud83dx""#, 8, "\u{fffd}x", false),
            (r#""\ud83d""#, 8, "\u{fffd}", false),
            (r#""\ud83d\ud83d\ude00""#, 8, "\u{fffd}😀", false),
            (r#""\"\\\/\b\f\n\r\t""#, 8, "\"\\/\u{8}\u{c}\n\r\t", false),
            ("[97,98,99]", 2, "ab", true),
            ("[97,98]", 2, "ab", false),
            ("[195,164,195,164]", 3, "ä", true),
            ("[255,255,255]", 6, "\u{fffd}\u{fffd}", true),
            (r#"["abc","d"]"#, 2, "ab", true),
            (r#"["ab","cde"]"#, 2, "ab", false),
        ];
        for (value, bytes_max, expected, is_cut) in table {
            let line = format!(r#"{{ "__CURSOR" : "c" , "MESSAGE" :{value}}} "#);
            assert_eq!(read([line.as_bytes()], bytes_max), Some((expected.to_owned(), is_cut)), "{value}");
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_held() {
        let mut reader = Reader::new(100);
        let long = "x".repeat(1 << 20);
        for part in [
            &format!(r#"{{"{long}":"{long}","__CURSOR":"c","UNWANTED":"#),
            r#"[["a"],"#,
            &format!(r#""{long}"],"MESSAGE":"{long}"#),
        ] {
            reader.read(part.as_bytes());
        }
        assert!(reader.kept.capacity() <= 256, "{}", reader.kept.capacity());
        reader.read(br#"","_EXE":"/x"}"#);
        let entry = reader.end().unwrap();
        assert_eq!((entry.message.0, entry.is_cut), ("x".repeat(100), true));
    }

    #[test]
    fn a_cursor_that_is_cut_is_none() {
        let line = format!(r#"{{"__CURSOR":"{}","MESSAGE":"x"}}"#, "c".repeat(1 << 20));
        assert_eq!(read([line.as_bytes()], 100), None);
    }

    proptest! {
        #[test]
        fn a_line_reads_as_json_does_however_it_is_cut(message in "\\PC{0,20}|[\\x00-\\x7f😀ä\"\\\\]{0,20}", cuts in any::<[u8; 3]>()) {
            let line = serde_json::json!({"__CURSOR": "c", "X": [message.clone(), [1]], "MESSAGE": message.clone()}).to_string();
            let mut cuts = cuts.map(|cut| usize::from(cut) % (line.len() + 1));
            cuts.sort_unstable();
            let [a, b, c] = cuts;
            let line = line.as_bytes();
            prop_assert_eq!(read([&line[..a], &line[a..b], &line[b..c], &line[c..]], 1_000), Some((message, false)));
        }

        #[test]
        fn junk_reads_the_same_however_it_is_cut(line in "(\\{\"__CURSOR\":\"c\",\"MESSAGE\":)?[\\[\\]{}\",:0-9nul\\\\]{0,40}\\}?", cut in any::<u8>()) {
            let cut = usize::from(cut) % (line.len() + 1);
            let line = line.as_bytes();
            prop_assert_eq!(read([&line[..cut], &line[cut..]], 8), read([line], 8));
        }
    }
}
