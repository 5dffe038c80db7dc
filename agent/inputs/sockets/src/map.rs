//! From sockets to a map: who listens where, and who is connected with whom.
//!
//! A connection between two processes of this host is counted once, by who called. Who called is who does not listen; where that cannot be told, it
//! is not guessed. A service behind a translated address (a service IP, a published port) is looked up through conntrack. Invariant:
//! an end is a service only if exactly one was found to own its socket; else it is its address, or the internet.

use crate::diag::Socket;
use crate::look::{Look, Place};
use crate::owners::{Owners, Service};
use hashbrown::{HashMap, HashSet};
use ollystack_record::peers::{Known, Peer, is_private};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// Of the connections to one address, so many are asked about, as their targets may differ.
const ASKED_OF_ADDRESS: usize = 4;

/// One end of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum End {
    Service(Arc<str>),
    /// Who was called there.
    Address(SocketAddr),
    /// Who called from there.
    Host(IpAddr),
    Internet,
}

/// Who called whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub(crate) source: End,
    pub(crate) target: End,
}

/// The connections of an edge; bytes as the caller has them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) connections: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) round_trips_us: u64,
    pub(crate) round_trips: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.connections += other.connections;
        self.sent += other.sent;
        self.received += other.received;
        self.round_trips_us += other.round_trips_us;
        self.round_trips += other.round_trips;
    }

    /// Mean, in seconds, if any is known.
    pub(crate) fn round_trip(&self) -> Option<f64> {
        (self.round_trips > 0).then(|| self.round_trips_us as f64 / self.round_trips as f64 / 1e6)
    }
}

/// Somebody answers there, for other hosts to know: a service, or without a name this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// 0: the address as such.
    pub(crate) port: u16,
    pub(crate) service: Option<Arc<str>>,
}

/// What a look comes to.
#[derive(Debug, Default)]
pub(crate) struct Map {
    pub(crate) edges: HashMap<Edge, Tally>,
    pub(crate) endpoints: HashSet<Endpoint>,
    pub(crate) known: Known,
    pub(crate) unowned: u64,
    pub(crate) unclear: u64,
}

/// Bytes that went over each connection, by its cookie, as they stood at the last look.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    last: HashMap<u64, [u64; 2]>,
    /// Not at the first look: what came before it is not of now.
    is_counting: bool,
}

impl Totals {
    /// What went over this one since.
    fn increase(&mut self, now: &mut HashMap<u64, [u64; 2]>, socket: &Socket) -> [u64; 2] {
        let total = [socket.sent, socket.received];
        if socket.cookie == 0 {
            return [0; 2];
        }
        now.insert(socket.cookie, total);
        match self.last.get(&socket.cookie) {
            Some(last) => [0, 1].map(|at| total[at].saturating_sub(last[at])),
            None if self.is_counting => total,
            None => [0; 2],
        }
    }
}

/// Ports that the kernel gives to those who call.
pub(crate) type Ephemeral = std::ops::RangeInclusive<u16>;

/// Put it together. `behind` tells where a connection from and to these goes, if it is translated.
pub(crate) fn map(
    look: &Look,
    owners: &mut Owners,
    totals: &mut Totals,
    ephemeral: &Ephemeral,
    now: Instant,
    mut behind: impl FnMut(SocketAddr, SocketAddr) -> Option<SocketAddr>,
) -> Map {
    let mut map = Map::default();
    know_addresses(look, &mut map.known);
    let pods = know_listeners(look, owners, &mut map.known, now);
    translate(look, &mut map.known, &mut behind);
    tell_endpoints(look, &pods, &mut map);
    let mut carried = HashMap::with_capacity(totals.last.len());
    for place in &look.places {
        let listening = listening(place);
        for socket in &place.connected {
            let [sent, received] = totals.increase(&mut carried, socket);
            let edge = match edge(&map.known, place.namespace, &listening, socket, owners, ephemeral, now) {
                Ok(Some(edge)) => edge,
                Ok(None) => continue,
                Err(Doubt::Unowned) => {
                    map.unowned += 1;
                    continue;
                }
                Err(Doubt::Unclear) => {
                    map.unclear += 1;
                    continue;
                }
            };
            // Bytes as the caller has them.
            let is_caller = !matches!(edge.source, End::Host(_) | End::Internet);
            let [sent, received] = if is_caller { [sent, received] } else { [received, sent] };
            let tally = map.edges.entry(edge).or_default();
            tally.connections += 1;
            tally.sent += sent;
            tally.received += received;
            tally.round_trips_us += u64::from(socket.round_trip_us);
            tally.round_trips += u64::from(socket.round_trip_us > 0);
        }
    }
    *totals = Totals { last: carried, is_counting: true };
    map
}

