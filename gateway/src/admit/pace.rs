//! What is left of a tenant's quotas, and by how much its agents are to sample harder before they are refused.
//!
//! Every answer tells what is left in the header fields of draft-ietf-httpapi-ratelimit-headers, for anybody, and to agents the scale of
//! [`scale`]. Invariant: who is within the pace of all quotas is asked for nothing, and nobody for less than [`SCALE_MIN`].

use http::{HeaderMap, HeaderName, HeaderValue};
use ollystack_schema::names::{HEADER_SAMPLING_RATIO_MAX, HEADER_SAMPLING_SCALE};

/// What stays of the share of ordinary traces at least: without any, nothing would stand for those that are let go.
const SCALE_MIN: f64 = 1.0 / 16.0;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// A quota as it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standing {
    /// `second`, `day` or `month`.
    pub(crate) name: &'static str,
    /// Of what it is.
    pub(crate) unit: &'static str,
    /// What there is of it in a window.
    pub(crate) quota: u64,
    pub(crate) left: u64,
    /// In seconds.
    pub(crate) window: u64,
    /// Until all of it is there again, in seconds.
    pub(crate) reset: f64,
}

impl Standing {
    /// The part of the quota that is left, over the part of its window that is: below 1 it does not last if all goes on as it did.
    fn pace(&self) -> f64 {
        if self.reset <= 0.0 || self.quota == 0 {
            return 1.0;
        }
        let (left, ahead) = (self.left as f64 / self.quota as f64, self.reset / self.window as f64);
        (left / ahead).min(1.0)
    }
}

/// What to multiply the share of ordinary traces by: the square of the slowest pace. With the pace itself what is sent would shrink until
/// the window ends; by its square it settles, for a sender that is c times too fast at 1 / c of the pace.
pub(crate) fn scale(quotas: &[Standing]) -> f64 {
    quotas.iter().map(|quota| quota.pace().powi(2)).fold(1.0, f64::min).max(SCALE_MIN)
}

/// What an answer says of quotas, and to an agent of sampling, with the most that it may keep of ordinary traces.
pub(crate) fn headers(quotas: &[Standing], ratio_max_of_agent: Option<f64>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, value: String| {
        // Digits and names of ours.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    let list = |item: fn(&Standing) -> String| quotas.iter().map(item).collect::<Vec<_>>().join(", ");
    if !quotas.is_empty() {
        put(POLICY, list(|of| format!("\"{}\";q={};qu=\"{}\";w={}", of.name, of.quota, of.unit, of.window)));
        put(LEFT, list(|of| format!("\"{}\";r={};t={}", of.name, of.left, of.reset.ceil())));
    }
    if let Some(ratio_max) = ratio_max_of_agent {
        put(HeaderName::from_static(HEADER_SAMPLING_RATIO_MAX), format!("{ratio_max}"));
        put(HeaderName::from_static(HEADER_SAMPLING_SCALE), format!("{:.4}", scale(quotas)));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(left: u64, reset: f64) -> Standing {
        Standing { name: "day", unit: "content-bytes", quota: 1_000, left, window: 86_400, reset }
    }

    /// So many.
    const MUCH: f64 = 1e12;

    #[test]
    fn who_is_within_the_pace_is_asked_for_nothing_and_who_is_ahead_for_its_square() {
        let noon = 43_200.0;
        for (left, expected) in [(1_000, 1.0), (501, 1.0), (500, 1.0), (250, 0.25), (1, SCALE_MIN), (0, SCALE_MIN)] {
            assert_eq!(scale(&[day(left, noon)]), expected, "{left} of 1000 at noon");
        }
        assert_eq!(scale(&[day(10, 0.0)]), 1.0, "at the end of the day nothing needs to last");
        assert_eq!(scale(&[day(900, noon), day(250, noon)]), 0.25, "the slowest pace rules");
        assert_eq!(scale(&[]), 1.0);
    }

    #[test]
    fn whoever_obeys_is_never_refused_and_does_not_starve() {
        for too_fast in [1.5, 2.0, 4.0] {
            let (mut left, mut sent) = (MUCH, 0.0);
            for second in 0..86_400_u32 {
                let quota = Standing { quota: MUCH as u64, ..day(left as u64, f64::from(86_400 - second)) };
                sent = too_fast * scale(&[quota]) * MUCH / 86_400.0;
                left -= sent;
            }
            assert!(left > -1e-6 * MUCH, "{too_fast} times too fast: {left} are left");
            let settled = MUCH / 86_400.0 / too_fast;
            assert!((sent / settled - 1.0).abs() < 0.1, "{too_fast} times too fast: {sent} in the last second");
        }
    }

    #[test]
    fn an_answer_says_what_is_left_and_to_an_agent_how_to_sample() {
        let found = headers(&[day(250, 43_199.5)], Some(0.01));
        let text = |name: &str| found.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(text("ratelimit-policy"), "\"day\";q=1000;qu=\"content-bytes\";w=86400");
        assert_eq!(text("ratelimit"), "\"day\";r=250;t=43200");
        assert_eq!((text(HEADER_SAMPLING_RATIO_MAX), text(HEADER_SAMPLING_SCALE)), ("0.01".into(), "0.2500".into()));
        assert_eq!(headers(&[], None), HeaderMap::new());
    }
}
