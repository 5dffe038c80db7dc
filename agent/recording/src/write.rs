//! Batches to a file.
//!
//! Invariant: a resource or series is written before the first batch that names its number.

use crate::samples::{self, Lasts};
use crate::varint::{put, put_difference};
use crate::{Error, FORGET, LOGS, MAGIC, METRICS, NUMBERS_MAX, RESOURCE, SERIES, TRACES, describe};
use ollystack_record::otlp::logs::v1::ResourceLogs;
use ollystack_record::otlp::trace::v1::ResourceSpans;
use ollystack_record::request::scope_spans;
use ollystack_record::{Batch, Records, Resource, Series, Source};
use prost::Message;
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

/// Matches are looked for this far back, as a power of two: minutes of a host's batches, and as much memory.
const WINDOW_LOG: u32 = 23;

/// A recording being made.
pub struct Writer<W: Write> {
    out: zstd::Encoder<'static, W>,
    numbers: Numbers,
    came_before: u64,
}

#[derive(Default)]
struct Numbers {
    resources: HashMap<Arc<Resource>, u64>,
    series: HashMap<Arc<Series>, u64>,
    last: Lasts,
}

impl<W: Write> Writer<W> {
    /// Begin a recording; `level` is zstd's.
    pub fn new(mut out: W, level: i32) -> Result<Writer<W>, Error> {
        out.write_all(&MAGIC)?;
        let mut out = zstd::Encoder::new(out, level)?;
        out.window_log(WINDOW_LOG)?;
        out.include_checksum(true)?;
        Ok(Writer { out, numbers: Numbers::default(), came_before: 0 })
    }

    /// Append a batch that came at `came_unix_nano`. Its acknowledgement is not looked at.
    pub fn write(&mut self, batch: &Batch, came_unix_nano: u64) -> Result<(), Error> {
        let known = self.numbers.resources.len() + self.numbers.series.len() + self.numbers.last.len();
        if known >= NUMBERS_MAX {
            self.numbers = Numbers::default();
            self.entry(FORGET, &[])?;
        }
        let resource = self.resource(&batch.resource)?;
        let mut body = Vec::new();
        put_difference(&mut body, self.came_before, came_unix_nano);
        body.push(Source::ALL.iter().position(|source| *source == batch.source).unwrap_or_default() as u8);
        put(&mut body, resource);
        let kind = match &batch.records {
            Records::Metrics(taken) => {
                let mut numbers = Vec::with_capacity(taken.len());
                for sample in taken {
                    numbers.push(self.series(&sample.series)?);
                }
                samples::encode(&numbers, taken, &mut self.numbers.last, resource, &mut body);
                METRICS
            }
            Records::Logs(scopes) => {
                let message = ResourceLogs { scope_logs: scopes.clone(), ..ResourceLogs::default() };
                body.extend(message.encode_to_vec());
                LOGS
            }
            Records::Traces(scopes) => {
                let message = ResourceSpans { scope_spans: scopes.clone(), ..ResourceSpans::default() };
                body.extend(message.encode_to_vec());
                TRACES
            }
            Records::Requests(requests) => {
                let message = ResourceSpans { scope_spans: scope_spans(requests), ..ResourceSpans::default() };
                body.extend(message.encode_to_vec());
                TRACES
            }
        };
        self.came_before = came_unix_nano;
        self.entry(kind, &body)
    }

    /// End it: what was written is complete on return.
    pub fn finish(self) -> Result<W, Error> {
        let mut out = self.out.finish()?;
        out.flush()?;
        Ok(out)
    }

    fn resource(&mut self, resource: &Arc<Resource>) -> Result<u64, Error> {
        if let Some(number) = self.numbers.resources.get(resource) {
            return Ok(*number);
        }
        let number = self.numbers.resources.len() as u64;
        self.numbers.resources.insert(Arc::clone(resource), number);
        self.entry(RESOURCE, &resource.to_proto().encode_to_vec())?;
        Ok(number)
    }

    fn series(&mut self, series: &Arc<Series>) -> Result<u64, Error> {
        if let Some(number) = self.numbers.series.get(series) {
            return Ok(*number);
        }
        let number = self.numbers.series.len() as u64;
        self.numbers.series.insert(Arc::clone(series), number);
        self.entry(SERIES, &describe::to_proto(series).encode_to_vec())?;
        Ok(number)
    }

    fn entry(&mut self, kind: u8, body: &[u8]) -> Result<(), Error> {
        let mut head = vec![kind];
        put(&mut head, body.len() as u64);
        self.out.write_all(&head)?;
        Ok(self.out.write_all(body)?)
    }
}
