//! What is written is read, and what was not written is refused.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::otlp::metrics::v1::{Exemplar, HistogramDataPoint, SummaryDataPoint};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{Ack, Batch, Kind, Metric, Records, Resource, Sample, Scope, Series, Source, Value, value};
use ollystack_recording::{Error, MAGIC, Reader, Recorded, Writer};
use std::sync::Arc;

const START: u64 = 1_700_000_000_000_000_000;

fn resource(name: &str) -> Arc<Resource> {
    Arc::new(Resource::new(vec![value::string("service.name", name)]))
}

fn series(name: &str, kind: Kind) -> Arc<Series> {
    let metric = Metric { name: name.into(), unit: "1".into(), description: "x".into(), kind, metadata: vec![] };
    Arc::new(Series::new(Arc::new(Scope::default()), Arc::new(metric), vec![value::int("n", 1)]))
}

fn batch(source: Source, resource: &Arc<Resource>, records: Records) -> Batch {
    Batch { source, resource: Arc::clone(resource), records, ack: Ack::none() }
}

/// All that a batch says, comparable.
fn said(batch: &Batch) -> String {
    format!("{:?} {:?} {:?}", batch.source, batch.resource, batch.records)
}

fn write(batches: &[(Batch, u64)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), 3).unwrap();
    for (batch, came) in batches {
        writer.write(batch, *came).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Recorded>, Error> {
    Reader::new(bytes)?.collect()
}

/// Three seconds of two services that share their series, with every form of value.
fn some() -> Vec<(Batch, u64)> {
    let counter = Kind::Sum { monotonic: true, delta: false };
    let all = [
        series("int", counter),
        series("double", Kind::Gauge),
        series("explicit", Kind::Histogram { delta: true }),
        series("exponential", Kind::ExponentialHistogram { delta: false }),
        series("summary", Kind::Summary),
    ];
    let doubles = [0.25, 1.0 / 3.0, -0.0, 12.5, f64::MAX, 12.75];
    let (mut batches, mut doubles) = (Vec::new(), doubles.into_iter());
    for second in 0..3_u64 {
        for name in ["shop", "cart"] {
            let time = START + second * 1_000_000_000;
            let number = |at: usize, value| Sample::number(&all[at], START, time, value);
            let exemplar = Exemplar { time_unix_nano: time, ..Exemplar::default() };
            let samples = vec![
                number(0, Value::Int(i64::MAX - second as i64)),
                Sample { flags: 1, exemplars: vec![exemplar; 2], ..number(1, Value::Double(doubles.next().unwrap())) },
                number(2, Value::Histogram(Box::new(HistogramDataPoint { count: 3, ..Default::default() }))),
                number(3, Value::ExponentialHistogram(Box::default())),
                number(4, Value::Summary(Box::new(SummaryDataPoint { count: 9, ..Default::default() }))),
                number(0, Value::Missing),
            ];
            batches.push((batch(Source::Host, &resource(name), Records::Metrics(samples)), time + 5));
        }
        let line = LogRecord { time_unix_nano: second, ..LogRecord::default() };
        let scope = ScopeLogs { log_records: vec![line], ..ScopeLogs::default() };
        batches.push((batch(Source::Logs, &resource("shop"), Records::Logs(vec![scope])), START + second));
        let span = Span { name: "GET /".into(), trace_id: vec![second as u8; 16], ..Span::default() };
        let scope = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
        batches.push((batch(Source::Ebpf, &resource("shop"), Records::Traces(vec![scope])), START + second));
    }
    batches
}

#[test]
fn every_batch_comes_back_as_it_was_and_when_it_came() {
    let batches = some();
    let found = read(&write(&batches)).unwrap();
    assert_eq!(found.len(), batches.len());
    for (found, (batch, came)) in found.iter().zip(&batches) {
        assert_eq!((said(&found.batch), found.came_unix_nano), (said(batch), *came));
    }
}

#[test]
fn a_series_that_comes_each_second_is_one_series() {
    let found = read(&write(&some())).unwrap();
    let first: Vec<Arc<Series>> = found
        .iter()
        .filter_map(|recorded| match &recorded.batch.records {
            Records::Metrics(samples) => Some(Arc::clone(&samples[0].series)),
            _ => None,
        })
        .collect();
    assert!(first.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
}

#[test]
fn a_long_recording_forgets_and_goes_on() {
    let many: Vec<Sample> =
        (0..60_000).map(|n| Sample::number(&series(&format!("m{n}"), Kind::Gauge), 0, START, Value::Int(n))).collect();
    let batches: Vec<(Batch, u64)> =
        (0..3).map(|at| (batch(Source::Otlp, &resource("shop"), Records::Metrics(many.clone())), START + at)).collect();
    let found = read(&write(&batches)).unwrap();
    assert_eq!(said(&found[2].batch), said(&batches[2].0));
}

#[test]
fn another_file_is_refused() {
    assert!(matches!(read(b"PK\x03\x04 and more"), Err(Error::NoRecording)));
    assert!(matches!(read(b"oll"), Err(Error::NoRecording)));
}

#[test]
fn a_recording_that_is_cut_off_gives_what_is_whole_and_then_an_error() {
    let whole = write(&some());
    let mut reader = Reader::new(&whole[..whole.len() - 9]).unwrap();
    let ends = reader.by_ref().find(|read| read.is_err());
    assert!(ends.is_some());
    assert!(reader.next().is_none(), "nothing comes after an error");
}

#[test]
fn entries_that_no_writer_makes_are_refused_and_named() {
    let hostile: &[(&[u8], &str)] = &[
        (&[9, 0], "entry 1 of the recording is damaged: of an unknown kind"),
        (
            &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            "entry 1 of the recording is damaged: too long",
        ),
        (
            &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            "entry 1 of the recording is damaged: too long",
        ),
        (&[1, 5, 0], "entry 1 of the recording is damaged: cut off"),
        (&[1, 1, 7], "entry 1 of the recording is damaged: no resource"),
        (&[6, 0, 2, 0], "entry 2 of the recording is damaged: no series"),
        (&[3, 3, 0, 0, 0], "entry 1 of the recording is damaged: no batch"),
        (&[1, 0, 3, 3, 0, 9, 0], "entry 2 of the recording is damaged: no batch"),
        (&[1, 0, 3, 4, 0, 0, 0, 200], "entry 2 of the recording is damaged: no batch"),
    ];
    for (entries, expected) in hostile {
        let bytes = [&MAGIC[..], &zstd::encode_all(*entries, 1).unwrap()].concat();
        assert_eq!(read(&bytes).unwrap_err().to_string(), *expected);
    }
}

#[test]
fn a_column_that_announces_more_samples_than_it_has_is_refused() {
    // A resource; a batch that came at 0 from the host about it; 2^62 samples; seven empty columns.
    let count = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    let body = [&[0, 0, 0][..], &count, &[0; 7]].concat();
    let entries = [&[1, 0, 3, body.len() as u8][..], &body].concat();
    let bytes = [&MAGIC[..], &zstd::encode_all(&entries[..], 1).unwrap()].concat();
    assert_eq!(read(&bytes).unwrap_err().to_string(), "entry 2 of the recording is damaged: no batch");
}
