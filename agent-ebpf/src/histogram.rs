//! Durations counted in the kernel, in the buckets of OTLP's exponential histograms, so that nothing is lost on the way out.
//!
//! Bucket `i` of scale `s` holds values in (base^i, base^(i+1)] with base = 2^(2^-s) (OpenTelemetry metrics data model,
//! "ExponentialHistogram"), in seconds. Invariant: no table and no loop over values: a duration's bucket costs three
//! multiplications, and a bucket's middle is within 4.5% of any duration in it.

use crate::Plain;

/// OTLP's scale: eight buckets between a power of two and the next.
pub const SCALE: i32 = 3;
/// The slots of a histogram: from 2^-20 s (0.95 us) to 2^6 s; durations beyond are in the first and the last.
pub const SLOTS: usize = 26 << SCALE;
/// OTLP's index of the first slot.
pub const OFFSET: i32 = -20 << SCALE;

/// Counts since the program was loaded; whoever reads takes differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Histogram {
    /// Of all durations.
    pub sum_ns: u64,
    /// By slot.
    pub counts: [u64; SLOTS],
}

// SAFETY: repr(C), integers only, 1,672 bytes without padding (checked below).
unsafe impl Plain for Histogram {}
const _: () = assert!(size_of::<Histogram>() == 1_672);

impl Histogram {
    /// Nothing counted.
    pub const EMPTY: Histogram = Histogram { sum_ns: 0, counts: [0; SLOTS] };
}

/// Longer durations count as this one: 2^36 ns are 69 s.
const LONGEST_NS: u64 = 1 << 36;
/// 2^30 / 10^9 in units of 2^-16: from nanoseconds to units of 2^-30 s, 4 millionths too much.
const UNITS: u64 = 70_369;

/// The slot of a duration.
#[inline(always)]
pub fn slot(duration_ns: u64) -> usize {
    let duration_ns = if duration_ns > LONGEST_NS { LONGEST_NS } else { duration_ns };
    let units = (duration_ns * UNITS) >> 16;
    // Below 2^10 units, which are 2^-20 s, all is one; the first slot then begins at that power.
    let units = if units < 1 << 10 { 1 << 10 } else { units };
    let exponent = 63 - units.leading_zeros();
    // In [1, 2), in units of 2^-31. Each squaring tells one binary digit of its logarithm.
    let mut mantissa = (units << (63 - exponent)) >> 32;
    let mut digits = 0;
    let mut round = 0;
    while round < SCALE {
        let square = mantissa * mantissa;
        let digit = square >> 63;
        mantissa = square >> (31 + digit);
        digits = digits << 1 | digit as usize;
        round += 1;
    }
    let slot = ((exponent as usize - 10) << SCALE) | digits;
    if slot < SLOTS { slot } else { SLOTS - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_that_otlp_has_for_it() {
        let base = 2f64.powf(2f64.powi(-SCALE));
        let mut duration_ns = 960u64;
        while duration_ns < 60_000_000_000 {
            let index = OFFSET + slot(duration_ns) as i32;
            let (lower, upper) = (base.powi(index) * 1e9, base.powi(index + 1) * 1e9);
            let duration = duration_ns as f64;
            // What is lost in rounding moves a bound by less than a thousandth.
            assert!(duration > lower * 0.999 && duration < upper * 1.001, "{duration_ns}: {lower} to {upper}");
            duration_ns += duration_ns / 37 + 1;
        }
    }

    #[test]
    fn what_is_too_short_or_too_long_is_in_the_first_and_the_last_slot() {
        for (duration_ns, expected) in [(0, 0), (1, 0), (953, 0), (64_100_000_000, SLOTS - 1), (u64::MAX, SLOTS - 1)] {
            assert_eq!(slot(duration_ns), expected, "{duration_ns}");
        }
    }
}
