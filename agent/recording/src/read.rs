//! A file to batches.
//!
//! Invariant: an error is the last thing a reader gives.

use crate::samples::{self, Lasts};
use crate::varint::{take, take_difference};
use crate::{ENTRY_BYTES_MAX, Error, FORGET, LOGS, MAGIC, METRICS, NUMBERS_MAX, RESOURCE, SERIES, TRACES, describe};
use ollystack_record::otlp::logs::v1::ResourceLogs;
use ollystack_record::otlp::resource::v1::Resource as Proto;
use ollystack_record::otlp::trace::v1::ResourceSpans;
use ollystack_record::{Ack, Batch, Records, Resource, Series, Source};
use prost::Message;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

/// The batches of a recording, in the order in which they came.
pub struct Reader<R: Read> {
    from: BufReader<zstd::Decoder<'static, BufReader<R>>>,
    resources: Vec<Arc<Resource>>,
    series: Vec<Arc<Series>>,
    last: Lasts,
    came_before: u64,
    entry: u64,
    ended: bool,
}

/// A batch, and when it came.
#[derive(Debug)]
pub struct Recorded {
    /// Nanoseconds since the epoch.
    pub came_unix_nano: u64,
    /// Nobody waits for it.
    pub batch: Batch,
}

impl<R: Read> Reader<R> {
    /// Begin to read.
    pub fn new(mut from: R) -> Result<Reader<R>, Error> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic).map_err(|_| Error::NoRecording)?;
        if magic != MAGIC {
            return Err(Error::NoRecording);
        }
        Ok(Reader {
            from: BufReader::new(zstd::Decoder::new(from)?),
            resources: Vec::new(),
            series: Vec::new(),
            last: Lasts::new(),
            came_before: 0,
            entry: 0,
            ended: false,
        })
    }

    /// The next batch; None at the end.
    fn read(&mut self) -> Result<Option<Recorded>, Error> {
        while !self.from.fill_buf()?.is_empty() {
            self.entry += 1;
            let (kind, body) = self.entry()?;
            let damaged = |what| Error::Damaged { entry: self.entry, what };
            match kind {
                FORGET => {
                    self.resources.clear();
                    self.series.clear();
                    self.last.clear();
                }
                RESOURCE | SERIES if self.resources.len() + self.series.len() >= NUMBERS_MAX => {
                    return Err(damaged("too many resources and series"));
                }
                RESOURCE => {
                    let proto = Proto::decode(&body[..]).map_err(|_| damaged("no resource"))?;
                    self.resources.push(Arc::new(Resource::from_proto(Some(proto))));
                }
                SERIES => {
                    let proto = Message::decode(&body[..]).map_err(|_| damaged("no series"))?;
                    self.series.push(Arc::new(describe::from_proto(proto).ok_or_else(|| damaged("no series"))?));
                }
                METRICS | LOGS | TRACES => {
                    let entry = self.entry;
                    let batch = self.batch(kind, &body);
                    return batch.map(Some).ok_or(Error::Damaged { entry, what: "no batch" });
                }
                _ => return Err(damaged("of an unknown kind")),
            }
        }
        Ok(None)
    }

    fn entry(&mut self) -> Result<(u8, Vec<u8>), Error> {
        let byte = |from: &mut BufReader<_>| {
            let mut byte = [0];
            from.read_exact(&mut byte).map(|()| byte[0])
        };
        let kind = byte(&mut self.from)?;
        let mut length = Vec::new();
        loop {
            length.push(byte(&mut self.from)?);
            // A varint ends with the first byte below 128, and has ten at most.
            if length.last().is_some_and(|last| *last < 0x80) || length.len() == 10 {
                break;
            }
        }
        let length = take(&mut &length[..]).and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= ENTRY_BYTES_MAX) else {
            return Err(Error::Damaged { entry: self.entry, what: "too long" });
        };
        let mut body = Vec::new();
        // Grows with what is there, not with what is announced.
        self.from.by_ref().take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Err(Error::Damaged { entry: self.entry, what: "cut off" });
        }
        Ok((kind, body))
    }

    fn batch(&mut self, kind: u8, mut body: &[u8]) -> Option<Recorded> {
        let came_unix_nano = take_difference(&mut body, self.came_before)?;
        let source = *Source::ALL.get(usize::from(*body.split_off_first()?))?;
        let number = take(&mut body)?;
        let resource = Arc::clone(self.resources.get(usize::try_from(number).ok()?)?);
        let records = match kind {
            METRICS => Records::Metrics(samples::decode(body, &self.series, &mut self.last, number)?),
            LOGS => Records::Logs(ResourceLogs::decode(body).ok()?.scope_logs),
            _ => Records::Traces(ResourceSpans::decode(body).ok()?.scope_spans),
        };
        self.came_before = came_unix_nano;
        Some(Recorded { came_unix_nano, batch: Batch { source, resource, records, ack: Ack::none() } })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Recorded, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}
