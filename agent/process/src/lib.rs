//! Reduce telemetry at the source: fold metrics, derive RED metrics, tail-sample traces.
