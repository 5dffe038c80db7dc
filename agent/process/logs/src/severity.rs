//! The severity that a log line states, if it states one.
//!
//! Looks where loggers put it: JSON and logfmt levels, glog's first letter, syslog's priority, and a word near the beginning that
//! stands apart as a level does. Invariant: a word counts only in such a place; prose about errors has no severity.

use ollystack_record::otlp::logs::v1::SeverityNumber;

/// How far into a line a level may be: time, host, process and thread come before it.
const HEAD_BYTES: usize = 160;
/// Words at the beginning among which a bare upper-case level may be.
const HEAD_WORDS: usize = 8;

/// A level by name, in any case.
pub(crate) fn of_word(word: &str) -> Option<SeverityNumber> {
    use SeverityNumber::{Debug, Error, Fatal, Info, Info2, Trace, Warn};
    const NAMES: [(&str, SeverityNumber); 25] = [
        ("trace", Trace),
        ("finest", Trace),
        ("finer", Trace),
        ("debug", Debug),
        ("dbg", Debug),
        ("fine", Debug),
        ("verbose", Debug),
        ("info", Info),
        ("inf", Info),
        ("information", Info),
        ("notice", Info2),
        ("log", Info),
        ("warn", Warn),
        ("wrn", Warn),
        ("warning", Warn),
        ("error", Error),
        ("err", Error),
        ("severe", Error),
        ("crit", Fatal),
        ("critical", Fatal),
        ("alert", Fatal),
        ("emerg", Fatal),
        ("emergency", Fatal),
        ("fatal", Fatal),
        ("panic", Fatal),
    ];
    NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, severity)| *severity)
}

/// The severity of a line and the word that says so.
pub(crate) fn of_line(line: &str) -> Option<(SeverityNumber, &str)> {
    let line = line.trim_start();
    let first = line.as_bytes().first()?;
    match first {
        b'{' => of_json(line),
        b'<' => of_priority(line).or_else(|| of_head(line)),
        b'I' | b'W' | b'E' | b'F' if is_glog(line) => Some((glog(*first)?, &line[..1])),
        _ => of_logfmt(line).or_else(|| of_head(line)),
    }
}

/// `"level":"error"` and its kin, numbers as pino and bunyan write them. Looks for the key, not at the whole document.
fn of_json(line: &str) -> Option<(SeverityNumber, &str)> {
    for key in ["\"level\"", "\"severity\"", "\"lvl\"", "\"levelname\"", "\"log.level\"", "\"@level\""] {
        let Some(at) = line.find(key) else { continue };
        let Some(value) = line[at + key.len()..].trim_start().strip_prefix(':').map(str::trim_start) else { continue };
        if let Some(text) = value.strip_prefix('"') {
            let word = &text[..text.find('"')?];
            return Some((of_word(word)?, word));
        }
        let digits = &value[..value.bytes().take_while(u8::is_ascii_digit).count()];
        return Some((of_number(digits.parse().ok()?)?, digits));
    }
    None
}

/// Levels of pino and bunyan: 10 trace to 60 fatal.
fn of_number(level: u32) -> Option<SeverityNumber> {
    use SeverityNumber::{Debug, Error, Fatal, Info, Trace, Warn};
    [(10, Trace), (20, Debug), (30, Info), (40, Warn), (50, Error), (60, Fatal)]
        .into_iter()
        .find_map(|(number, severity)| (number == level).then_some(severity))
}

/// `level=warn`, quoted or not.
fn of_logfmt(line: &str) -> Option<(SeverityNumber, &str)> {
    for key in ["level=", "lvl=", "severity="] {
        let Some(at) = line.find(key) else { continue };
        if at > 0 && !line.as_bytes()[at - 1].is_ascii_whitespace() {
            continue;
        }
        let value = line[at + key.len()..].trim_start_matches('"');
        let word = &value[..value.bytes().take_while(u8::is_ascii_alphabetic).count()];
        return Some((of_word(word)?, word));
    }
    None
}

/// `<34>`: facility times 8 plus severity (RFC 5424, 6.2.1).
fn of_priority(line: &str) -> Option<(SeverityNumber, &str)> {
    use SeverityNumber::{Debug, Error, Fatal, Info, Info2, Warn};
    let digits = &line[1..line.find('>').filter(|end| (2..=4).contains(end))?];
    let priority: usize = digits.parse().ok().filter(|priority| *priority < 192)?;
    Some(([Fatal, Fatal, Fatal, Error, Warn, Info2, Info, Debug][priority % 8], digits))
}

/// `E1120 10:12:07.000001 12 main.cc:7] text`.
fn is_glog(line: &str) -> bool {
    let bytes = line.as_bytes();
    bytes.len() > 6 && bytes[1..5].iter().all(u8::is_ascii_digit) && bytes[5] == b' ' && line.contains(']')
}

