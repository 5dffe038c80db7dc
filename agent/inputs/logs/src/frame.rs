//! What a container runtime wraps around each line: Docker's JSON file and CRI's text, recognised by how a file begins.
//!
//! - Docker (`json-file`): `{"log":"text\n","stream":"stdout","time":"2026-11-20T09:12:07.123456789Z"}`; a `log` without a
//!   newline at its end is continued by the next line of the same stream.
//! - CRI (containerd, CRI-O, Podman's `k8s-file`): `2026-11-20T09:12:07.123456789+00:00 stdout F text`; `P` instead of `F` is
//!   continued by the next line of the same stream.
//!
//! Invariant: a line that is not framed as its file is comes through as it is; nothing is lost for its form.

use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;

/// How a file's lines are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Not at all.
    #[default]
    Plain,
    Docker,
    Cri,
}

/// Where a container wrote a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stream {
    /// A file that tells no streams apart.
    #[default]
    Unknown,
    Stdout,
    Stderr,
}

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) text: Cow<'a, [u8]>,
    pub(crate) stream: Stream,
    /// When it was written. Nanoseconds since the epoch; 0: not said.
    pub(crate) time_unix_nano: u64,
    /// Whether the line goes on in the next frame of its stream.
    pub(crate) is_partial: bool,
}

impl Framing {
    /// By the first line, or what is there of it; if that does not tell, by where runtimes put their files.
    pub(crate) fn of(beginning: &[u8], path: &Path) -> Framing {
        let first = beginning.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if first.starts_with(b"{\"log\":\"") {
            return Framing::Docker;
        }
        if cri(first).is_some() {
            return Framing::Cri;
        }
        let path = path.as_os_str().as_encoded_bytes();
        match () {
            () if path.starts_with(b"/var/lib/docker/containers/") => Framing::Docker,
            () if path.starts_with(b"/var/log/pods/") || path.starts_with(b"/var/log/containers/") => Framing::Cri,
            () => Framing::Plain,
        }
    }

    pub(crate) fn unwrap(self, line: &[u8]) -> Frame<'_> {
        let framed = match self {
            Framing::Plain => None,
            Framing::Docker => docker(line),
            Framing::Cri => cri(line),
        };
        let plain = || Frame { text: line.into(), stream: Stream::Unknown, time_unix_nano: 0, is_partial: false };
        framed.unwrap_or_else(plain)
    }
}

impl Stream {
    fn of(name: &[u8]) -> Option<Stream> {
        match name {
            b"stdout" => Some(Stream::Stdout),
            b"stderr" => Some(Stream::Stderr),
            _ => None,
        }
    }

    /// As in `log.iostream`.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Stream::Unknown => None,
            Stream::Stdout => Some("stdout"),
            Stream::Stderr => Some("stderr"),
        }
    }
}

fn docker(line: &[u8]) -> Option<Frame<'_>> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        stream: &'a str,
        #[serde(borrow, default)]
        time: &'a str,
    }
    let Entry { log, stream, time } = serde_json::from_slice(line).ok()?;
    let is_partial = !log.ends_with('\n');
    let text = match log {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_end_matches(['\r', '\n']).as_bytes()),
        Cow::Owned(mut text) => {
            text.truncate(text.trim_end_matches(['\r', '\n']).len());
            Cow::Owned(text.into_bytes())
        }
    };
    let stream = Stream::of(stream.as_bytes()).unwrap_or_default();
    Some(Frame { text, stream, time_unix_nano: unix_nanos(time.as_bytes()).unwrap_or(0), is_partial })
}

fn cri(line: &[u8]) -> Option<Frame<'_>> {
    let (time, rest) = split_at_space(line)?;
    let (stream, rest) = split_at_space(rest)?;
    let stream = Stream::of(stream)?;
    // An empty line may lose the space after its tag. More tags may follow the first behind colons.
    let (tag, text) = split_at_space(rest).unwrap_or((rest, &[]));
    let is_partial = match tag.split(|byte| *byte == b':').next() {
        Some(b"F") => false,
        Some(b"P") => true,
        _ => return None,
    };
    Some(Frame { text: text.into(), stream, time_unix_nano: unix_nanos(time)?, is_partial })
}

fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    // All that is split off here is short.
    let at = text.iter().take(64).position(|byte| *byte == b' ')?;
    Some((&text[..at], &text[at + 1..]))
}

