//! One record that is much larger than any other: it passes, is counted once, and takes nothing beside itself.
//!
//! A test of its own, as nothing else may allocate beside it.

use ollystack_logs::{Config, Logs};
use ollystack_record::otlp::common::v1::{AnyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::{Ack, Ledger, Resource, Source, value};
use peak_alloc::PeakAlloc;
use std::sync::Arc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const NOW: u64 = 1_795_165_927_000_000_000;
/// For the miner, the row and the tables of a first line.
const BESIDE_MAX: usize = 128 << 10;

fn record(body: String, attributes: usize) -> LogRecord {
    let attributes = (0..attributes).map(|number| value::string(format!("key-{number}"), "some value")).collect();
    let body = Some(AnyValue { value: Some(Value::StringValue(body)) });
    LogRecord { observed_time_unix_nano: NOW, body, attributes, ..LogRecord::default() }
}

#[test]
fn a_huge_record_passes_whole_and_takes_nothing_beside_itself() {
    let texts = [
        ("10,000 attributes", "served".to_owned(), 10_000),
        ("4 MiB of words", "served request ".repeat(4 << 16), 0),
        ("4 MiB in one word", "x".repeat(4 << 20), 0),
        ("4 MiB of JSON", format!(r#"{{"level":"info","msg":"{}"}}"#, "\\u00e4 ".repeat(600_000)), 0),
        ("4 MiB of fields", format!("level=info msg=x {}", "key=value ".repeat(400_000)), 0),
    ];
    for (what, text, attributes) in texts {
        let mut logs = Logs::new(Config::default(), Arc::new(Ledger::default()));
        let resource = Arc::new(Resource::default());
        // As often as it takes for lines like it to fold.
        for number in 1..=7 {
            let log_records = vec![record(text.clone(), attributes)];
            let scopes = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
            let mut out = Vec::with_capacity(1);
            HEAP.reset_peak_usage();
            let before = HEAP.current_usage();
            logs.take(Source::Logs, &resource, scopes, Ack::none(), NOW, &mut out);
            let beside = HEAP.peak_usage() - before;
            assert!(beside <= BESIDE_MAX, "{what}, {number}: {beside} bytes");
            let records: u64 = out.iter().map(|reduced| reduced.records.count()).sum();
            let stats = logs.stats();
            assert_eq!((records, stats.lines, stats.rows, stats.waiting), (1, number, number, 0), "{what}");
        }
    }
}
