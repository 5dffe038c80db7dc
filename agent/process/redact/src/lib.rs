//! Redaction: secrets and personal data leave every string of a record before it reaches disk or wire.
//!
//! Invariant: a text without anything to redact is not copied.
