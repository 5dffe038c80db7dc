//! What the stage says it holds, against a counting allocator, whatever lines come.
//!
//! A test of its own, as nothing else may allocate beside it. Invariant: what is declared is taken at least, and both stay within
//! the limits.

use ollystack_logs::{Config, Logs};
use ollystack_record::otlp::common::v1::{AnyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::{Ack, Ledger, Resource, Source, value};
use peak_alloc::PeakAlloc;
use std::sync::Arc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const NOW: u64 = 1_795_165_927_000_000_000;
/// What a batch takes while it passes, and what is rounded.
const SLACK: usize = 64 << 10;

fn record(body: String) -> LogRecord {
    let attributes = vec![value::string("log.file.path", "/var/log/shop/shop.log")];
    let body = Some(AnyValue { value: Some(Value::StringValue(body)) });
    LogRecord { observed_time_unix_nano: NOW, body, attributes, ..LogRecord::default() }
}

/// A word of eight letters for each number.
fn word(number: usize) -> String {
    let mut mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 32;
    (0..8).map(|at| char::from(b'g' + (mixed >> (4 * at) & 15) as u8)).collect()
}

fn service(number: usize) -> Arc<Resource> {
    let name = format!("service-{number}");
    Arc::new(Resource::new(vec![value::string("service.name", name), value::string("host.name", "x".repeat(200))]))
}

/// Takes these batches, and looks after each; so many bytes are the most that was held.
fn held_most(config: &Config, batches: usize, batch: impl Fn(usize) -> (Arc<Resource>, Vec<LogRecord>)) -> usize {
    let limit = config.patterns_bytes_max + config.window_bytes_max;
    let before = HEAP.current_usage();
    let mut logs = Logs::new(config.clone(), Arc::new(Ledger::default()));
    let mut most = 0;
    for number in 0..batches {
        let (resource, records) = batch(number);
        let mut out = Vec::new();
        let scopes = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
        logs.take(Source::Logs, &resource, scopes, Ack::none(), NOW + number as u64, &mut out);
        drop((out, resource));
        let (held, said) = (HEAP.current_usage() - before, logs.stats().bytes);
        assert!(held <= said + SLACK, "batch {number} holds {held}, says {said}");
        assert!(said <= limit + SLACK, "batch {number} says {said} of {limit}");
        most = most.max(said);
    }
    most
}

#[test]
fn memory_is_declared_and_within_its_limits_whatever_comes() {
    let whole = Config { whole_per_window: 0, ..Config::default() };
    let few = Config { patterns_bytes_max: 64 << 10, window_bytes_max: 256 << 10, ..Config::default() };
    for config in [Config::default(), whole, few] {
        let window = config.window_bytes_max;
        let resources = held_most(&config, 20_000, |number| {
            (service(number), vec![record(format!("{} started", word(number % 50)))])
        });
        assert!(resources > window / 2, "resources take {resources}: the limit was not reached");
        held_most(&config, 100, |number| {
            let line = |at| record(format!("{} of {} is {}", word(number * 40 + at / 3), word(at), word(number)));
            (service(number % 3), (0..120).map(line).collect())
        });
        held_most(&config, 60, |number| {
            let line = |at: usize| record(format!("{} {}", word(at % 2), "x".repeat(1 << 20)));
            (service(number % 2), (0..4).map(line).collect())
        });
        held_most(&config, 60, |number| {
            let bytes: Vec<u8> =
                (0..20_000_usize).map(|at| (at.wrapping_mul(2_654_435_761) >> (number % 23)) as u8).collect();
            (service(0), (0..20).map(|_| record(String::from_utf8_lossy(&bytes).into_owned())).collect())
        });
    }
}
