//! The operations that sampling knows, by service, name and kind: which are new, what is slow for each, and how each fails.
//!
//! Asked about every span. Invariant: no more than the configured number is known, of operations and of kinds of errors; others
//! are neither new nor slow, so that names without end cannot keep everything.

use super::latency::Latency;
use hashbrown::{HashMap, hash_map::Entry};
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

/// The tables, by hash alone: should two operations meet in 64 bits, they share a threshold, and no more.
#[derive(Debug)]
pub(super) struct Operations {
    table: HashMap<u64, Operation>,
    /// Kinds of errors, and when one was last seen.
    errors: HashMap<u64, u64>,
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

/// An operation of a service.
pub(super) fn key(service: u64, operation: &str, kind: i32) -> u64 {
    xxh3_64_with_seed(operation.as_bytes(), service ^ u64::from(kind.unsigned_abs()))
}

/// How an operation fails, in a word.
pub(super) fn error_key(operation: u64, error_type: &str) -> u64 {
    xxh3_64_with_seed(error_type.as_bytes(), operation)
}

impl Operations {
    pub(super) fn new(most: usize, samples_min: u64) -> Operations {
        Operations { table: HashMap::new(), errors: HashMap::new(), most, samples_min, swept_unix_nano: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Kinds of errors.
    pub(super) fn errors(&self) -> usize {
        self.errors.len()
    }

    /// An operation; none past the limit.
    pub(super) fn of(&mut self, key: u64, now_unix_nano: u64) -> Option<Known<'_>> {
        let full = self.table.len() >= self.most;
        let (first, known) = match self.table.entry(key) {
            Entry::Occupied(entry) => (false, entry.into_mut()),
            Entry::Vacant(_) if full => return None,
            Entry::Vacant(entry) => {
                let latency = Latency::new(self.samples_min);
                (true, entry.insert(Operation { latency, used_unix_nano: now_unix_nano }))
            }
        };
        known.used_unix_nano = now_unix_nano;
        Some(Known { first, latency: &mut known.latency })
    }

    /// Whether an operation fails so, by [`error_key`], for the first time.
    pub(super) fn is_first_error(&mut self, key: u64, now_unix_nano: u64) -> bool {
        if self.errors.len() >= self.most && !self.errors.contains_key(&key) {
            return false;
        }
        self.errors.insert(key, now_unix_nano).is_none()
    }

    /// Forget idle ones now and then.
    pub(super) fn tick(&mut self, now_unix_nano: u64) {
        if now_unix_nano.abs_diff(self.swept_unix_nano) < SWEEP_NANOS {
            return;
        }
        self.swept_unix_nano = now_unix_nano;
        let in_use = |used: u64| now_unix_nano < used.saturating_add(IDLE_NANOS);
        self.table.retain(|_, known| in_use(known.used_unix_nano));
        self.errors.retain(|_, used| in_use(*used));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> u64 {
        key(1, name, 0)
    }

    #[test]
    fn an_operation_is_new_once_in_each_service_and_kind() {
        let mut operations = Operations::new(10, 100);
        let mut first = |key| operations.of(key, 1).map(|known| known.first);
        assert_eq!(first(key(1, "GET /users", 2)), Some(true));
        assert_eq!(first(key(1, "GET /users", 2)), Some(false));
        assert_eq!(first(key(1, "GET /users", 3)), Some(true));
        assert_eq!(first(key(2, "GET /users", 2)), Some(true));
    }

    #[test]
    fn past_the_limit_nothing_is_new_until_something_was_forgotten() {
        let mut operations = Operations::new(2, 100);
        let mut ask = |name: &str, now| {
            operations.tick(now);
            operations.of(of(name), now).map(|known| known.first)
        };
        assert_eq!([ask("a", 1), ask("b", 1), ask("c", 1)], [Some(true), Some(true), None]);
        assert_eq!(ask("b", IDLE_NANOS / 2), Some(false));
        assert_eq!(ask("c", IDLE_NANOS + 2), Some(true));
        assert_eq!(ask("b", IDLE_NANOS + 2), Some(false));
    }

    #[test]
    fn an_error_is_new_once_for_each_operation_and_type_up_to_the_limit() {
        let mut operations = Operations::new(3, 100);
        let mut first = |name: &str, error_type| operations.is_first_error(error_key(of(name), error_type), 1);
        assert_eq!([first("a", "timeout"), first("a", "timeout"), first("a", "500")], [true, false, true]);
        assert_eq!([first("b", "timeout"), first("c", "timeout")], [true, false]);
        operations.tick(IDLE_NANOS + 2);
        assert!(
            operations.is_first_error(error_key(of("a"), "timeout"), IDLE_NANOS + 2),
            "forgotten like an operation"
        );
    }
}
