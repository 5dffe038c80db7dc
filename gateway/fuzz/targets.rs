//! Fuzz target of the short way from protobuf to columns.
//!
//! Invariant held here: what it takes becomes, byte for byte, what the long way (prost, then rows) makes of it, and is counted alike.

use crate::convert::view::beside::goes_the_short_way;
use ollystack_receive::{Signal, Wire};

/// The first byte names the signal, the rest is protobuf.
pub fn columns(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let signal = [Signal::Metrics, Signal::Logs, Signal::Traces][usize::from(first % 3)];
    goes_the_short_way(&Wire::new(signal, bytes.to_vec()));
}
