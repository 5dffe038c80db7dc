//! Block devices: how long requests to each took, by operation.
//!
//! In: the kernel's histograms, read each interval. Out: delta exponential histograms. Invariant: an operation is named as
//! `/proc/diskstats` groups it, so that counts here and there agree.

use crate::histograms::Histograms;
use crate::losses::Losses;
use crate::refusal::Refusal;
use crate::scope;
use aya::Ebpf;
use ollystack_ebpf::block::{operation, parts};
use ollystack_ebpf::histogram::Histogram;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::value::string;
use ollystack_record::{
    Ack, Batch, DropReason, Kind, Ledger, Metric, Records, Resource, Sample, Series, Signal, Source, Value,
};
use ollystack_schema::names::{self, semconv};
use std::path::Path;
use std::sync::Arc;

const DEVICES: &str = "/sys/dev/block";

/// What the kernel counts, and the programs that count it.
pub(crate) struct Block {
    histograms: Histograms<{ size_of::<Histogram>() }, Arc<Series>>,
    losses: Losses,
    metric: Arc<Metric>,
    read_ns: u64,
    /// Dropping them detaches.
    _programs: Ebpf,
}

impl Block {
    /// `now_ns` is time since the epoch.
    pub(crate) fn new(mut programs: Ebpf, now_ns: u64) -> Result<Block, Refusal> {
        let mut map = |name| programs.take_map(name).ok_or_else(|| Refusal::damaged(name));
        Ok(Block {
            histograms: Histograms::new(map("HISTOGRAMS")?)?,
            losses: Losses::new(map("LOSSES")?)?,
            metric: Arc::new(Metric {
                name: names::DISK_OPERATION_DURATION.into(),
                unit: "s".into(),
                description: "Duration of requests to block devices, the wait in their queue included".into(),
                kind: Kind::ExponentialHistogram { delta: true },
                ..Metric::default()
            }),
            read_ns: now_ns,
            _programs: programs,
        })
    }

    /// What was done since the last reading.
    pub(crate) fn read(&mut self, now_ns: u64, host: &Arc<Resource>, ledger: &Ledger) -> Option<Batch> {
        let start = std::mem::replace(&mut self.read_ns, now_ns);
        let mut samples = Vec::new();
        let metric = &self.metric;
        self.histograms.read(
            |key, _| Arc::new(Series::new(scope(), Arc::clone(metric), attributes(key, Path::new(DEVICES)))),
            |series, point| {
                samples.push(Sample::number(series, start, now_ns, Value::ExponentialHistogram(Box::new(point))));
            },
        );
        let lost = self.losses.read().iter().sum();
        ledger.seen(Signal::Metrics, lost);
        ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, lost);
        (!samples.is_empty()).then(|| Batch {
            source: Source::Ebpf,
            resource: Arc::clone(host),
            records: Records::Metrics(samples),
            ack: Ack::none(),
        })
    }
}

/// The device by its name, as the host input has it, and the operation.
fn attributes(key: u64, devices: &Path) -> Vec<KeyValue> {
    let (major, minor, operation) = parts(key);
    let number = format!("{major}:{minor}");
    let link = std::fs::read_link(devices.join(&number)).ok();
    let name = link.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let operation = match operation {
        operation::READ => "read",
        operation::WRITE => "write",
        operation::FLUSH => "flush",
        _ => "discard",
    };
    vec![string(semconv::SYSTEM_DEVICE, name.unwrap_or(number)), string(semconv::DISK_IO_DIRECTION, operation)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::block::key;
    use ollystack_record::value::string_attribute;

    #[test]
    fn a_device_is_told_by_name_and_one_without_by_number() {
        let devices = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../../devices/virtual/block/sda", devices.path().join("8:0")).unwrap();
        let table = [
            (key(8, 0, operation::READ), "sda", "read"),
            (key(8, 0, operation::FLUSH), "sda", "flush"),
            (key(4_095, 0xF_FFFF, operation::WRITE), "4095:1048575", "write"),
            (key(259, 3, operation::DISCARD), "259:3", "discard"),
        ];
        for (key, device, direction) in table {
            let told = attributes(key, devices.path());
            assert_eq!(string_attribute(&told, semconv::SYSTEM_DEVICE), Some(device));
            assert_eq!(string_attribute(&told, semconv::DISK_IO_DIRECTION), Some(direction));
        }
    }
}
