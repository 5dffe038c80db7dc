//! Asking the kernel over netlink: a request out, the messages of its answer in, and the attributes within them.
//!
//! Format: netlink(7) and linux/netlink.h; all in the host's byte order but for what says otherwise. Invariant: a message or attribute that
//! claims to be longer than what came ends the walk, so that nothing is read that is not there; the kernel is not waited for longer
//! than [`PATIENCE`].

use rustix::io::{self, Errno};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Answers come from the kernel itself, at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of one answer's part. The kernel fills what it is given, up to 32 KiB.
pub(crate) const BUFFER_BYTES: usize = 32 * 1024;

const HEADER_BYTES: usize = 16;
const REQUEST: u16 = 1; // NLM_F_REQUEST
const DUMP: u16 = 0x300; // NLM_F_DUMP
const MULTI: u16 = 2; // NLM_F_MULTI
const ERROR: u16 = 2; // NLMSG_ERROR
const DONE: u16 = 3; // NLMSG_DONE

/// One conversation with one part of the kernel, in the network namespace in which it was opened.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// With `None` the part is routing, whose number is 0.
    pub(crate) fn open(part: Option<Protocol>) -> io::Result<Netlink> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, part)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Everything of a kind: each message of the answer goes to `take`, without its header.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        buffer: &mut [u8],
        take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.ask(kind, REQUEST | DUMP, body, buffer, take)
    }

    /// One thing. An error of the kernel is ours, [`Errno::NOENT`] if there is no such thing.
    pub(crate) fn get(&mut self, kind: u16, body: &[u8], buffer: &mut [u8], take: impl FnMut(&[u8])) -> io::Result<()> {
        self.ask(kind, REQUEST, body, buffer, take)
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADER_BYTES + body.len()) as u32;
        let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(body);
        send(&self.socket, &request, SendFlags::empty())?;
        loop {
            let (received, _) = match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            let is_dump = flags & DUMP != 0;
            if let Some(outcome) = read_part(&buffer[..received], self.sequence, is_dump, &mut take) {
                return outcome;
            }
        }
    }
}

/// Hand on the messages of one part of an answer; `Some` once it is the last. Of one thing there is one message, though conntrack marks it as
/// one of several.
fn read_part(mut part: &[u8], sequence: u32, is_dump: bool, take: &mut impl FnMut(&[u8])) -> Option<io::Result<()>> {
    if part.is_empty() {
        return Some(Ok(()));
    }
    while part.len() >= HEADER_BYTES {
        let length = u32_at(part, 0) as usize;
        if length < HEADER_BYTES || length > part.len() {
            break;
        }
        let (kind, flags, of) = (u16_at(part, 4), u16_at(part, 6), u32_at(part, 8));
        let message = &part[HEADER_BYTES..length];
        // What was asked before and was not waited for to its end is skipped.
        if of == sequence {
            match kind {
                DONE => return Some(Ok(())),
                ERROR => {
                    let code = u32_at(message, 0).cast_signed();
                    return Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code)) });
                }
                _ => take(message),
            }
            if flags & MULTI == 0 || !is_dump {
                return Some(Ok(()));
            }
        }
        part = part.get(aligned(length)..).unwrap_or_default();
    }
    None
}

/// The attributes in a message, behind its fixed part: kind (without flags) and content.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0));
        if length < 4 || length > bytes.len() {
            return None;
        }
        let found = (u16_at(bytes, 2) & 0x3FFF, &bytes[4..length]);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(found)
    })
}

/// Append an attribute.
pub(crate) fn put(bytes: &mut Vec<u8>, kind: u16, content: &[u8]) {
    bytes.extend(((4 + content.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(content);
    bytes.resize(aligned(bytes.len()), 0);
}

fn aligned(length: usize) -> usize {
    length.div_ceil(4) * 4
}

pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn read(part: &[u8]) -> (Option<Result<(), Errno>>, Vec<Vec<u8>>) {
        let mut taken = Vec::new();
        let outcome = read_part(part, 7, true, &mut |message: &[u8]| taken.push(message.to_vec()));
        (outcome, taken)
    }

    #[test]
    fn an_answer_in_parts_ends_where_it_says_and_one_in_one_part_with_it() {
        let first =
            [message(20, MULTI, 7, b"one"), message(20, MULTI, 6, b"older"), message(20, MULTI, 7, b"two")].concat();
        assert_eq!(read(&first), (None, vec![b"one".to_vec(), b"two".to_vec()]));
        assert_eq!(read(&message(DONE, MULTI, 7, &[0; 4])), (Some(Ok(())), vec![]));
        assert_eq!(read(&message(20, 0, 7, b"only")), (Some(Ok(())), vec![b"only".to_vec()]));
        // Of what is asked for by itself nothing follows, whatever its mark says.
        assert_eq!(read_part(&message(20, MULTI, 7, b"only"), 7, false, &mut |_: &[u8]| {}), Some(Ok(())));
        let refused = message(ERROR, 0, 7, &(-2_i32).to_ne_bytes());
        assert_eq!(read(&refused), (Some(Err(Errno::NOENT)), vec![]));
    }

    #[test]
    fn what_claims_to_be_longer_than_it_is_ends_the_walk() {
        let mut long = message(20, MULTI, 7, b"body");
        long[0] = 200;
        assert_eq!(read(&long), (None, vec![]));
        for length in [0, 3, 15, 16] {
            let mut short = message(20, MULTI, 7, b"body");
            short[..4].copy_from_slice(&u32::to_ne_bytes(length));
            let expected = if length == 16 { 1 } else { 0 };
            assert_eq!(read(&short).1.len(), expected, "{length}");
        }
        let mut attribute = Vec::new();
        put(&mut attribute, 2, b"abc");
        put(&mut attribute, 0x8001, b"d");
        assert_eq!(attributes(&attribute).collect::<Vec<_>>(), [(2, &b"abc"[..]), (1, &b"d"[..])]);
        assert_eq!(attributes(&attribute[..6]).count(), 0);
        attribute[0] = 1;
        assert_eq!(attributes(&attribute).count(), 0);
    }
}
