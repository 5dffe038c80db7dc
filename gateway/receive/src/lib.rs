//! The OTLP face: gRPC and HTTP, protobuf and JSON, gzip and zstd, within limits.
