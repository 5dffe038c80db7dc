//! From sockets as a look gives them, on a host of a few folders that look like /proc, to edges and endpoints.

use super::*;
use crate::namespaces::Address;

const HOME: u64 = 1;
const POD: u64 = 2;
const EPHEMERAL: Ephemeral = 32_768..=60_999;

/// Processes, by number: the name that each says it has, its command line if it matters, its cgroup, and the sockets that it owns.
struct Host {
    folder: tempfile::TempDir,
    look: Look,
    processes: Vec<u32>,
    inode: u32,
}

impl Host {
    fn new() -> Host {
        let place = |namespace, addresses: &[&str]| Place {
            namespace,
            is_home: namespace == HOME,
            addresses: addresses.iter().map(|ip| Address { ip: ip.parse().unwrap(), interface: 2 }).collect(),
            ..Place::default()
        };
        let places = vec![place(HOME, &["127.0.0.1", "10.0.0.1"]), place(POD, &["127.0.0.1", "10.1.0.2"])];
        let look = Look { places, ..Look::default() };
        Host { folder: tempfile::tempdir().unwrap(), look, processes: Vec::new(), inode: 100 }
    }

    fn process(&mut self, pid: u32, service: &str) -> u32 {
        let folder = self.folder.path().join(pid.to_string());
        std::fs::create_dir_all(folder.join("fd")).unwrap();
        std::fs::write(folder.join("environ"), format!("OTEL_SERVICE_NAME={service}\0")).unwrap();
        self.processes.push(pid);
        pid
    }

    /// A socket of a process; `remote` empty: it listens.
    fn socket(&mut self, pid: u32, namespace: u64, local: &str, remote: &str) -> &mut Socket {
        self.inode += 1;
        if pid != 0 {
            let link = self.folder.path().join(format!("{pid}/fd/{}", self.inode));
            std::os::unix::fs::symlink(format!("socket:[{}]", self.inode), link).unwrap();
        }
        let place = self.look.places.iter_mut().find(|place| place.namespace == namespace).unwrap();
        let sockets = if remote.is_empty() { &mut place.listening } else { &mut place.connected };
        let remote = if remote.is_empty() { "0.0.0.0:0" } else { remote };
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        sockets.push(Socket {
            local,
            remote,
            inode: self.inode,
            cookie: self.inode.into(),
            sent: 0,
            received: 0,
            round_trip_us: 0,
        });
        sockets.last_mut().unwrap()
    }

    fn map(&self, totals: &mut Totals, behind: &[(&str, &str)]) -> Map {
        let mut owners = Owners::new(self.folder.path());
        let places = self.look.places.iter();
        let inodes = places
            .flat_map(|place| place.listening.iter().chain(&place.connected))
            .map(|socket| socket.inode)
            .collect();
        owners.find(&inodes, &self.processes);
        let behind = |_, remote: SocketAddr| {
            let to = behind.iter().find(|(from, _)| from.parse::<SocketAddr>().unwrap() == remote)?;
            Some(to.1.parse().unwrap())
        };
        map(&self.look, &mut owners, totals, &EPHEMERAL, Instant::now(), behind)
    }

    /// `source > target`, in order.
    fn edges(&self, behind: &[(&str, &str)]) -> Vec<String> {
        let map = self.map(&mut Totals::default(), behind);
        let name = |end: &End| match end {
            End::Service(name) => name.to_string(),
            End::Address(address) => address.to_string(),
            End::Host(address) => address.to_string(),
            End::Internet => "internet".to_owned(),
        };
        let mut edges: Vec<String> =
            map.edges.keys().map(|edge| format!("{} > {}", name(&edge.source), name(&edge.target))).collect();
        edges.sort();
        edges
    }
}

