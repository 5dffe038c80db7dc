//! How much of what is ordinary may be kept, so that what goes out meets a rate.
//!
//! Traces are offered as they are decided, and get the probability to be kept with: the rate that is left over the rate that comes.
//! That is known from the seconds before, and from what the present second brought already, so that a burst lowers the probability
//! while it comes in; what was kept too much or too little is made up for within some ten seconds. Invariant: the probability depends
//! on what came before a trace and on its size, never on its random bits, so that weights by it are unbiased whatever the traffic
//! does. The idea is that of consistent rate-limiting samplers (OpenTelemetry OTEP 250).

/// What is measured as one, in seconds.
const BIN_SECONDS: f64 = 1.0;
/// Weight of the newest bin in an average, unless the traffic is another one altogether.
const NEWEST: f64 = 0.2;
/// From how many times the average on, or how small a part of it, a bin is another traffic.
const LEAP: f64 = 2.0;
/// Seconds within which a debt or a saving is made up for, and what it may be at most in seconds of the rate.
const HORIZON_SECONDS: f64 = 10.0;
const DEBT_SECONDS_MAX: f64 = 60.0;
const SAVING_SECONDS_MAX: f64 = 5.0;
/// How far that may bend the rate.
const BEND: std::ops::RangeInclusive<f64> = 0.25..=1.5;
/// The part of the rate that ordinary traces get however much is kept for other reasons: without any, nothing would stand for them.
const LEAST: f64 = 0.1;

/// A rate to keep to, in units (spans, bytes) a second.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: f64,
    /// What is offered, and what is kept for other reasons.
    offered: Flow,
    apart: Flow,
    /// Of what was offered, kept in this bin.
    kept: f64,
    /// Kept too little (positive) or too much until this bin.
    saving: f64,
    begin_unix_nano: u64,
}

/// Units a second.
#[derive(Debug, Default)]
struct Flow {
    /// Before this bin, once there was one.
    before: Option<f64>,
    /// In this bin.
    now: f64,
}

impl Flow {
    /// As it was, or as this bin already has it.
    fn per_second(&self) -> f64 {
        self.before.unwrap_or(0.0).max(self.now / BIN_SECONDS)
    }

    /// A bin ends.
    fn end(&mut self, seconds: f64) {
        let now = std::mem::take(&mut self.now) / seconds;
        self.before = Some(match self.before {
            Some(before) if now < before * LEAP && now > before / LEAP => before + NEWEST * (now - before),
            _ => now,
        });
    }
}

impl Budget {
    /// Nothing is known of the traffic.
    pub(crate) fn new(per_second: f64, now_unix_nano: u64) -> Budget {
        Budget {
            per_second,
            offered: Flow::default(),
            apart: Flow::default(),
            kept: 0.0,
            saving: 0.0,
            begin_unix_nano: now_unix_nano,
        }
    }

    /// The probability to keep what comes now.
    pub(crate) fn offer(&mut self, units: f64, now_unix_nano: u64) -> f64 {
        self.tick(now_unix_nano);
        self.offered.now += units;
        self.ratio()
    }

    /// The probability at present.
    pub(crate) fn ratio(&self) -> f64 {
        let left = self.left();
        let bend = (1.0 + self.saving / (left * HORIZON_SECONDS)).clamp(*BEND.start(), *BEND.end());
        let offered = self.offered.per_second();
        if left * bend >= offered { 1.0 } else { left * bend / offered }
    }

    /// Units of what was offered were kept.
    pub(crate) fn keep(&mut self, units: f64) {
        self.kept += units;
    }

    /// Units were kept that nobody asked this budget for.
    pub(crate) fn keep_apart(&mut self, units: f64) {
        self.apart.now += units;
    }

    /// Whether nothing was offered for so long.
    pub(crate) fn is_idle(&self, now_unix_nano: u64, nanos: u64) -> bool {
        now_unix_nano.saturating_sub(self.begin_unix_nano) > nanos
    }

