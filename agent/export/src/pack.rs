//! Export requests, compressed: metrics harder than what comes in masses.
//!
//! Folded metrics are some ten kilobytes a minute, so that a level which takes ten times the CPU costs milliseconds. Its tables are
//! made for the batch and freed. Invariant: the tables for metrics take at most 1,237 KiB, whatever the level and the batch.

use crate::config::Config;
use ollystack_record::Signal;
use std::io;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// 2^16 = 64 KiB back, about what a host with a thousand series sends in a minute; with 2^16 entries of 4 bytes in each of two tables and
/// what the parser needs 1,237 KiB in all, by ZSTD_estimateCCtxSize.
const METRICS_TABLES: [CParameter; 3] = [CParameter::WindowLog(16), CParameter::HashLog(16), CParameter::ChainLog(16)];

/// The same for metrics that are packed anew while the buffer is nearly full: 2^15 back, two tables of 2^13, some 270 KiB in all.
const FRUGAL_TABLES: [CParameter; 3] = [CParameter::WindowLog(15), CParameter::HashLog(13), CParameter::ChainLog(13)];
const FRUGAL_LEVEL: i32 = 3;

/// Compresses.
pub(crate) struct Packer {
    usual: Compressor<'static>,
    metrics_level: i32,
    metrics_tables: [CParameter; 3],
}

impl Packer {
    pub(crate) fn new(config: &Config) -> io::Result<Packer> {
        let usual = Compressor::new(config.compression_level)?;
        Ok(Packer { usual, metrics_level: config.metrics_compression_level, metrics_tables: METRICS_TABLES })
    }

    /// For metrics only, with little memory.
    pub(crate) fn frugal() -> io::Result<Packer> {
        Ok(Packer { usual: Compressor::new(FRUGAL_LEVEL)?, metrics_level: FRUGAL_LEVEL, metrics_tables: FRUGAL_TABLES })
    }

    pub(crate) fn pack(&mut self, signal: Signal, plain: &[u8]) -> io::Result<Vec<u8>> {
        match signal {
            Signal::Metrics => {
                let mut thorough = Compressor::new(self.metrics_level)?;
                self.metrics_tables.into_iter().try_for_each(|table| thorough.set_parameter(table))?;
                thorough.compress(plain)
            }
            Signal::Logs | Signal::Traces => self.usual.compress(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_packed_harder_and_read_back_whatever_their_size() {
        let mut packer = Packer::new(&Config::default()).unwrap();
        // Alike but for a few digits, as points are.
        let line =
            |n: u64| format!("system.cpu.time cpu.mode user {} {:x}\n", n % 7, n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for lines in [0, 1, 1_000, 20_000] {
            let plain: String = (0..lines).map(line).collect();
            let [metrics, logs] = [Signal::Metrics, Signal::Logs].map(|of| packer.pack(of, plain.as_bytes()).unwrap());
            assert!(lines < 1_000 || metrics.len() < logs.len(), "{lines}: {} and {}", metrics.len(), logs.len());
            assert_eq!(zstd::bulk::decompress(&metrics, plain.len()).unwrap(), plain.as_bytes());
        }
    }
}
