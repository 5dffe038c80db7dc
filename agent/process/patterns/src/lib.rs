//! Patterns of log lines, mined online: from a message to the pattern it is an instance of.
//!
//! Invariant: what is held stays within [`Config`]'s limits, whatever comes.
