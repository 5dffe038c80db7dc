//! The OTLP face of both processes: what arrives on a socket becomes an [`Export`] (a decoded message, or its protobuf), and what a
//! service says about it becomes the exact answer of gRPC or of OTLP/HTTP.
//!
//! One port speaks everything (gRPC over HTTP/2; OTLP/HTTP over HTTP/1.1 or HTTP/2; protobuf and JSON; gzip, zstd and
//! identity), so 4317 and 4318 are two listeners of one [`Server`]. A service implements [`OtlpService`].
//!
//! Why not tonic's server: its decoder (0.14) has one limit for the bytes on the wire and after decompression, answers
//! `OUT_OF_RANGE` when it is passed, which OTLP clients retry for ever, leaves the zstd window at its default of 128 MiB, and
//! knows nothing of what all requests together hold, nor of how large a message becomes once decoded.
//!
//! Invariant: not a byte of a body is read before [`OtlpService::admit`] said yes, and what all requests together hold in
//! memory (read, decompressed and decoded) stays below [`Limits::in_flight_bytes_max`], for as long as [`Export::held`] is kept.

mod allowance;
mod answer;
mod body;
mod decode;
mod decompress;
mod flood;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod handle;
mod json;
mod limits;
mod linger;
mod refusal;
mod request;
mod schema;
mod server;
mod slots;
mod tls;
mod weigh;

pub use allowance::{Allowance, Busy, Held};
pub use decode::{Body, Wire};
pub use limits::{Limits, LimitsError};
pub use refusal::Refusal;
pub use request::{Accepted, Event, Export, Message, OtlpService, RequestHead, Signal, Transport};
pub use schema::NESTS_MAX;
pub use server::{Error, Server, bind};
pub use slots::TooMany;
pub use tls::{Tls, TlsError};
