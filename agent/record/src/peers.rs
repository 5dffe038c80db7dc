//! Who answers at an address on this host: what the input that looks at sockets found, for the one that looks into connections.
//!
//! A process in a network namespace of its own has its own 127.0.0.1, so an address counts with the namespace it is seen from. Invariant: what
//! more than one service might be is nobody: a name is given only where there is no doubt.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

/// Shared by inputs: one replaces what is known, others ask.
#[derive(Debug, Default)]
pub struct Peers(RwLock<Arc<Known>>);

/// What is known at a time.
#[derive(Debug, Default)]
pub struct Known {
    /// By namespace, address (`None`: whichever the namespace has) and port.
    pub listeners: HashMap<(u64, Option<IpAddr>, u16), Arc<str>>,
    /// The namespace that has an address; those that several have are left out, and those that every namespace has.
    pub addresses: HashMap<IpAddr, u64>,
    /// What is behind an address that is translated on its way.
    pub translated: HashMap<SocketAddr, Peer>,
}

/// Somebody at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A service of this host.
    Service(Arc<str>),
    /// Somebody at this address, on another host or not known.
    Address(SocketAddr),
}

impl Peers {
    /// From now on this is known.
    pub fn replace(&self, known: Known) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    /// What is known now.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    /// Who answers at `address`, seen from a namespace. `None`: nobody that is known; it may be on another host.
    pub fn at(&self, namespace: u64, address: SocketAddr) -> Option<Peer> {
        self.listener(namespace, address).map(Peer::Service).or_else(|| self.translated.get(&address).cloned())
    }

    /// The service of this host that listens there, without any translation.
    pub fn listener(&self, namespace: u64, address: SocketAddr) -> Option<Arc<str>> {
        let (ip, port) = (address.ip(), address.port());
        let there = if ip.is_loopback() { namespace } else { *self.addresses.get(&ip)? };
        let exactly = self.listeners.get(&(there, Some(ip), port));
        exactly.or_else(|| self.listeners.get(&(there, None, port))).cloned()
    }
}

/// Whether an address is of one's own networks: private (RFC 1918, RFC 4193), link-local, loopback, or shared (RFC 6598), which clusters give
/// to pods. They are few and worth telling apart; those of the internet are neither.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (a == 100 && b & 0xC0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        let peers = Peers::default();
        let listeners = [
            ((1, None, 80), "front"),
            ((1, Some([127, 0, 0, 1].into()), 80), "local"),
            ((2, Some([127, 0, 0, 1].into()), 80), "sidecar"),
            ((2, None, 8080), "pod"),
        ];
        let listeners = listeners.map(|((namespace, ip, port), name)| ((namespace, ip, port), Arc::from(name)));
        let addresses = [([10, 0, 0, 1].into(), 1), ([10, 1, 0, 2].into(), 2)];
        let translated = [(SocketAddr::from(([10, 96, 0, 1], 80)), Peer::Service("pod".into()))];
        peers.replace(Known {
            listeners: listeners.into(),
            addresses: addresses.into(),
            translated: translated.into(),
        });
        peers
    }

    #[test]
    fn an_address_is_looked_up_from_where_it_is_seen() {
        let known = peers().known();
        let table = [
            (1, "127.0.0.1:80", Some("local")),
            (2, "127.0.0.1:80", Some("sidecar")),
            (2, "127.0.0.1:8080", Some("pod")),
            (1, "127.0.0.1:8080", None),
            (2, "10.0.0.1:80", Some("front")),
            (1, "10.1.0.2:8080", Some("pod")),
            (1, "10.1.0.2:80", None),
            (1, "10.0.0.9:80", None),
            (1, "10.96.0.1:80", Some("pod")),
        ];
        for (namespace, address, expected) in table {
            let expected = expected.map(|name| Peer::Service(name.into()));
            assert_eq!(known.at(namespace, address.parse().unwrap()), expected, "{namespace} {address}");
        }
    }

    #[test]
    fn own_networks_are_told_from_the_internet() {
        for own in [
            "10.0.0.1",
            "192.168.1.1",
            "172.31.0.1",
            "100.100.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(is_private(own.parse().unwrap()), "{own}");
        }
        for far in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1"] {
            assert!(!is_private(far.parse().unwrap()), "{far}");
        }
    }
}