/// RFC 3339 with any number of digits of the second: `2026-11-20T09:12:07.123456789+01:00`.
fn unix_nanos(text: &[u8]) -> Option<u64> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.iter().try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let is_punctuated = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !is_punctuated.iter().all(|(at, byte)| text.get(*at) == Some(byte)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (mut at, mut nanos, mut unit) = (19, 0, 100_000_000);
    if text.get(at) == Some(&b'.') {
        at += 1;
        while let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
            nanos += i64::from(digit - b'0') * unit;
            unit /= 10;
            at += 1;
        }
    }
    let offset_minutes = match text.get(at)? {
        b'Z' => 0,
        b'+' => number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?,
        b'-' => -(number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?),
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanos.unsigned_abs())
}

/// Since 1970-01-01, in the proleptic Gregorian calendar: eras of 400 years, years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NANOS: u64 = 1_795_165_927_123_456_789;

    fn frame(text: &str, stream: Stream, is_partial: bool) -> Frame<'static> {
        Frame { text: text.as_bytes().to_vec().into(), stream, time_unix_nano: NANOS, is_partial }
    }

    #[test]
    fn a_file_is_recognised_by_how_it_begins_and_else_by_its_place() {
        let table = [
            ("{\"log\":\"a\\n\",\"stream\":\"stdout\"", "/x/a.log", Framing::Docker),
            ("2026-11-20T09:12:07.1Z stderr F a\nx", "/x/a.log", Framing::Cri),
            ("2026-11-20T09:12:07.1Z stdout x", "/x/a.log", Framing::Plain),
            ("{\"level\":\"info\"}", "/x/a.log", Framing::Plain),
            ("cannot open", "/var/log/pods/a_b_c/d/0.log", Framing::Cri),
            ("{\"log\":\"", "/var/log/containers/a_b_c-d.log", Framing::Docker),
            ("cannot open", "/var/lib/docker/containers/1/1-json.log", Framing::Docker),
        ];
        for (beginning, path, expected) in table {
            assert_eq!(Framing::of(beginning.as_bytes(), Path::new(path)), expected, "{beginning} {path}");
        }
    }

    #[test]
    fn a_frame_gives_text_stream_time_and_whether_it_goes_on() {
        let docker = |text: &'static str| Framing::Docker.unwrap(text.as_bytes());
        let time = "2026-11-20T09:12:07.123456789Z";
        let entry = |log: &str| {
            format!("{{\"log\":\"{log}\",\"stream\":\"stderr\",\"attrs\":{{\"a\":\"b\"}},\"time\":\"{time}\"}}")
        };
        let cases =
            [(entry("a \\\"b\\\"\\r\\n"), "a \"b\"", false), (entry("ä"), "ä", true), (entry("\\n"), "", false)];
        for (line, text, is_partial) in cases {
            assert_eq!(Framing::Docker.unwrap(line.as_bytes()), frame(text, Stream::Stderr, is_partial), "{line}");
        }
        for line in ["plain", "{\"log\":\"torn", "{\"log\":1,\"stream\":\"stdout\"}"] {
            assert_eq!(docker(line), Framing::Plain.unwrap(line.as_bytes()), "not framed");
        }
        let cri = |text: &'static str| Framing::Cri.unwrap(text.as_bytes());
        assert_eq!(cri("2026-11-20T09:12:07.123456789Z stdout F a b"), frame("a b", Stream::Stdout, false));
        assert_eq!(cri("2026-11-20T10:12:07.123456789+01:00 stdout P  a"), frame(" a", Stream::Stdout, true));
        assert_eq!(cri("2026-11-20T09:12:07.123456789Z stderr F:x:y a"), frame("a", Stream::Stderr, false));
        assert_eq!(cri("2026-11-20T09:12:07.123456789Z stderr F"), frame("", Stream::Stderr, false));
        for line in
            ["plain", "2026-11-20T09:12:07Z stdin F a", "yesterday stdout F a", "2026-11-20T09:12:07Z stdout X a"]
        {
            assert_eq!(cri(line).text, line.as_bytes(), "not framed");
        }
    }

    #[test]
    fn times_are_read_with_any_digits_and_offset() {
        let table = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-20T09:12:07.123456789Z", Some(NANOS)),
            ("2026-11-20T04:12:07.123456789-05:00", Some(NANOS)),
            ("2026-11-20T14:42:07.1234567891234+05:30", Some(NANOS)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000_000)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-13-20T09:12:07Z", None),
            ("2026-11-20 09:12:07Z", None),
            ("2026-11-20T09:12:07", None),
            ("9999-12-31T23:59:59Z", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(unix_nanos(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_fail_or_gets_longer(line in "(2026-11-20T09:12:07[.0-9]{0,25}[Z+-]|\\{\"log\":\")?\\PC{0,60}") {
            for framing in [Framing::Plain, Framing::Docker, Framing::Cri] {
                prop_assert!(framing.unwrap(line.as_bytes()).text.len() <= line.len());
            }
        }
    }
}
