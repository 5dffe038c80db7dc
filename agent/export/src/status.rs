//! How sending goes, for `status`, /healthz and the agent's own metrics.

use http::HeaderMap;
use ollystack_schema::names::{HEADER_SAMPLING_RATIO_MAX, HEADER_SAMPLING_SCALE};
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Shared with whoever shows it. Invariant: counters never go down while the agent runs.
#[derive(Debug, Default)]
pub struct Status {
    reading: Mutex<StatusReading>,
    sampling: Mutex<Sampling>,
}

/// The account at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatusReading {
    /// In a word or two: `starting`, `sending`, `unreachable`, `throttled`, `key refused`, `not OTLP`.
    pub state: &'static str,
    /// Batches that the endpoint took.
    pub batches_sent: u64,
    /// Attempts that failed, those that were made again included.
    pub attempts_failed: u64,
    /// Of those, in a row until now.
    pub consecutive_failures: u32,
    /// Batches that the endpoint refused for good.
    pub batches_refused: u64,
    /// When the endpoint last took a batch.
    pub last_success_unix_ms: Option<u64>,
    /// When an attempt last failed.
    pub last_error_unix_ms: Option<u64>,
    /// Why it did, and what to check.
    pub last_error: Option<String>,
}

/// How sparingly ordinary traces are to be kept, as our gateway says in each of its answers; it holds until the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The most of them that is kept, 0 to 1.
    pub ratio_max: f64,
    /// What their share is multiplied by, 1/64 to 1: below 1 the tenant's quotas would not last.
    pub scale: f64,
}

/// Whatever an endpoint says, something stands for what is let go.
const SCALE_MIN: f64 = 1.0 / 64.0;

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { ratio_max: 1.0, scale: 1.0 }
    }
}

impl Sampling {
    /// From the headers of an answer; what is none of its values asks for nothing.
    pub(crate) fn told(headers: &HeaderMap) -> Sampling {
        let number = |name: &str, least: f64| {
            let number = headers.get(name).and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
            number.filter(|number| number.is_finite()).map_or(1.0, |number| number.clamp(least, 1.0))
        };
        Sampling { ratio_max: number(HEADER_SAMPLING_RATIO_MAX, 0.0), scale: number(HEADER_SAMPLING_SCALE, SCALE_MIN) }
    }
}

impl Status {
    /// A copy of everything.
    pub fn read(&self) -> StatusReading {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone();
        StatusReading { state: if reading.state.is_empty() { "starting" } else { reading.state }, ..reading }
    }

    /// What the endpoint asks of sampling now.
    pub fn sampling(&self) -> Sampling {
        *self.sampling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn asked(&self, sampling: Sampling) {
        *self.sampling.lock().unwrap_or_else(PoisonError::into_inner) = sampling;
    }

    pub(crate) fn success(&self) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.state = "sending";
        reading.batches_sent += 1;
        reading.consecutive_failures = 0;
        reading.last_success_unix_ms = now();
    }

    pub(crate) fn failure(&self, state: &'static str, consecutive: u32, error: String) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.state = state;
        reading.attempts_failed += 1;
        reading.consecutive_failures = consecutive;
        reading.last_error_unix_ms = now();
        reading.last_error = Some(error);
    }

    pub(crate) fn refused(&self, error: String) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.state = "sending";
        reading.attempts_failed += 1;
        reading.consecutive_failures = 0;
        reading.batches_refused += 1;
        reading.last_error_unix_ms = now();
        reading.last_error = Some(error);
    }
}

fn now() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_an_answer_asks_of_sampling_is_kept_within_bounds() {
        for (ratio_max, scale, expected) in [
            ("0.01", "0.5", Sampling { ratio_max: 0.01, scale: 0.5 }),
            ("0", "0", Sampling { ratio_max: 0.0, scale: SCALE_MIN }),
            ("7", "-1", Sampling { ratio_max: 1.0, scale: SCALE_MIN }),
            ("NaN", "much", Sampling::default()),
        ] {
            let headers = [(HEADER_SAMPLING_RATIO_MAX, ratio_max), (HEADER_SAMPLING_SCALE, scale)];
            let headers = headers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            assert_eq!(Sampling::told(&HeaderMap::from_iter(headers)), expected, "{ratio_max} {scale}");
        }
        assert_eq!(Sampling::told(&HeaderMap::new()), Sampling::default(), "a quota that was raised asks for no more");
    }
}
