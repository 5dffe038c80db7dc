//! Export requests as the exporter makes them, in virtual time, and their bytes.
//!
//! Invariant: what is counted is what would be sent: the same batches, the exporter's defaults; only what is not reduced is compressed at
//! zstd's default level throughout.

use ollystack_export::{Config, Gather, Gathered};
use ollystack_record::{Reduced, Signal};

/// Of one signal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) records: u64,
    pub(crate) requests: u64,
    /// OTLP.
    pub(crate) plain_bytes: u64,
    /// OTLP, zstd.
    pub(crate) packed_bytes: u64,
}

impl Sum {
    pub(crate) fn since(self, before: Sum) -> Sum {
        Sum {
            records: self.records - before.records,
            requests: self.requests - before.requests,
            plain_bytes: self.plain_bytes - before.plain_bytes,
            packed_bytes: self.packed_bytes - before.packed_bytes,
        }
    }
}

/// Of all signals.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums([Sum; 3]);

impl Sums {
    pub(crate) fn of(&self, signal: Signal) -> Sum {
        self.0[signal as usize]
    }
}

/// Gathers, counts, and keeps the requests until they are read.
pub(crate) struct Wire {
    gather: Gather,
    interval: u64,
    deadline: Option<u64>,
    pub(crate) sums: Sums,
    /// Uncompressed.
    pub(crate) requests: Vec<(Signal, Vec<u8>)>,
}

impl Wire {
    /// As the agent sends.
    pub(crate) fn reduced() -> Wire {
        Wire::new(Config::default())
    }

    /// As a sender that reduces nothing does: all at zstd's own default.
    pub(crate) fn raw() -> Wire {
        Wire::new(Config { metrics_compression_level: zstd::DEFAULT_COMPRESSION_LEVEL, ..Config::default() })
    }

    fn new(config: Config) -> Wire {
        // As the agent sets it where it differs from the stage's own default.
        let config = Config { batch_bytes_max: 512 << 10, ..config };
        let (gather, interval) = (Gather::new(&config).unwrap(), config.batch_interval_ms * 1_000_000);
        Wire { gather, interval, deadline: None, sums: Sums::default(), requests: Vec::new() }
    }

    pub(crate) fn take(&mut self, reduced: Reduced, now: u64) {
        let (mut full, mut too_large) = (Vec::new(), Vec::new());
        self.gather.take(reduced, &mut full, &mut too_large);
        assert!(too_large.is_empty(), "a record of the recording is too large to be sent");
        self.send(full);
        self.deadline = self.deadline.or(Some(now + self.interval));
    }

    /// Send what has waited for its time.
    pub(crate) fn due(&mut self, now: u64) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.flush();
        }
    }

    pub(crate) fn flush(&mut self) {
        let waiting = self.gather.flush();
        self.send(waiting);
        self.deadline = None;
    }

    fn send(&mut self, batches: Vec<Gathered>) {
        for batch in batches {
            let sum = &mut self.sums.0[batch.signal as usize];
            sum.records += batch.records;
            sum.requests += 1;
            sum.plain_bytes += batch.plain_bytes;
            sum.packed_bytes += batch.entry.payload.len() as u64;
            let plain = zstd::bulk::decompress(&batch.entry.payload, batch.plain_bytes as usize).unwrap();
            self.requests.push((batch.signal, plain));
        }
    }
}