fn glog(letter: u8) -> Option<SeverityNumber> {
    use SeverityNumber::{Error, Fatal, Info, Warn};
    [(b'I', Info), (b'W', Warn), (b'E', Error), (b'F', Fatal)]
        .into_iter()
        .find_map(|(known, severity)| (known == letter).then_some(severity))
}

/// A level among the first words: in brackets or before a colon in any case, bare only in upper case.
fn of_head(line: &str) -> Option<(SeverityNumber, &str)> {
    let end = (0..=line.len().min(HEAD_BYTES)).rev().find(|end| line.is_char_boundary(*end))?;
    for token in line[..end].split_ascii_whitespace().take(HEAD_WORDS) {
        // `[12][error]`, `<warn>`, `(info)`, `main:ERROR:`; the parts between.
        let mut from = 0;
        for (at, byte) in token.bytes().chain([b' ']).enumerate() {
            if byte.is_ascii_alphabetic() {
                continue;
            }
            // Between the bytes of a character there is no word.
            let word = token.get(from..at).unwrap_or_default();
            if let Some(severity) = of_word(word) {
                let before = from.checked_sub(1).map(|at| token.as_bytes()[at]);
                let bare = before.is_none_or(|b| matches!(b, b':' | b'|')) && matches!(byte, b' ' | b':' | b'|' | b',');
                let bracketed = matches!((before, byte), (Some(b'['), b']') | (Some(b'<'), b'>') | (Some(b'('), b')'));
                let shouted = word.bytes().all(|byte| byte.is_ascii_uppercase());
                // Before a colon a lower-case word is a level only at the very start: `error: no such file`.
                if bracketed
                    || (bare && shouted)
                    || (byte == b':' && from == 0 && std::ptr::eq(token.as_ptr(), line.as_ptr()))
                {
                    return Some((severity, word));
                }
            }
            from = at + 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use SeverityNumber::{Debug, Error, Fatal, Info, Info2, Trace, Warn};

    #[test]
    fn a_level_is_found_where_loggers_put_it() {
        let table = [
            (r#"{"ts":1,"level":"error","msg":"x"}"#, Some(Error)),
            (r#"{"msg":"x", "severity" : "WARNING"}"#, Some(Warn)),
            (r#"{"level":30,"msg":"x"}"#, Some(Info)),
            (r#"{"msg":"the level is fine"}"#, None),
            ("ts=1 level=debug msg=x", Some(Debug)),
            (r#"time="t" level="warning" msg=x"#, Some(Warn)),
            ("sealevel=error", None),
            ("2026-11-20T09:12:07Z ERROR main: it broke", Some(Error)),
            ("2026-11-20 09:12:07,123 [main] WARN  com.Shop - slow", Some(Warn)),
            ("2026/11/20 09:12:07 [error] 12#12: *1 open() failed", Some(Error)),
            ("[Fri Nov 20 09:12:07 2026] [notice] ready", Some(Info2)),
            ("E1120 09:12:07.000001 12 main.cc:7] broke", Some(Error)),
            ("I1120 09:12:07.000001 12 main.cc:7] fine", Some(Info)),
            ("<34>1 2026-11-20T09:12:07Z host su - - - failed", Some(Fatal)),
            ("<30>daemon text", Some(Info)),
            ("<warn>  [1.2] device: disconnected", Some(Warn)),
            ("2026-11-20 09:12:07.1 UTC [12] LOG:  checkpoint", Some(Info)),
            ("2026-11-20 09:12:07.1 UTC [12] FATAL:  no", Some(Fatal)),
            ("WARNING:root:careful", Some(Warn)),
            ("2026-11-20 09:12:07 |INFO| started", Some(Info)),
            ("error: no such file", Some(Error)),
            ("TRACE enter", Some(Trace)),
            ("Nov 20 09:12:07 host sshd[12]: error: maximum attempts exceeded", None),
            ("there was an error in the file", None),
            ("GET /error HTTP/1.1 500", None),
            ("ERRORS found: 0", None),
            ("", None),
            ("<", None),
            ("<>", None),
            ("<999999>x", None),
            ("é", None),
        ];
        for (line, expected) in table {
            assert_eq!(of_line(line).map(|(severity, _)| severity), expected, "{line}");
        }
    }

    #[test]
    fn hostile_lines_are_only_lines() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let line: String = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ['{', '"', 'l', 'e', 'v', ':', '<', '>', '=', '1', 'E', ' ', ']', 'é', '\n', '[']
                        [(state >> 60) as usize]
                })
                .collect();
            let _ = of_line(&line);
            let _ = of_line(&format!("{{\"level\"{line}"));
            let _ = of_line(&format!("level={line}"));
        }
    }
}
