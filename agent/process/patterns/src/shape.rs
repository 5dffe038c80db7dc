//! What a word looks like: made by a machine for this one line, or written into the program by a person.
//!
//! From the scanner's words to its tokens. Invariant: only shapes that mean the same in every log count, such as digits, paths,
//! addresses, hexadecimal, units and calendar words; nothing here knows a product.

/// What a byte is, as bits, so that a run of bytes is summed up by OR.
pub(crate) mod class {
    /// Separates words and is not part of the text; control characters too.
    pub(crate) const SPACE: u8 = 1;
    /// Separates words and is part of the text.
    pub(crate) const MARK: u8 = 1 << 1;
    /// `0` to `9`.
    pub(crate) const DIGIT: u8 = 1 << 2;
    /// `/`, `\`, `.` or `@`.
    pub(crate) const JOINT: u8 = 1 << 3;
    /// Part of a word, but no hexadecimal digit.
    pub(crate) const NOT_HEX: u8 = 1 << 4;

    /// Ends a path: space, and punctuation but `=` and `:`.
    pub(crate) const ENDS_PATH: u8 = 1 << 5;
    /// Alone between two wildcards, makes a list, a range or a size of them.
    pub(crate) const SEPARATOR: u8 = 1 << 6;

    /// By byte; bytes of UTF-8 beyond ASCII are letters.
    pub(crate) static OF: [u8; 256] = {
        let mut of = [NOT_HEX; 256];
        let mut byte = 0;
        while byte < 256 {
            of[byte] = match byte as u8 {
                0..=b' ' | 0x7f => SPACE | ENDS_PATH,
                b'=' => MARK,
                b':' => MARK | SEPARATOR,
                b',' | b';' | b'|' => MARK | ENDS_PATH | SEPARATOR,
                b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'<' | b'>' | b'"' | b'\'' => MARK | ENDS_PATH,
                b'0'..=b'9' => DIGIT,
                b'a'..=b'f' | b'A'..=b'F' => 0,
                b'/' | b'\\' | b'@' => JOINT | NOT_HEX,
                b'.' => JOINT | NOT_HEX | SEPARATOR,
                b'-' | b'x' => NOT_HEX | SEPARATOR,
                _ => NOT_HEX,
            };
            byte += 1;
        }
        of
    };
}

/// Eight letters that are all hexadecimal digits: no common English word has that.
const HEX_BYTES_MIN: usize = 8;

/// Whether a word varies by its looks: digits, long hexadecimal, a path, an address, a name of three parts or more.
///
/// `seen` is the OR of the classes of its bytes.
#[inline]
pub(crate) fn is_variable(word: &[u8], seen: u8) -> bool {
    if seen & class::DIGIT != 0 {
        return true;
    }
    if seen & class::NOT_HEX == 0 {
        return word.len() >= HEX_BYTES_MIN;
    }
    seen & class::JOINT != 0 && is_joined(word)
}

fn is_joined(word: &[u8]) -> bool {
    let count = |wanted: u8| word.iter().filter(|&&byte| byte == wanted).count();
    let (slashes, dots) = (count(b'/'), count(b'.'));
    word[0] == b'/'
        || slashes >= 2
        || slashes == 1 && dots > 0
        || word.len() > 2 && (count(b'\\') > 0 || count(b'@') > 0)
        || dots >= 2 && word.split(|&byte| byte == b'.').all(|part| !part.is_empty())
}

/// Whether a value says that there is none.
pub(crate) fn is_null(word: &[u8]) -> bool {
    ["null", "nil", "none", "undefined", "nan"].iter().any(|null| word.eq_ignore_ascii_case(null.as_bytes()))
}

/// Whether a word after a number belongs to the number: a unit of size, time, rate or frequency, or what
/// follows the time of day.
pub(crate) fn is_unit(word: &[u8]) -> bool {
    let word = word.strip_suffix(b"/s").unwrap_or(word);
    let mut lower = [0; 8];
    let Some(lower) = lower.get_mut(..word.len()) else { return false };
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    let sizes: [&[u8]; 13] =
        [b"b", b"k", b"m", b"g", b"kb", b"mb", b"gb", b"tb", b"kib", b"mib", b"gib", b"byte", b"bytes"];
    let times: [&[u8]; 15] = [
        b"ns", b"us", b"ms", b"s", b"sec", b"secs", b"second", b"seconds", b"min", b"mins", b"minute", b"minutes",
        b"hour", b"hours", b"am",
    ];
    let others: [&[u8]; 6] = [b"pm", b"utc", b"gmt", b"hz", b"mhz", b"ghz"];
    sizes.contains(&&*lower) || times.contains(&&*lower) || others.contains(&&*lower)
}

/// Whether a word beside a number belongs to a date: a capitalised weekday or month, short or whole.
pub(crate) fn is_calendar(word: &[u8]) -> bool {
    const NAMES: [&str; 19] = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    (3..=9).contains(&word.len())
        && word[0].is_ascii_uppercase()
        && NAMES.iter().any(|name| {
            let name = name.as_bytes();
            word.eq_ignore_ascii_case(&name[..3]) || word.eq_ignore_ascii_case(name)
        })
}

/// Whether the word that follows names somebody or some machine.
pub(crate) fn is_role(word: &[u8]) -> bool {
    let is = |role: &str| word.eq_ignore_ascii_case(role.as_bytes());
    match word.len() {
        4 => is("user") || is("host"),
        7 => is("account"),
        8 => is("username") || is("hostname"),
        _ => false,
    }
}
