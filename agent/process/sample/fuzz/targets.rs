//! Fuzz target of `tracestate`, which any caller may have written.
//!
//! Invariants held here: a threshold is never lowered, and what is written is read again; entries of others stay.

use ollystack_schema::probability::{earlier, mark, share};

/// Eight bytes of threshold, then the tracestate.
pub fn tracestate(data: &[u8]) {
    let Some((threshold, text)) = data.split_first_chunk::<8>() else { return };
    let (threshold, Ok(text)) = (u64::from_le_bytes(*threshold) >> 8, std::str::from_utf8(text)) else { return };
    let before = earlier(text);
    let mut state = text.to_owned();
    mark(&mut state, threshold);
    let after = earlier(&state);
    assert!(after >= before, "{text:?} became {state:?}");
    assert!(after == threshold.max(before), "{threshold:x} was written, {after:x} is read: {state:?}");
    assert!((0.0..=1.0).contains(&share(after)));
}
