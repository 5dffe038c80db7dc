//! Lines into records: frames unwrapped, parts of a line put together, a stack trace kept in one piece.
//!
//! Pure, as `lines`: a record that may go on stays unread in the file, from its first line, and is looked at again with what
//! follows it, so there is nothing to keep across restarts, and an offset is one number. The streams of a container interleave;
//! the file is left at a point that no record lies across. Invariant: every line is in exactly one record, whatever the chunks,
//! and a record is no longer than the limits; what is beyond them is another record.

use crate::frame::{Frame, Framing, Stream};
use crate::lines::{self, Line, Lines};
use crate::offsets::Mark;
use ollystack_multiline::Shape;
use regex::bytes::Regex;
use std::borrow::Cow;
use std::sync::Arc;

/// Which lines of a file are one record.
#[derive(Clone, Debug)]
pub(crate) enum Multiline {
    /// By how they look.
    Auto,
    /// Each for itself.
    Off,
    /// A line that matches begins a record, any other continues it.
    Start(Arc<Regex>),
}

/// How to read a file.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) framing: Framing,
    pub(crate) multiline: Multiline,
}

/// How much to take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest line, and longest record, in bytes.
    pub(crate) line_bytes_max: usize,
    /// Most lines of one record.
    pub(crate) lines_max: u32,
    /// Once there are so many records, no further line is looked at. The last line may have ended two, and of each stream one that is open
    /// may be ended besides: four more.
    pub(crate) records_max: usize,
    /// Most bytes of a chunk: one that is so long will not get longer.
    pub(crate) chunk_bytes_max: usize,
}

/// What is waited for no longer, as its writer has been silent for long. Each goes further than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    #[default]
    Nothing,
    /// The end of the first record that is open.
    Record,
    /// The end of the last line, and of all records.
    Line,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record<'a> {
    pub(crate) text: Cow<'a, [u8]>,
    /// Lines that it stands for.
    pub(crate) lines: u32,
    pub(crate) stream: Stream,
    /// When its first line was written. Nanoseconds since the epoch; 0: not known.
    pub(crate) time_unix_nano: u64,
    /// Whether the end of its last line was cut off.
    pub(crate) is_cut: bool,
    /// Whether it continues one that a limit or a silence ended.
    is_continued: bool,
    /// Where its first line begins and its last one ends, in the chunk.
    start: usize,
    end: usize,
}

/// Where each record begins in the chunk; those of streams that interleave lie across each other, and begin where the first of
/// them does: a part of a file that holds one of them whole holds all.
pub(crate) fn starts(records: &[Record<'_>]) -> Vec<usize> {
    let (mut start, mut reach) = (0, 0);
    let starts = records.iter().map(|record| {
        if record.start >= reach {
            start = record.start;
        }
        reach = reach.max(record.end);
        start
    });
    starts.collect()
}

/// What a chunk holds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Joined<'a> {
    /// In the order of their first lines.
    pub(crate) records: Vec<Record<'a>>,
    /// Bytes that need not be looked at again.
    pub(crate) consumed: usize,
    /// How to go on after them, see [`Mark`].
    pub(crate) in_cut_line: bool,
    pub(crate) in_record: bool,
    /// The first record that may go on: where it begins, and where what there is of it ends.
    pub(crate) open: Option<(usize, usize)>,
    /// Whether bytes without a newline follow all that.
    pub(crate) is_unfinished: bool,
    /// Whether there are as many records as may be; then what follows was not looked at.
    pub(crate) is_full: bool,
}

/// A record that may go on.
#[derive(Debug)]
struct Open<'a> {
    record: Record<'a>,
    shape: Shape,
    /// Whether its last line goes on in the next frame.
    is_partial: bool,
}

impl Multiline {
    fn head(&self, line: &[u8]) -> Shape {
        match self {
            Multiline::Auto => Shape::head(line),
            Multiline::Off => Shape::Whole,
            Multiline::Start(_) => Shape::Line,
        }
    }

