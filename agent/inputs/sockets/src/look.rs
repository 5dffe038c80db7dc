//! One look at all sockets of the host: what listens and what is connected, namespace by namespace.
//!
//! In: sock_diag, or /proc/net/tcp where that is refused. Out: [`Place`]s. Invariant: over all of them no more than `sockets_max`
//! connections are held; what is over is counted.

use crate::Config;
use crate::diag::{Diag, ESTABLISHED, LISTENING, Socket, TCP, table};
use crate::namespaces::{Address, Home, addresses, bridges, others};
use rustix::io;
use std::io::Read as _;
use std::path::Path;

/// Text of /proc/net/tcp that is read at most: some 27,000 connections.
const TABLE_BYTES_MAX: u64 = 4 << 20;
/// Sockets that listen, over all namespaces.
const LISTENING_MAX: usize = 4_096;

/// A network namespace.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) namespace: u64,
    pub(crate) is_home: bool,
    pub(crate) listening: Vec<Socket>,
    pub(crate) connected: Vec<Socket>,
    pub(crate) addresses: Vec<Address>,
}

/// What a look gave.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The host's first.
    pub(crate) places: Vec<Place>,
    pub(crate) bridges: Vec<u32>,
    pub(crate) over_limit: u64,
    /// sock_diag was refused, so that bytes and round trips are missing.
    pub(crate) diag_refused: Option<io::Errno>,
    /// A namespace was not let into.
    pub(crate) namespace_refused: Option<io::Errno>,
    /// The thread is in a namespace that it did not come back from: nothing more may be done on it.
    pub(crate) is_lost: bool,
}

/// Look at everything.
pub(crate) fn look(config: &Config, home: &Home, proc: &Path, processes: &[u32], buffer: &mut [u8]) -> Look {
    let mut found = Look { bridges: bridges(), ..Look::default() };
    let mut room = Room { connected: config.sockets_max, listening: LISTENING_MAX };
    let mut place = Place { namespace: home.number, is_home: true, ..Place::default() };
    if let Err(error) = fill(&mut place, &mut room, &mut found.over_limit, buffer) {
        found.diag_refused = Some(error);
        read_tables(&mut place, &mut room, &mut found.over_limit);
    }
    found.places.push(place);
    let mut others: Vec<(u64, u32)> = others(proc, processes, home.number).into_iter().collect();
    // The same ones each time.
    others.sort_unstable();
    for (namespace, pid) in others.into_iter().take(config.namespaces_max) {
        let mut place = Place { namespace, ..Place::default() };
        match home.within(proc, pid, || fill(&mut place, &mut room, &mut found.over_limit, buffer)) {
            Ok(Some(_)) => found.places.push(place),
            Ok(None) => {
                found.is_lost = true;
                break;
            }
            // Its process is gone meanwhile.
            Err(io::Errno::NOENT | io::Errno::SRCH) => {}
            Err(error) => {
                found.namespace_refused = Some(error);
                break;
            }
        }
    }
    found
}

/// How many more are taken.
struct Room {
    connected: usize,
    listening: usize,
}

impl Room {
    fn put(left: &mut usize, sockets: &mut Vec<Socket>, socket: Socket, over_limit: &mut u64) {
        match left.checked_sub(1) {
            Some(less) => {
                *left = less;
                sockets.push(socket);
            }
            None => *over_limit += 1,
        }
    }
}

/// Of the namespace that the thread is in.
fn fill(place: &mut Place, room: &mut Room, over_limit: &mut u64, buffer: &mut [u8]) -> io::Result<()> {
    place.addresses = addresses(buffer).unwrap_or_default();
    let mut diag = Diag::open()?;
    let Place { listening, connected, .. } = place;
    diag.sockets(TCP, LISTENING, buffer, |socket| Room::put(&mut room.listening, listening, socket, over_limit))?;
    diag.sockets(TCP, ESTABLISHED, buffer, |socket| Room::put(&mut room.connected, connected, socket, over_limit))
}

fn read_tables(place: &mut Place, room: &mut Room, over_limit: &mut u64) {
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let mut text = Vec::new();
        let opened = std::fs::File::open(file);
        // A host without IPv6 has no tcp6.
        let _ = opened.map(|file| file.take(TABLE_BYTES_MAX).read_to_end(&mut text));
        table(&text, LISTENING, |socket| Room::put(&mut room.listening, &mut place.listening, socket, over_limit));
        table(&text, ESTABLISHED, |socket| Room::put(&mut room.connected, &mut place.connected, socket, over_limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::BUFFER_BYTES;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_listens_and_what_is_connected_is_found_both_ways_and_no_more_than_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
        let home = Home::open().unwrap();
        let config = Config { namespaces_max: 0, ..Config::default() };
        let found = look(&config, &home, Path::new("/proc"), &[], &mut vec![0; BUFFER_BYTES]);
        let mut by_table = Place::default();
        read_tables(&mut by_table, &mut Room { connected: 10_000, listening: 10_000 }, &mut 0);
        for place in [&found.places[0], &by_table] {
            assert!(place.listening.iter().any(|socket| socket.local == address));
            let ours = place.connected.iter().filter(|socket| socket.remote == address);
            assert_eq!(ours.count(), clients.len());
        }
        let (mut few, mut over_limit) = (Place::default(), 0);
        fill(&mut few, &mut Room { connected: 1, listening: 0 }, &mut over_limit, &mut vec![0; BUFFER_BYTES]).unwrap();
        assert_eq!((few.connected.len(), few.listening.len()), (1, 0));
        assert!(over_limit >= 4);
    }
}
