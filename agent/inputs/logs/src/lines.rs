//! Bytes into lines: pure, and without a buffer of its own.
//!
//! What is not yet a whole line stays unread in the file and is looked at again with what follows it. Framings that join or
//! unwrap lines (multiline, Docker's JSON, CRI) belong between this file and `records`. Invariant: however the bytes are cut
//! into chunks, the lines are the same, and no line is longer than the limit.

/// What a chunk holds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Split<'a> {
    /// Without their ends; empty lines are left out.
    pub(crate) lines: Vec<Line<'a>>,
    /// Bytes that need not be looked at again.
    pub(crate) consumed: usize,
    /// Whether what follows is the rest of a line that was cut.
    pub(crate) in_cut_line: bool,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line<'a> {
    pub(crate) text: &'a [u8],
    /// Whether its end was cut off.
    pub(crate) is_cut: bool,
}

/// How to split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Longest line, in bytes.
    pub(crate) line_bytes_max: usize,
    /// Most lines to take.
    pub(crate) lines_max: usize,
    /// Whether the chunk begins inside a line that was cut.
    pub(crate) in_cut_line: bool,
    /// Whether bytes after the last newline are a line: their writer has been silent for long.
    pub(crate) take_unfinished: bool,
}

/// The room that surely shows whether a line is too long: the longest line, `\r\n`, and a byte more.
pub(crate) fn chunk_bytes(line_bytes_max: usize) -> usize {
    line_bytes_max + 3
}

/// Split a chunk. A chunk of at least [`chunk_bytes`] always yields something.
pub(crate) fn split(chunk: &[u8], rules: Rules) -> Split<'_> {
    let mut split = Split { in_cut_line: rules.in_cut_line, ..Split::default() };
    while split.lines.len() < rules.lines_max {
        let rest = &chunk[split.consumed..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        if split.in_cut_line {
            split.consumed += end.map_or(rest.len(), |end| end + 1);
            split.in_cut_line = end.is_none();
            if end.is_none() {
                break;
            }
            continue;
        }
        // A file that is truncated under a writer which does not append grows again with a hole that reads as NULs.
        let hole = rest.iter().take_while(|byte| **byte == 0).count();
        if hole > 0 {
            split.consumed += hole;
            continue;
        }
        match end {
            Some(end) => {
                split.lines.extend(line(&rest[..end], rules.line_bytes_max));
                split.consumed += end + 1;
            }
            // With "\r" and "\n" yet to come, two bytes more than the limit are still no line that is too long.
            None if rest.len() > rules.line_bytes_max + 2 => {
                let line = cut(rest, rules.line_bytes_max);
                split.consumed += line.text.len();
                split.lines.push(line);
                split.in_cut_line = true;
            }
            None => {
                if rules.take_unfinished {
                    split.lines.extend(line(rest, rules.line_bytes_max));
                    split.consumed = chunk.len();
                }
                break;
            }
        }
    }
    split
}

/// A line without "\r" at its end. `None` if nothing is left.
fn line(text: &[u8], max: usize) -> Option<Line<'_>> {
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let line = if text.len() > max { cut(text, max) } else { Line { text, is_cut: false } };
    (!text.is_empty()).then_some(line)
}

/// The first `max` bytes, or up to three fewer, so that no UTF-8 character is torn.
fn cut(text: &[u8], max: usize) -> Line<'_> {
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let end = (max.saturating_sub(3)..=max).rev().find(|at| !is_inside(*at)).unwrap_or(max);
    Line { text: &text[..end], is_cut: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { line_bytes_max: 8, lines_max: 100, in_cut_line: false, take_unfinished: false };

    fn texts(chunk: &[u8], rules: Rules) -> (Vec<(String, bool)>, usize, bool) {
        let split = split(chunk, rules);
        let line = |line: &Line<'_>| (String::from_utf8_lossy(line.text).into_owned(), line.is_cut);
        (split.lines.iter().map(line).collect(), split.consumed, split.in_cut_line)
    }

    fn whole(lines: &[&str]) -> Vec<(String, bool)> {
        lines.iter().map(|line| ((*line).to_owned(), false)).collect()
    }

    #[test]
    fn whole_lines_are_taken_and_the_unfinished_one_waits() {
        assert_eq!(texts(b"a\nb\r\n\nrest", RULES), (whole(&["a", "b"]), 6, false));
        assert_eq!(texts(b"rest", RULES), (vec![], 0, false));
        let rules = Rules { take_unfinished: true, ..RULES };
        assert_eq!(texts(b"a\nrest", rules), (whole(&["a", "rest"]), 6, false));
        assert_eq!(texts(b"", rules), (vec![], 0, false));
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_beyond_is_cut_and_its_rest_skipped() {
        assert_eq!(texts(b"12345678\r\n", RULES), (whole(&["12345678"]), 10, false));
        assert_eq!(texts(b"12345678\r", RULES).1, 0, "the newline may still come");
        assert_eq!(texts(b"123456789\nx\n", RULES), (vec![("12345678".into(), true), ("x".into(), false)], 12, false));
        assert_eq!(texts(b"123456789ab", RULES), (vec![("12345678".into(), true)], 11, true));
        let rules = Rules { in_cut_line: true, ..RULES };
        assert_eq!(texts(b"more\nx\n", rules), (whole(&["x"]), 7, false));
        assert_eq!(texts(b"more", rules), (vec![], 4, true));
    }

    #[test]
    fn no_character_is_torn_and_holes_are_no_text() {
        assert_eq!(texts("1234567ä9\n".as_bytes(), RULES).0, vec![("1234567".into(), true)]);
        assert_eq!(texts(b"\0\0\0a\n\0\0\n", RULES).0, whole(&["a"]));
    }

    #[test]
    fn no_more_lines_are_taken_than_asked_for() {
        let rules = Rules { lines_max: 2, ..RULES };
        assert_eq!(texts(b"a\nb\nc\n", rules), (whole(&["a", "b"]), 4, false));
    }

    /// As the tail does it: chunks of a given size, again from where the last one was consumed to.
    fn in_chunks(text: &[u8], size: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut at, mut rules, mut lines) = (0, RULES, Vec::new());
        loop {
            let chunk = &text[at..text.len().min(at + size)];
            let split = split(chunk, rules);
            lines.extend(split.lines.iter().map(|line| (line.text.to_vec(), line.is_cut)));
            at += split.consumed;
            rules.in_cut_line = split.in_cut_line;
            if split.consumed == 0 {
                return lines;
            }
        }
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_are_cut(text in "[a-c\\n\\r\\x00ä]{0,80}", size in chunk_bytes(8)..40usize) {
            prop_assert_eq!(in_chunks(text.as_bytes(), size), in_chunks(text.as_bytes(), 1_000));
        }

        #[test]
        fn no_bytes_make_it_fail_or_a_line_too_long(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let rules = Rules { take_unfinished: true, ..RULES };
            let split = split(&bytes, rules);
            prop_assert!(split.lines.iter().all(|line| line.text.len() <= 8 && !line.text.is_empty()));
            prop_assert_eq!(split.consumed, bytes.len());
        }
    }
}