    /// Let time pass.
    pub(crate) fn tick(&mut self, now_unix_nano: u64) {
        if now_unix_nano < self.begin_unix_nano {
            // The clock was set back: the bin begins anew.
            self.begin_unix_nano = now_unix_nano;
        }
        let seconds = (now_unix_nano - self.begin_unix_nano) as f64 / 1e9;
        if seconds < BIN_SECONDS {
            return;
        }
        self.begin_unix_nano = now_unix_nano;
        self.offered.end(seconds);
        self.apart.end(seconds);
        let (debt, saving) = (DEBT_SECONDS_MAX * self.per_second, SAVING_SECONDS_MAX * self.per_second);
        let kept = std::mem::take(&mut self.kept);
        self.saving = (self.saving + self.left() * seconds - kept).clamp(-debt, saving);
    }

    /// Of the rate, what other reasons leave.
    fn left(&self) -> f64 {
        (self.per_second - self.apart.per_second()).max(self.per_second * LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A repeatable 0..1.
    fn random(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Units kept in each second when so many come, `size` at once.
    fn run(budget: &mut Budget, from: u64, coming: &[f64], size: f64, apart: f64) -> Vec<f64> {
        let mut state = 7;
        let second = |(second, coming): (usize, &f64)| {
            let mut kept = 0.0;
            let traces = (coming / size) as u64;
            for trace in 0..traces {
                let now = (from + second as u64) * SECOND + trace * SECOND / traces;
                let ratio = budget.offer(size, now);
                if random(&mut state) < ratio {
                    budget.keep(size);
                    kept += size;
                }
            }
            budget.keep_apart(apart);
            kept
        };
        coming.iter().enumerate().map(second).collect()
    }

    fn mean(kept: &[f64]) -> f64 {
        kept.iter().sum::<f64>() / kept.len() as f64
    }

    #[test]
    fn a_steady_traffic_is_kept_at_the_rate() {
        for (per_second, coming, size) in [(50.0, 5_000.0, 10.0), (50.0, 200.0, 1.0), (5.0, 10_000.0, 7.0)] {
            let mut budget = Budget::new(per_second, 0);
            let kept = run(&mut budget, 0, &[coming; 300], size, 0.0);
            let found = mean(&kept[60..]);
            assert!((found / per_second - 1.0).abs() < 0.1, "{found} of {per_second} at {coming} by {size}");
        }
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let mut budget = Budget::new(50.0, 0);
        assert_eq!(run(&mut budget, 0, &[20.0; 10], 10.0, 0.0), [20.0; 10]);
    }

    #[test]
    fn a_burst_is_met_while_it_comes_and_made_up_for() {
        let mut budget = Budget::new(50.0, 0);
        run(&mut budget, 0, &[1_000.0; 60], 1.0, 0.0);
        let kept = run(&mut budget, 60, &[10_000.0; 60], 1.0, 0.0);
        assert!(kept[0] < 50.0 * 5.0, "{kept:?}");
        assert!((mean(&kept) / 50.0 - 1.0).abs() < 0.1, "{kept:?}");
        let kept = run(&mut budget, 120, &[1_000.0; 60], 1.0, 0.0);
        assert!((mean(&kept) / 50.0 - 1.0).abs() < 0.1, "{kept:?}");
    }

    #[test]
    fn what_is_kept_for_other_reasons_comes_first_but_leaves_a_tenth() {
        for (apart, left) in [(20.0, 30.0), (500.0, 5.0)] {
            let mut budget = Budget::new(50.0, 0);
            let kept = run(&mut budget, 0, &[5_000.0; 300], 1.0, apart);
            let found = mean(&kept[60..]);
            assert!((found / left - 1.0).abs() < 0.1, "{found} of {left}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_it() {
        let mut budget = Budget::new(50.0, 0);
        run(&mut budget, 1_000, &[1_000.0; 20], 1.0, 0.0);
        let kept = run(&mut budget, 0, &[100_000.0; 20], 1.0, 0.0);
        assert!(mean(&kept[10..]) < 60.0, "{kept:?}");
    }
}
