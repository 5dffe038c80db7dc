//! How well patterns are mined: from logs of which each line's true pattern is known to the scores that must hold.
//!
//! Invariant: the bounds are those that are published, and the defaults are used.

mod labelled;
mod loghub;
mod written;
