//! Durable, bounded queue of batches in SQLite segments.
