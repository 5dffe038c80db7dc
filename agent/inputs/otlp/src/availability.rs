//! Whether the addresses can be had: the OTLP rows of `ollystack-agent doctor`.

use crate::Config;
use ollystack_record::Availability;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

/// What would be received on this host. Binds the addresses for a moment, so run it before the input, not beside it.
pub fn availability(config: &Config) -> Vec<Availability> {
    let rows = [
        ("otlp.grpc", "otlp.grpc_address", config.grpc_address),
        ("otlp.http", "otlp.http_address", config.http_address),
    ];
    rows.map(|(name, key, address)| match config.enabled {
        true => row(name, key, address),
        false => Availability::off(name, "configured off", "set otlp.enabled = true"),
    })
    .to_vec()
}

fn row(name: &str, key: &str, address: SocketAddr) -> Availability {
    match TcpListener::bind(address) {
        Ok(_) => Availability::on(name, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let remedy = format!("nothing, if that is the agent itself; else stop the other process or set {key}");
            Availability::off(name, format!("{address} is in use"), remedy)
        }
        Err(error) => {
            Availability::off(name, format!("{address}: {error}"), format!("set {key} to an address of this host"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::State;

    #[test]
    fn a_port_that_is_taken_is_off_and_says_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config {
            grpc_address: taken.local_addr().unwrap(),
            http_address: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        let rows = availability(&config);
        assert_eq!((rows[0].state, rows[1].state), (State::Off, State::On));
        assert!(rows[0].remedy.contains("otlp.grpc_address"), "{}", rows[0].remedy);
        let off = availability(&Config { enabled: false, ..config });
        assert!(off.iter().all(|row| row.state == State::Off && row.remedy.contains("otlp.enabled")));
    }
}