#[test]
fn two_services_of_a_host_have_one_edge_from_who_called_to_who_listens() {
    let mut host = Host::new();
    let (front, stock) = (host.process(5, "front"), host.process(6, "stock"));
    host.socket(stock, HOME, "0.0.0.0:80", "");
    for (local, remote) in [("127.0.0.1:40000", "127.0.0.1:80"), ("10.0.0.1:40001", "10.0.0.1:80")] {
        host.socket(front, HOME, local, remote);
        host.socket(stock, HOME, remote, local);
    }
    assert_eq!(host.edges(&[]), ["front > stock"]);
}

#[test]
fn who_is_on_another_host_is_an_address_and_strangers_are_the_internet() {
    let mut host = Host::new();
    let shop = host.process(5, "shop");
    host.socket(shop, HOME, "[::]:80", "");
    host.socket(shop, HOME, "10.0.0.1:40000", "10.0.0.7:5432");
    host.socket(shop, HOME, "10.0.0.1:40001", "93.184.216.34:443");
    host.socket(shop, HOME, "10.0.0.1:80", "10.0.0.8:50000");
    host.socket(shop, HOME, "10.0.0.1:80", "8.8.8.8:50000");
    assert_eq!(host.edges(&[]), ["10.0.0.8 > shop", "internet > shop", "shop > 10.0.0.7:5432", "shop > internet"]);
}

#[test]
fn every_namespace_has_a_loopback_of_its_own_and_addresses_lead_into_others() {
    let mut host = Host::new();
    let (front, sidecar, pod) = (host.process(5, "front"), host.process(6, "sidecar"), host.process(7, "pod"));
    host.socket(front, HOME, "127.0.0.1:80", "");
    host.socket(sidecar, POD, "127.0.0.1:80", "");
    host.socket(pod, POD, "0.0.0.0:8080", "");
    host.socket(pod, POD, "127.0.0.1:40000", "127.0.0.1:80");
    host.socket(front, HOME, "10.0.0.1:40000", "10.1.0.2:8080");
    assert_eq!(host.edges(&[]), ["front > pod", "pod > sidecar"]);
}

#[test]
fn a_service_ip_leads_to_who_is_behind_it_if_that_is_one() {
    let mut host = Host::new();
    let (front, pod) = (host.process(5, "front"), host.process(7, "pod"));
    host.socket(pod, POD, "0.0.0.0:8080", "");
    host.socket(front, HOME, "10.0.0.1:40000", "10.96.0.1:80");
    host.socket(front, HOME, "10.0.0.1:40001", "10.96.0.2:80");
    let behind = [("10.96.0.1:80", "10.1.0.2:8080"), ("10.96.0.2:80", "10.1.9.9:8080")];
    assert_eq!(host.edges(&behind), ["front > 10.1.9.9:8080", "front > pod"]);
    assert_eq!(host.edges(&[]), ["front > 10.96.0.1:80", "front > 10.96.0.2:80"]);
    let map = host.map(&mut Totals::default(), &behind);
    let known = map.known.at(HOME, "10.96.0.1:80".parse().unwrap());
    assert_eq!(known, Some(Peer::Service("pod".into())), "for whoever sees requests");
}

#[test]
fn docker_s_proxy_is_nobody_s_service() {
    let mut host = Host::new();
    let (client, proxy, web) = (host.process(5, "client"), host.process(6, ""), host.process(7, "web"));
    let folder = host.folder.path().join("6");
    std::os::unix::fs::symlink("/usr/bin/docker-proxy", folder.join("exe")).unwrap();
    std::fs::write(folder.join("cmdline"), "docker-proxy\0-container-ip\x0010.1.0.2\0-container-port\x0080\0").unwrap();
    host.socket(proxy, HOME, "0.0.0.0:8080", "");
    host.socket(web, POD, "0.0.0.0:80", "");
    host.socket(client, HOME, "127.0.0.1:40000", "127.0.0.1:8080");
    host.socket(proxy, HOME, "127.0.0.1:8080", "127.0.0.1:40000");
    host.socket(proxy, HOME, "10.0.0.1:40001", "10.1.0.2:80");
    host.socket(proxy, HOME, "10.0.0.1:8080", "10.0.0.9:50000");
    assert_eq!(host.edges(&[]), ["10.0.0.9 > web", "client > web"]);
}