/// Which namespace has which address.
fn know_addresses(look: &Look, known: &mut Known) {
    let mut several = HashSet::new();
    for place in &look.places {
        for ip in place.addresses.iter().map(|address| address.ip).filter(|ip| is_of_one(*ip)) {
            let first = *known.addresses.entry(ip).or_insert(place.namespace);
            if first != place.namespace {
                several.insert(ip);
            }
        }
    }
    known.addresses.retain(|ip, _| !several.contains(ip));
}

/// Who listens where. Also the service that a pod's namespace is of, if it is of one.
fn know_listeners(look: &Look, owners: &mut Owners, known: &mut Known, now: Instant) -> HashMap<u64, Option<Arc<str>>> {
    let mut pods: HashMap<u64, Option<Arc<str>>> = HashMap::new();
    let (mut several, mut relays) = (HashSet::new(), Vec::new());
    let mut listen = |known: &mut Known, key, name: &Arc<str>| {
        if *known.listeners.entry(key).or_insert_with(|| Arc::clone(name)) != *name {
            several.insert(key);
        }
    };
    for place in &look.places {
        for socket in &place.listening {
            let Some(service) = owners.service_of(socket.inode, now) else { continue };
            let ip = Some(socket.local.ip()).filter(|ip| !ip.is_unspecified());
            let key = (place.namespace, ip, socket.local.port());
            match service.relay {
                Some(to) => relays.push((key, place.namespace, to)),
                None => listen(known, key, &service.name),
            }
            if service.is_pod && !place.is_home {
                let only = pods.entry(place.namespace).or_insert_with(|| Some(Arc::clone(&service.name)));
                *only = only.take().filter(|name| *name == service.name);
            }
        }
    }
    for (key, namespace, to) in relays {
        if let Some(name) = known.listener(namespace, to) {
            listen(known, key, &name);
        }
    }
    known.listeners.retain(|key, _| !several.contains(key));
    pods
}

/// What is behind the addresses that nobody here has, as far as conntrack knows.
fn translate(look: &Look, known: &mut Known, behind: &mut impl FnMut(SocketAddr, SocketAddr) -> Option<SocketAddr>) {
    let mut asked: HashMap<SocketAddr, usize> = HashMap::new();
    let mut found: HashMap<SocketAddr, HashSet<SocketAddr>> = HashMap::new();
    for place in &look.places {
        let listening = listening(place);
        for Socket { local, remote, .. } in &place.connected {
            if remote.ip().is_loopback()
                || is_accepted(&listening, *local)
                || known.listener(place.namespace, *remote).is_some()
            {
                continue;
            }
            let times = asked.entry(*remote).or_default();
            if *times < ASKED_OF_ADDRESS {
                *times += 1;
                found.entry(*remote).or_default().extend(behind(*local, *remote));
            }
        }
    }
    let mut translated = std::collections::HashMap::new();
    for (remote, behind) in found {
        let services: HashSet<Option<Arc<str>>> = behind.iter().map(|at| known.listener(0, *at)).collect();
        let peer = match services.iter().next() {
            Some(Some(name)) if services.len() == 1 => Some(Peer::Service(Arc::clone(name))),
            // On another host, which says who it is; of several any, and of several services none.
            Some(None) if services.len() == 1 => behind.iter().min().map(|at| Peer::Address(*at)),
            _ => None,
        };
        translated.extend(peer.map(|peer| (remote, peer)));
    }
    known.translated = translated;
}

