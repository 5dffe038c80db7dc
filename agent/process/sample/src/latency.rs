//! What is slow for an operation: its own 99th percentile, learnt as spans come.
//!
//! A t-digest (arxiv.org/abs/1902.04023, crate `tdigest`) over the last thousands of spans. A quantile of a sample is uncertain, and
//! all that is slow is to be kept: so the threshold is the least that the percentile may well be, and a little more than one in a
//! hundred is slow. Invariant: until the operation is known well enough, nothing is slow.

use tdigest::TDigest;

/// Durations gathered before they are merged: a merge sorts these and walks the centroids, a few microseconds.
const BATCH: usize = 32;
/// Centroids: 800 bytes an operation; finest at the tails.
const CENTROIDS: usize = 50;
/// Durations after which a fresh digest begins, so that yesterday's latency does not rule today.
const GENERATION: u64 = 10_000;
/// A fresh digest replaces the old threshold from so many durations on.
const GENERATION_TRUSTED: u64 = 5_000;
/// What is slow.
const QUANTILE: f64 = 0.99;
/// Standard errors of the quantile's rank by which the threshold is lower. Measured on log-normal durations: one in 6,000 of the slow
/// ones is missed, and 1.4% are slow; with 3 one in 1,200, and 1.3%.
const CAUTION: f64 = 4.0;

/// One operation's latency.
#[derive(Debug)]
pub(crate) struct Latency {
    /// Durations of this generation from which on it rules.
    trusted: u64,
    threshold: f64,
    count: u64,
    /// In single precision, which is finer than any quantile; they are judged likewise, so that equal ones are alike.
    batch: Vec<f32>,
    digest: Option<Box<TDigest>>,
}

impl Latency {
    pub(crate) fn new(samples_min: u64) -> Latency {
        Latency {
            trusted: samples_min,
            threshold: f64::INFINITY,
            count: 0,
            batch: Vec::with_capacity(BATCH),
            digest: None,
        }
    }

    /// Whether a duration is slow by what came before it; then learn from it.
    pub(crate) fn is_slow(&mut self, seconds: f64) -> bool {
        let seconds = seconds as f32;
        let slow = f64::from(seconds) > self.threshold;
        self.batch.push(seconds);
        // The first threshold does not wait for a whole batch.
        let becomes_known = self.threshold.is_infinite() && self.count + self.batch.len() as u64 >= self.trusted;
        if self.batch.len() >= BATCH || becomes_known {
            self.merge();
        }
        slow
    }

    fn merge(&mut self) {
        let batch: Vec<f64> = self.batch.drain(..).map(f64::from).collect();
        self.count += batch.len() as u64;
        let digest = match self.digest.take() {
            Some(digest) => digest.merge_unsorted(batch),
            None => TDigest::new_with_size(CENTROIDS).merge_unsorted(batch),
        };
        if self.count >= self.trusted
            && let Some(threshold) = digest.estimate_quantile(cautious(self.count))
        {
            self.threshold = threshold;
        }
        if self.count >= GENERATION {
            (self.count, self.trusted) = (0, GENERATION_TRUSTED);
        } else {
            self.digest = Some(Box::new(digest));
        }
    }
}

/// The quantile of so many durations that is hardly above [`QUANTILE`] of all.
fn cautious(count: u64) -> f64 {
    QUANTILE - CAUTION * (QUANTILE * (1.0 - QUANTILE) / count as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repeatable 0..1.
    fn random(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 11) as f64 / (1_u64 << 53) as f64
    }

    #[test]
    fn about_one_in_a_hundred_is_slow_once_the_operation_is_known() {
        let (mut latency, mut state) = (Latency::new(100), 7);
        assert_eq!((0..100).filter(|_| latency.is_slow(random(&mut state))).count(), 0);
        assert!(latency.is_slow(5.0), "100 durations are known");
        for _ in 0..1_000 {
            latency.is_slow(random(&mut state));
        }
        let slow = (0..20_000).filter(|_| latency.is_slow(random(&mut state))).count();
        assert!((200..600).contains(&slow), "{slow} of 20,000 are slow");
        assert!(latency.is_slow(5.0));
    }

    #[test]
    fn what_is_truly_above_the_percentile_is_not_missed() {
        let (mut all, mut missed) = (0, 0);
        for seed in 0..20 {
            let (mut latency, mut state) = (Latency::new(100), seed);
            for n in 0..12_000 {
                let uniform = random(&mut state);
                // A long tail.
                let slow = latency.is_slow((1.0 - uniform).powf(-0.5));
                if n >= 100 && uniform > QUANTILE {
                    (all, missed) = (all + 1, missed + u32::from(!slow));
                }
            }
        }
        assert!(f64::from(missed) < 0.001 * f64::from(all), "{missed} of {all} slow ones were missed");
    }

    #[test]
    fn the_more_is_known_the_fewer_are_taken_for_slow() {
        let slow = |from: usize| {
            let of = |seed| {
                let (mut latency, mut state) = (Latency::new(100), seed);
                (0..4_000).filter(|n| latency.is_slow(random(&mut state)) && *n >= from).count()
            };
            (0..10).map(of).sum::<usize>()
        };
        let late = slow(3_000);
        assert!((100..250).contains(&late), "{late} of 10,000 are slow once 3,000 are known");
    }

    #[test]
    fn the_threshold_follows_the_operation() {
        let (mut latency, mut state) = (Latency::new(100), 7);
        for _ in 0..10_000 {
            latency.is_slow(random(&mut state));
        }
        assert!(latency.is_slow(2.0));
        for _ in 0..12_000 {
            latency.is_slow(10.0 + random(&mut state));
        }
        assert!(!latency.is_slow(10.5));
    }
}
