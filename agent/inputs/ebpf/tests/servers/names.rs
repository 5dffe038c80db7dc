//! DNS, over UDP and TCP.

use crate::Need;
use crate::case::{Case, command, fine, refused, serve, untimed};
use libtest_mimic::Failed;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

pub(crate) const DNS_NEEDS: &[Need] =
    &[Need("dnsmasq", "apt-get install dnsmasq-base"), Need("dig", "apt-get install bind9-dnsutils")];

/// An address of loopback at whose port 53 nobody listens: the protocol has no other.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 53, 7, 11);

pub(crate) fn dnsmasq(_: &Path) -> Result<Case, Failed> {
    let address = SocketAddr::from((ADDRESS, 53));
    let server = [
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file",
        "--user=root",
        "--bind-interfaces",
        "--local=/test/",
        "--address=/shop.test/10.0.0.7",
        &format!("--listen-address={ADDRESS}"),
    ]
    .map(str::to_owned);
    let server = serve(command("dnsmasq", server)?, address)?;
    let queries = [
        (vec!["shop.test", "A"], fine("DNS A")),
        (vec!["+tcp", "shop.test", "A"], fine("DNS A")),
        (vec!["shop.test", "AAAA"], refused("DNS AAAA", "NXDOMAIN")),
        (vec!["nowhere.test", "A"], refused("DNS A", "NXDOMAIN")),
        (vec!["outside.example", "TXT"], refused("DNS TXT", "REFUSED")),
    ];
    let mut client = command("dig", ["+noedns", "+nocookie", &format!("@{ADDRESS}")])?;
    queries.iter().for_each(|(query, _)| {
        client.args(query);
    });
    let expected = queries.into_iter().map(|(_, expected)| expected).collect();
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: true, service: "dnsmasq" })
}