/// What other hosts may know of the addresses here.
fn tell_endpoints(look: &Look, pods: &HashMap<u64, Option<Arc<str>>>, map: &mut Map) {
    for place in &look.places {
        let pod = pods.get(&place.namespace);
        if !place.is_home && pod.is_none() {
            // A container on a bridge: its address means nothing elsewhere.
            continue;
        }
        let is_bridge = |interface: &u32| place.is_home && look.bridges.contains(interface);
        let open = place.addresses.iter().filter(|address| is_of_one(address.ip) && !is_bridge(&address.interface));
        let open: Vec<IpAddr> = open.map(|address| address.ip).collect();
        for ip in &open {
            let service = pod.cloned().flatten();
            if place.is_home || service.is_some() {
                map.endpoints.insert(Endpoint { address: *ip, port: 0, service });
            }
        }
        for ((_, ip, port), name) in
            map.known.listeners.iter().filter(|((namespace, ..), _)| *namespace == place.namespace)
        {
            let at = open.iter().filter(|open| ip.is_none_or(|ip| ip == **open));
            map.endpoints.extend(at.map(|ip| Endpoint { address: *ip, port: *port, service: Some(Arc::clone(name)) }));
        }
    }
}

/// Address (`None`: all) and port of what listens in a namespace.
type Listening = HashSet<(Option<IpAddr>, u16)>;

fn listening(place: &Place) -> Listening {
    let ends = place.listening.iter().map(|socket| socket.local);
    ends.map(|end| (Some(end.ip()).filter(|ip| !ip.is_unspecified()), end.port())).collect()
}

/// Whether a connection with this own end came in.
fn is_accepted(listening: &Listening, local: SocketAddr) -> bool {
    [Some(local.ip()), None].into_iter().any(|ip| listening.contains(&(ip, local.port())))
}

enum Doubt {
    Unowned,
    Unclear,
}

/// The edge that a connection is of; `None`: it is told by its other end, or by nobody.
fn edge(
    known: &Known,
    namespace: u64,
    listening: &Listening,
    socket: &Socket,
    owners: &mut Owners,
    ephemeral: &Ephemeral,
    now: Instant,
) -> Result<Option<Edge>, Doubt> {
    let Socket { local, remote, inode, .. } = *socket;
    if is_accepted(listening, local) {
        let is_here = remote.ip().is_loopback() || known.addresses.contains_key(&remote.ip());
        if is_here {
            return Ok(None);
        }
        let service = owners.service_of(inode, now).ok_or(Doubt::Unowned)?;
        let name = match service.relay {
            Some(to) => known.listener(namespace, to).ok_or(Doubt::Unowned)?,
            None => Arc::clone(&service.name),
        };
        let source = if is_private(remote.ip()) { End::Host(remote.ip()) } else { End::Internet };
        return Ok(Some(Edge { source, target: End::Service(name) }));
    }
    let peer = known.at(namespace, remote);
    if peer.is_none() && !ephemeral.contains(&local.port()) && ephemeral.contains(&remote.port()) {
        // It may have been accepted by a socket that listens no more.
        return Err(Doubt::Unclear);
    }
    let service = owners.service_of(inode, now).ok_or(Doubt::Unowned)?;
    let Service { name, relay: None, .. } = service.as_ref() else { return Ok(None) };
    let target = match peer {
        Some(Peer::Service(name)) => End::Service(name),
        Some(Peer::Address(address)) => End::Address(address),
        None if is_private(remote.ip()) => End::Address(remote),
        None => End::Internet,
    };
    Ok(Some(Edge { source: End::Service(Arc::clone(name)), target }))
}

/// Whether only one namespace can have it: not the addresses that each has.
fn is_of_one(ip: IpAddr) -> bool {
    !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !is_link_local(ip)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
