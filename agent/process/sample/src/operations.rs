//! The operations that sampling knows, by service, name and kind: which are new, and what is slow for each.
//!
//! Asked about every span. Invariant: no more than the configured number is known; spans of others are neither new nor slow, so
//! that names without end cannot keep everything.

use super::latency::Latency;
use crate::operation::operation;
use hashbrown::HashMap;
use ollystack_record::otlp::trace::v1::Span;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// An operation that no span had for so long is forgotten: when it comes again, it is new again.
const IDLE_NANOS: u64 = 3_600_000_000_000;

/// How often idle ones are looked for.
const SWEEP_NANOS: u64 = 60_000_000_000;

#[derive(Debug)]
struct Operation {
    latency: Latency,
    used_unix_nano: u64,
}

/// The table, by hash alone: should two operations meet in 64 bits, they share a threshold, and no more.
#[derive(Debug)]
pub(super) struct Operations {
    table: HashMap<u64, Operation>,
    most: usize,
    samples_min: u64,
    swept_unix_nano: u64,
}

/// What is known of a span's operation.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// This is its first span.
    pub(super) first: bool,
    pub(super) latency: &'a mut Latency,
}

impl Operations {
    pub(super) fn new(most: usize, samples_min: u64) -> Operations {
        Operations { table: HashMap::new(), most, samples_min, swept_unix_nano: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The operation of a span of a service; none past the limit.
    pub(super) fn of(&mut self, service: u64, span: &Span, now_unix_nano: u64) -> Option<Known<'_>> {
        let key = xxh3_64_with_seed(operation(span).as_bytes(), service ^ span.kind.unsigned_abs() as u64);
        let first = !self.table.contains_key(&key);
        if first && self.table.len() >= self.most {
            return None;
        }
        let known = self
            .table
            .entry(key)
            .or_insert_with(|| Operation { latency: Latency::new(self.samples_min), used_unix_nano: now_unix_nano });
        known.used_unix_nano = now_unix_nano;
        Some(Known { first, latency: &mut known.latency })
    }

    /// Forget idle ones now and then.
    pub(super) fn tick(&mut self, now_unix_nano: u64) {
        if now_unix_nano.abs_diff(self.swept_unix_nano) < SWEEP_NANOS {
            return;
        }
        self.swept_unix_nano = now_unix_nano;
        self.table.retain(|_, known| now_unix_nano < known.used_unix_nano.saturating_add(IDLE_NANOS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str) -> Span {
        Span { name: name.to_owned(), ..Span::default() }
    }

    #[test]
    fn an_operation_is_new_once_whatever_ids_its_spans_bear() {
        let mut operations = Operations::new(10, 100);
        let mut first = |service, name| operations.of(service, &span(name), 1).map(|known| known.first);
        assert_eq!(first(1, "GET /users/7"), Some(true));
        assert_eq!(first(1, "GET /users/8"), Some(false));
        assert_eq!(first(2, "GET /users/8"), Some(true));
    }

    #[test]
    fn past_the_limit_nothing_is_new_until_something_was_forgotten() {
        let mut operations = Operations::new(2, 100);
        let mut ask = |name: &str, now| {
            operations.tick(now);
            operations.of(1, &span(name), now).map(|known| known.first)
        };
        assert_eq!([ask("a", 1), ask("b", 1), ask("c", 1)], [Some(true), Some(true), None]);
        assert_eq!(ask("b", IDLE_NANOS / 2), Some(false));
        assert_eq!(ask("c", IDLE_NANOS + 2), Some(true));
        assert_eq!(ask("b", IDLE_NANOS + 2), Some(false));
    }
}
