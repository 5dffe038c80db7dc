//! The network namespaces of this host: containers and pods have their own, with sockets and addresses that the host's do not show.
//!
//! In: /proc/<pid>/ns/net. Out: one entry a namespace, with its addresses, and a way to do something within it. The thread that enters one comes
//! back before anything else; where it is not let in, that namespace is left out. Invariant: no more than `max` are entered in a round.

use crate::netlink::{Netlink, attributes, bytes_at, u32_at};
use hashbrown::HashMap;
use rustix::fs::{CWD, Mode, OFlags, open, readlinkat_raw};
use rustix::io::{self, Errno};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

const GET_ADDRESSES: u16 = 22; // RTM_GETADDR
const ADDRESS: u16 = 1; // IFA_ADDRESS
const LOCAL: u16 = 2; // IFA_LOCAL
const FIXED_BYTES: usize = 8; // struct ifaddrmsg

/// An address of a namespace, and the interface that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) interface: u32,
}

/// The namespace that this process is in, to come back to.
pub(crate) struct Home {
    own: OwnedFd,
    pub(crate) number: u64,
}

impl Home {
    pub(crate) fn open() -> io::Result<Home> {
        let path = "/proc/thread-self/ns/net";
        let own = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Home { own, number: number(Path::new(path)).ok_or(Errno::NOENT)? })
    }

    /// Do something in the namespace of a process. `Err`: it was not let in. `Ok(None)`: it could not come back, and nothing may be done any more.
    pub(crate) fn within<T>(&self, proc: &Path, pid: u32, work: impl FnOnce() -> T) -> io::Result<Option<T>> {
        let network = Some(LinkNameSpaceType::Network);
        let there = open(proc.join(pid.to_string()).join("ns/net"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        move_into_link_name_space(there.as_fd(), network)?;
        let done = work();
        Ok(move_into_link_name_space(self.own.as_fd(), network).is_ok().then_some(done))
    }
}

/// The namespaces of these processes, each with the first of them; `home` is not among them.
pub(crate) fn others(proc: &Path, processes: &[u32], home: u64) -> HashMap<u64, u32> {
    let mut found = HashMap::new();
    for pid in processes {
        if let Some(number) = number(&proc.join(pid.to_string()).join("ns/net")).filter(|number| *number != home) {
            found.entry(number).or_insert(*pid);
        }
    }
    found
}

/// `net:[4026531840]` is 4026531840.
fn number(path: &Path) -> Option<u64> {
    let mut target = [MaybeUninit::<u8>::uninit(); 32];
    let (target, _) = readlinkat_raw(CWD, path, &mut target[..]).ok()?;
    std::str::from_utf8(target.strip_prefix(b"net:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

/// The addresses of the namespace that the calling thread is in.
pub(crate) fn addresses(buffer: &mut [u8]) -> io::Result<Vec<Address>> {
    let mut found = Vec::new();
    Netlink::open(None)?.dump(GET_ADDRESSES, &[0; FIXED_BYTES], buffer, |message| found.extend(address(message)))?;
    Ok(found)
}

/// Of a link between two, LOCAL is the own end.
fn address(message: &[u8]) -> Option<Address> {
    let content = message.get(FIXED_BYTES..)?;
    let of = |wanted: u16| attributes(content).find(|(kind, _)| *kind == wanted).map(|(_, address)| address);
    let bytes = of(LOCAL).or_else(|| of(ADDRESS))?;
    let ip = match bytes.len() {
        4 => IpAddr::from(bytes_at::<4>(bytes, 0)),
        16 => IpAddr::from(bytes_at::<16>(bytes, 0)),
        _ => return None,
    };
    Some(Address { ip, interface: u32_at(message, 4) })
}

/// The numbers of the interfaces that are bridges: what is behind them is this host's own affair. In the namespace of /sys, which is the host's.
pub(crate) fn bridges() -> Vec<u32> {
    let Ok(interfaces) = std::fs::read_dir("/sys/class/net") else { return Vec::new() };
    let bridges = interfaces.flatten().map(|interface| interface.path()).filter(|path| path.join("bridge").exists());
    bridges.filter_map(|path| std::fs::read_to_string(path.join("ifindex")).ok()?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{BUFFER_BYTES, put};
    use std::path::Path;

    #[test]
    fn the_own_addresses_are_told_with_their_interfaces() {
        let addresses = addresses(&mut vec![0; BUFFER_BYTES]).unwrap();
        assert!(addresses.iter().any(|address| address.ip.is_loopback() && address.interface != 0), "{addresses:?}");
    }

    #[test]
    fn of_a_link_between_two_the_own_end_is_the_address() {
        let mut message = vec![2, 32, 0, 0, 7, 0, 0, 0];
        message[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        put(&mut message, ADDRESS, &[10, 0, 0, 2]);
        put(&mut message, LOCAL, &[10, 0, 0, 1]);
        assert_eq!(address(&message), Some(Address { ip: IpAddr::from([10, 0, 0, 1]), interface: 7 }));
        assert_eq!(address(&message[..10]), None);
        assert_eq!(address(&[]), None);
    }

    #[test]
    fn a_process_in_the_own_namespace_is_in_no_other() {
        let home = Home::open().unwrap();
        assert_eq!(others(Path::new("/proc"), &[std::process::id(), u32::MAX], home.number).len(), 0);
        assert_eq!(others(Path::new("/proc"), &[std::process::id()], 1).len(), 1);
    }
}