#[test]
fn what_is_not_certain_is_counted_and_no_edge() {
    let mut host = Host::new();
    let (one, two) = (host.process(5, "one"), host.process(6, "two"));
    // Accepted by a socket that listens no more; owned by nobody; of two services on one address.
    host.socket(one, HOME, "10.0.0.1:80", "10.0.0.9:50000");
    host.socket(0, HOME, "10.0.0.1:40000", "10.0.0.9:80");
    host.socket(one, HOME, "0.0.0.0:9000", "");
    host.socket(two, HOME, "0.0.0.0:9000", "");
    host.socket(one, HOME, "127.0.0.1:40001", "127.0.0.1:9000");
    let map = host.map(&mut Totals::default(), &[]);
    assert_eq!((map.unclear, map.unowned), (1, 1));
    assert_eq!(host.edges(&[]), ["one > 127.0.0.1:9000"]);
}

#[test]
fn bytes_are_those_since_the_last_look_as_the_caller_has_them() {
    let mut host = Host::new();
    let shop = host.process(5, "shop");
    host.socket(shop, HOME, "0.0.0.0:80", "");
    let socket = host.socket(shop, HOME, "10.0.0.1:80", "10.0.0.8:50000");
    (socket.sent, socket.received, socket.round_trip_us) = (700, 50, 2_000);
    let mut totals = Totals::default();
    let of =
        |map: &Map| map.edges.values().map(|tally| (tally.connections, tally.sent, tally.received)).collect::<Vec<_>>();
    assert_eq!(of(&host.map(&mut totals, &[])), [(1, 0, 0)], "what came before the first look is not of now");
    let socket = host.look.places[0].connected.last_mut().unwrap();
    (socket.sent, socket.received) = (1_000, 60);
    let map = host.map(&mut totals, &[]);
    assert_eq!(of(&map), [(1, 10, 300)]);
    assert_eq!(map.edges.values().next().unwrap().round_trip(), Some(0.002));
    let socket = host.look.places[0].connected.last_mut().unwrap();
    (socket.cookie, socket.sent, socket.received) = (9_999, 5, 6);
    assert_eq!(of(&host.map(&mut totals, &[])), [(1, 6, 5)], "a new connection's all");
}

#[test]
fn other_hosts_are_told_what_they_can_reach() {
    let mut host = Host::new();
    let (shop, pod) = (host.process(5, "shop"), host.process(7, "pod"));
    let id = "0123456789abcdef".repeat(4);
    let cgroup = format!(
        "0::/kubepods.slice/kubepods-pod2c48913c_b29f_11e7_9350_020968147796.slice/cri-containerd-{id}.scope\n"
    );
    std::fs::write(host.folder.path().join("7/cgroup"), cgroup).unwrap();
    host.look.places[0].addresses.push(Address { ip: [172, 17, 0, 1].into(), interface: 9 });
    host.look.bridges = vec![9];
    host.socket(shop, HOME, "0.0.0.0:80", "");
    host.socket(shop, HOME, "127.0.0.1:81", "");
    host.socket(pod, POD, "0.0.0.0:8080", "");
    let told = |host: &Host| {
        let map = host.map(&mut Totals::default(), &[]);
        let mut told: Vec<String> = map
            .endpoints
            .iter()
            .map(|endpoint| {
                format!("{}:{} {}", endpoint.address, endpoint.port, endpoint.service.as_deref().unwrap_or("-"))
            })
            .collect();
        told.sort();
        told
    };
    assert_eq!(told(&host), ["10.0.0.1:0 -", "10.0.0.1:80 shop", "10.1.0.2:0 pod", "10.1.0.2:8080 pod"]);
    // Of a container that is no pod's nothing can be reached from elsewhere.
    std::fs::remove_file(host.folder.path().join("7/cgroup")).unwrap();
    assert_eq!(told(&host), ["10.0.0.1:0 -", "10.0.0.1:80 shop"]);
}
