//! End-to-end tests: one property a file.
