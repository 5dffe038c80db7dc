//! How many connections may be open, in all and from one address.
//!
//! An address is an IPv4 address or the /64 of an IPv6 one, which is what one host or site has. Invariant: a [`Slot`] frees its
//! place when it is dropped, and the table holds no address without an open connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a connection was closed before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// As many are open as may be.
    InAll,
    /// As many are open from its address as may be.
    FromAddress,
    /// It sent frame after frame that carried nothing.
    Frames,
}

impl TooMany {
    /// Snake-case name for counters.
    pub fn name(self) -> &'static str {
        match self {
            TooMany::InAll => "connections",
            TooMany::FromAddress => "connections_per_address",
            TooMany::Frames => "frames_of_connection",
        }
    }
}

/// The places of one server. Clones are the same places.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    open: Arc<Mutex<Open>>,
    max: usize,
    per_address_max: usize,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    address: IpAddr,
}

impl Slots {
    pub(crate) fn new(max: usize, per_address_max: usize) -> Slots {
        Slots { open: Arc::default(), max, per_address_max }
    }

    /// A place for a connection from here.
    pub(crate) fn take(&self, peer: IpAddr) -> Result<Slot, TooMany> {
        let address = key(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.max {
            return Err(TooMany::InAll);
        }
        let of_address = open.by_address.entry(address).or_default();
        // At least one is allowed, so a refused address is one that is in the table anyway.
        if *of_address >= self.per_address_max {
            return Err(TooMany::FromAddress);
        }
        *of_address += 1;
        open.all += 1;
        Ok(Slot { slots: self.clone(), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Entry::Occupied(mut of_address) = open.by_address.entry(self.address) {
            match of_address.get_mut() {
                1 => drop(of_address.remove()),
                count => *count -= 1,
            }
        }
    }
}

/// What counts as one address.
fn key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (!0 << 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_never_has_all_places() {
        let slots = Slots::new(3, 2);
        let take = |address: &str| slots.take(address.parse().unwrap());
        let (one, two) = (take("10.0.0.1").unwrap(), take("::ffff:10.0.0.1").unwrap());
        assert_eq!(take("10.0.0.1").unwrap_err(), TooMany::FromAddress);
        let three = take("10.0.0.2").unwrap();
        assert_eq!(take("10.0.0.3").unwrap_err(), TooMany::InAll);
        drop(one);
        assert!(take("10.0.0.1").is_ok());
        drop((two, three));
        assert_eq!(slots.open.lock().unwrap().by_address.len(), 0);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let slots = Slots::new(10, 1);
        let _one = slots.take("2001:db8::1".parse().unwrap()).unwrap();
        assert_eq!(slots.take("2001:db8::2".parse().unwrap()).unwrap_err(), TooMany::FromAddress);
        assert!(slots.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
        assert!(slots.take("::1".parse().unwrap()).is_ok());
    }
}
