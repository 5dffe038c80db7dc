//! Who is at the other end of a connection: the service that answers there, or that asked from there.
//!
//! In: each connection as it is first seen, with whose it is; and what the input that looks at sockets found ([`Peers`]). Both ends of a connection
//! within this host are seen here, so they name each other; else the one that was called is looked up by its address. Invariant: an
//! end that is not known stays unknown; at most twice `max` ends are remembered, the older half goes first.

use crate::flow::addresses;
use hashbrown::HashMap;
use ollystack_ebpf::flow::{CLIENT, Meta};
use ollystack_record::{Peer, Peers};
use std::net::SocketAddr;
use std::sync::Arc;

/// An end of a connection: the network namespace it is seen from, where addresses alone do not tell (0: they do), its own address, the other's.
type End = (u64, SocketAddr, SocketAddr);

/// Remembers ends.
pub(crate) struct Ends {
    peers: Arc<Peers>,
    max: usize,
    new: HashMap<End, Arc<str>>,
    old: HashMap<End, Arc<str>>,
}

impl Ends {
    pub(crate) fn new(peers: Arc<Peers>, max: usize) -> Ends {
        Ends { peers, max, new: HashMap::new(), old: HashMap::new() }
    }

    /// This end is this service's.
    pub(crate) fn opened(&mut self, meta: &Meta, namespace: u64, service: &Arc<str>) {
        let Some((local, remote)) = ends(meta) else { return };
        if self.new.len() >= self.max {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(end(namespace, local, remote), Arc::clone(service));
    }

    /// Who is at the other end of this connection.
    pub(crate) fn other(&self, meta: &Meta, namespace: u64) -> Option<Peer> {
        let (local, remote) = ends(meta)?;
        let other = end(namespace, remote, local);
        if let Some(service) = self.new.get(&other).or_else(|| self.old.get(&other)) {
            return Some(Peer::Service(Arc::clone(service)));
        }
        if meta.role == CLIENT { self.peers.known().at(namespace, remote) } else { None }
    }
}

fn ends(meta: &Meta) -> Option<(SocketAddr, SocketAddr)> {
    // Of what is encrypted the ends may not have been seen.
    if meta.ends.family == 0 {
        return None;
    }
    let (local, remote) = addresses(&meta.ends);
    Some((SocketAddr::new(local, meta.ends.local_port), SocketAddr::new(remote, meta.ends.remote_port)))
}

fn end(namespace: u64, own: SocketAddr, other: SocketAddr) -> End {
    (if own.ip().is_loopback() { namespace } else { 0 }, own, other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::flow::SERVER;
    use ollystack_ebpf::{Ends as Addresses, FAMILY_V4};
    use ollystack_record::peers::Known;

    fn meta(role: u8, local: ([u8; 4], u16), remote: ([u8; 4], u16)) -> Meta {
        let bytes = |address: [u8; 4]| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address);
            bytes
        };
        let ends = Addresses {
            local: bytes(local.0),
            remote: bytes(remote.0),
            local_port: local.1,
            remote_port: remote.1,
            family: FAMILY_V4,
            reserved: 0,
        };
        Meta { role, ends, ..Meta::default() }
    }

    fn service(name: &str) -> Arc<str> {
        name.into()
    }

    fn named(name: &str) -> Option<Peer> {
        Some(Peer::Service(name.into()))
    }

    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

    #[test]
    fn both_ends_of_a_connection_within_the_host_name_each_other() {
        let mut all = Ends::new(Arc::default(), 8);
        let client = meta(CLIENT, ([10, 0, 0, 1], 4000), ([10, 1, 0, 2], 80));
        let server = meta(SERVER, ([10, 1, 0, 2], 80), ([10, 0, 0, 1], 4000));
        all.opened(&client, 1, &service("front"));
        assert_eq!(all.other(&client, 1), None, "not seen yet");
        // In another namespace, as a container is.
        all.opened(&server, 2, &service("stock"));
        assert_eq!(all.other(&client, 1), named("stock"));
        assert_eq!(all.other(&server, 2), named("front"));
        assert_eq!(all.other(&Meta { role: CLIENT, ..Meta::default() }, 1), None);
    }

    #[test]
    fn the_loopback_of_one_namespace_is_not_that_of_another() {
        let mut all = Ends::new(Arc::default(), 8);
        all.opened(&meta(SERVER, (LOOPBACK, 80), (LOOPBACK, 4000)), 1, &service("stock"));
        let client = meta(CLIENT, (LOOPBACK, 4000), (LOOPBACK, 80));
        assert_eq!(all.other(&client, 2), None);
        assert_eq!(all.other(&client, 1), named("stock"));
    }

    #[test]
    fn a_server_that_is_not_seen_is_looked_up_and_a_client_is_not() {
        let peers = Arc::new(Peers::default());
        let mut known = Known::default();
        known.addresses.insert([10, 0, 0, 1].into(), 1);
        known.listeners.insert((1, None, 443), "proxy".into());
        known.translated.insert("10.96.0.1:80".parse().unwrap(), Peer::Address("10.1.0.2:8080".parse().unwrap()));
        peers.replace(known);
        let all = Ends::new(peers, 8);
        let to = |address, port| all.other(&meta(CLIENT, ([10, 0, 0, 1], 4000), (address, port)), 1);
        assert_eq!(to([10, 0, 0, 1], 443), named("proxy"));
        assert_eq!(to([10, 96, 0, 1], 80), Some(Peer::Address("10.1.0.2:8080".parse().unwrap())));
        assert_eq!(to([10, 0, 0, 9], 443), None);
        let from = meta(SERVER, ([10, 0, 0, 1], 4000), ([10, 0, 0, 1], 443));
        assert_eq!(all.other(&from, 1), None, "who asks is not who listens there");
    }

    #[test]
    fn ends_do_not_grow_without_limit() {
        let mut all = Ends::new(Arc::default(), 4);
        for port in 1..100 {
            all.opened(&meta(CLIENT, ([10, 0, 0, 1], port), ([10, 0, 0, 2], 80)), 1, &service("front"));
            assert!(all.new.len() <= 4 && all.old.len() <= 4);
        }
    }
}
