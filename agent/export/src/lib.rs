//! Freeze reduced telemetry into buffered batches and send them as OTLP/gRPC.
