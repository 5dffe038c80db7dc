//! Bytes into lines: pure, and without a buffer of its own.
//!
//! What is not yet a whole line stays unread in the file and is looked at again with what follows it. `join` makes records of
//! lines. Invariant: however the bytes are cut into chunks, the lines are the same, and no line is longer than the limit.

/// One line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line<'a> {
    /// Without its end; never empty.
    pub(crate) text: &'a [u8],
    /// Where it begins in the chunk.
    pub(crate) start: usize,
    /// Whether its end was cut off.
    pub(crate) is_cut: bool,
}

/// The lines of a chunk; empty ones are left out.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'a> {
    chunk: &'a [u8],
    line_bytes_max: usize,
    /// Everything before need not be looked at again.
    pub(crate) at: usize,
    /// Whether what follows `at` is the rest of a line that was cut.
    pub(crate) in_cut_line: bool,
}

/// The room that surely shows whether a line is too long: the longest line, `\r\n`, and a byte more.
pub(crate) fn chunk_bytes(line_bytes_max: usize) -> usize {
    line_bytes_max + 3
}

impl<'a> Lines<'a> {
    /// A chunk of at least [`chunk_bytes`] always yields something, or all of it need not be looked at again.
    pub(crate) fn new(chunk: &'a [u8], line_bytes_max: usize, in_cut_line: bool) -> Lines<'a> {
        Lines { chunk, line_bytes_max, at: 0, in_cut_line }
    }

    /// The next whole line, or the first part of one that is too long.
    pub(crate) fn next(&mut self) -> Option<Line<'a>> {
        loop {
            let start = self.at;
            let rest = &self.chunk[start..];
            let end = memchr::memchr(b'\n', rest);
            if self.in_cut_line {
                self.at += end.map_or(rest.len(), |end| end + 1);
                self.in_cut_line = end.is_none();
                end?;
                continue;
            }
            // A file that is truncated under a writer which does not append grows again with a hole that reads as NULs.
            if rest.first() == Some(&0) {
                self.at += rest.iter().take_while(|byte| **byte == 0).count();
                continue;
            }
            match end {
                Some(end) => {
                    self.at += end + 1;
                    if let Some(line) = self.line(&rest[..end], start) {
                        return Some(line);
                    }
                }
                // With "\r" and "\n" yet to come, two bytes more than the limit are still no line that is too long.
                None if rest.len() > self.line_bytes_max + 2 => {
                    let text = cut(rest, self.line_bytes_max);
                    self.at += text.len();
                    self.in_cut_line = true;
                    return Some(Line { text, start, is_cut: true });
                }
                None => return None,
            }
        }
    }

    /// What follows the last newline: its writer has been silent for so long that it counts as a line.
    pub(crate) fn unfinished(&mut self) -> Option<Line<'a>> {
        let start = self.at;
        self.at = self.chunk.len();
        self.line(&self.chunk[start..], start)
    }

    /// A line without "\r" at its end. `None` if nothing is left.
    fn line(&self, text: &'a [u8], start: usize) -> Option<Line<'a>> {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let is_cut = text.len() > self.line_bytes_max;
        let text = if is_cut { cut(text, self.line_bytes_max) } else { text };
        (!text.is_empty()).then_some(Line { text, start, is_cut })
    }
}

/// The first `max` bytes, or up to three fewer, so that no UTF-8 character is torn.
pub(crate) fn cut(text: &[u8], max: usize) -> &[u8] {
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let end = (max.saturating_sub(3)..=max).rev().find(|at| !is_inside(*at)).unwrap_or(max);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 8;

    /// Lines with whether they were cut, bytes consumed, and whether the chunk ends in a line that was cut.
    fn texts(chunk: &[u8], in_cut_line: bool) -> (Vec<(String, bool)>, usize, bool) {
        let mut lines = Lines::new(chunk, MAX, in_cut_line);
        let next = std::iter::from_fn(|| lines.next());
        let texts = next.map(|line| (String::from_utf8_lossy(line.text).into_owned(), line.is_cut)).collect();
        (texts, lines.at, lines.in_cut_line)
    }

    fn whole(lines: &[&str]) -> Vec<(String, bool)> {
        lines.iter().map(|line| ((*line).to_owned(), false)).collect()
    }

    #[test]
    fn whole_lines_are_taken_and_the_unfinished_one_waits() {
        assert_eq!(texts(b"a\nb\r\n\nrest", false), (whole(&["a", "b"]), 6, false));
        assert_eq!(texts(b"rest", false), (vec![], 0, false));
        let mut lines = Lines::new(b"a\nrest", MAX, false);
        assert_eq!(lines.next().unwrap().text, b"a");
        assert_eq!(lines.next(), None);
        assert_eq!(lines.unfinished(), Some(Line { text: b"rest", start: 2, is_cut: false }));
        assert_eq!((lines.at, lines.unfinished()), (6, None));
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_beyond_is_cut_and_its_rest_skipped() {
        assert_eq!(texts(b"12345678\r\n", false), (whole(&["12345678"]), 10, false));
        assert_eq!(texts(b"12345678\r", false).1, 0, "the newline may still come");
        assert_eq!(texts(b"123456789\nx\n", false), (vec![("12345678".into(), true), ("x".into(), false)], 12, false));
        assert_eq!(texts(b"123456789ab", false), (vec![("12345678".into(), true)], 11, true));
        assert_eq!(texts(b"more\nx\n", true), (whole(&["x"]), 7, false));
        assert_eq!(texts(b"more", true), (vec![], 4, true));
    }

    #[test]
    fn no_character_is_torn_and_holes_are_no_text() {
        assert_eq!(texts("1234567ä9\n".as_bytes(), false).0, vec![("1234567".into(), true)]);
        assert_eq!(texts(b"\0\0\0a\n\0\0\n", false).0, whole(&["a"]));
    }

    /// As the tail does it: chunks of a given size, again from where the last one was consumed to.
    fn in_chunks(text: &[u8], size: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut at, mut in_cut_line, mut all) = (0, false, Vec::new());
        loop {
            let mut lines = Lines::new(&text[at..text.len().min(at + size)], MAX, in_cut_line);
            all.extend(std::iter::from_fn(|| lines.next()).map(|line| (line.text.to_vec(), line.is_cut)));
            at += lines.at;
            in_cut_line = lines.in_cut_line;
            if lines.at == 0 {
                return all;
            }
        }
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_are_cut(text in "[a-c\\n\\r\\x00ä]{0,80}", size in chunk_bytes(MAX)..40usize) {
            prop_assert_eq!(in_chunks(text.as_bytes(), size), in_chunks(text.as_bytes(), 1_000));
        }

        #[test]
        fn no_bytes_make_it_fail_or_a_line_too_long(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut lines = Lines::new(&bytes, MAX, false);
            while let Some(line) = lines.next().or_else(|| lines.unfinished()) {
                prop_assert!(line.text.len() <= MAX && !line.text.is_empty() && line.start < lines.at);
            }
            prop_assert_eq!(lines.at, bytes.len());
        }
    }
}
