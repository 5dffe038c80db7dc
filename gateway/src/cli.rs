//! The command line. Invariant: no secret is taken as an argument; what may be set here may be set in file and environment too.

use crate::config::Flags;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// OTLP in, ClickHouse out.
#[derive(Debug, Parser)]
#[command(name = "ollystack-gateway", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Receive telemetry and write it to ClickHouse until SIGTERM or SIGINT
    Run(Configured),
    /// Bring the database's schema up to date
    Migrate {
        #[command(flatten)]
        configured: Configured,
        /// Print the statements that would be run, and run none
        #[arg(long, visible_alias = "list")]
        plan: bool,
    },
    /// Make, list and revoke API keys
    Keys {
        #[command(subcommand)]
        command: Keys,
    },
    /// Serve the embedded ClickHouse engine on its own, through ClickHouse's HTTP interface
    Store {
        #[command(flatten)]
        options: Box<ollystack_store::Options>,
        /// End when standard input does: the gateway holds its other end
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
    },
    /// Show or check the configuration
    Config {
        #[command(subcommand)]
        command: Config,
    },
}

/// `keys ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key and print it on standard output, this once
    New {
        #[command(flatten)]
        configured: Configured,
        /// Whose data the key sends: 1 to 64 of A-Z a-z 0-9 . _ -
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// What the key is for, to tell it from others
        #[arg(long, value_name = "LABEL", default_value = "")]
        name: String,
    },
    /// Show all keys (never their text)
    List {
        #[command(flatten)]
        configured: Configured,
    },
    /// Make a key invalid; running gateways notice within a second
    Revoke {
        #[command(flatten)]
        configured: Configured,
        /// As `keys list` shows it
        id: String,
    },
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print every key with its comment and the value that holds here
    Print {
        #[command(flatten)]
        configured: Configured,
    },
    /// Say whether the configuration is valid
    Check {
        #[command(flatten)]
        configured: Configured,
    },
}

/// What lays itself over file and environment.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Configured {
    /// Configuration file [default: /etc/ollystack/gateway.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the configuration, for example --set batch.rows_max=5000
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Where keys, spill and embedded store live (data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// OTLP/gRPC (server.grpc_listen)
    #[arg(long, value_name = "IP:PORT")]
    grpc_listen: Option<String>,
    /// OTLP/HTTP (server.http_listen)
    #[arg(long, value_name = "IP:PORT")]
    http_listen: Option<String>,
    /// Metrics and health (admin.listen)
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<String>,
    /// external or embedded (store.mode)
    #[arg(long, value_name = "MODE")]
    store: Option<String>,
    /// Data of the embedded engine (store.dir)
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    /// ClickHouse's HTTP interface (clickhouse.url)
    #[arg(long, value_name = "URL")]
    clickhouse_url: Option<String>,
    /// ClickHouse user (clickhouse.user); the password comes from OLLYSTACK_CLICKHOUSE_PASSWORD
    #[arg(long, value_name = "NAME")]
    clickhouse_user: Option<String>,
    /// ClickHouse database (clickhouse.database)
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// error, warn, info, debug, trace or a filter (log.level)
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json (log.format)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Configured {
    /// As the configuration takes them; a short form beats `--set`.
    pub(crate) fn flags(&self) -> Flags {
        let short = [
            ("data_dir", &self.data_dir),
            ("server.grpc_listen", &self.grpc_listen),
            ("server.http_listen", &self.http_listen),
            ("admin.listen", &self.admin_listen),
            ("store.mode", &self.store),
            ("store.dir", &self.store_dir),
            ("clickhouse.url", &self.clickhouse_url),
            ("clickhouse.user", &self.clickhouse_user),
            ("clickhouse.database", &self.database),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        let short = short.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        Flags { file: self.config.clone(), keys: self.set.iter().cloned().chain(short).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_short_flag_sets_its_key() {
        let arguments = "x run --data-dir /d --grpc-listen 127.0.0.1:1 --http-listen 127.0.0.1:2 --admin-listen 127.0.0.1:3 \
                         --store embedded --store-dir /s --clickhouse-url http://c:1 --clickhouse-user u --database b \
                         --log-level debug --log-format json --set batch.rows_max=5";
        let cli = Cli::try_parse_from(arguments.split_whitespace()).unwrap();
        let Command::Run(configured) = cli.command else { panic!("run was given") };
        let layers = crate::config::Layers::new(None, std::iter::empty(), &configured.flags()).unwrap();
        let config = layers.config().unwrap();
        assert_eq!(config.store_dir(), PathBuf::from("/s"));
        assert_eq!((config.batch.rows_max, config.clickhouse.database.as_str()), (5, "b"));
        for (key, _) in configured.flags().keys {
            assert!(layers.get(&key).unwrap().1.is_some(), "{key} was not set");
        }
    }
}
