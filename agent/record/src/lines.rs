//! Under which request a line was written: what the input that looks into the kernel saw, for whoever reads the line in a log.
//!
//! A line is known again by what it says: where it is written and where it is read are too different things (a pipe, a container runtime's
//! file, the journal) for anything else. In: lines as threads wrote them, each with the span of the one request that the thread was serving,
//! or with none where that is in doubt. Out: trace and span of log records that say just the same, all of it. Invariants: what was written
//! under two requests, or under one and outside of it, is nobody's; at most two generations of [`GENERATION_MAX`] lines are remembered.

use crate::otlp::common::v1::any_value::Value;
use crate::otlp::logs::v1::LogRecord;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The longest line, with its newline, that is known by all of it; of a longer one so much of the beginning is looked at, and the rest of
/// this from the end.
pub const WHOLE_BYTES: usize = 144;
/// See [`WHOLE_BYTES`].
pub const HEAD_BYTES: usize = 96;
const TAIL_BYTES: usize = WHOLE_BYTES - HEAD_BYTES;

/// As many as a table of 1,024 places of 41 bytes holds before it grows.
const GENERATION_MAX: usize = 896;
/// Lines that nobody asked for in so long will not be asked for: those of logs are read within a second.
const GENERATION: Duration = Duration::from_secs(5);
/// Memory that both generations take at most: 2 x 1,024 x 41 B, and the ends of the tables.
pub const BYTES_MAX: u64 = 83 << 10;

/// Who asks waits no longer than this for lines that were written before. It takes a millisecond, but on a host without a free CPU.
const PATIENCE: Duration = Duration::from_millis(500);

/// The span under which a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Under {
    /// Trace; not zero.
    pub trace: [u8; 16],
    /// Span.
    pub span: [u8; 8],
    /// When its request came, nanoseconds since the epoch: a line that says it is older was kept back, and is another's.
    pub asked_unix_nano: u64,
}

impl Under {
    /// Whether both are of one request. By when that came they are not: it is reckoned anew from two clocks each time that lines are told.
    fn is_one_with(&self, other: &Under) -> bool {
        self.trace == other.trace && self.span == other.span
    }
}

/// In place of the one that there is not.
const NOBODY: Under = Under { trace: [0; 16], span: [0; 8], asked_unix_nano: 0 };

/// Shared: one tells, another asks.
#[derive(Debug)]
pub struct Lines {
    known: Mutex<Known>,
    /// Up to when (nanoseconds since the epoch) all that was written has been told; 0 while nobody tells.
    told_until: watch::Sender<u64>,
    asked: Notify,
    alike: AtomicU64,
    late: AtomicU64,
}

/// Why lines that were written under a request have no trace. Counters only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubts {
    /// Lines that said the same as one of another request, or of none.
    pub alike: u64,
    /// Times that who asked was not told in time what had been written.
    pub late: u64,
}

#[derive(Debug, Default)]
struct Known {
    young: HashMap<u64, Under>,
    old: HashMap<u64, Under>,
    /// When the young generation began, nanoseconds since the epoch.
    began: u64,
}

impl Default for Lines {
    fn default() -> Lines {
        let (known, told_until, asked) = (Mutex::default(), watch::Sender::new(0), Notify::new());
        Lines { known, told_until, asked, alike: AtomicU64::new(0), late: AtomicU64::new(0) }
    }
}

impl Lines {
    /// A line was written: `shown` is what is shown of it, `length` its bytes, both with the newline. `None`: under no request, or nobody
    /// knows which.
    pub fn tell(&self, shown: &[u8], length: usize, under: Option<Under>, now_unix_nano: u64) {
        if let Some(key) = key_of_write(shown, length) {
            let is_alike = self.known().tell(key, under.unwrap_or(NOBODY), now_unix_nano);
            self.alike.fetch_add(is_alike.into(), Relaxed);
        }
    }

    /// All that was written until then (nanoseconds since the epoch) has been told.
    pub fn told_until(&self, unix_nano: u64) {
        self.told_until.send_replace(unix_nano.max(1));
    }

    /// From now on nobody tells. What was told is still known.
    pub fn rest(&self) {
        self.told_until.send_replace(0);
    }

    /// What was told before is in doubt: lines are missing from it.
    pub fn forget(&self) {
        *self.known() = Known::default();
    }

