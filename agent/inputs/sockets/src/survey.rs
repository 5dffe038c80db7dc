//! Which processes serve or call now, and where: one look for people, with everything that shares a socket.
//!
//! Processes that share a listening socket, as a server's workers do, are one row under the first of them. UDP is looked at in the own network
//! namespace only. Invariant: what is listed was seen on a socket; names and targets are those of the map.

use crate::diag::{Diag, ESTABLISHED, Socket, UDP, UNCONNECTED};
use crate::owners::{each_socket, processes, read};
use crate::run::Reader;
use crate::{Config, Error};
use hashbrown::HashMap;
use ollystack_record::peers::{Known, Peer};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A person waits: 5 s at most.
const LINKS_MAX: usize = 2_000_000;

/// A process that serves or calls, with those that share its sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Surveyed {
    /// The first is whom the rest belong to.
    pub pids: Vec<u32>,
    /// Its service.
    pub service: String,
    /// The id of its container.
    pub container: Option<String>,
    /// `tcp 0.0.0.0:80`.
    pub listens: BTreeSet<String>,
    /// Services by name, others by address.
    pub calls: BTreeSet<String>,
    /// Established connections, of either direction.
    pub connections: u64,
}

/// By the number of their first process.
pub fn survey(config: &Config) -> Result<Vec<Surveyed>, Error> {
    let config = config.clone();
    // A thread of its own, as it enters other namespaces.
    std::thread::spawn(move || take(&config)).join().unwrap_or(Err(Error::Ended))
}

fn take(config: &Config) -> Result<Vec<Surveyed>, Error> {
    config.check()?;
    let mut reader = Reader::new(config)?;
    let (look, map) = reader.look()?;
    let mut owners: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut links_left = LINKS_MAX;
    let all = processes(&reader.proc).map_err(Error::NoProc)?;
    // Process 1 may hold sockets for those that it starts.
    for pid in all.iter().copied().filter(|pid| *pid != 1).chain([1]) {
        each_socket(&reader.proc, pid, &mut links_left, |inode| {
            owners.entry(inode).or_default().push(pid);
            true
        });
    }
    let mut rows = Rows { owners, leaders: HashMap::new(), rows: BTreeMap::new() };
    for place in &look.places {
        for socket in &place.listening {
            rows.lead(socket);
        }
    }
    for place in &look.places {
        for socket in &place.listening {
            rows.of(socket, |row| row.listens.insert(format!("tcp {}", socket.local)));
        }
        let is_listening = |socket: &Socket| place.listening.iter().any(|it| it.local.port() == socket.local.port());
        for socket in &place.connected {
            let target = (!is_listening(socket)).then(|| target(&map.known, place.namespace, socket));
            rows.of(socket, |row| {
                row.connections += 1;
                row.calls.extend(target);
            });
        }
    }
    let home = look.places.first().map_or(0, |place| place.namespace);
    let mut datagrams = |states, mut take: Box<dyn FnMut(Socket) + '_>| {
        // A kernel without udp_diag tells nothing of UDP.
        let _ = Diag::open().and_then(|mut diag| diag.sockets(UDP, states, &mut reader.buffer, &mut take));
    };
    let ephemeral = reader.ephemeral.clone();
    datagrams(
        UNCONNECTED,
        Box::new(|socket| {
            if !ephemeral.contains(&socket.local.port()) {
                rows.of(&socket, |row| row.listens.insert(format!("udp {}", socket.local)));
            }
        }),
    );
    datagrams(
        ESTABLISHED,
        Box::new(|socket| {
            let target = target(&map.known, home, &socket);
            rows.of(&socket, |row| row.calls.insert(format!("udp {target}")));
        }),
    );
    let Rows { leaders, rows, .. } = rows;
    let mut surveyed: Vec<Surveyed> = rows.into_values().collect();
    for row in &mut surveyed {
        let leader = row.pids[0];
        let mut others: Vec<u32> =
            leaders.iter().filter(|(pid, of)| **of == leader && **pid != leader).map(|(pid, _)| *pid).collect();
        others.sort_unstable();
        row.pids.extend(others);
        if let Some(service) = read(&reader.proc.join(leader.to_string())) {
            row.service = service.name.to_string();
            row.container = service.container.map(String::from);
        }
    }
    Ok(surveyed)
}

struct Rows {
    owners: HashMap<u32, Vec<u32>>,
    leaders: HashMap<u32, u32>,
    rows: BTreeMap<u32, Surveyed>,
}

impl Rows {
    /// Who owns a listening socket with others leads them.
    fn lead(&mut self, socket: &Socket) {
        let Some(owners) = self.owners.get(&socket.inode) else { return };
        let first = owners[0];
        for pid in owners.iter().filter(|pid| **pid != 1 || first == 1) {
            let leader = self.leaders.entry(*pid).or_insert(first);
            *leader = first.min(*leader);
        }
    }

    fn of<T>(&mut self, socket: &Socket, change: impl FnOnce(&mut Surveyed) -> T) {
        let Some(pid) = self.owners.get(&socket.inode).map(|owners| owners[0]) else { return };
        let leader = self.leaders.get(&pid).copied().unwrap_or(pid);
        change(self.rows.entry(leader).or_insert_with(|| Surveyed { pids: vec![leader], ..Surveyed::default() }));
    }
}

fn target(known: &Known, namespace: u64, socket: &Socket) -> String {
    match known.at(namespace, socket.remote) {
        Some(Peer::Service(name)) => name.to_string(),
        Some(Peer::Address(address)) => address.to_string(),
        None => socket.remote.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn this_process_is_listed_with_what_it_listens_on_and_calls() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect("127.0.0.1:53").unwrap();
        let config = Config { namespaces_max: 0, ..Config::default() };
        let rows = survey(&config).unwrap();
        let own = rows.iter().find(|row| row.pids.contains(&std::process::id())).unwrap();
        assert!(own.listens.contains(&format!("tcp {address}")), "{own:?}");
        assert!(own.calls.contains(&own.service), "it calls itself: {own:?}");
        assert!(own.calls.iter().any(|call| call.starts_with("udp ")), "{own:?}");
        assert!(own.connections >= 1 && !own.service.is_empty());
    }
}
