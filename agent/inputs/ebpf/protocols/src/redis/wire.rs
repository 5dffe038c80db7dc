//! Values of the RESP protocol: where each ends, what a command is called, and whether a reply is an error.
//!
//! A value is a byte that tells its type, a line, and after it bytes or further values as many as the line says. Invariant: nesting
//! costs no memory, and each byte of what is here is passed once a call.

use crate::{CARRY_BYTES_MAX, Measure};

/// A command with its sub-command, and the number of a database.
#[cfg(feature = "fuzz")]
pub(super) const NAME_BYTES_MAX: usize = 2 * WORD_BYTES_MAX + 1 + 5;
/// Longer words are no commands.
const WORD_BYTES_MAX: usize = 32;
/// Commands that hold several.
const CONTAINERS: [&str; 17] = [
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "FUNCTION", "LATENCY", "MEMORY", "MODULE", "OBJECT",
    "PUBSUB", "SCRIPT", "SENTINEL", "SLOWLOG", "XGROUP", "XINFO",
];
/// What matters of a value, if its length is known: a command's name and what follows it, an error's first word.
const START_BYTES: u32 = 64;
/// Arguments of a command, and elements of a reply: more are none.
const ELEMENTS_MAX: u64 = 1 << 30;

/// What the client wants to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replies {
    #[default]
    On,
    Off,
    /// Not the next one.
    Skip,
}

/// What is kept of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// In upper case, with the sub-command: `CONFIG GET`.
    pub(super) name: String,
    /// Its replies come once for each channel, as messages do.
    pub(super) is_subscription: bool,
    pub(super) is_ping: bool,
    /// Its reply does not end.
    pub(super) is_feed: bool,
    /// The database that it makes the current one.
    pub(super) database: Option<String>,
    /// What it says of replies.
    pub(super) replies: Option<Replies>,
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Fine,
    /// The first word of the error.
    Error(String),
    /// Of a subscription to one channel.
    Confirmation,
    /// It answers nothing.
    Push,
}

/// How long a command is.
pub(super) fn measure_request(bytes: &[u8]) -> Measure {
    if bytes[0] == b'*' {
        return match extent(bytes) {
            Some(length) => whole(length),
            None if is_start_of_command(bytes) => Measure::More,
            None => Measure::Invalid,
        };
    }
    // Inline: words up to the end of the line.
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) if bytes[0].is_ascii_alphabetic() => whole(end as u64 + 1),
        None if bytes[0].is_ascii_alphabetic() && bytes.len() < CARRY_BYTES_MAX => Measure::More,
        // Empty lines are passed over.
        _ if bytes[0] == b'\n' => whole(1),
        _ if bytes.starts_with(b"\r\n") => whole(2),
        _ if bytes == b"\r" => Measure::More,
        _ => Measure::Invalid,
    }
}

/// How long a reply is.
pub(super) fn measure_response(bytes: &[u8]) -> Measure {
    match extent(bytes) {
        Some(length) => whole(length),
        None if is_start_of_value(bytes) => Measure::More,
        None => Measure::Invalid,
    }
}

fn whole(length: u64) -> Measure {
    match u32::try_from(length) {
        Ok(length) => Measure::Whole { length, wanted: START_BYTES },
        Err(_) => Measure::Invalid,
    }
}

/// How far the first value goes, perhaps beyond what is here; `None` if its lines are not all here, or none begins so.
fn extent(bytes: &[u8]) -> Option<u64> {
    let (mut at, mut left) = (0_u64, 1_u64);
    while left > 0 {
        let rest = bytes.get(usize::try_from(at).ok()?..)?;
        let (kind, line, after) = line(rest)?;
        left -= 1;
        at += after as u64;
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'!' | b'=' => {
                if let Some(length) = length(line)? {
                    at = at.checked_add(length)?.checked_add(2)?;
                }
            }
            b'*' | b'~' | b'>' => left = left.checked_add(length(line)?.unwrap_or(0))?,
            b'%' => left = left.checked_add(2 * length(line)?.unwrap_or(0))?,
            // Attributes stand before what they belong to.
            b'|' => left = left.checked_add(2 * length(line)?.unwrap_or(0) + 1)?,
            _ => return None,
        }
    }
    Some(at)
}

/// A value's type, its line, and where that ends.
fn line(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (kind, rest) = bytes.split_first()?;
    let end = rest.iter().position(|byte| *byte == b'\r')?;
    (rest.get(end + 1) == Some(&b'\n')).then(|| (*kind, &rest[..end], end + 3))
}

/// A length, or that the value is none.
fn length(line: &[u8]) -> Option<Option<u64>> {
    if line == b"-1" {
        return Some(None);
    }
    let digits = std::str::from_utf8(line).ok().filter(|line| line.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|length| *length <= ELEMENTS_MAX).map(Some)
}

/// Whether bytes that are no whole value may become one.
fn is_start_of_value(bytes: &[u8]) -> bool {
    match line(bytes) {
        Some((b'$' | b'!' | b'=' | b'*' | b'~' | b'>' | b'%' | b'|', text, _)) => length(text).is_some(),
        Some(_) => false,
        None => {
            let text = &bytes[1..];
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            match bytes[0] {
                b'+' | b'-' | b',' | b'(' => text.iter().all(|byte| !byte.is_ascii_control()),
                b'$' | b'!' | b'=' | b'*' | b'~' | b'>' | b'%' | b'|' | b':' | b'_' | b'#' => {
                    text.len() <= 20
                        && text.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b't' | b'f'))
                }
                _ => false,
            }
        }
    }
}