    /// Wait until somebody asks for what was written until now.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Wait until all that was written before `unix_nano` has been told: a moment, or not at all if nobody tells.
    pub async fn settle(&self, unix_nano: u64) {
        // A clock that was set back since would never get there.
        let until = unix_nano.min(now());
        let mut told = self.told_until.subscribe();
        let is_there = |at: &u64| *at == 0 || *at >= until;
        if is_there(&told.borrow()) {
            return;
        }
        self.asked.notify_one();
        if tokio::time::timeout(PATIENCE, told.wait_for(is_there)).await.is_err() {
            // Whoever is so slow is not waited for again until he speaks.
            self.late.fetch_add(1, Relaxed);
            self.rest();
        }
    }

    /// Under what a record was written, if its text is just what was written, and there is no doubt. `None` for a record that names a trace.
    pub fn of(&self, record: &LogRecord) -> Option<Under> {
        let Some(Value::StringValue(text)) = record.body.as_ref().and_then(|body| body.value.as_ref()) else {
            return None;
        };
        if !record.trace_id.is_empty() {
            return None;
        }
        let known = self.known();
        if known.is_empty() {
            return None;
        }
        known.find(key_of_text(text.as_bytes())).filter(|under| *under != NOBODY)
    }

    /// How often a trace was left out.
    pub fn doubts(&self) -> Doubts {
        Doubts { alike: self.alike.load(Relaxed), late: self.late.load(Relaxed) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether it says the same as a line that is not of this request.
    fn tell(&mut self, key: u64, under: Under, now_unix_nano: u64) -> bool {
        let is_over = now_unix_nano.abs_diff(self.began) >= GENERATION.as_nanos() as u64;
        if is_over || self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
            self.began = now_unix_nano;
        }
        let is_alike = self.find(key).is_some_and(|before| !before.is_one_with(&under));
        self.young.insert(key, if is_alike { NOBODY } else { under });
        is_alike
    }

    fn find(&self, key: u64) -> Option<Under> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

fn key_of_write(shown: &[u8], length: usize) -> Option<u64> {
    if length <= WHOLE_BYTES {
        let text = shown.get(..length)?;
        let end = text.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'))?;
        return Some(key(&text[..=end], &[], 0));
    }
    let (head, tail) = shown.get(..WHOLE_BYTES)?.split_at(HEAD_BYTES);
    let tail = tail.strip_suffix(b"\n")?;
    Some(key(head, tail, length - 1))
}

/// Of a text without a newline at its end.
fn key_of_text(text: &[u8]) -> u64 {
    if text.len() < WHOLE_BYTES {
        return key(text, &[], 0);
    }
    let (head, tail) = (&text[..HEAD_BYTES], &text[text.len() + 1 - TAIL_BYTES..]);
    key(head, tail, text.len())
}

/// 64 bits that tell a line from others. `length` 0: all of it is there.
fn key(head: &[u8], tail: &[u8], length: usize) -> u64 {
    let head = xxh3_64_with_seed(head, length as u64);
    if tail.is_empty() { head } else { xxh3_64_with_seed(tail, head) }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::common::v1::AnyValue;
    use std::sync::Arc;

    const A: Under = Under { trace: [1; 16], span: [1; 8], asked_unix_nano: 1 };
    const B: Under = Under { trace: [2; 16], span: [2; 8], asked_unix_nano: 1 };

    fn write(lines: &Lines, text: &str, under: Option<Under>, now: u64) {
        let shown = match text.as_bytes() {
            short if short.len() <= WHOLE_BYTES => short.to_vec(),
            long => [&long[..HEAD_BYTES], &long[long.len() - TAIL_BYTES..]].concat(),
        };
        lines.tell(&shown, text.len(), under, now);
    }

    fn read(lines: &Lines, text: &str) -> Option<Under> {
        let body = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
        lines.of(&LogRecord { body, ..LogRecord::default() })
    }

    #[test]
    fn a_line_of_any_length_is_found_by_all_that_it_says() {
        let lines = Lines::default();
        for length in 8..400 {
            let text = format!("{length} {}", "x".repeat(length));
            write(&lines, &format!("{text}\n"), Some(A), 1);
            assert_eq!(read(&lines, &text), Some(A), "{length}");
            assert_eq!(read(&lines, &format!("{text}x")), None, "{length}");
            assert_eq!(read(&lines, &text[1..]), None, "{length}");
        }
        write(&lines, "of windows\r\n", Some(A), 1);
        assert_eq!(read(&lines, "of windows"), Some(A));
    }

    #[test]
    fn several_lines_in_one_call_are_one_record_or_nobody_s() {
        let lines = Lines::default();
        write(&lines, "failed\n  at here\n", Some(A), 1);
        assert_eq!((read(&lines, "failed\n  at here"), read(&lines, "failed")), (Some(A), None));
        let kept_back: Vec<String> = (0..40).map(|number| format!("request {number} is done\n")).collect();
        write(&lines, &kept_back.concat(), Some(A), 1);
        assert!(kept_back.iter().all(|line| read(&lines, line.trim_end()).is_none()));
    }

    #[test]
    fn what_a_request_says_twice_is_its_own_also_if_its_time_is_told_a_little_differently() {
        let lines = Lines::default();
        for asked_unix_nano in [1_000_000, 1_000_020, 999_990] {
            write(&lines, "to a file and to the console\n", Some(Under { asked_unix_nano, ..A }), 1);
        }
        let found = read(&lines, "to a file and to the console").map(|under| (under.trace, under.span));
        assert_eq!((found, lines.doubts().alike), (Some((A.trace, A.span)), 0));
    }

    #[test]
    fn what_two_requests_say_alike_is_nobody_s_nor_what_is_said_outside_of_any() {
        let lines = Lines::default();
        for (text, first, second, expected) in [
            ("the same request\n", Some(A), Some(A), Some(A)),
            ("another request\n", Some(A), Some(B), None),
            ("outside, later\n", Some(A), None, None),
            ("outside, before\n", None, Some(A), None),
        ] {
            write(&lines, text, first, 1);
            write(&lines, text, second, GENERATION.as_nanos() as u64 + 1);
            assert_eq!(read(&lines, text.trim_end()), expected, "{text}");
        }
        assert_eq!(lines.doubts(), Doubts { alike: 3, late: 0 });
    }

    #[test]
    fn a_record_that_names_a_trace_or_has_no_text_is_left_alone() {
        let lines = Lines::default();
        write(&lines, "something\n", Some(A), 1);
        let body = Some(AnyValue { value: Some(Value::StringValue("something".into())) });
        assert_eq!(lines.of(&LogRecord { body, trace_id: vec![7; 16], ..LogRecord::default() }), None);
        assert_eq!(lines.of(&LogRecord::default()), None);
    }

    #[test]
    fn lines_are_forgotten_by_age_and_number() {
        let (lines, age) = (Lines::default(), GENERATION.as_nanos() as u64);
        write(&lines, "the first\n", Some(A), age);
        write(&lines, "the second\n", Some(A), 2 * age);
        assert_eq!(read(&lines, "the first"), Some(A));
        write(&lines, "the third\n", Some(A), 3 * age);
        assert_eq!((read(&lines, "the first"), read(&lines, "the second")), (None, Some(A)));
        for number in 0..10_000 {
            write(&lines, &format!("line {number}\n"), Some(A), 3 * age);
        }
        let known = lines.known();
        assert!(known.young.len() + known.old.len() <= 2 * GENERATION_MAX);
        assert!(known.young.capacity().max(known.old.capacity()) <= GENERATION_MAX);
    }

    #[tokio::test]
    async fn who_asks_waits_for_what_was_written_before_and_for_nobody_who_does_not_tell() {
        let lines = Arc::new(Lines::default());
        lines.settle(u64::MAX).await;
        lines.told_until(1);
        let teller = tokio::spawn({
            let lines = Arc::clone(&lines);
            async move {
                lines.asked().await;
                write(&lines, "just written\n", Some(A), 1);
                lines.told_until(u64::MAX);
            }
        });
        lines.settle(7).await;
        assert_eq!(read(&lines, "just written"), Some(A));
        teller.await.unwrap();
        // One who does not answer is waited for once.
        lines.told_until(1);
        lines.settle(7).await;
        assert_eq!((*lines.told_until.borrow(), lines.doubts().late), (0, 1));
        lines.settle(7).await;
        lines.forget();
        assert_eq!(read(&lines, "just written"), None);
    }
}
