//! What can be set about folding.

use serde::{Deserialize, Serialize};

/// Section `[metrics]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Length of a window, milliseconds.
    pub window_ms: u64,
    /// The first window after a start closes this early, so that data shows at once; milliseconds.
    pub first_window_ms: u64,
    /// How long a window stays open after its end for samples that are late; milliseconds.
    pub grace_ms: u64,
    /// Series held in all.
    pub series_max: usize,
    /// Series held for one input.
    pub series_per_source_max: usize,
    /// A series without samples for this long is forgotten; milliseconds.
    pub idle_ms: u64,
    /// How levels go out.
    pub gauges: Gauges,
}

/// How gauges and up-down counters go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gauges {
    /// Count, sum, min, max and last of the window.
    Fold,
    /// The last value only, as a plain gauge, for backends that insist.
    Last,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            window_ms: 60_000,
            first_window_ms: 5_000,
            grace_ms: 2_000,
            series_max: 20_000,
            series_per_source_max: 10_000,
            // Cumulative counters need their last total for the next increase: three exports of the slowest usual interval (5 min).
            idle_ms: 900_000,
            gauges: Gauges::Fold,
        }
    }
}