    fn with(&self, shape: Shape, line: &[u8]) -> Option<Shape> {
        match self {
            Multiline::Auto => shape.with(line),
            Multiline::Off => None,
            Multiline::Start(start) => (!start.is_match(line)).then_some(shape),
        }
    }
}

/// Make records of a chunk. `from` is how it begins. A chunk of `limits.chunk_bytes_max` always yields something, or all of it
/// need not be looked at again.
pub(crate) fn join<'a>(chunk: &'a [u8], from: Mark, layout: &Layout, limits: Limits, due: Due) -> Joined<'a> {
    let rest_of = [from.in_record; 3];
    let mut joiner = Joiner { layout, limits, chunk, done: Vec::new(), open: Default::default(), rest_of };
    // A frame and its escapes come beside the text, which is cut when it is unwrapped.
    let line_bytes_max = match layout.framing {
        Framing::Plain => limits.line_bytes_max,
        Framing::Docker | Framing::Cri => limits.chunk_bytes_max.saturating_sub(lines::chunk_bytes(0)),
    };
    let mut lines = Lines::new(chunk, line_bytes_max, from.in_cut_line);
    while joiner.done.len() < limits.records_max {
        match lines.next() {
            Some(line) => joiner.take(line, lines.at),
            None => break,
        }
    }
    let has_room = joiner.done.len() < limits.records_max;
    if has_room && due == Due::Line {
        if let Some(line) = lines.unfinished() {
            joiner.take(line, lines.at);
        }
        joiner.close_all_early();
    } else if due >= Due::Record
        && let Some(slot) = joiner.first_open()
    {
        joiner.close_early(slot);
    }
    let mut left_at = joiner.left_at(lines.at);
    // No more would come by waiting, or a record that is due lies across another: what there is of them must do.
    let is_full = !has_room || chunk.len() >= limits.chunk_bytes_max;
    if left_at == 0 && (is_full || due > Due::Nothing) {
        joiner.close_all_early();
        left_at = joiner.left_at(lines.at);
    }
    Joined { is_full: !has_room, ..joiner.finish(&lines, left_at) }
}

struct Joiner<'a, 'b> {
    layout: &'b Layout,
    limits: Limits,
    chunk: &'a [u8],
    done: Vec<Record<'a>>,
    /// By stream.
    open: [Option<Open<'a>>; 3],
    /// Whether the next line of a stream may continue a record that was ended before it was over.
    rest_of: [bool; 3],
}

impl<'a> Joiner<'a, '_> {
    fn take(&mut self, mut line: Line<'a>, end: usize) {
        let Frame { mut text, stream, time_unix_nano, is_partial } = self.layout.framing.unwrap(line.text);
        if text.len() > self.limits.line_bytes_max {
            let length = lines::cut(&text, self.limits.line_bytes_max).len();
            match &mut text {
                Cow::Borrowed(text) => *text = &text[..length],
                Cow::Owned(text) => text.truncate(length),
            }
            line.is_cut = true;
        }
        let slot = stream as usize;
        let begun = self.open[slot].as_ref().map(|open| (open.is_partial, open.shape));
        if text.is_empty() && !line.is_cut {
            // A blank line is no record; it may end one that came in parts.
            if let (Some(open), Some((true, _))) = (&mut self.open[slot], begun) {
                (open.is_partial, open.record.end) = (is_partial, end);
                self.close_if_whole(slot);
            }
            return;
        }
        let shape = match begun {
            Some((true, shape)) => Some(shape),
            Some((false, shape)) => self.layout.multiline.with(shape, &text),
            None if self.rest_of[slot] => self.layout.multiline.with(Shape::Body, &text),
            None => None,
        };
        self.rest_of[slot] = false;
        let is_continued = shape.is_some();
        let shape = shape.unwrap_or_else(|| self.layout.multiline.head(&text));
        let rules = (self.chunk, self.layout.framing, self.limits);
        if let (true, Some(open)) = (is_continued, &mut self.open[slot])
            && open.add(&text, line, end, rules)
        {
            (open.shape, open.is_partial) = (shape, is_partial);
        } else {
            self.close(slot);
            let (start, is_cut) = (line.start, line.is_cut);
            let record = Record { text, lines: 1, stream, time_unix_nano, is_cut, is_continued, start, end };
            self.open[slot] = Some(Open { record, shape, is_partial });
        }
        self.close_if_whole(slot);
    }

