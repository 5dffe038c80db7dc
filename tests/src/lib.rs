//! Starts the real processes (store, gateway, agent) and asks the real ClickHouse: the end-to-end tests, the demo and the
//! benches stand on it.
//!
//! Everything runs on the loopback, on free ports, under a temporary folder. Whoever starts a process owns it: dropping the
//! handle ends the process, by its id.

mod agent;
pub mod cache;
mod gateway;
mod http;
mod kafka;
mod keys;
mod link;
mod memory;
mod port;
mod process;
mod store;
mod wait;
mod world;

pub use agent::{Agent, AgentConfig};
pub use gateway::{Gateway, GatewayConfig, Key};
pub use http::{Answer, get, post};
pub use kafka::{Broker, BrokerConfig, Cluster, Consumer, Mechanism, PASSWORD, Right, Security, Topics, USER};
pub use keys::keys_shown;
pub use link::Link;
pub use memory::{MemoryWatch, resident_bytes};
pub use port::{free_port, port_or_free};
pub use process::{Binaries, Process, SmallDisk, cpu_seconds, cpu_seconds_of_the_ended, through};
pub use store::{CLUSTER, Store, StoreConfig};
pub use wait::{until, within};
pub use world::{Outcome, World};
