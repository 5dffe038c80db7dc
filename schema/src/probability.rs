//! Consistent probability sampling: hosts that never talk keep the same traces.
//!
//! As OpenTelemetry specifies it (opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/): a trace has 56 random
//! bits R, the last of its id unless `ot=rv:` gives others; a sampler has a rejection threshold T and keeps what has R >= T, and
//! says so by `ot=th:T`. Invariant: a threshold in the tracestate is never lowered, as what an earlier sampler let go cannot come
//! back, unless it is beyond what any sampler is believed.

use crate::names::{TRACESTATE_THRESHOLD, TRACESTATE_VENDOR};

/// One more than the largest R.
const ALL: u64 = 1 << 56;

/// The threshold that keeps this share of traces, to four digits: more would only lengthen every span on the wire.
pub fn threshold(ratio: f64) -> u64 {
    ALL - rounded(ratio, 16)
}

/// The nearest threshold on a ladder of 16 rungs an octave, so that hosts whose rates adapt meet at the same ones.
pub fn rung(ratio: f64) -> u64 {
    ALL - rounded(ratio, 5)
}

/// Of what a threshold keeps, keep this share.
pub fn thinned(threshold: u64, ratio: f64) -> u64 {
    let kept = share(threshold) * share(rung(ratio));
    ALL - rounded(kept, 16)
}

/// The share of traces that a threshold keeps.
pub fn share(threshold: u64) -> f64 {
    (ALL - threshold.min(ALL)) as f64 / ALL as f64
}

/// The digits of a threshold, trailing zeros left out.
pub fn digits(threshold: u64) -> String {
    let digits = format!("{threshold:014x}");
    let short = digits.trim_end_matches('0');
    if short.is_empty() { "0".to_owned() } else { short.to_owned() }
}

/// How many of all R are this share, rounded to so many significant bits.
fn rounded(ratio: f64, bits: u32) -> u64 {
    let kept = (ratio.clamp(0.0, 1.0) * ALL as f64) as u64;
    let unit = 1 << (u64::BITS - kept.leading_zeros()).saturating_sub(bits);
    ((kept + unit / 2) / unit * unit).min(ALL)
}

/// R of a trace.
pub fn randomness(trace_id: u128, tracestate: &str) -> u64 {
    member(tracestate, "rv").filter(|digits| digits.len() == 14).and_then(hex).unwrap_or(trace_id as u64 & (ALL - 1))
}

/// T that an earlier sampler left, 0 for none.
pub fn earlier(tracestate: &str) -> u64 {
    let digits = member(tracestate, TRACESTATE_THRESHOLD).filter(|digits| digits.len() <= 14);
    digits.and_then(|digits| hex(&format!("{digits:0<14}"))).unwrap_or(0)
}

/// Put a threshold into a tracestate, unless a higher one is there.
pub fn mark(tracestate: &mut String, threshold: u64) {
    if threshold > earlier(tracestate) && threshold < ALL {
        replace(tracestate, threshold);
    }
}

/// Put a threshold in the place of a higher one, which nobody believes. Whether there was one.
pub fn limit(tracestate: &mut String, most: u64) -> bool {
    let limited = !tracestate.is_empty() && earlier(tracestate) > most;
    if limited {
        replace(tracestate, most);
    }
    limited
}

fn replace(tracestate: &mut String, threshold: u64) {
    let ours = format!("{TRACESTATE_THRESHOLD}:{}", digits(threshold));
    let (mut pairs, mut others) = (vec![ours], Vec::new());
    for entry in tracestate.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        match entry.split_once('=') {
            Some((TRACESTATE_VENDOR, theirs)) => {
                let kept = theirs.split(';').filter(|pair| !is_threshold(pair));
                pairs.extend(kept.map(str::to_owned));
            }
            _ => others.push(entry),
        }
    }
    // What was changed goes first (w3.org/TR/trace-context/#mutating-the-tracestate-field).
    let ours = format!("{TRACESTATE_VENDOR}={}", pairs.join(";"));
    *tracestate = std::iter::once(ours.as_str()).chain(others).collect::<Vec<_>>().join(",");
}