    /// Nothing can come after it that belongs to it.
    fn close_if_whole(&mut self, slot: usize) {
        if self.open[slot]
            .as_ref()
            .is_some_and(|open| open.record.is_cut || (!open.is_partial && open.shape.is_whole()))
        {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: usize) {
        self.done.extend(self.open[slot].take().map(|open| open.record));
    }

    /// End what is not over; its rest may still come.
    fn close_early(&mut self, slot: usize) {
        self.close(slot);
        self.rest_of[slot] = true;
    }

    fn close_all_early(&mut self) {
        for slot in 0..self.open.len() {
            if self.open[slot].is_some() {
                self.close_early(slot);
            }
        }
    }

    fn first_open(&self) -> Option<usize> {
        let open = self.open.iter().enumerate().filter_map(|(slot, open)| Some((open.as_ref()?.record.start, slot)));
        open.min().map(|(_, slot)| slot)
    }

    /// Where the file can be left: the last point that no record lies across. Records after it come again. `at` is where the
    /// lines end.
    fn left_at(&mut self, at: usize) -> usize {
        let open = self.open_record().map_or(at, |open| open.start);
        // Within one stream records lie one after the other.
        if self.layout.framing != Framing::Plain {
            self.done.sort_unstable_by_key(|record| record.start);
        }
        let (mut left_at, mut reach) = (0, 0);
        for record in self.done.iter().take_while(|record| record.start < open) {
            if reach <= record.start {
                left_at = record.start;
            }
            reach = reach.max(record.end);
        }
        if reach <= open { open } else { left_at }
    }

    fn open_record(&self) -> Option<&Record<'a>> {
        self.open.iter().flatten().map(|open| &open.record).min_by_key(|record| record.start)
    }

    fn finish(mut self, lines: &Lines<'_>, left_at: usize) -> Joined<'a> {
        let open = self.open_record().map(|record| (record.start, record.end));
        let count = self.done.partition_point(|record| record.start < left_at);
        let next = self.done.get(count).into_iter().chain(self.open_record()).find(|record| record.start == left_at);
        let in_record = next.map_or_else(|| self.rest_of.contains(&true), |record| record.is_continued);
        self.done.truncate(count);
        let in_cut_line = lines.in_cut_line && left_at == lines.at;
        let is_unfinished = lines.at < self.chunk.len();
        Joined { records: self.done, consumed: left_at, in_cut_line, in_record, open, is_unfinished, is_full: false }
    }
}

impl<'a> Open<'a> {
    /// Put a line at its end, or the next part of its last line. False if there is no room.
    fn add(&mut self, text: &[u8], line: Line<'a>, end: usize, rules: (&'a [u8], Framing, Limits)) -> bool {
        let (chunk, framing, limits) = rules;
        let record = &mut self.record;
        if framing == Framing::Plain {
            // Lines of a plain file lie side by side: the record is what they span, blank lines too, and nothing is copied.
            let whole = &chunk[record.start..line.start + line.text.len()];
            let has_hole = chunk[record.end..line.start].contains(&0);
            if has_hole || record.lines >= limits.lines_max || whole.len() > limits.line_bytes_max {
                return false;
            }
            record.text = whole.into();
        } else {
            let has_lines = self.is_partial || record.lines < limits.lines_max;
            if !has_lines || record.text.len() + 1 + text.len() > limits.line_bytes_max {
                return false;
            }
            if !self.is_partial {
                record.text.to_mut().push(b'\n');
            }
            record.text.to_mut().extend_from_slice(text);
        }
        record.lines += u32::from(!self.is_partial);
        record.is_cut = line.is_cut;
        record.end = end;
        true
    }
}

#[cfg(test)]
mod tests;
