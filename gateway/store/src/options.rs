//! What the store is started with.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Options of `ollystack-gateway store`. The password comes from the environment (OLLYSTACK_STORE_PASSWORD), never from arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Address of ClickHouse's HTTP interface. Not a loopback address only with a password
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8123", env = "OLLYSTACK_STORE_LISTEN")]
    pub listen: SocketAddr,

    /// Folder of the data [default: /var/lib/ollystack/store for root, else $XDG_STATE_HOME/ollystack/store]
    #[arg(long, value_name = "FOLDER", env = "OLLYSTACK_STORE_DIR")]
    pub dir: Option<PathBuf>,

    /// User that requests must name when there is a password
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub user: String,

    /// Memory of the engine, caches included; a query that needs more is refused
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    pub memory_bytes: u64,

    /// Inserts that run at once
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub inserts: usize,

    /// Other statements that run at once
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    pub queries: usize,

    /// Statements that wait for their turn; one more is refused
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    pub waiting: usize,

    /// Time that a statement may take, unless it sets max_execution_time itself
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub query_seconds: u64,

    /// Size of one request's body, before and after decompression
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    pub body_bytes: usize,

    /// Connections that are open at once
    #[arg(long, value_name = "COUNT", default_value_t = 128)]
    pub connections: usize,

    /// Sync each insert to the disk before it is acknowledged: true or false
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub sync: bool,

    /// What the engine logs to standard error: fatal, error, warning, information, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "fatal")]
    pub engine_log: String,

    /// Fetch and verify the engine, then end
    #[arg(long)]
    #[serde(skip)]
    pub fetch: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 8123)),
            dir: None,
            user: "default".to_owned(),
            memory_bytes: 1 << 30,
            inserts: 2,
            queries: 4,
            waiting: 64,
            query_seconds: 60,
            body_bytes: 256 << 20,
            connections: 128,
            sync: true,
            engine_log: "fatal".to_owned(),
            fetch: false,
        }
    }
}

const LEVELS: [&str; 6] = ["fatal", "error", "warning", "information", "debug", "trace"];
/// Below it the engine refuses even small queries: it holds about 300 MB once it has worked.
const MEMORY_BYTES_MIN: u64 = 512 << 20;

impl Options {
    /// Everything that can be said before anything starts.
    pub(crate) fn check(&self, password: Option<&Password>) -> Result<(), Error> {
        let refuse = |option, found: String, allowed| Err(Error::Option { option, found, allowed });
        if !self.listen.ip().is_loopback() && password.is_none() {
            let allowed = "a password in OLLYSTACK_STORE_PASSWORD, or a loopback address: whoever reaches the store reads and \
                           writes all of it";
            return refuse("--listen", format!("{} without a password", self.listen), allowed);
        }
        if self.memory_bytes < MEMORY_BYTES_MIN {
            return refuse("--memory-bytes", self.memory_bytes.to_string(), "536870912 (512 MiB) or more");
        }
        for (option, count) in [
            ("--inserts", self.inserts),
            ("--queries", self.queries),
            ("--waiting", self.waiting),
            ("--connections", self.connections),
        ] {
            if !(1..=4096).contains(&count) {
                return refuse(option, count.to_string(), "1 to 4096");
            }
        }
        if !(1 << 20..=1 << 30).contains(&self.body_bytes) {
            return refuse("--body-bytes", self.body_bytes.to_string(), "1048576 (1 MiB) to 1073741824 (1 GiB)");
        }
        if !(1..=86_400).contains(&self.query_seconds) {
            return refuse("--query-seconds", self.query_seconds.to_string(), "1 to 86400");
        }
        if !LEVELS.contains(&self.engine_log.as_str()) {
            return refuse(
                "--engine-log",
                self.engine_log.clone(),
                "fatal, error, warning, information, debug or trace",
            );
        }
        Ok(())
    }

    /// The folder of the data.
    pub(crate) fn folder(&self) -> Result<PathBuf, Error> {
        if let Some(folder) = &self.dir {
            return std::path::absolute(folder)
                .map_err(|error| Error::Folder { folder: folder.clone(), what: error.to_string() });
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/ollystack/store"));
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
        state.map(|state| state.join("ollystack/store")).ok_or_else(|| Error::Option {
            option: "--dir",
            found: "not given, and neither XDG_STATE_HOME nor HOME is set".to_owned(),
            allowed: "a folder that this user can write",
        })
    }
}

/// A password; prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    /// From OLLYSTACK_STORE_PASSWORD, if it is set and not empty.
    pub(crate) fn from_environment() -> Option<Password> {
        std::env::var("OLLYSTACK_STORE_PASSWORD").ok().filter(|password| !password.is_empty()).map(Password)
    }

    /// In a time that does not tell how much of it was right.
    pub(crate) fn is(&self, given: &str) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_bytes(), given.as_bytes()).into()
    }

    #[cfg(test)]
    pub(crate) fn new(password: &str) -> Password {
        Password(password.to_owned())
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_commands_defaults_are_the_types_defaults() {
        let cli = <Cli as clap::Parser>::try_parse_from(["store"]).unwrap();
        assert_eq!(cli.options, Options::default());
    }

    #[test]
    fn only_a_loopback_address_needs_no_password() {
        let open = Options { listen: SocketAddr::from(([0, 0, 0, 0], 8123)), ..Options::default() };
        assert!(open.check(None).unwrap_err().to_string().starts_with("--listen: 0.0.0.0:8123 without a password"));
        assert!(open.check(Some(&Password::new("x"))).is_ok());
        assert!(Options::default().check(None).is_ok());
    }

    #[test]
    fn a_password_never_prints_itself() {
        assert_eq!(format!("{:?}", Password::new("secret")), "***");
    }
}