fn is_threshold(pair: &str) -> bool {
    pair.split_once(':').is_some_and(|(key, _)| key == TRACESTATE_THRESHOLD)
}

fn member<'a>(tracestate: &'a str, key: &str) -> Option<&'a str> {
    let ours =
        tracestate.split(',').find_map(|entry| entry.trim().strip_prefix(TRACESTATE_VENDOR)?.strip_prefix('='))?;
    ours.split(';').find_map(|pair| pair.strip_prefix(key)?.strip_prefix(':'))
}

fn hex(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_those_of_the_specification() {
        for (ratio, expected) in [
            (1.0, ""),
            (0.5, "ot=th:8"),
            (0.25, "ot=th:c"),
            (0.1, "ot=th:e6666"),
            (0.05, "ot=th:f3333"),
            (0.001, "ot=th:ffbe77"),
        ] {
            let mut tracestate = String::new();
            mark(&mut tracestate, threshold(ratio));
            assert_eq!(tracestate, expected, "{ratio}");
        }
    }

    #[test]
    fn a_rung_is_near_what_was_asked_and_few_digits_long() {
        let mut ratio = 1.0_f64;
        while ratio > 1e-6 {
            let rung = rung(ratio);
            assert!((share(rung) / ratio - 1.0).abs() < 1.0 / 32.0, "{ratio} became {}", share(rung));
            assert!(digits(rung).len() <= 8, "{}", digits(rung));
            ratio *= 0.97;
        }
        assert_eq!((share(rung(0.0)), share(rung(1.0))), (0.0, 1.0));
    }

    #[test]
    fn thinning_multiplies_shares() {
        let thin = thinned(threshold(0.25), 0.5);
        assert_eq!((share(thin), digits(thin)), (0.125, "e".to_owned()));
        assert_eq!(thinned(threshold(0.25), 1.0), threshold(0.25));
    }

    #[test]
    fn marking_keeps_what_others_wrote_and_never_lowers() {
        for (before, ratio, after) in [
            ("", 0.5, "ot=th:8"),
            ("congo=t61", 0.5, "ot=th:8,congo=t61"),
            ("congo=t61,ot=rv:6e6d1a75832a2f;x:1", 0.25, "ot=th:c;rv:6e6d1a75832a2f;x:1,congo=t61"),
            ("ot=th:8", 0.25, "ot=th:c"),
            ("ot=th:c", 0.5, "ot=th:c"),
            ("ot=th:c", 1.0, "ot=th:c"),
            ("congo=t61", 1.0, "congo=t61"),
        ] {
            let mut tracestate = before.to_owned();
            mark(&mut tracestate, threshold(ratio));
            assert_eq!(tracestate, after, "{before} at {ratio}");
        }
    }

    #[test]
    fn a_threshold_beyond_belief_is_lowered_and_others_stand() {
        let most = threshold(1.0 / 16.0);
        for (before, after) in [
            ("", ""),
            ("ot=th:c", "ot=th:c"),
            ("ot=th:f", "ot=th:f"),
            ("congo=t61,ot=rv:6e6d1a75832a2f;th:ffffff", "ot=th:f;rv:6e6d1a75832a2f,congo=t61"),
        ] {
            let mut tracestate = before.to_owned();
            assert_eq!((limit(&mut tracestate, most), tracestate.as_str()), (before != after, after));
        }
    }

    #[test]
    fn randomness_is_the_end_of_the_id_or_given() {
        assert_eq!(randomness(0x0102_0304_0506_0708_ff6e_6d1a_7583_2a2f, ""), 0x6e_6d1a_7583_2a2f);
        assert_eq!(randomness(1, "a=b,ot=rv:6e6d1a75832a2f"), 0x6e_6d1a_7583_2a2f);
        assert_eq!(randomness(1, "ot=rv:short"), 1);
    }
}
