//! Prepares a recording for publication: `prepare IN OUT [--without SERVICE]... [--replace A=B]... [--traces SHARE]`.
//!
//! Leaves out the resources of some services, replaces texts wherever they occur, keeps a share of the traces (by trace id, so
//! whole ones as far as they carry one), and packs the result as small as zstd can. Says what it kept on standard output, and
//! with `--texts` every text of the result instead, one a line, to be searched for what should not be there. Invariant: what is
//! not named stays as it was recorded.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a tool for developers may stop")]

use ollystack_record::otlp::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::otlp::trace::v1::Span;
use ollystack_record::{Batch, Metric, Records, Resource, Sample, Scope, Series, Value as Number};
use ollystack_recording::{Reader, Writer};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

/// The smallest that needs no more memory to be read than others.
const COMPRESSION_LEVEL: i32 = 19;

#[derive(Default)]
struct Options {
    paths: Vec<String>,
    without: BTreeSet<String>,
    replace: Vec<(String, String)>,
    traces: Option<f64>,
    texts: bool,
}

fn main() {
    let options = options();
    let [from, to] = &options.paths[..] else { panic!("name two files: the recording, and the one to make") };
    let reader = Reader::new(File::open(from).unwrap()).unwrap();
    let mut writer = Writer::new(BufWriter::new(File::create(to).unwrap()), COMPRESSION_LEVEL).unwrap();
    let mut prepare = Prepare { options: &options, texts: BTreeSet::new(), series: HashMap::new() };
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for recorded in reader.map(Result::unwrap) {
        let Some(batch) = prepare.batch(recorded.batch) else { continue };
        *counts
            .entry(format!("{} of {}", batch.records.signal().name(), batch.resource.service_name()))
            .or_default() += batch.records.count();
        writer.write(&batch, recorded.came_unix_nano).unwrap();
    }
    writer.finish().unwrap();
    if options.texts {
        prepare.texts.iter().for_each(|text| println!("{}", text.escape_debug()));
    } else {
        counts.iter().for_each(|(what, count)| println!("{count:>8} {what}"));
        println!("{:>8} bytes", std::fs::metadata(to).unwrap().len());
    }
}

fn options() -> Options {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
        match argument.as_str() {
            "--without" => {
                options.without.insert(value());
            }
            "--replace" => {
                let value = value();
                let (from, to) = value.split_once('=').unwrap_or_else(|| panic!("write --replace A=B, not {value}"));
                options.replace.push((from.to_owned(), to.to_owned()));
            }
            "--traces" => options.traces = Some(value().parse().unwrap()),
            "--texts" => options.texts = true,
            _ => options.paths.push(argument),
        }
    }
    options
}

struct Prepare<'a> {
    options: &'a Options,
    texts: BTreeSet<String>,
    series: HashMap<Arc<Series>, Arc<Series>>,
}

impl Prepare<'_> {
    /// None when nothing of it is kept.
    fn batch(&mut self, mut batch: Batch) -> Option<Batch> {
        if self.options.without.contains(batch.resource.service_name()) {
            return None;
        }
        let mut attributes = batch.resource.attributes().to_vec();
        self.attributes(&mut attributes);
        let mut resource = Resource::new(attributes);
        resource.dropped_attributes_count = batch.resource.dropped_attributes_count;
        batch.resource = Arc::new(resource);
        match &mut batch.records {
            Records::Metrics(samples) => samples.iter_mut().for_each(|sample| self.sample(sample)),
            Records::Logs(scopes) => {
                for scope in scopes {
                    self.scope(scope.scope.as_mut(), &mut scope.schema_url);
                    scope.log_records.iter_mut().for_each(|record| self.log_record(record));
                }
            }
            Records::Traces(scopes) => {
                for scope in scopes.iter_mut() {
                    scope.spans.retain(|span| self.keeps(span));
                    self.scope(scope.scope.as_mut(), &mut scope.schema_url);
                    scope.spans.iter_mut().for_each(|span| self.span(span));
                }
                scopes.retain(|scope| !scope.spans.is_empty());
            }
            Records::Requests(_) => unreachable!("a recording has spans"),
        }
        (batch.records.count() > 0).then_some(batch)
    }

    /// By the last eight bytes of the trace id, which are random.
    fn keeps(&self, span: &Span) -> bool {
        let tail = span.trace_id.last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail));
        self.options.traces.is_none_or(|share| (tail as f64) < share * u64::MAX as f64)
    }

    fn scope(&mut self, scope: Option<&mut InstrumentationScope>, schema_url: &mut String) {
        self.text(schema_url);
        let Some(scope) = scope else { return };
        self.text(&mut scope.name);
        self.text(&mut scope.version);
        self.attributes(&mut scope.attributes);
    }

    fn log_record(&mut self, record: &mut LogRecord) {
        self.value(record.body.as_mut());
        self.text(&mut record.severity_text);
        self.text(&mut record.event_name);
        self.attributes(&mut record.attributes);
    }

    fn span(&mut self, span: &mut Span) {
        self.text(&mut span.name);
        self.text(&mut span.trace_state);
        self.attributes(&mut span.attributes);
        span.status.iter_mut().for_each(|status| self.text(&mut status.message));
        for event in &mut span.events {
            self.text(&mut event.name);
            self.attributes(&mut event.attributes);
        }
        for link in &mut span.links {
            self.text(&mut link.trace_state);
            self.attributes(&mut link.attributes);
        }
    }

    fn sample(&mut self, sample: &mut Sample) {
        let exemplars = match &mut sample.value {
            Number::Histogram(point) => &mut point.exemplars,
            Number::ExponentialHistogram(point) => &mut point.exemplars,
            _ => &mut sample.exemplars,
        };
        exemplars.iter_mut().for_each(|exemplar| self.attributes(&mut exemplar.filtered_attributes));
        if let Some(known) = self.series.get(&sample.series) {
            sample.series = Arc::clone(known);
            return;
        }
        let before = Arc::clone(&sample.series);
        let mut attributes = before.attributes().to_vec();
        self.attributes(&mut attributes);
        let (mut scope, mut metric) = (Scope::clone(&before.scope), Metric::clone(&before.metric));
        self.scope(Some(&mut scope.proto), &mut scope.schema_url);
        let Metric { name, unit, description, metadata, kind: _ } = &mut metric;
        [name, unit, description].into_iter().for_each(|text| self.text(text));
        self.attributes(metadata);
        sample.series = Arc::new(Series::new(Arc::new(scope), Arc::new(metric), attributes));
        self.series.insert(before, Arc::clone(&sample.series));
    }

    fn attributes(&mut self, attributes: &mut [KeyValue]) {
        for attribute in attributes {
            self.text(&mut attribute.key);
            self.value(attribute.value.as_mut());
        }
    }

    fn value(&mut self, value: Option<&mut AnyValue>) {
        match value.and_then(|value| value.value.as_mut()) {
            Some(Value::StringValue(text)) => self.text(text),
            Some(Value::BytesValue(bytes)) => {
                self.texts.insert(String::from_utf8_lossy(bytes).into_owned());
            }
            Some(Value::ArrayValue(array)) => array.values.iter_mut().for_each(|value| self.value(Some(value))),
            Some(Value::KvlistValue(list)) => self.attributes(&mut list.values),
            _ => {}
        }
    }

    fn text(&mut self, text: &mut String) {
        for (from, to) in &self.options.replace {
            if text.contains(from) {
                *text = text.replace(from, to);
            }
        }
        self.texts.insert(text.clone());
    }
}
