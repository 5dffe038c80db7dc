//! Ports of the loopback that nobody else is given, so that a server may be told one, end, and find it free when it comes back.
//!
//! Asking the kernel for any port and letting it go again does not do: it may become the near end of somebody's connection before the
//! server is there. So ports are below those that the kernel gives to connections, and each block of them belongs to one process of
//! this crate's: it holds the UDP port of the block's first number, which no server here wants. Invariant: a number is given once.

use anyhow::{Context, Result};
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Above what services usually listen on.
const LOWEST: u16 = 10_240;
/// What the kernel gives to connections begins here, unless it says otherwise.
const CONNECTIONS_FROM: u16 = 32_768;
/// Ports of a block: some worlds of a test.
const BLOCK: u16 = 64;

static PORTS: Mutex<Ports> = Mutex::new(Ports { blocks: Vec::new(), left: 0..0 });

/// What this process has.
struct Ports {
    /// Held until it ends.
    blocks: Vec<UdpSocket>,
    /// Of the latest block.
    left: Range<u16>,
}

/// A TCP port of the loopback that nobody listens on, and that no connection and no other caller is given while this process lives.
pub fn free_port() -> Result<u16> {
    let mut ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = ports.left.find(|port| is_free(*port)) {
            return Ok(port);
        }
        match another_block(LOWEST..connections_from()) {
            Some((held, block)) => {
                ports.blocks.push(held);
                ports.left = block;
            }
            // All are taken, or the kernel gives these to connections, too.
            None => return any(),
        }
    }
}

/// `wanted` when nobody listens on it, any free port otherwise.
pub fn port_or_free(wanted: u16) -> Result<u16> {
    if is_free(wanted) { Ok(wanted) } else { free_port() }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn any() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?.local_addr()?.port())
}

fn another_block(among: Range<u16>) -> Option<(UdpSocket, Range<u16>)> {
    let mut blocks =
        among.clone().step_by(usize::from(BLOCK)).filter(|first| *first <= among.end.saturating_sub(BLOCK));
    blocks.find_map(|first| Some((UdpSocket::bind(("127.0.0.1", first)).ok()?, first..first + BLOCK)))
}

fn connections_from() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(CONNECTIONS_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_port_is_given_once_and_never_one_of_those_that_connections_get() {
        let ports: Vec<u16> = (0..2 * BLOCK).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|port| (LOWEST..connections_from()).contains(port)), "{ports:?}");
    }

    #[test]
    fn a_block_that_somebody_holds_is_not_given_to_another() {
        let among = 9_000..9_000 + 3 * BLOCK;
        let held: Vec<_> = (0..3).map_while(|_| another_block(among.clone())).collect();
        let firsts: BTreeSet<u16> = held.iter().map(|(_, block)| block.start).collect();
        assert_eq!(firsts.len(), held.len());
        assert!(another_block(among).is_none());
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        assert!(!is_free(taken));
        assert_ne!(port_or_free(taken).unwrap(), taken);
    }
}