fn is_start_of_command(bytes: &[u8]) -> bool {
    if !is_start_of_value(bytes) {
        return false;
    }
    // Arguments are strings.
    match line(bytes) {
        Some((_, _, after)) => bytes.get(after).is_none_or(|kind| *kind == b'$'),
        None => true,
    }
}

/// A command; `None` if its name was not copied, or is none.
pub(super) fn command(bytes: &[u8]) -> Option<Command> {
    let mut words = Words { rest: bytes, is_inline: true };
    if bytes.first() == Some(&b'*') {
        let (_, _, after) = line(bytes)?;
        words = Words { rest: &bytes[after..], is_inline: false };
    }
    let mut name = word(words.next()?)?;
    let mut command = Command::default();
    match name.as_str() {
        "PING" => command.is_ping = true,
        "MONITOR" | "SYNC" | "PSYNC" => command.is_feed = true,
        "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => {
            command.is_subscription = true;
        }
        "SELECT" => {
            let number = words.next().and_then(|number| std::str::from_utf8(number).ok()?.parse::<u16>().ok());
            command.database = number.map(|number| number.to_string());
        }
        container if CONTAINERS.contains(&container) => {
            if let Some(word) = words.next().and_then(word) {
                if name == "CLIENT" && word == "REPLY" {
                    command.replies = words.next().map(|wanted| match wanted.to_ascii_uppercase().as_slice() {
                        b"OFF" => Replies::Off,
                        b"SKIP" => Replies::Skip,
                        _ => Replies::On,
                    });
                }
                name.push(' ');
                name.push_str(&word);
            }
        }
        _ => {}
    }
    command.name = name;
    Some(command)
}

/// The words of a command.
struct Words<'a> {
    rest: &'a [u8],
    is_inline: bool,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.is_inline {
            let rest = self.rest.trim_ascii_start();
            let end = rest.iter().position(u8::is_ascii_whitespace)?;
            self.rest = &rest[end..];
            return Some(&rest[..end]);
        }
        let (kind, text, after) = line(self.rest)?;
        let length = usize::try_from(length(text)??).ok().filter(|_| kind == b'$')?;
        let word = self.rest.get(after..after.checked_add(length)?)?;
        self.rest = self.rest.get(after + length + 2..).unwrap_or_default();
        Some(word)
    }
}

/// What a command may be called, in upper case.
fn word(bytes: &[u8]) -> Option<String> {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'.' | b'_' | b'-');
    let is_word = bytes.len() <= WORD_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|byte| is_letter(byte) || byte.is_ascii_digit());
    is_word.then(|| String::from_utf8_lossy(bytes).to_ascii_uppercase())
}

/// What a reply says, as far as it is here.
pub(super) fn reply(bytes: &[u8], is_subscribed: bool) -> Reply {
    let mut rest = bytes;
    // Attributes are passed over, as far as they are here.
    while rest.first() == Some(&b'|') {
        let Some((_, text, after)) = line(rest) else { return Reply::Fine };
        let mut at = after;
        for _ in 0..2 * length(text).flatten().unwrap_or(0) {
            match rest.get(at..).and_then(extent).and_then(|length| usize::try_from(length).ok()) {
                Some(length) => at += length,
                None => return Reply::Fine,
            }
        }
        rest = rest.get(at..).unwrap_or_default();
    }
    let Some((kind, text, after)) = line(rest) else { return error_of(rest) };
    let inner = &rest[after..];
    match kind {
        b'-' | b'!' => error_of(rest),
        b'>' if is_confirmation(inner) => Reply::Confirmation,
        b'>' => Reply::Push,
        b'*' if is_subscribed && is_confirmation(inner) => Reply::Confirmation,
        b'*' if is_subscribed && is_message(inner) => Reply::Push,
        // A transaction fails with the first of its commands that does.
        b'*' => {
            let (mut left, mut rest) = (length(text).flatten().unwrap_or(0), inner);
            while left > 0 && !matches!(rest.first(), None | Some(b'-' | b'!')) {
                let Some(length) = extent(rest).and_then(|length| usize::try_from(length).ok()) else { break };
                rest = rest.get(length..).unwrap_or_default();
                left -= 1;
            }
            if left > 0 { error_of(rest) } else { Reply::Fine }
        }
        _ => Reply::Fine,
    }
}

/// `-WRONGTYPE Operation against ...`, or in version 3 `!21\r\nSYNTAX invalid syntax`.
fn error_of(bytes: &[u8]) -> Reply {
    let text = match bytes {
        [b'-', text @ ..] => text,
        [b'!', ..] => line(bytes).and_then(|(_, _, after)| bytes.get(after..)).unwrap_or_default(),
        _ => return Reply::Fine,
    };
    let length =
        text.iter().take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || **byte == b'_').count();
    let is_word =
        (1..=WORD_BYTES_MAX).contains(&length) && text.get(length).is_none_or(|byte| matches!(byte, b' ' | b'\r'));
    Reply::Error(if is_word { String::from_utf8_lossy(&text[..length]).into_owned() } else { "ERR".to_owned() })
}

fn first_word(elements: &[u8]) -> &[u8] {
    Words { rest: elements, is_inline: false }.next().unwrap_or_default()
}

fn is_confirmation(elements: &[u8]) -> bool {
    matches!(
        first_word(elements),
        b"subscribe" | b"psubscribe" | b"ssubscribe" | b"unsubscribe" | b"punsubscribe" | b"sunsubscribe"
    )
}

fn is_message(elements: &[u8]) -> bool {
    matches!(first_word(elements), b"message" | b"pmessage" | b"smessage")
}
