//! What the kernel counts in histograms, read as OTLP's.
//!
//! In: a map of the kernel from a key to what begins with a [`Histogram`]. Out, each reading: what each grew by. Invariant: a
//! histogram that stood still for [`IDLE_MAX`] readings is taken out of the kernel's map, so that keys which come and go do
//! not fill it.

use crate::refusal::Refusal;
use aya::maps::{HashMap as KernelMap, Map, MapData};
use hashbrown::HashMap;
use ollystack_ebpf::histogram::{Histogram, OFFSET, SCALE};
use ollystack_record::otlp::metrics::v1::ExponentialHistogramDataPoint as Point;
use ollystack_record::otlp::metrics::v1::exponential_histogram_data_point::Buckets;

/// Readings, of 10 s by default, after which a histogram that stands still goes.
const IDLE_MAX: u32 = 60;

/// The histograms of a map whose values have `N` bytes, each with what its reader makes of its key.
pub(crate) struct Histograms<const N: usize, T> {
    map: KernelMap<MapData, u64, [u8; N]>,
    known: HashMap<u64, Known<T>>,
}

struct Known<T> {
    told: Histogram,
    idle: u32,
    name: T,
}

impl<const N: usize, T> Histograms<N, T> {
    pub(crate) fn new(map: Map) -> Result<Histograms<N, T>, Refusal> {
        Ok(Histograms { map: KernelMap::try_from(map)?, known: HashMap::new() })
    }

    /// `take` is given what each that grew grew by. `name` is asked once for each, with its key and value.
    pub(crate) fn read(&mut self, mut name: impl FnMut(u64, &[u8; N]) -> T, mut take: impl FnMut(&T, Point)) {
        // First all keys: taking one out while they are gone through would begin anew.
        let keys: Vec<u64> = self.map.keys().flatten().collect();
        for key in keys {
            let Ok(value) = self.map.get(&key, 0) else { continue };
            let Some(now) = ollystack_ebpf::read::<Histogram>(&value) else { continue };
            let known = self.known.entry(key);
            let known = known.or_insert_with(|| Known { told: Histogram::EMPTY, idle: 0, name: name(key, &value) });
            match growth(&known.told, &now) {
                Some(point) => {
                    (known.told, known.idle) = (now, 0);
                    take(&known.name, point);
                }
                None => known.idle += 1,
            }
            if known.idle >= IDLE_MAX && self.map.remove(&key).is_ok() {
                self.known.remove(&key);
            }
        }
    }
}

/// What a histogram grew by; `None` if it stood still.
fn growth(before: &Histogram, now: &Histogram) -> Option<Point> {
    let mut grown = [0u64; ollystack_ebpf::histogram::SLOTS];
    for ((grown, now), before) in grown.iter_mut().zip(&now.counts).zip(&before.counts) {
        *grown = now.wrapping_sub(*before);
    }
    let first = grown.iter().position(|count| *count > 0)?;
    let last = grown.iter().rposition(|count| *count > 0)?;
    Some(Point {
        count: grown.iter().sum(),
        sum: Some(now.sum_ns.wrapping_sub(before.sum_ns) as f64 / 1e9),
        scale: SCALE,
        positive: Some(Buckets { offset: OFFSET + first as i32, bucket_counts: grown[first..=last].to_vec() }),
        ..Point::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::histogram::slot;

    fn histogram(durations_ns: &[u64]) -> Histogram {
        let mut histogram = Histogram::EMPTY;
        for duration in durations_ns {
            histogram.sum_ns += duration;
            histogram.counts[slot(*duration)] += 1;
        }
        histogram
    }

    #[test]
    fn a_reading_has_what_came_since_the_one_before() {
        let (before, now) = (histogram(&[1_000, 2_000_000]), histogram(&[1_000, 2_000_000, 2_000_000, 9_000_000]));
        let point = growth(&before, &now).unwrap();
        assert_eq!((point.count, point.sum, point.scale), (2, Some(0.011), SCALE));
        let buckets = point.positive.unwrap();
        assert_eq!(buckets.offset, OFFSET + slot(2_000_000) as i32);
        assert_eq!(buckets.bucket_counts.len(), 1 + slot(9_000_000) - slot(2_000_000));
        assert_eq!(buckets.bucket_counts.iter().sum::<u64>(), 2);
        assert_eq!(growth(&now, &now), None);
    }
}
