//! The sockets of a network namespace, by sock_diag: who is bound to what, connected to whom, and how much went over it.
//!
//! Format: sock_diag(7), linux/inet_diag.h, and `struct tcp_info` of linux/tcp.h. Where sock_diag is refused, /proc/net/tcp tells the same
//! without bytes and round trips (`table`). Invariant: what a kernel does not tell is 0; no more sockets are taken than asked for.

use crate::netlink::{Netlink, attributes, bytes_at, u32_at, u64_at};
use rustix::io;
use rustix::net::netlink;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const BY_FAMILY: u16 = 20; // SOCK_DIAG_BY_FAMILY
const V4: u8 = 2; // AF_INET
const V6: u8 = 10; // AF_INET6
/// Numbers of protocols.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const INFO: u16 = 2; // INET_DIAG_INFO
const MESSAGE_BYTES: usize = 72; // struct inet_diag_msg

/// States of TCP as bits.
pub(crate) const ESTABLISHED: u32 = 1 << 1;
pub(crate) const LISTENING: u32 = 1 << 10;
/// Of UDP: bound and connected to nobody.
pub(crate) const UNCONNECTED: u32 = 1 << 7;

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// 0: it has no file.
    pub(crate) inode: u32,
    /// Never given twice since the host started; 0 where it is not known.
    pub(crate) cookie: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) round_trip_us: u32,
}

/// Ask for all sockets in these states.
pub(crate) struct Diag(Netlink);

impl Diag {
    /// In the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Diag> {
        Ok(Diag(Netlink::open(Some(netlink::SOCK_DIAG))?))
    }

    /// Each to `take`. A family that the kernel does not have is left out.
    pub(crate) fn sockets(
        &mut self,
        protocol: u8,
        states: u32,
        buffer: &mut [u8],
        mut take: impl FnMut(Socket),
    ) -> io::Result<()> {
        // What went over a socket that listens is nothing.
        let extensions = if states == ESTABLISHED { 1 << (INFO - 1) } else { 0 };
        let mut ask = |family| {
            let mut request = vec![family, protocol, extensions, 0];
            request.extend(states.to_ne_bytes());
            request.extend([0; 48]);
            self.0.dump(BY_FAMILY, &request, buffer, |message| take_message(message, &mut take))
        };
        ask(V4)?;
        // A host without IPv6.
        let _ = ask(V6);
        Ok(())
    }
}

fn take_message(message: &[u8], take: &mut impl FnMut(Socket)) {
    if message.len() < MESSAGE_BYTES {
        return;
    }
    let port = |at| u16::from_be_bytes(bytes_at(message, at));
    let address = |at| match message[0] {
        V4 => IpAddr::V4(Ipv4Addr::from(bytes_at::<4>(message, at))),
        _ => IpAddr::V6(Ipv6Addr::from(bytes_at::<16>(message, at))).to_canonical(),
    };
    let mut socket = Socket {
        local: SocketAddr::new(address(8), port(4)),
        remote: SocketAddr::new(address(24), port(6)),
        inode: u32_at(message, 68),
        cookie: u64::from(u32_at(message, 44)) | u64::from(u32_at(message, 48)) << 32,
        sent: 0,
        received: 0,
        round_trip_us: 0,
    };
    if let Some((_, info)) = attributes(&message[MESSAGE_BYTES..]).find(|(kind, _)| *kind == INFO) {
        // Older kernels tell less: what is not there reads as 0.
        socket.round_trip_us = u32_at(info, 68);
        socket.sent = u64_at(info, 120);
        socket.received = u64_at(info, 128);
    }
    take(socket);
}

