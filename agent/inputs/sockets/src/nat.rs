//! Who is behind an address: what conntrack turned a connection's destination into, such as a service IP of Kubernetes into a pod's.
//!
//! In: both ends of a connection as its client has them. Out: where it really goes. Format: linux/netfilter/nfnetlink_conntrack.h.
//! Invariant: one question a connection, at most [`ASKED_MAX`] a round; a kernel without conntrack is asked once.

use crate::netlink::{Netlink, attributes, bytes_at, put};
use rustix::io::{self, Errno};
use rustix::net::netlink;
use std::net::{IpAddr, SocketAddr};

/// 10 us each.
pub(crate) const ASKED_MAX: usize = 512;

const GET: u16 = 1 << 8 | 1; // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
const NESTED: u16 = 0x8000;
const ORIGINAL: u16 = 1; // CTA_TUPLE_ORIG
const REPLY: u16 = 2; // CTA_TUPLE_REPLY
const IP: u16 = 1; // CTA_TUPLE_IP
const PROTO: u16 = 2; // CTA_TUPLE_PROTO
const TCP: u8 = 6;
/// Source and destination, CTA_IP_V4_SRC and on, CTA_IP_V6_SRC and on.
const V4: [u16; 2] = [1, 2];
const V6: [u16; 2] = [3, 4];
const PORTS: [u16; 2] = [2, 3]; // CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
const NUMBER: u16 = 1; // CTA_PROTO_NUM
/// Fixed part of a message: family, version, resource.
const FIXED_BYTES: usize = 4;

/// Ask the conntrack of the network namespace in which this was opened.
pub(crate) struct Nat {
    netlink: Option<Netlink>,
    left: usize,
}

impl Nat {
    /// Without conntrack, or without the right to ask, nothing is ever translated.
    pub(crate) fn open() -> Nat {
        Nat { netlink: Netlink::open(Some(netlink::NETFILTER)).ok(), left: 0 }
    }

    /// Whether it can be asked: what a connection that is not there gives.
    pub(crate) fn try_out(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.left = 1;
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        match self.ask(nobody, nobody, buffer) {
            Ok(_) if self.netlink.is_some() => Ok(()),
            Ok(_) => Err(Errno::PROTONOSUPPORT),
            Err(error) => Err(error),
        }
    }

    /// A new round of questions.
    pub(crate) fn refill(&mut self) {
        self.left = ASKED_MAX;
    }

    /// Where a connection from `local` to `remote` goes; `None` where it goes to `remote`, or nobody can tell.
    pub(crate) fn behind(&mut self, local: SocketAddr, remote: SocketAddr, buffer: &mut [u8]) -> Option<SocketAddr> {
        self.ask(local, remote, buffer).ok().flatten().filter(|behind| *behind != remote)
    }

    fn ask(&mut self, local: SocketAddr, remote: SocketAddr, buffer: &mut [u8]) -> io::Result<Option<SocketAddr>> {
        let Some(netlink) = self.netlink.as_mut().filter(|_| self.left > 0) else { return Ok(None) };
        self.left -= 1;
        let mut found = None;
        match netlink.get(GET, &question(local, remote), buffer, |message| found = replier(message)) {
            // No such connection.
            Ok(()) | Err(Errno::NOENT) => Ok(found),
            Err(error) => {
                self.netlink = None;
                Err(error)
            }
        }
    }
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let (family, kinds) = if local.is_ipv4() { (2, V4) } else { (10, V6) };
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    put(&mut ports, NUMBER, &[TCP]);
    for (index, end) in [local, remote].into_iter().enumerate() {
        match end.ip() {
            IpAddr::V4(v4) => put(&mut addresses, kinds[index], &v4.octets()),
            IpAddr::V6(v6) => put(&mut addresses, kinds[index], &v6.octets()),
        }
        put(&mut ports, PORTS[index], &end.port().to_be_bytes());
    }
    let mut tuple = Vec::new();
    put(&mut tuple, IP | NESTED, &addresses);
    put(&mut tuple, PROTO | NESTED, &ports);
    let mut question = vec![family, 0, 0, 0];
    put(&mut question, ORIGINAL | NESTED, &tuple);
    question
}

/// Who answers: the source of the reply's direction.
fn replier(message: &[u8]) -> Option<SocketAddr> {
    let within = |bytes: &[u8], wanted: u16| {
        attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, content)| content.to_vec())
    };
    let reply = within(message.get(FIXED_BYTES..)?, REPLY)?;
    let addresses = within(&reply, IP)?;
    let port = within(&within(&reply, PROTO)?, PORTS[0])?;
    let address = match (within(&addresses, V4[0]), within(&addresses, V6[0])) {
        (Some(v4), _) => IpAddr::from(bytes_at::<4>(&v4, 0)),
        (None, Some(v6)) => IpAddr::from(bytes_at::<16>(&v6, 0)).to_canonical(),
        (None, None) => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(bytes_at(&port, 0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::BUFFER_BYTES;

    /// What a kernel answers: the connection as its client sees it, and the direction of the replies.
    fn answer(client: &str, asked: &str, replies: &str) -> Vec<u8> {
        let [client, asked, replies] = [client, asked, replies].map(|end| end.parse().unwrap());
        let original = question(client, asked);
        let mut reply = question(replies, client)[FIXED_BYTES..].to_vec();
        reply[2..4].copy_from_slice(&(REPLY | NESTED).to_ne_bytes());
        [original, reply].concat()
    }

    #[test]
    fn who_replies_is_who_is_behind_the_address() {
        let message = answer("10.1.0.5:40000", "10.96.0.10:80", "10.1.0.9:8080");
        assert_eq!(replier(&message), Some("10.1.0.9:8080".parse().unwrap()));
        let message = answer("[fd00::5]:40000", "[fd00:96::a]:80", "[fd00::9]:8080");
        assert_eq!(replier(&message), Some("[fd00::9]:8080".parse().unwrap()));
        for length in 0..message.len() {
            replier(&message[..length]); // must not panic at any cut
        }
    }

    #[test]
    fn a_connection_that_conntrack_does_not_know_goes_where_it_says() {
        let mut nat = Nat::open();
        nat.refill();
        let [local, remote] = ["127.0.0.1:9", "127.0.0.1:1"].map(|end| end.parse().unwrap());
        assert_eq!(nat.behind(local, remote, &mut vec![0; BUFFER_BYTES]), None);
        assert_eq!(nat.left, ASKED_MAX - usize::from(nat.netlink.is_some()));
        nat.left = 0;
        assert_eq!(nat.behind(local, remote, &mut []), None, "no question without a buffer: nothing is left to ask");
    }
}
