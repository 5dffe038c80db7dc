//! What crosses the agent's stages: batches of telemetry, their acknowledgements and the ledger.
//!
//! Inputs build [`Batch`]es and hand them to the [`Intake`]; `enrich` completes their resource; `process` reduces them to
//! [`Reduced`] batches; `export` freezes those into the buffer and sends them. Stages know this crate and never each other.
//!
//! Invariant: whatever enters through the intake is counted as seen there, and leaves through exactly one outcome of the
//! [`Ledger`].

pub mod ack;
pub mod afterwork;
pub mod attribute;
pub mod availability;
pub mod batch;
pub mod intake;
pub mod ledger;
pub mod lines;
pub mod metric;
pub mod peers;
pub mod positions;
pub mod pressure;
pub mod request;
pub mod resource;
pub mod service_name;
pub mod spans;
pub mod value;

pub use ack::{Ack, Outcome, Pending, Verdicts};
pub use afterwork::Afterwork;
pub use attribute::Attribute;
pub use availability::{Availability, State};
pub use batch::{Batch, Class, Records, Reduced, ReducedRecords, Signal, Source};
pub use intake::{Held, Intake, IntakeError, Received, Slot};
pub use ledger::{DropReason, Ledger, Place};
pub use lines::Lines;
pub use metric::{Kind, Metric, Sample, Scope, Series, Value};
pub use opentelemetry_proto::tonic as otlp;
pub use peers::{Peer, Peers};
pub use positions::{Ahead, Announcement, Positions, Putting, Settled};
pub use pressure::{Level, Pressure};
pub use request::{Request, Template};
pub use resource::Resource;
pub use spans::Spans;