/// The sockets in these states in the text of /proc/net/tcp or tcp6.
pub(crate) fn table(text: &[u8], states: u32, mut take: impl FnMut(Socket)) {
    for line in text.split(|byte| *byte == b'\n').skip(1) {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let mut words = line.split_ascii_whitespace().skip(1);
        let ends = [words.next(), words.next()].map(|word| word.and_then(end));
        let state = words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
        let inode = words.nth(5).and_then(|word| word.parse().ok());
        if let ([Some(local), Some(remote)], Some(state), Some(inode)) = (ends, state, inode)
            && 1_u32.checked_shl(state).is_some_and(|bit| bit & states != 0)
        {
            take(Socket { local, remote, inode, cookie: 0, sent: 0, received: 0, round_trip_us: 0 });
        }
    }
}

/// `0100007F:1F90`: words of the address in the host's byte order, the port as it is read.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{BUFFER_BYTES, put};
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    fn found(states: u32) -> Vec<Socket> {
        let mut found = Vec::new();
        Diag::open().unwrap().sockets(TCP, states, &mut vec![0; BUFFER_BYTES], |socket| found.push(socket)).unwrap();
        found
    }

    #[test]
    fn a_connection_is_found_from_both_ends_with_what_went_over_it() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else { continue };
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&[7; 1000]).unwrap();
            server.read_exact(&mut [0; 1000]).unwrap();
            // The answer acknowledges.
            server.write_all(&[7; 10]).unwrap();
            client.read_exact(&mut [0; 10]).unwrap();
            assert!(found(LISTENING).iter().any(|socket| socket.local == address && socket.inode != 0));
            let ends = (client.local_addr().unwrap(), address);
            let all = found(ESTABLISHED);
            let of = |local, remote| *all.iter().find(|it| it.local == local && it.remote == remote).unwrap();
            let (client, server) = (of(ends.0, ends.1), of(ends.1, ends.0));
            assert!((1000..=1001).contains(&client.sent), "{client:?}");
            assert_eq!((client.received, server.received), (10, 1000));
            assert!(client.cookie != server.cookie && client.round_trip_us > 0);
        }
    }

    #[test]
    fn the_table_in_proc_tells_the_same_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut text = Vec::new();
        std::fs::File::open("/proc/net/tcp").unwrap().read_to_end(&mut text).unwrap();
        let mut ends = Vec::new();
        table(&text, ESTABLISHED, |socket| ends.push((socket.local, socket.remote)));
        assert!(ends.contains(&(client.local_addr().unwrap(), client.peer_addr().unwrap())));
        let v6 = "sl\n 0: 00000000000000000000000001000000:1F90 0000000000000000FFFF00000100007F:0050 01 0:0 0:0 0 0 0 77 1\n\
                  1: 0100007F:1F90 torn\n 2: 0100007F:1F90 0100007F:1F91 FF 0:0 0:0 0 0 0 77 1";
        let mut ends = Vec::new();
        table(v6.as_bytes(), ESTABLISHED, |socket| {
            ends.push((socket.local.to_string(), socket.remote.to_string(), socket.inode))
        });
        assert_eq!(ends, [("[::1]:8080".to_owned(), "127.0.0.1:80".to_owned(), 77)]);
    }

    #[test]
    fn an_old_kernel_tells_less_and_a_torn_message_nothing() {
        let mut message = vec![0; MESSAGE_BYTES];
        message[0] = V4;
        message[8..12].copy_from_slice(&[10, 0, 0, 1]);
        message[4..6].copy_from_slice(&8080_u16.to_be_bytes());
        let mut info = vec![0; 104];
        info[68..72].copy_from_slice(&250_u32.to_ne_bytes());
        put(&mut message, INFO, &info);
        let mut taken = Vec::new();
        take_message(&message, &mut |socket| taken.push(socket));
        take_message(&message[..MESSAGE_BYTES - 1], &mut |_| unreachable!());
        let socket = taken[0];
        assert_eq!(socket.local, "10.0.0.1:8080".parse().unwrap());
        assert_eq!((socket.round_trip_us, socket.sent, socket.received), (250, 0, 0));
    }
}
